/* usage: engine_bench MODEL THREADS
 *
 * One engine, driven by lines on standard input, one answer line each:
 *
 *   prefill TOKENS              -> milliseconds from submit to the first token
 *   decode CONTEXT STEPS SEQS   -> milliseconds per step while all SEQS sequences decode
 *
 * The other side of a comparison runs in another process while this one waits for its next line. */
#include "worker/engine/engine.h"

#include "base/assert.h"
#include "base/mutex.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEQUENCES_MAX 64u
#define STEPS_MAX 4096u
#define LINE_BYTES 256u

struct sequence {
    struct bench *bench;
    uint64_t token_ns[STEPS_MAX]; /* engine thread; read after `finished` */
    uint32_t tokens;
};

struct bench {
    struct spin_model *model;
    struct spin_engine *engine;
    int32_t *prompt;
    struct sequence *sequences;
    struct spin_mutex mutex;
    struct spin_cond changed;
    uint32_t finished;
    bool failed;
};

static void on_token(void *context, const struct spin_sampled *sampled)
{
    struct sequence *sequence = context;
    (void)sampled;
    if (sequence->tokens < STEPS_MAX) {
        sequence->token_ns[sequence->tokens] = spin_now_ns(spin_clock_real());
    }
    sequence->tokens++;
}

static void on_finished(void *context, const struct spin_finish *finish)
{
    struct bench *bench = ((struct sequence *)context)->bench;
    spin_mutex_lock(&bench->mutex);
    bench->finished++;
    bench->failed = bench->failed || finish->reason != SPIN_FINISH_LENGTH;
    spin_cond_broadcast(&bench->changed);
    spin_mutex_unlock(&bench->mutex);
}

/* Runs `count` sequences of `context` prompt tokens to `steps` tokens each. */
static bool run(struct bench *bench, uint32_t context, uint32_t steps, uint32_t count)
{
    bench->finished = 0;
    bench->failed = false;
    for (uint32_t i = 0; i < count; i++) {
        struct sequence *sequence = &bench->sequences[i];
        sequence->bench = bench;
        sequence->tokens = 0;
        struct spin_request request = {.prompt = bench->prompt + i, /* no two prompts are equal */
                                       .prompt_count = context,
                                       .sampling = spin_sampling_default(),
                                       .max_tokens = steps,
                                       .deadline_ns = SPIN_NO_DEADLINE,
                                       .sink = {sequence, NULL, on_token, on_finished}};
        (void)snprintf(request.id, sizeof request.id, "bench-%u", i);
        uint64_t ticket;
        struct spin_error err;
        if (spin_engine_submit(bench->engine, &request, &ticket, &err) != SPIN_OK) {
            (void)fprintf(stderr, "engine_bench: %s\n", err.text);
            return false;
        }
    }
    spin_mutex_lock(&bench->mutex);
    while (bench->finished < count) {
        (void)spin_cond_wait(&bench->changed, &bench->mutex, SPIN_NO_DEADLINE);
    }
    spin_mutex_unlock(&bench->mutex);
    return !bench->failed;
}

static bool prefill(struct bench *bench, uint32_t tokens)
{
    const uint64_t started_ns = spin_now_ns(spin_clock_real());
    if (!run(bench, tokens, 1, 1)) {
        return false;
    }
    printf("%.4f\n", (double)(bench->sequences[0].token_ns[0] - started_ns) / SPIN_NS_PER_MS);
    return true;
}

/* From the first token of the sequence that came last to the end of the one that ends first: each
 * step counted has all sequences in it and no prompt beside it. */
