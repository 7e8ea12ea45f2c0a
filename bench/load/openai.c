#include "bench/load/openai.h"

#include "base/list.h"
#include "bench/load/openai_event.h"
#include "bench/load/sse.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAD_BYTES_MAX (UINT64_C(64) << 10)
#define ERROR_BODY_BYTES 1024u /* of a refusal: enough for its sentence */
#define FIELDS_BYTES 512u

struct openai {
    struct spin_load_driver base;
    struct spin_load_openai_config config;
    struct spin_http_client *client;
    char path[256];
    char *fields; /* header lines */
    char *head;   /* the body up to the prompt, */
    char *tail;   /* and behind it, up to what differs between requests */
};

/* One answer under way. */
struct answer {
    struct openai *openai;
    struct spin_load_call *call;
    struct spin_http_call *http;
    struct spin_sse sse;
    int code;
    bool done;   /* [DONE] */
    bool ended;  /* a finish_reason */
    bool failed; /* outcome and call->error stand */
    enum spin_bench_outcome outcome;
    char text[200];
    char body[ERROR_BODY_BYTES]; /* of a refusal */
    uint64_t body_bytes;
    uint64_t at_ns; /* when the bytes in hand came */
};

/* --- what comes --- */

/* The first failure is the one that is told; the answer is over. */
static void fail(struct answer *answer, enum spin_bench_outcome outcome, const char *text)
{
    if (!answer->failed) {
        answer->failed = true;
        answer->outcome = outcome;
        (void)snprintf(answer->text, sizeof answer->text, "%s", text);
        spin_http_call_cancel(answer->http);
    }
}

static bool on_event(void *context, const char *data, uint64_t bytes)
{
    struct answer *answer = context;
    struct spin_openai_event event;
    if (bytes == 0 || answer->done) {
        return true;
    }
    if (!spin_openai_event_read(data, bytes, &event)) {
        char text[160];
        (void)snprintf(text, sizeof text, "an event that is no JSON object: %.80s", data);
        fail(answer, SPIN_BENCH_PROTOCOL, text);
        return false;
    }
    if (event.error[0] != '\0') {
        fail(answer, SPIN_BENCH_SERVER, event.error);
        return false;
    }
    if (event.has_text) {
        spin_load_tokens(answer->call, answer->at_ns);
    }
    if (event.has_usage) {
        spin_load_usage(answer->call, event.prompt_tokens, event.completion_tokens);
    }
    answer->ended = answer->ended || event.has_end;
    answer->done = answer->done || event.done;
    return true;
}

static void on_head(void *context, int code)
{
    struct answer *answer = context;
    answer->code = code;
}

static void on_body(void *context, uint64_t at_ns, const char *bytes, uint64_t count)
{
    struct answer *answer = context;
    answer->at_ns = at_ns;
    spin_load_heard(answer->call, at_ns);
    if (answer->code != 200) {
        const uint64_t kept = SPIN_MIN(count, sizeof answer->body - answer->body_bytes);
        memcpy(answer->body + answer->body_bytes, bytes, kept);
        answer->body_bytes += kept;
        return;
    }
    const spin_status status = spin_sse_feed(&answer->sse, bytes, count, on_event, answer);
    if (status != SPIN_OK) {
        fail(answer, SPIN_BENCH_PROTOCOL, "an event over the limit of a mebibyte");
    }
}

/* --- how it ended --- */

static enum spin_bench_outcome outcome_of_code(int code)
{
    if (code == 429 || code == 503) {
        return SPIN_BENCH_BUSY;
    }
    return code >= 500 ? SPIN_BENCH_SERVER
                       : (code >= 400 ? SPIN_BENCH_REFUSED : SPIN_BENCH_PROTOCOL);
}

static void judge_code(struct answer *answer, char *text, uint64_t capacity)
{
    char said[160];
    spin_openai_error_read(answer->body, answer->body_bytes, said, sizeof said);
    answer->outcome = outcome_of_code(answer->code);
    (void)snprintf(text, capacity, "HTTP %d: %s", answer->code, said);
}

/* A stream that ended its own way: with [DONE], or, for servers that send none, with a
 * finish_reason. */
