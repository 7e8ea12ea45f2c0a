/* numbers: what benchmark programs do with numbers: lists of them in options, medians, shares.
 *
 * Why        Each program would have its own, and its own mistakes.
 * Threading  Any thread; pure, but that samples are sorted where they lie.
 * Errors     INVALID: the text names the option and what is wrong with it. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

#define SPIN_NUMBERS_MAX 16u

struct spin_numbers {
    uint32_t count;
    uint32_t value[SPIN_NUMBERS_MAX];
};

/* "1,8,32": 1 to SPIN_NUMBERS_MAX decimal numbers. */
SPIN_MUST_USE spin_status spin_numbers_parse(const char *option, const char *text,
                                             struct spin_numbers *out, struct spin_error *err);
/* All of them lie in [min, max], else INVALID. */
SPIN_MUST_USE spin_status spin_numbers_check(const char *option, const struct spin_numbers *numbers,
                                             uint32_t min, uint32_t max, struct spin_error *err);
bool spin_numbers_has(const struct spin_numbers *numbers, uint32_t value);

/* Of samples in any order, which are sorted; share 0.5 is the median. count >= 1. */
double spin_quantile(double *samples, uint32_t count, double share);
double spin_mean(const double *samples, uint32_t count);

/* The largest of the values; the lower index of equal ones; -1 when one is no number. */
int32_t spin_argmax(const float *values, uint32_t count);
/* log(sum(exp(values))). */
double spin_log_sum_exp(const float *values, uint32_t count);

SPIN_END_DECLS
