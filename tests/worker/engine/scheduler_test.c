/* Method: a test drives the scheduler like an engine would and keeps its own naive account of
 * slots, blocks and states; 10^5 random steps check every invariant of the header after each
 * command, and the rules of fairness are checked one by one in small scenes. */
#include "worker/engine/scheduler.h"

#include "base/clock.h"
#include "base/rng.h"
#include "tests/spin_test.h"

#define REQUESTS 40u
#define BLOCK 128u

enum state { ABSENT, WAITING, PREFILL, RUNNING };

struct model_request {
    enum state state;
    uint64_t order;
    uint32_t known;
    uint32_t tokens_max;
    uint64_t deadline_ns;
    uint32_t reserved; /* tokens, as the KV manager would have them */
    uint32_t slot;
    uint32_t passed;    /* how often a later one was admitted first */
    bool was_preempted; /* and is waiting since */
    uint32_t finishes;
    bool ended; /* by an event of ours; FINISH must follow */
    enum spin_finish_reason reason;
};

struct world {
    struct spin_scheduler_config config;
    struct spin_scheduler *scheduler;
    struct model_request requests[REQUESTS];
    uint64_t orders;
    uint64_t now_ns;
    uint32_t submitted;
    uint32_t finished;
    uint32_t preemptions;
    uint32_t overtakings;
    int64_t units_since_step; /* token-layers */
};

static struct spin_scheduler_config make_config(void)
{
    return (struct spin_scheduler_config){
        .grid = {.layers = 3, .super_chunk_tokens = 256, .chunk_tokens = 64},
        .requests_max = REQUESTS,
        .max_num_seqs = 6,
        .prefill_slots = 3,
        .max_num_batched_tokens = 64,
        .output_expected_tokens = 40,
        .kv_blocks = 24,
    };
}

static void set_up(struct world *world, const struct spin_scheduler_config *config)
{
    struct spin_error err;
    memset(world, 0, sizeof *world);
    world->config = *config;
    SPIN_EXPECT_OK(spin_scheduler_create(config, &world->scheduler, &err), &err);
}

static void submit(struct world *world, uint32_t index, uint32_t known, uint32_t output)
{
    struct model_request *request = &world->requests[index];
    assert_int_equal(request->state, ABSENT);
    *request = (struct model_request){.state = WAITING,
                                      .order = world->orders++,
                                      .known = known,
                                      .tokens_max = known + output,
                                      .deadline_ns = SPIN_NO_DEADLINE};
    const struct spin_scheduler_request facts = {.index = index,
                                                 .known_tokens = known,
                                                 .tokens_max = known + output,
                                                 .deadline_ns = SPIN_NO_DEADLINE,
                                                 .score = true};
    spin_scheduler_submit(world->scheduler, &facts);
    world->submitted++;
}

static void submit_until(struct world *world, uint32_t index, uint32_t known, uint64_t deadline_ns)
{
    struct model_request *request = &world->requests[index];
    *request = (struct model_request){.state = WAITING,
                                      .order = world->orders++,
                                      .known = known,
                                      .tokens_max = known + 200,
                                      .deadline_ns = deadline_ns};
    const struct spin_scheduler_request facts = {.index = index,
                                                 .known_tokens = known,
                                                 .tokens_max = known + 200,
                                                 .deadline_ns = deadline_ns,
                                                 .score = false};
    spin_scheduler_submit(world->scheduler, &facts);
    world->submitted++;
}

static uint32_t count_state(const struct world *world, enum state state)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        count += world->requests[i].state == state;
    }
    return count;
}

static uint32_t blocks_used(const struct world *world)
{
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        blocks += (world->requests[i].reserved + BLOCK - 1) / BLOCK;
    }
    return blocks;
}

