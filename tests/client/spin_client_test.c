/* The SDK against a router that does what the test says: what a request becomes on the wire, what
 * answers become in callbacks, and every way in which a call can end or be tried again. */
#include "client/spin_client.h"

#include "base/clock.h"
#include "base/mutex.h"
#include "tests/client/fake_router.h"
#include "tests/spin_test.h"

#include <stdatomic.h>
#include <time.h>

#define CALLS 40u

struct heard {
    char text[64];
    uint32_t deltas;
    uint32_t endings;
    uint32_t wanted; /* deltas; then false is returned. 0: all */
    struct spin_client_ending ending;
    struct spin_mutex mutex; /* submit only; guards the rest */
    struct spin_cond changed;
    uint32_t finished;
    spin_status status;
};

static struct spin_client *connect_to(const struct fake_router *fake, uint32_t retries_max)
{
    struct spin_client_config config = spin_client_config_default();
    config.target = fake->address;
    config.retries_max = retries_max;
    struct spin_client *client = NULL;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_client_connect(&config, &client, &err), &err);
    return client;
}

static bool on_delta(void *context, const struct spin_client_delta *delta)
{
    struct heard *heard = context;
    const size_t used = strlen(heard->text);
    (void)snprintf(heard->text + used, sizeof heard->text - used, "%s", delta->text);
    assert_int_equal(delta->text_bytes, strlen(delta->text));
    heard->deltas++;
    if (delta->ending != NULL) {
        heard->endings++;
        heard->ending = *delta->ending;
    }
    return heard->wanted == 0 || heard->deltas < heard->wanted;
}

static const struct spin_client_request hello = {.text = "Hello?"};

static spin_status generate(struct spin_client *client, struct heard *heard, struct spin_error *err)
{
    *err = (struct spin_error){0};
    return spin_client_generate(client, &hello, on_delta, heard, err);
}

/* --- requests and answers --- */

static const struct spin_client_message messages[] = {{"system", "Be brief."}, {"user", "Hi"}};
static const char *const stops[] = {"###", "\n"};
static const int32_t stop_ids[] = {7, 8};
static const struct spin_client_bias biases[] = {{3, -1.5F}, {4, 100}};
static const struct spin_client_request full = {.model = "m",
                                                .messages = messages,
                                                .message_count = 2,
                                                .max_tokens = 9,
                                                .min_tokens = 2,
                                                .temperature = 0.5F,
                                                .top_p = 0.9F,
                                                .top_k = 40,
                                                .min_p = 0.05F,
                                                .presence_penalty = 0.1F,
                                                .frequency_penalty = 0.2F,
                                                .repetition_penalty = 1.1F,
                                                .seed = 99,
                                                .stop = stops,
                                                .stop_count = 2,
                                                .stop_token_ids = stop_ids,
                                                .stop_token_id_count = 2,
                                                .logit_bias = biases,
                                                .logit_bias_count = 2,
                                                .ignore_eos = true,
                                                .logprobs = true,
                                                .top_logprobs = 2,
                                                .prompt_logprobs = true,
                                                .score_only = true,
                                                .return_tokens = true,
                                                .n = 2,
                                                .request_id = "r-1"};

static void expect_full(void *context, const Spin__V1__InferenceRequest *request)
{
    *(uint32_t *)context += 1;
    const Spin__V1__Sampling *sampling = request->sampling;
    assert_string_equal(request->model, "m");
    assert_string_equal(request->prompt->text, "");
    assert_false(request->prompt->plain_text);
    assert_int_equal(request->prompt->n_tokens, 0);
    assert_int_equal(request->prompt->n_messages, 2);
    assert_string_equal(request->prompt->messages[0]->role, "system");
    assert_string_equal(request->prompt->messages[1]->content, "Hi");
    assert_int_equal(sampling->max_tokens, 9);
    assert_int_equal(sampling->min_tokens, 2);
    assert_true(sampling->temperature == 0.5F && sampling->top_p == 0.9F);
    assert_true(sampling->top_k == 40 && sampling->min_p == 0.05F);
    assert_true(sampling->presence_penalty == 0.1F && sampling->frequency_penalty == 0.2F);
    assert_true(sampling->repetition_penalty == 1.1F && sampling->seed == 99);
    assert_int_equal(sampling->n_stop_token_ids, 2);
    assert_int_equal(sampling->stop_token_ids[1], 8);
    assert_int_equal(sampling->n_logit_bias, 2);
    assert_true(sampling->logit_bias[0]->token == 3 && sampling->logit_bias[0]->bias == -1.5F);
    assert_true(sampling->ignore_eos && sampling->logprobs && sampling->prompt_logprobs);
    assert_int_equal(sampling->top_logprobs, 2);
    assert_int_equal(request->n_stop, 2);
    assert_string_equal(request->stop[0], "###");
    assert_true(request->score_only && request->return_tokens && request->n == 2);
    assert_string_equal(request->request_id, "r-1");
}

