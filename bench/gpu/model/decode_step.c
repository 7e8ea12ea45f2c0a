/* decode_step: what a decode step costs, beside the floor of the machine and beside dense.
 *
 * Method     A row of the table is a context, a batch, an algorithm and an overlap of neighbouring
 *            choices; scene.h says how its sequences come to be. Select runs in full. A step is
 *            timed from the call of the forward pass to the end of its logits, the manager's own
 *            work included, and the operation that puts choices in place (a launch a layer); the
 *            choices of the next one are written before. Printed: the median
 *            of the measured steps, and its ratios to the floors of floor.h with the bytes of the
 *            misses that were counted: `x` to the larger of HBM and PCIe time, `x_serial` to their
 *            sum. Sequences share frames of the host tier where it is short: `aliased`.
 * Parts      The steps of the first overlap without kv_gather, and without kv_select: what is
 *            missing from the time then is what they add to it.
 * Ablation   As the paper's figure 14 (arXiv 2604.26837): base: nothing of the last step is found
 *            again; mandatory: slots for one step's pages, which the next finds there; buffering:
 *            the product's slots. With a share of choices that come back, as real text has.
 * Checks     Every sparse step counted as one, no fall-backs, every page either hit or missed,
 *            hits not fewer than the overlap allows, logits finite, steps replayed on a GPU. */
#include "base/config.h"
#include "bench/gpu/model/floor.h"
#include "bench/gpu/model/numbers.h"
#include "bench/gpu/model/scene.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARGIN_BYTES (UINT64_C(2) << 30) /* recordings, choices, what a driver keeps */
#define SLOTS_STEP 0.5                   /* by which rows shrink until a scene fits */
#define SLOTS_LEAST 2.0
#define RUNS_MAX (SPIN_NUMBERS_MAX + 2) /* of a scene: overlaps, parts */
#define CONTEXT_MAX (1U << 19)
#define CONTEXT_UNIT 16u /* tokens: whole partitions of every algorithm */
#define BYTES_PER_MIB 1048576.0

struct options {
    uint32_t device;
    const char *model;
    const char *contexts_text;
    const char *batches_text;
    const char *algorithms;
    const char *overlaps_text;
    double returns;
    const char *trace_path;
    double slots_factor;
    uint32_t budget;
    uint32_t waves;
    uint32_t warm;
    uint32_t steps;
    uint64_t host_bytes;
    bool parts;
    bool ablation;
    double ablation_overlap;
    double ablation_returns;
    uint64_t seed;
    uint32_t threads;
    uint64_t limit_ns;
    struct spin_numbers contexts;
    struct spin_numbers batches;
    struct spin_numbers overlaps;
};

#define OPTION(n, t, f, d) \
    .name = (n), .type = (t), .offset = offsetof(struct options, f), .default_value = (d)
