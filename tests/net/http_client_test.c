/* The HTTP client against a server of raw bytes: what it makes of every kind of answer, however it
 * is cut into pieces, which connections it keeps, and that each call ends exactly once. */
#include "net/http_client.h"

#include "base/clock.h"
#include "base/rng.h"
#include "tests/spin_test.h"

#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD_BYTES_MAX 512u
#define MS SPIN_NS_PER_MS

/* --- a server of raw bytes --- */

struct raw {
    int listener;
    char address[32];
    pthread_t thread;
    const char *answer; /* to every request */
    uint64_t answer_bytes;
    uint32_t piece_bytes; /* written at once */
    bool closes;          /* after each answer */
    bool silent;          /* never answers */
    uint32_t accepted;
    uint64_t received; /* bytes of requests */
};

static bool read_request(struct raw *raw, int socket)
{
    char bytes[4096];
    uint64_t count = 0;
    uint64_t wanted = UINT64_MAX;
    while (count < wanted) {
        const ssize_t got = recv(socket, bytes + count, sizeof bytes - count - 1, 0);
        if (got <= 0) {
            return false;
        }
        count += (uint64_t)got;
        raw->received += (uint64_t)got;
        bytes[count] = '\0';
        const char *end = strstr(bytes, "\r\n\r\n");
        const char *length = strstr(bytes, "Content-Length: ");
        if (end != NULL && length != NULL) {
            wanted = (uint64_t)(end - bytes) + 4 + strtoull(length + 16, NULL, 10);
        }
    }
    return true;
}

static void write_answer(const struct raw *raw, int socket)
{
    for (uint64_t at = 0; at < raw->answer_bytes; at += raw->piece_bytes) {
        const uint64_t bytes = SPIN_MIN(raw->piece_bytes, raw->answer_bytes - at);
        if (send(socket, raw->answer + at, bytes, MSG_NOSIGNAL) < 0) {
            return;
        }
    }
}

/* One connection at a time; ends when the listener is shut down. */
static void *serve(void *self)
{
    struct raw *raw = self;
    int socket = accept(raw->listener, NULL, NULL);
    while (socket >= 0) {
        raw->accepted++;
        while (read_request(raw, socket)) {
            if (!raw->silent) {
                write_answer(raw, socket);
            }
            if (raw->closes) {
                break;
            }
        }
        (void)close(socket);
        socket = accept(raw->listener, NULL, NULL);
    }
    return NULL;
}

static void raw_start(struct raw *raw)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t bytes = sizeof address;
    raw->piece_bytes = SPIN_MAX(raw->piece_bytes, 1u);
    raw->answer_bytes =
        raw->answer_bytes == 0 && raw->answer != NULL ? strlen(raw->answer) : raw->answer_bytes;
    raw->listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(raw->listener, (struct sockaddr *)&address, bytes), 0);
    assert_int_equal(listen(raw->listener, 64), 0);
    assert_int_equal(getsockname(raw->listener, (struct sockaddr *)&address, &bytes), 0);
    (void)snprintf(raw->address, sizeof raw->address, "127.0.0.1:%u", ntohs(address.sin_port));
    assert_int_equal(pthread_create(&raw->thread, NULL, serve, raw), 0);
}

static void raw_stop(struct raw *raw)
{
    (void)shutdown(raw->listener, SHUT_RDWR);
    assert_int_equal(pthread_join(raw->thread, NULL), 0);
    (void)close(raw->listener);
}

/* --- a client --- */

struct seen {
    struct spin_loop *loop;
    struct spin_http_call *call;
    int heads;
    int code;
    char body[4096];
    uint64_t body_bytes;
    uint64_t at_ns;
    int finished;
    spin_status status;
    enum spin_http_stage stage;
    char text[200];
    bool cancels_at_head;
    bool cancels_at_body;
};

static void on_head(void *context, int code)
{
    struct seen *seen = context;
    assert_int_equal(seen->finished, 0);
    seen->heads++;
    seen->code = code;
    if (seen->cancels_at_head) {
        spin_http_call_cancel(seen->call);
    }
}

