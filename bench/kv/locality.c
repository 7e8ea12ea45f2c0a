/* usage: kv_locality THREADS TRACE...
 *
 * Every trace through every policy at every size of buffer: what share of a step's pages were in
 * HBM already. `chosen` counts the pages that the query chose; `all` counts private ones, too,
 * which nearly always hit. plot.py draws the table; the RESULT is of chosen pages, at 5x. */
#include "bench/kv/replay.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define BUFFERING_MAX 8u
#define WARM_STEPS 64u
#define TRACES_MAX 8u
#define RESULT_BUFFERING 5u /* SPIN's default, arXiv 2604.26837 */
/* A buffer is large enough when no larger one gains more. */
#define SATURATED 0.01
/* Policies this close together are told apart by their tables' size. */
#define SAME 0.001

struct policy {
    const char *name;
    bool offline;
    enum spin_offline_policy offline_policy;
    enum spin_kv_replacement replacement;
    uint32_t bucket_shift;
};

/* Of the product's, the one with the smaller tables first. */
static const struct policy policies[] = {
    {.name = "slot_lru", .replacement = SPIN_KV_SLOT_LRU},
    {.name = "bucketed/1", .replacement = SPIN_KV_BUCKETED, .bucket_shift = 0},
    {.name = "bucketed/2", .replacement = SPIN_KV_BUCKETED, .bucket_shift = 1},
    {.name = "bucketed/4", .replacement = SPIN_KV_BUCKETED, .bucket_shift = 2},
    {.name = "belady", .offline = true, .offline_policy = SPIN_OFFLINE_BELADY},
    {.name = "random", .offline = true, .offline_policy = SPIN_OFFLINE_RANDOM},
};
#define POLICIES SPIN_ARRAY_COUNT(policies)
#define PRODUCT_POLICIES 4u
#define BELADY 4u

struct result {
    char algorithm[SPIN_TRACE_NAME_BYTES];
    double hit[POLICIES][BUFFERING_MAX + 1]; /* of chosen pages */
};

struct locality {
    struct spin_stream *stream;
    struct result results[TRACES_MAX];
    uint32_t count;
};

static double share(uint64_t part, uint64_t whole)
{
    return whole == 0 ? 0 : (double)part / (double)whole;
}

static void describe(const struct spin_trace *trace)
{
    const struct spin_trace_shape *shape = &trace->shape;
    const uint64_t lists = (uint64_t)shape->documents * shape->steps * spin_trace_rows(shape);
    printf(
        "trace %s: %u layers from %u on, %u heads, pages of %u tokens, %u documents, %u steps of "
        "each (%u not counted), %.1f pages of a row, %.1f MB\n",
        shape->algorithm, shape->layers, shape->first_layer, shape->kv_heads, shape->page_tokens,
        shape->documents, shape->steps, WARM_STEPS, share(trace->first[lists], lists),
        (double)trace->file_bytes / 1e6);
    for (uint32_t i = 0; i < shape->documents; i++) {
        printf("  %s: steps after %u tokens, mandatory %u pages\n", trace->documents[i].name,
               trace->documents[i].prompt_tokens, spin_trace_mandatory(trace, i));
    }
}

struct measurement {
    const struct spin_trace *trace;
    const struct policy *policy;
    uint32_t buffering;
};

static spin_status measure(const struct locality *locality, const struct measurement *wanted,
                           struct spin_hit_tally *out, struct spin_error *err)
{
    if (wanted->policy->offline) {
        const struct spin_offline_config config = {.trace = wanted->trace,
                                                   .policy = wanted->policy->offline_policy,
                                                   .buffering = wanted->buffering,
                                                   .warm_steps = WARM_STEPS};
        return spin_offline_run(&config, out, err);
    }
    const struct spin_replay_config config = {.trace = wanted->trace,
                                              .ops = spin_ops_best_cpu(),
                                              .stream = locality->stream,
                                              .replacement = wanted->policy->replacement,
                                              .bucket_shift = wanted->policy->bucket_shift,
                                              .buffering = wanted->buffering,
                                              .warm_steps = WARM_STEPS};
    return spin_replay_run(&config, out, NULL, err);
}

/* Slots of a row beside the pages of its context at the end. */
static double resident_share(const struct spin_trace *trace, uint32_t buffering)
{
    uint64_t slots = 0;
    uint64_t pages = 0;
    for (uint32_t i = 0; i < trace->shape.documents; i++) {
        const uint32_t tokens = spin_trace_tokens(trace, i, trace->shape.steps - 1);
        slots += spin_replay_slots(trace, i, buffering);
        pages += (tokens - 1) / trace->shape.page_tokens + 1;
    }
    return share(slots, pages);
}

