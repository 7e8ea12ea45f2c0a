/* A request with a body: read here or on a pool thread, then answered at once or by generations. */
#include "base/assert.h"
#include "base/clock.h"
#include "router/http/api_internal.h"
#include "router/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* All streams wait while a body is read on the loop. Of plain text these bytes take some 0.3 ms, of
 * the worst, one word of random letters, 4 ms; another thread costs 0.05 ms more. */
#define INLINE_BODY_BYTES_MAX (UINT64_C(4) << 10)
#define TIMEOUT_HEADER "x-request-timeout"
#define TIMEOUT_S_MAX 86400.0

void spin_api_call_destroy(struct spin_api_call *call)
{
    struct spin_http_api *api = call->api;
    SPIN_ASSERT(!call->reading);
    spin_api_completion_deinit(call);
    spin_intake_deinit(&call->intake);
    free(call);
    SPIN_ASSERT_GT(api->calls_open, 0);
    api->calls_open--;
    spin_api_call_ended(api);
}

static bool is_generation(const struct spin_api_call *call)
{
    return call->intake.endpoint == SPIN_OPENAI_CHAT ||
           call->intake.endpoint == SPIN_OPENAI_COMPLETIONS;
}

void spin_api_call_refuse(struct spin_api_call *call, const struct spin_openai_error *error)
{
    if (is_generation(call) && (error->http_status == 400 || error->http_status == 404)) {
        spin_metrics_add(call->api->parts.metrics, SPIN_ROUTER_METRIC_REFUSED_INVALID, 1);
    }
    spin_api_respond_error(call->api, call->exchange, error, call->request_id);
    spin_api_call_destroy(call);
}

static void refuse_status(struct spin_api_call *call, spin_status status, const char *text)
{
    struct spin_openai_error error;
    spin_openai_error_from_status(&error, status, text);
    spin_api_call_refuse(call, &error);
}

/* --- closing --- */

static void write_error_event(struct spin_api_call *call)
{
    struct spin_json_writer *writer = &call->api->scratch;
    spin_json_writer_reset(writer);
    SPIN_JSON_LITERAL(writer, "data: ");
    spin_openai_error_write(&call->error, writer);
    SPIN_JSON_LITERAL(writer, "\n\n");
    if (!writer->failed) {
        spin_http_stream_write(call->exchange, writer->bytes, writer->count);
    }
}

static void run_close(struct spin_loop_message *message)
{
    struct spin_api_call *call = SPIN_CONTAINER_OF(message, struct spin_api_call, close_message);
    spin_api_completion_cancel(call);
    if (!call->stream) {
        /* To a client that is gone this goes nowhere; the exchange wants its end. */
        spin_api_respond_error(call->api, call->exchange, &call->error, call->request_id);
    } else {
        if (!call->gone) {
            write_error_event(call);
        }
        spin_http_stream_end(call->exchange, !call->gone);
    }
    spin_api_call_destroy(call);
}

void spin_api_call_fail(struct spin_api_call *call, const struct spin_openai_error *error)
{
    if (call->closing) {
        return; /* the first reason counts */
    }
    call->closing = true;
    call->error = *error;
    call->close_message.run = run_close;
    spin_loop_post(call->api->parts.loop, &call->close_message);
}

void spin_api_call_gone(struct spin_api_call *call)
{
    call->gone = true;
    if (!call->reading) { /* else the reader's end finds it */
        struct spin_openai_error error;
        spin_openai_error_from_http(&error, 408, "the client left");
        spin_api_call_fail(call, &error);
    }
}

/* --- beginning --- */

static void answer(struct spin_api_call *call)
{
    if (call->intake.status != SPIN_OK) {
        spin_api_call_refuse(call, &call->intake.error);
    } else if (is_generation(call)) {
        spin_api_completion_start(call);
    } else {
        const struct spin_api_reply reply = {.status = 200,
                                             .content_type = "application/json",
                                             .body = call->intake.reply.bytes,
                                             .body_bytes = call->intake.reply.count,
                                             .request_id = call->request_id};
        spin_api_respond(call->api, call->exchange, &reply);
        spin_api_call_destroy(call);
    }
}

