/* Both norms against the header's formula in double, in place and not; then rows alone and in
 * company. */
#include "tests/kernels/kernel_test.h"

struct shape {
    uint32_t rows;
    uint32_t cols;
};
static const struct shape shapes[] = {{0, 8},   {1, 1},   {3, 7},    {7, 64},   {64, 576},
                                      {5, 577}, {9, 128}, {2, 1536}, {1, 65536}};

typedef spin_status (*norm_fn)(const struct spin_rms_norm_args *args, struct spin_stream *stream);

static void expect(const struct test_matrix *x, const float *weight, double eps,
                   struct test_matrix *y)
{
    for (uint32_t r = 0; r < x->view.rows; r++) {
        double mean = 0;
        for (uint32_t c = 0; c < x->view.cols; c++) {
            mean += pow((double)spin_test_row(x, r)[c], 2) / x->view.cols;
        }
        for (uint32_t c = 0; c < x->view.cols; c++) {
            const double value = (double)spin_test_row(x, r)[c] / sqrt(mean + eps);
            spin_test_row(y, r)[c] = (float)(value * (double)weight[c]);
        }
    }
}

static void check(norm_fn norm, struct shape shape, bool in_place, struct spin_stream *stream)
{
    struct spin_rng rng = {31, shape.rows, shape.cols};
    struct test_matrix x = spin_test_matrix_create(shape.rows, shape.cols, 5);
    struct test_matrix y = spin_test_matrix_create(shape.rows, shape.cols, 3);
    struct test_matrix weight = spin_test_matrix_create(1, shape.cols, 0);
    struct test_matrix expected = spin_test_matrix_create(shape.rows, shape.cols, 0);
    spin_test_matrix_fill(&x, &rng);
    spin_test_matrix_fill(&weight, &rng);
    expect(&x, spin_test_row(&weight, 0), 1e-5, &expected);
    const struct spin_rms_norm_args args = {in_place ? x.view : y.view, x.view,
                                            spin_test_row(&weight, 0), 1e-5F};
    assert_int_equal(norm(&args, stream), SPIN_OK);
    assert_true(spin_test_matrix_error(&args.y, &expected.view) <= 1e-6);
    spin_test_matrix_destroy(&x);
    spin_test_matrix_destroy(&y);
    spin_test_matrix_destroy(&weight);
    spin_test_matrix_destroy(&expected);
}

static void test_against_double(void **state)
{
    (void)state;
    struct spin_stream *stream = spin_test_stream(2);
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(shapes); i++) {
        check(spin_rms_norm_ref, shapes[i], false, stream);
        check(spin_rms_norm_ref, shapes[i], true, stream);
        check(spin_rms_norm_cpu, shapes[i], false, stream);
        check(spin_rms_norm_cpu, shapes[i], true, stream);
    }
    spin_stream_destroy(stream);
}

/* Zeros stay zeros: eps keeps the scale finite. */
static void test_zero_row(void **state)
{
    (void)state;
    struct spin_stream *stream = spin_test_stream(1);
    struct test_matrix x = spin_test_matrix_create(1, 64, 0);
    struct test_matrix y = spin_test_matrix_create(1, 64, 0);
    memset(x.view.data, 0, 64 * sizeof(float));
    float weight[64];
    for (uint32_t c = 0; c < 64; c++) {
        weight[c] = 2;
    }
    const struct spin_rms_norm_args args = {y.view, x.view, weight, 1e-6F};
    assert_int_equal(spin_rms_norm_cpu(&args, stream), SPIN_OK);
    spin_test_expect_same_bits(&y.view, &x.view);
    spin_test_matrix_destroy(&x);
    spin_test_matrix_destroy(&y);
    spin_stream_destroy(stream);
}

static void test_rows_are_invariant(void **state)
{
    (void)state;
    static const uint32_t batches[] = {1, 7, 64};
    struct spin_rng rng = {32, 0, 0};
    struct test_matrix x = spin_test_matrix_create(64, 579, 4);
    struct test_matrix weight = spin_test_matrix_create(1, 579, 0);
    struct test_matrix whole = spin_test_matrix_create(64, 579, 0);
    struct test_matrix other = spin_test_matrix_create(64, 579, 0);
    spin_test_matrix_fill(&x, &rng);
    spin_test_matrix_fill(&weight, &rng);
    for (uint32_t threads = 1; threads <= 3; threads++) {
        struct spin_stream *stream = spin_test_stream(threads);
        for (uint64_t b = 0; b < SPIN_ARRAY_COUNT(batches); b++) {
            struct test_matrix *y = threads == 1 && b == 0 ? &whole : &other;
            for (uint32_t m = 0; m < 64; m += batches[b]) {
                const uint32_t count = SPIN_MIN(batches[b], 64 - m);
                const struct spin_rms_norm_args args = {spin_test_rows(y, m, count),
                                                        spin_test_rows(&x, m, count),
                                                        spin_test_row(&weight, 0), 1e-5F};
                assert_int_equal(spin_rms_norm_cpu(&args, stream), SPIN_OK);
            }
            spin_test_expect_same_bits(&y->view, &whole.view);
        }
        spin_stream_destroy(stream);
    }
    spin_test_matrix_destroy(&x);
    spin_test_matrix_destroy(&weight);
    spin_test_matrix_destroy(&whole);
    spin_test_matrix_destroy(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_double),
        cmocka_unit_test(test_zero_row),
        cmocka_unit_test(test_rows_are_invariant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
