/* attention_chunk: attention of the sequences that have several queries at once.
 *
 * Why        Warps that multiply together, and queries that share what was copied, bring a chunk
 *            from the speed of memory to that of the tensor cores.
 * Formula    That of attention.cu, run by run of 64 tokens, split by split of 512, with the same
 *            operations in the same order: a query's bits are those of its decode step. This rests
 *            on an assumption about the chip, which nothing but tests holds: that the products of
 *            a warpgroup have the bits of those of a warp, so that a sum over sixteen products
 *            depends neither on its place, nor on which operand is the first, nor on how many
 *            warps ask for it. Tests compare the bits on the chip at hand.
 * Layout     A block has CHUNK_ROWS rows, each a query head of a query (of the heads that share a
 *            kv head; query by query), and goes through the list once, CHUNK_TOKENS at a time.
 *            K and V have two places each, swizzled for the products. What a split gives so far
 *            and what the list gives so far stay in registers; of a run only 64 values a row at a
 *            time.
 * Threading  Inside a kernel: two warpgroups multiply, each for 64 rows, and the four warps of a
 *            third copy; a barrier for every place says that it is full, another that it is empty.
 * Units      Rows of a block, tokens of a list; addresses are those of shared memory, in bytes.
 * Limits     As in attention.cu. */
#pragma once

#include "kernels/attention_job.cuh"
#include "kernels/warpgroup_cuda.cuh"

#define CHUNK_ROWS 128u
#define CHUNK_TOKENS 128u
#define CHUNK_TILES (CHUNK_TOKENS / SPIN_TILE_TOKENS)
#define CHUNK_STAGES 2u
#define CHUNK_RUNS (CHUNK_TOKENS / RUN_TOKENS)
#define CHUNKS_PER_SPLIT (SPIN_SPLIT_TOKENS / CHUNK_TOKENS)
#define GROUP_THREADS 128u
#define CONSUMER_THREADS (2 * GROUP_THREADS)
#define CHUNK_THREADS (CONSUMER_THREADS + GROUP_THREADS)
#define CONSUMER_WARPS (CONSUMER_THREADS / 32)
/* 64 values of 128 rows or tokens. */
#define HALF_BYTES (128u * 128)

template <uint32_t D> struct chunk_sizes {
    static constexpr uint32_t HALVES = D / 64;
    static constexpr uint32_t PIECE = HALVES * HALF_BYTES; /* K or V of CHUNK_TOKENS, or q */
    static constexpr uint32_t BARRIERS = PIECE * (1 + 2 * CHUNK_STAGES);
    static constexpr uint32_t ALL = BARRIERS + 4 * CHUNK_STAGES * 8;
};

/* Where things are in shared memory. Pieces: q, then K and V of each stage. */
template <uint32_t D> struct chunk_shared {
    uint32_t base;

    __device__ uint32_t queries() const
    {
        return base;
    }
    __device__ uint32_t piece(uint32_t stage, uint32_t is_v) const
    {
        return base + (1 + 2 * stage + is_v) * chunk_sizes<D>::PIECE;
    }
    __device__ uint32_t full(uint32_t stage, uint32_t is_v) const
    {
        return base + chunk_sizes<D>::BARRIERS + (2 * stage + is_v) * 16;
    }
    __device__ uint32_t empty(uint32_t stage, uint32_t is_v) const
    {
        return full(stage, is_v) + 8;
    }
};

/* What a block computes. */
struct chunk_block {
    uint32_t token;       /* of the sequence's first query */
    uint32_t first_row;   /* of the block, in the sequence */
    uint32_t rows;        /* of the sequence */
    uint32_t unseen;      /* query i of the sequence sees `unseen + i + 1` tokens */
    uint32_t visible_max; /* to any query of the block */
    const uint32_t *slots;
};

/* Where the blocks of a sequence begin: enough for all its rows, whatever the others have. */
static __device__ inline uint64_t first_block_of(const struct attention_job &job, uint32_t sequence)
{
    return (uint64_t)job.first[sequence] * job.group / CHUNK_ROWS + sequence;
}

