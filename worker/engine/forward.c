#include "base/assert.h"
#include "worker/engine/forward_internal.h"

#include <stdlib.h>

static struct spin_matrix floats(float *data, uint32_t rows, uint32_t cols)
{
    return (struct spin_matrix){
        .data = data, .dtype = SPIN_DTYPE_F32, .rows = rows, .cols = cols, .stride = cols};
}

/* Floats that an operation only reads. */
static struct spin_matrix floats_of(const float *data, uint32_t rows, uint32_t cols)
{
    union {
        const float *in;
        float *out;
    } pointer = {.in = data};
    return floats(pointer.out, rows, cols);
}

static struct spin_matrix residual(const struct spin_forward *forward,
                                   const struct spin_forward_rows *rows)
{
    return floats(rows->hidden, rows->count, spin_forward_shape(forward)->hidden);
}

static struct spin_matmul_args project(struct spin_forward *forward, struct spin_matrix x)
{
    return (struct spin_matmul_args){.x = x, .part_count = 0, .workspace = forward->workspace};
}

static void add_part(struct spin_matmul_args *args, struct spin_matrix y,
                     const struct spin_weight *weight, const float *bias)
{
    SPIN_ASSERT_LT(args->part_count, SPIN_MATMUL_PARTS_MAX);
    SPIN_ASSERT_EQ(y.cols, weight->rows);
    args->parts[args->part_count++] =
        (struct spin_matmul_part){.y = y, .weight = *weight, .bias = bias, .accumulate = false};
}

/* hidden += x W^T. */
static spin_status add_projection(struct spin_forward *forward, struct spin_matrix x,
                                  const struct spin_weight *weight, struct spin_matrix hidden)
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
        .y = y, .x = x, .weight = weight, .eps = (float)spin_forward_shape(forward)->rms_eps};
    return forward->config.ops->rms_norm(&args, forward->config.stream);
}

/* q, k and v of the rows, side by side. */
struct qkv {
    struct spin_matrix q;
    struct spin_matrix k;
    struct spin_matrix v;
    struct spin_matrix qk;
};

static struct qkv qkv_of(const struct spin_forward *forward, uint32_t rows)
{
    const uint32_t q = forward->q_cols;
    const uint32_t kv = forward->kv_cols;
    const struct spin_matrix all = spin_forward_view(forward, forward->qkv, rows, q + 2 * kv);
    return (struct qkv){.q = spin_forward_columns(all, 0, q),
                        .k = spin_forward_columns(all, q, kv),
                        .v = spin_forward_columns(all, q + kv, kv),
                        .qk = spin_forward_columns(all, 0, q + kv)};
}

/* Heads of q and k, normed where the model norms them. */
static spin_status rotate(struct spin_forward *forward, const struct spin_layer_weights *weights,
                          const struct spin_forward_rows *rows)
{
    const struct spin_model_config *shape = spin_forward_shape(forward);
    const struct spin_rope_args args = {
        .x = qkv_of(forward, rows->count).qk,
        .heads = shape->q_heads + shape->kv_heads,
        .head_dim = shape->head_dim,
        .positions = rows->positions,
        /* A recording outlives the table's growth. */
        .table = {.cos_sin = forward->cos_sin,
                  .positions = forward->graphs != NULL ? forward->config.tokens_max
                                                       : forward->rope_positions,
                  .rotary_dim = shape->rope.dim,
                  .pairs = shape->rope.pairs},
        .norm = {.weight = {weights->q_norm, weights->k_norm},
                 .split = shape->q_heads,
                 .eps = (float)shape->rms_eps},
    };
    return forward->config.ops->rope(&args, forward->config.stream);
}

/* q, k, v of the rows: projected, biased, normed, rotated. */
static spin_status make_qkv(struct spin_forward *forward, const struct spin_layer_weights *weights,
                            const struct spin_forward_rows *rows)
{
    const struct qkv qkv = qkv_of(forward, rows->count);
    const struct spin_matrix normed = spin_forward_view(forward, forward->normed, rows->count,
                                                        spin_forward_shape(forward)->hidden);
    SPIN_TRY(norm(forward, residual(forward, rows), normed, weights->attn_norm));
    struct spin_matmul_args args = project(forward, normed);
    add_part(&args, qkv.q, &weights->q, weights->q_bias);
    add_part(&args, qkv.k, &weights->k, weights->k_bias);
    add_part(&args, qkv.v, &weights->v, weights->v_bias);
    SPIN_TRY(forward->config.ops->matmul(&args, forward->config.stream));
    return rotate(forward, weights, rows);
}

