/* Method: the dispatcher against workers that do as they are told (fake_worker.h): die after so
 * many tokens, refuse, fall silent, lie. The n-th token is a function of n, so every text is known;
 * every scene asserts the counters that say that it really took place. */
#include "router/dispatcher.h"

#include "base/clock.h"
#include "base/rng.h"
#include "router/metrics.h"
#include "tests/router/fake_worker.h"
#include "tests/spin_test.h"

#define WORKERS 3u
#define TEXT_MAX 512u
#define SECRET "cluster secret"
#define WAIT_NS (20 * SPIN_NS_PER_S) /* a hang fails instead */

/* --- the router's side --- */

struct fixture {
    struct spin_loop *loop;
    struct spin_tokenizer *tokenizer;
    struct spin_tenants *tenants;
    struct spin_metrics *metrics;
    struct spin_dispatcher *dispatcher;
    struct spin_fake_worker workers[WORKERS];
    struct spin_timer *watch;
    bool (*condition)(void *context);
    void *condition_context;
    uint64_t give_up_ns;
    bool gave_up;
    uint32_t drained;
};

static void on_watch(void *context)
{
    struct fixture *fixture = context;
    if (fixture->condition(fixture->condition_context)) {
        spin_loop_stop(fixture->loop);
    } else if (spin_loop_now_ns(fixture->loop) > fixture->give_up_ns) {
        fixture->gave_up = true;
        spin_loop_stop(fixture->loop);
    }
}

static void run_until(struct fixture *fixture, bool (*condition)(void *), void *context)
{
    fixture->condition = condition;
    fixture->condition_context = context;
    fixture->give_up_ns = spin_now_ns(spin_clock_real()) + WAIT_NS;
    fixture->gave_up = false;
    spin_timer_start(fixture->watch, SPIN_NS_PER_MS, true);
    spin_loop_run(fixture->loop);
    spin_timer_stop(fixture->watch);
    assert_false(fixture->gave_up);
}

static bool always(void *context)
{
    (void)context;
    return true;
}

static struct spin_dispatcher_config make_config(void)
{
    return (struct spin_dispatcher_config){.queue_max = 100,
                                           .tenant_queue_max = 50,
                                           .generations_max = 1000,
                                           .queue_timeout_ns = 300 * SPIN_NS_PER_MS,
                                           .request_timeout_ns = 60 * SPIN_NS_PER_S,
                                           .worker_timeout_ns = 60 * SPIN_NS_PER_S,
                                           .recoveries_max = 8,
                                           .cluster_secret = SECRET,
                                           .worker_token = SPIN_FAKE_TOKEN};
}

static int set_up_with(void **state, const struct spin_dispatcher_config *config, bool one_by_one)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct spin_error err;
    SPIN_EXPECT_OK(spin_loop_create(&fixture->loop, &err), &err);
    SPIN_EXPECT_OK(spin_tokenizer_open("random:tiny", &fixture->tokenizer, &err), &err);
    SPIN_EXPECT_OK(spin_tenants_create(NULL, NULL, &fixture->tenants, &err), &err);
    SPIN_EXPECT_OK(
        spin_metrics_create(spin_router_metrics, SPIN_ROUTER_METRIC_COUNT, &fixture->metrics, &err),
        &err);
    const struct spin_dispatcher_parts parts = {fixture->loop, fixture->tokenizer, fixture->tenants,
                                                fixture->metrics};
    SPIN_EXPECT_OK(spin_dispatcher_create(config, &parts, &fixture->dispatcher, &err), &err);
    assert_int_equal(spin_timer_create(fixture->loop, on_watch, fixture, &fixture->watch), SPIN_OK);
    for (uint32_t i = 0; i < WORKERS; i++) {
        spin_fake_worker_start(&fixture->workers[i], one_by_one);
    }
    *state = fixture;
    return 0;
}

static int set_up(void **state)
{
    const struct spin_dispatcher_config config = make_config();
    return set_up_with(state, &config, false);
}

static int set_up_one_by_one(void **state)
{
    const struct spin_dispatcher_config config = make_config();
    return set_up_with(state, &config, true);
}