static void on_body(void *context, uint64_t at_ns, const char *bytes, uint64_t count)
{
    struct seen *seen = context;
    assert_int_equal(seen->finished, 0);
    assert_int_equal(seen->heads, 1);
    assert_true(count <= sizeof seen->body - 1 - seen->body_bytes);
    assert_true(at_ns >= seen->at_ns);
    seen->at_ns = at_ns;
    memcpy(seen->body + seen->body_bytes, bytes, count);
    seen->body_bytes += count;
    if (seen->cancels_at_body) {
        spin_http_call_cancel(seen->call);
    }
}

static void on_finished(void *context, const struct spin_http_outcome *outcome)
{
    struct seen *seen = context;
    seen->finished++;
    seen->status = outcome->status;
    seen->stage = outcome->stage;
    assert_int_equal(outcome->code, seen->code);
    (void)snprintf(seen->text, sizeof seen->text, "%s", outcome->text);
    assert_true((seen->text[0] == '\0') == (outcome->status == SPIN_OK));
    spin_loop_stop(seen->loop);
}

static struct spin_http_client *client_to(struct spin_loop *loop, const char *address,
                                          uint32_t connections)
{
    struct spin_http_client *client = NULL;
    struct spin_error err = {0};
    const struct spin_http_client_config config = {
        .address = address, .connections_max = connections, .head_bytes_max = HEAD_BYTES_MAX};
    SPIN_EXPECT_OK(spin_http_client_create(loop, &config, &client, &err), &err);
    return client;
}

static spin_status ask(struct spin_http_client *client, struct spin_loop *loop, struct seen *seen)
{
    const struct spin_http_call_request request = {.method = "POST",
                                                   .path = "/x",
                                                   .fields = "X-Key: 1\r\n",
                                                   .body = "hello",
                                                   .body_bytes = 5,
                                                   .context = seen,
                                                   .head = on_head,
                                                   .body_received = on_body,
                                                   .finished = on_finished};
    seen->loop = loop;
    return spin_http_client_submit(client, &request, &seen->call, NULL);
}

static void wait_for(struct spin_loop *loop, const struct seen *seen)
{
    while (seen->finished == 0) {
        spin_loop_run(loop);
    }
    assert_int_equal(seen->finished, 1);
}

/* --- answers --- */

static const struct answer {
    const char *bytes;
    bool closes;
    spin_status status;
    enum spin_http_stage stage;
    int code;
    const char *body;
    bool is_kept; /* the connection, for the next call */
} answers[] = {
    {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", false, SPIN_OK, SPIN_HTTP_STAGE_WHOLE, 200,
     "abc", true},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
     false, SPIN_OK, SPIN_HTTP_STAGE_WHOLE, 200, "abcdefg", true},
    {"HTTP/1.1 204 None\r\n\r\n", false, SPIN_OK, SPIN_HTTP_STAGE_WHOLE, 204, "", true},
    {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno", false, SPIN_OK,
     SPIN_HTTP_STAGE_WHOLE, 500, "no", true},
    {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na", false, SPIN_OK,
     SPIN_HTTP_STAGE_WHOLE, 200, "a", false},
    {"HTTP/1.0 200 OK\r\n\r\nuntil the end", true, SPIN_OK, SPIN_HTTP_STAGE_WHOLE, 200,
     "until the end", false},
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", true, SPIN_ERR_PEER_LOST,
     SPIN_HTTP_STAGE_BODY, 200, "ab", false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", true, SPIN_ERR_PEER_LOST,
     SPIN_HTTP_STAGE_BODY, 200, "abc", false},
    {"", true, SPIN_ERR_PEER_LOST, SPIN_HTTP_STAGE_SENT, 0, "", false},
    {"HTTP/1.1 20", true, SPIN_ERR_PEER_LOST, SPIN_HTTP_STAGE_SENT, 0, "", false},
    {"SSH-2.0-x\r\n", false, SPIN_ERR_CORRUPT, SPIN_HTTP_STAGE_SENT, 0, "", false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", false, SPIN_ERR_CORRUPT,
     SPIN_HTTP_STAGE_BODY, 200, "", false},
    {"HTTP/1.1 101 Switch\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", false, SPIN_ERR_CORRUPT,
     SPIN_HTTP_STAGE_SENT, 0, "", false},
};

