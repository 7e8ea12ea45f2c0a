/* grpc.health.v1.Health, so that probes and load balancers need nothing of ours.
 *
 * A Watch is held until its client leaves or the server stops. What changes while its reader is
 * slow leaves merged, so it reads the last status and none in between. */
#include "base/assert.h"
#include "proto/rpc_internal.h"
#include "proto/spin/v1/health.pb-c.h"

#define STATUS(name) GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__##name

/* The state of a Watch. */
struct watcher {
    struct spin_link link;
    struct spin_rpc_call *call;
    bool known; /* the service is one of ours: its status changes */
};

void spin_rpc_health_init(struct spin_rpc_health *health, const struct spin_rpc_server *server)
{
    *health = (struct spin_rpc_health){.server = server};
    spin_mutex_init(&health->mutex);
    spin_list_init(&health->watchers);
}

void spin_rpc_health_deinit(struct spin_rpc_health *health)
{
    SPIN_ASSERT_EQ(health->watchers.count, 0);
    spin_mutex_deinit(&health->mutex);
}

static void append_status(struct spin_rpc_call *call,
                          Grpc__Health__V1__HealthCheckResponse__ServingStatus status)
{
    Grpc__Health__V1__HealthCheckResponse answer;
    grpc__health__v1__health_check_response__init(&answer);
    answer.status = status;
    spin_rpc_call_append(call, &answer.base);
}

static void append_serving(struct spin_rpc_call *call, bool serving)
{
    append_status(call, serving ? STATUS(SERVING) : STATUS(NOT_SERVING));
}

/* The service that was asked for is one of ours; "" is the server as a whole. */
static bool is_known(const struct spin_rpc_health *health, const char *service)
{
    return service[0] == '\0' || spin_rpc_server_has_service(health->server, service);
}

static void check(void *context, struct spin_rpc_call *call, const struct ProtobufCMessage *request)
{
    struct spin_rpc_health *health = context;
    const char *service = ((const Grpc__Health__V1__HealthCheckRequest *)request)->service;
    if (!is_known(health, service)) {
        struct spin_error err;
        const spin_status status =
            spin_fail(&err, SPIN_ERR_NOT_FOUND, "unknown service \"%.64s\"", service);
        spin_rpc_call_finish(call, status, err.text);
        return;
    }
    spin_mutex_lock(&health->mutex);
    const bool serving = health->serving;
    spin_mutex_unlock(&health->mutex);
    append_serving(call, serving);
    spin_rpc_call_finish(call, SPIN_OK, NULL);
}

static void watch(void *context, struct spin_rpc_call *call, const struct ProtobufCMessage *request)
{
    struct spin_rpc_health *health = context;
    struct watcher *watcher = spin_rpc_call_state(call);
    watcher->call = call;
    watcher->known =
        is_known(health, ((const Grpc__Health__V1__HealthCheckRequest *)request)->service);
    /* Held while appending, so that changes arrive in their order; append waits for nobody. */
    spin_mutex_lock(&health->mutex);
    const bool ended = health->ended;
    if (watcher->known) {
        append_serving(call, health->serving);
    } else {
        append_status(call, STATUS(SERVICE_UNKNOWN)); /* to this protocol a status, not an error */
    }
    if (!ended) {
        spin_list_push_back(&health->watchers, &watcher->link);
    }
    spin_mutex_unlock(&health->mutex);
    if (ended) {
        spin_rpc_call_finish(call, SPIN_ERR_SHUTDOWN, "the server stops");
    }
}

static void watch_gone(void *context, struct spin_rpc_call *call)
{
    struct spin_rpc_health *health = context;
    struct watcher *watcher = spin_rpc_call_state(call);
    spin_mutex_lock(&health->mutex);
    const bool mine = watcher->link.next != NULL; /* else the end of the server was faster */
    if (mine) {
        spin_list_remove(&health->watchers, &watcher->link);
    }
    spin_mutex_unlock(&health->mutex);
    if (mine) {
        spin_rpc_call_finish(call, SPIN_ERR_CANCELLED, NULL);
    }
}

void spin_rpc_health_methods(struct spin_rpc_method methods[SPIN_RPC_HEALTH_METHODS])
{
    const struct spin_rpc_method common = {
        .request = &grpc__health__v1__health_check_request__descriptor,
        .request_bytes_max = 4096, /* one service name */
        .arena_bytes_max = 64 << 10,
        .outbox_bytes = 256, /* some forty changes that nobody reads */
        .calls_max = SPIN_RPC_HEALTH_CALLS_MAX,
        .merge = true, /* the later status is the one that counts */
    };
    methods[0] = common;
    methods[0].path = "/grpc.health.v1.Health/Check";
    methods[0].start = check;
    methods[1] = common;
    methods[1].path = "/grpc.health.v1.Health/Watch";
    methods[1].state_bytes = sizeof(struct watcher);
    methods[1].start = watch;
    methods[1].gone = watch_gone;
}

/* Under the lock. */
static void tell_watchers(struct spin_rpc_health *health, bool serving)
{
    if (health->serving == serving) {
        return;
    }
    health->serving = serving;
    SPIN_LIST_FOREACH (&health->watchers, link) {
        struct watcher *watcher = SPIN_CONTAINER_OF(link, struct watcher, link);
        if (watcher->known) {
            append_serving(watcher->call, serving);
        }
    }
}

void spin_rpc_health_set(struct spin_rpc_health *health, bool serving)
{
    spin_mutex_lock(&health->mutex);
    tell_watchers(health, serving && !health->ended);
    spin_mutex_unlock(&health->mutex);
}

void spin_rpc_health_end(struct spin_rpc_health *health)
{
    spin_mutex_lock(&health->mutex);
    health->ended = true;
    tell_watchers(health, false);
    for (struct spin_link *link = spin_list_first(&health->watchers); link != NULL;
         link = spin_list_first(&health->watchers)) {
        spin_list_remove(&health->watchers, link);
        spin_rpc_call_finish(SPIN_CONTAINER_OF(link, struct watcher, link)->call, SPIN_ERR_SHUTDOWN,
                             "the server stops");
    }
    spin_mutex_unlock(&health->mutex);
}
