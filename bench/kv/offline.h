/* offline: two replacement policies that no server can run, or would: the best and a blind one.
 *
 * Why        A hit ratio says little alone. Belady (evict what is used again last) is the most that
 *            any policy can have with as many slots; random says how much of it comes from having
 *            slots at all.
 * Rule       As in the product: a step's pages must be in slots together, so none of them is
 *            evicted for another of the same step. Under this rule Belady stays optimal (tested
 *            against an exhaustive search). Every row is on its own.
 * Threading  Any thread.
 * Units      Slots of a row, pages, steps.
 * Errors     NO_MEMORY. */
#pragma once

#include "bench/kv/trace.h"

SPIN_BEGIN_DECLS

/* Selections after the warm-up. A page that was never written before is not looked for anywhere, so
 * it counts in none of these. */
struct spin_hit_tally {
    uint64_t selected;
    uint64_t hits;
    uint64_t chosen; /* of selected, those that are not private */
    uint64_t chosen_hits;
    uint64_t evictions;
};

enum spin_offline_policy { SPIN_OFFLINE_BELADY, SPIN_OFFLINE_RANDOM };

struct spin_offline_config {
    const struct spin_trace *trace;
    enum spin_offline_policy policy;
    uint32_t buffering;  /* slots of a row beyond mandatory, in units of mandatory */
    uint32_t warm_steps; /* not counted */
};

/* Slots of each row of a document: mandatory * (1 + buffering), but no more than it has pages. */
uint32_t spin_replay_slots(const struct spin_trace *trace, uint32_t document, uint32_t buffering);
SPIN_MUST_USE spin_status spin_offline_run(const struct spin_offline_config *config,
                                           struct spin_hit_tally *out, struct spin_error *err);

SPIN_END_DECLS
