/* Up:    tokenizer, tenants, loop, dispatcher, doors (cluster, inference), gRPC (binds), HTTP
 *        (binds), port file, gRPC threads, ready.
 * Down:  a signal; health says so and new work is refused; streams end within the grace; HTTP sends
 *        its last bytes; Joins end; gRPC stops, off the loop, which answers what is open until
 *        then; destroy in the opposite order. */
#include "router/process.h"

#include "base/address.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/list.h"
#include "base/log.h"
#include "kvstore/block/key.h"
#include "model/text/chat.h"
#include "router/grpc/cluster.h"
#include "router/grpc/inference.h"
#include "router/http/api.h"
#include "router/metrics.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* When every stream has ended only bytes are on the way; a client that does not read them within
 * this loses them. */
#define LAST_BYTES_GRACE_NS (2 * SPIN_NS_PER_S)
/* How soon gRPC health follows the workers that come and go. */
#define HEALTH_INTERVAL_NS (100 * SPIN_NS_PER_MS)
#define MODEL_NAME_BYTES 256u
#define ROUTER_ID_BYTES 128u
/* What requests that are being read may hold together: a few of the largest. */
#define BODIES_AT_ONCE 16u

struct process {
    const struct spin_router_options *options;
    const struct spin_config_values *values;
    uint64_t started_ns;
    char model_name[MODEL_NAME_BYTES];
    char token[SPIN_CLUSTER_TOKEN_BYTES];
    char router_id[ROUTER_ID_BYTES];
    char http_address[SPIN_ADDRESS_TEXT_BYTES];
    char grpc_address[SPIN_ADDRESS_TEXT_BYTES];
    char *config_text; /* what /config shows */
    struct spin_tokenizer *tokenizer;
    struct spin_prompt_model prompt;
    struct spin_tenants *tenants;
    struct spin_metrics *metrics;
    struct spin_loop *loop;
    struct spin_timer *health;
    struct spin_dispatcher *dispatcher;
    struct spin_cluster *cluster;
    struct spin_inference *inference;
    struct spin_rpc_method methods[SPIN_CLUSTER_METHODS + SPIN_INFERENCE_METHODS];
    struct spin_rpc_server *server;
    struct spin_http_api *api;
    struct spin_loop_work stopping;
    uint64_t slow_readers; /* of gRPC, counted so far */
    bool draining;
    bool port_file_written;
};

/* --- what it says about itself --- */

static spin_status create_config_text(struct process *process, struct spin_error *err)
{
    size_t bytes = 0;
    FILE *stream = open_memstream(&process->config_text, &bytes);
    if (stream != NULL) {
        spin_config_print_effective(&spin_router_config_spec, process->options, process->values,
                                    stream);
    }
    if (stream == NULL || fclose(stream) != 0) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "no memory for the text of the configuration");
    }
    if (spin_log_enabled(SPIN_LOG_INFO)) {
        SPIN_INFO("configuration in force:");
        (void)fputs(process->config_text, stderr);
    }
    return SPIN_OK;
}

static void log_memory_row(const char *what, uint64_t count, uint64_t bytes, const char *where)
{
    SPIN_INFO("memory: %-18s %8" PRIu64 " x %10" PRIu64 " B = %10.1f MiB  %s", what, count, bytes,
              (double)count * (double)bytes / (1024.0 * 1024.0), where);
}

/* Limits, not sizes: everything here is taken when it is needed and given back. */
static void log_memory(const struct process *process)
{
    const struct spin_router_options *options = process->options;
    log_memory_row("request bodies", BODIES_AT_ONCE, options->max_body_bytes,
                   "heap, while requests are read");
    log_memory_row("http outboxes", options->max_connections, options->write_buffer_bytes,
                   "heap, as far as clients do not read");
    log_memory_row("sequences", options->max_generations, spin_dispatcher_generation_bytes(),
                   "heap, while they are open; and 8 B a token");
}

