#include "bench/gpu/model/scene.h"

#include "base/assert.h"
#include "base/rng.h"
#include "bench/gpu/model/numbers.h"
#include "bench/gpu/model/put.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GRAPHS_MAX 8u
#define LIST_ALIGNMENT 8u

/* A step's lists of all layers that choose, as spin_put takes them. */
struct lists {
    uint32_t layers;
    uint32_t rows;   /* of a layer */
    uint32_t stride; /* entries of a row */
    uint64_t bytes;
    void *host;
    void *device;
};

struct spin_scene {
    struct spin_scene_config config;
    struct spin_rig_kv shape;
    struct spin_kv_config kv_config;
    struct spin_kv *kv;
    struct spin_forward *forward;
    enum spin_scene_part without;   /* of the forward pass: its recordings hold operations */
    struct spin_drift *drift;       /* of a run */
    const struct spin_trace *trace; /* of a run */
    struct lists lists;
    struct spin_forward_step *steps; /* [batch] */
    uint32_t opened;                 /* sequences */
    uint32_t position;
    spin_status put_status; /* the first failure inside of the observer */
    float *logits;          /* of one sequence, on the host */
};

static bool chooses(const struct spin_scene *scene)
{
    return scene->config.sparse.algorithm->summary != SPIN_SUMMARY_NONE;
}

/* --- operations that may be left out --- */

static spin_status no_gather(const struct spin_kv_gather_args *args, struct spin_stream *stream)
{
    (void)args;
    (void)stream;
    return SPIN_OK;
}

/* An operation has no context of its own: the table that the rig has in full. */
static const struct spin_ops *all_ops;

/* Layers that attend to everything have no lists but Select's. */
static spin_status no_select(const struct spin_kv_select_args *args, struct spin_stream *stream)
{
    bool is_everything = args->summary == SPIN_SUMMARY_NONE;
    for (uint32_t i = 0; i < spin_sparse_algorithm_count; i++) {
        const struct spin_sparse_algorithm *algorithm = spin_sparse_algorithms[i];
        is_everything = is_everything || (algorithm->summary == args->summary &&
                                          args->batch.layer < algorithm->dense_layers);
    }
    return is_everything ? all_ops->kv_select(args, stream) : SPIN_OK;
}

static void leave_out(struct spin_rig *rig, enum spin_scene_part part)
{
    all_ops = rig->all_ops;
    rig->ops = *rig->all_ops;
    if (part == SPIN_SCENE_NO_GATHER) {
        rig->ops.kv_gather = no_gather;
    }
    if (part == SPIN_SCENE_NO_SELECT) {
        rig->ops.kv_select = no_select;
    }
}

/* --- choices --- */

/* Behind the counts. */
static uint16_t *pages_of(const struct lists *lists, void *memory)
{
    return (uint16_t *)((uint32_t *)memory + (uint64_t)lists->layers * lists->rows);
}

/* A spin_sparse_observer, after Select. */
static void selected(void *context, uint32_t first, const struct spin_kv_batch *batch,
                     const struct spin_kv_lists *lists)
{
    struct spin_scene *scene = context;
    const uint32_t dense = scene->config.sparse.algorithm->dense_layers;
    if (!chooses(scene) || batch->layer < dense) {
        return;
    }
    const struct lists *mine = &scene->lists;
    const uint32_t heads = scene->kv_config.layout.kv_heads;
    const uint64_t row = (uint64_t)(batch->layer - dense) * mine->rows + (uint64_t)first * heads;
    const struct spin_put_args args = {
        .lists = *lists,
        .pages = pages_of(mine, mine->device) + row * mine->stride,
        .page_count = (const uint32_t *)mine->device + row,
        .stride = mine->stride,
        .rows = batch->count * heads,
    };
    const spin_status status = scene->config.rig->put(&args, scene->config.rig->stream);
    if (scene->put_status == SPIN_OK) {
        scene->put_status = status;
    }
}

