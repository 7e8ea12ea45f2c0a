#include "router/http/api.h"

#include "base/assert.h"
#include "base/clock.h"
#include "router/http/api_internal.h"
#include "router/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define JSON_TYPE "application/json"
#define SCRATCH_BYTES_MAX (UINT64_C(64) << 20)
#define MODELS_PREFIX "/v1/models/"

/* Proxies cut connections that are silent; a comment is no event. */
#define KEEP_ALIVE_NS (15 * SPIN_NS_PER_S)
#define KEEP_ALIVE_CHECK_NS (5 * SPIN_NS_PER_S)
#define KEEP_ALIVE_TEXT ": keep-alive\n\n"

/* --- replies --- */

void spin_api_count_status(struct spin_http_api *api, int status)
{
    const uint32_t metric = status == 429   ? SPIN_ROUTER_METRIC_HTTP_429
                            : status >= 500 ? SPIN_ROUTER_METRIC_HTTP_5XX
                            : status >= 400 ? SPIN_ROUTER_METRIC_HTTP_4XX
                                            : SPIN_ROUTER_METRIC_HTTP_2XX;
    spin_metrics_add(api->parts.metrics, metric, 1);
}

void spin_api_respond(struct spin_http_api *api, struct spin_http_exchange *exchange,
                      const struct spin_api_reply *reply)
{
    const struct spin_http_header_field headers[] = {{"x-request-id", reply->request_id},
                                                     {reply->extra_name, reply->extra_value}};
    const struct spin_http_reply whole = {.status = reply->status,
                                          .content_type = reply->content_type,
                                          .headers = headers,
                                          .header_count = reply->extra_name == NULL ? 1 : 2,
                                          .body = reply->body,
                                          .body_bytes = reply->body_bytes};
    if (!spin_http_is_gone(exchange)) {
        spin_api_count_status(api, reply->status);
    }
    spin_http_respond(exchange, &whole);
}

/* The header that tells a client what to do about a status. */
static void set_remedy(const struct spin_http_api *api, struct spin_api_reply *reply,
                       char retry_after[16])
{
    if (reply->status == 401) {
        reply->extra_name = "WWW-Authenticate";
        reply->extra_value = "Bearer";
    } else if (reply->status == 429 || reply->status == 503) {
        (void)snprintf(retry_after, 16, "%" PRIu32,
                       spin_dispatcher_retry_after_s(api->parts.dispatcher));
        reply->extra_name = "Retry-After";
        reply->extra_value = retry_after;
    }
}

/* `reply` by value: what it points to here is gone afterwards. */
static void respond_refusal(struct spin_http_api *api, struct spin_http_exchange *exchange,
                            const struct spin_openai_error *error, struct spin_api_reply reply)
{
    struct spin_json_writer *writer = &api->scratch;
    char retry_after[16];
    spin_json_writer_reset(writer);
    spin_openai_error_write(error, writer);
    reply.status = error->http_status;
    reply.content_type = JSON_TYPE;
    reply.body = writer->bytes;
    reply.body_bytes = writer->failed ? 0 : writer->count;
    set_remedy(api, &reply, retry_after);
    spin_api_respond(api, exchange, &reply);
}

void spin_api_respond_error(struct spin_http_api *api, struct spin_http_exchange *exchange,
                            const struct spin_openai_error *error, const char *request_id)
{
    respond_refusal(api, exchange, error, (struct spin_api_reply){.request_id = request_id});
}

static uint64_t format_error(void *context, int status, const char *text, char *out,
                             uint64_t capacity)
{
    (void)context;
    struct spin_openai_error error;
    struct spin_json_writer writer;
    spin_json_writer_init(&writer, 4096);
    spin_openai_error_from_http(&error, status, text);
    spin_openai_error_write(&error, &writer);
    const uint64_t bytes = writer.failed ? 0 : writer.count;
    if (capacity != 0 && bytes != 0) {
        memcpy(out, writer.bytes, (size_t)SPIN_MIN(bytes, capacity));
    }
    spin_json_writer_deinit(&writer);
    return bytes;
}

void spin_api_draw_id(const char *prefix, char out[SPIN_API_ID_BYTES])
{
    (void)snprintf(out, SPIN_API_ID_BYTES, "%.12s-%016" PRIx64 "%016" PRIx64, prefix,
                   spin_generation_draw_seed(), spin_generation_draw_seed());
}

