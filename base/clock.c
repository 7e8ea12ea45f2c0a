#include "base/clock.h"

#include "base/assert.h"

#include <time.h>

static uint64_t read_clock(clockid_t id)
{
    struct timespec now;
    SPIN_ASSERT_EQ(clock_gettime(id, &now), 0);
    return (uint64_t)now.tv_sec * SPIN_NS_PER_S + (uint64_t)now.tv_nsec;
}

static uint64_t real_now_ns(const struct spin_clock *clock)
{
    (void)clock;
    return read_clock(CLOCK_MONOTONIC);
}

static uint64_t manual_now_ns(const struct spin_clock *clock)
{
    return clock->manual_ns;
}

const struct spin_clock *spin_clock_real(void)
{
    static const struct spin_clock real = {.now_ns = real_now_ns};
    return &real;
}

struct spin_clock spin_clock_manual(uint64_t start_ns)
{
    return (struct spin_clock){.now_ns = manual_now_ns, .manual_ns = start_ns};
}

uint64_t spin_wall_ns(void)
{
    return read_clock(CLOCK_REALTIME);
}

uint64_t spin_deadline_ns(uint64_t now_ns, uint64_t timeout_ns)
{
    uint64_t deadline_ns;
    return __builtin_add_overflow(now_ns, timeout_ns, &deadline_ns) ? SPIN_NO_DEADLINE
                                                                    : deadline_ns;
}
