#include "bench/load/histogram.h"

#include "base/assert.h"

#include <math.h>

#define EXACT_NS 256u /* two octaves; below: a bucket for each value */
#define OCTAVE_BITS 7

_Static_assert(EXACT_NS == 2 * SPIN_HISTOGRAM_OCTAVE, "the first octave of two buckets a value");
_Static_assert(SPIN_HISTOGRAM_OCTAVE == 1 << OCTAVE_BITS, "an octave is told by its bits");
_Static_assert(SPIN_HISTOGRAM_BUCKETS == SPIN_HISTOGRAM_OCTAVE * (44 - 8 + 2),
               "an octave for each power of two from 2^8 to 2^43, and two before");

uint32_t spin_histogram_bucket(uint64_t value_ns)
{
    const uint64_t value = SPIN_MIN(value_ns, SPIN_HISTOGRAM_MAX_NS);
    if (value < EXACT_NS) {
        return (uint32_t)value;
    }
    /* The eight highest bits: the leading one says the octave, the others the place in it. */
    const uint32_t shift = 63u - (uint32_t)__builtin_clzll(value) - OCTAVE_BITS;
    return shift * SPIN_HISTOGRAM_OCTAVE + (uint32_t)(value >> shift);
}

uint64_t spin_histogram_lower(uint32_t index)
{
    SPIN_ASSERT(index <= SPIN_HISTOGRAM_BUCKETS);
    if (index < EXACT_NS) {
        return index;
    }
    const uint32_t shift = index / SPIN_HISTOGRAM_OCTAVE - 1;
    return (uint64_t)(index % SPIN_HISTOGRAM_OCTAVE + SPIN_HISTOGRAM_OCTAVE) << shift;
}

void spin_histogram_add(struct spin_histogram *histogram, uint64_t value_ns, uint64_t count)
{
    if (count == 0) {
        return;
    }
    histogram->buckets[spin_histogram_bucket(value_ns)] += count;
    if (histogram->count == 0 || value_ns < histogram->min_ns) {
        histogram->min_ns = value_ns;
    }
    histogram->max_ns = SPIN_MAX(histogram->max_ns, value_ns);
    histogram->count += count;
    histogram->sum_ns += (double)value_ns * (double)count;
}

void spin_histogram_merge(struct spin_histogram *into, const struct spin_histogram *from)
{
    if (from->count == 0) {
        return;
    }
    for (uint32_t i = 0; i < SPIN_HISTOGRAM_BUCKETS; i++) {
        into->buckets[i] += from->buckets[i];
    }
    into->min_ns = into->count == 0 ? from->min_ns : SPIN_MIN(into->min_ns, from->min_ns);
    into->max_ns = SPIN_MAX(into->max_ns, from->max_ns);
    into->count += from->count;
    into->sum_ns += from->sum_ns;
}

double spin_histogram_mean(const struct spin_histogram *histogram)
{
    return histogram->count == 0 ? 0 : histogram->sum_ns / (double)histogram->count;
}

/* The middle of a bucket, but never beyond what was really added. */
static double bucket_value(const struct spin_histogram *histogram, uint32_t index)
{
    const double lower = (double)spin_histogram_lower(index);
    const double last = (double)(spin_histogram_lower(index + 1) - 1);
    const double middle = lower + (last - lower) / 2;
    return fmax((double)histogram->min_ns, fmin((double)histogram->max_ns, middle));
}

double spin_histogram_percentile(const struct spin_histogram *histogram, double p)
{
    SPIN_ASSERT(p >= 0);
    SPIN_ASSERT(p <= 1);
    if (histogram->count == 0 || p <= 0) {
        return (double)histogram->min_ns;
    }
    const double rank = ceil(p * (double)histogram->count);
    if (rank >= (double)histogram->count) {
        return (double)histogram->max_ns;
    }
    uint64_t seen = 0;
    for (uint32_t i = 0; i < SPIN_HISTOGRAM_BUCKETS; i++) {
        seen += histogram->buckets[i];
        if ((double)seen >= rank) {
            return bucket_value(histogram, i);
        }
    }
    return (double)histogram->max_ns;
}
