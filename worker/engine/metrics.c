#include "worker/engine/metrics.h"

#define ROW(id, name, labels, kind, help) \
    SPIN_METRIC_ROW(SPIN_ENGINE_METRIC_##id, name, labels, kind, help),
const struct spin_metric spin_engine_metrics[SPIN_ENGINE_METRIC_COUNT] = {
    SPIN_ENGINE_METRIC_MAP(ROW)};
