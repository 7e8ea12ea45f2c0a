/* Streams of requests, seen from both ends over loopback: every way one can end, and what happens
 * when either side is slower than the other. stub_server_test.py is the client we did not write. */
#include "base/assert.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "proto/rpc_client.h"
#include "proto/rpc_server.h"
#include "proto/spin/v1/worker.pb-c.h"
#include "tests/spin_test.h"

#include <pthread.h>
#include <unistd.h>

#define OUTBOX_BYTES 8192u
#define REQUEST_BYTES_MAX 4096u
#define REPLIES_MAX 4096u
#define SENDERS 4u
#define SENDS 200u                   /* of each sender */
#define WAIT_NS (20 * SPIN_NS_PER_S) /* nothing here takes a second; a hang fails instead */

/* What a message of one token asks the echo to do instead. */
#define ASK_FINISH (-1)
#define ASK_BLOCK (-2)

struct fixture {
    struct spin_rpc_server *server;
    struct spin_rpc_thread *thread;
    struct spin_rpc_client *client;
    struct spin_mutex mutex; /* guards the rest */
    struct spin_cond changed;
    struct spin_rpc_call *held;
    uint32_t started;
    uint32_t received;
    uint32_t half_closed;
    uint32_t gone;
    uint32_t blocked;
    uint32_t first_requests; /* start was handed a message */
    int32_t last[SENDERS];
    bool swapped; /* messages of one sender did not come in their order */
    bool unblock;
};

struct reply {
    struct fixture *fixture;
    struct spin_rpc_client_call *call;
    int32_t tokens[REPLIES_MAX];
    uint32_t count;
    uint32_t finished;
    enum spin_rpc_code code;
    char text[256];
    bool block; /* the next callback waits for fixture->unblock */
};

static uint64_t soon(void)
{
    return spin_now_ns(spin_clock_real()) + WAIT_NS;
}

static void wait_for(struct fixture *fixture, const uint32_t *value, uint32_t wanted)
{
    const uint64_t deadline_ns = soon();
    spin_mutex_lock(&fixture->mutex);
    bool in_time = true;
    while (*value < wanted && in_time) {
        in_time = spin_cond_wait(&fixture->changed, &fixture->mutex, deadline_ns);
    }
    const uint32_t reached = *value;
    spin_mutex_unlock(&fixture->mutex);
    if (reached < wanted) {
        fail_msg("waited in vain: %u of %u", reached, wanted);
    }
}

static void add(struct fixture *fixture, uint32_t *value)
{
    spin_mutex_lock(&fixture->mutex);
    (*value)++;
    spin_cond_broadcast(&fixture->changed);
    spin_mutex_unlock(&fixture->mutex);
}

static void unblock(struct fixture *fixture)
{
    spin_mutex_lock(&fixture->mutex);
    fixture->unblock = true;
    spin_cond_broadcast(&fixture->changed);
    spin_mutex_unlock(&fixture->mutex);
}

/* Under the lock. */
static void block(struct fixture *fixture)
{
    fixture->blocked++;
    spin_cond_broadcast(&fixture->changed);
    while (!fixture->unblock) {
        (void)spin_cond_wait(&fixture->changed, &fixture->mutex, SPIN_NO_DEADLINE);
    }
}

static void append_token(struct spin_rpc_call *call, int32_t value)
{
    Spin__V1__Token token;
    spin__v1__token__init(&token);
    Spin__V1__Token *list[1] = {&token};
    Spin__V1__GenerateResponse response;
    spin__v1__generate_response__init(&response);
    token.token = value;
    response.tokens = list;
    response.n_tokens = 1;
    spin_rpc_call_append(call, &response.base);
}

static void on_start(void *context, struct spin_rpc_call *call,
                     const struct ProtobufCMessage *request)
{
    struct fixture *fixture = context;
    spin_mutex_lock(&fixture->mutex);
    fixture->held = call;
    fixture->first_requests += request != NULL;
    spin_mutex_unlock(&fixture->mutex);
    add(fixture, &fixture->started);
}

