/* Up:    model, tokenizer, device, weights there, engine, service (binds), pages (bind), engine
 *        thread, service threads, membership, ready.
 * Down:  a signal, or the device is lost; drain: health and routers are told at once; off the loop,
 *        which goes on telling them, the engine ends its streams within the grace and the service
 *        sends their last bytes; goodbye to the routers; pages; destroy. With a lost device nothing
 *        is destroyed: what the driver holds may be in use until the process has gone. */
#include "worker/service/process.h"

#include "base/address.h"
#include "base/assert.h"
#include "base/file.h"
#include "base/list.h"
#include "base/log.h"
#include "kvstore/block/key.h"
#include "model/text/tokenizer.h"
#include "model/weights/place.h"
#include "worker/engine/metrics.h"
#include "worker/service/backend.h"
#include "worker/service/membership.h"
#include "worker/service/metrics.h"
#include "worker/service/pages.h"
#include "worker/service/service.h"

#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* After the engine has stopped only bytes are on the way; a client that does not read them within
 * this loses them. */
#define LAST_BYTES_GRACE_NS (2 * SPIN_NS_PER_S)
#define NO_PAGES "off" /* as --http-listen */

struct process {
    const struct spin_worker_options *options;
    const struct spin_config_values *values;
    uint64_t started_ns;
    char token[SPIN_CLUSTER_TOKEN_BYTES];
    char *config_text; /* what /config shows */
    struct spin_loop *loop;
    struct spin_rpc_thread *rpc; /* of our calls to routers; NULL: we join nobody */
    struct spin_worker_backend backend;
    struct spin_model *model; /* its weights where the backend multiplies them */
    struct spin_tokenizer *tokenizer;
    int32_t end_tokens[SPIN_STOP_TOKENS_MAX];
    uint32_t end_token_count;
    struct spin_metrics *engine_metrics;
    struct spin_metrics *service_metrics;
    struct spin_engine *engine;
    bool engine_started;
    struct spin_service *service;
    bool service_started;
    struct spin_pages *pages;              /* NULL: off */
    struct spin_membership *membership;    /* NULL: we join nobody */
    struct spin_loop_message lost_message; /* posted once, by the engine's thread */
    struct spin_loop_work stopping;
    bool is_stopping;
    bool lost; /* the device */
    bool port_file_written;
};

/* --- what it says about itself --- */

static void log_options(const struct spin_worker_options *options,
                        const struct spin_config_values *values)
{
    if (spin_log_enabled(SPIN_LOG_INFO)) {
        SPIN_INFO("configuration in force:");
        spin_config_print_effective(&spin_worker_config_spec, options, values, stderr);
    }
}

static void log_model(const struct process *process)
{
    char text[512];
    spin_model_describe(process->model, text, sizeof text);
    SPIN_INFO("model: %s, %u end tokens", text, process->end_token_count);
}

static void log_memory_row(const char *what, uint64_t count, uint64_t bytes, const char *where)
{
    SPIN_INFO("memory: %-16s %8" PRIu64 " x %12" PRIu64 " B = %10.1f MiB  %s", what, count, bytes,
              (double)count * (double)bytes / (1024.0 * 1024.0), where);
}

static void log_memory(const struct process *process)
{
    const struct spin_engine_config *config = spin_engine_get_config(process->engine);
    /* One token array per request that the engine can know of. */
    const uint64_t requests = (uint64_t)config->max_num_seqs + config->max_waiting;
    const bool on_gpu = process->backend.stream != NULL;
    log_memory_row("weights", 1, process->model->weight_bytes, on_gpu ? "GPU" : "mapped file");
    log_memory_row("kv slots", 1, config->kv_hbm_bytes,
                   on_gpu ? "GPU: the HBM tier" : "heap: the HBM tier");
    log_memory_row("kv blocks", 1, config->kv_host_bytes,
                   on_gpu ? "pinned: the host tier" : "heap: the host tier");
    log_memory_row("request tokens", requests, (uint64_t)config->max_model_len * sizeof(int32_t),
                   "heap");
    log_memory_row("call outboxes", spin_service_calls_max(process->service),
                   spin_service_outbox_bytes(), "heap, while a call is open, as far as used");
}

