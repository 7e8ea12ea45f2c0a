/* ops_bench: time per call of the fast CPU ops at SmolLM2-135M's sizes, beside the floor of the
 * machine.
 *
 *   bazel run -c opt //bench/kernels:ops_bench -- [threads [floor]]    floor: only that
 *
 * Method     The floor is the measured read bandwidth of the same threads over 128 MiB: a call
 *            cannot be faster than the bytes it has to read. Weights are taken from 96 MiB in turn,
 *            so that they come from memory, as in a model. A run repeats a call for at least 200
 *            us; 5 runs warm up, 25 count; printed are the median and the distance from the first
 *            to the last decile. */
#include "kernels/ops.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WARM_RUNS 5u
#define RUNS 25u
#define RUN_NS (200 * SPIN_NS_PER_US)
#define READ_BYTES (UINT64_C(128) << 20)
#define WEIGHT_BYTES (UINT64_C(96) << 20)
#define HIDDEN 576u
#define FFN 1536u
#define KV_COLS 192u
#define VOCAB 49152u
#define HEAD_DIM 64u
#define Q_HEADS 9u
#define KV_HEADS 3u
_Static_assert(Q_HEADS *HEAD_DIM == HIDDEN, "the heads make up the hidden state");
#define ROWS_MAX 256u
#define X_VALUES ((uint64_t)ROWS_MAX * FFN)

struct bench {
    struct spin_stream *stream;
    double floor_bytes_per_ns;
    uint8_t *weights;
    uint64_t weight_offset;
    float *x;
    float *y[SPIN_MATMUL_PARTS_MAX];
    uint8_t *workspace;
    /* What the last lines report. */
    double prefill_gops;
    double ref_gops;
    double decode_ns;    /* products of one token */
    double decode_bytes; /* their weights */
};

struct timing {
    double median_ns;
    double spread_ns;
};

typedef void (*call_fn)(struct bench *bench, void *args);

static void fail(const char *what, const struct spin_error *err)
{
    (void)fprintf(stderr, "ops_bench: %s: %s\n", what, err == NULL ? "failed" : err->text);
    (void)fflush(stdout);
    _Exit(1);
}

