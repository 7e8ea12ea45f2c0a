/* Server and client of the wrapper against each other over loopback, on the messages of Worker:
 * every way a call can end, seen from both sides. The Python tests of worker/service are the
 * client that we did not write. */
#include "proto/rpc_server.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "proto/rpc_client.h"
#include "proto/spin/v1/health.pb-c.h"
#include "proto/spin/v1/worker.pb-c.h"
#include "tests/spin_test.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TOKENS_MAX 4000u
#define FLOOD_OUTBOX_BYTES 4096u
#define HOLD_CALLS_MAX 2u
#define TOKEN "0123456789abcdef"
#define WAIT_NS (20 * SPIN_NS_PER_S) /* nothing here takes a second; a hang fails instead */

struct fixture {
    struct spin_rpc_server *server;
    struct spin_rpc_thread *thread;
    struct spin_rpc_client *client;
    struct spin_mutex mutex;
    struct spin_cond changed;
    struct spin_rpc_call *held[HOLD_CALLS_MAX];
    uint32_t held_count;
    uint32_t gone_count;
    uint64_t deadline_ns;
    uint32_t markers; /* states that arrived not zeroed */
};

struct reply {
    struct fixture *fixture;
    int32_t tokens[TOKENS_MAX];
    uint32_t token_count;
    uint32_t message_count;
    uint32_t health;
    bool done;
    spin_status status;
    enum spin_rpc_code code;
    char text[256];
    struct spin_rpc_client_call *call;
    uint32_t block_after; /* tokens; the callback then waits for `unblock` */
    bool unblock;
};

static uint64_t soon(void)
{
    return spin_now_ns(spin_clock_real()) + WAIT_NS;
}

