/* Method: the n-th token of a sequence is a function of n, as it is of a seeded worker, so what a
 * client must have got is known whatever happened on the way. Workers die at every token, in every
 * row of three deaths; then random events, those of calls that are over included, meet a test that
 * keeps its own account of what is open. */
#include "router/session/sequence.h"

#include "base/clock.h"
#include "base/rng.h"
#include "tests/spin_test.h"

#define TOKENS_MAX 64u
#define TIMEOUT_NS (10 * SPIN_NS_PER_S)

static int32_t draw(uint32_t index)
{
    return (int32_t)(1000 + 7 * index);
}

struct client { /* what was handed on */
    uint32_t tokens;
    uint32_t scores;
};

static struct spin_sequence_config make_config(uint32_t max_tokens, uint32_t scores)
{
    return (struct spin_sequence_config){.max_tokens = max_tokens,
                                         .prompt_scores = scores,
                                         .failures_max = 8,
                                         .deadline_ns = SPIN_NO_DEADLINE,
                                         .queue_timeout_ns = TIMEOUT_NS,
                                         .worker_timeout_ns = TIMEOUT_NS};
}

/* The worker of `attempt` sends tokens [from, from + count). */
static void send_tokens(struct spin_sequence *sequence, struct client *client, uint32_t attempt,
                        uint32_t from, uint32_t count)
{
    int32_t tokens[TOKENS_MAX];
    uint32_t accepted = 0;
    assert_in_range(count, 0, TOKENS_MAX);
    for (uint32_t i = 0; i < count; i++) {
        tokens[i] = draw(from + i);
    }
    assert_int_equal(spin_sequence_tokens(sequence, attempt,
                                          (struct spin_sequence_tokens){tokens, count}, 0,
                                          &accepted),
                     SPIN_OK);
    for (uint32_t i = 0; i < accepted; i++) {
        assert_int_equal(tokens[i], draw(client->tokens)); /* nothing twice, nothing missing */
        client->tokens++;
    }
}

static void send_scores(struct spin_sequence *sequence, struct client *client, uint32_t attempt,
                        uint32_t from, uint32_t count)
{
    const struct spin_sequence_range range = spin_sequence_scores(sequence, attempt, count, 0);
    assert_in_range((uint64_t)range.skip + range.count, 0, count);
    if (range.count > 0) {
        assert_int_equal(from + range.skip, client->scores);
        client->scores += range.count;
    }
}

/* --- every death --- */

struct plan {
    uint32_t max_tokens;
    uint32_t scores;
    uint32_t stop_at; /* the worker draws an end token here; at least max_tokens: it does not */
    spin_status death;
};

static uint32_t last_token(const struct plan *plan)
{
    return plan->stop_at < plan->max_tokens ? plan->stop_at : plan->max_tokens;
}

/* One worker, which sends at most `life` scores and tokens. True: it lived to send its finish. */
static bool run_worker(struct spin_sequence *sequence, struct client *client,
                       const struct plan *plan, uint32_t life)
{
    const uint32_t attempt = spin_sequence_placed(sequence, 0);
    for (uint32_t i = 0; i < sequence->token_count; i++) {
        assert_int_equal(sequence->tokens[i], draw(i)); /* what it resumes from */
    }
    const uint32_t resumed = sequence->token_count;
    if (spin_sequence_wants_scores(sequence)) {
        for (uint32_t i = 0; i < plan->scores; i++) {
            if (life == 0) {
                return false;
            }
            life--;
            send_scores(sequence, client, attempt, i, 1);
        }
    }
    for (uint32_t i = resumed; i < last_token(plan); i++) {
        if (life == 0) {
            return false;
        }
        life--;
        send_tokens(sequence, client, attempt, i, 1);
    }
    if (life == 0) {
        return false;
    }
    const bool stops = plan->stop_at < plan->max_tokens;
    const struct spin_sequence_finish finish = {.reason =
                                                    stops ? SPIN__V1__FINISH_REASON__FINISH_STOP
                                                          : SPIN__V1__FINISH_REASON__FINISH_LENGTH,
                                                .stop_token = stops ? 99 : 0};
    spin_sequence_finished(sequence, attempt, &finish);
    return true;
}

