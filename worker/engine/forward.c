#include "worker/engine/forward.h"

#include "base/assert.h"
#include "kernels/rope_table.h"

#include <math.h>
#include <stdlib.h>

/* The rope table grows by this many positions when a sequence first gets there: 128K positions of a
 * 128-wide head are half a second of sines, which nobody should wait for at start. One block is
 * about a millisecond. */
#define ROPE_BLOCK_POSITIONS 256u

struct spin_forward {
    struct spin_forward_config config;
    struct spin_sparse *sparse;
    uint32_t rows_max; /* of a layer: a chunk or a decode step */
    uint32_t q_cols;
    uint32_t kv_cols;
    float scale;

    float *step_hidden; /* [sequences_max][hidden] */
    float *normed;      /* [rows_max or logits_rows_max][hidden] */
    float *q;           /* [rows_max][q_cols] */
    float *k;           /* [rows_max][kv_cols] */
    float *v;           /* [rows_max][kv_cols] */
    float *attended;    /* [rows_max][q_cols] */
    float *gate;        /* [rows_max][ffn] */
    float *up;          /* [rows_max][ffn] */
    float *logits;      /* [logits_rows_max][vocab] */
    void *workspace;

    float *cos_sin; /* [tokens_max][rope dim / 2][2] */
    uint32_t rope_positions;
    double *rope_frequencies; /* [rope dim / 2] */
    double rope_magnitude;

    /* The call's tokens, as operations want them. */
    int32_t *tokens;            /* [rows_max] */
    uint32_t *positions;        /* [rows_max] */
    uint32_t *first;            /* [sequences_max + 1]: 0, 1, 2, ...: a step has one token each */
    struct spin_kv_step *steps; /* [sequences_max] */
};

/* What a layer works on: rows of hidden, and where they stand in their sequences. */
struct rows {
    float *hidden;
    uint32_t count;
    struct spin_spans spans;
    uint32_t visible_max;
    const struct spin_forward_unit *unit; /* of prefill; NULL: a decode step */
};

static const struct spin_model_config *shape_of(const struct spin_forward *forward)
{
    return &forward->config.model->config;
}

static struct spin_matrix view(float *data, uint32_t rows, uint32_t cols)
{
    return (struct spin_matrix){
        .data = data, .dtype = SPIN_DTYPE_F32, .rows = rows, .cols = cols, .stride = cols};
}

/* A view that an operation only reads. */
static struct spin_matrix view_of(const float *data, uint32_t rows, uint32_t cols)
{
    union {
        const float *in;
        float *out;
    } pointer = {.in = data};
    return view(pointer.out, rows, cols);
}

static struct spin_matmul_args project(struct spin_forward *forward, struct spin_matrix x)
{
    return (struct spin_matmul_args){.x = x, .part_count = 0, .workspace = forward->workspace};
}

static void add_part(struct spin_matmul_args *args, float *y, const struct spin_weight *weight,
                     const float *bias)
{
    SPIN_ASSERT_LT(args->part_count, SPIN_MATMUL_PARTS_MAX);
    args->parts[args->part_count++] =
        (struct spin_matmul_part){.y = view(y, args->x.rows, weight->rows),
                                  .weight = *weight,
                                  .bias = bias,
                                  .accumulate = false};
}

/* hidden += x W^T. */
static spin_status add_projection(struct spin_forward *forward, struct spin_matrix x,
                                  const struct spin_weight *weight, float *hidden)
{
    struct spin_matmul_args args = project(forward, x);
    add_part(&args, hidden, weight, NULL);
    args.parts[0].accumulate = true;
    return forward->config.ops->matmul(&args, forward->config.stream);
}

static spin_status norm(struct spin_forward *forward, struct spin_matrix x, struct spin_matrix y,
                        const float *weight)
{
    const struct spin_rms_norm_args args = {
        .y = y, .x = x, .weight = weight, .eps = (float)shape_of(forward)->rms_eps};
    return forward->config.ops->rms_norm(&args, forward->config.stream);
}

static spin_status rotate(struct spin_forward *forward, float *x, uint32_t rows, uint32_t heads)
{
    const struct spin_model_config *shape = shape_of(forward);
    const struct spin_rope_args args = {
        .x = view(x, rows, heads * shape->head_dim),
        .heads = heads,
        .head_dim = shape->head_dim,
        .positions = forward->positions,
        .table = {.cos_sin = forward->cos_sin,
                  .positions = forward->rope_positions,
                  .rotary_dim = shape->rope.dim,
                  .pairs = shape->rope.pairs},
    };
    return forward->config.ops->rope(&args, forward->config.stream);
}

