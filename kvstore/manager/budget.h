/* budget: how many slots a sequence should have; pure.
 *
 * Why        The scheduler admits by it and the manager grants by it: one rule, one place.
 * Words      mandatory: pages of a row that a step attends to, the chosen ones and the private ones
 *            (sink, local window, open page). working set W: distinct pages of a row in the last 12
 *            steps. floor: what a sequence is never pressed below, 2x mandatory. target: what it
 *            should have, clamp(1.25 W, 2x, 6x mandatory); before W is known 6x (SPIN's mandatory +
 *            5x buffering). No row needs more than its pages.
 * Threading  Any thread; pure.
 * Units      Slots of a row are rounded up to whole slabs of SPIN_SLAB_SLOTS; slabs are counted
 *            over all rows. */
#pragma once

#include "kernels/kv_tables.h"

SPIN_BEGIN_DECLS

/* What the algorithm in force says about its steps; `mandatory` is pure, is every page up to the
 * length at which the algorithm turns sparse, if it does, and grows with the tokens from there on:
 * it does not fall below what a shorter sparse step needs. */
struct spin_kv_demand {
    const void *context;
    /* Pages of a row of `layer` that a step with `tokens` visible tokens attends to. */
    uint32_t (*mandatory)(const void *context, uint32_t layer, uint32_t tokens);
};

struct spin_kv_budget {
    uint32_t layers;
    uint32_t kv_heads;
    uint32_t page_tokens;
    struct spin_kv_demand demand;
};

/* Slabs of one row of `layer` at `tokens` tokens. */
uint32_t spin_kv_mandatory_row(const struct spin_kv_budget *budget, uint32_t layer,
                               uint32_t tokens);
uint32_t spin_kv_floor_row(const struct spin_kv_budget *budget, uint32_t layer, uint32_t tokens);
/* working_set 0: not known yet. */
uint32_t spin_kv_target_row(const struct spin_kv_budget *budget, uint32_t layer, uint32_t tokens,
                            uint32_t working_set);
/* Slabs of one row that hold every page: no step misses then. */
uint32_t spin_kv_full_row(const struct spin_kv_budget *budget, uint32_t tokens);

/* Slabs of a sequence, all rows. */
uint32_t spin_kv_floor_slabs(const struct spin_kv_budget *budget, uint32_t tokens);
/* One layer's rows, whole: where a prompt is prefilled when its sequence does not fit. */
uint32_t spin_kv_arena_slabs(const struct spin_kv_budget *budget, uint32_t tokens);
/* What a sequence claims: the larger of floor and arena; it never holds both. */
uint32_t spin_kv_claim_slabs(const struct spin_kv_budget *budget, uint32_t tokens);
/* The largest claim of any length from 1 to `tokens`. A longer one may claim less: it is sparse. */
uint32_t spin_kv_longest_claim_slabs(const struct spin_kv_budget *budget, uint32_t tokens);

SPIN_END_DECLS
