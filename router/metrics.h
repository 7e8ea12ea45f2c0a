/* metrics: the router's table of metrics; a name is an interface.
 *
 * Why        One list makes the enum and the table; /metrics renders it.
 * Threading  Any thread.
 * Units      In the names. */
#pragma once

#include "base/metrics.h"

SPIN_BEGIN_DECLS

/* X(enum name, metric name, labels or NULL, kind, help) */
#define SPIN_ROUTER_METRIC_MAP(X) \
    X(HTTP_2XX, "spin_router_http_responses_total", "code=\"2xx\"", COUNTER, "HTTP replies.") \
    X(HTTP_4XX, "spin_router_http_responses_total", "code=\"4xx\"", COUNTER, "HTTP replies.") \
    X(HTTP_429, "spin_router_http_responses_total", "code=\"429\"", COUNTER, "HTTP replies.") \
    X(HTTP_5XX, "spin_router_http_responses_total", "code=\"5xx\"", COUNTER, "HTTP replies.") \
    X(HTTP_CONNECTIONS, "spin_router_http_connections", NULL, GAUGE, "Open HTTP connections.") \
    X(HTTP_SLOW, "spin_router_http_slow_clients_total", NULL, COUNTER, \
      "Clients cut off because they did not read.") \
    X(HTTP_GONE, "spin_router_http_clients_gone_total", NULL, COUNTER, \
      "Clients that left before the end of their reply.") \
    X(RPC_CALLS, "spin_router_rpc_calls_total", NULL, COUNTER, "gRPC calls of clients.") \
    X(RPC_SLOW, "spin_router_rpc_slow_clients_total", NULL, COUNTER, \
      "gRPC clients cut off because they did not read.") \
    X(GENERATIONS, "spin_router_generations_total", NULL, COUNTER, "Sequences asked for.") \
    X(ENDED_STOP, "spin_router_generations_ended_total", "reason=\"stop\"", COUNTER, \
      "Sequences ended, by reason.") \
    X(ENDED_LENGTH, "spin_router_generations_ended_total", "reason=\"length\"", COUNTER, \
      "Sequences ended, by reason.") \
    X(ENDED_CANCELLED, "spin_router_generations_ended_total", "reason=\"cancelled\"", COUNTER, \
      "Sequences ended, by reason.") \
    X(ENDED_DEADLINE, "spin_router_generations_ended_total", "reason=\"deadline\"", COUNTER, \
      "Sequences ended, by reason.") \
    X(ENDED_ERROR, "spin_router_generations_ended_total", "reason=\"error\"", COUNTER, \
      "Sequences ended, by reason.") \
    X(REFUSED_QUEUE, "spin_router_refused_total", "reason=\"queue_full\"", COUNTER, \
      "Sequences refused at once, by reason.") \
    X(REFUSED_NO_WORKER, "spin_router_refused_total", "reason=\"no_worker\"", COUNTER, \
      "Sequences refused at once, by reason.") \
    X(REFUSED_KEY, "spin_router_refused_total", "reason=\"bad_key\"", COUNTER, \
      "Sequences refused at once, by reason.") \
    X(REFUSED_INVALID, "spin_router_refused_total", "reason=\"invalid\"", COUNTER, \
      "Sequences refused at once, by reason.") \
    X(QUEUED, "spin_router_queue_length", NULL, GAUGE, "Sequences that wait for a worker.") \
    X(RUNNING, "spin_router_generations_running", NULL, GAUGE, "Sequences at workers.") \
    X(RECOVERIES, "spin_router_recoveries_total", NULL, COUNTER, \
      "Sequences moved to another worker after they had begun.") \
    X(RETRIES, "spin_router_retries_total", NULL, COUNTER, \
      "Sequences offered to another worker before they had begun.") \
    X(WORKERS, "spin_router_workers", NULL, GAUGE, "Workers that take requests.") \
    X(WORKERS_LOST, "spin_router_workers_lost_total", NULL, COUNTER, \
      "Join streams that broke without a goodbye.") \
    X(PROMPT_TOKENS, "spin_router_prompt_tokens_total", NULL, COUNTER, "Prompt tokens sent on.") \
    X(OUTPUT_TOKENS, "spin_router_output_tokens_total", NULL, COUNTER, "Tokens from workers.") \
    X(QUEUE, "spin_router_queue_seconds", NULL, HISTOGRAM, "Asked to sent to a worker.") \
    X(TTFT, "spin_router_time_to_first_token_seconds", NULL, HISTOGRAM, "Asked to first token.") \
    X(TPOT, "spin_router_time_per_output_token_seconds", NULL, HISTOGRAM, \
      "Mean time between tokens of a sequence.") \
    X(ITL, "spin_router_inter_token_latency_seconds", NULL, HISTOGRAM, \
      "Time between two arrivals of tokens.") \
    X(E2E, "spin_router_request_seconds", NULL, HISTOGRAM, "Asked to ended.")

#define SPIN_ROUTER_METRIC_ENUM(id, name, labels, kind, help) SPIN_ROUTER_METRIC_##id,
enum spin_router_metric {
    SPIN_ROUTER_METRIC_MAP(SPIN_ROUTER_METRIC_ENUM) SPIN_ROUTER_METRIC_COUNT
};
#undef SPIN_ROUTER_METRIC_ENUM

extern const struct spin_metric spin_router_metrics[SPIN_ROUTER_METRIC_COUNT];

SPIN_END_DECLS
