/* usage: engine_test [MODEL]   with a model: bit identity on it, and nothing else
 *
 * Method: the answer of a request alone, on one thread and with whole chunks, is the reference;
 * every other way to run it (batch, chunks, threads, preemption, resumption) must give the same
 * bits. The rules of the interface are checked one by one on a small random model. */
#include "worker/engine/engine.h"

#include "base/rng.h"
#include "tests/spin_test.h"
#include "tests/worker/engine/engine_harness.h"
#include "worker/engine/score.h"

#define PROMPTS 8u

static const uint32_t prompt_lengths[PROMPTS] = {1, 7, 128, 300, 33, 129, 260, 64};
static const char *const models[] = {"random:tiny", "random:tiny-qwen2", "random:tiny-qwen3"};

struct texts {
    int32_t prompts[PROMPTS][HARNESS_TOKENS_MAX];
    struct answer answers[PROMPTS];
};

/* A mixed batch: greedy and sampled, with and without penalties and logprobs. */
static struct spin_request mixed_request(const struct harness *harness, struct texts *texts,
                                         uint32_t i, uint32_t max_tokens)
{
    spin_harness_prompt(harness, i, texts->prompts[i], prompt_lengths[i]);
    spin_answer_init(&texts->answers[i]);
    struct spin_request request =
        spin_harness_request(texts->prompts[i], prompt_lengths[i], max_tokens, &texts->answers[i]);
    request.logprobs = true;
    if (i % 2 == 1) {
        request.sampling.temperature = 0.9F;
        request.sampling.top_p = 0.95F;
        request.sampling.seed = 1000 + i;
    }
    if (i % 4 == 2) {
        request.sampling.repetition_penalty = 1.2F;
        request.sampling.presence_penalty = 0.5F;
    }
    return request;
}

/* Runs all prompts, at once or one after the other. */
static void run_all(const char *model, const struct spin_engine_config *config, bool at_once,
                    struct texts *texts)
{
    struct harness harness;
    spin_harness_open(&harness, model, config);
    for (uint32_t i = 0; i < PROMPTS; i++) {
        const struct spin_request request = mixed_request(&harness, texts, i, 24);
        spin_harness_submit(&harness, &request, &texts->answers[i]);
        if (!at_once) {
            spin_answer_wait(&texts->answers[i]);
        }
    }
    for (uint32_t i = 0; i < PROMPTS; i++) {
        spin_answer_wait(&texts->answers[i]);
        assert_int_equal(texts->answers[i].finish.reason, SPIN_FINISH_LENGTH);
        assert_int_equal(texts->answers[i].count, 24);
    }
    spin_harness_close(&harness);
}

static void free_all(struct texts *texts)
{
    for (uint32_t i = 0; i < PROMPTS; i++) {
        spin_answer_deinit(&texts->answers[i]);
    }
    free(texts);
}

static struct texts *run_new(const char *model, const struct spin_engine_config *config,
                             bool at_once)
{
    struct texts *texts = calloc(1, sizeof *texts);
    assert_non_null(texts);
    run_all(model, config, at_once, texts);
    return texts;
}

static void expect_same(const struct texts *a, const struct texts *b, const char *what)
{
    for (uint32_t i = 0; i < PROMPTS; i++) {
        const bool tokens =
            memcmp(a->answers[i].tokens, b->answers[i].tokens, 24 * sizeof(int32_t)) == 0;
        bool bits = true;
        for (uint32_t t = 0; t < 24; t++) { /* no logprob is NaN or zero: equal is the same bits */
            bits = bits && a->answers[i].logprobs[t] == b->answers[i].logprobs[t];
        }
        if (!tokens || !bits) {
            fail_msg("%s: prompt %u of %u tokens differs", what, i, prompt_lengths[i]);
        }
    }
}

static const uint32_t chunks[] = {1, 7, 64, 128, 256};

/* Every `step`-th of the chunk sizes from `first` on; threads and super-chunks change along. */
static void expect_batch_equals_alone(const char *model, const struct spin_ops *ops, uint32_t first,
                                      uint32_t step)
{
    struct spin_engine_config config = spin_harness_config();
    config.ops = ops;
    config.chunk_tokens = 256;
    struct texts *alone = run_new(model, &config, false);
    for (uint32_t i = first; i < SPIN_ARRAY_COUNT(chunks); i += step) {
        char what[200];
        (void)snprintf(what, sizeof what, "%s %s, chunks of %u", model, ops->name, chunks[i]);
        config.chunk_tokens = chunks[i];
        config.threads = 1 + i % 3;
        config.super_chunk_tokens = i % 2 == 0 ? 256 : 512;
        struct texts *batch = run_new(model, &config, true);
        expect_same(batch, alone, what);
        free_all(batch);
    }
    free_all(alone);
}