/* Lists of the step that comes, out of drift. */
static void write_drift(struct spin_scene *scene, uint32_t *counts, uint16_t *pages)
{
    const struct spin_sparse_algorithm *algorithm = scene->config.sparse.algorithm;
    const uint32_t tokens = scene->position + 1;
    const struct spin_kv_window window = algorithm->window(&scene->config.sparse, tokens);
    const struct spin_drift_list list = {
        .pages = algorithm->partition_tokens / algorithm->page_tokens,
        .newest_page = (tokens - 1) / algorithm->page_tokens,
    };
    const struct lists *lists = &scene->lists;
    SPIN_ASSERT_LE(spin_drift_entries(window, &list), lists->stride);
    spin_drift_step(scene->drift, window);
    for (uint32_t row = 0; row < lists->layers * lists->rows; row++) {
        counts[row] =
            spin_drift_write(scene->drift, row, &list, pages + (uint64_t)row * lists->stride);
    }
}

/* The same out of a trace, whose model may be smaller: its documents, layers and heads serve again
 * and again. */
static void write_trace(const struct spin_scene *scene, uint32_t *counts, uint16_t *pages)
{
    const struct lists *lists = &scene->lists;
    const struct spin_trace_shape *shape = &scene->trace->shape;
    const uint32_t heads = scene->config.rig->model->config.kv_heads;
    const uint32_t step = scene->position - scene->config.context;
    for (uint32_t row = 0; row < lists->layers * lists->rows; row++) {
        const uint32_t layer = row / lists->rows % shape->layers;
        const uint32_t sequence = row % lists->rows / heads;
        const uint32_t head = row % heads % shape->kv_heads;
        const struct spin_trace_list list = spin_trace_get_list(
            scene->trace, sequence % shape->documents, step, layer * shape->kv_heads + head);
        SPIN_ASSERT_LE(list.count, lists->stride);
        memcpy(pages + (uint64_t)row * lists->stride, list.pages, list.count * sizeof *list.pages);
        counts[row] = list.count;
    }
}

/* The lists of the step that comes, on the device. */
static spin_status choose(struct spin_scene *scene)
{
    if (!chooses(scene)) {
        return SPIN_OK;
    }
    const struct lists *lists = &scene->lists;
    uint32_t *counts = lists->host;
    if (scene->trace != NULL) {
        write_trace(scene, counts, pages_of(lists, lists->host));
    } else {
        write_drift(scene, counts, pages_of(lists, lists->host));
    }
    const struct spin_rig *rig = scene->config.rig;
    SPIN_TRY(spin_device_write(rig->stream, lists->device, lists->host, lists->bytes));
    return spin_rig_sync(rig);
}

static spin_status alloc_lists(struct spin_scene *scene, struct spin_error *err)
{
    const struct spin_model_config *shape = &scene->config.rig->model->config;
    const struct spin_sparse_options *sparse = &scene->config.sparse;
    const uint32_t dense = sparse->algorithm->dense_layers;
    struct lists *lists = &scene->lists;
    lists->layers = shape->layers - dense;
    lists->rows = scene->config.batch * shape->kv_heads;
    const uint32_t longest = spin_sparse_mandatory(sparse, dense, scene->shape.tokens_max);
    lists->stride = (longest + LIST_ALIGNMENT - 1) / LIST_ALIGNMENT * LIST_ALIGNMENT;
    const uint64_t rows = (uint64_t)lists->layers * lists->rows;
    lists->bytes = rows * (sizeof(uint32_t) + lists->stride * sizeof(uint16_t));
    struct spin_stream *stream = scene->config.rig->stream;
    SPIN_TRY(spin_host_alloc(stream, lists->bytes, &lists->host, err));
    return spin_device_alloc(stream, lists->bytes, &lists->device, err);
}

