#include "kvstore/manager/budget.h"

#include "base/assert.h"

/* In multiples of mandatory; the working set's 1.25 in quarters, so that it stays whole. */
#define FLOOR_FACTOR 2u
#define PRIOR_FACTOR 6u
#define WORKING_SET_QUARTERS 5u

static uint32_t pages_for(const struct spin_kv_budget *budget, uint32_t tokens)
{
    return tokens / budget->page_tokens + (tokens % budget->page_tokens != 0);
}

/* A row has no use for more slots than it has pages. */
static uint32_t slabs_for(const struct spin_kv_budget *budget, uint64_t slots, uint32_t tokens)
{
    const uint64_t useful = SPIN_MIN(slots, pages_for(budget, tokens));
    return (uint32_t)((useful + SPIN_SLAB_SLOTS - 1) / SPIN_SLAB_SLOTS);
}

static uint64_t mandatory(const struct spin_kv_budget *budget, uint32_t layer, uint32_t tokens)
{
    return budget->demand.mandatory(budget->demand.context, layer, tokens);
}

uint32_t spin_kv_mandatory_row(const struct spin_kv_budget *budget, uint32_t layer, uint32_t tokens)
{
    return slabs_for(budget, mandatory(budget, layer, tokens), tokens);
}

uint32_t spin_kv_floor_row(const struct spin_kv_budget *budget, uint32_t layer, uint32_t tokens)
{
    return slabs_for(budget, FLOOR_FACTOR * mandatory(budget, layer, tokens), tokens);
}

uint32_t spin_kv_target_row(const struct spin_kv_budget *budget, uint32_t layer, uint32_t tokens,
                            uint32_t working_set)
{
    const uint64_t pages = mandatory(budget, layer, tokens);
    const uint64_t least = FLOOR_FACTOR * pages;
    const uint64_t most = PRIOR_FACTOR * pages;
    const uint64_t wanted = ((uint64_t)WORKING_SET_QUARTERS * working_set + 3) / 4;
    const uint64_t slots = working_set == 0 ? most : SPIN_MAX(least, SPIN_MIN(wanted, most));
    return slabs_for(budget, slots, tokens);
}

uint32_t spin_kv_full_row(const struct spin_kv_budget *budget, uint32_t tokens)
{
    return slabs_for(budget, UINT64_MAX, tokens);
}

uint32_t spin_kv_floor_slabs(const struct spin_kv_budget *budget, uint32_t tokens)
{
    uint32_t slabs = 0;
    for (uint32_t layer = 0; layer < budget->layers; layer++) {
        slabs += spin_kv_floor_row(budget, layer, tokens);
    }
    return slabs * budget->kv_heads;
}

uint32_t spin_kv_arena_slabs(const struct spin_kv_budget *budget, uint32_t tokens)
{
    return spin_kv_full_row(budget, tokens) * budget->kv_heads;
}

uint32_t spin_kv_claim_slabs(const struct spin_kv_budget *budget, uint32_t tokens)
{
    return SPIN_MAX(spin_kv_floor_slabs(budget, tokens), spin_kv_arena_slabs(budget, tokens));
}

/* --- the largest claim --- */

static bool attends_to_all(const struct spin_kv_budget *budget, uint32_t tokens)
{
    for (uint32_t layer = 0; layer < budget->layers; layer++) {
        if (mandatory(budget, layer, tokens) < pages_for(budget, tokens)) {
            return false;
        }
    }
    return true;
}

/* The last length at which every layer attends to everything, by halving: a length behind it is
 * sparse, so are the longer ones. 0: even one token is not. */
static uint32_t longest_dense(const struct spin_kv_budget *budget, uint32_t tokens)
{
    uint32_t dense = 0;
    for (uint32_t sparse = tokens + 1; sparse - dense > 1;) {
        const uint32_t middle = dense + (sparse - dense) / 2;
        if (attends_to_all(budget, middle)) {
            dense = middle;
        } else {
            sparse = middle;
        }
    }
    return dense;
}

static bool is_longest_claim(const struct spin_kv_budget *budget, uint32_t tokens, uint32_t claim)
{
    uint32_t most = 0;
    for (uint32_t length = 1; length <= tokens; length++) {
        most = SPIN_MAX(most, spin_kv_claim_slabs(budget, length));
    }
    return most == claim;
}

uint32_t spin_kv_longest_claim_slabs(const struct spin_kv_budget *budget, uint32_t tokens)
{
    const uint32_t slab_tokens = SPIN_SLAB_SLOTS * budget->page_tokens;
    uint32_t most = SPIN_MAX(spin_kv_claim_slabs(budget, tokens),
                             spin_kv_claim_slabs(budget, longest_dense(budget, tokens)));
    /* On both sides of where it turns sparse a claim grows, so the last lengths are enough; a claim
     * too small would be a request that never runs, so the ends of slabs are asked, too. */
    for (uint32_t length = slab_tokens; length < tokens; length += slab_tokens) {
        most = SPIN_MAX(most, spin_kv_claim_slabs(budget, length));
    }
    SPIN_DASSERT(is_longest_claim(budget, tokens, most));
    return most;
}
