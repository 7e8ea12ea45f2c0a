/* cluster: gRPC spin.v1.Cluster: Join and Describe.
 *
 * Why        Members dial in and say what they are (D12); the table that this fills is what
 *            placement reads. Join's messages are posted to the loop in their order.
 * Limits     Statuses that wait for the loop replace each other, so a member that talks too much
 *            costs nothing more. A Join without its hello ends after 10 s. The newer of two streams
 *            of one member counts, and the older is ended.
 * Ownership  Borrows loop, members and the configuration's texts until destroy.
 * Threading  create, close, destroy: the loop's thread. Handlers: the rpc thread, which only posts.
 * Units      Milliseconds on the wire.
 * Errors     A member whose model is not the one that is served, or whose protocol is not ours, is
 *            told so: FAILED_PRECONDITION. A message out of order: INVALID_ARGUMENT. Describe
 *            without a key where keys are needed: UNAUTHENTICATED. */
#pragma once

#include "net/loop.h"
#include "proto/rpc_server.h"
#include "router/members.h"
#include "router/tenants.h"

SPIN_BEGIN_DECLS

struct spin_cluster; /* private to cluster.c */

struct spin_cluster_config {
    const char *router_id;
    uint32_t status_interval_ms; /* asked of members */
    const char *token;           /* members must bear it; NULL: anyone may join */
    /* Describe takes the key of any tenant, or the token; NULL: anyone may ask. */
    const struct spin_tenants *tenants;
};

#define SPIN_CLUSTER_METHODS 2u

SPIN_MUST_USE spin_status spin_cluster_create(const struct spin_cluster_config *config,
                                              struct spin_loop *loop, struct spin_members *members,
                                              struct spin_cluster **out, struct spin_error *err);
/* Ends every Join with UNAVAILABLE, and those to come; before the rpc server stops. */
void spin_cluster_close(struct spin_cluster *cluster);
void spin_cluster_destroy(struct spin_cluster *cluster); /* no call open; NULL is allowed */
void spin_cluster_methods(struct spin_cluster *cluster,
                          struct spin_rpc_method methods[SPIN_CLUSTER_METHODS]);

SPIN_END_DECLS