static void on_echo(void *context, struct spin_rpc_call *call,
                    const struct ProtobufCMessage *message)
{
    struct fixture *fixture = context;
    const Spin__V1__GenerateRequest *asked = (const Spin__V1__GenerateRequest *)message;
    const int32_t value = asked->n_prompt_tokens > 0 ? asked->prompt_tokens[0] : 0;
    spin_mutex_lock(&fixture->mutex);
    if (value == ASK_BLOCK) {
        block(fixture);
    }
    spin_mutex_unlock(&fixture->mutex);
    if (value == ASK_FINISH) {
        spin_rpc_call_finish(call, SPIN_ERR_NOT_FOUND, "enough");
    } else {
        append_token(call, value);
    }
    add(fixture, &fixture->received);
}

static void on_echo_half_closed(void *context, struct spin_rpc_call *call)
{
    struct fixture *fixture = context;
    spin_rpc_call_finish(call, SPIN_OK, NULL);
    add(fixture, &fixture->half_closed);
}

/* Token t is the (t % 1000)th of sender t / 1000. */
static void on_count(void *context, struct spin_rpc_call *call,
                     const struct ProtobufCMessage *message)
{
    (void)call;
    struct fixture *fixture = context;
    const int32_t value = ((const Spin__V1__GenerateRequest *)message)->prompt_tokens[0];
    int32_t *last = &fixture->last[value / 1000];
    fixture->swapped = fixture->swapped || value % 1000 != *last;
    *last += 1;
    add(fixture, &fixture->received);
}

static void on_gone(void *context, struct spin_rpc_call *call)
{
    struct fixture *fixture = context;
    append_token(call, 1); /* nobody listens: allowed */
    spin_rpc_call_finish(call, SPIN_ERR_CANCELLED, NULL);
    add(fixture, &fixture->gone);
}

/* The call is finished by whoever runs the test. */
static void on_held_gone(void *context, struct spin_rpc_call *call)
{
    (void)call;
    struct fixture *fixture = context;
    add(fixture, &fixture->gone);
}

#define STREAM_METHOD(name, handler) \
    .path = (name), .request = &spin__v1__generate_request__descriptor, \
    .request_bytes_max = REQUEST_BYTES_MAX, .arena_bytes_max = 1 << 20, \
    .outbox_bytes = OUTBOX_BYTES, .calls_max = 8, .start = on_start, .message = (handler), \
    .half_closed = on_echo_half_closed

static const struct spin_rpc_method methods[] = {
    {STREAM_METHOD("/t.T/Echo", on_echo), .gone = on_gone},
    {STREAM_METHOD("/t.T/Count", on_count), .gone = on_gone},
    {STREAM_METHOD("/t.T/Hold", on_echo), .gone = on_held_gone},
};

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct spin_error err = {0};
    spin_mutex_init(&fixture->mutex);
    spin_cond_init(&fixture->changed);
    const struct spin_rpc_server_config config = {.listen = "127.0.0.1:0",
                                                  .listen_flag = "--listen",
                                                  .methods = methods,
                                                  .method_count = SPIN_ARRAY_COUNT(methods),
                                                  .context = fixture};
    SPIN_EXPECT_OK(spin_rpc_server_create(&config, &fixture->server, &err), &err);
    SPIN_EXPECT_OK(spin_rpc_server_start(fixture->server, &err), &err);
    char target[64];
    (void)snprintf(target, sizeof target, "127.0.0.1:%u", spin_rpc_server_port(fixture->server));
    SPIN_EXPECT_OK(spin_rpc_thread_create(&fixture->thread, &err), &err);
    const struct spin_rpc_client_config client = {.target = target};
    SPIN_EXPECT_OK(spin_rpc_client_create(fixture->thread, &client, &fixture->client, &err), &err);
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    spin_rpc_client_destroy(fixture->client);
    spin_rpc_thread_destroy(fixture->thread);
    if (fixture->server != NULL) {
        spin_rpc_server_stop(fixture->server, WAIT_NS);
        spin_rpc_server_destroy(fixture->server);
    }
    spin_cond_deinit(&fixture->changed);
    spin_mutex_deinit(&fixture->mutex);
    free(fixture);
    return 0;
}