static void judge_stream(struct answer *answer, const struct spin_http_outcome *http, char *text,
                         uint64_t capacity)
{
    const bool is_over = answer->done || (answer->ended && http->status == SPIN_OK);
    answer->outcome = is_over ? SPIN_BENCH_OK : SPIN_BENCH_BROKEN;
    (void)snprintf(text, capacity, "%s",
                   http->status == SPIN_OK ? "the stream ended without [DONE] or a finish_reason"
                                           : http->text);
    if (!is_over && http->status == SPIN_OK && answer->call->record.messages == 0) {
        answer->outcome = SPIN_BENCH_PROTOCOL;
        (void)snprintf(text, capacity, "HTTP 200 without a stream of events");
    }
}

static void judge(struct answer *answer, const struct spin_http_outcome *http)
{
    char text[sizeof answer->text] = "";
    if (answer->failed) {
        return;
    }
    if (http->status == SPIN_ERR_CORRUPT || http->status == SPIN_ERR_LIMIT) {
        answer->outcome = SPIN_BENCH_PROTOCOL;
    } else if (http->stage == SPIN_HTTP_STAGE_DIAL) {
        answer->outcome = SPIN_BENCH_CONNECT;
    } else if (http->stage == SPIN_HTTP_STAGE_SENT) {
        answer->outcome = SPIN_BENCH_BROKEN;
    } else if (answer->code != 200) {
        judge_code(answer, text, sizeof text);
    } else {
        judge_stream(answer, http, text, sizeof text);
    }
    (void)snprintf(answer->text, sizeof answer->text, "%s", text[0] != '\0' ? text : http->text);
}

static void on_finished(void *context, const struct spin_http_outcome *http)
{
    struct answer *answer = context;
    answer->http = NULL;
    judge(answer, http);
    spin_load_end(answer->call, answer->outcome, answer->text);
}

/* --- asking --- */

static spin_status submit(struct spin_load_driver *driver, struct spin_load_call *call,
                          struct spin_error *err)
{
    struct openai *openai = SPIN_CONTAINER_OF(driver, struct openai, base);
    const uint64_t capacity = strlen(openai->head) + call->prompt_bytes + strlen(openai->tail) + 96;
    struct answer *answer = calloc(1, sizeof *answer);
    char *body = malloc(capacity);
    spin_status status = SPIN_ERR_NO_MEMORY;
    if (answer == NULL || body == NULL) {
        (void)spin_fail(err, status, "a request of %" PRIu64 " bytes", capacity);
        goto fail;
    }
    /* Seeds of some servers are 32 bits. */
    const int bytes =
        snprintf(body, capacity, "%s%s%s,\"max_tokens\":%u,\"seed\":%" PRIu64 "}", openai->head,
                 call->prompt, openai->tail, call->record.asked_tokens, call->seed % INT32_MAX);
    SPIN_ASSERT(bytes > 0 && (uint64_t)bytes < capacity);
    answer->openai = openai;
    answer->call = call;
    const struct spin_http_call_request request = {.method = "POST",
                                                   .path = openai->path,
                                                   .fields = openai->fields,
                                                   .body = body,
                                                   .body_bytes = (uint64_t)bytes,
                                                   .context = answer,
                                                   .head = on_head,
                                                   .body_received = on_body,
                                                   .finished = on_finished};
    SPIN_TRY_GOTO(status, spin_http_client_submit(openai->client, &request, &answer->http, err),
                  fail);
    call->state = answer;
    free(body);
    return SPIN_OK;
fail:
    free(answer);
    free(body);
    return status;
}

static void cancel(struct spin_load_driver *driver, struct spin_load_call *call)
{
    struct answer *answer = call->state;
    (void)driver;
    if (answer->http != NULL && !answer->failed) {
        spin_http_call_cancel(answer->http);
    }
}

static void forget(struct spin_load_driver *driver, struct spin_load_call *call)
{
    struct answer *answer = call->state;
    (void)driver;
    if (answer != NULL) {
        spin_sse_deinit(&answer->sse);
        free(answer);
        call->state = NULL;
    }
}

/* --- life --- */

static void destroy(struct spin_load_driver *driver)
{
    struct openai *openai = SPIN_CONTAINER_OF(driver, struct openai, base);
    spin_http_client_destroy(openai->client);
    free(openai->fields);
    free(openai->head);
    free(openai->tail);
    free(openai);
}

