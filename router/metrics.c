#include "router/metrics.h"

#define ROW(id, name, labels, kind, help) \
    SPIN_METRIC_ROW(SPIN_ROUTER_METRIC_##id, name, labels, kind, help),
const struct spin_metric spin_router_metrics[SPIN_ROUTER_METRIC_COUNT] = {
    SPIN_ROUTER_METRIC_MAP(ROW)};