static void on_reply(void *context, const struct ProtobufCMessage *message)
{
    struct reply *reply = context;
    const Spin__V1__GenerateResponse *response = (const Spin__V1__GenerateResponse *)message;
    spin_mutex_lock(&reply->fixture->mutex);
    for (size_t i = 0; i < response->n_tokens && reply->count < REPLIES_MAX; i++) {
        reply->tokens[reply->count++] = response->tokens[i]->token;
    }
    if (reply->block) {
        block(reply->fixture);
    }
    spin_cond_broadcast(&reply->fixture->changed);
    spin_mutex_unlock(&reply->fixture->mutex);
}

static void on_finished(void *context, const struct spin_rpc_outcome *outcome)
{
    struct reply *reply = context;
    reply->code = outcome->code;
    (void)snprintf(reply->text, sizeof reply->text, "%s", outcome->text);
    add(reply->fixture, &reply->finished);
}

struct ask {
    const char *path;
    const struct ProtobufCMessage *first; /* NULL: none */
    uint64_t outbox_bytes;
    uint64_t deadline_ns;
};

static struct reply *open_stream(struct fixture *fixture, const struct ask *ask)
{
    struct reply *reply = calloc(1, sizeof *reply);
    reply->fixture = fixture;
    const struct spin_rpc_request request = {
        .path = ask->path,
        .message = ask->first,
        .response = &spin__v1__generate_response__descriptor,
        .response_bytes_max = 1 << 20,
        .arena_bytes_max = 1 << 20,
        .deadline_ns = ask->deadline_ns > 0 ? ask->deadline_ns : SPIN_NO_DEADLINE,
        .sends_stream = true,
        .outbox_bytes = ask->outbox_bytes > 0 ? ask->outbox_bytes : 1 << 20,
        .context = reply,
        .message_received = on_reply,
        .finished = on_finished};
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_rpc_client_submit(fixture->client, &request, &reply->call, &err), &err);
    return reply;
}

static struct reply *open_path(struct fixture *fixture, const char *path)
{
    const struct ask ask = {.path = path};
    return open_stream(fixture, &ask);
}

static spin_status send_token(struct reply *reply, int32_t value)
{
    Spin__V1__GenerateRequest message;
    spin__v1__generate_request__init(&message);
    message.prompt_tokens = &value;
    message.n_prompt_tokens = 1;
    return spin_rpc_client_call_send(reply->call, &message.base, 0);
}

static void expect_end(struct reply *reply, enum spin_rpc_code code, const char *text)
{
    wait_for(reply->fixture, &reply->finished, 1);
    if (reply->code != code || strstr(reply->text, text) == NULL) {
        fail_msg("got %s \"%s\", wanted %s \"%s\"", spin_rpc_code_name(reply->code), reply->text,
                 spin_rpc_code_name(code), text);
    }
    assert_int_equal(reply->finished, 1);
    spin_rpc_client_call_release(reply->call);
    free(reply);
}

