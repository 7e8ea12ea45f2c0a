/* One allocation on the device holds all tensors, one after the other. A piece of a matrix, as many
 * rows as a half of the staging memory takes, is converted there by threads while the other half is
 * on its way:
 *
 *   host     convert 0 | convert 1 | convert 0 | ...
 *   device             |  copy 0   |  copy 1   | ...
 */
#include "model/weights/place.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "model/weights/weights_internal.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Large enough that starting threads and waiting for a copy are nothing beside the work. */
#define STAGING_BYTES (UINT64_C(32) << 20)
#define STAGES 2u
#define THREADS_MAX 16u
#define BYTES_PER_THREAD (UINT64_C(1) << 20)
/* What device memory is aligned to, and more than any operation asks of a weight. */
#define ALIGNMENT UINT64_C(256)
/* A copy of one stage takes milliseconds. */
#define COPY_LIMIT_NS (60 * SPIN_NS_PER_S)
#define PROGRESS_NS (3 * SPIN_NS_PER_S)
/* Values that are converted at a time, on a thread's stack. */
#define GROUP_VALUES 4096u

_Static_assert(STAGING_BYTES >= UINT64_C(2) * SPIN_FFN_MAX, "a row of any matrix fits a stage");
_Static_assert(STAGING_BYTES >= sizeof(float) * SPIN_FFN_MAX, "and so does any vector");

struct placer {
    struct spin_model *placed;
    struct spin_stream *stream;
    uint8_t *stages[STAGES]; /* [STAGING_BYTES] each, pinned */
    uint32_t stage;          /* the next to be filled */
    uint32_t thread_count;
    uint8_t *target; /* on the device */
    uint64_t used_bytes;
    uint64_t total_bytes;
    uint64_t logged_ns;
    struct spin_error *err;
};

/* --- converting --- */

/* Values [begin, end) of consecutive rows, as BF16. */
struct piece {
    const uint8_t *source; /* of value 0 */
    uint16_t *target;      /* of value 0 */
    enum spin_dtype dtype;
    uint64_t begin;
    uint64_t end;
};

static void *run_piece(void *argument)
{
    const struct piece *piece = argument;
    if (piece->dtype == SPIN_DTYPE_BF16) {
        memcpy(piece->target + piece->begin, piece->source + piece->begin * sizeof(uint16_t),
               (piece->end - piece->begin) * sizeof(uint16_t));
        return NULL;
    }
    float values[GROUP_VALUES];
    for (uint64_t at = piece->begin; at < piece->end;) {
        const uint64_t count = SPIN_MIN(GROUP_VALUES, piece->end - at);
        spin_dtype_to_f32(piece->dtype, piece->source + spin_dtype_row_bytes(piece->dtype, at),
                          values, count);
        for (uint64_t i = 0; i < count; i++) {
            piece->target[at + i] = spin_bf16_from_f32(values[i]);
        }
        at += count;
    }
    return NULL;
}

/* Cut between groups, which are whole blocks of every format. A thread that cannot be started is
 * done by the caller. */
static void convert(const struct placer *placer, const struct piece *whole)
{
    pthread_t threads[THREADS_MAX];
    struct piece parts[THREADS_MAX];
    bool started[THREADS_MAX];
    const uint64_t groups = (whole->end + GROUP_VALUES - 1) / GROUP_VALUES;
    const uint64_t wanted = 1 + whole->end * sizeof(uint16_t) / BYTES_PER_THREAD;
    const uint32_t count = (uint32_t)SPIN_MIN(wanted, placer->thread_count);
    for (uint32_t i = 0; i < count; i++) {
        parts[i] = *whole;
        parts[i].begin = SPIN_MIN(groups * i / count * GROUP_VALUES, whole->end);
        parts[i].end = SPIN_MIN(groups * (i + 1) / count * GROUP_VALUES, whole->end);
        started[i] = i + 1 < count && pthread_create(&threads[i], NULL, run_piece, &parts[i]) == 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (started[i]) {
            SPIN_ASSERT_EQ(pthread_join(threads[i], NULL), 0);
        } else {
            (void)run_piece(&parts[i]);
        }
    }
}

/* --- copying --- */

static spin_status lost(const struct placer *placer, spin_status status)
{
    return status == SPIN_OK
               ? SPIN_OK
               : spin_fail(placer->err, status, "%s: copying weights to the device failed",
                           placer->placed->name);
}

static void log_progress(struct placer *placer)
{
    const uint64_t now_ns = spin_now_ns(spin_clock_real());
    if (now_ns - placer->logged_ns >= PROGRESS_NS) {
        placer->logged_ns = now_ns;
        SPIN_INFO("placing weights: %.1f of %.1f GB", (double)placer->used_bytes / 1e9,
                  (double)placer->total_bytes / 1e9);
    }
}

/* Sends `bytes` of the stage that was filled. Its turn comes again after the other's, whose copy is
 * waited for here, while this one's goes on. */
