/* The fast Select. A task is one segment of a row's candidates; whoever finishes a row's last
 * segment chooses its pages:
 *
 *   scale q .. dot products .. maximum and sum per head     every segment, any thread
 *   log softmax .. maximum over the group .. k-th best .. list        once, from all segments
 *
 * A bound, sum_d max(q min, q max), is a dot product, too: min <= max, so it is that of
 * (min(q, 0), max(q, 0)) and the summary as it lies.
 *
 * The k-th best is found by halving the range of the scores' bits, counting what lies above the
 * middle: at most 32 passes over the row, eight scores to an instruction, most often a dozen. */
#include "kernels/kv_select_internal.h"
#include "kernels/simd_cpu.h"

#include <math.h>
#include <stdatomic.h>

#define INLINE static inline __attribute__((always_inline))
/* Blocks lie scattered, and what the processor guesses ends at each: summaries are asked for while
 * those so many blocks before are summed up. */
#define PREFETCH_BLOCKS 2u

_Static_assert(sizeof(struct spin_select_query) <= SPIN_SCRATCH_BYTES, "fits the stream's scratch");

struct job {
    const struct spin_kv_select_args *args;
    struct spin_stream *stream;
    uint32_t group;
    uint32_t width;
    uint64_t candidates_max;
    uint64_t row_bytes;
    bool wide; /* the 512-bit variant: the same bits, sooner */
    _Atomic uint64_t next_task;
};

/* Where a thread stands in the list of tasks: tickets only grow, so it only moves forward. */
struct cursor {
    uint32_t sequence;
    uint64_t first_task; /* of the sequence */
};

/* A batch row that is scored, and its piece of the workspace. */
struct row {
    uint64_t index;
    uint32_t sequence; /* of the batch */
    uint32_t head;
    uint32_t sink_end;
    uint32_t candidates;
    _Atomic uint32_t *segments_left;
    float *partial; /* [segments][group]: maximum, sum */
    float *logits;  /* [group][candidates_max] */
    int32_t *keys;  /* [candidates_max] */
};

static uint32_t segment_count(uint32_t candidates)
{
    return (candidates + SPIN_SELECT_SEGMENT - 1) / SPIN_SELECT_SEGMENT;
}

/* Of each of the sequence's rows; one without scores is a task as well. */
static uint32_t row_tasks(const struct job *job, uint32_t sequence)
{
    return spin_window_is_scored(job->args, sequence)
               ? segment_count(spin_window_candidates(&job->args->windows[sequence]))
               : 1;
}

static struct row row_of(const struct job *job, uint32_t sequence, uint32_t head)
{
    const struct spin_kv_window *window = &job->args->windows[sequence];
    const uint64_t index = (uint64_t)sequence * job->args->view->layout.kv_heads + head;
    uint8_t *memory = (uint8_t *)job->args->workspace + index * job->row_bytes;
    struct row row = {.index = index,
                      .sequence = sequence,
                      .head = head,
                      .sink_end = window->sink_end,
                      .candidates = spin_window_candidates(window)};
    row.segments_left = (_Atomic uint32_t *)(void *)memory;
    row.logits = (float *)(void *)(memory + 64);
    row.keys = (int32_t *)(void *)(row.logits + job->group * job->candidates_max);
    row.partial = (float *)(void *)(row.keys + job->candidates_max);
    SPIN_DASSERT((uint8_t *)(row.partial + (uint64_t)segment_count((uint32_t)job->candidates_max) *
                                               job->group * 2) <= memory + job->row_bytes);
    return row;
}

/* ---- scores ---- */

static void load_queries(const struct job *job, const struct row *row,
                         struct spin_select_query *query)
{
    const struct spin_kv_select_args *args = job->args;
    const uint32_t head_dim = args->view->layout.head_dim;
    const uint32_t step = SPIN_SELECT_STEP;
    const uint32_t padded = (job->width + step - 1) / step * step;
    for (uint32_t g = 0; g < job->group; g++) {
        const float *q = spin_matrix_row(&args->q, row->sequence) +
                         (uint64_t)(row->head * job->group + g) * head_dim;
        for (uint32_t i = 0; i < padded; i++) {
            const uint32_t place = i / step * step + i % 2 * (step / 2) + i % step / 2;
            const float value = i < job->width ? q[i % head_dim] * args->scale : 0;
            if (args->summary == SPIN_SUMMARY_MEAN) {
                query->q[g][place] = value;
            } else {
                query->q[g][place] = i < head_dim ? SPIN_MIN(value, 0) : SPIN_MAX(value, 0);
            }
        }
    }
}

