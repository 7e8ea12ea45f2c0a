/* Method: a table of requests that are wrong in one field each; the error must name the field and
 * its limit, nothing may reach the sink, and a right request must still be served afterwards. */
#include "tests/spin_test.h"
#include "tests/worker/engine/engine_harness.h"

static struct spin_logit_bias heavy[SPIN_LOGIT_BIAS_MAX + 1];
static int32_t many_stops[SPIN_STOP_TOKENS_MAX + 1];
static const int32_t negative[2] = {1, -1};
static const int32_t outside[2] = {1, 512};

static void set_id(struct spin_request *request)
{
    memset(request->id, 'x', sizeof request->id);
}
static void set_no_prompt(struct spin_request *request)
{
    request->prompt_count = 0;
}
static void set_negative_prompt(struct spin_request *request)
{
    request->prompt = negative;
    request->prompt_count = 2;
}
static void set_prompt_outside(struct spin_request *request)
{
    request->prompt = outside;
    request->prompt_count = 2;
}
static void set_resumed_outside(struct spin_request *request)
{
    request->resumed = outside;
    request->resumed_count = 2;
}
static void set_stop_outside(struct spin_request *request)
{
    request->stop_tokens = outside;
    request->stop_token_count = 2;
}
static void set_many_stops(struct spin_request *request)
{
    request->stop_tokens = many_stops;
    request->stop_token_count = SPIN_STOP_TOKENS_MAX + 1;
}
static void set_no_output(struct spin_request *request)
{
    request->max_tokens = 0;
}
static void set_too_long(struct spin_request *request)
{
    request->max_tokens = 1024 - request->prompt_count + 1;
}
static void set_far_too_long(struct spin_request *request)
{
    request->max_tokens = UINT32_MAX;
}
static void set_resumed_too_long(struct spin_request *request)
{
    request->resumed = many_stops;
    request->resumed_count = request->max_tokens + 1;
}
static void set_min_over_max(struct spin_request *request)
{
    request->min_tokens = request->max_tokens + 1;
}
static void set_top_logprobs(struct spin_request *request)
{
    request->top_logprobs = SPIN_TOP_LOGPROBS_MAX + 1;
}
static void set_temperature(struct spin_request *request)
{
    request->sampling.temperature = NAN;
}
static void set_top_p(struct spin_request *request)
{
    request->sampling.top_p = 0;
}
static void set_many_biases(struct spin_request *request)
{
    request->sampling.logit_bias = heavy;
    request->sampling.logit_bias_count = SPIN_LOGIT_BIAS_MAX + 1;
}

struct wrong {
    void (*set)(struct spin_request *request);
    spin_status status;
    const char *parts[3]; /* of the text */
};

static const struct wrong wrongs[] = {
    {set_id, SPIN_ERR_LIMIT, {"request id", "63", NULL}},
    {set_no_prompt, SPIN_ERR_INVALID, {"prompt", "at least 1", NULL}},
    {set_negative_prompt, SPIN_ERR_INVALID, {"prompt token -1 at 1", "0 to 511", NULL}},
    {set_prompt_outside, SPIN_ERR_INVALID, {"prompt token 512 at 1", "0 to 511", NULL}},
    {set_resumed_outside, SPIN_ERR_INVALID, {"resumed token 512 at 1", "0 to 511", NULL}},
    {set_stop_outside, SPIN_ERR_INVALID, {"stop_tokens token 512", "0 to 511", NULL}},
    {set_many_stops, SPIN_ERR_LIMIT, {"stop_tokens: 33", "at most 32", NULL}},
    {set_no_output, SPIN_ERR_INVALID, {"max_tokens 0", "prompt_logprobs", NULL}},
    {set_too_long, SPIN_ERR_LIMIT, {"together 1025", "max_model_len is 1024", NULL}},
    {set_far_too_long, SPIN_ERR_LIMIT, {"together 4294967305", "max_model_len is 1024", NULL}},
    {set_resumed_too_long, SPIN_ERR_INVALID, {"resumed: 11", "max_tokens is 10", NULL}},
    {set_min_over_max, SPIN_ERR_INVALID, {"min_tokens 11", "max_tokens is 10", NULL}},
    {set_top_logprobs, SPIN_ERR_LIMIT, {"top_logprobs 21", "at most 20", NULL}},
    {set_temperature, SPIN_ERR_INVALID, {"temperature nan", "[0, 100]", NULL}},
    {set_top_p, SPIN_ERR_INVALID, {"top_p 0", "(0, 1]", NULL}},
    {set_many_biases, SPIN_ERR_LIMIT, {"logit_bias: 1025", "at most 1024", NULL}},
};

