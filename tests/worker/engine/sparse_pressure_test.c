/* Method: 16 requests of 1K to 6K tokens join at random, some leave before their end; once with
 * room for everybody, which gives the reference, and once with slots for 15 % of the KV that they
 * need together. What each of them draws must have the same bits, and the counters must say that
 * the first run had room, that the second really was short, and that it decoded side by side all
 * the same: slots that lose their page are NaN here, so a stale read ends its request with an
 * error. */
#include "base/rng.h"
#include "tests/spin_test.h"
#include "tests/worker/engine/engine_harness.h"

#define REQUESTS 16u
#define GROWING 4u /* these come first and grow past what was claimed for them */
#define CANCELLED 3u
#define POOL_PERCENT 15u

#ifdef SPIN_DEBUG
#define SHRINK 4u /* a sanitizer makes all of it several times slower */
#define TOKENS_MIN 512u
#define TOKENS_MAX 1536u
#define DENSE_WIDTH 2u
#define QUEST_WIDTH 3u
#else
#define SHRINK 1u
#define TOKENS_MIN 1024u
#define TOKENS_MAX 6144u
#define DENSE_WIDTH 3u
#define QUEST_WIDTH 4u
#endif
#define SHADOWKV_WIDTH 8u
/* An answer's end is not known at admission, which counts 512 tokens: one slab of dense pages. */
#define GROWN_TOKENS (512u + 400u / SHRINK)
#define DRAWN_TOKENS_MAX 100u

struct variant {
    const struct spin_sparse_algorithm *algorithm;
    const char *model;
    uint64_t token_bytes; /* K and V of all layers and kv heads, BF16 */
    uint32_t width_min;   /* sequences of a decode step under pressure, at the most */
};

static const struct variant dense = {&spin_sparse_dense, "random:tiny",
                                     UINT64_C(2) * 2 * 2 * 16 * 2, DENSE_WIDTH};
static const struct variant shadowkv = {&spin_sparse_shadowkv, "random:tiny",
                                        UINT64_C(2) * 2 * 2 * 16 * 2, SHADOWKV_WIDTH};
/* Quest is dense in two layers: the third is the one that counts. */
static const struct variant quest = {&spin_sparse_quest, "random:tiny-qwen2",
                                     UINT64_C(2) * 3 * 2 * 16 * 2, QUEST_WIDTH};

struct plan {
    uint32_t prompt_count;
    uint32_t output;
    uint32_t after;     /* submitted when this request ... */
    uint32_t seen;      /* ... has so many tokens */
    uint32_t leaves_at; /* tokens; 0: stays */
};

struct crowd {
    const struct variant *variant;
    struct plan plans[REQUESTS];
    int32_t (*prompts)[TOKENS_MAX];
    uint64_t tokens; /* of everybody, to the end */
    uint32_t prompt_min;
};

/* How many drew in the same decode step; on the engine's thread. */
struct width {
    double step; /* steps before the last draw */
    uint32_t now;
    uint32_t most;
};

/* Whom a request's sink tells. */
struct client {
    struct spin_sink sink; /* the answer's */
    const struct answer *answer;
    struct harness *harness;
    struct width *width;
    uint32_t leaves_at;
};

struct outcome {
    struct answer answers[REQUESTS];
    struct client clients[REQUESTS];
    struct width width;
    struct spin_engine_load load; /* in the end */
    double metrics[SPIN_ENGINE_METRIC_COUNT];
    /* While it ran. */
    uint64_t table_bytes_most;
    uint64_t summary_bytes_most;
    uint32_t buffered_seen; /* in requests' own numbers */
};

static struct plan make_plan(struct spin_rng *rng, uint32_t i)
{
    const bool grows = i < GROWING;
    const uint32_t tokens = grows ? TOKENS_MIN + GROWN_TOKENS
                                  : TOKENS_MIN + spin_rng_below(rng, TOKENS_MAX - TOKENS_MIN + 1);
    const uint32_t output = grows ? GROWN_TOKENS : 20 + spin_rng_below(rng, DRAWN_TOKENS_MAX - 20);
    return (struct plan){
        .prompt_count = tokens - output,
        .output = output,
        .after = i < 8 ? i : spin_rng_below(rng, i),
        .seen = 1 + spin_rng_below(rng, 15),
        .leaves_at = i % 5 == 4 && i / 5 < CANCELLED ? 1 + spin_rng_below(rng, output / 2) : 0};
}

