/* What a forward pass works on: activations, the rope table, one workspace, and the inputs of a
 * pass on both sides of the bus. */
#include "base/assert.h"
#include "worker/engine/forward_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct spin_forward spin_forward_measure(const struct spin_forward_config *config,
                                         struct spin_kv_layout layout, uint32_t page_tokens)
{
    const struct spin_model_config *shape = &config->model->config;
    return (struct spin_forward){
        .config = *config,
        .layout = layout,
        .page_tokens = page_tokens,
        .rows_max = SPIN_MAX(config->grid.chunk_tokens, config->sequences_max),
        .q_cols = shape->q_heads * shape->head_dim,
        .kv_cols = shape->kv_heads * shape->head_dim,
        .scale = (float)(1.0 / sqrt((double)shape->head_dim)),
    };
}

struct spin_sparse_config spin_forward_sparse_config(const struct spin_forward *forward)
{
    const struct spin_forward_config *config = &forward->config;
    return (struct spin_sparse_config){.options = config->sparse,
                                       .ops = config->ops,
                                       .stream = config->stream,
                                       .kv = config->kv,
                                       .q_heads = spin_forward_shape(forward)->q_heads,
                                       .scale = forward->scale,
                                       .sequences_max = config->sequences_max,
                                       .observer = config->observer};
}

/* The workspace of x W^T for any weight of `cols` inputs. */
static uint64_t matmul_bytes(const struct spin_forward *forward, uint32_t rows, uint32_t cols)
{
    const struct spin_weight weight = {.data = NULL,
                                       .dtype = SPIN_DTYPE_F32,
                                       .rows = spin_forward_shape(forward)->vocab,
                                       .cols = cols};
    const struct spin_matmul_args args = {
        .x = spin_forward_view(forward, NULL, rows, cols),
        .parts = {{.y = spin_forward_view(forward, NULL, rows, weight.rows), .weight = weight}},
        .part_count = 1};
    return forward->config.ops->matmul_workspace_bytes(&args);
}

static uint64_t attention_bytes(const struct spin_forward *forward, uint32_t rows,
                                uint32_t sequences)
{
    const struct spin_attention_args args = {
        .out = spin_forward_view(forward, NULL, rows, forward->q_cols),
        .q = spin_forward_view(forward, NULL, rows, forward->q_cols),
        .q_heads = spin_forward_shape(forward)->q_heads,
        .scale = forward->scale,
        .spans = {.count = sequences},
        .pages = {.layout = forward->layout, .page_tokens = forward->page_tokens},
        .visible_max = forward->config.tokens_max,
    };
    return forward->config.ops->attention_workspace_bytes(&args);
}

/* The largest that any call may ask for: one workspace serves them all, one after the other. */
static uint64_t workspace_bytes(const struct spin_forward *forward)
{
    const struct spin_model_config *shape = spin_forward_shape(forward);
    const struct spin_forward_config *config = &forward->config;
    uint64_t bytes = 0;
    bytes = SPIN_MAX(bytes, matmul_bytes(forward, forward->rows_max, shape->hidden));
    bytes = SPIN_MAX(bytes, matmul_bytes(forward, forward->rows_max, forward->q_cols));
    bytes = SPIN_MAX(bytes, matmul_bytes(forward, forward->rows_max, shape->ffn));
    bytes = SPIN_MAX(bytes, matmul_bytes(forward, config->logits_rows_max, shape->hidden));
    bytes = SPIN_MAX(bytes, attention_bytes(forward, config->grid.chunk_tokens, 1));
    bytes = SPIN_MAX(bytes, attention_bytes(forward, config->sequences_max, config->sequences_max));
    return bytes;
}

/* A piece of device memory. */
struct piece {
    void **target;
    uint64_t bytes;
};

static uint64_t row_bytes(enum spin_dtype dtype, uint64_t rows, uint32_t cols)
{
    return rows * spin_dtype_row_bytes(dtype, cols);
}

/* Words of the largest pass, and of step_first, which goes the same way once. */
static uint64_t input_words(const struct spin_forward *forward)
{
    return 2 + UINT64_C(2) * forward->rows_max;
}

#define PIECES 10u

