/* The shared vector pieces against libm in double and against their scalar twins. */
#include "kernels/simd_cpu.h"

#include "tests/kernels/kernel_test.h"

static float exp_of(float x)
{
    return _mm256_cvtss_f32(spin_exp8(_mm256_set1_ps(x)));
}

static double ulps(float value, double expected)
{
    int exponent;
    (void)frexp(expected, &exponent);
    return fabs((double)value - expected) / ldexp(1.0, SPIN_MAX(exponent, -125) - 24);
}

static void test_exp(void **state)
{
    (void)state;
    double worst = 0;
    for (int32_t i = -87 * 4096; i <= 88 * 4096; i++) {
        const float x = (float)i / 4096.0F + (float)(i % 7) * 1e-5F;
        if (x >= -87.0F && x <= 88.0F) {
            worst = fmax(worst, ulps(exp_of(x), exp((double)x)));
        }
    }
    if (!(worst <= 2.0)) {
        fail_msg("worst error %g ulp", worst);
    }
    assert_true(exp_of(0.0F) == 1.0F);
    assert_true(exp_of(-0.0F) == 1.0F);
    assert_true(exp_of(-INFINITY) == 0.0F);
    assert_true(exp_of(-1000.0F) == 0.0F);
    assert_true(isinf(exp_of(INFINITY)));
    assert_true(isinf(exp_of(1000.0F)));
    assert_true(isnan(exp_of(NAN)));
    /* Between the last normal number and zero: never above the true value by more than a step. */
    for (uint32_t i = 0; i < 169; i++) {
        const float x = -103.9F + 0.1F * (float)i;
        assert_true(fabs((double)exp_of(x) - exp((double)x)) <= 3e-45);
    }
}

static void test_sums_and_masks(void **state)
{
    (void)state;
    const __m256 v = _mm256_setr_ps(1, 2, 4, 8, 16, 32, 64, 128);
    assert_true(spin_sum8(v) == 255.0F);
    assert_true(spin_max8(v) == 128.0F);
    assert_true(spin_max8(_mm256_sub_ps(_mm256_setzero_ps(), v)) == -1.0F);
    for (uint32_t count = 0; count <= 8; count++) {
        const int bits = _mm256_movemask_ps(_mm256_castsi256_ps(spin_mask8(count)));
        assert_int_equal(bits, (1 << count) - 1);
    }
}

static void test_transpose(void **state)
{
    (void)state;
    __m256 v[8];
    for (int i = 0; i < 8; i++) {
        float row[8];
        for (int j = 0; j < 8; j++) {
            row[j] = (float)(i * 8 + j);
        }
        v[i] = _mm256_loadu_ps(row);
    }
    spin_transpose8(v);
    for (int i = 0; i < 8; i++) {
        float row[8];
        _mm256_storeu_ps(row, v[i]);
        for (int j = 0; j < 8; j++) {
            assert_true(row[j] == (float)(j * 8 + i));
        }
    }
}

static void test_bf16_is_the_scalar_one(void **state)
{
    (void)state;
    struct spin_rng rng = {81, 0, 0};
    for (uint32_t i = 0; i < 200000; i++) {
        uint32_t bits = spin_rng_u32(&rng);
        if (i % 4 == 0) {
            bits = (bits & 0xffff0000u) | 0x8000u; /* ties */
        } else if (i % 4 == 1) {
            bits |= 0x7f800000u; /* infinities and NaN */
        }
        float value;
        memcpy(&value, &bits, sizeof value);
        uint16_t rounded[8];
        _mm_storeu_si128((__m128i *)(void *)rounded, spin_bf16_from_f32x8(_mm256_set1_ps(value)));
        assert_int_equal(rounded[i % 8], spin_bf16_from_f32(value));
        const __m256 back = spin_f32x8_from_bf16(_mm_loadu_si128((const __m128i *)(void *)rounded));
        const float scalar = spin_f32_from_bf16(rounded[0]);
        const float vector = _mm256_cvtss_f32(back);
        assert_memory_equal(&vector, &scalar, sizeof scalar);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp),
        cmocka_unit_test(test_sums_and_masks),
        cmocka_unit_test(test_transpose),
        cmocka_unit_test(test_bf16_is_the_scalar_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