static void make_crowd(struct crowd *crowd, const struct variant *variant)
{
    struct harness harness;
    struct spin_engine_config config = spin_harness_config();
    spin_harness_open(&harness, variant->model, &config); /* for its vocabulary */
    struct spin_rng rng = {.seed = 16, .stream = 1, .counter = 0};
    crowd->variant = variant;
    crowd->tokens = 0;
    crowd->prompt_min = UINT32_MAX;
    crowd->prompts = calloc(REQUESTS, sizeof *crowd->prompts);
    assert_non_null(crowd->prompts);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        crowd->plans[i] = make_plan(&rng, i);
        const struct plan *plan = &crowd->plans[i];
        assert_in_range(plan->prompt_count + plan->output, TOKENS_MIN, TOKENS_MAX);
        spin_harness_prompt(&harness, 100 + i, crowd->prompts[i], plan->prompt_count);
        crowd->tokens += plan->prompt_count + plan->output;
        crowd->prompt_min = SPIN_MIN(crowd->prompt_min, plan->prompt_count);
    }
    spin_harness_close(&harness);
}

/* The first step of the shortest prompt is just long enough to run sparse. */
static struct spin_engine_config crowd_config(const struct crowd *crowd)
{
    struct spin_engine_config config = spin_harness_config();
    config.max_model_len = TOKENS_MAX;
    config.max_num_seqs = REQUESTS;
    config.threads = 2;
    config.super_chunk_tokens = 1024 / SHRINK;
    config.chunk_tokens = 128;
    config.max_num_batched_tokens = 256;
    config.sparse = (struct spin_sparse_options){.algorithm = crowd->variant->algorithm,
                                                 .budget_tokens = 256 / SHRINK,
                                                 .min_context = crowd->prompt_min + 1,
                                                 .verify = false};
    return config;
}

static void on_token(void *context, const struct spin_sampled *token)
{
    struct client *client = context;
    struct width *width = client->width;
    client->sink.token(client->sink.context, token);
    if (client->answer->count == client->leaves_at) {
        spin_engine_cancel(client->harness->engine, client->answer->ticket);
    }
    if (client->answer->count > 1) { /* the first comes from the prefill */
        const double step =
            spin_metrics_read(client->harness->metrics, SPIN_ENGINE_METRIC_DECODE_STEPS);
        width->now = step == width->step ? width->now + 1 : 1;
        width->step = step;
        width->most = SPIN_MAX(width->most, width->now);
    }
}

static void on_finished(void *context, const struct spin_finish *finish)
{
    const struct client *client = context;
    client->sink.finished(client->sink.context, finish);
}

static void submit(struct harness *harness, const struct crowd *crowd, struct outcome *outcome,
                   uint32_t i, bool leave)
{
    const struct plan *plan = &crowd->plans[i];
    struct answer *answer = &outcome->answers[i];
    struct client *client = &outcome->clients[i];
    struct spin_request request =
        spin_harness_request(crowd->prompts[i], plan->prompt_count, plan->output, answer);
    (void)snprintf(request.id, sizeof request.id, "crowd-%u", i);
    request.logprobs = true;
    request.sampling.temperature = i % 3 == 0 ? 0 : 1;
    request.sampling.seed = i;
    *client = (struct client){.sink = request.sink,
                              .answer = answer,
                              .harness = harness,
                              .width = &outcome->width,
                              .leaves_at = leave ? plan->leaves_at : 0};
    request.sink.context = client;
    request.sink.prompt_token = NULL; /* not asked for */
    request.sink.token = on_token;
    request.sink.finished = on_finished;
    spin_harness_submit(harness, &request, answer);
}

/* What people are told about requests is about these, and not nonsense. */
static void look(struct harness *harness, struct outcome *outcome)
{
    struct spin_engine_load load;
    spin_engine_get_load(harness->engine, &load);
    outcome->table_bytes_most = SPIN_MAX(outcome->table_bytes_most, load.kv_table_bytes);
    outcome->summary_bytes_most = SPIN_MAX(outcome->summary_bytes_most, load.kv_summary_bytes);
    struct spin_engine_request_kv rows[REQUESTS];
    const uint32_t count = spin_engine_get_requests(harness->engine, rows, REQUESTS);
    assert_in_range(count, 0, REQUESTS);
    for (uint32_t i = 0; i < count; i++) {
        assert_memory_equal(rows[i].id, "crowd-", 6);
        assert_in_range(rows[i].tokens, 0, TOKENS_MAX);
        assert_true(rows[i].active || rows[i].slots == 0);
        outcome->buffered_seen += rows[i].active && !rows[i].resident && rows[i].slots > 0;
    }
}

