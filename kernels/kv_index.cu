/* kv_index on CUDA: a thread summarizes eight elements of one partition, token after token.
 *
 * Neighbouring threads have neighbouring elements: a key is read in one piece. The sums are F32, in
 * token order: the same bits as the fast CPU's. How many ranges have work is known to the device
 * alone, so a row has a fixed few blocks that walk over its partitions. */
#include "kernels/kv_index.h"
#include "kernels/ops_cuda.cuh"

namespace
{

constexpr uint32_t THREADS = 256;
constexpr uint32_t VECTOR = 8;        /* elements of a thread: 16 bytes */
constexpr uint32_t BLOCKS_MAX = 1056; /* eight for each multiprocessor */
constexpr uint32_t GRID_MAX = 65535;  /* in y */

struct index_params {
    struct spin_kv_view view;
    struct spin_kv_batch batch;
    struct spin_kv_lists lists;
    const struct spin_kv_range *ranges;
    uint64_t rows;
    bool bounds;
};

/* Sum, or minimum and maximum, of a thread's elements. */
struct index_values {
    float low[VECTOR];
    float high[VECTOR];
};

__device__ __forceinline__ void unpack(uint4 v, float *out)
{
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        out[2 * i] = __uint_as_float(words[i] << 16);
        out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000U);
    }
}

__device__ __forceinline__ uint32_t pack(float low, float high)
{
    const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *(const uint32_t *)(const void *)&v;
}

__device__ __forceinline__ void store(uint8_t *target, const float *v)
{
    *(uint4 *)(void *)target =
        make_uint4(pack(v[0], v[1]), pack(v[2], v[3]), pack(v[4], v[5]), pack(v[6], v[7]));
}

/* Of equal numbers the first one stays: zeros have signs. */
template <bool BOUNDS>
__device__ __forceinline__ void add_key(uint4 key, bool first, struct index_values *values)
{
    float v[VECTOR];
    unpack(key, v);
#pragma unroll
    for (uint32_t i = 0; i < VECTOR; i++) {
        if (BOUNDS) {
            values->low[i] = first || v[i] < values->low[i] ? v[i] : values->low[i];
            values->high[i] = first || v[i] > values->high[i] ? v[i] : values->high[i];
        } else {
            values->low[i] = first ? v[i] : values->low[i] + v[i];
        }
    }
}

/* Elements [d, d + 8) of the partition whose pages lie at `slots`. */
template <bool BOUNDS>
__device__ __forceinline__ void summarize(const struct spin_kv_view &view, const uint32_t *slots,
                                          uint32_t d, uint8_t *summary)
{
    struct index_values values;
    const uint64_t element_bytes = spin_kv_element_bytes(&view.layout);
    for (uint32_t t = 0; t < view.partition_tokens; t += SPIN_TILE_TOKENS) {
        const uint8_t *page = spin_kv_slot_bytes(&view, slots[t / view.page_tokens]);
        const uint8_t *keys =
            page + spin_page_k_offset(&view.layout, t % view.page_tokens) + d * element_bytes;
        uint4 key[SPIN_TILE_TOKENS];
#pragma unroll
        for (uint32_t i = 0; i < SPIN_TILE_TOKENS; i++) {
            key[i] =
                *(const uint4 *)(const void *)(keys + i * view.layout.head_dim * element_bytes);
        }
#pragma unroll
        for (uint32_t i = 0; i < SPIN_TILE_TOKENS; i++) {
            add_key<BOUNDS>(key[i], t + i == 0, &values);
        }
    }
    if (BOUNDS) {
        store(summary + d * element_bytes, values.low);
        store(summary + (view.layout.head_dim + d) * element_bytes, values.high);
        return;
    }
    /* Partitions are powers of two long: one over their length is exact. */
    const float inverse = 1.0F / (float)view.partition_tokens;
#pragma unroll
    for (uint32_t i = 0; i < VECTOR; i++) {
        values.low[i] *= inverse;
    }
    store(summary + d * element_bytes, values.low);
}