static void wait_for(struct fixture *fixture, const uint32_t *value, uint32_t wanted)
{
    const uint64_t deadline_ns = soon();
    spin_mutex_lock(&fixture->mutex);
    while (*value < wanted) {
        if (!spin_cond_wait(&fixture->changed, &fixture->mutex, deadline_ns)) {
            spin_mutex_unlock(&fixture->mutex);
            fail_msg("waited in vain: %u of %u", *value, wanted);
            return;
        }
    }
    spin_mutex_unlock(&fixture->mutex);
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

/* prompt_tokens[0]: how many tokens to answer with, all of them at once. */
static void start_count(void *context, struct spin_rpc_call *call,
                        const struct ProtobufCMessage *request)
{
    const Spin__V1__GenerateRequest *asked = (const Spin__V1__GenerateRequest *)request;
    struct fixture *fixture = context;
    uint64_t *state = spin_rpc_call_state(call);
    fixture->markers += *state != 0;
    *state = UINT64_MAX;
    for (int32_t i = 0; i < asked->prompt_tokens[0]; i++) {
        append_token(call, i);
    }
    spin_rpc_call_finish(call, SPIN_OK, NULL);
}

/* Keeps the call; whoever runs the test finishes it. */
static void start_hold(void *context, struct spin_rpc_call *call,
                       const struct ProtobufCMessage *request)
{
    (void)request;
    struct fixture *fixture = context;
    spin_mutex_lock(&fixture->mutex);
    SPIN_ASSERT_LT(fixture->held_count, HOLD_CALLS_MAX);
    fixture->held[fixture->held_count++] = call;
    fixture->deadline_ns = spin_rpc_call_deadline_ns(call);
    spin_cond_broadcast(&fixture->changed);
    spin_mutex_unlock(&fixture->mutex);
}

static void gone_hold(void *context, struct spin_rpc_call *call)
{
    (void)call;
    struct fixture *fixture = context;
    spin_mutex_lock(&fixture->mutex);
    fixture->gone_count++;
    spin_cond_broadcast(&fixture->changed);
    spin_mutex_unlock(&fixture->mutex);
}

static void start_refuse(void *context, struct spin_rpc_call *call,
                         const struct ProtobufCMessage *request)
{
    (void)context;
    (void)request;
    spin_rpc_call_finish(call, SPIN_ERR_LIMIT, "prompt_tokens: 9 tokens, at most 8");
}

/* Answers with the token that it was called with. */
static void start_tell(void *context, struct spin_rpc_call *call,
                       const struct ProtobufCMessage *request)
{
    (void)context;
    (void)request;
    spin_rpc_call_finish(call, SPIN_ERR_NOT_FOUND, spin_rpc_call_bearer(call));
}

/* Answers with the address that the call came from. */
static void start_peer(void *context, struct spin_rpc_call *call,
                       const struct ProtobufCMessage *request)
{
    (void)context;
    (void)request;
    spin_rpc_call_finish(call, SPIN_ERR_NOT_FOUND, spin_rpc_call_peer(call));
}

/* The context of one method, where the others have the server's. */
static uint32_t other_context;

static void start_other(void *context, struct spin_rpc_call *call,
                        const struct ProtobufCMessage *request)
{
    (void)request;
    spin_rpc_call_finish(call, context == &other_context ? SPIN_OK : SPIN_ERR_INTERNAL, NULL);
}

#define GENERATE_METHOD(name, handler, bytes) \
    .path = (name), .request = &spin__v1__generate_request__descriptor, \
    .request_bytes_max = 65536, .arena_bytes_max = 1 << 20, .outbox_bytes = (bytes), \
    .merge = true, .start = (handler)

static const struct spin_rpc_method methods[] = {
    {GENERATE_METHOD("/t.T/Count", start_count, 1 << 20), .calls_max = 64, .state_bytes = 8},
    {GENERATE_METHOD("/t.T/Single", start_count, 1 << 20), .calls_max = 64, .state_bytes = 8},
    {GENERATE_METHOD("/t.T/Hold", start_hold, FLOOD_OUTBOX_BYTES), .calls_max = HOLD_CALLS_MAX,
     .gone = gone_hold},
    {GENERATE_METHOD("/t.T/Refuse", start_refuse, 4096), .calls_max = 4},
    {GENERATE_METHOD("/t.T/Secret", start_tell, 4096), .calls_max = 4, .bearer = TOKEN},
    {GENERATE_METHOD("/t.T/Tell", start_tell, 4096), .calls_max = 4},
    {GENERATE_METHOD("/t.T/Peer", start_peer, 4096), .calls_max = 4},
    {GENERATE_METHOD("/t.T/Other", start_other, 4096), .calls_max = 4, .context = &other_context},
};

static struct spin_rpc_method method_copies[SPIN_ARRAY_COUNT(methods)];

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct spin_error err = {0};
    spin_mutex_init(&fixture->mutex);
    spin_cond_init(&fixture->changed);
    memcpy(method_copies, methods, sizeof methods);
    method_copies[1].merge = false;
    const struct spin_rpc_server_config config = {.listen = "127.0.0.1:0",
                                                  .listen_flag = "--listen",
                                                  .methods = method_copies,
                                                  .method_count = SPIN_ARRAY_COUNT(methods),
                                                  .context = fixture};
    SPIN_EXPECT_OK(spin_rpc_server_create(&config, &fixture->server, &err), &err);
    SPIN_EXPECT_OK(spin_rpc_server_start(fixture->server, &err), &err);
    char target[64];
    (void)snprintf(target, sizeof target, "127.0.0.1:%u", spin_rpc_server_port(fixture->server));
    SPIN_EXPECT_OK(spin_rpc_thread_create(&fixture->thread, &err), &err);
    const struct spin_rpc_client_config client = {.target = target};
    SPIN_EXPECT_OK(spin_rpc_client_create(fixture->thread, &client, &fixture->client, &err), &err);
    SPIN_EXPECT_OK(spin_rpc_client_wait_ready(fixture->client, soon(), &err), &err);
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

static void on_tokens(void *context, const struct ProtobufCMessage *message)
{
    struct reply *reply = context;
    const Spin__V1__GenerateResponse *response = (const Spin__V1__GenerateResponse *)message;
    spin_mutex_lock(&reply->fixture->mutex);
    reply->message_count++;
    for (size_t i = 0; i < response->n_tokens && reply->token_count < TOKENS_MAX; i++) {
        reply->tokens[reply->token_count++] = response->tokens[i]->token;
    }
    spin_cond_broadcast(&reply->fixture->changed);
    while (reply->block_after > 0 && reply->token_count >= reply->block_after && !reply->unblock) {
        (void)spin_cond_wait(&reply->fixture->changed, &reply->fixture->mutex, SPIN_NO_DEADLINE);
    }
    spin_mutex_unlock(&reply->fixture->mutex);
}

static void on_health(void *context, const struct ProtobufCMessage *message)
{
    struct reply *reply = context;
    reply->health = ((const Grpc__Health__V1__HealthCheckResponse *)message)->status;
}

static void on_finished(void *context, const struct spin_rpc_outcome *outcome)
{
    struct reply *reply = context;
    spin_mutex_lock(&reply->fixture->mutex);
    assert_false(reply->done);
    reply->done = true;
    reply->status = outcome->status;
    reply->code = outcome->code;
    (void)snprintf(reply->text, sizeof reply->text, "%s", outcome->text);
    spin_cond_broadcast(&reply->fixture->changed);
    spin_mutex_unlock(&reply->fixture->mutex);
}

static struct reply *submit_message(struct fixture *fixture, const char *path,
                                    const struct ProtobufCMessage *message, uint64_t deadline_ns)
{
    struct reply *reply = calloc(1, sizeof *reply);
    reply->fixture = fixture;
    const bool health = strstr(path, "Health") != NULL;
    const struct spin_rpc_request request = {
        .path = path,
        .message = message,
        .response = health ? &grpc__health__v1__health_check_response__descriptor
                           : &spin__v1__generate_response__descriptor,
        .response_bytes_max = SPIN_RPC_MESSAGE_BYTES_MAX,
        .arena_bytes_max = 64 << 20,
        .deadline_ns = deadline_ns,
        .context = reply,
        .message_received = health ? on_health : on_tokens,
        .finished = on_finished};
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_rpc_client_submit(fixture->client, &request, &reply->call, &err), &err);
    return reply;
}