static __device__ bool find_block(const struct attention_job &job, uint32_t index, uint32_t head,
                                  struct chunk_block *block)
{
    uint32_t low = 0;
    uint32_t high = job.sequences;
    while (high - low > 1) {
        const uint32_t middle = (low + high) / 2;
        if (first_block_of(job, middle) <= index) {
            low = middle;
        } else {
            high = middle;
        }
    }
    const uint32_t queries = job.first[low + 1] - job.first[low];
    const uint64_t row = (uint64_t)low * job.kv_heads + head;
    block->token = job.first[low];
    block->first_row = (uint32_t)(index - first_block_of(job, low)) * CHUNK_ROWS;
    block->rows = queries * job.group;
    if (queries < 2 || block->first_row >= block->rows) {
        return false;
    }
    const uint32_t visible = job.visible[row];
    if (visible < queries) {
#ifdef SPIN_DEBUG
        __trap();
#endif
        return false;
    }
    const uint32_t last_row = min(block->first_row + CHUNK_ROWS, block->rows) - 1;
    block->unseen = visible - queries;
    block->visible_max = block->unseen + last_row / job.group + 1;
    block->slots = job.slots + job.row_offset[row];
    return true;
}

/* --- the warps that copy --- */

/* Lane i: the slot of tile i of CHUNK_TOKENS at `begin`. */
static __device__ inline uint32_t load_slots(const struct attention_job &job,
                                             const struct chunk_block &block, uint32_t begin)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t token = begin + lane * SPIN_TILE_TOKENS;
    uint32_t slot = 0;
    if (lane < CHUNK_TILES && token < block.visible_max) {
        slot = block.slots[token / SPIN_TILE_TOKENS >> job.page_tiles_log2];
    }
    return slot;
}

/* K or V of the tokens from `begin` on; zeros for those that no query sees. */
template <uint32_t D>
static __device__ inline void copy_tokens(const struct attention_job &job,
                                          const struct chunk_block &block, uint32_t begin,
                                          uint32_t own_slot, uint32_t is_v, uint32_t target)
{
    constexpr uint32_t UNITS = D / 8;                   /* of a token */
    constexpr uint32_t TILE = UNITS * SPIN_TILE_TOKENS; /* units of K of a tile */
    const uint32_t thread = threadIdx.x % GROUP_THREADS;
    const uint32_t token = thread / UNITS % SPIN_TILE_TOKENS;
    const uint32_t unit = thread % UNITS;
    const uint32_t place = unit / 8 * HALF_BYTES + token * 128 + (unit % 8 ^ token) * 16;
    const uint32_t tile_mask = (1u << job.page_tiles_log2) - 1;
    const uint8_t *source = job.pool + (is_v * TILE + thread % TILE) * 16;
#pragma unroll 4
    for (uint32_t i = 0; i < CHUNK_TILES; i += GROUP_THREADS / TILE) {
        const uint32_t tile = i + thread / TILE;
        const uint64_t slot = __shfl_sync(~0u, own_slot, tile);
        const uint32_t tile_in_page = (begin / SPIN_TILE_TOKENS + tile) & tile_mask;
        spin_copy_unit(target + tile * (SPIN_TILE_TOKENS * 128) + place,
                       source + slot * job.page_bytes + tile_in_page * (2 * TILE * 16),
                       begin + tile * SPIN_TILE_TOKENS + token < block.visible_max);
    }
}

