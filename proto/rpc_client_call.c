/* The life of one call, as its client sees it:
 *
 *   submit --> open --status--> ended --last tag--> finished() --> freed with the last reference
 *                \--send, send, close_send (sends_stream)
 *
 * Three kinds of batches run side by side, each with its own tag: the one that ends with the
 * status, the next answer, and the next thing to send. When none is under way any more the call is
 * over; nothing is started after the status has come, so that moment comes once. */
#include "base/assert.h"
#include "base/clock.h"
#include "proto/rpc_client_internal.h"
#include "proto/rpc_outbox.h"

#include <grpc/byte_buffer.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>

#include <stdatomic.h>
#include <stdlib.h>

struct spin_rpc_client_call {
    struct spin_rpc_client *client;
    grpc_call *core;
    struct spin_link link;
    struct spin_rpc_tag end_tag;     /* the batch that ends with the status */
    struct spin_rpc_tag message_tag; /* one answer */
    struct spin_rpc_tag send_tag;    /* sends_stream: one message, or the end of them */
    grpc_metadata_array initial;
    grpc_metadata_array trailing;
    grpc_status_code code;
    grpc_slice details;
    grpc_byte_buffer *received;
    uint64_t messages;
    struct spin_error refused; /* what we could not take from the peer; OK: nothing */
    struct spin_rpc_request request;
    _Atomic uint32_t refs; /* the caller's, and the client's until `finished` was called */

    struct spin_mutex mutex;       /* guards the rest */
    struct spin_rpc_outbox outbox; /* sends_stream */
    uint32_t tags_open;            /* when none is left the call is over */
    bool ended;                    /* the status has come: nothing is started any more */
    bool sending;                  /* gRPC core allows one send at a time */
    bool closing;                  /* close_send was asked for */
    bool close_sent;               /* and given to gRPC core */
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
    spin_rpc_outbox_deinit(&call->outbox);
    spin_mutex_deinit(&call->mutex);
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
    spin_mutex_lock(&call->mutex);
    SPIN_ASSERT_GT(call->tags_open, 0);
    call->tags_open--;
    const bool over = call->tags_open == 0;
    SPIN_ASSERT(!over || call->ended);
    spin_mutex_unlock(&call->mutex);
    if (over) {
        end_call(call);
    }
}

