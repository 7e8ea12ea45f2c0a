/* trace: requests as they were once seen: when, how long, and what they had in common.
 *
 * Why        Production traffic is no distribution. The format is that of the Mooncake traces,
 *            which other tools replay, too: a line of JSON for each request,
 *
 *                {"timestamp": 27482, "input_length": 6955, "output_length": 52,
 *                 "hash_ids": [46, 47, 2353]}
 *
 *            timestamp in milliseconds; hash_ids, which may be missing, name blocks of 512 tokens
 *            of the prompt: equal ids, equal text. Other members are skipped.
 * Ownership  The trace owns its lines.
 * Threading  Open and close once; lines may be read by all threads.
 * Units      Tokens; at_ns counts from the first line.
 * Errors     open: those of base/file.h; INVALID and LIMIT name the line and the member. Empty
 *            lines are skipped; a trace without a request is INVALID. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

#define SPIN_BENCH_TRACE_BLOCK_TOKENS 512u
#define SPIN_BENCH_TRACE_LINES_MAX (UINT32_C(1) << 22)
#define SPIN_BENCH_TRACE_LINE_BYTES_MAX (UINT64_C(1) << 20)
#define SPIN_BENCH_TRACE_HASHES_MAX 16384u /* of a line: 8 million tokens */

struct spin_bench_trace; /* private to trace.c */

struct spin_bench_trace_line {
    uint64_t at_ns;
    uint32_t input_tokens;  /* 1 .. SPIN_BENCH_TOKENS_MAX of workload.h */
    uint32_t output_tokens; /* the same */
    uint32_t hash_count;
    const uint64_t *hash_ids;
};

SPIN_MUST_USE spin_status spin_bench_trace_open(const char *path, struct spin_bench_trace **out,
                                                struct spin_error *err);
/* The same of `count` bytes in memory; `name` is for messages. */
SPIN_MUST_USE spin_status spin_bench_trace_parse(const char *name, const char *bytes,
                                                 uint64_t count, struct spin_bench_trace **out,
                                                 struct spin_error *err);
void spin_bench_trace_close(struct spin_bench_trace *trace); /* NULL is allowed */
uint64_t spin_bench_trace_count(const struct spin_bench_trace *trace);
const struct spin_bench_trace_line *spin_bench_trace_line(const struct spin_bench_trace *trace,
                                                          uint64_t index);

SPIN_END_DECLS
