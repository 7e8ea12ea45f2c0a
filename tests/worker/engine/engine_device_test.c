/* The engine on a device that is not the host and runs late, against the engine on the CPU, token
 * by token; tokens drawn by the operation, against the sampler's; a device that is lost in the
 * middle.
 *
 * The device is tests/kernels/fake_device: it runs the reference's operations, so everything that
 * comes out must be what the reference gives, and whoever looks too early, or changes what is still
 * to be read, fails there. */
#include "model/weights/place.h"
#include "tests/kernels/fake_device.h"
#include "tests/spin_test.h"
#include "tests/worker/engine/engine_harness.h"

#include <stdatomic.h>

#define MODEL "random:tiny-qwen3"
#define DEVICE_BYTES (UINT64_C(256) << 20)
#define REQUESTS 8u
#define OUTPUT_TOKENS 16u
#define PROMPT_TOKENS_MAX 400u

/* An engine, and what it runs on. */
struct rig {
    struct harness harness;
    struct spin_stream *stream; /* NULL: the engine's own */
};

static _Atomic uint32_t times_lost;

static void count_lost(void *context)
{
    (void)context;
    atomic_fetch_add(&times_lost, 1);
}

static void rig_open(struct rig *rig, struct spin_engine_config config, struct spin_stream *stream)
{
    struct spin_error err;
    struct spin_model *model = NULL;
    SPIN_EXPECT_OK(spin_model_open(MODEL, &model, &err), &err);
    rig->stream = stream;
    rig->harness.model = model;
    if (stream != NULL) {
        SPIN_EXPECT_OK(spin_model_place(model, stream, &rig->harness.model, &err), &err);
        spin_model_close(model);
    }
    config.stream = stream;
    config.watcher = (struct spin_engine_watcher){.lost = count_lost};
    atomic_store(&times_lost, 0);
    SPIN_EXPECT_OK(spin_metrics_create(spin_engine_metrics, SPIN_ENGINE_METRIC_COUNT,
                                       &rig->harness.metrics, &err),
                   &err);
    SPIN_EXPECT_OK(spin_engine_create(&config, rig->harness.model, spin_clock_real(),
                                      rig->harness.metrics, &rig->harness.engine, &err),
                   &err);
}

static void rig_start(struct rig *rig)
{
    struct spin_error err;
    SPIN_EXPECT_OK(spin_engine_start(rig->harness.engine, &err), &err);
}

static void rig_close(struct rig *rig)
{
    spin_harness_close(&rig->harness);
    spin_stream_destroy(rig->stream);
}

static uint64_t counted(const struct rig *rig, enum spin_engine_metric metric)
{
    return (uint64_t)spin_metrics_read(rig->harness.metrics, metric);
}

/* --- requests: of each way to be drawn one --- */

static const int32_t early_stops[] = {3, 77, 200, 301};
static const struct spin_logit_bias biases[] = {{5, 3.5F}, {6, -100}};

static struct spin_request make_request(uint32_t kind, const int32_t *prompt, struct answer *answer)
{
    struct spin_request request = spin_harness_request(
        prompt, 1 + kind * (PROMPT_TOKENS_MAX - 1) / (REQUESTS - 1), OUTPUT_TOKENS, answer);
    struct spin_sampling *sampling = &request.sampling;
    sampling->temperature = kind % 2 == 0 ? 0 : 0.9F;
    sampling->seed = 40 + kind;
    switch (kind) {
    case 1:
        sampling->top_p = 0.8F;
        request.logprobs = true;
        break;
    case 2:
        request.logprobs = true;
        request.prompt_logprobs = true;
        break;
    case 3:
        sampling->top_k = 20;
        sampling->min_p = 0.02F;
        break;
    case 4:
        request.min_tokens = OUTPUT_TOKENS;
        request.stop_tokens = early_stops;
        request.stop_token_count = SPIN_ARRAY_COUNT(early_stops);
        break;
    case 5:
        sampling->logit_bias = biases;
        sampling->logit_bias_count = SPIN_ARRAY_COUNT(biases);
        break;
    case 6:
        request.top_logprobs = 3;
        break;
    case 7:
        sampling->repetition_penalty = 1.3F;
        request.logprobs = true;
        break;
    default:
        break;
    }
    return request;
}

/* Of the kinds above: drawn by an operation where there is one. */
#define PLAIN_REQUESTS 5u

