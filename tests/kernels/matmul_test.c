/* Both matmuls against double sums over de-quantised weights; the fast one also against the same
 * sums over x rounded here by the header's formula, which leaves only F32 addition between them.
 * Then rows alone, in any batch, on any threads and with either instruction set, as bits. */
#include "tests/kernels/kernel_test.h"

struct shape {
    uint32_t m;
    uint32_t n;
    uint32_t k;
};

/* One, odd, around panels of 16 and tasks of 64 and 256, SmolLM2's widths. */
static const struct shape shapes[] = {
    {0, 17, 256},  {1, 1, 256},   {1, 576, 576},  {2, 15, 1536},  {3, 16, 512},  {5, 17, 1024},
    {7, 63, 1280}, {8, 192, 576}, {17, 65, 2304}, {1, 3001, 576}, {33, 80, 256}, {300, 33, 768},
};

static const enum spin_dtype dtypes[] = {SPIN_DTYPE_F32,  SPIN_DTYPE_F16,  SPIN_DTYPE_BF16,
                                         SPIN_DTYPE_Q8_0, SPIN_DTYPE_Q4_0, SPIN_DTYPE_Q4_1,
                                         SPIN_DTYPE_Q4_K, SPIN_DTYPE_Q6_K};

/* Q4_K and Q6_K come in blocks of 256. */
static uint32_t cols_for(enum spin_dtype dtype, uint32_t k)
{
    const uint32_t block = SPIN_MAX(32u, spin_dtype_block_values(dtype));
    return (k + block - 1) / block * block;
}

static void round_x(float *x, uint32_t cols)
{
    for (uint32_t k = 0; k < cols; k += 32) {
        float max = 0;
        for (uint32_t i = 0; i < 32; i++) {
            max = fmaxf(max, fabsf(x[k + i]));
        }
        for (uint32_t i = 0; i < 32 && max > 0; i++) {
            x[k + i] = max / 127.0F * rintf(x[k + i] * (127.0F / max));
        }
    }
}

/* y = x W^T + bias + before, in double. */
static void expect(const struct spin_matrix *x, const struct spin_matmul_part *part,
                   const struct test_matrix *before, struct test_matrix *y)
{
    const uint32_t cols = x->cols;
    float *w = calloc(cols, sizeof *w);
    assert_non_null(w);
    for (uint32_t n = 0; n < part->weight.rows; n++) {
        spin_dtype_to_f32(part->weight.dtype, spin_weight_row(&part->weight, n), w, cols);
        for (uint32_t m = 0; m < x->rows; m++) {
            double sum = part->bias == NULL ? 0 : (double)part->bias[n];
            for (uint32_t k = 0; k < cols; k++) {
                sum += (double)spin_matrix_row(x, m)[k] * (double)w[k];
            }
            spin_test_row(y, m)[n] =
                (float)(sum + (part->accumulate ? (double)spin_test_row(before, m)[n] : 0));
        }
    }
    free(w);
}

static void copy_rows(const struct test_matrix *source, struct test_matrix *target)
{
    for (uint32_t r = 0; r < source->view.rows; r++) {
        memcpy(spin_test_row(target, r), spin_test_row(source, r),
               source->view.cols * sizeof(float));
    }
}

struct fixture {
    struct test_matrix x;
    struct test_matrix before; /* y as accumulate finds it */
    struct test_matrix y;
    struct test_weight weight;
    struct test_matrix bias;
    struct test_memory workspace;
    struct spin_matmul_args args;
};

static struct fixture make(enum spin_dtype dtype, struct shape shape, struct spin_rng *rng)
{
    const uint32_t cols = cols_for(dtype, shape.k);
    struct fixture f = {.x = spin_test_matrix_create(shape.m, cols, 16),
                        .before = spin_test_matrix_create(shape.m, shape.n, 3),
                        .y = spin_test_matrix_create(shape.m, shape.n, 5),
                        .weight = spin_test_weight_create(dtype, shape.n, cols, rng),
                        .bias = spin_test_matrix_create(1, shape.n, 1)};
    spin_test_matrix_fill(&f.x, rng);
    spin_test_matrix_fill(&f.before, rng);
    spin_test_matrix_fill(&f.bias, rng);
    f.args = (struct spin_matmul_args){.x = f.x.view, .part_count = 1};
    f.args.parts[0] = (struct spin_matmul_part){.y = f.y.view, .weight = f.weight.view};
    f.workspace = spin_test_memory_create(spin_matmul_workspace_bytes(&f.args));
    f.args.workspace = spin_test_memory_data(&f.workspace);
    return f;
}

