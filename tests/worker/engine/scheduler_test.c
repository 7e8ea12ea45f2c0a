/* Method: scheduler_world drives the scheduler like an engine would and keeps a naive account; 10^5
 * random steps check every invariant of the header after each command, and the rules of fairness,
 * suspension, preemption and replay are checked one by one in small scenes. */
#include "base/clock.h"
#include "base/rng.h"
#include "tests/spin_test.h"
#include "tests/worker/engine/scheduler_world.h"

#define TOKENS_MAX (24u * BLOCK) /* of a request of random traffic */

/* `ends` of a thousand steps cancel somebody, and as many stop somebody. */
static void random_event(struct world *world, struct spin_rng *rng, uint32_t ends)
{
    const uint32_t index = spin_rng_below(rng, REQUESTS);
    const uint32_t kind = spin_rng_below(rng, 1000);
    world->now_ns += spin_rng_below(rng, 10);
    if (kind < 100 && world->requests[index].state == ABSENT) {
        const uint32_t known =
            1 + spin_rng_below(rng, spin_rng_below(rng, 4) == 0 ? TOKENS_MAX - 1 : 300);
        if (spin_rng_below(rng, 8) == 0 && known + 200 <= TOKENS_MAX) {
            spin_world_submit_until(world, index, known,
                                    world->now_ns + spin_rng_below(rng, 20000));
        } else if (spin_rng_below(rng, 2) == 0) {
            const uint32_t prompt = 1 + spin_rng_below(rng, known);
            spin_world_submit_replay(world, index, prompt, known - prompt,
                                     spin_rng_below(rng, SPIN_MIN(TOKENS_MAX - known + 1, 1500u)));
        } else {
            spin_world_submit(world, index, known,
                              spin_rng_below(rng, SPIN_MIN(TOKENS_MAX - known + 1, 1500u)));
        }
    } else if (kind >= 100 && kind < 100 + ends) {
        spin_world_end(world, index, SPIN_FINISH_CANCELLED);
    } else if (kind >= 100 && kind < 100 + 2 * ends) {
        spin_world_end(world, index, SPIN_FINISH_STOP);
    }
}

static void run_traffic(struct world *world, const struct spin_scheduler_config *config,
                        uint32_t seed, uint32_t ends)
{
    spin_world_set_up(world, config);
    struct spin_rng rng = {.seed = seed, .stream = 0, .counter = 0};
    for (uint32_t i = 0; i < 25000; i++) {
        struct spin_command command;
        random_event(world, &rng, ends);
        (void)spin_world_step(world, &command);
    }
    /* The run must have met what it is about. */
    assert_true(world->finished > 50);
    assert_true(world->replays > 100);
    assert_true(world->mixed_steps > 50);
}

static void test_random_traffic(void **state)
{
    (void)state;
    const struct spin_scheduler_config config = spin_world_config();
    for (uint32_t seed = 0; seed < 8; seed++) {
        struct world world;
        run_traffic(&world, &config, seed, 4);
        assert_true(world.overtakings > 10);
        assert_true(world.preemptions > 10);
        assert_int_equal(world.suspensions, 0);
        spin_world_tear_down(&world);
    }
}

/* Slabs for little more than the longest request there can be. */
static void test_random_traffic_with_few_slabs(void **state)
{
    (void)state;
    struct spin_scheduler_config config = spin_world_config();
    const struct spin_kv_budget *const budgets[] = {&spin_world_dense, &spin_world_sparse};
    uint32_t preemptions_of_suspended = 0;
    uint32_t comebacks_in_prefill = 0;
    for (uint32_t seed = 0; seed < 8; seed++) {
        config.budget = budgets[seed % 2];
        config.kv_blocks = seed % 4 < 2 ? 26 : 60;
        config.kv_slabs = spin_kv_claim_slabs(config.budget, TOKENS_MAX) + seed;
        struct world world;
        run_traffic(&world, &config, seed, 1);
        assert_true(world.suspensions > 10);
        assert_true(world.comebacks_to_decode > 5);
        spin_world_tear_down(&world);
        preemptions_of_suspended += world.preemptions_of_suspended;
        comebacks_in_prefill += world.comebacks_in_prefill;
    }
    assert_true(preemptions_of_suspended > 0);
    assert_true(comebacks_in_prefill > 0);
}