/* All are there when the engine starts. */
static void answer_all(struct rig *rig, struct answer *answers)
{
    static int32_t prompts[REQUESTS][PROMPT_TOKENS_MAX];
    for (uint32_t i = 0; i < REQUESTS; i++) {
        spin_answer_init(&answers[i]);
        spin_harness_prompt(&rig->harness, 60 + i, prompts[i], PROMPT_TOKENS_MAX);
        const struct spin_request request = make_request(i, prompts[i], &answers[i]);
        spin_harness_submit(&rig->harness, &request, &answers[i]);
    }
    rig_start(rig);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        spin_answer_wait(&answers[i]);
    }
}

static void forget_all(struct answer *answers)
{
    for (uint32_t i = 0; i < REQUESTS; i++) {
        spin_answer_deinit(&answers[i]);
    }
    free(answers);
}

static struct answer *new_answers(void)
{
    struct answer *answers = calloc(REQUESTS, sizeof *answers);
    assert_non_null(answers);
    return answers;
}

/* What the sampler on the CPU says. */
static struct answer *reference(struct spin_engine_config config)
{
    struct rig rig;
    struct answer *answers = new_answers();
    config.ops = &spin_ops_ref;
    rig_open(&rig, config, NULL);
    answer_all(&rig, answers);
    rig_close(&rig);
    return answers;
}

static void expect_logprob(float got, float wanted)
{
    assert_int_equal(isnan(got), isnan(wanted));
    assert_true(isnan(got) || fabsf(got - wanted) < 1e-5F);
}

static void expect_same(const struct answer *got, const struct answer *wanted)
{
    for (uint32_t i = 0; i < REQUESTS; i++) {
        assert_int_equal(got[i].finishes, 1);
        assert_int_equal(got[i].finish.reason, SPIN_FINISH_LENGTH);
        assert_int_equal(wanted[i].count, OUTPUT_TOKENS);
        assert_int_equal(got[i].count, wanted[i].count);
        assert_memory_equal(got[i].tokens, wanted[i].tokens, OUTPUT_TOKENS * sizeof(int32_t));
        assert_int_equal(got[i].prompt_count, wanted[i].prompt_count);
        assert_int_equal(got[i].tops, wanted[i].tops);
        for (uint32_t t = 0; t < OUTPUT_TOKENS; t++) {
            expect_logprob(got[i].logprobs[t], wanted[i].logprobs[t]);
        }
        for (uint32_t t = 0; t < got[i].prompt_count; t++) {
            expect_logprob(got[i].prompt_logprobs[t], wanted[i].prompt_logprobs[t]);
        }
    }
}

/* --- the operation --- */

static _Atomic uint32_t rows_drawn;

static spin_status counting_draw(const struct spin_draw_args *args, struct spin_stream *stream)
{
    atomic_fetch_add(&rows_drawn, args->count);
    return spin_draw_ref(args, stream);
}

static void test_the_operation_draws_what_the_sampler_draws(void **state)
{
    (void)state;
    struct spin_ops ops = spin_ops_ref;
    ops.draw = counting_draw;
    struct spin_engine_config config = spin_harness_config();
    struct answer *wanted = reference(config);
    struct answer *got = new_answers();
    struct rig rig;
    config.ops = &ops;
    atomic_store(&rows_drawn, 0);
    rig_open(&rig, config, NULL);
    answer_all(&rig, got);
    rig_close(&rig);
    expect_same(got, wanted);
    assert_int_equal(atomic_load(&rows_drawn), PLAIN_REQUESTS * OUTPUT_TOKENS);
    forget_all(got);
    forget_all(wanted);
}

/* --- the device --- */

static struct spin_engine_config device_config(void)
{
    struct spin_engine_config config = spin_harness_config();
    config.ops = &spin_ops_fake;
    return config;
}

/* `metrics`: those that must have counted something. */
static void expect_device_equals_reference(const struct spin_engine_config *config,
                                           const enum spin_engine_metric *metrics, uint32_t count)
{
    struct answer *wanted = reference(*config);
    struct answer *got = new_answers();
    struct rig rig;
    rig_open(&rig, *config, spin_fake_stream_create(DEVICE_BYTES));
    answer_all(&rig, got);
    expect_same(got, wanted);
    assert_int_equal(atomic_load(&times_lost), 0);
    for (uint32_t i = 0; i < count; i++) {
        if (counted(&rig, metrics[i]) == 0) {
            fail_msg("%s is 0", spin_engine_metrics[metrics[i]].name);
        }
    }
    rig_close(&rig);
    forget_all(got);
    forget_all(wanted);
}

