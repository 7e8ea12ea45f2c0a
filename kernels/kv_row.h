/* kv_row: one table row, and one row of a batch's lists, as the table operations walk them.
 *
 * Why        kv_resolve and kv_resize, reference and fast, agree on where a slot, a leaf or a list
 *            begins, and assert the same things about them.
 * Ownership  Borrows the view and the lists.
 * Threading  Inside an op: rows are independent, one thread has a row at a time.
 * Units      Slots and leaves of the row, pages of the row, decode steps. */
#pragma once

#include "kernels/kernels_internal.h"
#include "kernels/kv_resize.h"
#include "kernels/kv_resolve.h"

SPIN_BEGIN_DECLS

/* bucketed: pages are no older than this; a bucket less than a whole turn, which would be now. */
#define SPIN_BUCKET_AGE_MAX (SPIN_BUCKETS - 2)

struct spin_kv_row {
    const struct spin_kv_view *view;
    uint64_t number; /* of the table row */
    uint32_t head;
    uint32_t slots;
    const uint32_t *slab_groups; /* of its layer */
    struct spin_kv_counters *counters;
};

static inline struct spin_kv_row spin_kv_row_at(const struct spin_kv_view *view, uint64_t number,
                                                uint32_t slots)
{
    const struct spin_kv_row row = {view,
                                    number,
                                    (uint32_t)(number % view->layout.kv_heads),
                                    slots,
                                    spin_kv_slab_groups(view, number),
                                    view->counters + number};
    return row;
}

/* bucketed: [view->directory_max] */
static inline uint16_t *spin_kv_row_directory(const struct spin_kv_row *row)
{
    return row->view->directory + row->number * row->view->directory_max;
}

/* bucketed: the top of the stack. */
static inline uint16_t *spin_kv_row_leaf_free(const struct spin_kv_row *row)
{
    return row->view->leaf_free + row->number;
}

/* Pool slot of slot `slot`; also where its stamp, its page and its leaf are. */
static inline uint32_t spin_kv_row_place(const struct spin_kv_row *row, uint32_t slot)
{
    return spin_kv_group_slot(row->view, row->slab_groups, row->head, slot);
}

static inline uint8_t *spin_kv_row_stamp(const struct spin_kv_row *row, uint32_t slot)
{
    return row->view->stamp + spin_kv_row_place(row, slot);
}

static inline uint16_t *spin_kv_row_leaf(const struct spin_kv_row *row, uint32_t leaf)
{
    return row->view->leaf + (uint64_t)spin_kv_row_place(row, leaf) * SPIN_LEAF_PAGES;
}

/* What a stamp of `bucketed` says of a page that was selected at `step`. */
static inline uint8_t spin_kv_bucket(const struct spin_kv_view *view, uint32_t step)
{
    return (uint8_t)((step >> view->bucket_shift) % SPIN_BUCKETS);
}

/* Buckets from the one of `stamp` to the one of `now`. */
static inline uint32_t spin_kv_bucket_age(uint8_t now, uint8_t stamp)
{
    return ((uint32_t)now - stamp) % SPIN_BUCKETS;
}

/* The oldest bucket that a page of the working set can be in. */
static inline uint32_t spin_kv_working_buckets(const struct spin_kv_view *view, uint32_t step)
{
    return spin_kv_bucket_age(spin_kv_bucket(view, step),
                              spin_kv_bucket(view, step - (SPIN_WORKING_SET_STEPS - 1)));
}

/* --- leaves of `bucketed` --- */