static spin_status create_config_text(struct process *process, struct spin_error *err)
{
    size_t bytes = 0;
    FILE *stream = open_memstream(&process->config_text, &bytes);
    if (stream != NULL) {
        spin_config_print_effective(&spin_worker_config_spec, process->options, process->values,
                                    stream);
    }
    if (stream == NULL || fclose(stream) != 0) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "no memory for the text of the configuration");
    }
    return SPIN_OK;
}

/* Written whole or not at all: who sees the file can use it. */
static spin_status write_port_file(struct process *process, struct spin_error *err)
{
    const char *path = process->options->port_file;
    const bool pages = process->pages != NULL;
    char text[2 * SPIN_ADDRESS_TEXT_BYTES + 16];
    struct spin_error why;
    if (path == NULL) {
        return SPIN_OK;
    }
    (void)snprintf(text, sizeof text, "%s\n%s%s%s", spin_service_address(process->service),
                   pages ? "http " : "", pages ? spin_pages_address(process->pages) : "",
                   pages ? "\n" : "");
    const spin_status status = spin_file_replace(path, text, &why);
    if (status != SPIN_OK) {
        return spin_fail(err, status, "--port-file: %s", why.text);
    }
    process->port_file_written = true;
    return SPIN_OK;
}

/* --- up --- */

static spin_status open_model(struct process *process, struct spin_error *err)
{
    SPIN_TRY(spin_model_open(process->options->model, &process->model, err));
    SPIN_TRY(spin_tokenizer_open(process->options->model, &process->tokenizer, err));
    const uint32_t count = spin_tokenizer_end_tokens(process->tokenizer, process->end_tokens,
                                                     SPIN_ARRAY_COUNT(process->end_tokens));
    if (count > SPIN_ARRAY_COUNT(process->end_tokens)) {
        return spin_fail(err, SPIN_ERR_LIMIT, "model: %u end tokens, at most %zu", count,
                         SPIN_ARRAY_COUNT(process->end_tokens));
    }
    process->end_token_count = count;
    log_model(process);
    return SPIN_OK;
}

/* Where the model runs, and its weights there. */
static spin_status open_device(struct process *process, struct spin_error *err)
{
    SPIN_TRY(spin_worker_backend_open(process->options, process->model, &process->backend, err));
    if (process->backend.stream == NULL) {
        return SPIN_OK; /* weights are multiplied as they lie in the file */
    }
    struct spin_model *placed = NULL;
    SPIN_TRY(spin_model_place(process->model, process->backend.stream, &placed, err));
    spin_model_close(process->model);
    process->model = placed;
    return SPIN_OK;
}

static void on_lost(void *context);

static spin_status create_engine(struct process *process, struct spin_error *err)
{
    struct spin_engine_config config = spin_worker_options_to_engine(process->options);
    config.ops = process->backend.ops;
    config.stream = process->backend.stream;
    config.watcher = (struct spin_engine_watcher){.context = process, .lost = on_lost};
    SPIN_TRY(spin_metrics_create(spin_engine_metrics, SPIN_ENGINE_METRIC_COUNT,
                                 &process->engine_metrics, err));
    return spin_engine_create(&config, process->model, spin_clock_real(), process->engine_metrics,
                              &process->engine, err);
}

static const char *served_name(const struct process *process)
{
    const char *given = process->options->served_model_name;
    return given != NULL ? given : process->model->name;
}

/* What calls between processes of the cluster bear; NULL: nothing. */
static const char *bearer(const struct process *process)
{
    return process->options->cluster_secret != NULL ? process->token : NULL;
}

