/* Both Indexes against sums and comparisons written here, on slots and blocks that lie anywhere:
 * the right bytes in the right place, and not a byte of any other summary touched. */
#include "tests/kernels/kv_fixture.h"

#define KV_HEADS_MAX 8u

typedef spin_status (*index_fn)(const struct spin_kv_index_args *args, struct spin_stream *stream);

static const index_fn versions[] = {spin_kv_index_ref, spin_kv_index_cpu};

/* One token, a page less one, full pages, one over, several blocks. */
static const uint32_t tokens[] = {1, 7, 8, 9, 16, 31, 32, 33, 127, 128, 129, 400};

static const struct fixture_config configs[] = {
    {SPIN_SUMMARY_MEAN, 3, 3, 64, 8, 8, SPIN_ARRAY_COUNT(tokens), tokens},
    {SPIN_SUMMARY_MEAN, 1, 1, 128, 8, 8, SPIN_ARRAY_COUNT(tokens), tokens},
    {SPIN_SUMMARY_MEAN, 2, 1, 8, 32, 32, SPIN_ARRAY_COUNT(tokens), tokens},
    {SPIN_SUMMARY_MEAN, 2, 1, 40, 8, 128, SPIN_ARRAY_COUNT(tokens), tokens},
    {SPIN_SUMMARY_BOUNDS, 3, 3, 64, 8, 16, SPIN_ARRAY_COUNT(tokens), tokens},
    {SPIN_SUMMARY_BOUNDS, 2, 8, 128, 8, 16, SPIN_ARRAY_COUNT(tokens), tokens},
    {SPIN_SUMMARY_BOUNDS, 1, 1, 256, 32, 64, SPIN_ARRAY_COUNT(tokens), tokens},
};

/* Partitions [first, end) of each sequence, as far as they are sealed. Lists leave out some pages
 * before them, of each row as many as its number says. */
static void run_index(const struct fixture *fixture, index_fn index, uint32_t threads,
                      struct spin_range partitions)
{
    struct spin_stream *stream = spin_test_stream(threads);
    const uint32_t pages = fixture->view.partition_tokens / fixture->view.page_tokens;
    const uint32_t kv_heads = fixture->view.layout.kv_heads;
    struct spin_kv_range ranges[SPIN_ARRAY_COUNT(tokens)];
    uint32_t skip[SPIN_ARRAY_COUNT(tokens) * KV_HEADS_MAX] = {0};
    for (uint32_t s = 0; s < fixture->batch.count; s++) {
        const uint32_t sealed = spin_test_fixture_sealed(fixture, s);
        const uint32_t end = (uint32_t)SPIN_MIN(partitions.end, sealed);
        const uint32_t first = (uint32_t)SPIN_MIN(partitions.begin, end);
        ranges[s] = (struct spin_kv_range){first * pages, (end - first) * pages};
        for (uint32_t head = 0; head < kv_heads; head++) {
            skip[s * kv_heads + head] = (s + head) % (ranges[s].first + 1);
        }
    }
    const struct spin_kv_index_args args = {.view = &fixture->view,
                                            .batch = fixture->batch,
                                            .lists = spin_test_fixture_list(fixture, skip),
                                            .summary = fixture->summary,
                                            .ranges = ranges};
    SPIN_EXPECT_OK(index(&args, stream), NULL);
    spin_stream_destroy(stream);
}

static const struct spin_range everything = {0, UINT32_MAX};

static void expect_mean(const struct fixture *fixture, uint64_t row, uint32_t partition, uint32_t d)
{
    const uint32_t count = fixture->view.partition_tokens;
    double sum = 0;
    for (uint32_t t = 0; t < count; t++) {
        const uint16_t *key = spin_test_fixture_key(fixture, row, partition * count + t);
        sum += (double)spin_f32_from_bf16(key[d]);
    }
    const double got =
        (double)spin_f32_from_bf16(spin_test_fixture_summary(fixture, row, partition)[d]);
    /* To nearest is half an ulp of 8 bits; sums in F32 may fall on the other side of a tie. */
    const double error = fabs(got - sum / count);
    if (!(error <= fabs(sum / count) * 0x1p-8 + 1e-7)) {
        fail_msg("row %u partition %u column %u: %g, wanted %g", (uint32_t)row, partition, d, got,
                 sum / count);
    }
}