static const struct spin_option option_table[] = {
    {OPTION("device", SPIN_OPTION_CHOICE, device, "auto"), .choices = SPIN_RIG_DEVICES,
     .help = "Where the model runs."},
    {OPTION("model", SPIN_OPTION_STRING, model, "random:qwen3-14b"), .help = "The model."},
    {OPTION("contexts", SPIN_OPTION_STRING, contexts_text, "32768,65536,131072"), .unit = "tokens",
     .help = "Contexts, multiples of 16."},
    {OPTION("batches", SPIN_OPTION_STRING, batches_text, "1,8,16,32"), .unit = "sequences",
     .help = "Batches."},
    {OPTION("algorithms", SPIN_OPTION_STRING, algorithms, "dense,shadowkv,quest"),
     .help = "Algorithms; dense first gives the others something to be compared with."},
    {OPTION("overlaps", SPIN_OPTION_STRING, overlaps_text, "65,75,90"), .unit = "%",
     .help = "Shares of a choice that the next step's keeps."},
    {OPTION("returns", SPIN_OPTION_DOUBLE, returns, "0"), .min = 0, .max = 100, .unit = "%",
     .help = "Share of what is new in a choice that was chosen a few steps before."},
    {OPTION("trace", SPIN_OPTION_STRING, trace_path, NULL),
     .help = "Recorded choices (bench/kv) in place of --overlaps, at their own context."},
    {OPTION("slots", SPIN_OPTION_DOUBLE, slots_factor, "6"), .min = 1, .max = 64,
     .help = "Slots of a row, in multiples of what a step reads."},
    {OPTION("budget", SPIN_OPTION_U32, budget, "0"), .max = 1 << 20, .unit = "tokens",
     .help = "Tokens that a step chooses; 0: the algorithm's default."},
    {OPTION("waves", SPIN_OPTION_U32, waves, "0"), .max = 64,
     .help = "Waves that a layer's sequences are retrieved in; 0: as the product does."},
    {OPTION("warm", SPIN_OPTION_U32, warm, "32"), .min = 0, .max = 4096,
     .help = "Steps before the measured ones."},
    {OPTION("steps", SPIN_OPTION_U32, steps, "24"), .min = 1, .max = 4096,
     .help = "Measured steps."},
    {OPTION("host-memory", SPIN_OPTION_BYTES, host_bytes, "24GiB"), .min = 1 << 20, .max = 1e13,
     .help = "Frames of the host tier; sequences share them where it takes more."},
    {OPTION("parts", SPIN_OPTION_BOOL, parts, "true"),
     .help = "Measures what gather and select add."},
    {OPTION("ablation", SPIN_OPTION_BOOL, ablation, "false"),
     .help = "Measures base, mandatory and buffering instead of the table."},
    {OPTION("ablation-overlap", SPIN_OPTION_DOUBLE, ablation_overlap, "71"), .min = 0, .max = 100,
     .unit = "%", .help = "Overlap of the ablation; the default is shadowkv's on real text."},
    {OPTION("ablation-returns", SPIN_OPTION_DOUBLE, ablation_returns, "80"), .min = 0, .max = 100,
     .unit = "%",
     .help = "Returns of the ablation; with the default, rows of two and three lists "
             "hit as often as on real text, larger ones less often."},
    {OPTION("seed", SPIN_OPTION_U64, seed, "1"), .help = "Of choices and memory."},
    {OPTION("threads", SPIN_OPTION_U32, threads, "16"), .min = 1, .max = 64,
     .help = "Threads of the host."},
    {OPTION("limit", SPIN_OPTION_DURATION, limit_ns, "210s"), .min = 1e9, .max = 1e13,
     .help = "Rows that would begin later are left out, and said to be."},
};

struct bench {
    struct options options;
    struct spin_rig rig;
    struct spin_trace trace; /* documents NULL: none */
    double begun_ms;
    double dense_ms[SPIN_NUMBERS_MAX][SPIN_NUMBERS_MAX]; /* by context, batch; 0: not measured */
    uint32_t rows;
    uint32_t skipped;
    uint32_t failed; /* checks */
    struct spin_error err;
};

/* What a row is about. */
struct place {
    uint32_t context; /* indices into the options */
    uint32_t batch;
    const struct spin_sparse_algorithm *algorithm;
};

static uint32_t context_of(const struct bench *bench, const struct place *place)
{
    return bench->options.contexts.value[place->context];
}

static uint32_t batch_of(const struct bench *bench, const struct place *place)
{
    return bench->options.batches.value[place->batch];
}

static void print_place(const struct bench *bench, const struct place *place)
{
    printf("%8u x %2u %-9s", context_of(bench, place), batch_of(bench, place),
           place->algorithm->name);
}

static void print_result_place(const struct bench *bench, const char *what,
                               const struct place *place)
{
    printf("RESULT %s context=%u batch=%u algorithm=%s", what, context_of(bench, place),
           batch_of(bench, place), place->algorithm->name);
}

/* --- a scene that fits --- */

static bool is_dense(const struct place *place)
{
    return place->algorithm->summary == SPIN_SUMMARY_NONE;
}

/* One that fits the device, its rows as large as they are to be or as there is room for. False:
 * none does, and *bytes is what the smallest would take. */
static bool fit_scene(const struct bench *bench, struct spin_scene_config *config, bool *aliased,
                      uint64_t *bytes)
{
    uint64_t total = 0;
    const uint64_t free_bytes = spin_device_memory(bench->rig.stream, &total);
    const uint64_t margin = bench->rig.is_cuda ? MARGIN_BYTES : 0;
    *bytes = spin_scene_bytes(config, aliased);
    while (*bytes + margin > free_bytes && config->slots_factor > SLOTS_LEAST) {
        config->slots_factor = SPIN_MAX(SLOTS_LEAST, config->slots_factor - SLOTS_STEP);
        *bytes = spin_scene_bytes(config, aliased);
    }
    return *bytes + margin <= free_bytes;
}

