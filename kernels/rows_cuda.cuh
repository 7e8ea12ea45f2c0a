/* rows_cuda: what the CUDA operations on rows of activations share and nobody else sees.
 *
 * Why        Norms, rotations and products all read and write eight values of a row at a time where
 *            rows allow it, and one at a time where they do not.
 * Ownership  Borrows the views it is given.
 * Threading  Any; values only.
 * Units      Values (BF16 or F32), unless the name says bytes. */
#pragma once

#include "kernels/ops_cuda.cuh"

/* Values of one 16-byte access of BF16, or two of F32. */
constexpr uint32_t SPIN_WIDE = 8;

template <uint32_t COUNT> struct spin_values {
    float at[COUNT];
};

static inline void spin_matrix_check_cuda(const struct spin_matrix *matrix, enum spin_dtype dtype)
{
    SPIN_ASSERT_EQ(matrix->dtype, dtype);
    SPIN_ASSERT_GE(matrix->stride, matrix->cols);
    SPIN_ASSERT(matrix->rows == 0 || matrix->data != NULL);
}

static inline bool spin_is_aligned16(const void *memory)
{
    return (uintptr_t)memory % 16 == 0;
}

/* Every row can be read and written in 16-byte pieces. */
static inline bool spin_matrix_is_wide(const struct spin_matrix *matrix)
{
    return matrix->cols % SPIN_WIDE == 0 && matrix->stride % SPIN_WIDE == 0 &&
           spin_is_aligned16(matrix->data);
}

/* COUNT is 8 (16-byte aligned) or 1. */
template <uint32_t COUNT>
static __device__ inline struct spin_values<COUNT> spin_load_bf16(const __nv_bfloat16 *source) {
    struct spin_values<COUNT> values;
    if constexpr (COUNT == 1) {
        values.at[0] = __bfloat162float(*source);
    } else {
        const uint4 words = *(const uint4 *)source;
        const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            values.at[2 * i] = __uint_as_float(word[i] << 16);
            values.at[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
        }
    }
    return values;
}

static __device__ inline uint32_t
spin_pack_bf16(float low, float high)
{
    return (uint32_t)__bfloat16_as_ushort(__float2bfloat16_rn(low)) |
           (uint32_t)__bfloat16_as_ushort(__float2bfloat16_rn(high)) << 16;
}

template <uint32_t COUNT>
static __device__ inline void spin_store_bf16(__nv_bfloat16 *target,
                                              const struct spin_values<COUNT> &values)
{
    if constexpr (COUNT == 1) {
        *target = __float2bfloat16_rn(values.at[0]);
    } else {
        *(uint4 *)target = make_uint4(
            spin_pack_bf16(values.at[0], values.at[1]), spin_pack_bf16(values.at[2], values.at[3]),
            spin_pack_bf16(values.at[4], values.at[5]), spin_pack_bf16(values.at[6], values.at[7]));
    }
}

template <uint32_t COUNT>
static __device__ inline struct spin_values<COUNT> spin_load_f32(const float *source) {
    struct spin_values<COUNT> values;
    if constexpr (COUNT == 1) {
        values.at[0] = *source;
    } else {
#pragma unroll
        for (uint32_t i = 0; i < COUNT; i += 4) {
            const float4 four = *(const float4 *)(source + i);
            values.at[i] = four.x;
            values.at[i + 1] = four.y;
            values.at[i + 2] = four.z;
            values.at[i + 3] = four.w;
        }
    }
    return values;
}

template <uint32_t COUNT>
static __device__ inline void spin_store_f32(float *target, const struct spin_values<COUNT> &values)
{
    if constexpr (COUNT == 1) {
        *target = values.at[0];
    } else {
#pragma unroll
        for (uint32_t i = 0; i < COUNT; i += 4) {
            *(float4 *)(target + i) =
                make_float4(values.at[i], values.at[i + 1], values.at[i + 2], values.at[i + 3]);
        }
    }
}
