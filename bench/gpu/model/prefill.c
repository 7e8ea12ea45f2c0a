/* prefill: a whole prompt: tokens a second, beside the rate of products alone in the same run.
 *
 * Method     A prompt of random tokens goes through the cursor's units, chunk by chunk and layer by
 *            layer, each waited for as the engine does. Three ways in turns, so that a slow moment
 *            falls on all: as it is; without Index and Offload; and, where --slots is above 0, as
 *            it is through an arena. The rate beside it: products of one chunk with the model's own
 *            weights, all layers in turn. Share: operations of the prompt, causal attention
 *            included, over its time, by that rate.
 * Checks     Logits of the last token finite; Index and Offload ran: pages were offloaded. */
#include "base/assert.h"
#include "base/config.h"
#include "base/rng.h"
#include "bench/gpu/model/floor.h"
#include "bench/gpu/model/numbers.h"
#include "bench/gpu/model/rig.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#define ROUNDS_MAX 16u
#define GFLOP 1e9

struct options {
    uint32_t device;
    const char *model;
    const char *algorithm;
    uint32_t tokens;
    uint32_t chunk;
    uint32_t super_chunk;
    uint32_t rounds;
    double slots_factor;
    uint64_t seed;
    uint32_t threads;
};

#define OPTION(n, t, f, d) \
    .name = (n), .type = (t), .offset = offsetof(struct options, f), .default_value = (d)
static const struct spin_option option_table[] = {
    {OPTION("device", SPIN_OPTION_CHOICE, device, "auto"), .choices = SPIN_RIG_DEVICES,
     .help = "Where the model runs."},
    {OPTION("model", SPIN_OPTION_STRING, model, "random:qwen3-14b"), .help = "The model."},
    {OPTION("algorithm", SPIN_OPTION_STRING, algorithm, "shadowkv"),
     .help = "Whose summaries Index makes."},
    {OPTION("tokens", SPIN_OPTION_U32, tokens, "32768"), .min = 1, .max = 1 << 19, .unit = "tokens",
     .help = "The prompt."},
    {OPTION("chunk", SPIN_OPTION_U32, chunk, "2048"), .min = 1, .max = 1 << 16, .unit = "tokens",
     .help = "A unit."},
    {OPTION("super-chunk", SPIN_OPTION_U32, super_chunk, "8192"), .min = 1, .max = 1 << 19,
     .unit = "tokens", .help = "What goes through a layer before the next one."},
    {OPTION("rounds", SPIN_OPTION_U32, rounds, "3"), .min = 1, .max = ROUNDS_MAX,
     .help = "How often each way is taken; medians are printed."},
    {OPTION("slots", SPIN_OPTION_DOUBLE, slots_factor, "6"), .min = 0, .max = 64,
     .help = "Slots of a row, in multiples of what a step reads, for the way through an arena; "
             "0: not that way."},
    {OPTION("seed", SPIN_OPTION_U64, seed, "1"), .help = "Of the prompt."},
    {OPTION("threads", SPIN_OPTION_U32, threads, "16"), .min = 1, .max = 64,
     .help = "Threads of the host."},
};

/* A way to prefill: a manager, a forward pass, and its times. */
struct way {
    const char *name;
    struct spin_rig_kv shape;
    bool without; /* Index and Offload */
    struct spin_kv *kv;
    struct spin_forward *forward;
    double ms[ROUNDS_MAX];
};
#define WAYS 3u

struct bench {
    struct options options;
    struct spin_rig rig;
    struct spin_sparse_options sparse;
    struct spin_grid grid;
    int32_t *tokens;
    float *hidden; /* device: of a super-chunk */
    float *logits; /* host: of a token */
    struct way ways[WAYS];
    uint32_t way_count;
    double gemm_gflops;
    uint32_t failed;
};

static spin_status no_index(const struct spin_kv_index_args *args, struct spin_stream *stream)
{
    (void)args;
    (void)stream;
    return SPIN_OK;
}

static spin_status no_offload(const struct spin_kv_offload_args *args, struct spin_stream *stream)
{
    (void)args;
    (void)stream;
    return SPIN_OK;
}

/* --- products alone --- */

static struct spin_matmul_args product(const struct bench *bench, uint32_t layer, void *x, void *y,
                                       void *workspace)
{
    const struct spin_model *model = bench->rig.model;
    const uint32_t rows = bench->grid.chunk_tokens;
    const enum spin_dtype dtype = bench->rig.ops.activation_dtype;
    const struct spin_weight *weight = &model->layers[layer].gate;
    struct spin_matmul_args args = {
        .x =
            {.data = x, .dtype = dtype, .rows = rows, .cols = weight->cols, .stride = weight->cols},
        .part_count = 1,
        .workspace = workspace,
    };
    args.parts[0] = (struct spin_matmul_part){
        .y =
            {.data = y, .dtype = dtype, .rows = rows, .cols = weight->rows, .stride = weight->rows},
        .weight = *weight,
    };
    return args;
}

