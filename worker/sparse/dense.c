/* Dense attention: the algorithm whose local window is the whole context. It rides on the same
 * pipeline, so what the pipeline costs is what it costs. */
#include "worker/sparse/sparse.h"

static struct spin_kv_window window(const struct spin_sparse_options *options, uint32_t tokens)
{
    (void)options;
    (void)tokens;
    return (struct spin_kv_window){.sink_end = 0, .local_begin = 0, .k = 0};
}

const struct spin_sparse_algorithm spin_sparse_dense = {
    .name = "dense",
    .page_tokens = 32, /* fewer slots to read */
    .partition_tokens = 32,
    .summary = SPIN_SUMMARY_NONE,
    .dense_layers = 0,
    .window = window,
};