/* Eight words, each an even element below an odd one; behind the last of a summary, zeros. */
INLINE __m256i load_words(const uint16_t *summary, uint32_t first, uint32_t width)
{
    const int *words = (const int *)(const void *)(summary + first);
    if (first + 16 <= width) {
        return _mm256_loadu_si256((const __m256i *)(const void *)words);
    }
    return first >= width ? _mm256_setzero_si256()
                          : _mm256_maskload_epi32(words, spin_mask8((width - first) / 2));
}

INLINE void score_heads(const struct spin_select_run *run, uint32_t at, uint32_t first,
                        const uint32_t heads)
{
    const uint16_t *summary = run->summaries + (uint64_t)at * run->width;
    __m256 sum[SPIN_SELECT_PASS_HEADS][2];
    for (uint32_t g = 0; g < heads; g++) {
        sum[g][0] = _mm256_setzero_ps();
        sum[g][1] = _mm256_setzero_ps();
    }
    for (uint64_t i = 0; i < run->width; i += SPIN_SELECT_STEP) {
        for (uint64_t half = 0; half < 2; half++) {
            const __m256i words = load_words(summary, (uint32_t)(i + 16 * half), run->width);
            const __m256 even = _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
            const __m256 odd = _mm256_castsi256_ps(
                _mm256_and_si256(words, _mm256_set1_epi32((int32_t)0xffff0000)));
            for (uint32_t g = 0; g < heads; g++) {
                const float *q = run->query->q[first + g] + i + 8 * half;
                sum[g][half] = _mm256_fmadd_ps(even, _mm256_load_ps(q), sum[g][half]);
                sum[g][half] = _mm256_fmadd_ps(odd, _mm256_load_ps(q + 16), sum[g][half]);
            }
        }
    }
    for (uint32_t g = 0; g < heads; g++) {
        run->logits[(first + g) * run->candidates_max + at] =
            spin_sum8(_mm256_add_ps(sum[g][0], sum[g][1]));
    }
}

INLINE void score_pass(const struct spin_select_run *run, uint32_t first, const uint32_t heads)
{
    for (uint32_t at = 0; at < run->count; at++) {
        score_heads(run, at, first, heads);
    }
}

static void score_run(const struct spin_select_run *run)
{
    uint32_t first = 0;
    spin_select_prefetch(run);
    for (; first + SPIN_SELECT_PASS_HEADS <= run->group; first += SPIN_SELECT_PASS_HEADS) {
        score_pass(run, first, SPIN_SELECT_PASS_HEADS);
    }
    switch (run->group - first) {
    case 3:
        score_pass(run, first, 3);
        break;
    case 2:
        score_pass(run, first, 2);
        break;
    case 1:
        score_pass(run, first, 1);
        break;
    default:
        break;
    }
}

/* Maximum and sum of exp(l - maximum), in eight lanes over the segment. Where every logit is minus
 * infinity, the differences are not numbers, and the sum is nothing. */
static void sum_segment(const float *logits, uint32_t count, float *partial)
{
    const __m256 lowest = _mm256_set1_ps(-INFINITY);
    __m256 max = lowest;
    for (uint32_t c = 0; c < count; c += 8) {
        const __m256 mask = _mm256_castsi256_ps(spin_mask8(SPIN_MIN(count - c, 8)));
        max = _mm256_max_ps(max, _mm256_blendv_ps(lowest, _mm256_loadu_ps(logits + c), mask));
    }
    const __m256 m = _mm256_set1_ps(spin_max8(max));
    partial[0] = _mm256_cvtss_f32(m);
    partial[1] = 0;
    if (partial[0] == -INFINITY) {
        return;
    }
    __m256 sum = _mm256_setzero_ps();
    for (uint32_t c = 0; c < count; c += 8) {
        const __m256 mask = _mm256_castsi256_ps(spin_mask8(SPIN_MIN(count - c, 8)));
        const __m256 p = spin_exp8(_mm256_sub_ps(_mm256_loadu_ps(logits + c), m));
        sum = _mm256_add_ps(sum, _mm256_and_ps(p, mask));
    }
    partial[1] = spin_sum8(sum);
}

