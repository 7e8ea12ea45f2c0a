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
    struct spin_engine_config got;
    SPIN_EXPECT_OK(spin_worker_options_to_engine(&options, &got, &err), &err);
    const struct spin_engine_config wanted = spin_engine_config_default();
    assert_int_equal(got.max_model_len, wanted.max_model_len);
    assert_int_equal(got.max_num_seqs, wanted.max_num_seqs);
    assert_int_equal(got.max_num_batched_tokens, wanted.max_num_batched_tokens);
    assert_int_equal(got.super_chunk_tokens, wanted.super_chunk_tokens);
    assert_int_equal(got.chunk_tokens, wanted.chunk_tokens);
    assert_int_equal(got.max_waiting, wanted.max_waiting);
    assert_int_equal(got.threads, wanted.threads);
    assert_int_equal(got.kv_bytes, wanted.kv_bytes);
    assert_ptr_equal(got.ops, spin_ops_best_cpu());
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
    struct spin_engine_config config;
    SPIN_EXPECT_OK(spin_worker_options_to_engine(&options, &config, &err), &err);
    assert_ptr_equal(config.ops, &spin_ops_ref);
    assert_int_equal(options.log_level, SPIN_LOG_TRACE);
}

static void test_refusals_name_the_option(void **state)
{
    (void)state;
    static const struct {
        const char *flag;
        const char *value;
    } rows[] = {
        {"--max-num-seqs", "0"},         {"--max-num-seqs", "1025"}, {"--max-num-seqs", "-1"},
        {"--super-chunk-tokens", "127"}, {"--max-waiting", "0"},     {"--ops", "cuda"},
        {"--kv-hbm-bytes", "1 apple"},   {"--shutdown-grace", "x"},  {"--max-model-len", "524281"},
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
        cmocka_unit_test(test_refusals_name_the_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
