/* usage: sparse_bench MODEL THREADS STREAMS CONTEXT STEPS ROUNDS
 *
 * Decode tokens/s of dense, shadowkv and quest attention: STREAMS sequences of CONTEXT tokens each
 * go through ROUNDS rounds; in a round each algorithm takes STEPS steps, so that whatever else the
 * machine does falls on all of them. A step is a token of every stream, logits and the choice of
 * the next token included. Every algorithm has both tiers to itself and room for every page: what
 * is compared is how much attention reads. Prompts are numbers, so that no file is needed. */
#include "base/assert.h"
#include "base/clock.h"
#include "worker/engine/forward.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STREAMS_MAX 64u
#define STEPS_MAX 1024u
#define ROUNDS_MAX 64u
#define WARM_STEPS 4u
#define SUPER_CHUNK_TOKENS 2048u
#define CHUNK_TOKENS 128u

/* The first is what the others are compared with. */
static const char *const names[] = {"dense", "shadowkv", "quest"};
#define SIDES SPIN_ARRAY_COUNT(names)

struct side {
    struct spin_sparse_options options;
    struct spin_kv *kv;
    struct spin_forward *forward;
    struct spin_forward_step steps[STREAMS_MAX];
    double tokens_per_s[ROUNDS_MAX];
};

struct bench {
    struct spin_model *model;
    const struct spin_ops *ops;
    struct spin_stream *stream;
    struct spin_grid grid;
    float *hidden;
    int32_t *prompt;
    uint32_t streams;
    uint32_t context;
    uint32_t steps;
    uint32_t rounds;
    uint32_t tokens_max;
    struct side sides[SIDES];
};

static spin_status create_kv(struct bench *bench, struct side *side, struct spin_error *err)
{
    const struct spin_model_config *shape = &bench->model->config;
    struct spin_kv_config config = {
        .layout = {.layers = shape->layers,
                   .kv_heads = shape->kv_heads,
                   .head_dim = shape->head_dim,
                   .dtype = SPIN_KV_BF16,
                   .swizzle = bench->ops->swizzle},
        .ops = bench->ops,
        .sequences_max = bench->streams,
        .tokens_max = bench->tokens_max,
    };
    spin_sparse_fill_kv_config(&side->options, &config);
    const struct spin_kv_budget budget = {.layers = shape->layers,
                                          .kv_heads = shape->kv_heads,
                                          .page_tokens = config.page_tokens,
                                          .demand = config.demand};
    const uint64_t slabs =
        (uint64_t)spin_kv_full_row(&budget, bench->tokens_max) * shape->layers * shape->kv_heads;
    config.hbm_bytes = bench->streams * slabs * spin_kv_slab_bytes(&config);
    config.host_bytes = (uint64_t)bench->streams * spin_kv_blocks_for(bench->tokens_max) *
                        spin_block_bytes(&config.layout);
    return spin_kv_create(&config, bench->stream, &side->kv, err);
}

static spin_status prefill(struct bench *bench, struct side *side, uint32_t stream)
{
    struct spin_forward_step *step = &side->steps[stream];
    SPIN_TRY(spin_kv_open(side->kv, &step->seq));
    SPIN_TRY(spin_kv_reserve(side->kv, step->seq, bench->tokens_max));
    SPIN_TRY(spin_kv_activate(side->kv, step->seq, bench->context, 0));
    struct spin_cursor cursor = spin_cursor_start(&bench->grid, bench->context);
    while (!spin_cursor_done(&cursor)) {
        const struct spin_forward_unit unit = {.seq = step->seq,
                                               .unit = cursor.unit,
                                               .tokens = bench->prompt + stream,
                                               .hidden = bench->hidden};
        SPIN_TRY(spin_forward_prefill(side->forward, &unit));
        spin_cursor_advance(&bench->grid, &cursor);
    }
    step->position = bench->context;
    step->token = bench->prompt[stream];
    return SPIN_OK;
}