static bool on_rich_delta(void *context, const struct spin_client_delta *delta)
{
    uint32_t *deltas = context;
    if ((*deltas)++ > 0) {
        assert_non_null(delta->ending);
        assert_int_equal(delta->ending->reason,
                         delta->index == 1 ? SPIN_CLIENT_LENGTH : SPIN_CLIENT_STOP);
        assert_int_equal(delta->ending->stop_token, delta->index == 1 ? -1 : 42);
        return true;
    }
    assert_int_equal(delta->index, 1);
    assert_string_equal(delta->text, "ab");
    assert_null(delta->ending);
    assert_int_equal(delta->token_count, 2);
    assert_int_equal(delta->tokens[0].token, 10);
    assert_true(delta->tokens[0].logprob == -0.25F);
    assert_int_equal(delta->tokens[0].top_count, 0);
    assert_int_equal(delta->tokens[1].top_count, 2);
    assert_int_equal(delta->tokens[1].top[1].token, 101);
    assert_true(delta->tokens[1].top[1].logprob == -2.5F);
    assert_int_equal(delta->prompt_count, 2);
    assert_true(isnan(delta->prompt[0].logprob));
    assert_true(delta->prompt[1].token == 21 && delta->prompt[1].logprob == -3);
    return true;
}

static void test_everything_arrives(void **state)
{
    (void)state;
    uint32_t inspected = 0;
    struct fake_router fake = {.act = FAKE_RICH, .inspect = expect_full, .context = &inspected};
    spin_fake_router_start(&fake, NULL);
    struct spin_client *client = connect_to(&fake, 3);
    struct spin_error err = {0};
    uint32_t deltas = 0;
    SPIN_EXPECT_OK(spin_client_generate(client, &full, on_rich_delta, &deltas, &err), &err);
    assert_int_equal(deltas, 3);
    assert_int_equal(inspected, 1);
    spin_client_close(client);
    spin_fake_router_stop(&fake);
}

static bool expect_unknown_logprob(void *context, const struct spin_client_delta *delta)
{
    *(uint32_t *)context += delta->token_count;
    assert_true(delta->token_count == 0 || isnan(delta->tokens[0].logprob));
    return true;
}

static void test_a_logprob_not_asked_for_is_not_known(void **state)
{
    (void)state;
    struct fake_router fake = {.act = FAKE_RICH};
    spin_fake_router_start(&fake, NULL);
    struct spin_client *client = connect_to(&fake, 0);
    struct spin_error err = {0};
    uint32_t tokens = 0;
    const struct spin_client_request request = {.text = "", .n = 2, .return_tokens = true};
    SPIN_EXPECT_OK(spin_client_generate(client, &request, expect_unknown_logprob, &tokens, &err),
                   &err);
    assert_int_equal(tokens, 2);
    spin_client_close(client);
    spin_fake_router_stop(&fake);
}

static void test_an_answer(void **state)
{
    (void)state;
    struct fake_router fake = {.act = FAKE_ANSWER};
    spin_fake_router_start(&fake, NULL);
    struct spin_client *client = connect_to(&fake, 3);
    struct spin_error err;
    struct heard heard = {.wanted = 0};
    SPIN_EXPECT_OK(generate(client, &heard, &err), &err);
    assert_string_equal(heard.text, "Hello");
    assert_int_equal(heard.endings, 1);
    assert_int_equal(heard.ending.prompt_tokens, 5);
    assert_int_equal(heard.ending.completion_tokens, 2);
    assert_int_equal(heard.ending.cached_tokens, 1);
    assert_int_equal(heard.ending.recoveries, 3);
    assert_true(heard.ending.queue_ns == 10 && heard.ending.prefill_ns == 20 &&
                heard.ending.decode_ns == 30);
    struct spin_client_model model;
    SPIN_EXPECT_OK(spin_client_get_model(client, &model, &err), &err);
    assert_string_equal(model.name, "fake model");
    assert_string_equal(model.chat_format, "chatml");
    assert_true(model.vocab == 300 && model.max_model_len == 4096 && model.workers == 2);
    spin_client_close(client);
    spin_fake_router_stop(&fake);
}