static void check_world(const struct world *world)
{
    assert_in_range(blocks_used(world), 0, world->config.kv_blocks);
    assert_in_range(count_state(world, PREFILL), 0, world->config.prefill_slots);
    assert_in_range(count_state(world, PREFILL) + count_state(world, RUNNING), 0,
                    world->config.max_num_seqs);
    struct spin_scheduler_stats stats;
    spin_scheduler_get_stats(world->scheduler, &stats);
    uint32_t slots = 0;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        const struct model_request *request = &world->requests[i];
        if (request->state == PREFILL) {
            assert_int_equal(slots & 1u << request->slot, 0); /* nobody else's */
            slots |= 1u << request->slot;
        }
        assert_in_range(request->passed, 0, SPIN_OVERTAKEN_MAX);
    }
}

static void on_admit(struct world *world, const struct spin_command *command)
{
    struct model_request *request = &world->requests[command->request];
    assert_int_equal(request->state, WAITING);
    assert_int_equal(command->tokens, request->known);
    assert_in_range(command->slot, 0, world->config.prefill_slots - 1);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        struct model_request *other = &world->requests[i];
        if (other->state == WAITING && other->order < request->order && !other->ended) {
            /* Only a short prompt may pass, and only on the last slot. */
            assert_in_range(request->known, 1, world->config.grid.super_chunk_tokens);
            assert_true(other->known > world->config.grid.super_chunk_tokens);
            assert_int_equal(count_state(world, PREFILL), world->config.prefill_slots - 1);
            other->passed++;
            world->overtakings++;
        }
    }
    if (request->was_preempted) { /* all that it may ever need is there */
        const uint32_t whole = (request->tokens_max + BLOCK - 1) / BLOCK;
        assert_in_range(blocks_used(world) + whole, 1, world->config.kv_blocks);
    }
    request->state = PREFILL;
    request->slot = command->slot;
    request->reserved = request->known;
    request->was_preempted = false;
}

static void on_preempt(struct world *world, const struct spin_command *command)
{
    struct model_request *request = &world->requests[command->request];
    assert_true(request->state == PREFILL || request->state == RUNNING);
    for (uint32_t i = 0; i < REQUESTS; i++) { /* the youngest in flight, and not the only one */
        const struct model_request *other = &world->requests[i];
        if (other->state == PREFILL || other->state == RUNNING) {
            assert_true(other->order <= request->order);
        }
    }
    assert_true(count_state(world, PREFILL) + count_state(world, RUNNING) > 1);
    request->state = WAITING;
    request->reserved = 0;
    request->was_preempted = true;
    world->preemptions++;
}

static void on_finish(struct world *world, const struct spin_command *command)
{
    struct model_request *request = &world->requests[command->request];
    assert_int_not_equal(request->state, ABSENT);
    assert_int_equal(command->held, request->state != WAITING);
    if (request->ended) {
        assert_int_equal(command->reason, request->reason);
    } else if (command->reason == SPIN_FINISH_DEADLINE) {
        assert_true(request->deadline_ns <= world->now_ns);
    } else {
        assert_int_equal(command->reason, SPIN_FINISH_LENGTH);
        assert_int_equal(request->known, request->tokens_max);
    }
    request->state = ABSENT;
    request->reserved = 0;
    request->finishes++;
    assert_int_equal(request->finishes, 1);
    world->finished++;
}

static void on_prefill(struct world *world, const struct spin_command *command)
{
    struct model_request *request = &world->requests[command->request];
    assert_int_equal(request->state, PREFILL);
    assert_int_equal(command->slot, request->slot);
    assert_in_range(command->unit.end, 1, request->known);
    if (count_state(world, RUNNING) > 0) {
        /* There was still budget before this unit. */
        assert_true(world->units_since_step <
                    (int64_t)world->config.max_num_batched_tokens * world->config.grid.layers);
    }
    world->units_since_step += command->unit.end - command->unit.begin;
    if (spin_scheduler_unit_done(world->scheduler, command->request)) {
        assert_int_equal(command->unit.end, request->known);
        request->state = RUNNING;
        if (request->known < request->tokens_max) {
            request->known++;
            spin_scheduler_token(world->scheduler, command->request);
        }
    }
}