/* A trace says which pages every row of this algorithm read at exactly these tokens. */
static spin_status check_trace(const struct spin_scene *scene, const struct spin_scene_run *run,
                               struct spin_error *err)
{
    const struct spin_trace_shape *shape = &run->trace->shape;
    const struct spin_sparse_algorithm *algorithm = scene->config.sparse.algorithm;
    const uint32_t last = scene->position - scene->config.context + run->warm + run->steps;
    const bool fits = strcmp(shape->algorithm, algorithm->name) == 0 &&
                      shape->page_tokens == algorithm->page_tokens && last <= shape->steps;
    for (uint32_t i = 0; i < shape->documents && fits; i++) {
        if (run->trace->documents[i].prompt_tokens != scene->config.context ||
            spin_trace_mandatory(run->trace, i) > scene->lists.stride) {
            return spin_fail(err, SPIN_ERR_INVALID,
                             "trace: document %u has %u tokens and lists of up to %u pages: "
                             "must be %u, at most %u",
                             i, run->trace->documents[i].prompt_tokens,
                             spin_trace_mandatory(run->trace, i), scene->config.context,
                             scene->lists.stride);
        }
    }
    return fits ? SPIN_OK
                : spin_fail(err, SPIN_ERR_INVALID,
                            "trace: %u steps of %s: must be %s's, and %u at least", shape->steps,
                            shape->algorithm, algorithm->name, last);
}

static spin_status make_choices(struct spin_scene *scene, const struct spin_scene_run *run,
                                struct spin_error *err)
{
    spin_drift_destroy(scene->drift);
    scene->drift = NULL;
    scene->trace = run->trace;
    if (!chooses(scene)) {
        return SPIN_OK;
    }
    if (run->trace != NULL) {
        return check_trace(scene, run, err);
    }
    const struct spin_sparse_options *sparse = &scene->config.sparse;
    const struct spin_kv_window last = sparse->algorithm->window(sparse, scene->shape.tokens_max);
    const struct spin_drift_config config = {
        .rows = scene->lists.layers * scene->lists.rows,
        .partitions_max = last.local_begin,
        .chosen_max = last.k,
        .overlap = run->overlap,
        .returns = run->returns,
        .seed = scene->config.seed + scene->position,
    };
    return spin_drift_create(&config, &scene->drift, err);
}

/* --- open and close --- */

static void fill_shape(struct spin_scene *scene, const struct spin_scene_config *config)
{
    scene->config = *config;
    scene->shape = (struct spin_rig_kv){
        .sparse = &scene->config.sparse,
        .sequences = config->batch,
        .tokens_max = config->context + config->steps_max + 1,
        .slots_factor = config->slots_factor,
        .frame_bytes = config->frame_bytes,
    };
    scene->kv_config = spin_rig_kv_config(config->rig, &scene->shape);
}

static struct spin_forward_config forward_config(struct spin_scene *scene)
{
    const struct spin_scene_config *config = &scene->config;
    return (struct spin_forward_config){
        .model = config->rig->model,
        .ops = &config->rig->ops,
        .stream = config->rig->stream,
        .kv = scene->kv,
        .grid = {.layers = config->rig->model->config.layers,
                 .super_chunk_tokens = config->batch,
                 .chunk_tokens = config->batch},
        .sequences_max = config->batch,
        .tokens_max = scene->shape.tokens_max,
        .logits_rows_max = config->batch,
        .sparse = config->sparse,
        .observer = {.context = scene, .selected = selected},
        .graphs_max = GRAPHS_MAX,
        .waves = config->waves,
    };
}

uint64_t spin_scene_bytes(const struct spin_scene_config *config, bool *aliased)
{
    struct spin_scene scene = {.opened = 0};
    fill_shape(&scene, config);
    *aliased = scene.kv_config.frame_blocks != 0;
    const struct spin_forward_config forward = forward_config(&scene);
    return spin_rig_kv_bytes(&scene.kv_config) +
           spin_forward_plan_bytes(&forward, &scene.kv_config);
}

static spin_status adopt(struct spin_scene *scene, uint32_t index, struct spin_error *err)
{
    const struct spin_scene_config *config = &scene->config;
    struct spin_forward_step *step = &scene->steps[index];
    spin_status status = spin_kv_open(scene->kv, &step->seq);
    if (status == SPIN_OK) {
        scene->opened++;
        SPIN_TRY_GOTO(status, spin_kv_reserve(scene->kv, step->seq, scene->shape.tokens_max), fail);
        spin_kv_adopt(scene->kv, step->seq, config->context);
        SPIN_TRY_GOTO(
            status, spin_kv_activate(scene->kv, step->seq, config->context, config->context), fail);
        SPIN_TRY_GOTO(status, spin_rig_sync(config->rig), fail);
        step->token = (int32_t)(1 + index % (config->rig->model->config.vocab - 1));
        return SPIN_OK;
    }
fail:
    return spin_fail(err, status, "sequence %u of %u got no room", index, config->batch);
}

