/* Both versions against a rotation in the complex plane, in double, over both ways of pairing and
 * partial rotation; then rows alone and in company. */
#include "kernels/rope_table.h"
#include "tests/kernels/kernel_test.h"

#include <complex.h>

#define POSITIONS 2000u
#define BASE 10000.0

struct shape {
    uint32_t rows;
    uint32_t heads;
    uint32_t head_dim;
    uint32_t rotary_dim;
};
static const struct shape shapes[] = {
    {0, 1, 8, 8}, {1, 9, 64, 64}, {7, 3, 64, 64}, {64, 2, 128, 96}, {5, 1, 24, 6}, {3, 2, 80, 80},
};

typedef spin_status (*rope_fn)(const struct spin_rope_args *args, struct spin_stream *stream);

static double frequency(uint32_t i, uint32_t rotary_dim)
{
    return pow(BASE, -2.0 * i / rotary_dim);
}

static struct test_matrix make_table(uint32_t rotary_dim)
{
    double frequencies[64];
    for (uint32_t i = 0; i < rotary_dim / 2; i++) {
        frequencies[i] = frequency(i, rotary_dim);
    }
    struct test_matrix table = spin_test_matrix_create(POSITIONS, rotary_dim, 0);
    const struct spin_rope_frequencies source = {frequencies, rotary_dim, 1.0};
    spin_rope_table_fill(&source, 0, POSITIONS, table.view.data);
    return table;
}

static void expect(const struct spin_rope_args *args, const struct test_matrix *x,
                   struct test_matrix *y)
{
    const uint32_t half = args->table.rotary_dim / 2;
    for (uint32_t m = 0; m < x->view.rows; m++) {
        memcpy(spin_test_row(y, m), spin_test_row(x, m), x->view.cols * sizeof(float));
        for (uint32_t i = 0; i < args->heads * half; i++) {
            const uint32_t pair = i % half;
            const bool halves = args->table.pairs == SPIN_ROPE_HALVES;
            const uint64_t head = (uint64_t)(i / half) * args->head_dim;
            const uint64_t a = head + (halves ? pair : 2 * pair);
            const uint64_t b = head + (halves ? pair + half : 2 * pair + 1);
            const double angle =
                (double)args->positions[m] * frequency(pair, args->table.rotary_dim);
            const double complex value =
                CMPLX((double)spin_test_row(x, m)[a], (double)spin_test_row(x, m)[b]) *
                cexp(I * angle);
            spin_test_row(y, m)[a] = (float)creal(value);
            spin_test_row(y, m)[b] = (float)cimag(value);
        }
    }
}

static void check(rope_fn rope, const struct shape *shape, enum spin_rope_pairs pairs)
{
    struct spin_rng rng = {51, shape->rows, shape->head_dim};
    struct test_matrix table = make_table(shape->rotary_dim);
    struct test_matrix x = spin_test_matrix_create(shape->rows, shape->heads * shape->head_dim, 6);
    struct test_matrix expected = spin_test_matrix_create(shape->rows, x.view.cols, 0);
    spin_test_matrix_fill(&x, &rng);
    uint32_t positions[64] = {0};
    for (uint32_t m = 0; m < shape->rows; m++) {
        positions[m] = m == 0 ? POSITIONS - 1 : spin_rng_below(&rng, POSITIONS);
    }
    const struct spin_rope_args args = {x.view,
                                        shape->heads,
                                        shape->head_dim,
                                        positions,
                                        {table.view.data, POSITIONS, shape->rotary_dim, pairs}};
    expect(&args, &x, &expected);
    struct spin_stream *stream = spin_test_stream(2);
    assert_int_equal(rope(&args, stream), SPIN_OK);
    assert_true(spin_test_matrix_error(&x.view, &expected.view) <= 1e-6);
    spin_stream_destroy(stream);
    spin_test_matrix_destroy(&table);
    spin_test_matrix_destroy(&x);
    spin_test_matrix_destroy(&expected);
}

static void test_against_complex_numbers(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(shapes); i++) {
        check(spin_rope_ref, &shapes[i], SPIN_ROPE_HALVES);
        check(spin_rope_ref, &shapes[i], SPIN_ROPE_INTERLEAVED);
        check(spin_rope_cpu, &shapes[i], SPIN_ROPE_HALVES);
        check(spin_rope_cpu, &shapes[i], SPIN_ROPE_INTERLEAVED);
    }
}

static void test_rows_are_invariant(void **state)
{
    (void)state;
    static const uint32_t batches[] = {64, 1, 7};
    struct spin_rng rng = {52, 0, 0};
    struct test_matrix table = make_table(64);
    struct test_matrix x = spin_test_matrix_create(64, 3 * 64, 0);
    struct test_matrix whole = spin_test_matrix_create(64, 3 * 64, 0);
    struct test_matrix other = spin_test_matrix_create(64, 3 * 64, 0);
    spin_test_matrix_fill(&x, &rng);
    uint32_t positions[64] = {0};
    for (uint32_t m = 0; m < 64; m++) {
        positions[m] = spin_rng_below(&rng, POSITIONS);
    }
    for (uint32_t i = 0; i < 9; i++) {
        struct spin_stream *stream = spin_test_stream(i / 3 + 1);
        struct test_matrix *y = i == 0 ? &whole : &other;
        memcpy(y->view.data, x.view.data, x.memory.bytes);
        for (uint32_t m = 0; m < 64; m += batches[i % 3]) {
            const uint32_t count = SPIN_MIN(batches[i % 3], 64 - m);
            const struct spin_rope_args args = {
                spin_test_rows(y, m, count),
                3,
                64,
                positions + m,
                {table.view.data, POSITIONS, 64, SPIN_ROPE_INTERLEAVED}};
            assert_int_equal(spin_rope_cpu(&args, stream), SPIN_OK);
        }
        spin_test_expect_same_bits(&y->view, &whole.view);
        spin_stream_destroy(stream);
    }
    spin_test_matrix_destroy(&table);
    spin_test_matrix_destroy(&x);
    spin_test_matrix_destroy(&whole);
    spin_test_matrix_destroy(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_complex_numbers),
        cmocka_unit_test(test_rows_are_invariant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
