#include "router/options.h"

#include <stdio.h>
#include <string.h>

#define FIELD(name) .offset = offsetof(struct spin_router_options, name)
#define NO_RANGE .min = 0, .max = -1
#define NS_PER_MS 1e6

static const struct spin_option options[] = {
    {.name = "model",
     .type = SPIN_OPTION_STRING,
     FIELD(model),
     NO_RANGE,
     .required = true,
     .help = "Where the tokenizer comes from: the workers' .gguf file, a folder with "
             "tokenizer.json, or random:<shape>."},
    {.name = "served-model-name",
     .type = SPIN_OPTION_STRING,
     FIELD(served_model_name),
     NO_RANGE,
     .help = "The name that clients know the model by, and that workers must have; without "
             "it the base name of --model, and workers may have any."},
    {.name = "chat-template",
     .type = SPIN_OPTION_STRING,
     FIELD(chat_template),
     NO_RANGE,
     .help = "The chat format's name when the model's own template is not recognised; none: "
             "completions only."},
    {.name = "listen",
     .type = SPIN_OPTION_STRING,
     FIELD(listen),
     .default_value = "127.0.0.1:8000",
     NO_RANGE,
     .help = "host:port of the HTTP API; port 0 takes any free one."},
    {.name = "grpc-listen",
     .type = SPIN_OPTION_STRING,
     FIELD(grpc_listen),
     .default_value = "127.0.0.1:9000",
     NO_RANGE,
     .help = "host:port of the gRPC services; port 0 takes any free one."},
    {.name = "port-file",
     .type = SPIN_OPTION_STRING,
     FIELD(port_file),
     NO_RANGE,
     .help = "A file for scripts, written when the router is ready: the lines \"http "
             "host:port\" and \"grpc host:port\"."},
    {.name = "api-key",
     .type = SPIN_OPTION_STRING,
     FIELD(api_key),
     NO_RANGE,
     .secret = true,
     .help = "A key that clients must send; its tenant is called default."},
    {.name = "api-keys-file",
     .type = SPIN_OPTION_STRING,
     FIELD(api_keys_file),
     NO_RANGE,
     .help = "A YAML or JSON mapping of tenants (or tenant/what-for) to keys."},
    {.name = "cluster-secret",
     .type = SPIN_OPTION_STRING,
     FIELD(cluster_secret),
     NO_RANGE,
     .secret = true,
     .help = "Shared by the processes of a cluster: who does not know it cannot join, and "
             "salts come from it."},
    {.name = "max-queue",
     .type = SPIN_OPTION_U32,
     FIELD(max_queue),
     .default_value = "4096",
     .min = 1,
     .max = 1 << 20,
     .help = "Sequences that may wait for a worker; more are refused."},
    {.name = "max-queue-per-tenant",
     .type = SPIN_OPTION_U32,
     FIELD(max_queue_per_tenant),
     .default_value = "2048",
     .min = 1,
     .max = 1 << 20,
     .help = "Sequences of one tenant that may wait."},
    {.name = "max-generations",
     .type = SPIN_OPTION_U32,
     FIELD(max_generations),
     .default_value = "16384",
     .min = 1,
     .max = 1 << 20,
     .help = "Sequences that may be open, waiting or running."},
    {.name = "max-recoveries",
     .type = SPIN_OPTION_U32,
     FIELD(max_recoveries),
     .default_value = "8",
     .min = 0,
     .max = 1000,
     .help = "Workers that may fail a sequence before it is given up."},
    {.name = "queue-timeout",
     .type = SPIN_OPTION_DURATION,
     FIELD(queue_timeout_ns),
     .default_value = "30s",
     NO_RANGE,
     .help = "How long a sequence waits while no worker takes any."},
    {.name = "request-timeout",
     .type = SPIN_OPTION_DURATION,
     FIELD(request_timeout_ns),
     .default_value = "600s",
     NO_RANGE,
     .help = "The longest that a sequence may take, waiting included."},
    {.name = "worker-timeout",
     .type = SPIN_OPTION_DURATION,
     FIELD(worker_timeout_ns),
     .default_value = "10s",
     NO_RANGE,
     .help = "Without a word from a worker for this long its sequences move to another."},
    {.name = "status-interval",
     .type = SPIN_OPTION_DURATION,
     FIELD(status_interval_ns),
     .default_value = "250ms",
     .min = 10 * NS_PER_MS,
     .max = 60e9,
     .help = "How often members report; after four without a report one gets nothing new."},
    {.name = "max-header-bytes",
     .type = SPIN_OPTION_BYTES,
     FIELD(max_header_bytes),
     .default_value = "32KiB",
     .min = 1024,
     .max = 1 << 20,
     .help = "Request line and headers of an HTTP request."},
    {.name = "max-body-bytes",
     .type = SPIN_OPTION_BYTES,
     FIELD(max_body_bytes),
     .default_value = "16MiB",
     .min = 1024,
     .max = 1 << 30,
     .help = "Body of an HTTP request."},
    {.name = "max-connections",
     .type = SPIN_OPTION_U32,
     FIELD(max_connections),
     .default_value = "16384",
     .min = 1,
     .max = 1 << 20,
     .help = "HTTP connections at once; more get 503."},
    {.name = "write-buffer-bytes",
     .type = SPIN_OPTION_BYTES,
     FIELD(write_buffer_bytes),
     .default_value = "1MiB",
     .min = 4096,
     .max = 1 << 30,
     .help = "What may wait for one slow HTTP client; over it the client is cut off."},
    {.name = "write-timeout",
     .type = SPIN_OPTION_DURATION,
     FIELD(write_timeout_ns),
     .default_value = "30s",
     NO_RANGE,
     .help = "How long an HTTP client may take nothing while something waits for it."},
    {.name = "idle-timeout",
     .type = SPIN_OPTION_DURATION,
     FIELD(idle_timeout_ns),
     .default_value = "75s",
     NO_RANGE,
     .help = "How long a kept HTTP connection may be idle."},
    {.name = "tls-cert",
     .type = SPIN_OPTION_STRING,
     FIELD(tls.cert_file),
     NO_RANGE,
     .help = "PEM chain of the gRPC server; with it gRPC is encrypted."},
    {.name = "tls-key",
     .type = SPIN_OPTION_STRING,
     FIELD(tls.key_file),
     NO_RANGE,
     .help = "PEM key of tls-cert."},
    {.name = "tls-ca",
     .type = SPIN_OPTION_STRING,
     FIELD(tls.ca_file),
     NO_RANGE,
     .help = "PEM authorities: gRPC clients and members must show a certificate of theirs."},
    {.name = "worker-tls-ca",
     .type = SPIN_OPTION_STRING,
     FIELD(worker_tls.ca_file),
     NO_RANGE,
     .help = "PEM authorities of workers' certificates; with it calls to workers are "
             "encrypted."},
    {.name = "worker-tls-cert",
     .type = SPIN_OPTION_STRING,
     FIELD(worker_tls.cert_file),
     NO_RANGE,
     .help = "PEM chain that this router shows to workers."},
    {.name = "worker-tls-key",
     .type = SPIN_OPTION_STRING,
     FIELD(worker_tls.key_file),
     NO_RANGE,
     .help = "PEM key of worker-tls-cert."},
    {.name = "shutdown-grace",
     .type = SPIN_OPTION_DURATION,
     FIELD(shutdown_grace_ns),
     .default_value = "30s",
     NO_RANGE,
     .help = "How long running streams may go on after SIGTERM; a second signal ends at "
             "once."},
    {.name = "log-level",
     .type = SPIN_OPTION_CHOICE,
     FIELD(log_level),
     .default_value = "info",
     .choices = "error,warn,info,debug,trace", /* the order of enum spin_log_level */
     NO_RANGE,
     .help = "How much is written to standard error."},
};