static void check_end(const struct spin_sequence *sequence, const struct client *client,
                      const struct plan *plan)
{
    const bool stops = plan->stop_at < plan->max_tokens;
    assert_int_equal(sequence->phase, SPIN_SEQUENCE_ENDED);
    assert_int_equal(sequence->end.status, SPIN_OK);
    assert_int_equal(sequence->end.reason, stops ? SPIN__V1__FINISH_REASON__FINISH_STOP
                                                 : SPIN__V1__FINISH_REASON__FINISH_LENGTH);
    assert_int_equal(sequence->end.stop_token, stops ? 99 : -1);
    assert_int_equal(client->tokens, last_token(plan));
    assert_int_equal(client->scores, plan->scores);
    assert_int_equal(sequence->token_count, client->tokens);
}

static void run_deaths(const struct plan *plan, const uint32_t lives[3])
{
    struct spin_sequence sequence;
    struct client client = {0, 0};
    const struct spin_sequence_config config = make_config(plan->max_tokens, plan->scores);
    spin_sequence_init(&sequence, &config, 0);
    uint32_t recoveries = 0;
    for (uint32_t i = 0; sequence.phase != SPIN_SEQUENCE_ENDED; i++) {
        assert_in_range(i, 0, 4);
        const bool done = run_worker(&sequence, &client, plan, i < 3 ? lives[i] : TOKENS_MAX);
        const bool complete = client.tokens == plan->max_tokens && client.scores == plan->scores;
        const struct spin_sequence_step step = spin_sequence_closed(
            &sequence, sequence.attempt, plan->death == SPIN_OK && done ? SPIN_OK : plan->death,
            "connection reset", 0);
        assert_false(step.cancel);
        assert_int_equal(step.next, done || complete ? SPIN_SEQUENCE_END : SPIN_SEQUENCE_REQUEUE);
        assert_int_equal(step.blame, done ? SPIN_SEQUENCE_NOBODY : SPIN_SEQUENCE_FAILED);
        if (step.next == SPIN_SEQUENCE_REQUEUE) {
            assert_int_equal(step.begun, client.tokens + client.scores > 0);
            recoveries += step.begun ? 1 : 0;
        }
    }
    check_end(&sequence, &client, plan);
    assert_int_equal(sequence.recoveries, recoveries);
    spin_sequence_deinit(&sequence);
}

static void test_death_at_every_token(void **state)
{
    (void)state;
    static const spin_status deaths[] = {SPIN_OK,          SPIN_ERR_PEER_LOST, SPIN_ERR_SHUTDOWN,
                                         SPIN_ERR_CORRUPT, SPIN_ERR_INTERNAL,  SPIN_ERR_CANCELLED,
                                         SPIN_ERR_AGAIN,   SPIN_ERR_DENIED};
    for (uint32_t kind = 0; kind < 12; kind++) {
        struct plan plan = {.max_tokens = 5 * (kind % 2),
                            .scores = kind % 2 == 0 ? 4 : 3 * (kind % 3 == 0),
                            .stop_at = kind % 4 == 1 ? 3 : TOKENS_MAX};
        for (uint32_t d = 0; d < SPIN_ARRAY_COUNT(deaths); d++) {
            plan.death = deaths[d];
            for (uint32_t i = 0; i < 10 * 10 * 10; i++) {
                run_deaths(&plan, (uint32_t[3]){i % 10, i / 10 % 10, i / 100});
            }
        }
    }
}

/* --- every status that a call can end with --- */

