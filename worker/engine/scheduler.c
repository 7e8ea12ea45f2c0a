#include "worker/engine/scheduler.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/list.h"
#include "kvstore/block/layout.h"

#include <stdlib.h>

#define NO_SLOT UINT32_MAX

enum state { FREE, WAITING, PREFILL, RUNNING, ENDED };

struct request {
    struct spin_link link; /* in waiting, in flight or in ended */
    enum state state;
    uint64_t order; /* of arrival */
    uint32_t known_tokens;
    uint32_t prompt_tokens;
    uint32_t tokens_max;
    uint64_t deadline_ns;
    bool replay;

    bool opened;               /* it has a sequence: in flight, or suspended */
    bool prefilled;            /* opened: its prefill is behind it */
    struct spin_cursor cursor; /* opened, not prefilled: where it stands */
    uint32_t computed;         /* prefilled: tokens that have been through the model */
    uint32_t slot;             /* PREFILL */

    uint32_t blocks_held;    /* opened */
    uint32_t blocks_claimed; /* opened; >= blocks_held */
    uint32_t slabs_needed;   /* in flight: for its next pass */
    uint32_t slabs_claimed;  /* in flight; >= slabs_needed */
    uint32_t slabs_expected; /* in flight: the floor of as many tokens as were expected of it */
    uint32_t overtaken;      /* how often somebody was admitted before it, out of turn */
    bool preempted;          /* at least once */
    bool held;               /* ENDED: it had a sequence */
    enum spin_finish_reason reason;
};

struct spin_scheduler {
    struct spin_scheduler_config config;
    struct request *requests; /* [requests_max] */
    uint32_t *batch;          /* [max_num_seqs] */
    struct spin_list waiting; /* by order */
    struct spin_list flight;  /* by order: the youngest is the last */
    struct spin_list ended;
    uint64_t orders;
    uint64_t deadline_ns; /* nobody's is earlier */
    bool slot_used[SPIN_PREFILL_SLOTS_MAX];
    uint32_t slots_free;
    uint32_t running;
    uint32_t suspended;
    uint64_t blocks_held;
    uint64_t blocks_claimed; /* may be more than there are: overcommitted */
    uint64_t slabs_needed;   /* more than there are only until somebody is suspended */
    uint64_t slabs_claimed;  /* may be more than there are: overcommitted */
    int64_t budget;          /* token-layers of prefill left before the next decode step */
    bool oldest_next;        /* whose turn the next unit is */
    uint64_t waiting_tokens;
    uint64_t preemptions;
    uint64_t suspensions;
};

static uint32_t blocks_for(uint64_t tokens)
{
    return (uint32_t)((tokens + SPIN_BLOCK_TOKENS - 1) / SPIN_BLOCK_TOKENS);
}

static struct request *from_link(struct spin_link *link)
{
    return link == NULL ? NULL : SPIN_CONTAINER_OF(link, struct request, link);
}

static uint32_t index_of(const struct spin_scheduler *scheduler, const struct request *request)
{
    return (uint32_t)(request - scheduler->requests);
}

static struct request *get_request(struct spin_scheduler *scheduler, uint32_t index)
{
    SPIN_ASSERT_LT(index, scheduler->config.requests_max);
    SPIN_ASSERT(scheduler->requests[index].state != FREE);
    return &scheduler->requests[index];
}

spin_status spin_scheduler_create(const struct spin_scheduler_config *config,
                                  struct spin_scheduler **out, struct spin_error *err)
{
    SPIN_ASSERT_GE(config->requests_max, 1);
    SPIN_ASSERT_GE(config->max_num_seqs, 1);
    SPIN_ASSERT_GE(config->max_num_batched_tokens, 1);
    SPIN_ASSERT_GE(config->prefill_slots, 1);
    SPIN_ASSERT_LE(config->prefill_slots, SPIN_PREFILL_SLOTS_MAX);
    SPIN_ASSERT(config->budget != NULL);
    struct spin_scheduler *scheduler = calloc(1, sizeof *scheduler);
    if (scheduler == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "scheduler: %zu bytes", sizeof *scheduler);
    }
    scheduler->config = *config;
    scheduler->requests = calloc(config->requests_max, sizeof *scheduler->requests);
    scheduler->batch = calloc(config->max_num_seqs, sizeof *scheduler->batch);
    if (scheduler->requests == NULL || scheduler->batch == NULL) {
        spin_scheduler_destroy(scheduler);
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "scheduler: %u requests", config->requests_max);
    }
    spin_list_init(&scheduler->waiting);
    spin_list_init(&scheduler->flight);
    spin_list_init(&scheduler->ended);
    scheduler->deadline_ns = SPIN_NO_DEADLINE;
    scheduler->slots_free = config->prefill_slots;
    *out = scheduler;
    return SPIN_OK;
}

