/* metrics: counters, gauges and histograms from one table, rendered as Prometheus text.
 *
 * Why        A metric name is an interface. Every process has one table (name, kind, help); the
 *            enum that indexes it is made from the same X-macro, so no name is typed twice.
 * Ownership  The registry owns the values; the table is the caller's and static.
 * Threading  add, set, observe: any thread, no lock, one relaxed atomic in a shard of its own.
 *            render: any thread; it adds the shards up.
 * Units      In the name: _total, _seconds, _bytes, _ratio. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

enum spin_metric_kind { SPIN_METRIC_COUNTER, SPIN_METRIC_GAUGE, SPIN_METRIC_HISTOGRAM };

struct spin_metric {
    const char *name; /* without labels: "spin_requests_total" */
    const char
        *labels; /* NULL or one constant set: "reason=\"stop\""; rows of one name stand together */
    enum spin_metric_kind kind;
    const char *help;
    const double *bounds; /* histogram: ascending upper bounds, without +Inf */
    uint32_t bounds_count;
};

/* Bounds in seconds that fit TTFT, TPOT and request latencies alike: 1 ms .. 600 s. */
#define SPIN_METRIC_LATENCY_BOUNDS 20u /* a constant, for static tables */
extern const double spin_metric_latency_bounds[SPIN_METRIC_LATENCY_BOUNDS];

/* A row of a table from an X-macro's (id, name, labels, COUNTER | GAUGE | HISTOGRAM, help), its id
 * made into `index`; histograms are of latencies. */
#define SPIN_METRIC_ROW(index, metric_name, metric_labels, metric_kind, metric_help) \
    [index] = {.name = (metric_name), \
               .labels = (metric_labels), \
               .kind = SPIN_METRIC_##metric_kind, \
               .help = (metric_help), \
               .bounds = SPIN_METRIC_BOUNDS_##metric_kind, \
               .bounds_count = SPIN_METRIC_BOUNDS_COUNT_##metric_kind}
#define SPIN_METRIC_BOUNDS_COUNTER NULL
#define SPIN_METRIC_BOUNDS_GAUGE NULL
#define SPIN_METRIC_BOUNDS_HISTOGRAM spin_metric_latency_bounds
#define SPIN_METRIC_BOUNDS_COUNT_COUNTER 0
#define SPIN_METRIC_BOUNDS_COUNT_GAUGE 0
#define SPIN_METRIC_BOUNDS_COUNT_HISTOGRAM SPIN_METRIC_LATENCY_BOUNDS

struct spin_metrics; /* private to metrics.c */

SPIN_MUST_USE spin_status spin_metrics_create(const struct spin_metric *table, uint32_t count,
                                              struct spin_metrics **out, struct spin_error *err);
void spin_metrics_destroy(struct spin_metrics *metrics); /* NULL is allowed */
void spin_metrics_add(struct spin_metrics *metrics, uint32_t metric, uint64_t amount);
void spin_metrics_set(struct spin_metrics *metrics, uint32_t metric, double value);
void spin_metrics_observe(struct spin_metrics *metrics, uint32_t metric, double value);
/* A counter's sum, a gauge's value, a histogram's count. */
double spin_metrics_read(const struct spin_metrics *metrics, uint32_t metric);
/* Prometheus text exposition 0.0.4. Returns the bytes needed; writes at most `capacity`: whole
 * lines, then zeros. `common_labels` may be NULL: "model_name=\"x\"". */
uint64_t spin_metrics_render(const struct spin_metrics *metrics, const char *common_labels,
                             char *out, uint64_t capacity);

SPIN_END_DECLS
