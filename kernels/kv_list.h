/* kv_list: the lists of one sequence in one layer whose pages are in order: what nobody selected.
 *
 * Why        A unit of prefill attends to all pages there are, an arena is read back whole, the
 *            open page is resolved alone. Operations read lists where they lie; the host cannot
 *            write there.
 * Formula    Into rows [0, kv_heads) of the lists, entry i being page pages.first + i, which lies
 *            in slot pages.first + i of the row of `slot_layer`:
 *            SPIN_KV_LIST_SLOTS: pages, page_count, slots, visible (the list ends with token
 *            `tokens` - 1 of the sequence);
 *            SPIN_KV_LIST_MISSES: misses, miss_count, none fresh;
 *            SPIN_KV_LIST_PAGES: pages, page_count, for kv_resolve.
 * Limits     pages.count is at least 1 and at most lists.stride. SLOTS: the last page is that of
 *            token `tokens` - 1. SLOTS, MISSES: the layer's slab groups reach that far.
 * Numerics   Bit-equal.
 * Execution  Asynchronous on `stream`; no allocation.
 * Invariance Row-invariant: yes. */
#pragma once

#include "kernels/device.h"
#include "kernels/kv_tables.h"

SPIN_BEGIN_DECLS

enum spin_kv_list_kind { SPIN_KV_LIST_SLOTS, SPIN_KV_LIST_MISSES, SPIN_KV_LIST_PAGES };

struct spin_kv_list_args {
    const struct spin_kv_view *view; /* in: slab_list */
    struct spin_kv_lists lists;      /* out */
    enum spin_kv_list_kind kind;
    uint32_t sequence; /* number in the tables */
    uint32_t slot_layer;
    struct spin_kv_range pages;
    uint32_t tokens; /* SLOTS */
};

spin_status spin_kv_list_ref(const struct spin_kv_list_args *args, struct spin_stream *stream);
spin_status spin_kv_list_cpu(const struct spin_kv_list_args *args, struct spin_stream *stream);
spin_status spin_kv_list_cuda(const struct spin_kv_list_args *args, struct spin_stream *stream);

SPIN_END_DECLS