void spin_scheduler_destroy(struct spin_scheduler *scheduler)
{
    if (scheduler == NULL) {
        return;
    }
    free(scheduler->requests);
    free(scheduler->batch);
    free(scheduler);
}

/* Tokens that prefill covers: all that is known, or the prompt where the rest is replayed. */
static uint32_t prefill_tokens(const struct request *request)
{
    return request->replay ? request->prompt_tokens : request->known_tokens;
}

/* Of those, what a waiting request has still to run. */
static uint32_t prefill_left(const struct request *request)
{
    if (!request->opened) {
        return prefill_tokens(request);
    }
    return request->prefilled ? 0 : request->cursor.tokens - request->cursor.unit.super_begin;
}

/* Keeps the list sorted by order. Almost everybody belongs near one end, where the walk starts. */
static void insert_waiting(struct spin_scheduler *scheduler, struct request *request)
{
    struct spin_list *list = &scheduler->waiting;
    const struct request *last = from_link(spin_list_last(list));
    scheduler->waiting_tokens += prefill_left(request);
    scheduler->suspended += request->opened;
    request->state = WAITING;
    if (last == NULL || last->order < request->order) {
        spin_list_push_back(list, &request->link);
        return;
    }
    struct spin_link *before = spin_list_first(list);
    while (from_link(before)->order < request->order) {
        before = spin_list_next(list, before);
    }
    spin_list_insert_before(list, before, &request->link);
}

static void insert_flight(struct spin_scheduler *scheduler, struct request *request)
{
    struct spin_list *list = &scheduler->flight;
    SPIN_LIST_FOREACH (list, link) {
        if (from_link(link)->order > request->order) {
            spin_list_insert_before(list, link, &request->link);
            return;
        }
    }
    spin_list_push_back(list, &request->link);
}

static void remove_waiting(struct spin_scheduler *scheduler, struct request *request)
{
    SPIN_ASSERT_EQ(request->state, WAITING);
    spin_list_remove(&scheduler->waiting, &request->link);
    SPIN_ASSERT_GE(scheduler->waiting_tokens, prefill_left(request));
    SPIN_ASSERT_GE(scheduler->suspended, request->opened);
    scheduler->waiting_tokens -= prefill_left(request);
    scheduler->suspended -= request->opened;
}

static void release_slot(struct spin_scheduler *scheduler, struct request *request)
{
    SPIN_ASSERT_EQ(request->state, PREFILL);
    SPIN_ASSERT(scheduler->slot_used[request->slot]);
    scheduler->slot_used[request->slot] = false;
    scheduler->slots_free++;
    request->slot = NO_SLOT;
}

static void set_blocks(struct spin_scheduler *scheduler, struct request *request, uint32_t held,
                       uint32_t claimed)
{
    SPIN_ASSERT_LE(held, claimed);
    scheduler->blocks_held += held;
    scheduler->blocks_held -= request->blocks_held;
    scheduler->blocks_claimed += claimed;
    scheduler->blocks_claimed -= request->blocks_claimed;
    request->blocks_held = held;
    request->blocks_claimed = claimed;
    SPIN_ASSERT_LE(scheduler->blocks_held, scheduler->config.kv_blocks);
}

