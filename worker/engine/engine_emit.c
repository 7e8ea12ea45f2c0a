/* Tokens, logprobs and endings: everything that a sink is told. */
#include "base/assert.h"
#include "worker/engine/engine_internal.h"

#include <math.h>

void spin_engine_count(struct spin_engine *engine, enum spin_engine_metric metric, uint64_t amount)
{
    if (engine->metrics != NULL) {
        spin_metrics_add(engine->metrics, metric, amount);
    }
}

void spin_engine_gauge(struct spin_engine *engine, enum spin_engine_metric metric, double value)
{
    if (engine->metrics != NULL) {
        spin_metrics_set(engine->metrics, metric, value);
    }
}

void spin_engine_observe_ns(struct spin_engine *engine, enum spin_engine_metric metric,
                            uint64_t elapsed_ns)
{
    if (engine->metrics != NULL) {
        spin_metrics_observe(engine->metrics, metric, (double)elapsed_ns / (double)SPIN_NS_PER_S);
    }
}

/* `top` is room for the request's top_logprobs. */
static struct spin_sampled describe(const struct spin_engine *engine, const struct spin_job *job,
                                    const float *logits, int32_t token,
                                    struct spin_top_logprob *top)
{
    const uint32_t vocab = engine->model->config.vocab;
    const double log_sum = spin_sampler_log_sum(logits, vocab);
    return (struct spin_sampled){
        .token = token,
        .logprob = (float)((double)logits[token] - log_sum),
        .top = top,
        .top_count = spin_sampler_top(logits, vocab, job->request.top_logprobs, top)};
}

static void time_token(struct spin_engine *engine, struct spin_job *job, uint64_t now_ns)
{
    if (job->drawn == 0) {
        job->first_token_ns = now_ns;
        spin_engine_observe_ns(engine, SPIN_ENGINE_METRIC_TTFT, now_ns - job->submitted_ns);
    } else {
        spin_engine_observe_ns(engine, SPIN_ENGINE_METRIC_ITL, now_ns - job->token_ns);
    }
    job->token_ns = now_ns;
    job->drawn++;
    spin_engine_count(engine, SPIN_ENGINE_METRIC_GENERATED_TOKENS, 1);
}

static void tell(struct spin_engine *engine, struct spin_job *job,
                 const struct spin_outcome *outcome)
{
    const struct spin_request *request = &job->request;
    struct spin_top_logprob top[SPIN_TOP_LOGPROBS_MAX];
    struct spin_sampled sampled = {.token = outcome->token, .logprob = NAN};
    if (request->logprobs && outcome->logits == NULL) {
        sampled.logprob = outcome->logprob;
    } else if (request->logprobs || request->top_logprobs > 0) {
        sampled = describe(engine, job, outcome->logits, outcome->token, top);
    }
    request->sink.token(request->sink.context, &sampled);
}

static bool is_stop(const struct spin_request *request, int32_t token)
{
    for (uint32_t i = 0; i < request->stop_token_count; i++) {
        if (request->stop_tokens[i] == token) {
            return true;
        }
    }
    return false;
}

void spin_engine_emit(struct spin_engine *engine, struct spin_job *job,
                      const struct spin_outcome *outcome, uint64_t now_ns)
{
    if (job->prefilled_ns == 0) {
        job->prefilled_ns = now_ns;
    }
    job->status = outcome->status;
    if (job->status != SPIN_OK) {
        spin_scheduler_end(engine->scheduler, spin_job_index(job), SPIN_FINISH_ERROR);
        return;
    }
    if (is_stop(&job->request, outcome->token)) {
        job->stop_token = outcome->token;
        spin_scheduler_end(engine->scheduler, spin_job_index(job), SPIN_FINISH_STOP);
        return;
    }
    SPIN_ASSERT_LT(job->known_tokens, spin_job_tokens_max(job));
    job->tokens[job->known_tokens++] = outcome->token;
    time_token(engine, job, now_ns);
    tell(engine, job, outcome);
    spin_scheduler_token(engine->scheduler, spin_job_index(job));
}

/* The prompt token at prompt_told, given the row before it (NULL for the first token). */
static void tell_prompt_token(struct spin_engine *engine, struct spin_job *job, const float *logits)
{
    const struct spin_request *request = &job->request;
    const int32_t token = job->tokens[job->prompt_told];
    struct spin_top_logprob top[SPIN_TOP_LOGPROBS_MAX];
    struct spin_sampled sampled = {.token = token, .logprob = NAN};
    if (logits != NULL) {
        sampled = describe(engine, job, logits, token, top);
    }
    request->sink.prompt_token(request->sink.context, &sampled);
    job->prompt_told++;
}