static void test_slots_of_one(void **state)
{
    (void)state;
    struct spin_scheduler_config config = spin_world_config();
    config.max_num_seqs = 1;
    config.prefill_slots = 1;
    struct world world;
    spin_world_set_up(&world, &config);
    for (uint32_t i = 0; i < 10; i++) {
        spin_world_submit(&world, i, 1 + i * 300, 20);
    }
    spin_world_tear_down(&world);
    assert_int_equal(world.preemptions, 0);
    assert_int_equal(world.overtakings, 0);
}

/* The units that run until `index` has its first token. */
static uint32_t units_until_running(struct world *world, uint32_t index)
{
    struct spin_command command;
    uint32_t units = 0;
    while (world->requests[index].state == WAITING || world->requests[index].state == PREFILL) {
        units += spin_world_step(world, &command) == SPIN_COMMAND_PREFILL;
        assert_in_range(units, 0, 100000);
    }
    return units;
}

static void test_short_prompt_is_not_stuck(void **state)
{
    (void)state;
    struct spin_scheduler_config config = spin_world_config();
    config.kv_blocks = 1000;
    config.max_num_seqs = 20;
    struct world world;
    spin_world_set_up(&world, &config);
    for (uint32_t i = 0; i < 6; i++) {
        spin_world_submit(&world, i, 16000, 10); /* 750 units each */
    }
    struct spin_command command;
    for (uint32_t i = 0; i < 50; i++) {
        (void)spin_world_step(&world, &command);
    }
    spin_world_submit(&world, 7, 100, 5); /* 2 chunks of 3 layers: 6 units */
    /* Every second unit is its own, whatever the six in front of it still have to do. */
    assert_in_range(units_until_running(&world, 7), 6, 12);
    spin_world_tear_down(&world);
}

/* Short prompts that come all the time take half of the units, not all of them. */
static void test_long_prompt_progresses(void **state)
{
    (void)state;
    struct spin_scheduler_config config = spin_world_config();
    config.kv_blocks = 1000;
    struct world world;
    spin_world_set_up(&world, &config);
    spin_world_submit(&world, 0, 16000, 10); /* 750 units */
    spin_world_submit(&world, 1, 16000, 10);
    struct spin_command command;
    uint32_t units = 0;
    while (world.requests[0].state != RUNNING) {
        if (world.requests[8].state == ABSENT) {
            spin_world_submit(&world, 8, 200, 1);
        }
        units += spin_world_step(&world, &command) == SPIN_COMMAND_PREFILL;
        assert_in_range(units, 0, 2 * 750 + 1);
    }
    assert_true(world.finished > 50); /* the short ones */
    spin_world_tear_down(&world);
}

static void test_overtaking_is_bounded(void **state)
{
    (void)state;
    struct spin_scheduler_config config = spin_world_config();
    config.kv_blocks = 100;
    struct world world;
    spin_world_set_up(&world, &config);
    for (uint32_t i = 0; i < 4; i++) {
        spin_world_submit(&world, i, 3000, 1); /* two in the open slots, two wait */
    }
    struct spin_command command;
    while (world.requests[2].state == WAITING) {
        if (world.requests[9].state == ABSENT) {
            spin_world_submit(&world, 9, 64, 1);
        }
        (void)spin_world_step(&world, &command);
    }
    assert_int_equal(world.requests[2].passed, SPIN_OVERTAKEN_MAX);
    spin_world_tear_down(&world);
}

/* Two sequences that both grow until only one fits: the younger gives way, once, and the older
 * never waits. */