static void set_slabs(struct spin_scheduler *scheduler, struct request *request, uint32_t needed,
                      uint32_t claimed)
{
    SPIN_ASSERT_LE(needed, claimed);
    scheduler->slabs_needed += needed;
    scheduler->slabs_needed -= request->slabs_needed;
    scheduler->slabs_claimed += claimed;
    scheduler->slabs_claimed -= request->slabs_claimed;
    request->slabs_needed = needed;
    request->slabs_claimed = claimed;
}

/* Gives back prefill slot and slabs; the blocks stay: the sequence is open. */
static void remove_flight(struct spin_scheduler *scheduler, struct request *request)
{
    if (request->state == PREFILL) {
        release_slot(scheduler, request);
    } else {
        SPIN_ASSERT_EQ(request->state, RUNNING);
        SPIN_ASSERT_GT(scheduler->running, 0);
        scheduler->running--;
    }
    set_slabs(scheduler, request, 0, 0);
    set_blocks(scheduler, request, request->blocks_held, request->blocks_held);
    spin_list_remove(&scheduler->flight, &request->link);
}

/* The sequence's KV is gone, and with it what has been computed. */
static void forget_sequence(struct spin_scheduler *scheduler, struct request *request)
{
    set_blocks(scheduler, request, 0, 0);
    request->opened = false;
    request->prefilled = false;
    request->computed = 0;
}

/* Slabs for the next pass: a prompt's where it is in prefill, else those of a decode step. */
static uint32_t slabs_for_pass(const struct spin_scheduler *scheduler,
                               const struct request *request)
{
    const struct spin_kv_budget *budget = scheduler->config.budget;
    return request->prefilled ? spin_kv_floor_slabs(budget, request->computed + 1)
                              : spin_kv_claim_slabs(budget, prefill_tokens(request));
}

/* Growing past the claim is the overcommitment: whoever gave way for it must not come back before
 * there is room for both. What prefill claimed is given back by the first decode step alone: until
 * that begins, the sequence has its arena. */
static void grow(struct spin_scheduler *scheduler, struct request *request)
{
    const bool has_stepped = request->computed > request->cursor.tokens;
    const uint32_t blocks = blocks_for(request->known_tokens);
    const uint32_t slabs = slabs_for_pass(scheduler, request);
    const uint32_t kept = has_stepped ? request->slabs_expected : request->slabs_claimed;
    set_blocks(scheduler, request, request->blocks_held, SPIN_MAX(blocks, request->blocks_claimed));
    set_slabs(scheduler, request, slabs, SPIN_MAX(slabs, kept));
}

void spin_scheduler_submit(struct spin_scheduler *scheduler,
                           const struct spin_scheduler_request *request)
{
    const struct spin_scheduler_config *config = &scheduler->config;
    SPIN_ASSERT_LT(request->index, config->requests_max);
    SPIN_ASSERT_GE(request->prompt_tokens, 1);
    SPIN_ASSERT_LE(request->prompt_tokens, request->known_tokens);
    SPIN_ASSERT_LE(request->known_tokens, request->tokens_max);
    SPIN_ASSERT_LE(blocks_for(request->tokens_max), config->kv_blocks);
    SPIN_ASSERT_LE(spin_kv_claim_slabs(config->budget, request->known_tokens), config->kv_slabs);
    SPIN_ASSERT_LE(spin_kv_claim_slabs(config->budget, request->tokens_max), config->kv_slabs);
    struct request *own = &scheduler->requests[request->index];
    SPIN_ASSERT_EQ(own->state, FREE);
    *own = (struct request){.order = scheduler->orders++,
                            .known_tokens = request->known_tokens,
                            .prompt_tokens = request->prompt_tokens,
                            .tokens_max = request->tokens_max,
                            .deadline_ns = request->deadline_ns,
                            .replay = request->replay,
                            .slot = NO_SLOT};
    scheduler->deadline_ns = SPIN_MIN(scheduler->deadline_ns, own->deadline_ns);
    insert_waiting(scheduler, own);
    if (own->known_tokens == own->tokens_max && !request->score) {
        spin_scheduler_end(scheduler, request->index, SPIN_FINISH_LENGTH);
    }
}