template <uint32_t D>
static __device__ inline void copy_list(const struct attention_job &job,
                                        const struct chunk_block &block,
                                        const struct chunk_shared<D> &shared)
{
    const uint32_t count = (block.visible_max + CHUNK_TOKENS - 1) / CHUNK_TOKENS;
    uint32_t slot = load_slots(job, block, 0);
    uint32_t before = 0; /* the barrier of the piece before */
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t stage = i % CHUNK_STAGES;
        const uint32_t parity = (i / CHUNK_STAGES & 1) ^ 1;
        const uint32_t next_slot = load_slots(job, block, (i + 1) * CHUNK_TOKENS);
#pragma unroll
        for (uint32_t is_v = 0; is_v < 2; is_v++) {
            spin_barrier_wait(shared.empty(stage, is_v), parity);
            copy_tokens<D>(job, block, i * CHUNK_TOKENS, slot, is_v, shared.piece(stage, is_v));
            spin_commit_copies();
            if (before != 0) {
                spin_wait_copies<1>();
                spin_show_to_products();
                spin_barrier_arrive(before);
            }
            before = shared.full(stage, is_v);
        }
        slot = next_slot;
    }
    spin_wait_copies<0>();
    spin_show_to_products();
    spin_barrier_arrive(before);
}

/* --- the warps that multiply --- */

/* Two rows of a thread: r and r + 8 of its warp's sixteen. */
template <uint32_t D> struct chunk_sums {
    float m[2];
    float z[2];
    float o[D / 64][32];
};

template <uint32_t D> static __device__ inline void clear_sums(struct chunk_sums<D> *sums)
{
#pragma unroll
    for (uint32_t row = 0; row < 2; row++) {
        sums->m[row] = -CUDART_INF_F;
        sums->z[row] = 0;
    }
#pragma unroll
    for (uint32_t half = 0; half < D / 64; half++) {
#pragma unroll
        for (uint32_t i = 0; i < 32; i++) {
            sums->o[half][i] = 0;
        }
    }
}

/* The first of the calling thread's rows, in the block. */
static __device__ inline uint32_t thread_row()
{
    return threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
}

template <uint32_t D>
static __device__ inline void copy_queries(const struct attention_job &job,
                                           const struct chunk_block &block, uint32_t head,
                                           uint8_t *target)
{
    constexpr uint32_t UNITS = D / 8; /* of a row */
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < CHUNK_ROWS * UNITS; i += CONSUMER_THREADS) {
        const uint32_t row = i / UNITS;
        const uint32_t unit = i % UNITS;
        const uint32_t in_sequence = block.first_row + row;
        uint4 values = make_uint4(0, 0, 0, 0);
        if (in_sequence < block.rows) {
            const uint64_t token = block.token + in_sequence / job.group;
            const uint32_t q_head = head * job.group + in_sequence % job.group;
            values = *(const uint4 *)(job.q + token * job.q_stride + (uint64_t)q_head * D +
                                      unit * SPIN_WIDE);
        }
        *(uint4 *)(target + unit / 8 * HALF_BYTES + row * 128 + (unit % 8 ^ row % 8) * 16) = values;
    }
    spin_show_to_products();
}

/* s[64 rows][CHUNK_TOKENS] */
template <uint32_t D>
static __device__ inline void score_tokens(float (&s)[64], uint32_t q, uint32_t k)
{
    spin_begin_products();
#pragma unroll
    for (uint32_t i = 0; i < D / 16; i++) {
        const uint32_t offset = i / 4 * HALF_BYTES + i % 4 * 32;
        spin_group_multiply(s, spin_operand(q + offset), spin_operand(k + offset), i > 0);
    }
    spin_commit_products();
}

/* Scores of tokens that a row's query does not see become what scales to minus infinity. */
static __device__ inline void hide_tokens(float (&s)[64], float scale, uint32_t begin,
                                          const uint32_t (&visible)[2])
{
    const float hidden = scale < 0 ? CUDART_INF_F : -CUDART_INF_F;
#pragma unroll
    for (uint32_t i = 0; i < 64; i++) {
        const uint32_t token = begin + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
        s[i] = token < visible[i / 2 % 2] ? s[i] : hidden;
    }
}

