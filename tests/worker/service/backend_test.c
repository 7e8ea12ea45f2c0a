/* What --device and --ops choose, on whatever machine this runs: where there is no GPU, or no CUDA
 * in the build, auto is the CPU and cuda is refused with the reason. */
#include "worker/service/backend.h"

#include "tests/spin_test.h"

static char program[] = "spin-worker";
static char model_flag[] = "--model=random:tiny";

/* A GPU here, or the reason why there is none. */
static bool has_gpu(struct spin_error *why)
{
    struct spin_stream *stream = NULL;
    const bool has = spin_stream_create_cuda(0, &stream, why) == SPIN_OK;
    spin_stream_destroy(stream);
    return has;
}

struct asked {
    const char *device;
    const char *ops;
    const char *model;
};

static spin_status open_backend(struct asked asked, struct spin_worker_backend *out,
                                struct spin_error *err)
{
    char device_flag[32];
    char ops_flag[32];
    (void)snprintf(device_flag, sizeof device_flag, "--device=%s", asked.device);
    (void)snprintf(ops_flag, sizeof ops_flag, "--ops=%s", asked.ops);
    char *argv[] = {program, model_flag, device_flag, ops_flag, NULL};
    char *environment[] = {NULL};
    struct spin_worker_options options = {0};
    struct spin_config_values *values = NULL;
    bool exit_now = false;
    SPIN_EXPECT_OK(spin_config_load(&spin_worker_config_spec, 4, argv, environment, &options,
                                    &values, &exit_now, err),
                   err);
    spin_config_values_destroy(values); /* what follows reads numbers only */
    struct spin_model *model = NULL;
    SPIN_EXPECT_OK(spin_model_open(asked.model, &model, err), err);
    *out = (struct spin_worker_backend){0};
    const spin_status status = spin_worker_backend_open(&options, model, out, err);
    spin_model_close(model);
    return status;
}

static void test_the_cpu_when_asked(void **state)
{
    (void)state;
    static const struct {
        struct asked asked;
        const struct spin_ops *wanted; /* NULL: the best */
    } rows[] = {{{"cpu", "auto", "random:tiny"}, NULL},
                {{"cpu", "ref", "random:tiny"}, &spin_ops_ref},
                {{"auto", "ref", "random:tiny"}, &spin_ops_ref}};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        struct spin_worker_backend backend;
        struct spin_error err = {0};
        SPIN_EXPECT_OK(open_backend(rows[i].asked, &backend, &err), &err);
        assert_ptr_equal(backend.ops,
                         rows[i].wanted != NULL ? rows[i].wanted : spin_ops_best_cpu());
        assert_null(backend.stream);
        spin_worker_backend_close(&backend);
    }
}

static void test_operations_of_the_cpu_are_not_a_gpus(void **state)
{
    (void)state;
    struct spin_worker_backend backend;
    struct spin_error err = {0};
    SPIN_EXPECT_STATUS(open_backend((struct asked){"cuda", "ref", "random:tiny"}, &backend, &err),
                       SPIN_ERR_INVALID);
    assert_non_null(strstr(err.text, "--device cuda"));
    assert_non_null(strstr(err.text, "--ops"));
}

/* Heads of 16 elements: no GPU has code for them, so it is not even asked. */
static void test_a_model_that_no_gpu_takes(void **state)
{
    (void)state;
    struct spin_worker_backend backend;
    struct spin_error err = {0};
    SPIN_EXPECT_STATUS(open_backend((struct asked){"cuda", "auto", "random:tiny"}, &backend, &err),
                       SPIN_ERR_UNSUPPORTED);
    assert_string_equal(err.text, "--device cuda: random:tiny has heads of 16 elements: the "
                                  "operations 'cuda' take 64 and 128");
    SPIN_EXPECT_OK(open_backend((struct asked){"auto", "auto", "random:tiny"}, &backend, &err),
                   &err);
    assert_ptr_equal(backend.ops, spin_ops_best_cpu());
    assert_null(backend.stream);
}

/* What else kernels have no code for is refused by name, before anything is allocated. */
static void test_shapes_that_the_operations_lack(void **state)
{
    (void)state;
    struct spin_error err = {0};
    struct spin_model model = {
        .name = "m", .config = {.q_heads = 40, .kv_heads = 8, .head_dim = 128, .vocab = 151936}};
    SPIN_EXPECT_OK(spin_engine_check_model(&spin_ops_cuda, &model, &err), &err);
    model.config.vocab = 32001;
    SPIN_EXPECT_STATUS(spin_engine_check_model(&spin_ops_cuda, &model, &err), SPIN_ERR_UNSUPPORTED);
    assert_string_equal(err.text, "m has a vocabulary of 32001: the operations 'cuda' take "
                                  "multiples of 4");
    SPIN_EXPECT_OK(spin_engine_check_model(&spin_ops_cpu, &model, &err), &err);
    model.config.vocab = 32000;
    model.config.q_heads = 8 * 17;
    SPIN_EXPECT_STATUS(spin_engine_check_model(&spin_ops_cuda, &model, &err), SPIN_ERR_UNSUPPORTED);
    assert_string_equal(err.text, "m has 17 query heads for each KV head: the operations 'cuda' "
                                  "take 16 at most");
}

static void test_a_gpu_or_the_reason(void **state)
{
    (void)state;
    struct spin_error why = {0};
    const bool has = has_gpu(&why);
    struct spin_worker_backend backend;
    struct spin_error err = {0};
    const spin_status status =
        open_backend((struct asked){"cuda", "auto", "random:smollm2-135m"}, &backend, &err);
    assert_int_equal(status, has ? SPIN_OK : SPIN_ERR_UNSUPPORTED);
    if (!has) {
        assert_ptr_equal(strstr(err.text, "--device cuda: "), err.text);
        assert_non_null(strstr(err.text, why.text));
    }
    assert_int_equal(backend.stream != NULL, has);
    spin_worker_backend_close(&backend);
    SPIN_EXPECT_OK(
        open_backend((struct asked){"auto", "auto", "random:smollm2-135m"}, &backend, &err), &err);
    assert_ptr_equal(backend.ops, has ? &spin_ops_cuda : spin_ops_best_cpu());
    assert_int_equal(backend.stream != NULL, has);
    spin_worker_backend_close(&backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_cpu_when_asked),
        cmocka_unit_test(test_operations_of_the_cpu_are_not_a_gpus),
        cmocka_unit_test(test_a_model_that_no_gpu_takes),
        cmocka_unit_test(test_shapes_that_the_operations_lack),
        cmocka_unit_test(test_a_gpu_or_the_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
