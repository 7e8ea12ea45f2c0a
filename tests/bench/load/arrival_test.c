/* Schedules against the formulas in arrival.h: rates, gaps and their distribution over many
 * requests of several seeds. */
#include "bench/load/arrival.h"

#include "base/clock.h"
#include "tests/spin_test.h"

#include <math.h>
#include <string.h>

#define MANY 200000u

static struct spin_bench_arrivals parsed(const char *text, double rate, uint64_t seed)
{
    struct spin_bench_arrivals arrivals;
    struct spin_error err = {0};
    assert_int_equal(spin_bench_arrivals_parse(text, &arrivals, &err), SPIN_OK);
    arrivals.rate_per_s = rate;
    arrivals.seed = seed;
    return arrivals;
}

static void test_constant_is_index_over_rate(void **state)
{
    (void)state;
    struct spin_bench_arrivals arrivals = parsed("constant", 8, 1);
    for (uint64_t i = 0; i < 1000; i++) {
        assert_int_equal(spin_bench_arrivals_next(&arrivals), i * 125000000);
    }
}

static void test_burst_goes_at_once(void **state)
{
    (void)state;
    struct spin_bench_arrivals arrivals = parsed("burst:5", 10, 1);
    assert_int_equal(arrivals.burst, 5);
    for (uint64_t i = 0; i < 1000; i++) {
        assert_int_equal(spin_bench_arrivals_next(&arrivals), i / 5 * 500000000);
    }
}

/* Gaps of a Poisson process: mean and standard deviation 1 / rate, a part e^-x of them above
 * x / rate, and no memory: a gap says nothing about the next. */
static void test_poisson_gaps_are_exponential(void **state)
{
    (void)state;
    const double rate = 40;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        struct spin_bench_arrivals arrivals = parsed("poisson", rate, seed);
        double sum = 0;
        double squares = 0;
        double products = 0;
        double before_last = 1;
        uint32_t above_1 = 0;
        uint32_t above_3 = 0;
        uint64_t last_ns = 0;
        for (uint32_t i = 0; i < MANY; i++) {
            const uint64_t at_ns = spin_bench_arrivals_next(&arrivals);
            assert_true(at_ns >= last_ns);
            const double gap = (double)(at_ns - last_ns) / (double)SPIN_NS_PER_S * rate;
            sum += gap;
            squares += gap * gap;
            products += (gap - 1) * (before_last - 1);
            above_1 += gap > 1;
            above_3 += gap > 3;
            before_last = gap;
            last_ns = at_ns;
        }
        /* Five standard errors of each. */
        const double error = 5 / sqrt(MANY);
        assert_true(fabs(sum / MANY - 1) < error);
        assert_true(fabs(squares / MANY - 2) < error * sqrt(20));
        assert_true(fabs(products / MANY) < error);
        assert_true(fabs((double)above_1 / MANY - exp(-1)) < error * sqrt(exp(-1)));
        assert_true(fabs((double)above_3 / MANY - exp(-3)) < error * sqrt(exp(-3)));
    }
}

static void test_seed_decides(void **state)
{
    (void)state;
    struct spin_bench_arrivals one = parsed("poisson", 3, 7);
    struct spin_bench_arrivals same = parsed("poisson", 3, 7);
    struct spin_bench_arrivals other = parsed("poisson", 3, 8);
    uint32_t equal = 0;
    for (uint32_t i = 0; i < 100; i++) {
        const uint64_t at_ns = spin_bench_arrivals_next(&one);
        assert_int_equal(at_ns, spin_bench_arrivals_next(&same));
        equal += at_ns == spin_bench_arrivals_next(&other);
    }
    assert_int_equal(equal, 0);
}

static void test_names(void **state)
{
    (void)state;
    assert_int_equal(parsed("closed", 0, 0).kind, SPIN_BENCH_CLOSED);
    assert_int_equal(parsed("trace", 0, 0).kind, SPIN_BENCH_TRACE);
    assert_false(spin_bench_arrival_has_rate(SPIN_BENCH_CLOSED));
    assert_true(spin_bench_arrival_has_rate(SPIN_BENCH_BURST));
    static const char *const wrong[] = {
        "",         "Poisson",     "burst",    "burst:",  "burst:0",
        "burst:-1", "burst:65537", "burst:4x", "uniform",
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(wrong); i++) {
        struct spin_bench_arrivals arrivals;
        struct spin_error err = {0};
        assert_int_equal(spin_bench_arrivals_parse(wrong[i], &arrivals, &err), SPIN_ERR_INVALID);
        assert_non_null(strstr(err.text, "arrival"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_constant_is_index_over_rate),
        cmocka_unit_test(test_burst_goes_at_once),
        cmocka_unit_test(test_poisson_gaps_are_exponential),
        cmocka_unit_test(test_seed_decides),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
