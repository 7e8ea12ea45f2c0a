/* swiglu on CUDA: a thread has eight values of a row, in F32. */
#include "kernels/rows_cuda.cuh"
#include "kernels/swiglu.h"

#define THREADS 256u

struct swiglu_job {
    __nv_bfloat16 *y;
    const __nv_bfloat16 *gate;
    const __nv_bfloat16 *up;
    uint64_t y_stride;
    uint64_t gate_stride;
    uint64_t up_stride;
    uint32_t pieces; /* of a row */
    uint64_t all;    /* pieces of all rows */
};

template <uint32_t COUNT>
static __global__ void __launch_bounds__(THREADS)
    swiglu(const __grid_constant__ struct swiglu_job job)
{
    const uint64_t index = (uint64_t)blockIdx.x * THREADS + threadIdx.x;
    if (index >= job.all) {
        return;
    }
    const uint64_t row = index / job.pieces;
    const uint64_t col = index % job.pieces * COUNT;
    const struct spin_values<COUNT> gate =
        spin_load_bf16<COUNT>(job.gate + row * job.gate_stride + col);
    const struct spin_values<COUNT> up = spin_load_bf16<COUNT>(job.up + row * job.up_stride + col);
    struct spin_values<COUNT> y;
#pragma unroll
    for (uint32_t i = 0; i < COUNT; i++) {
        const float a = gate.at[i];
        y.at[i] = a / (1 + expf(-a)) * up.at[i];
    }
    spin_store_bf16<COUNT>(job.y + row * job.y_stride + col, y);
}

extern "C" spin_status spin_swiglu_cuda(const struct spin_swiglu_args *args,
                                        struct spin_stream *stream)
{
    const struct spin_matrix *y = &args->y;
    spin_matrix_check_cuda(y, SPIN_DTYPE_BF16);
    spin_matrix_check_cuda(&args->gate, SPIN_DTYPE_BF16);
    spin_matrix_check_cuda(&args->up, SPIN_DTYPE_BF16);
    SPIN_ASSERT_EQ(args->gate.cols, y->cols);
    SPIN_ASSERT_EQ(args->up.cols, y->cols);
    SPIN_ASSERT_GE(args->gate.rows, y->rows);
    SPIN_ASSERT_GE(args->up.rows, y->rows);
    if (y->rows == 0 || y->cols == 0) {
        return SPIN_OK;
    }
    const bool wide = spin_matrix_is_wide(y) && spin_matrix_is_wide(&args->gate) &&
                      spin_matrix_is_wide(&args->up);
    struct swiglu_job job = {(__nv_bfloat16 *)y->data,
                             (const __nv_bfloat16 *)args->gate.data,
                             (const __nv_bfloat16 *)args->up.data,
                             y->stride,
                             args->gate.stride,
                             args->up.stride,
                             wide ? y->cols / SPIN_WIDE : y->cols,
                             0};
    job.all = (uint64_t)y->rows * job.pieces;
    const uint64_t blocks = (job.all + THREADS - 1) / THREADS;
    SPIN_ASSERT_LE(blocks, INT32_MAX);
    if (wide) {
        swiglu<SPIN_WIDE><<<(uint32_t)blocks, THREADS, 0, spin_stream_cuda(stream)>>>(job);
    } else {
        swiglu<1><<<(uint32_t)blocks, THREADS, 0, spin_stream_cuda(stream)>>>(job);
    }
    return spin_cuda_launched("swiglu");
}
