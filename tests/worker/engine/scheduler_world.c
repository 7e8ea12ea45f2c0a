#include "tests/worker/engine/scheduler_world.h"

#include "base/clock.h"
#include "tests/spin_test.h"

/* Attends to everything up to `sparse_from` tokens, then to `pages`. */
struct demand {
    uint32_t sparse_from;
    uint32_t pages;
};

static uint32_t mandatory(const void *context, uint32_t layer, uint32_t tokens)
{
    const struct demand *demand = context;
    const uint32_t all = (tokens + PAGE - 1) / PAGE;
    (void)layer;
    return tokens < demand->sparse_from ? all : SPIN_MIN(all, demand->pages);
}

static const struct demand dense_demand = {.sparse_from = UINT32_MAX, .pages = 0};
const struct spin_kv_budget spin_world_dense = {
    .layers = LAYERS,
    .kv_heads = KV_HEADS,
    .page_tokens = PAGE,
    .demand = {.context = &dense_demand, .mandatory = mandatory}};
static const struct demand sparse_demand = {.sparse_from = 600, .pages = 20};
const struct spin_kv_budget spin_world_sparse = {
    .layers = LAYERS,
    .kv_heads = KV_HEADS,
    .page_tokens = PAGE,
    .demand = {.context = &sparse_demand, .mandatory = mandatory}};

/* Slabs enough for all blocks: nobody is ever suspended. */
struct spin_scheduler_config spin_world_config(void)
{
    return (struct spin_scheduler_config){
        .grid = {.layers = LAYERS, .super_chunk_tokens = 256, .chunk_tokens = 64},
        .requests_max = REQUESTS,
        .max_num_seqs = 6,
        .prefill_slots = 3,
        .max_num_batched_tokens = 64,
        .output_expected_tokens = 40,
        .kv_blocks = 24,
        .kv_slabs = UINT32_MAX,
        .budget = &spin_world_dense,
    };
}

void spin_world_set_up(struct world *world, const struct spin_scheduler_config *config)
{
    struct spin_error err;
    memset(world, 0, sizeof *world);
    world->config = *config;
    SPIN_EXPECT_OK(spin_scheduler_create(config, &world->scheduler, &err), &err);
}

static void submit_request(struct world *world, uint32_t index, const struct model_request *request,
                           bool score)
{
    assert_int_equal(world->requests[index].state, ABSENT);
    world->requests[index] = *request;
    world->requests[index].state = WAITING;
    world->requests[index].order = world->orders++;
    const struct spin_scheduler_request facts = {.index = index,
                                                 .known_tokens = request->known,
                                                 .prompt_tokens = request->prompt,
                                                 .tokens_max = request->tokens_max,
                                                 .deadline_ns = request->deadline_ns,
                                                 .replay = request->replay,
                                                 .score = score};
    spin_scheduler_submit(world->scheduler, &facts);
    world->submitted++;
}

void spin_world_submit(struct world *world, uint32_t index, uint32_t known, uint32_t output)
{
    const struct model_request request = {.prompt = known,
                                          .known = known,
                                          .tokens_max = known + output,
                                          .deadline_ns = SPIN_NO_DEADLINE};
    submit_request(world, index, &request, true);
}

void spin_world_submit_until(struct world *world, uint32_t index, uint32_t known,
                             uint64_t deadline_ns)
{
    const struct model_request request = {
        .prompt = known, .known = known, .tokens_max = known + 200, .deadline_ns = deadline_ns};
    submit_request(world, index, &request, false);
}

/* A prompt and `resumed` tokens that are to be replayed. */
void spin_world_submit_replay(struct world *world, uint32_t index, uint32_t prompt,
                              uint32_t resumed, uint32_t output)
{
    const struct model_request request = {.prompt = prompt,
                                          .known = prompt + resumed,
                                          .tokens_max = prompt + resumed + output,
                                          .deadline_ns = SPIN_NO_DEADLINE,
                                          .replay = true};
    submit_request(world, index, &request, true);
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

static uint32_t count_flight(const struct world *world)
{
    return count_state(world, PREFILL) + count_state(world, RUNNING);
}

/* What everybody in flight needs for the next pass. */
static uint64_t slabs_needed(const struct world *world)
{
    const struct spin_kv_budget *budget = world->config.budget;
    uint64_t slabs = 0;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        const struct model_request *request = &world->requests[i];
        if (request->state == PREFILL) {
            slabs += spin_kv_claim_slabs(budget, request->prefill);
        } else if (request->state == RUNNING) {
            slabs += spin_kv_floor_slabs(budget, request->computed + 1);
        }
    }
    return slabs;
}

