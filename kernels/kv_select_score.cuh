/* kv_select_score: the first half of kv_select on CUDA: a block's row, its share, its logits.
 *
 * Why        A tile is 16 partitions against 8 query heads: the A operand of mma.m16n8k16 is the
 *            summaries, the B operand the queries. A dot product does not care for the order of its
 *            elements, so each lane loads 16 bytes of a summary as they lie and calls them its
 *            elements of two mma; the queries are cut alike. A bound, sum_d max(q min, q max), is a
 *            dot product, too: min <= max, so it is that of (min(q, 0), max(q, 0)) with the summary
 *            as it lies.
 * Layout     A segment is 256 partitions, a tile of each warp. Tiles and segments are cut in the
 *            sequence, not in the candidates.
 * Ownership  Borrows from the operation's arguments and the block's shared memory.
 * Threading  Inside a kernel: every thread of the block calls.
 * Units      Partitions, segments; steps of 32 elements. */
#pragma once

#include "kernels/kv_select.h"
#include "kernels/ops_cuda.cuh"

#include <cooperative_groups.h>
#include <float.h>
#include <math.h>

namespace
{

namespace cg = cooperative_groups;

constexpr uint32_t WARP = 32;
constexpr uint32_t WARPS = 16;
constexpr uint32_t THREADS = WARPS * WARP;
constexpr uint32_t TILE = 16;              /* partitions */
constexpr uint32_t SEGMENT = WARPS * TILE; /* partitions: a tile of each warp */
constexpr uint32_t STEP = 32;              /* elements of two mma: 16 bytes of each lane */
constexpr uint32_t UNIT_MAX = 4;           /* steps of a tile that are loaded together */
constexpr uint32_t STEPS_AHEAD = 8;        /* on their way, of a block alone: 8 KiB a warp */
constexpr uint32_t STEPS_MAX = 16;
constexpr uint32_t HEADS = 8; /* of an mma */
constexpr uint32_t GROUP_MAX = 2 * HEADS;
constexpr uint32_t BINS = THREADS;
constexpr uint32_t BIN_BITS = 9;
constexpr uint32_t CLUSTER_MAX = 8;          /* larger ones are not portable, and were slower */
constexpr uint32_t SHARED_MAX = 227 * 1024;  /* of a block */
constexpr uint32_t SHARED_HALF = 113 * 1024; /* of each of two blocks of a multiprocessor */
static_assert(BINS == 1U << BIN_BITS, "bins");

struct select_params {
    struct spin_kv_view view;
    struct spin_kv_batch batch;
    struct spin_kv_lists lists;
    const struct spin_kv_window *windows;
    const uint16_t *q;
    uint64_t q_stride;
    float scale;
    uint32_t group;
    uint32_t width;       /* elements of a summary */
    uint32_t block_shift; /* partitions of a block: 2^block_shift */
    bool bounds;
    bool always_score;
    uint32_t segments_max;
    uint32_t stride;      /* of the logits of a head */
    uint32_t tile_stride; /* of a head's tiles */
    float *spill;         /* [rows][group][stride], or NULL: they are in shared memory */
};

/* A block's small things. */
struct select_shared {
    alignas(16) uint32_t histogram[BINS];
    float2 norm[GROUP_MAX];  /* maximum, log of the sum */
    float2 range[GROUP_MAX]; /* of the scores: not above x; each tile has one not below y */
    uint32_t warp_sum[WARPS];
    uint32_t found_bin;
    uint32_t found_before; /* counts: of the row in the low half, of lower ranks in the high */
    uint32_t found_here;
};

/* The dynamic memory. */
struct select_tables {
    uint4 *q;      /* [heads / 8][steps][lane]: B operands */
    float2 *sums;  /* [group][segments_max]: maximum, sum of exp(l - maximum); of all ranks */
    float *lows;   /* [group][segments_max]: the least maximum of a tile; of all ranks */
    float2 *tiles; /* [group][tile_stride]: as sums; of the block */
    uint16_t *histograms; /* [2][ranks][BINS]: by pass and rank, in the tiles' place */
    float *logits;
};

struct select_row {
    uint64_t index;
    uint32_t sequence; /* of the batch */
    uint32_t number;   /* of the sequence, in the tables */
    uint32_t head;
    uint32_t sink_end;
    uint32_t local_begin;
    uint32_t k; /* at most the candidates */
    uint32_t partition_pages;
    uint32_t rank;
    uint32_t ranks;
    uint32_t segments; /* of the row; aligned in the sequence, not to the candidates */
    uint32_t first;    /* the block's segments */
    uint32_t count;
    uint32_t base;      /* first partition of the block's segments */
    float *logits;      /* [group][stride] */
    uint16_t *pages;    /* of the list */
    uint32_t page_base; /* where the chosen begin on it */
};

__device__ __forceinline__ uint32_t lane_id()
{
    return threadIdx.x % WARP;
}

__device__ __forceinline__ uint32_t warp_id()
{
    return threadIdx.x / WARP;
}

/* Tells nothing of what was written. */
__device__ __forceinline__ void cluster_arrive_relaxed()
{
    asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
}

__device__ __forceinline__ void cluster_arrive()
{
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}

__device__ __forceinline__ void cluster_wait()
{
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

__device__ __forceinline__ bool is_candidate(const struct select_row &row, uint32_t partition)
{
    return partition >= row.sink_end && partition < row.local_begin;
}

/* ---- the row, and the parts of its list that need no scores ---- */

/* Pages [begin, end) from `entry` of the list on, by all threads of the cluster. */
__device__ void put_pages(const struct select_row &row, uint32_t begin, uint32_t end,
                          uint32_t entry)
{
    for (uint32_t page = begin + row.rank * THREADS + threadIdx.x; page < end;
         page += row.ranks * THREADS) {
        row.pages[entry + (page - begin)] = (uint16_t)page;
    }
}

/* Writes sink, window and what is chosen without scores. True: the candidates are to be scored. */
__device__ bool begin_row(const struct select_params &p, struct select_row *row)
{
    const uint32_t kv_heads = p.view.layout.kv_heads;
    const cg::cluster_group cluster = cg::this_cluster();
    row->rank = cluster.block_rank();
    row->ranks = cluster.num_blocks();
    row->index = blockIdx.x / row->ranks;
    row->sequence = (uint32_t)(row->index / kv_heads);
    row->head = (uint32_t)(row->index % kv_heads);
    row->partition_pages = p.view.partition_tokens / p.view.page_tokens;
    row->pages = p.lists.pages + row->index * p.lists.stride;
    row->number = p.batch.sequence[row->sequence];
    const struct spin_kv_window window = p.windows[row->sequence];
    const uint32_t tokens = p.batch.tokens[row->sequence];
    const uint32_t candidates = window.local_begin - window.sink_end;
    row->sink_end = window.sink_end;
    row->local_begin = window.local_begin;
    row->k = min(window.k, candidates);
    const uint32_t end = (tokens - 1) / p.view.page_tokens + 1;
    const uint32_t sink = min(window.sink_end * row->partition_pages, end);
    const uint32_t local = min(window.local_begin * row->partition_pages, end);
    const uint32_t chosen = row->k * row->partition_pages;
    row->page_base = sink;
    put_pages(*row, 0, sink, 0);
    put_pages(*row, local, end, sink + chosen);
    if (row->rank == 0 && threadIdx.x == 0) {
        p.lists.page_count[row->index] = sink + chosen + (end - local);
    }
    if (candidates > 0 && (p.always_score || (window.k > 0 && window.k < candidates))) {
        return true;
    }
    if (row->k > 0) {
        put_pages(*row, sink, local, sink);
    }
    return false;
}

/* The block's share of the segments. */
__device__ void share_row(const struct select_params &p, const struct select_tables &tables,
                          struct select_row *row)
{
    const uint32_t first = row->sink_end / SEGMENT;
    row->segments = (row->local_begin + SEGMENT - 1) / SEGMENT - first;
    const uint32_t share = (row->segments + row->ranks - 1) / row->ranks;
    row->first = min(row->rank * share, row->segments);
    row->count = min(share, row->segments - row->first);
    row->base = (first + row->first) * SEGMENT;
    row->logits = p.spill == NULL
                      ? tables.logits
                      : p.spill + row->index * p.group * p.stride + (uint64_t)row->first * SEGMENT;
}

/* ---- dot products ---- */

__device__ __forceinline__ uint4 load_once(const void *address)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(address));
    return v;
}