static void test_echo_both_ways_and_half_close(void **state)
{
    struct fixture *fixture = *state;
    struct reply *reply = open_path(fixture, "/t.T/Echo");
    for (int32_t i = 0; i < 500; i++) {
        assert_int_equal(send_token(reply, i), SPIN_OK);
        if (i % 100 == 99) { /* neither end has to be done for the other to go on */
            wait_for(fixture, &reply->count, (uint32_t)i + 1);
        }
    }
    assert_int_equal(fixture->half_closed, 0);
    spin_rpc_client_call_close_send(reply->call);
    wait_for(fixture, &reply->finished, 1);
    assert_int_equal(reply->count, 500);
    for (int32_t i = 0; i < 500; i++) {
        assert_int_equal(reply->tokens[i], i);
    }
    expect_end(reply, SPIN_RPC_OK, "");
    assert_int_equal(fixture->half_closed, 1);
    assert_int_equal(fixture->gone, 0);
    assert_int_equal(fixture->first_requests, 0);
}

static void test_first_message_and_no_message(void **state)
{
    struct fixture *fixture = *state;
    int32_t value = 7;
    Spin__V1__GenerateRequest message;
    spin__v1__generate_request__init(&message);
    message.prompt_tokens = &value;
    message.n_prompt_tokens = 1;
    const struct ask ask = {.path = "/t.T/Echo", .first = &message.base};
    struct reply *reply = open_stream(fixture, &ask);
    wait_for(fixture, &reply->count, 1);
    assert_int_equal(reply->tokens[0], 7);
    spin_rpc_client_call_close_send(reply->call);
    expect_end(reply, SPIN_RPC_OK, "");

    reply = open_path(fixture, "/t.T/Echo");
    wait_for(fixture, &fixture->started, 2); /* start does not wait for a message */
    spin_rpc_client_call_close_send(reply->call);
    wait_for(fixture, &reply->finished, 1);
    assert_int_equal(reply->count, 0);
    expect_end(reply, SPIN_RPC_OK, "");
    assert_int_equal(fixture->half_closed, 2);
}

static void test_server_finishes_first(void **state)
{
    struct fixture *fixture = *state;
    struct reply *reply = open_path(fixture, "/t.T/Echo");
    assert_int_equal(send_token(reply, 3), SPIN_OK);
    assert_int_equal(send_token(reply, ASK_FINISH), SPIN_OK);
    assert_int_equal(send_token(reply, 4), SPIN_OK); /* may arrive; goes nowhere */
    wait_for(fixture, &reply->finished, 1);
    assert_int_equal(send_token(reply, 5), SPIN_OK); /* goes nowhere */
    spin_rpc_client_call_close_send(reply->call);
    assert_int_equal(reply->count, 1);
    expect_end(reply, SPIN_RPC_NOT_FOUND, "enough");
    assert_int_equal(fixture->received, 2);
    assert_int_equal(fixture->half_closed, 0);
    assert_int_equal(fixture->gone, 0);
}

/* A client that goes away never looks like one that has said all it had to say. */
static void test_client_cancels(void **state)
{
    struct fixture *fixture = *state;
    for (uint32_t round = 1; round <= 40; round++) {
        struct reply *reply = open_path(fixture, "/t.T/Echo");
        assert_int_equal(send_token(reply, 1), SPIN_OK);
        wait_for(fixture, &reply->count, round % 2);
        spin_rpc_client_call_cancel(reply->call);
        expect_end(reply, SPIN_RPC_CANCELLED, "");
        spin_mutex_lock(&fixture->mutex);
        const uint32_t started = fixture->started;
        spin_mutex_unlock(&fixture->mutex);
        wait_for(fixture, &fixture->gone, started); /* early ones may not have reached the server */
    }
    assert_int_equal(fixture->half_closed, 0);
    assert_true(fixture->gone >= 20);
}

static void test_deadline(void **state)
{
    struct fixture *fixture = *state;
    const struct ask ask = {.path = "/t.T/Echo",
                            .deadline_ns = spin_now_ns(spin_clock_real()) + 100 * SPIN_NS_PER_MS};
    struct reply *reply = open_stream(fixture, &ask);
    wait_for(fixture, &fixture->gone, 1);
    expect_end(reply, SPIN_RPC_DEADLINE_EXCEEDED, "");
    assert_int_equal(fixture->half_closed, 0);
}

