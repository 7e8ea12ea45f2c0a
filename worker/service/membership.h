/* membership: the worker as a member of the cluster: what it tells routers about itself.
 *
 * Why        proto/join knows how to stay known to routers; what a worker says there, who it is and
 *            how busy it is, is put into words here.
 * Ownership  Borrows loop, rpc thread, service and the configuration's strings until destroy.
 * Threading  The loop's thread.
 * Units      None.
 * Errors     create: those of proto/join.h. */
#pragma once

#include "proto/join.h"
#include "worker/service/service.h"

SPIN_BEGIN_DECLS

struct spin_membership; /* private to membership.c */

struct spin_membership_config {
    const struct spin_service *service;
    const char *routers;
    const char *bearer; /* the cluster's token; NULL: none */
    struct spin_rpc_tls tls;
    void *context;
    void (*left)(void *context); /* as spin_join_config's */
};

SPIN_MUST_USE spin_status spin_membership_create(struct spin_loop *loop,
                                                 struct spin_rpc_thread *thread,
                                                 const struct spin_membership_config *config,
                                                 struct spin_membership **out,
                                                 struct spin_error *err);
void spin_membership_report(struct spin_membership *membership); /* now: we are draining */
void spin_membership_leave(struct spin_membership *membership, const char *reason);
uint32_t spin_membership_routers(const struct spin_membership *membership); /* NULL: 0 */
void spin_membership_destroy(struct spin_membership *membership);           /* NULL is allowed */

SPIN_END_DECLS