static struct reply *submit(struct fixture *fixture, const char *path, int32_t count)
{
    Spin__V1__GenerateRequest message;
    spin__v1__generate_request__init(&message);
    message.prompt_tokens = &count;
    message.n_prompt_tokens = 1;
    return submit_message(fixture, path, &message.base, SPIN_NO_DEADLINE);
}

static void await(struct reply *reply)
{
    const uint64_t deadline_ns = soon();
    spin_mutex_lock(&reply->fixture->mutex);
    while (!reply->done &&
           spin_cond_wait(&reply->fixture->changed, &reply->fixture->mutex, deadline_ns)) {
    }
    const bool done = reply->done;
    spin_mutex_unlock(&reply->fixture->mutex);
    assert_true(done);
}

static void drop(struct reply *reply)
{
    spin_rpc_client_call_release(reply->call);
    free(reply);
}

static struct reply *call_and_await(struct fixture *fixture, const char *path, int32_t count)
{
    struct reply *reply = submit(fixture, path, count);
    await(reply);
    return reply;
}

static void expect_end(struct reply *reply, enum spin_rpc_code code, const char *text)
{
    await(reply);
    if (reply->code != code || strstr(reply->text, text) == NULL) {
        fail_msg("got %s \"%s\", wanted %s \"%s\"", spin_rpc_code_name(reply->code), reply->text,
                 spin_rpc_code_name(code), text);
    }
    drop(reply);
}