/* The lines "http host:port" and "grpc host:port"; whole or not at all. */
static spin_status write_port_file(struct process *process, struct spin_error *err)
{
    const char *path = process->options->port_file;
    char text[2 * SPIN_ADDRESS_TEXT_BYTES + 16];
    struct spin_error why;
    if (path == NULL) {
        return SPIN_OK;
    }
    (void)snprintf(text, sizeof text, "http %s\ngrpc %s\n", process->http_address,
                   process->grpc_address);
    const spin_status status = spin_file_replace(path, text, &why);
    if (status != SPIN_OK) {
        return spin_fail(err, status, "--port-file: %s", why.text);
    }
    process->port_file_written = true;
    return SPIN_OK;
}

/* --- up --- */

static spin_status find_chat_format(struct process *process, struct spin_error *err)
{
    const char *given = process->options->chat_template;
    const char *own = spin_tokenizer_chat_template(process->tokenizer);
    if ((given == NULL && own == NULL) || (given != NULL && strcmp(given, "none") == 0)) {
        SPIN_INFO("the model has no chat format: completions only");
        return SPIN_OK;
    }
    return spin_chat_format_find(own, given, &process->prompt.chat_format, err);
}

static spin_status open_model(struct process *process, struct spin_error *err)
{
    SPIN_TRY(spin_tokenizer_open(process->options->model, &process->tokenizer, err));
    process->prompt.tokenizer = process->tokenizer;
    SPIN_TRY(find_chat_format(process, err));
    spin_router_options_model_name(process->options, process->model_name,
                                   sizeof process->model_name);
    SPIN_INFO("model: name=%s vocab=%u chat_format=%s", process->model_name,
              spin_tokenizer_vocab(process->tokenizer),
              process->prompt.chat_format == NULL
                  ? "none"
                  : spin_chat_format_name(process->prompt.chat_format));
    return SPIN_OK;
}

/* What calls between processes of the cluster bear; NULL: nothing. */
static const char *bearer(const struct process *process)
{
    return process->options->cluster_secret != NULL ? process->token : NULL;
}

static spin_status create_dispatcher(struct process *process, struct spin_error *err)
{
    const struct spin_router_options *options = process->options;
    if (options->cluster_secret != NULL) {
        spin_cluster_token(options->cluster_secret, process->token);
    }
    const struct spin_dispatcher_config config = {.queue_max = options->max_queue,
                                                  .tenant_queue_max = options->max_queue_per_tenant,
                                                  .generations_max = options->max_generations,
                                                  .queue_timeout_ns = options->queue_timeout_ns,
                                                  .request_timeout_ns = options->request_timeout_ns,
                                                  .worker_timeout_ns = options->worker_timeout_ns,
                                                  .recoveries_max = options->max_recoveries,
                                                  .model_name = options->served_model_name,
                                                  .status_interval_ns = options->status_interval_ns,
                                                  .cluster_secret = options->cluster_secret,
                                                  .worker_token = bearer(process),
                                                  .worker_tls = options->worker_tls};
    const struct spin_dispatcher_parts parts = {.loop = process->loop,
                                                .tokenizer = process->tokenizer,
                                                .tenants = process->tenants,
                                                .metrics = process->metrics};
    return spin_dispatcher_create(&config, &parts, &process->dispatcher, err);
}

static spin_status create_doors(struct process *process, struct spin_error *err)
{
    const struct spin_router_options *options = process->options;
    const bool keys = options->api_key != NULL || options->api_keys_file != NULL;
    char host[64] = "router";
    (void)gethostname(host, sizeof host - 1);
    (void)snprintf(process->router_id, sizeof process->router_id, "%s:%d", host, (int)getpid());
    const struct spin_cluster_config cluster = {
        .router_id = process->router_id,
        .status_interval_ms = (uint32_t)(options->status_interval_ns / SPIN_NS_PER_MS),
        .token = bearer(process),
        .tenants = keys ? process->tenants : NULL};
    const struct spin_inference_parts inference = {.loop = process->loop,
                                                   .dispatcher = process->dispatcher,
                                                   .tenants = process->tenants,
                                                   .prompt = process->prompt,
                                                   .model_name = process->model_name,
                                                   .metrics = process->metrics};
    SPIN_TRY(spin_cluster_create(&cluster, process->loop,
                                 spin_dispatcher_members(process->dispatcher), &process->cluster,
                                 err));
    SPIN_TRY(spin_inference_create(&inference, &process->inference, err));
    spin_cluster_methods(process->cluster, process->methods);
    spin_inference_methods(process->inference, &process->methods[SPIN_CLUSTER_METHODS]);
    const struct spin_rpc_server_config server = {.listen = options->grpc_listen,
                                                  .listen_flag = "--grpc-listen",
                                                  .methods = process->methods,
                                                  .method_count =
                                                      SPIN_ARRAY_COUNT(process->methods),
                                                  .tls = options->tls};
    SPIN_TRY(spin_rpc_server_create(&server, &process->server, err));
    spin_address_local(options->grpc_listen, spin_rpc_server_port(process->server),
                       process->grpc_address);
    return SPIN_OK;
}

