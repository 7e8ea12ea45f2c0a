/* histogram: durations counted in buckets whose width grows with the value.
 *
 * Why        A run has a gap for each of millions of tokens: nobody keeps them, and a percentile
 *            of them must still be right. An octave has 128 buckets, so a value that is read back
 *            (the middle of its bucket) is within 1/256 = 0.4 % of what was added; below 256 ns it
 *            is exact. Count, sum, least and greatest are exact.
 * Ownership  Plain data of a fixed size (about 41 KiB); zeroed storage is an empty histogram.
 * Threading  One thread at a time; a histogram for each thread, merged at the end.
 * Units      Nanoseconds. What is longer than SPIN_HISTOGRAM_MAX_NS (4.9 hours) is counted there.
 * Errors     None. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

#define SPIN_HISTOGRAM_OCTAVE 128u /* buckets of one: 1/256 is below the promised 0.5 % */
#define SPIN_HISTOGRAM_MAX_NS ((UINT64_C(1) << 44) - 1)
/* The first two octaves' worth of values are exact; then one octave for each power of two. */
#define SPIN_HISTOGRAM_BUCKETS 4864u /* SPIN_HISTOGRAM_OCTAVE * (44 - 8 + 2) */

struct spin_histogram {
    uint64_t buckets[SPIN_HISTOGRAM_BUCKETS];
    uint64_t count;
    uint64_t min_ns; /* 0 when empty */
    uint64_t max_ns;
    double sum_ns;
};

/* No allocation, no loop: this is on the way of every token. `count` times the same value is what
 * one step of a simulated batch brings; 0 changes nothing. */
void spin_histogram_add(struct spin_histogram *histogram, uint64_t value_ns, uint64_t count);
void spin_histogram_merge(struct spin_histogram *into, const struct spin_histogram *from);
double spin_histogram_mean(const struct spin_histogram *histogram); /* 0 when empty */

/* The smallest value that at least the part `p` (0 .. 1) of all values does not exceed: NumPy's
 * "inverted_cdf". p = 0 is the least, p = 1 the greatest, both exact; 0 when empty. */
double spin_histogram_percentile(const struct spin_histogram *histogram, double p);

/* Bucket `index` holds the values from lower(index) up to, and without, lower(index + 1). */
uint32_t spin_histogram_bucket(uint64_t value_ns);
uint64_t spin_histogram_lower(uint32_t index);

SPIN_END_DECLS
