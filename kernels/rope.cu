/* rope on CUDA: a thread has eight values of a head (HALVES: eight of each half), in F32. */
#include "kernels/rope.h"
#include "kernels/rows_cuda.cuh"

#define THREADS 256u

struct rope_job {
    __nv_bfloat16 *x;
    uint64_t stride;
    const uint32_t *positions;
    const float *cos_sin;
    uint32_t table_positions;
    uint32_t half; /* rotary_dim / 2: pairs of a head */
    uint32_t head_dim;
    uint32_t heads;
    uint32_t pieces; /* of a head */
    uint64_t all;    /* pieces of all heads of all rows */
};

static __device__ inline void rotate(float *a, float *b, float c, float s)
{
    const float x = *a;
    const float y = *b;
    *a = x * c - y * s;
    *b = x * s + y * c;
}

/* Pairs [pair, pair + COUNT): (i, i + half). */
template <uint32_t COUNT>
static __device__ void rotate_halves(__nv_bfloat16 *x, const float *cos_sin, uint32_t half,
                                     uint32_t pair)
{
    struct spin_values<COUNT> a = spin_load_bf16<COUNT>(x + pair);
    struct spin_values<COUNT> b = spin_load_bf16<COUNT>(x + half + pair);
#pragma unroll
    for (uint32_t i = 0; i < COUNT; i++) {
        const float2 at = *(const float2 *)(cos_sin + 2 * (pair + i));
        rotate(&a.at[i], &b.at[i], at.x, at.y);
    }
    spin_store_bf16<COUNT>(x + pair, a);
    spin_store_bf16<COUNT>(x + half + pair, b);
}

/* COUNT values from pair `pair` on: (2 i, 2 i + 1); a single pair where COUNT is 1. */
template <uint32_t COUNT>
static __device__ void rotate_interleaved(__nv_bfloat16 *x, const float *cos_sin, uint32_t pair)
{
    if constexpr (COUNT == 1) {
        float a = __bfloat162float(x[2 * pair]);
        float b = __bfloat162float(x[2 * pair + 1]);
        rotate(&a, &b, cos_sin[2 * pair], cos_sin[2 * pair + 1]);
        x[2 * pair] = __float2bfloat16_rn(a);
        x[2 * pair + 1] = __float2bfloat16_rn(b);
    } else {
        struct spin_values<COUNT> values = spin_load_bf16<COUNT>(x + 2 * pair);
#pragma unroll
        for (uint32_t i = 0; i < COUNT / 2; i++) {
            const float2 at = *(const float2 *)(cos_sin + 2 * (pair + i));
            rotate(&values.at[2 * i], &values.at[2 * i + 1], at.x, at.y);
        }
        spin_store_bf16<COUNT>(x + 2 * pair, values);
    }
}

template <uint32_t COUNT, bool HALVES>
static __global__ void __launch_bounds__(THREADS) rope(const __grid_constant__ struct rope_job job)
{
    const uint64_t index = (uint64_t)blockIdx.x * THREADS + threadIdx.x;
    if (index >= job.all) {
        return;
    }
    const uint32_t piece = (uint32_t)(index % job.pieces);
    const uint64_t head = index / job.pieces;
    const uint64_t row = head / job.heads;
    const uint32_t position = job.positions[row];
#ifdef SPIN_DEBUG
    if (position >= job.table_positions) {
        __trap();
    }
#endif
    __nv_bfloat16 *x = job.x + row * job.stride + head % job.heads * job.head_dim;
    const float *cos_sin = job.cos_sin + (uint64_t)position * job.half * 2;
    if constexpr (HALVES) {
        rotate_halves<COUNT>(x, cos_sin, job.half, piece * COUNT);
    } else {
        rotate_interleaved<COUNT>(x, cos_sin, COUNT == 1 ? piece : piece * (COUNT / 2));
    }
}

extern "C" spin_status spin_rope_cuda(const struct spin_rope_args *args, struct spin_stream *stream)
{
    const struct spin_matrix *x = &args->x;
    const struct spin_rope_table *table = &args->table;
    spin_matrix_check_cuda(x, SPIN_DTYPE_BF16);
    SPIN_ASSERT_EQ(x->cols, (uint64_t)args->heads * args->head_dim);
    SPIN_ASSERT_EQ(table->rotary_dim % 2, 0);
    SPIN_ASSERT_LE(table->rotary_dim, args->head_dim);
    SPIN_ASSERT_EQ((uintptr_t)table->cos_sin % sizeof(float2), 0);
    const uint32_t half = table->rotary_dim / 2;
    if (x->rows == 0 || args->heads == 0 || half == 0) {
        return SPIN_OK;
    }
    const bool halves = table->pairs == SPIN_ROPE_HALVES;
    const uint32_t pairs = halves ? SPIN_WIDE : SPIN_WIDE / 2; /* of a thread */
    const bool wide =
        spin_matrix_is_wide(x) && args->head_dim % SPIN_WIDE == 0 && half % pairs == 0;
    const uint32_t pieces = wide ? half / pairs : half;
    const struct rope_job job = {(__nv_bfloat16 *)x->data,
                                 x->stride,
                                 args->positions,
                                 table->cos_sin,
                                 table->positions,
                                 half,
                                 args->head_dim,
                                 args->heads,
                                 pieces,
                                 (uint64_t)x->rows * args->heads * pieces};
    const uint64_t blocks = (job.all + THREADS - 1) / THREADS;
    SPIN_ASSERT_LE(blocks, INT32_MAX);
    void (*const kernel)(struct rope_job) =
        wide ? (halves ? rope<SPIN_WIDE, true> : rope<SPIN_WIDE, false>)
             : (halves ? rope<1, true> : rope<1, false>);
    kernel<<<(uint32_t)blocks, THREADS, 0, spin_stream_cuda(stream)>>>(job);
    return spin_cuda_launched("rope");
}
