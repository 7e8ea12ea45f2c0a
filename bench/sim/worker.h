/* worker: one simulated worker: the engine's own scheduler, driven by a table of times.
 *
 * Why        What a worker does next is decided by worker/engine/scheduler.c itself, linked: units
 *            of prefill between decode steps, admission, suspension, preemption. Only what an
 *            engine computes is left out, and the time that it takes is looked up.
 * Time       A worker is told of its own time only: advance runs it up to and including `until_ns`,
 *            because nothing but a submission can change what it does meanwhile. next_ns is a bound
 *            before which it cannot end a request, so that whoever asks may leave it alone until
 *            then: most of its commands run in long bursts and touch no queue of events.
 * As real    Submissions are taken in between two commands. Admission, suspension, preemption and
 *            endings take no time. The moving averages that a status reports are the engine's.
 * Ownership  Borrows the engine's description; requests are the caller's, from submit (OK) until
 *            `finished`, which comes exactly once, from advance or submit.
 * Threading  One thread at a time; the sink must not call the worker.
 * Units      Nanoseconds of simulated time; tokens.
 * Errors     submit: EXHAUSTED, as the engine refuses when max_waiting wait. create: NO_MEMORY. */
#pragma once

#include "bench/sim/engine.h"

SPIN_BEGIN_DECLS

struct spin_sim_worker; /* private to worker.c */

/* What a worker knows of a request; lives inside of the caller's own. */
struct spin_sim_request {
    uint32_t prompt_tokens; /* >= 1 */
    uint32_t output_tokens; /* >= 1; together at most max_model_len */
    uint64_t deadline_ns;   /* SPIN_NO_DEADLINE: none */
    uint32_t drawn;         /* the worker's: tokens so far */
    uint32_t slot;          /* the worker's: its name at the scheduler */
    uint32_t place;         /* the worker's: among those it knows */
    bool admitted;          /* the worker's: at least once */
};

struct spin_sim_sink {
    void *context;
    /* Each of the requests has drawn a token. */
    void (*tokens)(void *context, uint64_t at_ns, struct spin_sim_request *const *requests,
                   uint32_t count);
    void (*finished)(void *context, uint64_t at_ns, struct spin_sim_request *request,
                     enum spin_finish_reason reason);
};

/* What a status says, in the words of spin_worker_view. */
struct spin_sim_load {
    uint32_t running;
    uint32_t waiting;
    uint64_t kv_tokens_used;
    uint64_t queued_prompt_tokens;
    uint64_t step_ns;
    double prefill_tokens_per_s;
};

struct spin_sim_worker_stats {
    uint64_t commands; /* units and decode steps */
    uint64_t decode_steps;
    uint64_t units;
    uint64_t busy_ns;
    uint64_t preemptions;
    uint64_t suspensions;
    uint64_t beyond; /* commands outside of what was measured */
};

SPIN_MUST_USE spin_status spin_sim_worker_create(const struct spin_sim_engine *engine,
                                                 const struct spin_sim_sink *sink,
                                                 struct spin_sim_worker **out,
                                                 struct spin_error *err);
/* Requests that it knows are forgotten. NULL is allowed. */
void spin_sim_worker_destroy(struct spin_sim_worker *worker);

/* Advanced to now_ns before. */
SPIN_MUST_USE spin_status spin_sim_worker_submit(struct spin_sim_worker *worker, uint64_t now_ns,
                                                 struct spin_sim_request *request);
/* Returns false when nothing has happened: next_ns is what it was. */
bool spin_sim_worker_advance(struct spin_sim_worker *worker, uint64_t until_ns);
/* No request ends before; SPIN_NO_DEADLINE: it is idle. `stepwise`: the end of the command at hand
 * instead, which tests compare with. */
uint64_t spin_sim_worker_next_ns(const struct spin_sim_worker *worker, bool stepwise);
/* As of the time that it was advanced to. What is in its inbox is not in it, as in reality. */
void spin_sim_worker_get_load(struct spin_sim_worker *worker, struct spin_sim_load *out);
void spin_sim_worker_get_stats(const struct spin_sim_worker *worker,
                               struct spin_sim_worker_stats *out);

SPIN_END_DECLS
