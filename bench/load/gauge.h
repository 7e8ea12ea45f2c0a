/* gauge: whether a figure is the server's or the generator's own.
 *
 * Why        A generator out of processor time reports its own slowness as the server's, without a
 *            sign of it in the figures. So every run measures its generator, too, and says so when
 *            that was the narrow place.
 * Ownership  Plain data.
 * Threading  The loop's thread.
 * Units      Nanoseconds.
 * Errors     What /proc does not tell stays 0. */
#pragma once

#include "bench/load/result.h"

SPIN_BEGIN_DECLS

#define SPIN_LOAD_TICK_NS UINT64_C(10000000)
#define SPIN_LOAD_LATE_NS UINT64_C(10000000) /* half of a usual gap between two tokens */
#define SPIN_LOAD_LATE_PART 0.01             /* of the ticks: more than that is no accident */
#define SPIN_LOAD_BUSY_PART 0.9              /* of a core: queues form before it is full */
#define SPIN_LOAD_THREADS_MAX 64u

struct spin_load_thread {
    uint32_t id;
    uint64_t cpu_ns;
};

struct spin_load_gauge {
    uint64_t start_ns;
    double start_cpu_s;
    struct spin_load_thread threads[SPIN_LOAD_THREADS_MAX];
    uint32_t thread_count;
    uint64_t last_tick_ns;
    uint64_t ticks;
    uint64_t late_ticks;
    uint64_t lag_max_ns;
    uint64_t waited; /* requests that found no room among the streams */
};

void spin_load_gauge_start(struct spin_load_gauge *gauge, uint64_t now_ns);
/* Every SPIN_LOAD_TICK_NS, as often as the loop comes to it. */
void spin_load_gauge_tick(struct spin_load_gauge *gauge, uint64_t now_ns);
/* A moment that was kept this much too late. */
void spin_load_gauge_lag(struct spin_load_gauge *gauge, uint64_t lag_ns);
void spin_load_gauge_stop(const struct spin_load_gauge *gauge, uint64_t now_ns,
                          struct spin_bench_generator *out);

SPIN_END_DECLS
