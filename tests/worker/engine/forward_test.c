/* Method: three sequences of different lengths are prefilled and decoded together, one of them
 * pausing now and then, on processors, where every operation is over at once, and on a device that
 * is late and not the host's (fake_device.h): unrecorded, recorded, with room for too few
 * recordings, and in several waves. All logits must be the same bits, and the counters must say
 * that steps were replayed and taken in waves, and that the small pool had pages to fetch. */
#include "base/clock.h"
#include "base/rng.h"
#include "model/weights/place.h"
#include "tests/kernels/fake_device.h"
#include "tests/spin_test.h"
#include "worker/engine/forward_internal.h"

#define VOCAB 512u /* of the models here */
#define SEQUENCES 3u
#define STEPS_MAX 60u
#define TOKENS_MAX 896u
#define CHUNK_TOKENS 600u /* blocks of the rope table */
#define SUPER_CHUNK_TOKENS 640u
#define PAUSE_STEPS 9u /* the first sequence is away every other so many steps */
#define LOSSES 5u      /* places where the device is lost */
#define WAIT_NS (10 * SPIN_NS_PER_S)
#define DEVICE_BYTES (UINT64_C(1) << 30)

static const uint32_t prompts[SEQUENCES] = {701, 37, 260};

struct plan {
    const char *model;
    const struct spin_sparse_algorithm *algorithm;
    bool small_pool; /* what the sequences must have, and no more */
    uint32_t steps;
};

/* A place to run: a stream, the model there, and how steps are recorded. */
struct machine {
    struct spin_stream *stream;
    const struct spin_ops *ops;
    uint32_t graphs_max;
    uint32_t waves;
    struct spin_sparse_observer observer;
};

struct run {
    const struct plan *plan;
    const struct machine *machine;
    struct spin_model *model;
    struct spin_kv *kv;
    struct spin_forward *forward;
    float *hidden; /* device */
    float *logits; /* host [SEQUENCES][vocab] */
    struct spin_forward_step steps[SEQUENCES];
    uint32_t opened;
    int32_t tokens[SEQUENCES][TOKENS_MAX];
    float *seen; /* [steps][SEQUENCES][vocab]; 0 where a sequence was away */
    struct spin_kv_stats kv_stats;
    struct spin_forward_graph_stats graph_stats;
    struct spin_sparse_stats sparse_stats;
};

static struct spin_sparse_options options_of(const struct plan *plan)
{
    return (struct spin_sparse_options){
        .algorithm = plan->algorithm, .budget_tokens = 64, .min_context = 100};
}

static struct spin_kv_config kv_config(const struct run *run,
                                       const struct spin_sparse_options *options)
{
    const struct spin_model_config *shape = &run->model->config;
    struct spin_kv_config config = {
        .layout = {.layers = shape->layers,
                   .kv_heads = shape->kv_heads,
                   .head_dim = shape->head_dim,
                   .dtype = SPIN_KV_BF16,
                   .swizzle = run->machine->ops->swizzle},
        .ops = run->machine->ops,
        .sequences_max = SEQUENCES,
        .tokens_max = TOKENS_MAX,
        .replacement = SPIN_KV_SLOT_LRU,
    };
    spin_sparse_fill_kv_config(options, &config);
    const struct spin_kv_budget budget = {.layers = shape->layers,
                                          .kv_heads = shape->kv_heads,
                                          .page_tokens = config.page_tokens,
                                          .demand = config.demand};
    const uint64_t whole =
        (uint64_t)spin_kv_full_row(&budget, TOKENS_MAX) * shape->layers * shape->kv_heads;
    uint64_t slabs = 0;
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        const uint64_t claim = spin_kv_longest_claim_slabs(&budget, prompts[s] + STEPS_MAX);
        slabs += run->plan->small_pool ? claim : whole;
    }
    config.hbm_bytes = slabs * spin_kv_slab_bytes(&config);
    config.host_bytes =
        (uint64_t)SEQUENCES * spin_kv_blocks_for(TOKENS_MAX) * spin_block_bytes(&config.layout);
    return config;
}

