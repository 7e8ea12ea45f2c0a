/* Both attentions against a softmax in double written here from the formula, over pages with
 * shuffled slots and NaN wherever no query may look; then the same query in every kind of company,
 * as bits. */
#include "tests/kernels/kernel_test.h"

struct shape {
    uint32_t kv_heads;
    uint32_t group;
    uint32_t head_dim;
    uint32_t page_tokens;
};

static const struct shape shapes[] = {
    {3, 3, 64, 8}, {2, 1, 128, 32}, {1, 5, 64, 8},  {2, 8, 32, 32},
    {1, 2, 8, 8},  {1, 4, 256, 8},  {2, 3, 80, 32}, {1, 13, 24, 8},
};

struct fixture {
    struct test_kv kv;
    struct test_matrix q;
    struct test_matrix out;
    struct test_memory workspace;
    struct spin_attention_args args;
};

static struct fixture make(const struct shape *shape, const struct test_kv_config *config,
                           struct spin_rng *rng)
{
    struct fixture f = {.kv = spin_test_kv_create(config, rng)};
    spin_test_kv_fill(&f.kv, rng);
    const uint32_t tokens = f.kv.first[config->sequences];
    const uint32_t q_heads = shape->kv_heads * shape->group;
    f.q = spin_test_matrix_create(tokens, q_heads * shape->head_dim, 8);
    f.out = spin_test_matrix_create(tokens, q_heads * shape->head_dim, 24);
    spin_test_matrix_fill(&f.q, rng);
    f.args = (struct spin_attention_args){.out = f.out.view,
                                          .q = f.q.view,
                                          .q_heads = q_heads,
                                          .scale = 1.7F / sqrtf((float)shape->head_dim),
                                          .spans = f.kv.spans,
                                          .pages = f.kv.lists};
    for (uint32_t s = 0; s < config->sequences; s++) {
        f.args.visible_max = SPIN_MAX(f.args.visible_max, config->visible[s]);
    }
    f.workspace = spin_test_memory_create(spin_attention_workspace_bytes(&f.args));
    f.args.workspace = spin_test_memory_data(&f.workspace);
    return f;
}

static void destroy(struct fixture *f)
{
    spin_test_memory_destroy(&f->workspace);
    spin_test_matrix_destroy(&f->out);
    spin_test_matrix_destroy(&f->q);
    spin_test_kv_destroy(&f->kv);
}

static double key_dot(const struct fixture *f, const float *q, uint64_t row, uint32_t token)
{
    const uint16_t *k = spin_list_k(&f->kv.lists, row, token);
    double sum = 0;
    for (uint32_t d = 0; d < f->kv.lists.layout.head_dim; d++) {
        sum += (double)q[d] * (double)spin_f32_from_bf16(k[d]);
    }
    return sum * (double)f->args.scale;
}

/* softmax(q K^T) V of one query head by the book. */
static void expect_head(const struct fixture *f, const float *q, uint64_t row, uint32_t visible,
                        float *out)
{
    const uint32_t head_dim = f->kv.lists.layout.head_dim;
    double *p = calloc(visible, sizeof *p);
    assert_non_null(p);
    double max = -(double)INFINITY;
    for (uint32_t t = 0; t < visible; t++) {
        p[t] = key_dot(f, q, row, t);
        max = fmax(max, p[t]);
    }
    double z = 0;
    for (uint32_t t = 0; t < visible; t++) {
        p[t] = exp(p[t] - max);
        z += p[t];
    }
    for (uint32_t d = 0; d < head_dim; d++) {
        double o = 0;
        for (uint32_t t = 0; t < visible; t++) {
            o += p[t] / z * (double)spin_f32_from_bf16(spin_list_v(&f->kv.lists, row, t)[d]);
        }
        out[d] = (float)o;
    }
    free(p);
}

