#include "bench/load/sweep.h"

#include "base/assert.h"

#include <math.h>

static const char *const end_texts[] = {
    [SPIN_SWEEP_GOES_ON] = "the search was cut short",
    [SPIN_SWEEP_FOUND] = "found",
    [SPIN_SWEEP_AT_MAX] = "the highest rate that was allowed holds: the limit lies above it",
    [SPIN_SWEEP_AT_MIN] = "the lowest rate that was allowed fails",
    [SPIN_SWEEP_TOO_SLOW] = "the generator was the bottleneck at a higher rate: there may be more",
    [SPIN_SWEEP_TIRED] = "as many rates were tried as were allowed",
};

const char *spin_sweep_end_text(enum spin_sweep_end end)
{
    SPIN_ASSERT((uint32_t)end < SPIN_ARRAY_COUNT(end_texts));
    return end_texts[end];
}

void spin_sweep_init(struct spin_sweep *sweep, const struct spin_sweep_config *config)
{
    SPIN_ASSERT(config->rate_min > 0);
    SPIN_ASSERT(config->rate_first >= config->rate_min);
    SPIN_ASSERT(config->rate_first <= config->rate_max);
    SPIN_ASSERT(config->precision > 0);
    SPIN_ASSERT(config->rates_max > 0);
    *sweep = (struct spin_sweep){.config = *config, .fails = INFINITY, .next = config->rate_first};
}

static void choose_next(struct spin_sweep *sweep)
{
    const struct spin_sweep_config *config = &sweep->config;
    if (isinf(sweep->fails)) {
        sweep->next = fmin(2 * sweep->holds, config->rate_max);
    } else if (sweep->holds == 0) {
        sweep->next = fmax(sweep->fails / 2, config->rate_min);
    } else {
        sweep->next = sqrt(sweep->holds * sweep->fails);
    }
}

static enum spin_sweep_end find_end(const struct spin_sweep *sweep)
{
    const struct spin_sweep_config *config = &sweep->config;
    if (sweep->holds >= config->rate_max) {
        return SPIN_SWEEP_AT_MAX;
    }
    if (sweep->fails <= config->rate_min) {
        return SPIN_SWEEP_AT_MIN;
    }
    if (sweep->holds > 0 && sweep->fails <= sweep->holds * (1 + config->precision)) {
        return SPIN_SWEEP_FOUND;
    }
    return sweep->tried >= config->rates_max ? SPIN_SWEEP_TIRED : SPIN_SWEEP_GOES_ON;
}

void spin_sweep_judge(struct spin_sweep *sweep, enum spin_sweep_verdict verdict)
{
    SPIN_ASSERT(sweep->end == SPIN_SWEEP_GOES_ON);
    sweep->tried++;
    switch (verdict) {
    case SPIN_SWEEP_HOLDS:
        SPIN_ASSERT(sweep->next > sweep->holds);
        sweep->holds = sweep->next;
        break;
    case SPIN_SWEEP_FAILS:
        SPIN_ASSERT(sweep->next < sweep->fails);
        sweep->fails = sweep->next;
        break;
    case SPIN_SWEEP_LIMITED:
        sweep->end = SPIN_SWEEP_TOO_SLOW;
        return;
    }
    sweep->end = find_end(sweep);
    if (sweep->end == SPIN_SWEEP_GOES_ON) {
        choose_next(sweep);
    }
}