/* What everybody in flight cannot be pressed below between two passes. */
static uint64_t slabs_held(const struct world *world)
{
    const struct spin_kv_budget *budget = world->config.budget;
    uint64_t slabs = 0;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        const struct model_request *request = &world->requests[i];
        if (request->has_arena) {
            slabs += spin_kv_claim_slabs(budget, request->prefill);
        } else if (request->state == RUNNING) {
            slabs += spin_kv_floor_slabs(budget, request->computed + 1);
        }
    }
    return slabs;
}

/* Of everybody: what a step will have reserved. */
static uint32_t blocks_after_step(const struct world *world)
{
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        const struct model_request *request = &world->requests[i];
        const uint32_t tokens = request->state == RUNNING
                                    ? SPIN_MAX(request->reserved, request->computed + 1)
                                    : request->reserved;
        blocks += (tokens + BLOCK - 1) / BLOCK;
    }
    return blocks;
}

static void check_world(const struct world *world)
{
    assert_in_range(blocks_used(world), 0, world->config.kv_blocks);
    assert_in_range(count_state(world, PREFILL), 0, world->config.prefill_slots);
    assert_in_range(count_flight(world) + count_state(world, SUSPENDED), 0,
                    world->config.max_num_seqs);
    struct spin_scheduler_stats stats;
    spin_scheduler_get_stats(world->scheduler, &stats);
    assert_int_equal(stats.suspensions, world->suspensions);
    assert_int_equal(stats.preemptions, world->preemptions);
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

/* Prompt tokens that it has still to run, by itself. */
static uint32_t prefill_left(const struct model_request *request)
{
    if (request->state == SUSPENDED) {
        return request->prefilled ? 0 : request->prefill - request->next.super_begin;
    }
    return request->replay ? request->prompt : request->known;
}

/* Only who needs no slot, or a short prompt on the last one, may pass; and only who waits for a
 * slot is passed. */
static void expect_may_pass(const struct world *world, const struct model_request *request,
                            const struct model_request *other)
{
    const uint32_t slots_free = world->config.prefill_slots - count_state(world, PREFILL);
    const uint32_t super = world->config.grid.super_chunk_tokens;
    assert_true(prefill_left(other) > 0);
    assert_true(slots_free == 0 || (slots_free == 1 && prefill_left(other) > super));
    assert_in_range(prefill_left(request), 0, slots_free == 0 ? 0 : super);
}

static void on_comeback(struct world *world, struct model_request *request,
                        const struct spin_command *command)
{
    assert_true(command->opened);
    if (request->prefilled) {
        assert_int_equal(command->tokens, request->computed);
        assert_int_equal(command->written, request->computed);
        request->state = RUNNING;
        world->comebacks_to_decode++;
        return;
    }
    assert_int_equal(command->tokens, request->prefill);
    assert_int_equal(command->written, request->next.super_begin);
    request->state = PREFILL;
    world->comebacks_in_prefill++;
}

static void on_first_admission(struct world *world, struct model_request *request,
                               const struct spin_command *command)
{
    assert_false(command->opened);
    assert_int_equal(command->written, 0);
    request->prefill = request->replay ? request->prompt : request->known;
    assert_int_equal(command->tokens, request->prefill);
    if (request->was_preempted) { /* all that it may ever need is there */
        const uint32_t whole = (request->tokens_max + BLOCK - 1) / BLOCK;
        assert_in_range(blocks_used(world) + whole, 1, world->config.kv_blocks);
    }
    request->next = (struct spin_unit){0, 0, 0, 0};
    request->state = PREFILL;
}

static void on_admit(struct world *world, const struct spin_command *command)
{
    struct model_request *request = &world->requests[command->request];
    assert_true(request->state == WAITING || request->state == SUSPENDED);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        struct model_request *other = &world->requests[i];
        const bool waits = other->state == WAITING || other->state == SUSPENDED;
        if (waits && other->order < request->order && !other->ended) {
            expect_may_pass(world, request, other);
            other->passed++;
            world->overtakings++;
        }
    }
    if (request->state == SUSPENDED) {
        on_comeback(world, request, command);
    } else {
        on_first_admission(world, request, command);
    }
    if (request->state == PREFILL) {
        assert_in_range(command->slot, 0, world->config.prefill_slots - 1);
        request->slot = command->slot;
    }
    request->reserved = SPIN_MAX(request->reserved, command->tokens);
    request->was_preempted = false;
    request->has_arena = request->state == PREFILL;
    assert_true(slabs_needed(world) <= world->config.kv_slabs);
    assert_true(slabs_held(world) <= world->config.kv_slabs);
}

