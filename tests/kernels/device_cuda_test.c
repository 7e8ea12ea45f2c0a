/* The CUDA stream where there may be no GPU, or no CUDA in the build: a stream that works, or a
 * status and a sentence that names the GPU. What a GPU does is tested by tests/kernels/cuda. */
#include "base/clock.h"
#include "tests/kernels/kernel_test.h"

static void test_a_stream_or_a_sentence(void **state)
{
    (void)state;
    struct spin_stream *stream = NULL;
    struct spin_error err;
    const spin_status status = spin_stream_create_cuda(0, &stream, &err);
    if (status == SPIN_OK) {
        assert_int_equal(spin_stream_sync(stream, SPIN_NS_PER_S), SPIN_OK);
        assert_string_not_equal(spin_device_name(stream), "");
        spin_stream_destroy(stream);
        return;
    }
    assert_int_equal(status, SPIN_ERR_UNSUPPORTED);
    assert_null(stream);
    assert_ptr_equal(strstr(err.text, "GPU 0"), err.text);
    print_message("%s\n", err.text);
}

static void test_no_such_gpu(void **state)
{
    (void)state;
    struct spin_stream *stream = NULL;
    struct spin_error err;
    const spin_status status = spin_stream_create_cuda(99, &stream, &err);
    assert_true(status == SPIN_ERR_UNSUPPORTED || status == SPIN_ERR_INVALID);
    assert_ptr_equal(strstr(err.text, "GPU 99"), err.text);
    assert_null(stream);
}

static void test_table(void **state)
{
    (void)state;
    assert_string_equal(spin_ops_cuda.name, "cuda");
    assert_int_equal(spin_ops_cuda.activation_dtype, SPIN_DTYPE_BF16);
    assert_int_equal(spin_ops_cuda.swizzle, SPIN_SWIZZLE_NONE);
    assert_false(spin_ops_cuda.prefill_is_decode);
    assert_int_equal(spin_ops_cuda.decode_rows_max, 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_stream_or_a_sentence),
        cmocka_unit_test(test_no_such_gpu),
        cmocka_unit_test(test_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
