#include "router/metrics.h"

#define BOUNDS_COUNTER NULL
#define BOUNDS_GAUGE NULL
#define BOUNDS_HISTOGRAM spin_metric_latency_bounds
#define COUNT_COUNTER 0
#define COUNT_GAUGE 0
#define COUNT_HISTOGRAM SPIN_METRIC_LATENCY_BOUNDS

#define ROW(id, metric_name, metric_labels, metric_kind, metric_help) \
    [SPIN_ROUTER_METRIC_##id] = {.name = (metric_name), \
                                 .labels = (metric_labels), \
                                 .kind = SPIN_METRIC_##metric_kind, \
                                 .help = (metric_help), \
                                 .bounds = BOUNDS_##metric_kind, \
                                 .bounds_count = COUNT_##metric_kind},
const struct spin_metric spin_router_metrics[SPIN_ROUTER_METRIC_COUNT] = {
    SPIN_ROUTER_METRIC_MAP(ROW)};
