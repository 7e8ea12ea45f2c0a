/* kv_resize: the tables of one layer of a BUFFERED sequence follow its slabs.
 *
 * Why        The host changes slab_list and slab_count; what the tables say about slots is the
 *            device's. One operation covers a row's birth, growth, shrinking, and the step from
 *            the identity map to tables.
 * Formula    Before: the rows have slots [0, before). After: [0, after).
 *            held > 0: the rows were RESIDENT; slot s < held holds page first_page + s, stamped as
 *            if selected in the step before; other slots are free. (before is 0.)
 *            Growth: new slots are free. Shrinking: pages of slots [after, before) lose them, and
 *            are counted in counters.dropped; nothing moves. bucketed: leaves in slots that go away
 *            move, in the order of the directory, to the lowest free leaves of slots that stay, and
 *            the stack of free leaves is made anew: the lowest on top.
 *            after 0: the rows' tables are empty, and say nothing.
 * Limits     slab_list and slab_count in the view are those of the larger of before and after.
 *            held <= after.
 * Numerics   _ref and _cpu: bit-equal.
 * Execution  Asynchronous on `stream`; no allocation. */
#pragma once

#include "kernels/device.h"
#include "kernels/kv_tables.h"

SPIN_BEGIN_DECLS

struct spin_kv_resize_args {
    const struct spin_kv_view *view; /* in, out: tables */
    uint32_t sequence;
    uint32_t layer;
    uint32_t step;   /* of the sequence, as in the next resolve */
    uint32_t before; /* slots */
    uint32_t after;  /* slots */
    uint32_t first_page;
    uint32_t held; /* slots */
};

spin_status spin_kv_resize_slot_lru_ref(const struct spin_kv_resize_args *args,
                                        struct spin_stream *stream);
spin_status spin_kv_resize_slot_lru_cpu(const struct spin_kv_resize_args *args,
                                        struct spin_stream *stream);
spin_status spin_kv_resize_slot_lru_cuda(const struct spin_kv_resize_args *args,
                                         struct spin_stream *stream);
spin_status spin_kv_resize_bucketed_ref(const struct spin_kv_resize_args *args,
                                        struct spin_stream *stream);
spin_status spin_kv_resize_bucketed_cpu(const struct spin_kv_resize_args *args,
                                        struct spin_stream *stream);
spin_status spin_kv_resize_bucketed_cuda(const struct spin_kv_resize_args *args,
                                         struct spin_stream *stream);

SPIN_END_DECLS