/* Slot of `page`, or SPIN_PAGE_NONE. */
static inline uint32_t spin_kv_leaf_find(const struct spin_kv_row *row, uint32_t page)
{
    const uint32_t leaf = spin_kv_row_directory(row)[page / SPIN_LEAF_PAGES];
    return leaf == SPIN_LEAF_NONE ? SPIN_PAGE_NONE
                                  : spin_kv_row_leaf(row, leaf)[page % SPIN_LEAF_PAGES];
}
/* The free leaf at the top of the row's stack takes page / SPIN_LEAF_PAGES if none has it yet. */
void spin_kv_leaf_insert(const struct spin_kv_row *row, uint32_t page, uint32_t slot);
/* A leaf whose last page goes is free: on top of the stack. */
void spin_kv_leaf_remove(const struct spin_kv_row *row, uint32_t page);

/* --- a row of the lists --- */

struct spin_kv_row_list {
    const uint16_t *pages;
    uint32_t count;
    uint32_t *slots;
    struct spin_kv_miss *misses;
    uint32_t *miss_count;
    uint32_t newest;      /* page of the newest token */
    bool newest_is_fresh; /* the newest token is the first of its page */
    uint32_t step;
};

/* Row `index` of the batch: its list; *row: its table row. Writes `visible`; asserts the limits. */
struct spin_kv_row_list spin_kv_resolve_begin(const struct spin_kv_resolve_args *args,
                                              uint64_t index, struct spin_kv_row *row);
static inline bool spin_kv_is_resident(const struct spin_kv_resolve_args *args, uint64_t index)
{
    const uint32_t sequence = args->batch.sequence[index / args->view->layout.kv_heads];
    return args->view->residency[sequence] == SPIN_KV_RESIDENT;
}
/* Every page where the identity map has it; counters. */
void spin_kv_resolve_resident(const struct spin_kv_row *row, const struct spin_kv_row_list *list);
/* The next miss is list entry `entry`, and goes to `slot` of the row. True: it is fresh. */
static inline bool spin_kv_miss_put(const struct spin_kv_row *row,
                                    const struct spin_kv_row_list *list, uint32_t entry,
                                    uint32_t slot)
{
    struct spin_kv_miss *miss = &list->misses[(*list->miss_count)++];
    miss->page = list->pages[entry];
    miss->fresh = miss->page == list->newest && list->newest_is_fresh;
    miss->slot = spin_kv_row_place(row, slot);
    list->slots[entry] = miss->slot;
    return miss->fresh != 0;
}
/* Asserts what always holds: no page in two slots; directory, leaves and stamps tell one story; a
 * leaf is in use or free. Walks the row's tables. */
void spin_kv_row_check(const struct spin_kv_row *row, enum spin_kv_replacement replacement);
/* That, and what holds after a resolve: every selected page has its slot, stamped now. True. */
bool spin_kv_resolve_holds(const struct spin_kv_row *row, const struct spin_kv_row_list *list,
                           enum spin_kv_replacement replacement);

/* Slots of the pages of `range`, which are on the list of batch row `index` (asserted: it ascends
 * and ends with the newest token's page, so the first one vouches for those behind it). */
static inline const uint32_t *spin_kv_range_slots(const struct spin_kv_view *view,
                                                  const struct spin_kv_batch *batch,
                                                  const struct spin_kv_lists *lists,
                                                  const struct spin_kv_range *range, uint64_t index)
{
    const uint64_t start = index * lists->stride;
    if (range->count == 0) {
        return lists->slots + start;
    }
    const uint32_t entry = spin_kv_list_entry(view, batch, lists, index, range->first);
    const uint32_t entries = (lists->visible[index] - 1) / view->page_tokens + 1;
    SPIN_ASSERT_LE(entries, lists->stride);
    SPIN_ASSERT_LE((uint64_t)entry + range->count, entries);
    SPIN_ASSERT_EQ(lists->pages[start + entry], range->first);
    return lists->slots + start + entry;
}

/* Assert the limits that the headers state. */
void spin_kv_view_check(const struct spin_kv_view *view, enum spin_kv_replacement replacement);
void spin_kv_resize_check(const struct spin_kv_resize_args *args,
                          enum spin_kv_replacement replacement);

SPIN_END_DECLS