static void test_a_late_device_gives_the_same_tokens(void **state)
{
    (void)state;
    const struct spin_engine_config config = device_config();
    expect_device_equals_reference(&config, NULL, 0);
}

/* Slots for some two of eight sequences: they give up what they have, and pages come and go. */
static void test_a_late_device_under_pressure(void **state)
{
    (void)state;
    struct spin_engine_config config = device_config();
    config.sparse = (struct spin_sparse_options){
        .algorithm = &spin_sparse_shadowkv, .budget_tokens = 32, .min_context = 64};
    config.kv_hbm_bytes = UINT64_C(208) << 10;
    static const enum spin_engine_metric wanted[] = {
        SPIN_ENGINE_METRIC_SPARSE_STEPS, SPIN_ENGINE_METRIC_KV_MISSES,
        SPIN_ENGINE_METRIC_KV_EVICTIONS, SPIN_ENGINE_METRIC_KV_PAGES_OFFLOADED,
        SPIN_ENGINE_METRIC_KV_DEMOTIONS};
    expect_device_equals_reference(&config, wanted, SPIN_ARRAY_COUNT(wanted));
}

/* --- a lost device --- */

static uint64_t submissions_of_all(void)
{
    struct answer *answers = new_answers();
    struct rig rig;
    rig_open(&rig, device_config(), spin_fake_stream_create(DEVICE_BYTES));
    const uint64_t before = spin_fake_submissions(rig.stream);
    answer_all(&rig, answers);
    const uint64_t submissions = spin_fake_submissions(rig.stream) - before;
    rig_close(&rig);
    forget_all(answers);
    return submissions;
}

static void lose_after(uint64_t submissions)
{
    struct answer *answers = new_answers();
    struct rig rig;
    uint32_t failed = 0;
    rig_open(&rig, device_config(), spin_fake_stream_create(DEVICE_BYTES));
    spin_fake_fail_after(rig.stream, submissions);
    answer_all(&rig, answers);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        assert_int_equal(answers[i].finishes, 1);
        const bool ended_before = answers[i].finish.reason == SPIN_FINISH_LENGTH;
        failed += ended_before ? 0 : 1;
        assert_int_equal(answers[i].finish.reason,
                         ended_before ? SPIN_FINISH_LENGTH : SPIN_FINISH_ERROR);
        assert_int_equal(answers[i].finish.status, ended_before ? SPIN_OK : SPIN_ERR_DEVICE_LOST);
    }
    assert_true(failed > 0);
    spin_harness_wait_idle(&rig.harness);
    SPIN_EXPECT_STATUS(spin_engine_get_status(rig.harness.engine), SPIN_ERR_DEVICE_LOST);
    struct spin_error err = {0};
    static const int32_t prompt[] = {1};
    const struct spin_request late = spin_harness_request(prompt, 1, 1, &answers[0]);
    SPIN_EXPECT_STATUS(spin_engine_submit(rig.harness.engine, &late, &answers[0].ticket, &err),
                       SPIN_ERR_DEVICE_LOST);
    rig_close(&rig);
    assert_int_equal(atomic_load(&times_lost), 1);
    forget_all(answers);
}

static void test_a_lost_device_fails_everybody_once(void **state)
{
    (void)state;
    const uint64_t all = submissions_of_all();
    assert_true(all > 500);
    for (uint64_t tenth = 0; tenth < 10; tenth += 4) {
        lose_after(all * tenth / 10);
    }
}

/* --- memory --- */

/* The device rounds each of some forty pieces up to a page. */
#define ROUNDED_BYTES (UINT64_C(50) * 4096)

/* What was taken is what was planned: no more than the share of the device. */
static void expect_within_share(struct spin_stream *stream, const struct spin_engine_config *config)
{
    uint64_t total = 0;
    const uint64_t available = spin_device_memory(stream, &total);
    const double share = config->gpu_memory_utilization * (double)total;
    assert_true((double)(total - available) <= share + (double)ROUNDED_BYTES);
}

