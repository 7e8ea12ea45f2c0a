/* table: runs on a terminal.
 *
 * Why        The end of a run is read by a person first. What makes the figures doubtful (a busy
 *            generator, an interruption, late sending, nothing measured) stands there, too.
 * Threading  One thread at a time.
 * Errors     None; whoever owns the stream looks at ferror. */
#pragma once

#include "bench/report/compare.h"
#include "bench/report/run_file.h"

#include <stdio.h>

SPIN_BEGIN_DECLS

/* Every byte that came from outside is printed as it is if it can be printed, else as '?'. */
void spin_bench_table_run(const struct spin_bench_summary *summary, FILE *out);
/* Runs of one label at one load as one row: medians of their figures. */
void spin_bench_table_runs(const struct spin_bench_runs *list, FILE *out);
void spin_bench_table_compare(const struct spin_bench_comparison *comparison, FILE *out);

SPIN_END_DECLS