/* Rows [first, first + count) of what attention works on, and the pages of their sequences. */
struct attended {
    uint32_t first;
    uint32_t count;
    struct spin_spans spans; /* counted from `first` */
    struct spin_page_lists pages;
    uint32_t visible_max;
};

/* Of a decode step, whose sequences have a row each. */
static struct spin_kv_wave wave_of(const struct attended *part)
{
    return (struct spin_kv_wave){.first = part->first, .count = part->count};
}

static spin_status append_and_attend(struct spin_forward *forward, const struct attended *part)
{
    const struct spin_ops *ops = forward->config.ops;
    const struct qkv qkv = qkv_of(forward, part->first + part->count);
    const struct spin_matrix out =
        spin_forward_view(forward, forward->attended, part->first + part->count, forward->q_cols);
    const struct spin_kv_append_args append = {
        .k = spin_forward_from_row(qkv.k, part->first),
        .v = spin_forward_from_row(qkv.v, part->first),
        .spans = part->spans,
        .pages = part->pages,
    };
    SPIN_TRY(ops->kv_append(&append, forward->config.stream));
    const struct spin_attention_args args = {
        .out = spin_forward_from_row(out, part->first),
        .q = spin_forward_from_row(qkv.q, part->first),
        .q_heads = spin_forward_shape(forward)->q_heads,
        .scale = forward->scale,
        .spans = part->spans,
        .pages = part->pages,
        .visible_max = part->visible_max,
        .workspace = forward->workspace,
    };
    return ops->attention(&args, forward->config.stream);
}

/* All pages of one sequence. */
static spin_status attend_unit(struct spin_forward *forward, uint32_t layer,
                               const struct spin_forward_rows *rows)
{
    const struct spin_unit *unit = &rows->unit->unit;
    struct attended all = {
        .count = rows->count, .spans = rows->spans, .visible_max = rows->visible_max[0]};
    SPIN_TRY(spin_kv_prefill_begin(forward->config.kv, rows->unit->seq, layer, unit->begin,
                                   unit->end, unit->begin == unit->super_begin, &all.pages));
    return append_and_attend(forward, &all);
}

/* Select and Resolve of wave `number`; what attention will work on. */
static spin_status select_wave(struct spin_forward *forward, uint32_t layer,
                               const struct spin_forward_rows *rows, uint32_t number,
                               struct attended *out)
{
    const bool is_dense = layer < forward->config.sparse.algorithm->dense_layers;
    const uint32_t first = rows->count * number / rows->waves;
    const uint32_t end = rows->count * (number + 1) / rows->waves;
    *out = (struct attended){
        .first = first,
        .count = end - first,
        .spans = {.first = rows->spans.first, .count = end - first},
        .visible_max = rows->visible_max[is_dense ? 0 : 1],
    };
    return spin_sparse_select(forward->sparse, layer, wave_of(out),
                              spin_forward_from_row(qkv_of(forward, end).q, first), &out->pages);
}

/* Beside what comes until the lane is joined. */
static spin_status gather_beside(struct spin_forward *forward, uint32_t layer,
                                 const struct attended *part)
{
    struct spin_stream *stream = forward->config.stream;
    SPIN_TRY(spin_stream_side_begin(stream, SPIN_LANE_SOON));
    const spin_status status = spin_kv_gather(forward->config.kv, layer, wave_of(part));
    const spin_status ended = spin_stream_side_end(stream);
    return status != SPIN_OK ? status : ended;
}

/* While the pages of a wave are on their way, the wave before it is attended to and the next one's
 * are chosen. Waves touch nothing of each other's but workspaces, which one lane uses in order. */
