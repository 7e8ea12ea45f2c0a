/* Method: random clusters. What is chosen is checked against the header's words alone: the formula
 * is computed here a second time, for every worker, and nobody may be better. */
#include "router/policy/placement.h"

#include "base/rng.h"
#include "tests/spin_test.h"

#define WORKERS_MAX 12u
#define ROUNDS 50000u

static struct spin_worker_view idle(void)
{
    return (struct spin_worker_view){
        .takes = true, .sequences_max = 8, .queue_max = 64, .kv_tokens = 100000};
}

static struct spin_worker_view random_worker(struct spin_rng *rng)
{
    struct spin_worker_view view = {.takes = spin_rng_below(rng, 5) != 0,
                                    .sequences_max = 1 + spin_rng_below(rng, 16),
                                    .queue_max = spin_rng_below(rng, 8),
                                    .kv_tokens = spin_rng_below(rng, 3) * UINT64_C(2000),
                                    .running = spin_rng_below(rng, 16),
                                    .waiting = spin_rng_below(rng, 4),
                                    .queued_prompt_tokens = spin_rng_below(rng, 5) * UINT64_C(500),
                                    .sent_sequences = spin_rng_below(rng, 3)};
    view.sent_prompt_tokens = (uint64_t)view.sent_sequences * 300;
    view.step_ns = spin_rng_below(rng, 3) * UINT64_C(10000000);
    view.prefill_tokens_per_s = spin_rng_below(rng, 3) * 1500.0;
    return view;
}

static bool may_take(const struct spin_worker_view *w)
{
    const uint32_t all = w->running + w->waiting + w->sent_sequences;
    uint32_t few = w->sequences_max / 4 + 1;
    few = few > w->queue_max ? w->queue_max : few;
    return w->takes && all < w->sequences_max + few;
}

struct best {
    double rate;
    double step_ns;
};

/* The header's formula, in seconds. */
static double formula(const struct spin_worker_view *w, uint32_t prompt, const struct best *best)
{
    const double rate = w->prefill_tokens_per_s > 0 ? w->prefill_tokens_per_s : best->rate;
    const double step_s = (w->step_ns > 0 ? (double)w->step_ns : best->step_ns) / 1e9;
    const double prefill =
        ((double)w->queued_prompt_tokens + (double)w->sent_prompt_tokens + prompt) / rate;
    const double sequences = (double)w->running + w->waiting + w->sent_sequences;
    const double ahead = fmax(0, sequences + 1 - w->sequences_max);
    return prefill + ahead * 256 * step_s / w->sequences_max;
}

static struct best best_of(const struct spin_worker_view *workers, uint32_t count)
{
    struct best best = {0, INFINITY};
    for (uint32_t i = 0; i < count; i++) {
        best.rate = fmax(best.rate, workers[i].prefill_tokens_per_s);
        if (workers[i].step_ns > 0) {
            best.step_ns = fmin(best.step_ns, (double)workers[i].step_ns);
        }
    }
    best.rate = best.rate > 0 ? best.rate : 2000;
    best.step_ns = isfinite(best.step_ns) ? best.step_ns : 20e6;
    return best;
}

static bool holds(const struct spin_worker_view *w, const struct spin_placement_request *request)
{
    return w->kv_tokens == 0 || request->prompt_tokens + request->max_tokens <= w->kv_tokens;
}

static void check_choice(const struct spin_worker_view *workers, uint32_t count,
                         const struct spin_placement_request *request, uint32_t chosen)
{
    const struct best best = best_of(workers, count);
    if (chosen == SPIN_PLACEMENT_NONE) {
        for (uint32_t i = 0; i < count; i++) {
            assert_false(may_take(&workers[i]));
        }
        return;
    }
    assert_in_range(chosen, 0, count - 1);
    const struct spin_worker_view *taken = &workers[chosen];
    assert_true(may_take(taken));
    for (uint32_t i = 0; i < count; i++) {
        const struct spin_worker_view *other = &workers[i];
        if (i == chosen || !may_take(other) || i == request->avoid) {
            continue;
        }
        assert_int_not_equal(chosen, request->avoid); /* somebody else could */
        if (holds(other, request) && !holds(taken, request)) {
            fail_msg("worker %u holds it, %u does not", i, chosen);
        }
        if (holds(other, request) == holds(taken, request)) {
            const double mine = formula(taken, request->prompt_tokens, &best);
            const double others = formula(other, request->prompt_tokens, &best);
            assert_true(mine <= others * (1 + 1e-12));
        }
    }
}

