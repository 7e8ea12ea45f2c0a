#include "bench/gpu/model/numbers.h"

#include "base/assert.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

spin_status spin_numbers_parse(const char *option, const char *text, struct spin_numbers *out,
                               struct spin_error *err)
{
    *out = (struct spin_numbers){.count = 0};
    const char *at = text;
    do {
        char *end = NULL;
        errno = 0;
        const unsigned long value = strtoul(at, &end, 10);
        if (*at < '0' || *at > '9' || (*end != ',' && *end != '\0') || errno != 0 ||
            value > UINT32_MAX) {
            return spin_fail(err, SPIN_ERR_INVALID, "--%s %.80s: not a list like 1,8,32", option,
                             text);
        }
        if (out->count == SPIN_NUMBERS_MAX) {
            return spin_fail(err, SPIN_ERR_INVALID, "--%s %.80s: more than %u numbers", option,
                             text, SPIN_NUMBERS_MAX);
        }
        out->value[out->count++] = (uint32_t)value;
        at = *end == ',' ? end + 1 : NULL;
    } while (at != NULL);
    return SPIN_OK;
}

spin_status spin_numbers_check(const char *option, const struct spin_numbers *numbers, uint32_t min,
                               uint32_t max, struct spin_error *err)
{
    for (uint32_t i = 0; i < numbers->count; i++) {
        if (numbers->value[i] < min || numbers->value[i] > max) {
            return spin_fail(err, SPIN_ERR_INVALID, "--%s: %u: must be %u to %u", option,
                             numbers->value[i], min, max);
        }
    }
    return SPIN_OK;
}

bool spin_numbers_has(const struct spin_numbers *numbers, uint32_t value)
{
    for (uint32_t i = 0; i < numbers->count; i++) {
        if (numbers->value[i] == value) {
            return true;
        }
    }
    return false;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Between neighbours: linear. */
double spin_quantile(double *samples, uint32_t count, double share)
{
    SPIN_ASSERT_GE(count, 1);
    qsort(samples, count, sizeof *samples, by_value);
    const double place = share * (count - 1);
    const uint32_t below = (uint32_t)place;
    const uint32_t above = SPIN_MIN(below + 1, count - 1);
    return samples[below] + (place - below) * (samples[above] - samples[below]);
}

double spin_mean(const double *samples, uint32_t count)
{
    SPIN_ASSERT_GE(count, 1);
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        sum += samples[i];
    }
    return sum / count;
}

int32_t spin_argmax(const float *values, uint32_t count)
{
    uint32_t best = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (isnan(values[i])) {
            return -1;
        }
        best = values[i] > values[best] ? i : best;
    }
    return (int32_t)best;
}

double spin_log_sum_exp(const float *values, uint32_t count)
{
    double most = -HUGE_VAL;
    for (uint32_t i = 0; i < count; i++) {
        most = SPIN_MAX(most, (double)values[i]);
    }
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        sum += exp((double)values[i] - most);
    }
    return most + log(sum);
}