static struct spin_scene_config scene_config(struct bench *bench, const struct place *place,
                                             double slots_factor)
{
    const struct options *options = &bench->options;
    return (struct spin_scene_config){
        .rig = &bench->rig,
        .sparse = {.algorithm = place->algorithm,
                   .budget_tokens = is_dense(place) ? 0 : options->budget,
                   .min_context = 1,
                   .verify = false},
        .context = context_of(bench, place),
        .batch = batch_of(bench, place),
        .steps_max = RUNS_MAX * (options->warm + options->steps),
        .slots_factor = is_dense(place) ? 0 : slots_factor,
        .frame_bytes = options->host_bytes,
        .waves = options->waves,
        .seed = options->seed,
    };
}

/* NULL with OK: left out, for want of time or memory, and said so. */
static spin_status open_scene(struct bench *bench, const struct place *place,
                              struct spin_scene_config *config, struct spin_scene **out)
{
    *out = NULL;
    bool aliased = false;
    uint64_t bytes = 0;
    const char *why = NULL;
    if (spin_rig_now_ms() - bench->begun_ms > (double)bench->options.limit_ns / 1e6) {
        why = "no time left";
    } else if (!fit_scene(bench, config, &aliased, &bytes)) {
        why = "does not fit";
    }
    if (why == NULL) {
        return spin_scene_open(config, out, &bench->err);
    }
    bench->skipped++;
    print_place(bench, place);
    printf(" %s (%.1f GB of KV)\n", why, (double)bytes / 1e9);
    print_result_place(bench, "skipped", place);
    printf(" why=\"%s\" kv_gb=%.1f\n", why, (double)bytes / 1e9);
    (void)fflush(stdout);
    return SPIN_OK;
}

/* --- a row --- */

struct row {
    struct spin_scene_run run;
    struct spin_scene_result result;
    struct spin_floor_bytes bytes;
    struct spin_floor floor;
    double hit;        /* 0 to 1 */
    double pages;      /* of a row's list, mean over all rows and steps */
    double miss_bytes; /* of a step */
    double dense_floor_ms;
};

static void check(struct bench *bench, bool ok, const char *what)
{
    if (!ok) {
        bench->failed++;
        printf("CHECK BAD %s\n", what);
    }
}

static void check_row(struct bench *bench, const struct place *place, const struct row *row)
{
    const struct spin_scene_result *result = &row->result;
    const uint64_t steps = (uint64_t)row->run.steps * batch_of(bench, place);
    check(bench, result->finite || row->run.without != SPIN_SCENE_ALL, "logits are finite");
    check(bench, result->dense_fallbacks == 0, "no dense fall-back");
    check(bench, !bench->rig.is_cuda || result->replayed > 0, "steps are replayed on a GPU");
    if (is_dense(place)) {
        check(bench, result->misses == 0, "a dense step that is resident misses nothing");
        return;
    }
    check(bench, result->sparse_steps == steps, "every step is sparse");
    check(bench, result->hits + result->misses > 0, "pages are looked for");
    /* A page that is private or was kept is there: with slots for one list at least it cannot have
     * been evicted in between. One in a hundred for rounding. */
    check(bench, row->run.trace != NULL || row->hit + 0.01 >= row->run.overlap,
          "hits are not fewer than the overlap");
}

static void fill_row(const struct bench *bench, const struct spin_scene_config *config,
                     struct row *row)
{
    const struct spin_model_config *model = &bench->rig.model->config;
    const struct spin_scene_result *result = &row->result;
    const double looked = (double)(result->hits + result->misses);
    const double page = spin_floor_page_bytes(model, config->sparse.algorithm->page_tokens);
    row->hit = looked > 0 ? (double)result->hits / looked : 1;
    row->pages = looked / row->run.steps / config->batch / model->layers / model->kv_heads;
    row->miss_bytes = (double)result->misses * page / row->run.steps;
    row->bytes = spin_floor_step(model, &config->sparse, result->tokens, config->batch);
    row->bytes.misses = row->miss_bytes;
    row->floor = spin_floor_of(&row->bytes);
    const struct spin_sparse_options dense = {.algorithm = &spin_sparse_dense};
    const struct spin_floor_bytes all =
        spin_floor_step(model, &dense, result->tokens, config->batch);
    row->dense_floor_ms = spin_floor_of(&all).hbm_ms;
}

