/* usage: sparse_test [MODEL]
 *
 * Method: one token sequence is scored in several ways that must give the same bytes: verify mode
 * against dense, a pool as small as the manager allows against one that holds everything. The table
 * of operations is wrapped, so that each test can say which operations really ran, and evicted
 * slots are NaN. With MODEL, verify mode on real weights over a long context instead. */
#include "base/rng.h"
#include "tests/spin_test.h"
#include "worker/engine/score.h"

static const char *model_path; /* of the command line */

/* ---- a table of operations that counts ---- */

struct counts {
    uint64_t selects;
    uint64_t scores_wanted; /* (row, candidate) pairs of calls that must score */
    uint64_t unscored;      /* calls with some of those that left their workspace alone */
    uint64_t resolves;      /* of rows whose pages have no fixed place */
    uint64_t gathered;      /* pages */
    uint64_t indexed;       /* pages of a row */
};
static struct counts counts;
static const struct spin_ops *inner;

static bool is_filled_with(const uint8_t *bytes, uint64_t count, uint8_t value)
{
    for (uint64_t i = 0; i < count; i++) {
        if (bytes[i] != value) {
            return false;
        }
    }
    return true;
}

static spin_status count_select(const struct spin_kv_select_args *args, struct spin_stream *stream)
{
    counts.selects++;
    uint64_t wanted = 0;
    for (uint32_t i = 0; i < args->batch.count; i++) {
        wanted += args->windows[i].local_begin - args->windows[i].sink_end;
    }
    if (!args->always_score || wanted == 0) {
        return inner->kv_select(args, stream);
    }
    counts.scores_wanted += wanted * args->view->layout.kv_heads;
    const uint64_t bytes = inner->kv_select_workspace_bytes(args);
    memset(args->workspace, 0xFF, bytes);
    const spin_status status = inner->kv_select(args, stream);
    counts.unscored += is_filled_with(args->workspace, bytes, 0xFF) ? 1 : 0;
    return status;
}

static spin_status count_resolve(const struct spin_kv_resolve_args *args,
                                 enum spin_kv_replacement replacement, struct spin_stream *stream)
{
    for (uint32_t i = 0; i < args->batch.count; i++) {
        counts.resolves +=
            args->view->residency[args->batch.sequence[i]] == SPIN_KV_BUFFERED ? 1 : 0;
    }
    return inner->kv_resolve[replacement](args, stream);
}

static spin_status count_resolve_slot_lru(const struct spin_kv_resolve_args *args,
                                          struct spin_stream *stream)
{
    return count_resolve(args, SPIN_KV_SLOT_LRU, stream);
}

static spin_status count_resolve_bucketed(const struct spin_kv_resolve_args *args,
                                          struct spin_stream *stream)
{
    return count_resolve(args, SPIN_KV_BUCKETED, stream);
}

static spin_status count_gather(const struct spin_kv_gather_args *args, struct spin_stream *stream)
{
    for (uint32_t row = 0; row < args->batch.count * args->view->layout.kv_heads; row++) {
        counts.gathered += args->lists.miss_count[row];
    }
    return inner->kv_gather(args, stream);
}

static spin_status count_index(const struct spin_kv_index_args *args, struct spin_stream *stream)
{
    for (uint32_t i = 0; i < args->batch.count; i++) {
        counts.indexed += args->ranges[i].count;
    }
    return inner->kv_index(args, stream);
}

static const struct spin_ops *counting(const struct spin_ops *ops)
{
    static struct spin_ops table;
    inner = ops;
    memset(&counts, 0, sizeof counts);
    table = *ops;
    table.kv_select = count_select;
    table.kv_resolve[SPIN_KV_SLOT_LRU] = count_resolve_slot_lru;
    table.kv_resolve[SPIN_KV_BUCKETED] = count_resolve_bucketed;
    table.kv_gather = count_gather;
    table.kv_index = count_index;
    return &table;
}

/* ---- one run over a sequence ---- */

struct run {
    const struct spin_model *model;
    const struct spin_ops *ops;
    const int32_t *tokens;
    uint32_t count;
    uint32_t prefilled; /* the others go through decode steps */
    uint32_t super_chunk_tokens;
    struct spin_sparse_options options;
    enum spin_kv_replacement replacement;
    bool small_pool; /* as small as one sequence allows */
    float *logits; /* [count][vocab]: of all positions; made by the first run, compared by others */

    /* out */
    uint32_t steps_seen; /* by the observer: (step, layer) pairs */
    uint32_t differing;  /* rows, where a difference is allowed */
    bool may_differ;
    struct spin_kv_stats kv;
    struct spin_sparse_stats sparse;
};

