#include "bench/report/summary.h"

#include "base/assert.h"
#include "bench/report/curves.h"
#include "bench/report/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_MS 1e6
#define NS_PER_S 1e9

#define LATENCY_NAME(name, key, text) [SPIN_BENCH_##name] = #key,
static const char *const latency_names[SPIN_BENCH_LATENCIES] = {
    SPIN_BENCH_LATENCY_MAP(LATENCY_NAME)};

const char *spin_bench_latency_name(enum spin_bench_latency latency)
{
    SPIN_ASSERT((uint32_t)latency < SPIN_BENCH_LATENCIES);
    return latency_names[latency];
}

static double between_ms(uint64_t from_ns, uint64_t to_ns)
{
    return (double)(to_ns - from_ns) / NS_PER_MS;
}

/* A request's own time in ms; negative: it has none. */
static double time_of(const struct spin_bench_request *request, enum spin_bench_latency latency)
{
    const bool answered = request->outcome == SPIN_BENCH_OK;
    switch (latency) {
    case SPIN_BENCH_TTFT:
        return request->first_ns == 0 ? -1 : between_ms(request->intended_ns, request->first_ns);
    case SPIN_BENCH_TPOT:
        return !answered || request->output_tokens < 2
                   ? -1
                   : between_ms(request->first_ns, request->last_ns) /
                         (double)(request->output_tokens - 1);
    case SPIN_BENCH_E2E:
        return answered ? between_ms(request->intended_ns, request->end_ns) : -1;
    case SPIN_BENCH_LAG:
        return request->outcome == SPIN_BENCH_UNSENT
                   ? -1
                   : between_ms(request->intended_ns, request->sent_ns);
    case SPIN_BENCH_ITL:
    case SPIN_BENCH_LATENCIES:
        break; /* gaps belong to no request */
    }
    return -1;
}

static bool within(double time_ms, uint64_t limit_ns)
{
    return limit_ns == 0 || time_ms <= (double)limit_ns / NS_PER_MS;
}

static bool has_slo(const struct spin_bench_slo *slo)
{
    return slo->ttft_ns != 0 || slo->tpot_ns != 0 || slo->e2e_ns != 0;
}

static bool is_good(const struct spin_bench_request *request, const struct spin_bench_slo *slo)
{
    return request->outcome == SPIN_BENCH_OK &&
           within(time_of(request, SPIN_BENCH_TTFT), slo->ttft_ns) &&
           within(time_of(request, SPIN_BENCH_TPOT), slo->tpot_ns) &&
           within(time_of(request, SPIN_BENCH_E2E), slo->e2e_ns);
}

static void count_request(struct spin_bench_summary *summary,
                          const struct spin_bench_request *request)
{
    struct spin_bench_counts *counts = &summary->counts;
    counts->measured++;
    counts->by_outcome[request->outcome]++;
    if (request->outcome != SPIN_BENCH_OK) {
        return;
    }
    counts->prompt_tokens += request->prompt_tokens;
    counts->output_tokens += request->output_tokens;
    counts->messages += request->messages;
    counts->usage += request->usage ? 1 : 0;
    counts->good += has_slo(&summary->slo) && is_good(request, &summary->slo) ? 1 : 0;
}

/* Moments of the measured requests, and how long their streams were open in all. */
struct window {
    uint64_t first_intended_ns;
    uint64_t last_intended_ns;
    uint64_t last_end_ns;
    double open_ns;
};

static void widen(struct window *window, const struct spin_bench_request *request)
{
    window->first_intended_ns = SPIN_MIN(window->first_intended_ns, request->intended_ns);
    window->last_intended_ns = SPIN_MAX(window->last_intended_ns, request->intended_ns);
    window->last_end_ns = SPIN_MAX(window->last_end_ns, request->end_ns);
    window->open_ns +=
        request->outcome == SPIN_BENCH_UNSENT ? 0 : (double)(request->end_ns - request->sent_ns);
}

