/* The caller's side of the engine: a request is checked and copied on the thread that brings it. */
#include "base/assert.h"
#include "worker/engine/engine_internal.h"

#include <inttypes.h>
#include <string.h>

static spin_status check_tokens(const struct spin_engine *engine, const char *field,
                                const int32_t *tokens, uint32_t count, struct spin_error *err)
{
    const uint32_t vocab = engine->model->config.vocab;
    for (uint32_t i = 0; i < count; i++) {
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= vocab) {
            return spin_fail(err, SPIN_ERR_INVALID, "%s token %d at %u: must be 0 to %u", field,
                             tokens[i], i, vocab - 1);
        }
    }
    return SPIN_OK;
}

static spin_status check_lengths(const struct spin_engine *engine,
                                 const struct spin_request *request, struct spin_error *err)
{
    const uint32_t limit = engine->config.max_model_len;
    if (request->prompt_count == 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "prompt: 0 tokens; at least 1");
    }
    if (request->max_tokens == 0 && !request->prompt_logprobs) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "max_tokens 0: at least 1, unless prompt_logprobs asks for the prompt's");
    }
    if (request->prompt_count > limit || request->max_tokens > limit - request->prompt_count) {
        return spin_fail(err, SPIN_ERR_LIMIT,
                         "prompt of %u tokens and max_tokens %u: together %" PRIu64
                         "; max_model_len is %u: shorten the prompt or ask for fewer tokens",
                         request->prompt_count, request->max_tokens,
                         (uint64_t)request->prompt_count + request->max_tokens, limit);
    }
    if (request->resumed_count > request->max_tokens) {
        return spin_fail(err, SPIN_ERR_INVALID, "resumed: %u tokens; max_tokens is %u",
                         request->resumed_count, request->max_tokens);
    }
    if (request->min_tokens > request->max_tokens) {
        return spin_fail(err, SPIN_ERR_INVALID, "min_tokens %u: max_tokens is %u",
                         request->min_tokens, request->max_tokens);
    }
    return SPIN_OK;
}

static spin_status check_request(const struct spin_engine *engine,
                                 const struct spin_request *request, struct spin_error *err)
{
    SPIN_ASSERT(request->sink.token != NULL);
    SPIN_ASSERT(request->sink.finished != NULL);
    SPIN_ASSERT(request->sink.prompt_token != NULL || !request->prompt_logprobs);
    if (memchr(request->id, '\0', sizeof request->id) == NULL) {
        return spin_fail(err, SPIN_ERR_LIMIT, "request id: at most %u bytes",
                         SPIN_REQUEST_ID_BYTES - 1);
    }
    SPIN_TRY(check_lengths(engine, request, err));
    if (request->stop_token_count > SPIN_STOP_TOKENS_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "stop_tokens: %u; at most %u",
                         request->stop_token_count, SPIN_STOP_TOKENS_MAX);
    }
    if (request->top_logprobs > SPIN_TOP_LOGPROBS_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "top_logprobs %u: at most %u", request->top_logprobs,
                         SPIN_TOP_LOGPROBS_MAX);
    }
    SPIN_TRY(check_tokens(engine, "prompt", request->prompt, request->prompt_count, err));
    SPIN_TRY(check_tokens(engine, "resumed", request->resumed, request->resumed_count, err));
    SPIN_TRY(
        check_tokens(engine, "stop_tokens", request->stop_tokens, request->stop_token_count, err));
    return spin_sampling_check(&request->sampling, engine->model->config.vocab, err);
}

static void copy_tokens(int32_t *target, const int32_t *source, uint32_t count)
{
    if (count > 0) { /* memcpy must not see NULL */
        memcpy(target, source, count * sizeof *target);
    }
}

static void fill_job(struct spin_engine *engine, struct spin_job *job,
                     const struct spin_request *request, uint64_t ticket)
{
    job->ticket = ticket;
    job->request = *request;
    job->tokens = engine->tokens + (uint64_t)spin_job_index(job) * engine->config.max_model_len;
    copy_tokens(job->tokens, request->prompt, request->prompt_count);
    copy_tokens(job->tokens + request->prompt_count, request->resumed, request->resumed_count);
    job->known_tokens = request->prompt_count + request->resumed_count;
    copy_tokens(job->stop_tokens, request->stop_tokens, request->stop_token_count);
    for (uint32_t i = 0; i < request->sampling.logit_bias_count; i++) {
        job->logit_bias[i] = request->sampling.logit_bias[i];
    }
    job->request.prompt = NULL;
    job->request.resumed = NULL;
    job->request.stop_tokens = job->stop_tokens;
    job->request.sampling.logit_bias = job->logit_bias;
    job->prompt_told = 0;
    job->drawn = 0;
    job->order = 0;
    job->admitted = false;
    job->opened = false;
    job->prefilled = false;
    job->preemptions = 0;
    job->submitted_ns = spin_now_ns(engine->clock);
    job->admitted_ns = 0;
    job->prefilled_ns = 0;
    job->token_ns = 0;
    job->first_token_ns = 0;
    job->stop_token = -1;
    job->status = SPIN_OK;
}

static spin_status refuse(const struct spin_engine *engine, spin_status status,
                          struct spin_error *err)
{
    if (status == SPIN_ERR_EXHAUSTED) {
        return spin_fail(err, status,
                         "queue full: %u requests wait (max_waiting); retry later or elsewhere",
                         engine->config.max_waiting);
    }
    if (status == SPIN_ERR_SHUTDOWN) {
        return spin_fail(err, status, "engine is shutting down");
    }
    return spin_fail(err, status, "engine has stopped: %s", spin_status_text(status));
}

spin_status spin_engine_submit(struct spin_engine *engine, const struct spin_request *request,
                               uint64_t *out_ticket, struct spin_error *err)
{
    spin_status status = check_request(engine, request, err);
    if (status != SPIN_OK) {
        spin_engine_count(engine, SPIN_ENGINE_METRIC_REFUSED, 1);
        return status;
    }
    uint64_t ticket = 0;
    status = spin_door_enter(engine->door, &ticket);
    if (status != SPIN_OK) {
        spin_engine_count(engine, SPIN_ENGINE_METRIC_REFUSED, 1);
        return refuse(engine, status, err);
    }
    struct spin_job *job = &engine->jobs[spin_ticket_index(ticket)];
    fill_job(engine, job, request, ticket);
    *out_ticket = ticket; /* before the push: the sink may be told at once */
    /* The inbox has room for every place there is. */
    SPIN_ASSERT_EQ(spin_ring_push(engine->inbox, job), SPIN_OK);
    spin_door_passed(engine->door);
    return SPIN_OK;
}

void spin_engine_cancel(struct spin_engine *engine, uint64_t ticket)
{
    if (spin_door_cancel(engine->door, ticket)) {
        spin_ring_wake(engine->inbox);
    }
}
