/* Method: an op table that calls the reference and can hold an operation still or fail it, and a
 * clock that the test moves: so "within one unit" and "in the middle of a step" are exact, not a
 * race. */
#include "tests/spin_test.h"
#include "tests/worker/engine/engine_harness.h"

#include <pthread.h>
#include <stdatomic.h>

#define OPEN UINT32_MAX

/* Attention runs once per unit and once per layer of a decode step. The engine's thread waits
 * inside its call number `hold_at` until the test opens. */
static _Atomic uint32_t attention_calls;
static _Atomic uint32_t hold_at;
static _Atomic uint32_t held;
static _Atomic uint32_t fail_at;

static void pause_a_moment(void)
{
    const struct timespec pause = {0, 200000};
    (void)nanosleep(&pause, NULL);
}

static spin_status gated_attention(const struct spin_attention_args *args,
                                   struct spin_stream *stream)
{
    const uint32_t call = atomic_fetch_add(&attention_calls, 1);
    while (atomic_load(&hold_at) == call) {
        atomic_store(&held, 1);
        pause_a_moment();
    }
    if (call >= atomic_load(&fail_at)) {
        return SPIN_ERR_DEVICE_LOST;
    }
    return spin_ops_ref.attention(args, stream);
}

static struct spin_ops gated_ops(void)
{
    struct spin_ops ops = spin_ops_ref;
    ops.name = "gated";
    ops.attention = gated_attention;
    atomic_store(&attention_calls, 0);
    atomic_store(&hold_at, OPEN);
    atomic_store(&held, 0);
    atomic_store(&fail_at, OPEN);
    return ops;
}

static void wait_until_held(void)
{
    while (atomic_load(&held) == 0) {
        pause_a_moment();
    }
}

/* Lets the held call go, and waits until call `next` is held. */
static void hold_again(uint32_t next)
{
    atomic_store(&held, 0);
    atomic_store(&hold_at, next);
    wait_until_held();
}

static void open_gate(void)
{
    atomic_store(&hold_at, OPEN);
}

struct test_clock {
    struct spin_clock base;
    _Atomic uint64_t now_ns;
};

static uint64_t test_now_ns(const struct spin_clock *clock)
{
    return atomic_load(&((const struct test_clock *)(const void *)clock)->now_ns);
}

struct stage {
    struct spin_ops ops;
    struct test_clock clock;
    struct spin_model *model;
    struct spin_engine *engine;
};

static void open_stage(struct stage *stage)
{
    struct spin_error err;
    stage->ops = gated_ops();
    stage->clock.base = (struct spin_clock){.now_ns = test_now_ns};
    atomic_store(&stage->clock.now_ns, 1000);
    struct spin_engine_config config = spin_harness_config();
    config.ops = &stage->ops;
    SPIN_EXPECT_OK(spin_model_open("random:tiny", &stage->model, &err), &err);
    SPIN_EXPECT_OK(
        spin_engine_create(&config, stage->model, &stage->clock.base, NULL, &stage->engine, &err),
        &err);
    SPIN_EXPECT_OK(spin_engine_start(stage->engine, &err), &err);
}

static void close_stage(struct stage *stage)
{
    spin_engine_stop(stage->engine, 0);
    spin_engine_destroy(stage->engine);
    spin_model_close(stage->model);
}

static void submit(struct stage *stage, const struct spin_request *request, struct answer *answer)
{
    struct spin_error err;
    SPIN_EXPECT_OK(spin_engine_submit(stage->engine, request, &answer->ticket, &err), &err);
}

/* 700 tokens in chunks of 64 through 2 layers: 22 units; call 5 is in the middle of them. Call 30
 * is in a decode step. */
static void expect_ends_within_call(uint32_t call, bool by_deadline)
{
    struct stage stage;
    open_stage(&stage);
    int32_t prompt[700] = {0};
    struct answer answer;
    spin_answer_init(&answer);
    struct spin_request request = spin_harness_request(prompt, 700, 300, &answer);
    request.deadline_ns = 5000;
    atomic_store(&hold_at, call);
    submit(&stage, &request, &answer);
    wait_until_held();
    if (by_deadline) {
        atomic_store(&stage.clock.now_ns, 5000);
    } else {
        spin_engine_cancel(stage.engine, answer.ticket);
    }
    open_gate();
    spin_answer_wait(&answer);
    assert_int_equal(answer.finish.reason,
                     by_deadline ? SPIN_FINISH_DEADLINE : SPIN_FINISH_CANCELLED);
    /* The unit ended, or the step did: at most its other layer ran. */
    assert_in_range(atomic_load(&attention_calls), call + 1, call + 2);
    assert_int_equal(answer.finish.usage.completion_tokens, answer.count);
    spin_answer_deinit(&answer);
    close_stage(&stage);
}