static struct spin_forward_config forward_config(const struct run *run,
                                                 const struct spin_sparse_options *options)
{
    return (struct spin_forward_config){
        .model = run->model,
        .ops = run->machine->ops,
        .stream = run->machine->stream,
        .kv = run->kv,
        .grid = {.layers = run->model->config.layers,
                 .super_chunk_tokens = SUPER_CHUNK_TOKENS,
                 .chunk_tokens = CHUNK_TOKENS},
        .sequences_max = SEQUENCES,
        .tokens_max = TOKENS_MAX,
        .logits_rows_max = SEQUENCES,
        .sparse = *options,
        .observer = run->machine->observer,
        .graphs_max = run->machine->graphs_max,
        .waves = run->machine->waves,
    };
}

static void open_model(struct run *run)
{
    struct spin_error err;
    struct spin_model *source = NULL;
    SPIN_EXPECT_OK(spin_model_open(run->plan->model, &source, &err), &err);
    SPIN_EXPECT_OK(spin_model_place(source, run->machine->stream, &run->model, &err), &err);
    spin_model_close(source);
}

static void open_run(struct run *run, const struct plan *plan, const struct machine *machine,
                     const struct spin_sparse_options *options)
{
    struct spin_error err;
    *run = (struct run){.plan = plan, .machine = machine};
    open_model(run);
    const uint64_t vocab = run->model->config.vocab;
    assert_int_equal(vocab, VOCAB);
    const struct spin_kv_config kv = kv_config(run, options);
    SPIN_EXPECT_OK(spin_kv_create(&kv, machine->stream, &run->kv, &err), &err);
    const struct spin_forward_config forward = forward_config(run, options);
    SPIN_EXPECT_OK(spin_forward_create(&forward, &run->forward, &err), &err);
    void *memory = NULL;
    SPIN_EXPECT_OK(spin_device_alloc(machine->stream,
                                     SUPER_CHUNK_TOKENS * sizeof(float) * run->model->config.hidden,
                                     &memory, &err),
                   &err);
    run->hidden = memory;
    SPIN_EXPECT_OK(
        spin_host_alloc(machine->stream, SEQUENCES * vocab * sizeof(float), &memory, &err), &err);
    run->logits = memory;
    run->seen = calloc((uint64_t)STEPS_MAX * SEQUENCES * vocab, sizeof *run->seen);
    assert_non_null(run->seen);
    struct spin_rng rng = {.seed = 15, .stream = 1, .counter = 0};
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        for (uint32_t i = 0; i < TOKENS_MAX; i++) {
            run->tokens[s][i] = (int32_t)spin_rng_below(&rng, (uint32_t)vocab);
        }
    }
}

static void close_run(struct run *run)
{
    struct spin_stream *stream = run->machine->stream;
    for (uint32_t s = 0; s < run->opened; s++) {
        spin_kv_close(run->kv, run->steps[s].seq);
    }
    spin_forward_destroy(run->forward);
    spin_kv_destroy(run->kv);
    spin_device_free(stream, run->hidden);
    spin_host_free(stream, run->logits);
    spin_model_close(run->model);
    free(run->seen);
}

static spin_status prefill(struct run *run, uint32_t sequence)
{
    struct spin_stream *stream = run->machine->stream;
    struct spin_forward_step *step = &run->steps[sequence];
    const struct spin_grid grid = {.layers = run->model->config.layers,
                                   .super_chunk_tokens = SUPER_CHUNK_TOKENS,
                                   .chunk_tokens = CHUNK_TOKENS};
    SPIN_TRY(spin_kv_open(run->kv, &step->seq));
    run->opened = sequence + 1;
    SPIN_TRY(spin_kv_reserve(run->kv, step->seq, prompts[sequence]));
    SPIN_TRY(spin_kv_activate(run->kv, step->seq, prompts[sequence], 0));
    struct spin_cursor cursor = spin_cursor_start(&grid, prompts[sequence]);
    while (!spin_cursor_done(&cursor)) {
        const struct spin_forward_unit unit = {.seq = step->seq,
                                               .unit = cursor.unit,
                                               .tokens = run->tokens[sequence],
                                               .hidden = run->hidden};
        SPIN_TRY(spin_forward_prefill(run->forward, &unit));
        SPIN_TRY(spin_stream_sync(stream, WAIT_NS));
        spin_cursor_advance(&grid, &cursor);
    }
    step->position = prompts[sequence];
    return SPIN_OK;
}

