/* Generate: one prompt, n generations, their deltas into one stream of answers. */
#include "base/assert.h"
#include "router/grpc/inference_internal.h"
#include "router/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALLS_MAX 8192u /* 5,000 idle streams and some; what they ask for has the queue's limits */
/* A packed token takes at least one byte on the wire and four in memory; the rest is small. */
#define ARENA_BYTES (4 * SPIN_RPC_GENERATE_BYTES_MAX + (UINT64_C(1) << 20))

struct spin_inference_answers {
    uint32_t count;
    uint32_t open; /* submitted and not ended */
    bool logprobs;
    bool id_sent;
    char request_id[SPIN_GENERATION_ID_BYTES];
    struct spin_inference_answer list[];
};

/* --- prepare --- */

static spin_status read_stop(const Spin__V1__InferenceRequest *message,
                             struct spin_stop_strings *out, struct spin_error *err)
{
    if (message->n_stop > SPIN_STOP_STRINGS_MAX) {
        return spin_fail(err, SPIN_ERR_INVALID, "stop: %zu strings, at most %u are allowed",
                         message->n_stop, SPIN_STOP_STRINGS_MAX);
    }
    for (size_t i = 0; i < message->n_stop; i++) {
        out->texts[i] = message->stop[i];
    }
    out->count = (uint32_t)message->n_stop;
    return SPIN_OK;
}

/* Every value final, as the dispatcher wants it. */
static spin_status read_sampling(struct spin_inference_call *call,
                                 const Spin__V1__InferenceRequest *message, struct spin_error *err)
{
    Spin__V1__Sampling *sampling = &call->made.sampling;
    spin__v1__sampling__init(sampling);
    if (message->sampling != NULL) {
        *sampling = *message->sampling;
    }
    if (sampling->seed == 0) {
        sampling->seed = spin_generation_draw_seed();
    }
    if (message->score_only) {
        if (!sampling->prompt_logprobs || sampling->max_tokens != 0) {
            return spin_fail(err, SPIN_ERR_INVALID,
                             "score_only: needs sampling.prompt_logprobs, and max_tokens 0");
        }
        return SPIN_OK;
    }
    if (sampling->max_tokens == 0) {
        const uint32_t limit = call->limits.max_model_len;
        if (call->made.prompt.count >= limit) {
            return spin_fail(err, SPIN_ERR_LIMIT,
                             "prompt: %u tokens leave no room for an answer; the model's limit is "
                             "%u (max_model_len)",
                             call->made.prompt.count, limit);
        }
        sampling->max_tokens = limit - call->made.prompt.count;
    }
    return SPIN_OK;
}

static spin_status prepare(struct spin_inference_call *call, const struct ProtobufCMessage *base,
                           struct spin_error *err)
{
    const Spin__V1__InferenceRequest *message = (const Spin__V1__InferenceRequest *)base;
    struct spin_inference_made *made = &call->made;
    SPIN_TRY(spin_inference_check_model(call, message->model, err));
    made->n = message->n == 0 ? 1 : message->n;
    if (made->n > SPIN_GENERATIONS_MAX) {
        return spin_fail(err, SPIN_ERR_INVALID, "n: %u, must be in 1..%u", made->n,
                         SPIN_GENERATIONS_MAX);
    }
    if (call->limits.max_model_len == 0) {
        spin_metrics_add(call->line->inference->parts.metrics, SPIN_ROUTER_METRIC_REFUSED_NO_WORKER,
                         1);
        return spin_fail(err, SPIN_ERR_AGAIN, "no worker has joined yet");
    }
    SPIN_TRY(spin_inference_read_prompt(call, message->prompt, call->limits.max_model_len, err));
    SPIN_TRY(read_sampling(call, message, err));
    SPIN_TRY(read_stop(message, &made->generation.stop, err));
    made->generation.id = message->request_id;
    made->generation.prompt = made->prompt.tokens;
    made->generation.prompt_count = made->prompt.count;
    made->generation.sampling = &made->sampling;
    made->generation.return_tokens = message->return_tokens || made->sampling.logprobs;
    made->generation.deadline_ns = spin_rpc_call_deadline_ns(call->rpc);
    return SPIN_OK;
}

/* --- while it runs --- */

static void cancel_open(struct spin_inference_call *call)
{
    struct spin_dispatcher *dispatcher = call->line->inference->parts.dispatcher;
    for (uint32_t i = 0; i < call->answers->count; i++) {
        struct spin_inference_answer *answer = &call->answers->list[i];
        if (answer->generation != NULL) {
            spin_dispatcher_cancel(dispatcher, answer->generation);
            answer->generation = NULL;
        }
    }
}

