/* A conversation with the HTTP server, again and again with its n-th allocation failing, for every
 * n until none fails: the client gets its replies, a 503 or the end of its connection, a second
 * client is served as ever, and nothing leaks. The linker puts these functions in the way; only the
 * loop's thread is counted. */
#include "base/list.h"
#include "net/http_server.h"
#include "tests/spin_test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/socket.h>
#include <unistd.h>

/* More than one conversation takes. */
#define ALLOCATIONS_MAX 200u

static _Thread_local uint32_t fail_at; /* the n-th allocation from now on fails; 0: none */

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t bytes);

static bool fails(void)
{
    return fail_at != 0 && --fail_at == 0;
}

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t bytes)
{
    return fails() ? NULL : __real_realloc(old, bytes);
}

/* --- the server's side --- */

struct conversation {
    struct spin_loop *loop;
    struct spin_http_server *server;
    struct spin_http_exchange *stream; /* to be ended in a turn of its own */
    struct spin_loop_message end_stream;
    struct spin_loop_message relent; /* nothing fails from now on */
    sem_t relented;
    struct spin_loop_message finish;
    bool failed;    /* an allocation did */
    uint32_t whole; /* replies that the first client got in full */
    bool served;    /* the second client was */
};

static void end_stream(struct spin_loop_message *message)
{
    struct conversation *conversation = SPIN_CONTAINER_OF(message, struct conversation, end_stream);
    struct spin_http_exchange *exchange = conversation->stream;
    conversation->stream = NULL;
    spin_http_stream_write(exchange, "last", 4);
    spin_http_stream_end(exchange, true);
}

static void on_request(void *context, struct spin_http_exchange *exchange,
                       const struct spin_http_request *request)
{
    struct conversation *conversation = context;
    const struct spin_http_reply reply = {
        .status = 200,
        .content_type = "text/plain",
        .body = request->body,
        .body_bytes = request->body_bytes,
    };
    if (strcmp(request->path, "/stream") != 0) {
        spin_http_respond(exchange, &reply);
        return;
    }
    conversation->stream = exchange;
    conversation->end_stream.run = end_stream;
    spin_http_stream_begin(exchange, &reply);
    spin_http_stream_write(exchange, request->body, request->body_bytes);
    spin_loop_post(conversation->loop, &conversation->end_stream);
}

/* --- the clients' side --- */

#define HOST " HTTP/1.1\r\nHost: a\r\n"
static const char script[] =
    "POST /echo" HOST "Content-Length: 5\r\n\r\nfirst"
    "POST /stream" HOST "Transfer-Encoding: chunked\r\n\r\n"
    "6\r\nsecond\r\n0\r\n\r\n"
    "POST /echo" HOST "Content-Length: 5\r\nConnection: close\r\n\r\nthird";

static void talk(struct conversation *conversation, char *received, size_t capacity)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)spin_http_server_port(conversation->server)),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    size_t at = 0;
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) == 0 &&
        write(fd, script, sizeof script - 1) == (ssize_t)sizeof script - 1) {
        ssize_t got = 0;
        while ((got = read(fd, received + at, capacity - 1 - at)) > 0) {
            at += (size_t)got;
        }
    }
    received[at] = '\0';
    (void)close(fd);
}

static void relent(struct spin_loop_message *message)
{
    struct conversation *conversation = SPIN_CONTAINER_OF(message, struct conversation, relent);
    conversation->failed = fail_at == 0;
    fail_at = 0;
    (void)sem_post(&conversation->relented);
}

static void stop(struct spin_loop_message *message)
{
    spin_loop_stop(SPIN_CONTAINER_OF(message, struct conversation, finish)->loop);
}

static uint32_t count_whole(const char *received)
{
    static const char *const ends[] = {"\r\n\r\nfirst", "second\r\n4\r\nlast\r\n0\r\n\r\n",
                                       "\r\n\r\nthird"};
    uint32_t count = 0;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(ends); i++) {
        count += strstr(received, ends[i]) != NULL;
    }
    return count;
}

static void *run_clients(void *argument)
{
    struct conversation *conversation = argument;
    char received[4096];
    talk(conversation, received, sizeof received);
    conversation->whole = count_whole(received);
    conversation->relent.run = relent;
    spin_loop_post(conversation->loop, &conversation->relent);
    (void)sem_wait(&conversation->relented);
    talk(conversation, received, sizeof received);
    conversation->served = count_whole(received) == 3;
    conversation->finish.run = stop;
    spin_loop_post(conversation->loop, &conversation->finish);
    return NULL;
}

/* Returns whether an allocation failed. */
static bool converse(uint32_t n, uint32_t *whole)
{
    struct conversation conversation = {0};
    struct spin_error err;
    struct spin_http_server_config config = spin_http_server_config_default();
    config.listen = "127.0.0.1:0";
    config.context = &conversation;
    config.request = on_request;
    SPIN_EXPECT_OK(spin_loop_create(&conversation.loop, &err), &err);
    SPIN_EXPECT_OK(spin_http_server_create(conversation.loop, &config, &conversation.server, &err),
                   &err);
    pthread_t clients;
    assert_int_equal(sem_init(&conversation.relented, 0, 0), 0);
    assert_int_equal(pthread_create(&clients, NULL, run_clients, &conversation), 0);
    fail_at = n;
    spin_loop_run(conversation.loop);
    assert_int_equal(pthread_join(clients, NULL), 0);
    if (conversation.stream != NULL) { /* its message was behind the one that ended the loop */
        spin_loop_run(conversation.loop);
    }
    assert_true(conversation.served);
    *whole = conversation.whole;
    assert_int_equal(sem_destroy(&conversation.relented), 0);
    spin_http_server_destroy(conversation.server);
    spin_loop_destroy(conversation.loop);
    return conversation.failed;
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    uint32_t whole = 0;
    uint32_t hurt = 0;
    uint32_t n = 1;
    while (converse(n, &whole)) {
        hurt += whole != 3;
        n++;
        assert_true(n < ALLOCATIONS_MAX);
    }
    assert_int_equal(whole, 3);
    assert_true(n > 5);
    assert_true(hurt > 3);
}

static void ignore(void *context)
{
    (void)context;
}

static void test_create_may_fail(void **state)
{
    (void)state;
    struct spin_error err;
    struct spin_loop *loop = NULL;
    fail_at = 1;
    SPIN_EXPECT_STATUS(spin_loop_create(&loop, &err), SPIN_ERR_NO_MEMORY);
    SPIN_EXPECT_OK(spin_loop_create(&loop, &err), &err);
    struct spin_http_server_config config = spin_http_server_config_default();
    struct spin_http_server *server = NULL;
    config.listen = "127.0.0.1:0";
    config.request = on_request;
    fail_at = 1;
    SPIN_EXPECT_STATUS(spin_http_server_create(loop, &config, &server, &err), SPIN_ERR_NO_MEMORY);
    struct spin_timer *timer = NULL;
    fail_at = 1;
    SPIN_EXPECT_STATUS(spin_timer_create(loop, ignore, NULL, &timer), SPIN_ERR_NO_MEMORY);
    spin_loop_destroy(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_allocation_may_fail),
        cmocka_unit_test(test_create_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
