#include "base/arena.h"
#include "client/spin_client_internal.h"

#include <string.h>

/* protobuf-c's fields are not const; packing, which is all that happens to them, only reads. */
#define BORROW(target, source) memcpy(&(target), &(source), sizeof(target))

static spin_status no_memory(const char *field, uint32_t count, struct spin_error *err)
{
    return spin_fail(err, SPIN_ERR_NO_MEMORY, "%s: no memory for %u", field, count);
}

static spin_status fill_messages(const struct spin_client_request *request,
                                 struct spin_arena *arena, Spin__V1__Prompt *prompt,
                                 struct spin_error *err)
{
    const uint32_t count = request->message_count;
    Spin__V1__ChatMessage *messages = spin_arena_take_zeroed(arena, count, sizeof *messages);
    prompt->messages = spin_arena_take_zeroed(arena, count, sizeof(void *));
    if (messages == NULL || prompt->messages == NULL) {
        return no_memory("messages", count, err);
    }
    for (uint32_t i = 0; i < count; i++) {
        const struct spin_client_message *message = &request->messages[i];
        if (message->role == NULL || message->content == NULL) {
            return spin_fail(err, SPIN_ERR_INVALID, "messages[%u].%s: NULL", i,
                             message->role == NULL ? "role" : "content");
        }
        spin__v1__chat_message__init(&messages[i]);
        BORROW(messages[i].role, message->role);
        BORROW(messages[i].content, message->content);
        prompt->messages[i] = &messages[i];
    }
    prompt->n_messages = count;
    return SPIN_OK;
}

static spin_status fill_prompt(const struct spin_client_request *request, struct spin_arena *arena,
                               Spin__V1__Prompt *prompt, struct spin_error *err)
{
    const int given = (int)(request->text != NULL) + (int)(request->messages != NULL) +
                      (int)(request->tokens != NULL);
    if (given != 1) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "request: %d of text, messages and tokens are set, must be one", given);
    }
    if (request->messages != NULL) {
        return fill_messages(request, arena, prompt, err);
    }
    if (request->text != NULL) {
        BORROW(prompt->text, request->text);
        prompt->plain_text = true;
    } else {
        BORROW(prompt->tokens, request->tokens);
        prompt->n_tokens = request->token_count;
    }
    return SPIN_OK;
}

static spin_status fill_biases(const struct spin_client_request *request, struct spin_arena *arena,
                               Spin__V1__Sampling *sampling, struct spin_error *err)
{
    const uint32_t count = request->logit_bias_count;
    Spin__V1__LogitBias *biases = spin_arena_take_zeroed(arena, count, sizeof *biases);
    sampling->logit_bias = spin_arena_take_zeroed(arena, count, sizeof(void *));
    if (biases == NULL || sampling->logit_bias == NULL) {
        return no_memory("logit_bias", count, err);
    }
    for (uint32_t i = 0; i < count; i++) {
        spin__v1__logit_bias__init(&biases[i]);
        biases[i].token = request->logit_bias[i].token;
        biases[i].bias = request->logit_bias[i].bias;
        sampling->logit_bias[i] = &biases[i];
    }
    sampling->n_logit_bias = count;
    return SPIN_OK;
}

static spin_status fill_sampling(const struct spin_client_request *request,
                                 struct spin_arena *arena, Spin__V1__Sampling *sampling,
                                 struct spin_error *err)
{
    sampling->temperature = request->temperature;
    sampling->top_p = request->top_p;
    sampling->top_k = request->top_k;
    sampling->min_p = request->min_p;
    sampling->presence_penalty = request->presence_penalty;
    sampling->frequency_penalty = request->frequency_penalty;
    sampling->repetition_penalty = request->repetition_penalty;
    sampling->seed = request->seed;
    sampling->max_tokens = request->max_tokens;
    sampling->min_tokens = request->min_tokens;
    sampling->ignore_eos = request->ignore_eos;
    sampling->logprobs = request->logprobs;
    sampling->top_logprobs = request->top_logprobs;
    sampling->prompt_logprobs = request->prompt_logprobs;
    BORROW(sampling->stop_token_ids, request->stop_token_ids);
    sampling->n_stop_token_ids = request->stop_token_id_count;
    return fill_biases(request, arena, sampling, err);
}

spin_status spin_client_request_fill(const struct spin_client_request *request,
                                     struct spin_arena *arena, Spin__V1__InferenceRequest *out,
                                     struct spin_error *err)
{
    spin__v1__inference_request__init(out);
    out->prompt = spin_arena_take(arena, sizeof *out->prompt);
    out->sampling = spin_arena_take(arena, sizeof *out->sampling);
    if (out->prompt == NULL || out->sampling == NULL) {
        return no_memory("request", 1, err);
    }
    spin__v1__prompt__init(out->prompt);
    spin__v1__sampling__init(out->sampling);
    SPIN_TRY(fill_prompt(request, arena, out->prompt, err));
    SPIN_TRY(fill_sampling(request, arena, out->sampling, err));
    for (uint32_t i = 0; i < request->stop_count; i++) {
        if (request->stop[i] == NULL) {
            return spin_fail(err, SPIN_ERR_INVALID, "stop[%u]: NULL", i);
        }
    }
    BORROW(out->stop, request->stop);
    out->n_stop = request->stop_count;
    out->n = request->n;
    out->score_only = request->score_only;
    out->return_tokens = request->return_tokens;
    if (request->model != NULL) {
        BORROW(out->model, request->model);
    }
    if (request->request_id != NULL) {
        BORROW(out->request_id, request->request_id);
    }
    return SPIN_OK;
}