static void test_wrong_requests_are_refused(void **state)
{
    (void)state;
    const struct spin_engine_config config = spin_harness_config();
    struct harness harness;
    spin_harness_open(&harness, "random:tiny", &config);
    int32_t prompt[10] = {0};
    struct answer answer;
    spin_answer_init(&answer);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(wrongs); i++) {
        struct spin_request request = spin_harness_request(prompt, 10, 10, &answer);
        wrongs[i].set(&request);
        struct spin_error err = {0};
        uint64_t ticket = 77;
        const spin_status status = spin_engine_submit(harness.engine, &request, &ticket, &err);
        if (status != wrongs[i].status) {
            fail_msg("case %u: got %s: %s", i, spin_status_name(status), err.text);
        }
        assert_int_equal(ticket, 77);
        for (uint32_t p = 0; p < 3 && wrongs[i].parts[p] != NULL; p++) {
            if (strstr(err.text, wrongs[i].parts[p]) == NULL) {
                fail_msg("case %u: '%s' does not say '%s'", i, err.text, wrongs[i].parts[p]);
            }
        }
    }
    const double refused = spin_metrics_read(harness.metrics, SPIN_ENGINE_METRIC_REFUSED);
    assert_int_equal((uint64_t)refused, SPIN_ARRAY_COUNT(wrongs));
    assert_int_equal(answer.finishes, 0);
    /* As long as can be: the last token needs no place of its own beyond the limit. */
    const struct spin_request longest = spin_harness_request(prompt, 10, 1014, &answer);
    spin_harness_submit(&harness, &longest, &answer);
    spin_answer_wait(&answer);
    assert_int_equal(answer.count, 1014);
    spin_answer_deinit(&answer);
    spin_harness_close(&harness);
}

/* Everything is copied: the caller's memory may change as soon as submit has returned. */
static void test_submit_copies(void **state)
{
    (void)state;
    const struct spin_engine_config config = spin_harness_config();
    struct harness harness;
    spin_harness_open(&harness, "random:tiny", &config);
    struct answer answers[2];
    for (uint32_t i = 0; i < 2; i++) {
        int32_t prompt[200];
        int32_t stops[1] = {511};
        struct spin_logit_bias bias[1] = {{5, 2}};
        spin_harness_prompt(&harness, 1, prompt, 200);
        spin_answer_init(&answers[i]);
        struct spin_request request = spin_harness_request(prompt, 200, 20, &answers[i]);
        request.stop_tokens = stops;
        request.stop_token_count = 1;
        request.sampling.logit_bias = bias;
        request.sampling.logit_bias_count = 1;
        spin_harness_submit(&harness, &request, &answers[i]);
        if (i == 0) {
            spin_answer_wait(&answers[i]); /* the memory is as it was all the time */
        }
        memset(prompt, 0xFF, sizeof prompt);
        memset(stops, 0xFF, sizeof stops);
        memset(bias, 0xFF, sizeof bias);
    }
    spin_answer_wait(&answers[1]);
    assert_int_equal(answers[1].count, answers[0].count);
    assert_memory_equal(answers[1].tokens, answers[0].tokens, sizeof answers[0].tokens);
    spin_answer_deinit(&answers[0]);
    spin_answer_deinit(&answers[1]);
    spin_harness_close(&harness);
}

/* Before start nothing leaves the queue, so its bound is exact. */
static void test_queue_is_bounded(void **state)
{
    (void)state;
    struct spin_engine_config config = spin_harness_config();
    config.max_waiting = 3;
    config.max_num_seqs = 2;
    struct spin_error err = {0};
    struct spin_model *model = NULL;
    struct spin_engine *engine = NULL;
    SPIN_EXPECT_OK(spin_model_open("random:tiny", &model, &err), &err);
    SPIN_EXPECT_OK(spin_engine_create(&config, model, spin_clock_real(), NULL, &engine, &err),
                   &err);
    struct spin_engine_load load;
    spin_engine_get_load(engine, &load);
    assert_true(load.kv_tokens >= config.max_model_len); /* who joins a cluster says it at once */
    int32_t prompt[5] = {0};
    struct answer answers[4];
    for (uint32_t i = 0; i < 4; i++) {
        spin_answer_init(&answers[i]);
        const struct spin_request request = spin_harness_request(prompt, 5, 5, &answers[i]);
        const spin_status status = spin_engine_submit(engine, &request, &answers[i].ticket, &err);
        assert_int_equal(status, i < 3 ? SPIN_OK : SPIN_ERR_EXHAUSTED);
    }
    assert_non_null(strstr(err.text, "3 requests wait"));
    assert_non_null(strstr(err.text, "retry later"));
    spin_engine_cancel(engine, answers[1].ticket); /* before the thread is there */
    SPIN_EXPECT_OK(spin_engine_start(engine, &err), &err);
    for (uint32_t i = 0; i < 3; i++) {
        spin_answer_wait(&answers[i]);
        assert_int_equal(answers[i].finish.reason,
                         i == 1 ? SPIN_FINISH_CANCELLED : SPIN_FINISH_LENGTH);
    }
    assert_int_equal(answers[3].finishes, 0);
    spin_engine_stop(engine, 0);
    const struct spin_request late = spin_harness_request(prompt, 5, 5, &answers[3]);
    SPIN_EXPECT_STATUS(spin_engine_submit(engine, &late, &answers[3].ticket, &err),
                       SPIN_ERR_SHUTDOWN);
    spin_engine_destroy(engine);
    spin_model_close(model);
    for (uint32_t i = 0; i < 4; i++) {
        spin_answer_deinit(&answers[i]);
    }
}

