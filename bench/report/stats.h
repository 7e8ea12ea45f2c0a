/* stats: the few formulas by which runs are judged.
 *
 * Why        A percentile and an interval have many definitions; here stand ours, tested against
 *            NumPy, and nothing else in this package computes one.
 * Percentile The smallest measured value that at least the part p of all values does not exceed
 *            (NumPy's "inverted_cdf"). So every percentile that is printed has happened, and those
 *            of a histogram (bench/load/histogram.h) mean the same.
 * Interval   For the ratio of two sets of runs: on logarithms, as a rate or a latency varies by a
 *            factor rather than by an amount. Welch's, because the two sides need not vary alike;
 *            Student's of the ratios one by one, where each run has its like on the other side.
 * Threading  Any thread; values only. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

#define SPIN_STATS_FACTOR_MAX 1e6 /* an interval this far to either side says nothing */

void spin_stats_sort(double *values, uint64_t count); /* ascending; none is NaN */
/* `sorted` is ascending, count > 0, p is 0 .. 1. */
double spin_stats_percentile(const double *sorted, uint64_t count, double p);
double spin_stats_mean(const double *values, uint64_t count); /* 0 of none */
/* With count - 1 below the line; 0 of fewer than two. */
double spin_stats_variance(const double *values, uint64_t count);

/* Student's t: the probability of at most `t`; df > 0 need not be whole. */
double spin_stats_t_cdf(double t, double df);
/* The t that is not exceeded with probability `p`, 0 < p < 1. */
double spin_stats_t_quantile(double p, double df);

struct spin_stats_ratio {
    double base; /* geometric means of both sides */
    double other;
    double ratio; /* other / base */
    double low;   /* of the interval; valid if has_interval */
    double high;
    bool has_interval; /* both sides have two values or more, and it is not too wide */
};
struct spin_stats_runs {
    const double *values; /* one for each run */
    uint32_t count;
};
/* False: a side is empty or has a value that is not above 0, which has no logarithm, or the ratio
 * is too far from 1 for a double. `confidence` is between 0 and 1. */
bool spin_stats_ratio_of(struct spin_stats_runs base, struct spin_stats_runs other,
                         double confidence, struct spin_stats_ratio *out);
/* The same of pairs: base.values[i] beside other.values[i]; both have as many. */
bool spin_stats_ratio_of_pairs(struct spin_stats_runs base, struct spin_stats_runs other,
                               double confidence, struct spin_stats_ratio *out);

SPIN_END_DECLS
