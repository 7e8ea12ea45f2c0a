#include "bench/load/workload.h"

#include "base/assert.h"
#include "base/rng.h"
#include "bench/load/trace.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is drawn for a request comes from streams of its own. */
enum draw { DRAW_PROMPT = 0x776f726b, DRAW_OUTPUT, DRAW_GROUP, DRAW_TEXT, DRAW_PREFIX };

enum source { NAMED, FIXED, TRACE };

struct published {
    const char *name;
    double prompt[3]; /* min, mean, max */
    double output[3];
    uint32_t groups; /* 0: no prefixes */
    uint32_t prefix_tokens;
};

static const struct published table[] = {
    {.name = "longbench-v2", .prompt = {32e3, 55e3, 120e3}, .output = {500, 5e3, 15e3}},
    {.name = "longgenbench", .prompt = {16e3, 18e3, 19e3}, .output = {7e3, 12e3, 32e3}},
    {.name = "chat", .prompt = {4, 161, 2048}, .output = {4, 338, 2048}},
    {.name = "prefix-heavy",
     .prompt = {16, 128, 256},
     .output = {16, 128, 512},
     .groups = 8,
     .prefix_tokens = 2048},
};

struct spin_bench_workload {
    enum source source;
    double scale;
    uint64_t seed;
    struct spin_bench_lengths prompt;
    struct spin_bench_lengths output;
    uint32_t fixed_prompt;
    uint32_t fixed_output;
    uint64_t *prefixes; /* a seed for each group */
    uint32_t groups;
    uint32_t prefix_tokens;
    struct spin_bench_trace *trace;
};

/* --- lengths --- */

/* The mean of an exponential of steepness k on [0, 1]: 1/k - 1/(e^k - 1). Falls from 1 to 0. */
static double mean_of(double k)
{
    if (fabs(k) < 1e-4) {
        return 0.5 - k / 12; /* its series: the difference of the two terms has no digits left */
    }
    return 1 / k - 1 / expm1(k);
}

struct spin_bench_lengths spin_bench_lengths_make(double min, double mean, double max)
{
    SPIN_ASSERT(min < mean);
    SPIN_ASSERT(mean < max);
    const double wanted = (mean - min) / (max - min);
    double low = -700; /* e^700 is still a double; no published mean lies nearer to an end */
    double high = 700;
    for (uint32_t i = 0; i < 200; i++) {
        const double middle = (low + high) / 2;
        if (mean_of(middle) > wanted) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return (struct spin_bench_lengths){
        .min = min, .mean = mean, .max = max, .steepness = (low + high) / 2};
}

double spin_bench_lengths_at(const struct spin_bench_lengths *lengths, double u)
{
    const double k = lengths->steepness;
    const double part = fabs(k) < 1e-4 ? u : -log1p(u * expm1(-k)) / k;
    return lengths->min + (lengths->max - lengths->min) * SPIN_MIN(part, 1.0);
}

static uint32_t scaled(const struct spin_bench_workload *workload, double tokens)
{
    const double value = nearbyint(tokens * workload->scale);
    return (uint32_t)SPIN_MIN(SPIN_MAX(value, 1.0), (double)SPIN_BENCH_TOKENS_MAX);
}

/* --- names --- */

const char *spin_bench_workload_names(void)
{
    return "longbench-v2, longgenbench, chat, prefix-heavy[:GROUPS,TOKENS], fixed:IN,OUT, "
           "trace:FILE";
}

/* "A,B", both from 1 to their limit. */
static bool parse_pair(const char *text, uint64_t first_max, uint64_t second_max, uint32_t out[2])
{
    const uint64_t limits[2] = {first_max, second_max};
    for (uint32_t i = 0; i < 2; i++) {
        char *end = NULL;
        const unsigned long long value =
            *text >= '0' && *text <= '9' ? strtoull(text, &end, 10) : 0;
        if (end == NULL || value < 1 || value > limits[i] || *end != (i == 0 ? ',' : '\0')) {
            return false;
        }
        out[i] = (uint32_t)value;
        text = end + 1;
    }
    return true;
}

static spin_status make_prefixes(struct spin_bench_workload *workload, struct spin_error *err)
{
    workload->prefixes = calloc(workload->groups, sizeof *workload->prefixes);
    if (workload->prefixes == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "%u prefixes", workload->groups);
    }
    for (uint32_t i = 0; i < workload->groups; i++) {
        const struct spin_philox_block block = spin_philox(workload->seed, DRAW_PREFIX, i);
        workload->prefixes[i] = (uint64_t)block.word[0] << 32 | block.word[1];
    }
    return SPIN_OK;
}

static spin_status take_published(struct spin_bench_workload *workload, const struct published *row,
                                  const char *numbers, struct spin_error *err)
{
    uint32_t pair[2] = {row->groups, row->prefix_tokens};
    if (numbers != NULL &&
        !parse_pair(numbers, SPIN_BENCH_GROUPS_MAX, SPIN_BENCH_TOKENS_MAX, pair)) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "workload \"%s:%.32s\": GROUPS is 1 to %u, TOKENS 1 to %u", row->name,
                         numbers, SPIN_BENCH_GROUPS_MAX, SPIN_BENCH_TOKENS_MAX);
    }
    workload->source = NAMED;
    workload->prompt = spin_bench_lengths_make(row->prompt[0], row->prompt[1], row->prompt[2]);
    workload->output = spin_bench_lengths_make(row->output[0], row->output[1], row->output[2]);
    workload->groups = pair[0];
    if (workload->groups == 0) {
        return SPIN_OK;
    }
    workload->prefix_tokens = scaled(workload, pair[1]);
    return make_prefixes(workload, err);
}

