#include "base/metrics.h"

#include "base/assert.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* More shards than threads that count at a time: loop, rpc, engine, xfer, workers of the CPU ops.
 * Threads beyond share one, which is slower but as exact. */
#define SHARDS 16u
#define CACHE_LINE_BYTES 64u

/* Any number as text: 17 digits, sign, point, exponent, NUL. */
#define NUMBER_CHARS 32

const double spin_metric_latency_bounds[SPIN_METRIC_LATENCY_BOUNDS] = {
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
    2.5,   5,      10,    20,   30,    60,   120, 180,  300, 600,
};

/* Every access is relaxed: a cell publishes nothing but its own value. */
struct cell {
    _Atomic uint64_t value;
};

/* A metric's cells, in every shard at the same place:
 *
 *     counter    [sum]
 *     gauge      [bits of the double]                      only shard 0 is used
 *     histogram  [bucket 0] .. [bucket n-1] [+Inf] [bits of the sum]
 */
struct spin_metrics {
    const struct spin_metric *table;
    uint32_t count;
    uint32_t shard_cells; /* cells from one shard to the next: whole cache lines */
    uint32_t *first_cell; /* of each metric, within a shard */
    struct cell *cells;
};

static uint32_t cell_count(const struct spin_metric *metric)
{
    return metric->kind == SPIN_METRIC_HISTOGRAM ? metric->bounds_count + 2 : 1;
}

