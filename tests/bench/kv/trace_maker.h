/* trace_maker: synthetic traces with a little locality, as files that were written and read again.
 *
 * Why        Tests need choices that they can make tight or loose, and read them as benchmarks do.
 * Threading  The test's thread.
 * Units      Pages of 8 tokens, steps. */
#pragma once

#include "bench/kv/trace.h"

struct spin_trace_plan {
    uint64_t seed;
    uint32_t documents; /* document i has 8 i tokens more */
    uint32_t layers;
    uint32_t kv_heads;
    uint32_t prompt_tokens;
    uint32_t steps;
    uint32_t sink;   /* pages */
    uint32_t local;  /* whole pages beside the open one */
    uint32_t chosen; /* pages, of the others */
};

/* A name in the test's own folder. */
const char *spin_trace_path(const char *name);
/* Rows keep half of what they chose, and choose the rest anew. */
void spin_make_trace(const struct spin_trace_plan *plan, struct spin_trace *out);
