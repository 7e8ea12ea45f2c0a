/* Rows of the table, bit for bit, from both versions, on any threads. */
#include "tests/kernels/kernel_test.h"

static void check(enum spin_dtype dtype, uint32_t rows, uint32_t cols)
{
    struct spin_rng rng = {61, (uint64_t)dtype, rows};
    struct test_weight table = spin_test_weight_create(dtype, 192, cols, &rng);
    struct test_matrix expected = spin_test_matrix_create(rows, cols, 0);
    int32_t tokens[64];
    for (uint32_t m = 0; m < rows; m++) {
        tokens[m] = m == 0 ? 191 : (int32_t)spin_rng_below(&rng, 192);
        spin_dtype_to_f32(dtype, spin_weight_row(&table.view, (uint64_t)tokens[m]),
                          spin_test_row(&expected, m), cols);
    }
    for (uint32_t threads = 1; threads <= 3; threads++) {
        struct spin_stream *stream = spin_test_stream(threads);
        struct test_matrix y = spin_test_matrix_create(rows, cols, 7);
        const struct spin_embed_args args = {y.view, tokens, table.view};
        assert_int_equal(spin_embed_cpu(&args, stream), SPIN_OK);
        spin_test_expect_same_bits(&y.view, &expected.view);
        memset(y.view.data, 0xff, y.memory.bytes);
        assert_int_equal(spin_embed_ref(&args, stream), SPIN_OK);
        spin_test_expect_same_bits(&y.view, &expected.view);
        spin_test_matrix_destroy(&y);
        spin_stream_destroy(stream);
    }
    spin_test_weight_destroy(&table);
    spin_test_matrix_destroy(&expected);
}

static void test_rows_of_the_table(void **state)
{
    (void)state;
    for (enum spin_dtype dtype = SPIN_DTYPE_F32; dtype < SPIN_DTYPE_COUNT; dtype++) {
        check(dtype, 0, 256);
        check(dtype, 1, 256);
        check(dtype, 7, 1536);
        check(dtype, 64, 768);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows_of_the_table)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
