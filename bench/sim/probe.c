#include "bench/sim/probe.h"

#include "base/assert.h"
#include "base/mutex.h"
#include "client/spin_client.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define SAMPLES_MAX 65536u
#define STEPS_MAX (64u * SPIN_PROBE_STEPS) /* of a batch, that are asked for */

struct stream {
    struct spin_probe *probe;
    uint64_t *token_ns; /* [tokens_max]; its thread's; read when all have finished */
    uint32_t tokens;
    struct spin_client_call *call; /* with a target */
};

struct spin_probe {
    struct spin_probe_config config;
    struct spin_engine **engines;
    struct spin_client *client; /* NULL: no target */
    struct stream *streams;     /* [engines][max_num_seqs] */
    uint64_t *token_ns;         /* [engines][max_num_seqs][tokens_max] */
    uint32_t tokens_max;        /* of an answer */
    int32_t *prompt;            /* [max_model_len + max_num_seqs] */
    double *samples;            /* [SAMPLES_MAX] */
    uint32_t sample_count;
    struct spin_mutex mutex;
    struct spin_cond changed;
    uint32_t finished;
    uint32_t failed;
    char why[160]; /* of the first that failed */
};

static void add_tokens(struct stream *stream, uint32_t count)
{
    const uint64_t now_ns = spin_now_ns(spin_clock_real());
    for (uint32_t i = 0; i < count && stream->tokens < stream->probe->tokens_max; i++) {
        stream->token_ns[stream->tokens++] = now_ns;
    }
}

/* `why` NULL: as asked. */
static void end_stream(const struct stream *stream, const char *why)
{
    struct spin_probe *probe = stream->probe;
    spin_mutex_lock(&probe->mutex);
    if (why != NULL && probe->failed == 0) {
        (void)snprintf(probe->why, sizeof probe->why, "%s", why);
    }
    probe->finished++;
    probe->failed += why != NULL;
    spin_cond_broadcast(&probe->changed);
    spin_mutex_unlock(&probe->mutex);
}

/* An engine's. */
static void on_token(void *context, const struct spin_sampled *sampled)
{
    (void)sampled;
    add_tokens(context, 1);
}

static void on_engine_finished(void *context, const struct spin_finish *finish)
{
    const bool done = finish->reason == SPIN_FINISH_LENGTH;
    end_stream(context, done ? NULL : "an engine ended it early");
}

/* A cluster's. */
static bool on_delta(void *context, const struct spin_client_delta *delta)
{
    add_tokens(context, delta->token_count);
    return true;
}

static void on_client_finished(void *context, spin_status status, const char *text)
{
    end_stream(context, status == SPIN_OK ? NULL : text);
}

/* --- create and destroy --- */

static const struct spin_engine_config *config_of(const struct spin_probe *probe)
{
    return spin_engine_get_config(probe->engines[0]);
}

/* While the last of a batch is prefilled, the first one takes a step between two budgets of units:
 * so many steps, and those that are counted. */