static void test_cancel_within_a_unit(void **state)
{
    (void)state;
    expect_ends_within_call(5, false);
}

static void test_cancel_within_a_step(void **state)
{
    (void)state;
    expect_ends_within_call(30, false);
}

static void test_deadline_within_a_unit(void **state)
{
    (void)state;
    expect_ends_within_call(5, true);
}

static void test_deadline_within_a_step(void **state)
{
    (void)state;
    expect_ends_within_call(30, true);
}

static void test_cancel_of_strangers(void **state)
{
    (void)state;
    struct stage stage;
    open_stage(&stage);
    int32_t prompt[10] = {0};
    struct answer first;
    struct answer second;
    spin_answer_init(&first);
    spin_answer_init(&second);
    const struct spin_request a = spin_harness_request(prompt, 10, 5, &first);
    submit(&stage, &a, &first);
    spin_answer_wait(&first);
    /* The second gets the place of the first; the first's ticket must not reach it. */
    const struct spin_request b = spin_harness_request(prompt, 10, 50, &second);
    atomic_store(&hold_at, atomic_load(&attention_calls) + 3);
    submit(&stage, &b, &second);
    wait_until_held();
    spin_engine_cancel(stage.engine, first.ticket);
    spin_engine_cancel(stage.engine, UINT64_MAX);
    spin_engine_cancel(stage.engine, 0);
    open_gate();
    spin_answer_wait(&second);
    assert_int_equal(second.finish.reason, SPIN_FINISH_LENGTH);
    assert_int_equal(second.count, 50);
    spin_answer_deinit(&first);
    spin_answer_deinit(&second);
    close_stage(&stage);
}

/* Who holds KV, for people: oldest first; renewed when 100 ms have passed, or nobody runs. */
static void test_requests_hold_kv(void **state)
{
    (void)state;
    struct stage stage;
    open_stage(&stage);
    static const uint32_t lengths[2] = {100, 30};
    int32_t prompt[100] = {0};
    struct answer answers[2];
    struct spin_engine_request_kv rows[3];
    atomic_store(&hold_at, 0);
    for (uint32_t i = 0; i < 2; i++) {
        spin_answer_init(&answers[i]);
        struct spin_request request = spin_harness_request(prompt, lengths[i], 50, &answers[i]);
        (void)snprintf(request.id, sizeof request.id, "request-%u", i);
        submit(&stage, &request, &answers[i]);
    }
    wait_until_held(); /* in the very first unit */
    hold_again(40);    /* both decode by now; no time has passed */
    assert_int_equal(spin_engine_get_requests(stage.engine, rows, 3), 0);
    atomic_store(&stage.clock.now_ns, 1000 + 100 * SPIN_NS_PER_MS);
    hold_again(44);
    assert_int_equal(spin_engine_get_requests(stage.engine, rows, 3), 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_string_equal(rows[i].id, i == 0 ? "request-0" : "request-1");
        assert_true(rows[i].resident);
        assert_true(rows[i].active);
        assert_in_range(rows[i].tokens, lengths[i] + 1, lengths[i] + 50);
        /* Dense: every page of a row, and whole slabs for them. */
        assert_int_equal(rows[i].mandatory_pages, (rows[i].tokens + 31) / 32);
        assert_int_equal(rows[i].slots, SPIN_SLAB_SLOTS * 4);
        assert_int_equal(rows[i].budget_pages, SPIN_SLAB_SLOTS);
        assert_true(rows[i].hits > 0);
        assert_int_equal(rows[i].misses, 0);
    }
    assert_int_equal(spin_engine_get_requests(stage.engine, rows, 1), 1);
    assert_string_equal(rows[0].id, "request-0");
    open_gate();
    for (uint32_t i = 0; i < 2; i++) {
        spin_answer_wait(&answers[i]);
        spin_answer_deinit(&answers[i]);
    }
    while (spin_engine_get_requests(stage.engine, rows, 3) > 0) {
        pause_a_moment();
    }
    close_stage(&stage);
}