static void *allocate(struct bench *bench, uint64_t bytes)
{
    void *memory = NULL;
    struct spin_error err;
    if (spin_device_alloc(bench->stream, bytes, &memory, &err) != SPIN_OK) {
        fail("memory", &err);
    }
    return memory;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double run_once(struct bench *bench, call_fn call, void *args)
{
    const struct spin_clock *clock = spin_clock_real();
    const uint64_t start = spin_now_ns(clock);
    uint64_t now;
    uint32_t calls = 0;
    do {
        call(bench, args);
        calls++;
        now = spin_now_ns(clock);
    } while (now - start < RUN_NS);
    return (double)(now - start) / calls;
}

static struct timing measure(struct bench *bench, call_fn call, void *args)
{
    double ns[RUNS];
    for (uint32_t i = 0; i < WARM_RUNS; i++) {
        (void)run_once(bench, call, args);
    }
    for (uint32_t i = 0; i < RUNS; i++) {
        ns[i] = run_once(bench, call, args);
    }
    qsort(ns, RUNS, sizeof ns[0], compare_doubles);
    return (struct timing){ns[RUNS / 2], ns[RUNS * 9 / 10] - ns[RUNS / 10]};
}

/* ---- the floor ---- */

struct read_job {
    const uint8_t *memory;
    uint64_t sums[64];
};

static void read_share(void *context, uint32_t thread, uint32_t threads)
{
    struct read_job *job = context;
    const uint64_t share = READ_BYTES / threads / 64 * 64;
    const uint64_t *words = (const uint64_t *)(const void *)(job->memory + thread * share);
    uint64_t sum[8] = {0};
    for (uint64_t i = 0; i < share / sizeof *words; i += 8) {
        for (uint64_t j = 0; j < 8; j++) {
            sum[j] += words[i + j];
        }
    }
    for (uint64_t j = 0; j < 8; j++) {
        job->sums[thread] += sum[j]; /* keeps the reads from being dropped */
    }
}

static void call_read(struct bench *bench, void *args)
{
    spin_stream_parallel(bench->stream, read_share, args);
}

static void measure_floor(struct bench *bench)
{
    void *memory = allocate(bench, READ_BYTES);
    struct read_job job = {.memory = memory};
    memset(memory, 1, READ_BYTES); /* untouched pages would all be the same zero page */
    const struct timing timing = measure(bench, call_read, &job);
    bench->floor_bytes_per_ns = (double)READ_BYTES / timing.median_ns;
    (void)printf("floor: %.1f GB/s read by %u threads (spread %.0f %%)\n",
                 bench->floor_bytes_per_ns, spin_stream_threads(bench->stream),
                 100 * timing.spread_ns / timing.median_ns);
    spin_device_free(bench->stream, memory);
}

/* `bytes` is what has to be read, `operations` counts multiplications and additions. */
static void report(const struct bench *bench, const char *name, struct timing timing, double bytes,
                   double operations)
{
    (void)printf("%-34s %9.1f us  spread %8.1f  %6.1f GB/s  %7.1f GOP/s  %5.1f %% of floor\n", name,
                 timing.median_ns / 1e3, timing.spread_ns / 1e3, bytes / timing.median_ns,
                 operations / timing.median_ns,
                 100 * bytes / bench->floor_bytes_per_ns / timing.median_ns);
}

/* ---- matmul ---- */

struct matmul_case {
    const char *name;
    enum spin_dtype dtype;
    uint32_t m;
    uint32_t k;
    uint32_t n[SPIN_MATMUL_PARTS_MAX]; /* 0: no such part */
    spin_status (*op)(const struct spin_matmul_args *args, struct spin_stream *stream);
};

static uint64_t case_bytes(const struct matmul_case *c)
{
    return spin_dtype_row_bytes(c->dtype, c->k) * ((uint64_t)c->n[0] + c->n[1] + c->n[2]);
}

static void call_matmul(struct bench *bench, void *context)
{
    const struct matmul_case *c = context;
    struct spin_matmul_args args = {.x = {bench->x, SPIN_DTYPE_F32, c->m, c->k, c->k},
                                    .workspace = bench->workspace};
    if (bench->weight_offset + case_bytes(c) > WEIGHT_BYTES) {
        bench->weight_offset = 0;
    }
    for (uint32_t p = 0; p < SPIN_MATMUL_PARTS_MAX && c->n[p] != 0; p++) {
        args.parts[p].y = (struct spin_matrix){bench->y[p], SPIN_DTYPE_F32, c->m, c->n[p], c->n[p]};
        args.parts[p].weight =
            (struct spin_weight){bench->weights + bench->weight_offset, c->dtype, c->n[p], c->k};
        bench->weight_offset += spin_dtype_row_bytes(c->dtype, c->k) * c->n[p];
        args.part_count++;
    }
    if (c->op(&args, bench->stream) != SPIN_OK) {
        fail(c->name, NULL);
    }
}

static double bench_matmul(struct bench *bench, struct matmul_case c)
{
    const struct timing timing = measure(bench, call_matmul, &c);
    const double outputs = (double)c.n[0] + c.n[1] + c.n[2];
    report(bench, c.name, timing, (double)case_bytes(&c), 2.0 * c.m * c.k * outputs);
    return timing.median_ns;
}

/* Blocks whose scales are ordinary numbers for every format: bytes of 0x2c make F16 of 0.065. */
static void fill_weights(struct bench *bench)
{
    struct spin_rng rng = {1, 0, 0};
    for (uint64_t i = 0; i < WEIGHT_BYTES; i++) {
        bench->weights[i] = (uint8_t)(0x2c ^ ((spin_rng_u32(&rng) & 1u) << 7));
    }
}

/* One layer of a single sequence and the output head: what a decoded token costs in products. */
static void bench_decode(struct bench *bench)
{
    const struct matmul_case cases[] = {
        {"matmul q4_1 m=1 qkv",
         SPIN_DTYPE_Q4_1,
         1,
         HIDDEN,
         {HIDDEN, KV_COLS, KV_COLS},
         spin_matmul_cpu},
        {"matmul q4_1 m=1 o", SPIN_DTYPE_Q4_1, 1, HIDDEN, {HIDDEN}, spin_matmul_cpu},
        {"matmul q4_1 m=1 gate,up", SPIN_DTYPE_Q4_1, 1, HIDDEN, {FFN, FFN}, spin_matmul_cpu},
        {"matmul q4_1 m=1 down", SPIN_DTYPE_Q4_1, 1, FFN, {HIDDEN}, spin_matmul_cpu},
    };
    const uint32_t layers = 30;
    double layer_ns = 0;
    double layer_bytes = 0;
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(cases); i++) {
        layer_ns += bench_matmul(bench, cases[i]);
        layer_bytes += (double)case_bytes(&cases[i]);
    }
    const struct matmul_case head = {
        "matmul q8_0 m=1 lm_head", SPIN_DTYPE_Q8_0, 1, HIDDEN, {VOCAB}, spin_matmul_cpu};
    bench->decode_ns = layers * layer_ns + bench_matmul(bench, head);
    bench->decode_bytes = layers * layer_bytes + (double)case_bytes(&head);
}

