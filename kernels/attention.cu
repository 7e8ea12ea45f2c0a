/* attention on CUDA: a warp has a run of 64 list tokens, a block of eight warps a split of 512.
 *
 * Formula    A run gives m = max s, z = sum p, o = sum p v with s = log2(e) scale q.k and
 *            p = 2^(s - m) rounded to BF16, over its tokens. The runs of a split are folded in
 *            list order, and so are the splits of a list:
 *              M' = max(M, m);  o' = 2^(M - M') o + 2^(m - M') o_s;  z' alike
 *            What a run, a split and a list give follows from the list and the query alone. Only
 *            where splits meet differs: in a second kernel, when blocks share a list, else in the
 *            block that has all of it; both do the same operations. Sequences of several queries
 *            are attention_chunk.cuh's, where there may be more queries than sequences.
 * Layout     Tensor cores take 16 tokens x 16 values of K against eight query columns, and 16
 *            values x 16 tokens of V (transposed as they are read) against the columns' p. A column
 *            is one head of one query: the heads that share a kv head, of as many queries of a
 *            chunk as eight columns hold; more than eight heads take several passes over the list.
 *            Each warp copies K, then V, of 16 tokens at a time into a ring of its own; the 16-byte
 *            unit u of token t goes to place u ^ (t & 7), so that no two rows meet in a bank.
 * Limits     head_dim 64 or 128; rows of q and out start on multiples of 16 bytes; V of every token
 *            that a query of the sequence sees is finite. */
#include "kernels/attention_chunk.cuh"

#define RUNS (SPIN_SPLIT_TOKENS / RUN_TOKENS)
#define THREADS (32 * RUNS)
#define STEP_TOKENS 16u
#define STEPS (RUN_TOKENS / STEP_TOKENS)
#define RUN_TILES (RUN_TOKENS / SPIN_TILE_TOKENS)
#define COLUMNS 8u
/* Blocks share lists while all lists together may have no more splits than this, which bounds the
 * workspace. */
#define CUT_SPLITS_MAX 8192u
/* Blocks that find nothing to do are cheap, but not free. */
#define CUT_BLOCKS_MAX 65536u
/* As many blocks as this leave most of their multiprocessor to each: then warps copy further
 * ahead. */
#define DEEP_BLOCKS_MAX 132u
#define RINGS_BYTES_OF_TWO 98304u /* two blocks of such rings share a multiprocessor */
#define MERGE_AHEAD 32u           /* splits whose o a thread of the merge reads at once */

/* What a block computes: some heads of some queries over one list. */
struct attention_tile {
    uint32_t sequence;
    uint32_t token; /* of the first query */
    uint32_t heads;
    uint32_t columns; /* heads * queries; column c is head c % heads of query c / heads */
    uint32_t visible; /* to the first query; each after it sees one more */
    uint32_t visible_max;
    const uint32_t *slots;
    bool is_alone; /* the sequence has one query */
};

/* --- small parts --- */

static __device__ inline uint32_t splits_of(uint32_t tokens)
{
    return (tokens + SPIN_SPLIT_TOKENS - 1) / SPIN_SPLIT_TOKENS;
}

/* Reads that the compiler leaves where they are, so that several take the time of one. */
static __device__ inline uint32_t read_now(const uint32_t *source)
{
    uint32_t value;
    asm volatile("ld.global.u32 %0, [%1];" : "=r"(value) : "l"(source));
    return value;
}

static __device__ inline uint64_t read_now(const uint64_t *source)
{
    uint64_t value;
    asm volatile("ld.global.u64 %0, [%1];" : "=l"(value) : "l"(source));
    return value;
}

/* --- which queries a block has --- */