static void expect_device_lost(uint32_t call)
{
    struct stage stage;
    open_stage(&stage);
    enum { COUNT = 20 }; /* more than run at once: some wait */
    int32_t prompt[100] = {0};
    static struct answer answers[COUNT];
    atomic_store(&hold_at, 2);
    atomic_store(&fail_at, call);
    for (uint32_t i = 0; i < COUNT; i++) {
        spin_answer_init(&answers[i]);
        const struct spin_request request = spin_harness_request(prompt, 100, 200, &answers[i]);
        submit(&stage, &request, &answers[i]);
    }
    wait_until_held();
    open_gate();
    for (uint32_t i = 0; i < COUNT; i++) {
        spin_answer_wait(&answers[i]);
        assert_int_equal(answers[i].finish.reason, SPIN_FINISH_ERROR);
        assert_int_equal(answers[i].finish.status, SPIN_ERR_DEVICE_LOST);
        assert_string_equal(answers[i].finish.text, spin_status_text(SPIN_ERR_DEVICE_LOST));
    }
    struct spin_error err = {0};
    const struct spin_request late = spin_harness_request(prompt, 100, 200, &answers[0]);
    SPIN_EXPECT_STATUS(spin_engine_submit(stage.engine, &late, &answers[0].ticket, &err),
                       SPIN_ERR_DEVICE_LOST);
    SPIN_EXPECT_STATUS(spin_engine_get_status(stage.engine), SPIN_ERR_DEVICE_LOST);
    const uint32_t calls = atomic_load(&attention_calls);
    close_stage(&stage);
    assert_int_equal(atomic_load(&attention_calls), calls); /* the device was left alone */
    for (uint32_t i = 0; i < COUNT; i++) {
        spin_answer_deinit(&answers[i]);
    }
}

static void test_device_lost_in_prefill(void **state)
{
    (void)state;
    expect_device_lost(4);
}

static void test_device_lost_in_decode(void **state)
{
    (void)state;
    expect_device_lost(150);
}

/* A model whose weights give no finite logit ends its own request and nobody else's engine. */
static spin_status nan_norm(const struct spin_rms_norm_args *args, struct spin_stream *stream)
{
    const spin_status status = spin_ops_ref.rms_norm(args, stream);
    float *row = args->y.data;
    for (uint32_t i = 0; i < args->y.cols; i++) {
        row[i] = NAN;
    }
    return status;
}

static void test_no_finite_logit(void **state)
{
    (void)state;
    struct spin_ops ops = spin_ops_ref;
    ops.rms_norm = nan_norm;
    struct spin_engine_config config = spin_harness_config();
    config.ops = &ops;
    struct harness harness;
    spin_harness_open(&harness, "random:tiny", &config);
    int32_t prompt[1] = {0};
    struct answer answer;
    spin_answer_init(&answer);
    const struct spin_request request = spin_harness_request(prompt, 1, 5, &answer);
    spin_harness_submit(&harness, &request, &answer);
    spin_answer_wait(&answer);
    assert_int_equal(answer.finish.reason, SPIN_FINISH_ERROR);
    assert_int_equal(answer.finish.status, SPIN_ERR_CORRUPT);
    assert_string_equal(answer.finish.text, "the model gave no finite logit");
    SPIN_EXPECT_STATUS(spin_engine_get_status(harness.engine), SPIN_OK);
    spin_answer_deinit(&answer);
    spin_harness_close(&harness);
}

struct submitter {
    struct harness *harness;
    uint32_t seed;
    uint32_t accepted;
    struct answer answers[40];
};

/* Submits until it is refused for good. */
static void *submitter_main(void *argument)
{
    struct submitter *submitter = argument;
    int32_t prompt[60];
    spin_harness_prompt(submitter->harness, submitter->seed, prompt, 60);
    while (submitter->accepted < SPIN_ARRAY_COUNT(submitter->answers)) {
        struct answer *answer = &submitter->answers[submitter->accepted];
        const struct spin_request request = spin_harness_request(prompt, 60, 400, answer);
        const spin_status status =
            spin_engine_submit(submitter->harness->engine, &request, &answer->ticket, NULL);
        if (status == SPIN_ERR_SHUTDOWN) {
            break;
        }
        if (status == SPIN_OK) {
            submitter->accepted++;
        } else {
            assert_int_equal(status, SPIN_ERR_EXHAUSTED);
        }
        pause_a_moment();
    }
    return NULL;
}