static void test_mistakes_are_found_before_anything_is_sent(void **state)
{
    (void)state;
    struct fake_router fake = {.act = FAKE_ANSWER};
    spin_fake_router_start(&fake, NULL);
    struct spin_client *client = connect_to(&fake, 3);
    static const struct spin_client_message no_content[] = {{"user", "a"}, {"user", NULL}};
    static const char *const no_stop[] = {NULL};
    char *long_text = malloc((16u << 20) + 1);
    assert_non_null(long_text);
    memset(long_text, 'a', 16u << 20);
    long_text[16u << 20] = '\0';
    const struct {
        struct spin_client_request request;
        spin_status status;
        const char *text;
    } cases[] = {
        {{.model = "m"}, SPIN_ERR_INVALID, "0 of text, messages and tokens"},
        {{.text = "x", .tokens = stop_ids, .token_count = 1}, SPIN_ERR_INVALID, "2 of text"},
        {{.messages = no_content, .message_count = 2}, SPIN_ERR_INVALID, "messages[1].content"},
        {{.text = "x", .stop = no_stop, .stop_count = 1}, SPIN_ERR_INVALID, "stop[0]: NULL"},
        {{.text = long_text}, SPIN_ERR_LIMIT, "at most 16777216"},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(cases); i++) {
        struct heard heard = {.wanted = 0};
        struct spin_error err = {0};
        SPIN_EXPECT_STATUS(spin_client_generate(client, &cases[i].request, on_delta, &heard, &err),
                           cases[i].status);
        assert_non_null(strstr(err.text, cases[i].text));
    }
    free(long_text);
    assert_int_equal(spin_fake_router_calls(&fake), 0);
    spin_client_close(client);
    spin_fake_router_stop(&fake);
}

/* --- ends --- */

static void test_errors_are_typed(void **state)
{
    (void)state;
    static const spin_status statuses[] = {SPIN_ERR_INVALID, SPIN_ERR_LIMIT,     SPIN_ERR_NOT_FOUND,
                                           SPIN_ERR_DENIED,  SPIN_ERR_EXHAUSTED, SPIN_ERR_PEER_LOST,
                                           SPIN_ERR_DEADLINE};
    struct fake_router fake = {.act = FAKE_REFUSE};
    spin_fake_router_start(&fake, NULL);
    struct spin_client *client = connect_to(&fake, 0);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(statuses); i++) {
        struct heard heard = {.wanted = 0};
        struct spin_error err;
        fake.status = statuses[i];
        SPIN_EXPECT_STATUS(generate(client, &heard, &err), statuses[i]);
        assert_int_equal(err.status, statuses[i]);
        assert_string_equal(err.text, "the script says so");
    }
    assert_int_equal(spin_fake_router_calls(&fake), SPIN_ARRAY_COUNT(statuses)); /* retries_max 0 */
    spin_client_close(client);
    spin_fake_router_stop(&fake);
}

static void test_a_key_is_sent(void **state)
{
    (void)state;
    struct fake_router fake = {.act = FAKE_ANSWER};
    spin_fake_router_start(&fake, "sesame");
    struct heard heard = {.wanted = 0};
    struct spin_error err;
    struct spin_client *client = connect_to(&fake, 3);
    SPIN_EXPECT_STATUS(generate(client, &heard, &err), SPIN_ERR_DENIED);
    spin_client_close(client);
    struct spin_client_config config = {.target = fake.address, .api_key = "sesame"};
    SPIN_EXPECT_OK(spin_client_connect(&config, &client, &err), &err);
    SPIN_EXPECT_OK(generate(client, &heard, &err), &err);
    spin_client_close(client);
    spin_fake_router_stop(&fake);
}