/* What an engine on a device of `device_bytes` resolves, or why it cannot. */
static spin_status resolve(const struct spin_engine_config *config, uint64_t device_bytes,
                           struct spin_engine_config *out, struct spin_error *err)
{
    struct spin_stream *stream = spin_fake_stream_create(device_bytes);
    struct spin_model *source = NULL;
    struct spin_model *model = NULL;
    struct spin_engine *engine = NULL;
    struct spin_engine_config given = *config;
    SPIN_EXPECT_OK(spin_model_open(MODEL, &source, err), err);
    SPIN_EXPECT_OK(spin_model_place(source, stream, &model, err), err);
    given.stream = stream;
    const spin_status status =
        spin_engine_create(&given, model, spin_clock_real(), NULL, &engine, err);
    if (status == SPIN_OK) {
        *out = *spin_engine_get_config(engine);
        assert_string_equal(spin_engine_get_device(engine), "fake device");
        expect_within_share(stream, out);
    }
    spin_engine_destroy(engine);
    spin_model_close(model);
    spin_model_close(source);
    spin_stream_destroy(stream);
    return status;
}

/* A token of the model takes 384 bytes: 3 layers of one head, K and V of 32 values of 2 bytes. */
static void test_slots_get_what_is_left(void **state)
{
    (void)state;
    const uint64_t sequence = UINT64_C(1024) * 384;
    struct spin_error err = {0};
    struct spin_engine_config got = {0};
    struct spin_engine_config config = device_config();
    SPIN_EXPECT_OK(resolve(&config, DEVICE_BYTES, &got, &err), &err);
    assert_int_equal(got.kv_hbm_bytes, 8 * sequence); /* room for all */
    assert_int_equal(got.kv_host_bytes, 8 * sequence);
    /* Weights and activations take 1.2 MB of 4: what is left is less than that. */
    SPIN_EXPECT_OK(resolve(&config, 4 << 20, &got, &err), &err);
    assert_in_range(got.kv_hbm_bytes, 5 * sequence, 8 * sequence - 1);
    const uint64_t at_90 = got.kv_hbm_bytes;
    config.gpu_memory_utilization = 0.8;
    SPIN_EXPECT_OK(resolve(&config, 4 << 20, &got, &err), &err);
    assert_in_range(at_90 - got.kv_hbm_bytes, (4 << 20) / 10 * 95 / 100, (4 << 20) / 10);
    /* Half of the process's memory is pinned at most. */
    config = device_config();
    config.memory_bytes = 6 * sequence;
    SPIN_EXPECT_OK(resolve(&config, DEVICE_BYTES, &got, &err), &err);
    assert_int_equal(got.kv_host_bytes, 3 * sequence);
    assert_int_equal(got.kv_hbm_bytes, 8 * sequence);
}

static void test_too_little_room_is_refused_with_numbers(void **state)
{
    (void)state;
    struct spin_error err = {0};
    struct spin_engine_config got = {0};
    struct spin_engine_config config = device_config();
    config.gpu_memory_utilization = 0.01;
    SPIN_EXPECT_STATUS(resolve(&config, DEVICE_BYTES, &got, &err), SPIN_OK);
    SPIN_EXPECT_STATUS(resolve(&config, 2 << 20, &got, &err), SPIN_ERR_NO_MEMORY);
    assert_non_null(strstr(err.text, "fake device: 0.00 GB of slots are wanted, and 0.00 GB are "
                                     "left: 0.01 of 0.00 GB (--gpu-memory-utilization) less"));
    config = device_config();
    config.kv_hbm_bytes = DEVICE_BYTES;
    SPIN_EXPECT_STATUS(resolve(&config, DEVICE_BYTES, &got, &err), SPIN_ERR_NO_MEMORY);
    assert_non_null(strstr(err.text, "0.27 GB of slots are wanted, and 0.24 GB are left"));
    config = device_config();
    config.memory_bytes = 1 << 20;
    config.kv_host_bytes = (1 << 20) + 1;
    SPIN_EXPECT_STATUS(resolve(&config, DEVICE_BYTES, &got, &err), SPIN_ERR_NO_MEMORY);
    assert_non_null(strstr(err.text, "--kv-host-bytes 1048577: blocks of a GPU are pinned memory"));
}