static spin_status send(struct placer *placer, uint64_t bytes)
{
    SPIN_ASSERT_LE(placer->used_bytes + bytes, placer->total_bytes);
    SPIN_TRY(lost(placer, spin_stream_sync(placer->stream, COPY_LIMIT_NS)));
    SPIN_TRY(lost(placer, spin_device_write(placer->stream, placer->target + placer->used_bytes,
                                            placer->stages[placer->stage], bytes)));
    placer->used_bytes += bytes;
    placer->stage = (placer->stage + 1) % STAGES;
    log_progress(placer);
    return SPIN_OK;
}

static void align(struct placer *placer)
{
    placer->used_bytes = (placer->used_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static spin_status place_matrix(struct placer *placer, const struct spin_weight *from,
                                struct spin_weight *to)
{
    const uint64_t row_bytes = from->cols * sizeof(uint16_t);
    const uint64_t rows_max = STAGING_BYTES / row_bytes;
    align(placer);
    *to = (struct spin_weight){.data = placer->target + placer->used_bytes,
                               .dtype = SPIN_DTYPE_BF16,
                               .rows = from->rows,
                               .cols = from->cols};
    for (uint64_t row = 0; row < from->rows;) {
        const uint64_t rows = SPIN_MIN(rows_max, from->rows - row);
        const struct piece piece = {.source = (const uint8_t *)from->data +
                                              row * spin_dtype_row_bytes(from->dtype, from->cols),
                                    .target = (uint16_t *)(void *)placer->stages[placer->stage],
                                    .dtype = from->dtype,
                                    .begin = 0,
                                    .end = rows * from->cols};
        convert(placer, &piece);
        SPIN_TRY(send(placer, rows * row_bytes));
        row += rows;
    }
    return SPIN_OK;
}

static spin_status place_vector(struct placer *placer, const float *from, uint64_t count,
                                const float **to)
{
    *to = NULL;
    if (from == NULL) {
        return SPIN_OK;
    }
    align(placer);
    *to = (const float *)(void *)(placer->target + placer->used_bytes);
    memcpy(placer->stages[placer->stage], from, count * sizeof *from);
    return send(placer, count * sizeof *from);
}

/* --- every tensor --- */

#define LAYER_MATRICES 7u
#define LAYER_VECTORS 7u

struct vector {
    const float *data; /* NULL: the model has none */
    uint64_t count;
};

static void list_matrices(const struct spin_layer_weights *layer,
                          const struct spin_weight *out[LAYER_MATRICES])
{
    const struct spin_weight *const matrices[LAYER_MATRICES] = {
        &layer->q, &layer->k, &layer->v, &layer->o, &layer->gate, &layer->up, &layer->down};
    memcpy(out, matrices, sizeof matrices);
}

static void list_vectors(const struct spin_model_config *config,
                         const struct spin_layer_weights *layer, struct vector out[LAYER_VECTORS])
{
    const uint64_t q_width = (uint64_t)config->q_heads * config->head_dim;
    const uint64_t kv_width = (uint64_t)config->kv_heads * config->head_dim;
    const struct vector vectors[LAYER_VECTORS] = {
        {layer->attn_norm, config->hidden}, {layer->ffn_norm, config->hidden},
        {layer->q_norm, config->head_dim},  {layer->k_norm, config->head_dim},
        {layer->q_bias, q_width},           {layer->k_bias, kv_width},
        {layer->v_bias, kv_width}};
    memcpy(out, vectors, sizeof vectors);
}

static spin_status place_layer(struct placer *placer, const struct spin_model *model,
                               uint32_t index)
{
    const struct spin_layer_weights *from = &model->layers[index];
    struct spin_layer_weights *to = &placer->placed->layers[index];
    struct spin_weight *const matrices[LAYER_MATRICES] = {&to->q,    &to->k,  &to->v,   &to->o,
                                                          &to->gate, &to->up, &to->down};
    const float **const vectors[LAYER_VECTORS] = {&to->attn_norm, &to->ffn_norm, &to->q_norm,
                                                  &to->k_norm,    &to->q_bias,   &to->k_bias,
                                                  &to->v_bias};
    const struct spin_weight *matrices_from[LAYER_MATRICES];
    struct vector vectors_from[LAYER_VECTORS];
    list_matrices(from, matrices_from);
    list_vectors(&model->config, from, vectors_from);
    for (uint32_t i = 0; i < LAYER_MATRICES; i++) {
        SPIN_TRY(place_matrix(placer, matrices_from[i], matrices[i]));
    }
    for (uint32_t i = 0; i < LAYER_VECTORS; i++) {
        SPIN_TRY(place_vector(placer, vectors_from[i].data, vectors_from[i].count, vectors[i]));
    }
    return SPIN_OK;
}

static spin_status place_tensors(struct placer *placer, const struct spin_model *model)
{
    struct spin_model *placed = placer->placed;
    SPIN_TRY(place_matrix(placer, &model->embed, &placed->embed));
    placed->lm_head = placed->embed;
    if (!model->config.tied) {
        SPIN_TRY(place_matrix(placer, &model->lm_head, &placed->lm_head));
    }
    SPIN_TRY(place_vector(placer, model->output_norm, model->config.hidden, &placed->output_norm));
    for (uint32_t i = 0; i < model->config.layers; i++) {
        SPIN_TRY(place_layer(placer, model, i));
    }
    return lost(placer, spin_stream_sync(placer->stream, COPY_LIMIT_NS));
}

/* --- memory --- */

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static uint64_t matrix_bytes(const struct spin_weight *weight)
{
    return aligned((uint64_t)weight->rows * weight->cols * sizeof(uint16_t));
}

uint64_t spin_model_placed_bytes(const struct spin_model *model)
{
    const struct spin_model_config *config = &model->config;
    uint64_t bytes = matrix_bytes(&model->embed) + aligned(config->hidden * sizeof(float));
    bytes += config->tied ? 0 : matrix_bytes(&model->lm_head);
    for (uint32_t layer = 0; layer < config->layers; layer++) {
        const struct spin_weight *matrices[LAYER_MATRICES];
        struct vector vectors[LAYER_VECTORS];
        list_matrices(&model->layers[layer], matrices);
        list_vectors(config, &model->layers[layer], vectors);
        for (uint32_t i = 0; i < LAYER_MATRICES; i++) {
            bytes += matrix_bytes(matrices[i]);
        }
        for (uint32_t i = 0; i < LAYER_VECTORS; i++) {
            bytes += vectors[i].data == NULL ? 0 : aligned(vectors[i].count * sizeof(float));
        }
    }
    return bytes;
}

static spin_status copy_divisors(struct spin_model *placed, struct spin_error *err)
{
    struct spin_rope_config *rope = &placed->config.rope;
    if (rope->divisors == NULL) {
        return SPIN_OK;
    }
    const uint64_t bytes = rope->dim / 2 * sizeof *rope->divisors;
    float *copy = spin_arena_take(placed->storage->arena, bytes);
    if (copy == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "%s: %lu bytes", placed->name,
                         (unsigned long)bytes);
    }
    memcpy(copy, rope->divisors, bytes);
    rope->divisors = copy;
    return SPIN_OK;
}

/* Everything of the source that is not a tensor, and room for those. */
static spin_status create_placed(const struct spin_model *model, struct placer *placer)
{
    struct spin_error *err = placer->err;
    SPIN_TRY(spin_model_create(model->name, strlen(model->name), 0, &placer->placed, err));
    struct spin_model *placed = placer->placed;
    placed->config = model->config;
    placed->id = model->id;
    placed->weight_bytes = placer->total_bytes;
    SPIN_TRY(copy_divisors(placed, err));
    placed->layers = calloc(model->config.layers, sizeof *placed->layers);
    if (placed->layers == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "a table of %u layers", model->config.layers);
    }
    struct spin_error why = {0};
    const spin_status status = spin_device_alloc(placer->stream, placer->total_bytes,
                                                 &placed->storage->device_memory, &why);
    if (status != SPIN_OK) {
        return spin_fail(err, status, "%s: the weights take %.2f GB as BF16: %s", model->name,
                         (double)placer->total_bytes / 1e9, why.text);
    }
    placed->storage->stream = placer->stream;
    placer->target = placed->storage->device_memory;
    for (uint32_t i = 0; i < STAGES; i++) {
        void *memory = NULL;
        SPIN_TRY(spin_host_alloc(placer->stream, STAGING_BYTES, &memory, err));
        placer->stages[i] = memory;
    }
    return SPIN_OK;
}