static void destroy(struct fixture *f)
{
    spin_test_matrix_destroy(&f->x);
    spin_test_matrix_destroy(&f->before);
    spin_test_matrix_destroy(&f->y);
    spin_test_matrix_destroy(&f->bias);
    spin_test_weight_destroy(&f->weight);
    spin_test_memory_destroy(&f->workspace);
}

typedef spin_status (*matmul_fn)(const struct spin_matmul_args *args, struct spin_stream *stream);

static void expect_error_below(struct fixture *f, matmul_fn matmul, struct spin_stream *stream,
                               const struct test_matrix *expected, double bound)
{
    copy_rows(&f->before, &f->y);
    assert_int_equal(matmul(&f->args, stream), SPIN_OK);
    const double error = spin_test_matrix_error(&f->y.view, &expected->view);
    if (!(error <= bound)) {
        fail_msg("%s m=%u n=%u k=%u: relative L2 %g, bound %g",
                 spin_dtype_name(f->weight.view.dtype), f->x.view.rows, f->y.view.cols,
                 f->x.view.cols, error, bound);
    }
}

static void check_shape(enum spin_dtype dtype, struct shape shape, struct spin_stream *stream)
{
    struct spin_rng rng = {21, (uint64_t)dtype, shape.n};
    struct fixture f = make(dtype, shape, &rng);
    struct spin_matmul_part *part = &f.args.parts[0];
    part->bias = shape.n % 2 == 1 ? f.bias.view.data : NULL;
    part->accumulate = shape.k % 512 == 0;
    const bool plain = spin_dtype_block_values(dtype) == 1;
    struct test_matrix expected = spin_test_matrix_create(shape.m, shape.n, 0);
    expect(&f.x.view, part, &f.before, &expected);
    expect_error_below(&f, spin_matmul_ref, stream, &expected, 1e-7);
    /* Over a handful of outputs the relative error of rounding x is one sum's luck. */
    const double rounding = shape.m * shape.n >= 64 ? 1.5e-2 : 1e-1;
    expect_error_below(&f, spin_matmul_cpu, stream, &expected, plain ? 1e-5 : rounding);
    if (!plain) {
        struct test_matrix rounded = spin_test_matrix_create(shape.m, f.x.view.cols, 0);
        copy_rows(&f.x, &rounded);
        for (uint32_t m = 0; m < shape.m; m++) {
            round_x(spin_test_row(&rounded, m), rounded.view.cols);
        }
        expect(&rounded.view, part, &f.before, &expected);
        expect_error_below(&f, spin_matmul_cpu, stream, &expected, 1e-5);
        spin_test_matrix_destroy(&rounded);
    }
    spin_test_matrix_destroy(&expected);
    destroy(&f);
}

static void test_against_double(void **state)
{
    (void)state;
    struct spin_stream *streams[2] = {spin_test_stream(1), spin_test_stream(2)};
    for (uint64_t d = 0; d < SPIN_ARRAY_COUNT(dtypes); d++) {
        for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(shapes); i++) {
            check_shape(dtypes[d], shapes[i], streams[i % 2]);
        }
    }
    spin_stream_destroy(streams[0]);
    spin_stream_destroy(streams[1]);
}

/* Rows [0, count) of x in batches of `batch`, into y. */
static void run_in_batches(const struct fixture *f, struct test_matrix *y, uint32_t batch,
                           struct spin_stream *stream)
{
    for (uint32_t m = 0; m < f->x.view.rows; m += batch) {
        struct spin_matmul_args args = f->args;
        const uint32_t count = SPIN_MIN(batch, f->x.view.rows - m);
        args.x = spin_test_rows(&f->x, m, count);
        args.parts[0].y = spin_test_rows(y, m, count);
        assert_int_equal(spin_matmul_cpu(&args, stream), SPIN_OK);
    }
}

