/* workload: how long prompts and answers are, and which prompts begin alike.
 *
 * Why        A name stands for distributions that others can look up, and request i of a seed is
 *            the same wherever it is asked for: by the generator, by each endpoint that is
 *            compared, by the simulation.
 *
 *            Where only a range and a mean are published, lengths have the distribution of greatest
 *            entropy for them, an exponential cut to the range: it adds nothing that is not known.
 *
 * Names      longbench-v2     32,000-120,000 tokens in, 55,000 in the mean; 500-15,000 out, 5,000
 *            longgenbench     16,000-19,000 in, 18,000; 7,000-32,000 out, 12,000
 *                             (both as arXiv 2604.26837 gives them)
 *            chat             4-2,048 in, 161; 4-2,048 out, 338 (ShareGPT's means, as the vLLM
 *                             paper, arXiv 2309.06180, gives them)
 *            prefix-heavy     one of 8 prefixes of 2,048 tokens, then 16-256 of its own, 128;
 *                             16-512 out, 128. prefix-heavy:GROUPS,TOKENS has others.
 *            fixed:IN,OUT     every request
 *            trace:FILE       trace.h
 * Ownership  The workload owns its trace; what a plan borrows is valid as long as it.
 * Threading  Create and destroy once; plans from any thread.
 * Units      Tokens. One factor scales every length, to 1 at least.
 * Errors     create: INVALID (the name, a number, the scale), those of trace.h. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

#define SPIN_BENCH_TOKENS_MAX (UINT32_C(1) << 22) /* of one prompt or answer, after scaling */
#define SPIN_BENCH_GROUPS_MAX 65536u

struct spin_bench_workload; /* private to workload.c */

struct spin_bench_workload_config {
    const char *name; /* as above */
    double scale;     /* above 0 */
    uint64_t seed;
};

/* What one request asks for. Its prompt is `block_count` blocks of block_tokens words, each the
 * text of a seed, and then words of its own; the last block is cut where the prompt ends. */
struct spin_bench_plan {
    uint32_t prompt_tokens; /* 1 .. SPIN_BENCH_TOKENS_MAX */
    uint32_t output_tokens;
    const uint64_t *blocks; /* borrowed from the workload */
    uint32_t block_count;
    uint32_t block_tokens;
    uint64_t text_seed; /* of its own words; the request's seed, too */
    uint64_t at_ns;     /* trace: when it is due, from the first line's; else 0 */
};

SPIN_MUST_USE spin_status
spin_bench_workload_create(const struct spin_bench_workload_config *config,
                           struct spin_bench_workload **out, struct spin_error *err);
void spin_bench_workload_destroy(struct spin_bench_workload *workload); /* NULL is allowed */
/* How many requests it has; 0: as many as wanted. */
uint64_t spin_bench_workload_count(const struct spin_bench_workload *workload);
bool spin_bench_workload_has_times(const struct spin_bench_workload *workload);
/* Request `index`, which is below the count where there is one. */
void spin_bench_workload_plan(const struct spin_bench_workload *workload, uint64_t index,
                              struct spin_bench_plan *out);

/* One line a workload for --help: "longbench-v2 ...". */
const char *spin_bench_workload_names(void);

/* An exponential cut to [min, max] with this mean: its value at `u` of [0, 1). For tests and plots
 * of the distribution. */
struct spin_bench_lengths {
    double min;
    double mean; /* inside the range */
    double max;
    double steepness; /* solved for: 0 is the uniform distribution */
};
struct spin_bench_lengths spin_bench_lengths_make(double min, double mean, double max);
double spin_bench_lengths_at(const struct spin_bench_lengths *lengths, double u);

SPIN_END_DECLS
