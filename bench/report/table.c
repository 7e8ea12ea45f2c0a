#include "bench/report/table.h"

#include "base/assert.h"
#include "base/clock.h"
#include "bench/report/stats.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* More of the requests sent later than this is worth a word: nobody's latency should hang on it. */
#define LATE_MS 10.0

/* Labels, addresses and errors come from outside: no escape of a terminal's gets through. */
static void put_text(const char *text, FILE *out)
{
    for (; *text != '\0'; text++) {
        const uint8_t byte = (uint8_t)*text;
        (void)fputc(byte < ' ' || byte == 0x7f ? '?' : byte, out);
    }
}

static void put_limit(const char *name, uint64_t limit_ns, bool *first, FILE *out)
{
    if (limit_ns != 0) {
        (void)fprintf(out, "%s%s <= %g ms", *first ? "" : ", ", name,
                      (double)limit_ns / (double)SPIN_NS_PER_MS);
        *first = false;
    }
}

static void put_setup(const struct spin_bench_summary *summary, FILE *out)
{
    const struct spin_bench_setup *setup = &summary->setup;
    const char *const texts[] = {setup->driver, setup->target, setup->model, setup->workload,
                                 setup->arrival};
    (void)fputs("run          ", out);
    put_text(setup->label, out);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(texts); i++) {
        if (texts[i][0] != '\0') {
            (void)fputs("  ", out);
            put_text(texts[i], out);
        }
    }
    if (setup->rate_per_s > 0) {
        (void)fprintf(out, "  %g req/s", setup->rate_per_s);
    }
    if (setup->concurrency > 0) {
        (void)fprintf(out, "  concurrency %u", setup->concurrency);
    }
    (void)fprintf(out, "  seed %" PRIu64 "\n", setup->seed);
}

static void put_counts(const struct spin_bench_summary *summary, FILE *out)
{
    const struct spin_bench_counts *counts = &summary->counts;
    (void)fprintf(out, "requests     %" PRIu64 " measured", counts->measured);
    for (uint32_t i = 0; i < SPIN_BENCH_OUTCOMES; i++) {
        if (counts->by_outcome[i] != 0 || i == SPIN_BENCH_OK) {
            (void)fprintf(out, ", %" PRIu64 " %s", counts->by_outcome[i],
                          spin_bench_outcome_name((enum spin_bench_outcome)i));
        }
    }
    (void)fprintf(out, "; %" PRIu64 " before, to warm up\n", counts->warm_up);
}

static void put_rates(const struct spin_bench_summary *summary, FILE *out)
{
    const struct spin_bench_rates *rates = &summary->rates;
    const struct spin_bench_counts *counts = &summary->counts;
    (void)fprintf(out, "throughput   %.2f req/s, %.1f output tok/s, %.1f tok/s over %.2f s",
                  rates->requests_per_s, rates->output_tokens_per_s, rates->tokens_per_s,
                  rates->window_s);
    if (rates->offered_per_s > 0) {
        (void)fprintf(out, "; offered %.2f req/s", rates->offered_per_s);
    }
    const double answered = (double)SPIN_MAX(counts->by_outcome[SPIN_BENCH_OK], 1u);
    (void)fprintf(out, "\ntokens       %.1f in, %.1f out an answer%s\n",
                  (double)counts->prompt_tokens / answered,
                  (double)counts->output_tokens / answered,
                  counts->usage == counts->by_outcome[SPIN_BENCH_OK]
                      ? ""
                      : " (not all counted by the server: messages and plans instead)");
    (void)fprintf(out, "concurrency  %.1f mean, %.0f at most\n", rates->concurrency_mean,
                  rates->concurrency_max);
    const struct spin_bench_slo *slo = &summary->slo;
    if (slo->ttft_ns != 0 || slo->tpot_ns != 0 || slo->e2e_ns != 0) {
        bool first = true;
        (void)fprintf(out, "goodput      %.2f req/s, %.1f %% of requests (", rates->goodput_per_s,
                      100 * rates->good_part);
        put_limit("ttft", slo->ttft_ns, &first, out);
        put_limit("tpot", slo->tpot_ns, &first, out);
        put_limit("e2e", slo->e2e_ns, &first, out);
        (void)fputs(")\n", out);
    }
}