static spin_status norm_heads(struct spin_forward *forward, float *x, uint32_t heads,
                              const float *weight)
{
    if (weight == NULL) {
        return SPIN_OK;
    }
    const struct spin_matrix all = view(x, heads, shape_of(forward)->head_dim);
    return norm(forward, all, all, weight);
}

/* q, k, v of the rows: projected, biased, normed, rotated. */
static spin_status make_qkv(struct spin_forward *forward, const struct spin_layer_weights *weights,
                            const struct rows *rows)
{
    const struct spin_model_config *shape = shape_of(forward);
    const struct spin_matrix normed = view(forward->normed, rows->count, shape->hidden);
    SPIN_TRY(
        norm(forward, view(rows->hidden, rows->count, shape->hidden), normed, weights->attn_norm));
    struct spin_matmul_args args = project(forward, normed);
    add_part(&args, forward->q, &weights->q, weights->q_bias);
    add_part(&args, forward->k, &weights->k, weights->k_bias);
    add_part(&args, forward->v, &weights->v, weights->v_bias);
    SPIN_TRY(forward->config.ops->matmul(&args, forward->config.stream));
    SPIN_TRY(norm_heads(forward, forward->q, rows->count * shape->q_heads, weights->q_norm));
    SPIN_TRY(norm_heads(forward, forward->k, rows->count * shape->kv_heads, weights->k_norm));
    SPIN_TRY(rotate(forward, forward->q, rows->count, shape->q_heads));
    return rotate(forward, forward->k, rows->count, shape->kv_heads);
}

/* The pages that the rows read and write: those that Select chose, or, in prefill, all. */
static spin_status find_pages(struct spin_forward *forward, uint32_t layer, const struct rows *rows,
                              struct spin_page_lists *out)
{
    if (rows->unit == NULL) {
        const struct spin_matrix q = view(forward->q, rows->count, forward->q_cols);
        return spin_sparse_retrieve(forward->sparse, layer, q, out);
    }
    const struct spin_unit *unit = &rows->unit->unit;
    return spin_kv_prefill_begin(forward->config.kv, rows->unit->seq, layer, unit->begin, unit->end,
                                 unit->begin == unit->super_begin, out);
}

static spin_status attend(struct spin_forward *forward, uint32_t layer, const struct rows *rows)
{
    struct spin_page_lists pages;
    SPIN_TRY(find_pages(forward, layer, rows, &pages));
    const struct spin_kv_append_args append = {
        .k = view(forward->k, rows->count, forward->kv_cols),
        .v = view(forward->v, rows->count, forward->kv_cols),
        .spans = rows->spans,
        .pages = pages,
    };
    SPIN_TRY(forward->config.ops->kv_append(&append, forward->config.stream));
    const struct spin_attention_args args = {
        .out = view(forward->attended, rows->count, forward->q_cols),
        .q = view(forward->q, rows->count, forward->q_cols),
        .q_heads = shape_of(forward)->q_heads,
        .scale = forward->scale,
        .spans = rows->spans,
        .pages = pages,
        .visible_max = rows->visible_max,
        .workspace = forward->workspace,
    };
    SPIN_TRY(forward->config.ops->attention(&args, forward->config.stream));
    return spin_sparse_seal(forward->sparse, layer);
}

static spin_status feed_forward(struct spin_forward *forward,
                                const struct spin_layer_weights *weights, const struct rows *rows)
{
    const struct spin_model_config *shape = shape_of(forward);
    const struct spin_matrix normed = view(forward->normed, rows->count, shape->hidden);
    SPIN_TRY(
        norm(forward, view(rows->hidden, rows->count, shape->hidden), normed, weights->ffn_norm));
    struct spin_matmul_args args = project(forward, normed);
    add_part(&args, forward->gate, &weights->gate, NULL);
    add_part(&args, forward->up, &weights->up, NULL);
    SPIN_TRY(forward->config.ops->matmul(&args, forward->config.stream));
    const struct spin_matrix gate = view(forward->gate, rows->count, shape->ffn);
    const struct spin_swiglu_args swiglu = {
        .y = gate, .gate = gate, .up = view(forward->up, rows->count, shape->ffn)};
    SPIN_TRY(forward->config.ops->swiglu(&swiglu, forward->config.stream));
    return add_projection(forward, gate, &weights->down, rows->hidden);
}

