/* drift: choices of pages that drift: every row keeps a share of its choice from step to step.
 *
 * Why        Random weights choose at random, step after step: no step finds anything of the last
 *            one in HBM. Measurements of a decode step need choices with the locality of real
 *            text, and of a locality that is known.
 * Rule       A row's next choice keeps round(overlap * k) partitions of the last one. The others
 *            come from outside of it: a share `returns` of them from those that left in the last
 *            steps, recent ones more often, the rest from all candidates alike. So the overlap
 *            of neighbouring choices is exact, wherever there are candidates enough.
 * Ownership  Owns its tables.
 * Threading  One thread.
 * Units      Partitions, pages, rows; overlap and returns are shares of 1.
 * Errors     INVALID: a share out of range, too many partitions. NO_MEMORY. */
#pragma once

#include "kernels/kv_select.h"

SPIN_BEGIN_DECLS

struct spin_drift; /* private to drift.c */

struct spin_drift_config {
    uint32_t rows;
    uint32_t partitions_max; /* of a row */
    uint32_t chosen_max;     /* of a row's choice */
    double overlap;          /* 0 to 1 */
    double returns;          /* 0 to 1 */
    uint64_t seed;
};

SPIN_MUST_USE spin_status spin_drift_create(const struct spin_drift_config *config,
                                            struct spin_drift **out, struct spin_error *err);
void spin_drift_destroy(struct spin_drift *drift); /* NULL is allowed */

/* The next choice of every row: window.k of the partitions [sink_end, local_begin), or all where
 * there are no more. Windows never move back, k <= chosen_max, local_begin <= partitions_max. */
void spin_drift_step(struct spin_drift *drift, struct spin_kv_window window);

/* Whether partition `partition` is in the row's choice. */
bool spin_drift_chose(const struct spin_drift *drift, uint32_t row, uint32_t partition);

/* The list that a Select which chose this hands on: pages of [0, sink_end), of the choice, and
 * [local_begin, newest_page], ascending; `pages` of a partition. Returns how many. */
struct spin_drift_list {
    uint32_t pages; /* of a partition */
    uint32_t newest_page;
};
uint32_t spin_drift_write(const struct spin_drift *drift, uint32_t row,
                          const struct spin_drift_list *list, uint16_t *out);
/* Entries of the longest list with this window. */
uint32_t spin_drift_entries(struct spin_kv_window window, const struct spin_drift_list *list);

SPIN_END_DECLS