/* Nobody of the same kind (in flight, or suspended) is younger. */
static void expect_youngest(const struct world *world, const struct model_request *request)
{
    for (uint32_t i = 0; i < REQUESTS; i++) {
        const struct model_request *other = &world->requests[i];
        const bool flies = other->state == PREFILL || other->state == RUNNING;
        if (request->state == SUSPENDED ? other->state == SUSPENDED : flies) {
            assert_true(other->order <= request->order);
        }
    }
}

static void on_suspend(struct world *world, const struct spin_command *command)
{
    struct model_request *request = &world->requests[command->request];
    assert_true(request->state == PREFILL || request->state == RUNNING);
    expect_youngest(world, request);
    assert_true(count_flight(world) > 1); /* the oldest is never asked */
    assert_true(slabs_needed(world) > world->config.kv_slabs);
    request->state = SUSPENDED;
    request->has_arena = false;
    request->next.layer = 0;
    request->next.begin = request->next.super_begin;
    world->suspensions++;
}

static void on_preempt(struct world *world, const struct spin_command *command)
{
    struct model_request *request = &world->requests[command->request];
    if (request->state == SUSPENDED) {
        world->preemptions_of_suspended++;
    } else {
        assert_true(request->state == PREFILL || request->state == RUNNING);
        assert_int_equal(count_state(world, SUSPENDED), 0);
        assert_true(count_flight(world) > 1);
    }
    expect_youngest(world, request);
    assert_true(count_flight(world) == 0 || blocks_after_step(world) > world->config.kv_blocks);
    request->state = WAITING;
    request->has_arena = false;
    request->reserved = 0;
    request->prefilled = false;
    request->computed = 0;
    request->was_preempted = true;
    world->preemptions++;
}

static void on_finish(struct world *world, const struct spin_command *command)
{
    struct model_request *request = &world->requests[command->request];
    assert_int_not_equal(request->state, ABSENT);
    assert_int_equal(command->held, request->state != WAITING); /* suspended: too */
    if (request->ended) {
        assert_int_equal(command->reason, request->reason);
    } else if (command->reason == SPIN_FINISH_DEADLINE) {
        assert_true(request->deadline_ns <= world->now_ns);
    } else {
        assert_int_equal(command->reason, SPIN_FINISH_LENGTH);
        assert_int_equal(request->known, request->tokens_max);
    }
    request->state = ABSENT;
    request->has_arena = false;
    request->reserved = 0;
    request->finishes++;
    assert_int_equal(request->finishes, 1);
    world->finished++;
}

/* The walk of cursor.h, once more: the unit that comes after `done`. */
static struct spin_unit unit_after(const struct world *world, const struct model_request *request,
                                   struct spin_unit done)
{
    const uint32_t super = world->config.grid.super_chunk_tokens;
    if (done.end % super != 0 && done.end != request->prefill) {
        done.begin = done.end;
    } else if (done.layer + 1 < LAYERS) {
        done.layer++;
        done.begin = done.super_begin;
    } else {
        done = (struct spin_unit){.super_begin = done.end, .layer = 0, .begin = done.end};
    }
    return done;
}

