/* metrics: the engine's table of metrics; a name is an interface.
 *
 * Why        One list makes the enum and the table. worker/service renders it for scrapes, with the
 *            aliases that routers and autoscalers of other systems read.
 * Threading  Any thread.
 * Units      In the names. */
#pragma once

#include "base/metrics.h"

SPIN_BEGIN_DECLS

/* X(enum name, metric name, labels or NULL, kind, help) */
#define SPIN_ENGINE_METRIC_MAP(X) \
    X(PROMPT_TOKENS, "spin_prompt_tokens_total", NULL, COUNTER, "Prompt tokens prefilled.") \
    X(GENERATED_TOKENS, "spin_generated_tokens_total", NULL, COUNTER, "Tokens drawn and sent.") \
    X(REQUESTS_STOP, "spin_requests_total", "reason=\"stop\"", COUNTER, \
      "Requests ended, by reason.") \
    X(REQUESTS_LENGTH, "spin_requests_total", "reason=\"length\"", COUNTER, \
      "Requests ended, by reason.") \
    X(REQUESTS_CANCELLED, "spin_requests_total", "reason=\"cancelled\"", COUNTER, \
      "Requests ended, by reason.") \
    X(REQUESTS_DEADLINE, "spin_requests_total", "reason=\"deadline\"", COUNTER, \
      "Requests ended, by reason.") \
    X(REQUESTS_ERROR, "spin_requests_total", "reason=\"error\"", COUNTER, \
      "Requests ended, by reason.") \
    X(REFUSED, "spin_requests_refused_total", NULL, COUNTER, "Requests refused at submit.") \
    X(PREEMPTIONS, "spin_preemptions_total", NULL, COUNTER, \
      "Sequences that gave up their KV and started over.") \
    X(RUNNING, "spin_requests_running", NULL, GAUGE, "Sequences in the batch or in prefill.") \
    X(WAITING, "spin_requests_waiting", NULL, GAUGE, \
      "Requests in the queue: new, preempted or suspended.") \
    X(SUSPENDED, "spin_requests_suspended", NULL, GAUGE, \
      "Requests in the queue that hold KV on the host and no slots.") \
    X(SUSPENSIONS, "spin_suspensions_total", NULL, COUNTER, \
      "Sequences that forgot their slots and wait to go on.") \
    X(SEQUENCES_RESIDENT, "spin_sequences_resident", NULL, GAUGE, \
      "Sequences whose every page keeps its slot.") \
    X(DEVICE_MEMORY_BYTES, "spin_device_memory_bytes", NULL, GAUGE, \
      "Memory of the GPU; 0 on the CPU.") \
    X(DEVICE_MEMORY_USED_BYTES, "spin_device_memory_used_bytes", NULL, GAUGE, \
      "In use on the GPU, by everybody, when the worker was ready; 0 on the CPU.") \
    X(KV_BYTES, "spin_kv_pool_bytes", NULL, GAUGE, "Size of the HBM pool of slots.") \
    X(KV_USED_BYTES, "spin_kv_used_bytes", NULL, GAUGE, "Bytes of slots granted to sequences.") \
    X(KV_HOST_BYTES, "spin_kv_host_pool_bytes", NULL, GAUGE, "Size of the host tier's blocks.") \
    X(KV_HOST_USED_BYTES, "spin_kv_host_used_bytes", NULL, GAUGE, \
      "Bytes of blocks held by sequences.") \
    X(KV_DIRECTORY_BYTES, "spin_kv_table_bytes", "table=\"directory\",tier=\"hbm\"", GAUGE, \
      "Bytes of each table that are in use, by tier.") \
    X(KV_PAGE_TABLE_BYTES, "spin_kv_table_bytes", "table=\"page_table\",tier=\"hbm\"", GAUGE, \
      "Bytes of each table that are in use, by tier.") \
    X(KV_STAMPS_BYTES, "spin_kv_table_bytes", "table=\"stamps\",tier=\"hbm\"", GAUGE, \
      "Bytes of each table that are in use, by tier.") \
    X(KV_SLAB_LISTS_BYTES, "spin_kv_table_bytes", "table=\"slab_lists\",tier=\"hbm\"", GAUGE, \
      "Bytes of each table that are in use, by tier.") \
    X(KV_LISTS_BYTES, "spin_kv_table_bytes", "table=\"lists\",tier=\"hbm\"", GAUGE, \
      "Bytes of each table that are in use, by tier.") \
    X(KV_SUMMARIES_BYTES, "spin_kv_table_bytes", "table=\"summaries\",tier=\"hbm\"", GAUGE, \
      "Bytes of each table that are in use, by tier.") \
    X(KV_CPU_PAGE_TABLE_BYTES, "spin_kv_table_bytes", "table=\"cpu_page_table\",tier=\"host\"", \
      GAUGE, "Bytes of each table that are in use, by tier.") \
    X(KV_PARTITION_OFFSET_BYTES, "spin_kv_table_bytes", \
      "table=\"partition_offset\",tier=\"host\"", GAUGE, \
      "Bytes of each table that are in use, by tier.") \
    X(KV_HITS, "spin_kv_hits_total", NULL, COUNTER, "Selected pages that were in HBM.") \
    X(KV_MISSES, "spin_kv_misses_total", NULL, COUNTER, "Selected pages that were not in HBM.") \
    X(KV_HIT_RATIO, "spin_kv_hit_ratio", NULL, GAUGE, \
      "Selected pages that were in HBM, of all, over about the last 8 decode steps.") \
    X(KV_PAGES_RETRIEVED, "spin_kv_pages_retrieved_total", NULL, COUNTER, \
      "Pages copied from the host into HBM: misses, and what arenas and resumed sequences read " \
      "back.") \
    X(KV_BYTES_RETRIEVED, "spin_kv_bytes_retrieved_total", NULL, COUNTER, \
      "Bytes copied from the host into HBM.") \
    X(KV_EVICTIONS, "spin_kv_evictions_total", NULL, COUNTER, \
      "Pages that gave their slot to another.") \
    X(KV_PAGES_DROPPED, "spin_kv_pages_dropped_total", NULL, COUNTER, \
      "Pages that lost their slot because their sequence's share shrank.") \
    X(KV_PAGES_OFFLOADED, "spin_kv_pages_offloaded_total", NULL, COUNTER, \
      "Pages copied from HBM to the host.") \
    X(KV_DEMOTIONS, "spin_kv_demotions_total", NULL, COUNTER, \
      "Resident sequences that were cut down to a buffer.") \
    X(SPARSE_STEPS, "spin_sparse_steps_total", NULL, COUNTER, \
      "Decode steps of a sequence that attended to selected pages.") \
    X(DENSE_FALLBACKS, "spin_dense_fallbacks_total", NULL, COUNTER, \
      "Decode steps of a sequence that ran dense because its context was short.") \
    X(DECODE_STEPS, "spin_decode_steps_total", NULL, COUNTER, "Decode steps run.") \
    X(PREFILL_UNITS, "spin_prefill_units_total", NULL, COUNTER, \
      "Prefill units (a chunk of a layer) run.") \
    X(TTFT, "spin_time_to_first_token_seconds", NULL, HISTOGRAM, "Submitted to first token.") \
    X(TPOT, "spin_time_per_output_token_seconds", NULL, HISTOGRAM, \
      "Mean time between tokens of a request.") \
    X(ITL, "spin_inter_token_latency_seconds", NULL, HISTOGRAM, \
      "Time between two tokens of a request.") \
    X(QUEUE, "spin_queue_seconds", NULL, HISTOGRAM, "Submitted to first scheduled.") \
    X(E2E, "spin_request_seconds", NULL, HISTOGRAM, "Submitted to finished.") \
    X(STEP, "spin_decode_step_seconds", NULL, HISTOGRAM, "One decode step of the batch.")

#define SPIN_ENGINE_METRIC_ENUM(id, name, labels, kind, help) SPIN_ENGINE_METRIC_##id,
enum spin_engine_metric {
    SPIN_ENGINE_METRIC_MAP(SPIN_ENGINE_METRIC_ENUM) SPIN_ENGINE_METRIC_COUNT
};
#undef SPIN_ENGINE_METRIC_ENUM

extern const struct spin_metric spin_engine_metrics[SPIN_ENGINE_METRIC_COUNT];

SPIN_END_DECLS