/* The reference is slow, and its rows are single loops that know nothing of chunks. */
static void test_same_bits_ref(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(models); i++) {
        expect_batch_equals_alone(models[i], &spin_ops_ref, 0, 4);
    }
}

static void test_same_bits_fast(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(models); i++) {
        expect_batch_equals_alone(models[i], spin_ops_best_cpu(), 0, i == 0 ? 1 : 2);
    }
}

static const char *model_path;

/* The same on real, quantised weights. */
static void test_same_bits_of_a_model(void **state)
{
    (void)state;
    expect_batch_equals_alone(model_path, spin_ops_best_cpu(), 1, 1);
}

/* Blocks of KV in bytes, for pools of a known size. */
static uint64_t blocks_bytes(const char *model, uint64_t blocks)
{
    struct spin_error err;
    struct spin_model *opened = NULL;
    SPIN_EXPECT_OK(spin_model_open(model, &opened, &err), &err);
    const struct spin_model_config *shape = &opened->config;
    const uint64_t token_bytes =
        UINT64_C(2) * shape->layers * shape->kv_heads * shape->head_dim * sizeof(uint16_t);
    spin_model_close(opened);
    return blocks * SPIN_BLOCK_TOKENS * token_bytes;
}

#define GROWING 3u
#define GROWN_TOKENS 900u

static void run_growing(const struct spin_engine_config *config, struct answer *answers)
{
    struct harness harness;
    spin_harness_open(&harness, models[0], config);
    int32_t prompt[20];
    spin_harness_prompt(&harness, 77, prompt, 20);
    for (uint32_t i = 0; i < GROWING; i++) {
        spin_answer_init(&answers[i]);
        struct spin_request request = spin_harness_request(prompt, 20, GROWN_TOKENS, &answers[i]);
        request.logprobs = true;
        request.sampling.temperature = 1;
        request.sampling.seed = i;
        spin_harness_submit(&harness, &request, &answers[i]);
    }
    for (uint32_t i = 0; i < GROWING; i++) {
        spin_answer_wait(&answers[i]);
        assert_int_equal(answers[i].count, GROWN_TOKENS);
    }
    spin_harness_close(&harness);
}

/* Two are admitted by what outputs are expected to need, and both grow beyond it. */
static void test_same_bits_after_preemption(void **state)
{
    (void)state;
    struct spin_engine_config config = spin_harness_config();
    struct answer *roomy = calloc(GROWING, sizeof *roomy);
    struct answer *tight = calloc(GROWING, sizeof *tight);
    run_growing(&config, roomy);
    config.kv_host_bytes = blocks_bytes(models[0], 12); /* two times 8 blocks do not fit */
    run_growing(&config, tight);
    uint32_t preemptions = 0;
    for (uint32_t i = 0; i < GROWING; i++) {
        assert_int_equal(roomy[i].finish.usage.preemptions, 0);
        assert_memory_equal(tight[i].tokens, roomy[i].tokens, GROWN_TOKENS * sizeof(int32_t));
        assert_memory_equal(tight[i].logprobs, roomy[i].logprobs, GROWN_TOKENS * sizeof(float));
        preemptions += tight[i].finish.usage.preemptions;
        spin_answer_deinit(&roomy[i]);
        spin_answer_deinit(&tight[i]);
    }
    assert_true(preemptions > 0);
    assert_int_equal(tight[0].finish.usage.preemptions, 0); /* the oldest */
    free(roomy);
    free(tight);
}

/* What another worker generated is part of the context, is not told again, and the rest is the
 * same. */
static void test_resumed_equals_continuous(void **state)
{
    (void)state;
    struct spin_engine_config config = spin_harness_config();
    struct harness harness;
    spin_harness_open(&harness, models[2], &config);
    int32_t prompt[50];
    spin_harness_prompt(&harness, 5, prompt, 50);
    struct answer *whole = calloc(1, sizeof *whole);
    spin_answer_init(whole);
    struct spin_request request = spin_harness_request(prompt, 50, 60, whole);
    request.sampling.temperature = 1;
    request.sampling.seed = 42;
    request.sampling.frequency_penalty = 0.3F;
    spin_harness_submit(&harness, &request, whole);
    spin_answer_wait(whole);
    static const uint32_t cuts[] = {1, 30, 59, 60};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(cuts); i++) {
        struct answer *rest = calloc(1, sizeof *rest);
        spin_answer_init(rest);
        request.resumed = whole->tokens;
        request.resumed_count = cuts[i];
        request.sink.context = rest;
        spin_harness_submit(&harness, &request, rest);
        spin_answer_wait(rest);
        assert_int_equal(rest->finish.reason, SPIN_FINISH_LENGTH);
        assert_int_equal(rest->count, 60 - cuts[i]);
        assert_memory_equal(rest->tokens, whole->tokens + cuts[i],
                            (60 - cuts[i]) * sizeof(int32_t));
        assert_int_equal(rest->finish.usage.completion_tokens, 60);
        spin_answer_deinit(rest);
        free(rest);
    }
    spin_answer_deinit(whole);
    free(whole);
    spin_harness_close(&harness);
}