static void on_prefilled(struct world *world, struct model_request *request, uint32_t index)
{
    assert_int_equal(request->next.begin, request->prefill);
    request->state = RUNNING;
    request->prefilled = true;
    request->computed = request->prefill;
    if (request->known == request->tokens_max) {
        return; /* FINISH follows */
    }
    assert_int_equal(spin_scheduler_computed(world->scheduler, index), request->computed);
    if (request->computed == request->known) {
        request->known++;
        spin_scheduler_token(world->scheduler, index);
    } else {
        assert_true(request->replay);
    }
}

static void on_prefill(struct world *world, const struct spin_command *command)
{
    struct model_request *request = &world->requests[command->request];
    const struct spin_unit *unit = &command->unit;
    assert_int_equal(request->state, PREFILL);
    assert_int_equal(command->slot, request->slot);
    assert_int_equal(unit->super_begin, request->next.super_begin);
    assert_int_equal(unit->layer, request->next.layer);
    assert_int_equal(unit->begin, request->next.begin);
    assert_in_range(unit->end, unit->begin + 1, request->prefill);
    if (count_state(world, RUNNING) > 0) {
        /* There was still budget before this unit. */
        assert_true(world->units_since_step <
                    (int64_t)world->config.max_num_batched_tokens * LAYERS);
    }
    world->units_since_step += unit->end - unit->begin;
    request->next = unit_after(world, request, *unit);
    if (spin_scheduler_unit_done(world->scheduler, command->request)) {
        on_prefilled(world, request, command->request);
    }
}

static void on_decode(struct world *world, const struct spin_command *command)
{
    assert_int_equal(command->batch_count, count_state(world, RUNNING));
    assert_in_range(command->draw_count, 0, command->batch_count);
    assert_true(slabs_needed(world) <= world->config.kv_slabs);
    for (uint32_t i = 0; i < command->batch_count; i++) {
        struct model_request *request = &world->requests[command->batch[i]];
        assert_int_equal(request->state, RUNNING);
        assert_int_equal(spin_scheduler_computed(world->scheduler, command->batch[i]),
                         request->computed);
        assert_int_equal(request->computed + 1 == request->known, i < command->draw_count);
        request->reserved = SPIN_MAX(request->reserved, request->computed + 1);
    }
    check_world(world); /* all of them fit at once */
    for (uint32_t i = 0; i < command->batch_count; i++) {
        struct model_request *request = &world->requests[command->batch[i]];
        request->has_arena = false;
        request->computed++;
        if (i < command->draw_count) {
            request->known++;
            spin_scheduler_token(world->scheduler, command->batch[i]);
        } else {
            assert_true(request->replay);
            world->replays++;
            spin_scheduler_replayed(world->scheduler, command->batch[i]);
        }
    }
    world->mixed_steps += command->draw_count > 0 && command->draw_count < command->batch_count;
    world->units_since_step = 0;
}

enum spin_command_kind spin_world_step(struct world *world, struct spin_command *out)
{
    spin_scheduler_next(world->scheduler, world->now_ns, out);
    switch (out->kind) {
    case SPIN_COMMAND_IDLE:
        assert_int_equal(count_state(world, ABSENT), REQUESTS);
        break;
    case SPIN_COMMAND_ADMIT:
        on_admit(world, out);
        break;
    case SPIN_COMMAND_SUSPEND:
        on_suspend(world, out);
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
    while (spin_world_step(world, &command) != SPIN_COMMAND_IDLE) {
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
    assert_int_equal(stats.slabs_claimed, 0);
    assert_int_equal(stats.suspended, 0);
    assert_int_equal(stats.waiting_tokens, 0);
    assert_int_equal(stats.prefill_tokens, 0);
    assert_int_equal(world->finished, world->submitted);
}

void spin_world_tear_down(struct world *world)
{
    run_to_idle(world);
    expect_empty(world);
    spin_scheduler_destroy(world->scheduler);
}

void spin_world_end(struct world *world, uint32_t index, enum spin_finish_reason reason)
{
    struct model_request *request = &world->requests[index];
    if (request->state != ABSENT && request->known < request->tokens_max && !request->ended) {
        request->ended = true;
        request->reason = reason;
        spin_scheduler_end(world->scheduler, index, reason);
        spin_scheduler_end(world->scheduler, index, SPIN_FINISH_ERROR); /* the first one stays */
    }
}
