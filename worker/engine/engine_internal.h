/* engine_internal: what the files of the engine share: engine.c (life), engine_config.c (what it
 * runs with), engine_tiers.c (how large the KV is), engine_submit.c (the caller's side),
 * engine_step.c (the engine's thread), engine_draw.c (hidden rows become tokens), engine_emit.c
 * (tokens and endings), engine_report.c (numbers for others).
 *
 * Why        One struct holds the state, so that what belongs to which thread is said once.
 * Ownership  The engine owns everything here but model, clock, metrics and a stream that it was
 *            given. A job belongs to the
 *            thread that entered with its ticket until it is pushed into the inbox, then to the
 *            engine's thread until its place is released.
 * Threading  door and load: any thread. inbox: pushed from any thread. request_kv: under its mutex.
 *            Everything else: the engine's thread, once it runs.
 * Device     Whatever a decode step or a unit of prefill submits is waited for, within a limit,
 *            before the next call into the KV manager: so the host changes nothing that the device
 *            is still reading, and a device that is lost is found out within that limit. */
#pragma once

#include "base/mutex.h"
#include "base/ring.h"
#include "worker/engine/door.h"
#include "worker/engine/engine.h"
#include "worker/engine/forward.h"
#include "worker/engine/load.h"
#include "worker/engine/metrics.h"
#include "worker/engine/sampler.h"
#include "worker/engine/scheduler.h"

#include <pthread.h>

SPIN_BEGIN_DECLS

/* Rows of one lm_head product at most. */
#define SPIN_LOGITS_ROWS_MAX 64u

/* A request from submit to finish. */
struct spin_job {
    uint64_t ticket;
    struct spin_request request; /* prompt, resumed: NULL; its other pointers lead into this job */
    struct spin_logit_bias logit_bias[SPIN_LOGIT_BIAS_MAX];
    int32_t stop_tokens[SPIN_STOP_TOKENS_MAX];
    int32_t *tokens;       /* [max_model_len]: prompt, resumed, generated */
    uint32_t known_tokens; /* how many of them there are */
    uint32_t prompt_told;  /* prompt tokens that the sink knows already */
    uint32_t drawn;        /* tokens that the sink knows */

    uint64_t order; /* of arrival at the engine's thread */
    bool admitted;  /* at least once */
    bool opened;    /* it has a sequence */
    bool prefilled; /* at least once */
    spin_kv_seq seq;
    uint32_t preemptions;
    uint64_t submitted_ns;
    uint64_t admitted_ns;
    uint64_t prefilled_ns; /* when the first token was drawn here, emitted or not; 0: not yet */
    uint64_t token_ns;     /* of the latest token; the first one's while drawn == 1 */
    uint64_t first_token_ns;

    int32_t stop_token;
    spin_status status; /* ERROR: why */
};

struct spin_engine {
    struct spin_engine_config config; /* in force */
    const struct spin_model *model;
    const struct spin_clock *clock;
    struct spin_metrics *metrics; /* NULL: nobody counts */
    uint32_t requests_max;

    struct spin_door *door;
    struct spin_ring *inbox; /* of struct spin_job */
    struct spin_load_board *board;
    pthread_t thread;
    bool started;
    bool stopped;

    struct spin_stream *stream;
    bool owns_stream;
    struct spin_kv *kv;
    struct spin_forward *forward;
    struct spin_scheduler *scheduler;
    struct spin_sampler_scratch *sampler;
    struct spin_draws *draws; /* private to engine_draw.c */
    struct spin_grid grid;
    uint32_t prefill_slots;
    uint32_t logits_rows;                  /* of one lm_head product */
    float *hidden[SPIN_PREFILL_SLOTS_MAX]; /* [super_chunk_tokens][hidden] each */
    struct spin_job *jobs;                 /* [requests_max] */
    int32_t *tokens;                       /* [requests_max][max_model_len] */
    struct spin_forward_step *steps;       /* [max_num_seqs] */
    uint64_t slab_bytes;
    uint64_t block_bytes;
    bool replay; /* generated tokens have to go through decode steps again (D1) */
    bool lost;   /* the device; every request that is known is ending */
    bool lost_told;
    uint64_t orders;
    struct spin_engine_load load;
    double hit_ratio;
    /* What the counters have been told. */
    struct spin_kv_stats kv_told;
    struct spin_sparse_stats sparse_told;
    uint64_t suspensions_told;

