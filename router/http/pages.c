/* Pages that need no body: for operators, and the list of models. */
#include "base/assert.h"
#include "router/http/api_internal.h"
#include "router/metrics.h"

#include <string.h>

#define JSON_TYPE "application/json"

static void respond_scratch(const struct spin_api_page *page, int status, const char *content_type)
{
    struct spin_json_writer *writer = &page->api->scratch;
    if (writer->failed) {
        struct spin_openai_error error;
        spin_openai_error_from_status(&error, SPIN_ERR_NO_MEMORY, NULL);
        spin_api_respond_error(page->api, page->exchange, &error, page->request_id);
        return;
    }
    const struct spin_api_reply reply = {.status = status,
                                         .content_type = content_type,
                                         .body = writer->bytes,
                                         .body_bytes = writer->count,
                                         .request_id = page->request_id};
    spin_api_respond(page->api, page->exchange, &reply);
}

/* 200 exactly when a generation sent now could run: what a load balancer wants to know. */
void spin_api_health(const struct spin_api_page *page)
{
    struct spin_http_api *api = page->api;
    const uint32_t workers = spin_members_ready(spin_dispatcher_members(api->parts.dispatcher));
    const char *status = api->draining ? "draining" : workers == 0 ? "no_workers" : "ok";
    struct spin_json_writer *writer = &api->scratch;
    spin_json_writer_reset(writer);
    SPIN_JSON_LITERAL(writer, "{\"status\":");
    spin_json_put_text(writer, status);
    SPIN_JSON_LITERAL(writer, ",\"model\":");
    spin_json_put_text(writer, api->config.model_name);
    SPIN_JSON_LITERAL(writer, ",\"workers\":");
    spin_json_put_u64(writer, workers);
    SPIN_JSON_LITERAL(writer, "}");
    respond_scratch(page, strcmp(status, "ok") == 0 ? 200 : 503, JSON_TYPE);
}

/* The server counts for itself: what came since the last scrape goes into the metrics. */
static void take_server_stats(struct spin_http_api *api)
{
    struct spin_http_server_stats now;
    struct spin_http_server_stats *reported = &api->reported;
    spin_http_server_get_stats(api->server, &now);
    spin_metrics_add(api->parts.metrics, SPIN_ROUTER_METRIC_HTTP_SLOW,
                     now.slow_clients - reported->slow_clients);
    spin_metrics_add(api->parts.metrics, SPIN_ROUTER_METRIC_HTTP_GONE, now.gone - reported->gone);
    const uint64_t refused_5xx = now.refused_5xx - reported->refused_5xx;
    spin_metrics_add(api->parts.metrics, SPIN_ROUTER_METRIC_HTTP_4XX,
                     now.refused - reported->refused - refused_5xx);
    spin_metrics_add(api->parts.metrics, SPIN_ROUTER_METRIC_HTTP_5XX, refused_5xx);
    spin_metrics_set(api->parts.metrics, SPIN_ROUTER_METRIC_HTTP_CONNECTIONS,
                     (double)now.connections_open);
    *reported = now;
}

void spin_api_metrics(const struct spin_api_page *page)
{
    struct spin_http_api *api = page->api;
    struct spin_json_writer *writer = &api->scratch;
    take_server_stats(api);
    spin_metrics_set(api->parts.metrics, SPIN_ROUTER_METRIC_WORKERS,
                     spin_members_ready(spin_dispatcher_members(api->parts.dispatcher)));
    spin_json_writer_reset(writer);
    const uint64_t bytes = spin_metrics_render(api->parts.metrics, api->model_label, NULL, 0);
    char *text = spin_json_reserve(writer, bytes);
    if (text != NULL) {
        /* One thread renders and others count: a number may have grown by a digit. */
        const uint64_t again =
            spin_metrics_render(api->parts.metrics, api->model_label, text, bytes);
        writer->count = SPIN_MIN(again, strnlen(text, (size_t)bytes));
    }
    respond_scratch(page, 200, "text/plain; version=0.0.4; charset=utf-8");
}

void spin_api_config(const struct spin_api_page *page)
{
    struct spin_json_writer *writer = &page->api->scratch;
    spin_json_writer_reset(writer);
    spin_json_put_raw(writer, page->api->config.config_text, strlen(page->api->config.config_text));
    respond_scratch(page, 200, "text/plain; charset=utf-8");
}

static void write_model(const struct spin_http_api *api, struct spin_json_writer *writer)
{
    const uint32_t limit = spin_dispatcher_limits(api->parts.dispatcher).max_model_len;
    SPIN_JSON_LITERAL(writer, "{\"id\":");
    spin_json_put_text(writer, api->config.model_name);
    SPIN_JSON_LITERAL(writer, ",\"object\":\"model\",\"created\":");
    spin_json_put_u64(writer, api->config.created_s);
    SPIN_JSON_LITERAL(writer, ",\"owned_by\":\"spin\",\"max_model_len\":");
    if (limit == 0) {
        SPIN_JSON_LITERAL(writer, "null"); /* no worker has said it yet */
    } else {
        spin_json_put_u64(writer, limit);
    }
    SPIN_JSON_LITERAL(writer, "}");
}

void spin_api_models(const struct spin_api_page *page)
{
    struct spin_json_writer *writer = &page->api->scratch;
    spin_json_writer_reset(writer);
    SPIN_JSON_LITERAL(writer, "{\"object\":\"list\",\"data\":[");
    write_model(page->api, writer);
    SPIN_JSON_LITERAL(writer, "]}");
    respond_scratch(page, 200, JSON_TYPE);
}

static int hex_value(char digit)
{
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    const char *at = digit == '\0' ? NULL : strchr(digits, digit);
    return at == NULL ? -1 : (int)((at - digits) % 16);
}

/* True when `path` spells `name`, %xx included. */
static bool path_is(const char *path, const char *name)
{
    while (*path != '\0' && *name != '\0') {
        char byte = *path;
        const int high = byte == '%' ? hex_value(path[1]) : -1;
        const int low = high >= 0 ? hex_value(path[2]) : -1;
        if (low >= 0) {
            byte = (char)(high * 16 + low);
            path += 2;
        }
        if (byte != *name) {
            return false;
        }
        path++;
        name++;
    }
    return *path == '\0' && *name == '\0';
}

void spin_api_model(const struct spin_api_page *page)
{
    const char *name = page->request->path + strlen("/v1/models/");
    if (!path_is(name, page->api->config.model_name)) {
        struct spin_openai_error error;
        (void)spin_openai_refuse(&error, SPIN_OPENAI_MODEL, "model",
                                 "model: \"%.100s\" is not served here, only \"%.100s\"", name,
                                 page->api->config.model_name);
        spin_api_respond_error(page->api, page->exchange, &error, page->request_id);
        return;
    }
    struct spin_json_writer *writer = &page->api->scratch;
    spin_json_writer_reset(writer);
    write_model(page->api, writer);
    respond_scratch(page, 200, JSON_TYPE);
}
