/* The HTTP client with its n-th allocation failing, for every n until none fails: create or submit
 * refuse and no callback comes, or the call ends once; and nothing leaks. The linker puts these
 * functions in the way; they fail only while the client is called. */
#include "net/http_client.h"
#include "net/http_server.h"
#include "tests/spin_test.h"

#define ALLOCATIONS_MAX 20u

static uint32_t fail_at; /* the n-th allocation from now on fails; 0: none */

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

static void on_request(void *context, struct spin_http_exchange *exchange,
                       const struct spin_http_request *request)
{
    const struct spin_http_reply reply = {.status = 200,
                                          .content_type = "text/plain",
                                          .body = request->body,
                                          .body_bytes = request->body_bytes};
    (void)context;
    spin_http_respond(exchange, &reply);
}

struct seen {
    struct spin_loop *loop;
    uint32_t finished;
    spin_status status;
};

static void on_finished(void *context, const struct spin_http_outcome *outcome)
{
    struct seen *seen = context;
    seen->finished++;
    seen->status = outcome->status;
    spin_loop_stop(seen->loop);
}

/* Two calls, the second on the kept connection. Returns whether an allocation failed. */
static bool converse(struct spin_loop *loop, const char *address, uint32_t n)
{
    const struct spin_http_client_config config = {
        .address = address, .connections_max = 2, .head_bytes_max = 4096};
    struct spin_http_client *client = NULL;
    fail_at = n;
    spin_status status = spin_http_client_create(loop, &config, &client, NULL);
    for (uint32_t i = 0; i < 2 && status == SPIN_OK; i++) {
        struct seen seen = {.loop = loop};
        struct spin_http_call *call = NULL;
        const struct spin_http_call_request request = {.method = "POST",
                                                       .path = "/",
                                                       .body = "hello",
                                                       .body_bytes = 5,
                                                       .context = &seen,
                                                       .finished = on_finished};
        status = spin_http_client_submit(client, &request, &call, NULL);
        const uint32_t left = fail_at;
        fail_at = 0;
        if (status == SPIN_OK) {
            spin_loop_run(loop);
            assert_int_equal(seen.status, SPIN_OK);
        }
        assert_int_equal(seen.finished, status == SPIN_OK ? 1 : 0);
        fail_at = left;
    }
    const bool failed = fail_at == 0;
    fail_at = 0;
    assert_int_equal(status, failed ? SPIN_ERR_NO_MEMORY : SPIN_OK);
    spin_http_client_destroy(client);
    return failed;
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    struct spin_loop *loop = NULL;
    struct spin_http_server *server = NULL;
    struct spin_http_server_config config = spin_http_server_config_default();
    char address[32];
    config.listen = "127.0.0.1:0";
    config.request = on_request;
    assert_int_equal(spin_loop_create(&loop, NULL), SPIN_OK);
    assert_int_equal(spin_http_server_create(loop, &config, &server, NULL), SPIN_OK);
    (void)snprintf(address, sizeof address, "127.0.0.1:%u", spin_http_server_port(server));
    uint32_t n = 1;
    while (converse(loop, address, n)) {
        n++;
        assert_true(n < ALLOCATIONS_MAX);
    }
    assert_true(n > 4); /* the client, two requests, a connection */
    spin_http_server_destroy(server);
    spin_loop_destroy(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_allocation_may_fail)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