struct scored {
    uint32_t vocab;
    uint32_t first;
    uint32_t rows;
    double logprobs[HARNESS_TOKENS_MAX];
    int32_t largest[HARNESS_TOKENS_MAX];
    const int32_t *tokens;
    uint32_t count;
};

/* Two plain passes in double, nothing of the sampler. */
static void on_row(void *context, uint32_t position, const float *logits)
{
    struct scored *scored = context;
    assert_int_equal(position, scored->first + scored->rows);
    scored->rows++;
    double sum = 0;
    int32_t largest = 0;
    for (uint32_t i = 0; i < scored->vocab; i++) {
        sum += exp((double)logits[i]);
        largest = logits[i] > logits[largest] ? (int32_t)i : largest;
    }
    scored->largest[position] = largest;
    if (position + 1 < scored->count) {
        scored->logprobs[position + 1] = (double)logits[scored->tokens[position + 1]] - log(sum);
    }
}

/* echo: every prompt token with its logprob, equal to a teacher-forced pass; greedy output is the
 * argmax of the same pass. */
static void test_prompt_logprobs_and_greedy_equal_scores(void **state)
{
    (void)state;
    struct spin_engine_config config = spin_harness_config();
    struct harness harness;
    spin_harness_open(&harness, models[1], &config);
    int32_t tokens[HARNESS_TOKENS_MAX];
    spin_harness_prompt(&harness, 8, tokens, 300);
    struct answer *answer = calloc(1, sizeof *answer);
    spin_answer_init(answer);
    struct spin_request request = spin_harness_request(tokens, 300, 20, answer);
    request.prompt_logprobs = true;
    request.logprobs = true;
    request.top_logprobs = 3;
    spin_harness_submit(&harness, &request, answer);
    spin_answer_wait(answer);
    assert_int_equal(answer->prompt_count, 300);
    assert_int_equal(answer->tops, (299 + 20) * 3);
    assert_true(isnan(answer->prompt_logprobs[0]));
    memcpy(tokens + 300, answer->tokens, 20 * sizeof(int32_t));

    struct spin_error err;
    struct spin_scorer_config scorer_config = spin_scorer_config_default(harness.model);
    scorer_config.tokens_max = 400;
    struct spin_scorer *scorer = NULL;
    SPIN_EXPECT_OK(spin_scorer_create(&scorer_config, harness.model, &scorer, &err), &err);
    struct scored *scored = calloc(1, sizeof *scored);
    *scored = (struct scored){.vocab = harness.model->config.vocab, .tokens = tokens, .count = 320};
    const struct spin_score_rows rows = {.first = 0, .row = on_row, .context = scored};
    SPIN_EXPECT_OK(spin_scorer_prefill(scorer, tokens, 320, &rows, &err), &err);
    for (uint32_t i = 1; i < 300; i++) {
        assert_int_equal(answer->prompt_tokens[i], tokens[i]);
        assert_true(fabs((double)answer->prompt_logprobs[i] - scored->logprobs[i]) < 1e-5);
    }
    for (uint32_t i = 0; i < 20; i++) {
        assert_int_equal(answer->tokens[i], scored->largest[299 + i]);
        assert_true(fabs((double)answer->logprobs[i] - scored->logprobs[300 + i]) < 1e-5);
    }
    spin_scorer_destroy(scorer);
    free(scored);
    spin_answer_deinit(answer);
    free(answer);
    spin_harness_close(&harness);
}

static void test_scoring_only(void **state)
{
    (void)state;
    struct spin_engine_config config = spin_harness_config();
    struct harness harness;
    spin_harness_open(&harness, models[0], &config);
    int32_t prompt[130];
    spin_harness_prompt(&harness, 8, prompt, 130);
    struct answer answer;
    spin_answer_init(&answer);
    struct spin_request request = spin_harness_request(prompt, 130, 0, &answer);
    request.prompt_logprobs = true;
    spin_harness_submit(&harness, &request, &answer);
    spin_answer_wait(&answer);
    assert_int_equal(answer.finish.reason, SPIN_FINISH_LENGTH);
    assert_int_equal(answer.prompt_count, 130);
    assert_int_equal(answer.count, 0);
    assert_int_equal(answer.finish.usage.prompt_tokens, 130);
    spin_answer_deinit(&answer);
    spin_harness_close(&harness);
}