static void put_spreads(const struct spin_bench_summary *summary, FILE *out)
{
    (void)fprintf(out, "%-6s %10s %11s %11s %11s %11s %11s\n", "ms", "count", "mean", "p50", "p90",
                  "p99", "max");
    for (uint32_t i = 0; i < SPIN_BENCH_LATENCIES; i++) {
        const struct spin_bench_spread *spread = &summary->spreads[i];
        const char *name = spin_bench_latency_name((enum spin_bench_latency)i);
        if (spread->count == 0) {
            (void)fprintf(out, "%-6s %10u %11s %11s %11s %11s %11s\n", name, 0u, "-", "-", "-", "-",
                          "-");
            continue;
        }
        (void)fprintf(out, "%-6s %10" PRIu64 " %11.2f %11.2f %11.2f %11.2f %11.2f\n", name,
                      spread->count, spread->mean_ms, spread->p50_ms, spread->p90_ms,
                      spread->p99_ms, spread->max_ms);
    }
}

static void put_errors(const struct spin_bench_summary *summary, FILE *out)
{
    for (uint32_t i = 0; i < SPIN_BENCH_OUTCOMES; i++) {
        const struct spin_bench_error *error = &summary->errors[i];
        if (error->count != 0) {
            (void)fprintf(out, "%-9s %7" PRIu64 "  %s: \"",
                          spin_bench_outcome_name((enum spin_bench_outcome)i), error->count,
                          spin_bench_outcome_text((enum spin_bench_outcome)i));
            put_text(error->first, out);
            (void)fputs("\"\n", out);
        }
    }
}

static void put_doubts(const struct spin_bench_summary *summary, FILE *out)
{
    const struct spin_bench_spread *lag = &summary->spreads[SPIN_BENCH_LAG];
    if (summary->generator.limited) {
        (void)fputs("WARNING: the generator was the bottleneck: ", out);
        put_text(summary->generator.limited_why, out);
        (void)fputs("\n", out);
    }
    if (summary->interrupted) {
        (void)fputs("WARNING: the run was interrupted\n", out);
    }
    if (summary->counts.measured == 0) {
        (void)fputs("WARNING: nothing was measured: every request belongs to the warm-up\n", out);
    } else if (summary->counts.by_outcome[SPIN_BENCH_OK] == 0) {
        (void)fputs("WARNING: no request was answered to its end\n", out);
    }
    if (lag->count > 0 && lag->p99_ms > LATE_MS) {
        (void)fprintf(out, "WARNING: 1 %% of the requests were sent %.1f ms late or more\n",
                      lag->p99_ms);
    }
    if (summary->metrics_note[0] != '\0') {
        (void)fputs("note: /metrics: ", out);
        put_text(summary->metrics_note, out);
        (void)fputs("\n", out);
    }
    if (summary->simulated_in_s > 0) {
        (void)fprintf(out, "note: %.1f s, simulated in %.2f s\n", summary->length_s,
                      summary->simulated_in_s);
    }
}

void spin_bench_table_run(const struct spin_bench_summary *summary, FILE *out)
{
    put_setup(summary, out);
    put_counts(summary, out);
    put_rates(summary, out);
    put_spreads(summary, out);
    put_errors(summary, out);
    put_doubts(summary, out);
}

/* The columns of a table of several runs. */
static const struct {
    const char *figure;
    const char *head;
} columns[] = {{"requests_per_s", "req/s"},     {"output_tokens_per_s", "out tok/s"},
               {"goodput_per_s", "good req/s"}, {"failed_part", "failed"},
               {"ttft_p50_ms", "ttft p50"},     {"ttft_p99_ms", "ttft p99"},
               {"tpot_p50_ms", "tpot p50"},     {"itl_p99_ms", "itl p99"},
               {"e2e_p50_ms", "e2e p50"}};

/* Repetitions of one experiment: one row. */
static bool is_same_load(const struct spin_bench_setup *a, const struct spin_bench_setup *b)
{
    return strcmp(a->label, b->label) == 0 && a->rate_per_s == b->rate_per_s &&
           a->concurrency == b->concurrency;
}