/* p of the scores of one run, rounded; m and z of the thread's rows. */
template <uint32_t RUN>
static __device__ inline void soften_run(float (&s)[64], float scale, uint32_t (&p)[4][4],
                                         float (&m)[2], float (&z)[2])
{
#pragma unroll
    for (uint32_t row = 0; row < 2; row++) {
        float most = -CUDART_INF_F;
#pragma unroll
        for (uint32_t i = 0; i < 16; i++) {
            float &x = s[RUN * 32 + i / 2 * 4 + row * 2 + i % 2];
            x = __fmul_rn(x, scale);
            most = fmaxf(most, x);
        }
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
        const float base = base_of(most);
        float sums[2] = {0, 0};
#pragma unroll
        for (uint32_t i = 0; i < 8; i++) {
            const float *x = &s[RUN * 32 + i * 4 + row * 2];
            uint32_t word;
            asm("cvt.rn.bf16x2.f32 %0, %1, %2;"
                : "=r"(word)
                : "f"(power_of_2(__fsub_rn(x[1], base))), "f"(power_of_2(__fsub_rn(x[0], base))));
            sums[0] += __uint_as_float(word << 16);
            sums[1] += __uint_as_float(word & 0xffff0000u);
            p[i / 2][i % 2 * 2 + row] = word;
        }
        float sum = sums[0] + sums[1];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        m[row] = most;
        z[row] = sum;
    }
}

/* One step of a fold of 64 values of the rows; times one changes nothing. */
static __device__ inline void merge_values(float (&into)[32], const float (&next)[32],
                                           const float2 (&weights)[2], bool is_kept)
{
    if (is_kept) {
#pragma unroll
        for (uint32_t i = 0; i < 32; i++) {
            into[i] = __fmaf_rn(weights[i / 2 % 2].y, next[i], into[i]);
        }
    } else {
#pragma unroll
        for (uint32_t i = 0; i < 32; i++) {
            into[i] = merged(into[i], weights[i / 2 % 2], next[i]);
        }
    }
}

/* Multiplies V by the p of one run, and folds what that gives into the split. */
template <uint32_t D>
static __device__ inline void fold_run(struct chunk_sums<D> *split, const uint32_t (&p)[4][4],
                                       const float (&m)[2], const float (&z)[2], uint32_t v)
{
    float2 weights[2];
#pragma unroll
    for (uint32_t row = 0; row < 2; row++) {
        weights[row] = weights_of(&split->m[row], m[row]);
        split->z[row] = merged(split->z[row], weights[row], z[row]);
    }
    const bool is_kept = __all_sync(~0u, weights[0].x == 1 && weights[1].x == 1);
#pragma unroll
    for (uint32_t half = 0; half < D / 64; half++) {
        float o[32];
        spin_begin_products();
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            spin_group_multiply(o, p[i], spin_operand(v + half * HALF_BYTES + i * (16 * 128)),
                                i > 0);
        }
        spin_commit_products();
        spin_wait_products(o);
        merge_values(split->o[half], o, weights, is_kept);
    }
}

template <uint32_t D>
static __device__ inline void merge_chunk_split(struct chunk_sums<D> *list,
                                                const struct chunk_sums<D> &split)
{
    float2 weights[2];
#pragma unroll
    for (uint32_t row = 0; row < 2; row++) {
        weights[row] = weights_of(&list->m[row], split.m[row]);
        list->z[row] = merged(list->z[row], weights[row], split.z[row]);
    }
#pragma unroll
    for (uint32_t half = 0; half < D / 64; half++) {
        merge_values(list->o[half], split.o[half], weights, false);
    }
}

template <uint32_t D>
static __device__ inline void store_rows(const struct attention_job &job,
                                         const struct chunk_block &block, uint32_t head,
                                         const struct chunk_sums<D> &list)
{
#pragma unroll
    for (uint32_t row = 0; row < 2; row++) {
        const uint32_t in_sequence = block.first_row + thread_row() + row * 8;
        if (in_sequence < block.rows) {
            const uint64_t token = block.token + in_sequence / job.group;
            const uint32_t q_head = head * job.group + in_sequence % job.group;
            __nv_bfloat16 *target =
                job.out + token * job.out_stride + (uint64_t)q_head * D + threadIdx.x % 4 * 2;
#pragma unroll
            for (uint32_t i = 0; i < D / 8; i++) {
                const float *o = &list.o[i / 8][i % 8 * 4 + row * 2];
                *(uint32_t *)(target + i * 8) =
                    spin_pack_bf16(__fdiv_rn(o[0], list.z[row]), __fdiv_rn(o[1], list.z[row]));
            }
        }
    }
}