static void test_answers(void **state)
{
    (void)state;
    static const uint32_t pieces[] = {1, 3, 4096};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(answers) * SPIN_ARRAY_COUNT(pieces); i++) {
        const struct answer *answer = &answers[i / SPIN_ARRAY_COUNT(pieces)];
        struct raw raw = {.answer = answer->bytes,
                          .piece_bytes = pieces[i % SPIN_ARRAY_COUNT(pieces)],
                          .closes = answer->closes};
        raw_start(&raw);
        struct spin_loop *loop = NULL;
        assert_int_equal(spin_loop_create(&loop, NULL), SPIN_OK);
        struct spin_http_client *client = client_to(loop, raw.address, 4);
        for (uint32_t k = 0; k < 2; k++) {
            struct seen seen = {0};
            assert_int_equal(ask(client, loop, &seen), SPIN_OK);
            wait_for(loop, &seen);
            assert_int_equal(seen.status, answer->status);
            assert_int_equal(seen.stage, answer->stage);
            assert_int_equal(seen.code, answer->code);
            assert_string_equal(seen.body, answer->body);
        }
        struct spin_http_client_stats stats;
        spin_http_client_get_stats(client, &stats);
        assert_int_equal(stats.dialled, answer->is_kept ? 1 : 2);
        assert_int_equal(stats.calls_open, 0);
        spin_http_client_destroy(client);
        spin_loop_destroy(loop);
        raw_stop(&raw);
        assert_int_equal(raw.received, stats.bytes_out);
    }
}

/* Bytes behind an answer belong to nobody: the connection is not used again. */
static void test_more_than_the_answer(void **state)
{
    (void)state;
    struct raw raw = {.answer = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\n",
                      .piece_bytes = 4096};
    raw_start(&raw);
    struct spin_loop *loop = NULL;
    assert_int_equal(spin_loop_create(&loop, NULL), SPIN_OK);
    struct spin_http_client *client = client_to(loop, raw.address, 1);
    for (uint32_t i = 0; i < 3; i++) {
        struct seen seen = {0};
        assert_int_equal(ask(client, loop, &seen), SPIN_OK);
        wait_for(loop, &seen);
        assert_int_equal(seen.status, SPIN_OK);
        assert_string_equal(seen.body, "a");
    }
    spin_http_client_destroy(client);
    spin_loop_destroy(loop);
    raw_stop(&raw);
    assert_int_equal(raw.accepted, 3);
}

static void test_a_head_without_an_end(void **state)
{
    (void)state;
    char answer[2048];
    (void)snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nX: ");
    memset(answer + strlen(answer), 'a', sizeof answer - strlen(answer));
    struct raw raw = {.answer = answer, .answer_bytes = sizeof answer, .piece_bytes = 100};
    raw_start(&raw);
    struct spin_loop *loop = NULL;
    assert_int_equal(spin_loop_create(&loop, NULL), SPIN_OK);
    struct spin_http_client *client = client_to(loop, raw.address, 1);
    struct seen seen = {0};
    assert_int_equal(ask(client, loop, &seen), SPIN_OK);
    wait_for(loop, &seen);
    assert_int_equal(seen.status, SPIN_ERR_LIMIT);
    spin_http_client_destroy(client);
    spin_loop_destroy(loop);
    raw_stop(&raw);
}

/* --- ends --- */

static void test_cancel_in_every_stage(void **state)
{
    (void)state;
    for (uint32_t stage = 0; stage < 4; stage++) {
        struct raw raw = {.answer = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
                          .piece_bytes = 4096,
                          .silent = stage < 2};
        raw_start(&raw);
        struct spin_loop *loop = NULL;
        assert_int_equal(spin_loop_create(&loop, NULL), SPIN_OK);
        struct spin_http_client *client = client_to(loop, raw.address, 1);
        struct seen seen = {.cancels_at_head = stage == 2, .cancels_at_body = stage == 3};
        assert_int_equal(ask(client, loop, &seen), SPIN_OK);
        if (stage < 2) { /* before it was dialled; twice is once */
            spin_http_call_cancel(seen.call);
            spin_http_call_cancel(seen.call);
            assert_int_equal(seen.finished, 0);
        }
        wait_for(loop, &seen);
        assert_int_equal(seen.status, SPIN_ERR_CANCELLED);
        assert_int_equal(seen.stage, stage < 2 ? SPIN_HTTP_STAGE_DIAL : SPIN_HTTP_STAGE_BODY);
        assert_int_equal(seen.body_bytes, stage == 3 ? 3 : 0);
        struct spin_http_client_stats stats;
        spin_http_client_get_stats(client, &stats);
        assert_int_equal(stats.connections_open, 0);
        spin_http_client_destroy(client);
        spin_loop_destroy(loop);
        raw_stop(&raw);
    }
}