static spin_status create_api(struct process *process, struct spin_error *err)
{
    const struct spin_router_options *options = process->options;
    struct spin_http_api_config config = {.model_name = process->model_name,
                                          .created_s = spin_wall_ns() / SPIN_NS_PER_S,
                                          .http = spin_http_server_config_default(),
                                          .config_text = process->config_text};
    config.http.listen = options->listen;
    config.http.listen_flag = "--listen";
    config.http.header_bytes_max = options->max_header_bytes;
    config.http.body_bytes_max = options->max_body_bytes;
    config.http.bodies_bytes_max = BODIES_AT_ONCE * options->max_body_bytes;
    config.http.write_bytes_max = options->write_buffer_bytes;
    config.http.connections_max = options->max_connections;
    config.http.idle_timeout_ns = options->idle_timeout_ns;
    config.http.write_timeout_ns = options->write_timeout_ns;
    const struct spin_http_api_parts parts = {.loop = process->loop,
                                              .dispatcher = process->dispatcher,
                                              .tenants = process->tenants,
                                              .prompt = process->prompt,
                                              .metrics = process->metrics};
    SPIN_TRY(spin_http_api_create(&config, &parts, &process->api, err));
    spin_address_local(options->listen, spin_http_api_port(process->api), process->http_address);
    return SPIN_OK;
}

static void on_signal(void *context, int number);

/* gRPC's health is that of the service: somebody must be there who generates. And what the gRPC
 * server alone knows goes into the metrics. */
static void on_health(void *context)
{
    struct process *process = context;
    const uint32_t ready = spin_members_ready(spin_dispatcher_members(process->dispatcher));
    spin_rpc_server_set_serving(process->server, ready > 0 && !process->draining);
    struct spin_rpc_server_stats stats;
    spin_rpc_server_get_stats(process->server, &stats);
    spin_metrics_add(process->metrics, SPIN_ROUTER_METRIC_RPC_SLOW,
                     stats.slow_readers - process->slow_readers);
    process->slow_readers = stats.slow_readers;
}

static spin_status create_parts(struct process *process, struct spin_error *err)
{
    SPIN_TRY(create_config_text(process, err));
    SPIN_TRY(open_model(process, err));
    SPIN_TRY(spin_tenants_create(process->options->api_key, process->options->api_keys_file,
                                 &process->tenants, err));
    SPIN_TRY(
        spin_metrics_create(spin_router_metrics, SPIN_ROUTER_METRIC_COUNT, &process->metrics, err));
    SPIN_TRY(spin_loop_create(&process->loop, err));
    SPIN_TRY(spin_loop_on_shutdown(process->loop, on_signal, process, err));
    SPIN_TRY(create_dispatcher(process, err));
    SPIN_TRY(create_doors(process, err));
    SPIN_TRY(create_api(process, err));
    if (spin_timer_create(process->loop, on_health, process, &process->health) != SPIN_OK) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "no timer for the health");
    }
    spin_timer_start(process->health, HEALTH_INTERVAL_NS, true);
    log_memory(process);
    return SPIN_OK;
}

/* The ports are bound: who dials one of them now waits for the little that is left. The rpc server
 * starts last, so that nothing has to be stopped when something here fails. */