void spin_scheduler_end(struct spin_scheduler *scheduler, uint32_t request,
                        enum spin_finish_reason reason)
{
    struct request *own = get_request(scheduler, request);
    if (own->state == ENDED) {
        return;
    }
    if (own->state == WAITING) {
        remove_waiting(scheduler, own);
    } else {
        remove_flight(scheduler, own);
    }
    own->held = own->opened;
    forget_sequence(scheduler, own);
    own->state = ENDED;
    own->reason = reason;
    spin_list_push_back(&scheduler->ended, &own->link);
}

bool spin_scheduler_unit_done(struct spin_scheduler *scheduler, uint32_t request)
{
    struct request *own = get_request(scheduler, request);
    SPIN_ASSERT_EQ(own->state, PREFILL);
    scheduler->budget -= own->cursor.unit.end - own->cursor.unit.begin;
    spin_cursor_advance(&scheduler->config.grid, &own->cursor);
    if (!spin_cursor_done(&own->cursor)) {
        return false;
    }
    if (own->known_tokens == own->tokens_max) {
        spin_scheduler_end(scheduler, request, SPIN_FINISH_LENGTH);
        return true;
    }
    release_slot(scheduler, own);
    own->state = RUNNING;
    own->prefilled = true;
    own->computed = own->cursor.tokens;
    scheduler->running++;
    grow(scheduler, own);
    return true;
}

void spin_scheduler_token(struct spin_scheduler *scheduler, uint32_t request)
{
    struct request *own = get_request(scheduler, request);
    SPIN_ASSERT_EQ(own->state, RUNNING);
    SPIN_ASSERT_LT(own->known_tokens, own->tokens_max);
    SPIN_ASSERT_LE(own->known_tokens - own->computed, 1); /* the last one known gave the draw */
    own->computed = own->known_tokens;
    own->known_tokens++;
    if (own->known_tokens == own->tokens_max) {
        spin_scheduler_end(scheduler, request, SPIN_FINISH_LENGTH);
        return;
    }
    grow(scheduler, own);
}

uint32_t spin_scheduler_computed(const struct spin_scheduler *scheduler, uint32_t request)
{
    SPIN_ASSERT_LT(request, scheduler->config.requests_max);
    SPIN_ASSERT_EQ(scheduler->requests[request].state, RUNNING);
    return scheduler->requests[request].computed;
}

void spin_scheduler_replayed(struct spin_scheduler *scheduler, uint32_t request)
{
    struct request *own = get_request(scheduler, request);
    SPIN_ASSERT_EQ(own->state, RUNNING);
    SPIN_ASSERT_GE(own->known_tokens - own->computed, 2);
    own->computed++;
    grow(scheduler, own);
}

static void expire_list(struct spin_scheduler *scheduler, struct spin_list *list, uint64_t now_ns)
{
    struct spin_link *link = spin_list_first(list);
    while (link != NULL) {
        struct request *request = from_link(link);
        link = spin_list_next(list, link);
        if (request->deadline_ns <= now_ns) {
            spin_scheduler_end(scheduler, index_of(scheduler, request), SPIN_FINISH_DEADLINE);
        } else {
            scheduler->deadline_ns = SPIN_MIN(scheduler->deadline_ns, request->deadline_ns);
        }
    }
}

/* Walks all requests only when somebody's deadline may have come. */
static void expire(struct spin_scheduler *scheduler, uint64_t now_ns)
{
    if (now_ns < scheduler->deadline_ns) {
        return;
    }
    scheduler->deadline_ns = SPIN_NO_DEADLINE;
    expire_list(scheduler, &scheduler->waiting, now_ns);
    expire_list(scheduler, &scheduler->flight, now_ns);
}

/* Tokens that a request's claims cover. */
static uint32_t expected_tokens(const struct spin_scheduler *scheduler,
                                const struct request *request)
{
    const uint64_t expected =
        (uint64_t)request->known_tokens + scheduler->config.output_expected_tokens;
    const bool all = request->preempted || expected > request->tokens_max;
    return all ? request->tokens_max : (uint32_t)expected;
}

static uint32_t slabs_expected(const struct spin_scheduler *scheduler,
                               const struct request *request)
{
    return spin_kv_floor_slabs(scheduler->config.budget, expected_tokens(scheduler, request));
}