spin_status spin_model_place(const struct spin_model *model, struct spin_stream *stream,
                             struct spin_model **out, struct spin_error *err)
{
    const long processors = sysconf(_SC_NPROCESSORS_ONLN);
    const uint64_t start_ns = spin_now_ns(spin_clock_real());
    struct placer placer = {.stream = stream,
                            .thread_count =
                                (uint32_t)SPIN_MIN(SPIN_MAX(processors, 1), (long)THREADS_MAX),
                            .total_bytes = spin_model_placed_bytes(model),
                            .logged_ns = start_ns,
                            .err = err};
    spin_status status = create_placed(model, &placer);
    if (status == SPIN_OK) {
        status = place_tensors(&placer, model);
    }
    for (uint32_t i = 0; i < STAGES; i++) {
        spin_host_free(stream, placer.stages[i]);
    }
    if (status != SPIN_OK) {
        spin_model_close(placer.placed);
        return status;
    }
    const uint64_t spent_ns = spin_now_ns(spin_clock_real()) - start_ns;
    SPIN_INFO("weights placed: %.2f GB as BF16 in %.1f s", (double)placer.total_bytes / 1e9,
              (double)spent_ns / (double)SPIN_NS_PER_S);
    *out = placer.placed;
    return SPIN_OK;
}
