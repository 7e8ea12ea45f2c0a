/* Sizes against the sums of the parts of each block, as the GGUF format describes them. */
#include "base/dtype.h"

#include "tests/spin_test.h"

static const struct {
    enum spin_dtype dtype;
    const char *name;
    uint32_t values;
    uint32_t bytes;
} formats[] = {
    {SPIN_DTYPE_F32, "F32", 1, 4},
    {SPIN_DTYPE_F16, "F16", 1, 2},
    {SPIN_DTYPE_BF16, "BF16", 1, 2},
    {SPIN_DTYPE_Q8_0, "Q8_0", 32, 2 + 32},             /* scale, bytes */
    {SPIN_DTYPE_Q4_0, "Q4_0", 32, 2 + 16},             /* scale, nibbles */
    {SPIN_DTYPE_Q4_1, "Q4_1", 32, 2 + 2 + 16},         /* scale, minimum, nibbles */
    {SPIN_DTYPE_Q4_K, "Q4_K", 256, 2 + 2 + 12 + 128},  /* two scales, 8 x 12 bits, nibbles */
    {SPIN_DTYPE_Q6_K, "Q6_K", 256, 128 + 64 + 16 + 2}, /* low, high bits, scales, scale */
};
_Static_assert(SPIN_ARRAY_COUNT(formats) == SPIN_DTYPE_COUNT, "every format has a row");

static void test_names_and_sizes(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(formats); i++) {
        assert_string_equal(spin_dtype_name(formats[i].dtype), formats[i].name);
        assert_int_equal(spin_dtype_block_values(formats[i].dtype), formats[i].values);
        assert_int_equal(spin_dtype_block_bytes(formats[i].dtype), formats[i].bytes);
        for (uint64_t blocks = 0; blocks < 5; blocks++) {
            assert_int_equal(spin_dtype_row_bytes(formats[i].dtype, blocks * formats[i].values),
                             blocks * formats[i].bytes);
        }
    }
}

static void take_part_of_a_block(void *argument)
{
    (void)argument;
    (void)spin_dtype_row_bytes(SPIN_DTYPE_Q4_0, 33);
}

static void test_parts_of_blocks_are_refused(void **state)
{
    (void)state;
    assert_true(spin_test_dies(take_part_of_a_block, NULL, "assertion failed"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_and_sizes),
        cmocka_unit_test(test_parts_of_blocks_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
