/* join: a member's side of membership: it dials every router and holds a Join stream to each (D12).
 *
 * Why        Workers and memory nodes join in the same way: hello, then a status a few times a
 *            second, again after every break, for ever. A member never depends on a router: without
 *            one it serves whoever calls it. Two addresses of one router are one stream: the
 *            router's id tells.
 * Ownership  Owns a connection per router. Borrows the loop, the rpc thread and what the
 *            configuration points to, hello included, until destroy.
 * Threading  The loop's thread only; `fill_status` runs there.
 * Units      Nanoseconds.
 * Errors     create: INVALID (an address, by name). A router that refuses the hello is logged with
 *            its words and asked again after a growing pause (at most 5 s), like one that is
 *            away. */
#pragma once

#include "net/loop.h"
#include "proto/rpc_client.h"
#include "proto/spin/v1/cluster.pb-c.h"

SPIN_BEGIN_DECLS

#define SPIN_JOIN_ROUTERS_MAX 64u

struct spin_join; /* private to join.c */

struct spin_join_config {
    /* "host:port,host:port,...". Every address that a name resolves to is a router; names are
     * resolved again every 10 s, so replicas may come and go. */
    const char *routers;
    const char *bearer; /* the cluster's token; NULL: none */
    struct spin_rpc_tls tls;
    const Spin__V1__Hello *hello;
    void *context;
    /* Fills `status`; what it points to is valid until the next call. */
    void (*fill_status)(void *context, Spin__V1__MemberStatus *status);
    /* Once after leave, from the loop: every router has heard the goodbye, or 1 s has passed. NULL:
     * nobody wants to know. */
    void (*left)(void *context);
};

SPIN_MUST_USE spin_status spin_join_create(struct spin_loop *loop, struct spin_rpc_thread *thread,
                                           const struct spin_join_config *config,
                                           struct spin_join **out, struct spin_error *err);
/* Sends a status at once, without waiting for the interval: a drain, a role. */
void spin_join_report(struct spin_join *join);
/* Says goodbye to every router; no more statuses, no more dialling. `reason`: up to 200 bytes. */
void spin_join_leave(struct spin_join *join, const char *reason);
uint32_t spin_join_connected(const struct spin_join *join); /* routers that have welcomed us */
void spin_join_destroy(struct spin_join *join);             /* NULL is allowed */

SPIN_END_DECLS
