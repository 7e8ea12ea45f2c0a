/* page: runs, and what a comparison says of them, as one page of HTML.
 *
 * Why        A report is mailed, kept beside a result and opened years later: everything is inside,
 *            it fetches nothing (its own policy forbids it), and the data it draws is the file of
 *            docs/bench-schema.md word for word.
 * Ownership  Borrows the runs.
 * Threading  Any thread.
 * Errors     NO_MEMORY, LIMIT, IO. */
#pragma once

#include "bench/report/compare.h"

SPIN_BEGIN_DECLS

struct spin_bench_page {
    const char *title;
    const struct spin_bench_runs *runs;
    const struct spin_bench_comparison *comparison; /* NULL: none; else base's runs come first */
};

SPIN_MUST_USE spin_status spin_bench_page_write(const char *path,
                                                const struct spin_bench_page *page,
                                                struct spin_error *err);
/* A comparison alone, for programs. */
SPIN_MUST_USE spin_status spin_bench_comparison_write(
    const char *path, const struct spin_bench_comparison *comparison, struct spin_error *err);

SPIN_END_DECLS