static spin_status run_layer(struct spin_forward *forward, uint32_t layer, const struct rows *rows)
{
    const struct spin_layer_weights *weights = &forward->config.model->layers[layer];
    SPIN_TRY(make_qkv(forward, weights, rows));
    SPIN_TRY(attend(forward, layer, rows));
    SPIN_TRY(add_projection(forward, view(forward->attended, rows->count, forward->q_cols),
                            &weights->o, rows->hidden));
    return feed_forward(forward, weights, rows);
}

static spin_status embed(struct spin_forward *forward, const int32_t *tokens, uint32_t count,
                         float *hidden)
{
    const struct spin_embed_args args = {.y = view(hidden, count, shape_of(forward)->hidden),
                                         .tokens = tokens,
                                         .table = forward->config.model->embed};
    return forward->config.ops->embed(&args, forward->config.stream);
}

/* The table covers positions [0, end) from here on. */
static void extend_rope(struct spin_forward *forward, uint32_t end)
{
    SPIN_ASSERT_LE(end, forward->config.tokens_max);
    const struct spin_rope_frequencies frequencies = {.frequency = forward->rope_frequencies,
                                                      .rotary_dim = shape_of(forward)->rope.dim,
                                                      .magnitude = forward->rope_magnitude};
    while (forward->rope_positions < end) {
        const uint32_t count =
            SPIN_MIN(ROPE_BLOCK_POSITIONS, forward->config.tokens_max - forward->rope_positions);
        spin_rope_table_fill(&frequencies, forward->rope_positions, count, forward->cos_sin);
        forward->rope_positions += count;
    }
}

spin_status spin_forward_decode(struct spin_forward *forward, const struct spin_forward_step *steps,
                                uint32_t count, float **out_hidden)
{
    SPIN_ASSERT_GE(count, 1);
    SPIN_ASSERT_LE(count, forward->config.sequences_max);
    struct rows rows = {.hidden = forward->step_hidden,
                        .count = count,
                        .spans = {.first = forward->first, .count = count}};
    for (uint32_t i = 0; i < count; i++) {
        forward->tokens[i] = steps[i].token;
        forward->positions[i] = steps[i].position;
        forward->steps[i] =
            (struct spin_kv_step){.seq = steps[i].seq, .tokens = steps[i].position + 1};
        rows.visible_max = SPIN_MAX(rows.visible_max, forward->steps[i].tokens);
    }
    extend_rope(forward, rows.visible_max);
    SPIN_TRY(spin_kv_step_begin(forward->config.kv, forward->steps, count));
    spin_sparse_step_begin(forward->sparse);
    SPIN_TRY(embed(forward, forward->tokens, count, rows.hidden));
    for (uint32_t layer = 0; layer < shape_of(forward)->layers; layer++) {
        SPIN_TRY(run_layer(forward, layer, &rows));
    }
    *out_hidden = rows.hidden;
    return spin_kv_step_end(forward->config.kv);
}

spin_status spin_forward_prefill(struct spin_forward *forward, const struct spin_forward_unit *unit)
{
    const struct spin_unit *range = &unit->unit;
    SPIN_ASSERT_LE(range->super_begin, range->begin);
    SPIN_ASSERT_LT(range->begin, range->end);
    const uint32_t first[2] = {0, range->end - range->begin};
    const struct rows rows = {
        .hidden = unit->hidden +
                  (uint64_t)(range->begin - range->super_begin) * shape_of(forward)->hidden,
        .count = first[1],
        .spans = {.first = first, .count = 1},
        .visible_max = range->end,
        .unit = unit,
    };
    SPIN_ASSERT_LE(rows.count, forward->rows_max);
    for (uint32_t i = 0; i < rows.count; i++) {
        forward->positions[i] = range->begin + i;
    }
    extend_rope(forward, range->end);
    if (range->layer == 0) {
        SPIN_TRY(embed(forward, unit->tokens + range->begin, rows.count, rows.hidden));
    }
    return run_layer(forward, range->layer, &rows);
}

