#include "worker/service/metrics.h"

#define ROW(id, name, labels, kind, help) \
    SPIN_METRIC_ROW(SPIN_SERVICE_METRIC_##id, name, labels, kind, help),
const struct spin_metric spin_service_metrics[SPIN_SERVICE_METRIC_COUNT] = {
    SPIN_SERVICE_METRIC_MAP(ROW)};