/* The sequence of `token`, or the last one that begins before it. */
static __device__ uint32_t sequence_of(const struct attention_job &job, uint32_t token)
{
    uint32_t low = 0;
    uint32_t high = job.sequences;
    while (high - low > 1) {
        const uint32_t middle = (low + high) / 2;
        if (job.first[middle] <= token) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The list of kv head `head` of the sequence that token `place` belongs to, or, where there are
 * chunks, of sequence `place`; false when it has none. In decode, token t is sequence t's: what
 * that row would be is read before it is known to be it. */
static __device__ bool find_query(const struct attention_job &job, uint32_t place, uint32_t head,
                                  struct attention_tile *tile)
{
    uint32_t sequence = min(place, job.sequences - 1);
    uint64_t row = (uint64_t)sequence * job.kv_heads + head;
    uint32_t begin = read_now(job.first + sequence);
    uint32_t end = read_now(job.first + sequence + 1);
    uint32_t visible = read_now(job.visible + row);
    uint64_t offset = read_now(job.row_offset + row);
    if (job.has_chunks && end - begin != 1) {
        return false;
    }
    const uint32_t token = job.has_chunks ? begin : place;
    if (token < begin || token >= end) {
        sequence = sequence_of(job, token);
        row = (uint64_t)sequence * job.kv_heads + head;
        begin = job.first[sequence];
        end = job.first[sequence + 1];
        visible = job.visible[row];
        offset = job.row_offset[row];
    }
    const uint32_t places_before_last = end - 1 - token;
    if (token >= end || (token - begin) % job.queries != 0) {
        return false; /* of no sequence, or not the first of its tile */
    }
    if (places_before_last >= visible) {
#ifdef SPIN_DEBUG
        __trap();
#endif
        return false;
    }
    tile->sequence = sequence;
    tile->token = token;
    tile->visible = visible - places_before_last;
    tile->columns = min(job.queries, end - token); /* queries, so far */
    tile->visible_max = tile->visible + tile->columns - 1;
    tile->slots = job.slots + offset;
    tile->is_alone = end - begin == 1;
    return true;
}

static __device__ bool find_tile(const struct attention_job &job, struct attention_tile *tile)
{
    if (!find_query(job, blockIdx.x / job.splits, blockIdx.y, tile)) {
        return false;
    }
    tile->heads = min(COLUMNS, job.group - blockIdx.z * COLUMNS);
    tile->columns *= tile->heads;
    return true;
}

/* The query head of column 0. */
static __device__ inline uint32_t first_head_of(const struct attention_job &job)
{
    return blockIdx.y * job.group + blockIdx.z * COLUMNS;
}

static __device__ inline uint32_t column_visible(const struct attention_tile &tile, uint32_t column)
{
    return column < tile.columns ? tile.visible + column / tile.heads : 0;
}

/* The columns' queries as the second operand of a multiplication, sixteen values at a time. */
template <uint32_t D>
static __device__ inline void load_queries(const struct attention_job &job,
                                           const struct attention_tile &tile,
                                           uint32_t (&q)[D / 16][2])
{
    const uint32_t column = threadIdx.x % 32 / 4;
    const uint32_t pair = threadIdx.x % 4 * 2;
    const uint64_t token = tile.token + column / tile.heads;
    const uint32_t head = first_head_of(job) + column % tile.heads;
    const __nv_bfloat16 *source = job.q + token * job.q_stride + (uint64_t)head * D + pair;
#pragma unroll
    for (uint32_t i = 0; i < D / 16; i++) {
        q[i][0] = 0;
        q[i][1] = 0;
        if (column < tile.columns) {
            q[i][0] = *(const uint32_t *)(source + i * 16);
            q[i][1] = *(const uint32_t *)(source + i * 16 + 8);
        }
    }
}

/* --- a run --- */

template <uint32_t D> struct attention_sizes {
    static constexpr uint32_t TOKEN = D * 2; /* bytes of K, or of V */
    static constexpr uint32_t HALF_TILE = SPIN_TILE_TOKENS * TOKEN;
    static constexpr uint32_t PIECE = STEP_TOKENS * TOKEN;
    /* Floats from one column of a run's o to the next: four more than needed, so that the columns
     * of a warp's lanes begin in different banks. */
    static constexpr uint32_t COLUMN_FLOATS = D + 4;
};

struct attention_run {
    uint32_t first_tile; /* of the list */
    uint32_t tokens;     /* that any query sees */
    uint32_t slot;       /* lane i: of tile i */
    uint32_t ring;       /* shared address */
};

/* Piece j of a run is K of step j, then come those of V. Copies it to `target`; what no query sees
 * becomes zero, because 0 times what may lie there need not be 0. */
template <uint32_t D>
static __device__ inline void copy_piece(const struct attention_job &job,
                                         const struct attention_run &run, uint32_t piece,
                                         uint32_t target)
{
    constexpr uint32_t UNITS = D / 8; /* of a token */
    constexpr uint32_t TOKEN = attention_sizes<D>::TOKEN;
    constexpr uint32_t HALF_TILE = attention_sizes<D>::HALF_TILE;
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t tile_mask = (1u << job.page_tiles_log2) - 1;
    const uint32_t part = (piece < STEPS ? 0 : HALF_TILE) + lane * 16;
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        const uint32_t tile = piece % STEPS * 2 + half;
        const uint64_t slot = __shfl_sync(~0u, run.slot, tile);
        const uint32_t tile_in_page = (run.first_tile + tile) & tile_mask;
        const uint8_t *source =
            job.pool + slot * job.page_bytes + tile_in_page * (2 * HALF_TILE) + part;
#pragma unroll
        for (uint32_t i = 0; i < HALF_TILE / 512; i++) {
            const uint32_t token = i * (32 / UNITS) + lane / UNITS;
            const uint32_t place = (lane % UNITS) ^ token;
            spin_copy_unit(target + half * HALF_TILE + token * TOKEN + place * 16,
                           source + (uint64_t)i * 512,
                           tile * SPIN_TILE_TOKENS + token < run.tokens);
        }
    }
}

/* s[16 tokens][8 columns] of one step. */
template <uint32_t D>
static __device__ inline void score_step(float (&s)[4], const uint32_t (&q)[D / 16][2],
                                         uint32_t piece)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t row = piece + (lane & 15) * (D * 2);
    s[0] = s[1] = s[2] = s[3] = 0;
#pragma unroll
    for (uint32_t i = 0; i < D / 16; i++) {
        uint32_t k[4];
        spin_load_matrices(k, row + (((2 * i + lane / 16) ^ (lane & 7)) * 16));
        spin_multiply_matrices(s, k, q[i]);
    }
}

