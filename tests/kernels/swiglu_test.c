/* Both versions against the formula in double, in place and not, and over the whole range of gates;
 * then rows alone and in company. */
#include "tests/kernels/kernel_test.h"

typedef spin_status (*swiglu_fn)(const struct spin_swiglu_args *args, struct spin_stream *stream);

static float expected_value(float gate, float up)
{
    return (float)((double)gate / (1 + exp(-(double)gate)) * (double)up);
}

static void check(swiglu_fn swiglu, uint32_t rows, uint32_t cols, uint32_t alias)
{
    struct spin_rng rng = {41, rows, cols};
    struct test_matrix x[3];
    for (uint32_t i = 0; i < 3; i++) {
        x[i] = spin_test_matrix_create(rows, cols, i + 3);
        spin_test_matrix_fill(&x[i], &rng);
    }
    struct test_matrix expected = spin_test_matrix_create(rows, cols, 0);
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t c = 0; c < cols; c++) {
            spin_test_row(&expected, r)[c] =
                expected_value(spin_test_row(&x[1], r)[c], spin_test_row(&x[2], r)[c]);
        }
    }
    struct spin_stream *stream = spin_test_stream(2);
    const struct spin_swiglu_args args = {x[alias].view, x[1].view, x[2].view};
    assert_int_equal(swiglu(&args, stream), SPIN_OK);
    assert_true(spin_test_matrix_error(&args.y, &expected.view) <= 1e-6);
    spin_stream_destroy(stream);
    for (uint32_t i = 0; i < 3; i++) {
        spin_test_matrix_destroy(&x[i]);
    }
    spin_test_matrix_destroy(&expected);
}

static void test_against_double(void **state)
{
    (void)state;
    static const uint32_t shapes[][2] = {{0, 8}, {1, 1}, {3, 7}, {2, 1536}, {9, 1531}, {64, 96}};
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(shapes); i++) {
        for (uint32_t alias = 0; alias < 3; alias++) {
            check(spin_swiglu_ref, shapes[i][0], shapes[i][1], alias);
            check(spin_swiglu_cpu, shapes[i][0], shapes[i][1], alias);
        }
    }
}

/* Gates from far below to far above what exp can hold: relative to the largest output near each. */
static void test_extreme_gates(void **state)
{
    (void)state;
    struct spin_stream *stream = spin_test_stream(1);
    struct test_matrix gate = spin_test_matrix_create(1, 4096, 0);
    struct test_matrix up = spin_test_matrix_create(1, 4096, 0);
    struct test_matrix y = spin_test_matrix_create(1, 4096, 0);
    for (uint32_t c = 0; c < 4096; c++) {
        spin_test_row(&gate, 0)[c] = ((float)c - 2048.0F) * 0.0625F;
        spin_test_row(&up, 0)[c] = 1.0F;
    }
    const struct spin_swiglu_args args = {y.view, gate.view, up.view};
    assert_int_equal(spin_swiglu_cpu(&args, stream), SPIN_OK);
    for (uint32_t c = 0; c < 4096; c++) {
        const double expected = (double)expected_value(spin_test_row(&gate, 0)[c], 1.0F);
        const double bound = 1e-6 * fabs(expected) + 1e-30;
        assert_true(fabs((double)spin_test_row(&y, 0)[c] - expected) <= bound);
    }
    spin_test_matrix_destroy(&gate);
    spin_test_matrix_destroy(&up);
    spin_test_matrix_destroy(&y);
    spin_stream_destroy(stream);
}

static void test_rows_are_invariant(void **state)
{
    (void)state;
    static const uint32_t batches[] = {64, 1, 7};
    struct spin_rng rng = {42, 0, 0};
    struct test_matrix gate = spin_test_matrix_create(64, 203, 4);
    struct test_matrix up = spin_test_matrix_create(64, 203, 4);
    struct test_matrix whole = spin_test_matrix_create(64, 203, 0);
    struct test_matrix other = spin_test_matrix_create(64, 203, 0);
    spin_test_matrix_fill(&gate, &rng);
    spin_test_matrix_fill(&up, &rng);
    for (uint32_t i = 0; i < 9; i++) {
        struct spin_stream *stream = spin_test_stream(i / 3 + 1);
        struct test_matrix *y = i == 0 ? &whole : &other;
        const uint32_t batch = batches[i % 3];
        for (uint32_t m = 0; m < 64; m += batch) {
            const uint32_t count = SPIN_MIN(batch, 64 - m);
            const struct spin_swiglu_args args = {spin_test_rows(y, m, count),
                                                  spin_test_rows(&gate, m, count),
                                                  spin_test_rows(&up, m, count)};
            assert_int_equal(spin_swiglu_cpu(&args, stream), SPIN_OK);
        }
        spin_test_expect_same_bits(&y->view, &whole.view);
        spin_stream_destroy(stream);
    }
    spin_test_matrix_destroy(&gate);
    spin_test_matrix_destroy(&up);
    spin_test_matrix_destroy(&whole);
    spin_test_matrix_destroy(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_double),
        cmocka_unit_test(test_extreme_gates),
        cmocka_unit_test(test_rows_are_invariant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