spin_status spin_forward_logits(struct spin_forward *forward, const float *hidden, uint32_t rows,
                                const float **out)
{
    SPIN_ASSERT_GE(rows, 1);
    SPIN_ASSERT_LE(rows, forward->config.logits_rows_max);
    const struct spin_model *model = forward->config.model;
    const struct spin_matrix normed = view(forward->normed, rows, model->config.hidden);
    SPIN_TRY(
        norm(forward, view_of(hidden, rows, model->config.hidden), normed, model->output_norm));
    struct spin_matmul_args args = project(forward, normed);
    add_part(&args, forward->logits, &model->lm_head, NULL);
    SPIN_TRY(forward->config.ops->matmul(&args, forward->config.stream));
    *out = forward->logits;
    return SPIN_OK;
}

/* The workspace of x W^T for any weight of `cols` inputs. */
static uint64_t matmul_bytes(const struct spin_forward *forward, uint32_t rows, uint32_t cols)
{
    const struct spin_weight weight = {.data = NULL,
                                       .dtype = SPIN_DTYPE_F32,
                                       .rows = forward->config.model->config.vocab,
                                       .cols = cols};
    struct spin_matmul_args args = {.x = view(NULL, rows, cols), .part_count = 0};
    add_part(&args, NULL, &weight, NULL);
    return forward->config.ops->matmul_workspace_bytes(&args);
}

static uint64_t attention_bytes(const struct spin_forward *forward, uint32_t rows,
                                struct spin_spans spans)
{
    const struct spin_kv_view *kv = spin_kv_get_view(forward->config.kv);
    const struct spin_attention_args args = {
        .out = view(NULL, rows, forward->q_cols),
        .q = view(NULL, rows, forward->q_cols),
        .q_heads = shape_of(forward)->q_heads,
        .scale = forward->scale,
        .spans = spans,
        .pages = {.layout = kv->layout, .page_tokens = kv->page_tokens},
        .visible_max = forward->config.tokens_max,
    };
    return forward->config.ops->attention_workspace_bytes(&args);
}

/* The largest that any call may ask for: one workspace serves them all, one after the other. */
static uint64_t workspace_bytes(const struct spin_forward *forward)
{
    const struct spin_model_config *shape = shape_of(forward);
    const uint32_t sequences = forward->config.sequences_max;
    const uint32_t chunk[2] = {0, forward->config.grid.chunk_tokens};
    uint64_t bytes = 0;
    bytes = SPIN_MAX(bytes, matmul_bytes(forward, forward->rows_max, shape->hidden));
    bytes = SPIN_MAX(bytes, matmul_bytes(forward, forward->rows_max, forward->q_cols));
    bytes = SPIN_MAX(bytes, matmul_bytes(forward, forward->rows_max, shape->ffn));
    bytes = SPIN_MAX(bytes, matmul_bytes(forward, forward->config.logits_rows_max, shape->hidden));
    const struct spin_spans one = {.first = chunk, .count = 1};
    const struct spin_spans step = {.first = forward->first, .count = sequences};
    bytes = SPIN_MAX(bytes, attention_bytes(forward, chunk[1], one));
    bytes = SPIN_MAX(bytes, attention_bytes(forward, sequences, step));
    return bytes;
}

struct piece {
    float **target;
    uint64_t rows;
    uint64_t cols;
};

static spin_status alloc_activations(struct spin_forward *forward, struct spin_error *err)
{
    const struct spin_forward_config *config = &forward->config;
    const struct spin_model_config *shape = shape_of(forward);
    const uint64_t rows = forward->rows_max;
    const struct piece pieces[] = {
        {&forward->step_hidden, config->sequences_max, shape->hidden},
        {&forward->normed, SPIN_MAX(rows, config->logits_rows_max), shape->hidden},
        {&forward->q, rows, forward->q_cols},
        {&forward->k, rows, forward->kv_cols},
        {&forward->v, rows, forward->kv_cols},
        {&forward->attended, rows, forward->q_cols},
        {&forward->gate, rows, shape->ffn},
        {&forward->up, rows, shape->ffn},
        {&forward->logits, config->logits_rows_max, shape->vocab},
    };
    void *memory = NULL;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(pieces); i++) {
        SPIN_TRY(spin_device_alloc(config->stream, pieces[i].rows * pieces[i].cols * sizeof(float),
                                   &memory, err));
        *pieces[i].target = memory;
    }
    SPIN_TRY(spin_device_alloc(
        config->stream, spin_rope_table_bytes(config->tokens_max, shape->rope.dim), &memory, err));
    forward->cos_sin = memory;
    return spin_device_alloc(config->stream, workspace_bytes(forward), &forward->workspace, err);
}