static void test_answers_arrive_whole_and_in_order(void **state)
{
    const struct {
        const char *path;
        int32_t count;
    } rows[] = {{"/t.T/Count", 0},    {"/t.T/Count", 1},  {"/t.T/Count", 3000},
                {"/t.T/Single", 500}, {"/t.T/Single", 1}, {"/t.T/Count", 2}};
    for (uint32_t r = 0; r < SPIN_ARRAY_COUNT(rows); r++) {
        struct reply *reply = call_and_await(*state, rows[r].path, rows[r].count);
        assert_int_equal(reply->status, SPIN_OK);
        assert_int_equal(reply->token_count, rows[r].count);
        for (int32_t i = 0; i < rows[r].count; i++) {
            assert_int_equal(reply->tokens[i], i);
        }
        /* What waits together leaves as one message, or message by message. */
        const bool merged = strcmp(rows[r].path, "/t.T/Count") == 0;
        assert_int_equal(reply->message_count, merged ? (rows[r].count > 0) : rows[r].count);
        drop(reply);
    }
    assert_int_equal(((struct fixture *)*state)->markers, 0);
}

static void test_refusals_carry_code_and_text(void **state)
{
    struct fixture *fixture = *state;
    expect_end(submit(fixture, "/t.T/Refuse", 1), SPIN_RPC_OUT_OF_RANGE,
               "prompt_tokens: 9 tokens, at most 8");
    expect_end(submit(fixture, "/t.T/Nobody", 1), SPIN_RPC_UNIMPLEMENTED,
               "unknown method /t.T/Nobody");

    int32_t *tokens = calloc(70000, sizeof *tokens);
    Spin__V1__GenerateRequest large;
    spin__v1__generate_request__init(&large);
    large.prompt_tokens = tokens;
    large.n_prompt_tokens = 70000;
    expect_end(submit_message(fixture, "/t.T/Count", &large.base, SPIN_NO_DEADLINE),
               SPIN_RPC_RESOURCE_EXHAUSTED, "at most 65536");
    free(tokens);

    char name[] = "\xff\xff\xff";
    Spin__V1__Finish finish;
    spin__v1__finish__init(&finish);
    finish.error = name; /* field 4 of GenerateRequest is a message */
    expect_end(submit_message(fixture, "/t.T/Count", &finish.base, SPIN_NO_DEADLINE),
               SPIN_RPC_INVALID_ARGUMENT, "malformed");

    struct spin_rpc_server_stats stats;
    spin_rpc_server_get_stats(fixture->server, &stats);
    assert_int_equal(stats.refused, 3); /* the handler's own refusal was a call */
    assert_int_equal(stats.calls, 1);
}

static void test_health_follows_the_switch(void **state)
{
    struct fixture *fixture = *state;
    Grpc__Health__V1__HealthCheckRequest message;
    grpc__health__v1__health_check_request__init(&message);
    char known[] = "t.T";
    char unknown[] = "t";
    for (uint32_t i = 0; i < 4; i++) {
        spin_rpc_server_set_serving(fixture->server, i % 2 == 1);
        message.service = i < 2 ? message.service : known;
        struct reply *reply = submit_message(fixture, "/grpc.health.v1.Health/Check", &message.base,
                                             SPIN_NO_DEADLINE);
        await(reply);
        assert_int_equal(reply->status, SPIN_OK);
        assert_int_equal(reply->health, i % 2 == 1 ? 1 : 2); /* SERVING, NOT_SERVING */
        drop(reply);
    }
    message.service = unknown;
    expect_end(
        submit_message(fixture, "/grpc.health.v1.Health/Check", &message.base, SPIN_NO_DEADLINE),
        SPIN_RPC_NOT_FOUND, "unknown service \"t\"");
}

static void test_client_cancel_reaches_the_handler_once(void **state)
{
    struct fixture *fixture = *state;
    struct reply *reply = submit(fixture, "/t.T/Hold", 1);
    wait_for(fixture, &fixture->held_count, 1);
    append_token(fixture->held[0], 7);
    wait_for(fixture, &reply->token_count, 1);
    assert_int_equal(reply->tokens[0], 7);
    assert_int_equal(fixture->gone_count, 0);
    spin_rpc_client_call_cancel(reply->call);
    wait_for(fixture, &fixture->gone_count, 1);
    append_token(fixture->held[0], 8); /* nobody listens: allowed */
    spin_rpc_call_finish(fixture->held[0], SPIN_ERR_CANCELLED, NULL);
    expect_end(reply, SPIN_RPC_CANCELLED, "");
    assert_int_equal(fixture->gone_count, 1);
}