static void test_preemption_of_the_youngest(void **state)
{
    (void)state;
    struct spin_scheduler_config config = spin_world_config();
    config.kv_blocks = 10;
    struct world world;
    spin_world_set_up(&world, &config);
    spin_world_submit(&world, 0, 130, 900);
    spin_world_submit(&world, 1, 130, 900);
    struct spin_command command;
    while (world.requests[0].state != ABSENT) {
        (void)spin_world_step(&world, &command);
    }
    assert_int_equal(world.preemptions, 1);
    assert_int_equal(world.requests[0].finishes, 1);
    /* It came back only when all of its output fits: not while the older one ran. */
    assert_int_equal(world.requests[1].state, WAITING);
    spin_world_tear_down(&world);
    assert_int_equal(world.preemptions, 1);
}

/* Two that grow until the slabs of one are all there are: the younger waits with its KV, and goes
 * on where it was. */
static void test_suspension_of_the_youngest(void **state)
{
    (void)state;
    struct spin_scheduler_config config = spin_world_config();
    config.kv_slabs = 8 * LAYERS * KV_HEADS; /* 1,024 tokens */
    config.output_expected_tokens = 0;
    struct world world;
    spin_world_set_up(&world, &config);
    spin_world_submit(&world, 0, 130, 500);
    spin_world_submit(&world, 1, 130, 500);
    struct spin_command command;
    while (world.requests[1].state != SUSPENDED) {
        (void)spin_world_step(&world, &command);
    }
    const uint32_t computed = world.requests[1].computed;
    /* 4 slabs of each row were there for both; the older one came to the fifth. */
    assert_int_equal(world.requests[0].computed, 512);
    assert_in_range(computed, 480, 511);
    while (world.requests[1].state == SUSPENDED) {
        (void)spin_world_step(&world, &command);
    }
    assert_int_equal(command.kind, SPIN_COMMAND_ADMIT);
    assert_int_equal(world.requests[0].state, ABSENT); /* it never waited */
    assert_int_equal(world.requests[1].computed, computed);
    spin_world_tear_down(&world);
    assert_int_equal(world.suspensions, 1);
    assert_int_equal(world.preemptions, 0);
}

/* A prompt that is suspended in its second super-chunk keeps the first. */
static void test_suspension_in_prefill(void **state)
{
    (void)state;
    struct spin_scheduler_config config = spin_world_config();
    config.kv_slabs = 13 * LAYERS * KV_HEADS;
    config.output_expected_tokens = 0;
    config.max_num_batched_tokens = 1;
    struct world world;
    spin_world_set_up(&world, &config);
    spin_world_submit(&world, 0, 380, 800); /* 3 slabs of each row, and soon more */
    spin_world_submit(&world, 1, 1280, 1);  /* 10 */
    struct spin_command command;
    while (world.requests[1].state != SUSPENDED) {
        (void)spin_world_step(&world, &command);
        assert_int_not_equal(world.requests[1].state, RUNNING);
    }
    const uint32_t super_begin = world.requests[1].next.super_begin;
    while (world.requests[1].state == SUSPENDED) {
        (void)spin_world_step(&world, &command);
    }
    assert_int_equal(command.kind, SPIN_COMMAND_ADMIT);
    assert_int_equal(command.written, super_begin);
    assert_int_equal(command.tokens, 1280);
    spin_world_tear_down(&world);
    assert_int_equal(world.suspensions, 1);
    assert_int_equal(world.comebacks_in_prefill, 1);
}

/* A prompt's arena is claimed until the first decode step is over; then two run where the arenas of
 * both were too much. 2,560 tokens: 20 slabs of each row of a layer; afterwards 3 of every row. */