/* o[D][8 columns] += V^T p of one step. */
template <uint32_t D>
static __device__ inline void weigh_step(float (&o)[D / 16][4], const uint32_t (&p)[2],
                                         uint32_t piece)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t row = piece + ((lane & 7) + lane / 16 * 8) * (D * 2);
#pragma unroll
    for (uint32_t i = 0; i < D / 16; i++) {
        uint32_t v[4];
        spin_load_transposed(v, row + (((2 * i + (lane / 8 & 1)) ^ (lane & 7)) * 16));
        spin_multiply_matrices(o[i], v, p);
    }
}

/* p of the run's scores, as the second operand of weigh_step; m and z of the lane's two columns.
 * s[step]: tokens lane / 4 and lane / 4 + 8, columns lane % 4 * 2 and the next. */
static __device__ inline void soften(const struct attention_job &job,
                                     const struct attention_tile &tile, uint32_t run_begin,
                                     float (&s)[STEPS][4], uint32_t (&p)[STEPS][2], float2 (&mz)[2])
{
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (uint32_t side = 0; side < 2; side++) {
        const uint32_t visible = column_visible(tile, lane % 4 * 2 + side);
        float m = -CUDART_INF_F;
#pragma unroll
        for (uint32_t i = 0; i < 2 * STEPS; i++) {
            float &x = s[i / 2][i % 2 * 2 + side];
            const uint32_t token = run_begin + i * 8 + lane / 4;
            x = token < visible ? __fmul_rn(x, job.scale_log2) : -CUDART_INF_F;
            m = fmaxf(m, x);
        }
#pragma unroll
        for (uint32_t lanes = 4; lanes < 32; lanes *= 2) {
            m = fmaxf(m, __shfl_xor_sync(~0u, m, lanes));
        }
        const float base = base_of(m);
        float z = 0;
#pragma unroll
        for (uint32_t i = 0; i < 2 * STEPS; i++) {
            float &x = s[i / 2][i % 2 * 2 + side];
            x = __bfloat162float(__float2bfloat16_rn(power_of_2(__fsub_rn(x, base))));
            z += x;
        }
#pragma unroll
        for (uint32_t lanes = 4; lanes < 32; lanes *= 2) {
            z += __shfl_xor_sync(~0u, z, lanes);
        }
        mz[side] = make_float2(m, z);
    }
#pragma unroll
    for (uint32_t i = 0; i < STEPS; i++) {
        p[i][0] = spin_transpose_matrix(spin_pack_bf16(s[i][0], s[i][1]));
        p[i][1] = spin_transpose_matrix(spin_pack_bf16(s[i][2], s[i][3]));
    }
}