static spin_status attend_waves(struct spin_forward *forward, uint32_t layer,
                                const struct spin_forward_rows *rows)
{
    struct spin_stream *stream = forward->config.stream;
    struct attended chosen;
    SPIN_TRY(select_wave(forward, layer, rows, 0, &chosen));
    SPIN_TRY(gather_beside(forward, layer, &chosen));
    for (uint32_t number = 1; number < rows->waves; number++) {
        const struct attended before = chosen;
        SPIN_TRY(select_wave(forward, layer, rows, number, &chosen));
        SPIN_TRY(spin_stream_side_join(stream, SPIN_LANE_SOON));
        SPIN_TRY(gather_beside(forward, layer, &chosen));
        SPIN_TRY(append_and_attend(forward, &before));
    }
    SPIN_TRY(spin_stream_side_join(stream, SPIN_LANE_SOON));
    return append_and_attend(forward, &chosen);
}

/* One wave is one sequence of operations. */
static spin_status attend_step(struct spin_forward *forward, uint32_t layer,
                               const struct spin_forward_rows *rows)
{
    struct attended all;
    if (rows->waves > 1) {
        return attend_waves(forward, layer, rows);
    }
    SPIN_TRY(select_wave(forward, layer, rows, 0, &all));
    SPIN_TRY(spin_kv_gather(forward->config.kv, layer, wave_of(&all)));
    return append_and_attend(forward, &all);
}

static spin_status attend(struct spin_forward *forward, uint32_t layer,
                          const struct spin_forward_rows *rows)
{
    SPIN_TRY(rows->unit != NULL ? attend_unit(forward, layer, rows)
                                : attend_step(forward, layer, rows));
    return spin_sparse_seal(forward->sparse, layer);
}

static spin_status feed_forward(struct spin_forward *forward,
                                const struct spin_layer_weights *weights,
                                const struct spin_forward_rows *rows)
{
    const struct spin_model_config *shape = spin_forward_shape(forward);
    const uint32_t count = rows->count;
    const struct spin_matrix normed =
        spin_forward_view(forward, forward->normed, count, shape->hidden);
    const struct spin_matrix both =
        spin_forward_view(forward, forward->gate_up, count, 2 * shape->ffn);
    const struct spin_matrix gate = spin_forward_columns(both, 0, shape->ffn);
    const struct spin_matrix up = spin_forward_columns(both, shape->ffn, shape->ffn);
    SPIN_TRY(norm(forward, residual(forward, rows), normed, weights->ffn_norm));
    struct spin_matmul_args args = project(forward, normed);
    add_part(&args, gate, &weights->gate, NULL);
    add_part(&args, up, &weights->up, NULL);
    SPIN_TRY(forward->config.ops->matmul(&args, forward->config.stream));
    const struct spin_swiglu_args swiglu = {.y = gate, .gate = gate, .up = up};
    SPIN_TRY(forward->config.ops->swiglu(&swiglu, forward->config.stream));
    return add_projection(forward, gate, &weights->down, residual(forward, rows));
}

static spin_status run_layer(struct spin_forward *forward, uint32_t layer,
                             const struct spin_forward_rows *rows)
{
    const struct spin_layer_weights *weights = &forward->config.model->layers[layer];
    SPIN_TRY(make_qkv(forward, weights, rows));
    SPIN_TRY(attend(forward, layer, rows));
    SPIN_TRY(add_projection(
        forward, spin_forward_view(forward, forward->attended, rows->count, forward->q_cols),
        &weights->o, residual(forward, rows)));
    return feed_forward(forward, weights, rows);
}

static spin_status embed(struct spin_forward *forward, const struct spin_forward_rows *rows)
{
    const struct spin_embed_args args = {.y = residual(forward, rows),
                                         .tokens = rows->tokens,
                                         .table = forward->config.model->embed};
    return forward->config.ops->embed(&args, forward->config.stream);
}

/* The table covers positions [0, end) from here on. There is one place where blocks are made: each
 * arrives before the next one of the same call. */
