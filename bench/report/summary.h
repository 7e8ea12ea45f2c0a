/* summary: what is said about one run.
 *
 * Why        Tables, files, plots and comparisons all read this; it is a few hundred kilobytes
 *            however many requests the run had, and a file holds all of it.
 *
 * Figures    Of the requests after the warm-up ("measured") alone.
 *            window           from the first intended moment to the last end
 *            requests_per_s   answered to their end / window
 *            output_tokens_per_s, tokens_per_s   theirs, without and with prompts / window: what
 *                             a request that failed has brought counts for nothing
 *            ttft, e2e, lag   from the intended moment to the first token, to the end, to the
 *                             sending. ttft of all that got a token, e2e of the answered ones,
 *                             lag of all that were sent
 *            tpot             (last - first) / (tokens - 1) of answered ones with two or more
 *            itl              of each message with tokens: since the one before (a histogram)
 *            good             answered, and within all limits of the SLO
 *            concurrency      streams that were open, sent to end
 * Percentiles  bench/report/stats.h; those of itl within 0.4 %.
 * Ownership  The caller owns a summary; it owns its arrays.
 * Threading  Any thread, one at a time.
 * Units      Milliseconds, seconds in *_s, parts of 1.
 * Errors     NO_MEMORY. */
#pragma once

#include "bench/load/result.h"

SPIN_BEGIN_DECLS

#define SPIN_BENCH_SAMPLES_MAX 2000u /* requests whose own times are kept: what a plot can show */

/* X(NAME, name, text) */
#define SPIN_BENCH_LATENCY_MAP(X) \
    X(TTFT, ttft, "time to the first token") \
    X(TPOT, tpot, "time per output token after the first") \
    X(ITL, itl, "gap between messages with tokens") \
    X(E2E, e2e, "time to the end of the answer") \
    X(LAG, lag, "sent later than intended")
#define SPIN_BENCH_LATENCY_ENUM(name, key, text) SPIN_BENCH_##name,
enum spin_bench_latency { SPIN_BENCH_LATENCY_MAP(SPIN_BENCH_LATENCY_ENUM) SPIN_BENCH_LATENCIES };
#undef SPIN_BENCH_LATENCY_ENUM
const char *spin_bench_latency_name(enum spin_bench_latency latency); /* "ttft" */

struct spin_bench_spread {
    uint64_t count; /* 0: the others say nothing */
    double mean_ms;
    double min_ms;
    double p50_ms;
    double p90_ms;
    double p99_ms;
    double max_ms;
};

struct spin_bench_point { /* means over a step */
    double output_tokens_per_s;
    double running; /* open streams */
    double waiting; /* of them: without a token so far */
    double finished_per_s;
    double failed_per_s;
};

struct spin_bench_sample { /* a request; negative: it has no such time */
    double intended_ms;
    double ttft_ms;
    double tpot_ms;
    double e2e_ms;
    uint32_t prompt_tokens;
    uint32_t output_tokens;
    enum spin_bench_outcome outcome;
};

struct spin_bench_counts {
    uint64_t measured;
    uint64_t warm_up;
    uint64_t good; /* 0 without an SLO */
    uint64_t by_outcome[SPIN_BENCH_OUTCOMES];
    uint64_t prompt_tokens; /* of answered requests */
    uint64_t output_tokens;
    uint64_t messages;
    uint64_t usage; /* answered requests whose tokens the server counted */
};

struct spin_bench_rates {
    double window_s;
    double offered_per_s; /* measured requests / time in which they were intended */
    double requests_per_s;
    double output_tokens_per_s;
    double tokens_per_s;
    double goodput_per_s;
    double good_part; /* of measured requests */
    double failed_part;
    double concurrency_mean;
    double concurrency_max;
};

struct spin_bench_summary {
    struct spin_bench_setup setup;
    struct spin_bench_slo slo;
    struct spin_bench_generator generator;
    struct spin_bench_error errors[SPIN_BENCH_OUTCOMES];
    struct spin_bench_counts counts;
    struct spin_bench_rates rates;
    struct spin_bench_spread spreads[SPIN_BENCH_LATENCIES];
    struct spin_histogram histograms[SPIN_BENCH_LATENCIES];
    double step_ms;
    struct spin_bench_point points[SPIN_BENCH_TIMELINE_POINTS]; /* from the run's start */
    uint32_t points_count;
    struct spin_bench_sample *samples; /* every n-th request of the schedule */
    uint32_t samples_count;
    struct spin_bench_metric *metrics;
    uint32_t metrics_count;
    char metrics_note[160];
    double length_s; /* of the whole run, warm-up included */
    double simulated_in_s;
    bool interrupted;
};

SPIN_MUST_USE spin_status spin_bench_summary_create(const struct spin_bench_result *result,
                                                    struct spin_bench_summary **out,
                                                    struct spin_error *err);
void spin_bench_summary_destroy(struct spin_bench_summary *summary); /* NULL is allowed */

/* What two runs are compared by. */
struct spin_bench_figure {
    const char *name; /* "ttft_p99_ms": a key of files, too */
    const char *unit;
    bool more_is_better;
};
uint32_t spin_bench_figure_count(void);
struct spin_bench_figure spin_bench_figure_at(uint32_t index);
/* False: this run has none, as ttft where no token came, or goodput without an SLO. */
bool spin_bench_figure_get(const struct spin_bench_summary *summary, uint32_t index, double *out);
/* The one of this name, or spin_bench_figure_count(). */
uint32_t spin_bench_figure_find(const char *name);

SPIN_END_DECLS
