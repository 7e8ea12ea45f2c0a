/* scheduler_world: a scheduler, driven like an engine would, beside a naive account of it.
 *
 * Why        Every test of the scheduler wants all of its promises checked after every command:
 *            prefill slots, blocks, slabs, states, the order of units, what was computed.
 * Ownership  A world owns its scheduler from set_up to tear_down.
 * Threading  The test's thread.
 * Units      Tokens, blocks of BLOCK, slabs.
 * Errors     What does not hold ends the test. */
#pragma once

#include "worker/engine/scheduler.h"

SPIN_BEGIN_DECLS

#define REQUESTS 40u
#define BLOCK 128u
#define PAGE 8u
#define LAYERS 3u
#define KV_HEADS 2u

enum state { ABSENT, WAITING, SUSPENDED, PREFILL, RUNNING };

struct model_request {
    enum state state;
    uint64_t order;
    uint32_t prompt;
    uint32_t known;
    uint32_t tokens_max;
    uint64_t deadline_ns;
    bool replay;
    uint32_t reserved; /* tokens, as the KV manager would have them */
    uint32_t slot;
    uint32_t prefill;      /* tokens that prefill covers */
    struct spin_unit next; /* the unit that has to come next */
    bool prefilled;
    bool has_arena; /* since the admission to its prefill, until a decode step or a suspension */
    uint32_t computed;
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
    uint32_t preemptions_of_suspended;
    uint32_t suspensions;
    uint32_t comebacks_in_prefill;
    uint32_t comebacks_to_decode;
    uint32_t overtakings;
    uint32_t replays;
    uint32_t mixed_steps;     /* draws and replays in one */
    int64_t units_since_step; /* token-layers */
};

/* Attends to everything. */
extern const struct spin_kv_budget spin_world_dense;
/* Attends to 20 pages from 600 tokens on. */
extern const struct spin_kv_budget spin_world_sparse;

/* Dense, 24 blocks, slabs without end. */
struct spin_scheduler_config spin_world_config(void);
void spin_world_set_up(struct world *world, const struct spin_scheduler_config *config);
/* Runs until nobody is known, and checks that nothing is held and everybody was told. */
void spin_world_tear_down(struct world *world);

void spin_world_submit(struct world *world, uint32_t index, uint32_t known, uint32_t output);
void spin_world_submit_until(struct world *world, uint32_t index, uint32_t known,
                             uint64_t deadline_ns);
/* A prompt and `resumed` tokens that are to be replayed. */
void spin_world_submit_replay(struct world *world, uint32_t index, uint32_t prompt,
                              uint32_t resumed, uint32_t output);
void spin_world_end(struct world *world, uint32_t index, enum spin_finish_reason reason);
/* One command and what comes of it, checked. */
enum spin_command_kind spin_world_step(struct world *world, struct spin_command *out);

SPIN_END_DECLS
