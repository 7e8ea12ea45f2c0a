/* clock: where time comes from, so that tests and simulations can be the ones to move it.
 *
 * Why        Schedulers, deadlines and timers take time as an argument or from a struct spin_clock;
 *            only main functions and benchmarks create the real one.
 * Threading  The real clock: any thread. A manual clock: one thread.
 * Units      Nanoseconds; monotonic unless the name says wall. Deadlines are absolute. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

#define SPIN_NS_PER_US UINT64_C(1000)
#define SPIN_NS_PER_MS UINT64_C(1000000)
#define SPIN_NS_PER_S UINT64_C(1000000000)
#define SPIN_NO_DEADLINE UINT64_MAX

struct spin_clock {
    uint64_t (*now_ns)(const struct spin_clock *clock);
    uint64_t manual_ns; /* the time of a manual clock; unused by the real one */
};

const struct spin_clock *spin_clock_real(void);
struct spin_clock spin_clock_manual(uint64_t start_ns); /* advance by adding to manual_ns */

static inline uint64_t spin_now_ns(const struct spin_clock *clock)
{
    return clock->now_ns(clock);
}

/* Wall time since 1970, for logs and start times only. */
uint64_t spin_wall_ns(void);
/* now + timeout, saturating at SPIN_NO_DEADLINE. */
uint64_t spin_deadline_ns(uint64_t now_ns, uint64_t timeout_ns);

SPIN_END_DECLS