template <bool BOUNDS>
__global__ __launch_bounds__(THREADS) void index_rows(const __grid_constant__ struct index_params p)
{
    const struct spin_kv_view &view = p.view;
    const uint32_t partition_pages = view.partition_tokens / view.page_tokens;
    const uint32_t vectors = view.layout.head_dim / VECTOR;
    for (uint64_t row = blockIdx.y; row < p.rows; row += gridDim.y) {
        const uint32_t s = (uint32_t)(row / view.layout.kv_heads);
        const uint32_t head = (uint32_t)(row % view.layout.kv_heads);
        const struct spin_kv_range range = p.ranges[s];
        if (range.count == 0) {
            continue;
        }
        const uint32_t entry = spin_kv_list_entry(&view, &p.batch, &p.lists, row, range.first);
        const uint32_t *slots = p.lists.slots + row * p.lists.stride + entry;
        const uint32_t tasks = range.count / partition_pages * vectors;
        for (uint32_t i = blockIdx.x * THREADS + threadIdx.x; i < tasks; i += gridDim.x * THREADS) {
            const uint32_t partition = i / vectors;
            summarize<BOUNDS>(view, slots + (uint64_t)partition * partition_pages,
                              i % vectors * VECTOR,
                              spin_kv_summary(&view, p.batch.sequence[s], p.batch.layer, head,
                                              range.first / partition_pages + partition));
        }
    }
}

void check_args(const struct spin_kv_index_args *args)
{
    const struct spin_kv_view *view = args->view;
    const uint64_t halves = args->summary == SPIN_SUMMARY_BOUNDS ? 2 : 1;
    SPIN_ASSERT_NE(args->summary, SPIN_SUMMARY_NONE);
    SPIN_ASSERT_EQ(view->layout.swizzle, SPIN_SWIZZLE_NONE);
    SPIN_ASSERT_EQ(view->layout.dtype, SPIN_KV_BF16);
    SPIN_ASSERT_EQ(view->layout.head_dim % VECTOR, 0);
    SPIN_ASSERT_LE(view->layout.head_dim, SPIN_HEAD_DIM_MAX);
    SPIN_ASSERT_EQ(view->partition_tokens % view->page_tokens, 0);
    SPIN_ASSERT_EQ(SPIN_BLOCK_TOKENS % view->partition_tokens, 0);
    SPIN_ASSERT_EQ(view->summary_bytes, halves * view->layout.head_dim * sizeof(uint16_t));
    SPIN_ASSERT_LT(args->batch.layer, view->layout.layers);
}

} // namespace

extern "C" spin_status spin_kv_index_cuda(const struct spin_kv_index_args *args,
                                          struct spin_stream *stream)
{
    check_args(args);
    const struct spin_kv_view *view = args->view;
    const uint64_t rows = (uint64_t)args->batch.count * view->layout.kv_heads;
    if (rows == 0) {
        return SPIN_OK;
    }
    const struct index_params p = {*view,        args->batch, args->lists,
                                   args->ranges, rows,        args->summary == SPIN_SUMMARY_BOUNDS};
    const uint64_t threads = (uint64_t)args->lists.stride /
                             (view->partition_tokens / view->page_tokens) *
                             (view->layout.head_dim / VECTOR);
    const uint64_t most = (threads + THREADS - 1) / THREADS; /* blocks that a row can use */
    const uint64_t share = (BLOCKS_MAX + rows - 1) / rows;
    const dim3 grid((uint32_t)SPIN_MAX(SPIN_MIN(most, share), 1),
                    (uint32_t)SPIN_MIN(rows, GRID_MAX));
    const auto kernel = p.bounds ? index_rows<true> : index_rows<false>;
    kernel<<<grid, THREADS, 0, spin_stream_cuda(stream)>>>(p);
    return spin_cuda_launched("kv_index");
}