/* The id goes with the first message: before that, the call has not begun for its client, who may
 * ask again. */
static const char *take_id(struct spin_inference_answers *answers)
{
    const char *id = answers->id_sent ? NULL : answers->request_id;
    answers->id_sent = true;
    return id;
}

static void on_delta(void *context, const struct spin_generation_delta *delta)
{
    const struct spin_inference_answer *answer = context;
    struct spin_inference_answers *answers = answer->call->answers;
    spin_inference_send_delta(answer, take_id(answers), answers->logprobs, delta);
}

static void on_ended(void *context, const struct spin_generation_end *end)
{
    struct spin_inference_answer *answer = context;
    struct spin_inference_call *call = answer->call;
    struct spin_inference_answers *answers = call->answers;
    SPIN_ASSERT_GT(answers->open, 0);
    answer->generation = NULL;
    answers->open--;
    if (end->status != SPIN_OK) {
        cancel_open(call);
        spin_inference_call_end(call, end->status, end->text);
        return;
    }
    spin_inference_send_ending(answer, take_id(answers), end);
    if (answers->open == 0) {
        spin_inference_call_end(call, SPIN_OK, NULL);
    }
}

static void left(struct spin_inference_call *call)
{
    cancel_open(call);
    spin_inference_call_end(call, SPIN_ERR_CANCELLED, NULL);
}

/* --- ready --- */

static spin_status create_answers(struct spin_inference_call *call, struct spin_error *err)
{
    const struct spin_inference_made *made = &call->made;
    struct spin_inference_answers *answers =
        calloc(1, sizeof *answers + made->n * sizeof answers->list[0]);
    if (answers == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "n: no memory for %u answers", made->n);
    }
    answers->count = made->n;
    answers->logprobs = made->sampling.logprobs;
    if (made->generation.id[0] == '\0') {
        (void)snprintf(answers->request_id, sizeof answers->request_id, "gen-%016" PRIx64,
                       spin_generation_draw_seed());
    } else { /* one that is too long is refused at submit */
        (void)snprintf(answers->request_id, sizeof answers->request_id, "%s", made->generation.id);
    }
    for (uint32_t i = 0; i < made->n; i++) {
        answers->list[i] = (struct spin_inference_answer){.call = call, .index = i};
    }
    call->answers = answers;
    return SPIN_OK;
}

/* Answer i draws with seed + i; in logs it is "id-i", the first one "id". */
static spin_status submit(struct spin_inference_call *call, struct spin_inference_answer *answer,
                          struct spin_error *err)
{
    Spin__V1__Sampling sampling = call->made.sampling;
    struct spin_generation_request request = call->made.generation;
    char id[SPIN_GENERATION_ID_BYTES + 16];
    sampling.seed += answer->index;
    request.sampling = &sampling;
    request.tenant = call->tenant;
    request.sink = (struct spin_generation_sink){answer, on_delta, on_ended};
    if (answer->index > 0) {
        static_assert(SPIN_GENERATIONS_MAX <= 1000, "a dash and three digits");
        (void)snprintf(id, sizeof id, "%.59s-%u", call->answers->request_id, answer->index);
        request.id = id;
    } else if (request.id[0] == '\0') {
        request.id = call->answers->request_id;
    }
    return spin_dispatcher_submit(call->line->inference->parts.dispatcher, &request,
                                  &answer->generation, err);
}

static void ready(struct spin_inference_call *call)
{
    struct spin_error err = {0};
    if (create_answers(call, &err) != SPIN_OK) {
        spin_inference_call_end(call, err.status, err.text);
        return;
    }
    struct spin_inference_answers *answers = call->answers;
    for (uint32_t i = 0; i < answers->count; i++) {
        if (submit(call, &answers->list[i], &err) != SPIN_OK) {
            answers->list[i].generation = NULL;
            cancel_open(call);
            spin_inference_call_refuse(call, &err);
            return;
        }
        answers->open++;
    }
    spin_inference_call_forget(call);
}

const struct spin_inference_kind spin_inference_generate = {
    .method = {.path = "/spin.v1.Inference/Generate",
               .request = &spin__v1__inference_request__descriptor,
               .request_bytes_max = SPIN_RPC_GENERATE_BYTES_MAX,
               .arena_bytes_max = ARENA_BYTES,
               .outbox_bytes = SPIN_RPC_MESSAGE_BYTES_MAX,
               .calls_max = CALLS_MAX,
               .merge = true}, /* deltas append; the id comes once */
    .prepare = prepare,
    .ready = ready,
    .left = left,
};