static int32_t argmax(const float *logits, uint32_t count)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < count; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    return (int32_t)best;
}

static spin_status decode(struct bench *bench, struct side *side, uint32_t steps)
{
    const uint32_t vocab = bench->model->config.vocab;
    for (uint32_t i = 0; i < steps; i++) {
        float *hidden = NULL;
        const float *logits = NULL;
        SPIN_TRY(spin_forward_decode(side->forward, side->steps, bench->streams, &hidden));
        SPIN_TRY(spin_forward_logits(side->forward, hidden, bench->streams, &logits));
        SPIN_TRY(spin_forward_decode_end(side->forward));
        for (uint32_t s = 0; s < bench->streams; s++) {
            side->steps[s].token = argmax(logits + (uint64_t)s * vocab, vocab);
            side->steps[s].position++;
        }
    }
    return SPIN_OK;
}

static spin_status open_side(struct bench *bench, uint32_t index, struct spin_error *err)
{
    struct side *side = &bench->sides[index];
    side->options = spin_sparse_options_default();
    side->options.algorithm = spin_sparse_find(names[index]);
    SPIN_ASSERT(side->options.algorithm != NULL);
    SPIN_TRY(create_kv(bench, side, err));
    const struct spin_forward_config config = {.model = bench->model,
                                               .ops = bench->ops,
                                               .stream = bench->stream,
                                               .kv = side->kv,
                                               .grid = bench->grid,
                                               .sequences_max = bench->streams,
                                               .tokens_max = bench->tokens_max,
                                               .logits_rows_max = bench->streams,
                                               .sparse = side->options};
    SPIN_TRY(spin_forward_create(&config, &side->forward, err));
    for (uint32_t i = 0; i < bench->streams; i++) {
        const spin_status status = prefill(bench, side, i);
        if (status != SPIN_OK) {
            return spin_fail(err, status, "%s: prefill of stream %u failed", names[index], i);
        }
    }
    (void)fprintf(stderr, "%s: %u prompts are there\n", names[index], bench->streams);
    return SPIN_OK;
}

