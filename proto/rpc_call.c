/* The life of one call:
 *
 *   posted --request--> in start --> open --finish--> ending --status sent--> closed
 *      \--shutdown--> freed          | |\--client gone--> gone() --finish--> closed
 *                                    | \--client's message--> message(), again and again
 *                                    \--client's last--> half_closed()
 *
 * References: the posted request, which becomes the handler's hold; the close notice; a send under
 * way; the wait for a message; a place in the sender's ring. The last one to go frees the call,
 * never on the handler's thread: finish only marks, and pump, which runs on the rpc or the sender
 * thread, drops the handler's hold. */
#include "base/assert.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "proto/rpc_internal.h"
#include "proto/rpc_outbox.h"

#include <grpc/byte_buffer.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <protobuf-c/protobuf-c.h>

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct spin_rpc_call {
    const struct spin_rpc_line *line;
    grpc_call *core;
    gpr_timespec deadline;
    grpc_metadata_array metadata;
    grpc_call_details details; /* the catch-all's: which method was asked for */
    grpc_byte_buffer *payload;
    char *bearer; /* NULL: none */
    struct spin_rpc_tag request_tag;
    struct spin_rpc_tag close_tag;
    struct spin_rpc_tag send_tag;
    struct spin_rpc_tag receive_tag; /* the next message of the client's stream */
    int cancelled;                   /* written by gRPC core before close_tag fires */
    bool admitted;                   /* rpc thread */
    _Atomic uint32_t refs;

    struct spin_mutex mutex; /* guards everything down to `peer` */
    struct spin_rpc_outbox outbox;
    bool in_handler;  /* start or message runs and will be followed by a pump */
    bool scheduled;   /* in the sender's ring */
    bool sending;     /* a batch of ours is under way: gRPC core allows one */
    bool opened;      /* initial metadata went out */
    bool overflowed;  /* an append found no room */
    bool cut;         /* and the call was cancelled for it */
    bool finished;    /* the handler's last word is in `status` and `text` */
    bool released;    /* and its hold was dropped */
    bool status_sent; /* nothing more can be sent */
    bool closed;      /* nobody listens any more */
    spin_status status;
    char text[sizeof(((struct spin_error *)NULL)->text)];
    char *peer; /* NULL: nobody has asked yet */

    _Alignas(max_align_t) uint8_t state[]; /* the handler's */
};

static void ref(struct spin_rpc_call *call)
{
    /* Whoever adds one holds one, so there is nothing to order. */
    (void)atomic_fetch_add_explicit(&call->refs, 1, memory_order_relaxed);
}

static void unref(struct spin_rpc_call *call, uint32_t count)
{
    /* Release: my writes are before the free. Acquire: the one who frees sees everybody's. */
    if (atomic_fetch_sub_explicit(&call->refs, count, memory_order_acq_rel) != count) {
        return;
    }
    struct spin_rpc_server *server = call->line->server;
    grpc_metadata_array_destroy(&call->metadata);
    grpc_call_details_destroy(&call->details);
    if (call->payload != NULL) {
        grpc_byte_buffer_destroy(call->payload);
    }
    if (call->core != NULL) {
        grpc_call_unref(call->core);
    }
    free(call->bearer);
    gpr_free(call->peer);
    if (call->admitted) {
        spin_rpc_server_leave(server, call->line);
    }
    spin_rpc_outbox_deinit(&call->outbox);
    spin_mutex_deinit(&call->mutex);
    free(call);
    spin_rpc_server_object_destroyed(server);
}

/* What pump found to do, decided under the lock and done outside of it. */
struct send_plan {
    bool message;
    bool status;
    bool open_first;
    bool cut;
    bool release;
    grpc_slice bytes;
};

static void plan_send(struct spin_rpc_call *call, struct send_plan *plan)
{
    const bool merge = call->line->method->merge;
    plan->message = call->outbox.count > 0;
    if (plan->message) {
        plan->bytes = grpc_slice_malloc(spin_rpc_outbox_next_bytes(&call->outbox, merge));
        spin_rpc_outbox_take(&call->outbox, merge, GRPC_SLICE_START_PTR(plan->bytes));
    }
    plan->status = call->finished && call->outbox.count == 0;
    if (plan->message || plan->status) {
        plan->open_first = !call->opened;
        call->opened = true;
        call->sending = true;
        call->status_sent = plan->status;
    }
}

static struct send_plan make_plan(struct spin_rpc_call *call)
{
    struct send_plan plan = {0};
    plan.release = call->finished && !call->released;
    call->released = call->released || plan.release;
    if (call->closed) {
        spin_rpc_outbox_clear(&call->outbox);
    } else if (call->overflowed) {
        plan.cut = !call->cut;
        call->cut = true;
    } else if (!call->sending && !call->status_sent) {
        plan_send(call, &plan);
    }
    return plan;
}

