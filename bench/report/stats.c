#include "bench/report/stats.h"

#include "base/assert.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#define FRACTION_STEPS_MAX 500 /* the continued fraction needs about sqrt(df) */
#define LOG_RATIO_MAX 600.0    /* beyond it a ratio, or its interval's end, may be no double */
#define BISECTIONS 200         /* of doubles: more than there are bits */

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

void spin_stats_sort(double *values, uint64_t count)
{
    if (count > 1) {
        qsort(values, count, sizeof *values, compare_doubles);
    }
}

double spin_stats_percentile(const double *sorted, uint64_t count, double p)
{
    SPIN_ASSERT(count > 0);
    SPIN_ASSERT(p >= 0);
    SPIN_ASSERT(p <= 1);
    const double rank = ceil(p * (double)count);
    return sorted[rank < 1 ? 0 : (uint64_t)rank - 1];
}

double spin_stats_mean(const double *values, uint64_t count)
{
    double sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        sum += values[i];
    }
    return count == 0 ? 0 : sum / (double)count;
}

double spin_stats_variance(const double *values, uint64_t count)
{
    if (count < 2) {
        return 0;
    }
    const double mean = spin_stats_mean(values, count);
    double sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        sum += (values[i] - mean) * (values[i] - mean);
    }
    return sum / (double)(count - 1);
}

static double not_zero(double x)
{
    return fabs(x) < DBL_MIN ? DBL_MIN : x;
}

/* The continued fraction of the incomplete beta function, by Lentz's method: numerator and
 * denominator of its value as ratios of neighbours, so that neither overflows. */
static double beta_fraction(double a, double b, double x)
{
    double c = 1;
    double d = 1 / not_zero(1 - (a + b) * x / (a + 1));
    double value = d;
    for (int m = 1; m <= FRACTION_STEPS_MAX; m++) {
        const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        d = 1 / not_zero(1 + even * d);
        c = not_zero(1 + even / c);
        value *= c * d;
        d = 1 / not_zero(1 + odd * d);
        c = not_zero(1 + odd / c);
        value *= c * d;
        if (fabs(c * d - 1) < 4 * DBL_EPSILON) {
            break;
        }
    }
    return value;
}

/* I_x(a, b); the fraction converges fast below the mean, and above it by symmetry. */
static double incomplete_beta(double a, double b, double x)
{
    if (x <= 0 || x >= 1) {
        return x <= 0 ? 0 : 1;
    }
    int sign = 0; /* all are positive; lgamma itself writes the sign into a global */
    const double gammas = lgamma_r(a + b, &sign) - lgamma_r(a, &sign) - lgamma_r(b, &sign);
    const double front = exp(gammas + a * log(x) + b * log1p(-x));
    if (x < (a + 1) / (a + b + 2)) {
        return front * beta_fraction(a, b, x) / a;
    }
    return 1 - front * beta_fraction(b, a, 1 - x) / b;
}

double spin_stats_t_cdf(double t, double df)
{
    SPIN_ASSERT(df > 0);
    const double tail = incomplete_beta(df / 2, 0.5, df / (df + t * t)) / 2;
    return t > 0 ? 1 - tail : tail;
}

double spin_stats_t_quantile(double p, double df)
{
    SPIN_ASSERT(p > 0);
    SPIN_ASSERT(p < 1);
    if (p < 0.5) {
        return -spin_stats_t_quantile(1 - p, df);
    }
    double low = 0;
    double high = 1;
    while (spin_stats_t_cdf(high, df) < p && high < DBL_MAX / 4) {
        high *= 2;
    }
    for (int i = 0; i < BISECTIONS && high - low > DBL_EPSILON * high; i++) {
        const double middle = low + (high - low) / 2;
        if (spin_stats_t_cdf(middle, df) < p) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low + (high - low) / 2;
}

struct logs {
    double mean;
    double mean_variance; /* of the mean: variance / count */
    double count;
};

static bool take_logs(struct spin_stats_runs runs, struct logs *out)
{
    double mean = 0;
    for (uint32_t i = 0; i < runs.count; i++) {
        if (!(runs.values[i] > 0)) {
            return false;
        }
        mean += log(runs.values[i]);
    }
    mean /= (double)runs.count;
    double sum = 0;
    for (uint32_t i = 0; i < runs.count; i++) {
        const double difference = log(runs.values[i]) - mean;
        sum += difference * difference;
    }
    *out = (struct logs){.mean = mean, .count = runs.count};
    if (runs.count > 1) {
        out->mean_variance = sum / (out->count - 1) / out->count;
    }
    return runs.count > 0;
}

/* One so wide says nothing, and its end may be beyond what a double can hold. */
static void set_interval(struct spin_stats_ratio *out, double center, double half)
{
    out->has_interval = half < log(SPIN_STATS_FACTOR_MAX);
    out->low = out->has_interval ? exp(center - half) : 0;
    out->high = out->has_interval ? exp(center + half) : 0;
}

bool spin_stats_ratio_of(struct spin_stats_runs base, struct spin_stats_runs other,
                         double confidence, struct spin_stats_ratio *out)
{
    SPIN_ASSERT(confidence > 0);
    SPIN_ASSERT(confidence < 1);
    struct logs a = {0};
    struct logs b = {0};
    if (base.count == 0 || other.count == 0 || !take_logs(base, &a) || !take_logs(other, &b)) {
        return false;
    }
    const double difference = b.mean - a.mean;
    if (fabs(difference) > LOG_RATIO_MAX) {
        return false;
    }
    *out = (struct spin_stats_ratio){
        .base = exp(a.mean), .other = exp(b.mean), .ratio = exp(difference)};
    if (base.count < 2 || other.count < 2) {
        return true;
    }
    double half = 0;
    const double variance = a.mean_variance + b.mean_variance;
    if (variance > 0) { /* runs that are equal to the last bit vary by nothing */
        const double df = variance * variance /
                          (a.mean_variance * a.mean_variance / (a.count - 1) +
                           b.mean_variance * b.mean_variance / (b.count - 1));
        half = spin_stats_t_quantile(0.5 + confidence / 2, df) * sqrt(variance);
    }
    set_interval(out, difference, half);
    return true;
}

bool spin_stats_ratio_of_pairs(struct spin_stats_runs base, struct spin_stats_runs other,
                               double confidence, struct spin_stats_ratio *out)
{
    SPIN_ASSERT(base.count == other.count);
    if (!spin_stats_ratio_of(base, other, confidence, out)) {
        return false;
    }
    if (base.count < 2) {
        return true;
    }
    const double mean = log(out->ratio);
    double sum = 0;
    for (uint32_t i = 0; i < base.count; i++) {
        const double difference = log(other.values[i]) - log(base.values[i]) - mean;
        sum += difference * difference;
    }
    const double count = base.count;
    const double deviation = sqrt(sum / (count - 1) / count);
    const double half = spin_stats_t_quantile(0.5 + confidence / 2, count - 1) * deviation;
    set_interval(out, mean, half);
    return true;
}
