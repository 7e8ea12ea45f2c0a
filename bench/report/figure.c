#include "base/assert.h"
#include "bench/report/summary.h"

#include <string.h>

/* Why a figure may be missing. */
enum needs { NEEDS_REQUESTS, NEEDS_SLO, NEEDS_SPREAD };

struct row {
    struct spin_bench_figure figure;
    enum needs needs;
    enum spin_bench_latency latency; /* NEEDS_SPREAD */
    uint64_t offset;                 /* of a double in the summary, or in the spread */
};

#define RATE(field, unit_text, more) \
    { \
        .figure = {.name = #field, .unit = (unit_text), .more_is_better = (more)}, \
        .offset = offsetof(struct spin_bench_summary, rates.field) \
    }
#define GOOD(field, unit_text) \
    { \
        .figure = {.name = #field, .unit = (unit_text), .more_is_better = true}, \
        .needs = NEEDS_SLO, .offset = offsetof(struct spin_bench_summary, rates.field) \
    }
#define TIME(LATENCY, latency_name, field) \
    { \
        .figure = {.name = latency_name "_" #field, .unit = "ms", .more_is_better = false}, \
        .needs = NEEDS_SPREAD, .latency = SPIN_BENCH_##LATENCY, \
        .offset = offsetof(struct spin_bench_spread, field) \
    }
#define TIMES(LATENCY, latency_name) \
    TIME(LATENCY, latency_name, mean_ms), TIME(LATENCY, latency_name, p50_ms), \
        TIME(LATENCY, latency_name, p90_ms), TIME(LATENCY, latency_name, p99_ms), \
        TIME(LATENCY, latency_name, max_ms)

static const struct row rows[] = {
    RATE(requests_per_s, "req/s", true),
    RATE(output_tokens_per_s, "tok/s", true),
    RATE(tokens_per_s, "tok/s", true),
    GOOD(goodput_per_s, "req/s"),
    GOOD(good_part, ""),
    RATE(failed_part, "", false),
    TIMES(TTFT, "ttft"),
    TIMES(TPOT, "tpot"),
    TIMES(ITL, "itl"),
    TIMES(E2E, "e2e"),
};

uint32_t spin_bench_figure_count(void)
{
    return SPIN_ARRAY_COUNT(rows);
}

struct spin_bench_figure spin_bench_figure_at(uint32_t index)
{
    SPIN_ASSERT(index < SPIN_ARRAY_COUNT(rows));
    return rows[index].figure;
}

static double read_double(const void *base, uint64_t offset)
{
    double value = 0;
    memcpy(&value, (const uint8_t *)base + offset, sizeof value);
    return value;
}

bool spin_bench_figure_get(const struct spin_bench_summary *summary, uint32_t index, double *out)
{
    SPIN_ASSERT(index < SPIN_ARRAY_COUNT(rows));
    const struct row *row = &rows[index];
    if (summary->counts.measured == 0) {
        return false;
    }
    switch (row->needs) {
    case NEEDS_REQUESTS:
        break;
    case NEEDS_SLO:
        if (summary->slo.ttft_ns == 0 && summary->slo.tpot_ns == 0 && summary->slo.e2e_ns == 0) {
            return false;
        }
        break;
    case NEEDS_SPREAD:
        *out = read_double(&summary->spreads[row->latency], row->offset);
        return summary->spreads[row->latency].count > 0;
    }
    *out = read_double(summary, row->offset);
    return true;
}

uint32_t spin_bench_figure_find(const char *name)
{
    uint32_t index = 0;
    while (index < SPIN_ARRAY_COUNT(rows) && strcmp(rows[index].figure.name, name) != 0) {
        index++;
    }
    return index;
}