/* a: 16 partitions; b: 8 query heads. */
__device__ __forceinline__ void mma(float *sum, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                    uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* Two BF16: those of the wanted sign, zero for others. */
__device__ __forceinline__ uint32_t keep_sign(uint32_t pair, bool negative)
{
    const uint32_t mask =
        ((pair >> 15) & 1U) * 0x0000ffffU | (pair >> 31) * 0xffff0000U; /* negative ones */
    return pair & (negative ? mask : ~mask);
}

/* The group's queries as B operands: lane l has head l / 4 and of each step elements
 * 8 (l % 4) .. 8 (l % 4) + 7; zeros where there is no head or no element. */
__device__ void load_queries(const struct select_params &p, const struct select_row &row,
                             uint32_t steps, uint32_t operands, uint4 *out)
{
    const uint32_t head_dim = p.view.layout.head_dim;
    for (uint32_t i = threadIdx.x; i < operands * steps * WARP; i += THREADS) {
        const uint32_t head = i / (steps * WARP) * HEADS + i % WARP / 4;
        const uint32_t element = i / WARP % steps * STEP + i % 4 * 8;
        uint4 v = make_uint4(0, 0, 0, 0);
        if (head < p.group && element < p.width) {
            const uint16_t *q = p.q + row.sequence * p.q_stride +
                                (uint64_t)(row.head * p.group + head) * head_dim +
                                element % head_dim;
            v = *(const uint4 *)(const void *)q;
            if (p.bounds) {
                const bool low = element < head_dim;
                v.x = keep_sign(v.x, low);
                v.y = keep_sign(v.y, low);
                v.z = keep_sign(v.z, low);
                v.w = keep_sign(v.w, low);
            }
        }
        out[i] = v;
    }
}

/* Where a lane stands in its warp's tiles: summaries l / 4 and l / 4 + 8 of each. Blocks lie
 * anywhere: their numbers are asked for a tile ahead. Lanes without a candidate read another. */
struct tile_cursor {
    const uint8_t *summaries; /* of the row in block 0 */
    const uint32_t *blocks;   /* of the sequence */
    uint64_t block_bytes;
    uint32_t partition; /* of the next tile, the first */
    uint32_t block[2];  /* of the next tile */
    const uint8_t *at[2];
};

__device__ __forceinline__ uint32_t cursor_partition(const struct select_row &row,
                                                     const struct tile_cursor &cursor,
                                                     uint32_t half)
{
    const uint32_t partition = cursor.partition + TILE / 2 * half;
    return min(max(partition, row.sink_end), row.local_begin - 1);
}

__device__ __forceinline__ void cursor_ask(const struct select_params &p,
                                           const struct select_row &row, struct tile_cursor *cursor)
{
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        cursor->block[half] =
            __ldg(cursor->blocks + (cursor_partition(row, *cursor, half) >> p.block_shift));
    }
}