static void test_stop_under_load(void **state)
{
    (void)state;
    enum { SUBMITTERS = 3 };
    struct spin_engine_config config = spin_harness_config();
    config.max_waiting = 16;
    struct harness harness;
    spin_harness_open(&harness, "random:tiny", &config);
    struct submitter *submitters = calloc(SUBMITTERS, sizeof *submitters);
    pthread_t threads[SUBMITTERS];
    for (uint32_t i = 0; i < SUBMITTERS; i++) {
        submitters[i].harness = &harness;
        submitters[i].seed = i;
        for (uint32_t k = 0; k < SPIN_ARRAY_COUNT(submitters[i].answers); k++) {
            spin_answer_init(&submitters[i].answers[k]);
        }
        assert_int_equal(pthread_create(&threads[i], NULL, submitter_main, &submitters[i]), 0);
    }
    for (uint32_t i = 0; i < 20; i++) {
        pause_a_moment();
    }
    spin_engine_stop(harness.engine, 2 * SPIN_NS_PER_MS);
    for (uint32_t i = 0; i < SUBMITTERS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        for (uint32_t k = 0; k < SPIN_ARRAY_COUNT(submitters[i].answers); k++) {
            struct answer *answer = &submitters[i].answers[k];
            /* stop has returned: everybody has been told already. */
            assert_int_equal(answer->finishes, k < submitters[i].accepted);
            spin_answer_deinit(answer);
        }
    }
    free(submitters);
    spin_harness_close(&harness);
}

/* With grace enough, what runs is finished. */
static void test_stop_with_grace(void **state)
{
    (void)state;
    const struct spin_engine_config config = spin_harness_config();
    struct harness harness;
    spin_harness_open(&harness, "random:tiny", &config);
    int32_t prompt[10] = {0};
    struct answer answers[12];
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(answers); i++) {
        spin_answer_init(&answers[i]);
        const struct spin_request request = spin_harness_request(prompt, 10, 20, &answers[i]);
        spin_harness_submit(&harness, &request, &answers[i]);
    }
    spin_engine_stop(harness.engine, 60 * SPIN_NS_PER_S);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(answers); i++) {
        assert_int_equal(answers[i].finishes, 1);
        assert_int_equal(answers[i].finish.reason, SPIN_FINISH_LENGTH);
        spin_answer_deinit(&answers[i]);
    }
    spin_harness_close(&harness);
}

static void test_stop_without_start(void **state)
{
    (void)state;
    struct spin_error err;
    struct spin_model *model = NULL;
    struct spin_engine *engine = NULL;
    const struct spin_engine_config config = spin_harness_config();
    SPIN_EXPECT_OK(spin_model_open("random:tiny", &model, &err), &err);
    SPIN_EXPECT_OK(spin_engine_create(&config, model, spin_clock_real(), NULL, &engine, &err),
                   &err);
    int32_t prompt[10] = {0};
    struct answer answer;
    spin_answer_init(&answer);
    const struct spin_request request = spin_harness_request(prompt, 10, 20, &answer);
    SPIN_EXPECT_OK(spin_engine_submit(engine, &request, &answer.ticket, &err), &err);
    spin_engine_stop(engine, 60 * SPIN_NS_PER_S);
    assert_int_equal(answer.finishes, 1);
    assert_int_equal(answer.finish.reason, SPIN_FINISH_CANCELLED);
    spin_engine_destroy(engine);
    spin_model_close(model);
    spin_answer_deinit(&answer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cancel_within_a_unit),
        cmocka_unit_test(test_cancel_within_a_step),
        cmocka_unit_test(test_deadline_within_a_unit),
        cmocka_unit_test(test_deadline_within_a_step),
        cmocka_unit_test(test_cancel_of_strangers),
        cmocka_unit_test(test_requests_hold_kv),
        cmocka_unit_test(test_device_lost_in_prefill),
        cmocka_unit_test(test_device_lost_in_decode),
        cmocka_unit_test(test_no_finite_logit),
        cmocka_unit_test(test_stop_under_load),
        cmocka_unit_test(test_stop_with_grace),
        cmocka_unit_test(test_stop_without_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