/* Summaries of candidates [c, end), as far as one block holds them. */
static struct spin_select_run run_at(const struct job *job, const struct row *row, uint32_t c,
                                     uint32_t end)
{
    const struct spin_kv_view *view = job->args->view;
    const uint32_t sequence = job->args->batch.sequence[row->sequence];
    const uint32_t layer = job->args->batch.layer;
    const uint32_t partitions = SPIN_BLOCK_TOKENS / view->partition_tokens;
    const uint32_t partition = row->sink_end + c;
    const uint32_t later = partition + PREFETCH_BLOCKS * partitions;
    struct spin_select_run run = {.width = job->width,
                                  .group = job->group,
                                  .count = SPIN_MIN(partitions - partition % partitions, end - c),
                                  .logits = row->logits + c,
                                  .candidates_max = job->candidates_max};
    run.summaries = (const uint16_t *)(const void *)spin_kv_summary(view, sequence, layer,
                                                                    row->head, partition);
    if (later < row->sink_end + row->candidates) {
        run.later = (const uint16_t *)(const void *)spin_kv_summary(view, sequence, layer,
                                                                    row->head, later);
    }
    return run;
}

static void score_segment(const struct job *job, const struct row *row, uint32_t segment,
                          struct spin_select_query *query)
{
    const uint32_t begin = segment * SPIN_SELECT_SEGMENT;
    const uint32_t end = SPIN_MIN(begin + SPIN_SELECT_SEGMENT, row->candidates);
    load_queries(job, row, query);
    for (uint32_t c = begin; c < end;) {
        struct spin_select_run run = run_at(job, row, c, end);
        run.query = query;
        if (job->wide) {
            spin_select_score_avx512(&run);
        } else {
            score_run(&run);
        }
        c += run.count;
    }
    for (uint32_t g = 0; g < job->group; g++) {
        sum_segment(row->logits + g * job->candidates_max + begin, end - begin,
                    row->partial + ((uint64_t)segment * job->group + g) * 2);
    }
}

/* ---- the choice ---- */

/* log softmax_c(l) = (l - m) - log z, with m and z over all segments, in their order. */
struct norm {
    float m;
    float log_z;
};

static struct norm merge_segments(const struct job *job, const struct row *row, uint32_t g)
{
    const uint32_t segments = segment_count(row->candidates);
    struct norm norm = {-INFINITY, 0};
    for (uint64_t s = 0; s < segments; s++) {
        norm.m = SPIN_MAX(norm.m, row->partial[(s * job->group + g) * 2]);
    }
    if (norm.m == -INFINITY) {
        return (struct norm){0, 0}; /* the head tells no candidate from another */
    }
    double z = 0;
    for (uint64_t s = 0; s < segments; s++) {
        const float *partial = row->partial + (s * job->group + g) * 2;
        z += (double)partial[1] * exp((double)partial[0] - (double)norm.m);
    }
    norm.log_z = (float)log(z);
    return norm;
}

/* Smallest and largest key of a row. */
struct bounds {
    int32_t min;
    int32_t max;
};

static struct bounds bounds_of(__m256i min, __m256i max)
{
    int32_t low[8];
    int32_t high[8];
    _mm256_storeu_si256((__m256i *)(void *)low, min);
    _mm256_storeu_si256((__m256i *)(void *)high, max);
    struct bounds bounds = {low[0], high[0]};
    for (uint32_t i = 1; i < 8; i++) {
        bounds.min = SPIN_MIN(bounds.min, low[i]);
        bounds.max = SPIN_MAX(bounds.max, high[i]);
    }
    return bounds;
}

/* Keys are integers in the order of the scores: the bits of a float, those behind the sign turned
 * round in negative ones. Keys behind the last candidate are below all others. */