static spin_status measure(struct bench *bench, struct spin_error *err)
{
    spin_status status = SPIN_OK;
    for (uint32_t i = 0; i < SIDES && status == SPIN_OK; i++) {
        status = decode(bench, &bench->sides[i], WARM_STEPS);
    }
    for (uint32_t at = 0; at < bench->rounds * SIDES && status == SPIN_OK; at++) {
        struct side *side = &bench->sides[at % SIDES];
        const uint64_t begin_ns = spin_now_ns(spin_clock_real());
        status = decode(bench, side, bench->steps);
        const uint64_t ns = spin_now_ns(spin_clock_real()) - begin_ns;
        const double tokens = (double)bench->steps * bench->streams;
        side->tokens_per_s[at / SIDES] = tokens * SPIN_NS_PER_S / (double)ns;
    }
    return status == SPIN_OK ? SPIN_OK : spin_fail(err, status, "a decode step failed");
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(const double *values, uint32_t count)
{
    double sorted[ROUNDS_MAX];
    memcpy(sorted, values, count * sizeof *values);
    qsort(sorted, count, sizeof *sorted, by_value);
    return (sorted[(count - 1) / 2] + sorted[count / 2]) / 2;
}

static void report(const struct bench *bench)
{
    double medians[SIDES];
    for (uint32_t i = 0; i < SIDES; i++) {
        const struct side *side = &bench->sides[i];
        struct spin_sparse_stats stats;
        spin_forward_get_sparse_stats(side->forward, &stats);
        medians[i] = median(side->tokens_per_s, bench->rounds);
        printf("%-8s %8.1f tokens/s, rounds:", names[i], medians[i]);
        for (uint32_t round = 0; round < bench->rounds; round++) {
            printf(" %.1f", side->tokens_per_s[round]);
        }
        printf("; %llu sparse steps, %llu dense fall-backs\n", (unsigned long long)stats.steps,
               (unsigned long long)stats.dense_fallbacks);
    }
    printf("RESULT");
    for (uint32_t i = 1; i < SIDES; i++) {
        printf(" speedup_%s=%.2f", names[i], medians[i] / medians[0]);
    }
    for (uint32_t i = 0; i < SIDES; i++) {
        printf(" %s_tokens_per_s=%.1f", names[i], medians[i]);
    }
    printf("\n");
}

static spin_status open_bench(struct bench *bench, const char *model, uint32_t threads,
                              struct spin_error *err)
{
    SPIN_TRY(spin_model_open(model, &bench->model, err));
    const struct spin_model_config *shape = &bench->model->config;
    bench->tokens_max = bench->context + WARM_STEPS + bench->rounds * bench->steps;
    if (bench->tokens_max > shape->context_max) {
        return spin_fail(err, SPIN_ERR_LIMIT, "%u tokens with all steps: the model was made for %u",
                         bench->tokens_max, shape->context_max);
    }
    bench->ops = spin_ops_best_cpu();
    bench->grid = (struct spin_grid){.layers = shape->layers,
                                     .super_chunk_tokens = SUPER_CHUNK_TOKENS,
                                     .chunk_tokens = CHUNK_TOKENS};
    SPIN_TRY(spin_stream_create_cpu(threads, &bench->stream, err));
    bench->hidden = calloc((uint64_t)SUPER_CHUNK_TOKENS * shape->hidden, sizeof *bench->hidden);
    bench->prompt = calloc(bench->context + STREAMS_MAX, sizeof *bench->prompt);
    if (bench->hidden == NULL || bench->prompt == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "no memory for %u tokens", bench->context);
    }
    for (uint32_t i = 0; i < bench->context + STREAMS_MAX; i++) {
        bench->prompt[i] = (int32_t)(100 + (uint64_t)i * 7919 % (shape->vocab - 200));
    }
    for (uint32_t i = 0; i < SIDES; i++) {
        SPIN_TRY(open_side(bench, i, err));
    }
    return SPIN_OK;
}

static void close_bench(struct bench *bench)
{
    for (uint32_t i = 0; i < SIDES; i++) {
        struct side *side = &bench->sides[i];
        for (uint32_t s = 0; s < bench->streams; s++) {
            spin_kv_close(side->kv, side->steps[s].seq);
        }
        spin_forward_destroy(side->forward);
        spin_kv_destroy(side->kv);
    }
    spin_stream_destroy(bench->stream);
    spin_model_close(bench->model);
    free(bench->hidden);
    free(bench->prompt);
}

static bool read_number(const char *text, uint32_t max, uint32_t *out)
{
    char *end;
    const unsigned long value = strtoul(text, &end, 10);
    *out = (uint32_t)value;
    return *end == '\0' && value >= 1 && value <= max;
}

int main(int argc, char **argv)
{
    static struct bench bench;
    struct spin_error err = {.status = SPIN_OK};
    uint32_t threads;
    if (argc != 7 || !read_number(argv[2], 64, &threads) ||
        !read_number(argv[3], STREAMS_MAX, &bench.streams) ||
        !read_number(argv[4], 1U << 20, &bench.context) ||
        !read_number(argv[5], STEPS_MAX, &bench.steps) ||
        !read_number(argv[6], ROUNDS_MAX, &bench.rounds)) {
        (void)fputs("usage: sparse_bench MODEL THREADS STREAMS CONTEXT STEPS ROUNDS\n", stderr);
        return 2;
    }
    spin_status status = open_bench(&bench, argv[1], threads, &err);
    if (status == SPIN_OK) {
        status = measure(&bench, &err);
    }
    if (status != SPIN_OK) {
        (void)fprintf(stderr, "sparse_bench: %s: %s\n", spin_status_name(status), err.text);
        return 1;
    }
    report(&bench);
    close_bench(&bench);
    return 0;
}