static void expect_all(const struct fixture *f, const struct test_kv_config *config,
                       struct test_matrix *expected)
{
    const uint32_t head_dim = config->head_dim;
    const uint32_t group = f->args.q_heads / config->kv_heads;
    for (uint32_t s = 0; s < config->sequences; s++) {
        for (uint32_t i = 0; i < config->queries[s]; i++) {
            const uint32_t m = f->kv.first[s] + i;
            const uint32_t visible = config->visible[s] - (config->queries[s] - 1 - i);
            for (uint32_t h = 0; h < f->args.q_heads; h++) {
                const uint64_t row = (uint64_t)s * config->kv_heads + h / group;
                expect_head(f, spin_test_row(&f->q, m) + (uint64_t)h * head_dim, row, visible,
                            spin_test_row(expected, m) + (uint64_t)h * head_dim);
            }
        }
    }
}

/* Mixed batches: chunks, single queries, lists that end before, at and after tiles and splits. */
static const uint32_t visible_lengths[] = {1, 7, 8, 9, 127, 128, 129, 1000, 40, 513};
static const uint32_t query_counts[] = {1, 7, 1, 3, 127, 1, 60, 1, 40, 33};

static void test_against_double(void **state)
{
    (void)state;
    struct spin_rng rng = {11, 0, 0};
    struct spin_stream *stream = spin_test_stream(2);
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(shapes); i++) {
        const struct shape *shape = &shapes[i];
        const struct test_kv_config config = {shape->kv_heads,    shape->head_dim,
                                              shape->page_tokens, SPIN_ARRAY_COUNT(query_counts),
                                              visible_lengths,    query_counts};
        struct fixture f = make(shape, &config, &rng);
        struct test_matrix expected = spin_test_matrix_create(f.q.view.rows, f.q.view.cols, 0);
        expect_all(&f, &config, &expected);
        assert_int_equal(spin_attention_ref(&f.args, stream), SPIN_OK);
        assert_true(spin_test_matrix_error(&f.out.view, &expected.view) < 1e-6);
        memset(f.out.view.data, 0xff, f.out.memory.bytes);
        assert_int_equal(spin_attention_cpu(&f.args, stream), SPIN_OK);
        const double error = spin_test_matrix_error(&f.out.view, &expected.view);
        if (!(error < 1e-5)) {
            fail_msg("shape %d: relative L2 %g", (int)i, error);
        }
        spin_test_matrix_destroy(&expected);
        destroy(&f);
    }
    spin_stream_destroy(stream);
}

/* Runs the last `count` tokens of what `whole` holds, in chunks of `chunk` tokens, as a prefill
 * would: the list of every chunk ends with the chunk. */
static void run_in_chunks(const struct fixture *whole, struct test_matrix *out, uint32_t chunk,
                          struct spin_stream *stream)
{
    const uint32_t kv_heads = whole->kv.lists.layout.kv_heads;
    const uint32_t length = whole->kv.visible[0];
    const uint32_t before = length - whole->q.view.rows;
    uint32_t visible[8];
    for (uint32_t begin = 0; begin < whole->q.view.rows; begin += chunk) {
        const uint32_t count = SPIN_MIN(chunk, whole->q.view.rows - begin);
        const uint32_t first[2] = {0, count};
        for (uint32_t h = 0; h < kv_heads; h++) {
            visible[h] = before + begin + count;
        }
        struct spin_attention_args args = whole->args;
        args.q = spin_test_rows(&whole->q, begin, count);
        args.out = spin_test_rows(out, begin, count);
        args.spans = (struct spin_spans){first, 1};
        args.pages.visible = visible;
        assert_int_equal(spin_attention_cpu(&args, stream), SPIN_OK);
    }
}

/* A query's bits are the same in a prefill of any chunk size, alone in decode, on any threads and
 * with vectors of any width. */
