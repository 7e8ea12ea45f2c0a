/* What an engine runs with: limits, defaults, and what the tiers must hold. */
#include "base/file.h"
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

/* Of each tier by default: weights, activations and others want the rest. */
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
    const char *name;
    uint32_t value;
    uint32_t min;
    uint32_t max;
};

static spin_status check_config(const struct spin_engine_config *config,
                                const struct spin_model_config *shape, struct spin_error *err)
{
    const struct limit limits[] = {
        {"max_model_len", config->max_model_len, 1,
         SPIN_MIN(shape->context_max, SPIN_KV_TOKENS_MAX)},
        {"max_num_seqs", config->max_num_seqs, 1, MAX_NUM_SEQS_MAX},
        {"max_num_batched_tokens", config->max_num_batched_tokens, 1, MAX_NUM_BATCHED_TOKENS_MAX},
        {"super_chunk_tokens", config->super_chunk_tokens, SPIN_BLOCK_TOKENS, SPIN_CONTEXT_MAX},
        {"chunk_tokens", config->chunk_tokens, 1, config->super_chunk_tokens},
        {"max_waiting", config->max_waiting, 1, MAX_WAITING_MAX},
        {"threads", config->threads, 1, THREADS_MAX},
        {"sparse_budget", config->sparse.budget_tokens, 0, SPIN_CONTEXT_MAX},
        {"sparse_min_context", config->sparse.min_context, 0, SPIN_CONTEXT_MAX},
        {"kv_replacement", config->kv_replacement, 0, SPIN_KV_REPLACEMENTS - 1},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(limits); i++) {
        if (limits[i].value < limits[i].min || limits[i].value > limits[i].max) {
            return spin_fail(err, SPIN_ERR_INVALID, "%s %u: must be %u to %u", limits[i].name,
                             limits[i].value, limits[i].min, limits[i].max);
        }
    }
    if (config->super_chunk_tokens % SPIN_BLOCK_TOKENS != 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "super_chunk_tokens %u: must be a multiple of %u",
                         config->super_chunk_tokens, SPIN_BLOCK_TOKENS);
    }
    return SPIN_OK;
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

/* Slabs that no request within max_model_len can do without. Its needs grow with its length, except
 * where an algorithm turns sparse: just before, everything is attended to. */
static uint32_t longest_claim(const struct spin_engine *engine, const struct spin_kv_budget *budget)
{
    const uint32_t longest = engine->config.max_model_len;
    const uint32_t sparse_from = SPIN_MAX(engine->config.sparse.min_context, 2u);
    const uint32_t longest_dense = SPIN_MIN(sparse_from - 1, longest);
    return SPIN_MAX(spin_kv_claim_slabs(budget, longest),
                    spin_kv_claim_slabs(budget, longest_dense));
}

static spin_status resolve_tiers(struct spin_engine *engine, struct spin_error *err)
{
    struct spin_engine_config *config = &engine->config;
    const struct spin_kv_config kv = spin_engine_kv_config(engine);
    const struct spin_kv_budget budget = {.layers = kv.layout.layers,
                                          .kv_heads = kv.layout.kv_heads,
                                          .page_tokens = kv.page_tokens,
                                          .demand = kv.demand};
    const uint64_t rows = (uint64_t)kv.layout.layers * kv.layout.kv_heads;
    engine->slab_bytes = spin_kv_slab_bytes(&kv);
    engine->block_bytes = spin_block_bytes(&kv.layout);
    const uint64_t hbm_whole =
        rows * spin_kv_full_row(&budget, config->max_model_len) * engine->slab_bytes;
    const uint64_t host_whole = spin_kv_blocks_for(config->max_model_len) * engine->block_bytes;
    const uint64_t share = memory_bytes() / MEMORY_SHARE;
    if (config->kv_hbm_bytes == 0) {
        config->kv_hbm_bytes = SPIN_MIN(config->max_num_seqs * hbm_whole, share);
    }
    if (config->kv_host_bytes == 0) {
        config->kv_host_bytes = SPIN_MIN(config->max_num_seqs * host_whole, share);
    }
    const uint64_t claim = longest_claim(engine, &budget) * engine->slab_bytes;
    if (config->kv_hbm_bytes < claim) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "kv_hbm_bytes %" PRIu64 ": a sequence of %u tokens (max_model_len) needs "
                         "%" PRIu64 " bytes of slots with sparse attention '%s'",
                         config->kv_hbm_bytes, config->max_model_len, claim,
                         config->sparse.algorithm->name);
    }
    if (config->kv_host_bytes < host_whole) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "kv_host_bytes %" PRIu64 ": a sequence of %u tokens (max_model_len) needs "
                         "%" PRIu64 " bytes of blocks",
                         config->kv_host_bytes, config->max_model_len, host_whole);
    }
    return SPIN_OK;
}

spin_status spin_engine_resolve_config(struct spin_engine *engine, struct spin_error *err)
{
    struct spin_engine_config *config = &engine->config;
    if (config->ops == NULL) {
        config->ops = spin_ops_best_cpu();
    }
    if (config->max_model_len == 0) {
        config->max_model_len = SPIN_MIN(engine->model->config.context_max, SPIN_KV_TOKENS_MAX);
    }
    if (config->sparse.algorithm == NULL) {
        config->sparse.algorithm = &spin_sparse_dense;
    }
    if (config->threads == 0) {
        config->threads = count_cores();
    }
    SPIN_TRY(check_config(config, &engine->model->config, err));
    SPIN_TRY(resolve_tiers(engine, err));
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
