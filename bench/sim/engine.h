/* engine: what all workers of a simulated cluster have in common: times, grid, pools, budget.
 *
 * Why        A thousand workers share one table and one rule for KV. The budget is the KV manager's
 *            own arithmetic (kvstore/manager/budget.h) over the sparse algorithm's own demand, only
 *            asked in a cheaper way, because a simulation asks it for every token of everybody:
 *            dense: every layer needs the same, so one layer with the heads of all gives the same
 *            numbers; sparse: what the algorithm says is looked up instead of computed.
 * Ownership  Borrows the step times until destroy.
 * Threading  Any thread may read.
 * Units      Tokens.
 * Errors     INVALID: an algorithm that there is not, pools too small for max_model_len (the engine
 *            itself would refuse them). NO_MEMORY. */
#pragma once

#include "bench/sim/step_times.h"
#include "worker/engine/scheduler.h"
#include "worker/sparse/sparse.h"

SPIN_BEGIN_DECLS

struct spin_sim_engine {
    const struct spin_step_times *times;
    struct spin_step_engine config;
    struct spin_sparse_options sparse;
    struct spin_kv_budget budget;
    struct spin_scheduler_config scheduler;
    bool replay;
    uint32_t *mandatory[2]; /* [max_model_len + 1] pages of a dense layer, of a sparse one; NULL */
};

SPIN_MUST_USE spin_status spin_sim_engine_create(const struct spin_step_times *times,
                                                 struct spin_sim_engine **out,
                                                 struct spin_error *err);
void spin_sim_engine_destroy(struct spin_sim_engine *engine); /* NULL is allowed */

SPIN_END_DECLS