static struct outcome *run_crowd(const struct crowd *crowd, const struct spin_engine_config *config,
                                 bool leave)
{
    struct outcome *outcome = calloc(1, sizeof *outcome);
    assert_non_null(outcome);
    struct harness harness;
    spin_harness_open(&harness, crowd->variant->model, config);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        spin_answer_init(&outcome->answers[i]);
    }
    for (uint32_t i = 0; i < REQUESTS; i++) {
        const struct plan *plan = &crowd->plans[i];
        if (plan->after < i) {
            spin_answer_wait_tokens(&outcome->answers[plan->after], plan->seen);
        }
        submit(&harness, crowd, outcome, i, leave);
        look(&harness, outcome);
    }
    for (uint32_t i = 0; i < REQUESTS; i++) {
        spin_answer_wait(&outcome->answers[i]);
        look(&harness, outcome);
    }
    spin_harness_wait_idle(&harness);
    spin_engine_get_load(harness.engine, &outcome->load);
    for (uint32_t i = 0; i < SPIN_ENGINE_METRIC_COUNT; i++) {
        outcome->metrics[i] = spin_metrics_read(harness.metrics, i);
    }
    spin_harness_close(&harness);
    return outcome;
}

static void free_outcome(struct outcome *outcome)
{
    for (uint32_t i = 0; i < REQUESTS; i++) {
        spin_answer_deinit(&outcome->answers[i]);
    }
    free(outcome);
}

/* Whoever left has a prefix of what it would have drawn. */
static void expect_same_bits(const struct crowd *crowd, const struct outcome *roomy,
                             const struct outcome *tight)
{
    for (uint32_t i = 0; i < REQUESTS; i++) {
        const struct answer *a = &roomy->answers[i];
        const struct answer *b = &tight->answers[i];
        const struct plan *plan = &crowd->plans[i];
        assert_int_equal(a->finish.reason, SPIN_FINISH_LENGTH);
        assert_int_equal(a->count, plan->output);
        if (plan->leaves_at > 0) {
            assert_int_equal(b->finish.reason, SPIN_FINISH_CANCELLED);
            assert_in_range(b->count, plan->leaves_at, plan->output - 1);
        } else {
            assert_int_equal(b->finish.reason, SPIN_FINISH_LENGTH);
            assert_int_equal(b->count, plan->output);
        }
        if (memcmp(a->tokens, b->tokens, b->count * sizeof *a->tokens) != 0 ||
            memcmp(a->logprobs, b->logprobs, b->count * sizeof *a->logprobs) != 0) {
            fail_msg("request %u of %u + %u tokens differs", i, plan->prompt_count, plan->output);
        }
    }
}

static void print_outcome(const struct spin_engine_config *config, const struct outcome *outcome)
{
    const double *metrics = outcome->metrics;
    printf("%s, %s: %u at once, retrieved %.0f, hits %.0f, evictions %.0f, dropped %.0f, "
           "demotions %.0f, suspensions %.0f, preemptions %.0f\n",
           config->sparse.algorithm->name,
           config->kv_replacement == SPIN_KV_SLOT_LRU ? "slot_lru" : "bucketed",
           outcome->width.most, metrics[SPIN_ENGINE_METRIC_KV_PAGES_RETRIEVED],
           metrics[SPIN_ENGINE_METRIC_KV_HITS], metrics[SPIN_ENGINE_METRIC_KV_EVICTIONS],
           metrics[SPIN_ENGINE_METRIC_KV_PAGES_DROPPED], metrics[SPIN_ENGINE_METRIC_KV_DEMOTIONS],
           metrics[SPIN_ENGINE_METRIC_SUSPENSIONS], metrics[SPIN_ENGINE_METRIC_PREEMPTIONS]);
}

/* Decode steps of those who were not cut short: each draws all but the first token. */
static double steps_least(const struct outcome *outcome)
{
    double steps = 0;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        const struct answer *answer = &outcome->answers[i];
        steps += answer->finish.reason == SPIN_FINISH_LENGTH ? answer->count - 1 : 0;
    }
    assert_true(steps > 0);
    return steps;
}