static void on_drained(void *context)
{
    struct fixture *fixture = context;
    fixture->drained++;
}

static bool is_drained(void *context)
{
    const struct fixture *fixture = context;
    return fixture->drained > 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    if (fixture->drained == 0) {
        spin_dispatcher_drain(fixture->dispatcher, 0, on_drained, fixture);
        run_until(fixture, is_drained, fixture);
    }
    assert_int_equal(fixture->drained, 1);
    spin_timer_destroy(fixture->watch);
    spin_dispatcher_destroy(fixture->dispatcher);
    spin_loop_destroy(fixture->loop);
    for (uint32_t i = 0; i < WORKERS; i++) {
        spin_fake_worker_stop(&fixture->workers[i]);
    }
    spin_metrics_destroy(fixture->metrics);
    spin_tenants_destroy(fixture->tenants);
    spin_tokenizer_close(fixture->tokenizer);
    free(fixture);
    return 0;
}

/* The first worker's next calls end so after `life` scores and tokens. */
static void die(struct fixture *fixture, uint32_t life, uint32_t calls, spin_status death)
{
    spin_fake_worker_tell(
        &fixture->workers[0],
        (struct spin_fake_script){
            .die_after = life, .deaths = calls, .death = death, .stop_at = SPIN_FAKE_FOREVER});
}

/* Or fall silent. */
static void hold(struct fixture *fixture, uint32_t life, uint32_t calls)
{
    spin_fake_worker_tell(
        &fixture->workers[0],
        (struct spin_fake_script){
            .die_after = life, .deaths = calls, .hold = true, .stop_at = SPIN_FAKE_FOREVER});
}

static uint64_t metric(const struct fixture *fixture, enum spin_router_metric id)
{
    return (uint64_t)spin_metrics_read(fixture->metrics, id);
}

/* Worker `index` joins under its own id. */
static struct spin_member *join(struct fixture *fixture, uint32_t index)
{
    char id[16];
    (void)snprintf(id, sizeof id, "w%u", index);
    return spin_fake_worker_join(&fixture->workers[index],
                                 spin_dispatcher_members(fixture->dispatcher), id, 1);
}

/* --- one generation --- */

struct client {
    struct fixture *fixture;
    struct spin_generation *generation;
    char text[TEXT_MAX];
    uint32_t text_bytes;
    uint32_t tokens;
    uint32_t prompt;
    uint32_t deltas;
    uint32_t ended;
    struct spin_generation_end end;
    char end_text[240];
    char stop_string[64];
    bool cancel_in_delta;
    uint32_t tops; /* that every token must bring */
};

static void on_delta(void *context, const struct spin_generation_delta *delta)
{
    struct client *client = context;
    assert_int_equal(client->ended, 0);
    client->deltas++;
    assert_true(client->text_bytes + delta->text_bytes < TEXT_MAX);
    if (delta->text_bytes > 0) {
        memcpy(client->text + client->text_bytes, delta->text, delta->text_bytes);
    }
    client->text_bytes += (uint32_t)delta->text_bytes;
    for (uint32_t i = 0; i < delta->token_count; i++) {
        const struct spin_generation_token *token = &delta->tokens[i];
        assert_int_equal(token->token, spin_fake_letter(client->tokens));
        assert_int_equal(token->top_count, client->tops);
        for (uint32_t t = 0; t < token->top_count; t++) {
            assert_int_equal(token->top[t].token, client->tokens + t);
        }
        client->tokens++;
    }
    for (uint32_t i = 0; i < delta->prompt_count; i++) {
        assert_true(delta->prompt[i].logprob == -(float)client->prompt); /* once, in order */
        client->prompt++;
    }
    if (client->cancel_in_delta) {
        spin_dispatcher_cancel(client->fixture->dispatcher, client->generation);
        client->ended = 1000; /* nothing may come any more */
    }
}

static void on_ended(void *context, const struct spin_generation_end *end)
{
    struct client *client = context;
    client->ended++;
    client->end = *end;
    (void)snprintf(client->end_text, sizeof client->end_text, "%s", end->text);
    if (end->stop_string != NULL) {
        (void)snprintf(client->stop_string, sizeof client->stop_string, "%s", end->stop_string);
    }
}

