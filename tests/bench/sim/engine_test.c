/* Method: what the simulation's cheap budget says about every length, beside the KV manager's own
 * arithmetic over the real layers; and pools that the engine itself would refuse. */
#include "bench/sim/engine.h"

#include "kvstore/manager/kv.h"
#include "tests/bench/sim/small_table.h"
#include "tests/spin_test.h"

static void check_algorithm(const char *name)
{
    char line[64];
    (void)snprintf(line, sizeof line, "algorithm %s", name);
    char *text = spin_small_table_with(spin_small_table, "algorithm", line);
    struct spin_small_engine small = spin_small_engine_create(text);
    const struct spin_sim_engine *engine = small.engine;
    const struct spin_sparse_options options = {.algorithm = spin_sparse_find(name),
                                                .min_context = engine->config.min_context};
    struct spin_kv_config kv = {0};
    spin_sparse_fill_kv_config(&options, &kv);
    const struct spin_kv_budget real = {.layers = engine->config.layers,
                                        .kv_heads = engine->config.kv_heads,
                                        .page_tokens = kv.page_tokens,
                                        .demand = kv.demand};
    for (uint32_t tokens = 1; tokens <= engine->config.max_model_len; tokens++) {
        assert_int_equal(spin_kv_floor_slabs(&engine->budget, tokens),
                         spin_kv_floor_slabs(&real, tokens));
        assert_int_equal(spin_kv_claim_slabs(&engine->budget, tokens),
                         spin_kv_claim_slabs(&real, tokens));
    }
    spin_small_engine_destroy(&small);
    free(text);
}

static void test_budgets(void **state)
{
    (void)state;
    check_algorithm("dense");
    check_algorithm("quest");
    check_algorithm("shadowkv");
}

static void expect_refused(const char *key, const char *line, const char *says)
{
    char *text = spin_small_table_with(spin_small_table, key, line);
    struct spin_step_times *times = NULL;
    struct spin_sim_engine *engine = NULL;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_step_times_parse(text, strlen(text), &times, &err), &err);
    SPIN_EXPECT_STATUS(spin_sim_engine_create(times, &engine, &err), SPIN_ERR_INVALID);
    if (strstr(err.text, says) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", err.text, says);
    }
    spin_step_times_destroy(times);
    free(text);
}

static void test_refuses(void **state)
{
    (void)state;
    expect_refused("algorithm", "algorithm magic", "algorithm magic");
    expect_refused("kv_blocks", "kv_blocks 62", "kv_blocks 62: a sequence of 8000 tokens needs 63");
    expect_refused("kv_slabs", "kv_slabs 10", "kv_slabs 10");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budgets),
        cmocka_unit_test(test_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
