#include "bench/sim/engine.h"

#include "base/assert.h"
#include "kvstore/manager/kv.h"

#include <stdlib.h>

/* A spin_kv_demand over the tables. */
static uint32_t look_up(const void *context, uint32_t layer, uint32_t tokens)
{
    const struct spin_sim_engine *engine = context;
    SPIN_ASSERT_LE(tokens, engine->config.max_model_len + 1);
    return engine->mandatory[layer >= engine->sparse.algorithm->dense_layers][tokens];
}

/* A step may see one token more than a sequence has room for: its budget is asked before. */
static spin_status fill_tables(struct spin_sim_engine *engine, struct spin_error *err)
{
    const uint32_t layers[2] = {0, engine->sparse.algorithm->dense_layers};
    const uint64_t count = (uint64_t)engine->config.max_model_len + 2;
    for (uint32_t i = 0; i < 2; i++) {
        engine->mandatory[i] = calloc(count, sizeof *engine->mandatory[i]);
        if (engine->mandatory[i] == NULL) {
            return spin_fail(err, SPIN_ERR_NO_MEMORY, "budgets of %u tokens",
                             engine->config.max_model_len);
        }
        for (uint32_t tokens = 0; tokens < count; tokens++) {
            engine->mandatory[i][tokens] =
                spin_sparse_mandatory(&engine->sparse, layers[i], tokens);
        }
    }
    return SPIN_OK;
}

static spin_status make_budget(struct spin_sim_engine *engine, struct spin_error *err)
{
    const struct spin_step_engine *config = &engine->config;
    struct spin_kv_config kv = {0};
    spin_sparse_fill_kv_config(&engine->sparse, &kv);
    engine->budget = (struct spin_kv_budget){.layers = config->layers,
                                             .kv_heads = config->kv_heads,
                                             .page_tokens = kv.page_tokens,
                                             .demand = kv.demand};
    if (engine->sparse.algorithm == &spin_sparse_dense) {
        engine->budget.layers = 1;
        engine->budget.kv_heads = config->kv_heads * config->layers;
        return SPIN_OK;
    }
    engine->budget.demand = (struct spin_kv_demand){.context = engine, .mandatory = look_up};
    return fill_tables(engine, err);
}

static spin_status check_pools(const struct spin_sim_engine *engine, struct spin_error *err)
{
    const struct spin_step_engine *config = &engine->config;
    const uint32_t blocks = spin_kv_blocks_for(config->max_model_len);
    const uint32_t slabs = spin_kv_longest_claim_slabs(&engine->budget, config->max_model_len);
    if (blocks > config->kv_blocks) {
        return spin_fail(err, SPIN_ERR_INVALID, "kv_blocks %u: a sequence of %u tokens needs %u",
                         config->kv_blocks, config->max_model_len, blocks);
    }
    if (slabs > config->kv_slabs) {
        return spin_fail(err, SPIN_ERR_INVALID, "kv_slabs %u: a sequence of %u tokens needs %u",
                         config->kv_slabs, config->max_model_len, slabs);
    }
    return SPIN_OK;
}

static spin_status build(struct spin_sim_engine *engine, struct spin_error *err)
{
    const struct spin_step_engine *config = &engine->config;
    engine->sparse = (struct spin_sparse_options){.algorithm = spin_sparse_find(config->algorithm),
                                                  .budget_tokens = config->budget_tokens,
                                                  .min_context = config->min_context};
    if (engine->sparse.algorithm == NULL) {
        return spin_fail(err, SPIN_ERR_INVALID, "algorithm %s: there is none of this name",
                         config->algorithm);
    }
    SPIN_TRY(spin_sparse_check(&engine->sparse, err));
    SPIN_TRY(make_budget(engine, err));
    SPIN_TRY(check_pools(engine, err));
    engine->replay = config->replay != 0;
    engine->scheduler = (struct spin_scheduler_config){
        .grid = {.layers = config->layers,
                 .super_chunk_tokens = config->super_chunk_tokens,
                 .chunk_tokens = config->chunk_tokens},
        .requests_max = config->max_waiting + config->max_num_seqs,
        .max_num_seqs = config->max_num_seqs,
        .prefill_slots = SPIN_MIN(config->prefill_slots, config->max_num_seqs),
        .max_num_batched_tokens = config->max_num_batched_tokens,
        .output_expected_tokens = config->output_expected_tokens,
        .kv_blocks = config->kv_blocks,
        .kv_slabs = config->kv_slabs,
        .budget = &engine->budget};
    return SPIN_OK;
}

spin_status spin_sim_engine_create(const struct spin_step_times *times,
                                   struct spin_sim_engine **out, struct spin_error *err)
{
    struct spin_sim_engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "engine: %zu bytes", sizeof *engine);
    }
    engine->times = times;
    engine->config = *spin_step_times_engine(times);
    const spin_status status = build(engine, err);
    if (status != SPIN_OK) {
        spin_sim_engine_destroy(engine);
        return status;
    }
    *out = engine;
    return SPIN_OK;
}

void spin_sim_engine_destroy(struct spin_sim_engine *engine)
{
    if (engine != NULL) {
        free(engine->mandatory[0]);
        free(engine->mandatory[1]);
        free(engine);
    }
}
