/* compare: two sets of runs, figure by figure.
 *
 * Why        One run against one run says how two minutes went. Repeated runs say how far apart
 *            equal runs lie, and with it which differences are more than that.
 * Method     For each figure: geometric means of both sides, their ratio, and an interval of the
 *            ratio on logarithms (bench/report/stats.h). Runs of one seed are the same requests:
 *            where each side has the same seeds, each once, the interval is of the ratios seed by
 *            seed, and what one seed asks more than another is no noise. Else it is Welch's. With
 *            one run on a side there is a ratio and no interval. A difference is called one only if
 *            the interval leaves out 1.
 *            Each interval stands alone: of twenty at 95 %, one errs.
 * Ownership  Plain data; the names of a figure are constants.
 * Threading  Any thread.
 * Errors     INVALID: a side without runs. */
#pragma once

#include "bench/report/run_file.h"

SPIN_BEGIN_DECLS

#define SPIN_BENCH_FIGURES_MAX 32u

enum spin_bench_verdict {
    SPIN_BENCH_UNKNOWN, /* no interval, or no ratio */
    SPIN_BENCH_ALIKE,   /* the interval has 1 in it */
    SPIN_BENCH_BETTER,  /* the other side is */
    SPIN_BENCH_WORSE
};
const char *spin_bench_verdict_name(enum spin_bench_verdict verdict); /* "better" */

struct spin_bench_compared {
    struct spin_bench_figure figure;
    double base; /* geometric mean; without a ratio: mean */
    double other;
    bool has_ratio; /* every value is above 0 */
    bool has_interval;
    double ratio; /* other / base */
    double low;
    double high;
    enum spin_bench_verdict verdict;
};

struct spin_bench_comparison {
    const char *base_name; /* labels; borrowed from the runs */
    const char *other_name;
    uint32_t base_runs;
    uint32_t other_runs;
    double confidence;
    bool paired;                                                /* seed by seed */
    struct spin_bench_compared figures[SPIN_BENCH_FIGURES_MAX]; /* those both sides have */
    uint32_t figures_count;
    char unlike[400]; /* what the runs were asked that differs: workload, seed, ...; empty: none */
};

/* `out` borrows from both lists. */
SPIN_MUST_USE spin_status spin_bench_compare(const struct spin_bench_runs *base,
                                             const struct spin_bench_runs *other, double confidence,
                                             struct spin_bench_comparison *out,
                                             struct spin_error *err);

SPIN_END_DECLS