static void test_a_stream_that_is_not_in_order(void **state)
{
    (void)state;
    struct fake_router fake = {.act = FAKE_NO_ENDING};
    spin_fake_router_start(&fake, NULL);
    struct spin_client *client = connect_to(&fake, 3);
    struct heard heard = {.wanted = 0};
    struct spin_error err;
    SPIN_EXPECT_STATUS(generate(client, &heard, &err), SPIN_ERR_INTERNAL);
    assert_non_null(strstr(err.text, "ended 0 of 1 answers"));
    fake.act = FAKE_WRONG;
    heard = (struct heard){.wanted = 0};
    SPIN_EXPECT_STATUS(generate(client, &heard, &err), SPIN_ERR_INTERNAL);
    assert_non_null(strstr(err.text, "answer 7 of 1"));
    assert_int_equal(heard.deltas, 0);
    spin_client_close(client);
    spin_fake_router_stop(&fake);
}

static void test_deadline(void **state)
{
    (void)state;
    struct fake_router fake = {.act = FAKE_BEGIN};
    spin_fake_router_start(&fake, NULL);
    struct spin_client *client = connect_to(&fake, 3);
    struct heard heard = {.wanted = 0};
    struct spin_error err = {0};
    struct spin_client_request request = hello;
    request.deadline_ns = 100 * SPIN_NS_PER_MS;
    SPIN_EXPECT_STATUS(spin_client_generate(client, &request, on_delta, &heard, &err),
                       SPIN_ERR_DEADLINE);
    assert_string_equal(heard.text, "Hel");
    spin_fake_router_wait_gone(&fake, 1);
    assert_int_equal(spin_fake_router_calls(&fake), 1);
    spin_client_close(client);
    spin_fake_router_stop(&fake);
}

static void test_false_cancels(void **state)
{
    (void)state;
    struct fake_router fake = {.act = FAKE_BEGIN};
    spin_fake_router_start(&fake, NULL);
    struct spin_client *client = connect_to(&fake, 3);
    struct heard heard = {.wanted = 1};
    struct spin_error err;
    SPIN_EXPECT_STATUS(generate(client, &heard, &err), SPIN_ERR_CANCELLED);
    assert_int_equal(heard.deltas, 1);
    spin_fake_router_wait_gone(&fake, 1);
    /* Even when the whole answer was there already. */
    fake.act = FAKE_ANSWER;
    heard = (struct heard){.wanted = 3};
    SPIN_EXPECT_STATUS(generate(client, &heard, &err), SPIN_ERR_CANCELLED);
    assert_int_equal(heard.deltas, 3);
    spin_client_close(client);
    spin_fake_router_stop(&fake);
}

/* --- trying again --- */

static void test_what_never_began_is_tried_again(void **state)
{
    (void)state;
    static const spin_status statuses[] = {SPIN_ERR_PEER_LOST, SPIN_ERR_EXHAUSTED};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(statuses); i++) {
        struct fake_router fake = {.act = FAKE_ANSWER, .refusals = 2, .status = statuses[i]};
        uint32_t inspected = 0;
        fake.inspect = expect_full; /* the second request is the first one */
        fake.context = &inspected;
        fake.act = FAKE_RICH;
        spin_fake_router_start(&fake, NULL);
        struct spin_client *client = connect_to(&fake, 3);
        uint32_t deltas = 0;
        struct spin_error err = {0};
        const uint64_t started_ns = spin_now_ns(spin_clock_real());
        SPIN_EXPECT_OK(spin_client_generate(client, &full, on_rich_delta, &deltas, &err), &err);
        /* Two pauses: at least half of 100 ms and of 200 ms. */
        assert_true(spin_now_ns(spin_clock_real()) - started_ns >= 150 * SPIN_NS_PER_MS);
        assert_int_equal(spin_fake_router_calls(&fake), 3);
        assert_int_equal(inspected, 3);
        assert_int_equal(deltas, 3);
        spin_client_close(client);
        spin_fake_router_stop(&fake);
    }
}

static void test_retries_have_a_limit(void **state)
{
    (void)state;
    struct fake_router fake = {.refusals = UINT32_MAX, .status = SPIN_ERR_EXHAUSTED};
    spin_fake_router_start(&fake, NULL);
    struct spin_client *client = connect_to(&fake, 2);
    struct heard heard = {.wanted = 0};
    struct spin_error err;
    SPIN_EXPECT_STATUS(generate(client, &heard, &err), SPIN_ERR_EXHAUSTED);
    assert_string_equal(err.text, "not now");
    assert_int_equal(spin_fake_router_calls(&fake), 3);
    /* No pause goes beyond the deadline: the refusal is the answer. */
    struct spin_client_request request = hello;
    request.deadline_ns = 40 * SPIN_NS_PER_MS;
    SPIN_EXPECT_STATUS(spin_client_generate(client, &request, on_delta, &heard, &err),
                       SPIN_ERR_EXHAUSTED);
    assert_int_equal(spin_fake_router_calls(&fake), 4);
    spin_client_close(client);
    spin_fake_router_stop(&fake);
}

