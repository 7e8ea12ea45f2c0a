/* embed on CUDA: blocks have a row; a thread reads and writes eight values at a time.
 *
 * Values of block formats follow the formulas of kernels/dtype.h term by term, without fused
 * multiply-adds, so that they are the reference's floats. */
#include "kernels/embed.h"
#include "kernels/rows_cuda.cuh"

#include <cuda_fp16.h>

#define THREADS 128u
#define BLOCKS_MAX 2048u /* that share a row */

struct embed_job {
    float *y;
    const int32_t *tokens;
    const uint8_t *table;
    uint64_t y_stride;
    uint64_t row_bytes;
    uint32_t vocab;
    uint32_t cols;
    uint32_t block_values;
    uint32_t block_bytes;
    bool wide_y;
};

static __device__ inline uint32_t load_u16(const uint8_t *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8;
}

static __device__ inline float load_f16(const uint8_t *bytes)
{
    return __half2float(__ushort_as_half((unsigned short)load_u16(bytes)));
}

static __device__ float q4_k_value(const uint8_t *block, uint32_t i)
{
    const uint8_t *scales = block + 4;
    const uint32_t group = i / 32;
    uint32_t scale = scales[group % 4 + (group < 4 ? 0 : 8)];
    uint32_t min = scales[group % 4 + (group < 4 ? 4 : 8)];
    if (group < 4) {
        scale &= 63u;
        min &= 63u;
    } else {
        scale = (scale & 15u) | (uint32_t)(scales[group - 4] >> 6) << 4;
        min = min >> 4 | (uint32_t)(scales[group] >> 6) << 4;
    }
    const uint32_t byte = block[16 + group / 2 * 32 + i % 32];
    const uint32_t q = group % 2 == 0 ? byte & 15u : byte >> 4;
    const float group_d = __fmul_rn(load_f16(block), (float)scale);
    const float group_min = __fmul_rn(load_f16(block + 2), (float)min);
    return __fsub_rn(__fmul_rn(group_d, (float)q), group_min);
}

static __device__ float q6_k_value(const uint8_t *block, uint32_t i)
{
    const uint32_t group = i / 32;
    const uint32_t place = group % 4;
    const uint32_t low = block[group / 4 * 64 + place % 2 * 32 + i % 32];
    const uint32_t high = block[128 + group / 4 * 32 + i % 32];
    const uint32_t q = (place < 2 ? low & 15u : low >> 4) | ((high >> (2 * place)) & 3u) << 4;
    const float scale = __fmul_rn(load_f16(block + 208), (float)(int8_t)block[192 + i / 16]);
    return __fmul_rn(scale, (float)((int32_t)q - 32));
}

/* Value i of a block; of a plain format, of a block of one. */
template <enum spin_dtype DTYPE>
static __device__ inline float value(const uint8_t *block, uint32_t i)
{
    if constexpr (DTYPE == SPIN_DTYPE_F32) {
        return *(const float *)block;
    } else if constexpr (DTYPE == SPIN_DTYPE_F16) {
        return load_f16(block);
    } else if constexpr (DTYPE == SPIN_DTYPE_Q8_0) {
        return __fmul_rn(load_f16(block), (float)(int8_t)block[2 + i]);
    } else if constexpr (DTYPE == SPIN_DTYPE_Q4_0) {
        const uint32_t byte = block[2 + i % 16];
        const int32_t q = (int32_t)(i < 16 ? byte & 15u : byte >> 4) - 8;
        return __fmul_rn(load_f16(block), (float)q);
    } else if constexpr (DTYPE == SPIN_DTYPE_Q4_1) {
        const uint32_t byte = block[4 + i % 16];
        const uint32_t q = i < 16 ? byte & 15u : byte >> 4;
        return __fadd_rn(__fmul_rn(load_f16(block), (float)q), load_f16(block + 2));
    } else if constexpr (DTYPE == SPIN_DTYPE_Q4_K) {
        return q4_k_value(block, i);
    } else {
        static_assert(DTYPE == SPIN_DTYPE_Q6_K);
        return q6_k_value(block, i);
    }
}

static __device__ const uint8_t *table_row(const struct embed_job &job, uint32_t row)
{
    const int32_t token = job.tokens[row];
#ifdef SPIN_DEBUG
    if (token < 0 || (uint32_t)token >= job.vocab) {
        __trap();
    }
#endif
    return job.table + (uint64_t)token * job.row_bytes;
}

