/* The list of algorithms, and what follows from an algorithm's window: whether a step runs dense,
 * and how many pages of a row it attends to. */
#include "base/assert.h"
#include "worker/sparse/sparse_internal.h"

#include <string.h>

/* Below this many tokens a step is too cheap for choosing to pay (D16). */
#define MIN_CONTEXT_TOKENS 4096u
#define SUMMARY_ELEMENT_BYTES 2u /* BF16 */

const struct spin_sparse_algorithm *const spin_sparse_algorithms[] = {
    &spin_sparse_dense, &spin_sparse_quest, &spin_sparse_shadowkv};
const uint32_t spin_sparse_algorithm_count = SPIN_ARRAY_COUNT(spin_sparse_algorithms);

const struct spin_sparse_algorithm *spin_sparse_find(const char *name)
{
    for (uint32_t i = 0; i < spin_sparse_algorithm_count; i++) {
        if (strcmp(spin_sparse_algorithms[i]->name, name) == 0) {
            return spin_sparse_algorithms[i];
        }
    }
    return NULL;
}

struct spin_sparse_options spin_sparse_options_default(void)
{
    return (struct spin_sparse_options){.algorithm = &spin_sparse_dense,
                                        .budget_tokens = 0,
                                        .min_context = MIN_CONTEXT_TOKENS,
                                        .verify = false};
}

spin_status spin_sparse_check(const struct spin_sparse_options *options, struct spin_error *err)
{
    const struct spin_sparse_algorithm *algorithm = options->algorithm;
    SPIN_ASSERT(algorithm != NULL);
    const bool chooses = algorithm->summary != SPIN_SUMMARY_NONE;
    const uint32_t budget = options->budget_tokens;
    if (chooses && budget != 0 && budget < algorithm->partition_tokens) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--sparse-budget %u: must be 0 or at least %u, what %s chooses at a time",
                         budget, algorithm->partition_tokens, algorithm->name);
    }
    return SPIN_OK;
}

static uint32_t summary_bytes(const struct spin_sparse_options *options, uint32_t head_dim)
{
    static const uint32_t vectors[] = {
        [SPIN_SUMMARY_NONE] = 0, [SPIN_SUMMARY_MEAN] = 1, [SPIN_SUMMARY_BOUNDS] = 2};
    return vectors[options->algorithm->summary] * head_dim * SUMMARY_ELEMENT_BYTES;
}

bool spin_sparse_runs_dense(const struct spin_sparse_options *options, uint32_t tokens)
{
    return options->algorithm->summary == SPIN_SUMMARY_NONE ||
           (tokens < options->min_context && !options->verify);
}

struct spin_kv_window spin_sparse_window(const struct spin_sparse_options *options, uint32_t layer,
                                         uint32_t tokens)
{
    SPIN_ASSERT_GE(tokens, 1);
    const struct spin_sparse_algorithm *algorithm = options->algorithm;
    if (layer < algorithm->dense_layers || spin_sparse_runs_dense(options, tokens)) {
        return (struct spin_kv_window){.sink_end = 0, .local_begin = 0, .k = 0};
    }
    struct spin_kv_window window = algorithm->window(options, tokens);
    SPIN_ASSERT_LE(window.sink_end, window.local_begin);
    SPIN_ASSERT_LE(window.local_begin, (tokens - 1) / algorithm->partition_tokens);
    const uint32_t candidates = window.local_begin - window.sink_end;
    window.k = options->verify ? candidates : SPIN_MIN(window.k, candidates);
    return window;
}

static uint32_t selected_pages(const struct spin_sparse_options *options, uint32_t layer,
                               uint32_t tokens)
{
    const struct spin_sparse_algorithm *algorithm = options->algorithm;
    const struct spin_kv_window window = spin_sparse_window(options, layer, tokens);
    const uint32_t per_partition = algorithm->partition_tokens / algorithm->page_tokens;
    const uint32_t pages = (tokens - 1) / algorithm->page_tokens + 1;
    return pages - (window.local_begin - window.sink_end - window.k) * per_partition;
}

/* What a step takes falls back by a page or two where a partition closes, and rises again; a row
 * keeps room for the most within a partition, so that it never lacks a slot as it grows. */
uint32_t spin_sparse_mandatory(const void *context, uint32_t layer, uint32_t tokens)
{
    const struct spin_sparse_options *options = context;
    if (tokens == 0) {
        return 0;
    }
    uint32_t most = selected_pages(options, layer, tokens);
    if (layer < options->algorithm->dense_layers || spin_sparse_runs_dense(options, tokens)) {
        return most;
    }
    const uint32_t back = SPIN_MIN(tokens, options->algorithm->partition_tokens);
    for (uint32_t earlier = tokens - back + 1; earlier < tokens; earlier++) {
        if (!spin_sparse_runs_dense(options, earlier)) {
            most = SPIN_MAX(most, selected_pages(options, layer, earlier));
        }
    }
    return most;
}

void spin_sparse_fill_kv_config(const struct spin_sparse_options *options,
                                struct spin_kv_config *config)
{
    config->page_tokens = options->algorithm->page_tokens;
    config->partition_tokens = options->algorithm->partition_tokens;
    config->summary_bytes = summary_bytes(options, config->layout.head_dim);
    config->buffered = options->verify;
    config->demand =
        (struct spin_kv_demand){.context = options, .mandatory = spin_sparse_mandatory};
}