/* All of the warps that multiply. */
static __device__ inline void wait_consumers()
{
    asm volatile("bar.sync 1, %0;" ::"n"(CONSUMER_THREADS) : "memory");
}

template <uint32_t D>
static __device__ inline void attend_list(const struct attention_job &job,
                                          const struct chunk_block &block, uint32_t head,
                                          const struct chunk_shared<D> &shared)
{
    const uint32_t group = threadIdx.x / GROUP_THREADS;
    const uint32_t queries = shared.queries() + group * (HALF_BYTES / 2);
    const uint32_t count = (block.visible_max + CHUNK_TOKENS - 1) / CHUNK_TOKENS;
    const uint32_t visible_min = block.unseen + block.first_row / job.group + 1;
    uint32_t visible[2];
#pragma unroll
    for (uint32_t row = 0; row < 2; row++) {
        const uint32_t in_sequence = block.first_row + thread_row() + row * 8;
        visible[row] = block.unseen + min(in_sequence, block.rows - 1) / job.group + 1;
    }
    struct chunk_sums<D> list;
    struct chunk_sums<D> split;
    clear_sums(&list);
    clear_sums(&split);
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t stage = i % CHUNK_STAGES;
        const uint32_t parity = i / CHUNK_STAGES & 1;
        const uint32_t begin = i * CHUNK_TOKENS;
        float s[64];
        spin_barrier_wait(shared.full(stage, 0), parity);
        score_tokens<D>(s, queries, shared.piece(stage, 0));
        spin_wait_products(s);
        if (threadIdx.x % 32 == 0) {
            spin_barrier_arrive(shared.empty(stage, 0));
        }
        uint32_t p[CHUNK_RUNS][4][4];
        float m[CHUNK_RUNS][2];
        float z[CHUNK_RUNS][2];
        if (begin + CHUNK_TOKENS > visible_min) {
            hide_tokens(s, job.scale_log2, begin, visible);
        }
        soften_run<0>(s, job.scale_log2, p[0], m[0], z[0]);
        soften_run<1>(s, job.scale_log2, p[1], m[1], z[1]);
        spin_barrier_wait(shared.full(stage, 1), parity);
        fold_run<D>(&split, p[0], m[0], z[0], shared.piece(stage, 1));
        fold_run<D>(&split, p[1], m[1], z[1], shared.piece(stage, 1) + RUN_TOKENS * 128);
        if (threadIdx.x % 32 == 0) {
            spin_barrier_arrive(shared.empty(stage, 1));
        }
        if ((i + 1) % CHUNKS_PER_SPLIT == 0 || i + 1 == count) {
            merge_chunk_split(&list, split);
            clear_sums(&split);
        }
    }
    store_rows<D>(job, block, head, list);
}

template <uint32_t D>
static __global__ void __launch_bounds__(CHUNK_THREADS, 1)
    attend_chunk(const __grid_constant__ struct attention_job job)
{
    extern __shared__ __align__(1024) uint8_t chunk_memory[];
    struct chunk_block block;
    const uint32_t head = blockIdx.y;
    /* The last queries see most, and begin first. */
    if (!find_block(job, gridDim.x - 1 - blockIdx.x, head, &block)) {
        return;
    }
    const struct chunk_shared<D> shared = {
        spin_shared_address(chunk_memory)
    };
    if (threadIdx.x == 0) {
        for (uint32_t i = 0; i < 2 * CHUNK_STAGES; i++) {
            spin_barrier_init(shared.full(i / 2, i % 2), GROUP_THREADS);
            spin_barrier_init(shared.empty(i / 2, i % 2), CONSUMER_WARPS);
        }
    }
    __syncthreads();
    if (threadIdx.x >= CONSUMER_THREADS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        copy_list<D>(job, block, shared);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        copy_queries<D>(job, block, head, chunk_memory);
        wait_consumers();
        attend_list<D>(job, block, head, shared);
    }
}