static bool has_ended(void *context)
{
    const struct client *client = context;
    return client->ended > 0;
}

struct ask {
    uint32_t max_tokens;
    uint32_t prompt;
    bool scores;
    uint32_t tops;
    const char *stop;
    uint64_t timeout_ns;
};

static spin_status submit(struct fixture *fixture, struct client *client, const struct ask *ask,
                          struct spin_error *err)
{
    int32_t prompt[64];
    assert_in_range(ask->prompt, 1, 64);
    for (uint32_t i = 0; i < ask->prompt; i++) {
        prompt[i] = spin_fake_letter(i);
    }
    Spin__V1__Sampling sampling;
    spin__v1__sampling__init(&sampling);
    sampling.seed = 4711;
    sampling.max_tokens = ask->max_tokens;
    sampling.prompt_logprobs = ask->scores;
    sampling.logprobs = ask->tops > 0;
    sampling.top_logprobs = ask->tops;
    struct spin_generation_request request = {.id = "test",
                                              .prompt = prompt,
                                              .prompt_count = ask->prompt,
                                              .sampling = &sampling,
                                              .return_tokens = true,
                                              .deadline_ns = SPIN_NO_DEADLINE,
                                              .sink = {client, on_delta, on_ended}};
    if (ask->stop != NULL) {
        request.stop.texts[0] = ask->stop;
        request.stop.count = 1;
    }
    if (ask->timeout_ns > 0) {
        request.deadline_ns = spin_now_ns(spin_clock_real()) + ask->timeout_ns;
    }
    memset(client, 0, sizeof *client);
    client->fixture = fixture;
    client->tops = ask->tops;
    return spin_dispatcher_submit(fixture->dispatcher, &request, &client->generation, err);
}

static void start(struct fixture *fixture, struct client *client, const struct ask *ask)
{
    struct spin_error err;
    SPIN_EXPECT_OK(submit(fixture, client, ask, &err), &err);
    assert_int_equal(client->deltas + client->ended, 0); /* never from inside submit */
}

static void generate(struct fixture *fixture, struct client *client, const struct ask *ask)
{
    start(fixture, client, ask);
    run_until(fixture, has_ended, client);
}

static void expect_whole(const struct client *client, const struct ask *ask)
{
    assert_int_equal(client->ended, 1);
    assert_string_equal(client->end_text, "");
    assert_int_equal(client->end.status, SPIN_OK);
    assert_int_equal(client->end.reason, SPIN__V1__FINISH_REASON__FINISH_LENGTH);
    assert_int_equal(client->end.completion_tokens, ask->max_tokens);
    assert_int_equal(client->end.prompt_tokens, ask->prompt);
    assert_int_equal(client->tokens, ask->max_tokens);
    assert_int_equal(client->prompt, ask->scores ? ask->prompt : 0);
    assert_int_equal(client->text_bytes, ask->max_tokens);
    for (uint32_t i = 0; i < client->text_bytes; i++) {
        assert_int_equal(client->text[i], spin_fake_letter(i));
    }
}

/* --- the scenes --- */

static void test_plain(void **state)
{
    struct fixture *fixture = *state;
    const struct ask ask = {.max_tokens = 100, .prompt = 7, .tops = 3};
    (void)join(fixture, 0);
    struct client client;
    generate(fixture, &client, &ask);
    expect_whole(&client, &ask);
    struct spin_fake_worker *worker = &fixture->workers[0];
    assert_int_equal(worker->calls, 1);
    assert_int_equal(worker->seed, 4711);
    assert_int_equal(worker->resumed, 0);
    const struct spin_salt salt =
        spin_salt_derive((const uint8_t *)SECRET, strlen(SECRET), "default");
    assert_int_equal(worker->salt_bytes, SPIN_SALT_BYTES);
    assert_memory_equal(worker->salt, salt.bytes, SPIN_SALT_BYTES);
    assert_int_equal(client.end.cached_tokens, 5);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_GENERATIONS), 1);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_ENDED_LENGTH), 1);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_PROMPT_TOKENS), 7);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_OUTPUT_TOKENS), 100);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_QUEUE), 1);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_TTFT), 1);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_TPOT), 1);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_E2E), 1);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_WORKERS), 1);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_RUNNING), 0);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_RECOVERIES), 0);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_RETRIES), 0);
    /* An end token. */
    spin_fake_worker_tell(worker,
                          (struct spin_fake_script){.die_after = SPIN_FAKE_FOREVER, .stop_at = 9});
    generate(fixture, &client, &ask);
    assert_int_equal(client.end.reason, SPIN__V1__FINISH_REASON__FINISH_STOP);
    assert_int_equal(client.end.stop_token, 256);
    assert_int_equal(client.text_bytes, 9);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_ENDED_STOP), 1);
}

