/* placement: which worker a sequence goes to.
 *
 * Why        One pure function of what is known about the workers, so that the router, the
 *            simulation and the tests decide alike. Least loaded: the worker that would draw
 *            the first token soonest, as far as its status and what was sent since can tell; with
 *            equal estimates the one with fewer sequences, then the lower index.
 * Formula    wait(w) = (queued prompt tokens + sent since + prompt) / prefill rate
 *                    + max(0, sequences + 1 - places) * service time / places
 *            where service time = SPIN_PLACEMENT_SERVICE_TOKENS * step time, because a worker with
 *            p places gives one back p times in a service time. What a worker has not measured is
 *            taken to be the best that another one has, else the constants below.
 *            Before the wait counts: a worker that did not just fail this sequence, then one whose
 *            pool holds that many tokens (when none does, the refusal is the worker's to word).
 * Threading  Any thread; pure.
 * Units      Tokens, nanoseconds.
 * Errors     None; SPIN_PLACEMENT_NONE when nobody can take it now. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

#define SPIN_PLACEMENT_NONE UINT32_MAX

/* What an answer takes when nobody knows: they order workers, nobody waits by them. */
#define SPIN_PLACEMENT_SERVICE_TOKENS 256.0
#define SPIN_PLACEMENT_PREFILL_TOKENS_PER_S 2000.0
#define SPIN_PLACEMENT_STEP_NS 20e6

/* What is known about a worker. Zeros in the last two mean "not measured yet". */
struct spin_worker_view {
    bool takes;             /* joined, serving, not draining, not suspected */
    uint32_t sequences_max; /* running at once */
    uint32_t queue_max;     /* waiting at once */
    uint64_t kv_tokens;     /* that its host tier holds */
    uint32_t running;       /* by its last status, others' requests included */
    uint32_t waiting;
    uint64_t kv_tokens_used;
    uint64_t queued_prompt_tokens;
    uint32_t sent_sequences; /* by this router since that status */
    uint64_t sent_prompt_tokens;
    uint64_t step_ns;
    double prefill_tokens_per_s;
};

struct spin_placement_request {
    uint32_t prompt_tokens; /* resumed ones included */
    uint32_t max_tokens;
    uint32_t avoid; /* a worker that just failed it: only when nobody else can; or _NONE */
};

/* A worker has room while it has fewer than sequences_max + min(queue_max, sequences_max / 4 + 1)
 * of all: a few may wait at the worker so that it never runs dry, the rest waits here, where it can
 * still be moved. Whether anybody has room does not depend on the request. */
uint32_t spin_placement_choose(const struct spin_worker_view *workers, uint32_t count,
                               const struct spin_placement_request *request);

/* A view between two statuses: what this router sends to the worker and what comes to its end
 * there. With a status, sent_sequences and sent_prompt_tokens start again at 0. `since_status`: the
 * sequence that is over was sent after the last status; else that status counted it, and its place
 * is free. */
void spin_worker_view_sent(struct spin_worker_view *worker, uint32_t prompt_tokens);
void spin_worker_view_done(struct spin_worker_view *worker, uint32_t prompt_tokens,
                           bool since_status);

SPIN_END_DECLS
