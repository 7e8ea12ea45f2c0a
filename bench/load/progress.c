#include "bench/load/progress.h"

#include "base/clock.h"

#include <inttypes.h>

#define WATCHED_NS SPIN_NS_PER_S
#define LOGGED_NS (10 * SPIN_NS_PER_S)

void spin_load_progress_ended(struct spin_load_progress *progress,
                              const struct spin_bench_request *request)
{
    progress->outcomes[request->outcome]++;
    if (request->first_ns != 0) {
        progress->ttft_count++;
        progress->ttft_sum_ns += (double)(request->first_ns - request->intended_ns);
    }
}

static void write_errors(const struct spin_load_progress *progress)
{
    const char *separator = "";
    for (uint32_t i = SPIN_BENCH_OK + 1; i < SPIN_BENCH_OUTCOMES; i++) {
        if (progress->outcomes[i] != 0) {
            (void)fprintf(progress->out, "%s%s %" PRIu64, separator,
                          spin_bench_outcome_name((enum spin_bench_outcome)i),
                          progress->outcomes[i]);
            separator = ", ";
        }
    }
    (void)fprintf(progress->out, "%s", separator[0] == '\0' ? "none" : "");
}

static void write_line(struct spin_load_progress *progress, uint64_t now_ns)
{
    const double seconds = (double)(now_ns - progress->last_ns) / (double)SPIN_NS_PER_S;
    const double rate = (double)(progress->messages - progress->last_messages) / seconds;
    (void)fprintf(progress->out,
                  "%s%6.0f s  sent %" PRIu64 "  running %" PRIu64 "  done %" PRIu64
                  "  %.0f messages/s",
                  progress->overwrites ? "\r\033[K" : "", (double)now_ns / (double)SPIN_NS_PER_S,
                  progress->sent, progress->in_flight, progress->outcomes[SPIN_BENCH_OK], rate);
    if (progress->ttft_count != 0) {
        (void)fprintf(progress->out, "  ttft %.0f ms",
                      1e-6 * progress->ttft_sum_ns / (double)progress->ttft_count);
    }
    (void)fputs("  errors: ", progress->out);
    write_errors(progress);
    (void)fputs(progress->overwrites ? "" : "\n", progress->out);
    (void)fflush(progress->out);
}

void spin_load_progress_tick(struct spin_load_progress *progress, uint64_t now_ns)
{
    const uint64_t every_ns = progress->overwrites ? WATCHED_NS : LOGGED_NS;
    if (progress->out == NULL || now_ns < progress->last_ns + every_ns) {
        return;
    }
    write_line(progress, now_ns);
    progress->last_ns = now_ns;
    progress->last_messages = progress->messages;
    progress->ttft_count = 0;
    progress->ttft_sum_ns = 0;
}

void spin_load_progress_end(struct spin_load_progress *progress)
{
    if (progress->out != NULL && progress->overwrites && progress->last_ns != 0) {
        (void)fputs("\r\033[K", progress->out);
        (void)fflush(progress->out);
    }
}
