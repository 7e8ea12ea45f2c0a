#include "kernels/dtype.h"

#include "base/assert.h"

#include <string.h>

static float f32_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t f32_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

float spin_f32_from_f16(uint16_t bits)
{
    const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    const uint32_t exponent = (bits >> 10) & 0x1fu;
    const uint32_t fraction = bits & 0x3ffu;
    if (exponent == 0x1f) { /* infinity and NaN keep their payload */
        return f32_from_bits(sign | 0x7f800000u | fraction << 13);
    }
    if (exponent != 0) {
        return f32_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    }
    /* Zero and subnormals: fraction * 2^-24 is exact in F32. */
    const float magnitude = (float)fraction * 0x1p-24f;
    return f32_from_bits(f32_bits(magnitude) | sign);
}

/* Drops the low `shift` bits (1..31) of `bits`, to nearest, ties to even. */
static uint32_t round_off(uint32_t bits, uint32_t shift)
{
    const uint32_t half = 1u << (shift - 1);
    const uint32_t odd = (bits >> shift) & 1u;
    return (bits + half - 1 + odd) >> shift;
}

uint16_t spin_f16_from_f32(float value)
{
    const uint32_t bits = f32_bits(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) { /* NaN: keep it quiet, keep what fits of the payload */
        return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x1ffu));
    }
    if (magnitude >= 0x47800000u) { /* 65536 and above */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (magnitude >= 0x38800000u) { /* normal; rounding may carry up to infinity, as it should */
        return (uint16_t)(sign | (round_off(magnitude, 13) - (112u << 10)));
    }
    if (magnitude <= 0x33000000u) { /* at most half the smallest subnormal: ties to even, zero */
        return (uint16_t)sign;
    }
    const uint32_t shift =
        126 - (magnitude >> 23); /* 14..24: weight of the last kept bit is 2^-24 */
    const uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;
    return (uint16_t)(sign | round_off(significand, shift));
}

float spin_f32_from_bf16(uint16_t bits)
{
    return f32_from_bits((uint32_t)bits << 16);
}

uint16_t spin_bf16_from_f32(float value)
{
    const uint32_t bits = f32_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)(bits >> 16 | 0x40u);
    }
    /* Not round_off(): the carry out of bit 31 cannot happen here, but the sum may use it. */
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static uint16_t load_u16(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] | bytes[1] << 8);
}

static float load_f16(const uint8_t *bytes)
{
    return spin_f32_from_f16(load_u16(bytes));
}

static int32_t load_i8(const uint8_t *bytes)
{
    int8_t value;
    memcpy(&value, bytes, 1);
    return value;
}

static void q8_0_block(const uint8_t *block, float *target)
{
    const float d = load_f16(block);
    for (uint32_t i = 0; i < 32; i++) {
        target[i] = d * (float)load_i8(block + 2 + i);
    }
}

/* Low nibbles are values 0..15, high nibbles 16..31. */
static void q4_0_block(const uint8_t *block, float *target)
{
    const float d = load_f16(block);
    for (uint32_t i = 0; i < 16; i++) {
        const int32_t low = block[2 + i] & 15;
        const int32_t high = block[2 + i] >> 4;
        target[i] = d * (float)(low - 8);
        target[i + 16] = d * (float)(high - 8);
    }
}

static void q4_1_block(const uint8_t *block, float *target)
{
    const float d = load_f16(block);
    const float m = load_f16(block + 2);
    for (uint32_t i = 0; i < 16; i++) {
        target[i] = d * (float)(block[4 + i] & 15) + m;
        target[i + 16] = d * (float)(block[4 + i] >> 4) + m;
    }
}

/* The packed 6-bit scale and minimum of one group of 32. */
struct q4_k_scale {
    uint32_t d;
    uint32_t min;
};