static void test_statuses(void **state)
{
    (void)state;
#define STATUS(name, code, text) SPIN_ERR_##name,
    static const spin_status all[] = {SPIN_STATUS_MAP(STATUS)};
#undef STATUS
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(all); i++) {
        struct spin_sequence sequence;
        const struct spin_sequence_config config = make_config(5, 0);
        spin_sequence_init(&sequence, &config, 0);
        const uint32_t attempt = spin_sequence_placed(&sequence, 0);
        const struct spin_sequence_step step =
            spin_sequence_closed(&sequence, attempt, all[i], "the worker's words", 0);
        switch (all[i]) {
        case SPIN_ERR_EXHAUSTED: /* full: elsewhere or later, and nobody's fault */
        case SPIN_ERR_NO_MEMORY:
            assert_int_equal(step.next, SPIN_SEQUENCE_REQUEUE);
            assert_int_equal(step.blame, SPIN_SEQUENCE_FULL);
            assert_int_equal(sequence.failures, 0);
            break;
        case SPIN_ERR_DEADLINE:
        case SPIN_ERR_NOT_FOUND:
        case SPIN_ERR_INVALID:
        case SPIN_ERR_LIMIT:
        case SPIN_ERR_UNSUPPORTED:
        case SPIN_ERR_PEER_MISMATCH: /* would be the same anywhere */
            assert_int_equal(step.next, SPIN_SEQUENCE_END);
            assert_int_equal(step.blame, SPIN_SEQUENCE_NOBODY);
            assert_int_equal(sequence.end.status, all[i]);
            if (all[i] != SPIN_ERR_DEADLINE) {
                assert_string_equal(sequence.end.text, "the worker's words");
            }
            break;
        case SPIN_OK:
        case SPIN_ERR_AGAIN:
        case SPIN_ERR_CANCELLED:
        case SPIN_ERR_CORRUPT:
        case SPIN_ERR_DENIED:
        case SPIN_ERR_IO:
        case SPIN_ERR_PEER_LOST:
        case SPIN_ERR_DEVICE_LOST:
        case SPIN_ERR_SHUTDOWN:
        case SPIN_ERR_INTERNAL:
            assert_int_equal(step.next, SPIN_SEQUENCE_REQUEUE);
            assert_int_equal(step.blame, SPIN_SEQUENCE_FAILED);
            assert_int_equal(sequence.failures, 1);
            break;
        }
        spin_sequence_deinit(&sequence);
    }
}

static void test_full_after_tokens_is_a_failure(void **state)
{
    (void)state;
    struct spin_sequence sequence;
    struct client client = {0, 0};
    const struct spin_sequence_config config = make_config(5, 0);
    spin_sequence_init(&sequence, &config, 0);
    const uint32_t attempt = spin_sequence_placed(&sequence, 0);
    send_tokens(&sequence, &client, attempt, 0, 2);
    const struct spin_sequence_step step =
        spin_sequence_closed(&sequence, attempt, SPIN_ERR_EXHAUSTED, "too slow", 0);
    assert_int_equal(step.blame, SPIN_SEQUENCE_FAILED);
    assert_true(step.begun);
    spin_sequence_deinit(&sequence);
}

/* --- limits --- */

static void test_failures_are_limited(void **state)
{
    (void)state;
    for (uint32_t max = 0; max < 5; max++) {
        struct spin_sequence sequence;
        struct spin_sequence_config config = make_config(5, 0);
        config.failures_max = max;
        spin_sequence_init(&sequence, &config, 0);
        for (uint32_t i = 0; i <= max; i++) {
            assert_int_equal(sequence.phase, SPIN_SEQUENCE_WAITING);
            const uint32_t attempt = spin_sequence_placed(&sequence, 0);
            const struct spin_sequence_step step =
                spin_sequence_closed(&sequence, attempt, SPIN_ERR_PEER_LOST, "reset by peer", 0);
            assert_int_equal(step.next, i < max ? SPIN_SEQUENCE_REQUEUE : SPIN_SEQUENCE_END);
        }
        assert_int_equal(sequence.end.status, SPIN_ERR_PEER_LOST);
        assert_non_null(strstr(sequence.end.text, "reset by peer"));
        spin_sequence_deinit(&sequence);
    }
}

static void test_times(void **state)
{
    (void)state;
    struct spin_sequence sequence;
    struct spin_sequence_config config = make_config(5, 0);
    config.deadline_ns = 100 * SPIN_NS_PER_S;
    spin_sequence_init(&sequence, &config, 0);
    struct spin_sequence_times times = {.now_ns = 50 * SPIN_NS_PER_S,
                                        .no_worker_ns = SPIN_NO_DEADLINE};
    /* Workers are there, only full: it waits. */
    assert_int_equal(spin_sequence_tick(&sequence, &times).next, SPIN_SEQUENCE_STAY);
    /* None since the 45th second: not for ten yet. */
    times.no_worker_ns = 45 * SPIN_NS_PER_S;
    times.now_ns = 55 * SPIN_NS_PER_S - 1;
    assert_int_equal(spin_sequence_tick(&sequence, &times).next, SPIN_SEQUENCE_STAY);
    const uint32_t attempt = spin_sequence_placed(&sequence, times.now_ns);
    /* Silent on its stream, but its worker speaks elsewhere. */
    times.now_ns = 90 * SPIN_NS_PER_S;
    times.worker_heard_ns = 80 * SPIN_NS_PER_S + 1;
    assert_int_equal(spin_sequence_tick(&sequence, &times).next, SPIN_SEQUENCE_STAY);
    times.worker_heard_ns = 80 * SPIN_NS_PER_S;
    const struct spin_sequence_step step = spin_sequence_tick(&sequence, &times);
    assert_true(step.cancel);
    assert_int_equal(step.next, SPIN_SEQUENCE_REQUEUE);
    assert_int_equal(step.blame, SPIN_SEQUENCE_FAILED);
    /* What the silent one says now is nobody's. */
    assert_int_equal(spin_sequence_closed(&sequence, attempt, SPIN_OK, "", 0).next,
                     SPIN_SEQUENCE_STAY);
    (void)spin_sequence_placed(&sequence, times.now_ns);
    times.now_ns = 100 * SPIN_NS_PER_S;
    times.worker_heard_ns = times.now_ns;
    const struct spin_sequence_step last = spin_sequence_tick(&sequence, &times);
    assert_true(last.cancel);
    assert_int_equal(last.next, SPIN_SEQUENCE_END);
    assert_int_equal(sequence.end.status, SPIN_ERR_DEADLINE);
    spin_sequence_deinit(&sequence);
}