static void start_send(struct spin_rpc_call *call, const struct send_plan *plan)
{
    grpc_op ops[3] = {0};
    size_t count = 0;
    grpc_byte_buffer *buffer = NULL;
    grpc_slice details = grpc_empty_slice();
    if (plan->open_first) {
        ops[count++].op = GRPC_OP_SEND_INITIAL_METADATA;
    }
    if (plan->message) {
        spin_rpc_server_count(call->line->server, SPIN_RPC_STAT_MESSAGES_SENT);
        grpc_slice bytes = plan->bytes;
        buffer = grpc_raw_byte_buffer_create(&bytes, 1);
        grpc_slice_unref(bytes);
        ops[count].op = GRPC_OP_SEND_MESSAGE;
        ops[count++].data.send_message.send_message = buffer;
    }
    if (plan->status) { /* `status` and `text` are final once `finished` was seen */
        const enum spin_rpc_code code = spin_rpc_code_from_status(call->status);
        details = grpc_slice_from_copied_string(call->text);
        ops[count].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
        ops[count].data.send_status_from_server.status = (grpc_status_code)code;
        ops[count++].data.send_status_from_server.status_details = &details;
    }
    ref(call);
    spin_rpc_start_batch(call->core, ops, count, &call->send_tag);
    if (buffer != NULL) {
        grpc_byte_buffer_destroy(buffer);
    }
    grpc_slice_unref(details);
}

/* Does the next thing there is to do, and drops the caller's reference. rpc or sender thread. */
static void pump(struct spin_rpc_call *call)
{
    spin_mutex_lock(&call->mutex);
    const struct send_plan plan = make_plan(call);
    spin_mutex_unlock(&call->mutex);

    if (plan.message || plan.status) {
        start_send(call, &plan);
    }
    if (plan.cut) {
        spin_rpc_server_count(call->line->server, SPIN_RPC_STAT_SLOW_READERS);
        (void)grpc_call_cancel_with_status(call->core, GRPC_STATUS_RESOURCE_EXHAUSTED,
                                           "the reader is too slow: answers over the limit wait",
                                           NULL);
    }
    unref(call, plan.release ? 2 : 1);
}

static void on_sent(void *self, bool ok)
{
    struct spin_rpc_call *call = self;
    spin_mutex_lock(&call->mutex);
    call->sending = false;
    call->closed = call->closed || !ok; /* the close notice follows */
    spin_mutex_unlock(&call->mutex);
    pump(call);
}

static void on_close(void *self, bool ok)
{
    struct spin_rpc_call *call = self;
    (void)ok;
    const struct spin_rpc_method *method = call->line->method;
    spin_mutex_lock(&call->mutex);
    call->closed = true;
    const bool left = call->cancelled != 0 && !call->finished;
    spin_mutex_unlock(&call->mutex);
    if (left) {
        spin_rpc_server_count(call->line->server, SPIN_RPC_STAT_GONE);
        if (method->gone != NULL) {
            method->gone(call->line->context, call);
        }
    }
    pump(call);
}

/* Parses what arrived. The message is valid until the parser forgets it. */
static spin_status read_payload(struct spin_rpc_call *call, struct ProtobufCMessage **out,
                                struct spin_error *err)
{
    const struct spin_rpc_method *method = call->line->method;
    const struct spin_rpc_unpack_args args = {.type = method->request,
                                              .bytes_max = method->request_bytes_max,
                                              .arena_bytes_max = method->arena_bytes_max};
    struct spin_rpc_parser *parser = spin_rpc_server_parser(call->line->server);
    const spin_status status = spin_rpc_parser_read(parser, call->payload, &args, out, err);
    grpc_byte_buffer_destroy(call->payload);
    call->payload = NULL;
    /* Too many bytes: gRPC's word for it is RESOURCE_EXHAUSTED. */
    return status == SPIN_ERR_LIMIT ? SPIN_ERR_EXHAUSTED : status;
}

/* Parses the request and runs the handler, or says why not. */
static spin_status run_start(struct spin_rpc_call *call, struct spin_error *err)
{
    const struct spin_rpc_method *method = call->line->method;
    struct ProtobufCMessage *request = NULL;
    spin_status status = SPIN_OK;
    if (method->message == NULL) {
        status = call->payload == NULL
                     ? spin_fail(err, SPIN_ERR_INVALID, "%s: no request message", method->path)
                     : read_payload(call, &request, err);
    }
    if (status == SPIN_OK) {
        spin_rpc_server_count(call->line->server, SPIN_RPC_STAT_CALLS);
        method->start(call->line->context, call, request);
    }
    spin_rpc_parser_forget(spin_rpc_server_parser(call->line->server));
    return status;
}