/* True when the tiers have room for what it would claim. */
static bool fits(const struct spin_scheduler *scheduler, const struct request *request)
{
    const struct spin_scheduler_config *config = &scheduler->config;
    const uint64_t blocks = scheduler->blocks_claimed - request->blocks_claimed +
                            blocks_for(expected_tokens(scheduler, request));
    const uint64_t slabs = scheduler->slabs_claimed + SPIN_MAX(slabs_expected(scheduler, request),
                                                               slabs_for_pass(scheduler, request));
    const uint32_t opened = scheduler->flight.count + scheduler->suspended;
    return blocks <= config->kv_blocks && slabs <= config->kv_slabs &&
           (request->opened || opened < config->max_num_seqs);
}

/* True when it can have the prefill slot that it needs, if any. */
static bool has_slot(const struct spin_scheduler *scheduler, const struct request *request)
{
    if (request->opened && request->prefilled) {
        return true;
    }
    if (scheduler->slots_free == 1 && scheduler->config.prefill_slots > 1) {
        return prefill_left(request) <= scheduler->config.grid.super_chunk_tokens;
    }
    return scheduler->slots_free > 0;
}

/* Who is admitted next, or NULL: see Admission in the header. */
static struct request *pick_admission(struct spin_scheduler *scheduler)
{
    /* Without a slot only suspended ones can come in: no walk where there are none. */
    if (scheduler->slots_free == 0 && scheduler->suspended == 0) {
        return NULL;
    }
    SPIN_LIST_FOREACH (&scheduler->waiting, link) {
        struct request *request = from_link(link);
        if (has_slot(scheduler, request)) {
            return fits(scheduler, request) ? request : NULL;
        }
        if (request->overtaken == SPIN_OVERTAKEN_MAX) {
            return NULL;
        }
    }
    return NULL;
}

static uint32_t take_slot(struct spin_scheduler *scheduler)
{
    SPIN_ASSERT_GT(scheduler->slots_free, 0);
    scheduler->slots_free--;
    uint32_t slot = 0;
    while (scheduler->slot_used[slot]) {
        slot++;
    }
    SPIN_ASSERT_LT(slot, scheduler->config.prefill_slots);
    scheduler->slot_used[slot] = true;
    return slot;
}

static void hold_blocks(struct spin_scheduler *scheduler, struct request *request, uint32_t blocks)
{
    set_blocks(scheduler, request, SPIN_MAX(blocks, request->blocks_held), request->blocks_claimed);
}

/* Takes a slot and a cursor where prefill is ahead; returns the tokens that are on the host. */
static uint32_t start_place(struct spin_scheduler *scheduler, struct request *request)
{
    if (request->opened && request->prefilled) {
        request->state = RUNNING;
        scheduler->running++;
        return request->computed;
    }
    const struct spin_grid *grid = &scheduler->config.grid;
    request->cursor = request->opened ? spin_cursor_restart(grid, &request->cursor)
                                      : spin_cursor_start(grid, prefill_tokens(request));
    request->state = PREFILL;
    request->slot = take_slot(scheduler);
    return request->cursor.unit.super_begin;
}

static bool try_admit(struct spin_scheduler *scheduler, struct spin_command *out)
{
    struct request *request = pick_admission(scheduler);
    if (request == NULL) {
        return false;
    }
    SPIN_LIST_FOREACH (&scheduler->waiting, link) {
        if (link == &request->link) {
            break;
        }
        from_link(link)->overtaken++;
    }
    const uint32_t blocks = blocks_for(expected_tokens(scheduler, request));
    const uint32_t slabs = slabs_for_pass(scheduler, request);
    request->slabs_expected = slabs_expected(scheduler, request);
    remove_waiting(scheduler, request);
    insert_flight(scheduler, request);
    const bool opened = request->opened;
    const uint32_t written = start_place(scheduler, request);
    const uint32_t tokens = request->prefilled ? request->computed : request->cursor.tokens;
    set_slabs(scheduler, request, slabs, SPIN_MAX(slabs, request->slabs_expected));
    set_blocks(scheduler, request, SPIN_MAX(blocks_for(tokens), request->blocks_held), blocks);
    request->opened = true;
    *out = (struct spin_command){.kind = SPIN_COMMAND_ADMIT,
                                 .request = index_of(scheduler, request),
                                 .slot = request->slot,
                                 .tokens = tokens,
                                 .written = written,
                                 .opened = opened};
    return true;
}