static void test_company_changes_nothing(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {1, 2, 7, 16, 64, 300};
    static const uint32_t lengths[] = {9, 129, 300, 1000};
    struct spin_rng rng = {12, 0, 0};
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(shapes); i++) {
        for (uint64_t j = 0; j < SPIN_ARRAY_COUNT(lengths); j++) {
            const uint32_t queries = SPIN_MIN(lengths[j], 70);
            const struct test_kv_config config = {shapes[i].kv_heads,    shapes[i].head_dim,
                                                  shapes[i].page_tokens, 1,
                                                  &lengths[j],           &queries};
            struct fixture f = make(&shapes[i], &config, &rng);
            struct test_matrix other = spin_test_matrix_create(queries, f.out.view.cols, 24);
            struct spin_stream *one = spin_test_stream(1);
            run_in_chunks(&f, &f.out, queries, one);
            spin_stream_destroy(one);
            for (uint64_t c = 0; c < SPIN_ARRAY_COUNT(chunks); c++) {
                struct spin_stream *stream = spin_test_stream((uint32_t)(c % 3) + 1);
                if (c % 2 == 0) { /* `one` takes the widest that there are */
                    spin_stream_limit_isa(stream, SPIN_ISA_AVX2);
                }
                memset(other.view.data, 0xff, other.memory.bytes);
                run_in_chunks(&f, &other, chunks[c], stream);
                spin_test_expect_same_bits(&other.view, &f.out.view);
                spin_stream_destroy(stream);
            }
            spin_test_matrix_destroy(&other);
            destroy(&f);
        }
    }
}

/* A batch of `sequences` single queries is what each of them is alone, whether the op cuts over
 * splits (few sequences) or over rows (many). */
static void test_batch_changes_nothing(void **state)
{
    (void)state;
    enum { SEQUENCES = 20 };
    uint32_t visible[SEQUENCES];
    uint32_t queries[SEQUENCES];
    struct spin_rng rng = {13, 0, 0};
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        visible[s] = 1 + spin_rng_below(&rng, 700);
        queries[s] = 1;
    }
    const struct shape *shape = &shapes[0];
    const struct test_kv_config config = {shape->kv_heads, shape->head_dim, shape->page_tokens,
                                          SEQUENCES,       visible,         queries};
    struct fixture f = make(shape, &config, &rng);
    struct test_matrix alone = spin_test_matrix_create(SEQUENCES, f.out.view.cols, 24);
    struct spin_stream *stream = spin_test_stream(3);
    assert_int_equal(spin_attention_cpu(&f.args, stream), SPIN_OK);
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        const uint32_t first[2] = {0, 1};
        struct spin_attention_args args = f.args;
        args.q = spin_test_rows(&f.q, s, 1);
        args.out = spin_test_rows(&alone, s, 1);
        args.spans = (struct spin_spans){first, 1};
        args.pages.row_offset += (uint64_t)s * shape->kv_heads;
        args.pages.visible += (uint64_t)s * shape->kv_heads;
        assert_int_equal(spin_attention_cpu(&args, stream), SPIN_OK);
    }
    spin_test_expect_same_bits(&f.out.view, &alone.view);
    spin_stream_destroy(stream);
    spin_test_matrix_destroy(&alone);
    destroy(&f);
}

static void copy_tokens(const struct test_kv *from, struct test_kv *to)
{
    const uint64_t bytes = (uint64_t)from->lists.layout.head_dim * sizeof(uint16_t);
    for (uint64_t row = 0; row < from->lists.layout.kv_heads; row++) {
        for (uint32_t t = 0; t < from->visible[row]; t++) {
            memcpy(spin_list_k(&to->lists, row, t), spin_list_k(&from->lists, row, t), bytes);
            memcpy(spin_list_v(&to->lists, row, t), spin_list_v(&from->lists, row, t), bytes);
        }
    }
}

/* The last `queries` tokens of `length`, over pages of 8 and of 32. */
static void expect_page_size_changes_nothing(const struct shape *shape, uint32_t length,
                                             uint32_t queries, struct spin_stream *stream)
{
    struct spin_rng rng = {15, length, queries};
    const struct test_kv_config small = {shape->kv_heads, shape->head_dim, 8, 1, &length, &queries};
    const struct test_kv_config large = {shape->kv_heads, shape->head_dim, 32, 1,
                                         &length,         &queries};
    struct fixture f = make(shape, &small, &rng);
    struct test_kv other = spin_test_kv_create(&large, &rng);
    struct test_matrix out = spin_test_matrix_create(queries, f.out.view.cols, 8);
    copy_tokens(&f.kv, &other);
    assert_int_equal(spin_attention_cpu(&f.args, stream), SPIN_OK);
    struct spin_attention_args args = f.args;
    args.pages = other.lists;
    args.out = out.view;
    assert_true(spin_attention_workspace_bytes(&args) <= f.workspace.bytes);
    assert_int_equal(spin_attention_cpu(&args, stream), SPIN_OK);
    spin_test_expect_same_bits(&out.view, &f.out.view);
    spin_test_matrix_destroy(&out);
    spin_test_kv_destroy(&other);
    destroy(&f);
}

