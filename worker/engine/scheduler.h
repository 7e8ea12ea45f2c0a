/* scheduler: which request runs next; pure: events in, commands out, time as an argument.
 *
 * Why        Fairness, admission and preemption are decided in one place that a test can drive
 *            through years of traffic in a second.
 * States     waiting -> prefill -> (replay ->) running -> ended; a preempted or suspended one goes
 *            back to waiting.
 *
 *            submit   +---------+ ADMIT +---------+ last unit, +---------+ token at the limit,
 *            -------> | waiting | ----> | prefill | ---------> | running | ------> ended, FINISH
 *                     +---------+       +---------+   token    +---------+
 *                          ^-----------------+-- PREEMPT, SUSPEND --+      cancel, deadline, end:
 *                                                                          from any state to ended
 *
 * Replay     Prefill covers prefill_tokens; what is known beyond them (resumed from elsewhere, or
 *            drawn before a preemption) goes through decode steps whose tokens are given and whose
 *            draws are not wanted (D1: sparsely decoded tokens have other K and V than densely
 *            prefilled ones). A dense request names all it knows as prefill_tokens, and a preempted
 *            one prefills all it knows.
 * Resources  Host blocks for every token, and HBM slabs by kvstore/manager/budget.h: in prefill
 *            what a prompt claims (its floor or its arena), afterwards the floor of the next step.
 *            An arena is exchanged when the first decode step begins, so it is claimed until that
 *            step is over. At every ADMIT and DECODE what everybody in flight needs fits the pool.
 * Admission  In order of arrival, while a sequence and a prefill slot are free and blocks and slabs
 *            that everybody in flight claims leave room. A claim covers the tokens known and
 *            output_expected_tokens more (all that are asked for, if fewer), so both may be
 *            overcommitted by long outputs. The last prefill slot takes prompts of at most one
 *            super-chunk only: one of those, or a suspended one that needs no slot, may pass longer
 *            prompts that wait for a slot, but nobody is passed more than SPIN_OVERTAKEN_MAX times,
 *            and nobody is passed when KV is what is short.
 * Suspension When a step lacks slabs, the youngest in flight forgets its slots, keeps its blocks,
 *            and waits at its place in the order of arrival. Coming back it goes on where it was: a
 *            running one needs no prefill slot; one in prefill starts its super-chunk again. It
 *            keeps its sequence, so those in flight and suspended are max_num_seqs at most.
 * Preemption When a step lacks blocks, the youngest that has any gives up its KV, suspended ones
 *            first, keeps its tokens, and starts over. Coming back it claims all of its output, so
 *            it is not driven out again by its own growth. The oldest in flight is never suspended
 *            or preempted, and a request always fits empty tiers (asserted at submit), so it always
 *            progresses. When nobody is in flight and the first in the queue lacks blocks or a
 *            sequence, younger suspended ones hold them, and are preempted: no deadlock.
 * Prefill    Between two decode steps units run until they have cost max_num_batched_tokens tokens
 *            (a unit costs its tokens / layers; at least one runs). Units alternate between the
 *            oldest prompt and the one with the least left to do, so each of these two has at least
 *            every second unit: a short prompt is not stuck behind long ones, and every long one
 *            becomes the oldest.
 * Ownership  Requests are named by the caller: an index below requests_max, free for reuse after
 *            its FINISH.
 * Threading  One thread.
 * Units      Tokens; blocks of SPIN_BLOCK_TOKENS; nanoseconds. No call allocates after create. */
#pragma once

#include "kvstore/manager/budget.h"
#include "worker/engine/cursor.h"
#include "worker/engine/request.h"

SPIN_BEGIN_DECLS

#define SPIN_PREFILL_SLOTS_MAX 16u
/* Small, because every passing costs a waiting prompt up to half a super-chunk of prefill time. */
#define SPIN_OVERTAKEN_MAX 16u

struct spin_scheduler; /* private to scheduler.c */

struct spin_scheduler_config {
    struct spin_grid grid;
    uint32_t requests_max;  /* known at once */
    uint32_t max_num_seqs;  /* in flight (prefill or running) at once */
    uint32_t prefill_slots; /* 1..SPIN_PREFILL_SLOTS_MAX; prompts in prefill at once */
    uint32_t max_num_batched_tokens;
    uint32_t output_expected_tokens;
    uint32_t kv_blocks;
    uint32_t kv_slabs; /* what a request claims at any length up to its own fits */
    const struct spin_kv_budget *budget; /* borrowed */
};