struct wrong_config {
    const char *text;
    struct spin_engine_config config;
};

static void test_config_is_checked(void **state)
{
    (void)state;
    const struct spin_sparse_options quest_of_8 = {.algorithm = &spin_sparse_quest,
                                                   .budget_tokens = 8};
    static struct spin_ops few_rows;
    few_rows = spin_ops_ref;
    few_rows.decode_rows_max = 7;
    struct wrong_config wrong[21];
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(wrong); i++) {
        wrong[i].config = spin_harness_config();
    }
    uint32_t n = 0;
#define WRONG(words, member, number) \
    wrong[n].text = (words); \
    wrong[n++].config.member = (number)
    WRONG("--max-model-len 32769: must be 1 to 32768", max_model_len, 32769);
    WRONG("--max-num-seqs 0: must be 1 to 1024", max_num_seqs, 0);
    WRONG("--max-num-seqs 1025", max_num_seqs, 1025);
    WRONG("--max-num-seqs 8: the operations 'ref' take 7 at most in a decode step", ops, &few_rows);
    WRONG("--max-num-batched-tokens 1048577", max_num_batched_tokens, 1048577);
    WRONG("--gpu-memory-utilization 0: must be above 0 and at most 1", gpu_memory_utilization, 0);
    WRONG("--gpu-memory-utilization 1.5", gpu_memory_utilization, 1.5);
    WRONG("--gpu-memory-utilization nan", gpu_memory_utilization, (double)NAN);
    WRONG("--super-chunk-tokens 200: must be a multiple of 128", super_chunk_tokens, 200);
    WRONG("--super-chunk-tokens 64: must be 128 to", super_chunk_tokens, 64);
    WRONG("--prefill-chunk-tokens 257: must be 1 to 256", chunk_tokens, 257);
    WRONG("--max-waiting 0", max_waiting, 0);
    WRONG("--threads 65", threads, 65);
    WRONG("--kv-replacement 2: must be 0 to 1", kv_replacement, (enum spin_kv_replacement)2);
    WRONG("--sparse-min-context", sparse.min_context, UINT32_MAX);
    WRONG("--sparse-budget", sparse.budget_tokens, UINT32_MAX);
    WRONG("--sparse-budget 8: must be 0 or at least 16, what quest chooses at a time", sparse,
          quest_of_8);
    /* 2 layers of 2 heads, K and V of 16 values of 2 bytes: 256 bytes a token. */
    WRONG("--kv-hbm-bytes 4096: a sequence of 1024 tokens (--max-model-len) needs 262144 bytes of "
          "slots with --sparse-attention dense",
          kv_hbm_bytes, 4096);
    WRONG("--kv-host-bytes 4096: a sequence of 1024 tokens (--max-model-len) needs 262144 bytes",
          kv_host_bytes, 4096);
    /* A bound of the other tier does not help. */
    WRONG("--kv-hbm-bytes 262143", kv_hbm_bytes, 262143);
    /* Two tiers of 262,144 bytes are more than half of this. */
    WRONG("--max-model-len 1024: a sequence needs 262144 bytes of slots and 262144 of blocks; "
          "tiers without a size (--kv-hbm-bytes, --kv-host-bytes) take half of 1048575 at most",
          memory_bytes, 1048575);
    assert_int_equal(n, SPIN_ARRAY_COUNT(wrong));
    struct spin_error err = {0};
    struct spin_model *model = NULL;
    SPIN_EXPECT_OK(spin_model_open("random:tiny", &model, &err), &err);
    for (uint32_t i = 0; i < n; i++) {
        struct spin_engine *engine = NULL;
        const spin_status status =
            spin_engine_create(&wrong[i].config, model, spin_clock_real(), NULL, &engine, &err);
        assert_int_not_equal(status, SPIN_OK);
        assert_null(engine);
        if (strstr(err.text, wrong[i].text) == NULL) {
            fail_msg("case %u: '%s' does not say '%s'", i, err.text, wrong[i].text);
        }
    }
    spin_model_close(model);
}