template <uint32_t D>
static __device__ inline void put_run(float *target, float2 *target_mz, const float (&o)[D / 16][4],
                                      const float2 (&mz)[2])
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t column = lane % 4 * 2;
    constexpr uint32_t COLUMN = attention_sizes<D>::COLUMN_FLOATS;
    float *place = target + column * COLUMN + lane / 4;
#pragma unroll
    for (uint32_t i = 0; i < D / 16; i++) {
        place[i * 16] = o[i][0];
        place[i * 16 + COLUMN] = o[i][1];
        place[i * 16 + 8] = o[i][2];
        place[i * 16 + 8 + COLUMN] = o[i][3];
    }
    if (lane < 4) {
        target_mz[column] = mz[0];
        target_mz[column + 1] = mz[1];
    }
}

/* The calling warp's run of `split`: leaves its o at the start of the warp's ring. */
template <uint32_t D, uint32_t PIECES>
static __device__ inline void attend_run(const struct attention_job &job,
                                         const struct attention_tile &tile, uint32_t split,
                                         uint8_t *ring, float2 *target_mz)
{
    const uint32_t begin = split * SPIN_SPLIT_TOKENS + threadIdx.x / 32 * RUN_TOKENS;
    if (begin >= tile.visible_max) {
        return;
    }
    constexpr uint32_t PIECE = attention_sizes<D>::PIECE;
    const uint32_t lane = threadIdx.x % 32;
    struct attention_run run = {begin / SPIN_TILE_TOKENS, tile.visible_max - begin, 0,
                                spin_shared_address(ring)};
    if (lane < RUN_TILES && lane * SPIN_TILE_TOKENS < run.tokens) {
        run.slot = tile.slots[(run.first_tile + lane) >> job.page_tiles_log2];
    }
#pragma unroll
    for (uint32_t j = 0; j < PIECES - 1; j++) {
        copy_piece<D>(job, run, j, run.ring + j * PIECE);
        spin_commit_copies();
    }
    uint32_t q[D / 16][2];
    load_queries<D>(job, tile, q); /* while the first bytes are on their way */
    float s[STEPS][4];
    uint32_t p[STEPS][2];
    float2 mz[2];
    float o[D / 16][4] = {};
#pragma unroll
    for (uint32_t j = 0; j < 2 * STEPS; j++) {
        spin_wait_copies<PIECES - 2>();
        __syncwarp(); /* all lanes' copies are here, and the piece before this one was read */
        const uint32_t next = j + PIECES - 1;
        if (next < 2 * STEPS) {
            copy_piece<D>(job, run, next, run.ring + next % PIECES * PIECE);
        }
        spin_commit_copies(); /* of nothing at the end: so the wait above is always for piece j */
        const uint32_t piece = run.ring + j % PIECES * PIECE;
        if (j < STEPS) {
            score_step<D>(s[j], q, piece);
        } else {
            weigh_step<D>(o, p[j - STEPS], piece);
        }
        if (j == STEPS - 1) {
            soften(job, tile, begin, s, p, mz);
        }
    }
    __syncwarp();
    put_run<D>((float *)ring, target_mz, o, mz);
}

/* --- a split, and a list --- */

/* m, z and a lane's share of o of one column, over some tokens. */
template <uint32_t D> struct attention_partial {
    float m;
    float z;
    float o[D / 32];
};

