#include "base/assert.h"
#include "base/clock.h"
#include "bench/load/stub_internal.h"
#include "net/http_server.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOKENS_DEFAULT 16u
#define EVENT_BYTES 4096u
#define CONNECTIONS_MAX 60000u

struct http_stream {
    struct stub_stream base;
    struct spin_load_stub *stub;
    struct spin_http_exchange *exchange;
    bool is_chat;
};

/* --- answers --- */

static void begin_reply(struct http_stream *stream)
{
    const struct spin_http_reply reply = {.status = 200, .content_type = "text/event-stream"};
    if (stream->base.messages <= 1) {
        spin_http_stream_begin(stream->exchange, &reply);
    }
}

static void write_event(struct http_stream *stream, const char *text)
{
    spin_http_stream_write(stream->exchange, text, strlen(text));
}

static void write_choice(struct http_stream *stream, const char *text, const char *reason)
{
    char event[EVENT_BYTES];
    (void)snprintf(event, sizeof event,
                   "data: {\"id\":\"stub-1\",\"object\":\"%s\",\"created\":0,\"model\":\"stub\","
                   "\"choices\":[{\"index\":0,%s\"%s\"%s,\"finish_reason\":%s}]}\n\n",
                   stream->is_chat ? "chat.completion.chunk" : "text_completion",
                   stream->is_chat ? "\"delta\":{\"content\":" : "\"text\":", text,
                   stream->is_chat ? "}" : "", reason);
    write_event(stream, event);
}

static void send_tokens(struct stub_stream *base, uint32_t tokens)
{
    struct http_stream *stream = SPIN_CONTAINER_OF(base, struct http_stream, base);
    char text[512] = "";
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < tokens && bytes + 6 < sizeof text; i++) {
        bytes += (uint64_t)snprintf(text + bytes, sizeof text - bytes, " word");
    }
    begin_reply(stream);
    write_choice(stream, text, "null");
}

static void finish(struct http_stream *stream, bool complete)
{
    spin_http_stream_end(stream->exchange, complete);
    free(stream);
}

static void end_well(struct http_stream *stream)
{
    char usage[256];
    write_choice(stream, "", "\"length\"");
    if (stream->stub->config.usage) {
        (void)snprintf(usage, sizeof usage,
                       "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":%u,"
                       "\"completion_tokens\":%u,\"total_tokens\":%u}}\n\n",
                       stream->base.prompt_tokens, stream->base.tokens,
                       stream->base.prompt_tokens + stream->base.tokens);
        write_event(stream, usage);
    }
    write_event(stream, "data: [DONE]\n\n");
    finish(stream, true);
}

static void end_answer(struct stub_stream *base, enum spin_load_fault fault)
{
    struct http_stream *stream = SPIN_CONTAINER_OF(base, struct http_stream, base);
    if (base->messages == 0) {
        begin_reply(stream);
    }
    switch (fault) {
    case SPIN_LOAD_FAULT_ERROR:
        write_event(stream, "data: {\"error\":{\"message\":\"the stub was told to fail\","
                            "\"code\":500}}\n\n");
        finish(stream, true);
        return;
    case SPIN_LOAD_FAULT_CUT:
        finish(stream, false);
        return;
    case SPIN_LOAD_FAULT_GARBAGE:
        write_event(stream, "data: {\"choices\": [\n\n");
        finish(stream, true);
        return;
    case SPIN_LOAD_FAULT_SHORT:
        finish(stream, true);
        return;
    case SPIN_LOAD_FAULT_NONE:
    case SPIN_LOAD_FAULT_EMPTY:
    case SPIN_LOAD_FAULT_REFUSE:
    case SPIN_LOAD_FAULT_BUSY:
    case SPIN_LOAD_FAULT_STALL:
    case SPIN_LOAD_FAULTS:
        end_well(stream);
        return;
    }
}

static const struct stub_carrier carrier = {.send = send_tokens, .end = end_answer};

/* --- requests --- */

static void respond(struct spin_http_exchange *exchange, int status, const char *type,
                    const char *body)
{
    const struct spin_http_reply reply = {
        .status = status, .content_type = type, .body = body, .body_bytes = strlen(body)};
    spin_http_respond(exchange, &reply);
}

