#include "worker/service/generate_request.h"

#include "base/assert.h"
#include "kvstore/block/key.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static spin_status check_real(const char *field, double value, double min, double max,
                              struct spin_error *err)
{
    if (!(value >= min && value <= max)) { /* NaN is in no range */
        return spin_fail(err, SPIN_ERR_INVALID, "%s: %g, must be in %g..%g", field, value, min,
                         max);
    }
    return SPIN_OK;
}

static spin_status check_tokens(const char *field, const int32_t *tokens, uint64_t count,
                                uint32_t vocab, struct spin_error *err)
{
    for (uint64_t i = 0; i < count; i++) {
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= vocab) {
            return spin_fail(err, SPIN_ERR_INVALID,
                             "%s[%" PRIu64 "]: token %d, the vocabulary is 0..%u", field, i,
                             tokens[i], vocab - 1);
        }
    }
    return SPIN_OK;
}

static spin_status read_id(const char *id, struct spin_request *out, struct spin_error *err)
{
    const uint64_t bytes = strlen(id);
    if (bytes >= SPIN_REQUEST_ID_BYTES) {
        return spin_fail(err, SPIN_ERR_INVALID, "request_id: %" PRIu64 " bytes, at most %u", bytes,
                         SPIN_REQUEST_ID_BYTES - 1);
    }
    for (uint64_t i = 0; i < bytes; i++) {
        if (id[i] <= ' ' || id[i] > '~') { /* it goes into log lines */
            return spin_fail(err, SPIN_ERR_INVALID,
                             "request_id: byte %" PRIu64 " is not printable ASCII", i);
        }
    }
    memcpy(out->id, id, bytes + 1);
    return SPIN_OK;
}

static spin_status read_prompt(const Spin__V1__GenerateRequest *message, uint32_t vocab,
                               struct spin_request *out, struct spin_error *err)
{
    if (message->n_prompt_tokens == 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "prompt_tokens: empty, at least 1 token");
    }
    SPIN_TRY(check_tokens("prompt_tokens", message->prompt_tokens, message->n_prompt_tokens, vocab,
                          err));
    SPIN_TRY(check_tokens("resumed_tokens", message->resumed_tokens, message->n_resumed_tokens,
                          vocab, err));
    /* A message is at most 16 MiB: its counts fit. */
    SPIN_ASSERT_LE(message->n_prompt_tokens + message->n_resumed_tokens, UINT32_MAX);
    out->prompt = message->prompt_tokens;
    out->prompt_count = (uint32_t)message->n_prompt_tokens;
    out->resumed = message->resumed_tokens;
    out->resumed_count = (uint32_t)message->n_resumed_tokens;
    return SPIN_OK;
}

static spin_status check_sampling(const Spin__V1__Sampling *sampling, struct spin_error *err)
{
    const struct {
        const char *field;
        double value;
        double min;
        double max;
    } rows[] = {
        {"temperature", (double)sampling->temperature, 0, SPIN_TEMPERATURE_MAX},
        {"top_p", (double)sampling->top_p, 0, 1},
        {"min_p", (double)sampling->min_p, 0, 1},
        {"presence_penalty", (double)sampling->presence_penalty, -SPIN_PENALTY_ABS_MAX,
         SPIN_PENALTY_ABS_MAX},
        {"frequency_penalty", (double)sampling->frequency_penalty, -SPIN_PENALTY_ABS_MAX,
         SPIN_PENALTY_ABS_MAX},
        {"repetition_penalty", (double)sampling->repetition_penalty, 0,
         SPIN_REPETITION_PENALTY_MAX},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        SPIN_TRY(check_real(rows[i].field, rows[i].value, rows[i].min, rows[i].max, err));
    }
    if (sampling->top_logprobs > SPIN_TOP_LOGPROBS_MAX) {
        return spin_fail(err, SPIN_ERR_INVALID, "top_logprobs: %u, at most %u",
                         sampling->top_logprobs, SPIN_TOP_LOGPROBS_MAX);
    }
    if (sampling->max_tokens == 0 && !sampling->prompt_logprobs) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "max_tokens: 0 only together with prompt_logprobs, else at least 1");
    }
    if (sampling->min_tokens > sampling->max_tokens) {
        return spin_fail(err, SPIN_ERR_INVALID, "min_tokens: %u, at most max_tokens, which is %u",
                         sampling->min_tokens, sampling->max_tokens);
    }
    return SPIN_OK;
}

static spin_status read_bias(const Spin__V1__Sampling *sampling, uint32_t vocab,
                             struct spin_generate_request *out, struct spin_error *err)
{
    if (sampling->n_logit_bias > SPIN_LOGIT_BIAS_MAX) {
        return spin_fail(err, SPIN_ERR_INVALID, "logit_bias: %zu entries, at most %u",
                         sampling->n_logit_bias, SPIN_LOGIT_BIAS_MAX);
    }
    for (size_t i = 0; i < sampling->n_logit_bias; i++) {
        const Spin__V1__LogitBias *entry = sampling->logit_bias[i];
        SPIN_TRY(check_tokens("logit_bias.token", &entry->token, 1, vocab, err));
        SPIN_TRY(check_real("logit_bias.bias", (double)entry->bias, -SPIN_LOGIT_BIAS_ABS_MAX,
                            SPIN_LOGIT_BIAS_ABS_MAX, err));
        out->logit_bias[i] = (struct spin_logit_bias){entry->token, entry->bias};
    }
    out->request.sampling.logit_bias = out->logit_bias;
    out->request.sampling.logit_bias_count = (uint32_t)sampling->n_logit_bias;
    return SPIN_OK;
}

