#include "bench/report/compare.h"

#include "base/assert.h"
#include "bench/report/fields.h"
#include "bench/report/stats.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const verdict_names[] = {
    [SPIN_BENCH_UNKNOWN] = "unknown",
    [SPIN_BENCH_ALIKE] = "alike",
    [SPIN_BENCH_BETTER] = "better",
    [SPIN_BENCH_WORSE] = "worse",
};

const char *spin_bench_verdict_name(enum spin_bench_verdict verdict)
{
    SPIN_ASSERT((uint32_t)verdict < SPIN_ARRAY_COUNT(verdict_names));
    return verdict_names[verdict];
}

static int compare_seeds(const void *a, const void *b)
{
    const uint64_t x = (*(struct spin_bench_summary *const *)a)->setup.seed;
    const uint64_t y = (*(struct spin_bench_summary *const *)b)->setup.seed;
    return (x > y) - (x < y);
}

/* A side's runs by their seeds; the summaries stay the list's. */
struct side {
    struct spin_bench_summary *items[SPIN_BENCH_RUNS_MAX];
    uint32_t count;
};

static void sort_side(const struct spin_bench_runs *list, struct side *out)
{
    SPIN_ASSERT(list->count <= SPIN_BENCH_RUNS_MAX);
    memcpy(out->items, list->items, list->count * sizeof(void *));
    out->count = list->count;
    qsort(out->items, out->count, sizeof(void *), compare_seeds);
}

/* Whether each run has one like it, and only one, on the other side. */
static bool are_pairs(const struct side *base, const struct side *other)
{
    for (uint32_t i = 0; i < base->count; i++) {
        const uint64_t seed = base->items[i]->setup.seed;
        if (base->count != other->count || other->items[i]->setup.seed != seed ||
            (i > 0 && base->items[i - 1]->setup.seed == seed)) {
            return false;
        }
    }
    return true;
}

/* The values of those runs that have this figure. */
static uint32_t take_values(const struct side *list, uint32_t figure, double *values)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < list->count; i++) {
        if (spin_bench_figure_get(list->items[i], figure, &values[count])) {
            count++;
        }
    }
    return count;
}

static enum spin_bench_verdict judge(const struct spin_bench_compared *compared)
{
    if (!compared->has_interval) {
        return SPIN_BENCH_UNKNOWN;
    }
    if (compared->low <= 1 && compared->high >= 1) {
        return SPIN_BENCH_ALIKE;
    }
    return (compared->ratio > 1) == compared->figure.more_is_better ? SPIN_BENCH_BETTER
                                                                    : SPIN_BENCH_WORSE;
}

static struct spin_bench_compared compare_values(const struct spin_bench_comparison *comparison,
                                                 struct spin_bench_figure figure,
                                                 struct spin_stats_runs base,
                                                 struct spin_stats_runs other)
{
    struct spin_bench_compared compared = {.figure = figure,
                                           .base = spin_stats_mean(base.values, base.count),
                                           .other = spin_stats_mean(other.values, other.count)};
    struct spin_stats_ratio ratio;
    /* A figure that a run lacks leaves its like alone. */
    const bool paired = comparison->paired && base.count == comparison->base_runs &&
                        other.count == comparison->other_runs;
    const double confidence = comparison->confidence;
    if (paired ? spin_stats_ratio_of_pairs(base, other, confidence, &ratio)
               : spin_stats_ratio_of(base, other, confidence, &ratio)) {
        compared.base = ratio.base;
        compared.other = ratio.other;
        compared.has_ratio = true;
        compared.ratio = ratio.ratio;
        compared.has_interval = ratio.has_interval;
        compared.low = ratio.low;
        compared.high = ratio.high;
    }
    compared.verdict = judge(&compared);
    return compared;
}

/* What two runs must have been asked alike, or they answer different questions. Where a rate or a
 * concurrency differs on purpose, that still belongs beside the figures. */
static const char *const asked[] = {"workload", "arrival",    "rate_per_s",  "concurrency", "seed",
                                    "scale",    "warm_up_ms", "duration_ms", "requests"};

static const struct spin_bench_field *find_setup_field(const char *key)
{
    const struct spin_bench_object *setup = spin_bench_object_at(0);
    SPIN_ASSERT(setup->offset == offsetof(struct spin_bench_summary, setup));
    for (uint32_t i = 0; i < setup->count; i++) {
        if (strcmp(setup->fields[i].key, key) == 0) {
            return &setup->fields[i];
        }
    }
    SPIN_ASSERT(false);
    return NULL;
}