static spin_status start_parts(struct process *process, struct spin_error *err)
{
    SPIN_TRY(write_port_file(process, err));
    SPIN_TRY(spin_rpc_server_start(process->server, err));
    SPIN_INFO("listening: http=%s grpc=%s model=%s tenants=%u", process->http_address,
              process->grpc_address, process->model_name, spin_tenants_count(process->tenants));
    SPIN_INFO("ready in %" PRIu64 " ms",
              (spin_now_ns(spin_clock_real()) - process->started_ns) / SPIN_NS_PER_MS);
    return SPIN_OK;
}

/* --- down --- */

static void run_stop(struct spin_loop_work *work)
{
    const struct process *process = SPIN_CONTAINER_OF(work, struct process, stopping);
    spin_rpc_server_stop(process->server, LAST_BYTES_GRACE_NS);
}

static void on_stopped(struct spin_loop_work *work)
{
    const struct process *process = SPIN_CONTAINER_OF(work, struct process, stopping);
    struct spin_rpc_server_stats stats;
    spin_rpc_server_get_stats(process->server, &stats);
    SPIN_INFO("served: grpc_calls=%" PRIu64 " refused=%" PRIu64 " gone=%" PRIu64
              " generations=%.0f recoveries=%.0f",
              stats.calls, stats.refused, stats.gone,
              spin_metrics_read(process->metrics, SPIN_ROUTER_METRIC_GENERATIONS),
              spin_metrics_read(process->metrics, SPIN_ROUTER_METRIC_RECOVERIES));
    spin_loop_stop(process->loop);
}

static void on_api_closed(void *context)
{
    struct process *process = context;
    spin_cluster_close(process->cluster);
    process->stopping = (struct spin_loop_work){.run = run_stop, .done = on_stopped};
    if (spin_loop_work(process->loop, &process->stopping) != SPIN_OK) {
        SPIN_ERROR("no memory to stop gRPC: ending at once");
        spin_loop_stop(process->loop);
    }
}

static void on_drained(void *context)
{
    struct process *process = context;
    spin_http_api_close(process->api, LAST_BYTES_GRACE_NS, on_api_closed, process);
}

static void on_signal(void *context, int number)
{
    struct process *process = context;
    SPIN_INFO("shutting down: signal=%s grace_ms=%" PRIu64,
              number == SIGTERM ? "SIGTERM" : "SIGINT",
              process->options->shutdown_grace_ns / SPIN_NS_PER_MS);
    process->draining = true;
    spin_rpc_server_set_serving(process->server, false);
    spin_http_api_drain(process->api);
    spin_dispatcher_drain(process->dispatcher, process->options->shutdown_grace_ns, on_drained,
                          process);
}

static void destroy_parts(struct process *process)
{
    if (process->port_file_written) {
        (void)unlink(process->options->port_file);
    }
    spin_timer_destroy(process->health);
    spin_http_api_destroy(process->api);
    spin_rpc_server_destroy(process->server);
    spin_inference_destroy(process->inference);
    spin_cluster_destroy(process->cluster);
    spin_dispatcher_destroy(process->dispatcher);
    spin_loop_destroy(process->loop);
    spin_metrics_destroy(process->metrics);
    spin_tenants_destroy(process->tenants);
    spin_tokenizer_close(process->tokenizer);
    free(process->config_text); /* open_memstream's */
}

int spin_router_process_run(const struct spin_router_options *options,
                            const struct spin_config_values *values)
{
    struct process process = {
        .options = options, .values = values, .started_ns = spin_now_ns(spin_clock_real())};
    struct spin_error err = {0};
    spin_status status = create_parts(&process, &err);
    if (status == SPIN_OK) {
        status = start_parts(&process, &err);
    }
    if (status == SPIN_OK) {
        spin_loop_run(process.loop);
    } else {
        SPIN_ERROR("cannot start: %s", err.text);
    }
    destroy_parts(&process);
    if (status == SPIN_OK) {
        SPIN_INFO("stopped");
    }
    return status == SPIN_OK ? 0 : 1;
}
