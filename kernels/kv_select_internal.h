/* kv_select_internal: what the Selects share: limits, places in the workspace, the list that grows.
 *
 * Why        The window's rules are the same however candidates are scored.
 * Ownership  Borrows from the operation's arguments.
 * Threading  Inside an op: any of its compute threads.
 * Units      Partitions and pages; candidates count from the window's sink_end. */
#pragma once

#include "kernels/kernels_internal.h"
#include "kernels/kv_select.h"

SPIN_BEGIN_DECLS

/* Asserts the limits that kv_select.h states. */
void spin_kv_select_check(const struct spin_kv_select_args *args);

/* Candidates are scored this many at a time: the unit of work, and of the softmax's partial sums,
 * so that the sums are the same however many threads there are. */
#define SPIN_SELECT_SEGMENT 512u

/* The workspace is one piece per batch row, of this size. */
uint64_t spin_kv_select_row_bytes(const struct spin_kv_select_args *args);
/* Of any row; a multiple of 16, so that vectors may run over the end. */
uint64_t spin_kv_select_candidates_max(const struct spin_kv_view *view);

static inline uint32_t spin_window_candidates(const struct spin_kv_window *window)
{
    return window->local_begin - window->sink_end;
}

/* False: the choice is clear without. */
static inline bool spin_window_is_scored(const struct spin_kv_select_args *args, uint32_t sequence)
{
    const struct spin_kv_window *window = &args->windows[sequence];
    const uint32_t candidates = spin_window_candidates(window);
    return candidates > 0 && (args->always_score || (window->k > 0 && window->k < candidates));
}

/* Elements of a summary. */
static inline uint32_t spin_summary_width(const struct spin_kv_select_args *args)
{
    const uint32_t head_dim = args->view->layout.head_dim;
    return args->summary == SPIN_SUMMARY_BOUNDS ? 2 * head_dim : head_dim;
}

/* A row's list while it is written. */
struct spin_select_list {
    uint16_t *pages;
    uint32_t count;
    uint32_t stride;
    uint32_t partition_pages;
    uint32_t end;            /* pages of the sequence */
    uint32_t end_partitions; /* partitions that cover them */
};

struct spin_select_list spin_select_list_begin(const struct spin_kv_select_args *args,
                                               uint32_t sequence, uint64_t row);

/* The pages of partitions [begin, end); ascending calls make an ascending list. */
static inline void spin_select_list_add(struct spin_select_list *list, uint32_t begin, uint32_t end)
{
    const uint32_t page_end = SPIN_MIN(end * list->partition_pages, list->end);
    uint32_t page = begin * list->partition_pages;
    if (page >= page_end) {
        return;
    }
    SPIN_ASSERT_LE(list->count + (page_end - page), list->stride);
    for (; page < page_end; page++) {
        list->pages[list->count++] = (uint16_t)page;
    }
}

/* The list of a row that needs no scores. */
void spin_select_without_scores(const struct spin_kv_select_args *args, uint32_t sequence,
                                uint64_t row);

/* ---- the fast one's dot products ---- */

/* Elements of a summary to a step: sixteen words, each an even element below an odd one. */
#define SPIN_SELECT_STEP 32u
#define SPIN_SELECT_WIDTH_MAX (2 * SPIN_HEAD_DIM_MAX)
#define SPIN_SELECT_GROUP_MAX 64u
/* Heads that share the conversion of a summary: their sums stay in registers. */
#define SPIN_SELECT_PASS_HEADS 4u

/* The group's queries times scale, by steps: sixteen even elements, then the odd ones; zeros behind
 * the last. */
struct spin_select_query {
    float q[SPIN_SELECT_GROUP_MAX][SPIN_SELECT_WIDTH_MAX] __attribute__((aligned(64)));
};

/* Summaries that lie one after another, and where their scores go. A score is
 *   sum[j] = fma(odd element j, fma(even element j, sum[j])), step after step, in sixteen lanes
 *   (0+8)..(7+15) in eight, then spin_sum8. */
struct spin_select_run {
    const struct spin_select_query *query;
    const uint16_t *summaries; /* [count][width] */
    const uint16_t *later;     /* as many, to be asked for meanwhile; or NULL */
    float *logits;             /* of the first head; a head's are candidates_max apart */
    uint64_t candidates_max;
    uint32_t count;
    uint32_t width;
    uint32_t group;
};

/* Only behind spin_isa_detect. */
void spin_select_score_avx512(const struct spin_select_run *run);

static inline void spin_select_prefetch(const struct spin_select_run *run)
{
    const uint64_t elements = run->later == NULL ? 0 : (uint64_t)run->count * run->width;
    for (uint64_t i = 0; i < elements; i += 64 / sizeof *run->later) {
        __builtin_prefetch(run->later + i);
    }
}

SPIN_END_DECLS