static spin_status read_stops(const Spin__V1__Sampling *sampling,
                              const struct spin_generate_limits *limits,
                              struct spin_generate_request *out, struct spin_error *err)
{
    const uint32_t own = sampling->ignore_eos ? 0 : limits->end_token_count;
    SPIN_ASSERT_LE(own, SPIN_STOP_TOKENS_MAX);
    if (sampling->n_stop_token_ids > SPIN_STOP_TOKENS_MAX - own) {
        return spin_fail(err, SPIN_ERR_INVALID, "stop_token_ids: %zu tokens, at most %u",
                         sampling->n_stop_token_ids, SPIN_STOP_TOKENS_MAX - own);
    }
    SPIN_TRY(check_tokens("stop_token_ids", sampling->stop_token_ids, sampling->n_stop_token_ids,
                          limits->vocab, err));
    uint32_t count = 0;
    for (; count < own; count++) {
        out->stop_tokens[count] = limits->end_tokens[count];
    }
    for (size_t i = 0; i < sampling->n_stop_token_ids; i++) {
        out->stop_tokens[count++] = sampling->stop_token_ids[i];
    }
    out->request.stop_tokens = out->stop_tokens;
    out->request.stop_token_count = count;
    return SPIN_OK;
}

static spin_status read_sampling(const Spin__V1__Sampling *sampling,
                                 const struct spin_generate_limits *limits,
                                 struct spin_generate_request *out, struct spin_error *err)
{
    if (sampling == NULL) {
        return spin_fail(err, SPIN_ERR_INVALID, "sampling: missing; a worker has no defaults");
    }
    SPIN_TRY(check_sampling(sampling, err));
    out->request.sampling = (struct spin_sampling){
        .temperature = sampling->temperature,
        .top_p = sampling->top_p == 0 ? 1 : sampling->top_p, /* on the wire 0 is off */
        .top_k = sampling->top_k,
        .min_p = sampling->min_p,
        .presence_penalty = sampling->presence_penalty,
        .frequency_penalty = sampling->frequency_penalty,
        .repetition_penalty = sampling->repetition_penalty == 0 ? 1 : sampling->repetition_penalty,
        .seed = sampling->seed};
    SPIN_TRY(read_bias(sampling, limits->vocab, out, err));
    SPIN_TRY(read_stops(sampling, limits, out, err));
    out->request.max_tokens = sampling->max_tokens;
    out->request.min_tokens = sampling->min_tokens;
    out->request.logprobs = sampling->logprobs;
    out->request.top_logprobs = sampling->top_logprobs;
    out->request.prompt_logprobs = sampling->prompt_logprobs;
    return SPIN_OK;
}

/* A sequence's tokens depend on its algorithm (D1), so only the very same is as good as none. */
static bool is_own_algorithm(const Spin__V1__Algorithm *asked,
                             const struct spin_sparse_options *own)
{
    if (strcmp(asked->name, own->algorithm->name) != 0 ||
        (asked->page_tokens != 0 && asked->page_tokens != own->algorithm->page_tokens)) {
        return false;
    }
    return own->algorithm->summary == SPIN_SUMMARY_NONE || /* the rest says how to be sparse */
           (asked->budget_tokens == own->budget_tokens && asked->min_context == own->min_context);
}

static spin_status check_algorithm(const Spin__V1__Algorithm *asked,
                                   const struct spin_sparse_options *own, struct spin_error *err)
{
    if (asked == NULL) {
        return SPIN_OK;
    }
    if (asked->name[0] == '\0') {
        return asked->budget_tokens == 0 && asked->min_context == 0 && asked->page_tokens == 0
                   ? SPIN_OK
                   : spin_fail(err, SPIN_ERR_INVALID, "algorithm.name: empty, but not the rest");
    }
    if (is_own_algorithm(asked, own)) {
        return SPIN_OK;
    }
    return spin_fail(err, SPIN_ERR_PEER_MISMATCH,
                     "algorithm: \"%.32s\" with budget_tokens %u, min_context %u, page_tokens %u; "
                     "this worker runs \"%s\" with %u, %u, %u",
                     asked->name, asked->budget_tokens, asked->min_context, asked->page_tokens,
                     own->algorithm->name, own->budget_tokens, own->min_context,
                     own->algorithm->page_tokens);
}

/* What a later worker will do; today it is refused, never ignored. */
static spin_status check_supported(const Spin__V1__GenerateRequest *message, struct spin_error *err)
{
    if (message->prefill_peer != NULL) {
        return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                         "prefill_peer: this worker prefills its prompts itself");
    }
    if (message->salt.len != 0 && message->salt.len != SPIN_SALT_BYTES) {
        return spin_fail(err, SPIN_ERR_INVALID, "salt: %zu bytes, must be 0 or %u",
                         message->salt.len, SPIN_SALT_BYTES);
    }
    return SPIN_OK;
}

spin_status spin_generate_request_read(const Spin__V1__GenerateRequest *message,
                                       const struct spin_generate_limits *limits,
                                       struct spin_generate_request *out, struct spin_error *err)
{
    memset(&out->request, 0, sizeof out->request);
    SPIN_TRY(read_id(message->request_id, &out->request, err));
    SPIN_TRY(check_supported(message, err));
    SPIN_TRY(check_algorithm(message->algorithm, &limits->sparse, err));
    SPIN_TRY(read_prompt(message, limits->vocab, &out->request, err));
    return read_sampling(message->sampling, limits, out, err);
}