static void bench_batches(struct bench *bench)
{
    static const struct {
        const char *name;
        enum spin_dtype dtype;
        uint32_t m;
    } batches[] = {
        {"matmul q4_1 m=8 gate,up", SPIN_DTYPE_Q4_1, 8},
        {"matmul q4_1 m=256 gate,up", SPIN_DTYPE_Q4_1, 256},
        {"matmul q4_0 m=256 gate,up", SPIN_DTYPE_Q4_0, 256},
        {"matmul q8_0 m=256 gate,up", SPIN_DTYPE_Q8_0, 256},
        {"matmul bf16 m=1 gate,up", SPIN_DTYPE_BF16, 1},
        {"matmul bf16 m=256 gate,up", SPIN_DTYPE_BF16, 256},
    };
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(batches); i++) {
        const struct matmul_case c = {batches[i].name, batches[i].dtype, batches[i].m,
                                      HIDDEN,          {FFN, FFN},       spin_matmul_cpu};
        const double ns = bench_matmul(bench, c);
        if (batches[i].m == ROWS_MAX && batches[i].dtype == SPIN_DTYPE_Q4_1) {
            bench->prefill_gops = 2.0 * ROWS_MAX * HIDDEN * 2 * FFN / ns;
        }
    }
    /* The K-quants come in blocks of 256, which 576 is not a multiple of. */
    (void)bench_matmul(bench, (struct matmul_case){"matmul q4_k m=256 512 x 1536 x 2",
                                                   SPIN_DTYPE_Q4_K,
                                                   ROWS_MAX,
                                                   512,
                                                   {FFN, FFN},
                                                   spin_matmul_cpu});
    (void)bench_matmul(bench, (struct matmul_case){"matmul q6_k m=256 512 x 1536 x 2",
                                                   SPIN_DTYPE_Q6_K,
                                                   ROWS_MAX,
                                                   512,
                                                   {FFN, FFN},
                                                   spin_matmul_cpu});
    const double ref_ns = bench_matmul(bench, (struct matmul_case){"matmul_ref q4_1 m=64 gate,up",
                                                                   SPIN_DTYPE_Q4_1,
                                                                   64,
                                                                   HIDDEN,
                                                                   {FFN, FFN},
                                                                   spin_matmul_ref});
    bench->ref_gops = 2.0 * 64 * HIDDEN * 2 * FFN / ref_ns;
}

/* ---- attention ---- */

static void call_attention(struct bench *bench, void *context)
{
    if (spin_attention_cpu(context, bench->stream) != SPIN_OK) {
        fail("attention", NULL);
    }
}

/* `queries` last tokens of one sequence of `length`. */
static void bench_attention(struct bench *bench, const char *name, uint32_t queries,
                            uint32_t length)
{
    const uint32_t pages = (length + SPIN_TILE_TOKENS - 1) / SPIN_TILE_TOKENS;
    const uint32_t first[2] = {0, queries};
    const uint32_t visible[KV_HEADS] = {length, length, length};
    const uint64_t row_offset[KV_HEADS] = {0, pages, (uint64_t)2 * pages};
    struct spin_attention_args args = {
        .out = {bench->y[0], SPIN_DTYPE_F32, queries, HIDDEN, HIDDEN},
        .q = {bench->x, SPIN_DTYPE_F32, queries, HIDDEN, HIDDEN},
        .q_heads = Q_HEADS,
        .scale = 0.125F,
        .spans = {first, 1},
        .visible_max = length,
        .workspace = bench->workspace};
    args.pages.layout =
        (struct spin_kv_layout){1, KV_HEADS, HEAD_DIM, SPIN_KV_BF16, SPIN_SWIZZLE_NONE};
    uint32_t *slots = allocate(bench, (uint64_t)KV_HEADS * pages * sizeof *slots);
    for (uint32_t i = 0; i < KV_HEADS * pages; i++) {
        slots[i] = i;
    }
    const uint64_t pool_bytes = (uint64_t)KV_HEADS * pages * spin_page_bytes(&args.pages.layout, 8);
    uint8_t *pool = allocate(bench, pool_bytes);
    memset(pool, 0x3c, pool_bytes);
    args.pages.pool = pool;
    args.pages.slots = slots;
    args.pages.row_offset = row_offset;
    args.pages.visible = visible;
    args.pages.page_tokens = SPIN_TILE_TOKENS;
    const struct timing timing = measure(bench, call_attention, &args);
    const double seen = (double)queries * (length - (queries - 1) / 2.0);
    report(bench, name, timing, (double)pool_bytes, 4.0 * seen * Q_HEADS * HEAD_DIM);
    spin_device_free(bench->stream, pool);
    spin_device_free(bench->stream, slots);
}