template <uint32_t D>
static __device__ inline void load_share(float (&out)[D / 32], const float *source)
{
    if constexpr (D == 128) {
        const float4 four = *(const float4 *)source;
        out[0] = four.x;
        out[1] = four.y;
        out[2] = four.z;
        out[3] = four.w;
    } else {
        const float2 two = *(const float2 *)source;
        out[0] = two.x;
        out[1] = two.y;
    }
}

/* The first `runs` runs of a split in order, for the column that is the calling warp's. All are
 * read, at once; what lies in the place of those that the split does not have is not used. */
template <uint32_t D>
static __device__ inline void fold_runs(uint32_t runs, const float *o, uint32_t run_floats,
                                        const float2 (*mz)[COLUMNS],
                                        struct attention_partial<D> *out)
{
    const uint32_t column = threadIdx.x / 32;
    const float *share =
        o + column * attention_sizes<D>::COLUMN_FLOATS + threadIdx.x % 32 * (D / 32);
    float2 weights[RUNS];
    float z[RUNS];
    out->m = -CUDART_INF_F;
#pragma unroll
    for (uint32_t i = 0; i < RUNS; i++) {
        const float2 of_run = mz[i][column];
        weights[i] = weights_of(&out->m, i < runs ? of_run.x : -CUDART_INF_F);
        z[i] = of_run.y;
    }
    out->z = 0;
#pragma unroll
    for (uint32_t d = 0; d < D / 32; d++) {
        out->o[d] = 0;
    }
#pragma unroll
    for (uint32_t i = 0; i < RUNS; i++) {
        float of_run[D / 32];
        load_share<D>(of_run, share + i * run_floats);
        const bool is_there = i < runs;
        out->z = is_there ? merged(out->z, weights[i], z[i]) : out->z;
#pragma unroll
        for (uint32_t d = 0; d < D / 32; d++) {
            out->o[d] = is_there ? merged(out->o[d], weights[i], of_run[d]) : out->o[d];
        }
    }
}

template <uint32_t D>
static __device__ inline void merge_split(struct attention_partial<D> *into,
                                          const struct attention_partial<D> &next)
{
    const float2 weights = weights_of(&into->m, next.m);
    into->z = merged(into->z, weights, next.z);
#pragma unroll
    for (uint32_t d = 0; d < D / 32; d++) {
        into->o[d] = merged(into->o[d], weights, next.o[d]);
    }
}

template <uint32_t D>
static __device__ inline void store_partial(const struct attention_job &job,
                                            const struct attention_tile &tile,
                                            const struct attention_partial<D> &partial)
{
    const uint32_t split = blockIdx.x % job.splits;
    const uint32_t lane = threadIdx.x % 32;
    const uint64_t head = first_head_of(job) + threadIdx.x / 32;
    const uint64_t index = (tile.sequence * (uint64_t)job.q_heads + head) * job.splits + split;
    float *target = job.partial_o + index * D + lane * (D / 32);
    if constexpr (D == 128) {
        __stcg((float4 *)target,
               make_float4(partial.o[0], partial.o[1], partial.o[2], partial.o[3]));
    } else {
        __stcg((float2 *)target, make_float2(partial.o[0], partial.o[1]));
    }
    if (lane == 0) {
        job.partial_mz[index] = make_float2(partial.m, partial.z);
    }
}

template <uint32_t D>
static __device__ inline void store_output(const struct attention_job &job,
                                           const struct attention_tile &tile,
                                           const struct attention_partial<D> &list)
{
    const uint32_t column = threadIdx.x / 32;
    const uint64_t token = tile.token + column / tile.heads;
    const uint32_t head = first_head_of(job) + column % tile.heads;
    uint32_t words[D / 64];
#pragma unroll
    for (uint32_t i = 0; i < D / 64; i++) {
        words[i] =
            spin_pack_bf16(__fdiv_rn(list.o[2 * i], list.z), __fdiv_rn(list.o[2 * i + 1], list.z));
    }
    __nv_bfloat16 *target =
        job.out + token * job.out_stride + (uint64_t)head * D + threadIdx.x % 32 * (D / 32);
    if constexpr (D == 128) {
        __stcg((uint2 *)target, make_uint2(words[0], words[1]));
    } else {
        *(uint32_t *)target = words[0];
    }
}