static void set_rates(struct spin_bench_summary *summary, const struct window *window)
{
    struct spin_bench_rates *rates = &summary->rates;
    const struct spin_bench_counts *counts = &summary->counts;
    if (counts->measured == 0) {
        return;
    }
    const double measured = (double)counts->measured;
    const double answered = (double)counts->by_outcome[SPIN_BENCH_OK];
    rates->failed_part = (measured - answered) / measured;
    rates->good_part = (double)counts->good / measured;
    const double sending_s =
        (double)(window->last_intended_ns - window->first_intended_ns) / NS_PER_S;
    if (counts->measured > 1 && sending_s > 0) {
        rates->offered_per_s = (measured - 1) / sending_s; /* n requests have n - 1 gaps */
    }
    rates->window_s = (double)(window->last_end_ns - window->first_intended_ns) / NS_PER_S;
    if (!(rates->window_s > 0)) {
        return;
    }
    rates->requests_per_s = answered / rates->window_s;
    rates->output_tokens_per_s = (double)counts->output_tokens / rates->window_s;
    rates->tokens_per_s = (double)(counts->output_tokens + counts->prompt_tokens) / rates->window_s;
    rates->goodput_per_s = (double)counts->good / rates->window_s;
    rates->concurrency_mean = window->open_ns / NS_PER_S / rates->window_s;
}

static void count_requests(struct spin_bench_summary *summary,
                           const struct spin_bench_result *result)
{
    struct window window = {.first_intended_ns = UINT64_MAX};
    for (uint32_t i = 0; i < result->requests_count; i++) {
        const struct spin_bench_request *request = &result->requests[i];
        if (request->warm_up) {
            summary->counts.warm_up++;
            continue;
        }
        count_request(summary, request);
        widen(&window, request);
    }
    set_rates(summary, &window);
}

static struct spin_bench_spread spread_of(double *values, uint64_t count)
{
    struct spin_bench_spread spread = {.count = count};
    if (count == 0) {
        return spread;
    }
    spin_stats_sort(values, count);
    spread.mean_ms = spin_stats_mean(values, count);
    spread.min_ms = values[0];
    spread.p50_ms = spin_stats_percentile(values, count, 0.5);
    spread.p90_ms = spin_stats_percentile(values, count, 0.9);
    spread.p99_ms = spin_stats_percentile(values, count, 0.99);
    spread.max_ms = values[count - 1];
    return spread;
}

/* `values` has room for a time of each request. */
static void spread_times(struct spin_bench_summary *summary, enum spin_bench_latency latency,
                         const struct spin_bench_result *result, double *values)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < result->requests_count; i++) {
        const double time_ms = time_of(&result->requests[i], latency);
        if (result->requests[i].warm_up || time_ms < 0) {
            continue;
        }
        values[count++] = time_ms;
        spin_histogram_add(&summary->histograms[latency], (uint64_t)llround(time_ms * NS_PER_MS),
                           1);
    }
    summary->spreads[latency] = spread_of(values, count);
}

static void spread_gaps(struct spin_bench_summary *summary, const struct spin_histogram *itl)
{
    summary->histograms[SPIN_BENCH_ITL] = *itl;
    struct spin_bench_spread *spread = &summary->spreads[SPIN_BENCH_ITL];
    spread->count = itl->count;
    spread->mean_ms = spin_histogram_mean(itl) / NS_PER_MS;
    spread->min_ms = spin_histogram_percentile(itl, 0) / NS_PER_MS;
    spread->p50_ms = spin_histogram_percentile(itl, 0.5) / NS_PER_MS;
    spread->p90_ms = spin_histogram_percentile(itl, 0.9) / NS_PER_MS;
    spread->p99_ms = spin_histogram_percentile(itl, 0.99) / NS_PER_MS;
    spread->max_ms = spin_histogram_percentile(itl, 1) / NS_PER_MS;
}

static spin_status make_spreads(struct spin_bench_summary *summary,
                                const struct spin_bench_result *result, struct spin_error *err)
{
    double *values = malloc(SPIN_MAX(result->requests_count, 1u) * sizeof *values);
    if (values == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "times of %u requests", result->requests_count);
    }
    for (uint32_t i = 0; i < SPIN_BENCH_LATENCIES; i++) {
        if (i != SPIN_BENCH_ITL) {
            spread_times(summary, (enum spin_bench_latency)i, result, values);
        }
    }
    spread_gaps(summary, &result->itl);
    free(values);
    return SPIN_OK;
}