static void on_decode(struct world *world, const struct spin_command *command)
{
    assert_int_equal(command->batch_count, count_state(world, RUNNING));
    for (uint32_t i = 0; i < command->batch_count; i++) {
        struct model_request *request = &world->requests[command->batch[i]];
        assert_int_equal(request->state, RUNNING);
        request->reserved = SPIN_MAX(request->reserved, request->known);
    }
    check_world(world); /* all of them fit at once */
    for (uint32_t i = 0; i < command->batch_count; i++) {
        world->requests[command->batch[i]].known++;
        spin_scheduler_token(world->scheduler, command->batch[i]);
    }
    world->units_since_step = 0;
}

static enum spin_command_kind step(struct world *world, struct spin_command *out)
{
    spin_scheduler_next(world->scheduler, world->now_ns, out);
    switch (out->kind) {
    case SPIN_COMMAND_IDLE:
        assert_int_equal(count_state(world, ABSENT), REQUESTS);
        break;
    case SPIN_COMMAND_ADMIT:
        on_admit(world, out);
        break;
    case SPIN_COMMAND_PREEMPT:
        on_preempt(world, out);
        break;
    case SPIN_COMMAND_PREFILL:
        on_prefill(world, out);
        break;
    case SPIN_COMMAND_DECODE:
        on_decode(world, out);
        break;
    case SPIN_COMMAND_FINISH:
        on_finish(world, out);
        break;
    }
    check_world(world);
    return out->kind;
}

static void run_to_idle(struct world *world)
{
    struct spin_command command;
    uint32_t steps = 0;
    while (step(world, &command) != SPIN_COMMAND_IDLE) {
        assert_in_range(++steps, 0, 1000000);
    }
}

static void expect_empty(struct world *world)
{
    struct spin_scheduler_stats stats;
    spin_scheduler_get_stats(world->scheduler, &stats);
    assert_int_equal(stats.waiting, 0);
    assert_int_equal(stats.in_flight, 0);
    assert_int_equal(stats.blocks_held, 0);
    assert_int_equal(stats.waiting_tokens, 0);
    assert_int_equal(stats.prefill_tokens, 0);
    assert_int_equal(stats.preemptions, world->preemptions);
    assert_int_equal(world->finished, world->submitted);
}

static void tear_down(struct world *world)
{
    run_to_idle(world);
    expect_empty(world);
    spin_scheduler_destroy(world->scheduler);
}

static void end(struct world *world, uint32_t index, enum spin_finish_reason reason)
{
    struct model_request *request = &world->requests[index];
    if (request->state != ABSENT && request->known < request->tokens_max && !request->ended) {
        request->ended = true;
        request->reason = reason;
        spin_scheduler_end(world->scheduler, index, reason);
        spin_scheduler_end(world->scheduler, index, SPIN_FINISH_ERROR); /* the first one stays */
    }
}

static void random_event(struct world *world, struct spin_rng *rng)
{
    const uint32_t index = spin_rng_below(rng, REQUESTS);
    const uint32_t kind = spin_rng_below(rng, 1000);
    const uint32_t pool_tokens = world->config.kv_blocks * BLOCK;
    world->now_ns += spin_rng_below(rng, 10);
    if (kind < 100 && world->requests[index].state == ABSENT) {
        const uint32_t known =
            1 + spin_rng_below(rng, spin_rng_below(rng, 4) == 0 ? pool_tokens - 1 : 300);
        if (spin_rng_below(rng, 8) == 0 && known + 200 <= pool_tokens) {
            submit_until(world, index, known, world->now_ns + spin_rng_below(rng, 20000));
        } else {
            submit(world, index, known,
                   spin_rng_below(rng, SPIN_MIN(pool_tokens - known + 1, 1500u)));
        }
    } else if (kind < 104) {
        end(world, index, SPIN_FINISH_CANCELLED);
    } else if (kind < 108) {
        end(world, index, SPIN_FINISH_STOP);
    }
}

static void test_random_traffic(void **state)
{
    (void)state;
    const struct spin_scheduler_config config = make_config();
    for (uint32_t seed = 0; seed < 8; seed++) {
        struct world world;
        set_up(&world, &config);
        struct spin_rng rng = {.seed = seed, .stream = 0, .counter = 0};
        for (uint32_t i = 0; i < 25000; i++) {
            struct spin_command command;
            random_event(&world, &rng);
            (void)step(&world, &command);
        }
        /* The run must have met what it is about. */
        assert_true(world.preemptions > 10);
        assert_true(world.overtakings > 10);
        assert_true(world.finished > 100);
        tear_down(&world);
    }
}

