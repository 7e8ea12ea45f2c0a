/* sparse_internal: what the pipeline and the list of algorithms share.
 *
 * Why        The window of a step decides both what Select takes and how many slots a row needs:
 *            one function answers both, so the two cannot disagree.
 * Threading  Any thread; pure.
 * Units      Tokens; windows in partitions. */
#pragma once

#include "worker/sparse/sparse.h"

SPIN_BEGIN_DECLS

/* A step with `tokens` visible tokens attends to everything in every layer. */
bool spin_sparse_runs_dense(const struct spin_sparse_options *options, uint32_t tokens);
/* The window of a step in one layer; of dense ones, everything. */
struct spin_kv_window spin_sparse_window(const struct spin_sparse_options *options, uint32_t layer,
                                         uint32_t tokens);

SPIN_END_DECLS