static spin_status time_products(struct bench *bench, void *x, void *y, void *workspace)
{
    const uint32_t layers = bench->rig.model->config.layers;
    double ms[ROUNDS_MAX + 1];
    for (uint32_t round = 0; round < bench->options.rounds + 1; round++) { /* the first warms up */
        SPIN_TRY(spin_rig_sync(&bench->rig));
        const double begun_ms = spin_rig_now_ms();
        for (uint32_t layer = 0; layer < layers; layer++) {
            const struct spin_matmul_args args = product(bench, layer, x, y, workspace);
            SPIN_TRY(bench->rig.ops.matmul(&args, bench->rig.stream));
        }
        SPIN_TRY(spin_rig_sync(&bench->rig));
        ms[round] = spin_rig_now_ms() - begun_ms;
    }
    const struct spin_weight *weight = &bench->rig.model->layers[0].gate;
    const double flops =
        2.0 * layers * bench->grid.chunk_tokens * (double)weight->rows * weight->cols;
    bench->gemm_gflops = flops / GFLOP / spin_quantile(ms + 1, bench->options.rounds, 0.5) * 1e3;
    printf("products of %u rows with %u x %u weights: %.1f TFLOP/s\n", bench->grid.chunk_tokens,
           weight->rows, weight->cols, bench->gemm_gflops / 1e3);
    (void)fflush(stdout);
    return SPIN_OK;
}

