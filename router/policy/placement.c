#include "router/policy/placement.h"

/* What the workers that have measured it do at best: an idle newcomer is worth a try. */
struct assumed {
    double prefill_tokens_per_s;
    double step_ns;
};

/* A candidate, in the order of what decides. */
struct candidate {
    bool holds;    /* its pool has room for such a sequence at all */
    bool avoided;  /* it just failed this one */
    double wait_s; /* until the first token */
    uint64_t sequences;
};

static uint64_t sequences_of(const struct spin_worker_view *worker)
{
    return (uint64_t)worker->running + worker->waiting + worker->sent_sequences;
}

static bool has_room(const struct spin_worker_view *worker)
{
    const uint64_t places = worker->sequences_max;
    const uint64_t few = places / 4 + 1;
    const uint64_t queue = worker->queue_max < few ? worker->queue_max : few;
    return sequences_of(worker) < places + queue;
}

static struct assumed assume(const struct spin_worker_view *workers, uint32_t count)
{
    struct assumed best = {0, 0};
    for (uint32_t i = 0; i < count; i++) {
        const double rate = workers[i].prefill_tokens_per_s;
        const double step_ns = (double)workers[i].step_ns;
        if (rate > best.prefill_tokens_per_s) {
            best.prefill_tokens_per_s = rate;
        }
        if (step_ns > 0 && (best.step_ns <= 0 || step_ns < best.step_ns)) {
            best.step_ns = step_ns;
        }
    }
    if (best.prefill_tokens_per_s <= 0) {
        best.prefill_tokens_per_s = SPIN_PLACEMENT_PREFILL_TOKENS_PER_S;
    }
    if (best.step_ns <= 0) {
        best.step_ns = SPIN_PLACEMENT_STEP_NS;
    }
    return best;
}

static double wait_s(const struct spin_worker_view *worker, const struct assumed *assumed,
                     uint32_t prompt_tokens)
{
    /* Also false for what is no number. */
    const double rate = worker->prefill_tokens_per_s > 0 ? worker->prefill_tokens_per_s
                                                         : assumed->prefill_tokens_per_s;
    const double step_ns = worker->step_ns > 0 ? (double)worker->step_ns : assumed->step_ns;
    const double tokens = (double)worker->queued_prompt_tokens +
                          (double)worker->sent_prompt_tokens + (double)prompt_tokens;
    const double places = (double)(worker->sequences_max > 0 ? worker->sequences_max : 1);
    const double ahead = (double)sequences_of(worker) + 1 - places;
    const double service_s = step_ns * 1e-9 * SPIN_PLACEMENT_SERVICE_TOKENS / places;
    return tokens / rate + (ahead > 0 ? ahead * service_s : 0);
}

/* In this order; on equality the earlier one stays. */
static bool is_better(const struct candidate *a, const struct candidate *b)
{
    if (a->avoided != b->avoided) {
        return !a->avoided;
    }
    if (a->holds != b->holds) {
        return a->holds;
    }
    if (a->wait_s < b->wait_s || b->wait_s < a->wait_s) {
        return a->wait_s < b->wait_s;
    }
    return a->sequences < b->sequences;
}

uint32_t spin_placement_choose(const struct spin_worker_view *workers, uint32_t count,
                               const struct spin_placement_request *request)
{
    const struct assumed assumed = assume(workers, count);
    const uint64_t tokens = (uint64_t)request->prompt_tokens + request->max_tokens;
    struct candidate best = {0};
    uint32_t chosen = SPIN_PLACEMENT_NONE;
    for (uint32_t i = 0; i < count; i++) {
        const struct spin_worker_view *worker = &workers[i];
        if (!worker->takes || !has_room(worker)) {
            continue;
        }
        const struct candidate candidate = {
            .holds = worker->kv_tokens == 0 || tokens <= worker->kv_tokens,
            .avoided = i == request->avoid,
            .wait_s = wait_s(worker, &assumed, request->prompt_tokens),
            .sequences = sequences_of(worker)};
        if (chosen == SPIN_PLACEMENT_NONE || is_better(&candidate, &best)) {
            best = candidate;
            chosen = i;
        }
    }
    return chosen;
}

void spin_worker_view_sent(struct spin_worker_view *worker, uint32_t prompt_tokens)
{
    worker->sent_sequences++;
    worker->sent_prompt_tokens += prompt_tokens;
}

void spin_worker_view_done(struct spin_worker_view *worker, uint32_t prompt_tokens,
                           bool since_status)
{
    if (since_status && worker->sent_sequences > 0) {
        worker->sent_sequences--;
        worker->sent_prompt_tokens -= SPIN_MIN(worker->sent_prompt_tokens, prompt_tokens);
    } else if (worker->running > 0) {
        worker->running--;
    } else if (worker->waiting > 0) {
        worker->waiting--;
    }
}
