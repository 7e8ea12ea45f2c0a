#include "worker/service/pages.h"

#include "base/address.h"
#include "base/assert.h"
#include "base/clock.h"
#include "kvstore/block/layout.h"
#include "worker/service/metrics.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT "text/plain; charset=utf-8"
#define METRICS_TEXT "text/plain; version=0.0.4; charset=utf-8"
#define JSON "application/json"

/* Probes and scrapers are few and ask for little. */
#define CONNECTIONS_MAX 64u
#define BODY_BYTES_MAX 4096u
#define HEADER_BYTES_MAX 8192u
/* Counters may grow by a digit between measuring a page and writing it. */
#define PAGE_SLACK_BYTES 4096u
#define CLOSE_GRACE_NS (1 * SPIN_NS_PER_S)

struct spin_pages {
    struct spin_pages_config config;
    const struct spin_membership *membership;
    char *labels; /* model_name="..." */
    struct spin_http_server *server;
    char address[SPIN_ADDRESS_TEXT_BYTES];
};

struct page {
    char *text;
    uint64_t bytes;
};

/* --- /metrics --- */

static void count_up_to(struct spin_metrics *metrics, enum spin_service_metric metric,
                        uint64_t value)
{
    const uint64_t counted = (uint64_t)spin_metrics_read(metrics, metric);
    spin_metrics_add(metrics, metric, value > counted ? value - counted : 0);
}

/* What is counted elsewhere comes into the table when somebody looks. */
static void refresh(struct spin_pages *pages)
{
    struct spin_metrics *metrics = pages->config.service_metrics;
    struct spin_rpc_server_stats rpc;
    spin_service_get_stats(pages->config.service, &rpc);
    count_up_to(metrics, SPIN_SERVICE_METRIC_RPC_CALLS, rpc.calls);
    count_up_to(metrics, SPIN_SERVICE_METRIC_RPC_REFUSED, rpc.refused);
    count_up_to(metrics, SPIN_SERVICE_METRIC_RPC_GONE, rpc.gone);
    count_up_to(metrics, SPIN_SERVICE_METRIC_RPC_SLOW, rpc.slow_readers);
    count_up_to(metrics, SPIN_SERVICE_METRIC_RPC_MESSAGES, rpc.messages_sent);
    spin_metrics_set(metrics, SPIN_SERVICE_METRIC_RPC_OPEN, (double)rpc.calls_open);
    spin_metrics_set(metrics, SPIN_SERVICE_METRIC_ROUTERS,
                     spin_membership_routers(pages->membership));
    spin_metrics_set(metrics, SPIN_SERVICE_METRIC_DRAINING,
                     spin_service_is_draining(pages->config.service) ? 1 : 0);

    struct spin_engine_load load;
    spin_engine_get_load(pages->config.engine, &load);
    spin_metrics_set(metrics, SPIN_SERVICE_METRIC_ALIAS_RUNNING, load.running);
    spin_metrics_set(metrics, SPIN_SERVICE_METRIC_ALIAS_WAITING, load.waiting);
    spin_metrics_set(metrics, SPIN_SERVICE_METRIC_ALIAS_KV_USAGE,
                     load.kv_tokens == 0 ? 0
                                         : (double)load.kv_tokens_used / (double)load.kv_tokens);
    spin_metrics_set(metrics, SPIN_SERVICE_METRIC_ALIAS_LORA,
                     floor((double)spin_wall_ns() / (double)SPIN_NS_PER_S));
}

/* What the model runs on: a label that no constant table knows. The driver's name is printable and
 * without quotes; the engine keeps 63 bytes of it. */
static uint64_t render_device(const struct spin_pages *pages, char *out, uint64_t capacity)
{
    const struct spin_engine *engine = pages->config.engine;
    const int needed = snprintf(
        out, capacity,
        "# HELP spin_device_info What the model runs on, and its operations; always 1.\n"
        "# TYPE spin_device_info gauge\n"
        "spin_device_info{%s,device=\"%s\",ops=\"%s\"} 1\n",
        pages->labels, spin_engine_get_device(engine), spin_engine_get_config(engine)->ops->name);
    SPIN_ASSERT_GT(needed, 0);
    return (uint64_t)needed;
}

/* The one alias whose labels are numbers, so it has no row in a constant table. */
static uint64_t render_cache_config(const struct spin_pages *pages, char *out, uint64_t capacity)
{
    struct spin_engine_load load;
    spin_engine_get_load(pages->config.engine, &load);
    const int needed = snprintf(out, capacity,
                                "# HELP vllm:cache_config_info The KV pool in blocks; always 1.\n"
                                "# TYPE vllm:cache_config_info gauge\n"
                                "vllm:cache_config_info{%s,%s,block_size=\"%u\","
                                "num_gpu_blocks=\"%" PRIu64 "\"} 1\n",
                                pages->labels, SPIN_SERVICE_ALIAS_LABELS, SPIN_BLOCK_TOKENS,
                                load.kv_tokens / SPIN_BLOCK_TOKENS);
    SPIN_ASSERT_GT(needed, 0);
    return (uint64_t)needed;
}

static uint64_t render(const struct spin_pages *pages, char *out, uint64_t capacity)
{
    const struct spin_metrics *parts[] = {pages->config.engine_metrics,
                                          pages->config.service_metrics};
    uint64_t needed = render_cache_config(pages, out, capacity);
    const uint64_t before = SPIN_MIN(needed, capacity);
    needed += render_device(pages, out == NULL ? NULL : out + before, capacity - before);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(parts); i++) {
        const uint64_t at = SPIN_MIN(needed, capacity);
        needed += spin_metrics_render(parts[i], pages->labels, out == NULL ? NULL : out + at,
                                      capacity - at);
    }
    return needed;
}