struct spin_scheduler_request {
    uint32_t index;         /* the caller's name for it */
    uint32_t known_tokens;  /* prompt and resumed */
    uint32_t prompt_tokens; /* of those; at least 1 */
    uint32_t tokens_max;    /* prompt and all output; >= known_tokens */
    uint64_t deadline_ns;
    bool replay; /* prefill the prompt only, replay the rest; false: prefill all that is known */
    bool score;  /* the prompt is run even when there is nothing to generate */
};

enum spin_command_kind {
    SPIN_COMMAND_IDLE,    /* no request is known: nothing to do before the next event */
    SPIN_COMMAND_ADMIT,   /* request: open a sequence unless it is suspended, reserve and activate
                             `tokens`, of which `written` are on the host */
    SPIN_COMMAND_SUSPEND, /* request: its sequence forgets its slots */
    SPIN_COMMAND_PREEMPT, /* request: close its sequence, keep its tokens */
    SPIN_COMMAND_PREFILL, /* request: run `unit`, then spin_scheduler_unit_done */
    SPIN_COMMAND_DECODE,  /* batch: reserve and forward each, then tell what came of each */
    SPIN_COMMAND_FINISH   /* request: `reason`; close its sequence if held; forget it */
};

struct spin_command {
    enum spin_command_kind kind;
    uint32_t request;
    uint32_t slot;    /* ADMIT, PREFILL: the prefill slot; none where written == tokens */
    uint32_t tokens;  /* ADMIT */
    uint32_t written; /* ADMIT */
    bool opened;      /* ADMIT: it was suspended: its sequence is there */
    struct spin_unit unit;
    const uint32_t *batch; /* DECODE: requests; valid until the next call */
    uint32_t batch_count;
    uint32_t draw_count; /* DECODE: the first so many of the batch draw; the others replay */
    enum spin_finish_reason reason; /* FINISH */
    bool held;                      /* FINISH: it has a sequence */
};

struct spin_scheduler_stats {
    uint32_t waiting;
    uint32_t in_flight;
    uint32_t prefilling;
    uint32_t suspended; /* among the waiting */
    uint32_t blocks_held;
    uint32_t slabs_claimed;
    uint64_t waiting_tokens; /* of prompts that wait for their prefill, or for the rest of it */
    uint64_t prefill_tokens; /* of prompts in prefill that are still to be run */
    uint64_t preemptions;
    uint64_t suspensions;
};

SPIN_MUST_USE spin_status spin_scheduler_create(const struct spin_scheduler_config *config,
                                                struct spin_scheduler **out,
                                                struct spin_error *err);
void spin_scheduler_destroy(struct spin_scheduler *scheduler); /* NULL is allowed */

/* Events. An index must be free (submit) or known and not finished (the others). */
void spin_scheduler_submit(struct spin_scheduler *scheduler,
                           const struct spin_scheduler_request *request);
/* The first reason stays: a request that has ended already keeps its own. */
void spin_scheduler_end(struct spin_scheduler *scheduler, uint32_t request,
                        enum spin_finish_reason reason);
/* The unit of the last PREFILL was run. Returns true when it was the last one of its prompt: a
 * token is drawn from it if it ends all that is known, unless the request is over (nothing to
 * generate). */
SPIN_MUST_USE bool spin_scheduler_unit_done(struct spin_scheduler *scheduler, uint32_t request);
/* A token was drawn and belongs to the sequence now. */
void spin_scheduler_token(struct spin_scheduler *scheduler, uint32_t request);
/* Of a running request: how many of its tokens have been through the model. The next decode step
 * takes token number `computed`; a draw is wanted when it is the last one known. */
uint32_t spin_scheduler_computed(const struct spin_scheduler *scheduler, uint32_t request);
/* The decode step took a token that was known already and not the last: nothing is drawn. */
void spin_scheduler_replayed(struct spin_scheduler *scheduler, uint32_t request);

/* Between submit and FINISH. */
bool spin_scheduler_knows(const struct spin_scheduler *scheduler, uint32_t request);

/* What to do next. One command at a time; its outcome is told before the next call. */
void spin_scheduler_next(struct spin_scheduler *scheduler, uint64_t now_ns,
                         struct spin_command *out);

void spin_scheduler_get_stats(const struct spin_scheduler *scheduler,
                              struct spin_scheduler_stats *out);

SPIN_END_DECLS