static spin_status create_service(struct process *process, struct spin_error *err)
{
    const struct spin_worker_options *options = process->options;
    if (options->router != NULL && options->advertise_address == NULL &&
        spin_address_is_wildcard(options->listen)) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--listen %s is every address of this machine: say with "
                         "--advertise-address which one routers should dial",
                         options->listen);
    }
    if (options->cluster_secret != NULL) {
        if (options->cluster_secret[0] == '\0') {
            return spin_fail(err, SPIN_ERR_INVALID, "--cluster-secret: empty");
        }
        spin_cluster_token(options->cluster_secret, process->token);
    }
    SPIN_TRY(spin_metrics_create(spin_service_metrics, SPIN_SERVICE_METRIC_COUNT,
                                 &process->service_metrics, err));
    const struct spin_service_config config = {.listen = options->listen,
                                               .advertise = options->advertise_address,
                                               .bearer = bearer(process),
                                               .tls = options->tls,
                                               .model_name = served_name(process),
                                               .model = process->model,
                                               .engine = process->engine,
                                               .end_tokens = process->end_tokens,
                                               .end_token_count = process->end_token_count,
                                               .metrics = process->service_metrics};
    return spin_service_create(&config, &process->service, err);
}

static spin_status create_pages(struct process *process, struct spin_error *err)
{
    if (strcmp(process->options->http_listen, NO_PAGES) == 0) {
        return SPIN_OK;
    }
    SPIN_TRY(create_config_text(process, err));
    const struct spin_pages_config config = {.listen = process->options->http_listen,
                                             .listen_flag = "--http-listen",
                                             .model_name = served_name(process),
                                             .config_text = process->config_text,
                                             .engine = process->engine,
                                             .engine_metrics = process->engine_metrics,
                                             .service = process->service,
                                             .service_metrics = process->service_metrics};
    return spin_pages_create(process->loop, &config, &process->pages, err);
}

static void on_left(void *context);

static spin_status join_routers(struct process *process, struct spin_error *err)
{
    const struct spin_worker_options *options = process->options;
    if (options->router == NULL) {
        return SPIN_OK;
    }
    SPIN_TRY(spin_rpc_thread_create(&process->rpc, err));
    const struct spin_membership_config config = {.service = process->service,
                                                  .routers = options->router,
                                                  .bearer = bearer(process),
                                                  .tls = options->router_tls,
                                                  .context = process,
                                                  .left = on_left};
    SPIN_TRY(
        spin_membership_create(process->loop, process->rpc, &config, &process->membership, err));
    if (process->pages != NULL) {
        spin_pages_set_membership(process->pages, process->membership);
    }
    return SPIN_OK;
}

static spin_status create_parts(struct process *process, struct spin_error *err)
{
    SPIN_TRY(spin_loop_create(&process->loop, err));
    SPIN_TRY(open_model(process, err));
    SPIN_TRY(open_device(process, err));
    SPIN_TRY(create_engine(process, err));
    SPIN_TRY(create_service(process, err));
    SPIN_TRY(create_pages(process, err));
    log_memory(process);
    return SPIN_OK;
}

static void on_signal(void *context, int number);

static spin_status start_parts(struct process *process, struct spin_error *err)
{
    SPIN_TRY(spin_engine_start(process->engine, err));
    process->engine_started = true;
    SPIN_TRY(spin_loop_on_shutdown(process->loop, on_signal, process, err));
    SPIN_TRY(spin_service_start(process->service, err));
    process->service_started = true;
    SPIN_TRY(join_routers(process, err));
    SPIN_TRY(write_port_file(process, err));
    const struct spin_engine_config *config = spin_engine_get_config(process->engine);
    const uint64_t spent_ns = spin_now_ns(spin_clock_real()) - process->started_ns;
    SPIN_INFO("listening: grpc=%s http=%s device=\"%s\" ops=%s threads=%u max_model_len=%u "
              "algorithm=%s",
              spin_service_address(process->service),
              process->pages != NULL ? spin_pages_address(process->pages) : NO_PAGES,
              spin_engine_get_device(process->engine), config->ops->name, config->threads,
              config->max_model_len, config->sparse.algorithm->name);
    SPIN_INFO("ready in %" PRIu64 " ms", spent_ns / SPIN_NS_PER_MS);
    return SPIN_OK;
}

/* --- down: each step calls the next --- */

static void on_pages_closed(void *context)
{
    struct process *process = context;
    spin_loop_stop(process->loop);
}

static void close_pages(struct process *process)
{
    if (process->pages != NULL) {
        spin_pages_close(process->pages, on_pages_closed, process);
    } else {
        spin_loop_stop(process->loop);
    }
}