/* Where the handler appends from now on, a pump follows: the sender thread need not be told. False
 * when the handler has finished or nobody listens. */
static bool enter_handler(struct spin_rpc_call *call)
{
    spin_mutex_lock(&call->mutex);
    call->in_handler = !call->finished && !call->closed;
    const bool entered = call->in_handler;
    spin_mutex_unlock(&call->mutex);
    return entered;
}

static void leave_handler(struct spin_rpc_call *call)
{
    spin_mutex_lock(&call->mutex);
    call->in_handler = false;
    spin_mutex_unlock(&call->mutex);
}

static void receive_next(struct spin_rpc_call *call)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &call->payload;
    ref(call);
    spin_rpc_start_batch(call->core, &op, 1, &call->receive_tag);
}

/* One message of the client's stream. The handler owns the end of the call, so a message that it
 * cannot be given ends the call from below: `gone` follows. */
static void take_message(struct spin_rpc_call *call)
{
    const struct spin_rpc_line *line = call->line;
    struct ProtobufCMessage *message = NULL;
    struct spin_error err = {0};
    const spin_status status = read_payload(call, &message, &err);
    if (status == SPIN_OK) {
        line->method->message(line->context, call, message);
        receive_next(call);
    } else {
        spin_rpc_server_count(line->server, SPIN_RPC_STAT_REFUSED);
        (void)grpc_call_cancel_with_status(
            call->core, (grpc_status_code)spin_rpc_code_from_status(status), err.text, NULL);
    }
    spin_rpc_parser_forget(spin_rpc_server_parser(line->server));
}

static void on_received(void *self, bool ok)
{
    struct spin_rpc_call *call = self;
    const struct spin_rpc_line *line = call->line;
    if (enter_handler(call)) {
        if (call->payload != NULL) {
            take_message(call);
        } else if (ok && grpc_call_failed_before_recv_message(call->core) == 0 &&
                   line->method->half_closed != NULL) {
            line->method->half_closed(line->context, call);
        }
        leave_handler(call);
    }
    pump(call);
}

static spin_status refuse_unknown(const struct spin_rpc_call *call, struct spin_error *err)
{
    char *path = grpc_slice_to_c_string(call->details.method);
    const spin_status status = spin_fail(err, SPIN_ERR_UNSUPPORTED, "unknown method %.128s", path);
    gpr_free(path);
    return status;
}

static spin_status check_bearer(const struct spin_rpc_call *call, struct spin_error *err)
{
    const struct spin_rpc_method *method = call->line->method;
    if (method->bearer == NULL ||
        spin_rpc_token_equal(spin_rpc_call_bearer(call), method->bearer)) {
        return SPIN_OK;
    }
    return spin_fail(err, SPIN_ERR_DENIED, "%s: %s", method->path,
                     call->bearer == NULL ? "no \"authorization: Bearer <token>\" in the call"
                                          : "the bearer token is not the right one");
}

static spin_status begin(struct spin_rpc_call *call, struct spin_error *err)
{
    const struct spin_rpc_line *line = call->line;
    if (line->handle == NULL) {
        return refuse_unknown(call, err);
    }
    call->bearer = spin_rpc_token_find(&call->metadata);
    SPIN_TRY(check_bearer(call, err)); /* first: strangers take no places */
    call->admitted = spin_rpc_server_admit(line->server, line);
    if (!call->admitted) {
        return spin_fail(err, SPIN_ERR_EXHAUSTED, "%s: %u calls are open already, retry later",
                         line->method->path, line->method->calls_max);
    }
    if (spin_rpc_outbox_init(&call->outbox, line->method->outbox_bytes) != SPIN_OK) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "%s: no memory for answers", line->method->path);
    }
    return run_start(call, err);
}

static void on_request(void *self, bool ok)
{
    struct spin_rpc_call *call = self;
    struct spin_rpc_server *server = call->line->server;
    spin_rpc_server_request_taken(server, call->line, ok);
    if (!ok) { /* the server shuts down; there is no call */
        unref(call, 1);
        return;
    }
    grpc_op close_notice = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
    close_notice.data.recv_close_on_server.cancelled = &call->cancelled;
    ref(call);
    spin_rpc_start_batch(call->core, &close_notice, 1, &call->close_tag);

    ref(call); /* mine: the handler may finish, and its hold be dropped, while I am here */
    call->in_handler = true; /* before the handler knows of the call: nobody else is here yet */
    struct spin_error err = {0};
    const spin_status status = begin(call, &err);
    if (status != SPIN_OK) {
        spin_rpc_server_count(server, SPIN_RPC_STAT_REFUSED);
        spin_rpc_call_finish(call, status, err.text);
    } else if (call->line->method->message != NULL) {
        receive_next(call);
    }
    leave_handler(call);
    pump(call);
}

