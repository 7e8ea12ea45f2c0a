/* Any bytes as a trace: lines within their limits and in order, or an error that says where. */
#include "base/assert.h"
#include "bench/load/trace.h"
#include "bench/load/workload.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    struct spin_bench_trace *trace = NULL;
    struct spin_error err = {0};
    if (spin_bench_trace_parse("x", (const char *)bytes, count, &trace, &err) != SPIN_OK) {
        SPIN_ASSERT(trace == NULL);
        SPIN_ASSERT(strncmp(err.text, "x", 1) == 0);
        return 0;
    }
    uint64_t last_ns = 0;
    SPIN_ASSERT_NE(spin_bench_trace_count(trace), 0);
    for (uint64_t i = 0; i < spin_bench_trace_count(trace); i++) {
        const struct spin_bench_trace_line *line = spin_bench_trace_line(trace, i);
        SPIN_ASSERT(line->at_ns >= last_ns);
        SPIN_ASSERT(line->input_tokens >= 1 && line->input_tokens <= SPIN_BENCH_TOKENS_MAX);
        SPIN_ASSERT(line->output_tokens >= 1 && line->output_tokens <= SPIN_BENCH_TOKENS_MAX);
        SPIN_ASSERT_LE(line->hash_count, SPIN_BENCH_TRACE_HASHES_MAX);
        last_ns = line->at_ns;
    }
    spin_bench_trace_close(trace);
    return 0;
}
