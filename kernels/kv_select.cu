/* kv_select on CUDA: one kernel, a cluster of thread blocks for each (sequence, kv head).
 *
 *   summaries .. tensor-core dot products .. logits in shared memory         each block, its share
 *   maximum, sum of each tile and head; of each segment ...... to every block of the cluster
 *   log softmax .. maximum over the group .. an integer key per candidate    each block, its share
 *   histogram of the keys ......... to every block, until the k-th best is known (twice, as a rule)
 *   pages of the chosen, in their order                                      each block, its share
 *
 * The first line is kv_select_score.cuh.
 *
 * Keys are integers in the order of the scores. A histogram splits a range into 512 parts, first
 * that of the tiles' maxima: the k-th best is seldom below it, and is looked for there if it is. It
 * is over when the k-th best is the last of its part, or the part is one key: then the first of
 * equals are taken. Each block sees the histograms of all, so it knows how many of the chosen stand
 * before its own.
 *
 * As few blocks to a row as hold its logits: the fewer, the less time is lost at the cluster's
 * barriers. But twice as many as long as all rows are still at work at once. A block has a
 * multiprocessor. Two share it, so that one loads while the other counts, where a row's logits fit
 * half of it, its summaries are of 64 or 128 elements, its group of up to 8 heads, and there are
 * more rows than the device holds clusters of four.
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

/* Maximum and sum of each head over each of the block's segments, to every rank: half a warp for
 * each, a lane for a tile. */
