/* The fast attention: who does what, when.
 *
 * A task is either a tile of queries of one (sequence, kv head) against its whole list, or, for a
 * single query over a long list, the query heads of one kv head against one split; the latter leave
 * partials in the workspace:
 *
 *   take tasks until there are none -- barrier -- merge each query head's partials in list order
 *
 * Which of the two it is changes no bit: both are spin_attention_split and spin_partial_merge. */
#include "kernels/attention.h"
#include "kernels/attention_tile.h"

#include <stdatomic.h>
#include <string.h>

_Static_assert(sizeof(struct spin_attention_tile) <= SPIN_SCRATCH_BYTES,
               "fits the stream's scratch");

struct job {
    const struct spin_attention_args *args;
    struct spin_stream *stream;
    uint32_t group;       /* query heads per kv head */
    uint32_t tile_tokens; /* tokens whose queries make up a tile */
    uint32_t split_count_max;
    bool any_split;
    _Atomic uint64_t next_task;
};

/* Where a thread stands in the list of tasks: tickets only grow, so it only moves forward. */
struct cursor {
    uint32_t sequence;
    uint64_t first_task; /* of the sequence */
};

static uint32_t round_up_div(uint32_t a, uint32_t b)
{
    return (uint32_t)(((uint64_t)a + b - 1) / b);
}

static uint32_t split_count(uint32_t visible)
{
    return round_up_div(visible, SPIN_SPLIT_TOKENS);
}

static uint32_t span_tokens(const struct job *job, uint32_t sequence)
{
    return job->args->spans.first[sequence + 1] - job->args->spans.first[sequence];
}

static uint32_t sequence_splits(const struct job *job, uint32_t sequence)
{
    const uint32_t kv_heads = job->args->pages.layout.kv_heads;
    uint32_t visible = 0;
    for (uint32_t h = 0; h < kv_heads; h++) {
        visible = SPIN_MAX(visible, job->args->pages.visible[(uint64_t)sequence * kv_heads + h]);
    }
    SPIN_ASSERT_LE(visible, job->args->visible_max);
    return split_count(visible);
}

static bool is_cut_over_splits(const struct job *job, uint32_t sequence)
{
    return job->args->spans.count <= SPIN_ATTENTION_SPLIT_SEQUENCES_MAX &&
           span_tokens(job, sequence) == 1 && sequence_splits(job, sequence) > 1;
}

static uint64_t sequence_tasks(const struct job *job, uint32_t sequence)
{
    const uint32_t per_head = is_cut_over_splits(job, sequence)
                                  ? sequence_splits(job, sequence)
                                  : round_up_div(span_tokens(job, sequence), job->tile_tokens);
    return (uint64_t)per_head * job->args->pages.layout.kv_heads;
}

static float *partial_of(const struct job *job, uint32_t sequence, uint32_t q_head, uint32_t split)
{
    const uint64_t index =
        ((uint64_t)sequence * job->args->q_heads + q_head) * job->split_count_max + split;
    return (float *)job->args->workspace +
           index * (job->args->pages.layout.head_dim + SPIN_PARTIAL_O);
}

/* Tokens [begin, end) of the batch, all of one sequence, and the query heads of one kv head. */
struct queries {
    uint32_t sequence;
    uint32_t kv_head;
    uint32_t begin;
    uint32_t end;
};

static void load_queries(const struct job *job, const struct queries *queries,
                         struct spin_attention_tile *tile)
{
    const struct spin_attention_args *args = job->args;
    const uint32_t head_dim = args->pages.layout.head_dim;
    const uint64_t row =
        (uint64_t)queries->sequence * args->pages.layout.kv_heads + queries->kv_head;
    const uint32_t last = args->spans.first[queries->sequence + 1] - 1;
    tile->queries = 0;
    for (uint32_t m = queries->begin; m < queries->end; m++) {
        SPIN_ASSERT_LT(last - m, args->pages.visible[row]);
        for (uint32_t g = 0; g < job->group; g++) {
            const float *q = spin_matrix_row(&args->q, m) +
                             (uint64_t)(queries->kv_head * job->group + g) * head_dim;
            for (uint32_t d = 0; d < head_dim; d++) {
                tile->q[tile->queries][d] = q[d] * args->scale;
            }
            tile->visible[tile->queries] = args->pages.visible[row] - (last - m);
            tile->queries++;
        }
    }
}

static void store_output(const struct job *job, uint32_t m, uint32_t q_head, const float *merged)
{
    const uint32_t head_dim = job->args->pages.layout.head_dim;
    float *out = spin_matrix_row(&job->args->out, m) + (uint64_t)q_head * head_dim;
    const float inverse = 1.0F / merged[SPIN_PARTIAL_Z];
    for (uint32_t d = 0; d < head_dim; d++) {
        out[d] = merged[SPIN_PARTIAL_O + d] * inverse;
    }
}