/* Bytes of the rings of a block, of PIECES pieces a warp. */
template <uint32_t D, uint32_t PIECES>
constexpr uint32_t RINGS_BYTES = RUNS *PIECES *attention_sizes<D>::PIECE;

template <uint32_t D, uint32_t PIECES>
static __global__ void __launch_bounds__(THREADS,
                                         RINGS_BYTES<D, PIECES> <= RINGS_BYTES_OF_TWO ? 2 : 1)
    attend(const __grid_constant__ struct attention_job job)
{
    extern __shared__ __align__(128) uint8_t rings[];
    __shared__ float2 run_mz[RUNS][COLUMNS];
    constexpr uint32_t RING = RINGS_BYTES<D, PIECES> / RUNS;
    static_assert(COLUMNS * attention_sizes<D>::COLUMN_FLOATS * sizeof(float) <= RING,
                  "o of a run in its ring");
    static_assert(RUNS >= COLUMNS, "a warp for every column");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    const uint32_t warp = threadIdx.x / 32;
    uint32_t split = blockIdx.x % job.splits;
    struct attention_tile tile;
    if (!find_tile(job, &tile)) {
        return;
    }
    const bool is_cut = job.splits > 1 && tile.is_alone;
    if (split >= (is_cut ? splits_of(tile.visible_max) : 1)) {
        return;
    }
    struct attention_partial<D> list; /* of no token yet */
    list.m = -CUDART_INF_F;
    list.z = 0;
#pragma unroll
    for (uint32_t d = 0; d < D / 32; d++) {
        list.o[d] = 0;
    }
    do {
        attend_run<D, PIECES>(job, tile, split, rings + warp * RING, run_mz[warp]);
        __syncthreads();
        const uint32_t tokens = tile.visible_max - split * SPIN_SPLIT_TOKENS;
        const uint32_t runs = min(RUNS, (tokens + RUN_TOKENS - 1) / RUN_TOKENS);
        if (warp < tile.columns) {
            struct attention_partial<D> partial;
            fold_runs<D>(runs, (const float *)rings, RING / sizeof(float), run_mz, &partial);
            merge_split<D>(&list, partial);
        }
        __syncthreads(); /* the rings are free again */
        split++;
    } while (!is_cut && split < splits_of(tile.visible_max));
    if (warp < tile.columns) {
        if (is_cut) {
            store_partial<D>(job, tile, list);
        } else {
            store_output<D>(job, tile, list);
        }
    }
}

/* --- lists that blocks shared --- */

/* Weights of 32 splits, one a lane: of what was merged before the split, and of the split. *m is
 * the maximum before them, and then after them. */
static __device__ inline float2 split_weights(float split_m, float *m)
{
    const uint32_t lane = threadIdx.x % 32;
    float after = fmaxf(*m, split_m);
#pragma unroll
    for (uint32_t lanes = 1; lanes < 32; lanes *= 2) {
        const float other = __shfl_up_sync(~0u, after, lanes);
        after = lane >= lanes ? fmaxf(after, other) : after;
    }
    float before = __shfl_up_sync(~0u, after, 1);
    before = lane == 0 ? *m : before;
    *m = __shfl_sync(~0u, after, 31);
    const float base = base_of(after);
    return make_float2(power_of_2(__fsub_rn(before, base)), power_of_2(__fsub_rn(split_m, base)));
}

