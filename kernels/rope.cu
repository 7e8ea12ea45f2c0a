/* rope on CUDA, in F32: a thread has eight values of a head (HALVES: eight of each half). Where
 * heads are normed a warp has a head: its lanes' sums of squares, in order of their values, are
 * added by halves (xor 16, 8, 4, 2, 1), which follows from head_dim alone. */
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
    struct spin_rope_norm norm;
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

static __device__ inline uint32_t position_of(const struct rope_job &job, uint64_t row)
{
    const uint32_t position = job.positions[row];
#ifdef SPIN_DEBUG
    if (position >= job.table_positions) {
        __trap();
    }
#endif
    return position;
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
    __nv_bfloat16 *x = job.x + row * job.stride + head % job.heads * job.head_dim;
    const float *cos_sin = job.cos_sin + (uint64_t)position_of(job, row) * job.half * 2;
    if constexpr (HALVES) {
        rotate_halves<COUNT>(x, cos_sin, job.half, piece * COUNT);
    } else {
        rotate_interleaved<COUNT>(x, cos_sin, COUNT == 1 ? piece : piece * (COUNT / 2));
    }
}

/* By a warp, to all of its lanes. */
static __device__ float scale_of(const __nv_bfloat16 *x, uint32_t head_dim, float eps)
{
    float sum = 0;
    for (uint32_t i = threadIdx.x % 32; i < head_dim; i += 32) {
        const float value = __bfloat162float(x[i]);
        sum = fmaf(value, value, sum);
    }
    for (uint32_t lanes = 16; lanes > 0; lanes /= 2) {
        sum += __shfl_xor_sync(~0u, sum, lanes);
    }
    return 1 / sqrtf(sum / (float)head_dim + eps);
}

/* A warp has a head, normed where it has a weight. */
template <bool HALVES>
static __global__ void __launch_bounds__(THREADS)
    rope_normed(const __grid_constant__ struct rope_job job)
{
    const uint64_t index = ((uint64_t)blockIdx.x * THREADS + threadIdx.x) / 32;
    if (index >= job.all) {
        return; /* the whole warp */
    }
    const uint64_t row = index / job.heads;
    const uint32_t head = (uint32_t)(index % job.heads);
    __nv_bfloat16 *x = job.x + row * job.stride + (uint64_t)head * job.head_dim;
    const float *weight = job.norm.weight[head < job.norm.split ? 0 : 1];
    const float scale = weight == NULL ? 1 : scale_of(x, job.head_dim, job.norm.eps);
    const float *cos_sin = job.cos_sin + (uint64_t)position_of(job, row) * job.half * 2;
    const auto normed = [&](uint32_t i) {
        const float value = __bfloat162float(x[i]);
        return weight == NULL ? value : value * scale * weight[i];
    };
    for (uint32_t pair = threadIdx.x % 32; pair < job.half; pair += 32) {
        const uint32_t first = HALVES ? pair : 2 * pair;
        const uint32_t second = HALVES ? pair + job.half : first + 1;
        const float2 at = *(const float2 *)(cos_sin + 2 * pair);
        float a = normed(first);
        float b = normed(second);
        rotate(&a, &b, at.x, at.y);
        x[first] = __float2bfloat16_rn(a);
        x[second] = __float2bfloat16_rn(b);
    }
    for (uint32_t i = 2 * job.half + threadIdx.x % 32; i < job.head_dim; i += 32) {
        x[i] = __float2bfloat16_rn(normed(i));
    }
}

typedef void (*rope_kernel)(struct rope_job job);

static rope_kernel kernel_of(bool wide, bool halves)
{
    if (wide) {
        return halves ? rope<SPIN_WIDE, true> : rope<SPIN_WIDE, false>;
    }
    return halves ? rope<1, true> : rope<1, false>;
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
    const bool normed = args->norm.weight[0] != NULL || args->norm.weight[1] != NULL;
    if (x->rows == 0 || args->heads == 0 || (half == 0 && !normed)) {
        return SPIN_OK;
    }
    const bool halves = table->pairs == SPIN_ROPE_HALVES;
    const uint32_t pairs = halves ? SPIN_WIDE : SPIN_WIDE / 2; /* of a thread */
    const bool wide =
        spin_matrix_is_wide(x) && args->head_dim % SPIN_WIDE == 0 && half % pairs == 0;
    const uint32_t pieces = normed ? 1 : wide ? half / pairs : half;
    const struct rope_job job = {(__nv_bfloat16 *)x->data,
                                 x->stride,
                                 args->positions,
                                 table->cos_sin,
                                 table->positions,
                                 half,
                                 args->head_dim,
                                 args->heads,
                                 pieces,
                                 (uint64_t)x->rows * args->heads * pieces,
                                 args->norm};
    const uint64_t threads = job.all * (normed ? 32 : 1);
    const uint64_t blocks = (threads + THREADS - 1) / THREADS;
    SPIN_ASSERT_LE(blocks, INT32_MAX);
    const rope_kernel kernel = !normed  ? kernel_of(wide, halves)
                               : halves ? rope_normed<true>
                                        : rope_normed<false>;
    kernel<<<(uint32_t)blocks, THREADS, 0, spin_stream_cuda(stream)>>>(job);
    return spin_cuda_launched("rope");
}