static void test_slots_of_one(void **state)
{
    (void)state;
    struct spin_scheduler_config config = make_config();
    config.max_num_seqs = 1;
    config.prefill_slots = 1;
    struct world world;
    set_up(&world, &config);
    for (uint32_t i = 0; i < 10; i++) {
        submit(&world, i, 1 + i * 300, 20);
    }
    tear_down(&world);
    assert_int_equal(world.preemptions, 0);
    assert_int_equal(world.overtakings, 0);
}

/* The units that run until `index` has its first token. */
static uint32_t units_until_running(struct world *world, uint32_t index)
{
    struct spin_command command;
    uint32_t units = 0;
    while (world->requests[index].state == WAITING || world->requests[index].state == PREFILL) {
        units += step(world, &command) == SPIN_COMMAND_PREFILL;
        assert_in_range(units, 0, 100000);
    }
    return units;
}

static void test_short_prompt_is_not_stuck(void **state)
{
    (void)state;
    struct spin_scheduler_config config = make_config();
    config.kv_blocks = 1000;
    config.max_num_seqs = 20;
    struct world world;
    set_up(&world, &config);
    for (uint32_t i = 0; i < 6; i++) {
        submit(&world, i, 16000, 10); /* 750 units each */
    }
    struct spin_command command;
    for (uint32_t i = 0; i < 50; i++) {
        (void)step(&world, &command);
    }
    submit(&world, 7, 100, 5); /* 2 chunks of 3 layers: 6 units */
    /* Every second unit is its own, whatever the six in front of it still have to do. */
    assert_in_range(units_until_running(&world, 7), 6, 12);
    tear_down(&world);
}

/* Short prompts that come all the time take half of the units, not all of them. */
static void test_long_prompt_progresses(void **state)
{
    (void)state;
    struct spin_scheduler_config config = make_config();
    config.kv_blocks = 1000;
    struct world world;
    set_up(&world, &config);
    submit(&world, 0, 16000, 10); /* 750 units */
    submit(&world, 1, 16000, 10);
    struct spin_command command;
    uint32_t units = 0;
    while (world.requests[0].state != RUNNING) {
        if (world.requests[8].state == ABSENT) {
            submit(&world, 8, 200, 1);
        }
        units += step(&world, &command) == SPIN_COMMAND_PREFILL;
        assert_in_range(units, 0, 2 * 750 + 1);
    }
    assert_true(world.finished > 50); /* the short ones */
    tear_down(&world);
}

static void test_overtaking_is_bounded(void **state)
{
    (void)state;
    struct spin_scheduler_config config = make_config();
    config.kv_blocks = 100;
    struct world world;
    set_up(&world, &config);
    for (uint32_t i = 0; i < 4; i++) {
        submit(&world, i, 3000, 1); /* two in the open slots, two wait */
    }
    struct spin_command command;
    while (world.requests[2].state == WAITING) {
        if (world.requests[9].state == ABSENT) {
            submit(&world, 9, 64, 1);
        }
        (void)step(&world, &command);
    }
    assert_int_equal(world.requests[2].passed, SPIN_OVERTAKEN_MAX);
    tear_down(&world);
}

/* Two sequences that both grow until only one fits: the younger gives way, once, and the older
 * never waits. */
static void test_preemption_of_the_youngest(void **state)
{
    (void)state;
    struct spin_scheduler_config config = make_config();
    config.kv_blocks = 10;
    struct world world;
    set_up(&world, &config);
    submit(&world, 0, 130, 900);
    submit(&world, 1, 130, 900);
    struct spin_command command;
    while (world.requests[0].state != ABSENT) {
        (void)step(&world, &command);
    }
    assert_int_equal(world.preemptions, 1);
    assert_int_equal(world.requests[0].finishes, 1);
    /* It came back only when all of its output fits: not while the older one ran. */
    assert_int_equal(world.requests[1].state, WAITING);
    tear_down(&world);
    assert_int_equal(world.preemptions, 1);
}