static void expect_room(const struct outcome *outcome, bool is_dense)
{
    const double *metrics = outcome->metrics;
    assert_true(metrics[SPIN_ENGINE_METRIC_KV_PAGES_RETRIEVED] == 0);
    assert_true(metrics[SPIN_ENGINE_METRIC_KV_EVICTIONS] == 0);
    assert_true(metrics[SPIN_ENGINE_METRIC_KV_DEMOTIONS] == 0);
    assert_true(metrics[SPIN_ENGINE_METRIC_SUSPENSIONS] == 0);
    assert_true(metrics[SPIN_ENGINE_METRIC_PREEMPTIONS] == 0);
    assert_true(metrics[SPIN_ENGINE_METRIC_DENSE_FALLBACKS] == 0);
    const double steps = metrics[SPIN_ENGINE_METRIC_SPARSE_STEPS];
    assert_true(is_dense ? steps == 0 : steps >= steps_least(outcome));
}

static void expect_counters(const struct outcome *outcome, bool is_dense)
{
    const double *metrics = outcome->metrics;
    assert_true(metrics[SPIN_ENGINE_METRIC_KV_PAGES_RETRIEVED] > 0);
    assert_true(metrics[SPIN_ENGINE_METRIC_KV_BYTES_RETRIEVED] > 0);
    assert_true(metrics[SPIN_ENGINE_METRIC_KV_PAGES_OFFLOADED] > 0);
    assert_true(metrics[SPIN_ENGINE_METRIC_DENSE_FALLBACKS] == 0);
    assert_int_equal(outcome->load.dense_fallbacks, 0);
    assert_int_equal(outcome->load.kv_hbm_bytes_used, 0);
    assert_int_equal(outcome->load.kv_host_bytes_used, 0);
    assert_true(outcome->table_bytes_most > 0);
    assert_true(metrics[SPIN_ENGINE_METRIC_KV_CPU_PAGE_TABLE_BYTES] > 0);
    assert_true(metrics[SPIN_ENGINE_METRIC_KV_PARTITION_OFFSET_BYTES] == 0);
    if (is_dense) { /* everything that is attended to must be there: others wait instead */
        assert_true(metrics[SPIN_ENGINE_METRIC_SUSPENSIONS] > 0);
        assert_true(metrics[SPIN_ENGINE_METRIC_SPARSE_STEPS] == 0);
        assert_int_equal(outcome->summary_bytes_most, 0);
        return;
    }
    assert_true(metrics[SPIN_ENGINE_METRIC_SPARSE_STEPS] >= steps_least(outcome));
    assert_true(metrics[SPIN_ENGINE_METRIC_KV_EVICTIONS] > 0);
    assert_true(metrics[SPIN_ENGINE_METRIC_KV_MISSES] > 0);
    assert_true(metrics[SPIN_ENGINE_METRIC_KV_MISSES] <
                metrics[SPIN_ENGINE_METRIC_KV_PAGES_RETRIEVED]);
    assert_true(metrics[SPIN_ENGINE_METRIC_KV_HITS] > 0);
    assert_true(metrics[SPIN_ENGINE_METRIC_KV_HIT_RATIO] > 0);
    assert_true(metrics[SPIN_ENGINE_METRIC_KV_HIT_RATIO] <= 1);
    assert_true(outcome->summary_bytes_most > 0);
    assert_true(outcome->buffered_seen > 0);
}

/* Dense never evicts: one policy is enough for it. */
static void expect_pressure_changes_nothing(const struct variant *variant, uint32_t policies)
{
    struct crowd crowd;
    make_crowd(&crowd, variant);
    const bool is_dense = variant->algorithm == &spin_sparse_dense;
    struct spin_engine_config config = crowd_config(&crowd);
    struct outcome *roomy = run_crowd(&crowd, &config, false);
    expect_room(roomy, is_dense);
    config.kv_hbm_bytes = crowd.tokens * variant->token_bytes * POOL_PERCENT / 100;
    for (uint32_t policy = 0; policy < policies; policy++) {
        config.kv_replacement = (enum spin_kv_replacement)policy;
        struct outcome *tight = run_crowd(&crowd, &config, true);
        print_outcome(&config, tight);
        expect_same_bits(&crowd, roomy, tight);
        expect_counters(tight, is_dense);
        assert_in_range(tight->width.most, variant->width_min, REQUESTS);
        free_outcome(tight);
    }
    free_outcome(roomy);
    free(crowd.prompts);
}

static void test_dense(void **state)
{
    (void)state;
    expect_pressure_changes_nothing(&dense, 1);
}

static void test_shadowkv(void **state)
{
    (void)state;
    expect_pressure_changes_nothing(&shadowkv, SPIN_KV_REPLACEMENTS);
}

static void test_quest(void **state)
{
    (void)state;
    expect_pressure_changes_nothing(&quest, SPIN_KV_REPLACEMENTS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense),
        cmocka_unit_test(test_shadowkv),
        cmocka_unit_test(test_quest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