static void test_nobody_listens(void **state)
{
    (void)state;
    struct spin_loop *loop = NULL;
    assert_int_equal(spin_loop_create(&loop, NULL), SPIN_OK);
    struct spin_http_client *client = client_to(loop, "127.0.0.1:1", 1);
    struct seen seen = {0};
    assert_int_equal(ask(client, loop, &seen), SPIN_OK);
    struct seen second = {0};
    assert_int_equal(ask(client, loop, &second), SPIN_ERR_EXHAUSTED); /* connections_max is 1 */
    wait_for(loop, &seen);
    assert_int_equal(second.finished, 0);
    assert_int_equal(seen.status, SPIN_ERR_PEER_LOST);
    assert_int_equal(seen.stage, SPIN_HTTP_STAGE_DIAL);
    assert_non_null(strstr(seen.text, "refused"));
    spin_http_client_destroy(client);
    spin_loop_destroy(loop);
}

static void test_wrong_addresses(void **state)
{
    (void)state;
    static const char *const wrong[] = {"", "1.2.3.4", "localhost:80", "1.2.3.4:99999", ":80"};
    struct spin_loop *loop = NULL;
    assert_int_equal(spin_loop_create(&loop, NULL), SPIN_OK);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(wrong); i++) {
        const struct spin_http_client_config config = {
            .address = wrong[i], .connections_max = 1, .head_bytes_max = HEAD_BYTES_MAX};
        struct spin_http_client *client = NULL;
        struct spin_error err = {0};
        assert_int_equal(spin_http_client_create(loop, &config, &client, &err), SPIN_ERR_INVALID);
        assert_null(client);
    }
    spin_http_client_destroy(NULL);
    spin_loop_destroy(loop);
}

/* Any bytes as an answer: every call ends, once, and nothing is read that was not sent. */
static void test_any_bytes(void **state)
{
    (void)state;
    struct spin_rng rng = {.seed = 7};
    for (uint32_t i = 0; i < 400; i++) {
        char bytes[256];
        const struct answer *answer = &answers[spin_rng_below(&rng, SPIN_ARRAY_COUNT(answers))];
        const uint64_t count = SPIN_MAX(strlen(answer->bytes), 1);
        memcpy(bytes, answer->bytes, count);
        for (uint32_t k = 0; k < 3; k++) {
            bytes[spin_rng_below(&rng, (uint32_t)count)] = (char)spin_rng_below(&rng, 256);
        }
        struct raw raw = {.answer = bytes,
                          .answer_bytes = count,
                          .piece_bytes = 1 + spin_rng_below(&rng, 40),
                          .closes = true};
        raw_start(&raw);
        struct spin_loop *loop = NULL;
        assert_int_equal(spin_loop_create(&loop, NULL), SPIN_OK);
        struct spin_http_client *client = client_to(loop, raw.address, 1);
        struct seen seen = {0};
        assert_int_equal(ask(client, loop, &seen), SPIN_OK);
        wait_for(loop, &seen);
        assert_true(seen.body_bytes <= count);
        spin_http_client_destroy(client);
        spin_loop_destroy(loop);
        raw_stop(&raw);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_more_than_the_answer),
        cmocka_unit_test(test_a_head_without_an_end),
        cmocka_unit_test(test_cancel_in_every_stage),
        cmocka_unit_test(test_nobody_listens),
        cmocka_unit_test(test_wrong_addresses),
        cmocka_unit_test(test_any_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
