/* draw on CUDA: a cluster of eight blocks for each row, which lies in their shared memory and is
 * read from outside once.
 *
 * Each block has a run of ids, each of its warps a run of those, so that what a warp, a block and
 * the cluster add up is in the order of ids; a candidate that goes becomes -inf where it lies.
 * Weights are whole numbers (kernels/draw_weight.h): sums are exact, whoever adds first, and so are
 * those of the histograms, which are made by atomics. Every block finds for itself what all of them
 * need: what it sends it writes to all eight, and histograms are read from all eight.
 *
 * A cut (top_k, top_p) is a descent over five digits of eight bits, the first of which is the
 * distance from the largest and the others the bits of the logit: at each level the candidates that
 * begin with the digits found so far are counted by the next one, and the digit is where the
 * running sum, from the largest on, reaches the target. Where a cut falls among equal logits the
 * lower ids stay. What is sent and counted has two places in turn, so that one barrier of the
 * cluster lies between writing and reading, and the next one before the place is written again. */
#include "kernels/draw.h"
#include "kernels/draw_weight.h"
#include "kernels/tensor_cuda.cuh"

#include <cooperative_groups.h>

namespace cg = cooperative_groups;

namespace
{

constexpr uint32_t RANKS = 8; /* blocks of a cluster */
constexpr uint32_t THREADS = 512;
constexpr uint32_t WARPS = THREADS / 32;
constexpr uint32_t UNIT = 4; /* values of a copy */
constexpr uint32_t KEY_DIGITS = 4;
constexpr uint32_t BATCH = 4;  /* values that a thread works at, side by side */
constexpr uint32_t NO_KEY = 0; /* smaller than that of every number */

struct job {
    const float *logits;
    const struct spin_draw_row *rows;
    struct spin_drawn *out;
    uint64_t stride;
    uint32_t logits_rows;
    uint32_t vocab;
    uint32_t chunk;   /* ids of a block */
    uint32_t segment; /* of them, those of a warp */
};

struct histogram {
    uint32_t count[SPIN_DRAW_DIGITS];
    uint32_t low[SPIN_DRAW_DIGITS]; /* sums of weights, in halves */
    uint32_t high[SPIN_DRAW_DIGITS];
};

/* Where a descent stands: candidates above come to `above`; at the end those with `key` are cut. */
struct descent {
    uint64_t target;
    uint64_t above;
    uint32_t first; /* digit */
    uint32_t key;   /* so far; lower digits are 0 */
};

/* What the blocks of a cluster write to and read from each other, and the warps of a block. */
struct shared {
    uint64_t sent[2][RANKS];
    struct histogram histograms[2];
    uint64_t of_warp[WARPS]; /* of the last sum or maximum */
    uint64_t scanned[WARPS];
    struct descent found;
};

/* A thread's view of its row. */
struct view {
    struct shared *shared;
    float *values; /* [count] of ids from `begin` on */
    uint32_t begin;
    uint32_t count;
    uint32_t first; /* of the thread's values, 32 apart, up to `last` */
    uint32_t last;
    uint32_t rank;
    uint32_t sends;
    uint32_t levels;
    float largest;
    double scale;
    float least; /* no value outside of these has the digit that is looked at, or any weight */
    float most;
};

__device__ inline bool is_finite(float value)
{
    return (__float_as_uint(value) & 0x7f800000u) != 0x7f800000u;
}

__device__ inline double log2_of(const struct view &view, float value)
{
    return spin_draw_log2(value, view.largest, view.scale);
}

/* What has a t of [low, high] lies within least to most, whatever is rounded on the way. */
__device__ inline void set_range(struct view *view, double low, double high)
{
    view->least = __double2float_rd((double)view->largest + low / view->scale);
    view->most = __double2float_ru((double)view->largest + high / view->scale);
}

__device__ inline void set_scale(struct view *view, uint32_t key, double scale)
{
    view->largest = spin_draw_key_value(key);
    view->scale = scale;
    set_range(view, SPIN_DRAW_LOG2_MIN - 0.01, 0.01);
}

__device__ inline bool is_in_range(const struct view &view, float value)
{
    return value >= view.least && value <= view.most;
}

/* The thread's values, BATCH at a time from i on, 32 apart; -inf where there is none. Batches with
 * none in range are left out. */
template <typename F> __device__ inline void for_batches(const struct view &view, F f)
{
    for (uint32_t i = view.first; i < view.last; i += 32 * BATCH) {
        float values[BATCH];
        bool any = false;
#pragma unroll
        for (uint32_t j = 0; j < BATCH; j++) {
            values[j] = i + 32 * j < view.last ? view.values[i + 32 * j] : -INFINITY;
            any = any || is_in_range(view, values[j]);
        }
        if (any) {
            f(i, values);
        }
    }
}

struct add {
    __device__ uint64_t operator()(uint64_t a, uint64_t b) const
    {
        return a + b;
    }
};

struct larger {
    __device__ uint64_t operator()(uint64_t a, uint64_t b) const
    {
        return max(a, b);
    }
};

template <typename OP> __device__ inline uint64_t of_lanes(uint64_t value, OP op)
{
#pragma unroll
    for (uint32_t lanes = 16; lanes > 0; lanes /= 2) {
        value = op(value, __shfl_xor_sync(~0u, value, lanes));
    }
    return value;
}

/* Of all threads of the cluster, to all of them; 0 is neutral. What each warp had is in of_warp,
 * what each block had in what sent() gives, until the next call. */
template <typename OP>
__device__ inline uint64_t of_cluster(struct view *view, uint64_t value, OP op)
{
    const cg::cluster_group cluster = cg::this_cluster();
    struct shared *shared = view->shared;
    const uint32_t lane = threadIdx.x % 32;
    uint64_t *place = shared->sent[++view->sends % 2];
    value = of_lanes(value, op);
    if (lane == 0) {
        shared->of_warp[threadIdx.x / 32] = value;
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        value = of_lanes(lane < WARPS ? shared->of_warp[lane] : 0, op);
        if (lane < RANKS) {
            cluster.map_shared_rank(place, lane)[view->rank] = value;
        }
    }
    cluster.sync();
    value = 0;
    for (uint32_t rank = 0; rank < RANKS; rank++) {
        value = op(value, place[rank]);
    }
    return value;
}

__device__ inline const uint64_t *sent(const struct view &view)
{
    return view.shared->sent[view.sends % 2];
}

/* What threads before this one have together; *all: all threads of the block. */
__device__ inline uint64_t scan(struct view *view, uint64_t value, uint64_t *all)
{
    const uint32_t lane = threadIdx.x % 32;
    uint64_t inclusive = value;
#pragma unroll
    for (uint32_t lanes = 1; lanes < 32; lanes *= 2) {
        const uint64_t other = __shfl_up_sync(~0u, inclusive, lanes);
        inclusive += lane >= lanes ? other : 0;
    }
    __syncthreads(); /* the last scan was read */
    if (lane == 31) {
        view->shared->scanned[threadIdx.x / 32] = inclusive;
    }
    __syncthreads();
    uint64_t before = 0;
    *all = 0;
    for (uint32_t warp = 0; warp < WARPS; warp++) {
        const uint64_t of_warp = view->shared->scanned[warp];
        before += warp < threadIdx.x / 32 ? of_warp : 0;
        *all += of_warp;
    }
    return before + inclusive - value;
}

/* --- The row */

__device__ inline struct view view_of(const struct job &job, struct shared *shared, float *values)
{
    struct view view = {};
    view.shared = shared;
    view.values = values;
    view.rank = cg::this_cluster().block_rank();
    view.begin = view.rank * job.chunk;
    view.count = min(job.chunk, job.vocab - min(job.vocab, view.begin));
    const uint32_t begin = threadIdx.x / 32 * job.segment;
    view.first = begin + threadIdx.x % 32;
    view.last = min(begin + job.segment, view.count);
    return view;
}

__device__ inline void load(const struct job &job, const struct view &view, uint32_t logits_row)
{
#ifdef SPIN_DEBUG
    if (logits_row >= job.logits_rows) {
        __trap();
    }
#endif
    const float *source = job.logits + logits_row * job.stride + view.begin;
    const uint32_t units = view.count / UNIT;
    for (uint32_t i = threadIdx.x; i < units; i += THREADS) {
        spin_copy_unit(spin_shared_address(view.values + i * UNIT), source + i * UNIT, true);
    }
    spin_commit_copies();
    const uint32_t rest = units * UNIT + threadIdx.x;
    if (rest < view.count) {
        view.values[rest] = source[rest];
    }
    cg::this_cluster().sync(); /* all blocks have begun: their memory may be written */
    spin_wait_copies<0>();
    __syncthreads();
}

__device__ inline void mask(const struct spin_draw_row &row, const struct view &view)
{
    if (threadIdx.x < row.masked_count) {
        const uint32_t at = (uint32_t)row.masked[threadIdx.x] - view.begin;
        if (at < view.count) {
            (void)atomicExch(&view.values[at], -INFINITY); /* an id may come twice */
        }
    }
    __syncthreads();
}

/* Key and, in its complement, the lowest id of the largest; 0 when there is none. What is not
 * finite is no candidate from here on, or with `all` NaN and +inf have the largest key of all. */
__device__ inline uint64_t find_largest(struct view *view, bool all)
{
    float best = -INFINITY;
    uint32_t at = 0;
    bool is_broken = false;
#pragma unroll 4
    for (uint32_t i = view->first; i < view->last; i += 32) {
        const float value = view->values[i];
        if (!is_finite(value)) {
            is_broken = is_broken || !(value < 0);
            if (!all) {
                view->values[i] = -INFINITY;
            }
        } else if (value > best) {
            best = value;
            at = i;
        }
    }
    const uint32_t key = all && is_broken    ? UINT32_MAX
                         : best == -INFINITY ? NO_KEY
                                             : spin_draw_key(best);
    const uint64_t found = (uint64_t)key << 32 | ~(view->begin + at);
    return of_cluster(view, key == NO_KEY ? 0 : found, larger());
}

/* Of the weights that are at least `least`; the others are no candidates from here on, where they
 * have a weight at all. */
__device__ inline uint64_t sum_weights(struct view *view, uint64_t least)
{
    uint64_t sum = 0;
    for_batches(*view, [&](uint32_t i, const float(&values)[BATCH]) {
        uint64_t weights[BATCH];
#pragma unroll
        for (uint32_t j = 0; j < BATCH; j++) {
            weights[j] = spin_draw_weight(log2_of(*view, values[j]));
        }
#pragma unroll
        for (uint32_t j = 0; j < BATCH; j++) {
            if (weights[j] >= least) {
                sum += weights[j];
            } else if (weights[j] > 0) {
                view->values[i + 32 * j] = -INFINITY;
            }
        }
    });
    return of_cluster(view, sum, add());
}

/* --- Cuts */

__device__ inline void add_one(struct histogram *histogram, uint32_t digit, uint64_t weight)
{
    atomicAdd(&histogram->count[digit], 1u);
    if (weight > 0) {
        const uint32_t low = (uint32_t)weight;
        const uint32_t before = atomicAdd(&histogram->low[digit], low);
        atomicAdd(&histogram->high[digit], (uint32_t)(weight >> 32) + (before > ~low));
    }
}

/* Counts what begins as found so far: level 0 by the distance, others by a digit of the key. */
__device__ inline void count_digits(const struct view &view, const struct descent &descent,
                                    uint32_t level, bool by_count)
{
    struct histogram *histogram = &view.shared->histograms[view.levels % 2];
    const uint32_t shift = 8 * (KEY_DIGITS - level);
    for_batches(view, [&](uint32_t i, const float(&values)[BATCH]) {
        (void)i;
        double t[BATCH];
        uint64_t weights[BATCH];
#pragma unroll
        for (uint32_t j = 0; j < BATCH; j++) {
            t[j] = log2_of(view, values[j]);
            weights[j] = by_count ? 0 : spin_draw_weight(t[j]);
        }
#pragma unroll
        for (uint32_t j = 0; j < BATCH; j++) {
            const uint32_t key = spin_draw_key(values[j]);
            const uint32_t first = spin_draw_digit(t[j]);
            const bool begins_so = level <= 1 || (key ^ descent.key) >> (shift + 8) == 0;
            if (t[j] > SPIN_DRAW_LOG2_MIN && begins_so && (level == 0 || first == descent.first)) {
                add_one(histogram, level == 0 ? first : key >> shift & 255, weights[j]);
            }
        }
    });
}

/* The digit of all blocks' histograms where the running sum, from the largest on, reaches the
 * target, which is no more than the sum of all. */
__device__ inline void find_digit(struct view *view, struct descent *descent, uint32_t level,
                                  bool by_count)
{
    const cg::cluster_group cluster = cg::this_cluster();
    struct histogram *histogram = &view->shared->histograms[view->levels % 2];
    const uint32_t digit = SPIN_DRAW_DIGITS - 1 - threadIdx.x % SPIN_DRAW_DIGITS;
    uint64_t sum = 0;
    for (uint32_t rank = 0; rank < RANKS && threadIdx.x < SPIN_DRAW_DIGITS; rank++) {
        const struct histogram *theirs = cluster.map_shared_rank(histogram, rank);
        sum += by_count ? theirs->count[digit]
                        : ((uint64_t)theirs->high[digit] << 32) + theirs->low[digit];
    }
    uint64_t all = 0;
    const uint64_t above = descent->above + scan(view, sum, &all);
    if (level == 0) {
        descent->target = min(descent->target, all);
    }
    if (above < descent->target && descent->target <= above + sum) {
        const uint32_t shift = 8 * (KEY_DIGITS - level);
        struct descent *found = &view->shared->found;
        *found = *descent;
        found->above = above;
        found->first = level == 0 ? digit : descent->first;
        found->key = level == 0 ? 0 : descent->key | digit << shift;
    }
    __syncthreads();
    *descent = view->shared->found;
}

/* Of this block's candidates with the key, the first `stay` stay. By one warp, in order. */
__device__ inline void drop_ties(const struct view &view, uint32_t key, uint32_t stay)
{
    uint32_t seen = 0;
    for (uint32_t base = 0; base < view.count; base += 32) {
        const uint32_t i = base + threadIdx.x;
        const bool is_tie = i < view.count && spin_draw_key(view.values[i]) == key;
        const uint32_t ties = __ballot_sync(~0u, is_tie);
        const uint32_t before = seen + __popc(ties & ((1u << threadIdx.x) - 1));
        if (is_tie && before >= stay) {
            view.values[i] = -INFINITY;
        }
        seen += __popc(ties);
    }
}

/* `ties` of the cluster's candidates with the key of the descent stay, of lower ids, and all that
 * are larger. */
__device__ inline void drop_below(const struct view &view, const struct descent &descent,
                                  uint64_t ties)
{
    const cg::cluster_group cluster = cg::this_cluster();
    struct histogram *histogram = &view.shared->histograms[view.levels % 2];
    const uint32_t digit = descent.key & 255;
    uint64_t lower = 0;
    for (uint32_t rank = 0; rank < view.rank; rank++) {
        lower += cluster.map_shared_rank(histogram, rank)->count[digit];
    }
    const uint32_t here = histogram->count[digit];
    const uint32_t stay = (uint32_t)min((uint64_t)here, ties - min(ties, lower));
#pragma unroll 4
    for (uint32_t i = view.first; i < view.last; i += 32) {
        const uint32_t key = spin_draw_key(view.values[i]);
        if (key < descent.key || (key == descent.key && stay == 0)) {
            view.values[i] = -INFINITY;
        }
    }
    if (stay > 0 && stay < here) {
        __syncthreads();
        if (threadIdx.x < 32) {
            drop_ties(view, descent.key, stay);
        }
        __syncthreads();
    }
}

/* Keeps the shortest run of candidates, largest first, whose count or weight reaches the target. */
__device__ inline void cut(struct view *view, uint64_t target, bool by_count)
{
    struct descent descent = {target, 0, 0, 0};
    for (uint32_t level = 0; level <= KEY_DIGITS; level++) {
        view->levels++;
        uint32_t *words = (uint32_t *)&view->shared->histograms[view->levels % 2];
        for (uint32_t i = threadIdx.x; i < sizeof(struct histogram) / sizeof *words; i += THREADS) {
            words[i] = 0;
        }
        __syncthreads();
        count_digits(*view, descent, level, by_count);
        cg::this_cluster().sync();
        find_digit(view, &descent, level, by_count);
        if (level == 0) { /* a little more than the quarter: its ends are rounded */
            const double quarters = (double)descent.first - (SPIN_DRAW_DIGITS - 1);
            set_range(view, (quarters - 0.51) / 4, (quarters + 0.51) / 4);
        }
    }
    set_range(view, SPIN_DRAW_LOG2_MIN - 0.01, 0.01);
    const uint64_t rest = descent.target - descent.above;
    const float value = spin_draw_key_value(descent.key);
    const uint64_t each = by_count ? 1 : spin_draw_weight(log2_of(*view, value));
    drop_below(*view, descent, (rest + each - 1) / each);
}

/* --- The token */

__device__ inline void put(struct spin_drawn *out, const struct view &view, uint32_t at,
                           double log_sum)
{
    *out = {(int32_t)(view.begin + at), view.values[at], log_sum};
}

/* Where the running sum passes; of_warp and sent() are those of the sum of all. */
__device__ inline void pick(const struct job &job, struct view *view, uint64_t passed,
                            struct spin_drawn *out, double log_sum)
{
    const uint64_t *of_block = sent(*view);
    for (uint32_t rank = 0; rank < view->rank; rank++) {
        if (passed < of_block[rank]) {
            return; /* an earlier block's */
        }
        passed -= of_block[rank];
    }
    if (passed >= of_block[view->rank]) {
        return;
    }
    uint32_t warp = 0;
    while (passed >= view->shared->of_warp[warp]) {
        passed -= view->shared->of_warp[warp++];
    }
    const uint32_t begin = warp * job.segment;
    const uint32_t end = min(begin + job.segment, view->count);
    uint64_t before = 0;
    for (uint32_t base = begin; base < end; base += THREADS) {
        const uint32_t i = base + threadIdx.x;
        const uint64_t weight = i < end ? spin_draw_weight(log2_of(*view, view->values[i])) : 0;
        uint64_t all = 0;
        const uint64_t sum = before + scan(view, weight, &all);
        if (sum <= passed && passed < sum + weight) {
            put(out, *view, i, log_sum);
        }
        before += all;
    }
}

__device__ inline void draw_one(const struct job &job, struct view *view,
                                const struct spin_draw_row &row, struct spin_drawn *out,
                                double log_sum)
{
    const uint64_t best = find_largest(view, false);
    if (best == 0) {
        if (view->rank == 0 && threadIdx.x == 0) {
            *out = {-1, NAN, log_sum};
        }
        return;
    }
    if (!(row.temperature > 0)) {
        const uint32_t at = ~(uint32_t)best - view->begin;
        if (at < view->count && threadIdx.x == 0) {
            put(out, *view, at, log_sum);
        }
        return;
    }
    set_scale(view, (uint32_t)(best >> 32), SPIN_DRAW_LOG2_E / (double)row.temperature);
    if (row.top_k != 0 && row.top_k < job.vocab) {
        cut(view, row.top_k, true);
    }
    if (row.top_p < 1) {
        cut(view, spin_draw_share(row.top_p, sum_weights(view, 1)), false);
    }
    const uint64_t total = sum_weights(view, spin_draw_share(row.min_p, SPIN_DRAW_ONE));
    pick(job, view, spin_draw_passed(row.u, total), out, log_sum);
}

/* NaN where a logit is NaN or +inf, or all are -inf. */
__device__ inline double sum_row(struct view *view)
{
    const uint32_t key = (uint32_t)(find_largest(view, true) >> 32);
    if (key == NO_KEY || key == UINT32_MAX) {
        return NAN;
    }
    set_scale(view, key, SPIN_DRAW_LOG2_E);
    const uint64_t sum = sum_weights(view, 0);
    return (double)view->largest + log((double)sum / (double)SPIN_DRAW_ONE);
}

__global__ void __cluster_dims__(RANKS, 1, 1) __launch_bounds__(THREADS, 2)
    draw(const __grid_constant__ struct job job)
{
    extern __shared__ float4 units[];
    __shared__ struct shared shared;
    const uint32_t number = blockIdx.x / RANKS;
    const struct spin_draw_row &row = job.rows[number];
    struct view view = view_of(job, &shared, (float *)units);
    load(job, view, row.logits_row);
    const double log_sum = row.log_sum != 0 ? sum_row(&view) : (double)NAN;
    if (row.masked_count > 0) {
        mask(row, view);
    }
    draw_one(job, &view, row, &job.out[number], log_sum);
}

uint32_t round_up(uint32_t value, uint32_t unit)
{
    return (value + unit - 1) / unit * unit;
}

void check(const struct spin_draw_args *args)
{
    const struct spin_matrix *logits = &args->logits;
    SPIN_ASSERT_EQ(logits->dtype, SPIN_DTYPE_F32);
    SPIN_ASSERT_GE(logits->cols, 1);
    SPIN_ASSERT_LE(logits->cols, SPIN_DRAW_VOCAB_MAX);
    SPIN_ASSERT_GE(logits->stride, logits->cols);
    SPIN_ASSERT_EQ(logits->stride % UNIT, 0);
    SPIN_ASSERT_EQ((uintptr_t)logits->data % 16, 0);
    SPIN_ASSERT_LE(args->count, INT32_MAX / RANKS);
}

} // namespace

extern "C" spin_status spin_draw_cuda(const struct spin_draw_args *args, struct spin_stream *stream)
{
    check(args);
    if (args->count == 0) {
        return SPIN_OK;
    }
    const struct spin_matrix *logits = &args->logits;
    const uint32_t chunk = round_up((logits->cols + RANKS - 1) / RANKS, UNIT);
    const struct job job = {(const float *)logits->data,
                            args->rows,
                            args->out,
                            logits->stride,
                            logits->rows,
                            logits->cols,
                            chunk,
                            round_up((chunk + WARPS - 1) / WARPS, 32)};
    const uint32_t bytes = chunk * (uint32_t)sizeof(float);
    (void)cudaFuncSetAttribute(draw, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    draw<<<args->count * RANKS, THREADS, bytes, spin_stream_cuda(stream)>>>(job);
    return spin_cuda_launched("draw");
}
