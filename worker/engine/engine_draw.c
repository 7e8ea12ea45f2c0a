/* Hidden rows become tokens: logits by the model, tokens by the operation `draw` where there is
 * one, else by the sampler.
 *
 * A row whose request wants more than a token and its logprob, or other logits than the model's, is
 * drawn by the sampler even then. Where the host cannot read the device's memory, such rows are
 * copied to pinned memory. Everything is submitted with the step that it belongs to, so that one
 * wait is for all of it. */
#include "base/assert.h"
#include "worker/engine/engine_internal.h"

#include <math.h>
#include <stdlib.h>

/* A step of the largest model takes a fraction of a second; nothing that lives takes longer. */
#define SYNC_LIMIT_NS (60 * SPIN_NS_PER_S)

_Static_assert(SPIN_STOP_TOKENS_MAX <= SPIN_DRAW_MASKED_MAX, "stop tokens can be masked");

struct spin_draws {
    float *read;         /* pinned [logits_rows][vocab]; NULL: device memory is read in place */
    const float *logits; /* of the rows at hand, on the host after a sync, where they are wanted */
    /* Pinned [logits_rows], for the rows that the operation draws; NULL: there is none. */
    struct spin_draw_row *rows;
    struct spin_drawn *drawn;
    uint32_t row_count;
    bool is_drawn[SPIN_LOGITS_ROWS_MAX]; /* of each row at hand: by the operation */
};

spin_status spin_engine_sync(struct spin_engine *engine)
{
    return spin_stream_sync(engine->stream, SYNC_LIMIT_NS);
}

static uint64_t logits_bytes(const struct spin_engine *engine, uint32_t rows)
{
    return (uint64_t)rows * engine->model->config.vocab * sizeof(float);
}

/* --- logits --- */

/* Rows [begin, end) of `logits`, for the host. */
static spin_status submit_read(struct spin_engine *engine, const float *logits, uint32_t begin,
                               uint32_t end)
{
    struct spin_draws *draws = engine->draws;
    const uint64_t at = (uint64_t)begin * engine->model->config.vocab;
    if (draws->read == NULL) {
        draws->logits = logits;
        return SPIN_OK;
    }
    draws->logits = draws->read;
    return spin_device_read(engine->stream, draws->read + at, logits + at,
                            logits_bytes(engine, end - begin));
}

spin_status spin_engine_read_logits(struct spin_engine *engine, const float *hidden, uint32_t count,
                                    const float **out)
{
    const float *logits = NULL;
    SPIN_ASSERT_LE(count, engine->logits_rows);
    SPIN_TRY(spin_forward_logits(engine->forward, hidden, count, &logits));
    SPIN_TRY(submit_read(engine, logits, 0, count));
    *out = engine->draws->logits;
    return spin_engine_sync(engine);
}

/* --- tokens --- */

static struct spin_job *job_of(struct spin_engine *engine, uint32_t index)
{
    SPIN_ASSERT_LT(index, engine->requests_max);
    return &engine->jobs[index];
}

/* Also the index of the draw. */
static uint32_t generated_count(const struct spin_job *job)
{
    return job->known_tokens - job->request.prompt_count;
}

/* Stop tokens are not drawn before min_tokens are there. */
static uint32_t masked_count(const struct spin_job *job)
{
    const struct spin_request *request = &job->request;
    return generated_count(job) < request->min_tokens ? request->stop_token_count : 0;
}

static struct spin_draw_row make_row(const struct spin_job *job, uint32_t logits_row)
{
    const struct spin_sampling *sampling = &job->request.sampling;
    struct spin_draw_row row = {
        .u = spin_sampler_uniform(sampling, generated_count(job)),
        .logits_row = logits_row,
        .temperature = sampling->temperature,
        .top_p = sampling->top_p,
        .min_p = sampling->min_p,
        .top_k = sampling->top_k,
        .log_sum = job->request.logprobs ? 1 : 0,
        .masked_count = masked_count(job),
    };
    for (uint32_t i = 0; i < row.masked_count; i++) {
        row.masked[i] = job->request.stop_tokens[i];
    }
    return row;
}

/* Sorts the rows at hand into those that the operation draws and those that the sampler does. */
static void sort_rows(struct spin_engine *engine, const uint32_t *jobs, uint32_t count)
{
    struct spin_draws *draws = engine->draws;
    draws->row_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct spin_job *job = job_of(engine, jobs[i]);
        draws->is_drawn[i] = draws->rows != NULL && job->request.top_logprobs == 0 &&
                             spin_sampler_is_plain(&job->request.sampling);
        if (draws->is_drawn[i]) {
            draws->rows[draws->row_count++] = make_row(job, i);
        }
    }
}

