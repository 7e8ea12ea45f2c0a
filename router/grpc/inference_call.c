/* The life of one call; see inference_internal.h for the picture.
 *
 * gone comes from the rpc thread while the loop may be about to finish the call, and finishing ends
 * our hold on it. Who comes first is decided by one word in the call's state: when gone does, its
 * message is on the way, and the loop waits for it before it lets the call go. */
#include "base/assert.h"
#include "router/grpc/inference_internal.h"
#include "router/metrics.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define INLINE_BYTES (UINT64_C(4) << 10) /* larger requests are prepared off the loop: up to 4 ms */
#define ARENA_CHUNK_BYTES (UINT64_C(4) << 10)

enum phase { PHASE_OPEN, PHASE_GONE, PHASE_FINISHED };

struct call_state { /* the rpc call's: outlives ours while gone runs */
    _Atomic uint32_t phase;
    struct spin_inference_call *call;
};

uint32_t spin_inference_call_state_bytes(void)
{
    return sizeof(struct call_state);
}

static const struct spin_inference_parts *parts_of(const struct spin_inference_call *call)
{
    return &call->line->inference->parts;
}

/* --- from the rpc thread --- */

static void on_arrived(struct spin_loop_message *message);
static void on_gone(struct spin_loop_message *message);

static spin_status hold_bytes(struct spin_inference_call *call, uint64_t bytes,
                              struct spin_error *err)
{
    struct spin_inference *inference = call->line->inference;
    const uint64_t max = inference->parts.requests_bytes_max;
    spin_mutex_lock(&inference->mutex);
    const uint64_t held = inference->request_bytes;
    const bool fits = bytes <= max - held;
    inference->request_bytes += fits ? bytes : 0;
    spin_mutex_unlock(&inference->mutex);
    if (!fits) {
        return spin_fail(err, SPIN_ERR_EXHAUSTED,
                         "request: %" PRIu64 " bytes, and %" PRIu64 " of at most %" PRIu64
                         " wait to be read; retry later",
                         bytes, held, max);
    }
    call->held_bytes = bytes;
    return SPIN_OK;
}

static void drop_bytes(struct spin_inference_call *call)
{
    struct spin_inference *inference = call->line->inference;
    spin_mutex_lock(&inference->mutex);
    SPIN_ASSERT_LE(call->held_bytes, inference->request_bytes);
    inference->request_bytes -= call->held_bytes;
    spin_mutex_unlock(&inference->mutex);
    call->held_bytes = 0;
}

/* The parsed request is gone when start returns; its bytes are the simplest copy of it. */
static spin_status copy_request(struct spin_inference_call *call,
                                const struct ProtobufCMessage *request, struct spin_error *err)
{
    const uint64_t bytes = protobuf_c_message_get_packed_size(request);
    const uint64_t cap = call->line->kind->method.arena_bytes_max + bytes;
    SPIN_TRY(hold_bytes(call, bytes, err));
    SPIN_TRY(spin_arena_create(ARENA_CHUNK_BYTES, cap, &call->arena, err));
    uint8_t *copy = spin_arena_take(call->arena, bytes);
    if (copy == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "request: %" PRIu64 " bytes", bytes);
    }
    call->request = (struct spin_rpc_bytes){copy, protobuf_c_message_pack(request, copy)};
    return SPIN_OK;
}

static spin_status create(const struct spin_inference_line *line, struct spin_rpc_call *rpc,
                          const struct ProtobufCMessage *request, struct spin_inference_call **out,
                          struct spin_error *err)
{
    struct spin_inference_call *call = calloc(1, sizeof *call);
    if (call == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "call: %zu bytes", sizeof *call);
    }
    call->line = line;
    call->rpc = rpc;
    call->arrived.run = on_arrived;
    call->gone.run = on_gone;
    const spin_status status = copy_request(call, request, err);
    if (status != SPIN_OK) {
        spin_inference_call_forget(call);
        free(call);
        return status;
    }
    *out = call;
    return SPIN_OK;
}