/* The first worker dies after every count of scores and tokens, another goes on. */
static void die_everywhere(struct fixture *fixture, const struct ask *ask, spin_status death)
{
    const uint32_t scores = ask->scores ? ask->prompt : 0;
    uint64_t recoveries = metric(fixture, SPIN_ROUTER_METRIC_RECOVERIES);
    uint64_t retries = metric(fixture, SPIN_ROUTER_METRIC_RETRIES);
    for (uint32_t life = 0; life <= scores + ask->max_tokens; life++) {
        (void)join(fixture, 0); /* forgiven, so the first of equals is asked again */
        (void)join(fixture, 1);
        die(fixture, life, 1, death);
        const uint32_t first_calls = fixture->workers[0].calls;
        const uint32_t second_calls = fixture->workers[1].calls;
        struct client client;
        generate(fixture, &client, ask);
        expect_whole(&client, ask);
        const bool complete = life == scores + ask->max_tokens;
        assert_int_equal(fixture->workers[0].calls, first_calls + 1);
        assert_int_equal(fixture->workers[1].calls, second_calls + (complete ? 0 : 1));
        if (!complete) {
            assert_int_equal(fixture->workers[1].resumed, life > scores ? life - scores : 0);
            assert_int_equal(fixture->workers[1].max_tokens, ask->max_tokens);
            assert_int_equal(fixture->workers[1].asked_scores, life < scores);
            assert_int_equal(fixture->workers[1].seed, 4711);
        }
        recoveries += life > 0 && !complete ? 1 : 0;
        retries += life == 0 ? 1 : 0;
        assert_int_equal(client.end.recoveries, life > 0 && !complete ? 1 : 0);
        assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_RECOVERIES), recoveries);
        assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_RETRIES), retries);
    }
}

static void test_death_at_every_token(void **state)
{
    struct fixture *fixture = *state;
    die_everywhere(fixture, &(struct ask){.max_tokens = 12, .prompt = 4}, SPIN_ERR_PEER_LOST);
    die_everywhere(fixture, &(struct ask){.max_tokens = 5, .prompt = 4, .scores = true, .tops = 2},
                   SPIN_ERR_CORRUPT);
    die_everywhere(fixture, &(struct ask){.max_tokens = 3, .prompt = 1}, SPIN_ERR_INTERNAL);
    die_everywhere(fixture, &(struct ask){.max_tokens = 3, .prompt = 1}, SPIN_ERR_CANCELLED);
}

/* It ends well without saying how: its stream counts as broken. */
static void test_no_finish(void **state)
{
    struct fixture *fixture = *state;
    (void)join(fixture, 0);
    (void)join(fixture, 1);
    spin_fake_worker_tell(&fixture->workers[0],
                          (struct spin_fake_script){.die_after = SPIN_FAKE_FOREVER,
                                                    .stop_at = 5,
                                                    .without_finish = true});
    const struct ask ask = {.max_tokens = 20, .prompt = 4};
    struct client client;
    generate(fixture, &client, &ask);
    expect_whole(&client, &ask);
    assert_int_equal(client.end.recoveries, 1);
    assert_int_equal(fixture->workers[1].resumed, 5);
}

