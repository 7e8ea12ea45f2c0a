#include "bench/load/gauge.h"

#include "base/clock.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

/* The kernel's id of a thread's clock (CLOCK_THREAD_CPUTIME_ID is that of the caller's): what
 * pthread_getcpuclockid makes of a pthread_t, which nobody has of a library's threads. */
static uint64_t thread_cpu_ns(uint32_t id)
{
    const clockid_t clock = (clockid_t)(~id << 3 | 6u);
    struct timespec spent;
    if (clock_gettime(clock, &spent) != 0) {
        return 0; /* it has ended */
    }
    return (uint64_t)spent.tv_sec * SPIN_NS_PER_S + (uint64_t)spent.tv_nsec;
}

static uint32_t list_threads(struct spin_load_thread out[SPIN_LOAD_THREADS_MAX])
{
    uint32_t count = 0;
    DIR *folder = opendir("/proc/self/task");
    if (folder == NULL) {
        return 0;
    }
    /* Nobody else has this folder open, so nobody else's readdir meets ours.
     * NOLINTBEGIN(concurrency-mt-unsafe) */
    const struct dirent *entry = readdir(folder);
    for (; entry != NULL && count < SPIN_LOAD_THREADS_MAX; entry = readdir(folder)) {
        /* NOLINTEND(concurrency-mt-unsafe) */
        const uint32_t id = (uint32_t)strtoul(entry->d_name, NULL, 10);
        if (id != 0) {
            out[count++] = (struct spin_load_thread){.id = id, .cpu_ns = thread_cpu_ns(id)};
        }
    }
    (void)closedir(folder);
    return count;
}

static double process_cpu_s(void)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) {
        return 0;
    }
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

void spin_load_gauge_start(struct spin_load_gauge *gauge, uint64_t now_ns)
{
    *gauge = (struct spin_load_gauge){.start_ns = now_ns, .last_tick_ns = now_ns};
    gauge->start_cpu_s = process_cpu_s();
    gauge->thread_count = list_threads(gauge->threads);
}

void spin_load_gauge_lag(struct spin_load_gauge *gauge, uint64_t lag_ns)
{
    gauge->lag_max_ns = SPIN_MAX(gauge->lag_max_ns, lag_ns);
}

void spin_load_gauge_tick(struct spin_load_gauge *gauge, uint64_t now_ns)
{
    const uint64_t passed_ns = now_ns - gauge->last_tick_ns;
    const uint64_t lag_ns = passed_ns - SPIN_MIN(passed_ns, SPIN_LOAD_TICK_NS);
    /* A loop that was away for ten ticks missed ten, not one. */
    const uint64_t missed = lag_ns / SPIN_LOAD_TICK_NS;
    gauge->last_tick_ns = now_ns;
    gauge->ticks += 1 + missed;
    gauge->late_ticks += lag_ns > SPIN_LOAD_LATE_NS ? SPIN_MAX(missed, 1) : 0;
    spin_load_gauge_lag(gauge, lag_ns);
}

static uint64_t cpu_before(const struct spin_load_gauge *gauge, uint32_t id)
{
    for (uint32_t i = 0; i < gauge->thread_count; i++) {
        if (gauge->threads[i].id == id) {
            return gauge->threads[i].cpu_ns;
        }
    }
    return 0; /* started since */
}

static double busiest(const struct spin_load_gauge *gauge, uint64_t now_ns)
{
    struct spin_load_thread threads[SPIN_LOAD_THREADS_MAX];
    const uint32_t count = list_threads(threads);
    uint64_t most_ns = 0;
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t before_ns = cpu_before(gauge, threads[i].id);
        const uint64_t used_ns = threads[i].cpu_ns - SPIN_MIN(before_ns, threads[i].cpu_ns);
        most_ns = SPIN_MAX(most_ns, used_ns);
    }
    const double part = (double)most_ns / (double)SPIN_MAX(now_ns - gauge->start_ns, 1);
    return SPIN_MIN(part, 1.0);
}

void spin_load_gauge_stop(const struct spin_load_gauge *gauge, uint64_t now_ns,
                          struct spin_bench_generator *out)
{
    *out = (struct spin_bench_generator){.cpu_s = process_cpu_s() - gauge->start_cpu_s,
                                         .cpu_busiest = busiest(gauge, now_ns),
                                         .lag_max_ns = gauge->lag_max_ns};
    const double late = (double)gauge->late_ticks / (double)SPIN_MAX(gauge->ticks, 1);
    out->limited = true;
    if (out->cpu_busiest > SPIN_LOAD_BUSY_PART) {
        (void)snprintf(out->limited_why, sizeof out->limited_why,
                       "the generator's busiest thread took %.0f %% of a core",
                       100 * out->cpu_busiest);
    } else if (gauge->waited != 0) {
        (void)snprintf(out->limited_why, sizeof out->limited_why,
                       "%" PRIu64 " requests waited for one of the generator's streams to end "
                       "(--concurrency): they were sent late, or not at all",
                       gauge->waited);
    } else if (late > SPIN_LOAD_LATE_PART) {
        (void)snprintf(out->limited_why, sizeof out->limited_why,
                       "the generator was more than %.0f ms late %.1f %% of the time, %.0f ms at "
                       "most: it did not get the processor",
                       1e-6 * (double)SPIN_LOAD_LATE_NS, 100 * late,
                       1e-6 * (double)gauge->lag_max_ns);
    } else {
        out->limited = false;
    }
}