void spin_inference_call_start(void *context, struct spin_rpc_call *rpc,
                               const struct ProtobufCMessage *request)
{
    const struct spin_inference_line *line = context;
    struct call_state *state = spin_rpc_call_state(rpc);
    struct spin_error err = {0};
    const spin_status status = create(line, rpc, request, &state->call, &err);
    if (status != SPIN_OK) {
        atomic_store(&state->phase, PHASE_FINISHED);
        spin_rpc_call_finish(rpc, status, err.text);
        return;
    }
    spin_loop_post(line->inference->parts.loop, &state->call->arrived);
}

void spin_inference_call_gone(void *context, struct spin_rpc_call *rpc)
{
    const struct spin_inference_line *line = context;
    struct call_state *state = spin_rpc_call_state(rpc);
    uint32_t expected = PHASE_OPEN;
    if (atomic_compare_exchange_strong(&state->phase, &expected, PHASE_GONE)) {
        spin_loop_post(line->inference->parts.loop, &state->call->gone);
    }
}

/* --- on the loop --- */

void spin_inference_call_forget(struct spin_inference_call *call)
{
    spin_prompt_tokens_deinit(&call->made.prompt);
    spin_arena_destroy(call->arena);
    call->arena = NULL;
    drop_bytes(call);
}

static void destroy(struct spin_inference_call *call)
{
    free(call->answers);
    free(call);
}

static void finish(struct spin_inference_call *call, spin_status status, const char *text)
{
    spin_rpc_call_finish(call->rpc, status, text);
    destroy(call);
}

void spin_inference_call_end(struct spin_inference_call *call, spin_status status, const char *text)
{
    SPIN_ASSERT(!call->has_ended);
    spin_inference_call_forget(call);
    struct call_state *state = spin_rpc_call_state(call->rpc);
    uint32_t expected = PHASE_OPEN;
    if (call->has_left ||
        atomic_compare_exchange_strong(&state->phase, &expected, PHASE_FINISHED)) {
        finish(call, status, text);
    } else {
        call->has_ended = true;
    }
}

static void on_gone(struct spin_loop_message *message)
{
    struct spin_inference_call *call = SPIN_CONTAINER_OF(message, struct spin_inference_call, gone);
    call->has_left = true;
    if (call->has_ended) {
        finish(call, SPIN_ERR_CANCELLED, NULL);
    } else if (call->is_ready) {
        call->line->kind->left(call);
    } /* else it is being prepared: on_prepared looks */
}

/* The client's own mistakes; what is full or missing counts itself. */
void spin_inference_call_refuse(struct spin_inference_call *call, const struct spin_error *err)
{
    struct spin_metrics *metrics = parts_of(call)->metrics;
    if (err->status == SPIN_ERR_DENIED) {
        spin_metrics_add(metrics, SPIN_ROUTER_METRIC_REFUSED_KEY, 1);
    } else if (err->status == SPIN_ERR_INVALID || err->status == SPIN_ERR_LIMIT ||
               err->status == SPIN_ERR_NOT_FOUND || err->status == SPIN_ERR_UNSUPPORTED) {
        spin_metrics_add(metrics, SPIN_ROUTER_METRIC_REFUSED_INVALID, 1);
    }
    spin_inference_call_end(call, err->status, err->text);
}

static void prepare(struct spin_loop_work *work)
{
    struct spin_inference_call *call = SPIN_CONTAINER_OF(work, struct spin_inference_call, work);
    const struct spin_inference_kind *kind = call->line->kind;
    const struct spin_rpc_unpack_args args = {.type = kind->method.request,
                                              .source = call->request,
                                              .bytes_max = kind->method.request_bytes_max,
                                              .arena = call->arena};
    struct ProtobufCMessage *message = NULL;
    call->status = spin_rpc_message_unpack(&args, &message, &call->refused);
    if (call->status == SPIN_OK) {
        call->status = kind->prepare(call, message, &call->refused);
    }
}