static void test_full_worker(void **state)
{
    struct fixture *fixture = *state;
    const struct ask ask = {.max_tokens = 20, .prompt = 4};
    struct client client;
    (void)join(fixture, 0);
    (void)join(fixture, 1);
    die(fixture, 0, SPIN_FAKE_FOREVER, SPIN_ERR_EXHAUSTED);
    generate(fixture, &client, &ask);
    expect_whole(&client, &ask);
    assert_int_equal(fixture->workers[0].calls, 1);
    assert_int_equal(fixture->workers[1].calls, 1);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_RETRIES), 1);
    /* Alone and full a dozen times: it waits, more often than failures would be forgiven. */
    spin_members_disconnect(spin_dispatcher_members(fixture->dispatcher),
                            spin_members_find(spin_dispatcher_members(fixture->dispatcher), "w1"),
                            spin_now_ns(spin_clock_real()));
    die(fixture, 0, 12, SPIN_ERR_EXHAUSTED);
    generate(fixture, &client, &ask);
    expect_whole(&client, &ask);
    assert_int_equal(fixture->workers[0].calls, 14);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_RETRIES), 13);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_WORKERS_LOST), 1);
}

static void test_worker_refuses(void **state)
{
    struct fixture *fixture = *state;
    const struct ask ask = {.max_tokens = 20, .prompt = 4};
    struct client client;
    (void)join(fixture, 0);
    (void)join(fixture, 1);
    die(fixture, 0, 1, SPIN_ERR_LIMIT);
    generate(fixture, &client, &ask);
    assert_int_equal(client.end.status, SPIN_ERR_LIMIT);
    assert_string_equal(client.end_text, "told to");
    assert_int_equal(fixture->workers[1].calls, 0); /* it would say the same */
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_ENDED_ERROR), 1);
}

static void test_failures_are_limited(void **state)
{
    struct fixture *fixture = *state;
    const struct ask ask = {.max_tokens = 20, .prompt = 4};
    struct client client;
    (void)join(fixture, 0);
    die(fixture, 1, SPIN_FAKE_FOREVER, SPIN_ERR_PEER_LOST);
    const uint64_t began_ns = spin_now_ns(spin_clock_real());
    generate(fixture, &client, &ask);
    assert_int_equal(client.end.status, SPIN_ERR_PEER_LOST);
    assert_non_null(strstr(client.end_text, "3 workers failed it, at most 2 may"));
    assert_int_equal(fixture->workers[0].calls, 3);
    assert_int_equal(client.tokens, 3); /* each brought one, nothing twice */
    /* It was left alone for 100 ms and then for 200. */
    assert_true(spin_now_ns(spin_clock_real()) - began_ns >= 300 * SPIN_NS_PER_MS);
}

static int set_up_few_failures(void **state)
{
    struct spin_dispatcher_config config = make_config();
    config.recoveries_max = 2;
    config.queue_timeout_ns = 10 * SPIN_NS_PER_S;
    return set_up_with(state, &config, false);
}

static void test_silent_worker(void **state)
{
    struct fixture *fixture = *state;
    const struct ask ask = {.max_tokens = 20, .prompt = 4};
    struct client client;
    (void)join(fixture, 0);
    (void)join(fixture, 1);
    hold(fixture, 7, 1);
    const uint64_t began_ns = spin_now_ns(spin_clock_real());
    generate(fixture, &client, &ask);
    expect_whole(&client, &ask);
    assert_true(spin_now_ns(spin_clock_real()) - began_ns >= 200 * SPIN_NS_PER_MS);
    assert_int_equal(fixture->workers[1].resumed, 7);
    assert_int_equal(client.end.recoveries, 1);
}

static int set_up_impatient(void **state)
{
    struct spin_dispatcher_config config = make_config();
    config.worker_timeout_ns = 200 * SPIN_NS_PER_MS;
    return set_up_with(state, &config, false);
}

/* A worker that speaks on its Join stream is not dead, however long a prompt takes it. */
static bool report_and_look(void *context)
{
    struct client *client = context;
    struct spin_members *members = spin_dispatcher_members(client->fixture->dispatcher);
    spin_members_heard(members, spin_members_find(members, "w0"), spin_now_ns(spin_clock_real()));
    return client->ended > 0;
}