/* Called after every Select: the rules that hold for any list of any algorithm. */
static void on_selected(void *context, uint32_t first, const struct spin_kv_batch *batch,
                        const struct spin_kv_lists *lists)
{
    (void)first; /* one wave: all */
    struct run *run = context;
    run->steps_seen++;
    assert_int_equal(batch->count, 1);
    const uint32_t tokens = batch->tokens[0];
    const uint32_t page_tokens = run->options.algorithm->page_tokens;
    const uint32_t room = spin_sparse_mandatory(&run->options, batch->layer, tokens);
    for (uint32_t row = 0; row < run->model->config.kv_heads; row++) {
        const uint16_t *pages = lists->pages + (uint64_t)row * lists->stride;
        const uint32_t count = lists->page_count[row];
        assert_in_range(count, 1, room);
        assert_int_equal(pages[count - 1], (tokens - 1) / page_tokens);
        for (uint32_t i = 1; i < count; i++) {
            assert_true(pages[i] > pages[i - 1]);
        }
        if (run->options.verify) {
            assert_int_equal(count, (tokens - 1) / page_tokens + 1);
        }
    }
}

static uint64_t smallest_pool(const struct run *run)
{
    const struct spin_model_config *shape = &run->model->config;
    struct spin_kv_config kv = {.layout = {.layers = shape->layers,
                                           .kv_heads = shape->kv_heads,
                                           .head_dim = shape->head_dim,
                                           .dtype = SPIN_KV_BF16},
                                .tokens_max = run->count};
    spin_sparse_fill_kv_config(&run->options, &kv);
    const struct spin_kv_budget budget = {.layers = shape->layers,
                                          .kv_heads = shape->kv_heads,
                                          .page_tokens = kv.page_tokens,
                                          .demand = kv.demand};
    return spin_kv_claim_slabs(&budget, run->count) * spin_kv_slab_bytes(&kv);
}

static void on_row(void *context, uint32_t position, const float *logits)
{
    struct run *run = context;
    const uint64_t bytes = run->model->config.vocab * sizeof *logits;
    float *kept = run->logits + (uint64_t)position * run->model->config.vocab;
    if (kept[0] == 0.0F && kept[1] == 0.0F) {
        memcpy(kept, logits, bytes);
        return;
    }
    if (memcmp(kept, logits, bytes) != 0) {
        if (!run->may_differ) {
            fail_msg("%s%s: logits at %u are not those of the first run",
                     run->options.algorithm->name, run->options.verify ? " (verify)" : "",
                     position);
        }
        run->differing++;
    }
}

static void score(struct run *run)
{
    struct spin_error err;
    struct spin_scorer_config config = spin_scorer_config_default(run->model);
    config.ops = counting(run->ops);
    config.tokens_max = run->count;
    config.chunk_tokens = SPIN_MIN(128, run->super_chunk_tokens);
    config.super_chunk_tokens = run->super_chunk_tokens;
    config.threads = 2;
    config.sparse = run->options;
    config.observer = (struct spin_sparse_observer){run, on_selected};
    config.kv_replacement = run->replacement;
    config.kv_hbm_bytes = run->small_pool ? smallest_pool(run) : 0;
    config.kv_poison = true;
    run->steps_seen = 0;
    run->differing = 0;
    struct spin_scorer *scorer = NULL;
    SPIN_EXPECT_OK(spin_scorer_create(&config, run->model, &scorer, &err), &err);
    const struct spin_score_rows rows = {
        .first = model_path == NULL ? 0 : run->prefilled - 1, .row = on_row, .context = run};
    SPIN_EXPECT_OK(spin_scorer_prefill(scorer, run->tokens, run->prefilled, &rows, &err), &err);
    for (uint32_t i = run->prefilled; i < run->count; i++) {
        const float *row = NULL;
        SPIN_EXPECT_OK(spin_scorer_decode(scorer, run->tokens[i], &row, &err), &err);
        on_row(run, i, row);
    }
    spin_scorer_get_kv_stats(scorer, &run->kv);
    spin_scorer_get_sparse_stats(scorer, &run->sparse);
    assert_int_equal(run->steps_seen, (run->count - run->prefilled) * run->model->config.layers);
    spin_scorer_destroy(scorer);
}

struct fixture {
    struct spin_model *model;
    int32_t *tokens;
    struct run run; /* dense, with its logits */
};

