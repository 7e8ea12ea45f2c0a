/* usage: kv_metadata [THREADS TRACE...]
 *
 * The tables of the paper's largest case (arXiv 2604.26837: Llama-3.1-70B, 128K tokens, batch 32),
 * by table and policy, beside flat ones; with traces also how residents are scattered, which is
 * what the size of a leaf has to fit. */
#include "bench/kv/accounting.h"
#include "bench/kv/replay.h"
#include "worker/sparse/sparse.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define GB 1e9
#define WARM_STEPS 64u
#define TOKENS (128u << 10)

static const struct spin_kv_layout llama_70b = {
    .layers = 80, .kv_heads = 8, .head_dim = 128, .dtype = SPIN_KV_BF16};

/* Algorithms that the paper runs and this tree does not: pages of any step, as a constant. */
static uint32_t constant(const void *context, uint32_t layer, uint32_t tokens)
{
    (void)layer;
    (void)tokens;
    return *(const uint32_t *)context;
}

/* 1.8 % of 128K in pages of 8, and the first 4 and the last 64 tokens. */
static const uint32_t retroinfer_pages = 295 + 1 + 9;
/* 2,048 tokens in pages of 32, and the open one. */
static const uint32_t seer_pages = 64 + 1;

struct algorithm {
    const char *name;
    struct spin_accounting_case shape;
};

static void print_row(const char *name, uint64_t slot_lru, uint64_t two_level)
{
    printf("  %-44s %12.4f %12.4f\n", name, (double)slot_lru / GB, (double)two_level / GB);
}

static void plan(const struct algorithm *algorithm, struct spin_kv_table_bytes *slot_lru,
                 struct spin_kv_table_bytes *two_level)
{
    struct spin_kv_config config = spin_accounting_config(&algorithm->shape, SPIN_KV_SLOT_LRU);
    spin_kv_plan_tables(&config, slot_lru);
    config.replacement = SPIN_KV_BUCKETED;
    spin_kv_plan_tables(&config, two_level);
}

static void print_algorithm(const struct algorithm *algorithm)
{
    const struct spin_accounting_case *shape = &algorithm->shape;
    const struct spin_kv_config config = spin_accounting_config(shape, SPIN_KV_SLOT_LRU);
    const uint32_t row_pages = shape->tokens / shape->page_tokens;
    struct spin_kv_table_bytes lru;
    struct spin_kv_table_bytes two;
    plan(algorithm, &lru, &two);
    printf(
        "%s: pages of %u tokens; mandatory %u of a row's %u; mandatory + 5x in slabs: %.0f slots "
        "(%.1f %%), a pool of %.1f GB\n",
        algorithm->name, shape->page_tokens,
        shape->demand.mandatory(shape->demand.context, 0, shape->tokens), row_pages,
        spin_accounting_slots(shape), 100 * spin_accounting_slots(shape) / row_pages,
        (double)config.hbm_bytes / GB);
    printf("  %-44s %12s %12s\n", "HBM, GB", "slot_lru", "two-level");
    print_row("directory (GPU meta-partition table)", lru.directory, two.directory);
    print_row("page table (slot_page; leaves, leaf_free)", lru.page_table, two.page_table);
    print_row("stamps", lru.stamps, two.stamps);
    print_row("slab lists", lru.slab_lists, two.slab_lists);
    print_row("sum", spin_accounting_tables(&lru), spin_accounting_tables(&two));
    print_row("(of the slab lists, granted here)", spin_accounting_granted(shape),
              spin_accounting_granted(shape));
    print_row("(lists of a pass: workspace)", lru.lists, two.lists);
    print_row("host: CPU page table", lru.cpu_page_table, two.cpu_page_table);
    print_row("host: CPU partition-offset table", lru.partition_offset, two.partition_offset);
    printf("  %-44s %12.4f\n  %-44s %12.4f\n", "paper flat",
           (double)spin_accounting_paper_flat(shape) / GB, "lean flat, int32 a page",
           (double)spin_accounting_lean_flat(shape) / GB);
}

static void print_paper_fields(void)
{
    printf("paper flat, bytes a page, reconstructed from 100 GB and the case (not published):\n");
    uint32_t sum = 0;
    for (uint32_t i = 0; i < SPIN_PAPER_FIELDS; i++) {
        printf("  %-50s %4u\n", spin_paper_fields[i].name, spin_paper_fields[i].bytes);
        sum += spin_paper_fields[i].bytes;
    }
    printf("  %-50s %4u\n", "sum", sum);
}

/* For each leaf size: leaves with a resident page, and what two levels would cost at the case: if
 * leaves existed on demand alone, at this share; and with a leaf for every slot. */
static void print_leaves(const struct spin_leaf_share *share,
                         const struct spin_accounting_case *shape)
{
    printf("  %6s %10s %13s %24s %16s\n", "leaf", "non-empty", "entries used",
           "the case, on demand", "a leaf a slot");
    for (uint32_t i = 0; i < SPIN_LEAF_SIZES; i++) {
        const double used = (double)share->used[i] / (double)share->leaves[i];
        printf("  %6u %9.1f%% %12.1f%% %21.3f GB %13.3f GB\n", 1u << i, 100 * used,
               100 * (double)share->residents / (double)(share->used[i] << i),
               spin_accounting_leaves(shape, 1u << i, used) / GB,
               spin_accounting_leaves_built(shape, 1u << i) / GB);
    }
}