static void test_slow_worker_is_not_dead(void **state)
{
    struct fixture *fixture = *state;
    const struct ask ask = {.max_tokens = 20, .prompt = 4, .timeout_ns = 600 * SPIN_NS_PER_MS};
    struct client client;
    (void)join(fixture, 0);
    (void)join(fixture, 1);
    hold(fixture, 7, 1);
    start(fixture, &client, &ask);
    run_until(fixture, report_and_look, &client);
    assert_int_equal(client.end.status, SPIN_ERR_DEADLINE); /* its own */
    assert_int_equal(client.tokens, 7);
    assert_int_equal(fixture->workers[1].calls, 0);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_ENDED_DEADLINE), 1);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_RECOVERIES), 0);
}

static bool first_worker_lost_one(void *context)
{
    struct fixture *fixture = context;
    return spin_fake_worker_read(&fixture->workers[0], &fixture->workers[0].gone) == 1;
}

static void test_stop_string(void **state)
{
    struct fixture *fixture = *state;
    const struct ask ask = {.max_tokens = 200, .prompt = 4, .stop = "klm"};
    struct client client;
    (void)join(fixture, 0);
    hold(fixture, 30, 1);
    generate(fixture, &client, &ask);
    assert_int_equal(client.end.status, SPIN_OK);
    assert_int_equal(client.end.reason, SPIN__V1__FINISH_REASON__FINISH_STOP);
    assert_string_equal(client.stop_string, "klm");
    assert_int_equal(client.end.stop_token, -1);
    assert_int_equal(client.text_bytes, 10);
    assert_memory_equal(client.text, "abcdefghij", 10);
    assert_int_equal(client.tokens, 10);
    assert_int_equal(client.end.completion_tokens, 13);
    run_until(fixture, first_worker_lost_one, fixture); /* it was told that nobody listens */
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_ENDED_STOP), 1);
}

static bool has_tokens(void *context)
{
    const struct client *client = context;
    return client->tokens > 0;
}

static void test_cancel(void **state)
{
    struct fixture *fixture = *state;
    const struct ask ask = {.max_tokens = 200, .prompt = 4};
    struct client client;
    (void)join(fixture, 0);
    hold(fixture, 3, SPIN_FAKE_FOREVER);
    start(fixture, &client, &ask); /* before it was placed */
    spin_dispatcher_cancel(fixture->dispatcher, client.generation);
    run_until(fixture, always, NULL);
    assert_int_equal(fixture->workers[0].calls, 0);
    start(fixture, &client, &ask); /* while it streams */
    run_until(fixture, has_tokens, &client);
    spin_dispatcher_cancel(fixture->dispatcher, client.generation);
    run_until(fixture, first_worker_lost_one, fixture);
    assert_int_equal(client.ended, 0);
    /* From inside its own sink. */
    start(fixture, &client, &ask);
    client.cancel_in_delta = true;
    run_until(fixture, has_ended, &client);
    assert_int_equal(client.ended, 1000);
    assert_int_equal(client.deltas, 1);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_ENDED_CANCELLED), 3);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_RUNNING), 0);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_QUEUED), 0);
    /* In its last delta, with its end behind it. */
    spin_fake_worker_tell(
        &fixture->workers[0],
        (struct spin_fake_script){.die_after = SPIN_FAKE_FOREVER, .stop_at = SPIN_FAKE_FOREVER});
    start(fixture, &client, &ask);
    client.cancel_in_delta = true;
    run_until(fixture, has_ended, &client);
    assert_int_equal(client.deltas, 1);
}