static void test_deadline_is_known_and_kept(void **state)
{
    struct fixture *fixture = *state;
    Spin__V1__GenerateRequest message;
    spin__v1__generate_request__init(&message);
    const uint64_t now_ns = spin_now_ns(spin_clock_real());
    const uint64_t deadline_ns = now_ns + 200 * SPIN_NS_PER_MS;
    struct reply *reply = submit_message(fixture, "/t.T/Hold", &message.base, deadline_ns);
    wait_for(fixture, &fixture->held_count, 1);
    /* The wire rounds timeouts up, and the clocks of both ends are one here. */
    assert_in_range(fixture->deadline_ns, deadline_ns - SPIN_NS_PER_MS,
                    deadline_ns + 50 * SPIN_NS_PER_MS);
    wait_for(fixture, &fixture->gone_count, 1);
    assert_true(spin_now_ns(spin_clock_real()) >= deadline_ns - SPIN_NS_PER_MS);
    spin_rpc_call_finish(fixture->held[0], SPIN_ERR_DEADLINE, NULL);
    expect_end(reply, SPIN_RPC_DEADLINE_EXCEEDED, "");

    reply = submit(fixture, "/t.T/Hold", 1);
    wait_for(fixture, &fixture->held_count, 2);
    assert_true(fixture->deadline_ns == SPIN_NO_DEADLINE);
    spin_rpc_call_finish(fixture->held[1], SPIN_OK, NULL);
    expect_end(reply, SPIN_RPC_OK, "");
}

/* --- a timeout that no client of ours sends --- */

static void put(uint8_t *out, uint32_t *count, const void *bytes, size_t size)
{
    memcpy(out + *count, bytes, size);
    *count += (uint32_t)size;
}

/* A header of HTTP/2, neither indexed nor compressed (RFC 7541, 6.2.2). */
static void put_field(uint8_t *out, uint32_t *count, const char *name, const char *value)
{
    const uint8_t literal = 0;
    const uint8_t name_bytes = (uint8_t)strlen(name);
    const uint8_t value_bytes = (uint8_t)strlen(value);
    put(out, count, &literal, 1);
    put(out, count, &name_bytes, 1);
    put(out, count, name, name_bytes);
    put(out, count, &value_bytes, 1);
    put(out, count, value, value_bytes);
}

/* A call of /t.T/Hold with an empty message, byte by byte; the caller closes the socket. */
static int call_with_timeout(const struct fixture *fixture, const char *timeout)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    static const uint8_t settings[9] = {0, 0, 0, 4};
    static const uint8_t data[14] = {0, 0, 5, 0, 1, 0, 0, 0, 1}; /* and five bytes: no message */
    uint8_t fields[256];
    uint32_t field_bytes = 0;
    put_field(fields, &field_bytes, ":method", "POST");
    put_field(fields, &field_bytes, ":scheme", "http");
    put_field(fields, &field_bytes, ":path", "/t.T/Hold");
    put_field(fields, &field_bytes, ":authority", "test");
    put_field(fields, &field_bytes, "te", "trailers");
    put_field(fields, &field_bytes, "content-type", "application/grpc");
    put_field(fields, &field_bytes, "grpc-timeout", timeout);
    const uint8_t headers[9] = {0, 0, (uint8_t)field_bytes, 1, 4, 0, 0, 0, 1};
    uint8_t all[512];
    uint32_t count = 0;
    put(all, &count, preface, sizeof preface - 1);
    put(all, &count, settings, sizeof settings);
    put(all, &count, headers, sizeof headers);
    put(all, &count, fields, field_bytes);
    put(all, &count, data, sizeof data);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct sockaddr_in address = {.sin_family = AF_INET,
                                        .sin_port =
                                            htons((uint16_t)spin_rpc_server_port(fixture->server)),
                                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(write(fd, all, count), count);
    return fd;
}