void spin_api_request_id(const struct spin_http_exchange *exchange, char out[SPIN_API_ID_BYTES])
{
    static const char good[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/+=@";
    const char *given = spin_http_header(exchange, "x-request-id");
    const size_t bytes = given == NULL ? 0 : strspn(given, good);
    if (bytes == 0 || bytes >= SPIN_API_ID_BYTES || given[bytes] != '\0') {
        spin_api_draw_id("req", out);
        return;
    }
    memcpy(out, given, bytes + 1);
}

/* --- routes --- */

struct route {
    const char *path;
    const char *method;
    bool open;                          /* no key is asked for */
    enum spin_openai_endpoint endpoint; /* of a body; else */
    void (*show)(const struct spin_api_page *page);
};

static const struct route routes[] = {
    {"/v1/chat/completions", "POST", false, SPIN_OPENAI_CHAT, NULL},
    {"/v1/completions", "POST", false, SPIN_OPENAI_COMPLETIONS, NULL},
    {"/tokenize", "POST", false, SPIN_OPENAI_TOKENIZE, NULL},
    {"/detokenize", "POST", false, SPIN_OPENAI_DETOKENIZE, NULL},
    {"/v1/models", "GET", false, 0, spin_api_models},
    {"/health", "GET", true, 0, spin_api_health},
    {"/metrics", "GET", true, 0, spin_api_metrics},
    {"/config", "GET", false, 0, spin_api_config},
};
static const struct route model_route = {MODELS_PREFIX, "GET", false, 0, spin_api_model};

static const struct route *find_route(const char *path)
{
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(routes); i++) {
        if (strcmp(path, routes[i].path) == 0) {
            return &routes[i];
        }
    }
    const size_t prefix = strlen(MODELS_PREFIX);
    return strncmp(path, MODELS_PREFIX, prefix) == 0 && path[prefix] != '\0' ? &model_route : NULL;
}

/* "Bearer KEY"; the word in any case. */
static const char *read_key(const struct spin_http_exchange *exchange)
{
    static const char scheme[] = "bearer ";
    const char *header = spin_http_header(exchange, "authorization");
    if (header == NULL || strncasecmp(header, scheme, strlen(scheme)) != 0) {
        return NULL;
    }
    header += strlen(scheme);
    return header + strspn(header, " ");
}

static bool authenticate(const struct spin_api_page *page, uint32_t *tenant)
{
    struct spin_http_api *api = page->api;
    struct spin_error err = {.status = SPIN_OK};
    const spin_status status =
        spin_tenants_find(api->parts.tenants, read_key(page->exchange), tenant, &err);
    if (status == SPIN_OK) {
        return true;
    }
    struct spin_openai_error error;
    spin_openai_error_from_status(&error, status, err.text);
    spin_metrics_add(api->parts.metrics, SPIN_ROUTER_METRIC_REFUSED_KEY, 1);
    spin_api_respond_error(api, page->exchange, &error, page->request_id);
    return false;
}

/* The server leaves the body of a reply to HEAD out. */
static bool is_method(const struct route *route, const char *method)
{
    return strcmp(route->method, method) == 0 ||
           (strcmp(route->method, "GET") == 0 && strcmp(method, "HEAD") == 0);
}

static void refuse_method(const struct spin_api_page *page, const struct route *route)
{
    struct spin_openai_error error;
    (void)spin_openai_refuse(&error, SPIN_OPENAI_METHOD, NULL, "%s is asked with %s, not %.20s",
                             route->path, route->method, page->request->method);
    const struct spin_api_reply reply = {
        .request_id = page->request_id, .extra_name = "Allow", .extra_value = route->method};
    respond_refusal(page->api, page->exchange, &error, reply);
}

static void on_request(void *context, struct spin_http_exchange *exchange,
                       const struct spin_http_request *request)
{
    struct spin_api_page page = {.api = context, .exchange = exchange, .request = request};
    spin_api_request_id(exchange, page.request_id);
    const struct route *route = find_route(request->path);
    if (route == NULL) {
        struct spin_openai_error error;
        (void)spin_openai_refuse(&error, SPIN_OPENAI_ROUTE, NULL, "there is no %.100s here",
                                 request->path);
        spin_api_respond_error(page.api, exchange, &error, page.request_id);
        return;
    }
    if (!is_method(route, request->method)) {
        refuse_method(&page, route);
        return;
    }
    uint32_t tenant = 0;
    if (!route->open && !authenticate(&page, &tenant)) {
        return;
    }
    if (route->show != NULL) {
        route->show(&page);
    } else {
        spin_api_call_begin(&page, route->endpoint, tenant);
    }
}

static void on_gone(void *context, struct spin_http_exchange *exchange)
{
    (void)context;
    struct spin_api_call *call = spin_http_state(exchange);
    if (call != NULL) { /* pages are answered before anyone can leave */
        spin_api_call_gone(call);
    }
}