static void read_body(struct spin_loop_work *work)
{
    spin_intake_run(&SPIN_CONTAINER_OF(work, struct spin_api_call, work)->intake);
}

static void body_is_read(struct spin_loop_work *work)
{
    struct spin_api_call *call = SPIN_CONTAINER_OF(work, struct spin_api_call, work);
    call->reading = false;
    if (call->gone) {
        refuse_status(call, SPIN_ERR_CANCELLED, "the client left");
    } else {
        answer(call);
    }
}

static void read_and_answer(struct spin_api_call *call)
{
    if (call->intake.body_bytes <= INLINE_BODY_BYTES_MAX) {
        spin_intake_run(&call->intake);
        answer(call);
        return;
    }
    call->reading = true;
    call->work.run = read_body;
    call->work.done = body_is_read;
    if (spin_loop_work(call->api->parts.loop, &call->work) != SPIN_OK) {
        call->reading = false;
        refuse_status(call, SPIN_ERR_NO_MEMORY, NULL);
    }
}

/* Seconds, with decimals; false when the header is there and is not that. */
static bool read_deadline(struct spin_api_call *call)
{
    const char *text = spin_http_header(call->exchange, TIMEOUT_HEADER);
    call->deadline_ns = SPIN_NO_DEADLINE;
    if (text == NULL) {
        return true;
    }
    const size_t bytes = strspn(text, "0123456789.");
    char *end = NULL;
    const double seconds = strtod(text, &end);
    if (bytes == 0 || text[bytes] != '\0' || end != text + bytes || !(seconds > 0) ||
        seconds > TIMEOUT_S_MAX) {
        return false;
    }
    call->deadline_ns = spin_deadline_ns(spin_loop_now_ns(call->api->parts.loop),
                                         (uint64_t)(seconds * (double)SPIN_NS_PER_S));
    return true;
}

/* What can be said before the body is looked at. */
static bool check_state(struct spin_api_call *call)
{
    struct spin_openai_error error;
    if (!read_deadline(call)) {
        (void)spin_openai_refuse(&error, SPIN_OPENAI_VALUE, "X-Request-Timeout",
                                 "X-Request-Timeout: must be seconds above 0 and at most %.0f",
                                 TIMEOUT_S_MAX);
    } else if (is_generation(call) && call->api->draining) {
        spin_openai_error_from_status(&error, SPIN_ERR_SHUTDOWN, "this router is shutting down");
    } else if (is_generation(call) && call->intake.max_model_len == 0) {
        spin_openai_error_from_status(&error, SPIN_ERR_AGAIN, "no worker has joined yet");
        spin_metrics_add(call->api->parts.metrics, SPIN_ROUTER_METRIC_REFUSED_NO_WORKER, 1);
    } else {
        return true;
    }
    spin_api_call_refuse(call, &error);
    return false;
}

/* NULL after telling the client that there is no memory. */
static struct spin_api_call *make_call(const struct spin_api_page *page)
{
    struct spin_api_call *call = calloc(1, sizeof *call);
    if (call == NULL) {
        struct spin_openai_error error;
        spin_openai_error_from_status(&error, SPIN_ERR_NO_MEMORY, NULL);
        spin_api_respond_error(page->api, page->exchange, &error, page->request_id);
        return NULL;
    }
    page->api->calls_open++;
    return call;
}

void spin_api_call_begin(const struct spin_api_page *page, enum spin_openai_endpoint endpoint,
                         uint32_t tenant)
{
    struct spin_http_api *api = page->api;
    struct spin_api_call *call = make_call(page);
    if (call == NULL) {
        return;
    }
    call->api = api;
    call->exchange = page->exchange;
    call->tenant = tenant;
    memcpy(call->request_id, page->request_id, sizeof call->request_id);
    call->intake.endpoint = endpoint;
    call->intake.body = page->request->body;
    call->intake.body_bytes = page->request->body_bytes;
    call->intake.model = &api->parts.prompt;
    call->intake.model_name = api->config.model_name;
    call->intake.max_model_len = spin_dispatcher_limits(api->parts.dispatcher).max_model_len;
    spin_http_set_state(call->exchange, call);
    if (check_state(call)) {
        read_and_answer(call);
    }
}