static void expect_bounds(const struct fixture *fixture, uint64_t row, uint32_t partition,
                          uint32_t d)
{
    const uint32_t count = fixture->view.partition_tokens;
    const uint16_t *summary = spin_test_fixture_summary(fixture, row, partition);
    float min = INFINITY;
    float max = -INFINITY;
    for (uint32_t t = 0; t < count; t++) {
        const uint16_t *key = spin_test_fixture_key(fixture, row, partition * count + t);
        min = fminf(min, spin_f32_from_bf16(key[d]));
        max = fmaxf(max, spin_f32_from_bf16(key[d]));
    }
    assert_true(spin_f32_from_bf16(summary[d]) == min);
    assert_true(spin_f32_from_bf16(summary[fixture->view.layout.head_dim + d]) == max);
}

static void expect_row(const struct fixture *fixture, uint64_t row)
{
    const uint32_t sequence = (uint32_t)(row / fixture->view.layout.kv_heads);
    for (uint32_t p = 0; p < spin_test_fixture_sealed(fixture, sequence); p++) {
        for (uint32_t d = 0; d < fixture->view.layout.head_dim; d++) {
            if (fixture->summary == SPIN_SUMMARY_MEAN) {
                expect_mean(fixture, row, p, d);
            } else {
                expect_bounds(fixture, row, p, d);
            }
        }
    }
}

/* A byte that is not NaN any more is one that was written. */
static uint64_t written_bytes(const struct fixture *fixture)
{
    const uint8_t *bytes = spin_test_memory_data(&fixture->summaries);
    uint64_t count = 0;
    for (uint64_t i = 0; i < fixture->summaries.bytes; i += 2) {
        count += bytes[i] != 0xff || bytes[i + 1] != 0xff ? 2 : 0;
    }
    return count;
}

static void test_formulas(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(configs); i++) {
        for (uint64_t v = 0; v < SPIN_ARRAY_COUNT(versions); v++) {
            struct spin_rng rng = {7, i, 0};
            struct fixture fixture = spin_test_fixture_create(&configs[i], &rng);
            spin_test_fixture_fill_keys(&fixture, &rng);
            run_index(&fixture, versions[v], 2, everything);
            uint64_t wanted = 0;
            for (uint64_t r = 0; r < (uint64_t)fixture.batch.count * configs[i].kv_heads; r++) {
                expect_row(&fixture, r);
                wanted += (uint64_t)fixture.view.summary_bytes *
                          spin_test_fixture_sealed(&fixture, (uint32_t)(r / configs[i].kv_heads));
            }
            assert_int_equal(written_bytes(&fixture), wanted);
            spin_test_fixture_destroy(&fixture);
        }
    }
}

/* Prefill writes many partitions at once, decode one: the same bits, on any number of threads. */
static void test_one_by_one(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(configs); i++) {
        for (uint64_t v = 0; v < SPIN_ARRAY_COUNT(versions); v++) {
            struct spin_rng rng = {8, i, 0};
            struct spin_rng same = rng;
            struct fixture whole = spin_test_fixture_create(&configs[i], &rng);
            struct fixture steps = spin_test_fixture_create(&configs[i], &same);
            spin_test_fixture_fill_keys(&whole, &rng);
            spin_test_fixture_fill_keys(&steps, &same);
            run_index(&whole, versions[v], 3, everything);
            for (uint32_t p = 0; p < 400 / configs[i].partition_tokens; p++) {
                run_index(&steps, versions[v], 1, (struct spin_range){p, p + 1});
            }
            assert_memory_equal(spin_test_memory_data(&whole.summaries),
                                spin_test_memory_data(&steps.summaries), whole.summaries.bytes);
            spin_test_fixture_destroy(&whole);
            spin_test_fixture_destroy(&steps);
        }
    }
}

/* Zeros of both signs, infinities, and the largest finite keys. */
static void test_bounds_of_extremes(void **state)
{
    (void)state;
    static const uint16_t extremes[] = {0x0000, 0x8000, 0x7f80, 0xff80, 0x7f7f, 0xff7f, 0x0001};
    struct spin_rng rng = {9, 0, 0};
    for (uint64_t v = 0; v < SPIN_ARRAY_COUNT(versions); v++) {
        struct fixture fixture = spin_test_fixture_create(&configs[4], &rng);
        for (uint64_t r = 0; r < (uint64_t)fixture.batch.count * 3; r++) {
            for (uint32_t t = 0; t < fixture.tokens[r / 3]; t++) {
                for (uint32_t d = 0; d < 64; d++) {
                    spin_test_fixture_key(&fixture, r, t)[d] =
                        extremes[spin_rng_below(&rng, SPIN_ARRAY_COUNT(extremes))];
                }
            }
        }
        run_index(&fixture, versions[v], 2, everything);
        for (uint64_t r = 0; r < (uint64_t)fixture.batch.count * 3; r++) {
            expect_row(&fixture, r);
        }
        spin_test_fixture_destroy(&fixture);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formulas),
        cmocka_unit_test(test_one_by_one),
        cmocka_unit_test(test_bounds_of_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