static void test_no_worker_in_time(void **state)
{
    (void)state;
    struct spin_sequence sequence;
    const struct spin_sequence_config config = make_config(5, 0);
    spin_sequence_init(&sequence, &config, 3);
    struct spin_sequence_times times = {.now_ns = 3 + TIMEOUT_NS - 1, .no_worker_ns = 1};
    assert_int_equal(spin_sequence_tick(&sequence, &times).next, SPIN_SEQUENCE_STAY);
    times.now_ns = 3 + TIMEOUT_NS;
    const struct spin_sequence_step step = spin_sequence_tick(&sequence, &times);
    assert_false(step.cancel);
    assert_int_equal(step.next, SPIN_SEQUENCE_END);
    assert_int_equal(sequence.end.status, SPIN_ERR_PEER_LOST);
    assert_string_equal(sequence.end.text, "no worker has taken requests for 10000 ms");
    spin_sequence_deinit(&sequence);
}

/* --- random events --- */

struct world {
    struct spin_sequence sequence;
    struct spin_rng rng;
    struct client client;
    bool open;       /* by our own account */
    uint32_t sent;   /* by the worker of the open call, in tokens of the sequence */
    uint32_t scored; /* and in scores */
    uint32_t ends;
    uint32_t recoveries;
    uint64_t now_ns;
};

static void obey(struct world *world, const struct spin_sequence_step *step, bool closed)
{
    if (step->cancel) {
        assert_true(world->open);
    }
    if (step->cancel || (closed && step->next != SPIN_SEQUENCE_STAY)) {
        world->open = false;
    }
    if (step->next == SPIN_SEQUENCE_REQUEUE) {
        assert_false(world->open);
        assert_int_equal(world->sequence.phase, SPIN_SEQUENCE_WAITING);
        assert_int_equal(step->begun, world->client.tokens + world->client.scores > 0);
        world->recoveries += step->begun ? 1 : 0;
    }
    if (step->next == SPIN_SEQUENCE_END) {
        assert_false(world->open);
        world->ends++;
    }
    assert_int_equal(world->ends, world->sequence.phase == SPIN_SEQUENCE_ENDED);
    assert_int_equal(world->open, world->sequence.phase == SPIN_SEQUENCE_PLACED);
}

static void open_call(struct world *world)
{
    (void)spin_sequence_placed(&world->sequence, world->now_ns);
    world->open = true;
    world->sent = world->sequence.token_count;
    world->scored = 0;
}