static void run_tile(const struct job *job, const struct queries *queries,
                     struct spin_attention_tile *tile)
{
    const struct spin_page_lists *pages = &job->args->pages;
    const uint64_t row = (uint64_t)queries->sequence * pages->layout.kv_heads + queries->kv_head;
    const uint64_t split_tokens = SPIN_SPLIT_TOKENS;
    load_queries(job, queries, tile);
    for (uint32_t split = 0; spin_attention_split(tile, pages, row, split); split++) {
        for (uint32_t i = 0; i < tile->queries; i++) {
            if (tile->visible[i] > split * split_tokens) {
                spin_partial_merge(tile->merged[i], tile->partial[i], pages->layout.head_dim,
                                   split == 0);
            }
        }
    }
    for (uint32_t i = 0; i < tile->queries; i++) {
        store_output(job, queries->begin + i / job->group,
                     queries->kv_head * job->group + i % job->group, tile->merged[i]);
    }
}

static void run_split(const struct job *job, const struct queries *queries, uint32_t split,
                      struct spin_attention_tile *tile)
{
    const struct spin_page_lists *pages = &job->args->pages;
    const uint64_t row = (uint64_t)queries->sequence * pages->layout.kv_heads + queries->kv_head;
    load_queries(job, queries, tile);
    if (!spin_attention_split(tile, pages, row, split)) {
        return; /* another kv head of the sequence has a longer list */
    }
    for (uint32_t g = 0; g < job->group; g++) {
        float *partial =
            partial_of(job, queries->sequence, queries->kv_head * job->group + g, split);
        memcpy(partial, tile->partial[g],
               (pages->layout.head_dim + SPIN_PARTIAL_O) * sizeof *partial);
    }
}

/* `index` counts within the sequence. The last tokens see most: they go first. */
static void run_task(const struct job *job, uint32_t sequence, uint64_t index,
                     struct spin_attention_tile *tile)
{
    const uint32_t kv_heads = job->args->pages.layout.kv_heads;
    const uint32_t first = job->args->spans.first[sequence];
    const uint32_t count = span_tokens(job, sequence);
    const uint32_t place = (uint32_t)(index / kv_heads);
    struct queries queries = {sequence, (uint32_t)(index % kv_heads), first, first + 1};
    if (is_cut_over_splits(job, sequence)) {
        run_split(job, &queries, place, tile);
        return;
    }
    const uint32_t from_start = round_up_div(count, job->tile_tokens) - 1 - place;
    queries.begin = first + from_start * job->tile_tokens;
    queries.end = SPIN_MIN(queries.begin + job->tile_tokens, first + count);
    run_tile(job, &queries, tile);
}

static void run_tasks(struct job *job, struct spin_attention_tile *tile)
{
    struct cursor cursor = {0, 0};
    for (;;) {
        /* Relaxed: a ticket orders nothing, the stream's gates do. */
        const uint64_t task = atomic_fetch_add_explicit(&job->next_task, 1, memory_order_relaxed);
        while (cursor.sequence < job->args->spans.count &&
               task - cursor.first_task >= sequence_tasks(job, cursor.sequence)) {
            cursor.first_task += sequence_tasks(job, cursor.sequence);
            cursor.sequence++;
        }
        if (cursor.sequence == job->args->spans.count) {
            return;
        }
        run_task(job, cursor.sequence, task - cursor.first_task, tile);
    }
}

static void merge_query(const struct job *job, uint32_t sequence, uint32_t q_head,
                        struct spin_attention_tile *tile)
{
    const struct spin_page_lists *pages = &job->args->pages;
    const uint64_t row = (uint64_t)sequence * pages->layout.kv_heads + q_head / job->group;
    float *merged = tile->merged[0];
    const uint32_t splits = split_count(pages->visible[row]);
    for (uint32_t split = 0; split < splits; split++) {
        spin_partial_merge(merged, partial_of(job, sequence, q_head, split), pages->layout.head_dim,
                           split == 0);
    }
    store_output(job, job->args->spans.first[sequence], q_head, merged);
}

static void run(void *context, uint32_t thread, uint32_t threads)
{
    struct job *job = context;
    struct spin_attention_tile *tile = spin_stream_scratch(job->stream, thread);
    tile->wide = spin_stream_isa(job->stream) >= SPIN_ISA_AVX512_VNNI;
    run_tasks(job, tile);
    if (!job->any_split) {
        return;
    }
    spin_stream_barrier(job->stream);
    for (uint32_t s = 0; s < job->args->spans.count; s++) {
        if (!is_cut_over_splits(job, s)) {
            continue;
        }
        const struct spin_range heads = spin_cut(job->args->q_heads, 1, thread, threads);
        for (uint64_t h = heads.begin; h < heads.end; h++) {
            merge_query(job, s, (uint32_t)h, tile);
        }
    }
}

spin_status spin_attention_cpu(const struct spin_attention_args *args, struct spin_stream *stream)
{
    spin_attention_check(args);
    struct job job = {.args = args, .stream = stream};
    job.group = args->q_heads / args->pages.layout.kv_heads;
    SPIN_ASSERT_LE(job.group, SPIN_TILE_QUERIES);
    job.tile_tokens = SPIN_TILE_QUERIES / job.group;
    job.split_count_max = split_count(args->visible_max);
    for (uint32_t s = 0; s < args->spans.count; s++) {
        job.any_split |= is_cut_over_splits(&job, s);
    }
    SPIN_ASSERT(!job.any_split || args->workspace != NULL);
    spin_stream_parallel(stream, run, &job);
    return SPIN_OK;
}