static void test_an_arena_is_claimed_for_prefill_alone(void **state)
{
    (void)state;
    enum { PROMPT = 2560, ARENA = 20 * KV_HEADS, FLOOR = 3 * LAYERS * KV_HEADS };
    struct spin_scheduler_config config = spin_world_config();
    config.budget = &spin_world_sparse;
    config.kv_blocks = 64;
    config.kv_slabs = ARENA + FLOOR;
    struct world world;
    spin_world_set_up(&world, &config);
    spin_world_submit(&world, 0, PROMPT, 400);
    spin_world_submit(&world, 1, PROMPT, 400);
    struct spin_command command;
    struct spin_scheduler_stats stats;
    do {
        (void)spin_world_step(&world, &command);
        spin_scheduler_get_stats(world.scheduler, &stats);
        assert_int_equal(stats.in_flight, 1);
        assert_int_equal(stats.slabs_claimed, world.requests[0].has_arena ? ARENA : FLOOR);
    } while (command.kind != SPIN_COMMAND_DECODE);
    assert_int_equal(world.requests[0].known, PROMPT + 2);
    assert_int_equal(spin_world_step(&world, &command), SPIN_COMMAND_ADMIT);
    assert_int_equal(command.request, 1);
    while (world.requests[1].has_arena) {
        (void)spin_world_step(&world, &command);
        spin_scheduler_get_stats(world.scheduler, &stats);
    }
    assert_int_equal(world.requests[0].state, RUNNING);
    assert_int_equal(stats.slabs_claimed, 2 * FLOOR);
    spin_world_tear_down(&world);
    assert_int_equal(world.suspensions, 0);
}

/* What is known beyond the prompt goes through decode steps, without a draw, and nobody else waits
 * for it. */
static void test_replay(void **state)
{
    (void)state;
    const struct spin_scheduler_config config = spin_world_config();
    struct world world;
    spin_world_set_up(&world, &config);
    spin_world_submit_replay(&world, 0, 100, 30, 5);
    spin_world_submit(&world, 1, 10, 60);
    spin_world_tear_down(&world);
    assert_int_equal(world.replays, 29); /* the thirtieth gives the next draw */
    assert_int_equal(world.mixed_steps, 29);

    spin_world_set_up(&world, &config);
    spin_world_submit_replay(&world, 0, 100, 30, 0); /* to be scored: the prompt only */
    spin_world_submit_replay(&world, 1, 100, 1, 4);  /* one token: its step draws */
    spin_world_tear_down(&world);
    assert_int_equal(world.replays, 0);
}

/* A preempted one replays what it has drawn; its prompt alone is prefilled again. */
static void test_replay_after_preemption(void **state)
{
    (void)state;
    struct spin_scheduler_config config = spin_world_config();
    config.kv_blocks = 10;
    struct world world;
    spin_world_set_up(&world, &config);
    spin_world_submit_replay(&world, 0, 130, 0, 900);
    spin_world_submit_replay(&world, 1, 130, 0, 900);
    struct spin_command command;
    while (world.preemptions == 0) {
        (void)spin_world_step(&world, &command);
    }
    const uint32_t drawn = world.requests[1].known - 130;
    assert_true(drawn > 100);
    assert_int_equal(world.replays, 0);
    spin_world_tear_down(&world);
    assert_int_equal(world.preemptions, 1);
    assert_int_equal(world.replays, drawn - 1);
}

/* A younger one that kept its blocks over a suspension gives them to the one in front of it. */
static void test_suspended_blocks_are_given_up(void **state)
{
    (void)state;
    struct spin_scheduler_config config = spin_world_config();
    config.kv_blocks = 10;
    config.kv_slabs = 9 * LAYERS * KV_HEADS;
    config.output_expected_tokens = 0;
    struct world world;
    spin_world_set_up(&world, &config);
    spin_world_submit(&world, 0, 300, 500);
    spin_world_submit(&world, 1, 300, 500);
    spin_world_tear_down(&world);
    assert_int_equal(world.suspensions, 1);
    assert_int_equal(world.preemptions, 1);
    assert_int_equal(world.preemptions_of_suspended, 1);
}

static void test_admission_counts_expected_output(void **state)
{
    (void)state;
    struct spin_scheduler_config config = spin_world_config();
    config.kv_blocks = 4;
    config.output_expected_tokens = 100;
    struct world world;
    spin_world_set_up(&world, &config);
    spin_world_submit(&world, 0, 200, 300); /* claims 3 blocks: 300 tokens */
    spin_world_submit(&world, 1, 100, 300); /* claims 2 */
    spin_world_submit(&world, 2, 100, 20);  /* claims 1, but nobody passes when KV is short */
    struct spin_command command;
    assert_int_equal(spin_world_step(&world, &command), SPIN_COMMAND_ADMIT);
    assert_int_equal(command.request, 0);
    assert_int_equal(spin_world_step(&world, &command), SPIN_COMMAND_PREFILL);
    spin_world_end(&world, 0, SPIN_FINISH_CANCELLED);
    assert_int_equal(spin_world_step(&world, &command), SPIN_COMMAND_FINISH);
    assert_int_equal(spin_world_step(&world, &command), SPIN_COMMAND_ADMIT);
    assert_int_equal(command.request, 1);
    assert_int_equal(spin_world_step(&world, &command), SPIN_COMMAND_ADMIT);
    assert_int_equal(command.request, 2);
    spin_world_tear_down(&world);
}

