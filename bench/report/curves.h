/* curves: what a run looked like over time, out of its records.
 *
 * Why        Only tokens are counted while they come; when streams were open, waiting, finished or
 *            failed follows from the records, so that a driver has one thing less to do.
 * Threading  Any thread.
 * Errors     NO_MEMORY. */
#pragma once

#include "bench/report/summary.h"

SPIN_BEGIN_DECLS

/* Fills points, points_count, step_ms and rates.concurrency_max. */
SPIN_MUST_USE spin_status spin_bench_curves(struct spin_bench_summary *summary,
                                            const struct spin_bench_result *result,
                                            struct spin_error *err);

SPIN_END_DECLS