static struct q4_k_scale q4_k_scale(const uint8_t *scales, uint64_t group)
{
    if (group < 4) {
        return (struct q4_k_scale){scales[group] & 63u, scales[group + 4] & 63u};
    }
    const uint32_t low = scales[group + 4];
    return (struct q4_k_scale){(low & 15u) | (uint32_t)(scales[group - 4] >> 6) << 4,
                               low >> 4 | (uint32_t)(scales[group] >> 6) << 4};
}

static void q4_k_block(const uint8_t *block, float *target)
{
    const float d = load_f16(block);
    const float dmin = load_f16(block + 2);
    for (uint64_t group = 0; group < 8; group++) {
        const struct q4_k_scale scale = q4_k_scale(block + 4, group);
        const float group_d = d * (float)scale.d;
        const float group_min = dmin * (float)scale.min;
        const uint8_t *qs = block + 16 + group / 2 * 32; /* a pair of groups shares 32 bytes */
        for (uint32_t i = 0; i < 32; i++) {
            const uint32_t q = group % 2 == 0 ? qs[i] & 15u : qs[i] >> 4;
            target[group * 32 + i] = group_d * (float)q - group_min;
        }
    }
}

/* Groups of 32 come in fours: two take the low and two the high nibbles of 64 bytes of ql, and
 * group i of the four takes bits 2i and 2i + 1 of 32 bytes of qh. A scale covers 16 values. */
static void q6_k_block(const uint8_t *block, float *target)
{
    const uint8_t *sc = block + 192;
    const float d = load_f16(block + 208);
    for (uint64_t group = 0; group < 8; group++) {
        const uint64_t i = group % 4;
        const uint8_t *ql = block + group / 4 * 64 + i % 2 * 32;
        const uint8_t *qh = block + 128 + group / 4 * 32;
        for (uint32_t j = 0; j < 32; j++) {
            const uint32_t low = i < 2 ? ql[j] & 15u : ql[j] >> 4;
            const int32_t q = (int32_t)(low | ((qh[j] >> (2 * i)) & 3u) << 4) - 32;
            const float scale = d * (float)load_i8(sc + group * 2 + j / 16);
            target[group * 32 + j] = scale * (float)q;
        }
    }
}

static void blocks_to_f32(void (*block_to_f32)(const uint8_t *block, float *target),
                          enum spin_dtype dtype, const uint8_t *source, float *target,
                          uint64_t count)
{
    const uint32_t block_values = spin_dtype_block_values(dtype);
    const uint32_t block_bytes = spin_dtype_block_bytes(dtype);
    SPIN_ASSERT_EQ(count % block_values, 0);
    for (uint64_t i = 0; i < count; i += block_values) {
        block_to_f32(source, target + i);
        source += block_bytes;
    }
}

void spin_dtype_to_f32(enum spin_dtype dtype, const void *source, float *target, uint64_t count)
{
    const uint8_t *bytes = source;
    switch (dtype) {
    case SPIN_DTYPE_F32:
        memcpy(target, source, count * sizeof *target);
        break;
    case SPIN_DTYPE_F16:
        for (uint64_t i = 0; i < count; i++) {
            target[i] = load_f16(bytes + 2 * i);
        }
        break;
    case SPIN_DTYPE_BF16:
        for (uint64_t i = 0; i < count; i++) {
            target[i] = spin_f32_from_bf16(load_u16(bytes + 2 * i));
        }
        break;
    case SPIN_DTYPE_Q8_0:
        blocks_to_f32(q8_0_block, dtype, bytes, target, count);
        break;
    case SPIN_DTYPE_Q4_0:
        blocks_to_f32(q4_0_block, dtype, bytes, target, count);
        break;
    case SPIN_DTYPE_Q4_1:
        blocks_to_f32(q4_1_block, dtype, bytes, target, count);
        break;
    case SPIN_DTYPE_Q4_K:
        blocks_to_f32(q4_k_block, dtype, bytes, target, count);
        break;
    case SPIN_DTYPE_Q6_K:
        blocks_to_f32(q6_k_block, dtype, bytes, target, count);
        break;
    case SPIN_DTYPE_COUNT:
        break;
    }
}