bool spin_rpc_call_post(const struct spin_rpc_line *line)
{
    struct spin_rpc_call *call = calloc(1, sizeof *call + line->method->state_bytes);
    if (call == NULL) {
        return false;
    }
    call->line = line;
    atomic_init(&call->refs, 1);
    spin_mutex_init(&call->mutex);
    grpc_metadata_array_init(&call->metadata);
    grpc_call_details_init(&call->details);
    call->request_tag = (struct spin_rpc_tag){on_request, call};
    call->close_tag = (struct spin_rpc_tag){on_close, call};
    call->send_tag = (struct spin_rpc_tag){on_sent, call};
    call->receive_tag = (struct spin_rpc_tag){on_received, call};
    /* A stream of requests is received one by one. */
    grpc_byte_buffer **payload = line->method->message == NULL ? &call->payload : NULL;
    spin_rpc_server_object_created(line->server);
    const grpc_call_error error =
        line->handle == NULL
            ? grpc_server_request_call(line->core, &call->core, &call->details, &call->metadata,
                                       line->queue, line->queue, &call->request_tag)
            : grpc_server_request_registered_call(line->core, line->handle, &call->core,
                                                  &call->deadline, &call->metadata, payload,
                                                  line->queue, line->queue, &call->request_tag);
    SPIN_ASSERT_EQ(error, GRPC_CALL_OK);
    return true;
}

void spin_rpc_call_scheduled(struct spin_rpc_call *call)
{
    spin_mutex_lock(&call->mutex);
    SPIN_ASSERT(call->scheduled);
    call->scheduled = false;
    spin_mutex_unlock(&call->mutex);
    pump(call);
}

/* Under the lock. Whether the sender thread must be told: nobody will pump by himself. */
static bool claim_schedule(struct spin_rpc_call *call)
{
    /* A send that is stuck behind a slow reader completes late or never: it does not count. */
    const bool pump_follows = call->in_handler || (call->sending && !call->overflowed);
    if (pump_follows || call->scheduled) {
        return false;
    }
    call->scheduled = true;
    ref(call);
    return true;
}

void *spin_rpc_call_state(struct spin_rpc_call *call)
{
    return call->state;
}

uint64_t spin_rpc_call_deadline_ns(const struct spin_rpc_call *call)
{
    /* gRPC's monotonic clock is CLOCK_MONOTONIC, as ours is. */
    const gpr_timespec deadline = gpr_convert_clock_type(call->deadline, GPR_CLOCK_MONOTONIC);
    if (deadline.tv_sec < 0) {
        return 0;
    }
    /* The future without end, or what a client may ask for: 8 digits of hours do not fit. */
    const uint64_t seconds = (uint64_t)deadline.tv_sec;
    return seconds >= SPIN_NO_DEADLINE / SPIN_NS_PER_S
               ? SPIN_NO_DEADLINE
               : seconds * SPIN_NS_PER_S + (uint64_t)deadline.tv_nsec;
}

const char *spin_rpc_call_bearer(const struct spin_rpc_call *call)
{
    return call->bearer == NULL ? "" : call->bearer;
}

const char *spin_rpc_call_peer(struct spin_rpc_call *call)
{
    spin_mutex_lock(&call->mutex);
    const bool known = call->peer != NULL;
    spin_mutex_unlock(&call->mutex);
    if (!known) {
        char *peer = grpc_call_get_peer(call->core);
        spin_mutex_lock(&call->mutex);
        SPIN_ASSERT(call->peer == NULL); /* handlers ask from one thread at a time */
        call->peer = peer;
        spin_mutex_unlock(&call->mutex);
    }
    return call->peer;
}

void spin_rpc_call_append(struct spin_rpc_call *call, const struct ProtobufCMessage *message)
{
    bool schedule = false;
    spin_mutex_lock(&call->mutex);
    SPIN_ASSERT(!call->finished);
    if (!call->closed && !call->overflowed) {
        call->overflowed = spin_rpc_outbox_push(&call->outbox, message, 0) != SPIN_OK;
        schedule = claim_schedule(call);
    }
    spin_mutex_unlock(&call->mutex);
    if (schedule) {
        spin_rpc_server_schedule(call->line->server, call);
    }
}

void spin_rpc_call_finish(struct spin_rpc_call *call, spin_status status, const char *text)
{
    spin_mutex_lock(&call->mutex);
    SPIN_ASSERT(!call->finished);
    call->finished = true;
    call->status = status;
    if (text != NULL) {
        (void)snprintf(call->text, sizeof call->text, "%s", text);
    }
    const bool schedule = claim_schedule(call);
    spin_mutex_unlock(&call->mutex);
    if (schedule) {
        spin_rpc_server_schedule(call->line->server, call);
    }
}
