/* ShadowKV (arXiv 2410.21465) as SPIN runs it (arXiv 2604.26837): means of 8 post-RoPE keys choose
 * among exact pages.
 *
 * The paper's low-rank keys and outlier chunks are left out, as in SPIN's table 1. Chunk 0, which
 * the paper expects among the outliers, is pinned instead. The last four whole chunks and what
 * follows them are attended to exactly. Generated tokens become chunks like the prompt's. */
#include "worker/sparse/sparse.h"

#define PARTITION_TOKENS 8u
#define LOCAL_CHUNKS 4u
#define BUDGET_TOKENS_MIN 256u /* the paper's for LongBench */
#define BUDGET_SHARE 64u       /* 1.56 % of the context: 1024 tokens at 64K, 2048 at 128K */

static uint32_t budget_of(const struct spin_sparse_options *options, uint32_t tokens)
{
    if (options->budget_tokens != 0) {
        return options->budget_tokens;
    }
    const uint32_t share = tokens / BUDGET_SHARE + (tokens % BUDGET_SHARE != 0 ? 1 : 0);
    return SPIN_MAX(BUDGET_TOKENS_MIN, share);
}

static struct spin_kv_window window(const struct spin_sparse_options *options, uint32_t tokens)
{
    const uint32_t chunks = tokens / PARTITION_TOKENS;
    const uint32_t local_begin = chunks > LOCAL_CHUNKS ? chunks - LOCAL_CHUNKS : 0;
    return (struct spin_kv_window){
        .sink_end = SPIN_MIN(1, local_begin),
        .local_begin = local_begin,
        .k = budget_of(options, tokens) / PARTITION_TOKENS,
    };
}

const struct spin_sparse_algorithm spin_sparse_shadowkv = {
    .name = "shadowkv",
    .page_tokens = 8,
    .partition_tokens = PARTITION_TOKENS,
    .summary = SPIN_SUMMARY_MEAN,
    .dense_layers = 0,
    .window = window,
};