static bool decode(struct bench *bench, uint32_t context, uint32_t steps, uint32_t count)
{
    /* Prompts are run one after the other; whoever began goes on until the last has begun. */
    if (!run(bench, context, steps, count)) {
        return false;
    }
    uint64_t begin_ns = 0;
    uint64_t end_ns = UINT64_MAX;
    for (uint32_t i = 0; i < count; i++) {
        begin_ns = SPIN_MAX(begin_ns, bench->sequences[i].token_ns[0]);
        end_ns = SPIN_MIN(end_ns, bench->sequences[i].token_ns[steps - 1]);
    }
    uint32_t counted = 0;
    const struct sequence *first = &bench->sequences[0];
    for (uint32_t t = 0; t < steps; t++) {
        counted += first->token_ns[t] > begin_ns && first->token_ns[t] <= end_ns ? 1 : 0;
    }
    if (counted < 8) {
        (void)fprintf(stderr, "engine_bench: only %u steps with all %u sequences\n", counted,
                      count);
        return false;
    }
    printf("%.4f\n", (double)(end_ns - begin_ns) / SPIN_NS_PER_MS / counted);
    return true;
}

static bool obey(struct bench *bench, const char *line)
{
    const uint32_t longest = spin_engine_get_config(bench->engine)->max_model_len;
    char *rest;
    if (strncmp(line, "prefill ", 8) == 0) {
        const unsigned long tokens = strtoul(line + 8, &rest, 10);
        return tokens >= 1 && tokens < longest && prefill(bench, (uint32_t)tokens);
    }
    if (strncmp(line, "decode ", 7) == 0) {
        const unsigned long context = strtoul(line + 7, &rest, 10);
        const unsigned long steps = strtoul(rest, &rest, 10);
        const unsigned long count = strtoul(rest, &rest, 10);
        return context >= 1 && steps >= 16 && steps <= STEPS_MAX && context + steps <= longest &&
               count >= 1 && count <= SEQUENCES_MAX &&
               decode(bench, (uint32_t)context, (uint32_t)steps, (uint32_t)count);
    }
    return false;
}

static spin_status open_bench(struct bench *bench, const char *model, uint32_t threads,
                              struct spin_error *err)
{
    spin_mutex_init(&bench->mutex);
    spin_cond_init(&bench->changed);
    SPIN_TRY(spin_model_open(model, &bench->model, err));
    struct spin_engine_config config = spin_engine_config_default();
    config.threads = threads;
    config.max_num_seqs = 8;
    SPIN_TRY(
        spin_engine_create(&config, bench->model, spin_clock_real(), NULL, &bench->engine, err));
    const uint32_t longest = spin_engine_get_config(bench->engine)->max_model_len;
    bench->sequences = calloc(SEQUENCES_MAX, sizeof *bench->sequences);
    bench->prompt = calloc((uint64_t)longest + SEQUENCES_MAX, sizeof *bench->prompt);
    if (bench->sequences == NULL || bench->prompt == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "no memory for %u tokens", longest);
    }
    for (uint32_t i = 0; i < longest + SEQUENCES_MAX; i++) {
        bench->prompt[i] = (int32_t)(100 + (uint64_t)i * 7919 % (bench->model->config.vocab - 200));
    }
    return spin_engine_start(bench->engine, err);
}

int main(int argc, char **argv)
{
    struct bench bench = {0};
    struct spin_error err;
    if (argc != 3) {
        (void)fputs("usage: engine_bench MODEL THREADS\n", stderr);
        return 2;
    }
    if (open_bench(&bench, argv[1], (uint32_t)strtoul(argv[2], NULL, 10), &err) != SPIN_OK) {
        (void)fprintf(stderr, "engine_bench: %s\n", err.text);
        return 1;
    }
    const struct spin_engine_config *config = spin_engine_get_config(bench.engine);
    printf("ready ops=%s threads=%u\n", config->ops->name, config->threads);
    (void)fflush(stdout);
    char line[LINE_BYTES];
    int code = 0;
    while (code == 0 && fgets(line, sizeof line, stdin) != NULL) {
        if (!obey(&bench, line)) {
            (void)fprintf(stderr, "engine_bench: cannot do: %s", line);
            code = 1;
        }
        (void)fflush(stdout);
    }
    spin_engine_stop(bench.engine, 0);
    spin_engine_destroy(bench.engine);
    spin_model_close(bench.model);
    free(bench.sequences);
    free(bench.prompt);
    return code;
}
