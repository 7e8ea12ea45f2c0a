/* The table against long double trigonometry, at positions where F32 angles would be far off. */
#include "kernels/rope_table.h"

#include "tests/kernels/kernel_test.h"

static void test_against_long_double(void **state)
{
    (void)state;
    const uint32_t positions = 131072;
    const double frequencies[4] = {1.0, 0.31622776601683794, 1e-3, 2.5e-7};
    const struct spin_rope_frequencies source = {frequencies, 8, 1.25};
    struct test_memory memory = spin_test_memory_create(spin_rope_table_bytes(positions, 8));
    float *table = spin_test_memory_data(&memory);
    spin_rope_table_fill(&source, 0, 70000, table);
    spin_rope_table_fill(&source, 70000, positions - 70000, table + UINT64_C(70000) * 8);
    for (uint32_t p = 0; p < positions; p += 97) {
        for (uint32_t i = 0; i < 4; i++) {
            const long double angle = (long double)p * (long double)frequencies[i];
            const float *pair = table + ((uint64_t)p * 4 + i) * 2;
            assert_true(fabsl((long double)pair[0] - 1.25L * cosl(angle)) < 1e-7L);
            assert_true(fabsl((long double)pair[1] - 1.25L * sinl(angle)) < 1e-7L);
        }
    }
    spin_test_memory_destroy(&memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_long_double)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