template <enum spin_dtype DTYPE>
static __global__ void __launch_bounds__(THREADS)
    embed(const __grid_constant__ struct embed_job job)
{
    const uint8_t *source = table_row(job, blockIdx.x);
    float *y = job.y + (uint64_t)blockIdx.x * job.y_stride;
    const uint32_t step = gridDim.y * THREADS * SPIN_WIDE;
    uint32_t col = (blockIdx.y * THREADS + threadIdx.x) * SPIN_WIDE;
    for (; col < job.cols; col += step) {
        struct spin_values<SPIN_WIDE> values;
        const uint32_t count = min(SPIN_WIDE, job.cols - col);
#pragma unroll
        for (uint32_t i = 0; i < SPIN_WIDE; i++) {
            const uint32_t block = (col + i) / job.block_values;
            values.at[i] = i < count ? value<DTYPE>(source + (uint64_t)block * job.block_bytes,
                                                    (col + i) % job.block_values)
                                     : 0.0F;
        }
        if (job.wide_y) {
            spin_store_f32<SPIN_WIDE>(y + col, values);
            continue;
        }
#pragma unroll
        for (uint32_t i = 0; i < SPIN_WIDE; i++) {
            if (i < count) {
                y[col + i] = values.at[i];
            }
        }
    }
}

static __global__ void __launch_bounds__(THREADS)
    embed_bf16(const __grid_constant__ struct embed_job job)
{
    const __nv_bfloat16 *source = (const __nv_bfloat16 *)table_row(job, blockIdx.x);
    float *y = job.y + (uint64_t)blockIdx.x * job.y_stride;
    const uint32_t step = gridDim.y * THREADS;
    const uint32_t begin = blockIdx.y * THREADS + threadIdx.x;
    if (job.wide_y && (uintptr_t)job.table % 16 == 0) {
        for (uint32_t i = begin * SPIN_WIDE; i < job.cols; i += step * SPIN_WIDE) {
            spin_store_f32<SPIN_WIDE>(y + i, spin_load_bf16<SPIN_WIDE>(source + i));
        }
        return;
    }
    for (uint32_t i = begin; i < job.cols; i += step) {
        y[i] = __bfloat162float(source[i]);
    }
}

typedef void (*embed_kernel)(struct embed_job job);

static embed_kernel kernel_of(enum spin_dtype dtype)
{
    switch (dtype) {
    case SPIN_DTYPE_F32:
        return embed<SPIN_DTYPE_F32>;
    case SPIN_DTYPE_F16:
        return embed<SPIN_DTYPE_F16>;
    case SPIN_DTYPE_BF16:
        return embed_bf16;
    case SPIN_DTYPE_Q8_0:
        return embed<SPIN_DTYPE_Q8_0>;
    case SPIN_DTYPE_Q4_0:
        return embed<SPIN_DTYPE_Q4_0>;
    case SPIN_DTYPE_Q4_1:
        return embed<SPIN_DTYPE_Q4_1>;
    case SPIN_DTYPE_Q4_K:
        return embed<SPIN_DTYPE_Q4_K>;
    case SPIN_DTYPE_Q6_K:
        return embed<SPIN_DTYPE_Q6_K>;
    case SPIN_DTYPE_COUNT:
        break;
    }
    SPIN_ASSERT(!"embed: a dtype without a kernel");
    return NULL;
}

extern "C" spin_status spin_embed_cuda(const struct spin_embed_args *args,
                                       struct spin_stream *stream)
{
    const struct spin_matrix *y = &args->y;
    const struct spin_weight *table = &args->table;
    spin_matrix_check_cuda(y, SPIN_DTYPE_F32);
    SPIN_ASSERT_EQ(y->cols, table->cols);
    if (y->rows == 0 || y->cols == 0) {
        return SPIN_OK;
    }
    const struct embed_job job = {(float *)y->data,
                                  args->tokens,
                                  (const uint8_t *)table->data,
                                  y->stride,
                                  spin_dtype_row_bytes(table->dtype, table->cols),
                                  table->rows,
                                  table->cols,
                                  spin_dtype_block_values(table->dtype),
                                  spin_dtype_block_bytes(table->dtype),
                                  spin_matrix_is_wide(y)};
    const uint32_t piece = THREADS * SPIN_WIDE;
    const uint64_t pieces = ((uint64_t)y->cols + piece - 1) / piece;
    const dim3 grid(y->rows, (uint32_t)SPIN_MIN(pieces, BLOCKS_MAX));
    kernel_of(table->dtype)<<<grid, THREADS, 0, spin_stream_cuda(stream)>>>(job);
    return spin_cuda_launched("embed");
}