static void test_refused_at_once(void **state)
{
    struct fixture *fixture = *state;
    const struct ask ask = {.max_tokens = 200, .prompt = 4};
    static struct client clients[8];
    struct spin_error err;
    SPIN_EXPECT_STATUS(submit(fixture, &clients[0], &ask, &err), SPIN_ERR_AGAIN);
    assert_string_equal(err.text, "no worker has joined yet");
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_REFUSED_NO_WORKER), 1);
    (void)join(fixture, 0);
    SPIN_EXPECT_STATUS(
        submit(fixture, &clients[0], &(struct ask){.max_tokens = 4096, .prompt = 1}, &err),
        SPIN_ERR_LIMIT);
    /* Two may be open, and one of them may wait. */
    start(fixture, &clients[0], &ask);
    SPIN_EXPECT_STATUS(submit(fixture, &clients[1], &ask, &err), SPIN_ERR_EXHAUSTED);
    assert_string_equal(err.text, "your queue is full: 1 of your requests wait, at most 1");
    hold(fixture, 3, SPIN_FAKE_FOREVER);
    run_until(fixture, has_tokens, &clients[0]);
    start(fixture, &clients[1], &ask);
    run_until(fixture, has_tokens, &clients[1]);
    SPIN_EXPECT_STATUS(submit(fixture, &clients[2], &ask, &err), SPIN_ERR_EXHAUSTED);
    assert_string_equal(err.text, "2 sequences are open, at most 2");
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_REFUSED_QUEUE), 2);
    assert_in_range(spin_dispatcher_retry_after_s(fixture->dispatcher), 1, 60);
    spin_dispatcher_cancel(fixture->dispatcher, clients[0].generation);
    start(fixture, &clients[2], &ask); /* there is room again */
    spin_dispatcher_cancel(fixture->dispatcher, clients[1].generation);
    spin_dispatcher_cancel(fixture->dispatcher, clients[2].generation);
}

static int set_up_small(void **state)
{
    struct spin_dispatcher_config config = make_config();
    config.generations_max = 2;
    config.tenant_queue_max = 1;
    return set_up_with(state, &config, false);
}

static void test_no_worker_in_time(void **state)
{
    struct fixture *fixture = *state;
    const struct ask ask = {.max_tokens = 200, .prompt = 4};
    struct client client;
    struct spin_members *members = spin_dispatcher_members(fixture->dispatcher);
    spin_members_disconnect(members, join(fixture, 0), spin_now_ns(spin_clock_real()));
    generate(fixture, &client, &ask); /* its row is known, so it may come back: it waits */
    assert_int_equal(client.end.status, SPIN_ERR_PEER_LOST);
    assert_non_null(strstr(client.end_text, "no worker has taken requests for "));
    assert_int_equal(fixture->workers[0].calls, 0);
    /* When it does come back it is used at once. */
    start(fixture, &client, &ask);
    run_until(fixture, always, NULL);
    (void)join(fixture, 0);
    run_until(fixture, has_ended, &client);
    expect_whole(&client, &ask);
}

static void test_new_incarnation(void **state)
{
    struct fixture *fixture = *state;
    const struct ask ask = {.max_tokens = 20, .prompt = 4};
    struct client client;
    (void)join(fixture, 0);
    hold(fixture, 7, SPIN_FAKE_FOREVER);
    start(fixture, &client, &ask);
    run_until(fixture, has_tokens, &client);
    /* Started again, at another address. */
    (void)spin_fake_worker_join(&fixture->workers[1], spin_dispatcher_members(fixture->dispatcher),
                                "w0", 2);
    run_until(fixture, has_ended, &client);
    expect_whole(&client, &ask);
    assert_int_equal(client.end.recoveries, 1);
    assert_int_equal(fixture->workers[1].resumed, 7);
    run_until(fixture, first_worker_lost_one, fixture);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_WORKERS_LOST), 1);
}

/* A Join that breaks stops new work at once; what runs goes on. */
static void test_join_breaks(void **state)
{
    struct fixture *fixture = *state;
    const struct ask ask = {.max_tokens = 20, .prompt = 4};
    struct client first;
    struct client second;
    struct spin_member *member = join(fixture, 0);
    (void)join(fixture, 1);
    hold(fixture, 7, 1);
    start(fixture, &first, &ask);
    run_until(fixture, has_tokens, &first);
    spin_members_disconnect(spin_dispatcher_members(fixture->dispatcher), member,
                            spin_now_ns(spin_clock_real()));
    generate(fixture, &second, &ask);
    expect_whole(&second, &ask);
    assert_int_equal(fixture->workers[0].calls, 1);
    assert_int_equal(fixture->workers[1].calls, 1);
    assert_int_equal(first.ended, 0);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_RUNNING), 1);
    spin_dispatcher_cancel(fixture->dispatcher, first.generation);
}