static struct bounds merge_heads(const struct job *job, const struct row *row)
{
    struct norm norm[SPIN_SELECT_GROUP_MAX];
    for (uint32_t g = 0; g < job->group; g++) {
        norm[g] = merge_segments(job, row, g);
    }
    __m256i min = _mm256_set1_epi32(INT32_MAX);
    __m256i max = _mm256_set1_epi32(INT32_MIN);
    __m256 nan = _mm256_setzero_ps();
    for (uint32_t c = 0; c < row->candidates; c += 8) {
        const __m256i mask = spin_mask8(SPIN_MIN(row->candidates - c, 8));
        __m256 score = _mm256_set1_ps(-INFINITY);
        for (uint32_t g = 0; g < job->group; g++) {
            const __m256 l = _mm256_maskload_ps(row->logits + g * job->candidates_max + c, mask);
            const __m256 above = _mm256_sub_ps(l, _mm256_set1_ps(norm[g].m));
            const __m256 log_p = _mm256_sub_ps(above, _mm256_set1_ps(norm[g].log_z));
            nan = _mm256_or_ps(nan, _mm256_cmp_ps(log_p, log_p, _CMP_UNORD_Q));
            score = _mm256_max_ps(score, log_p);
        }
        /* Adding zero makes one zero of both. */
        const __m256i bits = _mm256_castps_si256(_mm256_add_ps(score, _mm256_setzero_ps()));
        const __m256i turned =
            _mm256_and_si256(_mm256_srai_epi32(bits, 31), _mm256_set1_epi32(INT32_MAX));
        const __m256i key = _mm256_xor_si256(bits, turned);
        const __m256i low = _mm256_blendv_epi8(_mm256_set1_epi32(INT32_MIN), key, mask);
        const __m256i high = _mm256_blendv_epi8(_mm256_set1_epi32(INT32_MAX), key, mask);
        min = _mm256_min_epi32(min, high);
        max = _mm256_max_epi32(max, low);
        _mm256_store_si256((__m256i *)(void *)(row->keys + c), low);
    }
    /* Two vectors are counted at a time. */
    const uint32_t end = (row->candidates + 7) / 8 * 8;
    if (end % 16 != 0) {
        _mm256_store_si256((__m256i *)(void *)(row->keys + end), _mm256_set1_epi32(INT32_MIN));
    }
    SPIN_ASSERT_EQ(_mm256_movemask_ps(nan), 0); /* a score is not a number */
    return bounds_of(min, max);
}