/* All of it: what is allocated, and what is planned. */
static void list_pieces(struct spin_forward *forward, struct piece pieces[PIECES])
{
    const struct spin_forward_config *config = &forward->config;
    const struct spin_model_config *shape = spin_forward_shape(forward);
    const enum spin_dtype x = config->ops->activation_dtype;
    const uint64_t rows = forward->rows_max;
    const uint64_t normed = SPIN_MAX(rows, config->logits_rows_max);
    const uint32_t sequences = config->sequences_max;
    const struct piece all[PIECES] = {
        {&forward->step_hidden, row_bytes(SPIN_DTYPE_F32, sequences, shape->hidden)},
        {&forward->logits, row_bytes(SPIN_DTYPE_F32, config->logits_rows_max, shape->vocab)},
        {&forward->normed, row_bytes(x, normed, shape->hidden)},
        {&forward->qkv, row_bytes(x, rows, forward->q_cols + 2 * forward->kv_cols)},
        {&forward->attended, row_bytes(x, rows, forward->q_cols)},
        {&forward->gate_up, row_bytes(x, rows, 2 * shape->ffn)},
        {&forward->workspace, workspace_bytes(forward)},
        {&forward->cos_sin, spin_rope_table_bytes(config->tokens_max, shape->rope.dim)},
        {&forward->inputs, input_words(forward) * sizeof(uint32_t)},
        {&forward->step_first, (sequences + UINT64_C(1)) * sizeof(uint32_t)},
    };
    memcpy(pieces, all, sizeof all);
}

uint64_t spin_forward_plan_bytes(const struct spin_forward_config *config,
                                 const struct spin_kv_config *kv)
{
    struct spin_forward forward = spin_forward_measure(config, kv->layout, kv->page_tokens);
    struct piece pieces[PIECES];
    list_pieces(&forward, pieces);
    const struct spin_sparse_config sparse = spin_forward_sparse_config(&forward);
    uint64_t bytes = spin_sparse_plan_bytes(&sparse, kv);
    for (uint32_t i = 0; i < PIECES; i++) {
        bytes += pieces[i].bytes;
    }
    return bytes;
}

static spin_status create_rope(struct spin_forward *forward, struct spin_error *err)
{
    const struct spin_model_config *shape = spin_forward_shape(forward);
    forward->frequencies = calloc(shape->rope.dim / 2, sizeof *forward->frequencies);
    if (forward->frequencies == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "forward pass: %u frequencies",
                         shape->rope.dim / 2);
    }
    spin_rope_frequencies(&shape->rope, forward->frequencies, &forward->rope_magnitude);
    return spin_host_alloc(forward->config.stream,
                           spin_rope_table_bytes(SPIN_FORWARD_ROPE_POSITIONS, shape->rope.dim),
                           &forward->rope_rows, err);
}

/* 0, 1, 2, ...: by way of the staged inputs, before any pass needs them. */
static spin_status write_step_first(struct spin_forward *forward)
{
    const uint32_t sequences = forward->config.sequences_max;
    uint32_t *first = forward->staged;
    for (uint32_t i = 0; i <= sequences; i++) {
        first[i] = i;
    }
    SPIN_TRY(spin_device_write(forward->config.stream, forward->step_first, first,
                               (sequences + UINT64_C(1)) * sizeof *first));
    return spin_stream_sync(forward->config.stream, SPIN_FORWARD_WAIT_NS);
}

static spin_status create_inputs(struct spin_forward *forward, struct spin_error *err)
{
    const uint32_t sequences = forward->config.sequences_max;
    SPIN_TRY(spin_host_alloc(forward->config.stream, input_words(forward) * sizeof(uint32_t),
                             &forward->staged, err));
    const spin_status status = write_step_first(forward);
    if (status != SPIN_OK) {
        return spin_fail(err, status, "forward pass: the device does not take its inputs");
    }
    forward->steps = calloc(sequences, sizeof *forward->steps);
    if (forward->steps == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "forward pass: steps of %u sequences", sequences);
    }
    return SPIN_OK;
}

static spin_status create_graphs(struct spin_forward *forward, struct spin_error *err)
{
    const uint32_t graphs = forward->config.graphs_max;
    if (graphs == 0 || !spin_stream_records(forward->config.stream)) {
        return SPIN_OK;
    }
    forward->graphs = calloc(graphs, sizeof *forward->graphs);
    if (forward->graphs == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "forward pass: %u recordings", graphs);
    }
    return SPIN_OK;
}

spin_status spin_forward_alloc(struct spin_forward *forward, struct spin_error *err)
{
    struct piece pieces[PIECES];
    list_pieces(forward, pieces);
    for (uint32_t i = 0; i < PIECES; i++) {
        SPIN_TRY(spin_device_alloc(forward->config.stream, pieces[i].bytes, pieces[i].target, err));
    }
    SPIN_TRY(create_rope(forward, err));
    SPIN_TRY(create_inputs(forward, err));
    return create_graphs(forward, err);
}

void spin_forward_free(struct spin_forward *forward)
{
    struct spin_stream *stream = forward->config.stream;
    for (uint32_t i = 0; forward->graphs != NULL && i < forward->config.graphs_max; i++) {
        spin_graph_destroy(stream, forward->graphs[i].graph);
    }
    struct piece pieces[PIECES];
    list_pieces(forward, pieces);
    for (uint32_t i = 0; i < PIECES; i++) {
        spin_device_free(stream, *pieces[i].target);
    }
    spin_host_free(stream, forward->rope_rows);
    spin_host_free(stream, forward->staged);
    free(forward->frequencies);
    free(forward->steps);
    free(forward->graphs);
}