static void test_deadlines_in_every_state(void **state)
{
    (void)state;
    struct spin_scheduler_config config = spin_world_config();
    config.max_num_seqs = 2;
    struct world world;
    spin_world_set_up(&world, &config);
    spin_world_submit_until(&world, 0, 10, 1000);  /* will run */
    spin_world_submit_until(&world, 1, 900, 2000); /* will be in prefill */
    spin_world_submit_until(&world, 2, 10, 3000);  /* will wait */
    struct spin_command command;
    while (world.requests[0].state != RUNNING) {
        (void)spin_world_step(&world, &command);
    }
    assert_int_equal(world.requests[1].state, PREFILL);
    assert_int_equal(world.requests[2].state, WAITING);
    const uint32_t expired[3] = {2, 1, 0};
    world.requests[2].deadline_ns = 3000;
    world.now_ns = 3000;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(expired); i++) {
        assert_int_equal(spin_world_step(&world, &command), SPIN_COMMAND_FINISH);
        assert_int_equal(command.reason, SPIN_FINISH_DEADLINE);
    }
    spin_world_tear_down(&world);
}

static void test_nothing_to_generate(void **state)
{
    (void)state;
    const struct spin_scheduler_config config = spin_world_config();
    struct world world;
    spin_world_set_up(&world, &config);
    const struct spin_scheduler_request resumed = {.index = 3,
                                                   .known_tokens = 50,
                                                   .prompt_tokens = 40,
                                                   .tokens_max = 50,
                                                   .deadline_ns = SPIN_NO_DEADLINE,
                                                   .score = false};
    spin_scheduler_submit(world.scheduler, &resumed);
    struct spin_command command;
    spin_scheduler_next(world.scheduler, 0, &command);
    assert_int_equal(command.kind, SPIN_COMMAND_FINISH); /* without a unit */
    assert_int_equal(command.reason, SPIN_FINISH_LENGTH);
    assert_false(command.held);
    spin_world_submit(&world, 4, 50, 0); /* to be scored: its units run, no token is drawn */
    assert_int_equal(spin_world_step(&world, &command), SPIN_COMMAND_ADMIT);
    for (int layer = 0; layer < 3; layer++) {
        assert_int_equal(spin_world_step(&world, &command), SPIN_COMMAND_PREFILL);
    }
    assert_int_equal(spin_world_step(&world, &command), SPIN_COMMAND_FINISH);
    assert_true(command.held);
    spin_world_tear_down(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_traffic),
        cmocka_unit_test(test_random_traffic_with_few_slabs),
        cmocka_unit_test(test_slots_of_one),
        cmocka_unit_test(test_short_prompt_is_not_stuck),
        cmocka_unit_test(test_long_prompt_progresses),
        cmocka_unit_test(test_overtaking_is_bounded),
        cmocka_unit_test(test_preemption_of_the_youngest),
        cmocka_unit_test(test_suspension_of_the_youngest),
        cmocka_unit_test(test_suspension_in_prefill),
        cmocka_unit_test(test_an_arena_is_claimed_for_prefill_alone),
        cmocka_unit_test(test_replay),
        cmocka_unit_test(test_replay_after_preemption),
        cmocka_unit_test(test_suspended_blocks_are_given_up),
        cmocka_unit_test(test_admission_counts_expected_output),
        cmocka_unit_test(test_deadlines_in_every_state),
        cmocka_unit_test(test_nothing_to_generate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
