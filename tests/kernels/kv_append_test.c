/* Both versions against a walk over tokens written here: the right bytes in the right place,
 * rounded to nearest even, and not a byte of any other token touched. */
#include "tests/kernels/kernel_test.h"

typedef spin_status (*append_fn)(const struct spin_kv_append_args *args,
                                 struct spin_stream *stream);

static const uint32_t visible[] = {1, 8, 9, 40, 130};
static const uint32_t queries[] = {1, 8, 1, 33, 7};

/* BF16 to nearest even, by comparing the two candidates. */
static uint16_t expected_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t low = bits & 0xffffu;
    const uint32_t down = bits >> 16;
    if (low == 0x8000u) {
        return (uint16_t)(down + (down & 1u));
    }
    return (uint16_t)(low > 0x8000u ? down + 1 : down);
}

/* Values that are exactly between two BF16 numbers, too. */
static void fill_with_ties(struct test_matrix *matrix, struct spin_rng *rng)
{
    spin_test_matrix_fill(matrix, rng);
    for (uint32_t r = 0; r < matrix->view.rows; r++) {
        for (uint32_t c = 0; c < matrix->view.cols; c += 3) {
            const uint32_t bits = (spin_rng_u32(rng) & 0x3fff0000u) | 0x8000u;
            memcpy(spin_test_row(matrix, r) + c, &bits, sizeof bits);
        }
    }
}

static void expect_token(const struct test_kv *kv, uint64_t row, uint32_t token,
                         const struct spin_kv_append_args *args)
{
    const uint32_t kv_heads = kv->lists.layout.kv_heads;
    const uint32_t head_dim = kv->lists.layout.head_dim;
    const uint64_t s = row / kv_heads;
    const uint32_t new_from = visible[s] - queries[s];
    const uint16_t *k = spin_list_k(&kv->lists, row, token);
    const uint16_t *v = spin_list_v(&kv->lists, row, token);
    for (uint32_t d = 0; d < head_dim; d++) {
        if (token < new_from) {
            assert_int_equal(k[d], 0xffff);
            assert_int_equal(v[d], 0xffff);
            continue;
        }
        const uint64_t m = kv->first[s] + (token - new_from);
        const uint64_t column = row % kv_heads * head_dim + d;
        assert_int_equal(k[d], expected_bits(spin_matrix_row(&args->k, m)[column]));
        assert_int_equal(v[d], expected_bits(spin_matrix_row(&args->v, m)[column]));
    }
}

static void check(append_fn append, uint32_t page_tokens, uint32_t head_dim, uint32_t threads)
{
    struct spin_rng rng = {71, page_tokens, head_dim};
    const struct test_kv_config config = {3,       head_dim, page_tokens, SPIN_ARRAY_COUNT(visible),
                                          visible, queries};
    struct test_kv kv = spin_test_kv_create(&config, &rng);
    const uint32_t tokens = kv.first[config.sequences];
    struct test_matrix k = spin_test_matrix_create(tokens, 3 * head_dim, 8);
    struct test_matrix v = spin_test_matrix_create(tokens, 3 * head_dim, 16);
    fill_with_ties(&k, &rng);
    fill_with_ties(&v, &rng);
    const struct spin_kv_append_args args = {k.view, v.view, kv.spans, kv.lists};
    struct spin_stream *stream = spin_test_stream(threads);
    assert_int_equal(append(&args, stream), SPIN_OK);
    uint64_t owned = 0;
    for (uint64_t row = 0; row < (uint64_t)config.sequences * 3; row++) {
        for (uint32_t t = 0; t < kv.visible[row]; t++) {
            expect_token(&kv, row, t, &args);
        }
        owned += queries[row / 3];
    }
    /* Everything else is still 0xff: count the bytes of the pool that changed. */
    uint64_t poison = 0;
    const uint16_t *pool = spin_test_memory_data(&kv.pool);
    for (uint64_t i = 0; i < kv.pool.bytes / 2; i++) {
        poison += pool[i] == 0xffff;
    }
    assert_int_equal(poison, kv.pool.bytes / 2 - owned * 2 * head_dim);
    spin_stream_destroy(stream);
    spin_test_matrix_destroy(&k);
    spin_test_matrix_destroy(&v);
    spin_test_kv_destroy(&kv);
}

static void test_every_token_in_its_place(void **state)
{
    (void)state;
    static const uint32_t head_dims[] = {8, 64, 128};
    for (uint32_t i = 0; i < 3; i++) {
        for (uint32_t page_tokens = 8; page_tokens <= 32; page_tokens += 24) {
            check(spin_kv_append_ref, page_tokens, head_dims[i], 1);
            check(spin_kv_append_cpu, page_tokens, head_dims[i], 1);
            check(spin_kv_append_cpu, page_tokens, head_dims[i], 3);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_token_in_its_place)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
