#include "bench/sim/probe.h"

#include "base/assert.h"
#include "base/mutex.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define SAMPLES_MAX 65536u

struct stream {
    struct spin_probe *probe;
    uint64_t *token_ns; /* [tokens_max]; engine thread; read when all have finished */
    uint32_t tokens;
};

struct spin_probe {
    struct spin_probe_config config;
    struct spin_engine **engines;
    struct stream *streams; /* [engines][max_num_seqs] */
    uint64_t *token_ns;     /* [engines][max_num_seqs][tokens_max] */
    uint32_t tokens_max;    /* of an answer */
    int32_t *prompt;        /* [max_model_len + max_num_seqs] */
    double *samples;        /* [SAMPLES_MAX] */
    uint32_t sample_count;
    struct spin_mutex mutex;
    struct spin_cond changed;
    uint32_t finished;
    uint32_t failed;
};

static void on_token(void *context, const struct spin_sampled *sampled)
{
    struct stream *stream = context;
    (void)sampled;
    SPIN_ASSERT_LT(stream->tokens, stream->probe->tokens_max);
    stream->token_ns[stream->tokens++] = spin_now_ns(spin_clock_real());
}

static void on_finished(void *context, const struct spin_finish *finish)
{
    struct spin_probe *probe = ((struct stream *)context)->probe;
    spin_mutex_lock(&probe->mutex);
    probe->finished++;
    probe->failed += finish->reason != SPIN_FINISH_LENGTH;
    spin_cond_broadcast(&probe->changed);
    spin_mutex_unlock(&probe->mutex);
}

/* --- create and destroy --- */

static const struct spin_engine_config *config_of(const struct spin_probe *probe)
{
    return spin_engine_get_config(probe->engines[0]);
}

/* While the last of a batch is prefilled, the first one takes a step between two budgets of units:
 * so many steps, and those that are counted. */
static uint32_t answer_tokens(const struct spin_probe *probe, uint32_t sequences, uint32_t prompt)
{
    const uint32_t budget = config_of(probe)->max_num_batched_tokens;
    const uint64_t steps = (uint64_t)sequences * ((prompt + budget - 1) / budget + 1);
    return (uint32_t)SPIN_MIN(steps + SPIN_PROBE_STEPS + 2, probe->tokens_max);
}

static spin_status create_engines(struct spin_probe *probe, struct spin_error *err)
{
    const struct spin_probe_config *config = &probe->config;
    for (uint32_t i = 0; i < config->engines; i++) {
        SPIN_TRY(spin_engine_create(&config->engine, config->model, spin_clock_real(), NULL,
                                    &probe->engines[i], err));
        SPIN_TRY(spin_engine_start(probe->engines[i], err));
    }
    return SPIN_OK;
}

static spin_status create_arrays(struct spin_probe *probe, struct spin_error *err)
{
    const uint32_t engines = probe->config.engines;
    const uint32_t sequences = config_of(probe)->max_num_seqs;
    const uint32_t longest = config_of(probe)->max_model_len;
    const uint32_t vocab = probe->config.model->config.vocab;
    probe->tokens_max = longest;
    probe->streams = calloc((size_t)engines * sequences, sizeof *probe->streams);
    /* Pages that no answer reaches cost nothing. */
    probe->token_ns = calloc((size_t)engines * sequences * longest, sizeof *probe->token_ns);
    probe->prompt = calloc((size_t)longest + sequences, sizeof *probe->prompt);
    probe->samples = calloc(SAMPLES_MAX, sizeof *probe->samples);
    if (probe->streams == NULL || probe->token_ns == NULL || probe->prompt == NULL ||
        probe->samples == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "probe: %u engines of %u sequences", engines,
                         sequences);
    }
    for (uint32_t i = 0; i < engines * sequences; i++) {
        probe->streams[i] =
            (struct stream){.probe = probe, .token_ns = probe->token_ns + (size_t)i * longest};
    }
    for (uint32_t i = 0; i < longest + sequences; i++) {
        probe->prompt[i] = (int32_t)((uint64_t)i * 7919 % vocab);
    }
    return SPIN_OK;
}