static void on_keep_alive(void *context)
{
    struct spin_http_api *api = context;
    const uint64_t now_ns = spin_loop_now_ns(api->parts.loop);
    SPIN_LIST_FOREACH (&api->streams, link) {
        struct spin_api_call *call = SPIN_CONTAINER_OF(link, struct spin_api_call, stream_link);
        if (!call->closing && now_ns - call->written_ns >= KEEP_ALIVE_NS) {
            call->written_ns = now_ns;
            spin_http_stream_write(call->exchange, KEEP_ALIVE_TEXT, strlen(KEEP_ALIVE_TEXT));
        }
    }
}

/* --- life --- */

/* model_name="..." with what Prometheus wants escaped. */
static char *make_model_label(const char *name)
{
    static const char begin[] = "model_name=\"";
    char *label = malloc(sizeof begin + 2 * strlen(name) + 1);
    if (label == NULL) {
        return NULL;
    }
    memcpy(label, begin, sizeof begin - 1);
    size_t at = sizeof begin - 1;
    for (; *name != '\0'; name++) {
        if (*name == '"' || *name == '\\' || *name == '\n') {
            label[at++] = '\\';
        }
        label[at] = *name;
        if (*name == '\n') {
            label[at] = 'n';
        }
        at++;
    }
    label[at++] = '"';
    label[at] = '\0';
    return label;
}

static spin_status open_server(struct spin_http_api *api, struct spin_error *err)
{
    struct spin_http_server_config http = api->config.http;
    http.context = api;
    http.request = on_request;
    http.gone = on_gone;
    http.format_error = format_error;
    http.error_content_type = JSON_TYPE;
    return spin_http_server_create(api->parts.loop, &http, &api->server, err);
}

spin_status spin_http_api_create(const struct spin_http_api_config *config,
                                 const struct spin_http_api_parts *parts,
                                 struct spin_http_api **out, struct spin_error *err)
{
    spin_loop_assert_thread(parts->loop);
    SPIN_ASSERT(config->model_name != NULL);
    SPIN_ASSERT(config->config_text != NULL);
    struct spin_http_api *api = calloc(1, sizeof *api);
    if (api == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "http: no memory for the server");
    }
    api->config = *config;
    api->parts = *parts;
    spin_list_init(&api->streams);
    spin_json_writer_init(&api->scratch, SCRATCH_BYTES_MAX);
    api->server_closed = true; /* until it is open */
    api->model_label = make_model_label(config->model_name);
    spin_status status = SPIN_ERR_NO_MEMORY;
    if (api->model_label == NULL ||
        spin_timer_create(parts->loop, on_keep_alive, api, &api->keep_alive) != SPIN_OK) {
        status = spin_fail(err, SPIN_ERR_NO_MEMORY, "http: no memory for the server");
        goto fail;
    }
    SPIN_TRY_GOTO(status, open_server(api, err), fail);
    api->server_closed = false;
    spin_timer_start(api->keep_alive, KEEP_ALIVE_CHECK_NS, true);
    *out = api;
    return SPIN_OK;
fail:
    spin_http_api_destroy(api);
    return status;
}

uint32_t spin_http_api_port(const struct spin_http_api *api)
{
    return spin_http_server_port(api->server);
}

void spin_http_api_drain(struct spin_http_api *api)
{
    spin_loop_assert_thread(api->parts.loop);
    api->draining = true;
}

/* A body may still be read on a pool thread after its connection is gone. */
void spin_api_call_ended(struct spin_http_api *api)
{
    if (api->server_closed && api->calls_open == 0 && api->closed != NULL) {
        void (*closed)(void *context) = api->closed;
        api->closed = NULL;
        closed(api->closed_context);
    }
}

static void on_server_closed(void *context)
{
    struct spin_http_api *api = context;
    api->server_closed = true;
    spin_api_call_ended(api);
}

void spin_http_api_close(struct spin_http_api *api, uint64_t grace_ns,
                         void (*closed)(void *context), void *context)
{
    spin_loop_assert_thread(api->parts.loop);
    SPIN_ASSERT(closed != NULL);
    SPIN_ASSERT(api->closed == NULL);
    api->draining = true;
    api->closed = closed;
    api->closed_context = context;
    spin_timer_stop(api->keep_alive);
    spin_http_server_close(api->server, grace_ns, on_server_closed, api);
}

void spin_http_api_destroy(struct spin_http_api *api)
{
    if (api == NULL) {
        return;
    }
    SPIN_ASSERT_EQ(api->calls_open, 0);
    spin_timer_destroy(api->keep_alive);
    spin_http_server_destroy(api->server);
    spin_json_writer_deinit(&api->scratch);
    free(api->model_label);
    free(api);
}
