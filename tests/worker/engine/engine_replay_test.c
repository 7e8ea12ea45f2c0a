/* Method: what a sparse algorithm has decoded has other K and V than a dense prefill of the same
 * tokens (the first test shows it), so a sequence that starts over, or that comes from elsewhere,
 * has to replay; its answer must have the bits of the undisturbed run. */
#include "tests/spin_test.h"
#include "tests/worker/engine/engine_harness.h"

#define GROWING 3u
#define PROMPT 40u
#define OUTPUT 800u
#define RESUMED_OUTPUT 90u

struct variant {
    const struct spin_sparse_algorithm *algorithm;
    const char *model;
    uint32_t layers;
    uint32_t kv_heads;
    uint32_t head_dim;
};

/* Quest is dense in its first two layers: it takes a third to differ. */
static const struct variant variants[] = {{&spin_sparse_shadowkv, "random:tiny", 2, 2, 16},
                                          {&spin_sparse_quest, "random:tiny-qwen2", 3, 2, 16}};

static uint64_t token_bytes(const struct variant *variant)
{
    return UINT64_C(2) * variant->layers * variant->kv_heads * variant->head_dim * sizeof(uint16_t);
}

static struct spin_engine_config sparse_config(const struct variant *variant)
{
    struct spin_engine_config config = spin_harness_config();
    config.sparse = (struct spin_sparse_options){
        .algorithm = variant->algorithm,
        .budget_tokens = 64,
        .min_context = PROMPT + 1, /* the shortest prompt's first step is just long enough */
        .verify = false};
    return config;
}

static void expect_sparse(const struct harness *harness)
{
    assert_true(spin_metrics_read(harness->metrics, SPIN_ENGINE_METRIC_SPARSE_STEPS) > 0);
    assert_true(spin_metrics_read(harness->metrics, SPIN_ENGINE_METRIC_DENSE_FALLBACKS) == 0);
}

static struct spin_request drawn_request(const int32_t *prompt, uint32_t count, uint32_t output,
                                         struct answer *answer)
{
    spin_answer_init(answer);
    struct spin_request request = spin_harness_request(prompt, count, output, answer);
    request.logprobs = true;
    request.sampling.temperature = 1;
    return request;
}

static void expect_same_from(const struct answer *whole, const struct answer *rest, uint32_t from)
{
    assert_int_equal(rest->count, whole->count - from);
    assert_memory_equal(rest->tokens, whole->tokens + from, rest->count * sizeof(int32_t));
    assert_memory_equal(rest->logprobs, whole->logprobs + from, rest->count * sizeof(float));
}

static struct answer *run_growing(const struct variant *variant,
                                  const struct spin_engine_config *config, uint64_t *suspensions)
{
    struct answer *answers = calloc(GROWING, sizeof *answers);
    assert_non_null(answers);
    struct harness harness;
    spin_harness_open(&harness, variant->model, config);
    int32_t prompt[PROMPT];
    spin_harness_prompt(&harness, 77, prompt, PROMPT);
    for (uint32_t i = 0; i < GROWING; i++) {
        struct spin_request request = drawn_request(prompt, PROMPT, OUTPUT, &answers[i]);
        request.sampling.seed = i;
        spin_harness_submit(&harness, &request, &answers[i]);
    }
    for (uint32_t i = 0; i < GROWING; i++) {
        spin_answer_wait(&answers[i]);
        assert_int_equal(answers[i].count, OUTPUT);
    }
    spin_harness_wait_idle(&harness);
    if (suspensions != NULL) {
        struct spin_engine_load load;
        spin_engine_get_load(harness.engine, &load);
        *suspensions = load.suspensions;
    }
    if (config->sparse.algorithm != &spin_sparse_dense) {
        expect_sparse(&harness);
    }
    spin_harness_close(&harness);
    return answers;
}

static void free_answers(struct answer *answers, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        spin_answer_deinit(&answers[i]);
    }
    free(answers);
}

/* Or the tests below would show nothing. */
static void test_sparse_differs_from_dense(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(variants); i++) {
        struct spin_engine_config config = sparse_config(&variants[i]);
        struct answer *sparse = run_growing(&variants[i], &config, NULL);
        config.sparse.algorithm = &spin_sparse_dense;
        struct answer *dense = run_growing(&variants[i], &config, NULL);
        assert_memory_not_equal(sparse[0].logprobs, dense[0].logprobs, OUTPUT * sizeof(float));
        free_answers(sparse, GROWING);
        free_answers(dense, GROWING);
    }
}

