/* Up:    signals, model, tokenizer, engine, service (binds), engine thread, service threads, ready.
 * Down:  drain, engine (streams end within the grace), service (their last bytes go out),
 * destroy. */
#include "worker/service/process.h"

#include "base/log.h"
#include "model/text/tokenizer.h"
#include "worker/engine/metrics.h"
#include "worker/service/service.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

/* After the engine has stopped only bytes are on the way; a client that does not read them within
 * this loses them. */
#define LAST_BYTES_GRACE_NS (2 * SPIN_NS_PER_S)

struct process {
    const struct spin_worker_options *options;
    uint64_t started_ns;
    struct spin_model *model;
    struct spin_tokenizer *tokenizer;
    int32_t end_tokens[SPIN_STOP_TOKENS_MAX];
    uint32_t end_token_count;
    struct spin_metrics *metrics;
    struct spin_engine *engine;
    bool engine_started;
    struct spin_service *service;
    bool service_started;
    bool port_file_written;
};

static void block_signals(sigset_t *set)
{
    (void)sigemptyset(set);
    (void)sigaddset(set, SIGTERM);
    (void)sigaddset(set, SIGINT);
    /* Inherited by every thread started later: a signal waits until sigwait takes it. */
    (void)pthread_sigmask(SIG_BLOCK, set, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
}

/* The next signal does what signals do by themselves: it ends the process at once. */
static void unblock_signals(const sigset_t *set)
{
    (void)pthread_sigmask(SIG_UNBLOCK, set, NULL);
}

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
    log_memory_row("weights", 1, process->model->weight_bytes, "mapped file");
    log_memory_row("kv pool", 1, config->kv_bytes, "heap");
    log_memory_row("request tokens", requests, (uint64_t)config->max_model_len * sizeof(int32_t),
                   "heap");
    log_memory_row("call outboxes", spin_service_calls_max(process->service),
                   spin_service_outbox_bytes(), "heap, while a call is open, as far as used");
}

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

static spin_status create_parts(struct process *process, struct spin_error *err)
{
    const struct spin_worker_options *options = process->options;
    SPIN_TRY(open_model(process, err));
    struct spin_engine_config config;
    SPIN_TRY(spin_worker_options_to_engine(options, &config, err));
    SPIN_TRY(
        spin_metrics_create(spin_engine_metrics, SPIN_ENGINE_METRIC_COUNT, &process->metrics, err));
    SPIN_TRY(spin_engine_create(&config, process->model, spin_clock_real(), process->metrics,
                                &process->engine, err));
    const struct spin_service_config service = {.listen = options->listen,
                                                .model_name = options->served_model_name != NULL
                                                                  ? options->served_model_name
                                                                  : process->model->name,
                                                .model = process->model,
                                                .engine = process->engine,
                                                .end_tokens = process->end_tokens,
                                                .end_token_count = process->end_token_count};
    SPIN_TRY(spin_service_create(&service, &process->service, err));
    log_memory(process);
    return SPIN_OK;
}

/* Written whole or not at all: who sees the file can use it. */
static spin_status write_port_file(struct process *process, struct spin_error *err)
{
    const char *path = process->options->port_file;
    char temporary[4096];
    if (path == NULL) {
        return SPIN_OK;
    }
    if ((size_t)snprintf(temporary, sizeof temporary, "%s.new", path) >= sizeof temporary) {
        return spin_fail(err, SPIN_ERR_INVALID, "--port-file: over %zu bytes", sizeof temporary);
    }
    FILE *file = fopen(temporary, "we");
    if (file == NULL) {
        return spin_fail_errno(err, SPIN_ERR_IO, "--port-file %s", path);
    }
    const bool written = fprintf(file, "%s\n", spin_service_address(process->service)) > 0;
    if (fclose(file) != 0 || !written || rename(temporary, path) != 0) {
        return spin_fail_errno(err, SPIN_ERR_IO, "--port-file %s", path);
    }
    process->port_file_written = true;
    return SPIN_OK;
}

static spin_status start_parts(struct process *process, struct spin_error *err)
{
    SPIN_TRY(spin_engine_start(process->engine, err));
    process->engine_started = true;
    SPIN_TRY(spin_service_start(process->service, err));
    process->service_started = true;
    SPIN_TRY(write_port_file(process, err));
    const struct spin_engine_config *config = spin_engine_get_config(process->engine);
    const uint64_t spent_ns = spin_now_ns(spin_clock_real()) - process->started_ns;
    SPIN_INFO("listening: grpc=%s ops=%s threads=%u max_model_len=%u",
              spin_service_address(process->service), config->ops->name, config->threads,
              config->max_model_len);
    SPIN_INFO("ready in %" PRIu64 " ms", spent_ns / SPIN_NS_PER_MS);
    return SPIN_OK;
}

static void serve_until_signal(struct process *process, const sigset_t *signals)
{
    int signal_number = 0;
    while (sigwait(signals, &signal_number) != 0) {
    }
    unblock_signals(signals);
    SPIN_INFO("shutting down: signal=%s grace_ms=%" PRIu64,
              signal_number == SIGTERM ? "SIGTERM" : "SIGINT",
              process->options->shutdown_grace_ns / SPIN_NS_PER_MS);
    spin_service_drain(process->service);
}

static void take_down(struct process *process)
{
    if (process->port_file_written) {
        (void)unlink(process->options->port_file);
    }
    if (process->engine_started) {
        spin_engine_stop(process->engine, process->options->shutdown_grace_ns);
    }
    if (process->service_started) {
        spin_service_stop(process->service, LAST_BYTES_GRACE_NS);
        struct spin_rpc_server_stats stats;
        spin_service_get_stats(process->service, &stats);
        SPIN_INFO("served: calls=%" PRIu64 " refused=%" PRIu64 " gone=%" PRIu64
                  " slow_readers=%" PRIu64,
                  stats.calls, stats.refused, stats.gone, stats.slow_readers);
    }
    spin_service_destroy(process->service);
    spin_engine_destroy(process->engine);
    spin_metrics_destroy(process->metrics);
    spin_tokenizer_close(process->tokenizer);
    spin_model_close(process->model);
}

int spin_worker_process_run(const struct spin_worker_options *options,
                            const struct spin_config_values *values)
{
    struct process process = {.options = options, .started_ns = spin_now_ns(spin_clock_real())};
    sigset_t signals;
    block_signals(&signals);
    log_options(options, values);

    struct spin_error err = {0};
    spin_status status = create_parts(&process, &err);
    if (status == SPIN_OK) {
        status = start_parts(&process, &err);
    }
    if (status == SPIN_OK) {
        serve_until_signal(&process, &signals);
    } else {
        SPIN_ERROR("cannot start: %s", err.text);
    }
    take_down(&process);
    if (status == SPIN_OK) {
        SPIN_INFO("stopped");
    }
    return status == SPIN_OK ? 0 : 1;
}