spin_status spin_probe_create(const struct spin_probe_config *config, struct spin_probe **out,
                              struct spin_error *err)
{
    SPIN_ASSERT_GE(config->engines, 1);
    SPIN_ASSERT_GE(config->repeats, 1);
    struct spin_probe *probe = calloc(1, sizeof *probe);
    if (probe == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "probe: %zu bytes", sizeof *probe);
    }
    probe->config = *config;
    spin_mutex_init(&probe->mutex);
    spin_cond_init(&probe->changed);
    spin_status status = SPIN_OK;
    probe->engines = calloc(config->engines, sizeof(struct spin_engine *));
    if (probe->engines == NULL) {
        status = spin_fail(err, SPIN_ERR_NO_MEMORY, "probe: %u engines", config->engines);
        goto fail;
    }
    SPIN_TRY_GOTO(status, create_engines(probe, err), fail);
    SPIN_TRY_GOTO(status, create_arrays(probe, err), fail);
    *out = probe;
    return SPIN_OK;
fail:
    spin_probe_destroy(probe);
    return status;
}

void spin_probe_destroy(struct spin_probe *probe)
{
    if (probe == NULL) {
        return;
    }
    for (uint32_t i = 0; probe->engines != NULL && i < probe->config.engines; i++) {
        if (probe->engines[i] != NULL) {
            spin_engine_stop(probe->engines[i], 0);
            spin_engine_destroy(probe->engines[i]);
        }
    }
    spin_cond_deinit(&probe->changed);
    spin_mutex_deinit(&probe->mutex);
    free((void *)probe->engines);
    free(probe->streams);
    free(probe->token_ns);
    free(probe->prompt);
    free(probe->samples);
    free(probe);
}

const struct spin_engine *spin_probe_engine(const struct spin_probe *probe)
{
    return probe->engines[0];
}

/* --- running --- */

static struct stream *stream_of(const struct spin_probe *probe, uint32_t engine, uint32_t index)
{
    return &probe->streams[engine * config_of(probe)->max_num_seqs + index];
}

static spin_status submit(struct spin_probe *probe, uint32_t engine, uint32_t index,
                          const struct spin_request *shape, struct spin_error *err)
{
    struct stream *stream = stream_of(probe, engine, index);
    struct spin_request request = *shape;
    uint64_t ticket;
    stream->tokens = 0;
    request.prompt = probe->prompt + index; /* no two prompts of a batch are equal */
    request.sink = (struct spin_sink){stream, NULL, on_token, on_finished};
    (void)snprintf(request.id, sizeof request.id, "probe-%u-%u", engine, index);
    return spin_engine_submit(probe->engines[engine], &request, &ticket, err);
}

/* Every engine runs `sequences` requests of one shape to their ends. *out_start_ns: before the
 * first was submitted. Those that were accepted are waited for, whatever comes. */
static spin_status run(struct spin_probe *probe, uint32_t sequences,
                       const struct spin_request *shape, uint64_t *out_start_ns,
                       struct spin_error *err)
{
    spin_status status = SPIN_OK;
    uint32_t accepted = 0;
    probe->finished = 0;
    probe->failed = 0;
    *out_start_ns = spin_now_ns(spin_clock_real());
    for (uint32_t i = 0; i < sequences * probe->config.engines && status == SPIN_OK; i++) {
        status = submit(probe, i % probe->config.engines, i / probe->config.engines, shape, err);
        accepted += status == SPIN_OK;
    }
    const uint64_t limit_ns = spin_deadline_ns(*out_start_ns, SPIN_PROBE_LIMIT_NS);
    bool in_time = true;
    spin_mutex_lock(&probe->mutex);
    while (probe->finished < accepted && in_time) {
        in_time = spin_cond_wait(&probe->changed, &probe->mutex, limit_ns);
    }
    const uint32_t failed = probe->failed;
    spin_mutex_unlock(&probe->mutex);
    SPIN_TRY(status);
    if (!in_time) {
        return spin_fail(err, SPIN_ERR_DEADLINE, "no answer in %.0f s",
                         (double)SPIN_PROBE_LIMIT_NS / SPIN_NS_PER_S);
    }
    return failed == 0
               ? SPIN_OK
               : spin_fail(err, SPIN_ERR_INTERNAL, "%u of %u requests failed", failed, accepted);
}

static struct spin_request make_shape(uint32_t prompt, uint32_t tokens)
{
    return (struct spin_request){.prompt_count = prompt,
                                 .sampling = spin_sampling_default(),
                                 .max_tokens = tokens,
                                 .deadline_ns = SPIN_NO_DEADLINE};
}

/* --- medians --- */