/* 2^64 ns are 5,124,095.6 hours: a deadline that wraps round is near. */
static void test_deadline_beyond_the_clock(void **state)
{
    struct fixture *fixture = *state;
    const int fd = call_with_timeout(fixture, "5124096H");
    wait_for(fixture, &fixture->held_count, 1);
    assert_true(fixture->deadline_ns == SPIN_NO_DEADLINE);
    spin_rpc_call_finish(fixture->held[0], SPIN_OK, NULL);
    assert_int_equal(close(fd), 0);
}

static void test_calls_over_the_limit_are_refused(void **state)
{
    struct fixture *fixture = *state;
    struct reply *first = submit(fixture, "/t.T/Hold", 1);
    struct reply *second = submit(fixture, "/t.T/Hold", 1);
    wait_for(fixture, &fixture->held_count, 2);
    expect_end(submit(fixture, "/t.T/Hold", 1), SPIN_RPC_RESOURCE_EXHAUSTED, "2 calls are open");
    /* Others are not concerned. */
    drop(call_and_await(fixture, "/t.T/Count", 3));
    spin_rpc_call_finish(fixture->held[0], SPIN_OK, NULL);
    spin_rpc_call_finish(fixture->held[1], SPIN_ERR_INTERNAL, "the second");
    expect_end(first, SPIN_RPC_OK, "");
    expect_end(second, SPIN_RPC_INTERNAL, "the second");
}

/* The client's thread stands still inside a callback: windows and sockets fill, then the outbox. */
static void test_slow_reader_is_cut_off(void **state)
{
    struct fixture *fixture = *state;
    struct reply *reply = submit(fixture, "/t.T/Hold", 1);
    wait_for(fixture, &fixture->held_count, 1);
    reply->block_after = 1;
    const uint64_t deadline_ns = soon();
    uint64_t appended = 0;
    struct spin_rpc_server_stats stats = {0};
    while (stats.slow_readers == 0 && spin_now_ns(spin_clock_real()) < deadline_ns) {
        append_token(fixture->held[0], 1);
        appended++;
        spin_rpc_server_get_stats(fixture->server, &stats);
    }
    assert_int_equal(stats.slow_readers, 1);
    wait_for(fixture, &fixture->gone_count, 1); /* although the client never went */
    spin_rpc_call_finish(fixture->held[0], SPIN_ERR_CANCELLED, NULL);
    print_message("cut off after %llu messages\n", (unsigned long long)appended);
    spin_mutex_lock(&fixture->mutex);
    reply->unblock = true;
    spin_cond_broadcast(&fixture->changed);
    spin_mutex_unlock(&fixture->mutex);
    expect_end(reply, SPIN_RPC_RESOURCE_EXHAUSTED, "too slow");
}

static void *stop_main(void *context)
{
    struct fixture *fixture = context;
    spin_rpc_server_stop(fixture->server, 100 * SPIN_NS_PER_MS);
    return NULL;
}

static void test_stop_cancels_after_the_grace(void **state)
{
    struct fixture *fixture = *state;
    struct reply *reply = submit(fixture, "/t.T/Hold", 1);
    wait_for(fixture, &fixture->held_count, 1);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, stop_main, fixture), 0);
    wait_for(fixture, &fixture->gone_count, 1);
    spin_rpc_call_finish(fixture->held[0], SPIN_ERR_SHUTDOWN, NULL);
    assert_int_equal(pthread_join(thread, NULL), 0);
    await(reply);
    assert_int_not_equal(reply->code, SPIN_RPC_OK);
    drop(reply);
    struct spin_rpc_server_stats stats;
    spin_rpc_server_get_stats(fixture->server, &stats);
    assert_int_equal(stats.calls_open, 0);
    spin_rpc_server_destroy(fixture->server);
    fixture->server = NULL;

    struct spin_error err = {0};
    expect_end(submit(fixture, "/t.T/Count", 1), SPIN_RPC_UNAVAILABLE, "");
    const uint64_t deadline_ns = spin_now_ns(spin_clock_real()) + 50 * SPIN_NS_PER_MS;
    SPIN_EXPECT_STATUS(spin_rpc_client_wait_ready(fixture->client, deadline_ns, &err),
                       SPIN_ERR_PEER_LOST);
}