/* Every policy at every size, a line each. */
static spin_status run_all(struct locality *locality, const struct spin_trace *trace,
                           struct spin_error *err)
{
    struct result *result = &locality->results[locality->count++];
    const struct spin_trace_shape *shape = &trace->shape;
    const uint64_t lists =
        (uint64_t)shape->documents * (shape->steps - WARM_STEPS) * spin_trace_rows(shape);
    (void)snprintf(result->algorithm, sizeof result->algorithm, "%s", shape->algorithm);
    printf("%-10s %-10s %9s %8s %8s %8s %10s\n", "algorithm", "policy", "buffering", "slots",
           "chosen", "all", "evictions");
    for (uint32_t at = 0; at < POLICIES * (BUFFERING_MAX + 1); at++) {
        const uint32_t policy = at / (BUFFERING_MAX + 1);
        const struct measurement wanted = {trace, &policies[policy], at % (BUFFERING_MAX + 1)};
        struct spin_hit_tally tally;
        SPIN_TRY(measure(locality, &wanted, &tally, err));
        result->hit[policy][wanted.buffering] = share(tally.chosen_hits, tally.chosen);
        printf("%-10s %-10s %8ux %7.1f%% %8.4f %8.4f %10.2f\n", result->algorithm,
               wanted.policy->name, wanted.buffering, 100 * resident_share(trace, wanted.buffering),
               result->hit[policy][wanted.buffering], share(tally.hits, tally.selected),
               share(tally.evictions, lists));
        (void)fflush(stdout);
    }
    return SPIN_OK;
}

static spin_status run_trace(struct locality *locality, const char *path, struct spin_error *err)
{
    struct spin_trace trace;
    SPIN_TRY(spin_trace_open(path, &trace, err));
    spin_status status = SPIN_OK;
    if (trace.shape.steps <= WARM_STEPS) {
        status = spin_fail(err, SPIN_ERR_INVALID, "%s: %u steps; more than %u are needed", path,
                           trace.shape.steps, WARM_STEPS);
    } else {
        describe(&trace);
        status = run_all(locality, &trace, err);
    }
    spin_trace_close(&trace);
    return status;
}

/* The product's best at 5x over all traces; among equals the one with the smaller tables. */
static uint32_t choose(const struct locality *locality)
{
    double sums[PRODUCT_POLICIES] = {0};
    uint32_t best = 0;
    for (uint32_t policy = 0; policy < PRODUCT_POLICIES; policy++) {
        for (uint32_t i = 0; i < locality->count; i++) {
            sums[policy] += locality->results[i].hit[policy][RESULT_BUFFERING];
        }
        best = sums[policy] > sums[best] + SAME * locality->count ? policy : best;
    }
    return best;
}

static uint32_t saturation(const struct result *result, uint32_t policy)
{
    uint32_t buffering = 0;
    while (result->hit[policy][BUFFERING_MAX] - result->hit[policy][buffering] > SATURATED) {
        buffering++;
    }
    return buffering;
}

static void conclude(const struct locality *locality)
{
    const uint32_t best = choose(locality);
    for (uint32_t i = 0; i < locality->count; i++) {
        const struct result *result = &locality->results[i];
        printf("%s: %s is within %.2f of its 8x from %ux on; at %ux %.4f, belady %.4f\n",
               result->algorithm, policies[best].name, SATURATED, saturation(result, best),
               RESULT_BUFFERING, result->hit[best][RESULT_BUFFERING],
               result->hit[BELADY][RESULT_BUFFERING]);
    }
    printf("better policy at %ux: %s (differences up to %.3f go to the smaller tables)\n",
           RESULT_BUFFERING, policies[best].name, SAME);
    printf("RESULT");
    for (uint32_t i = 0; i < locality->count; i++) {
        const struct result *result = &locality->results[i];
        printf(" hit_%s_5x=%.4f belady_%s_5x=%.4f saturation_%s=%u", result->algorithm,
               result->hit[best][RESULT_BUFFERING], result->algorithm,
               result->hit[BELADY][RESULT_BUFFERING], result->algorithm, saturation(result, best));
    }
    printf("\n");
}

int main(int argc, char **argv)
{
    struct locality locality = {0};
    struct spin_error err;
    if (argc < 3 || argc - 2 > (int)TRACES_MAX) {
        (void)fputs("usage: kv_locality THREADS TRACE...\n", stderr);
        return 2;
    }
    spin_status status =
        spin_stream_create_cpu((uint32_t)strtoul(argv[1], NULL, 10), &locality.stream, &err);
    for (int i = 2; i < argc && status == SPIN_OK; i++) {
        status = run_trace(&locality, argv[i], &err);
    }
    if (status == SPIN_OK) {
        conclude(&locality);
    } else {
        (void)fprintf(stderr, "kv_locality: %s\n", err.text);
    }
    spin_stream_destroy(locality.stream);
    return status == SPIN_OK ? 0 : 1;
}