static void respond_error(struct spin_http_exchange *exchange, int status, const char *text)
{
    char body[256];
    (void)snprintf(body, sizeof body, "{\"error\":{\"message\":\"%s\",\"code\":%d}}", text, status);
    respond(exchange, status, "application/json", body);
}

static uint32_t count_words(const char *text)
{
    uint32_t words = text == NULL || *text == '\0' ? 0 : 1;
    for (; text != NULL && *text != '\0'; text++) {
        words += *text == ' ' ? 1 : 0;
    }
    return words;
}

static const char *prompt_of(const json_t *body, bool is_chat)
{
    const json_t *message = json_array_get(json_object_get(body, "messages"), 0);
    return json_string_value(is_chat ? json_object_get(message, "content")
                                     : json_object_get(body, "prompt"));
}

static void begin_stream(struct spin_load_stub *stub, struct spin_http_exchange *exchange,
                         const json_t *body, bool is_chat)
{
    const json_int_t asked = json_integer_value(json_object_get(body, "max_tokens"));
    const enum spin_load_fault fault = spin_load_stub_next_fault(stub);
    if (fault == SPIN_LOAD_FAULT_REFUSE || fault == SPIN_LOAD_FAULT_BUSY) {
        respond_error(exchange, fault == SPIN_LOAD_FAULT_BUSY ? 429 : 500, "the stub was told to");
        return;
    }
    struct http_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL) {
        respond_error(exchange, 503, "out of memory");
        return;
    }
    stream->stub = stub;
    stream->exchange = exchange;
    stream->is_chat = is_chat;
    stream->base.carrier = &carrier;
    stream->base.fault = fault;
    stream->base.prompt_tokens = count_words(prompt_of(body, is_chat));
    stream->base.tokens_max = asked < 1 || asked > UINT32_MAX ? TOKENS_DEFAULT : (uint32_t)asked;
    spin_http_set_state(exchange, stream);
    spin_load_stub_begin(stub, &stream->base);
}

static void on_completion(struct spin_load_stub *stub, struct spin_http_exchange *exchange,
                          const struct spin_http_request *request, bool is_chat)
{
    json_t *body = json_loadb(request->body, request->body_bytes, 0, NULL);
    if (!json_is_true(json_object_get(body, "stream")) || prompt_of(body, is_chat) == NULL) {
        respond_error(exchange, 400, "a JSON object with stream: true and a text");
    } else {
        begin_stream(stub, exchange, body, is_chat);
    }
    json_decref(body);
}

static void on_request(void *context, struct spin_http_exchange *exchange,
                       const struct spin_http_request *request)
{
    struct spin_load_stub *stub = context;
    char text[256];
    if (strcmp(request->path, "/v1/completions") == 0) {
        on_completion(stub, exchange, request, false);
    } else if (strcmp(request->path, "/v1/chat/completions") == 0) {
        on_completion(stub, exchange, request, true);
    } else if (strcmp(request->path, "/v1/models") == 0) {
        respond(exchange, 200, "application/json",
                "{\"object\":\"list\",\"data\":[{\"id\":\"stub\",\"object\":\"model\"}]}");
    } else if (strcmp(request->path, "/metrics") == 0) {
        (void)snprintf(text, sizeof text,
                       "# TYPE stub_requests_total counter\nstub_requests_total %" PRIu64
                       "\n# TYPE stub_messages_total counter\nstub_messages_total %" PRIu64 "\n",
                       stub->requests, stub->messages);
        respond(exchange, 200, "text/plain; version=0.0.4", text);
    } else {
        respond_error(exchange, 404, "no such path");
    }
}

static void on_gone(void *context, struct spin_http_exchange *exchange)
{
    struct http_stream *stream = spin_http_state(exchange);
    (void)context;
    if (stream == NULL) {
        return;
    }
    spin_load_stub_leave(&stream->base);
    if (stream->base.messages == 0) {
        respond_error(exchange, 503, "nobody reads it");
        free(stream);
    } else {
        finish(stream, false);
    }
}

spin_status spin_load_stub_open_http(struct spin_load_stub *stub, struct spin_error *err)
{
    struct spin_http_server_config config = spin_http_server_config_default();
    config.listen = stub->config.http_listen;
    config.listen_flag = "--http";
    config.connections_max = CONNECTIONS_MAX;
    config.context = stub;
    config.request = on_request;
    config.gone = on_gone;
    return spin_http_server_create(stub->loop, &config, &stub->http, err);
}