static void set_up(struct fixture *fixture, const char *name, const struct spin_ops *ops,
                   uint32_t prefilled, uint32_t steps)
{
    struct spin_error err;
    SPIN_EXPECT_OK(spin_model_open(name, &fixture->model, &err), &err);
    const uint32_t count = prefilled + steps;
    fixture->tokens = calloc(count, sizeof *fixture->tokens);
    struct spin_rng rng = {.seed = 5, .stream = 0, .counter = 0};
    for (uint32_t i = 0; i < count; i++) {
        fixture->tokens[i] = (int32_t)spin_rng_below(&rng, fixture->model->config.vocab);
    }
    fixture->run = (struct run){.model = fixture->model,
                                .ops = ops,
                                .tokens = fixture->tokens,
                                .count = count,
                                .prefilled = prefilled,
                                .super_chunk_tokens = 2048,
                                .options = spin_sparse_options_default(),
                                .logits = calloc((uint64_t)count * fixture->model->config.vocab,
                                                 sizeof *fixture->run.logits)};
    assert_non_null(fixture->run.logits);
}

static void tear_down(struct fixture *fixture)
{
    free(fixture->run.logits);
    free(fixture->tokens);
    spin_model_close(fixture->model);
}

/* ---- verify mode ---- */

static void expect_verify_is_dense(const struct fixture *fixture,
                                   const struct spin_sparse_algorithm *algorithm,
                                   enum spin_kv_replacement replacement)
{
    struct run run = fixture->run;
    run.options.algorithm = algorithm;
    run.options.verify = true;
    run.replacement = replacement;
    score(&run);
    const uint32_t steps = run.count - run.prefilled;
    const bool chooses = algorithm->summary != SPIN_SUMMARY_NONE;
    assert_int_equal(run.sparse.steps, chooses ? steps : 0);
    assert_int_equal(run.sparse.dense_fallbacks, 0);
    assert_int_equal(counts.selects, (uint64_t)steps * run.model->config.layers);
    assert_int_equal(counts.resolves, counts.selects); /* no fixed places: tables, every time */
    assert_true(counts.gathered > 0);
    assert_true(run.kv.pages_retrieved > 0);
    assert_int_equal(run.kv.sequences_resident, 0);
    assert_int_equal(counts.unscored, 0);
    if (chooses) {
        assert_true(counts.scores_wanted > 0);
        assert_true(counts.indexed > 0);
    }
}

static void expect_all_verify_modes(const char *name, const struct spin_ops *ops,
                                    uint32_t prefilled, uint32_t steps)
{
    struct fixture fixture;
    set_up(&fixture, name, ops, prefilled, steps);
    score(&fixture.run);
    assert_int_equal(fixture.run.kv.pages_retrieved, 0);
    for (uint32_t i = 0; i < spin_sparse_algorithm_count; i++) {
        expect_verify_is_dense(&fixture, spin_sparse_algorithms[i], SPIN_KV_SLOT_LRU);
        if (model_path == NULL) {
            expect_verify_is_dense(&fixture, spin_sparse_algorithms[i], SPIN_KV_BUCKETED);
        }
    }
    tear_down(&fixture);
}

static void test_verify_is_dense(void **state)
{
    (void)state;
    /* 520 and more: past the first split of attention. */
    expect_all_verify_modes("random:tiny-qwen2", spin_ops_best_cpu(), 500, 100);
    expect_all_verify_modes("random:tiny-qwen3", spin_ops_best_cpu(), 129, 70);
    expect_all_verify_modes("random:tiny-qwen3", &spin_ops_ref, 60, 40);
    expect_all_verify_modes("random:tiny-qwen2", &spin_ops_ref, 1, 50);
}

static void test_verify_is_dense_on_real_weights(void **state)
{
    (void)state;
    expect_all_verify_modes(model_path, spin_ops_best_cpu(), 1200, 304);
}

/* ---- pools ---- */

static void expect_small_pool_changes_nothing(const struct run *unbounded,
                                              enum spin_kv_replacement replacement)
{
    struct run run = *unbounded;
    run.small_pool = true;
    run.replacement = replacement;
    run.super_chunk_tokens = 256; /* earlier super-chunks are read back into the arena */
    score(&run);
    assert_int_equal(run.sparse.dense_fallbacks, 0);
    assert_int_equal(run.sparse.steps, run.count - run.prefilled);
    assert_int_equal(run.kv.sequences_resident, 0);
    assert_true(counts.gathered > 0);
    assert_true(run.kv.pages_retrieved > 0);
    assert_true(run.kv.evictions > 0);
    assert_true(run.kv.hbm_bytes < unbounded->kv.hbm_bytes);
}