static void on_end(void *self, bool ok)
{
    struct spin_rpc_client_call *call = self;
    (void)ok; /* always true for a batch with a status */
    spin_mutex_lock(&call->mutex);
    call->ended = true;
    spin_mutex_unlock(&call->mutex);
    tag_done(call);
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
    struct spin_rpc_parser *parser = call->client->parser;
    const struct spin_rpc_unpack_args args = {.type = request->response,
                                              .bytes_max = request->response_bytes_max,
                                              .arena_bytes_max = request->arena_bytes_max};
    struct ProtobufCMessage *message = NULL;
    const spin_status status =
        spin_rpc_parser_read(parser, call->received, &args, &message, &call->refused);
    grpc_byte_buffer_destroy(call->received);
    call->received = NULL;
    if (status == SPIN_OK) {
        call->messages++;
        request->message_received(request->context, message);
    }
    spin_rpc_parser_forget(parser);
    return status == SPIN_OK;
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

/* What there is to send, decided under the lock and started outside of it. */
struct send_plan {
    bool message;
    bool close;
    grpc_slice bytes;
};

/* Under the lock. */
static struct send_plan plan_send(struct spin_rpc_client_call *call)
{
    struct send_plan plan = {0};
    if (call->ended || call->sending) {
        return plan;
    }
    plan.message = call->outbox.count > 0;
    if (plan.message) {
        plan.bytes = grpc_slice_malloc(spin_rpc_outbox_next_bytes(&call->outbox, false));
        spin_rpc_outbox_take(&call->outbox, false, GRPC_SLICE_START_PTR(plan.bytes));
    }
    plan.close = call->closing && !call->close_sent && call->outbox.count == 0;
    call->close_sent = call->close_sent || plan.close;
    if (plan.message || plan.close) {
        call->sending = true;
        call->tags_open++;
    }
    return plan;
}

static void start_send(struct spin_rpc_client_call *call, const struct send_plan *plan)
{
    grpc_op ops[2] = {0};
    size_t count = 0;
    grpc_byte_buffer *buffer = NULL;
    if (plan->message) {
        grpc_slice bytes = plan->bytes;
        buffer = grpc_raw_byte_buffer_create(&bytes, 1);
        grpc_slice_unref(bytes);
        ops[count].op = GRPC_OP_SEND_MESSAGE;
        ops[count++].data.send_message.send_message = buffer;
    }
    if (plan->close) {
        ops[count++].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    }
    if (count > 0) {
        spin_rpc_start_batch(call->core, ops, count, &call->send_tag);
    }
    if (buffer != NULL) {
        grpc_byte_buffer_destroy(buffer);
    }
}

static void on_sent(void *self, bool ok)
{
    struct spin_rpc_client_call *call = self;
    (void)ok; /* false: the status follows and says why */
    spin_mutex_lock(&call->mutex);
    call->sending = !ok; /* so nothing else is started until it does */
    const struct send_plan plan = plan_send(call);
    spin_mutex_unlock(&call->mutex);
    start_send(call, &plan);
    tag_done(call);
}

/* One batch opens the call; what a stream adds to it later, and the status, have their own: a
 * batch is done when all of it is. */
static void start_call(struct spin_rpc_client_call *call)
{
    struct spin_rpc_client *client = call->client;
    const bool streams = call->request.sends_stream;
    grpc_byte_buffer *buffer = NULL;
    grpc_op ops[5] = {0};
    size_t count = 0;
    ops[count].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[count].data.send_initial_metadata.count = client->authorized ? 1 : 0;
    ops[count++].data.send_initial_metadata.metadata = &client->authorization;
    if (call->request.message != NULL) {
        buffer = spin_rpc_buffer_from_message(call->request.message);
        ops[count].op = GRPC_OP_SEND_MESSAGE;
        ops[count++].data.send_message.send_message = buffer;
    }
    if (streams) {
        spin_rpc_start_batch(call->core, ops, count, &call->send_tag);
        count = 0;
    } else {
        ops[count++].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    }
    ops[count].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[count++].data.recv_initial_metadata.recv_initial_metadata = &call->initial;
    ops[count].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[count].data.recv_status_on_client.trailing_metadata = &call->trailing;
    ops[count].data.recv_status_on_client.status = &call->code;
    ops[count++].data.recv_status_on_client.status_details = &call->details;
    spin_rpc_start_batch(call->core, ops, count, &call->end_tag);
    receive_next(call);
    if (buffer != NULL) {
        grpc_byte_buffer_destroy(buffer);
    }
}

static struct spin_rpc_client_call *new_call(struct spin_rpc_client *client,
                                             const struct spin_rpc_request *request)
{
    struct spin_rpc_client_call *call = calloc(1, sizeof *call);
    if (call == NULL) {
        return NULL;
    }
    if (request->sends_stream &&
        spin_rpc_outbox_init(&call->outbox, request->outbox_bytes) != SPIN_OK) {
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
    call->send_tag = (struct spin_rpc_tag){on_sent, call};
    spin_mutex_init(&call->mutex);
    /* All are under way before the first can be looked at. */
    call->tags_open = request->sends_stream ? 3 : 2;
    call->sending = request->sends_stream;
    atomic_init(&call->refs, 2);
    return call;
}

spin_status spin_rpc_client_submit(struct spin_rpc_client *client,
                                   const struct spin_rpc_request *request,
                                   struct spin_rpc_client_call **out, struct spin_error *err)
{
    SPIN_ASSERT(request->sends_stream || request->message != NULL);
    struct spin_rpc_client_call *call = new_call(client, request);
    if (call == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "%s: no memory for a call", request->path);
    }
    grpc_slice path = grpc_slice_from_copied_string(request->path);
    call->core =
        grpc_channel_create_call(client->channel, NULL, GRPC_PROPAGATE_DEFAULTS, client->queue,
                                 path, NULL, spin_rpc_core_deadline(request->deadline_ns), NULL);
    grpc_slice_unref(path);
    spin_mutex_lock(&client->mutex);
    spin_list_push_back(&client->calls, &call->link);
    spin_mutex_unlock(&client->mutex);
    *out = call;
    start_call(call);
    return SPIN_OK;
}

spin_status spin_rpc_client_call_send(struct spin_rpc_client_call *call,
                                      const struct ProtobufCMessage *message, uint64_t reserve)
{
    SPIN_ASSERT(call->request.sends_stream);
    spin_mutex_lock(&call->mutex);
    SPIN_ASSERT(!call->closing);
    const spin_status status =
        call->ended ? SPIN_OK : spin_rpc_outbox_push(&call->outbox, message, reserve);
    const struct send_plan plan = plan_send(call);
    spin_mutex_unlock(&call->mutex);
    start_send(call, &plan);
    return status;
}

void spin_rpc_client_call_close_send(struct spin_rpc_client_call *call)
{
    SPIN_ASSERT(call->request.sends_stream);
    spin_mutex_lock(&call->mutex);
    call->closing = true;
    const struct send_plan plan = plan_send(call);
    spin_mutex_unlock(&call->mutex);
    start_send(call, &plan);
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

void spin_rpc_client_cancel_calls(struct spin_rpc_client *client)
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