static void test_admission_counts_expected_output(void **state)
{
    (void)state;
    struct spin_scheduler_config config = make_config();
    config.kv_blocks = 4;
    config.output_expected_tokens = 100;
    struct world world;
    set_up(&world, &config);
    submit(&world, 0, 200, 300); /* claims 3 blocks: 300 tokens */
    submit(&world, 1, 100, 300); /* claims 2 */
    submit(&world, 2, 100, 20);  /* claims 1, but nobody passes when KV is short */
    struct spin_command command;
    assert_int_equal(step(&world, &command), SPIN_COMMAND_ADMIT);
    assert_int_equal(command.request, 0);
    assert_int_equal(step(&world, &command), SPIN_COMMAND_PREFILL);
    end(&world, 0, SPIN_FINISH_CANCELLED);
    assert_int_equal(step(&world, &command), SPIN_COMMAND_FINISH);
    assert_int_equal(step(&world, &command), SPIN_COMMAND_ADMIT);
    assert_int_equal(command.request, 1);
    assert_int_equal(step(&world, &command), SPIN_COMMAND_ADMIT);
    assert_int_equal(command.request, 2);
    tear_down(&world);
}

static void test_deadlines_in_every_state(void **state)
{
    (void)state;
    struct spin_scheduler_config config = make_config();
    config.max_num_seqs = 2;
    struct world world;
    set_up(&world, &config);
    submit_until(&world, 0, 10, 1000);  /* will run */
    submit_until(&world, 1, 900, 2000); /* will be in prefill */
    submit_until(&world, 2, 10, 3000);  /* will wait */
    struct spin_command command;
    while (world.requests[0].state != RUNNING) {
        (void)step(&world, &command);
    }
    assert_int_equal(world.requests[1].state, PREFILL);
    assert_int_equal(world.requests[2].state, WAITING);
    const uint32_t expired[3] = {2, 1, 0};
    world.requests[2].deadline_ns = 3000;
    world.now_ns = 3000;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(expired); i++) {
        assert_int_equal(step(&world, &command), SPIN_COMMAND_FINISH);
        assert_int_equal(command.reason, SPIN_FINISH_DEADLINE);
    }
    tear_down(&world);
}

static void test_nothing_to_generate(void **state)
{
    (void)state;
    const struct spin_scheduler_config config = make_config();
    struct world world;
    set_up(&world, &config);
    const struct spin_scheduler_request resumed = {.index = 3,
                                                   .known_tokens = 50,
                                                   .tokens_max = 50,
                                                   .deadline_ns = SPIN_NO_DEADLINE,
                                                   .score = false};
    spin_scheduler_submit(world.scheduler, &resumed);
    struct spin_command command;
    spin_scheduler_next(world.scheduler, 0, &command);
    assert_int_equal(command.kind, SPIN_COMMAND_FINISH); /* without a unit */
    assert_int_equal(command.reason, SPIN_FINISH_LENGTH);
    assert_false(command.held);
    submit(&world, 4, 50, 0); /* to be scored: its units run, no token is drawn */
    assert_int_equal(step(&world, &command), SPIN_COMMAND_ADMIT);
    for (int layer = 0; layer < 3; layer++) {
        assert_int_equal(step(&world, &command), SPIN_COMMAND_PREFILL);
    }
    assert_int_equal(step(&world, &command), SPIN_COMMAND_FINISH);
    assert_true(command.held);
    tear_down(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_traffic),
        cmocka_unit_test(test_slots_of_one),
        cmocka_unit_test(test_short_prompt_is_not_stuck),
        cmocka_unit_test(test_long_prompt_progresses),
        cmocka_unit_test(test_overtaking_is_bounded),
        cmocka_unit_test(test_preemption_of_the_youngest),
        cmocka_unit_test(test_admission_counts_expected_output),
        cmocka_unit_test(test_deadlines_in_every_state),
        cmocka_unit_test(test_nothing_to_generate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