/* ---- Select and Index ---- */

#define CONTEXT_TOKENS 8192u
#define LAYERS 30u
#define SEQUENCES_MAX 8u
#define CONTEXT_BLOCKS (CONTEXT_TOKENS / SPIN_BLOCK_TOKENS)

/* Sequences of 8K tokens in a model of 30 layers: a decode step touches every summary once. Calls
 * walk through the layers, as a step does, so summaries come from memory. */
struct kv_case {
    struct spin_kv_view view;
    struct spin_kv_batch batch;
    struct spin_kv_select_args select;
    struct spin_kv_index_args index;
    uint32_t numbers[SEQUENCES_MAX];
    uint32_t tokens[SEQUENCES_MAX];
    uint32_t blocks[SEQUENCES_MAX * CONTEXT_BLOCKS];
    struct spin_kv_window windows[SEQUENCES_MAX];
    struct spin_kv_range ranges[SEQUENCES_MAX];
};

static void call_select(struct bench *bench, void *context)
{
    struct kv_case *c = context;
    c->select.batch.layer = (c->select.batch.layer + 1) % LAYERS;
    if (spin_kv_select_cpu(&c->select, bench->stream) != SPIN_OK) {
        fail("kv_select", NULL);
    }
}

static void call_index(struct bench *bench, void *context)
{
    struct kv_case *c = context;
    c->index.batch.layer = (c->index.batch.layer + 1) % LAYERS;
    if (spin_kv_index_cpu(&c->index, bench->stream) != SPIN_OK) {
        fail("kv_index", NULL);
    }
}

/* A permutation, as after some hours of service. */
static void fill_kv_blocks(struct kv_case *c, uint32_t count)
{
    struct spin_rng rng = {3, 0, 0};
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t j = spin_rng_below(&rng, i + 1);
        c->blocks[i] = c->blocks[j];
        c->blocks[j] = i;
    }
}

static void setup_kv(struct bench *bench, struct kv_case *c, uint32_t sequences,
                     enum spin_summary summary)
{
    const bool bounds = summary == SPIN_SUMMARY_BOUNDS; /* Quest, else ShadowKV */
    c->view.layout =
        (struct spin_kv_layout){LAYERS, KV_HEADS, HEAD_DIM, SPIN_KV_BF16, SPIN_SWIZZLE_NONE};
    c->view.page_tokens = SPIN_TILE_TOKENS;
    c->view.partition_tokens = bounds ? 16 : 8;
    c->view.summary_bytes = HEAD_DIM * (bounds ? 4 : 2);
    c->view.blocks_max = CONTEXT_BLOCKS;
    c->view.blocks = c->blocks;
    fill_kv_blocks(c, sequences * CONTEXT_BLOCKS);
    const uint32_t partitions = CONTEXT_TOKENS / c->view.partition_tokens;
    for (uint32_t s = 0; s < sequences; s++) {
        c->numbers[s] = s;
        c->tokens[s] = CONTEXT_TOKENS;
        c->windows[s] = bounds ? (struct spin_kv_window){0, partitions - 1, 63}
                               : (struct spin_kv_window){1, partitions - 4, 32};
    }
    const uint64_t bytes =
        (uint64_t)sequences * partitions * LAYERS * KV_HEADS * c->view.summary_bytes;
    uint16_t *summaries = allocate(bench, bytes);
    struct spin_rng rng = {4, 0, 0};
    for (uint64_t i = 0; i < bytes / sizeof *summaries; i++) { /* between 1 and 2 */
        summaries[i] = (uint16_t)(0x3f80 | (spin_rng_u32(&rng) & 0x7f));
    }
    c->view.summaries = (uint8_t *)summaries;
    c->batch = (struct spin_kv_batch){0, sequences, c->numbers, c->tokens, NULL};
}