/* Tables grow with sequences and their length; here they are half of what is taken. */
static void test_tables_count(void **state)
{
    (void)state;
    struct spin_error err = {0};
    struct spin_engine_config got = {0};
    struct spin_engine_config config = spin_engine_config_default();
    config.ops = &spin_ops_fake;
    config.max_num_seqs = 1024;
    config.max_model_len = 32768;
    config.memory_bytes = 64 << 20;
    config.gpu_memory_utilization = 0.6;
    SPIN_EXPECT_OK(resolve(&config, DEVICE_BYTES, &got, &err), &err);
    assert_in_range(got.kv_hbm_bytes, 1, DEVICE_BYTES * 6 / 10); /* all that was left */
}

/* Where it is the host's memory that is short, nothing is said about the GPU's. */
static void test_the_tier_that_is_too_small_is_named(void **state)
{
    (void)state;
    struct spin_error err = {0};
    struct spin_engine_config got = {0};
    struct spin_engine_config config = device_config();
    config.max_model_len = 0;
    config.kv_host_bytes = 1;
    SPIN_EXPECT_STATUS(resolve(&config, DEVICE_BYTES, &got, &err), SPIN_ERR_INVALID);
    assert_non_null(strstr(err.text, "--kv-host-bytes 1: too small for a sequence of any length"));
}

static void test_defaults_of_a_device(void **state)
{
    (void)state;
    struct spin_error err = {0};
    struct spin_engine_config got = {0};
    struct spin_engine_config config = spin_engine_config_default();
    config.ops = &spin_ops_fake;
    SPIN_EXPECT_OK(resolve(&config, DEVICE_BYTES, &got, &err), &err);
    assert_int_equal(got.max_num_batched_tokens, 2048);
    assert_int_equal(got.super_chunk_tokens, 8192);
    assert_int_equal(got.chunk_tokens, 2048);
    assert_int_equal(got.max_model_len, 32768);
}

/* --- known tokens --- */

/* Where prefill is not decode, tokens that came along go through decode steps. */
static void test_known_tokens_are_replayed(void **state)
{
    (void)state;
    static int32_t prompt[100];
    uint64_t steps[2];
    struct answer *answers = new_answers();
    for (uint32_t replayed = 0; replayed < 2; replayed++) {
        struct spin_ops ops = spin_ops_ref;
        ops.prefill_is_decode = replayed == 0;
        struct spin_engine_config config = spin_harness_config();
        config.ops = &ops;
        struct rig rig;
        rig_open(&rig, config, NULL);
        rig_start(&rig);
        struct answer *whole = &answers[2 * (size_t)replayed];
        struct answer *rest = whole + 1;
        spin_answer_init(whole);
        spin_answer_init(rest);
        spin_harness_prompt(&rig.harness, 9, prompt, 100);
        struct spin_request request = spin_harness_request(prompt, 100, 20, whole);
        spin_harness_submit(&rig.harness, &request, whole);
        spin_answer_wait(whole);
        const uint64_t before = counted(&rig, SPIN_ENGINE_METRIC_DECODE_STEPS);
        request = spin_harness_request(prompt, 100, 20, rest);
        request.resumed = whole->tokens;
        request.resumed_count = 12;
        spin_harness_submit(&rig.harness, &request, rest);
        spin_answer_wait(rest);
        steps[replayed] = counted(&rig, SPIN_ENGINE_METRIC_DECODE_STEPS) - before;
        assert_int_equal(rest->count, 8);
        assert_memory_equal(rest->tokens, whole->tokens + 12, 8 * sizeof(int32_t));
        rig_close(&rig);
        spin_answer_deinit(whole);
        spin_answer_deinit(rest);
    }
    assert_int_equal(steps[0], 7);      /* the first of eight comes from the prefill */
    assert_int_equal(steps[1], 12 + 7); /* and here from the last of twelve replayed ones */
    free(answers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_operation_draws_what_the_sampler_draws),
        cmocka_unit_test(test_a_late_device_gives_the_same_tokens),
        cmocka_unit_test(test_a_late_device_under_pressure),
        cmocka_unit_test(test_a_lost_device_fails_everybody_once),
        cmocka_unit_test(test_slots_get_what_is_left),
        cmocka_unit_test(test_too_little_room_is_refused_with_numbers),
        cmocka_unit_test(test_tables_count),
        cmocka_unit_test(test_the_tier_that_is_too_small_is_named),
        cmocka_unit_test(test_defaults_of_a_device),
        cmocka_unit_test(test_known_tokens_are_replayed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