static spin_status fill_scene(struct spin_scene *scene, struct spin_error *err)
{
    const struct spin_scene_config *config = &scene->config;
    SPIN_TRY(spin_kv_create(&scene->kv_config, config->rig->stream, &scene->kv, err));
    SPIN_TRY(spin_rig_fill_kv(config->rig, &scene->kv_config, scene->kv, config->seed, err));
    scene->steps = calloc(config->batch, sizeof *scene->steps);
    scene->logits = calloc(config->rig->model->config.vocab, sizeof *scene->logits);
    if (scene->steps == NULL || scene->logits == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "steps of %u sequences", config->batch);
    }
    if (chooses(scene)) {
        SPIN_TRY(alloc_lists(scene, err));
    }
    for (uint32_t i = 0; i < config->batch; i++) {
        SPIN_TRY(adopt(scene, i, err));
    }
    scene->position = config->context;
    return SPIN_OK;
}

spin_status spin_scene_open(const struct spin_scene_config *config, struct spin_scene **out,
                            struct spin_error *err)
{
    SPIN_ASSERT_EQ(config->context % config->sparse.algorithm->page_tokens, 0);
    struct spin_scene *scene = calloc(1, sizeof *scene);
    if (scene == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "scene: %zu bytes", sizeof *scene);
    }
    leave_out(config->rig, SPIN_SCENE_ALL);
    fill_shape(scene, config);
    const spin_status status = fill_scene(scene, err);
    if (status != SPIN_OK) {
        spin_scene_close(scene);
        return status;
    }
    *out = scene;
    return SPIN_OK;
}

void spin_scene_close(struct spin_scene *scene)
{
    if (scene == NULL) {
        return;
    }
    for (uint32_t i = 0; i < scene->opened; i++) {
        spin_kv_close(scene->kv, scene->steps[i].seq);
    }
    spin_forward_destroy(scene->forward);
    spin_kv_destroy(scene->kv);
    spin_drift_destroy(scene->drift);
    spin_host_free(scene->config.rig->stream, scene->lists.host);
    spin_device_free(scene->config.rig->stream, scene->lists.device);
    free(scene->steps);
    free(scene->logits);
    free(scene);
}

/* --- steps --- */

static spin_status make_forward(struct spin_scene *scene, enum spin_scene_part without,
                                struct spin_error *err)
{
    if (scene->forward != NULL && scene->without == without) {
        return SPIN_OK;
    }
    spin_forward_destroy(scene->forward);
    scene->forward = NULL;
    scene->without = without;
    leave_out(scene->config.rig, without);
    const struct spin_forward_config config = forward_config(scene);
    return spin_forward_create(&config, &scene->forward, err);
}

/* Times of the measured steps. */
enum { WHOLE, SUBMIT, END, TIMES };
struct times {
    double *ms[TIMES]; /* [steps] each */
};

/* One step of everybody, logits included; its times go to ms. */
static spin_status step(struct spin_scene *scene, const float **logits, double ms[TIMES])
{
    const double begun_ms = spin_rig_now_ms();
    const struct spin_scene_config *config = &scene->config;
    for (uint32_t i = 0; i < config->batch; i++) {
        scene->steps[i].position = scene->position;
    }
    float *hidden = NULL;
    SPIN_TRY(spin_forward_decode(scene->forward, scene->steps, config->batch, &hidden));
    SPIN_TRY(scene->put_status);
    SPIN_TRY(spin_forward_logits(scene->forward, hidden, config->batch, logits));
    const double submitted_ms = spin_rig_now_ms();
    SPIN_TRY(spin_rig_sync(config->rig));
    const double done_ms = spin_rig_now_ms();
    SPIN_TRY(spin_forward_decode_end(scene->forward));
    scene->position++;
    const double ended_ms = spin_rig_now_ms();
    ms[WHOLE] = ended_ms - begun_ms;
    ms[SUBMIT] = submitted_ms - begun_ms;
    ms[END] = ended_ms - done_ms;
    return SPIN_OK;
}