/* Two are admitted by what outputs are expected to need, and both grow beyond it. */
static void test_same_bits_after_preemption(void **state)
{
    (void)state;
    for (uint32_t v = 0; v < SPIN_ARRAY_COUNT(variants); v++) {
        struct spin_engine_config config = sparse_config(&variants[v]);
        struct answer *roomy = run_growing(&variants[v], &config, NULL);
        config.kv_host_bytes = UINT64_C(12) * SPIN_BLOCK_TOKENS * token_bytes(&variants[v]);
        struct answer *tight = run_growing(&variants[v], &config, NULL);
        uint32_t preemptions = 0;
        for (uint32_t i = 0; i < GROWING; i++) {
            assert_int_equal(roomy[i].finish.usage.preemptions, 0);
            expect_same_from(&roomy[i], &tight[i], 0);
            preemptions += tight[i].finish.usage.preemptions;
        }
        assert_true(preemptions > 0);
        free_answers(roomy, GROWING);
        free_answers(tight, GROWING);
    }
}

/* Quest's dense layers grow with the sequence: two fit by what outputs are expected to need, which
 * is 552 tokens and 5 slabs of each row of those, and not at 640. Nothing is computed twice. */
static void test_same_bits_after_suspension(void **state)
{
    (void)state;
    const struct variant *variant = &variants[1];
    const uint64_t slab_bytes = (uint64_t)SPIN_SLAB_SLOTS * 8 * 2 * 16 * sizeof(uint16_t);
    struct spin_engine_config config = sparse_config(variant);
    uint64_t suspensions = 0;
    struct answer *roomy = run_growing(variant, &config, &suspensions);
    assert_int_equal(suspensions, 0);
    config.kv_hbm_bytes = 54 * slab_bytes;
    for (uint32_t policy = 0; policy < SPIN_KV_REPLACEMENTS; policy++) {
        config.kv_replacement = (enum spin_kv_replacement)policy;
        struct answer *tight = run_growing(variant, &config, &suspensions);
        assert_true(suspensions > 0);
        for (uint32_t i = 0; i < GROWING; i++) {
            assert_int_equal(tight[i].finish.usage.preemptions, 0);
            expect_same_from(&roomy[i], &tight[i], 0);
        }
        free_answers(tight, GROWING);
    }
    free_answers(roomy, GROWING);
}

struct counts {
    uint64_t suspensions;
    double units;
};

/* One that grows beside a long prompt whose units are tiny. */
static struct counts run_beside_prefill(const struct spin_engine_config *config,
                                        struct answer *answers)
{
    static const uint32_t lengths[2] = {500, 1500};
    static const uint32_t outputs[2] = {1200, 20};
    struct harness harness;
    spin_harness_open(&harness, variants[0].model, config);
    int32_t prompt[1500];
    spin_harness_prompt(&harness, 9, prompt, 1500);
    for (uint32_t i = 0; i < 2; i++) {
        const struct spin_request request =
            drawn_request(prompt, lengths[i], outputs[i], &answers[i]);
        spin_harness_submit(&harness, &request, &answers[i]);
    }
    for (uint32_t i = 0; i < 2; i++) {
        spin_answer_wait(&answers[i]);
        assert_int_equal(answers[i].count, outputs[i]);
    }
    struct spin_engine_load load;
    spin_harness_wait_idle(&harness);
    spin_engine_get_load(harness.engine, &load);
    const struct counts counts = {
        .suspensions = load.suspensions,
        .units = spin_metrics_read(harness.metrics, SPIN_ENGINE_METRIC_PREFILL_UNITS)};
    spin_harness_close(&harness);
    return counts;
}

/* The older one comes to its third slab of each row when the younger prompt, which has three, is in
 * a later super-chunk: the slots of that are forgotten, and its finished super-chunks are not run
 * again. */