spin_status spin_engine_tell_prompt(struct spin_engine *engine, struct spin_job *job,
                                    const struct spin_unit *unit, const float *hidden)
{
    const struct spin_model_config *shape = &engine->model->config;
    if (job->prompt_told == 0) {
        tell_prompt_token(engine, job, NULL);
    }
    /* Row p predicts token p + 1. Rows that a preempted request has told before are behind us. */
    uint32_t at = SPIN_MAX(unit->begin, job->prompt_told - 1);
    const uint32_t end = SPIN_MIN(unit->end, job->request.prompt_count - 1);
    while (at < end) {
        const uint32_t count = SPIN_MIN(engine->logits_rows, end - at);
        const float *logits = NULL;
        SPIN_TRY(spin_engine_read_logits(
            engine, hidden + (uint64_t)(at - unit->super_begin) * shape->hidden, count, &logits));
        for (uint32_t i = 0; i < count; i++) {
            SPIN_ASSERT_EQ(job->prompt_told, at + i + 1);
            tell_prompt_token(engine, job, logits + (uint64_t)i * shape->vocab);
        }
        at += count;
    }
    return SPIN_OK;
}

static enum spin_engine_metric reason_metric(enum spin_finish_reason reason)
{
    switch (reason) {
    case SPIN_FINISH_STOP:
        return SPIN_ENGINE_METRIC_REQUESTS_STOP;
    case SPIN_FINISH_LENGTH:
        return SPIN_ENGINE_METRIC_REQUESTS_LENGTH;
    case SPIN_FINISH_CANCELLED:
        return SPIN_ENGINE_METRIC_REQUESTS_CANCELLED;
    case SPIN_FINISH_DEADLINE:
        return SPIN_ENGINE_METRIC_REQUESTS_DEADLINE;
    case SPIN_FINISH_ERROR:
        return SPIN_ENGINE_METRIC_REQUESTS_ERROR;
    }
    return SPIN_ENGINE_METRIC_REQUESTS_ERROR;
}

static const char *error_text(spin_status status)
{
    return status == SPIN_ERR_CORRUPT ? "the model gave no finite logit" : spin_status_text(status);
}

static struct spin_usage usage_of(const struct spin_job *job, uint64_t now_ns)
{
    const uint64_t admitted_ns = job->admitted ? job->admitted_ns : now_ns;
    const uint64_t prefilled_ns = job->prefilled_ns != 0 ? job->prefilled_ns : now_ns;
    return (struct spin_usage){
        .prompt_tokens = job->request.prompt_count,
        .cached_tokens = 0,
        .completion_tokens = job->known_tokens - job->request.prompt_count,
        .preemptions = job->preemptions,
        .queue_ns = admitted_ns - job->submitted_ns,
        .prefill_ns = prefilled_ns - admitted_ns,
        .decode_ns = now_ns - prefilled_ns,
    };
}

void spin_engine_finish(struct spin_engine *engine, struct spin_job *job,
                        enum spin_finish_reason reason)
{
    const uint64_t now_ns = spin_now_ns(engine->clock);
    const bool failed = reason == SPIN_FINISH_ERROR;
    const struct spin_finish finish = {
        .reason = reason,
        .stop_token = reason == SPIN_FINISH_STOP ? job->stop_token : -1,
        .status = failed ? job->status : SPIN_OK,
        .text = failed ? error_text(job->status) : NULL,
        .usage = usage_of(job, now_ns),
    };
    spin_engine_count(engine, reason_metric(reason), 1);
    spin_engine_observe_ns(engine, SPIN_ENGINE_METRIC_E2E, now_ns - job->submitted_ns);
    if (job->drawn > 1) {
        spin_engine_observe_ns(engine, SPIN_ENGINE_METRIC_TPOT,
                               (job->token_ns - job->first_token_ns) / (job->drawn - 1));
    }
    if (!job->admitted) {
        spin_door_leave_queue(engine->door);
    }
    /* Whoever is told may come back at once and finds the place free; so the sink is a copy. */
    const struct spin_sink sink = job->request.sink;
    spin_door_release(engine->door, spin_job_index(job));
    sink.finished(sink.context, &finish);
}