static spin_status check_logits(struct spin_scene *scene, const float *logits, bool *finite)
{
    const struct spin_rig *rig = scene->config.rig;
    const uint32_t vocab = rig->model->config.vocab;
    SPIN_TRY(spin_device_read(rig->stream, scene->logits, logits, vocab * sizeof *logits));
    SPIN_TRY(spin_rig_sync(rig));
    *finite = true;
    for (uint32_t i = 0; i < vocab; i++) {
        *finite = *finite && isfinite(scene->logits[i]);
    }
    return SPIN_OK;
}

struct counts {
    struct spin_kv_stats kv;
    struct spin_sparse_stats sparse;
    struct spin_forward_graph_stats graphs;
};

static struct counts count(const struct spin_scene *scene)
{
    struct counts counts;
    spin_kv_get_stats(scene->kv, &counts.kv);
    spin_forward_get_sparse_stats(scene->forward, &counts.sparse);
    spin_forward_get_graph_stats(scene->forward, &counts.graphs);
    return counts;
}

static void fill_counts(const struct spin_scene *scene, const struct counts *before,
                        struct spin_scene_result *out)
{
    const struct counts after = count(scene);
    out->hits = after.kv.hits - before->kv.hits;
    out->misses = after.kv.misses - before->kv.misses;
    out->evictions = after.kv.evictions - before->kv.evictions;
    out->sparse_steps = after.sparse.steps - before->sparse.steps;
    out->dense_fallbacks = after.sparse.dense_fallbacks - before->sparse.dense_fallbacks;
    out->recorded = after.graphs.recorded - before->graphs.recorded;
    out->replayed = after.graphs.replayed - before->graphs.replayed;
}

static spin_status run_steps(struct spin_scene *scene, const struct spin_scene_run *run,
                             const struct times *times, struct spin_scene_result *out)
{
    struct counts before = count(scene);
    const float *logits = NULL;
    for (uint32_t i = 0; i < run->warm + run->steps; i++) {
        if (i == run->warm) {
            before = count(scene);
            out->tokens = scene->position + run->steps / 2;
        }
        SPIN_TRY(choose(scene));
        double ms[TIMES];
        SPIN_TRY(step(scene, &logits, ms));
        for (uint32_t t = 0; t < TIMES && i >= run->warm; t++) {
            times->ms[t][i - run->warm] = ms[t];
        }
    }
    fill_counts(scene, &before, out);
    return check_logits(scene, logits, &out->finite);
}

spin_status spin_scene_measure(struct spin_scene *scene, const struct spin_scene_run *run,
                               struct spin_scene_result *out, struct spin_error *err)
{
    *out = (struct spin_scene_result){.ms = 0};
    if (scene->position + run->warm + run->steps > scene->shape.tokens_max) {
        return spin_fail(err, SPIN_ERR_INVALID, "steps up to token %u: this scene has %u",
                         scene->position + run->warm + run->steps, scene->shape.tokens_max);
    }
    SPIN_TRY(make_choices(scene, run, err));
    SPIN_TRY(make_forward(scene, run->without, err));
    double *samples = calloc((uint64_t)run->steps * TIMES, sizeof *samples);
    if (samples == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "times of %u steps", run->steps);
    }
    struct times times;
    for (uint32_t t = 0; t < TIMES; t++) {
        times.ms[t] = samples + (uint64_t)t * run->steps;
    }
    const spin_status status = run_steps(scene, run, &times, out);
    if (status == SPIN_OK) {
        out->ms_mean = spin_mean(times.ms[WHOLE], run->steps);
        out->ms = spin_quantile(times.ms[WHOLE], run->steps, 0.5);
        out->ms_p10 = spin_quantile(times.ms[WHOLE], run->steps, 0.1);
        out->ms_p90 = spin_quantile(times.ms[WHOLE], run->steps, 0.9);
        out->submit_ms = spin_quantile(times.ms[SUBMIT], run->steps, 0.5);
        out->end_ms = spin_quantile(times.ms[END], run->steps, 0.5);
    }
    free(samples);
    return status == SPIN_OK ? SPIN_OK
                             : spin_fail(err, status, "a step at token %u failed", scene->position);
}
