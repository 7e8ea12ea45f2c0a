/* kernels_internal: what the CPU operations of this directory share and nobody else sees.
 *
 * Why        Cutting work, finding a row or a page, and the stream's per-thread memory are the same
 *            in every op.
 * Ownership  Pointers borrow from the views they are computed from; scratch belongs to the stream.
 * Threading  Inside an op: any of its compute threads; scratch is the asking thread's own.
 * Units      Rows, tokens and heads are indexes; ranges are half open. */
#pragma once

#include "base/assert.h"
#include "kernels/attention.h"
#include "kernels/device.h"
#include "kernels/matmul.h"
#include "kernels/matrix.h"
#include "kernels/pages.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"

SPIN_BEGIN_DECLS

/* Per-thread memory of a CPU stream, 64-byte aligned. Users: matmul_ref, 4 weight rows of 65,536
 * doubles (the largest); matmul_cpu, panel and sums; attention_cpu, one split of a query tile. */
#define SPIN_SCRATCH_BYTES (UINT64_C(2) << 20)
void *spin_stream_scratch(struct spin_stream *stream, uint32_t thread);

/* What the processor offers beyond the portable instructions; ordered. */
enum spin_isa { SPIN_ISA_NONE, SPIN_ISA_AVX2, SPIN_ISA_AVX512_VNNI };
enum spin_isa spin_isa_detect(void);
enum spin_isa spin_stream_isa(const struct spin_stream *stream);
/* Tests: use no more than `isa`, to compare the variants of one op. */
void spin_stream_limit_isa(struct spin_stream *stream, enum spin_isa isa);

struct spin_range {
    uint64_t begin;
    uint64_t end;
};

/* The thread's share of [0, count) in whole multiples of `grain`, as even as they go. */
static inline struct spin_range spin_cut(uint64_t count, uint64_t grain, uint32_t thread,
                                         uint32_t threads)
{
    const uint64_t grains = (count + grain - 1) / grain;
    const uint64_t begin = grains * thread / threads * grain;
    const uint64_t end = grains * (thread + 1) / threads * grain;
    const struct spin_range range = {SPIN_MIN(begin, count), SPIN_MIN(end, count)};
    return range;
}

/* Meeting other threads costs about as much as touching this many values does. */
#define SPIN_ALONE_VALUES_MAX 4096u

/* For ops whose work is a few operations per value: small ones stay on the calling thread. */
static inline void spin_run_rows(struct spin_stream *stream, spin_parallel_fn fn, void *context,
                                 uint64_t values)
{
    if (values <= SPIN_ALONE_VALUES_MAX) {
        fn(context, 0, 1);
    } else {
        spin_stream_parallel(stream, fn, context);
    }
}

static inline void spin_matrix_check(const struct spin_matrix *matrix)
{
    SPIN_ASSERT_EQ(matrix->dtype, SPIN_DTYPE_F32);
    SPIN_ASSERT_GE(matrix->stride, matrix->cols);
    SPIN_ASSERT(matrix->rows == 0 || matrix->data != NULL);
}

static inline float *spin_matrix_row(const struct spin_matrix *matrix, uint64_t row)
{
    return (float *)matrix->data + row * matrix->stride;
}

static inline const uint8_t *spin_weight_row(const struct spin_weight *weight, uint64_t row)
{
    return (const uint8_t *)weight->data + row * spin_dtype_row_bytes(weight->dtype, weight->cols);
}

/* The page that holds list token `token` of `row`. */
static inline uint8_t *spin_list_page(const struct spin_page_lists *pages, uint64_t row,
                                      uint32_t token)
{
    const uint32_t slot = pages->slots[pages->row_offset[row] + token / pages->page_tokens];
    return pages->pool + slot * spin_page_bytes(&pages->layout, pages->page_tokens);
}

static inline uint16_t *spin_list_k(const struct spin_page_lists *pages, uint64_t row,
                                    uint32_t token)
{
    return (uint16_t *)(void *)(spin_list_page(pages, row, token) +
                                spin_page_k_offset(&pages->layout, token % pages->page_tokens));
}

static inline uint16_t *spin_list_v(const struct spin_page_lists *pages, uint64_t row,
                                    uint32_t token)
{
    return (uint16_t *)(void *)(spin_list_page(pages, row, token) +
                                spin_page_v_offset(&pages->layout, token % pages->page_tokens));
}

static inline void spin_pages_check(const struct spin_page_lists *pages)
{
    SPIN_ASSERT_EQ(pages->layout.swizzle, SPIN_SWIZZLE_NONE);
    SPIN_ASSERT_EQ(pages->layout.dtype, SPIN_KV_BF16);
    SPIN_ASSERT_LE(pages->layout.head_dim, SPIN_HEAD_DIM_MAX);
    SPIN_ASSERT_EQ(pages->layout.head_dim % 8, 0);
    SPIN_ASSERT(pages->page_tokens == 8 || pages->page_tokens == 32);
}

/* rms_norm's rows, by the calling thread alone. */
void spin_rms_norm_rows_ref(const struct spin_rms_norm_args *args);
void spin_rms_norm_rows_cpu(const struct spin_rms_norm_args *args);
typedef void (*spin_rms_norm_rows_fn)(const struct spin_rms_norm_args *args);

/* The norms of rope for one of its rows: heads of a row lie without gaps. */
static inline void spin_rope_norm_row(const struct spin_rope_args *args, uint64_t row,
                                      spin_rms_norm_rows_fn norm)
{
    const uint32_t split = SPIN_MIN(args->norm.split, args->heads);
    const uint32_t first[2] = {0, split};
    const uint32_t count[2] = {split, args->heads - split};
    for (uint32_t part = 0; part < 2; part++) {
        struct spin_matrix heads = args->x;
        heads.data = spin_matrix_row(&args->x, row) + (uint64_t)first[part] * args->head_dim;
        heads.rows = count[part];
        heads.cols = args->head_dim;
        heads.stride = args->head_dim;
        const struct spin_rms_norm_args normed = {heads, heads, args->norm.weight[part],
                                                  args->norm.eps};
        if (normed.weight != NULL) {
            norm(&normed);
        }
    }
}

/* Assert the limits that attention.h and matmul.h state. */
void spin_attention_check(const struct spin_attention_args *args);
void spin_matmul_check(const struct spin_matmul_args *args);

/* A group of 32 values of x, rounded to int8: x = d q. */
struct spin_x_group {
    float d;
    float d_sum;    /* d * (sum[0] + sum[1]), for weights with a minimum */
    int32_t sum[2]; /* of the first and the last 16 q, for weights with an offset */
};

/* Attention of single queries is cut over splits, which leaves partials (m, z, o[head_dim]) behind,
 * for at most this many sequences: with more of them whole rows keep every thread busy. */
#define SPIN_ATTENTION_SPLIT_SEQUENCES_MAX 8u

SPIN_END_DECLS