/* Blocks that the running ones lack for a step. */
static uint64_t lacking_blocks(const struct spin_scheduler *scheduler)
{
    uint64_t lacking = 0;
    SPIN_LIST_FOREACH (&scheduler->flight, link) {
        const struct request *request = from_link(link);
        const uint32_t needed = blocks_for((uint64_t)request->computed + 1);
        if (request->state == RUNNING && needed > request->blocks_held) {
            lacking += needed - request->blocks_held;
        }
    }
    return lacking;
}

static struct request *youngest_suspended(struct spin_scheduler *scheduler)
{
    struct request *youngest = NULL;
    SPIN_LIST_FOREACH (&scheduler->waiting, link) {
        struct request *request = from_link(link);
        youngest = request->opened ? request : youngest;
    }
    return youngest;
}

static struct request *youngest_in_flight(struct spin_scheduler *scheduler)
{
    SPIN_ASSERT_GT(scheduler->flight.count, 1); /* one alone always fits */
    return from_link(spin_list_last(&scheduler->flight));
}

static void preempt(struct spin_scheduler *scheduler, struct request *request,
                    struct spin_command *out)
{
    if (request->state == WAITING) {
        remove_waiting(scheduler, request);
    } else {
        remove_flight(scheduler, request);
    }
    forget_sequence(scheduler, request);
    request->preempted = true;
    insert_waiting(scheduler, request);
    scheduler->preemptions++;
    *out = (struct spin_command){.kind = SPIN_COMMAND_PREEMPT,
                                 .request = index_of(scheduler, request)};
}

static void suspend(struct spin_scheduler *scheduler, struct spin_command *out)
{
    struct request *request = youngest_in_flight(scheduler);
    remove_flight(scheduler, request);
    insert_waiting(scheduler, request);
    scheduler->suspensions++;
    *out = (struct spin_command){.kind = SPIN_COMMAND_SUSPEND,
                                 .request = index_of(scheduler, request)};
}

/* True when somebody has to give way before the running ones can take their step. */
static bool make_room(struct spin_scheduler *scheduler, struct spin_command *out)
{
    if (lacking_blocks(scheduler) > scheduler->config.kv_blocks - scheduler->blocks_held) {
        preempt(scheduler,
                scheduler->suspended > 0 ? youngest_suspended(scheduler)
                                         : youngest_in_flight(scheduler),
                out);
        return true;
    }
    if (scheduler->slabs_needed > scheduler->config.kv_slabs) {
        suspend(scheduler, out);
        return true;
    }
    return false;
}

/* Appends the running ones that draw, or those that replay, to the batch; returns its size. */
static uint32_t gather_batch(struct spin_scheduler *scheduler, bool draws, uint32_t count)
{
    SPIN_LIST_FOREACH (&scheduler->flight, link) {
        struct request *request = from_link(link);
        if (request->state == RUNNING &&
            draws == (request->computed + 1 == request->known_tokens)) {
            hold_blocks(scheduler, request, blocks_for((uint64_t)request->computed + 1));
            scheduler->batch[count++] = index_of(scheduler, request);
        }
    }
    return count;
}

static void decode(struct spin_scheduler *scheduler, struct spin_command *out)
{
    const uint32_t draw_count = gather_batch(scheduler, true, 0);
    const uint32_t count = gather_batch(scheduler, false, draw_count);
    SPIN_ASSERT_EQ(count, scheduler->running);
    scheduler->budget =
        (int64_t)scheduler->config.max_num_batched_tokens * scheduler->config.grid.layers;
    *out = (struct spin_command){.kind = SPIN_COMMAND_DECODE,
                                 .batch = scheduler->batch,
                                 .batch_count = count,
                                 .draw_count = draw_count};
}

