/* draw_weight: what the draws of all backends do with one logit, bit for bit.
 *
 * Why        A draw compares sums of weights. Weights that are whole numbers have one sum, in
 *            whatever order threads add them, and the same operations, rounded the same way, make
 *            the same weight on every processor.
 * Formula    t = (l - max) * scale, scale = log2(e) / temperature; n = t, rounded; f = t - n in
 *            [-1/2, 1/2]; 2^f by its Taylor series to f^11, which errs by less than 1e-14;
 *            w = 2^f 2^n 2^43, rounded to a whole number. t <= -43.5 has no weight.
 *            Digits and keys ascend as logits do: what has a larger digit has a larger key.
 * Limits     2^18 weights add up to 2^61.
 * Threading  Any; pure. */
#pragma once

#include "base/base.h"

#include <math.h>
#include <string.h>

SPIN_BEGIN_DECLS

#define SPIN_DRAW_ONE (UINT64_C(1) << 43) /* the weight of the largest */
#define SPIN_DRAW_LOG2_E 1.4426950408889634
#define SPIN_DRAW_LOG2_MIN (-43.5)
#define SPIN_DRAW_DIGITS 256u

/* Compilers may fuse a product and a sum, which rounds otherwise, unless they are told not to. */
#ifdef __CUDA_ARCH__
#define SPIN_DRAW_ADD(a, b) __dadd_rn(a, b)
#define SPIN_DRAW_MULTIPLY(a, b) __dmul_rn(a, b)
#define SPIN_DRAW_FUSED(a, b, c) __fma_rn(a, b, c)
#else
#define SPIN_DRAW_ADD(a, b) ((a) + (b))
#define SPIN_DRAW_MULTIPLY(a, b) ((a) * (b))
#define SPIN_DRAW_FUSED(a, b, c) fma(a, b, c)
#endif

/* log2 of the weight's share of the largest: at most 0. */
SPIN_INLINE double spin_draw_log2(float logit, float largest, double scale)
{
    const double distance = SPIN_DRAW_ADD((double)logit, -(double)largest);
    return SPIN_DRAW_MULTIPLY(distance, scale);
}

/* t + 3 * 2^(51 - bits) has no room for more than `bits` bits below the point, and the lowest
 * mantissa bits are t in units of the last of them, in two's complement. */
#define SPIN_DRAW_ROUND_WHOLE 6755399441055744.0    /* 3 * 2^51 */
#define SPIN_DRAW_ROUND_QUARTERS 1688849860263936.0 /* 3 * 2^49 */

SPIN_INLINE uint32_t spin_draw_low_bits(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint32_t)bits;
}

/* In units of 2^-43 of the largest. Without a branch before the end: threads work at several. */
SPIN_INLINE uint64_t spin_draw_weight(double t)
{
    const double rounded = SPIN_DRAW_ADD(t, SPIN_DRAW_ROUND_WHOLE);
    const double f = SPIN_DRAW_ADD(t, -SPIN_DRAW_ADD(rounded, -SPIN_DRAW_ROUND_WHOLE));
    double p = 4.4455382718708116e-10; /* ln(2)^11 / 11! and so on, to 1 */
    p = SPIN_DRAW_FUSED(p, f, 7.054911620801123e-09);
    p = SPIN_DRAW_FUSED(p, f, 1.01780860092397e-07);
    p = SPIN_DRAW_FUSED(p, f, 1.321548679014431e-06);
    p = SPIN_DRAW_FUSED(p, f, 1.5252733804059841e-05);
    p = SPIN_DRAW_FUSED(p, f, 0.0001540353039338161);
    p = SPIN_DRAW_FUSED(p, f, 0.0013333558146428443);
    p = SPIN_DRAW_FUSED(p, f, 0.009618129107628477);
    p = SPIN_DRAW_FUSED(p, f, 0.05550410866482158);
    p = SPIN_DRAW_FUSED(p, f, 0.24022650695910072);
    p = SPIN_DRAW_FUSED(p, f, 0.6931471805599453);
    p = SPIN_DRAW_FUSED(p, f, 1.0);
    const uint64_t power_bits = (uint64_t)(1023u + 43u + spin_draw_low_bits(rounded)) << 52;
    double power; /* 2^(n + 43) */
    memcpy(&power, &power_bits, sizeof power);
    const double whole = SPIN_DRAW_FUSED(p, power, 4503599627370496.0); /* 2^52: no room below 1 */
    uint64_t bits;
    memcpy(&bits, &whole, sizeof bits);
    return t > SPIN_DRAW_LOG2_MIN ? bits & ((UINT64_C(1) << 52) - 1) : 0;
}

/* The first digit of a candidate, t > SPIN_DRAW_LOG2_MIN: quarters of t below the last digit. It
 * spreads what a row has over many digits, so that threads seldom count in one place. */
SPIN_INLINE uint32_t spin_draw_digit(double t)
{
    const double rounded = SPIN_DRAW_ADD(t, SPIN_DRAW_ROUND_QUARTERS);
    return SPIN_DRAW_DIGITS - 1 + spin_draw_low_bits(rounded);
}

/* Ascending keys are ascending floats; -0 and 0 are one key. */
SPIN_INLINE uint32_t spin_draw_key(float value)
{
    const float positive_zero = value + 0.0F;
    uint32_t bits;
    memcpy(&bits, &positive_zero, sizeof bits);
    return (bits & UINT32_C(0x80000000)) != 0 ? ~bits : bits | UINT32_C(0x80000000);
}

SPIN_INLINE float spin_draw_key_value(uint32_t key)
{
    const uint32_t bits = (key & UINT32_C(0x80000000)) != 0 ? key & UINT32_C(0x7FFFFFFF) : ~key;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The least whole number of weight that is `share` of `sum`: 1 to sum. */
SPIN_INLINE uint64_t spin_draw_share(float share, uint64_t sum)
{
    const double least = ceil(SPIN_DRAW_MULTIPLY((double)share, (double)sum));
    const uint64_t whole = least < 1 ? 1 : (uint64_t)least;
    return SPIN_MIN(whole, sum);
}

/* The token is where the running sum passes this. */
SPIN_INLINE uint64_t spin_draw_passed(double u, uint64_t sum)
{
    const uint64_t passed = (uint64_t)SPIN_DRAW_MULTIPLY(u, (double)sum);
    return SPIN_MIN(passed, sum - 1); /* (double)sum may have been rounded up */
}

SPIN_END_DECLS
