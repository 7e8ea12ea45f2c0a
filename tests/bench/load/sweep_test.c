/* Servers of every capacity: the search must bracket it, and ask no more than a bisection needs. */
#include "bench/load/sweep.h"

#include "tests/spin_test.h"

static const struct spin_sweep_config wide = {
    .rate_first = 1, .rate_min = 0.01, .rate_max = 10000, .precision = 0.05, .rates_max = 64};

/* Runs the search against a server that holds all rates up to `capacity`. */
static struct spin_sweep search(const struct spin_sweep_config *config, double capacity,
                                double generator_max)
{
    struct spin_sweep sweep;
    spin_sweep_init(&sweep, config);
    while (sweep.end == SPIN_SWEEP_GOES_ON) {
        assert_true(sweep.next >= config->rate_min && sweep.next <= config->rate_max);
        const enum spin_sweep_verdict judged =
            sweep.next <= capacity ? SPIN_SWEEP_HOLDS : SPIN_SWEEP_FAILS;
        spin_sweep_judge(&sweep, sweep.next > generator_max ? SPIN_SWEEP_LIMITED : judged);
    }
    return sweep;
}

static void test_every_capacity_is_found(void **state)
{
    (void)state;
    for (int step = 0; step < 377; step++) {
        const double capacity = 0.011 * pow(1.037, step); /* to 9,700 */
        const struct spin_sweep sweep = search(&wide, capacity, INFINITY);
        assert_int_equal(sweep.end, SPIN_SWEEP_FOUND);
        assert_true(sweep.holds <= capacity && capacity < sweep.fails);
        assert_true(sweep.fails / sweep.holds <= 1.05);
        /* Doublings to get there, then log2(log 2 / log 1.05) = 3.8 bisections. */
        assert_true(sweep.tried <= fabs(log2(capacity)) + 2 + 4);
    }
}

static void test_ends(void **state)
{
    (void)state;
    struct spin_sweep sweep = search(&wide, 1e9, INFINITY);
    assert_int_equal(sweep.end, SPIN_SWEEP_AT_MAX);
    assert_true(sweep.holds == 10000);
    sweep = search(&wide, 0, INFINITY);
    assert_int_equal(sweep.end, SPIN_SWEEP_AT_MIN);
    assert_true(sweep.holds == 0);
    sweep = search(&wide, 1e9, 20);
    assert_int_equal(sweep.end, SPIN_SWEEP_TOO_SLOW);
    assert_true(sweep.holds == 16);
    struct spin_sweep_config short_of_breath = wide;
    short_of_breath.rates_max = 5;
    sweep = search(&short_of_breath, 100, INFINITY);
    assert_int_equal(sweep.end, SPIN_SWEEP_TIRED);
    assert_int_equal(sweep.tried, 5);
    assert_true(sweep.holds == 16 && isinf(sweep.fails));
}

static void test_one_rate_only(void **state)
{
    (void)state;
    const struct spin_sweep_config one = {
        .rate_first = 3, .rate_min = 3, .rate_max = 3, .precision = 0.1, .rates_max = 9};
    assert_int_equal(search(&one, 3, INFINITY).end, SPIN_SWEEP_AT_MAX);
    const struct spin_sweep sweep = search(&one, 2, INFINITY);
    assert_int_equal(sweep.end, SPIN_SWEEP_AT_MIN);
    assert_int_equal(sweep.tried, 1);
    assert_string_equal(spin_sweep_end_text(sweep.end), "the lowest rate that was allowed fails");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_capacity_is_found),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_one_rate_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
