/* What an engine runs with: limits, defaults, and what the tiers must hold. */
#include "base/file.h"
#include "base/log.h"
#include "worker/engine/engine_internal.h"

#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#define MAX_NUM_SEQS_MAX 1024u
#define MAX_WAITING_MAX 65536u
#define MAX_NUM_BATCHED_TOKENS_MAX (1u << 20)
#define THREADS_MAX 64u

/* Prompts in prefill at once. Each has the hidden states of a super-chunk; more of them share the
 * same compute, and two long ones, a short one and one about to finish are what fairness needs. */
#define PREFILL_SLOTS 4u

/* Of the memory, for each tier by default: weights, activations and others want the rest. */
#define MEMORY_SHARE 8u

/* bucketed: a bucket is one step, so that the working set of 12 steps is exact and an order by age
 * reaches back 62 steps, five times as far. */
#define KV_BUCKET_SHIFT 0u

/* Rows of one lm_head product: enough to read its weights seldom, few enough that the logits of a
 * large vocabulary stay small. */
#define LOGITS_ROWS_MIN 16u
#define LOGITS_ROWS_MAX 64u

struct spin_engine_config spin_engine_config_default(void)
{
    return (struct spin_engine_config){.max_model_len = 0,
                                       .max_num_seqs = 32,
                                       .max_num_batched_tokens = 256,
                                       .super_chunk_tokens = 2048,
                                       .chunk_tokens = 128,
                                       .max_waiting = 256,
                                       .threads = 0,
                                       .kv_hbm_bytes = 0,
                                       .kv_host_bytes = 0,
                                       .kv_replacement = SPIN_KV_SLOT_LRU,
                                       .sparse = spin_sparse_options_default(),
                                       .ops = NULL};
}

struct limit {
    const char *name; /* the worker's option */
    uint32_t value;
    uint32_t min;
    uint32_t max;
};

static spin_status check_config(const struct spin_engine_config *config,
                                const struct spin_model_config *shape, struct spin_error *err)
{
    const struct limit limits[] = {
        {"max-model-len", config->max_model_len, 1,
         SPIN_MIN(shape->context_max, SPIN_KV_TOKENS_MAX)},
        {"max-num-seqs", config->max_num_seqs, 1, MAX_NUM_SEQS_MAX},
        {"max-num-batched-tokens", config->max_num_batched_tokens, 1, MAX_NUM_BATCHED_TOKENS_MAX},
        {"super-chunk-tokens", config->super_chunk_tokens, SPIN_BLOCK_TOKENS, SPIN_CONTEXT_MAX},
        {"prefill-chunk-tokens", config->chunk_tokens, 1, config->super_chunk_tokens},
        {"max-waiting", config->max_waiting, 1, MAX_WAITING_MAX},
        {"threads", config->threads, 1, THREADS_MAX},
        {"sparse-budget", config->sparse.budget_tokens, 0, SPIN_CONTEXT_MAX},
        {"sparse-min-context", config->sparse.min_context, 0, SPIN_CONTEXT_MAX},
        {"kv-replacement", config->kv_replacement, 0, SPIN_KV_REPLACEMENTS - 1},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(limits); i++) {
        if (limits[i].value < limits[i].min || limits[i].value > limits[i].max) {
            return spin_fail(err, SPIN_ERR_INVALID, "--%s %u: must be %u to %u", limits[i].name,
                             limits[i].value, limits[i].min, limits[i].max);
        }
    }
    if (config->super_chunk_tokens % SPIN_BLOCK_TOKENS != 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "--super-chunk-tokens %u: must be a multiple of %u",
                         config->super_chunk_tokens, SPIN_BLOCK_TOKENS);
    }
    return spin_sparse_check(&config->sparse, err);
}

/* The cores that this process may use: a container's share, not the machine's. */
static uint32_t count_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) {
        return 1;
    }
    return (uint32_t)SPIN_MIN(SPIN_MAX(CPU_COUNT(&set), 1), (int)THREADS_MAX);
}

/* The machine's memory, or the container's limit where that is lower. */
static uint64_t memory_bytes(void)
{
    const uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    char *text = NULL;
    uint64_t text_bytes = 0;
    if (spin_file_read("/sys/fs/cgroup/memory.max", 64, &text, &text_bytes, NULL) != SPIN_OK) {
        return machine;
    }
    char *end = NULL;
    const uint64_t limit = strtoull(text, &end, 10);
    const bool is_number = end != text; /* "max": no limit */
    free(text);
    return is_number ? SPIN_MIN(limit, machine) : machine;
}

