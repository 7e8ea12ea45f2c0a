#include "bench/gpu/model/numbers.h"

#include "tests/spin_test.h"

#include <math.h>
#include <string.h>

static void lists_of_numbers_are_read(void **state)
{
    (void)state;
    struct spin_numbers numbers;
    assert_int_equal(spin_numbers_parse("x", "1,8,4294967295", &numbers, NULL), SPIN_OK);
    assert_int_equal(numbers.count, 3);
    assert_int_equal(numbers.value[0], 1);
    assert_int_equal(numbers.value[1], 8);
    assert_int_equal(numbers.value[2], UINT32_MAX);
    assert_true(spin_numbers_has(&numbers, 8));
    assert_false(spin_numbers_has(&numbers, 9));
    assert_int_equal(spin_numbers_parse("x", "0", &numbers, NULL), SPIN_OK);
}

static void bad_lists_are_named(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      ",",
                                      "1,",
                                      ",1",
                                      "1,,2",
                                      "-1",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "1;2",
                                      "4294967296",
                                      "99999999999999999999999",
                                      "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1"};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(bad); i++) {
        struct spin_numbers numbers;
        struct spin_error err;
        assert_int_equal(spin_numbers_parse("batches", bad[i], &numbers, &err), SPIN_ERR_INVALID);
        assert_non_null(strstr(err.text, "--batches"));
    }
}

static void limits_are_named(void **state)
{
    (void)state;
    struct spin_error err;
    const struct spin_numbers numbers = {.count = 2, .value = {3, 99}};
    assert_int_equal(spin_numbers_check("batches", &numbers, 3, 99, &err), SPIN_OK);
    assert_int_equal(spin_numbers_check("batches", &numbers, 4, 99, &err), SPIN_ERR_INVALID);
    assert_int_equal(spin_numbers_check("batches", &numbers, 3, 98, &err), SPIN_ERR_INVALID);
    assert_non_null(strstr(err.text, "99: must be 3 to 98"));
}

static void quantiles_lie_between_samples(void **state)
{
    (void)state;
    double odd[] = {5, 1, 3};
    double even[] = {4, 1, 3, 2};
    assert_true(spin_quantile(odd, 3, 0.5) == 3);
    assert_true(spin_quantile(even, 4, 0.5) == 2.5);
    assert_true(spin_quantile(even, 4, 0) == 1);
    assert_true(spin_quantile(even, 4, 1) == 4);
    assert_true(spin_quantile(odd, 1, 0.9) == 1);
    assert_true(spin_mean(even, 4) == 2.5);
}

static void likeliest_is_the_first_of_equals(void **state)
{
    (void)state;
    const float values[] = {-1, 3, 2, 3};
    assert_int_equal(spin_argmax(values, 4), 1);
    const float broken[] = {1, 2, NAN};
    assert_int_equal(spin_argmax(broken, 3), -1);
}

static void sums_of_exponentials_do_not_overflow(void **state)
{
    (void)state;
    const float values[] = {1000, 1000, -1000};
    assert_true(fabs(spin_log_sum_exp(values, 3) - (1000 + log(2))) < 1e-9);
    const float small[] = {0, 1};
    assert_true(fabs(spin_log_sum_exp(small, 2) - log(1 + exp(1))) < 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_of_numbers_are_read),
        cmocka_unit_test(bad_lists_are_named),
        cmocka_unit_test(limits_are_named),
        cmocka_unit_test(quantiles_lie_between_samples),
        cmocka_unit_test(likeliest_is_the_first_of_equals),
        cmocka_unit_test(sums_of_exponentials_do_not_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