static void test_destroy_of_the_client_cancels(void **state)
{
    struct fixture *fixture = *state;
    struct reply *reply = submit(fixture, "/t.T/Hold", 1);
    wait_for(fixture, &fixture->held_count, 1);
    spin_rpc_client_destroy(fixture->client);
    fixture->client = NULL;
    assert_true(reply->done);
    wait_for(fixture, &fixture->gone_count, 1);
    spin_rpc_call_finish(fixture->held[0], SPIN_ERR_CANCELLED, NULL);
    drop(reply);
}

struct burst {
    struct spin_rpc_call *call;
    int32_t count;
};

static void *burst_main(void *context)
{
    const struct burst *burst = context;
    for (int32_t i = 0; i < burst->count; i++) {
        append_token(burst->call, i);
    }
    spin_rpc_call_finish(burst->call, SPIN_OK, NULL);
    return NULL;
}

/* Appends race with send completions on other threads; nothing may be lost or swapped. */
static void test_two_streams_from_other_threads(void **state)
{
    struct fixture *fixture = *state;
    struct reply *replies[2];
    pthread_t threads[2];
    struct burst bursts[2];
    for (uint32_t i = 0; i < 2; i++) {
        replies[i] = submit(fixture, "/t.T/Hold", 1);
    }
    wait_for(fixture, &fixture->held_count, 2);
    for (uint32_t i = 0; i < 2; i++) {
        bursts[i] =
            (struct burst){fixture->held[i], 300}; /* 300 tokens fit the outbox in any case */
        assert_int_equal(pthread_create(&threads[i], NULL, burst_main, &bursts[i]), 0);
    }
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        await(replies[i]);
        assert_int_equal(replies[i]->status, SPIN_OK);
        assert_int_equal(replies[i]->token_count, 300);
        for (int32_t t = 0; t < 300; t++) {
            assert_int_equal(replies[i]->tokens[t], t);
        }
        drop(replies[i]);
    }
}

/* The fixture's client, now with another token. */
static void reconnect(struct fixture *fixture, const char *bearer)
{
    spin_rpc_client_destroy(fixture->client);
    char target[64];
    (void)snprintf(target, sizeof target, "127.0.0.1:%u", spin_rpc_server_port(fixture->server));
    const struct spin_rpc_client_config config = {.target = target, .bearer = bearer};
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_rpc_client_create(fixture->thread, &config, &fixture->client, &err), &err);
}

static void test_tokens_are_sent_and_compared(void **state)
{
    struct fixture *fixture = *state;
    char longest[4097];
    memset(longest, '~', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    const char *wrong[] = {"0123456789abcdee", "0123456789abcde", "0123456789abcdeff", longest};
    expect_end(submit(fixture, "/t.T/Secret", 1), SPIN_RPC_UNAUTHENTICATED, "Bearer <token>");
    expect_end(submit(fixture, "/t.T/Tell", 1), SPIN_RPC_NOT_FOUND, "");
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(wrong); i++) {
        reconnect(fixture, wrong[i]);
        expect_end(submit(fixture, "/t.T/Secret", 1), SPIN_RPC_UNAUTHENTICATED, "not the right");
    }
    reconnect(fixture, TOKEN);
    expect_end(submit(fixture, "/t.T/Secret", 1), SPIN_RPC_NOT_FOUND, TOKEN);
    expect_end(submit(fixture, "/t.T/Tell", 1), SPIN_RPC_NOT_FOUND, TOKEN);
    struct spin_rpc_server_stats stats;
    spin_rpc_server_get_stats(fixture->server, &stats);
    assert_int_equal(stats.refused, 1 + SPIN_ARRAY_COUNT(wrong));
    assert_int_equal(stats.calls, 3);
}