static void check_invariance(enum spin_dtype dtype, struct shape shape)
{
    static const uint32_t batches[] = {1, 7, 8, 64, 300};
    struct spin_rng rng = {22, (uint64_t)dtype, shape.k};
    struct fixture f = make(dtype, shape, &rng);
    f.args.parts[0].bias = f.bias.view.data;
    struct test_matrix other = spin_test_matrix_create(shape.m, shape.n, 5);
    struct spin_stream *first = spin_test_stream(1);
    run_in_batches(&f, &f.y, shape.m, first);
    spin_stream_destroy(first);
    for (uint32_t threads = 1; threads <= 3; threads++) {
        for (enum spin_isa isa = SPIN_ISA_AVX2; isa <= SPIN_ISA_AVX512_VNNI; isa++) {
            struct spin_stream *stream = spin_test_stream(threads);
            spin_stream_limit_isa(stream, isa);
            const uint32_t batch = batches[((uint32_t)dtype + threads * 2 + isa) % 5];
            memset(other.view.data, 0xff, other.memory.bytes);
            run_in_batches(&f, &other, batch, stream);
            spin_test_expect_same_bits(&other.view, &f.y.view);
            memset(other.view.data, 0xff, other.memory.bytes);
            run_in_batches(&f, &other, threads == 1 ? 1 : 64, stream);
            spin_test_expect_same_bits(&other.view, &f.y.view);
            spin_stream_destroy(stream);
        }
    }
    spin_test_matrix_destroy(&other);
    destroy(&f);
}

static void test_rows_are_invariant(void **state)
{
    (void)state;
    for (uint64_t d = 0; d < SPIN_ARRAY_COUNT(dtypes); d++) {
        check_invariance(dtypes[d], (struct shape){67, 83, 1536});
        check_invariance(dtypes[d], (struct shape){270, 40, 576});
    }
}

/* Three weights of different formats that share x are what they are one by one. */
static void test_parts(void **state)
{
    (void)state;
    struct spin_rng rng = {23, 0, 0};
    struct spin_stream *stream = spin_test_stream(2);
    const enum spin_dtype part_dtypes[3] = {SPIN_DTYPE_Q4_1, SPIN_DTYPE_BF16, SPIN_DTYPE_Q6_K};
    const uint32_t part_rows[3] = {96, 31, 1};
    struct fixture f = make(SPIN_DTYPE_Q4_1, (struct shape){9, 8, 512}, &rng);
    struct test_weight weights[3];
    struct test_matrix together[3];
    struct test_matrix alone[3];
    for (uint32_t p = 0; p < 3; p++) {
        weights[p] = spin_test_weight_create(part_dtypes[p], part_rows[p], 512, &rng);
        together[p] = spin_test_matrix_create(9, part_rows[p], 2);
        alone[p] = spin_test_matrix_create(9, part_rows[p], 0);
        f.args.parts[p] =
            (struct spin_matmul_part){.y = together[p].view, .weight = weights[p].view};
    }
    f.args.part_count = 3;
    assert_int_equal(spin_matmul_cpu(&f.args, stream), SPIN_OK);
    for (uint32_t p = 0; p < 3; p++) {
        struct spin_matmul_args args = f.args;
        args.part_count = 1;
        args.parts[0] = f.args.parts[p];
        args.parts[0].y = alone[p].view;
        assert_int_equal(spin_matmul_cpu(&args, stream), SPIN_OK);
        spin_test_expect_same_bits(&together[p].view, &alone[p].view);
        spin_test_weight_destroy(&weights[p]);
        spin_test_matrix_destroy(&together[p]);
        spin_test_matrix_destroy(&alone[p]);
    }
    destroy(&f);
    spin_stream_destroy(stream);
}