static void test_stop_and_min_tokens(void **state)
{
    (void)state;
    struct spin_engine_config config = spin_harness_config();
    struct harness harness;
    spin_harness_open(&harness, models[0], &config);
    int32_t prompt[20];
    spin_harness_prompt(&harness, 3, prompt, 20);
    struct answer free_run;
    spin_answer_init(&free_run);
    struct spin_request request = spin_harness_request(prompt, 20, 100, &free_run);
    request.sampling.temperature = 1;
    request.sampling.seed = 9;
    spin_harness_submit(&harness, &request, &free_run);
    spin_answer_wait(&free_run);

    const int32_t stop[2] = {511, free_run.tokens[10]};
    uint32_t first = 0; /* where that token comes for the first time */
    while (free_run.tokens[first] != stop[1] && free_run.tokens[first] != stop[0]) {
        first++;
    }
    struct answer stopped;
    spin_answer_init(&stopped);
    request.stop_tokens = stop;
    request.stop_token_count = 2;
    request.sink.context = &stopped;
    spin_harness_submit(&harness, &request, &stopped);
    spin_answer_wait(&stopped);
    assert_int_equal(stopped.finish.reason, SPIN_FINISH_STOP);
    assert_int_equal(stopped.finish.stop_token, free_run.tokens[first]);
    assert_int_equal(stopped.count, first); /* the token itself is not told */
    assert_int_equal(stopped.finish.usage.completion_tokens, first);

    struct answer later;
    spin_answer_init(&later);
    request.min_tokens = 50;
    request.sink.context = &later;
    spin_harness_submit(&harness, &request, &later);
    spin_answer_wait(&later);
    assert_true(later.count >= 50);
    for (uint32_t i = 0; i < 50; i++) {
        assert_int_not_equal(later.tokens[i], stop[0]);
        assert_int_not_equal(later.tokens[i], stop[1]);
    }
    spin_answer_deinit(&free_run);
    spin_answer_deinit(&stopped);
    spin_answer_deinit(&later);
    spin_harness_close(&harness);
}

static void test_metrics_count(void **state)
{
    (void)state;
    struct spin_engine_config config = spin_harness_config();
    struct harness harness;
    spin_harness_open(&harness, models[0], &config);
    int32_t prompt[100];
    spin_harness_prompt(&harness, 3, prompt, 100);
    struct answer answer;
    spin_answer_init(&answer);
    const struct spin_request request = spin_harness_request(prompt, 100, 11, &answer);
    spin_harness_submit(&harness, &request, &answer);
    spin_answer_wait(&answer);
    spin_harness_wait_idle(&harness);
    const struct {
        enum spin_engine_metric metric;
        double value;
    } wanted[] = {
        {SPIN_ENGINE_METRIC_PROMPT_TOKENS, 100},
        {SPIN_ENGINE_METRIC_GENERATED_TOKENS, 11},
        {SPIN_ENGINE_METRIC_REQUESTS_LENGTH, 1},
        {SPIN_ENGINE_METRIC_REQUESTS_STOP, 0},
        {SPIN_ENGINE_METRIC_DECODE_STEPS, 10},
        {SPIN_ENGINE_METRIC_PREFILL_UNITS, 4},
        {SPIN_ENGINE_METRIC_TTFT, 1},
        {SPIN_ENGINE_METRIC_TPOT, 1},
        {SPIN_ENGINE_METRIC_ITL, 10},
        {SPIN_ENGINE_METRIC_QUEUE, 1},
        {SPIN_ENGINE_METRIC_E2E, 1},
        {SPIN_ENGINE_METRIC_STEP, 10},
        {SPIN_ENGINE_METRIC_REFUSED, 0},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(wanted); i++) {
        const double value = spin_metrics_read(harness.metrics, wanted[i].metric);
        if (value != wanted[i].value) {
            fail_msg("%s: %g, wanted %g", spin_engine_metrics[wanted[i].metric].name, value,
                     wanted[i].value);
        }
    }
    struct spin_engine_load load;
    spin_engine_get_load(harness.engine, &load);
    assert_int_equal(load.kv_tokens, 8 * 1024);
    assert_true(load.step_ns > 0);
    assert_true(load.prefill_tokens_per_s > 0);
    spin_answer_deinit(&answer);
    spin_harness_close(&harness);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        model_path = argv[1];
        const struct CMUnitTest one[] = {cmocka_unit_test(test_same_bits_of_a_model)};
        return cmocka_run_group_tests(one, NULL, NULL);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits_ref),
        cmocka_unit_test(test_same_bits_fast),
        cmocka_unit_test(test_same_bits_after_preemption),
        cmocka_unit_test(test_resumed_equals_continuous),
        cmocka_unit_test(test_prompt_logprobs_and_greedy_equal_scores),
        cmocka_unit_test(test_scoring_only),
        cmocka_unit_test(test_stop_and_min_tokens),
        cmocka_unit_test(test_metrics_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