static void bench_select(struct bench *bench, const char *name, uint32_t sequences,
                         enum spin_summary summary)
{
    struct kv_case c = {0};
    setup_kv(bench, &c, sequences, summary);
    c.select =
        (struct spin_kv_select_args){.view = &c.view,
                                     .batch = c.batch,
                                     .lists.stride = CONTEXT_TOKENS / SPIN_TILE_TOKENS,
                                     .summary = summary,
                                     .q = {bench->x, SPIN_DTYPE_F32, sequences, HIDDEN, HIDDEN},
                                     .q_heads = Q_HEADS,
                                     .scale = 0.125F,
                                     .windows = c.windows};
    const uint64_t rows = (uint64_t)sequences * KV_HEADS;
    c.select.lists.pages = allocate(bench, rows * c.select.lists.stride * sizeof(uint16_t));
    c.select.lists.page_count = allocate(bench, rows * sizeof(uint32_t));
    c.select.workspace = allocate(bench, spin_kv_select_workspace_bytes(&c.select));
    const struct timing timing = measure(bench, call_select, &c);
    const double candidates = c.windows[0].local_begin - c.windows[0].sink_end;
    const double values = (double)rows * candidates * c.view.summary_bytes / 2;
    report(bench, name, timing, values * 2, values * 2 * Q_HEADS / KV_HEADS);
    spin_device_free(bench->stream, c.select.workspace);
    spin_device_free(bench->stream, c.select.lists.page_count);
    spin_device_free(bench->stream, c.select.lists.pages);
    spin_device_free(bench->stream, c.view.summaries);
}

/* What a prefill unit of 512 tokens seals. */
static void bench_index(struct bench *bench, const char *name, enum spin_summary summary)
{
    const uint32_t pages = 512 / SPIN_TILE_TOKENS;
    struct kv_case c = {0};
    setup_kv(bench, &c, 1, summary);
    uint32_t *slots = allocate(bench, (uint64_t)KV_HEADS * pages * sizeof *slots);
    uint16_t *numbers = allocate(bench, (uint64_t)KV_HEADS * pages * sizeof *numbers);
    uint32_t visible[KV_HEADS];
    for (uint32_t i = 0; i < KV_HEADS * pages; i++) {
        slots[i] = i;
        numbers[i] = (uint16_t)(i % pages);
        visible[i / pages] = pages * SPIN_TILE_TOKENS;
    }
    c.tokens[0] = pages * SPIN_TILE_TOKENS;
    c.ranges[0] = (struct spin_kv_range){0, pages};
    c.index = (struct spin_kv_index_args){
        .view = &c.view,
        .batch = c.batch,
        .lists = {.stride = pages, .pages = numbers, .slots = slots, .visible = visible},
        .summary = summary,
        .ranges = c.ranges};
    c.view.pool = allocate(bench, (uint64_t)KV_HEADS * pages * spin_page_bytes(&c.view.layout, 8));
    const struct timing timing = measure(bench, call_index, &c);
    const double keys = 512.0 * KV_HEADS * HEAD_DIM;
    report(bench, name, timing, keys * 2, keys);
    spin_device_free(bench->stream, c.view.pool);
    spin_device_free(bench->stream, slots);
    spin_device_free(bench->stream, numbers);
    spin_device_free(bench->stream, c.view.summaries);
}

static void bench_kv(struct bench *bench)
{
    bench_select(bench, "kv_select mean 1 x 8K", 1, SPIN_SUMMARY_MEAN);
    bench_select(bench, "kv_select mean 8 x 8K", SEQUENCES_MAX, SPIN_SUMMARY_MEAN);
    bench_select(bench, "kv_select bounds 1 x 8K", 1, SPIN_SUMMARY_BOUNDS);
    bench_select(bench, "kv_select bounds 8 x 8K", SEQUENCES_MAX, SPIN_SUMMARY_BOUNDS);
    bench_index(bench, "kv_index mean 512 tokens", SPIN_SUMMARY_MEAN);
    bench_index(bench, "kv_index bounds 512 tokens", SPIN_SUMMARY_BOUNDS);
}

/* ---- the small ops ---- */