static spin_status extend_rope(struct spin_forward *forward, uint32_t end)
{
    SPIN_ASSERT_LE(end, forward->config.tokens_max);
    struct spin_stream *stream = forward->config.stream;
    const uint32_t dim = spin_forward_shape(forward)->rope.dim;
    const struct spin_rope_frequencies frequencies = {
        .frequency = forward->frequencies, .rotary_dim = dim, .magnitude = forward->rope_magnitude};
    float *table = forward->cos_sin;
    for (bool again = false; forward->rope_positions < end; again = true) {
        const uint32_t first = forward->rope_positions;
        const uint32_t count =
            SPIN_MIN(SPIN_FORWARD_ROPE_POSITIONS, forward->config.tokens_max - first);
        if (again) {
            SPIN_TRY(spin_stream_sync(stream, SPIN_FORWARD_WAIT_NS));
        }
        spin_rope_table_fill(&frequencies, first, count, forward->rope_rows);
        SPIN_TRY(spin_device_write(stream, table + (uint64_t)first * dim, forward->rope_rows,
                                   spin_rope_table_bytes(count, dim)));
        forward->rope_positions += count;
    }
    return SPIN_OK;
}

/* The inputs of a pass, on the host or on the device. */
struct inputs {
    uint32_t *unit_first; /* [2] */
    uint32_t *positions;  /* [count] */
    int32_t *tokens;      /* [count] */
};

static struct inputs inputs_at(void *memory, uint32_t count)
{
    uint32_t *words = memory;
    return (struct inputs){
        .unit_first = words, .positions = words + 2, .tokens = (int32_t *)(words + 2 + count)};
}

/* Sends what was staged for rows->count rows, and says where it is. */
static spin_status send_inputs(struct spin_forward *forward, struct spin_forward_rows *rows)
{
    const struct inputs there = inputs_at(forward->inputs, rows->count);
    rows->positions = there.positions;
    rows->tokens = there.tokens;
    rows->spans = rows->unit == NULL
                      ? (struct spin_spans){.first = forward->step_first, .count = rows->count}
                      : (struct spin_spans){.first = there.unit_first, .count = 1};
    return spin_device_write(forward->config.stream, forward->inputs, forward->staged,
                             (2 + UINT64_C(2) * rows->count) * sizeof(uint32_t));
}

static void bound_lists(const struct spin_forward *forward, struct spin_forward_rows *rows)
{
    const uint32_t dense_layers = forward->config.sparse.algorithm->dense_layers;
    for (uint32_t i = 0; i < SPIN_FORWARD_CLASSES; i++) {
        const uint32_t layer = i == 0 && dense_layers > 0 ? 0 : dense_layers;
        rows->visible_max[i] =
            spin_forward_round_up(forward, spin_sparse_list_tokens(forward->sparse, layer));
    }
}

/* Where nothing can be missing, or lanes are none, waves would only cost. */
static uint32_t waves_of(const struct spin_forward *forward, uint32_t count)
{
    const bool fetches = (spin_kv_step_work(forward->config.kv) & SPIN_KV_WORK_GATHER) != 0;
    return fetches && spin_stream_has_lanes(forward->config.stream)
               ? spin_forward_waves(forward->config.waves, count)
               : 1;
}

spin_status spin_forward_submit_step(struct spin_forward *forward,
                                     const struct spin_forward_rows *rows)
{
    SPIN_TRY(embed(forward, rows));
    for (uint32_t layer = 0; layer < spin_forward_shape(forward)->layers; layer++) {
        SPIN_TRY(run_layer(forward, layer, rows));
    }
    return spin_stream_side_join(forward->config.stream, SPIN_LANE_LATE);
}

spin_status spin_forward_decode(struct spin_forward *forward, const struct spin_forward_step *steps,
                                uint32_t count, float **out_hidden)
{
    SPIN_ASSERT(!forward->step_open);
    SPIN_ASSERT_GE(count, 1);
    SPIN_ASSERT_LE(count, forward->config.sequences_max);
    struct spin_forward_rows rows = {.hidden = forward->step_hidden, .count = count};
    const struct inputs staged = inputs_at(forward->staged, count);
    uint32_t end = 0;
    for (uint32_t i = 0; i < count; i++) {
        staged.tokens[i] = steps[i].token;
        staged.positions[i] = steps[i].position;
        forward->steps[i] =
            (struct spin_kv_step){.seq = steps[i].seq, .tokens = steps[i].position + 1};
        end = SPIN_MAX(end, forward->steps[i].tokens);
    }
    SPIN_TRY(extend_rope(forward, end));
    SPIN_TRY(spin_kv_step_begin(forward->config.kv, forward->steps, count));
    SPIN_TRY(send_inputs(forward, &rows));
    SPIN_TRY(spin_sparse_step_begin(forward->sparse));
    bound_lists(forward, &rows);
    rows.waves = waves_of(forward, count);
    SPIN_TRY(spin_forward_run_step(forward, &rows));
    forward->step_open = true;
    *out_hidden = rows.hidden;
    return SPIN_OK;
}