/* Those from `first` on decode a token each. */
static spin_status decode(struct run *run, uint32_t number, uint32_t first)
{
    struct spin_stream *stream = run->machine->stream;
    const uint32_t count = SEQUENCES - first;
    const uint64_t vocab = run->model->config.vocab;
    for (uint32_t s = first; s < SEQUENCES; s++) {
        struct spin_forward_step *step = &run->steps[s];
        SPIN_TRY(spin_kv_reserve(run->kv, step->seq, step->position + 1));
        step->token = run->tokens[s][step->position];
    }
    float *hidden = NULL;
    const float *logits = NULL;
    SPIN_TRY(spin_forward_decode(run->forward, run->steps + first, count, &hidden));
    SPIN_TRY(spin_forward_logits(run->forward, hidden, count, &logits));
    SPIN_TRY(spin_device_read(stream, run->logits, logits, count * vocab * sizeof *logits));
    SPIN_TRY(spin_stream_sync(stream, WAIT_NS));
    SPIN_TRY(spin_forward_decode_end(run->forward));
    memcpy(run->seen + ((uint64_t)number * SEQUENCES + first) * vocab, run->logits,
           count * vocab * sizeof *logits);
    for (uint32_t s = first; s < SEQUENCES; s++) {
        run->steps[s].position++;
    }
    return SPIN_OK;
}

static spin_status run_all(struct run *run)
{
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        SPIN_TRY(prefill(run, s));
    }
    for (uint32_t i = 0; i < run->plan->steps; i++) {
        SPIN_TRY(decode(run, i, i / PAUSE_STEPS % 2));
    }
    return SPIN_OK;
}

/* Runs to the end; the caller frees run->seen. */
static void run_plan(struct run *run, const struct plan *plan, const struct machine *machine)
{
    const struct spin_sparse_options options = options_of(plan);
    open_run(run, plan, machine, &options);
    SPIN_EXPECT_OK(run_all(run), NULL);
    spin_kv_get_stats(run->kv, &run->kv_stats);
    spin_forward_get_graph_stats(run->forward, &run->graph_stats);
    spin_forward_get_sparse_stats(run->forward, &run->sparse_stats);
    float *seen = run->seen;
    run->seen = NULL;
    close_run(run);
    run->seen = seen;
}

/* What an observer saw of the layers that were submitted. */
struct calls {
    uint64_t first_waves;
    uint64_t other_waves;
};

static void count_call(void *context, uint32_t first, const struct spin_kv_batch *batch,
                       const struct spin_kv_lists *lists)
{
    struct calls *calls = context;
    (void)lists;
    assert_in_range(batch->count, 1, SEQUENCES - first);
    calls->first_waves += first == 0;
    calls->other_waves += first > 0;
}

static struct machine open_fake(uint32_t graphs_max)
{
    return (struct machine){.stream = spin_fake_stream_create(DEVICE_BYTES),
                            .ops = &spin_ops_fake,
                            .graphs_max = graphs_max};
}

static struct machine open_cpu(void)
{
    struct spin_error err;
    struct machine machine = {.ops = &spin_ops_ref, .graphs_max = 8};
    SPIN_EXPECT_OK(spin_stream_create_cpu(1, &machine.stream, &err), &err);
    return machine;
}

static void expect_counters(const struct plan *plan, const struct run *run)
{
    if (plan->algorithm != &spin_sparse_dense) {
        assert_true(run->sparse_stats.steps > plan->steps && run->sparse_stats.dense_fallbacks > 0);
    }
    if (plan->small_pool) {
        assert_true(run->kv_stats.misses > 0 && run->kv_stats.evictions > 0);
        assert_true(run->kv_stats.pages_offloaded > 0);
    }
}