static void test_same_bits_after_suspension_in_prefill(void **state)
{
    (void)state;
    struct spin_engine_config config = spin_harness_config();
    config.max_model_len = 2048;
    config.chunk_tokens = 4;
    config.max_num_batched_tokens = 1;
    struct answer *answers = calloc(4, sizeof *answers);
    assert_non_null(answers);
    const struct counts roomy = run_beside_prefill(&config, answers);
    assert_int_equal(roomy.suspensions, 0);
    const uint64_t column_tokens = UINT64_C(512); /* of one slab of 32-token pages in each row */
    config.kv_hbm_bytes = 5 * column_tokens * token_bytes(&variants[0]);
    const struct counts tight = run_beside_prefill(&config, answers + 2);
    assert_int_equal(tight.suspensions, 1);
    const double super_units = 256.0 / 4 * variants[0].layers;
    assert_true(tight.units > roomy.units && tight.units < roomy.units + super_units);
    expect_same_from(&answers[0], &answers[2], 0);
    expect_same_from(&answers[1], &answers[3], 0);
    free_answers(answers, 4);
}

static void expect_resumed_equals_continuous(const struct variant *variant)
{
    const struct spin_engine_config config = sparse_config(variant);
    struct harness harness;
    spin_harness_open(&harness, variant->model, &config);
    int32_t prompt[300];
    spin_harness_prompt(&harness, 5, prompt, 300);
    struct answer *whole = calloc(1, sizeof *whole);
    assert_non_null(whole);
    struct spin_request request = drawn_request(prompt, 300, RESUMED_OUTPUT, whole);
    request.sampling.frequency_penalty = 0.3F;
    spin_harness_submit(&harness, &request, whole);
    spin_answer_wait(whole);
    static const uint32_t cuts[] = {1, 2, 50, RESUMED_OUTPUT - 1, RESUMED_OUTPUT};
    struct answer *rests = calloc(SPIN_ARRAY_COUNT(cuts), sizeof *rests);
    assert_non_null(rests);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(cuts); i++) { /* at once: replays beside draws */
        spin_answer_init(&rests[i]);
        request.resumed = whole->tokens;
        request.resumed_count = cuts[i];
        request.sink.context = &rests[i];
        spin_harness_submit(&harness, &request, &rests[i]);
    }
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(cuts); i++) {
        spin_answer_wait(&rests[i]);
        assert_int_equal(rests[i].finish.reason, SPIN_FINISH_LENGTH);
        assert_int_equal(rests[i].finish.usage.completion_tokens, RESUMED_OUTPUT);
        expect_same_from(whole, &rests[i], cuts[i]);
    }
    expect_sparse(&harness);
    free_answers(rests, SPIN_ARRAY_COUNT(cuts));
    free_answers(whole, 1);
    spin_harness_close(&harness);
}

static void test_resumed_equals_continuous(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(variants); i++) {
        expect_resumed_equals_continuous(&variants[i]);
    }
}

/* The prompt's logprobs of a resumed request are told once, and the replay tells nothing. */
static void test_resumed_and_scored(void **state)
{
    (void)state;
    const struct spin_engine_config config = sparse_config(&variants[0]);
    struct harness harness;
    spin_harness_open(&harness, variants[0].model, &config);
    int32_t tokens[PROMPT + 20];
    spin_harness_prompt(&harness, 6, tokens, PROMPT + 20);
    for (uint32_t max_tokens = 20; max_tokens <= 25; max_tokens += 5) {
        struct answer answer;
        struct spin_request request = drawn_request(tokens, PROMPT, max_tokens, &answer);
        request.resumed = tokens + PROMPT;
        request.resumed_count = 20;
        request.prompt_logprobs = true;
        spin_harness_submit(&harness, &request, &answer);
        spin_answer_wait(&answer);
        assert_int_equal(answer.finish.reason, SPIN_FINISH_LENGTH);
        assert_int_equal(answer.prompt_count, PROMPT);
        assert_int_equal(answer.count, max_tokens - 20);
        spin_answer_deinit(&answer);
    }
    assert_true(spin_metrics_read(harness.metrics, SPIN_ENGINE_METRIC_PROMPT_TOKENS) == 2 * PROMPT);
    spin_harness_close(&harness);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sparse_differs_from_dense),
        cmocka_unit_test(test_same_bits_after_preemption),
        cmocka_unit_test(test_same_bits_after_suspension),
        cmocka_unit_test(test_same_bits_after_suspension_in_prefill),
        cmocka_unit_test(test_resumed_equals_continuous),
        cmocka_unit_test(test_resumed_and_scored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