static void add_sample(struct spin_probe *probe, double value)
{
    if (probe->sample_count < SAMPLES_MAX) {
        probe->samples[probe->sample_count++] = value;
    }
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(struct spin_probe *probe)
{
    const uint32_t count = probe->sample_count;
    SPIN_ASSERT_GE(count, 1);
    qsort(probe->samples, count, sizeof *probe->samples, by_value);
    return (probe->samples[(count - 1) / 2] + probe->samples[count / 2]) / 2;
}

/* What the units of a prompt took that has just been run, by the engine's own average. */
static double units_ns(const struct spin_probe *probe, uint32_t engine, uint32_t tokens)
{
    struct spin_engine_load load;
    spin_engine_get_load(probe->engines[engine], &load);
    const double rate = load.prefill_tokens_per_s;
    return rate > 0 ? tokens / rate * (double)SPIN_NS_PER_S : 0;
}

static spin_status measure(struct spin_probe *probe, uint32_t tokens, bool less_units,
                           struct spin_error *err)
{
    const struct spin_request shape = make_shape(tokens, 1);
    probe->sample_count = 0;
    for (uint32_t i = 0; i < probe->config.repeats; i++) {
        uint64_t start_ns = 0;
        SPIN_TRY(run(probe, 1, &shape, &start_ns, err));
        for (uint32_t e = 0; e < probe->config.engines; e++) {
            const double whole_ns = (double)(stream_of(probe, e, 0)->token_ns[0] - start_ns);
            add_sample(probe, less_units ? whole_ns - units_ns(probe, e, tokens) : whole_ns);
        }
    }
    return SPIN_OK;
}

spin_status spin_probe_prompt(struct spin_probe *probe, uint32_t tokens, uint64_t *out_ns,
                              struct spin_error *err)
{
    SPIN_TRY(measure(probe, tokens, false, err));
    *out_ns = (uint64_t)median(probe);
    return SPIN_OK;
}

spin_status spin_probe_first(struct spin_probe *probe, uint32_t tokens, uint64_t *out_ns,
                             struct spin_error *err)
{
    SPIN_TRY(measure(probe, tokens, true, err));
    *out_ns = (uint64_t)fmax(median(probe), 1);
    return SPIN_OK;
}

/* Of one engine's batch: the gaps of whoever began last, until the first one ends. Returns the sum
 * of the contexts of these steps, each less the prompt. */
static uint64_t collect(struct spin_probe *probe, uint32_t engine, uint32_t sequences)
{
    const struct stream *last = stream_of(probe, engine, 0);
    uint64_t end_ns = UINT64_MAX;
    for (uint32_t i = 0; i < sequences; i++) {
        const struct stream *stream = stream_of(probe, engine, i);
        last = stream->token_ns[0] > last->token_ns[0] ? stream : last;
        end_ns = SPIN_MIN(end_ns, stream->token_ns[stream->tokens - 1]);
    }
    uint64_t drawn = 0;
    /* The first gap is not one of a step alone: it has the end of that one's prefill in it. */
    for (uint32_t t = 2; t < last->tokens && last->token_ns[t] <= end_ns; t++) {
        add_sample(probe, (double)(last->token_ns[t] - last->token_ns[t - 1]));
        for (uint32_t i = 0; i < sequences; i++) {
            const struct stream *stream = stream_of(probe, engine, i);
            uint32_t known = 0;
            while (known < stream->tokens && stream->token_ns[known] < last->token_ns[t]) {
                known++;
            }
            drawn += known;
        }
    }
    return drawn;
}

uint32_t spin_probe_decode_tokens(const struct spin_probe *probe, uint32_t sequences,
                                  uint32_t prompt)
{
    return prompt + answer_tokens(probe, sequences, prompt);
}

spin_status spin_probe_decode(struct spin_probe *probe, struct spin_probe_batch *batch,
                              struct spin_error *err)
{
    SPIN_ASSERT_LE(batch->sequences, config_of(probe)->max_num_seqs);
    const struct spin_request shape =
        make_shape(batch->prompt, answer_tokens(probe, batch->sequences, batch->prompt));
    uint64_t start_ns = 0;
    uint64_t drawn = 0;
    SPIN_TRY(run(probe, batch->sequences, &shape, &start_ns, err));
    probe->sample_count = 0;
    for (uint32_t e = 0; e < probe->config.engines; e++) {
        drawn += collect(probe, e, batch->sequences);
    }
    if (probe->sample_count < SPIN_PROBE_STEPS / 2) {
        return spin_fail(err, SPIN_ERR_INTERNAL,
                         "only %u steps with all of %u sequences of %u tokens", probe->sample_count,
                         batch->sequences, batch->prompt);
    }
    const double steps = (double)probe->sample_count * batch->sequences;
    batch->context = batch->prompt + (uint32_t)llround((double)drawn / steps);
    batch->step_ns = (uint64_t)median(probe);
    return SPIN_OK;
}