/* In runs of neighbours. */
static spin_status read_others(struct spin_engine *engine, const float *logits, uint32_t count)
{
    const bool *is_drawn = engine->draws->is_drawn;
    for (uint32_t begin = 0; begin < count;) {
        uint32_t end = begin;
        while (end < count && !is_drawn[end]) {
            end++;
        }
        if (end > begin) {
            SPIN_TRY(submit_read(engine, logits, begin, end));
        }
        begin = end + 1;
    }
    return SPIN_OK;
}

spin_status spin_engine_submit_draws(struct spin_engine *engine, const uint32_t *jobs,
                                     uint32_t count, const float *hidden)
{
    struct spin_draws *draws = engine->draws;
    const uint32_t vocab = engine->model->config.vocab;
    const float *logits = NULL;
    SPIN_ASSERT_LE(count, engine->logits_rows);
    if (count == 0) {
        return SPIN_OK;
    }
    sort_rows(engine, jobs, count);
    SPIN_TRY(spin_forward_logits(engine->forward, hidden, count, &logits));
    SPIN_TRY(read_others(engine, logits, count));
    if (draws->row_count == 0) {
        return SPIN_OK;
    }
    union { /* a view that is only read */
        const float *in;
        float *out;
    } pointer = {.in = logits};
    const struct spin_draw_args args = {.logits = {.data = pointer.out,
                                                   .dtype = SPIN_DTYPE_F32,
                                                   .rows = count,
                                                   .cols = vocab,
                                                   .stride = vocab},
                                        .rows = draws->rows,
                                        .out = draws->drawn,
                                        .count = draws->row_count};
    return engine->config.ops->draw(&args, engine->stream);
}

static struct spin_outcome outcome_of(const struct spin_drawn *drawn)
{
    if (drawn->token < 0) {
        return (struct spin_outcome){.status = SPIN_ERR_CORRUPT};
    }
    return (struct spin_outcome){.status = SPIN_OK,
                                 .token = drawn->token,
                                 .logprob = (float)((double)drawn->logit - drawn->log_sum)};
}

static struct spin_outcome sample(struct spin_engine *engine, const struct spin_job *job,
                                  const float *logits)
{
    const struct spin_request *request = &job->request;
    const struct spin_sampler_row row = {
        .logits = logits,
        .vocab = engine->model->config.vocab,
        .sampling = &request->sampling,
        .tokens = job->tokens,
        .prompt_count = request->prompt_count,
        .generated_count = generated_count(job),
        .masked = request->stop_tokens,
        .masked_count = masked_count(job),
    };
    struct spin_outcome outcome = {.logits = logits, .logprob = NAN};
    outcome.status = spin_sampler_draw(&row, engine->sampler, &outcome.token);
    return outcome;
}

void spin_engine_take_draws(struct spin_engine *engine, const uint32_t *jobs, uint32_t count)
{
    const struct spin_draws *draws = engine->draws;
    const struct spin_drawn *drawn = draws->drawn;
    for (uint32_t i = 0; i < count; i++) {
        struct spin_job *job = job_of(engine, jobs[i]);
        const float *logits = draws->logits;
        const struct spin_outcome outcome =
            draws->is_drawn[i]
                ? outcome_of(drawn++)
                : sample(engine, job, logits + (uint64_t)i * engine->model->config.vocab);
        spin_engine_emit(engine, job, &outcome, spin_now_ns(engine->clock));
    }
}

/* --- memory --- */

static spin_status alloc_rows(struct spin_engine *engine, struct spin_error *err)
{
    void *memory = NULL;
    SPIN_TRY(spin_host_alloc(engine->stream, engine->logits_rows * sizeof(struct spin_draw_row),
                             &memory, err));
    engine->draws->rows = memory;
    SPIN_TRY(spin_host_alloc(engine->stream, engine->logits_rows * sizeof(struct spin_drawn),
                             &memory, err));
    engine->draws->drawn = memory;
    return SPIN_OK;
}

spin_status spin_engine_create_draws(struct spin_engine *engine, struct spin_error *err)
{
    engine->draws = calloc(1, sizeof *engine->draws);
    if (engine->draws == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "engine: %zu bytes", sizeof *engine->draws);
    }
    if (engine->config.ops->draw != NULL && engine->model->config.vocab <= SPIN_DRAW_VOCAB_MAX) {
        SPIN_TRY(alloc_rows(engine, err));
    }
    if (spin_device_is_host(engine->stream)) {
        return SPIN_OK;
    }
    void *memory = NULL;
    SPIN_TRY(
        spin_host_alloc(engine->stream, logits_bytes(engine, engine->logits_rows), &memory, err));
    engine->draws->read = memory;
    return SPIN_OK;
}

void spin_engine_destroy_draws(struct spin_engine *engine)
{
    if (engine->draws != NULL) {
        spin_host_free(engine->stream, engine->draws->rows);
        spin_host_free(engine->stream, engine->draws->drawn);
        spin_host_free(engine->stream, engine->draws->read);
        free(engine->draws);
    }
}
