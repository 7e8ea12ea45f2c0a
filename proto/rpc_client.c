#include "proto/rpc_client.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/mutex.h"
#include "proto/rpc_internal.h"

#include <grpc/byte_buffer.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define ARENA_CHUNK_BYTES (UINT64_C(16) << 10)
/* A server that does not answer a ping within 10 + 3 s is gone: status UNAVAILABLE. */
#define KEEPALIVE_TIME_MS 10000
#define KEEPALIVE_TIMEOUT_MS 3000
#define RECONNECT_FIRST_MS 100
#define RECONNECT_MAX_MS 1000

struct spin_rpc_client {
    grpc_channel *channel;
    grpc_completion_queue *queue;
    pthread_t thread;
    bool started;
    char target[256];

    struct spin_mutex mutex; /* guards the rest */
    struct spin_cond changed;
    struct spin_list calls; /* open ones, for destroy to cancel */
};

struct spin_rpc_client_call {
    struct spin_rpc_client *client;
    grpc_call *core;
    struct spin_link link;
    struct spin_rpc_tag end_tag;     /* the batch that ends with the status */
    struct spin_rpc_tag message_tag; /* one answer */
    uint32_t tags_open;              /* client's thread: when none is left the call is over */
    grpc_metadata_array initial;
    grpc_metadata_array trailing;
    grpc_status_code code;
    grpc_slice details;
    grpc_byte_buffer *received;
    struct spin_arena *arena;
    uint64_t messages;
    struct spin_error refused; /* what we could not take from the peer; OK: nothing */
    struct spin_rpc_request request;
    _Atomic uint32_t refs; /* the caller's, and the client's until `finished` was called */
};

static void unref(struct spin_rpc_client_call *call)
{
    /* Release: my writes are before the free. Acquire: the one who frees sees them. */
    if (atomic_fetch_sub_explicit(&call->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    grpc_metadata_array_destroy(&call->initial);
    grpc_metadata_array_destroy(&call->trailing);
    grpc_slice_unref(call->details);
    if (call->received != NULL) {
        grpc_byte_buffer_destroy(call->received);
    }
    if (call->core != NULL) {
        grpc_call_unref(call->core);
    }
    spin_arena_destroy(call->arena);
    free(call);
}

static void end_call(struct spin_rpc_client_call *call)
{
    char *details = grpc_slice_to_c_string(call->details);
    struct spin_rpc_outcome outcome = {.status = spin_rpc_status_from_code((int)call->code),
                                       .code = (enum spin_rpc_code)call->code,
                                       .text = details,
                                       .messages = call->messages};
    if (call->refused.status != SPIN_OK) {
        outcome.status = call->refused.status;
        outcome.code = spin_rpc_code_from_status(call->refused.status);
        outcome.text = call->refused.text;
    }
    call->request.finished(call->request.context, &outcome);
    gpr_free(details);

    struct spin_rpc_client *client = call->client;
    spin_mutex_lock(&client->mutex);
    spin_list_remove(&client->calls, &call->link);
    spin_cond_broadcast(&client->changed);
    spin_mutex_unlock(&client->mutex);
    unref(call);
}

static void tag_done(struct spin_rpc_client_call *call)
{
    SPIN_ASSERT_GT(call->tags_open, 0);
    call->tags_open--;
    if (call->tags_open == 0) {
        end_call(call);
    }
}

static void on_end(void *self, bool ok)
{
    (void)ok; /* always true for a batch with a status */
    tag_done(self);
}

static void receive_next(struct spin_rpc_client_call *call)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &call->received;
    spin_rpc_start_batch(call->core, &op, 1, &call->message_tag);
}

/* Hands the received message on; false when it is not one that we can take. */
static bool deliver(struct spin_rpc_client_call *call)
{
    const struct spin_rpc_request *request = &call->request;
    const struct spin_rpc_unpack_args args = {
        .type = request->response, .bytes_max = request->response_bytes_max, .arena = call->arena};
    struct ProtobufCMessage *message = NULL;
    const spin_status status =
        spin_rpc_buffer_unpack(call->received, &args, &message, &call->refused);
    grpc_byte_buffer_destroy(call->received);
    call->received = NULL;
    if (status != SPIN_OK) {
        return false;
    }
    call->messages++;
    request->message_received(request->context, message);
    spin_arena_reset(call->arena);
    return true;
}

static void on_message(void *self, bool ok)
{
    struct spin_rpc_client_call *call = self;
    if (!ok || call->received == NULL) { /* no more will come */
        tag_done(call);
    } else if (deliver(call)) {
        receive_next(call);
    } else {
        (void)grpc_call_cancel(call->core, NULL);
        tag_done(call);
    }
}

static void *thread_main(void *self)
{
    struct spin_rpc_client *client = self;
    (void)pthread_setname_np(pthread_self(), "rpc-client");
    spin_rpc_queue_run(client->queue);
    return NULL;
}

static grpc_channel *create_channel(const char *target)
{
    grpc_arg args[] = {
        spin_rpc_integer_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, SPIN_RPC_GENERATE_BYTES_MAX),
        spin_rpc_integer_arg(GRPC_ARG_KEEPALIVE_TIME_MS, KEEPALIVE_TIME_MS),
        spin_rpc_integer_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_TIMEOUT_MS),
        spin_rpc_integer_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        spin_rpc_integer_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        spin_rpc_integer_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, RECONNECT_FIRST_MS),
        spin_rpc_integer_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, RECONNECT_MAX_MS),
        /* Only the caller knows what may be asked twice. */
        spin_rpc_integer_arg(GRPC_ARG_ENABLE_RETRIES, 0),
        /* Workers are dialled directly, whatever http_proxy says. */
        spin_rpc_integer_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        spin_rpc_integer_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1),
    };
    const grpc_channel_args list = {.num_args = SPIN_ARRAY_COUNT(args), .args = args};
    grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
    grpc_channel *channel = grpc_channel_create(target, credentials, &list);
    grpc_channel_credentials_release(credentials);
    return channel;
}