static void on_left(void *context)
{
    close_pages(context);
}

/* Off the loop: both wait. */
static void stop_engine(struct process *process)
{
    if (process->engine_started) {
        spin_engine_stop(process->engine, process->options->shutdown_grace_ns);
        process->engine_started = false;
    }
    if (process->service_started) {
        spin_service_stop(process->service, LAST_BYTES_GRACE_NS);
        process->service_started = false;
    }
}

static void run_stopping(struct spin_loop_work *work)
{
    stop_engine(SPIN_CONTAINER_OF(work, struct process, stopping));
}

static void on_stopped(struct spin_loop_work *work)
{
    struct process *process = SPIN_CONTAINER_OF(work, struct process, stopping);
    struct spin_rpc_server_stats stats;
    spin_service_get_stats(process->service, &stats);
    SPIN_INFO("served: calls=%" PRIu64 " refused=%" PRIu64 " gone=%" PRIu64
              " slow_readers=%" PRIu64,
              stats.calls, stats.refused, stats.gone, stats.slow_readers);
    if (process->membership != NULL) {
        spin_membership_leave(process->membership,
                              process->lost ? "its device is lost" : "shutting down");
    } else {
        close_pages(process);
    }
}

static void remove_port_file(struct process *process)
{
    if (process->port_file_written) {
        (void)unlink(process->options->port_file);
        process->port_file_written = false;
    }
}

static void shut_down(struct process *process)
{
    if (process->is_stopping) {
        return;
    }
    process->is_stopping = true;
    remove_port_file(process);
    spin_service_drain(process->service);
    if (process->membership != NULL) {
        spin_membership_report(process->membership);
    }
    process->stopping = (struct spin_loop_work){.run = run_stopping, .done = on_stopped};
    if (spin_loop_work(process->loop, &process->stopping) != SPIN_OK) {
        run_stopping(&process->stopping); /* then the loop stands still for that long */
        on_stopped(&process->stopping);
    }
}

static void on_signal(void *context, int number)
{
    struct process *process = context;
    SPIN_INFO("shutting down: signal=%s grace_ms=%" PRIu64,
              number == SIGTERM ? "SIGTERM" : "SIGINT",
              process->options->shutdown_grace_ns / SPIN_NS_PER_MS);
    shut_down(process);
}

static void run_lost(struct spin_loop_message *message)
{
    struct process *process = SPIN_CONTAINER_OF(message, struct process, lost_message);
    process->lost = true;
    SPIN_ERROR("shutting down: the device is lost");
    shut_down(process);
}

/* The engine's thread; every stream has been told. */
static void on_lost(void *context)
{
    struct process *process = context;
    process->lost_message.run = run_lost;
    spin_loop_post(process->loop, &process->lost_message);
}

/* What create_parts and start_parts have made, however far they got. */
static void destroy_parts(struct process *process)
{
    process->is_stopping = true; /* for a message about the device that is still on its way */
    remove_port_file(process);
    stop_engine(process);
    spin_membership_destroy(process->membership);
    spin_rpc_thread_destroy(process->rpc);
    spin_pages_destroy(process->pages);
    spin_service_destroy(process->service);
    spin_engine_destroy(process->engine);
    spin_metrics_destroy(process->service_metrics);
    spin_metrics_destroy(process->engine_metrics);
    spin_tokenizer_close(process->tokenizer);
    spin_model_close(process->model);
    spin_worker_backend_close(&process->backend);
    spin_loop_destroy(process->loop);
    free(process->config_text);
}

int spin_worker_process_run(const struct spin_worker_options *options,
                            const struct spin_config_values *values)
{
    struct process process = {
        .options = options, .values = values, .started_ns = spin_now_ns(spin_clock_real())};
    (void)signal(SIGPIPE, SIG_IGN);
    log_options(options, values);

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
    if (process.lost) {
        SPIN_ERROR("stopped: the device is lost");
        _exit(1); /* exit handlers of a driver may wait for the device */
    }
    destroy_parts(&process);
    if (status == SPIN_OK) {
        SPIN_INFO("stopped");
    }
    return status == SPIN_OK ? 0 : 1;
}