static void on_prepared(struct spin_loop_work *work)
{
    struct spin_inference_call *call = SPIN_CONTAINER_OF(work, struct spin_inference_call, work);
    if (call->has_left) {
        spin_inference_call_end(call, SPIN_ERR_CANCELLED, NULL);
    } else if (call->status != SPIN_OK) {
        spin_inference_call_refuse(call, &call->refused);
    } else {
        call->is_ready = true;
        call->line->kind->ready(call);
    }
}

static void on_arrived(struct spin_loop_message *message)
{
    struct spin_inference_call *call =
        SPIN_CONTAINER_OF(message, struct spin_inference_call, arrived);
    const struct spin_inference_parts *parts = parts_of(call);
    struct spin_error err = {0};
    spin_metrics_add(parts->metrics, SPIN_ROUTER_METRIC_RPC_CALLS, 1);
    if (spin_tenants_find(parts->tenants, spin_rpc_call_bearer(call->rpc), &call->tenant, &err) !=
        SPIN_OK) {
        spin_inference_call_refuse(call, &err);
        return;
    }
    call->limits = spin_dispatcher_limits(parts->dispatcher);
    call->work = (struct spin_loop_work){.run = prepare, .done = on_prepared};
    if (call->request.count <= INLINE_BYTES) {
        prepare(&call->work);
        on_prepared(&call->work);
    } else if (spin_loop_work(parts->loop, &call->work) != SPIN_OK) {
        spin_inference_call_end(call, SPIN_ERR_NO_MEMORY, "no memory to read the request");
    }
}

/* --- what the methods share --- */

spin_status spin_inference_check_model(const struct spin_inference_call *call, const char *model,
                                       struct spin_error *err)
{
    const char *served = parts_of(call)->model_name;
    if (model[0] != '\0' && strcmp(model, served) != 0) {
        return spin_fail(err, SPIN_ERR_NOT_FOUND, "model: \"%.64s\" is not here, \"%.64s\" is",
                         model, served);
    }
    return SPIN_OK;
}

static spin_status read_messages(struct spin_inference_call *call, const Spin__V1__Prompt *prompt,
                                 uint32_t tokens_max, struct spin_error *err)
{
    if (prompt->n_messages > UINT32_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "prompt.messages: %zu", prompt->n_messages);
    }
    struct spin_chat_message *messages =
        spin_arena_take_zeroed(call->arena, prompt->n_messages, sizeof *messages);
    if (messages == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "prompt.messages: %zu", prompt->n_messages);
    }
    for (size_t i = 0; i < prompt->n_messages; i++) {
        messages[i] =
            (struct spin_chat_message){prompt->messages[i]->role, prompt->messages[i]->content,
                                       strlen(prompt->messages[i]->content)};
    }
    return spin_prompt_from_messages(&parts_of(call)->prompt, messages,
                                     (uint32_t)prompt->n_messages, tokens_max, &call->made.prompt,
                                     err);
}

spin_status spin_inference_read_prompt(struct spin_inference_call *call,
                                       const Spin__V1__Prompt *prompt, uint32_t tokens_max,
                                       struct spin_error *err)
{
    const bool has_text = prompt != NULL && (prompt->plain_text || prompt->text[0] != '\0');
    const bool has_tokens = prompt != NULL && prompt->n_tokens > 0;
    const bool has_messages = prompt != NULL && prompt->n_messages > 0;
    const int given = (int)has_text + (int)has_tokens + (int)has_messages;
    if (given != 1) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "prompt: %d of text, tokens and messages are given, must be one", given);
    }
    const struct spin_prompt_model *model = &parts_of(call)->prompt;
    if (has_messages) {
        return read_messages(call, prompt, tokens_max, err);
    }
    if (has_tokens) {
        return spin_prompt_from_tokens(model, prompt->tokens, prompt->n_tokens, tokens_max,
                                       &call->made.prompt, err);
    }
    return spin_prompt_from_text(model, prompt->text, strlen(prompt->text), tokens_max,
                                 &call->made.prompt, err);
}