static void test_random_clusters(void **state)
{
    (void)state;
    struct spin_rng rng = {.seed = 11};
    uint32_t nobody = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        struct spin_worker_view workers[WORKERS_MAX];
        const uint32_t count = spin_rng_below(&rng, WORKERS_MAX + 1);
        for (uint32_t i = 0; i < count; i++) {
            workers[i] = random_worker(&rng);
        }
        const struct spin_placement_request request = {
            .prompt_tokens = 1 + spin_rng_below(&rng, 3000),
            .max_tokens = spin_rng_below(&rng, 2000),
            .avoid = spin_rng_below(&rng, 3) == 0 ? spin_rng_below(&rng, WORKERS_MAX)
                                                  : SPIN_PLACEMENT_NONE};
        const uint32_t chosen = spin_placement_choose(workers, count, &request);
        check_choice(workers, count, &request, chosen);
        nobody += chosen == SPIN_PLACEMENT_NONE ? 1 : 0;
        /* Whether anybody has room does not depend on the request. */
        const struct spin_placement_request other = {1000000, 1000000, SPIN_PLACEMENT_NONE};
        assert_int_equal(spin_placement_choose(workers, count, &other) == SPIN_PLACEMENT_NONE,
                         chosen == SPIN_PLACEMENT_NONE);
    }
    assert_in_range(nobody, 100, ROUNDS / 2);
}

static void test_ties(void **state)
{
    (void)state;
    struct spin_worker_view workers[3] = {idle(), idle(), idle()};
    const struct spin_placement_request request = {10, 10, SPIN_PLACEMENT_NONE};
    assert_int_equal(spin_placement_choose(workers, 3, &request), 0);
    workers[0].running = 2; /* the same wait, but more to do */
    workers[1].running = 1;
    assert_int_equal(spin_placement_choose(workers, 3, &request), 2);
    assert_int_equal(spin_placement_choose(workers, 2, &request), 1);
    assert_int_equal(spin_placement_choose(workers, 0, &request), SPIN_PLACEMENT_NONE);
}

/* A burst between two statuses spreads, because what was sent counts. */
static void test_burst_spreads(void **state)
{
    (void)state;
    struct spin_worker_view workers[4] = {idle(), idle(), idle(), idle()};
    const struct spin_placement_request request = {100, 10, SPIN_PLACEMENT_NONE};
    for (uint32_t i = 0; i < 32; i++) {
        const uint32_t chosen = spin_placement_choose(workers, 4, &request);
        assert_int_equal(chosen, i % 4);
        spin_worker_view_sent(&workers[chosen], request.prompt_tokens);
    }
}

/* What is over frees the place that it had: among those sent since the status, or in the status. */
static void test_view_between_statuses(void **state)
{
    (void)state;
    struct spin_worker_view view = idle();
    view.running = 1;
    view.waiting = 1;
    spin_worker_view_sent(&view, 100);
    spin_worker_view_sent(&view, 50);
    assert_int_equal(view.sent_sequences, 2);
    assert_int_equal(view.sent_prompt_tokens, 150);
    spin_worker_view_done(&view, 50, true);
    assert_int_equal(view.sent_sequences, 1);
    assert_int_equal(view.sent_prompt_tokens, 100);
    spin_worker_view_done(&view, 70, false);
    assert_int_equal(view.running, 0);
    spin_worker_view_done(&view, 70, false);
    assert_int_equal(view.waiting, 0);
    spin_worker_view_done(&view, 70, false); /* others' statuses may be ahead: nothing wraps */
    assert_int_equal(view.running + view.waiting, 0);
    assert_int_equal(view.sent_sequences, 1);
    assert_int_equal(view.sent_prompt_tokens, 100);
}

static void test_room(void **state)
{
    (void)state;
    struct spin_worker_view worker = idle();
    const struct spin_placement_request request = {10, 10, SPIN_PLACEMENT_NONE};
    worker.running = 8 + 2; /* 8 places, 8 / 4 + 1 may wait */
    assert_int_equal(spin_placement_choose(&worker, 1, &request), 0);
    worker.waiting = 1;
    assert_int_equal(spin_placement_choose(&worker, 1, &request), SPIN_PLACEMENT_NONE);
    worker.waiting = 0;
    worker.queue_max = 2; /* it takes fewer itself */
    assert_int_equal(spin_placement_choose(&worker, 1, &request), SPIN_PLACEMENT_NONE);
    worker.running = 9;
    assert_int_equal(spin_placement_choose(&worker, 1, &request), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_clusters),
        cmocka_unit_test(test_ties),
        cmocka_unit_test(test_burst_spreads),
        cmocka_unit_test(test_view_between_statuses),
        cmocka_unit_test(test_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
