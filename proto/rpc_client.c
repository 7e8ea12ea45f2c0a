#include "proto/rpc_client.h"

#include "base/address.h"
#include "base/assert.h"
#include "base/clock.h"
#include "proto/rpc_client_internal.h"

#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/time.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A server that does not answer a ping within 10 + 3 s is gone: status UNAVAILABLE. */
#define KEEPALIVE_TIME_MS 10000
#define KEEPALIVE_TIMEOUT_MS 3000
#define RECONNECT_FIRST_MS 100
#define RECONNECT_MAX_MS 1000
/* gRPC core reads at most 8 KiB of metadata by default, all headers together. */
#define BEARER_BYTES_MAX 4096u

struct spin_rpc_thread {
    grpc_completion_queue *queue;
    struct spin_rpc_parser parser; /* the thread's own */
    pthread_t thread;
    bool started;
    _Atomic uint32_t clients; /* that use the queue */
};

static void *thread_main(void *self)
{
    struct spin_rpc_thread *thread = self;
    (void)pthread_setname_np(pthread_self(), "rpc-client");
    spin_rpc_queue_run(thread->queue);
    return NULL;
}

spin_status spin_rpc_thread_create(struct spin_rpc_thread **out, struct spin_error *err)
{
    struct spin_rpc_thread *thread = calloc(1, sizeof *thread);
    if (thread == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "rpc thread: %zu bytes", sizeof *thread);
    }
    spin_rpc_core_acquire();
    thread->queue = grpc_completion_queue_create_for_next(NULL);
    thread->started = pthread_create(&thread->thread, NULL, thread_main, thread) == 0;
    if (!thread->started) {
        spin_rpc_thread_destroy(thread);
        return spin_fail(err, SPIN_ERR_EXHAUSTED, "rpc client: cannot start its thread");
    }
    *out = thread;
    return SPIN_OK;
}

void spin_rpc_thread_destroy(struct spin_rpc_thread *thread)
{
    if (thread == NULL) {
        return;
    }
    SPIN_ASSERT_EQ(atomic_load(&thread->clients), 0);
    grpc_completion_queue_shutdown(thread->queue);
    if (thread->started) {
        (void)pthread_join(thread->thread, NULL);
    } else {
        spin_rpc_queue_run(thread->queue);
    }
    grpc_completion_queue_destroy(thread->queue);
    spin_rpc_parser_deinit(&thread->parser);
    free(thread);
    spin_rpc_core_release();
}

static grpc_channel *create_channel(const struct spin_rpc_client_config *config,
                                    grpc_channel_credentials *credentials)
{
    const grpc_arg fixed[] = {
        spin_rpc_integer_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, SPIN_RPC_GENERATE_BYTES_MAX),
        spin_rpc_integer_arg(GRPC_ARG_KEEPALIVE_TIME_MS, KEEPALIVE_TIME_MS),
        spin_rpc_integer_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_TIMEOUT_MS),
        spin_rpc_integer_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        spin_rpc_integer_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        spin_rpc_integer_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, RECONNECT_FIRST_MS),
        spin_rpc_integer_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, RECONNECT_MAX_MS),
        /* A client is a connection: gRPC core would share one, and its pause before dialling again,
         * between those of the same target. */
        spin_rpc_integer_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
        /* Only the caller knows what may be asked twice. */
        spin_rpc_integer_arg(GRPC_ARG_ENABLE_RETRIES, 0),
        /* Workers are dialled directly, whatever http_proxy says. */
        spin_rpc_integer_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        /* Nobody of ours compresses; without its filters a message costs a tenth less. */
        spin_rpc_integer_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1),
        spin_rpc_integer_arg(GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0),
        spin_rpc_integer_arg(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0),
        spin_rpc_integer_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
    };
    grpc_arg args[SPIN_ARRAY_COUNT(fixed) + 1]; /* gRPC's pointer is not const */
    memcpy(args, fixed, sizeof fixed);
    grpc_channel_args list = {.num_args = SPIN_ARRAY_COUNT(fixed), .args = args};
    if (config->tls.server_name != NULL) {
        args[list.num_args++] =
            spin_rpc_string_arg(GRPC_ARG_DEFAULT_AUTHORITY, config->tls.server_name);
    }
    return grpc_channel_create(config->target, credentials, &list);
}

