#include "bench/gpu/model/floor.h"

#define BF16_BYTES 2.0
#define GB_PER_MS 1e6 /* bytes of 1 GB/s in a millisecond */

static double layer_weights(const struct spin_model_config *model)
{
    const double q = (double)model->q_heads * model->head_dim;
    const double kv = (double)model->kv_heads * model->head_dim;
    return model->hidden * (2 * q + 2 * kv + 3.0 * model->ffn);
}

double spin_floor_weight_bytes(const struct spin_model_config *model)
{
    const double lm_head = (double)model->vocab * model->hidden;
    return BF16_BYTES * (model->layers * layer_weights(model) + lm_head);
}

double spin_floor_page_bytes(const struct spin_model_config *model, uint32_t page_tokens)
{
    return BF16_BYTES * 2 * page_tokens * model->head_dim;
}

static double summary_bytes(const struct spin_model_config *model, enum spin_summary summary)
{
    switch (summary) {
    case SPIN_SUMMARY_NONE:
        return 0;
    case SPIN_SUMMARY_MEAN:
        return BF16_BYTES * model->head_dim;
    case SPIN_SUMMARY_BOUNDS:
        return BF16_BYTES * 2 * model->head_dim;
    }
    return 0;
}

struct spin_floor_bytes spin_floor_step(const struct spin_model_config *model,
                                        const struct spin_sparse_options *sparse, uint32_t tokens,
                                        uint32_t batch)
{
    const struct spin_sparse_algorithm *algorithm = sparse->algorithm;
    const uint32_t all = (tokens - 1) / algorithm->page_tokens + 1;
    const double rows = (double)batch * model->kv_heads; /* of a layer */
    const double page = spin_floor_page_bytes(model, algorithm->page_tokens);
    struct spin_floor_bytes bytes = {.weights = spin_floor_weight_bytes(model)};
    if (algorithm->summary == SPIN_SUMMARY_NONE || tokens < sparse->min_context) {
        bytes.pages = model->layers * rows * all * page;
        return bytes;
    }
    const struct spin_kv_window window = algorithm->window(sparse, tokens);
    const uint32_t candidates = window.local_begin - window.sink_end;
    const uint32_t left_out = candidates - SPIN_MIN(window.k, candidates);
    const uint32_t list = all - left_out * (algorithm->partition_tokens / algorithm->page_tokens);
    const uint32_t dense = SPIN_MIN(algorithm->dense_layers, model->layers);
    bytes.pages = rows * page * ((double)dense * all + (double)(model->layers - dense) * list);
    bytes.summaries =
        (model->layers - dense) * rows * candidates * summary_bytes(model, algorithm->summary);
    return bytes;
}

struct spin_floor spin_floor_of(const struct spin_floor_bytes *bytes)
{
    const double hbm = bytes->weights + bytes->summaries + bytes->pages;
    struct spin_floor floor = {.hbm_ms = hbm / (SPIN_FLOOR_HBM_GBPS * GB_PER_MS),
                               .pcie_ms = bytes->misses / (SPIN_FLOOR_PCIE_GBPS * GB_PER_MS)};
    floor.overlapped_ms = SPIN_MAX(floor.hbm_ms, floor.pcie_ms);
    floor.serial_ms = floor.hbm_ms + floor.pcie_ms;
    return floor;
}

double spin_floor_prefill_linear(const struct spin_model_config *model, uint32_t tokens)
{
    return 2.0 * tokens * model->layers * layer_weights(model) + 2.0 * model->vocab * model->hidden;
}

double spin_floor_prefill_attention(const struct spin_model_config *model, uint32_t tokens)
{
    const double pairs = (double)tokens * ((double)tokens + 1) / 2;
    return 4.0 * pairs * model->layers * model->q_heads * model->head_dim;
}