static bool is_first(const struct spin_bench_runs *list, uint32_t index)
{
    for (uint32_t i = 0; i < index; i++) {
        if (is_same_load(&list->items[i]->setup, &list->items[index]->setup)) {
            return false;
        }
    }
    return true;
}

/* The median over the runs of one load; false: none has it. */
static bool median_of(const struct spin_bench_runs *list, const struct spin_bench_setup *setup,
                      uint32_t figure, double *out)
{
    double values[SPIN_BENCH_RUNS_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < list->count; i++) {
        if (is_same_load(&list->items[i]->setup, setup) &&
            spin_bench_figure_get(list->items[i], figure, &values[count])) {
            count++;
        }
    }
    if (count == 0) {
        return false;
    }
    spin_stats_sort(values, count);
    *out = (values[(count - 1) / 2] + values[count / 2]) / 2;
    return true;
}

static void put_row(const struct spin_bench_runs *list, const struct spin_bench_setup *setup,
                    FILE *out)
{
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(columns); i++) {
        double value = 0;
        if (median_of(list, setup, spin_bench_figure_find(columns[i].figure), &value)) {
            (void)fprintf(out, "%11.2f", value);
        } else {
            (void)fprintf(out, "%11s", "-");
        }
    }
    uint32_t runs = 0;
    for (uint32_t i = 0; i < list->count; i++) {
        runs += is_same_load(&list->items[i]->setup, setup) ? 1 : 0;
    }
    (void)fprintf(out, "  %4u  ", runs);
    put_text(setup->label, out);
    if (setup->rate_per_s > 0) {
        (void)fprintf(out, ", %g req/s\n", setup->rate_per_s);
    } else {
        (void)fprintf(out, ", %u streams\n", setup->concurrency);
    }
}

void spin_bench_table_runs(const struct spin_bench_runs *list, FILE *out)
{
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(columns); i++) {
        (void)fprintf(out, "%11s", columns[i].head);
    }
    (void)fputs("  runs  label, load\n", out);
    for (uint32_t i = 0; i < list->count; i++) {
        if (is_first(list, i)) {
            put_row(list, &list->items[i]->setup, out);
        }
    }
}

static void put_compared(const struct spin_bench_comparison *comparison,
                         const struct spin_bench_compared *compared, FILE *out)
{
    (void)fprintf(out, "%-20s %12.3f %12.3f %-6s", compared->figure.name, compared->base,
                  compared->other, compared->figure.unit);
    if (!compared->has_ratio) {
        (void)fputs("        -  (a value of 0 has no ratio)\n", out);
        return;
    }
    (void)fprintf(out, " %8.3f", compared->ratio);
    if (!compared->has_interval) {
        const bool is_wide = comparison->base_runs > 1 && comparison->other_runs > 1;
        (void)fputs(is_wide ? "  no interval: too wide, or too few runs have it\n" : "\n", out);
        return;
    }
    (void)fprintf(out, "  %8.3f .. %8.3f  %s\n", compared->low, compared->high,
                  spin_bench_verdict_name(compared->verdict));
}

void spin_bench_table_compare(const struct spin_bench_comparison *comparison, FILE *out)
{
    (void)fputs("A  ", out);
    put_text(comparison->base_name, out);
    (void)fprintf(out, " (%u run%s)\nB  ", comparison->base_runs,
                  comparison->base_runs == 1 ? "" : "s");
    put_text(comparison->other_name, out);
    (void)fprintf(out, " (%u run%s)\n", comparison->other_runs,
                  comparison->other_runs == 1 ? "" : "s");
    (void)fprintf(out, "%-20s %12s %12s %-6s %8s  %g %% interval; B is\n", "", "A", "B", "", "B/A",
                  100 * comparison->confidence);
    for (uint32_t i = 0; i < comparison->figures_count; i++) {
        put_compared(comparison, &comparison->figures[i], out);
    }
    if (comparison->paired && comparison->base_runs > 1) {
        (void)fputs("note: intervals of the ratios seed by seed\n", out);
    }
    if (comparison->base_runs < 2 || comparison->other_runs < 2) {
        (void)fputs("note: no intervals: they need two runs or more on both sides (--repeat)\n",
                    out);
    }
    if (comparison->unlike[0] != '\0') {
        (void)fprintf(out, "WARNING: the runs were not asked the same: %s\n", comparison->unlike);
    }
}
