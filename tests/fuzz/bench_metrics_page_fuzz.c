/* Any bytes as a page of /metrics: names end, values are finite, and nothing is over its limit. */
#include "base/assert.h"
#include "bench/load/result.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    struct spin_bench_result *result = NULL;
    const char *page = (const char *)bytes;
    const uint64_t half = count / 2;
    SPIN_ASSERT(spin_bench_result_create(0, &result, NULL) == SPIN_OK);
    SPIN_ASSERT(spin_bench_result_metrics(result, SPIN_BENCH_BEFORE, page, half, NULL) == SPIN_OK);
    SPIN_ASSERT(spin_bench_result_metrics(result, SPIN_BENCH_AFTER, page + half, count - half,
                                          NULL) == SPIN_OK);
    SPIN_ASSERT(result->metrics_count <= SPIN_BENCH_METRICS_MAX);
    for (uint32_t i = 0; i < result->metrics_count; i++) {
        const struct spin_bench_metric *metric = &result->metrics[i];
        SPIN_ASSERT(metric->name[0] != '\0');
        SPIN_ASSERT(memchr(metric->name, '\0', sizeof metric->name) != NULL);
        SPIN_ASSERT(metric->has_before || metric->has_after);
        SPIN_ASSERT(isfinite(metric->before));
        SPIN_ASSERT(isfinite(metric->after));
    }
    spin_bench_result_destroy(result);
    return 0;
}