/* A list of every page gives the same bits whatever the page: sparse attention that takes all is
 * dense attention. */
static void test_page_size_changes_nothing(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {1,   7,   8,   9,   31,   33,   127,  128,
                                       129, 511, 512, 513, 1000, 1025, 3000, 6000};
    static const struct shape page_shapes[] = {{3, 3, 64, 8}, {1, 5, 80, 8}};
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(page_shapes); i++) {
        for (uint64_t j = 0; j < SPIN_ARRAY_COUNT(lengths); j++) {
            struct spin_stream *stream = spin_test_stream((uint32_t)(j % 2) + 1);
            if (i == 1) {
                spin_stream_limit_isa(stream, SPIN_ISA_AVX2);
            }
            expect_page_size_changes_nothing(&page_shapes[i], lengths[j], 1, stream);
            const uint32_t chunk = lengths[j] > 1025 ? 5 : SPIN_MIN(lengths[j], 37);
            expect_page_size_changes_nothing(&page_shapes[i], lengths[j], chunk, stream);
            spin_stream_destroy(stream);
        }
    }
}

/* One score far above the rest: the output is that token's value, and nothing overflows. */
static void test_huge_score(void **state)
{
    (void)state;
    const uint32_t visible = 300;
    const uint32_t queries = 1;
    const uint32_t winner = 140;
    const struct shape shape = {1, 1, 64, 8};
    const struct test_kv_config config = {1, 64, 8, 1, &visible, &queries};
    struct spin_rng rng = {14, 0, 0};
    struct fixture f = make(&shape, &config, &rng);
    struct spin_stream *stream = spin_test_stream(2);
    uint16_t *k = spin_list_k(&f.kv.lists, 0, winner);
    for (uint32_t d = 0; d < 64; d++) {
        k[d] = spin_bf16_from_f32(spin_test_row(&f.q, 0)[d] * 1e4F);
    }
    assert_int_equal(spin_attention_cpu(&f.args, stream), SPIN_OK);
    for (uint32_t d = 0; d < 64; d++) {
        const float v = spin_f32_from_bf16(spin_list_v(&f.kv.lists, 0, winner)[d]);
        assert_true(spin_test_row(&f.out, 0)[d] == v);
    }
    spin_stream_destroy(stream);
    destroy(&f);
}

static void test_no_queries(void **state)
{
    (void)state;
    const uint32_t first[1] = {0};
    struct spin_attention_args args = {.q_heads = 3};
    const uint32_t cols = 3 * 64;
    args.q = (struct spin_matrix){NULL, SPIN_DTYPE_F32, 0, cols, cols};
    args.out = args.q;
    args.spans = (struct spin_spans){first, 0};
    args.pages.layout = (struct spin_kv_layout){1, 1, 64, SPIN_KV_BF16, SPIN_SWIZZLE_NONE};
    args.pages.page_tokens = 8;
    struct spin_stream *stream = spin_test_stream(2);
    assert_int_equal(spin_attention_ref(&args, stream), SPIN_OK);
    assert_int_equal(spin_attention_cpu(&args, stream), SPIN_OK);
    spin_stream_destroy(stream);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_double),
        cmocka_unit_test(test_company_changes_nothing),
        cmocka_unit_test(test_batch_changes_nothing),
        cmocka_unit_test(test_page_size_changes_nothing),
        cmocka_unit_test(test_huge_score),
        cmocka_unit_test(test_no_queries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
