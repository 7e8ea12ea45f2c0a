/* options: what spin-worker can be told, one row per option.
 *
 * Why        Flags, environment, file, --help and docs/config.md come from one table.
 * Ownership  Strings belong to the spin_config_values that loaded them.
 * Threading  Loaded once at start; read-only afterwards.
 * Units      In the field comments; durations in nanoseconds.
 * Errors     None here: the engine checks what it gets. */
#pragma once

#include "base/config.h"
#include "proto/rpc_tls.h"
#include "worker/engine/engine.h"

SPIN_BEGIN_DECLS

struct spin_worker_options {
    const char *model;
    const char *served_model_name;  /* NULL: the model's own */
    const char *listen;             /* host:port */
    const char *http_listen;        /* host:port, or "off" */
    const char *port_file;          /* NULL: none */
    const char *router;             /* "host:port,..."; NULL: joins nobody */
    const char *advertise_address;  /* host:port; NULL: the listening address */
    const char *cluster_secret;     /* NULL: anyone may call */
    struct spin_rpc_tls tls;        /* of our server */
    struct spin_rpc_tls router_tls; /* of our calls to routers */
    uint32_t max_model_len;         /* tokens; 0: the model's */
    uint32_t max_num_seqs;
    uint32_t max_num_batched_tokens; /* 0: by the device, as the next two */
    uint32_t super_chunk_tokens;
    uint32_t prefill_chunk_tokens;
    uint32_t max_waiting;
    uint32_t threads;              /* 0: the cores there are */
    uint32_t device;               /* index into "auto,cuda,cpu" */
    double gpu_memory_utilization; /* share of a GPU's memory */
    uint64_t kv_hbm_bytes;         /* 0: chosen by the engine */
    uint64_t kv_host_bytes;        /* 0: chosen by the engine */
    uint32_t kv_replacement;       /* enum spin_kv_replacement */
    uint32_t sparse_attention;     /* index into spin_sparse_algorithms */
    uint32_t sparse_budget;        /* tokens; 0: the algorithm's default */
    uint32_t sparse_min_context;   /* tokens */
    bool sparse_verify;
    uint32_t ops;               /* index into "auto,cpu,ref" */
    uint32_t log_level;         /* enum spin_log_level */
    uint64_t shutdown_grace_ns; /* for running streams */
};

extern const struct spin_config_spec spin_worker_config_spec;

/* The engine's part, but for operations and stream (backend.h); picks the algorithm. */
struct spin_engine_config spin_worker_options_to_engine(const struct spin_worker_options *given);

SPIN_END_DECLS
