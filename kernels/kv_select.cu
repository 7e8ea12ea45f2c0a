/* kv_select on CUDA: one kernel, a cluster of thread blocks for each (sequence, kv head).
 *
 *   summaries .. tensor-core dot products .. logits in shared memory         each block, its share
 *   maximum, sum, minimum of each segment and head ........... to every block of the cluster
 *   log softmax .. maximum over the group .. an integer key per candidate    each block, its share
 *   histogram of the keys ......... to every block, until the k-th best is known (twice, as a rule)
 *   pages of the chosen, in their order                                      each block, its share
 *
 * The first line is kv_select_score.cuh.
 *
 * Keys are integers in the order of the scores. A histogram splits the range that holds the k-th
 * best into 512 parts; it is over when the k-th best is the last of its part, or the part is one
 * key: then the first of equals are taken. Each block sees the histograms of all, so it knows how
 * many of the chosen stand before its own.
 *
 * Tiles, segments and what is summed in which order depend on the row alone: the number of blocks
 * in a cluster changes no bit. Logits that fit no cluster lie in the workspace; the CPU's size is
 * enough for them. Up to 16 query heads to a group. A logit above F32's range is its largest
 * number. */
#include "kernels/kv_select_score.cuh"

namespace
{

/* ---- log softmax ---- */

__device__ __forceinline__ float warp_max(float v)
{
    for (uint32_t d = WARP / 2; d > 0; d /= 2) {
        v = fmaxf(v, __shfl_xor_sync(UINT32_MAX, v, d));
    }
    return v;
}

__device__ __forceinline__ float warp_min(float v)
{
    return -warp_max(-v);
}

__device__ __forceinline__ float warp_add(float v)
{
    for (uint32_t d = WARP / 2; d > 0; d /= 2) {
        v += __shfl_xor_sync(UINT32_MAX, v, d);
    }
    return v;
}

/* Maximum, sum and minimum of each head over each of the block's segments, to every rank. */
__device__ void sum_segments(const struct select_params &p, const struct select_row &row,
                             const struct select_tables &tables)
{
    const cg::cluster_group cluster = cg::this_cluster();
    for (uint32_t i = warp_id(); i < row.count * p.group; i += WARPS) {
        const uint32_t segment = i / p.group;
        const uint32_t g = i % p.group;
        const uint32_t at = segment * SEGMENT + lane_id() * 4;
        const float *logits = row.logits + (uint64_t)g * p.stride + at;
        const float4 a = *(const float4 *)(const void *)logits;
        const float4 b = *(const float4 *)(const void *)(logits + SEGMENT / 2);
        const float l[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
        float max = -INFINITY;
        float min = INFINITY;
#pragma unroll
        for (uint32_t j = 0; j < 8; j++) {
            max = fmaxf(max, l[j]);
            if (is_candidate(row, row.base + at + j / 4 * (SEGMENT / 2) + j % 4)) {
                min = fminf(min, l[j]);
            }
        }
        max = warp_max(max);
        min = warp_min(min);
        float sum = 0;
#pragma unroll
        for (uint32_t j = 0; j < 8; j++) {
            sum += max == -INFINITY ? 0 : expf(l[j] - max);
        }
        sum = warp_add(sum);
        if (lane_id() < row.ranks) {
            const uint32_t entry = g * p.segments_max + row.first + segment;
            cluster.map_shared_rank(tables.sums, lane_id())[entry] = make_float2(max, sum);
            cluster.map_shared_rank(tables.lows, lane_id())[entry] = min;
        }
    }
}

/* log softmax_c(l) = (l - m) - log z, with m and z over all segments: a warp for each head. One
 * that has minus infinity alone tells no candidate from another. */
__device__ void merge_segments(const struct select_params &p, const struct select_row &row,
                               const struct select_tables &tables, struct select_shared *shared)
{
    const uint32_t g = warp_id();
    if (g >= p.group) {
        return;
    }
    const float2 *sums = tables.sums + g * p.segments_max;
    const float *lows = tables.lows + g * p.segments_max;
    float max = -INFINITY;
    float min = INFINITY;
    for (uint32_t s = lane_id(); s < row.segments; s += WARP) {
        max = fmaxf(max, sums[s].x);
        min = fminf(min, lows[s]);
    }
    max = warp_max(max);
    min = warp_min(min);
    float z = 0;
    for (uint32_t s = lane_id(); s < row.segments; s += WARP) {
        z += max == -INFINITY ? 0 : sums[s].y * expf(sums[s].x - max);
    }
    z = warp_add(z);
    if (lane_id() == 0) {
        const bool none = max == -INFINITY;
        const float m = none ? 0 : max;
        const float log_z = none ? 0 : logf(z);
        shared->norm[g] = make_float2(m, log_z);
        shared->range[g] = make_float2((max - m) - log_z, (min - m) - log_z);
    }
}

/* ---- the k-th best ---- */

/* Larger for larger floats; never 0, which is below every score. Zeros of both signs are equal. */
__device__ __forceinline__ uint32_t key_of(float score)
{
    const uint32_t bits = __float_as_uint(score + 0.0F);
    return (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
}

/* Keys take the place of the first head's logits. */
__device__ void merge_heads(const struct select_params &p, const struct select_row &row,
                            const struct select_shared &shared)
{
    for (uint32_t c = threadIdx.x * 4; c < row.count * SEGMENT; c += THREADS * 4) {
        float score[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
        for (uint32_t g = 0; g < p.group; g++) {
            const float2 norm = shared.norm[g];
            const float4 l =
                *(const float4 *)(const void *)(row.logits + (uint64_t)g * p.stride + c);
            score[0] = fmaxf(score[0], (l.x - norm.x) - norm.y);
            score[1] = fmaxf(score[1], (l.y - norm.x) - norm.y);
            score[2] = fmaxf(score[2], (l.z - norm.x) - norm.y);
            score[3] = fmaxf(score[3], (l.w - norm.x) - norm.y);
        }
        uint32_t key[4];
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            key[j] = is_candidate(row, row.base + c + j) ? key_of(score[j]) : 0;
        }
        *(uint4 *)(void *)(row.logits + c) = make_uint4(key[0], key[1], key[2], key[3]);
    }
}

/* Where the k-th best is: all keys above `high` are chosen, and in the order of the candidates the
 * first `need` of those in [high - span, high]. */
struct threshold {
    uint32_t high;
    uint32_t span;
    uint32_t need;
    uint32_t above_before; /* keys above, in lower ranks */
    uint32_t here_before;  /* keys in [high - span, high], in lower ranks */
};

__device__ __forceinline__ bool is_above(const struct threshold &t, uint32_t key)
{
    return key > t.high;
}

__device__ __forceinline__ bool is_within(const struct threshold &t, uint32_t key)
{
    return key <= t.high && t.high - key <= t.span;
}

/* The block's keys in [high - span, high] by their part of it, to every rank. */
__device__ void count_keys(const struct select_row &row, const struct threshold &t, uint32_t shift,
                           uint32_t pass, struct select_shared *shared)
{
    const cg::cluster_group cluster = cg::this_cluster();
    const uint32_t *keys = (const uint32_t *)(const void *)row.logits;
    for (uint32_t c = threadIdx.x * 4; c < row.count * SEGMENT; c += THREADS * 4) {
        const uint4 v = *(const uint4 *)(const void *)(keys + c);
        const uint32_t key[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            if (is_within(t, key[j])) {
                atomicAdd(&shared->histogram[(t.high - key[j]) >> shift], 1U);
            }
        }
    }
    __syncthreads();
    constexpr uint32_t VECTORS = BINS / 8;
    for (uint32_t i = threadIdx.x; i < row.ranks * VECTORS; i += THREADS) {
        const uint32_t *counts = shared->histogram + i % VECTORS * 8;
        uint4 packed;
        packed.x = counts[0] | counts[1] << 16;
        packed.y = counts[2] | counts[3] << 16;
        packed.z = counts[4] | counts[5] << 16;
        packed.w = counts[6] | counts[7] << 16;
        uint16_t *to = cluster.map_shared_rank(shared->histograms[pass % 2][row.rank], i / VECTORS);
        *(uint4 *)(void *)(to + i % VECTORS * 8) = packed;
    }
    cluster_arrive();
    cluster_wait();
    shared->histogram[threadIdx.x] = 0;
}

/* The bin of the `need`-th best, best first: a bin is a thread's. A row has less than 2^16
 * candidates, so two counts go in one word. */
__device__ void find_bin(const struct select_row &row, uint32_t need, uint32_t pass,
                         struct select_shared *shared)
{
    uint32_t here = 0;
    for (uint32_t r = 0; r < row.ranks; r++) {
        const uint32_t count = shared->histograms[pass % 2][r][threadIdx.x];
        here += r < row.rank ? count | count << 16 : count;
    }
    uint32_t sum = here;
    for (uint32_t d = 1; d < WARP; d *= 2) {
        const uint32_t other = __shfl_up_sync(UINT32_MAX, sum, d);
        sum += lane_id() >= d ? other : 0;
    }
    if (lane_id() == WARP - 1) {
        shared->warp_sum[warp_id()] = sum;
    }
    __syncthreads();
    uint32_t before = sum - here;
    for (uint32_t w = 0; w < warp_id(); w++) {
        before += shared->warp_sum[w];
    }
    const uint32_t row_before = before & 0xffffU;
    if (row_before < need && row_before + (here & 0xffffU) >= need) {
        shared->found_bin = threadIdx.x;
        shared->found_before = before;
        shared->found_here = here;
    }
    __syncthreads();
}

/* 1 <= k <= candidates. Every rank comes to the same. */
__device__ struct threshold find_threshold(const struct select_params &p,
                                           const struct select_row &row,
                                           struct select_shared *shared)
{
    float2 range = shared->range[0];
    for (uint32_t g = 1; g < p.group; g++) {
        range.x = fmaxf(range.x, shared->range[g].x);
        range.y = fmaxf(range.y, shared->range[g].y);
    }
    const uint32_t lowest = key_of(isnan(range.y) ? -INFINITY : range.y);
    struct threshold t = {};
    t.high = key_of(isnan(range.x) ? -INFINITY : range.x);
    t.span = t.high - lowest;
    t.need = row.k;
    for (uint32_t pass = 0;; pass++) {
        const uint32_t bits = 32 - __clz(t.span);
        const uint32_t shift = bits > BIN_BITS ? bits - BIN_BITS : 0;
        count_keys(row, t, shift, pass, shared);
        find_bin(row, t.need, pass, shared);
        t.high -= shared->found_bin << shift;
        t.span = min((1U << shift) - 1, t.high - lowest);
        t.need -= shared->found_before & 0xffffU;
        t.above_before += shared->found_before >> 16;
        t.here_before = shared->found_here >> 16;
        if (shift == 0 || (shared->found_here & 0xffffU) == t.need) {
            return t;
        }
    }
}

/* ---- the list ---- */

/* Of a warp's keys: chosen anyway, and chosen as long as there is need. */
struct key_counts {
    uint32_t above;
    uint32_t within;
};

/* The keys of a warp, [*begin, *end) of the block's. */
__device__ void warp_share(const struct select_row &row, uint32_t *begin, uint32_t *end)
{
    const uint32_t keys = row.count * SEGMENT;
    const uint32_t share = (keys / WARPS + WARP - 1) / WARP * WARP;
    *begin = min(warp_id() * share, keys);
    *end = min(*begin + share, keys);
}

/* Of the keys before the warp's. */
__device__ struct key_counts count_before(const struct select_row &row, const struct threshold &t,
                                          struct select_shared *shared)
{
    const uint32_t *keys = (const uint32_t *)(const void *)row.logits;
    uint32_t begin;
    uint32_t end;
    warp_share(row, &begin, &end);
    uint32_t counts = 0; /* both, as in find_bin */
    for (uint32_t c = begin + lane_id(); c < end; c += WARP) {
        counts += is_above(t, keys[c]) ? 1U : 0;
        counts += is_within(t, keys[c]) ? 1U << 16 : 0;
    }
    for (uint32_t d = WARP / 2; d > 0; d /= 2) {
        counts += __shfl_xor_sync(UINT32_MAX, counts, d);
    }
    if (lane_id() == 0) {
        shared->warp_sum[warp_id()] = counts;
    }
    __syncthreads();
    struct key_counts before = {t.above_before, t.here_before};
    for (uint32_t w = 0; w < warp_id(); w++) {
        before.above += shared->warp_sum[w] & 0xffffU;
        before.within += shared->warp_sum[w] >> 16;
    }
    return before;
}

__device__ void put_chosen(const struct select_row &row, const struct threshold &t,
                           struct select_shared *shared)
{
    const uint32_t *keys = (const uint32_t *)(const void *)row.logits;
    struct key_counts before = count_before(row, t, shared);
    const uint32_t lower = (1U << lane_id()) - 1;
    uint32_t begin;
    uint32_t end;
    warp_share(row, &begin, &end);
    for (uint32_t c = begin + lane_id(); c < end; c += WARP) { /* whole warps */
        const uint32_t key = keys[c];
        const uint32_t above = __ballot_sync(UINT32_MAX, is_above(t, key));
        const uint32_t within = __ballot_sync(UINT32_MAX, is_within(t, key));
        const uint32_t equals = before.within + __popc(within & lower);
        if (is_above(t, key) || (is_within(t, key) && equals < t.need)) {
            const uint32_t place = before.above + __popc(above & lower) + min(equals, t.need);
            const uint32_t page = (row.base + c) * row.partition_pages;
            uint16_t *out = row.pages + row.page_base + (uint64_t)place * row.partition_pages;
            for (uint32_t i = 0; i < row.partition_pages; i++) {
                out[i] = (uint16_t)(page + i);
            }
        }
        before.above += __popc(above);
        before.within += __popc(within);
    }
}

/* ---- the kernel ---- */

extern __shared__ __align__(16) uint8_t dynamic_memory[];

__host__ __device__ uint64_t tables_bytes(uint32_t group, uint32_t segments, uint32_t steps,
                                          uint32_t operands)
{
    const uint64_t entries = ((uint64_t)group * segments + 3) / 4 * 4;
    return (uint64_t)steps * operands * WARP * sizeof(uint4) +
           entries * (sizeof(float2) + sizeof(float));
}

template <uint32_t STEPS, uint32_t OPERANDS, bool EXACT>
__global__ __launch_bounds__(THREADS,
                             1) void select_rows(const __grid_constant__ struct select_params p)
{
    __shared__ struct select_shared shared;
    struct select_row row;
    if (!begin_row(p, &row)) {
        return;
    }
    cluster_arrive(); /* every rank has begun: its memory may be written */
    const uint32_t entries = (p.group * p.segments_max + 3) / 4 * 4;
    struct select_tables tables;
    tables.q = (uint4 *)(void *)dynamic_memory;
    tables.sums = (float2 *)(void *)(tables.q + STEPS * OPERANDS * WARP);
    tables.lows = (float *)(void *)(tables.sums + entries);
    tables.logits = tables.lows + entries;
    share_row(p, tables, &row);
    shared.histogram[threadIdx.x] = 0;
    score<STEPS, OPERANDS, EXACT>(p, row, tables.q);
    cluster_wait();
    sum_segments(p, row, tables);
    cluster_arrive();
    cluster_wait();
    merge_segments(p, row, tables, &shared);
    __syncthreads();
    merge_heads(p, row, shared);
    if (row.k > 0) {
        __syncthreads();
        const struct threshold t = find_threshold(p, row, &shared);
        put_chosen(row, t, &shared);
    }
}

/* ---- the host's side ---- */

using select_kernel = void (*)(struct select_params);

/* Steps of the variant for a width; one takes any. */
uint32_t steps_of(uint32_t width)
{
    return width == 64 || width == 128 || width == 256 ? width / STEP : STEPS_MAX;
}

template <uint32_t OPERANDS> select_kernel kernel_of(uint32_t steps)
{
    switch (steps) {
    case 2:
        return select_rows<2, OPERANDS, true>;
    case 4:
        return select_rows<4, OPERANDS, true>;
    case 8:
        return select_rows<8, OPERANDS, true>;
    default:
        return select_rows<STEPS_MAX, OPERANDS, false>;
    }
}

void check_args(const struct spin_kv_select_args *args)
{
    const struct spin_kv_view *view = args->view;
    const uint32_t head_dim = view->layout.head_dim;
    SPIN_ASSERT(view->page_tokens == 8 || view->page_tokens == 32);
    SPIN_ASSERT_EQ(view->partition_tokens % view->page_tokens, 0);
    SPIN_ASSERT_EQ(SPIN_BLOCK_TOKENS % view->partition_tokens, 0);
    SPIN_ASSERT_LT(args->batch.layer, view->layout.layers);
    if (args->summary == SPIN_SUMMARY_NONE) {
        return;
    }
    const uint32_t halves = args->summary == SPIN_SUMMARY_BOUNDS ? 2 : 1;
    SPIN_ASSERT_EQ(args->q.dtype, SPIN_DTYPE_BF16);
    SPIN_ASSERT(args->q.data != NULL);
    SPIN_ASSERT_LE(args->batch.count, args->q.rows);
    SPIN_ASSERT_EQ(args->q.cols, (uint64_t)args->q_heads * head_dim);
    SPIN_ASSERT_GE(args->q.stride, args->q.cols);
    SPIN_ASSERT_EQ(args->q.stride % 8, 0); /* rows are read 16 bytes at a time */
    SPIN_ASSERT_EQ(args->q_heads % view->layout.kv_heads, 0);
    SPIN_ASSERT_GE(args->q_heads, view->layout.kv_heads);
    SPIN_ASSERT_LE(args->q_heads / view->layout.kv_heads, GROUP_MAX);
    SPIN_ASSERT_EQ(view->layout.dtype, SPIN_KV_BF16);
    SPIN_ASSERT_LE(head_dim, SPIN_HEAD_DIM_MAX);
    SPIN_ASSERT_EQ(head_dim % 8, 0);
    SPIN_ASSERT_EQ(view->summary_bytes, halves * head_dim * sizeof(uint16_t));
}

/* How many blocks share a row, and where they keep its logits. */
struct select_plan {
    uint32_t ranks;
    uint32_t stride;
    bool spills;
    uint64_t dynamic_bytes;
};

/* As few as hold the logits: they lose least time at the cluster's barriers. More when the rows
 * alone do not fill the device. */
struct select_plan plan_of(const struct select_params *p, uint64_t rows, uint64_t tables)
{
    const uint32_t segments = p->segments_max;
    struct select_plan plan = {};
    for (uint32_t ranks = 1; ranks <= CLUSTER_MAX; ranks *= 2) {
        /* 4 more: the heads that a warp writes at once lie in different banks. */
        const uint32_t stride = (segments + ranks - 1) / ranks * SEGMENT + 4;
        const uint64_t bytes = tables + (uint64_t)p->group * stride * sizeof(float);
        if (ranks > 1 && plan.ranks != 0 && (rows * ranks > MULTIPROCESSORS || ranks > segments)) {
            break;
        }
        if (bytes + sizeof(struct select_shared) <= SHARED_MAX) {
            plan.ranks = ranks;
            plan.stride = stride;
            plan.dynamic_bytes = bytes;
        }
    }
    if (plan.ranks == 0) {
        plan.ranks = CLUSTER_MAX;
        plan.stride = segments * SEGMENT;
        plan.spills = true;
        plan.dynamic_bytes = tables;
    }
    return plan;
}

spin_status launch(select_kernel kernel, const struct select_params *p, uint64_t rows,
                   const struct select_plan *plan, struct spin_stream *stream)
{
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = plan->ranks;
    cluster.val.clusterDim.y = 1;
    cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((uint32_t)(rows * plan->ranks));
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = plan->dynamic_bytes;
    config.stream = spin_stream_cuda(stream);
    config.attrs = &cluster;
    config.numAttrs = 1;
    /* What went wrong here is told by spin_cuda_launched. */
    (void)cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               (int)plan->dynamic_bytes);
    (void)cudaLaunchKernelEx(&config, kernel, *p);
    return spin_cuda_launched("kv_select");
}

} // namespace

extern "C" spin_status spin_kv_select_cuda(const struct spin_kv_select_args *args,
                                           struct spin_stream *stream)
{
    check_args(args);
    const struct spin_kv_view *view = args->view;
    const uint64_t rows = (uint64_t)args->batch.count * view->layout.kv_heads;
    const uint64_t partitions =
        (uint64_t)view->blocks_max * (SPIN_BLOCK_TOKENS / view->partition_tokens);
    if (rows == 0) {
        return SPIN_OK;
    }
    struct select_params p = {};
    p.view = *view;
    p.batch = args->batch;
    p.lists = args->lists;
    p.windows = args->windows;
    p.always_score = args->always_score;
    if (args->summary == SPIN_SUMMARY_NONE) { /* no row is scored */
        struct select_plan lists_only = {};
        lists_only.ranks = 1;
        return launch(kernel_of<1>(2), &p, rows, &lists_only, stream);
    }
    p.q = (const uint16_t *)args->q.data;
    p.q_stride = args->q.stride;
    p.scale = args->scale;
    p.group = args->q_heads / view->layout.kv_heads;
    p.bounds = args->summary == SPIN_SUMMARY_BOUNDS;
    p.width = view->layout.head_dim * (p.bounds ? 2 : 1);
    p.segments_max = (uint32_t)((SPIN_MIN(partitions, SPIN_ROW_PAGES_MAX) + SEGMENT - 1) / SEGMENT);
    const uint32_t steps = steps_of(p.width);
    const uint32_t operands = (p.group + HEADS - 1) / HEADS;
    const struct select_plan plan =
        plan_of(&p, rows, tables_bytes(p.group, p.segments_max, steps, operands));
    p.stride = plan.stride;
    if (plan.spills) {
        SPIN_ASSERT_LE(rows * p.group * plan.stride * sizeof(float),
                       spin_kv_select_workspace_bytes(args));
        p.spill = (float *)args->workspace;
    }
    return launch(operands == 1 ? kernel_of<1>(steps) : kernel_of<2>(steps), &p, rows, &plan,
                  stream);
}
