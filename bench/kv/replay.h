/* replay: a trace through the product's own tables: kv_resize once, then kv_resolve step by step.
 *
 * Why        What is measured is the operation that serves, not a model of it.
 * How        Documents are the sequences of one batch and decode in step. A row has exactly
 *            mandatory * (1 + buffering) slots, although slots come in slabs: the rest of its last
 *            slab holds ballast, pages in front of all others that every step selects, so that they
 *            are never evicted; page numbers and tokens are moved up by as many.
 * Checked    Every row and step: hits, misses and the fresh page of the operation's counters are
 *            the selection.
 * Threading  The stream's.
 * Units      Slots of a row, pages, steps.
 * Errors     NO_MEMORY; LIMIT: page numbers over 65,535 with the ballast; what an operation
 *            returns. */
#pragma once

#include "bench/kv/offline.h"
#include "kernels/ops.h"

SPIN_BEGIN_DECLS

#define SPIN_LEAF_SIZES 6u /* 1, 2, 4, .. 32 pages */

/* How residents lie in the page numbers, for leaves of 1 << i pages: sums over sampled rows. */
struct spin_leaf_share {
    uint64_t pages;     /* of the contexts */
    uint64_t residents; /* of them */
    uint64_t leaves[SPIN_LEAF_SIZES];
    uint64_t used[SPIN_LEAF_SIZES]; /* of leaves, those with a resident page */
};

struct spin_replay_config {
    const struct spin_trace *trace;
    const struct spin_ops *ops;
    struct spin_stream *stream;
    enum spin_kv_replacement replacement;
    uint32_t bucket_shift; /* bucketed */
    uint32_t buffering;    /* slots of a row beyond mandatory, in units of mandatory */
    uint32_t warm_steps;   /* not counted */
};

/* leaves: NULL, or added to, every 64th counted step (slot_lru: its tables say who is resident). */
SPIN_MUST_USE spin_status spin_replay_run(const struct spin_replay_config *config,
                                          struct spin_hit_tally *out,
                                          struct spin_leaf_share *leaves, struct spin_error *err);

SPIN_END_DECLS