static void test_drain(void **state)
{
    struct fixture *fixture = *state;
    const struct ask ask = {.max_tokens = 20, .prompt = 4};
    struct client held;
    struct client quick;
    struct spin_error err;
    (void)join(fixture, 0);
    hold(fixture, 7, 1);
    start(fixture, &held, &ask);
    run_until(fixture, has_tokens, &held);
    start(fixture, &quick, &ask);
    spin_dispatcher_drain(fixture->dispatcher, 300 * SPIN_NS_PER_MS, on_drained, fixture);
    SPIN_EXPECT_STATUS(submit(fixture, &(struct client){0}, &ask, &err), SPIN_ERR_SHUTDOWN);
    run_until(fixture, has_ended, &quick); /* it may finish */
    expect_whole(&quick, &ask);
    assert_int_equal(fixture->drained, 0);
    run_until(fixture, has_ended, &held); /* it may not */
    assert_int_equal(held.end.status, SPIN_ERR_SHUTDOWN);
    assert_int_equal(held.text_bytes, 7);
    run_until(fixture, is_drained, fixture);
}

/* --- many --- */

#define MANY 300u

struct many {
    struct client clients[MANY];
    uint32_t count;
};

static bool all_ended(void *context)
{
    const struct many *many = context;
    for (uint32_t i = 0; i < many->count; i++) {
        if (many->clients[i].ended == 0) {
            return false;
        }
    }
    return true;
}

static void test_many_with_deaths(void **state)
{
    struct fixture *fixture = *state;
    static struct many many;
    struct spin_rng rng = {.seed = 5};
    many.count = 90;
    for (uint32_t round = 0; round < 4; round++) {
        struct ask asks[MANY];
        for (uint32_t i = 0; i < WORKERS; i++) {
            (void)join(fixture, i);
            spin_fake_worker_tell(&fixture->workers[i],
                                  (struct spin_fake_script){.die_after = spin_rng_below(&rng, 20),
                                                            .deaths = i < 2 ? 10 : 0,
                                                            .death = SPIN_ERR_PEER_LOST,
                                                            .stop_at = SPIN_FAKE_FOREVER});
        }
        for (uint32_t i = 0; i < many.count; i++) {
            asks[i] = (struct ask){.max_tokens = 1 + spin_rng_below(&rng, 60),
                                   .prompt = 1 + spin_rng_below(&rng, 60),
                                   .scores = spin_rng_below(&rng, 4) == 0,
                                   .tops = spin_rng_below(&rng, 3)};
            start(fixture, &many.clients[i], &asks[i]);
            if (i % 30 == 29) {
                run_until(fixture, always, NULL);
            }
        }
        run_until(fixture, all_ended, &many);
        for (uint32_t i = 0; i < many.count; i++) {
            expect_whole(&many.clients[i], &asks[i]);
        }
    }
    const uint64_t moved = metric(fixture, SPIN_ROUTER_METRIC_RECOVERIES) +
                           metric(fixture, SPIN_ROUTER_METRIC_RETRIES);
    assert_in_range(moved, 10, 400);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_GENERATIONS), 360);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_ENDED_LENGTH), 360);
    assert_int_equal(metric(fixture, SPIN_ROUTER_METRIC_RUNNING), 0);
}

int main(void)
{
#define TEST(name, up) cmocka_unit_test_setup_teardown(name, up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_plain, set_up),
        TEST(test_death_at_every_token, set_up),
        TEST(test_death_at_every_token, set_up_one_by_one),
        TEST(test_no_finish, set_up),
        TEST(test_full_worker, set_up),
        TEST(test_worker_refuses, set_up),
        TEST(test_failures_are_limited, set_up_few_failures),
        TEST(test_silent_worker, set_up_impatient),
        TEST(test_slow_worker_is_not_dead, set_up_impatient),
        TEST(test_stop_string, set_up),
        TEST(test_cancel, set_up),
        TEST(test_refused_at_once, set_up_small),
        TEST(test_no_worker_in_time, set_up),
        TEST(test_new_incarnation, set_up),
        TEST(test_join_breaks, set_up),
        TEST(test_drain, set_up),
        TEST(test_many_with_deaths, set_up),
    };
#undef TEST
    return cmocka_run_group_tests(tests, NULL, NULL);
}
