/* Every bucket against the definition, percentiles against the sorted values. */
#include "bench/load/histogram.h"

#include "base/rng.h"
#include "tests/spin_test.h"

static void test_buckets_are_a_partition(void **state)
{
    (void)state;
    assert_int_equal(spin_histogram_lower(0), 0);
    for (uint32_t i = 0; i < SPIN_HISTOGRAM_BUCKETS; i++) {
        const uint64_t lower = spin_histogram_lower(i);
        const uint64_t next = spin_histogram_lower(i + 1);
        assert_true(next > lower);
        assert_int_equal(spin_histogram_bucket(lower), i);
        assert_int_equal(spin_histogram_bucket(next - 1), i);
        /* The middle is within half a percent of everything in the bucket. */
        assert_true((double)(next - 1 - lower) / 2 <= 0.005 * (double)lower);
    }
    assert_int_equal(spin_histogram_lower(SPIN_HISTOGRAM_BUCKETS), SPIN_HISTOGRAM_MAX_NS + 1);
    assert_int_equal(spin_histogram_bucket(UINT64_MAX), SPIN_HISTOGRAM_BUCKETS - 1);
}

static int compare_values(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a;
    const uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

#define VALUES 5000u

static void test_percentiles_are_near_the_values(void **state)
{
    (void)state;
    static uint64_t values[VALUES];
    struct spin_rng rng = {.seed = 1};
    struct spin_histogram *histogram = calloc(1, sizeof *histogram);
    assert_non_null(histogram);
    double sum = 0;
    for (uint32_t i = 0; i < VALUES; i++) {
        values[i] = (uint64_t)exp(5 + 20 * spin_rng_uniform(&rng)); /* 150 ns to 72 s */
        spin_histogram_add(histogram, values[i], 1);
        sum += (double)values[i];
    }
    qsort(values, VALUES, sizeof *values, compare_values);
    for (uint32_t i = 1; i <= VALUES; i++) {
        const double got = spin_histogram_percentile(histogram, (i - 0.5) / VALUES);
        assert_true(fabs(got - (double)values[i - 1]) <= 0.005 * (double)values[i - 1]);
    }
    assert_true(spin_histogram_percentile(histogram, 0) == (double)values[0]);
    assert_true(spin_histogram_percentile(histogram, 1) == (double)values[VALUES - 1]);
    assert_true(fabs(spin_histogram_mean(histogram) * VALUES / sum - 1) < 1e-12);
    free(histogram);
}

static void test_merge_is_adding_all(void **state)
{
    (void)state;
    struct spin_histogram *histograms = calloc(4, sizeof *histograms);
    assert_non_null(histograms);
    struct spin_histogram *all = &histograms[2];
    struct spin_rng rng = {.seed = 2};
    for (uint32_t i = 0; i < 1000; i++) {
        const uint64_t value = spin_rng_below(&rng, 1u << 30);
        const uint64_t count = spin_rng_below(&rng, 4);
        spin_histogram_add(&histograms[i % 2], value, count);
        for (uint64_t k = 0; k < count; k++) {
            spin_histogram_add(all, value, 1);
        }
    }
    spin_histogram_merge(&histograms[0], &histograms[1]);
    assert_true(fabs(histograms[0].sum_ns / all->sum_ns - 1) < 1e-12);
    histograms[0].sum_ns = all->sum_ns; /* another order of the same sum */
    assert_memory_equal(&histograms[0], all, sizeof *all);
    spin_histogram_merge(all, &histograms[3]); /* an empty one changes nothing, */
    assert_memory_equal(&histograms[0], all, sizeof *all);
    spin_histogram_merge(&histograms[3], all); /* and takes in everything. */
    assert_memory_equal(&histograms[3], all, sizeof *all);
    free(histograms);
}

static void test_empty_and_beyond(void **state)
{
    (void)state;
    struct spin_histogram *histogram = calloc(1, sizeof *histogram);
    assert_non_null(histogram);
    spin_histogram_add(histogram, 5, 0);
    assert_int_equal(histogram->count, 0);
    assert_true(spin_histogram_percentile(histogram, 0.5) == 0);
    assert_true(spin_histogram_mean(histogram) == 0);
    spin_histogram_add(histogram, SPIN_HISTOGRAM_MAX_NS * 4, 1); /* 20 hours */
    assert_int_equal(histogram->buckets[SPIN_HISTOGRAM_BUCKETS - 1], 1);
    assert_true(spin_histogram_percentile(histogram, 1) == (double)(SPIN_HISTOGRAM_MAX_NS * 4));
    free(histogram);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buckets_are_a_partition),
        cmocka_unit_test(test_percentiles_are_near_the_values),
        cmocka_unit_test(test_merge_is_adding_all),
        cmocka_unit_test(test_empty_and_beyond),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