static void expect_pools_agree(const char *name, const struct spin_ops *ops,
                               const struct spin_sparse_algorithm *algorithm)
{
    struct fixture fixture;
    set_up(&fixture, name, ops, 900, 80);
    struct run *unbounded = &fixture.run;
    unbounded->options.algorithm = algorithm;
    unbounded->options.min_context = 100;
    unbounded->options.budget_tokens = 64;
    score(unbounded);
    assert_int_equal(unbounded->kv.sequences_resident, 1);
    assert_int_equal(unbounded->kv.evictions, 0);
    expect_small_pool_changes_nothing(unbounded, SPIN_KV_SLOT_LRU);
    expect_small_pool_changes_nothing(unbounded, SPIN_KV_BUCKETED);
    tear_down(&fixture);
}

static void test_small_pool_changes_nothing(void **state)
{
    (void)state;
    expect_pools_agree("random:tiny-qwen2", spin_ops_best_cpu(), &spin_sparse_shadowkv);
    expect_pools_agree("random:tiny-qwen2", spin_ops_best_cpu(), &spin_sparse_quest);
    expect_pools_agree("random:tiny-qwen3", spin_ops_best_cpu(), &spin_sparse_shadowkv);
}

/* ---- which steps run dense ---- */

static void expect_fallbacks(struct fixture *fixture, const struct spin_sparse_algorithm *algorithm)
{
    struct run run = fixture->run;
    run.options.algorithm = algorithm;
    run.options.min_context = 310;
    run.options.budget_tokens = 32;
    run.may_differ = true;
    score(&run);
    /* Steps see 301 to 330 tokens: nine below the minimum, then 21 that choose. */
    assert_int_equal(run.sparse.dense_fallbacks, 9);
    assert_int_equal(run.sparse.steps, 21);
    /* Dense ones give dense logits; choosing so few tokens cannot. */
    assert_in_range(run.differing, 15, 21);
}

static void test_short_contexts_run_dense(void **state)
{
    (void)state;
    struct fixture fixture;
    set_up(&fixture, "random:tiny-qwen2", spin_ops_best_cpu(), 300, 30);
    score(&fixture.run);
    assert_int_equal(fixture.run.sparse.steps, 0);
    assert_int_equal(fixture.run.sparse.dense_fallbacks, 0); /* dense does not fall back */
    expect_fallbacks(&fixture, &spin_sparse_quest);
    expect_fallbacks(&fixture, &spin_sparse_shadowkv);
    tear_down(&fixture);
}

/* A budget that takes everything, without verify mode: the same lists, no scores. */
static void test_budget_over_context_is_dense(void **state)
{
    (void)state;
    struct fixture fixture;
    set_up(&fixture, "random:tiny-qwen3", spin_ops_best_cpu(), 200, 40);
    score(&fixture.run);
    for (uint32_t i = 0; i < spin_sparse_algorithm_count; i++) {
        struct run run = fixture.run;
        run.options.algorithm = spin_sparse_algorithms[i];
        run.options.min_context = 1;
        run.options.budget_tokens = 4096;
        score(&run);
        assert_int_equal(run.sparse.dense_fallbacks, 0);
    }
    tear_down(&fixture);
}

static void test_options_are_checked(void **state)
{
    (void)state;
    struct spin_error err = {0};
    struct spin_model *model = NULL;
    SPIN_EXPECT_OK(spin_model_open("random:tiny", &model, &err), &err);
    struct spin_scorer_config config = spin_scorer_config_default(model);
    config.tokens_max = 256;
    config.sparse.algorithm = &spin_sparse_quest;
    config.sparse.budget_tokens = 15;
    struct spin_scorer *scorer = NULL;
    SPIN_EXPECT_STATUS(spin_scorer_create(&config, model, &scorer, &err), SPIN_ERR_INVALID);
    assert_string_equal(
        err.text, "--sparse-budget 15: must be 0 or at least 16, what quest chooses at a time");
    assert_null(scorer);
    config.sparse.budget_tokens = 16;
    config.kv_hbm_bytes = 4096;
    SPIN_EXPECT_STATUS(spin_scorer_create(&config, model, &scorer, &err), SPIN_ERR_LIMIT);
    config.kv_hbm_bytes = 0;
    SPIN_EXPECT_OK(spin_scorer_create(&config, model, &scorer, &err), &err);
    spin_scorer_destroy(scorer);
    spin_model_close(model);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest real[] = {cmocka_unit_test(test_verify_is_dense_on_real_weights)};
    const struct CMUnitTest random[] = {
        cmocka_unit_test(test_verify_is_dense),
        cmocka_unit_test(test_small_pool_changes_nothing),
        cmocka_unit_test(test_short_contexts_run_dense),
        cmocka_unit_test(test_budget_over_context_is_dense),
        cmocka_unit_test(test_options_are_checked),
    };
    if (argc > 1) {
        model_path = argv[1];
        return cmocka_run_group_tests(real, NULL, NULL);
    }
    return cmocka_run_group_tests(random, NULL, NULL);
}