static void test_what_has_begun_is_never_tried_again(void **state)
{
    (void)state;
    static const spin_status statuses[] = {SPIN_ERR_PEER_LOST, SPIN_ERR_EXHAUSTED};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(statuses); i++) {
        struct fake_router fake = {.act = FAKE_BREAK, .status = statuses[i]};
        spin_fake_router_start(&fake, NULL);
        struct spin_client *client = connect_to(&fake, 3);
        struct heard heard = {.wanted = 0};
        struct spin_error err;
        SPIN_EXPECT_STATUS(generate(client, &heard, &err), statuses[i]);
        assert_string_equal(heard.text, "Hel");
        assert_int_equal(spin_fake_router_calls(&fake), 1);
        spin_client_close(client);
        spin_fake_router_stop(&fake);
    }
}

static void test_other_refusals_are_final(void **state)
{
    (void)state;
    static const spin_status statuses[] = {SPIN_ERR_INVALID, SPIN_ERR_LIMIT, SPIN_ERR_NOT_FOUND,
                                           SPIN_ERR_DENIED, SPIN_ERR_INTERNAL};
    struct fake_router fake = {.act = FAKE_REFUSE};
    spin_fake_router_start(&fake, NULL);
    struct spin_client *client = connect_to(&fake, 3);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(statuses); i++) {
        struct heard heard = {.wanted = 0};
        struct spin_error err;
        fake.status = statuses[i];
        SPIN_EXPECT_STATUS(generate(client, &heard, &err), statuses[i]);
    }
    assert_int_equal(spin_fake_router_calls(&fake), SPIN_ARRAY_COUNT(statuses));
    spin_client_close(client);
    spin_fake_router_stop(&fake);
}

static void test_a_router_that_comes_back(void **state)
{
    (void)state;
    struct fake_router fake = {.act = FAKE_ANSWER};
    spin_fake_router_start(&fake, NULL);
    struct spin_client *client = connect_to(&fake, 3);
    struct heard heard = {.wanted = 0};
    struct spin_error err;
    SPIN_EXPECT_OK(generate(client, &heard, &err), &err);
    spin_fake_router_stop(&fake);
    const uint64_t started_ns = spin_now_ns(spin_clock_real());
    SPIN_EXPECT_STATUS(generate(client, &heard, &err), SPIN_ERR_PEER_LOST);
    assert_true(spin_now_ns(spin_clock_real()) - started_ns >= 350 * SPIN_NS_PER_MS); /* 3 pauses */
    spin_client_close(client);
}

/* --- asynchronous --- */

static void on_finished(void *context, spin_status status, const char *text)
{
    struct heard *heard = context;
    assert_non_null(text);
    spin_mutex_lock(&heard->mutex);
    heard->finished++;
    heard->status = status;
    spin_cond_broadcast(&heard->changed);
    spin_mutex_unlock(&heard->mutex);
}

static struct spin_client_call *submit(struct spin_client *client, struct heard *heard)
{
    spin_mutex_init(&heard->mutex);
    spin_cond_init(&heard->changed);
    struct spin_client_call *call = NULL;
    struct spin_error err = {0};
    const struct spin_client_handlers handlers = {heard, on_delta, on_finished};
    SPIN_EXPECT_OK(spin_client_submit(client, &hello, &handlers, &call, &err), &err);
    return call;
}

static void wait_finished(struct heard *heard)
{
    const uint64_t limit_ns = spin_now_ns(spin_clock_real()) + 10 * SPIN_NS_PER_S;
    spin_mutex_lock(&heard->mutex);
    while (heard->finished == 0) {
        assert_true(spin_cond_wait(&heard->changed, &heard->mutex, limit_ns));
    }
    spin_mutex_unlock(&heard->mutex);
    assert_int_equal(heard->finished, 1);
    spin_cond_deinit(&heard->changed);
    spin_mutex_deinit(&heard->mutex);
}