spin_status spin_forward_decode_end(struct spin_forward *forward)
{
    SPIN_ASSERT(forward->step_open);
    forward->step_open = false;
    return spin_kv_step_end(forward->config.kv);
}

spin_status spin_forward_prefill(struct spin_forward *forward, const struct spin_forward_unit *unit)
{
    const struct spin_unit *range = &unit->unit;
    SPIN_ASSERT(!forward->step_open);
    SPIN_ASSERT_LE(range->super_begin, range->begin);
    SPIN_ASSERT_LT(range->begin, range->end);
    struct spin_forward_rows rows = {
        .hidden = unit->hidden + (uint64_t)(range->begin - range->super_begin) *
                                     spin_forward_shape(forward)->hidden,
        .count = range->end - range->begin,
        .visible_max = {range->end, range->end},
        .unit = unit,
    };
    SPIN_ASSERT_LE(rows.count, forward->rows_max);
    const struct inputs staged = inputs_at(forward->staged, rows.count);
    staged.unit_first[0] = 0;
    staged.unit_first[1] = rows.count;
    for (uint32_t i = 0; i < rows.count; i++) {
        staged.positions[i] = range->begin + i;
        staged.tokens[i] = unit->tokens[range->begin + i];
    }
    SPIN_TRY(extend_rope(forward, range->end));
    SPIN_TRY(send_inputs(forward, &rows));
    if (range->layer == 0) {
        SPIN_TRY(embed(forward, &rows));
    }
    SPIN_TRY(run_layer(forward, range->layer, &rows));
    return spin_stream_side_join(forward->config.stream, SPIN_LANE_LATE);
}

spin_status spin_forward_logits(struct spin_forward *forward, const float *hidden, uint32_t rows,
                                const float **out)
{
    SPIN_ASSERT_GE(rows, 1);
    SPIN_ASSERT_LE(rows, forward->config.logits_rows_max);
    const struct spin_model *model = forward->config.model;
    const struct spin_model_config *shape = &model->config;
    const struct spin_matrix normed =
        spin_forward_view(forward, forward->normed, rows, shape->hidden);
    SPIN_TRY(norm(forward, floats_of(hidden, rows, shape->hidden), normed, model->output_norm));
    struct spin_matmul_args args = project(forward, normed);
    add_part(&args, floats(forward->logits, rows, shape->vocab), &model->lm_head, NULL);
    SPIN_TRY(forward->config.ops->matmul(&args, forward->config.stream));
    *out = forward->logits;
    return SPIN_OK;
}

spin_status spin_forward_create(const struct spin_forward_config *config, struct spin_forward **out,
                                struct spin_error *err)
{
    SPIN_ASSERT_EQ(config->grid.layers, config->model->config.layers);
    SPIN_ASSERT_GE(config->logits_rows_max, 1);
    struct spin_forward *forward = calloc(1, sizeof *forward);
    if (forward == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "forward pass: %zu bytes", sizeof *forward);
    }
    const struct spin_kv_view *pages = spin_kv_get_view(config->kv);
    *forward = spin_forward_measure(config, pages->layout, pages->page_tokens);
    const struct spin_sparse_config sparse = spin_forward_sparse_config(forward);
    spin_status status = SPIN_OK;
    SPIN_TRY_GOTO(status, spin_forward_alloc(forward, err), fail);
    SPIN_TRY_GOTO(status, spin_sparse_create(&sparse, &forward->sparse, err), fail);
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
    spin_forward_free(forward);
    spin_sparse_destroy(forward->sparse);
    free(forward);
}

void spin_forward_get_sparse_stats(const struct spin_forward *forward,
                                   struct spin_sparse_stats *out)
{
    spin_sparse_get_stats(forward->sparse, out);
}

void spin_forward_get_graph_stats(const struct spin_forward *forward,
                                  struct spin_forward_graph_stats *out)
{
    *out = forward->graph_stats;
}