__device__ void sum_segments(const struct select_params &p, const struct select_row &row,
                             const struct select_tables &tables)
{
    const cg::cluster_group cluster = cg::this_cluster();
    const uint32_t count = row.count * p.group;
    const uint32_t lane = lane_id() % WARPS;
    for (uint32_t i = warp_id() * 2; i < count; i += WARPS * 2) {
        const uint32_t at = i + lane_id() / WARPS;
        const uint32_t segment = min(at, count - 1) / p.group;
        const uint32_t g = min(at, count - 1) % p.group;
        const uint32_t tile = segment * WARPS + lane;
        const float2 v = tables.tiles[g * p.tile_stride + tile];
        const uint32_t partition = row.base + tile * TILE;
        float max = v.x;
        float low = partition + TILE > row.sink_end && partition < row.local_begin ? v.x : INFINITY;
        for (uint32_t d = WARPS / 2; d > 0; d /= 2) {
            max = fmaxf(max, __shfl_xor_sync(UINT32_MAX, max, d));
            low = fminf(low, __shfl_xor_sync(UINT32_MAX, low, d));
        }
        float sum = v.y * __expf(v.x - (max == -INFINITY ? 0 : max));
        for (uint32_t d = WARPS / 2; d > 0; d /= 2) {
            sum += __shfl_xor_sync(UINT32_MAX, sum, d);
        }
        if (at < count && lane < row.ranks) {
            const uint32_t entry = g * p.segments_max + row.first + segment;
            cluster.map_shared_rank(tables.sums, lane)[entry] = make_float2(max, sum);
            cluster.map_shared_rank(tables.lows, lane)[entry] = low;
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

/* Keys take the place of the first head's logits; those in [high - span, high] are counted by their
 * part of it. */
__device__ void merge_heads(const struct select_params &p, const struct select_row &row,
                            const struct threshold &t, uint32_t shift, struct select_shared *shared)
{
    for (uint32_t c = threadIdx.x * 4; c < row.count * SEGMENT; c += THREADS * 4) {
        float score[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
        for (uint32_t g = 0; g < p.group; g++) {
            const float2 norm = shared->norm[g];
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
            if (is_within(t, key[j])) {
                atomicAdd(&shared->histogram[(t.high - key[j]) >> shift], 1U);
            }
        }
        *(uint4 *)(void *)(row.logits + c) = make_uint4(key[0], key[1], key[2], key[3]);
    }
}

/* As merge_heads, when there are keys. */
__device__ void count_keys(const struct select_row &row, const struct threshold &t, uint32_t shift,
                           struct select_shared *shared)
{
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
}

/* The block's histogram, to every rank. */
__device__ void share_counts(const struct select_row &row, const struct select_tables &tables,
                             uint32_t pass, struct select_shared *shared)
{
    const cg::cluster_group cluster = cg::this_cluster();
    constexpr uint32_t VECTORS = BINS / 8;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < row.ranks * VECTORS; i += THREADS) {
        const uint32_t vector = i % VECTORS;
        const uint4 a = *(const uint4 *)(const void *)(shared->histogram + vector * 8);
        const uint4 b = *(const uint4 *)(const void *)(shared->histogram + vector * 8 + 4);
        uint16_t *to = cluster.map_shared_rank(tables.histograms, i / VECTORS) +
                       (pass % 2 * row.ranks + row.rank) * BINS;
        *(uint4 *)(void *)(to + vector * 8) =
            make_uint4(a.x | a.y << 16, a.z | a.w << 16, b.x | b.y << 16, b.z | b.w << 16);
    }
    cluster_arrive();
    cluster_wait();
    shared->histogram[threadIdx.x] = 0;
}

/* The bin of the `need`-th best, best first, BINS if there are less: a bin is a thread's. A row has
 * less than 2^16 candidates, so two counts go in one word. */
__device__ void find_bin(const struct select_row &row, const struct select_tables &tables,
                         uint32_t need, uint32_t pass, struct select_shared *shared)
{
    const uint16_t *counts = tables.histograms + pass % 2 * row.ranks * BINS + threadIdx.x;
    uint32_t here = 0;
#pragma unroll 4
    for (uint32_t r = 0; r < row.ranks; r++) {
        const uint32_t count = counts[r * BINS];
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
    const uint32_t lower = lane_id() < warp_id() ? shared->warp_sum[lane_id()] : 0;
    const uint32_t before = __reduce_add_sync(UINT32_MAX, lower) + sum - here;
    const uint32_t row_before = before & 0xffffU;
    const bool reaches = row_before + (here & 0xffffU) >= need;
    if (row_before < need && reaches) {
        shared->found_bin = threadIdx.x;
        shared->found_before = before;
        shared->found_here = here;
    } else if (threadIdx.x == BINS - 1 && !reaches) {
        shared->found_bin = BINS;
        shared->found_before = before + here;
        shared->found_here = 0;
    }
    __syncthreads();
}

/* Where to look first: in [y, x] of the heads' scores; the worse ones are seldom needed. */
__device__ struct threshold first_range(const struct select_params &p, const struct select_row &row,
                                        const struct select_shared &shared)
{
    float2 range = shared.range[0];
    for (uint32_t g = 1; g < p.group; g++) {
        range.x = fmaxf(range.x, shared.range[g].x);
        range.y = fmaxf(range.y, shared.range[g].y);
    }
    struct threshold t = {};
    t.high = key_of(isnan(range.x) ? -INFINITY : range.x);
    t.span = t.high - key_of(isnan(range.y) ? -INFINITY : range.y);
    t.need = row.k;
    return t;
}

/* 1 <= k <= candidates. Every rank comes to the same. */
__device__ struct threshold find_threshold(const struct select_params &p,
                                           const struct select_row &row,
                                           const struct select_tables &tables,
                                           struct select_shared *shared)
{
    struct threshold t = first_range(p, row, *shared);
    for (uint32_t pass = 0;; pass++) {
        const uint32_t lowest = t.high - t.span;
        const uint32_t bits = 32 - __clz(t.span);
        const uint32_t shift = bits > BIN_BITS ? bits - BIN_BITS : 0;
        if (pass == 0) {
            merge_heads(p, row, t, shift, shared);
        } else {
            count_keys(row, t, shift, shared);
        }
        share_counts(row, tables, pass, shared);
        find_bin(row, tables, t.need, pass, shared);
        t.need -= shared->found_before & 0xffffU;
        t.above_before += shared->found_before >> 16;
        if (shared->found_bin == BINS) { /* among those below the range */
            t.high = lowest - 1;
            t.span = t.high - 1;
            continue;
        }
        t.high -= shared->found_bin << shift;
        t.span = min((1U << shift) - 1, t.high - lowest);
        t.here_before = shared->found_here >> 16;
        if (shift == 0 || (shared->found_here & 0xffffU) == t.need) {
            return t;
        }
    }
}

/* ---- the list ---- */

/* The keys of a warp, [*begin, *end) of the block's: a lane has four at a time. */
__device__ void warp_share(const struct select_row &row, uint32_t *begin, uint32_t *end)
{
    const uint32_t keys = row.count * SEGMENT;
    const uint32_t share = (keys / WARPS + WARP * 4 - 1) / (WARP * 4) * (WARP * 4);
    *begin = min(warp_id() * share, keys);
    *end = min(*begin + share, keys);
}

/* How many are chosen anyway, and in the high half how many as long as there is need. */
__device__ __forceinline__ uint32_t count_four(const struct threshold &t, const uint4 &v)
{
    const uint32_t key[4] = {v.x, v.y, v.z, v.w};
    uint32_t counts = 0;
#pragma unroll
    for (uint32_t j = 0; j < 4; j++) {
        counts += is_above(t, key[j]) ? 1U : 0;
        counts += is_within(t, key[j]) ? 1U << 16 : 0;
    }
    return counts;
}

/* As count_four, of the row's keys before the warp's. */
__device__ uint32_t count_before(const struct select_row &row, const struct threshold &t,
                                 struct select_shared *shared)
{
    uint32_t begin;
    uint32_t end;
    uint32_t counts = 0;
    warp_share(row, &begin, &end);
    for (uint32_t c = begin + lane_id() * 4; c < end; c += WARP * 4) {
        counts += count_four(t, *(const uint4 *)(const void *)(row.logits + c));
    }
    counts = __reduce_add_sync(UINT32_MAX, counts);
    if (lane_id() == 0) {
        shared->warp_sum[warp_id()] = counts;
    }
    __syncthreads();
    const uint32_t lower = lane_id() < warp_id() ? shared->warp_sum[lane_id()] : 0;
    return __reduce_add_sync(UINT32_MAX, lower) + (t.above_before | t.here_before << 16);
}

/* A partition's pages, where `before` of the chosen stand before it. */
__device__ __forceinline__ void put_partition(const struct select_row &row, uint32_t partition,
                                              uint32_t before)
{
    const uint32_t page = partition * row.partition_pages;
    uint16_t *out = row.pages + row.page_base + (uint64_t)before * row.partition_pages;
    for (uint32_t i = 0; i < row.partition_pages; i++) {
        out[i] = (uint16_t)(page + i);
    }
}

__device__ void put_chosen(const struct select_row &row, const struct threshold &t,
                           struct select_shared *shared)
{
    uint32_t before = count_before(row, t, shared);
    uint32_t begin;
    uint32_t end;
    warp_share(row, &begin, &end);
    for (uint32_t c = begin + lane_id() * 4; c < end; c += WARP * 4) { /* whole warps */
        const uint4 v = *(const uint4 *)(const void *)(row.logits + c);
        const uint32_t key[4] = {v.x, v.y, v.z, v.w};
        const uint32_t counts = count_four(t, v);
        if (!__any_sync(UINT32_MAX, counts != 0)) {
            continue;
        }
        uint32_t sum = counts;
        for (uint32_t d = 1; d < WARP; d *= 2) {
            const uint32_t other = __shfl_up_sync(UINT32_MAX, sum, d);
            sum += lane_id() >= d ? other : 0;
        }
        uint32_t above = (before + sum - counts) & 0xffffU;
        uint32_t within = (before + sum - counts) >> 16;
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            const bool is_equal = is_within(t, key[j]);
            if (is_above(t, key[j]) || (is_equal && within < t.need)) {
                put_partition(row, row.base + c + j, above + min(within, t.need));
            }
            above += is_above(t, key[j]) ? 1 : 0;
            within += is_equal ? 1 : 0;
        }
        before += __shfl_sync(UINT32_MAX, sum, WARP - 1);
    }
}

/* ---- the kernel ---- */

extern __shared__ __align__(16) uint8_t dynamic_memory[];

/* Room for `count` tiles or segments of each head. */
__host__ __device__ inline uint32_t entries_of(uint32_t group, uint32_t count)
{
    return (group * count + 3) / 4 * 4;
}

/* The tiles' place has room for the histograms. */
__host__ __device__ inline uint32_t tiles_bytes(uint32_t group, uint32_t tile_stride,
                                                uint32_t ranks)
{
    const uint32_t tiles = entries_of(group, tile_stride) * (uint32_t)sizeof(float2);
    const uint32_t histograms = 2 * ranks * BINS * (uint32_t)sizeof(uint16_t);
    return tiles > histograms ? tiles : histograms;
}

__device__ struct select_tables tables_of(const struct select_params &p, uint32_t ranks,
                                          uint32_t steps, uint32_t operands)
{
    const uint32_t entries = entries_of(p.group, p.segments_max);
    struct select_tables tables;
    tables.q = (uint4 *)(void *)dynamic_memory;
    tables.sums = (float2 *)(void *)(tables.q + steps * operands * WARP);
    tables.lows = (float *)(void *)(tables.sums + entries);
    tables.tiles = (float2 *)(void *)(tables.lows + entries);
    tables.histograms = (uint16_t *)(void *)tables.tiles;
    tables.logits =
        (float *)(void *)((uint8_t *)tables.tiles + tiles_bytes(p.group, p.tile_stride, ranks));
    return tables;
}

template <uint32_t STEPS, uint32_t OPERANDS, bool EXACT, uint32_t BLOCKS>
__global__ __launch_bounds__(THREADS, BLOCKS) void select_rows(
    const __grid_constant__ struct select_params p)
{
    __shared__ struct select_shared shared;
    struct select_row row;
    if (!begin_row(p, &row)) {
        return;
    }
    cluster_arrive_relaxed(); /* every rank has begun: its memory may be written */
    const struct select_tables tables = tables_of(p, row.ranks, STEPS, OPERANDS);
    share_row(p, tables, &row);
    shared.histogram[threadIdx.x] = 0;
    score<STEPS, OPERANDS, EXACT, STEPS_AHEAD / BLOCKS>(p, row, tables);
    cluster_wait();
    sum_segments(p, row, tables);
    cluster_arrive();
    cluster_wait();
    merge_segments(p, row, tables, &shared);
    __syncthreads();
    if (row.k > 0) {
        const struct threshold t = find_threshold(p, row, tables, &shared);
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
        return select_rows<2, OPERANDS, true, 1>;
    case 4:
        return select_rows<4, OPERANDS, true, 1>;
    case 8:
        return select_rows<8, OPERANDS, true, 1>;
    default:
        return select_rows<STEPS_MAX, OPERANDS, false, 1>;
    }
}

/* A tile of these is one unit, and few heads need few registers. */
bool may_be_two(uint32_t steps, uint32_t operands)
{
    return steps <= UNIT_MAX && operands == 1;
}

/* Two blocks share a multiprocessor. */
select_kernel kernel_of_two(uint32_t steps)
{
    return steps == 2 ? select_rows<2, 1, true, 2> : select_rows<4, 1, true, 2>;
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
    uint32_t blocks; /* of a multiprocessor */
    uint32_t stride;
    uint32_t tile_stride;
    bool spills;
    uint64_t dynamic_bytes;
};

/* The bytes before the tiles. */
uint64_t fixed_bytes(const struct select_params *p, uint32_t steps, uint32_t operands)
{
    return (uint64_t)steps * operands * WARP * sizeof(uint4) +
           (uint64_t)entries_of(p->group, p->segments_max) * (sizeof(float2) + sizeof(float));
}

struct select_plan plan_with(const struct select_params *p, uint32_t ranks, uint64_t fixed,
                             bool spills)
{
    const uint32_t segments = (p->segments_max + ranks - 1) / ranks;
    struct select_plan plan = {};
    plan.ranks = ranks;
    plan.blocks = 1;
    plan.spills = spills;
    /* 4 more: the heads that a warp writes at once lie in different banks. */
    plan.stride = spills ? p->segments_max * SEGMENT : segments * SEGMENT + 4;
    plan.tile_stride = segments * WARPS;
    plan.dynamic_bytes = fixed + tiles_bytes(p->group, plan.tile_stride, ranks);
    plan.dynamic_bytes += spills ? 0 : (uint64_t)p->group * plan.stride * sizeof(float);
    return plan;
}

/* How many clusters the device holds, with a block to a multiprocessor: measured on an H200. Those
 * of four and eight leave some multiprocessors alone. */
uint64_t clusters_at_once(uint32_t ranks)
{
    return ranks == 1 ? 132 : ranks == 2 ? 66 : ranks == 4 ? 30 : 15;
}

/* Twice the ranks have work, and all rows are still at work at once. */
bool grows(const struct select_params *p, const struct select_plan *plan, uint64_t rows)
{
    const uint32_t ranks = plan->ranks * 2;
    return ranks <= CLUSTER_MAX && ranks <= p->segments_max &&
           rows <= clusters_at_once(ranks) * plan->blocks;
}

/* A block has a multiprocessor. */
struct select_plan plan_alone(const struct select_params *p, uint64_t rows, uint64_t fixed)
{
    struct select_plan plan = plan_with(p, 1, fixed, false);
    while (plan.dynamic_bytes + sizeof(struct select_shared) > SHARED_MAX) {
        if (plan.ranks == CLUSTER_MAX) {
            return plan_with(p, CLUSTER_MAX, fixed, true);
        }
        plan = plan_with(p, plan.ranks * 2, fixed, false);
    }
    while (grows(p, &plan, rows)) {
        plan = plan_with(p, plan.ranks * 2, fixed, false);
    }
    return plan;
}

struct select_plan plan_of(const struct select_params *p, uint64_t rows, uint64_t fixed, bool two)
{
    struct select_plan plan = plan_with(p, 1, fixed, false);
    const bool is_short = plan.dynamic_bytes + sizeof(struct select_shared) <= SHARED_HALF;
    if (!two || !is_short || rows <= clusters_at_once(4)) {
        return plan_alone(p, rows, fixed);
    }
    plan.blocks = 2;
    while (grows(p, &plan, rows)) {
        plan = plan_with(p, plan.ranks * 2, fixed, false);
        plan.blocks = 2;
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
    while (view->partition_tokens << p.block_shift < SPIN_BLOCK_TOKENS) {
        p.block_shift++;
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
        plan_of(&p, rows, fixed_bytes(&p, steps, operands), may_be_two(steps, operands));
    p.stride = plan.stride;
    p.tile_stride = plan.tile_stride;
    if (plan.spills) {
        SPIN_ASSERT_LE(rows * p.group * plan.stride * sizeof(float),
                       spin_kv_select_workspace_bytes(args));
        p.spill = (float *)args->workspace;
    }
    const select_kernel kernel = plan.blocks == 2 ? kernel_of_two(steps)
                                 : operands == 1  ? kernel_of<1>(steps)
                                                  : kernel_of<2>(steps);
    return launch(kernel, &p, rows, &plan, stream);
}