static void test_many_at_once(void **state)
{
    (void)state;
    struct fake_router fake = {.act = FAKE_ANSWER, .refusals = 10, .status = SPIN_ERR_EXHAUSTED};
    spin_fake_router_start(&fake, NULL);
    struct spin_client *client = connect_to(&fake, 3);
    static struct heard heard[CALLS];
    for (uint32_t i = 0; i < CALLS; i++) {
        spin_client_call_release(submit(client, &heard[i])); /* before its end */
    }
    for (uint32_t i = 0; i < CALLS; i++) {
        wait_finished(&heard[i]);
        assert_int_equal(heard[i].status, SPIN_OK);
        assert_string_equal(heard[i].text, "Hello");
    }
    assert_int_equal(spin_fake_router_calls(&fake), CALLS + 10);
    spin_client_close(client);
    spin_fake_router_stop(&fake);
}

static void wait_calls(struct fake_router *fake, uint32_t count)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    while (spin_fake_router_calls(fake) < count) {
        (void)nanosleep(&pause, NULL);
    }
}

static void test_cancel_while_it_runs(void **state)
{
    (void)state;
    struct fake_router fake = {.act = FAKE_HANG};
    spin_fake_router_start(&fake, NULL);
    struct spin_client *client = connect_to(&fake, 3);
    struct heard heard = {.wanted = 0};
    struct spin_client_call *call = submit(client, &heard);
    wait_calls(&fake, 1);
    spin_client_call_cancel(call);
    wait_finished(&heard);
    assert_int_equal(heard.status, SPIN_ERR_CANCELLED);
    spin_client_call_cancel(call); /* too late is allowed */
    spin_client_call_release(call);
    spin_fake_router_wait_gone(&fake, 1);
    spin_client_close(client);
    spin_fake_router_stop(&fake);
}

static void test_cancel_and_close_in_a_pause(void **state)
{
    (void)state;
    struct fake_router fake = {.refusals = UINT32_MAX, .status = SPIN_ERR_PEER_LOST};
    spin_fake_router_start(&fake, NULL);
    struct spin_client *client = connect_to(&fake, 1000);
    static struct heard first;
    static struct heard others[8];
    struct spin_client_call *call = submit(client, &first);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(others); i++) {
        spin_client_call_release(submit(client, &others[i]));
    }
    wait_calls(&fake, 3 * (1 + SPIN_ARRAY_COUNT(others))); /* the pauses are 200 ms and more now */
    const uint64_t started_ns = spin_now_ns(spin_clock_real());
    spin_client_call_cancel(call);
    wait_finished(&first);
    assert_int_equal(first.status, SPIN_ERR_CANCELLED);
    spin_client_call_release(call);
    spin_client_close(client);
    assert_true(spin_now_ns(spin_clock_real()) - started_ns < 5 * SPIN_NS_PER_S);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(others); i++) {
        wait_finished(&others[i]);
        assert_int_equal(others[i].status, SPIN_ERR_CANCELLED);
    }
    spin_fake_router_stop(&fake);
}

static void test_close_ends_what_runs(void **state)
{
    (void)state;
    struct fake_router fake = {.act = FAKE_BEGIN};
    spin_fake_router_start(&fake, NULL);
    struct spin_client *client = connect_to(&fake, 3);
    static struct heard heard[4];
    struct spin_client_call *calls[SPIN_ARRAY_COUNT(heard)];
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(heard); i++) {
        calls[i] = submit(client, &heard[i]);
    }
    wait_calls(&fake, SPIN_ARRAY_COUNT(heard));
    spin_client_close(client);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(heard); i++) {
        wait_finished(&heard[i]);
        assert_int_equal(heard[i].status, SPIN_ERR_CANCELLED);
        spin_client_call_release(calls[i]); /* after close is allowed */
    }
    spin_fake_router_wait_gone(&fake, SPIN_ARRAY_COUNT(heard));
    spin_fake_router_stop(&fake);
}

/* --- back-pressure --- */

struct slow {
    atomic_bool go_on;
    uint32_t deltas;
};

static bool on_slow_delta(void *context, const struct spin_client_delta *delta)
{
    struct slow *slow = context;
    const struct timespec pause = {.tv_nsec = 1000000};
    slow->deltas += delta->text_bytes > 0;
    while (!atomic_load(&slow->go_on)) {
        (void)nanosleep(&pause, NULL);
    }
    return true;
}