const struct spin_config_spec spin_router_config_spec = {
    .program = "spin-router",
    .synopsis = "",
    .about = "Takes requests over HTTP and gRPC and dispatches them to the workers that join it.",
    .options = options,
    .option_count = SPIN_ARRAY_COUNT(options),
};

spin_status spin_router_options_check(const struct spin_router_options *given,
                                      struct spin_error *err)
{
    if (given->cluster_secret != NULL && given->cluster_secret[0] == '\0') {
        return spin_fail(err, SPIN_ERR_INVALID, "--cluster-secret: empty");
    }
    if (given->served_model_name != NULL && given->served_model_name[0] == '\0') {
        return spin_fail(err, SPIN_ERR_INVALID, "--served-model-name: empty");
    }
    if (given->worker_timeout_ns < 4 * given->status_interval_ns) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--worker-timeout: must be at least four times --status-interval");
    }
    if (given->tls.ca_file != NULL && given->tls.cert_file == NULL) {
        return spin_fail(err, SPIN_ERR_INVALID, "--tls-ca: needs --tls-cert and --tls-key");
    }
    return SPIN_OK;
}

void spin_router_options_model_name(const struct spin_router_options *given, char *out,
                                    uint64_t capacity)
{
    static const char suffix[] = ".gguf";
    if (given->served_model_name != NULL) {
        (void)snprintf(out, capacity, "%s", given->served_model_name);
        return;
    }
    const char *begin = given->model;
    size_t end = strlen(begin);
    while (end > 1 && begin[end - 1] == '/') { /* a folder, with its slash */
        end--;
    }
    size_t first = end;
    while (first > 0 && begin[first - 1] != '/') {
        first--;
    }
    size_t bytes = end - first;
    const size_t suffix_bytes = sizeof suffix - 1;
    if (bytes > suffix_bytes && memcmp(&begin[end - suffix_bytes], suffix, suffix_bytes) == 0) {
        bytes -= suffix_bytes;
    }
    (void)snprintf(out, capacity, "%.*s", (int)bytes, &begin[first]);
}
