/* Quest (arXiv 2406.10774): pages of 16 tokens, an upper bound of q.k from each page's minimum and
 * maximum key.
 *
 * The page that holds the newest token is always attended to and counts in the budget; of the
 * others, which are all full, the best budget / 16 - 1. In the first two layers attention is too
 * little concentrated for that, so they stay dense. Quest chooses for each query head; pages here
 * belong to a kv head, whose group is merged by kv_select. */
#include "worker/sparse/sparse.h"

#define PARTITION_TOKENS 16u
#define BUDGET_TOKENS 1024u /* the one at which the paper loses nothing on LongBench */

static struct spin_kv_window window(const struct spin_sparse_options *options, uint32_t tokens)
{
    const uint32_t budget = options->budget_tokens != 0 ? options->budget_tokens : BUDGET_TOKENS;
    return (struct spin_kv_window){
        .sink_end = 0,
        .local_begin = (tokens - 1) / PARTITION_TOKENS,
        .k = budget / PARTITION_TOKENS - 1,
    };
}

const struct spin_sparse_algorithm spin_sparse_quest = {
    .name = "quest",
    .page_tokens = 8, /* two to a partition: 4 KiB of a 128-wide head, and one size for all */
    .partition_tokens = PARTITION_TOKENS,
    .summary = SPIN_SUMMARY_BOUNDS,
    .dense_layers = 2,
    .window = window,
};