static void call_rms_norm(struct bench *bench, void *context)
{
    const uint32_t rows = *(const uint32_t *)context;
    const struct spin_rms_norm_args args = {{bench->y[0], SPIN_DTYPE_F32, rows, HIDDEN, HIDDEN},
                                            {bench->x, SPIN_DTYPE_F32, rows, HIDDEN, HIDDEN},
                                            bench->x,
                                            1e-5F};
    if (spin_rms_norm_cpu(&args, bench->stream) != SPIN_OK) {
        fail("rms_norm", NULL);
    }
}

static void call_swiglu(struct bench *bench, void *context)
{
    const uint32_t rows = *(const uint32_t *)context;
    const struct spin_matrix x = {bench->x, SPIN_DTYPE_F32, rows, FFN, FFN};
    const struct spin_swiglu_args args = {{bench->y[0], SPIN_DTYPE_F32, rows, FFN, FFN}, x, x};
    if (spin_swiglu_cpu(&args, bench->stream) != SPIN_OK) {
        fail("swiglu", NULL);
    }
}

static void bench_small(struct bench *bench)
{
    uint32_t one = 1;
    uint32_t many = ROWS_MAX;
    report(bench, "rms_norm m=1", measure(bench, call_rms_norm, &one), 4.0 * HIDDEN, 4.0 * HIDDEN);
    report(bench, "rms_norm m=256", measure(bench, call_rms_norm, &many), 4.0 * ROWS_MAX * HIDDEN,
           4.0 * ROWS_MAX * HIDDEN);
    report(bench, "swiglu m=1", measure(bench, call_swiglu, &one), 8.0 * FFN, 4.0 * FFN);
    report(bench, "swiglu m=256", measure(bench, call_swiglu, &many), 8.0 * ROWS_MAX * FFN,
           4.0 * ROWS_MAX * FFN);
}

static void setup(struct bench *bench, uint32_t threads)
{
    struct spin_error err;
    if (spin_stream_create_cpu(threads, &bench->stream, &err) != SPIN_OK) {
        fail("stream", &err);
    }
    bench->weights = allocate(bench, WEIGHT_BYTES);
    bench->x = allocate(bench, X_VALUES * sizeof(float));
    bench->workspace = allocate(bench, UINT64_C(8) << 20);
    for (uint32_t p = 0; p < SPIN_MATMUL_PARTS_MAX; p++) {
        bench->y[p] = allocate(bench, X_VALUES * sizeof(float));
    }
    struct spin_rng rng = {2, 0, 0};
    for (uint64_t i = 0; i < X_VALUES; i++) {
        bench->x[i] = (float)spin_rng_normal(&rng);
    }
    fill_weights(bench);
}

static void teardown(struct bench *bench)
{
    spin_device_free(bench->stream, bench->weights);
    spin_device_free(bench->stream, bench->x);
    spin_device_free(bench->stream, bench->workspace);
    for (uint32_t p = 0; p < SPIN_MATMUL_PARTS_MAX; p++) {
        spin_device_free(bench->stream, bench->y[p]);
    }
    spin_stream_destroy(bench->stream);
}

int main(int argc, char **argv)
{
    const uint64_t threads = argc > 1 ? strtoul(argv[1], NULL, 10) : 2;
    if (spin_ops_best_cpu() != &spin_ops_cpu) {
        return 1; /* said why */
    }
    struct bench bench = {0};
    setup(&bench, threads > UINT32_MAX ? 0 : (uint32_t)threads);
    measure_floor(&bench);
    if (argc > 2 && strcmp(argv[2], "floor") == 0) {
        (void)printf("RESULT floor_gbs=%.1f\n", bench.floor_bytes_per_ns);
        teardown(&bench);
        return 0;
    }
    bench_small(&bench);
    bench_attention(&bench, "attention 1 query of 128", 1, 128);
    bench_attention(&bench, "attention 1 query of 4000", 1, 4000);
    bench_attention(&bench, "attention 256 queries of 1024", ROWS_MAX, 1024);
    bench_kv(&bench);
    bench_batches(&bench);
    bench_decode(&bench);
    (void)printf("RESULT floor_gbs=%.1f\n", bench.floor_bytes_per_ns);
    (void)printf("RESULT prefill_products_gops=%.0f\n", bench.prefill_gops);
    (void)printf("RESULT ref_products_gops=%.1f\n", bench.ref_gops);
    (void)printf("RESULT decode_products_us=%.0f\n", bench.decode_ns / 1e3);
    (void)printf("RESULT decode_products_gbs=%.1f\n", bench.decode_bytes / bench.decode_ns);
    teardown(&bench);
    return 0;
}
