/* attention_job: what the kernels of attention have in common: the call, and how parts of a list
 * are put together.
 *
 * Why        A query's bits must not tell which kernel had it, so both weigh with these functions.
 * Ownership  Borrowed for the duration of the operation.
 * Threading  Inside a kernel; every thread for itself.
 * Units      Tokens of a list; maxima are those of log2(e) scale q.k. */
#pragma once

#include "kernels/attention.h"
#include "kernels/rows_cuda.cuh"

#include <math_constants.h>

#define RUN_TOKENS 64u

struct attention_job {
    const __nv_bfloat16 *q;
    __nv_bfloat16 *out;
    uint64_t q_stride;
    uint64_t out_stride;
    const uint32_t *first;
    uint32_t sequences;
    bool has_chunks; /* sequences of several queries are the chunk kernel's */
    const uint8_t *pool;
    const uint32_t *slots;
    const uint64_t *row_offset;
    const uint32_t *visible;
    uint32_t page_bytes;
    uint32_t page_tiles_log2;
    uint32_t q_heads;
    uint32_t kv_heads;
    uint32_t group;   /* query heads of a kv head */
    uint32_t queries; /* of a block */
    uint32_t splits;  /* blocks that share a list; 1: every block has a whole one */
    float scale_log2;
    float *partial_o;   /* [sequence][q_head][split][head_dim] */
    float2 *partial_mz; /* [sequence][q_head][split] */
};

/* Below 2^-126: zero. */
static __device__ inline float power_of_2(float x)
{
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
}

/* What scores are compared with: their maximum, and any number where there are none. */
static __device__ inline float base_of(float m)
{
    return m == -CUDART_INF_F ? 0 : m;
}

/* Weights of what was put together so far (x) and of what comes next (y); *m becomes the maximum
 * of both. */
static __device__ inline float2 weights_of(float *m, float next_m)
{
    const float after = fmaxf(*m, next_m);
    const float base = base_of(after);
    const float2 weights =
        make_float2(power_of_2(__fsub_rn(*m, base)), power_of_2(__fsub_rn(next_m, base)));
    *m = after;
    return weights;
}

/* One step of a fold: `into` and what comes next, each with its weight. */
static __device__ inline float merged(float into, float2 weights, float next)
{
    return __fmaf_rn(weights.y, next, __fmul_rn(weights.x, into));
}