static void print_row(const struct bench *bench, const struct place *place,
                      const struct spin_scene_config *config, const struct row *row, bool aliased)
{
    const struct spin_scene_result *result = &row->result;
    const double dense_ms = bench->dense_ms[place->context][place->batch];
    print_place(bench, place);
    printf(" %3.0f%% %8.3f ms  floor %7.3f  x %5.2f  x_serial %5.2f  hit %6.4f",
           100 * row->run.overlap, result->ms, row->floor.overlapped_ms,
           result->ms / row->floor.overlapped_ms, result->ms / row->floor.serial_ms, row->hit);
    if (dense_ms > 0) {
        printf("  dense/this %5.2f", dense_ms / result->ms);
    }
    printf("%s\n", aliased ? "  aliased" : "");
    print_result_place(bench, "decode", place);
    printf(
        " waves=%u choices=%s overlap=%.0f returns=%.0f slots=%.1f ms=%.4f ms_p10=%.4f ms_p90=%.4f "
        "ms_mean=%.4f submit_ms=%.4f end_ms=%.4f",
        config->waves, row->run.trace != NULL ? "trace" : "drift", 100 * row->run.overlap,
        100 * row->run.returns, config->slots_factor, result->ms, result->ms_p10, result->ms_p90,
        result->ms_mean, result->submit_ms, result->end_ms);
    printf(" floor_ms=%.4f floor_serial_ms=%.4f hbm_ms=%.4f pcie_ms=%.4f x=%.3f x_serial=%.3f",
           row->floor.overlapped_ms, row->floor.serial_ms, row->floor.hbm_ms, row->floor.pcie_ms,
           result->ms / row->floor.overlapped_ms, result->ms / row->floor.serial_ms);
    printf(" hit=%.6f pages=%.1f miss_mib=%.5f evictions=%" PRIu64 " recorded=%" PRIu64
           " replayed=%" PRIu64 " aliased=%s",
           row->hit, row->pages, row->miss_bytes / BYTES_PER_MIB, result->evictions,
           result->recorded, result->replayed, aliased ? "yes" : "no");
    if (dense_ms > 0) {
        printf(" dense_ms=%.4f speedup=%.3f", dense_ms, dense_ms / result->ms);
    }
    printf(" dense_floor_ms=%.4f tokens_per_s=%.1f\n", row->dense_floor_ms,
           1e3 * config->batch / result->ms);
    (void)fflush(stdout);
}

static spin_status measure(struct bench *bench, const struct place *place,
                           const struct spin_scene_config *config, struct spin_scene *scene,
                           struct row *row)
{
    row->run.warm = bench->options.warm;
    row->run.steps = bench->options.steps;
    SPIN_TRY(spin_scene_measure(scene, &row->run, &row->result, &bench->err));
    fill_row(bench, config, row);
    check_row(bench, place, row);
    bench->rows++;
    return SPIN_OK;
}

/* What the step is without an operation says what it adds; `with` is the run with all of them. */
static spin_status measure_parts(struct bench *bench, const struct place *place,
                                 const struct spin_scene_config *config, struct spin_scene *scene,
                                 const struct row *with)
{
    struct row without = {.run = with->run};
    const uint32_t layers = bench->rig.model->config.layers;
    without.run.without = SPIN_SCENE_NO_GATHER;
    SPIN_TRY(measure(bench, place, config, scene, &without));
    const double gather_ms = with->result.ms - without.result.ms;
    const double gbps = gather_ms > 0 ? with->miss_bytes / 1e6 / gather_ms : 0;
    print_place(bench, place);
    printf("      gather %7.3f ms, %6.1f us and %5.2f MiB a layer, %5.1f GB/s\n", gather_ms,
           1e3 * gather_ms / layers, with->miss_bytes / BYTES_PER_MIB / layers, gbps);
    print_result_place(bench, "gather", place);
    printf(" overlap=%.0f ms=%.4f us_layer=%.2f list_mib_layer=%.3f gbps=%.2f share=%.3f\n",
           100 * with->run.overlap, gather_ms, 1e3 * gather_ms / layers,
           with->miss_bytes / BYTES_PER_MIB / layers, gbps, gbps / SPIN_FLOOR_PCIE_GBPS);
    without.run.without = SPIN_SCENE_NO_SELECT;
    SPIN_TRY(measure(bench, place, config, scene, &without));
    const double select_ms = with->result.ms - without.result.ms;
    const double floor_ms = with->bytes.summaries / (SPIN_FLOOR_HBM_GBPS * 1e6);
    print_place(bench, place);
    printf("      select %7.3f ms, %6.1f us a layer, floor %7.3f ms\n", select_ms,
           1e3 * select_ms / layers, floor_ms);
    print_result_place(bench, "select", place);
    printf(" ms=%.4f us_layer=%.2f floor_ms=%.4f\n", select_ms, 1e3 * select_ms / layers, floor_ms);
    (void)fflush(stdout);
    return SPIN_OK;
}