static uint32_t bits_of(float value)
{
    uint32_t bits = 0;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static void expect_same(const struct plan *plan, const struct run *wanted, uint32_t graphs_max,
                        uint32_t waves)
{
    struct run run;
    struct calls calls = {0};
    struct machine machine = open_fake(graphs_max);
    machine.waves = waves;
    machine.observer = (struct spin_sparse_observer){.context = &calls, .selected = count_call};
    run_plan(&run, plan, &machine);
    for (uint64_t i = 0; i < (uint64_t)plan->steps * SEQUENCES * VOCAB; i++) {
        if (bits_of(run.seen[i]) != bits_of(wanted->seen[i])) {
            fail_msg("%s on %s, %u recordings, %u waves: step %lu, sequence %lu: %g instead of %g",
                     plan->algorithm->name, plan->model, graphs_max, waves,
                     (unsigned long)(i / VOCAB / SEQUENCES), (unsigned long)(i / VOCAB % SEQUENCES),
                     (double)run.seen[i], (double)wanted->seen[i]);
        }
    }
    expect_counters(plan, &run);
    assert_int_equal(calls.other_waves > 0, plan->small_pool && waves > 1);
    assert_int_equal(run.kv_stats.misses, wanted->kv_stats.misses);
    assert_int_equal(run.kv_stats.evictions, wanted->kv_stats.evictions);
    assert_int_equal(run.kv_stats.pages_offloaded, wanted->kv_stats.pages_offloaded);
    assert_int_equal(run.sparse_stats.steps, wanted->sparse_stats.steps);
    const struct spin_forward_graph_stats *graphs = &run.graph_stats;
    if (graphs_max == 0) {
        assert_int_equal(graphs->steps + graphs->recorded + graphs->replayed, 0);
    } else {
        assert_int_equal(graphs->steps, plan->steps);
        assert_true(graphs->recorded > 0 && graphs->replayed > 0);
        assert_true(graphs->recorded + graphs->replayed <
                    plan->steps); /* each kind ran once before */
        assert_int_equal(graphs->dropped > 0, graphs_max == 1);
    }
    free(run.seen);
    spin_stream_destroy(machine.stream);
}

static void expect_plan(const struct plan *plan)
{
    struct run wanted;
    const struct machine cpu = open_cpu();
    run_plan(&wanted, plan, &cpu);
    assert_int_equal(wanted.graph_stats.steps, 0); /* nothing is recorded there */
    expect_counters(plan, &wanted);
    expect_same(plan, &wanted, 0, 0);
    expect_same(plan, &wanted, 32, 2);
    if (plan->small_pool) {
        expect_same(plan, &wanted, 0, SEQUENCES);
        expect_same(plan, &wanted, 1, 0);
    }
    free(wanted.seen);
    spin_stream_destroy(cpu.stream);
}

static void test_dense(void **state)
{
    (void)state;
    expect_plan(&(struct plan){"random:tiny-qwen3", &spin_sparse_dense, false, 20});
}

static void test_shadowkv(void **state)
{
    (void)state;
    expect_plan(&(struct plan){"random:tiny", &spin_sparse_shadowkv, true, STEPS_MAX});
}

/* Quest is dense in two layers: the model has a third. */
static void test_quest(void **state)
{
    (void)state;
    expect_plan(&(struct plan){"random:tiny-qwen2", &spin_sparse_quest, true, 40});
}

/* An observer is called for every layer that is submitted, and a replay submits none. */
static void test_observer(void **state)
{
    (void)state;
    const struct plan plan = {"random:tiny", &spin_sparse_shadowkv, false, STEPS_MAX};
    struct calls calls = {0};
    struct machine machine = open_fake(32);
    machine.observer = (struct spin_sparse_observer){.context = &calls, .selected = count_call};
    struct run run;
    run_plan(&run, &plan, &machine);
    assert_true(run.graph_stats.replayed > 0);
    assert_int_equal(calls.first_waves, 2 * (plan.steps - run.graph_stats.replayed));
    assert_int_equal(calls.other_waves, 0); /* nothing may be missing */
    free(run.seen);
    spin_stream_destroy(machine.stream);
}

static spin_status no_gather(const struct spin_kv_gather_args *args, struct spin_stream *stream)
{
    (void)args;
    (void)stream;
    fail_msg("a gather where all pages are there");
    return SPIN_ERR_UNSUPPORTED;
}

static void test_resident_gathers_nothing(void **state)
{
    (void)state;
    const struct plan plan = {"random:tiny", &spin_sparse_shadowkv, false, 4};
    struct spin_ops ops = spin_ops_fake;
    ops.kv_gather = no_gather;
    struct machine machine = open_fake(0);
    machine.ops = &ops;
    struct run run;
    run_plan(&run, &plan, &machine);
    free(run.seen);
    spin_stream_destroy(machine.stream);
}

/* By the count, unless the configuration says how many. */
static void test_waves(void **state)
{
    (void)state;
    static const struct {
        uint32_t count;
        uint32_t configured;
        uint32_t waves;
    } rows[] = {{1, 0, 1},  {8, 0, 1},  {15, 0, 1}, {16, 0, 2}, {32, 0, 2},
                {64, 0, 2}, {32, 1, 1}, {32, 4, 4}, {3, 2, 2},  {3, 9, 3}};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        assert_int_equal(spin_forward_waves(rows[i].configured, rows[i].count), rows[i].waves);
    }
}