static void test_messages_we_cannot_take(void **state)
{
    struct fixture *fixture = *state;
    struct reply *reply = open_path(fixture, "/t.T/Echo");
    assert_int_equal(send_token(reply, 1), SPIN_OK);
    int32_t *tokens = calloc(5000, sizeof *tokens);
    Spin__V1__GenerateRequest large;
    spin__v1__generate_request__init(&large);
    large.prompt_tokens = tokens;
    large.n_prompt_tokens = 5000;
    assert_int_equal(spin_rpc_client_call_send(reply->call, &large.base, 0), SPIN_OK);
    free(tokens);
    wait_for(fixture, &fixture->gone, 1);
    expect_end(reply, SPIN_RPC_RESOURCE_EXHAUSTED, "at most 4096");

    reply = open_path(fixture, "/t.T/Echo");
    char name[] = "\xff\xff\xff";
    Spin__V1__Finish finish;
    spin__v1__finish__init(&finish);
    finish.error = name; /* field 4 of GenerateRequest is a message */
    assert_int_equal(spin_rpc_client_call_send(reply->call, &finish.base, 0), SPIN_OK);
    wait_for(fixture, &fixture->gone, 2);
    expect_end(reply, SPIN_RPC_INVALID_ARGUMENT, "malformed");

    assert_int_equal(fixture->received, 1);
    assert_int_equal(fixture->half_closed, 0);
    struct spin_rpc_server_stats stats;
    spin_rpc_server_get_stats(fixture->server, &stats);
    assert_int_equal(stats.refused, 2);
    assert_int_equal(stats.calls, 2);
}

/* The server's thread stands still in a handler: windows and sockets fill, then the outbox. */
static void test_slow_server_exhausts_the_outbox(void **state)
{
    struct fixture *fixture = *state;
    const struct ask ask = {.path = "/t.T/Count", .outbox_bytes = 4096};
    struct reply *other = open_path(fixture, "/t.T/Echo");
    struct reply *reply = open_stream(fixture, &ask);
    wait_for(fixture, &fixture->started, 2);
    assert_int_equal(send_token(other, ASK_BLOCK), SPIN_OK);
    wait_for(fixture, &fixture->blocked, 1);
    uint32_t sent = 0;
    uint32_t refused = 0; /* in a row, a millisecond apart: what waits does not leave any more */
    int32_t payload[1000] = {0};
    Spin__V1__GenerateRequest message;
    spin__v1__generate_request__init(&message);
    message.prompt_tokens = payload;
    message.n_prompt_tokens = SPIN_ARRAY_COUNT(payload);
    while (refused < 100) {
        payload[0] = (int32_t)(sent % 1000);
        const spin_status status = spin_rpc_client_call_send(reply->call, &message.base, 0);
        assert_true(status == SPIN_OK || status == SPIN_ERR_EXHAUSTED);
        sent += status == SPIN_OK;
        refused = status == SPIN_OK ? 0 : refused + 1;
        (void)usleep(status == SPIN_OK ? 0 : 1000);
    }
    print_message("no room after %u messages\n", sent);
    assert_true(sent > 16); /* the windows of HTTP/2 took more than the outbox holds */
    unblock(fixture);
    wait_for(fixture, &fixture->received, sent + 1); /* what was taken is not lost */
    spin_rpc_client_call_close_send(reply->call);
    expect_end(reply, SPIN_RPC_OK, "");
    spin_rpc_client_call_close_send(other->call);
    expect_end(other, SPIN_RPC_OK, "");
}