    struct spin_mutex request_kv_mutex;
    struct spin_engine_request_kv *request_kv; /* [max_num_seqs]: oldest first */
    uint32_t request_kv_count;
    uint64_t request_kv_ns; /* when it was renewed; the engine's thread only */
    uint32_t *holders;      /* [max_num_seqs] of jobs; the engine's thread only */
};

/* engine_config.c */

/* Defaults become numbers, but for the tiers; what cannot work is refused by name. */
SPIN_MUST_USE spin_status spin_engine_resolve_config(struct spin_engine *engine,
                                                     struct spin_error *err);
/* The manager's configuration; `demand` borrows the engine's. */
struct spin_kv_config spin_engine_kv_config(const struct spin_engine *engine);
struct spin_forward_config spin_engine_forward_config(const struct spin_engine *engine);
/* The hidden states of a super-chunk. */
uint64_t spin_engine_hidden_bytes(const struct spin_engine *engine);

/* engine_tiers.c */

/* The sizes of the tiers, and a max_model_len that nobody gave, which gives way to them. The stream
 * is there, and on a GPU everything that others than the engine keep there is. */
SPIN_MUST_USE spin_status spin_engine_resolve_tiers(struct spin_engine *engine, bool length_given,
                                                    struct spin_error *err);

/* The body of the engine's thread: returns when the engine was stopped and every sink has been
 * told. */
void spin_engine_run(struct spin_engine *engine);

/* engine_report.c */

/* Tells the load board and the metrics how things stand: create, then the engine's thread. */
void spin_engine_publish(struct spin_engine *engine);
/* Renews what get_requests copies, unless that was done a moment ago and `now` is false. */
void spin_engine_publish_requests(struct spin_engine *engine, bool now);
/* The moving averages after a decode step; `before`: the manager's numbers before it. */
void spin_engine_average_step(struct spin_engine *engine, const struct spin_kv_stats *before,
                              uint64_t elapsed_ns);
void spin_engine_average_prefill(struct spin_engine *engine, uint32_t tokens, uint64_t elapsed_ns);

/* engine_draw.c */

SPIN_MUST_USE spin_status spin_engine_create_draws(struct spin_engine *engine,
                                                   struct spin_error *err);
void spin_engine_destroy_draws(struct spin_engine *engine);
/* Submits what gives the next token of each job from its hidden row; count <= logits_rows. */
SPIN_MUST_USE spin_status spin_engine_submit_draws(struct spin_engine *engine, const uint32_t *jobs,
                                                   uint32_t count, const float *hidden);
/* After a sync: each job's token, emitted, or its end. */
void spin_engine_take_draws(struct spin_engine *engine, const uint32_t *jobs, uint32_t count);
/* The logits of `count` hidden rows in memory of the host, waited for; valid until the next call of
 * either. */
SPIN_MUST_USE spin_status spin_engine_read_logits(struct spin_engine *engine, const float *hidden,
                                                  uint32_t count, const float **out);
/* Waits until everything submitted is done; DEVICE_LOST after a minute. */
SPIN_MUST_USE spin_status spin_engine_sync(struct spin_engine *engine);

/* engine_emit.c */

/* What came of a row. */
struct spin_outcome {
    spin_status status; /* CORRUPT: no token */
    int32_t token;
    const float *logits; /* NULL: not on the host, and nobody wants more than the next field */
    float logprob;       /* the token's, where logits is NULL */
};
/* The job's next token: emitted, or the end of the job. */
void spin_engine_emit(struct spin_engine *engine, struct spin_job *job,
                      const struct spin_outcome *outcome, uint64_t now_ns);
/* Tells the prompt tokens that the rows of a finished chunk predict. */
SPIN_MUST_USE spin_status spin_engine_tell_prompt(struct spin_engine *engine, struct spin_job *job,
                                                  const struct spin_unit *unit,
                                                  const float *hidden);
/* Tells the sink the end, frees the job's place. Its sequence is closed. */
void spin_engine_finish(struct spin_engine *engine, struct spin_job *job,
                        enum spin_finish_reason reason);

static inline uint32_t spin_job_index(const struct spin_job *job)
{
    return spin_ticket_index(job->ticket);
}

static inline uint32_t spin_job_tokens_max(const struct spin_job *job)
{
    return job->request.prompt_count + job->request.max_tokens;
}

void spin_engine_count(struct spin_engine *engine, enum spin_engine_metric metric, uint64_t amount);
void spin_engine_gauge(struct spin_engine *engine, enum spin_engine_metric metric, double value);
void spin_engine_observe_ns(struct spin_engine *engine, enum spin_engine_metric metric,
                            uint64_t elapsed_ns);

SPIN_END_DECLS
