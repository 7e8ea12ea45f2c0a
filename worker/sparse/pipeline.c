#include "base/assert.h"
#include "worker/sparse/sparse_internal.h"

#include <stdlib.h>

struct spin_sparse {
    struct spin_sparse_config config;
    struct spin_kv_window *windows;    /* [sequences_max]: of the step */
    struct spin_kv_window *everything; /* [sequences_max]: of layers that stay dense */
    void *workspace;
    struct spin_sparse_stats stats;
};

static spin_status alloc_workspace(struct spin_sparse *sparse, struct spin_error *err)
{
    const struct spin_sparse_config *config = &sparse->config;
    const struct spin_kv_select_args largest = {.view = spin_kv_get_view(config->kv),
                                                .batch = {.count = config->sequences_max},
                                                .summary = config->options.algorithm->summary,
                                                .q_heads = config->q_heads};
    return spin_device_alloc(config->stream, config->ops->kv_select_workspace_bytes(&largest),
                             &sparse->workspace, err);
}

spin_status spin_sparse_create(const struct spin_sparse_config *config, struct spin_sparse **out,
                               struct spin_error *err)
{
    SPIN_ASSERT_GE(config->sequences_max, 1);
    SPIN_TRY(spin_sparse_check(&config->options, err));
    struct spin_sparse *sparse = calloc(1, sizeof *sparse);
    if (sparse == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "sparse pipeline: %zu bytes", sizeof *sparse);
    }
    sparse->config = *config;
    spin_status status = SPIN_OK;
    sparse->windows = calloc(config->sequences_max, sizeof *sparse->windows);
    sparse->everything = calloc(config->sequences_max, sizeof *sparse->everything);
    if (sparse->windows == NULL || sparse->everything == NULL) {
        status = spin_fail(err, SPIN_ERR_NO_MEMORY, "sparse pipeline: windows of %u sequences",
                           config->sequences_max);
        goto fail;
    }
    SPIN_TRY_GOTO(status, alloc_workspace(sparse, err), fail);
    *out = sparse;
    return SPIN_OK;
fail:
    spin_sparse_destroy(sparse);
    return status;
}

void spin_sparse_destroy(struct spin_sparse *sparse)
{
    if (sparse == NULL) {
        return;
    }
    spin_device_free(sparse->config.stream, sparse->workspace);
    free(sparse->windows);
    free(sparse->everything);
    free(sparse);
}

/* The algorithm's first layers may stay dense; the one after them answers for all others. */
void spin_sparse_step_begin(struct spin_sparse *sparse)
{
    const struct spin_sparse_options *options = &sparse->config.options;
    const uint32_t layer = options->algorithm->dense_layers;
    const struct spin_kv_batch batch = spin_kv_get_host_batch(sparse->config.kv, 0);
    SPIN_ASSERT_LE(batch.count, sparse->config.sequences_max);
    for (uint32_t i = 0; i < batch.count; i++) {
        sparse->windows[i] = spin_sparse_window(options, layer, batch.tokens[i]);
        if (!spin_sparse_runs_dense(options, batch.tokens[i])) {
            sparse->stats.steps++;
        } else if (options->algorithm->summary != SPIN_SUMMARY_NONE) {
            sparse->stats.dense_fallbacks++;
        }
    }
}

spin_status spin_sparse_retrieve(struct spin_sparse *sparse, uint32_t layer, struct spin_matrix q,
                                 struct spin_page_lists *out)
{
    const struct spin_sparse_config *config = &sparse->config;
    const struct spin_sparse_algorithm *algorithm = config->options.algorithm;
    const struct spin_kv_select_args args = {
        .view = spin_kv_get_view(config->kv),
        .batch = spin_kv_get_batch(config->kv, layer),
        .lists = spin_kv_get_lists(config->kv),
        .summary = algorithm->summary,
        .always_score = config->options.verify,
        .q = q,
        .q_heads = config->q_heads,
        .scale = config->scale,
        .windows = layer < algorithm->dense_layers ? sparse->everything : sparse->windows,
        .workspace = sparse->workspace,
    };
    SPIN_TRY(config->ops->kv_select(&args, config->stream));
    if (config->observer.selected != NULL) {
        config->observer.selected(config->observer.context, &args.batch, &args.lists);
    }
    return spin_kv_retrieve(config->kv, layer, out);
}

static spin_status index_sealed(struct spin_sparse *sparse, uint32_t layer)
{
    const struct spin_sparse_config *config = &sparse->config;
    const struct spin_sparse_algorithm *algorithm = config->options.algorithm;
    if (algorithm->summary == SPIN_SUMMARY_NONE || layer < algorithm->dense_layers) {
        return SPIN_OK;
    }
    const struct spin_kv_range *ranges = NULL;
    if (spin_kv_sealed(config->kv, &ranges) == 0) {
        return SPIN_OK;
    }
    const struct spin_kv_index_args args = {.view = spin_kv_get_view(config->kv),
                                            .batch = spin_kv_get_batch(config->kv, layer),
                                            .lists = spin_kv_get_lists(config->kv),
                                            .summary = algorithm->summary,
                                            .ranges = ranges};
    return config->ops->kv_index(&args, config->stream);
}

spin_status spin_sparse_seal(struct spin_sparse *sparse, uint32_t layer)
{
    SPIN_TRY(index_sealed(sparse, layer));
    return spin_kv_offload(sparse->config.kv, layer);
}

void spin_sparse_get_stats(const struct spin_sparse *sparse, struct spin_sparse_stats *out)
{
    *out = sparse->stats;
}