__device__ __forceinline__ void cursor_next(const struct select_params &p,
                                            const struct select_row &row,
                                            struct tile_cursor *cursor)
{
    const uint32_t mask = (1U << p.block_shift) - 1;
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        const uint32_t place = cursor_partition(row, *cursor, half) & mask;
        cursor->at[half] = cursor->summaries + cursor->block[half] * cursor->block_bytes +
                           place * p.view.summary_bytes;
    }
    cursor->partition += SEGMENT;
    cursor_ask(p, row, cursor);
}

__device__ __forceinline__ struct tile_cursor cursor_begin(const struct select_params &p,
                                                           const struct select_row &row)
{
    const uint32_t partitions = SPIN_BLOCK_TOKENS / p.view.partition_tokens;
    const uint64_t row_bytes = (uint64_t)partitions * p.view.summary_bytes;
    struct tile_cursor cursor;
    cursor.summaries = p.view.summaries +
                       ((uint64_t)p.batch.layer * p.view.layout.kv_heads + row.head) * row_bytes +
                       lane_id() % 4 * sizeof(uint4);
    cursor.blocks = p.view.blocks + (uint64_t)row.number * p.view.blocks_max;
    cursor.block_bytes = spin_kv_rows(&p.view) * row_bytes;
    cursor.partition = row.base + warp_id() * TILE + lane_id() / 4;
    cursor_ask(p, row, &cursor);
    return cursor;
}

/* The warp's logits of a tile, minus infinity where there is no candidate, and for each head their
 * maximum and the sum of exp(l - maximum). Lane l has summaries l / 4 and l / 4 + 8, heads
 * 2 (l % 4) and the next. */
__device__ __forceinline__ void put_logits(const struct select_params &p,
                                           const struct select_row &row, float2 *tiles,
                                           uint32_t tile, uint32_t operand, const float *sum)
{
    const uint32_t place = tile * TILE + lane_id() / 4;
    const bool low = is_candidate(row, row.base + place);
    const bool high = is_candidate(row, row.base + place + TILE / 2);
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t head = operand * HEADS + lane_id() % 4 * 2 + i;
        const float a = low ? fminf(sum[i] * p.scale, FLT_MAX) : -INFINITY;
        const float b = high ? fminf(sum[i + 2] * p.scale, FLT_MAX) : -INFINITY;
        float max = fmaxf(a, b);
        for (uint32_t d = WARP / 2; d >= 4; d /= 2) {
            max = fmaxf(max, __shfl_xor_sync(UINT32_MAX, max, d));
        }
        const float m = max == -INFINITY ? 0 : max;
        float z = __expf(a - m) + __expf(b - m);
        for (uint32_t d = WARP / 2; d >= 4; d /= 2) {
            z += __shfl_xor_sync(UINT32_MAX, z, d);
        }
        if (head < p.group) {
            row.logits[(uint64_t)head * p.stride + place] = a;
            row.logits[(uint64_t)head * p.stride + place + TILE / 2] = b;
            if (lane_id() < 4) {
                tiles[head * p.tile_stride + tile] = make_float2(max, z);
            }
        }
    }
}