/* The run of the i-th row at a place. */
static struct spin_scene_run run_of(const struct bench *bench, const struct place *place,
                                    uint32_t i)
{
    const struct options *options = &bench->options;
    if (is_dense(place)) {
        return (struct spin_scene_run){.overlap = 1};
    }
    if (bench->trace.documents != NULL) {
        return (struct spin_scene_run){.trace = &bench->trace};
    }
    return (struct spin_scene_run){.overlap = options->overlaps.value[i] / 100.0,
                                   .returns = options->returns / 100};
}

static spin_status measure_rows(struct bench *bench, const struct place *place,
                                const struct spin_scene_config *config, struct spin_scene *scene,
                                bool aliased)
{
    const struct options *options = &bench->options;
    const bool is_one = is_dense(place) || bench->trace.documents != NULL;
    const uint32_t rows = is_one ? 1 : options->overlaps.count;
    struct row first = {.hit = 0};
    for (uint32_t i = 0; i < rows; i++) {
        struct row row = {.run = run_of(bench, place, i)};
        SPIN_TRY(measure(bench, place, config, scene, &row));
        first = i == 0 ? row : first;
        if (is_dense(place)) {
            bench->dense_ms[place->context][place->batch] = row.result.ms;
        }
        print_row(bench, place, config, &row, aliased);
    }
    return options->parts && !is_one ? measure_parts(bench, place, config, scene, &first) : SPIN_OK;
}

static spin_status run_place(struct bench *bench, const struct place *place)
{
    struct spin_scene_config config = scene_config(bench, place, bench->options.slots_factor);
    struct spin_scene *scene = NULL;
    SPIN_TRY(open_scene(bench, place, &config, &scene));
    if (scene == NULL) {
        return SPIN_OK;
    }
    bool aliased = false;
    (void)spin_scene_bytes(&config, &aliased);
    const spin_status status = measure_rows(bench, place, &config, scene, aliased);
    spin_scene_close(scene);
    return status;
}

/* --- ablation --- */

static spin_status run_ablation(struct bench *bench, const struct place *place)
{
    const struct options *options = &bench->options;
    static const char *const names[] = {"base", "mandatory", "buffering"};
    double base_ms = 0;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(names) && !is_dense(place); i++) {
        struct spin_scene_config config =
            scene_config(bench, place, i < 2 ? 1 : options->slots_factor);
        struct row row = {.run = {.overlap = i == 0 ? 0 : options->ablation_overlap / 100,
                                  .returns = i == 0 ? 0 : options->ablation_returns / 100}};
        struct spin_scene *scene = NULL;
        SPIN_TRY(open_scene(bench, place, &config, &scene));
        if (scene == NULL) {
            return SPIN_OK;
        }
        const spin_status status = measure(bench, place, &config, scene, &row);
        spin_scene_close(scene);
        SPIN_TRY(status);
        base_ms = i == 0 ? row.result.ms : base_ms;
        print_place(bench, place);
        printf(" %-9s %8.3f ms  hit %6.4f  %5.2f x base\n", names[i], row.result.ms, row.hit,
               base_ms / row.result.ms);
        print_result_place(bench, "ablation", place);
        printf(" step=%s overlap=%.0f returns=%.0f slots=%.1f ms=%.4f hit=%.6f miss_mib=%.5f "
               "speedup=%.3f tokens_per_s=%.1f\n",
               names[i], 100 * row.run.overlap, 100 * row.run.returns, config.slots_factor,
               row.result.ms, row.hit, row.miss_bytes / BYTES_PER_MIB, base_ms / row.result.ms,
               1e3 * config.batch / row.result.ms);
        (void)fflush(stdout);
    }
    return SPIN_OK;
}

/* --- the program --- */

static spin_status run_algorithms(struct bench *bench, struct place *place)
{
    const char *at = bench->options.algorithms;
    while (*at != '\0') {
        char name[32];
        const size_t length = strcspn(at, ",");
        (void)snprintf(name, sizeof name, "%.*s", (int)SPIN_MIN(length, sizeof name - 1), at);
        at += length + (at[length] == ',' ? 1 : 0);
        place->algorithm = spin_sparse_find(name);
        if (place->algorithm == NULL) {
            return spin_fail(&bench->err, SPIN_ERR_INVALID, "--algorithms: no algorithm '%s'",
                             name);
        }
        SPIN_TRY(bench->options.ablation ? run_ablation(bench, place) : run_place(bench, place));
    }
    return SPIN_OK;
}

