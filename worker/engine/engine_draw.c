/* Hidden rows become tokens: logits by the model, tokens by the sampler.
 *
 * Where the host cannot read the device's memory, logits are copied to pinned memory with the step
 * that they belong to, so that one wait is for both. */
#include "base/assert.h"
#include "worker/engine/engine_internal.h"

#include <stdlib.h>

/* A step of the largest model takes a fraction of a second; nothing that lives takes longer. */
#define SYNC_LIMIT_NS (60 * SPIN_NS_PER_S)

struct spin_draws {
    float *read;         /* pinned [logits_rows][vocab]; NULL: device memory is read in place */
    const float *logits; /* of the rows at hand, on the host after a sync */
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

static spin_status submit_logits(struct spin_engine *engine, const float *hidden, uint32_t count)
{
    struct spin_draws *draws = engine->draws;
    const float *logits = NULL;
    SPIN_ASSERT_LE(count, engine->logits_rows);
    SPIN_TRY(spin_forward_logits(engine->forward, hidden, count, &logits));
    draws->logits = draws->read != NULL ? draws->read : logits;
    return draws->read == NULL
               ? SPIN_OK
               : spin_device_read(engine->stream, draws->read, logits, logits_bytes(engine, count));
}

spin_status spin_engine_read_logits(struct spin_engine *engine, const float *hidden, uint32_t count,
                                    const float **out)
{
    SPIN_TRY(submit_logits(engine, hidden, count));
    *out = engine->draws->logits;
    return spin_engine_sync(engine);
}

/* --- tokens --- */

static struct spin_outcome sample(struct spin_engine *engine, const struct spin_job *job,
                                  const float *logits)
{
    const struct spin_request *request = &job->request;
    const uint32_t generated = job->known_tokens - request->prompt_count;
    const struct spin_sampler_row row = {
        .logits = logits,
        .vocab = engine->model->config.vocab,
        .sampling = &request->sampling,
        .tokens = job->tokens,
        .prompt_count = request->prompt_count,
        .generated_count = generated,
        .masked = request->stop_tokens,
        .masked_count = generated < request->min_tokens ? request->stop_token_count : 0,
    };
    struct spin_outcome outcome = {.logits = logits};
    outcome.status = spin_sampler_draw(&row, engine->sampler, &outcome.token);
    return outcome;
}

spin_status spin_engine_submit_draws(struct spin_engine *engine, const uint32_t *jobs,
                                     uint32_t count, const float *hidden)
{
    (void)jobs;
    return count == 0 ? SPIN_OK : submit_logits(engine, hidden, count);
}

void spin_engine_take_draws(struct spin_engine *engine, const uint32_t *jobs, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        SPIN_ASSERT_LT(jobs[i], engine->requests_max);
        struct spin_job *job = &engine->jobs[jobs[i]];
        const float *logits = engine->draws->logits + (uint64_t)i * engine->model->config.vocab;
        const struct spin_outcome outcome = sample(engine, job, logits);
        spin_engine_emit(engine, job, &outcome, spin_now_ns(engine->clock));
    }
}

/* --- memory --- */

uint64_t spin_engine_draws_bytes(const struct spin_engine *engine)
{
    (void)engine;
    return 0;
}

spin_status spin_engine_create_draws(struct spin_engine *engine, struct spin_error *err)
{
    engine->draws = calloc(1, sizeof *engine->draws);
    if (engine->draws == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "engine: %zu bytes", sizeof *engine->draws);
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
        spin_host_free(engine->stream, engine->draws->read);
        free(engine->draws);
    }
}
