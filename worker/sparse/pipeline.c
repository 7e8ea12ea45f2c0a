/* Index and Offload of a layer write what no operation of the same step reads, so they run on a
 * side lane, beside the rest of the layer. They read its lists: the lane is joined before Select
 * makes the next layer's. */
#include "base/assert.h"
#include "worker/sparse/sparse_internal.h"

#include <stdlib.h>

struct spin_sparse {
    struct spin_sparse_config config;
    /* [sequences_max] windows of the step: on the host, on their way, and on the device. */
    void *staged;
    void *windows;
    void *everything;        /* device [sequences_max]: windows of layers that stay dense: zeros */
    uint32_t list_tokens[2]; /* of the step, the longest list: where all is taken, and chosen */
    void *workspace;
    struct spin_sparse_stats stats;
};

static uint64_t windows_bytes(const struct spin_sparse_config *config)
{
    return config->sequences_max * sizeof(struct spin_kv_window);
}

static uint64_t workspace_bytes(const struct spin_sparse_config *config,
                                const struct spin_kv_view *view)
{
    const struct spin_kv_select_args largest = {.view = view,
                                                .batch = {.count = config->sequences_max},
                                                .summary = config->options.algorithm->summary,
                                                .q_heads = config->q_heads};
    return config->ops->kv_select_workspace_bytes(&largest);
}

uint64_t spin_sparse_plan_bytes(const struct spin_sparse_config *config,
                                const struct spin_kv_config *kv)
{
    const struct spin_kv_view view = {.layout = kv->layout,
                                      .page_tokens = kv->page_tokens,
                                      .partition_tokens = kv->partition_tokens,
                                      .summary_bytes = kv->summary_bytes,
                                      .blocks_max = spin_kv_blocks_for(kv->tokens_max)};
    return 2 * windows_bytes(config) + workspace_bytes(config, &view);
}

static spin_status alloc_memory(struct spin_sparse *sparse, struct spin_error *err)
{
    const struct spin_sparse_config *config = &sparse->config;
    const uint64_t bytes = windows_bytes(config);
    SPIN_TRY(spin_host_alloc(config->stream, bytes, &sparse->staged, err));
    SPIN_TRY(spin_device_alloc(config->stream, bytes, &sparse->windows, err));
    SPIN_TRY(spin_device_alloc(config->stream, bytes, &sparse->everything, err));
    return spin_device_alloc(config->stream, workspace_bytes(config, spin_kv_get_view(config->kv)),
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
    const spin_status status = alloc_memory(sparse, err);
    if (status != SPIN_OK) {
        spin_sparse_destroy(sparse);
        return status;
    }
    *out = sparse;
    return SPIN_OK;
}

void spin_sparse_destroy(struct spin_sparse *sparse)
{
    if (sparse == NULL) {
        return;
    }
    struct spin_stream *stream = sparse->config.stream;
    spin_device_free(stream, sparse->workspace);
    spin_device_free(stream, sparse->everything);
    spin_device_free(stream, sparse->windows);
    spin_host_free(stream, sparse->staged);
    free(sparse);
}

/* The algorithm's first layers may stay dense; the one after them answers for all others. */
spin_status spin_sparse_step_begin(struct spin_sparse *sparse)
{
    const struct spin_sparse_config *config = &sparse->config;
    const struct spin_sparse_options *options = &config->options;
    const uint32_t layer = options->algorithm->dense_layers;
    const struct spin_kv_batch batch = spin_kv_get_host_batch(config->kv, 0);
    struct spin_kv_window *windows = sparse->staged;
    SPIN_ASSERT_LE(batch.count, config->sequences_max);
    sparse->list_tokens[0] = 0;
    sparse->list_tokens[1] = 0;
    for (uint32_t i = 0; i < batch.count; i++) {
        const uint32_t tokens = batch.tokens[i];
        windows[i] = spin_sparse_window(options, layer, tokens);
        const uint32_t left_out = windows[i].local_begin - windows[i].sink_end - windows[i].k;
        const uint32_t taken = tokens - left_out * options->algorithm->partition_tokens;
        sparse->list_tokens[0] = SPIN_MAX(sparse->list_tokens[0], tokens);
        sparse->list_tokens[1] = SPIN_MAX(sparse->list_tokens[1], taken);
        if (!spin_sparse_runs_dense(options, tokens)) {
            sparse->stats.steps++;
        } else if (options->algorithm->summary != SPIN_SUMMARY_NONE) {
            sparse->stats.dense_fallbacks++;
        }
    }
    return spin_device_write(config->stream, sparse->windows, windows,
                             batch.count * sizeof *windows);
}

uint32_t spin_sparse_list_tokens(const struct spin_sparse *sparse, uint32_t layer)
{
    return sparse->list_tokens[layer < sparse->config.options.algorithm->dense_layers ? 0 : 1];
}

spin_status spin_sparse_select(struct spin_sparse *sparse, uint32_t layer, struct spin_kv_wave wave,
                               struct spin_matrix q, struct spin_page_lists *out)
{
    const struct spin_sparse_config *config = &sparse->config;
    const struct spin_sparse_algorithm *algorithm = config->options.algorithm;
    const struct spin_kv_window *windows =
        layer < algorithm->dense_layers ? sparse->everything : sparse->windows;
    struct spin_kv_lists lists;
    const struct spin_kv_batch batch = spin_kv_get_wave(config->kv, layer, wave, &lists);
    const struct spin_kv_select_args args = {
        .view = spin_kv_get_view(config->kv),
        .batch = batch,
        .lists = lists,
        .summary = algorithm->summary,
        .always_score = config->options.verify,
        .q = q,
        .q_heads = config->q_heads,
        .scale = config->scale,
        .windows = windows + wave.first,
        .workspace = sparse->workspace,
    };
    SPIN_TRY(spin_stream_side_join(config->stream, SPIN_LANE_LATE));
    SPIN_TRY(config->ops->kv_select(&args, config->stream));
    if (config->observer.selected != NULL) {
        config->observer.selected(config->observer.context, wave.first, &batch, &lists);
    }
    return spin_kv_resolve(config->kv, layer, wave, out);
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
    struct spin_stream *stream = sparse->config.stream;
    SPIN_TRY(spin_stream_side_begin(stream, SPIN_LANE_LATE));
    spin_status status = index_sealed(sparse, layer);
    if (status == SPIN_OK) {
        status = spin_kv_offload(sparse->config.kv, layer);
    }
    const spin_status ended = spin_stream_side_end(stream);
    return status != SPIN_OK ? status : ended;
}

void spin_sparse_get_stats(const struct spin_sparse *sparse, struct spin_sparse_stats *out)
{
    *out = sparse->stats;
}