static spin_status alloc_lists(struct spin_forward *forward, struct spin_error *err)
{
    const uint32_t sequences = forward->config.sequences_max;
    forward->rope_frequencies =
        calloc(shape_of(forward)->rope.dim / 2, sizeof *forward->rope_frequencies);
    forward->tokens = calloc(forward->rows_max, sizeof *forward->tokens);
    forward->positions = calloc(forward->rows_max, sizeof *forward->positions);
    forward->first = calloc((uint64_t)sequences + 1, sizeof *forward->first);
    forward->steps = calloc(sequences, sizeof *forward->steps);
    if (forward->rope_frequencies == NULL || forward->tokens == NULL ||
        forward->positions == NULL || forward->first == NULL || forward->steps == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "forward pass: lists of %u sequences", sequences);
    }
    for (uint32_t i = 0; i <= sequences; i++) {
        forward->first[i] = i;
    }
    spin_rope_frequencies(&shape_of(forward)->rope, forward->rope_frequencies,
                          &forward->rope_magnitude);
    return SPIN_OK;
}

static spin_status create_sparse(struct spin_forward *forward, struct spin_error *err)
{
    const struct spin_sparse_config sparse = {.options = forward->config.sparse,
                                              .ops = forward->config.ops,
                                              .stream = forward->config.stream,
                                              .kv = forward->config.kv,
                                              .q_heads = shape_of(forward)->q_heads,
                                              .scale = forward->scale,
                                              .sequences_max = forward->config.sequences_max,
                                              .observer = forward->config.observer};
    return spin_sparse_create(&sparse, &forward->sparse, err);
}

spin_status spin_forward_create(const struct spin_forward_config *config, struct spin_forward **out,
                                struct spin_error *err)
{
    const struct spin_model_config *shape = &config->model->config;
    SPIN_ASSERT_EQ(config->grid.layers, shape->layers);
    SPIN_ASSERT_GE(config->logits_rows_max, 1);
    if (config->ops->activation_dtype != SPIN_DTYPE_F32) {
        return spin_fail(err, SPIN_ERR_UNSUPPORTED, "operations '%s': activations are %s, not F32",
                         config->ops->name, spin_dtype_name(config->ops->activation_dtype));
    }
    struct spin_forward *forward = calloc(1, sizeof *forward);
    if (forward == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "forward pass: %zu bytes", sizeof *forward);
    }
    forward->config = *config;
    forward->rows_max = SPIN_MAX(config->grid.chunk_tokens, config->sequences_max);
    forward->q_cols = shape->q_heads * shape->head_dim;
    forward->kv_cols = shape->kv_heads * shape->head_dim;
    forward->scale = (float)(1.0 / sqrt((double)shape->head_dim));
    spin_status status = SPIN_OK;
    SPIN_TRY_GOTO(status, alloc_lists(forward, err), fail);
    SPIN_TRY_GOTO(status, alloc_activations(forward, err), fail);
    SPIN_TRY_GOTO(status, create_sparse(forward, err), fail);
    *out = forward;
    return SPIN_OK;
fail:
    spin_forward_destroy(forward);
    return status;
}

void spin_forward_destroy(struct spin_forward *forward)
{
    if (forward == NULL) {
        return;
    }
    float *const activations[] = {
        forward->step_hidden, forward->normed, forward->q,  forward->k,      forward->v,
        forward->attended,    forward->gate,   forward->up, forward->logits, forward->cos_sin};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(activations); i++) {
        spin_device_free(forward->config.stream, activations[i]);
    }
    spin_device_free(forward->config.stream, forward->workspace);
    spin_sparse_destroy(forward->sparse);
    free(forward->rope_frequencies);
    free(forward->tokens);
    free(forward->positions);
    free(forward->first);
    free(forward->steps);
    free(forward);
}

void spin_forward_get_sparse_stats(const struct spin_forward *forward,
                                   struct spin_sparse_stats *out)
{
    spin_sparse_get_stats(forward->sparse, out);
}