static uint32_t count_above(const int32_t *keys, uint32_t count, int32_t bound)
{
    const __m256i limit = _mm256_set1_epi32(bound);
    __m256i above[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (uint64_t c = 0; c < count; c += 16) {
        for (uint64_t i = 0; i < 2; i++) {
            const __m256i key =
                _mm256_load_si256((const __m256i *)(const void *)(keys + c + 8 * i));
            above[i] = _mm256_sub_epi32(above[i], _mm256_cmpgt_epi32(key, limit));
        }
    }
    uint32_t lanes[8];
    _mm256_storeu_si256((__m256i *)(void *)lanes, _mm256_add_epi32(above[0], above[1]));
    uint32_t sum = 0;
    for (uint32_t i = 0; i < 8; i++) {
        sum += lanes[i];
    }
    return sum;
}

/* All keys above `key` are chosen, and the first `equal` of those equal to it. */
struct threshold {
    int32_t key;
    uint32_t equal;
};

/* 1 <= k <= count. */
static struct threshold kth_best(const int32_t *keys, uint32_t count, uint32_t k,
                                 struct bounds bounds)
{
    /* The k-th best lies in [min, max]; fewer than k lie above max. */
    uint32_t above = 0;
    while (bounds.min < bounds.max) {
        const int32_t middle = (int32_t)(((int64_t)bounds.min + bounds.max) >> 1);
        const uint32_t counted = count_above(keys, count, middle);
        if (counted == k) {
            return (struct threshold){middle, 0};
        }
        if (counted < k) {
            bounds.max = middle;
            above = counted;
        } else {
            bounds.min = middle + 1;
        }
    }
    return (struct threshold){bounds.max, k - above};
}

static void add_chosen(const struct row *row, struct threshold threshold,
                       struct spin_select_list *list)
{
    const __m256i key = _mm256_set1_epi32(threshold.key);
    for (uint32_t c = 0; c < row->candidates; c += 8) {
        const __m256i keys = _mm256_load_si256((const __m256i *)(const void *)(row->keys + c));
        const __m256i above = _mm256_cmpgt_epi32(keys, key);
        const __m256i equal = _mm256_cmpeq_epi32(keys, key);
        uint32_t chosen = (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(above));
        uint32_t ties = (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(equal));
        for (; ties != 0 && threshold.equal > 0; threshold.equal--) {
            chosen |= ties & -ties;
            ties &= ties - 1;
        }
        for (; chosen != 0; chosen &= chosen - 1) {
            const uint32_t partition = row->sink_end + c + (uint32_t)__builtin_ctz(chosen);
            spin_select_list_add(list, partition, partition + 1);
        }
    }
}

static void choose(const struct job *job, const struct row *row)
{
    const struct spin_kv_window *window = &job->args->windows[row->sequence];
    struct spin_select_list list = spin_select_list_begin(job->args, row->sequence, row->index);
    const struct bounds bounds = merge_heads(job, row);
    spin_select_list_add(&list, 0, window->sink_end);
    if (window->k > 0) {
        const uint32_t k = SPIN_MIN(window->k, row->candidates);
        add_chosen(row, kth_best(row->keys, row->candidates, k, bounds), &list);
    }
    spin_select_list_add(&list, window->local_begin, list.end_partitions);
    job->args->lists.page_count[row->index] = list.count;
}

/* ---- who does what ---- */

/* `index` counts within the sequence. */
static void run_task(const struct job *job, uint32_t sequence, uint64_t index,
                     struct spin_select_query *query)
{
    const uint32_t per_row = row_tasks(job, sequence);
    SPIN_ASSERT_GT(per_row, 0);
    const uint32_t head = (uint32_t)(index / per_row);
    if (!spin_window_is_scored(job->args, sequence)) {
        const uint64_t kv_heads = job->args->view->layout.kv_heads;
        spin_select_without_scores(job->args, sequence, sequence * kv_heads + head);
        return;
    }
    const struct row row = row_of(job, sequence, head);
    score_segment(job, &row, (uint32_t)(index % per_row), query);
    /* Acquire and release: the last one sees the scores of the others, who hand them on here. */
    if (atomic_fetch_sub_explicit(row.segments_left, 1, memory_order_acq_rel) == 1) {
        choose(job, &row);
    }
}

static void run(void *context, uint32_t thread, uint32_t threads)
{
    struct job *job = context;
    struct spin_select_query *query = spin_stream_scratch(job->stream, thread);
    const uint64_t kv_heads = job->args->view->layout.kv_heads;
    struct cursor cursor = {0, 0};
    (void)threads;
    for (;;) {
        /* Relaxed: a ticket orders nothing, the stream's gates do. */
        const uint64_t task = atomic_fetch_add_explicit(&job->next_task, 1, memory_order_relaxed);
        while (cursor.sequence < job->args->batch.count &&
               task - cursor.first_task >= row_tasks(job, cursor.sequence) * kv_heads) {
            cursor.first_task += row_tasks(job, cursor.sequence) * kv_heads;
            cursor.sequence++;
        }
        if (cursor.sequence == job->args->batch.count) {
            return;
        }
        run_task(job, cursor.sequence, task - cursor.first_task, query);
    }
}

spin_status spin_kv_select_cpu(const struct spin_kv_select_args *args, struct spin_stream *stream)
{
    spin_kv_select_check(args);
    struct job job = {.args = args, .stream = stream};
    job.wide = spin_stream_isa(stream) >= SPIN_ISA_AVX512_VNNI;
    uint64_t scored = 0;
    if (args->summary != SPIN_SUMMARY_NONE) {
        job.group = args->q_heads / args->view->layout.kv_heads;
        SPIN_ASSERT_LE(job.group, SPIN_SELECT_GROUP_MAX);
        job.width = spin_summary_width(args);
        job.candidates_max = spin_kv_select_candidates_max(args->view);
        job.row_bytes = spin_kv_select_row_bytes(args);
    }
    for (uint32_t s = 0; s < args->batch.count; s++) {
        if (!spin_window_is_scored(args, s)) {
            continue;
        }
        SPIN_ASSERT(args->workspace != NULL);
        scored += spin_window_candidates(&args->windows[s]);
        for (uint32_t h = 0; h < args->view->layout.kv_heads; h++) {
            atomic_init(row_of(&job, s, h).segments_left, row_tasks(&job, s));
        }
    }
    const uint64_t kv_heads = args->view->layout.kv_heads;
    spin_run_rows(stream, run, &job, (args->batch.count + scored * job.width) * kv_heads);
    return SPIN_OK;
}