static const struct published *find_published(const char *name, uint64_t bytes)
{
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(table); i++) {
        if (strlen(table[i].name) == bytes && strncmp(table[i].name, name, bytes) == 0) {
            return &table[i];
        }
    }
    return NULL;
}

static spin_status take_fixed(struct spin_bench_workload *workload, const char *numbers,
                              struct spin_error *err)
{
    uint32_t pair[2];
    if (!parse_pair(numbers, SPIN_BENCH_TOKENS_MAX, SPIN_BENCH_TOKENS_MAX, pair)) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "workload \"fixed:%.32s\": two numbers of tokens, IN,OUT, 1 to %u",
                         numbers, SPIN_BENCH_TOKENS_MAX);
    }
    workload->source = FIXED;
    workload->fixed_prompt = scaled(workload, pair[0]);
    workload->fixed_output = scaled(workload, pair[1]);
    return SPIN_OK;
}

static spin_status take_name(struct spin_bench_workload *workload, const char *name,
                             struct spin_error *err)
{
    const char *colon = strchr(name, ':');
    const uint64_t bytes = colon == NULL ? strlen(name) : (uint64_t)(colon - name);
    const struct published *row = find_published(name, bytes);
    if (row != NULL && (colon == NULL || row->groups != 0)) {
        return take_published(workload, row, colon == NULL ? NULL : colon + 1, err);
    }
    if (strncmp(name, "fixed:", 6) == 0) {
        return take_fixed(workload, name + 6, err);
    }
    if (strncmp(name, "trace:", 6) == 0) {
        workload->source = TRACE;
        return spin_bench_trace_open(name + 6, &workload->trace, err);
    }
    return spin_fail(err, SPIN_ERR_INVALID, "workload \"%.64s\": there are %s", name,
                     spin_bench_workload_names());
}

/* --- life --- */

spin_status spin_bench_workload_create(const struct spin_bench_workload_config *config,
                                       struct spin_bench_workload **out, struct spin_error *err)
{
    if (!(config->scale > 0) || !(config->scale <= 1000)) {
        return spin_fail(err, SPIN_ERR_INVALID, "scale %g: above 0, at most 1000", config->scale);
    }
    struct spin_bench_workload *workload = calloc(1, sizeof *workload);
    if (workload == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "a workload: %zu bytes", sizeof *workload);
    }
    workload->scale = config->scale;
    workload->seed = config->seed;
    const spin_status status = take_name(workload, config->name, err);
    if (status != SPIN_OK) {
        spin_bench_workload_destroy(workload);
        return status;
    }
    *out = workload;
    return SPIN_OK;
}

void spin_bench_workload_destroy(struct spin_bench_workload *workload)
{
    if (workload == NULL) {
        return;
    }
    spin_bench_trace_close(workload->trace);
    free(workload->prefixes);
    free(workload);
}

uint64_t spin_bench_workload_count(const struct spin_bench_workload *workload)
{
    return workload->source == TRACE ? spin_bench_trace_count(workload->trace) : 0;
}

bool spin_bench_workload_has_times(const struct spin_bench_workload *workload)
{
    return workload->source == TRACE;
}

/* --- plans --- */

static void plan_named(const struct spin_bench_workload *workload, uint64_t index,
                       struct spin_bench_plan *out)
{
    const double u = spin_philox_uniform(workload->seed, DRAW_PROMPT, index);
    const double v = spin_philox_uniform(workload->seed, DRAW_OUTPUT, index);
    out->prompt_tokens = scaled(workload, spin_bench_lengths_at(&workload->prompt, u));
    out->output_tokens = scaled(workload, spin_bench_lengths_at(&workload->output, v));
    if (workload->groups != 0) {
        const double w = spin_philox_uniform(workload->seed, DRAW_GROUP, index);
        out->blocks = &workload->prefixes[(uint32_t)(w * workload->groups)];
        out->block_count = 1;
        out->block_tokens = workload->prefix_tokens;
        out->prompt_tokens =
            SPIN_MIN(out->prompt_tokens + workload->prefix_tokens, SPIN_BENCH_TOKENS_MAX);
    }
}

static void plan_trace(const struct spin_bench_workload *workload, uint64_t index,
                       struct spin_bench_plan *out)
{
    const struct spin_bench_trace_line *line = spin_bench_trace_line(workload->trace, index);
    out->prompt_tokens = scaled(workload, line->input_tokens);
    out->output_tokens = scaled(workload, line->output_tokens);
    out->blocks = line->hash_ids;
    out->block_count = line->hash_count;
    out->block_tokens = scaled(workload, SPIN_BENCH_TRACE_BLOCK_TOKENS);
    out->at_ns = line->at_ns;
}

void spin_bench_workload_plan(const struct spin_bench_workload *workload, uint64_t index,
                              struct spin_bench_plan *out)
{
    const struct spin_philox_block block = spin_philox(workload->seed, DRAW_TEXT, index);
    *out = (struct spin_bench_plan){.text_seed = (uint64_t)block.word[0] << 32 | block.word[1]};
    switch (workload->source) {
    case NAMED:
        plan_named(workload, index, out);
        return;
    case FIXED:
        out->prompt_tokens = workload->fixed_prompt;
        out->output_tokens = workload->fixed_output;
        return;
    case TRACE:
        SPIN_ASSERT_LT(index, spin_bench_trace_count(workload->trace));
        plan_trace(workload, index, out);
        return;
    }
}
