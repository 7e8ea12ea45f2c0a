/* options: what spin-router can be told, one row per option.
 *
 * Why        Flags, environment, file, --help and docs/config.md come from one table.
 * Ownership  Strings belong to the spin_config_values that loaded them.
 * Threading  Loaded once at start; read-only afterwards.
 * Units      In the field comments; durations in nanoseconds.
 * Errors     INVALID from check: the text names the option. */
#pragma once

#include "base/config.h"
#include "proto/rpc_tls.h"

SPIN_BEGIN_DECLS

struct spin_router_options {
    const char *model;             /* where the tokenizer comes from */
    const char *served_model_name; /* NULL: the model's base name; workers may have any */
    const char *chat_template;     /* NULL: the model's own */
    const char *listen;            /* HTTP, host:port */
    const char *grpc_listen;       /* host:port */
    const char *port_file;         /* NULL: none */
    const char *api_key;           /* NULL: none */
    const char *api_keys_file;     /* NULL: none */
    const char *cluster_secret;    /* NULL: none */
    uint32_t max_queue;            /* sequences that wait, of all tenants */
    uint32_t max_queue_per_tenant;
    uint32_t max_generations; /* sequences that are open */
    uint32_t max_recoveries;  /* workers that may fail one sequence */
    uint64_t queue_timeout_ns;
    uint64_t request_timeout_ns;
    uint64_t worker_timeout_ns;
    uint64_t status_interval_ns;
    uint64_t max_header_bytes;
    uint64_t max_body_bytes;
    uint64_t write_buffer_bytes;
    uint32_t max_connections;
    uint64_t idle_timeout_ns;
    uint64_t write_timeout_ns;
    uint64_t shutdown_grace_ns;
    uint32_t log_level;             /* enum spin_log_level */
    struct spin_rpc_tls tls;        /* of our gRPC server */
    struct spin_rpc_tls worker_tls; /* of our calls to workers */
};

extern const struct spin_config_spec spin_router_config_spec;

/* What no row can say alone. */
SPIN_MUST_USE spin_status spin_router_options_check(const struct spin_router_options *given,
                                                    struct spin_error *err);
/* What clients call the model: --served-model-name, or the last part of --model without ".gguf". */
void spin_router_options_model_name(const struct spin_router_options *given, char *out,
                                    uint64_t capacity);

SPIN_END_DECLS
