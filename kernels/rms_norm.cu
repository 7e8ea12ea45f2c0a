/* rms_norm on CUDA, BF16 or F32 to BF16: a warp has a row of up to 1,024 values, a block of 256
 * threads a longer one.
 *
 * Threads add up the squares of their own pieces in order; sums of lanes are then added by halves
 * (xor 16, 8, 4, 2, 1) and those of warps in order. That order follows from cols alone. The first
 * pieces of a thread stay in registers between the two passes over the row. */
#include "kernels/rms_norm.h"
#include "kernels/rows_cuda.cuh"

#define THREADS 256u
#define WARP_COLS_MAX 1024u
#define COLS_MAX 65536u
#define KEPT 4u /* pieces of a thread that stay in registers */

struct rms_norm_job {
    __nv_bfloat16 *y;
    const void *x;
    const float *weight;
    uint64_t y_stride;
    uint64_t x_stride;
    uint32_t rows;
    uint32_t cols;
    float eps;
};

template <uint32_t COUNT>
static __device__ inline struct spin_values<COUNT> load(const __nv_bfloat16 *source) {
    return spin_load_bf16<COUNT>(source);
}

template <uint32_t COUNT>
static __device__ inline struct spin_values<COUNT> load(const float *source) {
    return spin_load_f32<COUNT>(source);
}

template <uint32_t COUNT>
static __device__ inline float add_squares(float sum, const struct spin_values<COUNT> &x)
{
#pragma unroll
    for (uint32_t i = 0; i < COUNT; i++) {
        sum = fmaf(x.at[i], x.at[i], sum);
    }
    return sum;
}

template <uint32_t COUNT>
static __device__ inline void put(__nv_bfloat16 *y, const float *weight, float scale,
                                  const struct spin_values<COUNT> &x)
{
    const struct spin_values<COUNT> w = spin_load_f32<COUNT>(weight);
    struct spin_values<COUNT> values;
#pragma unroll
    for (uint32_t i = 0; i < COUNT; i++) {
        values.at[i] = x.at[i] * scale * w.at[i];
    }
    spin_store_bf16<COUNT>(y, values);
}

/* Of all threads that share the row, to all of them. */
template <uint32_t SHARE> static __device__ inline float sum_over(float sum)
{
    for (uint32_t lanes = 16; lanes > 0; lanes /= 2) {
        sum += __shfl_xor_sync(~0u, sum, lanes);
    }
    if constexpr (SHARE > 32) {
        __shared__ float of_warp[SHARE / 32];
        if (threadIdx.x % 32 == 0) {
            of_warp[threadIdx.x / 32] = sum;
        }
        __syncthreads();
        sum = 0;
#pragma unroll
        for (uint32_t i = 0; i < SHARE / 32; i++) {
            sum += of_warp[i];
        }
    }
    return sum;
}

/* SHARE threads have a row of T. */
template <typename T, uint32_t COUNT, uint32_t SHARE>
static __global__ void __launch_bounds__(THREADS)
    rms_norm(const __grid_constant__ struct rms_norm_job job)
{
    const uint64_t row = (uint64_t)blockIdx.x * (THREADS / SHARE) + threadIdx.x / SHARE;
    if (row >= job.rows) {
        return; /* the whole warp, or the whole block */
    }
    const T *x = (const T *)job.x + row * job.x_stride;
    __nv_bfloat16 *y = job.y + row * job.y_stride;
    const uint32_t begin = threadIdx.x % SHARE * COUNT;
    struct spin_values<COUNT> kept[KEPT];
    float sum = 0;
#pragma unroll
    for (uint32_t i = 0; i < KEPT; i++) {
        const uint32_t col = begin + i * SHARE * COUNT;
        if (col < job.cols) {
            kept[i] = load<COUNT>(x + col);
        }
    }
#pragma unroll
    for (uint32_t i = 0; i < KEPT; i++) {
        if (begin + i * SHARE * COUNT < job.cols) {
            sum = add_squares<COUNT>(sum, kept[i]);
        }
    }
    const uint32_t rest = begin + KEPT * SHARE * COUNT;
    for (uint32_t col = rest; col < job.cols; col += SHARE * COUNT) {
        sum = add_squares<COUNT>(sum, load<COUNT>(x + col));
    }
    const float mean = sum_over<SHARE>(sum) / (float)job.cols;
    const float scale = 1 / sqrtf(mean + job.eps);
#pragma unroll
    for (uint32_t i = 0; i < KEPT; i++) {
        const uint32_t col = begin + i * SHARE * COUNT;
        if (col < job.cols) {
            put<COUNT>(y + col, job.weight + col, scale, kept[i]);
        }
    }
    for (uint32_t col = rest; col < job.cols; col += SHARE * COUNT) {
        put<COUNT>(y + col, job.weight + col, scale, load<COUNT>(x + col));
    }
}

typedef void (*rms_norm_kernel)(struct rms_norm_job job);

template <typename T> static rms_norm_kernel kernel_of(bool wide, bool by_warp)
{
    if (wide) {
        return by_warp ? rms_norm<T, SPIN_WIDE, 32> : rms_norm<T, SPIN_WIDE, THREADS>;
    }
    return by_warp ? rms_norm<T, 1, 32> : rms_norm<T, 1, THREADS>;
}

extern "C" spin_status spin_rms_norm_cuda(const struct spin_rms_norm_args *args,
                                          struct spin_stream *stream)
{
    const struct spin_matrix *x = &args->x;
    const struct spin_matrix *y = &args->y;
    const bool is_f32 = x->dtype == SPIN_DTYPE_F32;
    spin_matrix_check_cuda(x, is_f32 ? SPIN_DTYPE_F32 : SPIN_DTYPE_BF16);
    spin_matrix_check_cuda(y, SPIN_DTYPE_BF16);
    SPIN_ASSERT(!is_f32 || x->data != y->data || x->rows == 0); /* in place: the same type */
    SPIN_ASSERT_EQ(x->rows, y->rows);
    SPIN_ASSERT_EQ(x->cols, y->cols);
    SPIN_ASSERT_GE(x->cols, 1);
    SPIN_ASSERT_LE(x->cols, COLS_MAX);
    if (x->rows == 0) {
        return SPIN_OK;
    }
    const bool wide =
        spin_matrix_is_wide(x) && spin_matrix_is_wide(y) && spin_is_aligned16(args->weight);
    const bool by_warp = x->cols <= WARP_COLS_MAX;
    const struct rms_norm_job job = {(__nv_bfloat16 *)y->data,
                                     x->data,
                                     args->weight,
                                     y->stride,
                                     x->stride,
                                     x->rows,
                                     x->cols,
                                     args->eps};
    const uint32_t block_rows = by_warp ? THREADS / 32 : 1;
    const uint32_t blocks = (uint32_t)(((uint64_t)x->rows + block_rows - 1) / block_rows);
    SPIN_ASSERT_LE(blocks, INT32_MAX);
    const rms_norm_kernel kernel =
        is_f32 ? kernel_of<float>(wide, by_warp) : kernel_of<__nv_bfloat16>(wide, by_warp);
    kernel<<<blocks, THREADS, 0, spin_stream_cuda(stream)>>>(job);
    return spin_cuda_launched("rms_norm");
}
