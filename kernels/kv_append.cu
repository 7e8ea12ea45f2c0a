/* A warp writes K and V of one token and head: 16 bytes a lane. Activations are BF16 as the pages
 * are, so nothing is rounded. Rows of the matrices begin at multiples of 16 bytes (asserted). */
#include "kernels/kernels_internal.h"
#include "kernels/kv_append.h"
#include "kernels/ops_cuda.cuh"

static constexpr uint32_t THREADS = 128;
static constexpr uint32_t UNIT = 8; /* values of 16 bytes */

struct job {
    struct spin_page_lists pages;
    struct spin_spans spans;
    const uint16_t *k;
    const uint16_t *v;
    uint64_t k_stride;
    uint64_t v_stride;
    uint32_t kv_heads;
    uint32_t tokens; /* rows of k and v */
};

/* The sequence whose span token m is in, or spans.count; a warp's. */
static __device__ __forceinline__ uint32_t sequence_of(const struct spin_spans *spans, uint32_t m)
{
    uint32_t before = 0; /* spans that end at or before m */
    for (uint32_t base = 0; base < spans->count; base += 32) {
        const uint32_t s = base + threadIdx.x % 32;
        const uint32_t ended =
            __popc(__ballot_sync(~0u, s < spans->count && spans->first[s + 1] <= m));
        before += ended;
        if (ended < 32) {
            break;
        }
    }
    return before;
}

static __global__ void __launch_bounds__(THREADS) append(const __grid_constant__ struct job job)
{
    const uint64_t warp = ((uint64_t)blockIdx.x * THREADS + threadIdx.x) / 32;
    const uint32_t m = (uint32_t)(warp / job.kv_heads);
    const uint32_t head = (uint32_t)(warp % job.kv_heads);
    if (m >= job.tokens) {
        return;
    }
    const uint32_t sequence = sequence_of(&job.spans, m);
    if (sequence == job.spans.count) {
        return;
    }
    const struct spin_page_lists *pages = &job.pages;
    const uint32_t page_tokens = pages->page_tokens;
    const uint64_t row = (uint64_t)sequence * job.kv_heads + head;
    const uint32_t token = pages->visible[row] - (job.spans.first[sequence + 1] - m);
    const uint32_t slot = pages->slots[pages->row_offset[row] + token / page_tokens];
    uint8_t *page = pages->pool + slot * spin_page_bytes(&pages->layout, page_tokens);
    const uint32_t head_dim = pages->layout.head_dim;
    for (uint32_t i = threadIdx.x % 32 * UNIT; i < 2 * head_dim; i += 32 * UNIT) {
        const bool is_k = i < head_dim;
        const uint32_t d = is_k ? i : i - head_dim;
        const uint16_t *from = is_k ? job.k + m * job.k_stride : job.v + m * job.v_stride;
        uint8_t *to = page + (is_k ? spin_page_k_offset(&pages->layout, token % page_tokens)
                                   : spin_page_v_offset(&pages->layout, token % page_tokens));
        *(uint4 *)(to + d * sizeof(uint16_t)) =
            *(const uint4 *)(from + (uint64_t)head * head_dim + d);
    }
}

static void check(const struct spin_matrix *matrix)
{
    SPIN_ASSERT_EQ(matrix->dtype, SPIN_DTYPE_BF16);
    SPIN_ASSERT_GE(matrix->stride, matrix->cols);
    SPIN_ASSERT_EQ(matrix->stride % UNIT, 0);
    SPIN_ASSERT_EQ((uintptr_t)matrix->data % 16, 0);
    SPIN_ASSERT(matrix->rows == 0 || matrix->data != NULL);
}

extern "C" spin_status spin_kv_append_cuda(const struct spin_kv_append_args *args,
                                           struct spin_stream *stream)
{
    check(&args->k);
    check(&args->v);
    spin_pages_check(&args->pages);
    SPIN_ASSERT_EQ(args->k.cols % args->pages.layout.head_dim, 0);
    SPIN_ASSERT_EQ(args->k.cols, args->v.cols);
    SPIN_ASSERT_EQ(args->k.rows, args->v.rows);
    struct job job;
    job.pages = args->pages;
    job.spans = args->spans;
    job.k = (const uint16_t *)args->k.data;
    job.v = (const uint16_t *)args->v.data;
    job.k_stride = args->k.stride;
    job.v_stride = args->v.stride;
    job.kv_heads = args->k.cols / args->pages.layout.head_dim;
    job.tokens = args->k.rows;
    const uint64_t warps = (uint64_t)job.tokens * job.kv_heads;
    const uint64_t blocks = (warps * 32 + THREADS - 1) / THREADS;
    if (blocks == 0) {
        return SPIN_OK;
    }
    SPIN_ASSERT_LE(blocks, INT32_MAX);
    append<<<(uint32_t)blocks, THREADS, 0, spin_stream_cuda(stream)>>>(job);
    return spin_cuda_launched("kv_append");
}