static bool same_field(const struct spin_bench_field *field, const struct spin_bench_setup *a,
                       const struct spin_bench_setup *b)
{
    const void *x = (const uint8_t *)a + field->offset;
    const void *y = (const uint8_t *)b + field->offset;
    switch (field->kind) {
    case SPIN_BENCH_FIELD_TEXT:
        return strcmp(x, y) == 0;
    case SPIN_BENCH_FIELD_BOOL:
        return memcmp(x, y, sizeof(bool)) == 0;
    case SPIN_BENCH_FIELD_U32:
        return memcmp(x, y, sizeof(uint32_t)) == 0;
    case SPIN_BENCH_FIELD_U64:
    case SPIN_BENCH_FIELD_DECIMAL:
    case SPIN_BENCH_FIELD_MS:
    case SPIN_BENCH_FIELD_WALL:
    case SPIN_BENCH_FIELD_REAL:
        return memcmp(x, y, sizeof(uint64_t)) == 0;
    }
    return false;
}

static bool all_same(const struct spin_bench_field *field, const struct spin_bench_setup *first,
                     const struct spin_bench_runs *list)
{
    for (uint32_t i = 0; i < list->count; i++) {
        if (!same_field(field, first, &list->items[i]->setup)) {
            return false;
        }
    }
    return true;
}

/* Repeated runs may each have a seed of their own; then the other side must have the same ones. */
static bool has_values(const struct spin_bench_field *field, const struct spin_bench_runs *list,
                       const struct spin_bench_runs *other)
{
    for (uint32_t i = 0; i < list->count; i++) {
        bool found = false;
        for (uint32_t k = 0; k < other->count && !found; k++) {
            found = same_field(field, &list->items[i]->setup, &other->items[k]->setup);
        }
        if (!found) {
            return false;
        }
    }
    return true;
}

static bool same_seeds(const struct spin_bench_field *field, const struct spin_bench_runs *base,
                       const struct spin_bench_runs *other)
{
    /* NOLINTNEXTLINE(readability-suspicious-call-argument): both ways round */
    return has_values(field, base, other) && has_values(field, other, base);
}

static void find_unlike(const struct spin_bench_runs *base, const struct spin_bench_runs *other,
                        struct spin_bench_comparison *out)
{
    const struct spin_bench_setup *first = &base->items[0]->setup;
    uint64_t used = 0;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(asked); i++) {
        const struct spin_bench_field *field = find_setup_field(asked[i]);
        const bool seeds = strcmp(asked[i], "seed") == 0;
        if (seeds ? same_seeds(field, base, other)
                  : all_same(field, first, base) && all_same(field, first, other)) {
            continue;
        }
        const int bytes = snprintf(out->unlike + used, sizeof out->unlike - used, "%s%s",
                                   used == 0 ? "" : ", ", asked[i]);
        SPIN_ASSERT(bytes > 0 && used + (uint64_t)bytes < sizeof out->unlike);
        used += (uint64_t)bytes;
    }
}

spin_status spin_bench_compare(const struct spin_bench_runs *base,
                               const struct spin_bench_runs *other, double confidence,
                               struct spin_bench_comparison *out, struct spin_error *err)
{
    if (base->count == 0 || other->count == 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "nothing to compare: a side has no runs");
    }
    memset(out, 0, sizeof *out);
    out->base_name = base->items[0]->setup.label;
    out->other_name = other->items[0]->setup.label;
    out->base_runs = base->count;
    out->other_runs = other->count;
    out->confidence = confidence;
    find_unlike(base, other, out);
    struct side sides[2];
    sort_side(base, &sides[0]);
    sort_side(other, &sides[1]);
    out->paired = are_pairs(&sides[0], &sides[1]);
    for (uint32_t i = 0; i < spin_bench_figure_count(); i++) {
        double base_values[SPIN_BENCH_RUNS_MAX];
        double other_values[SPIN_BENCH_RUNS_MAX];
        const struct spin_stats_runs a = {base_values, take_values(&sides[0], i, base_values)};
        const struct spin_stats_runs b = {other_values, take_values(&sides[1], i, other_values)};
        if (a.count > 0 && b.count > 0) {
            SPIN_ASSERT(out->figures_count < SPIN_BENCH_FIGURES_MAX);
            out->figures[out->figures_count++] = compare_values(out, spin_bench_figure_at(i), a, b);
        }
    }
    return SPIN_OK;
}