/* A block has a head of a query, a thread one value of it. */
template <uint32_t D>
static __global__ void __launch_bounds__(D) merge(const __grid_constant__ struct attention_job job)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t head = blockIdx.x;
    struct attention_tile tile;
    const bool is_mine = find_query(job, blockIdx.y, head / job.group, &tile) && tile.is_alone;
    /* All blocks wait, or operations after this one could begin before attend() is done. */
    asm volatile("griddepcontrol.wait;" ::: "memory");
    if (!is_mine) {
        return;
    }
    const uint32_t splits = splits_of(tile.visible_max);
    const uint64_t index = (tile.sequence * (uint64_t)job.q_heads + head) * job.splits;
    const float2 *mz = job.partial_mz + index;
    const float *o = job.partial_o + index * D + threadIdx.x;
    float m = -CUDART_INF_F;
    float z = 0;
    float out = 0;
    for (uint32_t split = 0; split < splits; split += MERGE_AHEAD) {
        const uint32_t count = min(splits - split, MERGE_AHEAD);
        const float2 own = lane < count ? mz[split + lane] : make_float2(-CUDART_INF_F, 0);
        float next[MERGE_AHEAD];
#pragma unroll
        for (uint32_t i = 0; i < MERGE_AHEAD; i++) {
            next[i] = i < count ? o[(uint64_t)(split + i) * D] : 0;
        }
        const float2 weights = split_weights(own.x, &m);
#pragma unroll
        for (uint32_t i = 0; i < MERGE_AHEAD; i++) {
            if (i < count) {
                const float2 both =
                    make_float2(__shfl_sync(~0u, weights.x, i), __shfl_sync(~0u, weights.y, i));
                z = merged(z, both, __shfl_sync(~0u, own.y, i));
                out = merged(out, both, next[i]);
            }
        }
    }
    job.out[tile.token * job.out_stride + (uint64_t)head * D + threadIdx.x] =
        __float2bfloat16_rn(__fdiv_rn(out, z));
}

/* --- on the host --- */

static uint64_t list_splits(const struct spin_attention_args *args)
{
    const uint64_t split_tokens = SPIN_SPLIT_TOKENS;
    return (args->visible_max + split_tokens - 1) / split_tokens;
}

/* One partial for every split of the lists that blocks share. */
extern "C" uint64_t spin_attention_workspace_bytes_cuda(const struct spin_attention_args *args)
{
    const uint64_t splits = SPIN_MIN(args->spans.count * list_splits(args), CUT_SPLITS_MAX);
    return splits * args->q_heads * (args->pages.layout.head_dim + 2) * sizeof(float);
}

static void check(const struct spin_attention_args *args)
{
    const struct spin_kv_layout *layout = &args->pages.layout;
    spin_matrix_check_cuda(&args->q, SPIN_DTYPE_BF16);
    spin_matrix_check_cuda(&args->out, SPIN_DTYPE_BF16);
    SPIN_ASSERT_EQ(layout->swizzle, SPIN_SWIZZLE_NONE);
    SPIN_ASSERT_EQ(layout->dtype, SPIN_KV_BF16);
    SPIN_ASSERT(layout->head_dim == 64 || layout->head_dim == 128); /* there are no others yet */
    SPIN_ASSERT(args->pages.page_tokens == 8 || args->pages.page_tokens == 32);
    SPIN_ASSERT_EQ(args->q.rows, args->out.rows);
    SPIN_ASSERT_EQ(args->q.cols, (uint64_t)args->q_heads * layout->head_dim);
    SPIN_ASSERT_EQ(args->out.cols, args->q.cols);
    SPIN_ASSERT_GT(layout->kv_heads, 0);
    SPIN_ASSERT_EQ(args->q_heads % layout->kv_heads, 0);
    SPIN_ASSERT(args->q.rows == 0 || spin_matrix_is_wide(&args->q));
    SPIN_ASSERT(args->q.rows == 0 || spin_matrix_is_wide(&args->out));
    SPIN_ASSERT(spin_is_aligned16(args->pages.pool));
}

/* Where single queries may be: at sequences, if there are chunks besides, else at tokens. */
static uint32_t places_of(const struct spin_attention_args *args)
{
    return SPIN_MIN((uint32_t)args->q.rows, args->spans.count);
}

