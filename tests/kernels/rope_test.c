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
                                        {table.view.data, POSITIONS, shape->rotary_dim, pairs},
                                        {{NULL, NULL}, 0, 0}};
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

/* Norms by the formula, in double, and then what rope does with heads that have none. */
static void norm_heads(const struct spin_rope_args *args, struct test_matrix *x)
{
    for (uint32_t i = 0; i < args->x.rows * args->heads; i++) {
        const uint32_t head = i % args->heads;
        const float *weight = args->norm.weight[head < args->norm.split ? 0 : 1];
        float *values = spin_test_row(x, i / args->heads) + (uint64_t)head * args->head_dim;
        double mean = 0;
        for (uint32_t c = 0; c < args->head_dim; c++) {
            mean += pow((double)values[c], 2) / args->head_dim;
        }
        for (uint32_t c = 0; c < args->head_dim && weight != NULL; c++) {
            const double scale = 1 / sqrt(mean + (double)args->norm.eps);
            values[c] = (float)((double)values[c] * scale * (double)weight[c]);
        }
    }
}

static void check_norm(rope_fn rope, uint32_t rows, const float *const weight[2])
{
    enum { HEADS = 5, HEAD_DIM = 24, ROTARY_DIM = 16 };
    struct spin_rng rng = {53, rows, 0};
    struct test_matrix table = make_table(ROTARY_DIM);
    struct test_matrix x = spin_test_matrix_create(rows, HEADS * HEAD_DIM, 6);
    struct test_matrix y = spin_test_matrix_create(rows, HEADS * HEAD_DIM, 0);
    struct test_matrix expected = spin_test_matrix_create(rows, HEADS * HEAD_DIM, 0);
    uint32_t positions[64] = {0};
    spin_test_matrix_fill(&x, &rng);
    for (uint32_t m = 0; m < rows; m++) {
        positions[m] = spin_rng_below(&rng, POSITIONS);
        memcpy(spin_test_row(&y, m), spin_test_row(&x, m), x.view.cols * sizeof(float));
    }
    const struct spin_rope_args args = {
        .x = x.view,
        .heads = HEADS,
        .head_dim = HEAD_DIM,
        .positions = positions,
        .table = {table.view.data, POSITIONS, ROTARY_DIM, SPIN_ROPE_HALVES},
        .norm = {.weight = {weight[0], weight[1]}, .split = 3, .eps = 1e-3F}};
    norm_heads(&args, &y);
    expect(&args, &y, &expected);
    struct spin_stream *stream = spin_test_stream(2);
    assert_int_equal(rope(&args, stream), SPIN_OK);
    assert_true(spin_test_matrix_error(&x.view, &expected.view) <= 1e-6);
    spin_stream_destroy(stream);
    spin_test_matrix_destroy(&table);
    spin_test_matrix_destroy(&x);
    spin_test_matrix_destroy(&y);
    spin_test_matrix_destroy(&expected);
}

static void test_norms_of_heads(void **state)
{
    (void)state;
    float weights[2][24];
    for (uint32_t c = 0; c < 24; c++) {
        weights[0][c] = 1 + 0.1F * (float)c;
        weights[1][c] = 3 - 0.2F * (float)c;
    }
    for (uint32_t i = 0; i < 4; i++) {
        const float *const weight[2] = {i % 2 == 0 ? weights[0] : NULL,
                                        i / 2 == 0 ? weights[1] : NULL};
        check_norm(spin_rope_ref, 3, weight);
        check_norm(spin_rope_cpu, 3, weight);
        check_norm(spin_rope_cpu, 64, weight);
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
                {table.view.data, POSITIONS, 64, SPIN_ROPE_INTERLEAVED},
                {{NULL, NULL}, 0, 0}};
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
        cmocka_unit_test(test_norms_of_heads),
        cmocka_unit_test(test_rows_are_invariant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
