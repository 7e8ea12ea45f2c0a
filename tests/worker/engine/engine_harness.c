#include "tests/worker/engine/engine_harness.h"

#include "base/rng.h"
#include "tests/spin_test.h"
#include "worker/engine/engine_internal.h"

/* Far more than any request here takes, even under ThreadSanitizer on a busy machine. */
#define PATIENCE_NS (240 * SPIN_NS_PER_S)

struct spin_engine_config spin_harness_config(void)
{
    struct spin_engine_config config = spin_engine_config_default();
    config.max_model_len = 1024;
    config.max_num_seqs = 8;
    config.max_waiting = 64;
    config.super_chunk_tokens = 256;
    config.chunk_tokens = 64;
    config.max_num_batched_tokens = 64;
    config.threads = 1;
    return config;
}

void spin_harness_open(struct harness *harness, const char *model,
                       const struct spin_engine_config *config)
{
    struct spin_error err;
    SPIN_EXPECT_OK(spin_model_open(model, &harness->model, &err), &err);
    SPIN_EXPECT_OK(
        spin_metrics_create(spin_engine_metrics, SPIN_ENGINE_METRIC_COUNT, &harness->metrics, &err),
        &err);
    SPIN_EXPECT_OK(spin_engine_create(config, harness->model, spin_clock_real(), harness->metrics,
                                      &harness->engine, &err),
                   &err);
    /* A stale read gives NaN logits, and those end a request with ERROR. */
    spin_kv_set_poison(harness->engine->kv, true);
    SPIN_EXPECT_OK(spin_engine_start(harness->engine, &err), &err);
}

void spin_harness_close(struct harness *harness)
{
    spin_engine_stop(harness->engine, 0);
    /* destroy asserts that no sequence is open and no request waits. */
    spin_engine_destroy(harness->engine);
    assert_true(spin_metrics_read(harness->metrics, SPIN_ENGINE_METRIC_RUNNING) == 0);
    assert_true(spin_metrics_read(harness->metrics, SPIN_ENGINE_METRIC_WAITING) == 0);
    assert_true(spin_metrics_read(harness->metrics, SPIN_ENGINE_METRIC_KV_USED_BYTES) == 0);
    assert_true(spin_metrics_read(harness->metrics, SPIN_ENGINE_METRIC_KV_HOST_USED_BYTES) == 0);
    spin_metrics_destroy(harness->metrics);
    spin_model_close(harness->model);
}

void spin_answer_init(struct answer *answer)
{
    memset(answer, 0, sizeof *answer);
    spin_mutex_init(&answer->mutex);
    spin_cond_init(&answer->changed);
}

void spin_answer_deinit(struct answer *answer)
{
    spin_cond_deinit(&answer->changed);
    spin_mutex_deinit(&answer->mutex);
}

static void on_prompt_token(void *context, const struct spin_sampled *token)
{
    struct answer *answer = context;
    spin_mutex_lock(&answer->mutex);
    assert_in_range(answer->prompt_count, 0, HARNESS_TOKENS_MAX - 1);
    assert_int_equal(answer->count, 0); /* before the first token */
    answer->prompt_tokens[answer->prompt_count] = token->token;
    answer->prompt_logprobs[answer->prompt_count++] = token->logprob;
    answer->tops += token->top_count;
    spin_mutex_unlock(&answer->mutex);
}

static void on_token(void *context, const struct spin_sampled *token)
{
    struct answer *answer = context;
    spin_mutex_lock(&answer->mutex);
    assert_in_range(answer->count, 0, HARNESS_TOKENS_MAX - 1);
    assert_int_equal(answer->finishes, 0);
    answer->tokens[answer->count] = token->token;
    answer->logprobs[answer->count++] = token->logprob;
    answer->tops += token->top_count;
    spin_cond_broadcast(&answer->changed);
    spin_mutex_unlock(&answer->mutex);
}

static void on_finished(void *context, const struct spin_finish *finish)
{
    struct answer *answer = context;
    spin_mutex_lock(&answer->mutex);
    answer->finishes++;
    assert_int_equal(answer->finishes, 1);
    answer->finish = *finish;
    (void)snprintf(answer->text, sizeof answer->text, "%s",
                   finish->text == NULL ? "" : finish->text);
    answer->finish.text = answer->text;
    spin_cond_broadcast(&answer->changed);
    spin_mutex_unlock(&answer->mutex);
}

struct spin_request spin_harness_request(const int32_t *prompt, uint32_t prompt_count,
                                         uint32_t max_tokens, struct answer *answer)
{
    return (struct spin_request){
        .id = "test",
        .prompt = prompt,
        .prompt_count = prompt_count,
        .sampling = spin_sampling_default(),
        .max_tokens = max_tokens,
        .deadline_ns = SPIN_NO_DEADLINE,
        .sink = {answer, on_prompt_token, on_token, on_finished},
    };
}

void spin_harness_submit(struct harness *harness, const struct spin_request *request,
                         struct answer *answer)
{
    struct spin_error err;
    SPIN_EXPECT_OK(spin_engine_submit(harness->engine, request, &answer->ticket, &err), &err);
}

void spin_answer_wait_tokens(struct answer *answer, uint32_t count)
{
    const uint64_t deadline_ns = spin_now_ns(spin_clock_real()) + PATIENCE_NS;
    spin_mutex_lock(&answer->mutex);
    while (answer->finishes == 0 && answer->count < count) {
        assert_true(spin_cond_wait(&answer->changed, &answer->mutex, deadline_ns));
    }
    spin_mutex_unlock(&answer->mutex);
}

void spin_answer_wait(struct answer *answer)
{
    spin_answer_wait_tokens(answer, UINT32_MAX);
}

void spin_harness_prompt(const struct harness *harness, uint32_t seed, int32_t *out, uint32_t count)
{
    struct spin_rng rng = {.seed = seed, .stream = 9, .counter = 0};
    for (uint32_t i = 0; i < count; i++) {
        out[i] = (int32_t)spin_rng_below(&rng, harness->model->config.vocab);
    }
}

void spin_harness_wait_idle(const struct harness *harness)
{
    const uint64_t deadline_ns = spin_now_ns(spin_clock_real()) + PATIENCE_NS;
    struct spin_engine_load load;
    do {
        assert_true(spin_now_ns(spin_clock_real()) < deadline_ns);
        const struct timespec pause = {0, 1000000};
        (void)nanosleep(&pause, NULL);
        spin_engine_get_load(harness->engine, &load);
    } while (load.running != 0 || load.waiting != 0 || load.kv_tokens_used != 0);
}
