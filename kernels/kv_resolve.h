/* kv_resolve: the table walk of Retrieve: where each selected page lies, whom it evicts if nowhere.
 *
 * Formula    RESIDENT sequences: page p is slot p of its row; all hits. BUFFERED, row by row:
 *            1. a selected page that a slot holds is a hit; its stamp becomes now;
 *            2. every other page ages: slot_lru: age + 1, at most SPIN_LRU_AGE_MAX; bucketed: age =
 *               (now - stamp) mod 64 with now = (step >> bucket_shift) mod 64, and a slot of age
 *               62 or more is stamped anew to age 62, so that no old page comes to look young;
 *            3. as many slots as there are misses are taken: free ones in the order of slots, then
 *               those of pages that were not selected: by age, oldest first, and among equal ages
 *               in the order of slots (SPIN: bulk eviction by bucket, no sort);
 *            4. the i-th miss, in the order of pages, gets the i-th slot taken, in the order of
 *               slots. It is stamped now and, if it is the page of the newest token and that
 *               token is the page's first, marked fresh.
 *            working_set counts stamps of the last 12 steps; bucketed: of the buckets that those
 *            steps touch. RESIDENT rows have none: 0. bucketed: pages leave, in the order of slots,
 *            before any enters, in the order of pages; leaf_free is a stack.
 *            So a kernel needs one histogram of ages and two scans, and the result is one function
 *            of tables and selection.
 * Limits     A row has as many slots as it has selected pages (asserted). A row is resolved at
 *            least once per bucket: `step` is the sequence's own count.
 * Numerics   _ref and _cpu: bit-equal, tables and lists.
 * Execution  Asynchronous on `stream`; no allocation. Rows are independent.
 * Invariance Row-invariant: yes. */
#pragma once

#include "kernels/device.h"
#include "kernels/kv_tables.h"

SPIN_BEGIN_DECLS

struct spin_kv_resolve_args {
    const struct spin_kv_view *view; /* in, out: stamp; slot_page or directory, leaf, leaf_free;
                                        counters */
    struct spin_kv_batch batch;
    struct spin_kv_lists lists; /* in: pages, page_count; out: the rest */
};

spin_status spin_kv_resolve_slot_lru_ref(const struct spin_kv_resolve_args *args,
                                         struct spin_stream *stream);
spin_status spin_kv_resolve_slot_lru_cpu(const struct spin_kv_resolve_args *args,
                                         struct spin_stream *stream);
spin_status spin_kv_resolve_slot_lru_cuda(const struct spin_kv_resolve_args *args,
                                          struct spin_stream *stream);
spin_status spin_kv_resolve_bucketed_ref(const struct spin_kv_resolve_args *args,
                                         struct spin_stream *stream);
spin_status spin_kv_resolve_bucketed_cpu(const struct spin_kv_resolve_args *args,
                                         struct spin_stream *stream);
spin_status spin_kv_resolve_bucketed_cuda(const struct spin_kv_resolve_args *args,
                                          struct spin_stream *stream);

SPIN_END_DECLS
