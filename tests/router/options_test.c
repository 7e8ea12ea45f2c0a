/* What the table of options says together, and the name that a model gets. */
#include "router/options.h"

#include "tests/spin_test.h"

#include <unistd.h>

#define ARGUMENTS_MAX 16u

static spin_status load(const char *const *arguments, struct spin_router_options *out,
                        struct spin_config_values **values, struct spin_error *err)
{
    char program[] = "spin-router";
    char *argv[ARGUMENTS_MAX + 1] = {program};
    char *environment[] = {NULL};
    int argc = 1;
    for (; arguments[argc - 1] != NULL; argc++) {
        argv[argc] = strdup(arguments[argc - 1]);
    }
    bool exit_now = false;
    memset(out, 0, sizeof *out);
    spin_status status = spin_config_load(&spin_router_config_spec, argc, argv, environment, out,
                                          values, &exit_now, err);
    for (int i = 1; i < argc; i++) {
        free(argv[i]);
    }
    return status != SPIN_OK ? status : spin_router_options_check(out, err);
}

static void test_defaults(void **state)
{
    (void)state;
    const char *const arguments[] = {"--model", "x.gguf", NULL};
    struct spin_router_options options;
    struct spin_config_values *values = NULL;
    struct spin_error err;
    SPIN_EXPECT_OK(load(arguments, &options, &values, &err), &err);
    assert_string_equal(options.listen, "127.0.0.1:8000");
    assert_string_equal(options.grpc_listen, "127.0.0.1:9000");
    assert_int_equal(options.max_generations, 16384);
    assert_int_equal(options.queue_timeout_ns, UINT64_C(30000000000));
    assert_int_equal(options.max_body_bytes, 16 << 20);
    assert_null(options.api_key);
    spin_config_values_destroy(values);
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const cases[][8] = {
        {"--listen", "127.0.0.1:0", NULL}, /* without --model */
        {"--model", "x", "--cluster-secret", "", NULL},
        {"--model", "x", "--served-model-name", "", NULL},
        {"--model", "x", "--worker-timeout", "900ms", NULL},
        {"--model", "x", "--tls-ca", "ca.pem", NULL},
        {"--model", "x", "--max-queue", "0", NULL},
        {"--model", "x", "--status-interval", "1ms", NULL},
    };
    static const char *const named[] = {"model",          "cluster-secret", "served-model-name",
                                        "worker-timeout", "tls-ca",         "max-queue",
                                        "status-interval"};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(cases); i++) {
        struct spin_router_options options;
        struct spin_config_values *values = NULL;
        struct spin_error err = {0};
        SPIN_EXPECT_STATUS(load(cases[i], &options, &values, &err), SPIN_ERR_INVALID);
        if (strstr(err.text, named[i]) == NULL) {
            fail_msg("case %u: %s", i, err.text);
        }
        spin_config_values_destroy(values);
    }
}

static void test_model_name(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        /* --model, --served-model-name, the name */
        {"/models/tiny.gguf", NULL, "tiny"},         {"tiny.gguf", NULL, "tiny"},
        {"/models/Qwen3-0.6B/", NULL, "Qwen3-0.6B"}, {"Qwen3-0.6B", NULL, "Qwen3-0.6B"},
        {"random:tiny", NULL, "random:tiny"},        {".gguf", NULL, ".gguf"},
        {"/models/tiny.gguf", "mine", "mine"},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(cases); i++) {
        const struct spin_router_options options = {.model = cases[i][0],
                                                    .served_model_name = cases[i][1]};
        char name[64];
        spin_router_options_model_name(&options, name, sizeof name);
        assert_string_equal(name, cases[i][2]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_model_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