static uint64_t answer_tokens(const struct spin_probe *probe, uint32_t sequences, uint32_t prompt,
                              uint32_t wanted)
{
    const uint32_t budget = config_of(probe)->max_num_batched_tokens;
    return (uint64_t)sequences * ((prompt + budget - 1) / budget + 1) + wanted + 2;
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

static spin_status connect(struct spin_probe *probe, struct spin_error *err)
{
    const struct spin_probe_config *config = &probe->config;
    struct spin_client_config client = spin_client_config_default();
    struct spin_client_model model;
    client.target = config->target;
    client.api_key = config->api_key;
    client.retries_max = 0;
    SPIN_TRY(spin_client_connect(&client, &probe->client, err));
    SPIN_TRY(spin_client_get_model(probe->client, &model, err));
    if (model.workers != config->engines) {
        return spin_fail(err, SPIN_ERR_INVALID, "%s has %u workers, and %u were announced",
                         config->target, model.workers, config->engines);
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
    if (config->target != NULL) {
        SPIN_TRY_GOTO(status, connect(probe, err), fail);
    }
    *out = probe;
    return SPIN_OK;
fail:
    spin_probe_destroy(probe);
    return status;
}

static void release_calls(struct spin_probe *probe)
{
    const uint32_t count =
        probe->streams == NULL ? 0 : probe->config.engines * config_of(probe)->max_num_seqs;
    for (uint32_t i = 0; i < count; i++) {
        spin_client_call_release(probe->streams[i].call);
        probe->streams[i].call = NULL;
    }
}

void spin_probe_destroy(struct spin_probe *probe)
{
    if (probe == NULL) {
        return;
    }
    release_calls(probe);
    spin_client_close(probe->client);
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

/* What a stream is asked: prompts of a batch are not equal. */
struct shape {
    uint32_t prompt;
    uint32_t tokens;
    bool to_engines; /* even when there is a target */
};

static spin_status submit_to_engine(struct spin_probe *probe, uint32_t engine, uint32_t index,
                                    const struct shape *shape, struct spin_error *err)
{
    struct stream *stream = stream_of(probe, engine, index);
    struct spin_request request = {.prompt = probe->prompt + index,
                                   .prompt_count = shape->prompt,
                                   .sampling = spin_sampling_default(),
                                   .max_tokens = shape->tokens,
                                   .deadline_ns = SPIN_NO_DEADLINE,
                                   .sink = {stream, NULL, on_token, on_engine_finished}};
    uint64_t ticket;
    (void)snprintf(request.id, sizeof request.id, "probe-%u-%u", engine, index);
    return spin_engine_submit(probe->engines[engine], &request, &ticket, err);
}

static spin_status submit_to_target(struct spin_probe *probe, struct stream *stream, uint32_t index,
                                    const struct shape *shape, struct spin_error *err)
{
    const struct spin_client_handlers handlers = {
        .context = stream, .delta = on_delta, .finished = on_client_finished};
    const struct spin_client_request request = {.tokens = probe->prompt + index,
                                                .token_count = shape->prompt,
                                                .max_tokens = shape->tokens,
                                                .ignore_eos = true,
                                                .return_tokens = true};
    return spin_client_submit(probe->client, &request, &handlers, &stream->call, err);
}

static spin_status submit(struct spin_probe *probe, uint32_t place, const struct shape *shape,
                          struct spin_error *err)
{
    const uint32_t engine = place % probe->config.engines;
    const uint32_t index = place / probe->config.engines;
    struct stream *stream = stream_of(probe, engine, index);
    stream->tokens = 0;
    return probe->client == NULL || shape->to_engines
               ? submit_to_engine(probe, engine, index, shape, err)
               : submit_to_target(probe, stream, index, shape, err);
}

static spin_status judge(const struct spin_probe *probe, const struct shape *shape,
                         uint32_t sequences, struct spin_error *err)
{
    if (probe->failed > 0) {
        return spin_fail(err, SPIN_ERR_INTERNAL, "%u requests failed: %s", probe->failed,
                         probe->why);
    }
    for (uint32_t i = 0; i < sequences * probe->config.engines; i++) {
        const struct stream *stream =
            stream_of(probe, i % probe->config.engines, i / probe->config.engines);
        if (stream->tokens != shape->tokens) {
            return spin_fail(err, SPIN_ERR_INTERNAL, "%u tokens came, %u were asked for",
                             stream->tokens, shape->tokens);
        }
    }
    return SPIN_OK;
}

/* Every worker runs `sequences` requests of one shape to their ends. *out_start_ns: before the
 * first was submitted. Those that were accepted are waited for, whatever comes. */
static spin_status run(struct spin_probe *probe, uint32_t sequences, const struct shape *shape,
                       uint64_t *out_start_ns, struct spin_error *err)
{
    spin_status status = SPIN_OK;
    uint32_t accepted = 0;
    probe->finished = 0;
    probe->failed = 0;
    *out_start_ns = spin_now_ns(spin_clock_real());
    for (uint32_t i = 0; i < sequences * probe->config.engines && status == SPIN_OK; i++) {
        status = submit(probe, i, shape, err);
        accepted += status == SPIN_OK;
    }
    const uint64_t limit_ns = spin_deadline_ns(*out_start_ns, SPIN_PROBE_LIMIT_NS);
    bool in_time = true;
    spin_mutex_lock(&probe->mutex);
    while (probe->finished < accepted && in_time) {
        in_time = spin_cond_wait(&probe->changed, &probe->mutex, limit_ns);
    }
    spin_mutex_unlock(&probe->mutex);
    SPIN_TRY(status);
    if (!in_time) {
        return spin_fail(err, SPIN_ERR_DEADLINE, "no answer in %.0f s",
                         (double)SPIN_PROBE_LIMIT_NS / SPIN_NS_PER_S);
    }
    release_calls(probe);
    return judge(probe, shape, sequences, err);
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
    const struct shape shape = {.prompt = tokens, .tokens = 1, .to_engines = less_units};
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

/* Tokens of a stream until `at_ns`, that moment's own included. */
static uint32_t tokens_until(const struct stream *stream, uint64_t at_ns)
{
    uint32_t count = 0;
    while (count < stream->tokens && stream->token_ns[count] <= at_ns) {
        count++;
    }
    return count;
}

/* The time of a step by each sequence: between its tokens while all were running. Returns the
 * tokens that sequences had drawn in the middle of that time, in the mean. */
static double collect(struct spin_probe *probe, uint32_t sequences)
{
    const uint32_t count = sequences * probe->config.engines;
    uint64_t begin_ns = 0;
    uint64_t end_ns = UINT64_MAX;
    double drawn = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct stream *stream = stream_of(probe, i / sequences, i % sequences);
        begin_ns = SPIN_MAX(begin_ns, stream->token_ns[0]);
        end_ns = SPIN_MIN(end_ns, stream->token_ns[stream->tokens - 1]);
    }
    for (uint32_t i = 0; i < count; i++) {
        const struct stream *stream = stream_of(probe, i / sequences, i % sequences);
        /* The first gap in it has the end of somebody's prefill in it. */
        const uint32_t first = tokens_until(stream, begin_ns) + 1;
        const uint32_t last = tokens_until(stream, end_ns);
        drawn += ((double)first + (double)last) / 2 / count;
        if (last <= first + SPIN_PROBE_STEPS / 4) {
            continue;
        }
        /* Tokens that came all at once, with a late reader, say nothing about a step. */
        const uint64_t ns = stream->token_ns[last - 1] - stream->token_ns[first - 1];
        if (ns > 0) {
            add_sample(probe, (double)ns / (last - first));
        }
    }
    return drawn;
}

uint64_t spin_probe_decode_tokens(const struct spin_probe *probe, uint32_t sequences,
                                  uint32_t prompt)
{
    return prompt + answer_tokens(probe, sequences, prompt, SPIN_PROBE_STEPS);
}

/* Workers do not begin at the same moment: where steps are so short that one is done before another
 * begins, longer answers are asked for. */
spin_status spin_probe_decode(struct spin_probe *probe, struct spin_probe_batch *batch,
                              struct spin_error *err)
{
    const uint32_t streams = batch->sequences * probe->config.engines;
    const uint32_t longest = config_of(probe)->max_model_len;
    SPIN_ASSERT_LE(batch->sequences, config_of(probe)->max_num_seqs);
    for (uint32_t wanted = SPIN_PROBE_STEPS; wanted <= STEPS_MAX; wanted *= 4) {
        const uint64_t tokens = answer_tokens(probe, batch->sequences, batch->prompt, wanted);
        if (batch->prompt + tokens > longest) {
            break;
        }
        const struct shape shape = {.prompt = batch->prompt, .tokens = (uint32_t)tokens};
        uint64_t start_ns = 0;
        SPIN_TRY(run(probe, batch->sequences, &shape, &start_ns, err));
        probe->sample_count = 0;
        const double drawn = collect(probe, batch->sequences);
        if (2 * probe->sample_count >= streams) {
            batch->context = batch->prompt + (uint32_t)llround(drawn);
            batch->step_ns = (uint64_t)fmax(median(probe), 1);
            return SPIN_OK;
        }
    }
    return spin_fail(err, SPIN_ERR_INTERNAL,
                     "too few steps with all of %u sequences of %u tokens on each worker",
                     batch->sequences, batch->prompt);
}