static void prefill(struct spin_scheduler *scheduler, struct spin_command *out)
{
    const struct spin_grid *grid = &scheduler->config.grid;
    const struct request *oldest = NULL;
    const struct request *shortest = NULL;
    uint64_t least = UINT64_MAX;
    SPIN_LIST_FOREACH (&scheduler->flight, link) {
        const struct request *request = from_link(link);
        if (request->state != PREFILL) {
            continue;
        }
        oldest = oldest == NULL ? request : oldest;
        const uint64_t remaining = spin_cursor_remaining(grid, &request->cursor);
        if (remaining < least) {
            least = remaining;
            shortest = request;
        }
    }
    const struct request *chosen = scheduler->oldest_next ? oldest : shortest;
    SPIN_ASSERT(chosen != NULL);
    scheduler->oldest_next = !scheduler->oldest_next;
    *out = (struct spin_command){.kind = SPIN_COMMAND_PREFILL,
                                 .request = index_of(scheduler, chosen),
                                 .slot = chosen->slot,
                                 .unit = chosen->cursor.unit};
}

static void finish(struct spin_scheduler *scheduler, struct spin_command *out)
{
    struct request *request = from_link(spin_list_first(&scheduler->ended));
    SPIN_ASSERT_EQ(request->state, ENDED);
    spin_list_remove(&scheduler->ended, &request->link);
    request->state = FREE;
    *out = (struct spin_command){.kind = SPIN_COMMAND_FINISH,
                                 .request = index_of(scheduler, request),
                                 .reason = request->reason,
                                 .held = request->held};
}

bool spin_scheduler_knows(const struct spin_scheduler *scheduler, uint32_t request)
{
    SPIN_ASSERT_LT(request, scheduler->config.requests_max);
    return scheduler->requests[request].state != FREE;
}

void spin_scheduler_next(struct spin_scheduler *scheduler, uint64_t now_ns,
                         struct spin_command *out)
{
    expire(scheduler, now_ns);
    if (scheduler->ended.count > 0) {
        finish(scheduler, out);
        return;
    }
    if (try_admit(scheduler, out)) {
        return;
    }
    const bool prefilling = scheduler->flight.count > scheduler->running;
    if (scheduler->running > 0 && (!prefilling || scheduler->budget <= 0)) {
        if (!make_room(scheduler, out)) {
            decode(scheduler, out);
        }
    } else if (prefilling) {
        prefill(scheduler, out);
    } else if (scheduler->suspended > 0) {
        /* The first in the queue finds no room although nobody is in flight: blocks or sequences
         * that younger ones kept over a suspension are in its way. Its own never are. */
        struct request *request = youngest_suspended(scheduler);
        SPIN_ASSERT(&request->link != spin_list_first(&scheduler->waiting));
        preempt(scheduler, request, out);
    } else {
        /* Whoever waits is admitted when nobody holds anything, so nobody waits for ever. */
        SPIN_ASSERT_EQ(scheduler->waiting.count, 0);
        *out = (struct spin_command){.kind = SPIN_COMMAND_IDLE};
    }
}

void spin_scheduler_get_stats(const struct spin_scheduler *scheduler,
                              struct spin_scheduler_stats *out)
{
    uint64_t token_layers = 0;
    SPIN_LIST_FOREACH (&scheduler->flight, link) {
        const struct request *request = from_link(link);
        if (request->state == PREFILL) {
            token_layers += spin_cursor_remaining(&scheduler->config.grid, &request->cursor);
        }
    }
    *out = (struct spin_scheduler_stats){.waiting = scheduler->waiting.count,
                                         .in_flight = scheduler->flight.count,
                                         .prefilling = scheduler->flight.count - scheduler->running,
                                         .suspended = scheduler->suspended,
                                         .blocks_held = (uint32_t)scheduler->blocks_held,
                                         .slabs_claimed = (uint32_t)scheduler->slabs_claimed,
                                         .waiting_tokens = scheduler->waiting_tokens,
                                         .prefill_tokens =
                                             token_layers / scheduler->config.grid.layers,
                                         .preemptions = scheduler->preemptions,
                                         .suspensions = scheduler->suspensions};
}
