#include "bench/load/arrival.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ARRIVAL_STREAM UINT64_C(0x6172726976616c73) /* no other use of the seed draws from it */

static spin_status parse_burst(const char *text, struct spin_bench_arrivals *out,
                               struct spin_error *err)
{
    char *end = NULL;
    const unsigned long long burst = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || burst < 1 || burst > SPIN_BENCH_BURST_MAX) {
        return spin_fail(err, SPIN_ERR_INVALID, "arrival \"burst:%.32s\": 1 to %u requests at once",
                         text, SPIN_BENCH_BURST_MAX);
    }
    out->kind = SPIN_BENCH_BURST;
    out->burst = (uint32_t)burst;
    return SPIN_OK;
}

spin_status spin_bench_arrivals_parse(const char *text, struct spin_bench_arrivals *out,
                                      struct spin_error *err)
{
    static const struct {
        const char *name;
        enum spin_bench_arrival kind;
    } kinds[] = {{"poisson", SPIN_BENCH_POISSON},
                 {"constant", SPIN_BENCH_CONSTANT},
                 {"trace", SPIN_BENCH_TRACE},
                 {"closed", SPIN_BENCH_CLOSED}};
    *out = (struct spin_bench_arrivals){.burst = 1};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(kinds); i++) {
        if (strcmp(text, kinds[i].name) == 0) {
            out->kind = kinds[i].kind;
            return SPIN_OK;
        }
    }
    if (strncmp(text, "burst:", 6) == 0) {
        return parse_burst(text + 6, out, err);
    }
    return spin_fail(err, SPIN_ERR_INVALID,
                     "arrival \"%.32s\": there are poisson, constant, burst:N, trace and closed",
                     text);
}

bool spin_bench_arrival_has_rate(enum spin_bench_arrival kind)
{
    return kind != SPIN_BENCH_TRACE && kind != SPIN_BENCH_CLOSED;
}

uint64_t spin_bench_arrivals_next(struct spin_bench_arrivals *arrivals)
{
    SPIN_ASSERT(spin_bench_arrival_has_rate(arrivals->kind));
    SPIN_ASSERT(arrivals->rate_per_s > 0);
    const uint64_t index = arrivals->index++;
    const uint64_t group = index - index % SPIN_MAX(arrivals->burst, 1u);
    const double u = spin_philox_uniform(arrivals->seed, ARRIVAL_STREAM, index);
    switch (arrivals->kind) {
    case SPIN_BENCH_POISSON:
        arrivals->at_s -= log1p(-u) / arrivals->rate_per_s;
        return (uint64_t)(arrivals->at_s * (double)SPIN_NS_PER_S);
    case SPIN_BENCH_CONSTANT:
        return (uint64_t)((double)index / arrivals->rate_per_s * (double)SPIN_NS_PER_S);
    case SPIN_BENCH_BURST:
        return (uint64_t)((double)group / arrivals->rate_per_s * (double)SPIN_NS_PER_S);
    case SPIN_BENCH_TRACE:
    case SPIN_BENCH_CLOSED:
        break;
    }
    return 0;
}
