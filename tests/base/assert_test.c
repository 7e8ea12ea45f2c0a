/* Assertions are run in children: the line they leave and how they end. */
#include "base/assert.h"

#include "tests/spin_test.h"

#include <pthread.h>

static void fail_expression(void *argument)
{
    const int *value = argument;
    SPIN_ASSERT(*value == 3);
}

static void fail_values(void *argument)
{
    const int *value = argument;
    SPIN_ASSERT_LT(*value, 2);
}

static void fail_owner(void *argument)
{
    const struct spin_owner nobody = {0};
    (void)argument;
    SPIN_ASSERT_THREAD(&nobody);
}

static void test_prints_expression_and_place(void **state)
{
    (void)state;
    int value = 2;
    assert_true(spin_test_dies(fail_expression, &value, "assertion failed: *value == 3"));
    assert_true(spin_test_dies(fail_expression, &value, "assert_test.c:"));
    value = 3;
    assert_false(spin_test_dies(fail_expression, &value, ""));
}

static void test_prints_both_values(void **state)
{
    (void)state;
    int value = 7;
    assert_true(spin_test_dies(fail_values, &value, "*value < 2: left 7, right 2 [thread "));
    value = -1;
    assert_false(spin_test_dies(fail_values, &value, ""));
}

static void test_operators(void **state)
{
    (void)state;
    SPIN_ASSERT_EQ(1, 1);
    SPIN_ASSERT_NE(1, 2);
    SPIN_ASSERT_LT(1, 2);
    SPIN_ASSERT_LE(2, 2);
    SPIN_ASSERT_GT(2, 1);
    SPIN_ASSERT_GE(2, 2);
}

/* DASSERT must not evaluate what it does not check. */
static void test_debug_assertion(void **state)
{
    (void)state;
    int evaluated = 0;
    SPIN_DASSERT(++evaluated == 1);
#ifdef SPIN_DEBUG
    assert_int_equal(evaluated, 1);
#else
    assert_int_equal(evaluated, 0);
#endif
}

static void *is_owner(void *argument)
{
    return spin_owner_is_current(argument) ? argument : NULL;
}

static void test_owner_is_one_thread(void **state)
{
    (void)state;
    struct spin_owner owner = {0};
    assert_false(spin_owner_is_current(&owner));
    spin_owner_set(&owner);
    assert_true(spin_owner_is_current(&owner));
    SPIN_ASSERT_THREAD(&owner);
    pthread_t other;
    void *result = &owner;
    assert_int_equal(pthread_create(&other, NULL, is_owner, &owner), 0);
    assert_int_equal(pthread_join(other, &result), 0);
    assert_null(result);
    assert_true(spin_test_dies(fail_owner, NULL, "spin_owner_is_current"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prints_expression_and_place),
        cmocka_unit_test(test_prints_both_values),
        cmocka_unit_test(test_operators),
        cmocka_unit_test(test_debug_assertion),
        cmocka_unit_test(test_owner_is_one_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