/* The client's thread stands still in a callback. */
static void test_slow_client_is_cut_off(void **state)
{
    struct fixture *fixture = *state;
    struct reply *reply = open_path(fixture, "/t.T/Hold");
    wait_for(fixture, &fixture->started, 1);
    reply->block = true;
    const uint64_t deadline_ns = soon();
    struct spin_rpc_server_stats stats = {0};
    while (stats.slow_readers == 0 && spin_now_ns(spin_clock_real()) < deadline_ns) {
        append_token(fixture->held, 1);
        spin_rpc_server_get_stats(fixture->server, &stats);
    }
    assert_int_equal(stats.slow_readers, 1);
    wait_for(fixture, &fixture->gone, 1); /* although the client never went */
    spin_rpc_call_finish(fixture->held, SPIN_ERR_CANCELLED, NULL);
    spin_mutex_lock(&fixture->mutex);
    reply->block = false;
    spin_mutex_unlock(&fixture->mutex);
    unblock(fixture);
    expect_end(reply, SPIN_RPC_RESOURCE_EXHAUSTED, "too slow");
    assert_int_equal(fixture->half_closed, 0);
}

struct sender {
    struct reply *reply;
    int32_t first;
};

static void *sender_main(void *context)
{
    const struct sender *sender = context;
    for (int32_t i = 0; i < (int32_t)SENDS; i++) {
        SPIN_ASSERT_EQ(send_token(sender->reply, sender->first + i), SPIN_OK);
    }
    return NULL;
}

/* Sends race with each other and with completions on the rpc thread. */
static void test_senders_on_many_threads(void **state)
{
    struct fixture *fixture = *state;
    struct reply *reply = open_path(fixture, "/t.T/Count");
    pthread_t threads[SENDERS];
    struct sender senders[SENDERS];
    for (uint32_t i = 0; i < SENDERS; i++) {
        senders[i] = (struct sender){.reply = reply, .first = (int32_t)i * 1000};
        assert_int_equal(pthread_create(&threads[i], NULL, sender_main, &senders[i]), 0);
    }
    for (uint32_t i = 0; i < SENDERS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    spin_rpc_client_call_close_send(reply->call);
    expect_end(reply, SPIN_RPC_OK, "");
    assert_int_equal(fixture->received, SENDERS * SENDS);
    assert_false(fixture->swapped);
}

static void test_destroy_of_the_client_ends_streams(void **state)
{
    struct fixture *fixture = *state;
    struct reply *reply = open_path(fixture, "/t.T/Echo");
    wait_for(fixture, &fixture->started, 1);
    spin_rpc_client_destroy(fixture->client);
    fixture->client = NULL;
    assert_int_equal(reply->finished, 1);
    assert_int_equal(send_token(reply, 1), SPIN_OK); /* goes nowhere */
    wait_for(fixture, &fixture->gone, 1);
    expect_end(reply, SPIN_RPC_CANCELLED, "");
}

static void test_stop_of_the_server_ends_streams(void **state)
{
    struct fixture *fixture = *state;
    struct reply *reply = open_path(fixture, "/t.T/Echo");
    wait_for(fixture, &fixture->started, 1);
    spin_rpc_server_stop(fixture->server, 50 * SPIN_NS_PER_MS);
    assert_int_equal(fixture->gone, 1);
    wait_for(fixture, &reply->finished, 1);
    assert_int_not_equal(reply->code, SPIN_RPC_OK);
    expect_end(reply, reply->code, "");
    spin_rpc_server_destroy(fixture->server);
    fixture->server = NULL;

    /* And one that never found a server. */
    reply = open_path(fixture, "/t.T/Echo");
    (void)send_token(reply, 1);
    expect_end(reply, SPIN_RPC_UNAVAILABLE, "");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_echo_both_ways_and_half_close),
        TEST(test_first_message_and_no_message),
        TEST(test_server_finishes_first),
        TEST(test_client_cancels),
        TEST(test_deadline),
        TEST(test_messages_we_cannot_take),
        TEST(test_slow_server_exhausts_the_outbox),
        TEST(test_slow_client_is_cut_off),
        TEST(test_senders_on_many_threads),
        TEST(test_destroy_of_the_client_ends_streams),
        TEST(test_stop_of_the_server_ends_streams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