spin_status spin_rpc_client_create(const char *target, struct spin_rpc_client **out,
                                   struct spin_error *err)
{
    SPIN_TRY(spin_rpc_address_check(target, err));
    struct spin_rpc_client *client = calloc(1, sizeof *client);
    if (client == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "rpc client: %zu bytes", sizeof *client);
    }
    spin_rpc_core_acquire();
    spin_mutex_init(&client->mutex);
    spin_cond_init(&client->changed);
    spin_list_init(&client->calls);
    (void)snprintf(client->target, sizeof client->target, "%s", target);
    client->queue = grpc_completion_queue_create_for_next(NULL);
    client->channel = create_channel(target);
    client->started = pthread_create(&client->thread, NULL, thread_main, client) == 0;
    if (!client->started) {
        spin_rpc_client_destroy(client);
        return spin_fail(err, SPIN_ERR_EXHAUSTED, "rpc client: cannot start its thread");
    }
    *out = client;
    return SPIN_OK;
}

static void cancel_all(struct spin_rpc_client *client)
{
    spin_mutex_lock(&client->mutex);
    SPIN_LIST_FOREACH (&client->calls, link) {
        /* Only marks and schedules: no callback runs in here. */
        (void)grpc_call_cancel(SPIN_CONTAINER_OF(link, struct spin_rpc_client_call, link)->core,
                               NULL);
    }
    while (client->calls.count > 0) {
        (void)spin_cond_wait(&client->changed, &client->mutex, SPIN_NO_DEADLINE);
    }
    spin_mutex_unlock(&client->mutex);
}

void spin_rpc_client_destroy(struct spin_rpc_client *client)
{
    if (client == NULL) {
        return;
    }
    cancel_all(client);
    grpc_channel_destroy(client->channel);
    grpc_completion_queue_shutdown(client->queue);
    if (client->started) {
        (void)pthread_join(client->thread, NULL);
    } else {
        spin_rpc_queue_run(client->queue);
    }
    grpc_completion_queue_destroy(client->queue);
    spin_cond_deinit(&client->changed);
    spin_mutex_deinit(&client->mutex);
    free(client);
    spin_rpc_core_release();
}

static gpr_timespec core_deadline(uint64_t deadline_ns)
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
    grpc_channel_watch_connectivity_state(client->channel, seen, core_deadline(deadline_ns),
                                          client->queue, &watch.tag);
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

static void start_call(struct spin_rpc_client_call *call)
{
    grpc_byte_buffer *buffer = spin_rpc_buffer_from_message(call->request.message);
    grpc_op ops[5] = {0};
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = buffer;
    ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &call->initial;
    ops[4].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[4].data.recv_status_on_client.trailing_metadata = &call->trailing;
    ops[4].data.recv_status_on_client.status = &call->code;
    ops[4].data.recv_status_on_client.status_details = &call->details;
    call->tags_open = 2; /* both are under way before the first can be looked at */
    spin_rpc_start_batch(call->core, ops, SPIN_ARRAY_COUNT(ops), &call->end_tag);
    receive_next(call);
    grpc_byte_buffer_destroy(buffer);
}

static struct spin_rpc_client_call *new_call(struct spin_rpc_client *client,
                                             const struct spin_rpc_request *request)
{
    struct spin_rpc_client_call *call = calloc(1, sizeof *call);
    if (call == NULL || spin_arena_create(ARENA_CHUNK_BYTES, request->arena_bytes_max, &call->arena,
                                          NULL) != SPIN_OK) {
        free(call);
        return NULL;
    }
    call->client = client;
    call->request = *request;
    call->details = grpc_empty_slice();
    grpc_metadata_array_init(&call->initial);
    grpc_metadata_array_init(&call->trailing);
    call->end_tag = (struct spin_rpc_tag){on_end, call};
    call->message_tag = (struct spin_rpc_tag){on_message, call};
    atomic_init(&call->refs, 2);
    return call;
}

spin_status spin_rpc_client_submit(struct spin_rpc_client *client,
                                   const struct spin_rpc_request *request,
                                   struct spin_rpc_client_call **out, struct spin_error *err)
{
    struct spin_rpc_client_call *call = new_call(client, request);
    if (call == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "rpc call: %zu bytes", sizeof *call);
    }
    grpc_slice path = grpc_slice_from_copied_string(request->path);
    call->core =
        grpc_channel_create_call(client->channel, NULL, GRPC_PROPAGATE_DEFAULTS, client->queue,
                                 path, NULL, core_deadline(request->deadline_ns), NULL);
    grpc_slice_unref(path);
    spin_mutex_lock(&client->mutex);
    spin_list_push_back(&client->calls, &call->link);
    spin_mutex_unlock(&client->mutex);
    *out = call;
    start_call(call);
    return SPIN_OK;
}

void spin_rpc_client_call_cancel(struct spin_rpc_client_call *call)
{
    (void)grpc_call_cancel(call->core, NULL);
}

void spin_rpc_client_call_release(struct spin_rpc_client_call *call)
{
    if (call != NULL) {
        unref(call);
    }
}
