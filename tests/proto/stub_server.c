/* A server for a client of another make: it echoes streams, guards a method with a token, says who
 * calls, and switches its health. Prints its port; stops in order when its standard input ends. */
#include "base/clock.h"
#include "proto/rpc_server.h"
#include "proto/spin/v1/worker.pb-c.h"

#include <stdio.h>
#include <unistd.h>

#define GRACE_NS (5 * SPIN_NS_PER_S)

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

static int32_t first_token(const struct ProtobufCMessage *message)
{
    const Spin__V1__GenerateRequest *asked = (const Spin__V1__GenerateRequest *)message;
    return asked->n_prompt_tokens > 0 ? asked->prompt_tokens[0] : 0;
}

static void start_echo(void *context, struct spin_rpc_call *call,
                       const struct ProtobufCMessage *request)
{
    (void)context;
    (void)call;
    (void)request;
}

/* A negative token ends the call. */
static void echo(void *context, struct spin_rpc_call *call, const struct ProtobufCMessage *message)
{
    (void)context;
    const int32_t value = first_token(message);
    if (value >= 0) {
        append_token(call, value);
    } else {
        spin_rpc_call_finish(call, SPIN_ERR_LIMIT, "negative");
    }
}

static void echo_half_closed(void *context, struct spin_rpc_call *call)
{
    (void)context;
    spin_rpc_call_finish(call, SPIN_OK, NULL);
}

static void echo_gone(void *context, struct spin_rpc_call *call)
{
    (void)context;
    spin_rpc_call_finish(call, SPIN_ERR_CANCELLED, NULL);
}

static void start_one(void *context, struct spin_rpc_call *call,
                      const struct ProtobufCMessage *request)
{
    (void)context;
    append_token(call, first_token(request));
    spin_rpc_call_finish(call, SPIN_OK, NULL);
}

/* Answers with an error, whose text may be anything. */
static void start_whose(void *context, struct spin_rpc_call *call,
                        const struct ProtobufCMessage *request)
{
    (void)context;
    (void)request;
    char text[200];
    (void)snprintf(text, sizeof text, "[%s] %s", spin_rpc_call_bearer(call),
                   spin_rpc_call_peer(call));
    spin_rpc_call_finish(call, SPIN_ERR_NOT_FOUND, text);
}

/* Its own context, not the server's: where the server is. */
static void start_serving(void *context, struct spin_rpc_call *call,
                          const struct ProtobufCMessage *request)
{
    struct spin_rpc_server **server = context;
    spin_rpc_server_set_serving(*server, first_token(request) != 0);
    append_token(call, first_token(request));
    spin_rpc_call_finish(call, SPIN_OK, NULL);
}

#define METHOD(name, handler) \
    .path = (name), .request = &spin__v1__generate_request__descriptor, \
    .request_bytes_max = 65536, .arena_bytes_max = 1 << 20, .outbox_bytes = 1 << 16, \
    .calls_max = 16, .start = (handler)

int main(void)
{
    struct spin_rpc_server *server = NULL;
    const struct spin_rpc_method methods[] = {
        {METHOD("/t.T/Echo", start_echo), .message = echo, .half_closed = echo_half_closed,
         .gone = echo_gone},
        {METHOD("/t.T/One", start_one)},
        {METHOD("/t.T/Secret", start_one), .bearer = "correct horse"},
        {METHOD("/t.T/Whose", start_whose)},
        {METHOD("/t.T/Serving", start_serving), .context = &server},
    };
    const struct spin_rpc_server_config config = {.listen = "127.0.0.1:0",
                                                  .listen_flag = "--listen",
                                                  .methods = methods,
                                                  .method_count = SPIN_ARRAY_COUNT(methods)};
    struct spin_error err = {0};
    if (spin_rpc_server_create(&config, &server, &err) != SPIN_OK ||
        spin_rpc_server_start(server, &err) != SPIN_OK) {
        (void)fprintf(stderr, "%s\n", err.text);
        spin_rpc_server_destroy(server);
        return 1;
    }
    (void)printf("%u\n", spin_rpc_server_port(server));
    (void)fflush(stdout);
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
    const uint64_t before_ns = spin_now_ns(spin_clock_real());
    spin_rpc_server_stop(server, GRACE_NS);
    const bool waited = spin_now_ns(spin_clock_real()) - before_ns >= GRACE_NS;
    spin_rpc_server_destroy(server);
    return waited ? 2 : 0; /* nothing here is worth the grace */
}
