/* kv_select: Select: which pages each row of a decode step attends to.
 *
 * Formula    Partitions [0, sink_end) and [local_begin, end) are taken, end covering the newest
 *            token; of the candidates c in [sink_end, local_begin) the k best by
 *              l[h][c] = scale * q_h . mean_c                        SPIN_SUMMARY_MEAN (ShadowKV)
 *              l[h][c] = scale * sum_d max(q_hd min_cd, q_hd max_cd) SPIN_SUMMARY_BOUNDS (Quest)
 *              score[c] = max over the query heads h of the group of softmax_c(l[h])
 *            Equal scores: the lower partition. k >= candidates: all of them.
 *            (ShadowKV: arXiv 2410.21465. Quest, arXiv 2406.10774, selects per query head; to merge
 *            them by group is ours: the softmax makes heads of different norms comparable.)
 * Layout     q: [count][q_heads * head_dim] activations, rotated. lists.pages, page_count: out,
 *            pages of the chosen partitions, ascending, none behind the newest token's.
 * Limits     Candidates are sealed and indexed: the newest token's partition is none of them.
 *            lists.stride holds the pages of any choice.
 * Numerics   _ref: double. _cpu: F32; the chosen set differs only among scores within 1e-6 of the
 *            k-th. A logit below F32's range is minus infinity, and a query head that has no other
 *            gives every candidate that score. A NaN is a bug (asserted).
 * Workspace  spin_kv_select_workspace_bytes, 64-byte aligned.
 * Execution  Asynchronous on `stream`; no allocation.
 * Invariance Row-invariant: yes, in sequences. */
#pragma once

#include "kernels/device.h"
#include "kernels/kv_tables.h"
#include "kernels/matrix.h"

SPIN_BEGIN_DECLS

enum spin_summary {
    SPIN_SUMMARY_NONE,  /* selects everything: nothing is ever a candidate */
    SPIN_SUMMARY_MEAN,  /* BF16 [head_dim] */
    SPIN_SUMMARY_BOUNDS /* BF16 min[head_dim], max[head_dim] */
};

/* In partitions; sink_end <= local_begin, both at most the partitions there are. */
struct spin_kv_window {
    uint32_t sink_end;
    uint32_t local_begin;
    uint32_t k;
};

struct spin_kv_select_args {
    const struct spin_kv_view *view;
    struct spin_kv_batch batch;
    struct spin_kv_lists lists; /* out: pages, page_count */
    enum spin_summary summary;
    bool always_score;    /* verify mode: score and choose even when k takes all */
    struct spin_matrix q; /* in */
    uint32_t q_heads;
    float scale;
    const struct spin_kv_window *windows; /* [batch.count] */
    void *workspace;
};

/* Reads view, batch.count, q_heads; enough for any call with no more of the latter two. */
uint64_t spin_kv_select_workspace_bytes(const struct spin_kv_select_args *args);
spin_status spin_kv_select_ref(const struct spin_kv_select_args *args, struct spin_stream *stream);
spin_status spin_kv_select_cpu(const struct spin_kv_select_args *args, struct spin_stream *stream);
spin_status spin_kv_select_cuda(const struct spin_kv_select_args *args, struct spin_stream *stream);

SPIN_END_DECLS