/* What HTTP/2 allows in a header; a line break would be another header. */
static spin_status set_bearer(struct spin_rpc_client *client, const char *bearer,
                              struct spin_error *err)
{
    client->authorization.key = grpc_slice_from_static_string("authorization");
    client->authorization.value = grpc_empty_slice();
    if (bearer == NULL) {
        return SPIN_OK;
    }
    char text[sizeof "Bearer " + BEARER_BYTES_MAX];
    const uint64_t bytes = strlen(bearer);
    if (bytes == 0 || bytes > BEARER_BYTES_MAX) {
        return spin_fail(err, SPIN_ERR_INVALID, "bearer token: %" PRIu64 " bytes, 1..%u allowed",
                         bytes, BEARER_BYTES_MAX);
    }
    for (uint64_t i = 0; i < bytes; i++) {
        if (bearer[i] <= ' ' || bearer[i] > '~') {
            return spin_fail(err, SPIN_ERR_INVALID,
                             "bearer token: byte %" PRIu64 " is not a visible ASCII character", i);
        }
    }
    (void)snprintf(text, sizeof text, "Bearer %s", bearer);
    client->authorization.value = grpc_slice_from_copied_string(text);
    client->authorized = true;
    return SPIN_OK;
}

spin_status spin_rpc_client_create(struct spin_rpc_thread *thread,
                                   const struct spin_rpc_client_config *config,
                                   struct spin_rpc_client **out, struct spin_error *err)
{
    struct spin_address parts; /* gRPC core would try a wrong one for ever */
    SPIN_TRY(spin_address_split(config->target, &parts, err));
    struct spin_rpc_client *client = calloc(1, sizeof *client);
    if (client == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "rpc client: %zu bytes", sizeof *client);
    }
    spin_mutex_init(&client->mutex);
    spin_cond_init(&client->changed);
    spin_list_init(&client->calls);
    (void)snprintf(client->target, sizeof client->target, "%s", config->target);
    client->thread = thread;
    client->queue = thread->queue;
    client->parser = &thread->parser;
    (void)atomic_fetch_add(&thread->clients, 1);

    spin_status status;
    SPIN_TRY_GOTO(status, set_bearer(client, config->bearer, err), fail);
    grpc_channel_credentials *credentials = NULL;
    SPIN_TRY_GOTO(status, spin_rpc_tls_channel_credentials(&config->tls, &credentials, err), fail);
    client->channel = create_channel(config, credentials);
    grpc_channel_credentials_release(credentials);
    *out = client;
    return SPIN_OK;
fail:
    spin_rpc_client_destroy(client);
    return status;
}

void spin_rpc_client_destroy(struct spin_rpc_client *client)
{
    if (client == NULL) {
        return;
    }
    spin_rpc_client_cancel_calls(client);
    if (client->channel != NULL) {
        grpc_channel_destroy(client->channel);
    }
    grpc_slice_unref(client->authorization.value);
    spin_cond_deinit(&client->changed);
    spin_mutex_deinit(&client->mutex);
    (void)atomic_fetch_sub(&client->thread->clients, 1);
    free(client);
}

gpr_timespec spin_rpc_core_deadline(uint64_t deadline_ns)
{
    if (deadline_ns == SPIN_NO_DEADLINE) {
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    }
    return (gpr_timespec){.tv_sec = (int64_t)(deadline_ns / SPIN_NS_PER_S),
                          .tv_nsec = (int32_t)(deadline_ns % SPIN_NS_PER_S),
                          .clock_type = GPR_CLOCK_MONOTONIC};
}

/* One look at the connection's state and, unless that settles it, a wait for the next one. */
struct watch {
    struct spin_rpc_tag tag;
    struct spin_rpc_client *client;
    bool fired;
    bool changed; /* false: the deadline passed */
};

static void on_watch(void *self, bool ok)
{
    struct watch *watch = self;
    struct spin_rpc_client *client = watch->client;
    spin_mutex_lock(&client->mutex);
    watch->fired = true;
    watch->changed = ok;
    spin_cond_broadcast(&client->changed);
    spin_mutex_unlock(&client->mutex);
}

static bool wait_change(struct spin_rpc_client *client, grpc_connectivity_state seen,
                        uint64_t deadline_ns)
{
    struct watch watch = {.client = client};
    watch.tag = (struct spin_rpc_tag){on_watch, &watch};
    grpc_channel_watch_connectivity_state(
        client->channel, seen, spin_rpc_core_deadline(deadline_ns), client->queue, &watch.tag);
    spin_mutex_lock(&client->mutex);
    while (!watch.fired) {
        (void)spin_cond_wait(&client->changed, &client->mutex, SPIN_NO_DEADLINE);
    }
    spin_mutex_unlock(&client->mutex);
    return watch.changed;
}

spin_status spin_rpc_client_wait_ready(struct spin_rpc_client *client, uint64_t deadline_ns,
                                       struct spin_error *err)
{
    for (;;) {
        const grpc_connectivity_state state =
            grpc_channel_check_connectivity_state(client->channel, 1);
        if (state == GRPC_CHANNEL_READY) {
            return SPIN_OK;
        }
        if (!wait_change(client, state, deadline_ns)) {
            return spin_fail(err, SPIN_ERR_PEER_LOST, "%s does not answer", client->target);
        }
    }
}
