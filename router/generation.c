#include "router/generation.h"

#include "base/assert.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>

/* A worker's limits (worker/engine/request.h), which is behind another door. */
#define TEMPERATURE_MAX 100.0
#define PENALTY_ABS_MAX 2.0
#define REPETITION_PENALTY_MAX 10.0
#define LOGIT_BIAS_ABS_MAX 100.0

static spin_status check_real(const char *field, double value, double min, double max,
                              struct spin_error *err)
{
    if (!(value >= min && value <= max)) { /* NaN is in no range */
        return spin_fail(err, SPIN_ERR_INVALID, "%s: %g, must be in %g..%g", field, value, min,
                         max);
    }
    return SPIN_OK;
}

static spin_status check_count(const char *field, uint64_t count, uint32_t max,
                               struct spin_error *err)
{
    if (count > max) {
        return spin_fail(err, SPIN_ERR_INVALID, "%s: %" PRIu64 " entries, at most %u", field, count,
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

static spin_status check_id(const char *id, struct spin_error *err)
{
    const uint64_t bytes = strlen(id);
    if (bytes == 0 || bytes >= SPIN_GENERATION_ID_BYTES) {
        return spin_fail(err, SPIN_ERR_INVALID, "request_id: %" PRIu64 " bytes, must be 1..%u",
                         bytes, SPIN_GENERATION_ID_BYTES - 1);
    }
    for (uint64_t i = 0; i < bytes; i++) {
        if (id[i] <= ' ' || id[i] > '~') { /* it goes into log lines */
            return spin_fail(err, SPIN_ERR_INVALID,
                             "request_id: byte %" PRIu64 " is not printable ASCII", i);
        }
    }
    return SPIN_OK;
}

static spin_status check_reals(const Spin__V1__Sampling *sampling, struct spin_error *err)
{
    const struct {
        const char *field;
        double value;
        double min;
        double max;
    } rows[] = {
        {"temperature", (double)sampling->temperature, 0, TEMPERATURE_MAX},
        {"top_p", (double)sampling->top_p, 0, 1},
        {"min_p", (double)sampling->min_p, 0, 1},
        {"presence_penalty", (double)sampling->presence_penalty, -PENALTY_ABS_MAX, PENALTY_ABS_MAX},
        {"frequency_penalty", (double)sampling->frequency_penalty, -PENALTY_ABS_MAX,
         PENALTY_ABS_MAX},
        {"repetition_penalty", (double)sampling->repetition_penalty, 0, REPETITION_PENALTY_MAX},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        SPIN_TRY(check_real(rows[i].field, rows[i].value, rows[i].min, rows[i].max, err));
    }
    return SPIN_OK;
}

static spin_status check_counts(const Spin__V1__Sampling *sampling, struct spin_error *err)
{
    if (sampling->top_logprobs > SPIN_TOP_LOGPROBS_LIMIT) {
        return spin_fail(err, SPIN_ERR_INVALID, "top_logprobs: %u, must be in 0..%u",
                         sampling->top_logprobs, SPIN_TOP_LOGPROBS_LIMIT);
    }
    if (sampling->top_logprobs != 0 && !sampling->logprobs && !sampling->prompt_logprobs) {
        return spin_fail(err, SPIN_ERR_INVALID, "top_logprobs: %u, but logprobs is off",
                         sampling->top_logprobs);
    }
    if (sampling->max_tokens == 0 && !sampling->prompt_logprobs) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "max_tokens: 0, must be at least 1 unless the prompt is to be scored");
    }
    if (sampling->min_tokens > sampling->max_tokens) {
        return spin_fail(err, SPIN_ERR_INVALID, "min_tokens: %u, at most max_tokens, which is %u",
                         sampling->min_tokens, sampling->max_tokens);
    }
    return SPIN_OK;
}

static spin_status check_biases(const Spin__V1__Sampling *sampling, uint32_t vocab,
                                struct spin_error *err)
{
    SPIN_TRY(check_count("logit_bias", sampling->n_logit_bias, SPIN_LOGIT_BIASES_MAX, err));
    for (size_t i = 0; i < sampling->n_logit_bias; i++) {
        const Spin__V1__LogitBias *entry = sampling->logit_bias[i];
        if (entry->token < 0 || (uint32_t)entry->token >= vocab) {
            return spin_fail(err, SPIN_ERR_INVALID, "logit_bias: token %d, the vocabulary is 0..%u",
                             entry->token, vocab - 1);
        }
        SPIN_TRY(check_real("logit_bias", (double)entry->bias, -LOGIT_BIAS_ABS_MAX,
                            LOGIT_BIAS_ABS_MAX, err));
    }
    return SPIN_OK;
}

static spin_status check_stops(const struct spin_generation_request *request, uint32_t vocab,
                               struct spin_error *err)
{
    const Spin__V1__Sampling *sampling = request->sampling;
    SPIN_TRY(check_count("stop", request->stop.count, SPIN_STOP_STRINGS_MAX, err));
    for (uint32_t i = 0; i < request->stop.count; i++) {
        const uint64_t bytes = strlen(request->stop.texts[i]);
        if (bytes == 0 || bytes > SPIN_STOP_STRING_BYTES_MAX) {
            return spin_fail(err, SPIN_ERR_INVALID, "stop[%u]: %" PRIu64 " bytes, must be 1..%u", i,
                             bytes, SPIN_STOP_STRING_BYTES_MAX);
        }
    }
    SPIN_TRY(
        check_count("stop_token_ids", sampling->n_stop_token_ids, SPIN_STOP_TOKEN_IDS_MAX, err));
    return check_tokens("stop_token_ids", sampling->stop_token_ids, sampling->n_stop_token_ids,
                        vocab, err);
}

static spin_status check_length(const struct spin_generation_request *request, uint32_t limit,
                                struct spin_error *err)
{
    const uint32_t max_tokens = request->sampling->max_tokens;
    /* Clients know this error by its words: "maximum context length is". */
    if (request->prompt_count > limit || max_tokens > limit - request->prompt_count) {
        return spin_fail(err, SPIN_ERR_LIMIT,
                         "max_tokens: %u, with a prompt of %u tokens that is %" PRIu64
                         "; this model's maximum context length is %u tokens",
                         max_tokens, request->prompt_count,
                         (uint64_t)request->prompt_count + max_tokens, limit);
    }
    return SPIN_OK;
}

spin_status spin_generation_check(const struct spin_generation_request *request,
                                  const struct spin_generation_limits *limits,
                                  struct spin_error *err)
{
    SPIN_ASSERT(request->sampling != NULL);
    SPIN_ASSERT_GT(limits->vocab, 0);
    SPIN_TRY(check_id(request->id, err));
    if (request->prompt_count == 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "prompt: empty, at least 1 token");
    }
    SPIN_TRY(check_reals(request->sampling, err));
    SPIN_TRY(check_counts(request->sampling, err));
    SPIN_TRY(check_length(request, limits->max_model_len, err));
    SPIN_TRY(check_biases(request->sampling, limits->vocab, err));
    SPIN_TRY(check_stops(request, limits->vocab, err));
    return check_tokens("prompt", request->prompt, request->prompt_count, limits->vocab, err);
}

uint64_t spin_generation_draw_seed(void)
{
    uint64_t seed = 0;
    while (seed == 0) {
        const ssize_t got = getrandom(&seed, sizeof seed, 0);
        if (got < 0) {
            SPIN_ASSERT_EQ(errno, EINTR); /* nothing else can fail for eight bytes */
            seed = 0;
        }
    }
    return seed;
}
