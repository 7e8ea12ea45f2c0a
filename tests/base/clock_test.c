/* The real clock against the C library's, a manual one against the test's hand. */
#include "base/clock.h"

#include "tests/spin_test.h"

#include <time.h>

static void test_real_clock_is_the_monotonic_one(void **state)
{
    (void)state;
    const struct spin_clock *clock = spin_clock_real();
    struct timespec system;
    const uint64_t before = spin_now_ns(clock);
    assert_int_equal(clock_gettime(CLOCK_MONOTONIC, &system), 0);
    const uint64_t after = spin_now_ns(clock);
    const uint64_t between = (uint64_t)system.tv_sec * 1000000000u + (uint64_t)system.tv_nsec;
    assert_in_range(between, before, after);
    assert_ptr_equal(clock, spin_clock_real());
}

static void test_wall_clock_is_the_calendar(void **state)
{
    (void)state;
    const uint64_t before_s = (uint64_t)time(NULL);
    const uint64_t wall_ns = spin_wall_ns();
    /* time() may lag by a tick of the kernel. */
    assert_in_range(wall_ns / SPIN_NS_PER_S, before_s, before_s + 60);
}

static void test_manual_clock_moves_by_hand(void **state)
{
    (void)state;
    struct spin_clock clock = spin_clock_manual(5);
    assert_int_equal(spin_now_ns(&clock), 5);
    clock.manual_ns += 3 * SPIN_NS_PER_MS;
    assert_int_equal(spin_now_ns(&clock), 3000005);
}

static void test_deadlines_saturate(void **state)
{
    (void)state;
    assert_int_equal(spin_deadline_ns(10, 5), 15);
    assert_int_equal(spin_deadline_ns(10, SPIN_NO_DEADLINE), SPIN_NO_DEADLINE);
    assert_int_equal(spin_deadline_ns(UINT64_MAX - 4, 5), SPIN_NO_DEADLINE);
    assert_int_equal(spin_deadline_ns(UINT64_MAX - 6, 5), UINT64_MAX - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_clock_is_the_monotonic_one),
        cmocka_unit_test(test_wall_clock_is_the_calendar),
        cmocka_unit_test(test_manual_clock_moves_by_hand),
        cmocka_unit_test(test_deadlines_saturate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
