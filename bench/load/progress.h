/* progress: how a run is doing, a line a second, for whoever watches.
 *
 * Why        A run takes minutes; that everything fails is to be seen in the first of them.
 * Ownership  Plain data; borrows the stream.
 * Threading  The loop's thread.
 * Units      Nanoseconds since the run's start.
 * Errors     What cannot be written is lost. */
#pragma once

#include "bench/load/result.h"

#include <stdio.h>

SPIN_BEGIN_DECLS

struct spin_load_progress {
    FILE *out; /* NULL: says nothing, counts all the same */
    bool overwrites;
    uint64_t sent;
    uint64_t outcomes[SPIN_BENCH_OUTCOMES];
    uint64_t in_flight;
    uint64_t messages; /* with tokens, so far */
    uint64_t last_messages;
    uint64_t last_ns;
    uint64_t ttft_count; /* since the last line */
    double ttft_sum_ns;
};

void spin_load_progress_ended(struct spin_load_progress *progress,
                              const struct spin_bench_request *request);
/* As often as one likes: writes once a second, to what is no terminal every ten. */
void spin_load_progress_tick(struct spin_load_progress *progress, uint64_t now_ns);
void spin_load_progress_end(struct spin_load_progress *progress);

SPIN_END_DECLS