struct slow_end {
    struct slow slow;
    _Atomic uint32_t ended; /* 1 + status */
};

static void on_slow_end(void *context, spin_status status, const char *text)
{
    (void)text;
    atomic_store(&((struct slow_end *)context)->ended, 1 + (uint32_t)status);
}

static bool on_slow(void *context, const struct spin_client_delta *delta)
{
    return on_slow_delta(&((struct slow_end *)context)->slow, delta);
}

/* A callback that does not return holds back what the router sends, until the router cuts it off:
 * nothing piles up in the client. */
static void test_a_slow_callback_holds_the_stream_back(void **state)
{
    (void)state;
    struct fake_router fake = {.act = FAKE_FLOOD};
    spin_fake_router_start(&fake, NULL);
    struct spin_client *client = connect_to(&fake, 3);
    static struct slow_end end;
    struct spin_client_call *call = NULL;
    struct spin_error err = {0};
    const struct spin_client_handlers handlers = {&end, on_slow, on_slow_end};
    SPIN_EXPECT_OK(spin_client_submit(client, &hello, &handlers, &call, &err), &err);
    spin_fake_router_wait_gone(&fake, 1); /* cut off */
    struct spin_rpc_server_stats stats;
    spin_rpc_server_get_stats(fake.server, &stats);
    assert_int_equal(stats.slow_readers, 1);
    atomic_store(&end.slow.go_on, true);
    const struct timespec pause = {.tv_nsec = 1000000};
    while (atomic_load(&end.ended) == 0) {
        (void)nanosleep(&pause, NULL);
    }
    assert_int_equal(atomic_load(&end.ended), 1 + SPIN_ERR_EXHAUSTED);
    assert_int_equal(spin_fake_router_calls(&fake), 1); /* it had begun */
    assert_in_range(end.slow.deltas, 1, 1024);          /* of 4,096 sent: what sockets hold */
    spin_client_call_release(call);
    spin_client_close(client);
    spin_fake_router_stop(&fake);
}

/* --- connecting --- */

static void test_nobody_there(void **state)
{
    (void)state;
    struct fake_router fake = {.act = FAKE_ANSWER};
    spin_fake_router_start(&fake, NULL);
    spin_fake_router_stop(&fake); /* its port is free now */
    struct spin_client_config config = {.target = fake.address,
                                        .connect_timeout_ns = 200 * SPIN_NS_PER_MS};
    struct spin_client *client = NULL;
    struct spin_error err = {0};
    SPIN_EXPECT_STATUS(spin_client_connect(&config, &client, &err), SPIN_ERR_PEER_LOST);
    assert_non_null(strstr(err.text, fake.address));
    config.target = "nowhere";
    SPIN_EXPECT_STATUS(spin_client_connect(&config, &client, &err), SPIN_ERR_INVALID);
    config.target = fake.address;
    config.ca_file = "/nowhere.pem";
    SPIN_EXPECT_STATUS(spin_client_connect(&config, &client, &err), SPIN_ERR_NOT_FOUND);
    assert_null(client);
    spin_client_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything_arrives),
        cmocka_unit_test(test_a_logprob_not_asked_for_is_not_known),
        cmocka_unit_test(test_an_answer),
        cmocka_unit_test(test_mistakes_are_found_before_anything_is_sent),
        cmocka_unit_test(test_errors_are_typed),
        cmocka_unit_test(test_a_key_is_sent),
        cmocka_unit_test(test_a_stream_that_is_not_in_order),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_false_cancels),
        cmocka_unit_test(test_what_never_began_is_tried_again),
        cmocka_unit_test(test_retries_have_a_limit),
        cmocka_unit_test(test_what_has_begun_is_never_tried_again),
        cmocka_unit_test(test_other_refusals_are_final),
        cmocka_unit_test(test_a_router_that_comes_back),
        cmocka_unit_test(test_many_at_once),
        cmocka_unit_test(test_cancel_while_it_runs),
        cmocka_unit_test(test_cancel_and_close_in_a_pause),
        cmocka_unit_test(test_close_ends_what_runs),
        cmocka_unit_test(test_a_slow_callback_holds_the_stream_back),
        cmocka_unit_test(test_nobody_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