/* The members of `text` without its braces, each with a comma before it: returns owned. */
static spin_status members_of(const char *text, char **out, struct spin_error *err)
{
    json_error_t why = {0};
    json_t *object = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(object)) {
        json_decref(object);
        return spin_fail(err, SPIN_ERR_INVALID, "--extra-body: not a JSON object: %.100s",
                         why.text);
    }
    char *dumped = json_dumps(object, JSON_COMPACT);
    const bool is_empty = json_object_size(object) == 0;
    json_decref(object);
    if (dumped == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "--extra-body");
    }
    dumped[strlen(dumped) - 1] = '\0';
    dumped[0] = ',';
    if (is_empty) {
        dumped[0] = '\0';
    }
    *out = dumped;
    return SPIN_OK;
}

/* Returns owned; NULL: no memory. */
SPIN_PRINTF(1, 2) static char *text_of(const char *fmt, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, fmt);
    const int bytes = vasprintf(&text, fmt, args);
    va_end(args);
    return bytes < 0 ? NULL : text;
}

static spin_status make_texts(struct openai *openai, struct spin_error *err)
{
    const struct spin_load_openai_config *config = &openai->config;
    char *extra = NULL;
    if (config->extra_body != NULL) {
        SPIN_TRY(members_of(config->extra_body, &extra, err));
    }
    json_t *name = json_string(config->model);
    char *model = name == NULL ? NULL : json_dumps(name, JSON_ENCODE_ANY);
    json_decref(name);
    const bool has_key = config->api_key != NULL;
    openai->fields =
        text_of("Content-Type: application/json\r\nAccept: text/event-stream\r\n%s%s%s",
                has_key ? "Authorization: Bearer " : "", has_key ? config->api_key : "",
                has_key ? "\r\n" : "");
    openai->head =
        text_of("{\"model\":%s,%s\"", model == NULL ? "" : model,
                config->chat ? "\"messages\":[{\"role\":\"user\",\"content\":" : "\"prompt\":");
    openai->tail =
        text_of("\"%s,\"stream\":true,\"stream_options\":{\"include_usage\":true},"
                "\"temperature\":0%s%s",
                config->chat ? "}]" : "", config->ignore_eos ? ",\"ignore_eos\":true" : "",
                extra == NULL ? "" : extra);
    const bool has_all =
        model != NULL && openai->fields != NULL && openai->head != NULL && openai->tail != NULL;
    free(model);
    free(extra);
    return has_all ? SPIN_OK : spin_fail(err, SPIN_ERR_INVALID, "--model: not UTF-8, or no memory");
}

static spin_status fill(struct openai *openai, struct spin_error *err)
{
    const struct spin_load_openai_config *config = &openai->config;
    const struct spin_http_client_config http = {.address = config->address,
                                                 .host = config->host,
                                                 .connections_max = config->connections_max,
                                                 .head_bytes_max = HEAD_BYTES_MAX};
    if (config->api_key != NULL && strpbrk(config->api_key, "\r\n") != NULL) {
        return spin_fail(err, SPIN_ERR_INVALID, "--api-key: a line end in it");
    }
    (void)snprintf(openai->path, sizeof openai->path, "%s/v1/%s", config->base,
                   config->chat ? "chat/completions" : "completions");
    SPIN_TRY(make_texts(openai, err));
    return spin_http_client_create(config->loop, &http, &openai->client, err);
}

spin_status spin_load_openai_create(const struct spin_load_openai_config *config,
                                    struct spin_load_driver **out, struct spin_error *err)
{
    struct openai *openai = calloc(1, sizeof *openai);
    if (openai == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "a driver: %zu bytes", sizeof *openai);
    }
    openai->config = *config;
    openai->base = (struct spin_load_driver){.name = "openai",
                                             .submit = submit,
                                             .cancel = cancel,
                                             .forget = forget,
                                             .destroy = destroy,
                                             .loop = config->loop};
    const spin_status status = fill(openai, err);
    if (status != SPIN_OK) {
        destroy(&openai->base);
        return status;
    }
    *out = &openai->base;
    return SPIN_OK;
}