/* Wherever the device is lost, the call says so and everything can be taken down. */
static void test_lost_device(void **state)
{
    (void)state;
    const struct plan plan = {"random:tiny", &spin_sparse_shadowkv, true, STEPS_MAX};
    const struct spin_sparse_options options = options_of(&plan);
    uint64_t submissions = 0; /* of a whole run */
    for (uint64_t part = LOSSES + 1; part > 0; part--) {
        const struct machine machine = open_fake(8);
        struct run run;
        open_run(&run, &plan, &machine, &options);
        const uint64_t before = spin_fake_submissions(machine.stream);
        if (part <= LOSSES) {
            spin_fake_fail_after(machine.stream, submissions * (part - 1) / LOSSES);
        }
        SPIN_EXPECT_STATUS(run_all(&run), part <= LOSSES ? SPIN_ERR_DEVICE_LOST : SPIN_OK);
        submissions = SPIN_MAX(submissions, spin_fake_submissions(machine.stream) - before);
        close_run(&run);
        spin_stream_destroy(machine.stream);
    }
}

/* What create takes is what was planned, up to each piece's last page. */
static void test_planned_bytes(void **state)
{
    (void)state;
    const struct plan plan = {"random:tiny-qwen2", &spin_sparse_quest, true, 40};
    const struct spin_sparse_options options = options_of(&plan);
    const struct machine machine = open_fake(8);
    struct spin_error err;
    struct run run = {.plan = &plan, .machine = &machine};
    open_model(&run);
    const struct spin_kv_config kv = kv_config(&run, &options);
    struct spin_forward_config config = forward_config(&run, &options); /* without a manager */
    const uint64_t planned = spin_forward_plan_bytes(&config, &kv);
    SPIN_EXPECT_OK(spin_kv_create(&kv, machine.stream, &run.kv, &err), &err);
    config.kv = run.kv;
    uint64_t total = 0;
    const uint64_t before = spin_device_memory(machine.stream, &total);
    SPIN_EXPECT_OK(spin_forward_create(&config, &run.forward, &err), &err);
    const uint64_t taken = before - spin_device_memory(machine.stream, &total);
    assert_in_range(taken, planned, planned + UINT64_C(16) * 4096);
    close_run(&run);
    spin_stream_destroy(machine.stream);
}

/* A bound covers the lists, wastes little, and is one of few. */
static void test_bounds(void **state)
{
    (void)state;
    struct spin_forward_graph graph = {.count = 0};
    struct spin_forward forward = {.graphs = &graph, .config = {.tokens_max = 131000}};
    uint32_t bounds = 0;
    uint32_t last = 0;
    for (uint32_t tokens = 1; tokens <= 131000; tokens++) {
        const uint32_t bound = spin_forward_round_up(&forward, tokens);
        assert_in_range(bound, tokens, 131000);
        assert_true(bound - tokens < SPIN_MAX(SPIN_SPLIT_TOKENS, tokens / 8 + 1));
        assert_true(bound >= last);
        bounds += bound > last;
        last = bound;
    }
    assert_in_range(bounds, 8, 64);
    forward.graphs = NULL;
    assert_int_equal(spin_forward_round_up(&forward, 777), 777);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense),
        cmocka_unit_test(test_shadowkv),
        cmocka_unit_test(test_quest),
        cmocka_unit_test(test_observer),
        cmocka_unit_test(test_lost_device),
        cmocka_unit_test(test_planned_bytes),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_waves),
        cmocka_unit_test(test_resident_gathers_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
