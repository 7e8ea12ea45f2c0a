/* metrics: what the worker counts around its engine; a name is an interface.
 *
 * Why        One list makes the enum and the table. The rows vllm:... are aliases of the engine's
 *            gauges, under the names that routers and autoscalers of other systems read.
 * Threading  Any thread.
 * Units      In the names; vllm:kv_cache_usage_perc is a share from 0 to 1 all the same. */
#pragma once

#include "base/metrics.h"

SPIN_BEGIN_DECLS

/* What these readers select by: there is one engine in a worker. */
#define SPIN_SERVICE_ALIAS_LABELS "engine=\"0\""

/* X(enum name, metric name, labels or NULL, kind, help) */
#define SPIN_SERVICE_METRIC_MAP(X) \
    X(RPC_CALLS, "spin_worker_rpc_calls_total", NULL, COUNTER, "gRPC calls taken.") \
    X(RPC_REFUSED, "spin_worker_rpc_refused_total", NULL, COUNTER, \
      "gRPC calls over a limit, malformed, without the token, or unknown.") \
    X(RPC_GONE, "spin_worker_rpc_clients_gone_total", NULL, COUNTER, \
      "gRPC clients that left before the end of their call.") \
    X(RPC_SLOW, "spin_worker_rpc_slow_clients_total", NULL, COUNTER, \
      "gRPC clients cut off because they did not read.") \
    X(RPC_MESSAGES, "spin_worker_rpc_messages_sent_total", NULL, COUNTER, \
      "gRPC messages sent; tokens that waited together left as one.") \
    X(RPC_OPEN, "spin_worker_rpc_calls_open", NULL, GAUGE, "gRPC calls that are open.") \
    X(CLIENT_GONE, "spin_worker_client_gone_seconds", NULL, HISTOGRAM, \
      "A client left, to all that its request held was free.") \
    X(ROUTERS, "spin_worker_routers", NULL, GAUGE, "Routers that have welcomed this worker.") \
    X(DRAINING, "spin_worker_draining", NULL, GAUGE, "1 while shutting down.") \
    X(ALIAS_RUNNING, "vllm:num_requests_running", SPIN_SERVICE_ALIAS_LABELS, GAUGE, \
      "As spin_requests_running.") \
    X(ALIAS_WAITING, "vllm:num_requests_waiting", SPIN_SERVICE_ALIAS_LABELS, GAUGE, \
      "As spin_requests_waiting.") \
    X(ALIAS_KV_USAGE, "vllm:kv_cache_usage_perc", SPIN_SERVICE_ALIAS_LABELS, GAUGE, \
      "spin_kv_host_used_bytes / spin_kv_host_pool_bytes; 1 is full.") \
    X(ALIAS_LORA, "vllm:lora_requests_info", \
      SPIN_SERVICE_ALIAS_LABELS \
      ",max_lora=\"0\",running_lora_adapters=\"\",waiting_lora_adapters=\"\"", \
      GAUGE, "Seconds since 1970 of this page; there are no adapters.")

#define SPIN_SERVICE_METRIC_ENUM(id, name, labels, kind, help) SPIN_SERVICE_METRIC_##id,
enum spin_service_metric {
    SPIN_SERVICE_METRIC_MAP(SPIN_SERVICE_METRIC_ENUM) SPIN_SERVICE_METRIC_COUNT
};
#undef SPIN_SERVICE_METRIC_ENUM

extern const struct spin_metric spin_service_metrics[SPIN_SERVICE_METRIC_COUNT];

SPIN_END_DECLS