static void fill_bytes(struct fixture *f, uint8_t quants, uint32_t from, uint32_t to)
{
    uint8_t *data = spin_test_memory_data(&f->weight.memory);
    const uint32_t block = spin_dtype_block_bytes(f->weight.view.dtype);
    for (uint64_t i = 0; i < f->weight.memory.bytes; i += block) {
        memset(data + i + from, quants, to - from);
    }
}

/* The corners of the 8-bit products: every weight at its extreme byte, every x at +-max. A sum of
 * pairs that saturated would be off by parts in a thousand. */
static void test_extreme_products(void **state)
{
    (void)state;
    static const struct {
        enum spin_dtype dtype;
        uint8_t quants;
        uint32_t from;
        uint32_t to;
    } cases[] = {
        {SPIN_DTYPE_Q8_0, 0x80, 2, 34},  {SPIN_DTYPE_Q8_0, 0x7f, 2, 34},
        {SPIN_DTYPE_Q8_0, 0x81, 2, 34},  {SPIN_DTYPE_Q4_0, 0xff, 2, 18},
        {SPIN_DTYPE_Q4_0, 0x00, 2, 18},  {SPIN_DTYPE_Q4_1, 0xff, 4, 20},
        {SPIN_DTYPE_Q4_K, 0xff, 4, 144}, {SPIN_DTYPE_Q6_K, 0xff, 0, 192},
        {SPIN_DTYPE_Q6_K, 0x00, 0, 192},
    };
    for (uint64_t c = 0; c < SPIN_ARRAY_COUNT(cases); c++) {
        struct spin_rng rng = {24, c, 0};
        struct fixture f = make(cases[c].dtype, (struct shape){9, 16, 256}, &rng);
        fill_bytes(&f, cases[c].quants, cases[c].from, cases[c].to);
        for (uint32_t m = 0; m < 9; m++) {
            for (uint32_t k = 0; k < 256; k++) {
                const bool negative = m % 3 == 1 || (m % 3 == 2 && k % 2 == 1);
                spin_test_row(&f.x, m)[k] = negative ? -3.0F : 3.0F;
            }
        }
        struct test_matrix expected = spin_test_matrix_create(9, 16, 0);
        expect(&f.x.view, &f.args.parts[0], &f.before, &expected);
        for (enum spin_isa isa = SPIN_ISA_AVX2; isa <= SPIN_ISA_AVX512_VNNI; isa++) {
            struct spin_stream *stream = spin_test_stream(1);
            spin_stream_limit_isa(stream, isa);
            expect_error_below(&f, spin_matmul_cpu, stream, &expected, 1e-6);
            spin_stream_destroy(stream);
        }
        spin_test_matrix_destroy(&expected);
        destroy(&f);
    }
}

/* Zeros, numbers too small to scale, and what is no number: the first two give 0, the last NaN, in
 * its own row only. */
static void test_odd_inputs(void **state)
{
    (void)state;
    struct spin_rng rng = {25, 0, 0};
    struct spin_stream *stream = spin_test_stream(2);
    struct fixture f = make(SPIN_DTYPE_Q4_1, (struct shape){4, 20, 64}, &rng);
    for (uint32_t k = 0; k < 64; k++) {
        spin_test_row(&f.x, 0)[k] = 0;
        spin_test_row(&f.x, 1)[k] = 1e-38F;
    }
    spin_test_row(&f.x, 2)[33] = NAN;
    spin_test_row(&f.x, 3)[1] = -INFINITY;
    assert_int_equal(spin_matmul_cpu(&f.args, stream), SPIN_OK);
    for (uint32_t n = 0; n < 20; n++) {
        assert_true(spin_test_row(&f.y, 0)[n] == 0);
        assert_true(spin_test_row(&f.y, 1)[n] == 0);
        assert_true(isnan(spin_test_row(&f.y, 2)[n]));
        assert_true(isnan(spin_test_row(&f.y, 3)[n]));
    }
    destroy(&f);
    spin_stream_destroy(stream);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_double), cmocka_unit_test(test_rows_are_invariant),
        cmocka_unit_test(test_parts),          cmocka_unit_test(test_extreme_products),
        cmocka_unit_test(test_odd_inputs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