/* Random bits of the activations' type, not zeros: a chip multiplies those faster. */
static spin_status fill_random(struct bench *bench, void *device, uint64_t values)
{
    const uint64_t bytes = values * (bench->rig.is_cuda ? sizeof(uint16_t) : sizeof(float));
    uint8_t *host = malloc(bytes + sizeof(uint32_t));
    if (host == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    struct spin_rng rng = {.seed = bench->options.seed};
    for (uint64_t i = 0; i < values; i++) {
        const float value = (float)(2 * spin_rng_uniform(&rng) - 1);
        if (bench->rig.is_cuda) {
            ((uint16_t *)(void *)host)[i] = spin_bf16_from_f32(value);
        } else {
            ((float *)(void *)host)[i] = value;
        }
    }
    const spin_status status = spin_device_write(bench->rig.stream, device, host, bytes);
    free(host);
    return status;
}

static spin_status measure_products(struct bench *bench, struct spin_error *err)
{
    const struct spin_model_config *shape = &bench->rig.model->config;
    const uint64_t rows = bench->grid.chunk_tokens;
    struct spin_stream *stream = bench->rig.stream;
    const struct spin_matmul_args args = product(bench, 0, NULL, NULL, NULL);
    void *x = NULL;
    void *y = NULL;
    void *workspace = NULL;
    spin_status status = spin_device_alloc(stream, rows * shape->hidden * sizeof(float), &x, err);
    SPIN_TRY_GOTO(status, status, out);
    SPIN_TRY_GOTO(status, spin_device_alloc(stream, rows * shape->ffn * sizeof(float), &y, err),
                  out);
    SPIN_TRY_GOTO(
        status,
        spin_device_alloc(stream, bench->rig.ops.matmul_workspace_bytes(&args), &workspace, err),
        out);
    status = fill_random(bench, x, rows * shape->hidden);
    if (status == SPIN_OK) {
        status = time_products(bench, x, y, workspace);
    }
    if (status != SPIN_OK) {
        (void)spin_fail(err, status, "products of %u rows failed", bench->grid.chunk_tokens);
    }
out:
    spin_device_free(stream, x);
    spin_device_free(stream, y);
    spin_device_free(stream, workspace);
    return status;
}

/* --- prompts --- */

static spin_status open_way(struct bench *bench, struct way *way, struct spin_error *err)
{
    const struct spin_kv_config config = spin_rig_kv_config(&bench->rig, &way->shape);
    SPIN_TRY(spin_kv_create(&config, bench->rig.stream, &way->kv, err));
    const struct spin_forward_config forward = {
        .model = bench->rig.model,
        .ops = &bench->rig.ops,
        .stream = bench->rig.stream,
        .kv = way->kv,
        .grid = bench->grid,
        .sequences_max = 1,
        .tokens_max = bench->options.tokens,
        .logits_rows_max = 1,
        .sparse = bench->sparse,
    };
    return spin_forward_create(&forward, &way->forward, err);
}

static spin_status run_units(struct bench *bench, const struct way *way, spin_kv_seq seq)
{
    struct spin_cursor cursor = spin_cursor_start(&bench->grid, bench->options.tokens);
    while (!spin_cursor_done(&cursor)) {
        const struct spin_forward_unit unit = {
            .seq = seq, .unit = cursor.unit, .tokens = bench->tokens, .hidden = bench->hidden};
        SPIN_TRY(spin_forward_prefill(way->forward, &unit));
        SPIN_TRY(spin_rig_sync(&bench->rig));
        spin_cursor_advance(&bench->grid, &cursor);
    }
    return SPIN_OK;
}

static spin_status check_last(struct bench *bench, const struct way *way)
{
    const struct spin_model_config *shape = &bench->rig.model->config;
    const uint32_t last = (bench->options.tokens - 1) % bench->grid.super_chunk_tokens;
    const float *logits = NULL;
    SPIN_TRY(spin_forward_logits(way->forward, bench->hidden + (uint64_t)last * shape->hidden, 1,
                                 &logits));
    SPIN_TRY(
        spin_device_read(bench->rig.stream, bench->logits, logits, shape->vocab * sizeof *logits));
    SPIN_TRY(spin_rig_sync(&bench->rig));
    bool finite = true;
    for (uint32_t i = 0; i < shape->vocab; i++) {
        finite = finite && isfinite(bench->logits[i]);
    }
    if (!finite) {
        bench->failed++;
        printf("CHECK BAD %s: logits are finite\n", way->name);
    }
    return SPIN_OK;
}

static spin_status run_prompt(struct bench *bench, struct way *way, double *ms)
{
    spin_kv_seq seq;
    bench->rig.ops.kv_index = way->without ? no_index : bench->rig.ops.kv_index;
    bench->rig.ops.kv_offload = way->without ? no_offload : bench->rig.ops.kv_offload;
    SPIN_TRY(spin_kv_open(way->kv, &seq));
    spin_status status = spin_kv_reserve(way->kv, seq, bench->options.tokens);
    const double begun_ms = spin_rig_now_ms();
    if (status == SPIN_OK) {
        status = spin_kv_activate(way->kv, seq, bench->options.tokens, 0);
    }
    if (status == SPIN_OK) {
        status = run_units(bench, way, seq);
    }
    *ms = spin_rig_now_ms() - begun_ms;
    if (status == SPIN_OK && !way->without) {
        status = check_last(bench, way);
    }
    spin_kv_close(way->kv, seq);
    bench->rig.ops = *bench->rig.all_ops;
    return status;
}

/* Round 0 warms up. */
static spin_status run_rounds(struct bench *bench, struct spin_error *err)
{
    for (uint32_t round = 0; round <= bench->options.rounds; round++) {
        for (uint32_t i = 0; i < bench->way_count; i++) {
            struct way *way = &bench->ways[i];
            double ms = 0;
            const spin_status status = run_prompt(bench, way, &ms);
            if (status != SPIN_OK) {
                return spin_fail(err, status, "%s: a prompt of %u tokens failed", way->name,
                                 bench->options.tokens);
            }
            printf("round %u %-18s %9.1f ms, %8.0f tokens/s\n", round, way->name, ms,
                   1e3 * bench->options.tokens / ms);
            (void)fflush(stdout);
            if (round > 0) {
                way->ms[round - 1] = ms;
            }
        }
    }
    return SPIN_OK;
}

static void report(struct bench *bench)
{
    const struct spin_model_config *shape = &bench->rig.model->config;
    const uint32_t tokens = bench->options.tokens;
    const uint32_t rounds = bench->options.rounds;
    const double linear = spin_floor_prefill_linear(shape, tokens) / GFLOP;
    const double attention = spin_floor_prefill_attention(shape, tokens) / GFLOP;
    double ms[WAYS] = {0};
    for (uint32_t i = 0; i < bench->way_count; i++) {
        const struct way *way = &bench->ways[i];
        ms[i] = spin_quantile(bench->ways[i].ms, rounds, 0.5);
        const double gflops = (linear + attention) / ms[i] * 1e3;
        printf("RESULT prefill way=%s tokens=%u chunk=%u ms=%.2f tokens_per_s=%.1f tflops=%.5f "
               "gemm_tflops=%.5f share=%.3f attention_flops_share=%.3f\n",
               way->name, tokens, bench->grid.chunk_tokens, ms[i], 1e3 * tokens / ms[i],
               gflops / 1e3, bench->gemm_gflops / 1e3, gflops / bench->gemm_gflops,
               attention / (linear + attention));
    }
    printf("RESULT prefill_index_offload ms=%.2f share=%.4f\n", ms[0] - ms[1],
           (ms[0] - ms[1]) / ms[0]);
    struct spin_kv_stats stats;
    spin_kv_get_stats(bench->ways[0].kv, &stats);
    if (stats.pages_offloaded == 0) {
        bench->failed++;
        printf("CHECK BAD pages were offloaded\n");
    }
}

/* --- the program --- */

static spin_status open_bench(struct bench *bench, struct spin_error *err)
{
    const struct options *options = &bench->options;
    bench->sparse = (struct spin_sparse_options){.algorithm = spin_sparse_find(options->algorithm),
                                                 .min_context = 1};
    if (bench->sparse.algorithm == NULL) {
        return spin_fail(err, SPIN_ERR_INVALID, "--algorithm: no algorithm '%s'",
                         options->algorithm);
    }
    SPIN_TRY(spin_rig_open(&bench->rig, options->device, options->model, options->threads, err));
    const struct spin_model_config *shape = &bench->rig.model->config;
    bench->grid =
        (struct spin_grid){.layers = shape->layers,
                           .super_chunk_tokens = options->super_chunk,
                           .chunk_tokens = SPIN_MIN(options->chunk, options->super_chunk)};
    bench->tokens = calloc(options->tokens, sizeof *bench->tokens);
    bench->logits = calloc(shape->vocab, sizeof *bench->logits);
    if (bench->tokens == NULL || bench->logits == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "a prompt of %u tokens", options->tokens);
    }
    struct spin_rng rng = {.seed = options->seed};
    for (uint32_t i = 0; i < options->tokens; i++) {
        bench->tokens[i] = (int32_t)spin_rng_below(&rng, shape->vocab);
    }
    void *hidden = NULL;
    SPIN_TRY(spin_device_alloc(bench->rig.stream,
                               (uint64_t)options->super_chunk * shape->hidden * sizeof(float),
                               &hidden, err));
    bench->hidden = hidden;
    printf("device %s, seed %" PRIu64 ", %u tokens in chunks of %u, super-chunks of %u\n",
           spin_device_name(bench->rig.stream), options->seed, options->tokens,
           bench->grid.chunk_tokens, options->super_chunk);
    return SPIN_OK;
}