static bool is_name(const char *name)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_:";
    return name[0] != '\0' && strchr(letters, name[0]) != NULL &&
           name[strspn(name, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_:")] ==
               '\0';
}

static bool starts_family(const struct spin_metric *table, uint32_t metric)
{
    return metric == 0 || strcmp(table[metric].name, table[metric - 1].name) != 0;
}

/* The table is ours, so a mistake in it is a bug. */
static void assert_metric(const struct spin_metric *table, uint32_t index)
{
    const struct spin_metric *metric = &table[index];
    SPIN_ASSERT(is_name(metric->name));
    SPIN_ASSERT(metric->help != NULL);
    for (uint32_t i = 1; i < metric->bounds_count; i++) {
        SPIN_ASSERT(metric->bounds[i - 1] < metric->bounds[i]);
    }
    if (!starts_family(table, index)) {
        SPIN_ASSERT_EQ(metric->kind, table[index - 1].kind);
        return;
    }
    for (uint32_t i = 0; i < index; i++) { /* rows of one name stand together */
        SPIN_ASSERT(strcmp(metric->name, table[i].name) != 0);
    }
}

spin_status spin_metrics_create(const struct spin_metric *table, uint32_t count,
                                struct spin_metrics **out, struct spin_error *err)
{
    struct spin_metrics *metrics = calloc(1, sizeof *metrics);
    if (metrics == NULL) {
        goto fail;
    }
    metrics->table = table;
    metrics->count = count;
    metrics->first_cell = calloc(count + 1u, sizeof *metrics->first_cell);
    if (metrics->first_cell == NULL) {
        goto fail;
    }
    uint32_t cells = 0;
    for (uint32_t i = 0; i < count; i++) {
        assert_metric(table, i);
        metrics->first_cell[i] = cells;
        cells += cell_count(&table[i]);
    }
    const uint32_t line_cells = CACHE_LINE_BYTES / (uint32_t)sizeof *metrics->cells;
    metrics->shard_cells = (cells / line_cells + 1) * line_cells;
    const uint64_t bytes = (uint64_t)SHARDS * metrics->shard_cells * sizeof *metrics->cells;
    metrics->cells = aligned_alloc(CACHE_LINE_BYTES, bytes);
    if (metrics->cells == NULL) {
        goto fail;
    }
    for (uint64_t i = 0; i < bytes / sizeof *metrics->cells; i++) {
        atomic_init(&metrics->cells[i].value, 0);
    }
    *out = metrics;
    return SPIN_OK;
fail:
    spin_metrics_destroy(metrics);
    return spin_fail(err, SPIN_ERR_NO_MEMORY, "metrics: table of %u rows", count);
}

void spin_metrics_destroy(struct spin_metrics *metrics)
{
    if (metrics != NULL) {
        free(metrics->first_cell);
        free(metrics->cells);
        free(metrics);
    }
}

static uint32_t current_shard(void)
{
    static _Atomic uint32_t next;
    static _Thread_local uint32_t mine; /* shard + 1; 0: none yet */
    if (mine == 0) {
        mine = atomic_fetch_add_explicit(&next, 1, memory_order_relaxed) % SHARDS + 1;
    }
    return mine - 1;
}

static struct cell *cell_at(const struct spin_metrics *metrics, uint32_t shard, uint32_t metric,
                            uint32_t cell)
{
    return metrics->cells + (uint64_t)shard * metrics->shard_cells + metrics->first_cell[metric] +
           cell;
}

static uint64_t bits_of(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static double double_of(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void assert_kind(const struct spin_metrics *metrics, uint32_t metric,
                        enum spin_metric_kind kind)
{
    SPIN_ASSERT_LT(metric, metrics->count);
    SPIN_ASSERT_EQ(metrics->table[metric].kind, kind);
}

void spin_metrics_add(struct spin_metrics *metrics, uint32_t metric, uint64_t amount)
{
    assert_kind(metrics, metric, SPIN_METRIC_COUNTER);
    (void)atomic_fetch_add_explicit(&cell_at(metrics, current_shard(), metric, 0)->value, amount,
                                    memory_order_relaxed);
}

void spin_metrics_set(struct spin_metrics *metrics, uint32_t metric, double value)
{
    assert_kind(metrics, metric, SPIN_METRIC_GAUGE);
    atomic_store_explicit(&cell_at(metrics, 0, metric, 0)->value, bits_of(value),
                          memory_order_relaxed);
}

static void add_double(_Atomic uint64_t *cell, double amount)
{
    uint64_t seen = atomic_load_explicit(cell, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(cell, &seen, bits_of(double_of(seen) + amount),
                                                  memory_order_relaxed, memory_order_relaxed)) {
    }
}

void spin_metrics_observe(struct spin_metrics *metrics, uint32_t metric, double value)
{
    assert_kind(metrics, metric, SPIN_METRIC_HISTOGRAM);
    const struct spin_metric *row = &metrics->table[metric];
    uint32_t bucket = 0;
    /* "le" includes its bound. A NaN is below nothing and lands in +Inf. */
    while (bucket < row->bounds_count && !(value <= row->bounds[bucket])) {
        bucket++;
    }
    const uint32_t shard = current_shard();
    (void)atomic_fetch_add_explicit(&cell_at(metrics, shard, metric, bucket)->value, 1,
                                    memory_order_relaxed);
    add_double(&cell_at(metrics, shard, metric, row->bounds_count + 1)->value, value);
}

static uint64_t sum_cells(const struct spin_metrics *metrics, uint32_t metric, uint32_t cell)
{
    uint64_t sum = 0;
    for (uint32_t shard = 0; shard < SHARDS; shard++) {
        sum += atomic_load_explicit(&cell_at(metrics, shard, metric, cell)->value,
                                    memory_order_relaxed);
    }
    return sum;
}

static double sum_double_cells(const struct spin_metrics *metrics, uint32_t metric, uint32_t cell)
{
    double sum = 0;
    for (uint32_t shard = 0; shard < SHARDS; shard++) {
        sum += double_of(atomic_load_explicit(&cell_at(metrics, shard, metric, cell)->value,
                                              memory_order_relaxed));
    }
    return sum;
}

double spin_metrics_read(const struct spin_metrics *metrics, uint32_t metric)
{
    SPIN_ASSERT_LT(metric, metrics->count);
    const struct spin_metric *row = &metrics->table[metric];
    switch (row->kind) {
    case SPIN_METRIC_COUNTER:
        return (double)sum_cells(metrics, metric, 0);
    case SPIN_METRIC_GAUGE:
        return double_of(
            atomic_load_explicit(&cell_at(metrics, 0, metric, 0)->value, memory_order_relaxed));
    case SPIN_METRIC_HISTOGRAM:
        break;
    }
    uint64_t count = 0;
    for (uint32_t bucket = 0; bucket <= row->bounds_count; bucket++) {
        count += sum_cells(metrics, metric, bucket);
    }
    return (double)count;
}

/* Rendering. `needed` counts everything; `written` stops at the last line that fitted whole. */
struct page {
    char *out;
    uint64_t capacity;
    uint64_t needed;
    uint64_t written;
};

static void put_bytes(struct page *page, const char *text, uint64_t count)
{
    if (page->needed < page->capacity) {
        memcpy(page->out + page->needed, text, SPIN_MIN(count, page->capacity - page->needed));
    }
    page->needed += count;
}

static void put(struct page *page, const char *text)
{
    put_bytes(page, text, strlen(text));
}

static void end_line(struct page *page)
{
    put_bytes(page, "\n", 1);
    if (page->needed <= page->capacity) {
        page->written = page->needed;
    }
}

static void put_double(struct page *page, double value)
{
    if (isnan(value)) {
        put(page, "NaN");
        return;
    }
    if (isinf(value)) {
        put(page, value > 0 ? "+Inf" : "-Inf");
        return;
    }
    char text[NUMBER_CHARS];
    (void)snprintf(text, sizeof text, "%.15g", value);
    if (strtod(text, NULL) != value) { /* the short form is what people read: 0.1 */
        (void)snprintf(text, sizeof text, "%.17g", value);
    }
    put(page, text);
}

static void put_u64(struct page *page, uint64_t value)
{
    char text[NUMBER_CHARS];
    (void)snprintf(text, sizeof text, "%" PRIu64, value);
    put(page, text);
}

/* HELP text escapes the backslash and the line feed, nothing else. */
static void put_help(struct page *page, const char *help)
{
    for (const char *at = help; *at != '\0'; at++) {
        if (*at == '\\') {
            put(page, "\\\\");
        } else if (*at == '\n') {
            put(page, "\\n");
        } else {
            put_bytes(page, at, 1);
        }
    }
}

/* What stands between the braces of every line of a row. */
struct labels {
    const char *common;
    const char *row;
};

static bool put_label_set(struct page *page, const char *set, bool first)
{
    if (set == NULL || set[0] == '\0') {
        return first;
    }
    put(page, first ? "{" : ",");
    put(page, set);
    return false;
}

/* "name{labels,le="bound"} ", with `bound` NULL for everything but buckets. */
static void put_series(struct page *page, const char *name, const char *suffix,
                       const struct labels *labels, const double *bound)
{
    put(page, name);
    put(page, suffix);
    bool empty = put_label_set(page, labels->common, true);
    empty = put_label_set(page, labels->row, empty);
    if (bound != NULL) {
        put(page, empty ? "{le=\"" : ",le=\"");
        put_double(page, *bound);
        put(page, "\"");
        empty = false;
    }
    put(page, empty ? " " : "} ");
}

static void put_histogram(struct page *page, const struct spin_metrics *metrics, uint32_t metric,
                          const struct labels *labels)
{
    const struct spin_metric *row = &metrics->table[metric];
    uint64_t count = 0; /* made of the same reads as the buckets, so _count equals +Inf */
    for (uint32_t bucket = 0; bucket <= row->bounds_count; bucket++) {
        const double bound = bucket < row->bounds_count ? row->bounds[bucket] : (double)INFINITY;
        count += sum_cells(metrics, metric, bucket);
        put_series(page, row->name, "_bucket", labels, &bound);
        put_u64(page, count);
        end_line(page);
    }
    put_series(page, row->name, "_sum", labels, NULL);
    put_double(page, sum_double_cells(metrics, metric, row->bounds_count + 1));
    end_line(page);
    put_series(page, row->name, "_count", labels, NULL);
    put_u64(page, count);
    end_line(page);
}

static const char *kind_name(enum spin_metric_kind kind)
{
    switch (kind) {
    case SPIN_METRIC_COUNTER:
        return "counter";
    case SPIN_METRIC_GAUGE:
        return "gauge";
    case SPIN_METRIC_HISTOGRAM:
        return "histogram";
    }
    return "untyped";
}

static void put_family_head(struct page *page, const struct spin_metric *row)
{
    put(page, "# HELP ");
    put(page, row->name);
    put(page, " ");
    put_help(page, row->help);
    end_line(page);
    put(page, "# TYPE ");
    put(page, row->name);
    put(page, " ");
    put(page, kind_name(row->kind));
    end_line(page);
}

static void put_metric(struct page *page, const struct spin_metrics *metrics, uint32_t metric,
                       const char *common_labels)
{
    const struct spin_metric *row = &metrics->table[metric];
    const struct labels labels = {.common = common_labels, .row = row->labels};
    if (starts_family(metrics->table, metric)) {
        put_family_head(page, row);
    }
    switch (row->kind) {
    case SPIN_METRIC_COUNTER:
        put_series(page, row->name, "", &labels, NULL);
        put_u64(page, sum_cells(metrics, metric, 0));
        end_line(page);
        return;
    case SPIN_METRIC_GAUGE:
        put_series(page, row->name, "", &labels, NULL);
        put_double(page, spin_metrics_read(metrics, metric));
        end_line(page);
        return;
    case SPIN_METRIC_HISTOGRAM:
        put_histogram(page, metrics, metric, &labels);
        return;
    }
}

uint64_t spin_metrics_render(const struct spin_metrics *metrics, const char *common_labels,
                             char *out, uint64_t capacity)
{
    struct page page = {.out = out, .capacity = capacity};
    for (uint32_t metric = 0; metric < metrics->count; metric++) {
        put_metric(&page, metrics, metric, common_labels);
    }
    if (page.written < capacity) { /* what follows the last whole line is no text */
        memset(out + page.written, 0, capacity - page.written);
    }
    return page.needed;
}
