/* kv_index: Index: the summaries of partitions whose last token has just been written.
 *
 * Formula    Over the partition's keys as pages hold them (BF16, after RoPE), element by element:
 *            SPIN_SUMMARY_MEAN: the arithmetic mean, rounded to BF16 (to nearest even);
 *            SPIN_SUMMARY_BOUNDS: minimum and maximum (exact).
 * Layout     ranges[i]: whole partitions of sequence i, in pages; the pages are in HBM at
 *            lists.slots, from the entry of the first one on (spin_kv_list_entry). out:
 *            spin_kv_summary() of each.
 * Limits     The pages of a range are on the lists of their rows, and so is every later one up to
 *            the newest (asserted by the processors' versions).
 * Numerics   _ref: double sums. _cpu: F32 sums in token order: the mean is within one BF16 ulp.
 *            A summary is a function of its partition's keys alone (D1): prefill and decode write
 *            the same bits.
 * Execution  Asynchronous on `stream`; no allocation.
 * Invariance Row-invariant: yes. */
#pragma once

#include "kernels/kv_select.h"

SPIN_BEGIN_DECLS

struct spin_kv_index_args {
    const struct spin_kv_view *view;
    struct spin_kv_batch batch;
    struct spin_kv_lists lists;         /* in: slots, visible; _ref, _cpu: pages */
    enum spin_summary summary;          /* not NONE */
    const struct spin_kv_range *ranges; /* [batch.count] */
};

spin_status spin_kv_index_ref(const struct spin_kv_index_args *args, struct spin_stream *stream);
spin_status spin_kv_index_cpu(const struct spin_kv_index_args *args, struct spin_stream *stream);
spin_status spin_kv_index_cuda(const struct spin_kv_index_args *args, struct spin_stream *stream);

SPIN_END_DECLS
