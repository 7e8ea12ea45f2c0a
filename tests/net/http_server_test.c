/* What the socket tests cannot see: errors of create, ways to end, and the texts of refusals. The
 * client is a thread with a blocking socket; the server runs here. */
#include "net/http_server.h"

#include "base/clock.h"
#include "tests/spin_test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

struct fixture {
    struct spin_loop *loop;
    struct spin_http_server_config config;
    struct spin_http_server *server;
    struct spin_timer *patience; /* ends a test that hangs */
    const char *sends;
    char received[4096]; /* by the client, to the end */
    uint32_t closed;
    struct spin_loop_message done;
};

static void answer(void *context, struct spin_http_exchange *exchange,
                   const struct spin_http_request *request)
{
    (void)context;
    const struct spin_http_reply reply = {
        .status = 200,
        .body = request->path,
        .body_bytes = strlen(request->path),
    };
    spin_http_respond(exchange, &reply);
}

static void give_up(void *context)
{
    (void)context;
    fail_msg("the loop did not end");
}

static void init(struct fixture *fixture)
{
    *fixture = (struct fixture){.config = spin_http_server_config_default()};
    struct spin_error err;
    SPIN_EXPECT_OK(spin_loop_create(&fixture->loop, &err), &err);
    SPIN_EXPECT_STATUS(spin_timer_create(fixture->loop, give_up, NULL, &fixture->patience),
                       SPIN_OK);
    spin_timer_start(fixture->patience, 20 * SPIN_NS_PER_S, false);
    fixture->config.listen = "127.0.0.1:0";
    fixture->config.context = fixture;
    fixture->config.request = answer;
}

static void start(struct fixture *fixture)
{
    struct spin_error err;
    SPIN_EXPECT_OK(spin_http_server_create(fixture->loop, &fixture->config, &fixture->server, &err),
                   &err);
}

static void deinit(struct fixture *fixture)
{
    spin_http_server_destroy(fixture->server);
    spin_timer_destroy(fixture->patience);
    spin_loop_destroy(fixture->loop);
}

static int connect_to(uint32_t port)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static void stop(struct spin_loop_message *message)
{
    struct fixture *fixture =
        (struct fixture *)(void *)((char *)message - offsetof(struct fixture, done));
    spin_loop_stop(fixture->loop);
}

static void *run_client(void *argument)
{
    struct fixture *fixture = argument;
    const int fd = connect_to(spin_http_server_port(fixture->server));
    const size_t count = strlen(fixture->sends);
    if (write(fd, fixture->sends, count) == (ssize_t)count) {
        size_t at = 0;
        ssize_t got = 0;
        while ((got = read(fd, fixture->received + at, sizeof fixture->received - 1 - at)) > 0) {
            at += (size_t)got;
        }
    }
    (void)close(fd);
    fixture->done.run = stop;
    spin_loop_post(fixture->loop, &fixture->done);
    return NULL;
}

static void converse(struct fixture *fixture, const char *sends)
{
    pthread_t client;
    fixture->sends = sends;
    memset(fixture->received, 0, sizeof fixture->received);
    assert_int_equal(pthread_create(&client, NULL, run_client, fixture), 0);
    spin_loop_run(fixture->loop);
    assert_int_equal(pthread_join(client, NULL), 0);
}

#define GET "GET /path HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

/* --- create --- */

static void test_a_taken_port_names_the_flag(void **state)
{
    (void)state;
    struct fixture fixture;
    init(&fixture);
    start(&fixture);
    char listen[32];
    (void)snprintf(listen, sizeof listen, "127.0.0.1:%u", spin_http_server_port(fixture.server));
    fixture.config.listen = listen;
    fixture.config.listen_flag = "--http-listen";
    struct spin_http_server *second = NULL;
    struct spin_error err;
    SPIN_EXPECT_STATUS(spin_http_server_create(fixture.loop, &fixture.config, &second, &err),
                       SPIN_ERR_IO);
    assert_null(second);
    assert_non_null(strstr(err.text, listen));
    assert_non_null(strstr(err.text, "in use"));
    assert_non_null(strstr(err.text, "--http-listen"));
    deinit(&fixture);
}

static void test_bad_addresses_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "localhost", "127.0.0.1:99999", "::1:80", "256.1.1.1:80"};
    struct fixture fixture;
    init(&fixture);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(bad); i++) {
        struct spin_error err;
        fixture.config.listen = bad[i];
        SPIN_EXPECT_STATUS(
            spin_http_server_create(fixture.loop, &fixture.config, &fixture.server, &err),
            SPIN_ERR_INVALID);
        assert_non_null(strstr(err.text, bad[i]));
    }
    deinit(&fixture);
}

static void test_ipv6_in_brackets(void **state)
{
    (void)state;
    struct fixture fixture;
    init(&fixture);
    fixture.config.listen = "[::1]:0";
    struct spin_error err;
    const spin_status status =
        spin_http_server_create(fixture.loop, &fixture.config, &fixture.server, &err);
    if (status == SPIN_OK) {
        assert_int_not_equal(spin_http_server_port(fixture.server), 0);
    } else { /* this machine has none; the error is about that */
        SPIN_EXPECT_STATUS(status, SPIN_ERR_IO);
    }
    deinit(&fixture);
}

