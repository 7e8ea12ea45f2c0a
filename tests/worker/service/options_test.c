/* The option table against the engine's own defaults, and the choices against what they stand
 * for. */
#include "worker/service/options.h"

#include "base/log.h"
#include "tests/spin_test.h"

static char program[] = "spin-worker";
static char model_flag[] = "--model";
static char model[] = "random:tiny";

static spin_status load(int argc, char **argv, struct spin_worker_options *options,
                        struct spin_error *err)
{
    char *environment[] = {NULL};
    struct spin_config_values *values = NULL;
    bool exit_now = false;
    *options = (struct spin_worker_options){0};
    const spin_status status = spin_config_load(&spin_worker_config_spec, argc, argv, environment,
                                                options, &values, &exit_now, err);
    spin_config_values_destroy(values); /* what follows reads numbers only */
    return status;
}

static void test_defaults_are_the_engines(void **state)
{
    (void)state;
    char *argv[] = {program, model_flag, model, NULL};
    struct spin_worker_options options;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(load(3, argv, &options, &err), &err);
    const struct spin_engine_config got = spin_worker_options_to_engine(&options);
    const struct spin_engine_config wanted = spin_engine_config_default();
    assert_int_equal(got.max_model_len, wanted.max_model_len);
    assert_int_equal(got.max_num_seqs, wanted.max_num_seqs);
    assert_int_equal(got.max_num_batched_tokens, wanted.max_num_batched_tokens);
    assert_int_equal(got.super_chunk_tokens, wanted.super_chunk_tokens);
    assert_int_equal(got.chunk_tokens, wanted.chunk_tokens);
    assert_int_equal(got.max_waiting, wanted.max_waiting);
    assert_int_equal(got.threads, wanted.threads);
    assert_int_equal(got.kv_hbm_bytes, wanted.kv_hbm_bytes);
    assert_int_equal(got.kv_host_bytes, wanted.kv_host_bytes);
    assert_int_equal(got.kv_replacement, wanted.kv_replacement);
    assert_ptr_equal(got.sparse.algorithm, wanted.sparse.algorithm);
    assert_int_equal(got.sparse.budget_tokens, wanted.sparse.budget_tokens);
    assert_int_equal(got.sparse.min_context, wanted.sparse.min_context);
    assert_int_equal(got.sparse.verify, wanted.sparse.verify);
    assert_true(got.gpu_memory_utilization == wanted.gpu_memory_utilization);
    assert_null(got.ops); /* backend_test.c */
    assert_null(got.stream);
    assert_int_equal(options.log_level, SPIN_LOG_INFO);
    assert_true(options.shutdown_grace_ns == 30 * SPIN_NS_PER_S);
}

static void test_choices_mean_what_they_say(void **state)
{
    (void)state;
    char ops_flag[] = "--ops";
    char ref[] = "ref";
    char level_flag[] = "--log-level";
    char trace[] = "trace";
    char *argv[] = {program, model_flag, model, ops_flag, ref, level_flag, trace, NULL};
    struct spin_worker_options options;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(load(7, argv, &options, &err), &err);
    assert_int_equal(options.ops, 2);
    assert_int_equal(options.log_level, SPIN_LOG_TRACE);
}

/* What --sparse-attention names is the algorithm of that name, whatever their order. */
static void test_every_algorithm_is_a_choice(void **state)
{
    (void)state;
    char flag[] = "--sparse-attention";
    for (uint32_t i = 0; i < spin_sparse_algorithm_count; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "%s", spin_sparse_algorithms[i]->name);
        char *argv[] = {program, model_flag, model, flag, name, NULL};
        struct spin_worker_options options;
        struct spin_error err = {0};
        SPIN_EXPECT_OK(load(5, argv, &options, &err), &err);
        const struct spin_engine_config config = spin_worker_options_to_engine(&options);
        assert_ptr_equal(config.sparse.algorithm, spin_sparse_algorithms[i]);
        assert_ptr_equal(config.sparse.algorithm, spin_sparse_find(name));
    }
}

static void test_tiers_and_sparse_options_arrive(void **state)
{
    (void)state;
    char hbm[] = "--kv-hbm-bytes=3MiB";
    char host[] = "--kv-host-bytes=5GiB";
    char replacement[] = "--kv-replacement=bucketed";
    char algorithm[] = "--sparse-attention=quest";
    char budget[] = "--sparse-budget=2048";
    char min_context[] = "--sparse-min-context=0";
    char verify[] = "--sparse-verify";
    char *argv[] = {program,   model_flag, model,       hbm,    host, replacement,
                    algorithm, budget,     min_context, verify, NULL};
    struct spin_worker_options options;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(load(10, argv, &options, &err), &err);
    const struct spin_engine_config config = spin_worker_options_to_engine(&options);
    assert_true(config.kv_hbm_bytes == UINT64_C(3) << 20);
    assert_true(config.kv_host_bytes == UINT64_C(5) << 30);
    assert_int_equal(config.kv_replacement, SPIN_KV_BUCKETED);
    assert_ptr_equal(config.sparse.algorithm, &spin_sparse_quest);
    assert_int_equal(config.sparse.budget_tokens, 2048);
    assert_int_equal(config.sparse.min_context, 0);
    assert_true(config.sparse.verify);
}

static void test_refusals_name_the_option(void **state)
{
    (void)state;
    static const struct {
        const char *flag;
        const char *value;
    } rows[] = {
        {"--max-num-seqs", "0"},       {"--max-num-seqs", "1025"},
        {"--max-num-seqs", "-1"},      {"--super-chunk-tokens", "-1"},
        {"--device", "gpu"},           {"--gpu-memory-utilization", "0"},
        {"--device", "cuda:1"},        {"--gpu-memory-utilization", "1.1"},
        {"--max-waiting", "0"},        {"--ops", "cuda"},
        {"--kv-hbm-bytes", "1 apple"}, {"--shutdown-grace", "x"},
        {"--max-model-len", "524161"}, {"--sparse-attention", "retroinfer"},
        {"--sparse-budget", "524161"}, {"--sparse-min-context", "-1"},
        {"--kv-host-bytes", "-1"},     {"--kv-replacement", "fifo"},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        char flag[64];
        char value[64];
        (void)snprintf(flag, sizeof flag, "%s", rows[i].flag);
        (void)snprintf(value, sizeof value, "%s", rows[i].value);
        char *argv[] = {program, model_flag, model, flag, value, NULL};
        struct spin_worker_options options;
        struct spin_error err = {0};
        SPIN_EXPECT_STATUS(load(5, argv, &options, &err), SPIN_ERR_INVALID);
        assert_non_null(strstr(err.text, rows[i].flag));
    }
    char *no_model[] = {program, NULL};
    struct spin_worker_options options;
    struct spin_error err = {0};
    SPIN_EXPECT_STATUS(load(1, no_model, &options, &err), SPIN_ERR_INVALID);
    assert_non_null(strstr(err.text, "--model"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults_are_the_engines),
        cmocka_unit_test(test_choices_mean_what_they_say),
        cmocka_unit_test(test_every_algorithm_is_a_choice),
        cmocka_unit_test(test_tiers_and_sparse_options_arrive),
        cmocka_unit_test(test_refusals_name_the_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
