/* The tables: complete, named, and chosen by what the processor can do. */
#include "tests/kernels/kernel_test.h"

static void expect_complete(const struct spin_ops *ops, const char *name)
{
    assert_string_equal(ops->name, name);
    assert_int_equal(ops->activation_dtype, SPIN_DTYPE_F32);
    assert_int_equal(ops->swizzle, SPIN_SWIZZLE_NONE);
    assert_true(ops->prefill_is_decode && ops->decode_rows_max == UINT32_MAX);
    assert_true(ops->embed != NULL && ops->rms_norm != NULL && ops->matmul != NULL);
    assert_true(ops->rope != NULL && ops->kv_append != NULL && ops->attention != NULL);
    assert_true(ops->swiglu != NULL);
    assert_null(ops->draw); /* the host draws */
    assert_true(ops->kv_index != NULL && ops->kv_select != NULL);
    assert_true(ops->kv_gather != NULL && ops->kv_offload != NULL);
    for (uint32_t i = 0; i < SPIN_KV_REPLACEMENTS; i++) {
        assert_true(ops->kv_resolve[i] != NULL && ops->kv_resize[i] != NULL);
        for (uint32_t j = 0; j < i; j++) { /* each its own */
            assert_true(ops->kv_resolve[i] != ops->kv_resolve[j]);
            assert_true(ops->kv_resize[i] != ops->kv_resize[j]);
        }
    }
    assert_true(ops->kv_select_workspace_bytes != NULL);
    assert_true(ops->matmul_workspace_bytes != NULL && ops->attention_workspace_bytes != NULL);
}

static void test_tables(void **state)
{
    (void)state;
    expect_complete(&spin_ops_ref, "ref");
    expect_complete(&spin_ops_cpu, "cpu");
    assert_ptr_equal(spin_ops_best_cpu(),
                     spin_isa_detect() == SPIN_ISA_NONE ? &spin_ops_ref : &spin_ops_cpu);
}

/* A stream can only be told to use less than there is. */
static void test_isa_limit(void **state)
{
    (void)state;
    struct spin_stream *stream = spin_test_stream(1);
    assert_int_equal(spin_stream_isa(stream), spin_isa_detect());
    spin_stream_limit_isa(stream, SPIN_ISA_AVX512_VNNI);
    assert_int_equal(spin_stream_isa(stream), spin_isa_detect());
    spin_stream_limit_isa(stream, SPIN_ISA_NONE);
    assert_int_equal(spin_stream_isa(stream), SPIN_ISA_NONE);
    spin_stream_destroy(stream);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_isa_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