static spin_status open_ways(struct bench *bench, struct spin_error *err)
{
    const struct spin_rig_kv resident = {
        .sparse = &bench->sparse, .sequences = 1, .tokens_max = bench->options.tokens};
    bench->ways[0] = (struct way){.name = "resident", .shape = resident};
    bench->ways[1] = (struct way){.name = "without_index", .shape = resident, .without = true};
    bench->ways[2] = (struct way){.name = "arena", .shape = resident};
    bench->ways[2].shape.slots_factor = bench->options.slots_factor;
    bench->way_count = bench->options.slots_factor > 0 ? WAYS : WAYS - 1;
    for (uint32_t i = 0; i < bench->way_count; i++) {
        SPIN_TRY(open_way(bench, &bench->ways[i], err));
    }
    return SPIN_OK;
}

static void close_bench(struct bench *bench)
{
    for (uint32_t i = 0; i < bench->way_count; i++) {
        spin_forward_destroy(bench->ways[i].forward);
        spin_kv_destroy(bench->ways[i].kv);
    }
    if (bench->rig.stream != NULL) {
        spin_device_free(bench->rig.stream, bench->hidden);
    }
    spin_rig_close(&bench->rig);
    free(bench->tokens);
    free(bench->logits);
}

static spin_status run(struct bench *bench, struct spin_error *err)
{
    SPIN_TRY(open_bench(bench, err));
    SPIN_TRY(measure_products(bench, err));
    SPIN_TRY(open_ways(bench, err));
    SPIN_TRY(run_rounds(bench, err));
    report(bench);
    return SPIN_OK;
}

int main(int argc, char **argv)
{
    static struct bench bench;
    static const struct spin_config_spec spec = {
        .program = "prefill",
        .synopsis = "",
        .about = "Times a whole prompt, beside the rate of products alone.",
        .options = option_table,
        .option_count = SPIN_ARRAY_COUNT(option_table),
    };
    char *const no_environment[] = {NULL};
    struct spin_config_values *values = NULL;
    struct spin_error err = {.status = SPIN_OK};
    bool is_done = false;
    spin_status status = spin_config_load(&spec, argc, argv, no_environment, &bench.options,
                                          &values, &is_done, &err);
    if (status == SPIN_OK && !is_done) {
        status = run(&bench, &err);
        close_bench(&bench);
    }
    spin_config_values_destroy(values);
    if (status != SPIN_OK) {
        (void)fprintf(stderr, "prefill: %s: %s\n", spin_status_name(status), err.text);
        return 1;
    }
    return bench.failed == 0 ? 0 : 1;
}