static spin_status page_create(struct spin_pages *pages, struct page *out)
{
    refresh(pages);
    const uint64_t capacity = render(pages, NULL, 0) + PAGE_SLACK_BYTES;
    char *text = calloc(1, capacity + 1);
    if (text == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    (void)render(pages, text, capacity);
    *out = (struct page){.text = text, .bytes = strlen(text)}; /* zeros follow the last line */
    return SPIN_OK;
}

static void page_destroy(struct page *page)
{
    free(page->text);
}

/* --- answers --- */

static void answer(struct spin_http_exchange *exchange, int status, const char *type,
                   const char *body)
{
    const struct spin_http_reply reply = {
        .status = status, .content_type = type, .body = body, .body_bytes = strlen(body)};
    spin_http_respond(exchange, &reply);
}

static void answer_metrics(struct spin_pages *pages, struct spin_http_exchange *exchange)
{
    struct page page;
    if (page_create(pages, &page) != SPIN_OK) {
        answer(exchange, 503, TEXT, "out of memory\n");
        return;
    }
    answer(exchange, 200, METRICS_TEXT, page.text);
    page_destroy(&page);
}

static void answer_health(const struct spin_pages *pages, struct spin_http_exchange *exchange)
{
    if (spin_service_is_draining(pages->config.service)) {
        answer(exchange, 503, JSON, "{\"status\":\"draining\"}\n");
    } else if (spin_engine_get_status(pages->config.engine) != SPIN_OK) {
        answer(exchange, 503, JSON, "{\"status\":\"failed\"}\n");
    } else {
        answer(exchange, 200, JSON, "{\"status\":\"ok\"}\n");
    }
}

static void answer_not_allowed(struct spin_http_exchange *exchange)
{
    static const char body[] = "only GET\n";
    static const struct spin_http_header_field allow = {.name = "Allow", .value = "GET"};
    const struct spin_http_reply reply = {.status = 405,
                                          .content_type = TEXT,
                                          .headers = &allow,
                                          .header_count = 1,
                                          .body = body,
                                          .body_bytes = sizeof body - 1};
    spin_http_respond(exchange, &reply);
}

static void on_request(void *context, struct spin_http_exchange *exchange,
                       const struct spin_http_request *request)
{
    struct spin_pages *pages = context;
    if (strcmp(request->method, "GET") != 0) {
        answer_not_allowed(exchange);
    } else if (strcmp(request->path, "/metrics") == 0) {
        answer_metrics(pages, exchange);
    } else if (strcmp(request->path, "/health") == 0) {
        answer_health(pages, exchange);
    } else if (strcmp(request->path, "/config") == 0) {
        answer(exchange, 200, TEXT, pages->config.config_text);
    } else {
        answer(exchange, 404, TEXT, "there are /metrics, /health and /config\n");
    }
}

/* --- life --- */

/* model_name="...", escaped as label values are. */
static spin_status create_labels(struct spin_pages *pages, struct spin_error *err)
{
    static const char head[] = "model_name=\"";
    const char *name = pages->config.model_name;
    pages->labels = malloc(sizeof head + 2 * strlen(name) + 1);
    if (pages->labels == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "pages: a label of %zu bytes", strlen(name));
    }
    char *out = pages->labels;
    memcpy(out, head, sizeof head - 1);
    out += sizeof head - 1;
    for (; *name != '\0'; name++) {
        const bool escaped = *name == '\\' || *name == '"' || *name == '\n';
        if (escaped) {
            *out++ = '\\';
        }
        *out = *name;
        if (*name == '\n') {
            *out = 'n';
        }
        out++;
    }
    *out++ = '"';
    *out = '\0';
    return SPIN_OK;
}

spin_status spin_pages_create(struct spin_loop *loop, const struct spin_pages_config *config,
                              struct spin_pages **out, struct spin_error *err)
{
    struct spin_pages *pages = calloc(1, sizeof *pages);
    if (pages == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "pages: %zu bytes", sizeof *pages);
    }
    pages->config = *config;
    struct spin_http_server_config server = spin_http_server_config_default();
    server.listen = config->listen;
    server.listen_flag = config->listen_flag;
    server.header_bytes_max = HEADER_BYTES_MAX;
    server.body_bytes_max = BODY_BYTES_MAX;
    server.connections_max = CONNECTIONS_MAX;
    server.context = pages;
    server.request = on_request;
    spin_status status;
    SPIN_TRY_GOTO(status, create_labels(pages, err), fail);
    SPIN_TRY_GOTO(status, spin_http_server_create(loop, &server, &pages->server, err), fail);
    spin_address_local(config->listen, spin_http_server_port(pages->server), pages->address);
    *out = pages;
    return SPIN_OK;
fail:
    spin_pages_destroy(pages);
    return status;
}

const char *spin_pages_address(const struct spin_pages *pages)
{
    return pages->address;
}

void spin_pages_set_membership(struct spin_pages *pages, const struct spin_membership *membership)
{
    pages->membership = membership;
}

void spin_pages_close(struct spin_pages *pages, void (*closed)(void *context), void *context)
{
    spin_http_server_close(pages->server, CLOSE_GRACE_NS, closed, context);
}

void spin_pages_destroy(struct spin_pages *pages)
{
    if (pages != NULL) {
        spin_http_server_destroy(pages->server);
        free(pages->labels);
        free(pages);
    }
}
