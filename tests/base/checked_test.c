/* All pairs of the values around which 64-bit arithmetic breaks, against 128-bit arithmetic. */
#include "base/checked.h"

#include "tests/spin_test.h"

static const uint64_t edges[] = {0,
                                 1,
                                 2,
                                 3,
                                 63,
                                 UINT32_MAX - UINT64_C(1),
                                 UINT32_MAX,
                                 UINT32_MAX + UINT64_C(1),
                                 UINT64_MAX / 3,
                                 UINT64_MAX / 2,
                                 UINT64_MAX / 2 + 1,
                                 UINT64_MAX - 2,
                                 UINT64_MAX - 1,
                                 UINT64_MAX};

__extension__ typedef unsigned __int128 wide;

static void check(bool fits, uint64_t got, wide exact)
{
    assert_int_equal(fits, exact <= UINT64_MAX);
    assert_int_equal(got, fits ? (uint64_t)exact : 42);
}

static void test_add_and_multiply(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(edges); i++) {
        for (uint32_t j = 0; j < SPIN_ARRAY_COUNT(edges); j++) {
            uint64_t sum = 42;
            uint64_t product = 42;
            const bool sum_fits = spin_add_u64(edges[i], edges[j], &sum);
            const bool product_fits = spin_mul_u64(edges[i], edges[j], &product);
            check(sum_fits, sum, (wide)edges[i] + edges[j]);
            check(product_fits, product, (wide)edges[i] * edges[j]);
        }
    }
}

static void test_range(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(edges); i++) {
        for (uint32_t j = 0; j < SPIN_ARRAY_COUNT(edges); j++) {
            for (uint32_t k = 0; k < SPIN_ARRAY_COUNT(edges); k++) {
                assert_int_equal(spin_range_fits(edges[i], edges[j], edges[k]),
                                 (wide)edges[i] + edges[j] <= edges[k]);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_add_and_multiply),
        cmocka_unit_test(test_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
