#include "worker/service/membership.h"

#include <stdlib.h>

struct spin_membership {
    const struct spin_service *service;
    struct spin_service_hello hello;
    struct spin_service_status status; /* the last one */
    void *context;
    void (*left)(void *context);
    struct spin_join *join;
};

static void fill_status(void *context, Spin__V1__MemberStatus *status)
{
    struct spin_membership *membership = context;
    spin_service_fill_status(membership->service, &membership->status);
    *status = membership->status.status;
}

static void on_left(void *context)
{
    const struct spin_membership *membership = context;
    membership->left(membership->context);
}

spin_status spin_membership_create(struct spin_loop *loop, struct spin_rpc_thread *thread,
                                   const struct spin_membership_config *config,
                                   struct spin_membership **out, struct spin_error *err)
{
    struct spin_membership *membership = calloc(1, sizeof *membership);
    if (membership == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "membership: %zu bytes", sizeof *membership);
    }
    membership->service = config->service;
    membership->context = config->context;
    membership->left = config->left;
    spin_service_fill_hello(config->service, &membership->hello);
    const struct spin_join_config join = {.routers = config->routers,
                                          .bearer = config->bearer,
                                          .tls = config->tls,
                                          .hello = &membership->hello.hello,
                                          .context = membership,
                                          .fill_status = fill_status,
                                          .left = config->left == NULL ? NULL : on_left};
    const spin_status status = spin_join_create(loop, thread, &join, &membership->join, err);
    if (status != SPIN_OK) {
        spin_membership_destroy(membership);
        return status;
    }
    *out = membership;
    return SPIN_OK;
}

void spin_membership_report(struct spin_membership *membership)
{
    spin_join_report(membership->join);
}

void spin_membership_leave(struct spin_membership *membership, const char *reason)
{
    spin_join_leave(membership->join, reason);
}

uint32_t spin_membership_routers(const struct spin_membership *membership)
{
    return membership == NULL ? 0 : spin_join_connected(membership->join);
}

void spin_membership_destroy(struct spin_membership *membership)
{
    if (membership != NULL) {
        spin_join_destroy(membership->join);
        free(membership);
    }
}
