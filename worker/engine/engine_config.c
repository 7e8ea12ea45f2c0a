/* What an engine runs with: limits, defaults, and the configurations of its parts. */
#include "worker/engine/engine_internal.h"

#include <sched.h>

#define MAX_NUM_SEQS_MAX 1024u
#define MAX_WAITING_MAX 65536u
#define MAX_NUM_BATCHED_TOKENS_MAX (1u << 20)
#define THREADS_MAX 64u

/* Prompts in prefill at once. Each has the hidden states of a super-chunk; more of them share the
 * same compute, and two long ones, a short one and one about to finish are what fairness needs. */
#define PREFILL_SLOTS 4u

/* bucketed: a bucket is one step, so that the working set of 12 steps is exact and an order by age
 * reaches back 62 steps, five times as far. */
#define KV_BUCKET_SHIFT 0u

/* Rows of one lm_head product: enough to read its weights seldom, few enough that the logits of a
 * large vocabulary stay small. */
#define LOGITS_ROWS_MIN 16u

/* Decode steps that are kept as recordings, where the stream has them: one for each number of rows,
 * and another one where contexts grow past a power of two. */
#define GRAPHS_MAX 128u

/* Of prefill, by what it runs on. A chunk is a unit: long enough to keep the device busy, short
 * enough that nobody waits long for its end; on a GPU 2,048 rows fill it, and a unit of a large
 * model takes some milliseconds. */
struct prefill_sizes {
    uint32_t max_num_batched_tokens;
    uint32_t super_chunk_tokens;
    uint32_t chunk_tokens;
};
static const struct prefill_sizes sizes_on_cpu = {256, 2048, 128};
static const struct prefill_sizes sizes_on_gpu = {2048, 8192, 2048};

struct spin_engine_config spin_engine_config_default(void)
{
    return (struct spin_engine_config){.max_model_len = 0,
                                       .max_num_seqs = 32,
                                       .max_num_batched_tokens = 0,
                                       .super_chunk_tokens = 0,
                                       .chunk_tokens = 0,
                                       .max_waiting = 256,
                                       .threads = 0,
                                       .kv_hbm_bytes = 0,
                                       .kv_host_bytes = 0,
                                       .gpu_memory_utilization = 0.9,
                                       .kv_replacement = SPIN_KV_SLOT_LRU,
                                       .sparse = spin_sparse_options_default(),
                                       .ops = NULL,
                                       .stream = NULL};
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
    if (!(config->gpu_memory_utilization > 0 && config->gpu_memory_utilization <= 1)) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--gpu-memory-utilization %g: must be above 0 and at most 1",
                         config->gpu_memory_utilization);
    }
    return spin_sparse_check(&config->sparse, err);
}

static bool takes_head_dim(const struct spin_ops *ops, uint32_t head_dim)
{
    bool any = true;
    for (uint32_t i = 0; i < SPIN_OPS_HEAD_DIMS; i++) {
        if (ops->head_dims[i] == head_dim) {
            return true;
        }
        any = any && ops->head_dims[i] == 0;
    }
    return any;
}

spin_status spin_engine_check_model(const struct spin_ops *ops, const struct spin_model *model,
                                    struct spin_error *err)
{
    const struct spin_model_config *shape = &model->config;
    const uint32_t group = shape->q_heads / shape->kv_heads;
    if (!takes_head_dim(ops, shape->head_dim)) {
        return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                         "%s has heads of %u elements: the operations '%s' take %u and %u",
                         model->name, shape->head_dim, ops->name, ops->head_dims[0],
                         ops->head_dims[1]);
    }
    if (ops->group_max != 0 && group > ops->group_max) {
        return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                         "%s has %u query heads for each KV head: the operations '%s' take %u at "
                         "most",
                         model->name, group, ops->name, ops->group_max);
    }
    if (ops->vocab_step != 0 && shape->vocab % ops->vocab_step != 0) {
        return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                         "%s has a vocabulary of %u: the operations '%s' take multiples of %u",
                         model->name, shape->vocab, ops->name, ops->vocab_step);
    }
    return SPIN_OK;
}

/* What the operations have no code for. */
static spin_status check_ops(const struct spin_engine_config *config,
                             const struct spin_model *model, struct spin_error *err)
{
    SPIN_TRY(spin_engine_check_model(config->ops, model, err));
    if (config->max_num_seqs > config->ops->decode_rows_max) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--max-num-seqs %u: the operations '%s' take %u at most in a decode step",
                         config->max_num_seqs, config->ops->name, config->ops->decode_rows_max);
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

struct spin_forward_config spin_engine_forward_config(const struct spin_engine *engine)
{
    const struct spin_engine_config *config = &engine->config;
    return (struct spin_forward_config){.model = engine->model,
                                        .ops = config->ops,
                                        .stream = engine->stream,
                                        .kv = engine->kv,
                                        .grid = engine->grid,
                                        .sequences_max = config->max_num_seqs,
                                        .tokens_max = config->max_model_len,
                                        .logits_rows_max = engine->logits_rows,
                                        .graphs_max = GRAPHS_MAX,
                                        .sparse = config->sparse};
}

uint64_t spin_engine_hidden_bytes(const struct spin_engine *engine)
{
    const struct spin_engine_config *config = &engine->config;
    const uint64_t rows = SPIN_MIN(config->super_chunk_tokens, config->max_model_len);
    return rows * engine->model->config.hidden * sizeof(float);
}

static void fill_defaults(struct spin_engine *engine)
{
    struct spin_engine_config *config = &engine->config;
    const bool on_cpu = config->stream == NULL || spin_device_is_host(config->stream);
    const struct prefill_sizes *sizes = on_cpu ? &sizes_on_cpu : &sizes_on_gpu;
    if (config->ops == NULL) {
        config->ops = spin_ops_best_cpu();
    }
    if (config->max_model_len == 0) {
        config->max_model_len = SPIN_MIN(engine->model->config.context_max, SPIN_KV_TOKENS_MAX);
    }
    if (config->max_num_batched_tokens == 0) {
        config->max_num_batched_tokens = sizes->max_num_batched_tokens;
    }
    if (config->super_chunk_tokens == 0) {
        config->super_chunk_tokens = sizes->super_chunk_tokens;
    }
    if (config->chunk_tokens == 0) {
        config->chunk_tokens = SPIN_MIN(sizes->chunk_tokens, config->super_chunk_tokens);
    }
    if (config->sparse.algorithm == NULL) {
        config->sparse.algorithm = &spin_sparse_dense;
    }
    if (config->threads == 0) {
        config->threads = count_cores();
    }
}

spin_status spin_engine_resolve_config(struct spin_engine *engine, struct spin_error *err)
{
    struct spin_engine_config *config = &engine->config;
    fill_defaults(engine);
    SPIN_TRY(check_config(config, &engine->model->config, err));
    SPIN_TRY(check_ops(config, engine->model, err));
    engine->replay =
        config->sparse.algorithm != &spin_sparse_dense || !config->ops->prefill_is_decode;
    engine->prefill_slots = SPIN_MIN(PREFILL_SLOTS, config->max_num_seqs);
    /* Every place is a request that waits or is in flight. */
    engine->requests_max = config->max_waiting + config->max_num_seqs;
    engine->logits_rows =
        SPIN_MIN(SPIN_MAX(config->max_num_seqs, LOGITS_ROWS_MIN), SPIN_LOGITS_ROWS_MAX);
    engine->grid = (struct spin_grid){.layers = engine->model->config.layers,
                                      .super_chunk_tokens = config->super_chunk_tokens,
                                      .chunk_tokens = config->chunk_tokens};
    return SPIN_OK;
}