static struct spin_bench_sample sample_of(const struct spin_bench_request *request)
{
    return (struct spin_bench_sample){.intended_ms = (double)request->intended_ns / NS_PER_MS,
                                      .ttft_ms = time_of(request, SPIN_BENCH_TTFT),
                                      .tpot_ms = time_of(request, SPIN_BENCH_TPOT),
                                      .e2e_ms = time_of(request, SPIN_BENCH_E2E),
                                      .prompt_tokens = request->prompt_tokens,
                                      .output_tokens = request->output_tokens,
                                      .outcome = (enum spin_bench_outcome)request->outcome};
}

/* By place in the schedule, which knows nothing of how a request fared. */
static spin_status make_samples(struct spin_bench_summary *summary,
                                const struct spin_bench_result *result, struct spin_error *err)
{
    uint64_t schedule = 0;
    for (uint32_t i = 0; i < result->requests_count; i++) {
        schedule = SPIN_MAX(schedule, (uint64_t)result->requests[i].index + 1);
    }
    const uint64_t stride =
        SPIN_MAX((schedule + SPIN_BENCH_SAMPLES_MAX - 1) / SPIN_BENCH_SAMPLES_MAX, 1u);
    summary->samples = calloc(SPIN_BENCH_SAMPLES_MAX, sizeof *summary->samples);
    if (summary->samples == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "samples of requests");
    }
    for (uint32_t i = 0; i < result->requests_count; i++) {
        const struct spin_bench_request *request = &result->requests[i];
        if (!request->warm_up && request->index % stride == 0 &&
            summary->samples_count < SPIN_BENCH_SAMPLES_MAX) {
            summary->samples[summary->samples_count++] = sample_of(request);
        }
    }
    return SPIN_OK;
}

static spin_status copy_metrics(struct spin_bench_summary *summary,
                                const struct spin_bench_result *result, struct spin_error *err)
{
    memcpy(summary->metrics_note, result->metrics_note, sizeof summary->metrics_note);
    if (result->metrics_count == 0) {
        return SPIN_OK;
    }
    const uint64_t bytes = result->metrics_count * sizeof *result->metrics;
    summary->metrics = malloc(bytes);
    if (summary->metrics == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "%u metrics", result->metrics_count);
    }
    memcpy(summary->metrics, result->metrics, bytes);
    summary->metrics_count = result->metrics_count;
    return SPIN_OK;
}

spin_status spin_bench_summary_create(const struct spin_bench_result *result,
                                      struct spin_bench_summary **out, struct spin_error *err)
{
    struct spin_bench_summary *summary = calloc(1, sizeof *summary);
    if (summary == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "a summary: %zu bytes", sizeof *summary);
    }
    summary->setup = result->setup;
    summary->slo = result->slo;
    summary->generator = result->generator;
    memcpy(summary->errors, result->errors, sizeof summary->errors);
    summary->length_s = (double)result->end_ns / NS_PER_S;
    summary->simulated_in_s = result->simulated_in;
    summary->interrupted = result->interrupted;
    count_requests(summary, result);
    spin_status status = SPIN_OK;
    SPIN_TRY_GOTO(status, make_spreads(summary, result, err), fail);
    SPIN_TRY_GOTO(status, spin_bench_curves(summary, result, err), fail);
    SPIN_TRY_GOTO(status, make_samples(summary, result, err), fail);
    SPIN_TRY_GOTO(status, copy_metrics(summary, result, err), fail);
    *out = summary;
    return SPIN_OK;
fail:
    spin_bench_summary_destroy(summary);
    return status;
}

void spin_bench_summary_destroy(struct spin_bench_summary *summary)
{
    if (summary == NULL) {
        return;
    }
    free(summary->samples);
    free(summary->metrics);
    free(summary);
}
