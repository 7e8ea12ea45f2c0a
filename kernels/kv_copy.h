/* kv_copy: the two copies of Retrieve and Offload: frames to slots (gather), slots to frames.
 *
 * Why        Page bytes are the same in both tiers, so both are pure copies of whole pages; one
 *            kernel serves every algorithm (SPIN table 1).
 * Formula    gather: for every miss of every row: slot <- frame, or zeros where fresh. offload: for
 *            every row of sequence i: frame of page ranges[i].first + j <- slot of the list entry
 *            that holds it (spin_kv_list_entry).
 * Limits     The pages of a range are on the lists of their rows, and so is every later one up to
 *            the newest (asserted by the processors' versions).
 * Numerics   Bit-exact.
 * Execution  Asynchronous on `stream`; no allocation.
 * Invariance Row-invariant: yes. */
#pragma once

#include "kernels/device.h"
#include "kernels/kv_tables.h"

SPIN_BEGIN_DECLS

struct spin_kv_gather_args {
    const struct spin_kv_view *view; /* in: host; out: pool */
    struct spin_kv_batch batch;
    struct spin_kv_lists lists; /* in: misses, miss_count */
};

struct spin_kv_offload_args {
    const struct spin_kv_view *view; /* in: pool; out: host */
    struct spin_kv_batch batch;
    struct spin_kv_lists lists;         /* in: slots, visible; _ref, _cpu: pages */
    const struct spin_kv_range *ranges; /* [batch.count] */
};

spin_status spin_kv_gather_ref(const struct spin_kv_gather_args *args, struct spin_stream *stream);
spin_status spin_kv_gather_cpu(const struct spin_kv_gather_args *args, struct spin_stream *stream);
spin_status spin_kv_gather_cuda(const struct spin_kv_gather_args *args, struct spin_stream *stream);
spin_status spin_kv_offload_ref(const struct spin_kv_offload_args *args,
                                struct spin_stream *stream);
spin_status spin_kv_offload_cpu(const struct spin_kv_offload_args *args,
                                struct spin_stream *stream);
spin_status spin_kv_offload_cuda(const struct spin_kv_offload_args *args,
                                 struct spin_stream *stream);

SPIN_END_DECLS