static spin_status print_trace(struct spin_stream *stream, const char *path,
                               const struct spin_accounting_case *shape, struct spin_error *err)
{
    static const uint32_t bufferings[] = {1, 2, 5};
    struct spin_trace trace;
    SPIN_TRY(spin_trace_open(path, &trace, err));
    spin_status status = SPIN_OK;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(bufferings) && status == SPIN_OK; i++) {
        const struct spin_replay_config config = {.trace = &trace,
                                                  .ops = spin_ops_best_cpu(),
                                                  .stream = stream,
                                                  .replacement = SPIN_KV_SLOT_LRU,
                                                  .buffering = bufferings[i],
                                                  .warm_steps = WARM_STEPS};
        struct spin_leaf_share share = {0};
        struct spin_hit_tally tally;
        status = spin_replay_run(&config, &tally, &share, err);
        if (status == SPIN_OK && share.residents == 0) {
            status = spin_fail(err, SPIN_ERR_INVALID, "%s: no step after the first %u", path,
                               WARM_STEPS);
        }
        if (status == SPIN_OK) {
            printf("trace %s, buffering %ux: %.1f %% of the pages resident\n",
                   trace.shape.algorithm, bufferings[i],
                   100 * (double)share.residents / (double)share.pages);
            print_leaves(&share, shape);
        }
    }
    spin_trace_close(&trace);
    return status;
}

static void conclude(const struct algorithm *algorithm)
{
    struct spin_kv_table_bytes lru;
    struct spin_kv_table_bytes two;
    plan(algorithm, &lru, &two);
    const double two_level = (double)spin_accounting_tables(&two);
    const double slot_lru = (double)spin_accounting_tables(&lru);
    const double paper = (double)spin_accounting_paper_flat(&algorithm->shape);
    const double lean = (double)spin_accounting_lean_flat(&algorithm->shape);
    printf(
        "Leaves: residents lie scattered, so large leaves are mostly empty entries; and a row that "
        "must not run out of leaves has one for every slot, which makes %u pages the cheapest "
        "size here.\n",
        SPIN_LEAF_PAGES);
    printf(
        "What that says: the paper's flat table is %.0f times a lean one, so nearly all that two "
        "levels save against it is saved by dropping fields; against the lean table two levels "
        "save %.1fx, and knowing only what each slot holds (slot_lru) saves %.1fx.\n",
        paper / lean, lean / two_level, lean / slot_lru);
    printf("RESULT two_level_gb=%.3f slot_lru_gb=%.3f vs_paper_flat=%.1f vs_lean_flat=%.2f\n",
           two_level / GB, slot_lru / GB, paper / two_level, lean / two_level);
}

int main(int argc, char **argv)
{
    struct spin_sparse_options shadowkv = spin_sparse_options_default();
    shadowkv.algorithm = &spin_sparse_shadowkv;
    const struct spin_accounting_case base = {.layout = llama_70b, .tokens = TOKENS, .batch = 32};
    struct algorithm algorithms[] = {
        {"ShadowKV, 1.56 %", base}, {"RetroInfer, 1.8 %", base}, {"SeerAttention-R, 2K", base}};
    algorithms[0].shape.page_tokens = algorithms[0].shape.partition_tokens = 8;
    algorithms[0].shape.demand = (struct spin_kv_demand){&shadowkv, spin_sparse_mandatory};
    algorithms[1].shape.page_tokens = algorithms[1].shape.partition_tokens = 8;
    algorithms[1].shape.demand = (struct spin_kv_demand){&retroinfer_pages, constant};
    algorithms[2].shape.page_tokens = algorithms[2].shape.partition_tokens = 32;
    algorithms[2].shape.demand = (struct spin_kv_demand){&seer_pages, constant};

    printf("case: %u layers, %u kv heads, head_dim %u, %u tokens, batch 32\n", llama_70b.layers,
           llama_70b.kv_heads, llama_70b.head_dim, TOKENS);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(algorithms); i++) {
        print_algorithm(&algorithms[i]);
    }
    printf("RetroInfer's partitions have many sizes: its CPU partition-offset table, 8 bytes a "
           "cluster "
           "of 16 tokens, would be %.3f GB on the host.\n",
           (double)spin_accounting_pages(&algorithms[1].shape) / 2 * 8 / GB);
    print_paper_fields();
    struct spin_stream *stream = NULL;
    struct spin_error err;
    spin_status status = SPIN_OK;
    if (argc > 2) {
        status = spin_stream_create_cpu((uint32_t)strtoul(argv[1], NULL, 10), &stream, &err);
    }
    for (int i = 2; i < argc && status == SPIN_OK; i++) {
        status = print_trace(stream, argv[i], &algorithms[0].shape, &err);
    }
    spin_stream_destroy(stream);
    if (status != SPIN_OK) {
        (void)fprintf(stderr, "kv_metadata: %s\n", err.text);
        return 1;
    }
    conclude(&algorithms[0]);
    return 0;
}