static struct attention_job make_job(const struct spin_attention_args *args)
{
    const struct spin_page_lists *pages = &args->pages;
    const uint32_t head_dim = pages->layout.head_dim;
    const uint32_t group = args->q_heads / pages->layout.kv_heads;
    const uint64_t splits = list_splits(args);
    struct attention_job job = {};
    job.q = (const __nv_bfloat16 *)args->q.data;
    job.out = (__nv_bfloat16 *)args->out.data;
    job.q_stride = args->q.stride;
    job.out_stride = args->out.stride;
    job.first = args->spans.first;
    job.sequences = args->spans.count;
    job.pool = pages->pool;
    job.slots = pages->slots;
    job.row_offset = pages->row_offset;
    job.visible = pages->visible;
    job.page_bytes = (uint32_t)spin_page_bytes(&pages->layout, pages->page_tokens);
    job.page_tiles_log2 = pages->page_tokens == 8 ? 0 : 2;
    job.q_heads = args->q_heads;
    job.kv_heads = pages->layout.kv_heads;
    job.group = group;
    job.queries = SPIN_MAX(COLUMNS / group, 1u);
    job.has_chunks = args->q.rows > args->spans.count;
    const bool is_cut =
        splits * args->spans.count <= CUT_SPLITS_MAX && splits * places_of(args) <= CUT_BLOCKS_MAX;
    job.splits = is_cut ? SPIN_MAX((uint32_t)splits, 1u) : 1;
    job.scale_log2 = args->scale * 1.44269504F;
    if (job.splits > 1) {
        SPIN_ASSERT(args->workspace != NULL && spin_is_aligned16(args->workspace));
        job.partial_o = (float *)args->workspace;
        job.partial_mz = (float2 *)(job.partial_o +
                                    (uint64_t)job.sequences * job.q_heads * job.splits * head_dim);
    }
    return job;
}

template <uint32_t D, uint32_t PIECES>
static void launch_attend(const struct attention_job &job, dim3 grid, cudaStream_t stream)
{
    constexpr uint32_t BYTES = RINGS_BYTES<D, PIECES>;
    /* Fails only where the launch will. */
    (void)cudaFuncSetAttribute(attend<D, PIECES>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               BYTES);
    attend<D, PIECES><<<grid, THREADS, BYTES, stream>>>(job);
}

/* Its blocks start while those of attend() end, and wait for the last. */
template <uint32_t D>
static void launch_merge(const struct attention_job &job, uint32_t places, cudaStream_t stream)
{
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(job.q_heads, places);
    config.blockDim = dim3(D);
    config.stream = stream;
    config.attrs = &early;
    config.numAttrs = 1;
    (void)cudaLaunchKernelEx(&config, merge<D>, job); /* spin_cuda_launched sees its error */
}

template <uint32_t D>
static void launch_chunk(const struct attention_job &job, uint64_t rows, cudaStream_t stream)
{
    constexpr uint32_t BYTES = chunk_sizes<D>::ALL;
    const dim3 grid((uint32_t)(rows * job.group / CHUNK_ROWS) + job.sequences, job.kv_heads);
    (void)cudaFuncSetAttribute(attend_chunk<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, BYTES);
    attend_chunk<D><<<grid, CHUNK_THREADS, BYTES, stream>>>(job);
}

extern "C" spin_status spin_attention_cuda(const struct spin_attention_args *args,
                                           struct spin_stream *stream)
{
    check(args);
    if (args->q.rows == 0 || args->spans.count == 0) {
        return SPIN_OK;
    }
    const struct attention_job job = make_job(args);
    const uint32_t places = places_of(args);
    const uint32_t passes = (job.group + COLUMNS - 1) / COLUMNS; /* over a list */
    const dim3 grid(places * job.splits, job.kv_heads, passes);
    const bool is_deep = (uint64_t)grid.x * grid.y * grid.z <= DEEP_BLOCKS_MAX;
    cudaStream_t cuda = spin_stream_cuda(stream);
    if (job.has_chunks) {
        if (args->pages.layout.head_dim == 64) {
            launch_chunk<64>(job, args->q.rows, cuda);
        } else {
            launch_chunk<128>(job, args->q.rows, cuda);
        }
    }
    if (args->pages.layout.head_dim == 64) {
        launch_attend<64, 6>(job, grid, cuda);
    } else if (is_deep) {
        launch_attend<128, 7>(job, grid, cuda);
    } else {
        launch_attend<128, 3>(job, grid, cuda);
    }
    if (job.splits > 1) {
        if (args->pages.layout.head_dim == 64) {
            launch_merge<64>(job, places, cuda);
        } else {
            launch_merge<128>(job, places, cuda);
        }
    }
    return spin_cuda_launched("attention");
}