static void one_event(struct world *world)
{
    static const spin_status closes[] = {SPIN_OK, SPIN_ERR_PEER_LOST, SPIN_ERR_EXHAUSTED,
                                         SPIN_ERR_INTERNAL};
    struct spin_sequence *sequence = &world->sequence;
    struct spin_sequence_step step = {.next = SPIN_SEQUENCE_STAY};
    /* One in four events is of a call that is over. */
    const bool stale = sequence->attempt > 0 && spin_rng_below(&world->rng, 4) == 0;
    const uint32_t attempt = stale ? sequence->attempt - 1 : sequence->attempt;
    bool closed = false;
    world->now_ns += spin_rng_below(&world->rng, 1000) * SPIN_NS_PER_MS;
    switch (spin_rng_below(&world->rng, 12)) {
    case 0:
    case 1:
        if (sequence->phase == SPIN_SEQUENCE_WAITING) {
            open_call(world);
        }
        break;
    case 2:
    case 3:
    case 4:
    case 5: {
        const uint32_t count = spin_rng_below(&world->rng, 4);
        send_tokens(sequence, &world->client, attempt, stale ? 0 : world->sent, count);
        world->sent += stale ? 0 : count;
        break;
    }
    case 6:
        if (world->scored < sequence->config.prompt_scores) {
            send_scores(sequence, &world->client, attempt, stale ? 0 : world->scored, 1);
            world->scored += stale ? 0 : 1;
        }
        break;
    case 7:
        step = spin_sequence_closed(sequence, attempt, closes[spin_rng_below(&world->rng, 4)], "x",
                                    world->now_ns);
        closed = true;
        break;
    case 8:
        step = spin_sequence_lost(sequence, attempt, "x", world->now_ns);
        break;
    case 9:
        if (spin_rng_below(&world->rng, 8) == 0) {
            step = spin_sequence_stopped(sequence);
        }
        break;
    case 10:
        if (spin_rng_below(&world->rng, 8) == 0) {
            step = spin_sequence_fail(sequence, SPIN_ERR_CANCELLED, "x");
        }
        break;
    default:
        step = spin_sequence_tick(sequence,
                                  &(struct spin_sequence_times){.now_ns = world->now_ns,
                                                                .no_worker_ns = SPIN_NO_DEADLINE});
        break;
    }
    obey(world, &step, closed);
}

/* Whatever happened, a worker that lives brings what is left. */
static void finish_well(struct world *world)
{
    struct spin_sequence *sequence = &world->sequence;
    if (sequence->phase == SPIN_SEQUENCE_PLACED) {
        const struct spin_sequence_step step =
            spin_sequence_lost(sequence, sequence->attempt, "x", world->now_ns);
        obey(world, &step, false);
    }
    if (sequence->phase == SPIN_SEQUENCE_ENDED) {
        return;
    }
    open_call(world);
    const uint32_t attempt = sequence->attempt;
    if (spin_sequence_wants_scores(sequence)) {
        send_scores(sequence, &world->client, attempt, 0, sequence->config.prompt_scores);
    }
    send_tokens(sequence, &world->client, attempt, world->sent,
                sequence->config.max_tokens - world->sent);
    const struct spin_sequence_finish finish = {SPIN__V1__FINISH_REASON__FINISH_LENGTH, 0};
    spin_sequence_finished(sequence, attempt, &finish);
    const struct spin_sequence_step step =
        spin_sequence_closed(sequence, attempt, SPIN_OK, "", world->now_ns);
    obey(world, &step, true);
    assert_int_equal(sequence->end.status, SPIN_OK);
    assert_int_equal(world->client.tokens, sequence->config.max_tokens);
    assert_int_equal(world->client.scores, sequence->config.prompt_scores);
}

static void test_random_events(void **state)
{
    (void)state;
    uint32_t ended_early = 0;
    uint32_t recovered = 0;
    for (uint64_t seed = 1; seed <= 20000; seed++) {
        struct world world = {.rng = {.seed = seed}};
        struct spin_sequence_config config =
            make_config(1 + spin_rng_below(&world.rng, 40), spin_rng_below(&world.rng, 4));
        config.failures_max = spin_rng_below(&world.rng, 12);
        spin_sequence_init(&world.sequence, &config, 0);
        for (uint32_t i = 0; i < 60; i++) {
            one_event(&world);
        }
        ended_early += world.ends;
        finish_well(&world);
        recovered += world.recoveries > 0 ? 1 : 0;
        assert_int_equal(world.ends, 1);
        assert_int_equal(world.recoveries, world.sequence.recoveries);
        assert_int_equal(world.client.tokens, world.sequence.token_count);
        spin_sequence_deinit(&world.sequence);
    }
    /* The scenes that this is about did come. */
    assert_in_range(ended_early, 1000, 20000);
    assert_in_range(recovered, 5000, 20000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_death_at_every_token),
        cmocka_unit_test(test_statuses),
        cmocka_unit_test(test_full_after_tokens_is_a_failure),
        cmocka_unit_test(test_failures_are_limited),
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_no_worker_in_time),
        cmocka_unit_test(test_random_events),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