static void test_tokens_that_no_header_can_carry(void **state)
{
    struct fixture *fixture = *state;
    char large[4098];
    memset(large, 'x', sizeof large - 1);
    large[sizeof large - 1] = '\0';
    const char *bad[] = {"", "two words", "line\nbreak", "\x7f", "\xc3\xa9", large};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(bad); i++) {
        const struct spin_rpc_client_config config = {.target = "127.0.0.1:1", .bearer = bad[i]};
        struct spin_rpc_client *client = NULL;
        struct spin_error err = {0};
        SPIN_EXPECT_STATUS(spin_rpc_client_create(fixture->thread, &config, &client, &err),
                           SPIN_ERR_INVALID);
        assert_non_null(strstr(err.text, "bearer token"));
    }
}

static void test_a_client_is_a_connection(void **state)
{
    struct fixture *fixture = *state;
    char first[256];
    struct reply *reply = call_and_await(fixture, "/t.T/Peer", 1);
    (void)snprintf(first, sizeof first, "%s", reply->text);
    drop(reply);
    assert_ptr_equal(strstr(first, "ipv4:127.0.0.1:"), first);
    expect_end(submit(fixture, "/t.T/Peer", 1), SPIN_RPC_NOT_FOUND, first);
    struct spin_rpc_client *kept = fixture->client;
    fixture->client = NULL;
    reconnect(fixture, NULL);
    reply = call_and_await(fixture, "/t.T/Peer", 1);
    assert_string_not_equal(reply->text, first);
    drop(reply);
    spin_rpc_client_destroy(kept);
}

static void test_a_method_has_its_own_context(void **state)
{
    expect_end(submit(*state, "/t.T/Other", 1), SPIN_RPC_OK, "");
}

static void test_bad_addresses_are_named(void **state)
{
    struct fixture *fixture = *state;
    struct spin_rpc_server *server = NULL;
    struct spin_error err = {0};
    char taken[64];
    (void)snprintf(taken, sizeof taken, "127.0.0.1:%u", spin_rpc_server_port(fixture->server));
    struct spin_rpc_server_config config = {.listen = taken, .listen_flag = "--listen"};
    SPIN_EXPECT_STATUS(spin_rpc_server_create(&config, &server, &err), SPIN_ERR_IO);
    assert_non_null(strstr(err.text, "Address already in use"));
    assert_non_null(strstr(err.text, "--listen"));
    const char *bad[] = {
        "", ":", ":1", "host", "host:", "host:65536", "host:x", "::1:80", "[::1]", "h:1 "};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(bad); i++) {
        config.listen = bad[i];
        SPIN_EXPECT_STATUS(spin_rpc_server_create(&config, &server, &err), SPIN_ERR_INVALID);
        struct spin_rpc_client *client = NULL;
        const struct spin_rpc_client_config bad_config = {.target = bad[i]};
        SPIN_EXPECT_STATUS(spin_rpc_client_create(fixture->thread, &bad_config, &client, &err),
                           SPIN_ERR_INVALID);
    }
    /* Created and never started: nothing hangs, nothing leaks. */
    config.listen = "[::1]:0";
    if (spin_rpc_server_create(&config, &server, &err) == SPIN_OK) {
        spin_rpc_server_destroy(server);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_answers_arrive_whole_and_in_order),
        TEST(test_refusals_carry_code_and_text),
        TEST(test_health_follows_the_switch),
        TEST(test_client_cancel_reaches_the_handler_once),
        TEST(test_deadline_is_known_and_kept),
        TEST(test_deadline_beyond_the_clock),
        TEST(test_calls_over_the_limit_are_refused),
        TEST(test_slow_reader_is_cut_off),
        TEST(test_stop_cancels_after_the_grace),
        TEST(test_destroy_of_the_client_cancels),
        TEST(test_two_streams_from_other_threads),
        TEST(test_tokens_are_sent_and_compared),
        TEST(test_tokens_that_no_header_can_carry),
        TEST(test_a_client_is_a_connection),
        TEST(test_a_method_has_its_own_context),
        TEST(test_bad_addresses_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