static struct spin_kv_layout layout_of(const struct spin_engine *engine)
{
    const struct spin_model_config *shape = &engine->model->config;
    return (struct spin_kv_layout){.layers = shape->layers,
                                   .kv_heads = shape->kv_heads,
                                   .head_dim = shape->head_dim,
                                   .dtype = SPIN_KV_BF16,
                                   .swizzle = engine->config.ops->swizzle};
}

struct spin_kv_config spin_engine_kv_config(const struct spin_engine *engine)
{
    const struct spin_engine_config *config = &engine->config;
    struct spin_kv_config kv = {.layout = layout_of(engine),
                                .ops = config->ops,
                                .hbm_bytes = config->kv_hbm_bytes,
                                .host_bytes = config->kv_host_bytes,
                                .sequences_max = config->max_num_seqs,
                                .tokens_max = config->max_model_len,
                                .replacement = config->kv_replacement,
                                .bucket_shift = KV_BUCKET_SHIFT};
    spin_sparse_fill_kv_config(&config->sparse, &kv);
    return kv;
}

/* What decides how large the tiers are. */
struct tiers {
    struct spin_kv_budget budget;
    uint64_t column_bytes; /* a slab of every row */
    uint64_t memory_bytes;
    uint64_t share_bytes; /* of a tier whose size was not given */
};

static struct tiers tiers_of(struct spin_engine *engine)
{
    const struct spin_kv_config kv = spin_engine_kv_config(engine);
    engine->slab_bytes = spin_kv_slab_bytes(&kv);
    engine->block_bytes = spin_block_bytes(&kv.layout);
    const uint64_t memory =
        engine->config.memory_bytes != 0 ? engine->config.memory_bytes : memory_bytes();
    return (struct tiers){.budget = {.layers = kv.layout.layers,
                                     .kv_heads = kv.layout.kv_heads,
                                     .page_tokens = kv.page_tokens,
                                     .demand = kv.demand},
                          .column_bytes =
                              (uint64_t)kv.layout.layers * kv.layout.kv_heads * engine->slab_bytes,
                          .memory_bytes = memory,
                          .share_bytes = memory / MEMORY_SHARE};
}

/* Slots that no sequence within `longest` tokens can do without. Its needs grow with its length,
 * except where an algorithm turns sparse: just before, everything is attended to. */
static uint64_t hbm_needed(const struct spin_engine *engine, const struct tiers *tiers,
                           uint32_t longest)
{
    const uint32_t sparse_from = SPIN_MAX(engine->config.sparse.min_context, 2u);
    const uint32_t longest_dense = SPIN_MIN(sparse_from - 1, longest);
    const uint32_t slabs = SPIN_MAX(spin_kv_claim_slabs(&tiers->budget, longest),
                                    spin_kv_claim_slabs(&tiers->budget, longest_dense));
    return slabs * engine->slab_bytes;
}

static uint64_t host_needed(const struct spin_engine *engine, uint32_t longest)
{
    return spin_kv_blocks_for(longest) * engine->block_bytes;
}

/* A length that nobody asked for gives way to the tiers. */
static spin_status cap_model_len(struct spin_engine *engine, const struct tiers *tiers,
                                 struct spin_error *err)
{
    struct spin_engine_config *config = &engine->config;
    const uint64_t hbm = config->kv_hbm_bytes != 0 ? config->kv_hbm_bytes : tiers->share_bytes;
    const uint64_t host = config->kv_host_bytes != 0 ? config->kv_host_bytes : tiers->share_bytes;
    const uint32_t wanted = config->max_model_len;
    uint32_t fits = 0;
    for (uint32_t above = wanted + 1; above - fits > 1;) {
        const uint32_t tokens = fits + (above - fits) / 2;
        if (hbm_needed(engine, tiers, tokens) <= hbm && host_needed(engine, tokens) <= host) {
            fits = tokens;
        } else {
            above = tokens;
        }
    }
    if (fits == 0) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--kv-hbm-bytes %" PRIu64 ", --kv-host-bytes %" PRIu64
                         ": too small for a sequence of any length",
                         hbm, host);
    }
    if (fits < wanted) {
        SPIN_WARN("sequences are shorter than the model allows: max_model_len=%u model=%u "
                  "kv_hbm_bytes=%" PRIu64 " kv_host_bytes=%" PRIu64,
                  fits, wanted, hbm, host);
    }
    config->max_model_len = fits;
    return SPIN_OK;
}