/* Of one unit: parts of the lane's two summaries. */
template <uint32_t UNIT> struct unit_data {
    uint4 v[UNIT][2];
};

/* EXACT: the summary has all the steps' elements. */
template <uint32_t UNIT, bool EXACT>
__device__ __forceinline__ void load_unit(const struct tile_cursor &cursor, uint32_t step,
                                          uint32_t width, struct unit_data<UNIT> *data)
{
#pragma unroll
    for (uint32_t i = 0; i < UNIT; i++) {
        const uint32_t element = (step + i) * STEP + lane_id() % 4 * 8;
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            data->v[i][half] = make_uint4(0, 0, 0, 0);
            if (EXACT || element < width) {
                data->v[i][half] =
                    load_once(cursor.at[half] + (uint64_t)(step + i) * (STEP * sizeof(uint16_t)));
            }
        }
    }
}

/* The sums of two mma are added in F32: the tensor core's own additions are less exact. */
template <uint32_t UNIT, uint32_t OPERANDS>
__device__ __forceinline__ void multiply_unit(const struct unit_data<UNIT> &data, const uint4 *q,
                                              uint32_t q_steps, float (*sum)[4])
{
#pragma unroll
    for (uint32_t i = 0; i < UNIT; i++) {
        const uint4 low = data.v[i][0];
        const uint4 high = data.v[i][1];
#pragma unroll
        for (uint32_t n = 0; n < OPERANDS; n++) {
            const uint4 b = q[(n * q_steps + i) * WARP];
            float part[4] = {0, 0, 0, 0};
            mma(part, low.x, high.x, low.y, high.y, b.x, b.y);
            mma(part, low.z, high.z, low.w, high.w, b.z, b.w);
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                sum[n][j] += part[j];
            }
        }
    }
}

/* Every logit of the block. A warp has a tile of each segment; a unit of a tile is multiplied while
 * the next ones, of AHEAD steps together, are on their way. */
template <uint32_t STEPS, uint32_t OPERANDS, bool EXACT, uint32_t AHEAD>
__device__ void score(const struct select_params &p, const struct select_row &row,
                      const struct select_tables &tables)
{
    constexpr uint32_t UNIT = STEPS < UNIT_MAX ? STEPS : UNIT_MAX;
    constexpr uint32_t PARTS = STEPS / UNIT; /* units of a tile */
    constexpr uint32_t DEPTH = AHEAD / UNIT;
    constexpr uint32_t ROUND = DEPTH > PARTS ? DEPTH : PARTS;
    const uint32_t units = row.count * PARTS;
    struct tile_cursor cursor = cursor_begin(p, row);
    uint4 *const queries = tables.q;
    load_queries(p, row, STEPS, OPERANDS, queries);
    struct unit_data<UNIT> data[DEPTH];
#pragma unroll
    for (uint32_t i = 0; i < DEPTH; i++) {
        if (i < units) {
            if (i % PARTS == 0) {
                cursor_next(p, row, &cursor);
            }
            load_unit<UNIT, EXACT>(cursor, i % PARTS * UNIT, p.width, &data[i]);
        }
    }
    __syncthreads();
    float sum[OPERANDS][4];
    for (uint32_t u = 0; u < units; u += ROUND) {
#pragma unroll
        for (uint32_t i = 0; i < ROUND; i++) {
            if (u + i >= units) {
                break;
            }
            const uint32_t part = i % PARTS;
#pragma unroll
            for (uint32_t n = 0; n < OPERANDS && part == 0; n++) {
                sum[n][0] = sum[n][1] = sum[n][2] = sum[n][3] = 0;
            }
            multiply_unit<UNIT, OPERANDS>(data[i % DEPTH], queries + part * UNIT * WARP + lane_id(),
                                          STEPS, sum);
            if (u + i + DEPTH < units) {
                if ((i + DEPTH) % PARTS == 0) {
                    cursor_next(p, row, &cursor);
                }
                load_unit<UNIT, EXACT>(cursor, (i + DEPTH) % PARTS * UNIT, p.width,
                                       &data[i % DEPTH]);
            }
#pragma unroll
            for (uint32_t n = 0; n < OPERANDS && part == PARTS - 1; n++) {
                put_logits(p, row, tables.tiles, (u + i) / PARTS * WARPS + warp_id(), n, sum[n]);
            }
        }
    }
    __syncthreads();
}

} // namespace
