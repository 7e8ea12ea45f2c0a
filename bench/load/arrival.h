/* arrival: when requests are meant to go out.
 *
 * Why        A server is judged by the moments at which people ask, not by the moments at which a
 *            generator found the time: the schedule is made from rate and seed alone and knows
 *            nothing of answers.
 * Kinds      constant: request i at i / rate. burst: `burst` at once, every burst / rate. poisson:
 *            gaps are exponential, -ln(1 - u) / rate, the first one before request 0. trace: the
 *            workload's own timestamps. closed: a fixed number of streams, each asks again when
 *            its answer has ended, so there is no schedule.
 * Ownership  Plain data.
 * Threading  One thread at a time; a function of its arguments.
 * Units      Nanoseconds since the run's start; requests per second.
 * Errors     parse: INVALID, with what there is. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

enum spin_bench_arrival {
    SPIN_BENCH_POISSON,
    SPIN_BENCH_CONSTANT,
    SPIN_BENCH_BURST,
    SPIN_BENCH_TRACE,
    SPIN_BENCH_CLOSED,
};

#define SPIN_BENCH_BURST_MAX 65536u
#define SPIN_BENCH_RATE_MAX 1e6

struct spin_bench_arrivals {
    enum spin_bench_arrival kind;
    double rate_per_s; /* above 0 but for trace and closed */
    uint32_t burst;    /* SPIN_BENCH_BURST: how many at once */
    uint64_t seed;
    uint64_t index; /* of the next request */
    double at_s;    /* poisson: when the one before was due */
};

/* "poisson", "constant", "burst:8", "trace", "closed" into kind and burst; the rest is zero. */
SPIN_MUST_USE spin_status spin_bench_arrivals_parse(const char *text,
                                                    struct spin_bench_arrivals *out,
                                                    struct spin_error *err);
bool spin_bench_arrival_has_rate(enum spin_bench_arrival kind);
/* When the next request is due; never before the one asked for last. Of kinds that have a rate. */
uint64_t spin_bench_arrivals_next(struct spin_bench_arrivals *arrivals);

SPIN_END_DECLS