/* Sizes that were not given: room for max_num_seqs whole sequences, or a share of the memory; more
 * than that where one sequence needs it. */
static spin_status fill_tiers(struct spin_engine *engine, const struct tiers *tiers,
                              struct spin_error *err)
{
    struct spin_engine_config *config = &engine->config;
    const uint32_t longest = config->max_model_len;
    const uint64_t hbm = hbm_needed(engine, tiers, longest);
    const uint64_t host = host_needed(engine, longest);
    const uint64_t whole = spin_kv_full_row(&tiers->budget, longest) * tiers->column_bytes;
    uint64_t taken = 0;
    if (config->kv_hbm_bytes == 0) {
        config->kv_hbm_bytes =
            SPIN_MIN(config->max_num_seqs * whole, SPIN_MAX(tiers->share_bytes, hbm));
        taken += config->kv_hbm_bytes;
    }
    if (config->kv_host_bytes == 0) {
        config->kv_host_bytes =
            SPIN_MIN(config->max_num_seqs * host, SPIN_MAX(tiers->share_bytes, host));
        taken += config->kv_host_bytes;
    }
    if (taken > tiers->memory_bytes / 2) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--max-model-len %u: a sequence needs %" PRIu64 " bytes of slots and "
                         "%" PRIu64 " of blocks; tiers without a size (--kv-hbm-bytes, "
                         "--kv-host-bytes) take half of %" PRIu64 " at most",
                         longest, hbm, host, tiers->memory_bytes);
    }
    return SPIN_OK;
}

static spin_status check_tiers(const struct spin_engine *engine, const struct tiers *tiers,
                               struct spin_error *err)
{
    const struct spin_engine_config *config = &engine->config;
    const uint32_t longest = config->max_model_len;
    const uint64_t hbm = hbm_needed(engine, tiers, longest);
    const uint64_t host = host_needed(engine, longest);
    if (config->kv_hbm_bytes < hbm) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--kv-hbm-bytes %" PRIu64 ": a sequence of %u tokens (--max-model-len) "
                         "needs %" PRIu64 " bytes of slots with --sparse-attention %s",
                         config->kv_hbm_bytes, longest, hbm, config->sparse.algorithm->name);
    }
    if (config->kv_host_bytes < host) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--kv-host-bytes %" PRIu64 ": a sequence of %u tokens (--max-model-len) "
                         "needs %" PRIu64 " bytes of blocks",
                         config->kv_host_bytes, longest, host);
    }
    return SPIN_OK;
}

static spin_status resolve_tiers(struct spin_engine *engine, bool length_given,
                                 struct spin_error *err)
{
    const struct tiers tiers = tiers_of(engine);
    if (!length_given) {
        SPIN_TRY(cap_model_len(engine, &tiers, err));
    }
    SPIN_TRY(fill_tiers(engine, &tiers, err));
    return check_tiers(engine, &tiers, err);
}

spin_status spin_engine_resolve_config(struct spin_engine *engine, struct spin_error *err)
{
    struct spin_engine_config *config = &engine->config;
    if (config->ops == NULL) {
        config->ops = spin_ops_best_cpu();
    }
    const bool length_given = config->max_model_len != 0;
    if (!length_given) {
        config->max_model_len = SPIN_MIN(engine->model->config.context_max, SPIN_KV_TOKENS_MAX);
    }
    if (config->sparse.algorithm == NULL) {
        config->sparse.algorithm = &spin_sparse_dense;
    }
    if (config->threads == 0) {
        config->threads = count_cores();
    }
    SPIN_TRY(check_config(config, &engine->model->config, err));
    SPIN_TRY(resolve_tiers(engine, length_given, err));
    engine->replay = config->sparse.algorithm != &spin_sparse_dense;
    engine->prefill_slots = SPIN_MIN(PREFILL_SLOTS, config->max_num_seqs);
    /* Every place is a request that waits or is in flight. */
    engine->requests_max = config->max_waiting + config->max_num_seqs;
    engine->logits_rows =
        SPIN_MIN(SPIN_MAX(config->max_num_seqs, LOGITS_ROWS_MIN), LOGITS_ROWS_MAX);
    engine->grid = (struct spin_grid){.layers = engine->model->config.layers,
                                      .super_chunk_tokens = config->super_chunk_tokens,
                                      .chunk_tokens = config->chunk_tokens};
    return SPIN_OK;
}