/* The engine of a model of 32,768 tokens and 256 bytes each, closed again: what it resolved. */
static struct spin_engine_config resolve(const struct spin_engine_config *config)
{
    struct spin_error err = {0};
    struct spin_model *model = NULL;
    SPIN_EXPECT_OK(spin_model_open("random:tiny", &model, &err), &err);
    struct spin_engine *engine = NULL;
    SPIN_EXPECT_OK(spin_engine_create(config, model, spin_clock_real(), NULL, &engine, &err), &err);
    const struct spin_engine_config resolved = *spin_engine_get_config(engine);
    spin_engine_destroy(engine);
    spin_model_close(model);
    return resolved;
}

static void expect_tiers(const struct spin_engine_config *config, uint32_t max_model_len,
                         uint64_t hbm_bytes, uint64_t host_bytes)
{
    const struct spin_engine_config resolved = resolve(config);
    assert_int_equal(resolved.max_model_len, max_model_len);
    assert_int_equal(resolved.kv_hbm_bytes, hbm_bytes);
    assert_int_equal(resolved.kv_host_bytes, host_bytes);
}

static void test_tiers_without_a_size(void **state)
{
    (void)state;
    const uint64_t kib = 1024;
    struct spin_engine_config config = spin_harness_config(); /* 8 sequences of 1,024 tokens */
    config.memory_bytes = 1024 * 1024 * kib;
    expect_tiers(&config, 1024, 8 * 256 * kib, 8 * 256 * kib); /* room for all */
    config.memory_bytes = 8 * 1024 * kib;
    expect_tiers(&config, 1024, 1024 * kib, 1024 * kib); /* an eighth */
    config.memory_bytes = 1024 * kib;
    expect_tiers(&config, 1024, 256 * kib, 256 * kib); /* one sequence: half of the memory in all */
    config.memory_bytes = 512 * kib;
    config.kv_host_bytes = 300 * kib; /* what was given is nobody's default */
    expect_tiers(&config, 1024, 256 * kib, 300 * kib);
}

/* The length that was not given is what fits; the tier of slots counts in slabs of 512 tokens, the
 * tier of blocks in 128. */
static void test_length_without_a_number(void **state)
{
    (void)state;
    const uint64_t kib = 1024;
    struct spin_engine_config config = spin_harness_config();
    config.max_model_len = 0;
    config.memory_bytes = 8 * 8192 * kib;
    expect_tiers(&config, 32768, 8192 * kib, 8192 * kib); /* all of the model's */
    config.memory_bytes = 8 * 8191 * kib;
    expect_tiers(&config, 32256, 8191 * kib, 8191 * kib);
    config.kv_hbm_bytes = 1024 * kib;
    expect_tiers(&config, 4096, 1024 * kib, 8191 * kib);
    config.kv_host_bytes = 160 * kib;
    expect_tiers(&config, 640, 1024 * kib, 160 * kib);
    config.kv_host_bytes = 1;
    struct spin_error err = {0};
    struct spin_model *model = NULL;
    SPIN_EXPECT_OK(spin_model_open("random:tiny", &model, &err), &err);
    struct spin_engine *engine = NULL;
    SPIN_EXPECT_STATUS(spin_engine_create(&config, model, spin_clock_real(), NULL, &engine, &err),
                       SPIN_ERR_INVALID);
    assert_non_null(strstr(err.text, "--kv-host-bytes 1: too small for a sequence of any length"));
    spin_model_close(model);
}

/* Where an algorithm turns sparse its needs fall: the last dense length is what counts. */
static void test_length_of_a_sparse_engine(void **state)
{
    (void)state;
    const uint64_t kib = 1024;
    struct spin_engine_config config = spin_harness_config();
    config.max_model_len = 0;
    config.memory_bytes = 1024 * 1024 * kib;
    config.sparse = (struct spin_sparse_options){
        .algorithm = &spin_sparse_shadowkv, .budget_tokens = 64, .min_context = 4096};
    config.kv_hbm_bytes = 4095 * 256; /* 8-token pages: slabs of 128 tokens */
    assert_int_equal(resolve(&config).max_model_len, 3968);
    config.kv_hbm_bytes = 4096 * 256;
    const uint32_t longest = resolve(&config).max_model_len;
    assert_in_range(longest, 4097, 32768); /* an arena for one layer of two */
    assert_int_equal(longest, 8192);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_requests_are_refused),
        cmocka_unit_test(test_submit_copies),
        cmocka_unit_test(test_queue_is_bounded),
        cmocka_unit_test(test_config_is_checked),
        cmocka_unit_test(test_tiers_without_a_size),
        cmocka_unit_test(test_length_without_a_number),
        cmocka_unit_test(test_length_of_a_sparse_engine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