static void test_create_raises_the_limit_of_files(void **state)
{
    (void)state;
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    const struct rlimit low = {.rlim_cur = 64, .rlim_max = limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    struct fixture fixture;
    init(&fixture);
    start(&fixture);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(limit.rlim_cur, limit.rlim_max);
    struct sigaction action;
    assert_int_equal(sigaction(SIGPIPE, NULL, &action), 0);
    assert_true(action.sa_handler == SIG_IGN);
    deinit(&fixture);
}

/* --- refusals --- */

static void test_without_a_format_errors_are_plain(void **state)
{
    (void)state;
    struct fixture fixture;
    init(&fixture);
    start(&fixture);
    converse(&fixture, "nonsense\r\n\r\n");
    assert_non_null(strstr(fixture.received, "Content-Type: text/plain\r\n"));
    assert_non_null(strstr(fixture.received, "\r\n\r\n"));
    converse(&fixture, GET);
    assert_non_null(strstr(fixture.received, "\r\n\r\n/path"));
    struct spin_http_server_stats stats;
    spin_http_server_get_stats(fixture.server, &stats);
    assert_int_equal(stats.refused, 1);
    const uint64_t refused_5xx = stats.refused_5xx;
    assert_int_equal(stats.requests, 1);
    assert_int_equal(stats.bytes_in, strlen("nonsense\r\n\r\n" GET));
    converse(&fixture, "GET / HTTP/1.9\r\n\r\n");
    assert_non_null(strstr(fixture.received, " 505 "));
    spin_http_server_get_stats(fixture.server, &stats);
    assert_int_equal(stats.refused, 2);
    assert_int_equal(stats.refused_5xx, refused_5xx + 1);
    deinit(&fixture);
}

static uint64_t format_too_much(void *context, int status, const char *text, char *out,
                                uint64_t capacity)
{
    (void)context;
    (void)status;
    (void)text;
    memset(out, 'x', capacity);
    return capacity + 1;
}

static void test_an_error_too_long_to_format_is_plain(void **state)
{
    (void)state;
    struct fixture fixture;
    init(&fixture);
    fixture.config.format_error = format_too_much;
    fixture.config.error_content_type = "application/json";
    start(&fixture);
    converse(&fixture, "HEAD /\r\n\r\n");
    assert_non_null(strstr(fixture.received, "Content-Type: text/plain\r\n"));
    assert_null(strstr(fixture.received, "xxx"));
    deinit(&fixture);
}

/* --- the end --- */

static void on_closed(void *context)
{
    struct fixture *fixture = context;
    fixture->closed++;
    spin_loop_stop(fixture->loop);
}

static void test_close_without_connections(void **state)
{
    (void)state;
    struct fixture fixture;
    init(&fixture);
    start(&fixture);
    spin_http_server_close(fixture.server, SPIN_NO_DEADLINE, on_closed, &fixture);
    assert_int_equal(fixture.closed, 0); /* never from inside close */
    spin_loop_run(fixture.loop);
    assert_int_equal(fixture.closed, 1);
    deinit(&fixture);
}

/* Idle, half-read and refused connections go with the server; `closed` is not called any more. */
static void test_destroy_cuts_what_is_left(void **state)
{
    (void)state;
    for (int closes = 0; closes < 2; closes++) {
        struct fixture fixture;
        init(&fixture);
        start(&fixture);
        const int idle = connect_to(spin_http_server_port(fixture.server));
        const int half = connect_to(spin_http_server_port(fixture.server));
        assert_int_equal(write(half, "GET /", 5), 5);
        converse(&fixture, GET);
        if (closes != 0) {
            spin_http_server_close(fixture.server, 0, on_closed, &fixture);
        }
        deinit(&fixture);
        assert_int_equal(fixture.closed, 0);
        char byte;
        assert_true(read(idle, &byte, 1) <= 0);
        (void)close(idle);
        (void)close(half);
    }
}

/* --- ours --- */

static void respond_twice(void *context, struct spin_http_exchange *exchange,
                          const struct spin_http_request *request)
{
    answer(context, exchange, request);
    answer(context, exchange, request);
}

static void die_of_two_replies(void *argument)
{
    struct fixture *fixture = argument;
    init(fixture);
    fixture->config.request = respond_twice;
    start(fixture);
    converse(fixture, GET);
}

static void test_an_exchange_ends_once(void **state)
{
    (void)state;
    static struct fixture fixture;
    assert_true(spin_test_dies(die_of_two_replies, &fixture, "exchange->is_open"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_taken_port_names_the_flag),
        cmocka_unit_test(test_bad_addresses_are_refused),
        cmocka_unit_test(test_ipv6_in_brackets),
        cmocka_unit_test(test_create_raises_the_limit_of_files),
        cmocka_unit_test(test_without_a_format_errors_are_plain),
        cmocka_unit_test(test_an_error_too_long_to_format_is_plain),
        cmocka_unit_test(test_close_without_connections),
        cmocka_unit_test(test_destroy_cuts_what_is_left),
        cmocka_unit_test(test_an_exchange_ends_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
