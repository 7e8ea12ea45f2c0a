/* engine: one model on one device, generating for many sequences at once.
 *
 * Why        One thread owns the device, the KV and every sequence, and turns a bounded inbox of
 *            requests into tokens: continuous batching of decode steps with prefill units in
 *            between. No step allocates after warm-up.
 * Ownership  The engine borrows the model, the clock and a stream that it was given, and owns its
 *            KV, scheduler, thread, and the stream that it was not given.
 * Threading  create, start, stop, destroy: one control thread. submit, cancel, load: any thread.
 * Units      Tokens, bytes, nanoseconds.
 * Errors     submit: INVALID or LIMIT (the text names the field and the limit), EXHAUSTED (queue
 *            full, the text gives a hint), SHUTDOWN, DEVICE_LOST. A request within max_model_len
 *            always fits both tiers: create refuses smaller ones. After OK the sink's finished
 *            is called exactly once; after an error the sink is never called. Nothing waits for a
 *            device without limit: one that does not answer for a minute is lost. */
#pragma once

#include "base/clock.h"
#include "base/metrics.h"
#include "kernels/ops.h"
#include "model/weights/model.h"
#include "worker/engine/request.h"
#include "worker/sparse/sparse.h"

SPIN_BEGIN_DECLS

struct spin_engine; /* private to engine.c */
struct spin_scheduler_config;

/* Who wants to know that the device is lost: called once, on the engine's thread, after every
 * request has been told its end. */
struct spin_engine_watcher {
    void *context;
    void (*lost)(void *context); /* NULL: nobody */
};

struct spin_engine_config {
    uint32_t max_model_len; /* tokens; 0: what model and tiers hold, the smaller */
    uint32_t max_num_seqs;  /* running at once; default 32, 1..1024, and what the operations take */
    /* Prefill between two decode steps; 0: 256 on the CPU, 2048 on a GPU. */
    uint32_t max_num_batched_tokens;
    /* A multiple of SPIN_BLOCK_TOKENS; 0: 2048 on the CPU, 8192 on a GPU. */
    uint32_t super_chunk_tokens;
    uint32_t chunk_tokens; /* one unit's tokens; 0: 128 on the CPU, 2048 on a GPU */
    uint32_t max_waiting;  /* the queue's bound; default 256 */
    uint32_t threads;      /* compute threads of the engine's own stream; 0: the cores there are */
    /* Slots; 0: room for max_num_seqs sequences. On the CPU at most an eighth of the memory, but
     * for one of max_model_len at least; on a GPU at most what gpu_memory_utilization leaves. */
    uint64_t kv_hbm_bytes;
    /* Blocks; 0: room for max_num_seqs sequences; on the CPU the same rule, on a GPU, where they
     * are pinned, at most half of the memory. */
    uint64_t kv_host_bytes;
    uint64_t memory_bytes; /* what those defaults are shares of; 0: what this process may use */
    /* Of a GPU's memory, by everything that is in it, ours or not; default 0.9. */
    double gpu_memory_utilization;
    enum spin_kv_replacement kv_replacement;
    struct spin_sparse_options sparse;
    const struct spin_ops *ops; /* NULL: spin_ops_best_cpu() */
    struct spin_stream *stream; /* where the model's weights are; NULL: one of `threads` threads */
    struct spin_engine_watcher watcher;
};
struct spin_engine_config spin_engine_config_default(void);

/* What a router wants to know; a snapshot that the engine publishes after every step. */
struct spin_engine_load {
    uint32_t running;
    uint32_t waiting;
    uint64_t kv_tokens;
    uint64_t kv_tokens_used;
    uint64_t queued_prompt_tokens;
    uint64_t step_ns;
    double prefill_tokens_per_s;
    uint64_t preemptions;
    uint64_t suspensions;
    uint64_t kv_hits;
    uint64_t kv_misses;
    uint64_t kv_pages_retrieved;
    uint64_t kv_evictions;
    uint64_t kv_table_bytes;     /* HBM, summaries and lists not counted */
    uint64_t kv_summary_bytes;   /* HBM */
    uint64_t kv_hbm_bytes_used;  /* granted slabs */
    uint64_t kv_host_bytes_used; /* blocks held */
    uint64_t dense_fallbacks;
};

/* A request's share of the tiers, for people. */
struct spin_engine_request_kv {
    char id[SPIN_REQUEST_ID_BYTES];
    bool resident;
    bool active;
    uint32_t tokens;
    uint32_t budget_pages;    /* of a row, mean */
    uint32_t mandatory_pages; /* of a row, mean */
    uint32_t working_set;     /* of a row, mean */
    uint64_t slots;
    uint64_t hits;
    uint64_t misses;
};

/* UNSUPPORTED: these operations have no code for the model's heads; the text names them. */
SPIN_MUST_USE spin_status spin_engine_check_model(const struct spin_ops *ops,
                                                  const struct spin_model *model,
                                                  struct spin_error *err);

/* `metrics` is made from spin_engine_metrics; NULL: nobody counts. */
SPIN_MUST_USE spin_status spin_engine_create(const struct spin_engine_config *config,
                                             const struct spin_model *model,
                                             const struct spin_clock *clock,
                                             struct spin_metrics *metrics, struct spin_engine **out,
                                             struct spin_error *err);
SPIN_MUST_USE spin_status spin_engine_start(struct spin_engine *engine, struct spin_error *err);
/* No new requests; running ones go on until grace_ns has passed, then are cancelled. Returns when
 * the thread is gone and every sink has been told. */
void spin_engine_stop(struct spin_engine *engine, uint64_t grace_ns);
void spin_engine_destroy(struct spin_engine *engine); /* stopped; NULL is allowed */

/* Copies what it needs. *out_ticket names the request for cancel; it is written before the sink can
 * be called. */
SPIN_MUST_USE spin_status spin_engine_submit(struct spin_engine *engine,
                                             const struct spin_request *request,
                                             uint64_t *out_ticket, struct spin_error *err);
/* A request, not an order: finished still comes, with CANCELLED or the real reason. Unknown tickets
 * are ignored. Acts within one step or one prefill unit. */
void spin_engine_cancel(struct spin_engine *engine, uint64_t ticket);

/* SPIN_OK while requests are taken; SHUTDOWN after stop; DEVICE_LOST after an operation failed:
 * every request ends with ERROR then, the watcher is told, and the process should exit non-zero. */
spin_status spin_engine_get_status(const struct spin_engine *engine);
void spin_engine_get_load(const struct spin_engine *engine, struct spin_engine_load *out);
/* Up to `max` of the requests that hold KV, oldest first; renewed a few times a second. Returns how
 * many. Takes a lock that the engine's thread holds for a copy. */
uint32_t spin_engine_get_requests(struct spin_engine *engine, struct spin_engine_request_kv *out,
                                  uint32_t max);
/* The configuration in force, defaults resolved. */
const struct spin_engine_config *spin_engine_get_config(const struct spin_engine *engine);
/* What the scheduler was given, for whoever simulates this engine; `budget` is borrowed until
 * destroy. Returns whether generated tokens are replayed rather than prefilled (D1). */
bool spin_engine_get_scheduling(const struct spin_engine *engine,
                                struct spin_scheduler_config *out);
/* What the model runs on, for people: "CPU", "NVIDIA H200". */
const char *spin_engine_get_device(const struct spin_engine *engine);

SPIN_END_DECLS