/* The only context that a trace is of. */
static spin_status open_trace(struct bench *bench)
{
    struct spin_error *err = &bench->err;
    struct options *options = &bench->options;
    if (options->trace_path == NULL) {
        return SPIN_OK;
    }
    SPIN_TRY(spin_trace_open(options->trace_path, &bench->trace, err));
    const uint32_t tokens = bench->trace.documents[0].prompt_tokens;
    options->contexts = (struct spin_numbers){.count = 1, .value = {tokens}};
    printf("choices of %s: %u documents of %u tokens, %u steps\n", options->trace_path,
           bench->trace.shape.documents, tokens, bench->trace.shape.steps);
    return spin_numbers_check("trace: tokens", &options->contexts, 64, CONTEXT_MAX, err);
}

/* A prompt that ends in the middle of a page would need somebody to have written it. */
static spin_status check_contexts(const struct spin_numbers *contexts, struct spin_error *err)
{
    for (uint32_t i = 0; i < contexts->count; i++) {
        if (contexts->value[i] % CONTEXT_UNIT != 0) {
            return spin_fail(err, SPIN_ERR_INVALID, "a context of %u tokens: no multiple of %u",
                             contexts->value[i], CONTEXT_UNIT);
        }
    }
    return SPIN_OK;
}

static spin_status run_all(struct bench *bench)
{
    struct spin_error *err = &bench->err;
    struct options *options = &bench->options;
    SPIN_TRY(open_trace(bench));
    SPIN_TRY(check_contexts(&options->contexts, err));
    SPIN_TRY(spin_rig_open(&bench->rig, options->device, options->model, options->threads, err));
    printf("device %s, seed %" PRIu64 ", %u + %u steps, host tier %.1f GiB\n",
           spin_device_name(bench->rig.stream), options->seed, options->warm, options->steps,
           (double)options->host_bytes / (UINT64_C(1) << 30));
    for (uint32_t c = 0; c < options->contexts.count; c++) {
        for (uint32_t b = 0; b < options->batches.count; b++) {
            struct place place = {.context = c, .batch = b};
            SPIN_TRY(run_algorithms(bench, &place));
        }
    }
    return SPIN_OK;
}

static spin_status parse_lists(struct options *options, struct spin_error *err)
{
    SPIN_TRY(spin_numbers_parse("contexts", options->contexts_text, &options->contexts, err));
    SPIN_TRY(spin_numbers_check("contexts", &options->contexts, 64, CONTEXT_MAX, err));
    SPIN_TRY(spin_numbers_parse("batches", options->batches_text, &options->batches, err));
    SPIN_TRY(spin_numbers_check("batches", &options->batches, 1, 64, err));
    SPIN_TRY(spin_numbers_parse("overlaps", options->overlaps_text, &options->overlaps, err));
    return spin_numbers_check("overlaps", &options->overlaps, 0, 100, err);
}

int main(int argc, char **argv)
{
    static struct bench bench;
    static const struct spin_config_spec spec = {
        .program = "decode_step",
        .synopsis = "",
        .about = "Times decode steps of a random model, beside floors and dense attention.",
        .options = option_table,
        .option_count = SPIN_ARRAY_COUNT(option_table),
    };
    char *const no_environment[] = {NULL};
    struct spin_config_values *values = NULL;
    bool is_done = false;
    bench.begun_ms = spin_rig_now_ms();
    spin_status status = spin_config_load(&spec, argc, argv, no_environment, &bench.options,
                                          &values, &is_done, &bench.err);
    if (status == SPIN_OK && !is_done) {
        status = parse_lists(&bench.options, &bench.err);
    }
    if (status == SPIN_OK && !is_done) {
        status = run_all(&bench);
        printf("RESULT decode_step rows=%u skipped=%u failed_checks=%u seconds=%.1f\n", bench.rows,
               bench.skipped, bench.failed, (spin_rig_now_ms() - bench.begun_ms) / 1e3);
        spin_trace_close(&bench.trace);
        spin_rig_close(&bench.rig);
    }
    spin_config_values_destroy(values);
    if (status != SPIN_OK) {
        (void)fprintf(stderr, "decode_step: %s: %s\n", spin_status_name(status), bench.err.text);
        return 1;
    }
    return bench.failed == 0 ? 0 : 1;
}
