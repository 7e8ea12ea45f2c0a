/* De-quantisation against what the gguf package computes (testdata/, make_dtype_golden.py), F16
 * against the processor's conversions, BF16 against the definition of rounding to nearest even. */
#include "tests/kernels/kernel_test.h"

#include <immintrin.h>

#define GOLDEN "tests/kernels/testdata/dtype_golden.bin"

static void read_exactly(FILE *file, void *target, uint64_t bytes)
{
    assert_int_equal(fread(target, 1, bytes, file), bytes);
}

static void check_golden(FILE *file, enum spin_dtype dtype)
{
    uint32_t header[3];
    read_exactly(file, header, sizeof header);
    const uint64_t count = (uint64_t)header[0] * header[2];
    assert_int_equal(header[1], spin_dtype_block_bytes(dtype));
    assert_int_equal(header[2], spin_dtype_block_values(dtype));
    struct test_memory blocks = spin_test_memory_create((uint64_t)header[0] * header[1]);
    struct test_matrix expected = spin_test_matrix_create(1, (uint32_t)count, 0);
    struct test_matrix actual = spin_test_matrix_create(1, (uint32_t)count, 9);
    read_exactly(file, spin_test_memory_data(&blocks), blocks.bytes);
    read_exactly(file, expected.view.data, count * sizeof(float));
    spin_dtype_to_f32(dtype, spin_test_memory_data(&blocks), actual.view.data, count);
    for (uint64_t i = 0; i < count; i++) {
        /* Values, not bits: the package keeps -0 in places where the formula gives 0. */
        if (spin_test_row(&actual, 0)[i] != spin_test_row(&expected, 0)[i]) {
            fail_msg("%s value %d: %a, expected %a", spin_dtype_name(dtype), (int)i,
                     (double)spin_test_row(&actual, 0)[i], (double)spin_test_row(&expected, 0)[i]);
        }
    }
    spin_test_memory_destroy(&blocks);
    spin_test_matrix_destroy(&expected);
    spin_test_matrix_destroy(&actual);
}

static void test_golden_blocks(void **state)
{
    (void)state;
    FILE *file = fopen(GOLDEN, "rb");
    assert_non_null(file);
    for (enum spin_dtype dtype = SPIN_DTYPE_F32; dtype < SPIN_DTYPE_COUNT; dtype++) {
        check_golden(file, dtype);
    }
    assert_int_equal(fgetc(file), EOF);
    assert_int_equal(fclose(file), 0);
}

static float from_native(uint16_t bits)
{
    return _cvtsh_ss(bits);
}

static uint16_t to_native(float value)
{
    return (uint16_t)_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT);
}

static void test_every_f16(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits <= 0xffff; bits++) {
        const float value = spin_f32_from_f16((uint16_t)bits);
        const float expected = from_native((uint16_t)bits);
        if (isnan(expected)) {
            assert_true(isnan(value));
            assert_true(isnan(spin_f32_from_f16(spin_f16_from_f32(value))));
            continue;
        }
        assert_memory_equal(&value, &expected, sizeof value);
        assert_int_equal(spin_f16_from_f32(value), bits);
    }
}

/* Around every F16 number: the midpoint to the next one, and its neighbours. */
static void test_f16_rounding(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x7c00; bits++) {
        const float low = from_native((uint16_t)bits);
        const float high = bits == 0x7bff ? 65536.0F : from_native((uint16_t)(bits + 1));
        const float middle = (low + high) / 2;
        const float values[3] = {nextafterf(middle, 0.0F), middle, nextafterf(middle, INFINITY)};
        for (uint32_t i = 0; i < 3; i++) {
            assert_int_equal(spin_f16_from_f32(values[i]), to_native(values[i]));
            assert_int_equal(spin_f16_from_f32(-values[i]), to_native(-values[i]));
        }
    }
    assert_int_equal(spin_f16_from_f32(1e30F), 0x7c00);
    assert_int_equal(spin_f16_from_f32(-INFINITY), 0xfc00);
    assert_int_equal(spin_f16_from_f32(1e-30F), 0);
}

static void test_bf16(void **state)
{
    (void)state;
    struct spin_rng rng = {91, 0, 0};
    for (uint32_t i = 0; i < 200000; i++) {
        uint32_t bits = spin_rng_u32(&rng);
        bits = i % 3 == 0 ? (bits & 0xffff0000u) | 0x8000u : bits;
        float value;
        memcpy(&value, &bits, sizeof value);
        const uint16_t rounded = spin_bf16_from_f32(value);
        const double back = (double)spin_f32_from_bf16(rounded);
        if (isnan(value)) {
            assert_true(isnan(back));
            continue;
        }
        if (isinf(back)) { /* only what is nearer to 2^128 than to the largest BF16 */
            assert_true(fabs((double)value) >= 0x1.ffp127);
            continue;
        }
        const double below = (double)spin_f32_from_bf16((uint16_t)(rounded - 1));
        const double error = fabs(back - (double)value);
        if ((rounded & 0x7fffu) != 0) {
            assert_true(error <= fabs(below - (double)value));
            const bool tie = error == fabs(below - (double)value);
            assert_true(!tie || rounded % 2 == 0);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_blocks),
        cmocka_unit_test(test_every_f16),
        cmocka_unit_test(test_f16_rounding),
        cmocka_unit_test(test_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
