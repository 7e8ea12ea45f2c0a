/* What the table operations share: a row's leaves, the limits, and the invariants. */
#include "kernels/kv_row.h"

/* --- leaves --- */

static bool leaf_is_empty(const uint16_t *entries)
{
    for (uint32_t i = 0; i < SPIN_LEAF_PAGES; i++) {
        if (entries[i] != SPIN_PAGE_NONE) {
            return false;
        }
    }
    return true;
}

void spin_kv_leaf_insert(const struct spin_kv_row *row, uint32_t page, uint32_t slot)
{
    uint16_t *leaf = &spin_kv_row_directory(row)[page / SPIN_LEAF_PAGES];
    if (*leaf == SPIN_LEAF_NONE) {
        /* Leaves in use have a page each, and the row has as many leaves as slots. */
        SPIN_ASSERT_NE(*spin_kv_row_leaf_free(row), SPIN_LEAF_NONE);
        *leaf = *spin_kv_row_leaf_free(row);
        uint16_t *entries = spin_kv_row_leaf(row, *leaf);
        *spin_kv_row_leaf_free(row) = entries[0];
        entries[0] = SPIN_PAGE_NONE;
        SPIN_DASSERT(leaf_is_empty(entries));
    }
    uint16_t *entry = &spin_kv_row_leaf(row, *leaf)[page % SPIN_LEAF_PAGES];
    SPIN_ASSERT_EQ(*entry, SPIN_PAGE_NONE);
    *entry = (uint16_t)slot;
}

void spin_kv_leaf_remove(const struct spin_kv_row *row, uint32_t page)
{
    uint16_t *leaf = &spin_kv_row_directory(row)[page / SPIN_LEAF_PAGES];
    SPIN_ASSERT_NE(*leaf, SPIN_LEAF_NONE);
    uint16_t *entries = spin_kv_row_leaf(row, *leaf);
    SPIN_ASSERT_NE(entries[page % SPIN_LEAF_PAGES], SPIN_PAGE_NONE);
    entries[page % SPIN_LEAF_PAGES] = SPIN_PAGE_NONE;
    if (leaf_is_empty(entries)) {
        entries[0] = *spin_kv_row_leaf_free(row);
        *spin_kv_row_leaf_free(row) = *leaf;
        *leaf = SPIN_LEAF_NONE;
    }
}

/* --- a row of the lists --- */

struct spin_kv_row_list spin_kv_resolve_begin(const struct spin_kv_resolve_args *args,
                                              uint64_t index, struct spin_kv_row *row)
{
    const struct spin_kv_view *view = args->view;
    const struct spin_kv_lists *lists = &args->lists;
    const uint64_t i = index / view->layout.kv_heads;
    const uint32_t head = (uint32_t)(index % view->layout.kv_heads);
    const uint32_t sequence = args->batch.sequence[i];
    const uint32_t layer = args->batch.layer;
    const uint32_t tokens = args->batch.tokens[i];
    const uint64_t slabs = view->slab_count[(uint64_t)sequence * view->layout.layers + layer];
    SPIN_ASSERT_LE(slabs, view->slabs_max);
    *row = spin_kv_row_at(view, spin_kv_table_row(view, sequence, layer, head),
                          (uint32_t)slabs * SPIN_SLAB_SLOTS);

    const struct spin_kv_row_list list = {
        .pages = lists->pages + index * lists->stride,
        .count = lists->page_count[index],
        .slots = lists->slots + index * lists->stride,
        .misses = lists->misses + index * lists->stride,
        .miss_count = lists->miss_count + index,
        .newest = (tokens - 1) / view->page_tokens,
        .newest_is_fresh = (tokens - 1) % view->page_tokens == 0,
        .step = args->batch.step[i],
    };
    SPIN_ASSERT_GT(tokens, 0);
    SPIN_ASSERT_GT(list.count, 0);
    SPIN_ASSERT_LE(list.count, lists->stride);
    SPIN_ASSERT_LE(list.count, row->slots);
    SPIN_ASSERT_EQ(list.pages[list.count - 1], list.newest);
    SPIN_ASSERT(view->directory == NULL || list.newest / SPIN_LEAF_PAGES < view->directory_max);
    for (uint32_t p = 1; p < list.count; p++) {
        SPIN_DASSERT(list.pages[p - 1] < list.pages[p]);
    }
    lists->visible[index] =
        (list.count - 1) * view->page_tokens + (tokens - 1) % view->page_tokens + 1;
    *list.miss_count = 0;
    return list;
}

void spin_kv_resolve_resident(const struct spin_kv_row *row, const struct spin_kv_row_list *list)
{
    SPIN_ASSERT_LT(list->newest, row->slots);
    for (uint32_t i = 0; i < list->count; i++) {
        list->slots[i] = spin_kv_row_place(row, list->pages[i]);
    }
    row->counters->hits = list->count;
    row->counters->misses = 0;
    row->counters->evictions = 0;
    row->counters->working_set = 0;
}

/* --- limits --- */

void spin_kv_view_check(const struct spin_kv_view *view, enum spin_kv_replacement replacement)
{
    SPIN_ASSERT(view->page_tokens == 8 || view->page_tokens == 32);
    SPIN_ASSERT_LE(view->slabs_max, SPIN_ROW_SLOTS_MAX / SPIN_SLAB_SLOTS);
    SPIN_ASSERT_LE(view->directory_max,
                   (SPIN_ROW_PAGES_MAX + SPIN_LEAF_PAGES - 1) / SPIN_LEAF_PAGES);
    SPIN_ASSERT_LE(view->bucket_shift, SPIN_BUCKET_SHIFT_MAX);
    if (replacement == SPIN_KV_SLOT_LRU) {
        SPIN_ASSERT(view->slot_page != NULL);
    } else {
        SPIN_ASSERT(view->leaf != NULL && view->directory != NULL && view->leaf_free != NULL);
    }
}

void spin_kv_resize_check(const struct spin_kv_resize_args *args,
                          enum spin_kv_replacement replacement)
{
    spin_kv_view_check(args->view, replacement);
    SPIN_ASSERT_LT(args->layer, args->view->layout.layers);
    SPIN_ASSERT_EQ(args->before % SPIN_SLAB_SLOTS, 0);
    SPIN_ASSERT_EQ(args->after % SPIN_SLAB_SLOTS, 0);
    SPIN_ASSERT_LE(SPIN_MAX(args->before, args->after), args->view->slabs_max * SPIN_SLAB_SLOTS);
    SPIN_ASSERT_LE(args->held, args->after);
    SPIN_ASSERT(args->held == 0 || args->before == 0);
    SPIN_ASSERT_LE((uint64_t)args->first_page + args->held, SPIN_ROW_PAGES_MAX);
    SPIN_ASSERT(args->view->directory == NULL ||
                (uint64_t)args->first_page + args->held <=
                    (uint64_t)args->view->directory_max * SPIN_LEAF_PAGES);
}

/* --- invariants --- */

/* No page twice. Returns how many slots hold one. */
static uint32_t check_slot_pages(const struct spin_kv_row *row)
{
    uint8_t seen[(SPIN_ROW_PAGES_MAX + 7) / 8] = {0};
    uint32_t held = 0;
    for (uint32_t s = 0; s < row->slots; s++) {
        const uint64_t place = spin_kv_row_place(row, s);
        if (row->view->stamp[place] != SPIN_STAMP_FREE) {
            const uint32_t page = row->view->slot_page[place];
            SPIN_ASSERT_LE(row->view->stamp[place], SPIN_LRU_AGE_MAX);
            SPIN_ASSERT_LT(page, SPIN_ROW_PAGES_MAX);
            SPIN_ASSERT_EQ(seen[page / 8] >> page % 8 & 1, 0);
            seen[page / 8] |= (uint8_t)(1u << page % 8);
            held++;
        }
    }
    return held;
}

/* Every entry points to a slot of the row that holds something, and no two to the same. Every leaf
 * is on the stack or in the directory, once. Returns the number of entries. */
static uint32_t check_leaves(const struct spin_kv_row *row)
{
    uint8_t slot_seen[SPIN_ROW_SLOTS_MAX / 8] = {0};
    uint32_t held = 0;
    uint32_t leaves = 0;
    for (uint32_t page = 0; page < row->view->directory_max * SPIN_LEAF_PAGES; page++) {
        const uint32_t slot = spin_kv_leaf_find(row, page);
        leaves += page % SPIN_LEAF_PAGES == 0 &&
                  spin_kv_row_directory(row)[page / SPIN_LEAF_PAGES] != SPIN_LEAF_NONE;
        if (slot != SPIN_PAGE_NONE) {
            SPIN_ASSERT_LT(slot, row->slots);
            SPIN_ASSERT_LT(*spin_kv_row_stamp(row, slot), SPIN_BUCKETS);
            SPIN_ASSERT_EQ(slot_seen[slot / 8] >> slot % 8 & 1, 0);
            slot_seen[slot / 8] |= (uint8_t)(1u << slot % 8);
            held++;
        }
    }
    for (uint32_t leaf = *spin_kv_row_leaf_free(row); leaf != SPIN_LEAF_NONE; leaves++) {
        SPIN_ASSERT_LT(leaf, row->slots);
        SPIN_ASSERT_LT(leaves, row->slots); /* the stack has no circle */
        leaf = spin_kv_row_leaf(row, leaf)[0];
    }
    SPIN_ASSERT_EQ(leaves, row->slots);
    return held;
}

void spin_kv_row_check(const struct spin_kv_row *row, enum spin_kv_replacement replacement)
{
    uint32_t used = 0;
    for (uint32_t s = 0; s < row->slots; s++) {
        used += *spin_kv_row_stamp(row, s) != SPIN_STAMP_FREE;
    }
    const uint32_t held =
        replacement == SPIN_KV_SLOT_LRU ? check_slot_pages(row) : check_leaves(row);
    SPIN_ASSERT_EQ(held, used);
}

static uint32_t find_page(const struct spin_kv_row *row, uint32_t page,
                          enum spin_kv_replacement replacement)
{
    if (replacement == SPIN_KV_BUCKETED) {
        return spin_kv_leaf_find(row, page);
    }
    for (uint32_t s = 0; s < row->slots; s++) {
        const uint64_t place = spin_kv_row_place(row, s);
        if (row->view->stamp[place] != SPIN_STAMP_FREE && row->view->slot_page[place] == page) {
            return s;
        }
    }
    return SPIN_PAGE_NONE;
}

bool spin_kv_resolve_holds(const struct spin_kv_row *row, const struct spin_kv_row_list *list,
                           enum spin_kv_replacement replacement)
{
    const struct spin_kv_counters *counters = row->counters;
    const uint8_t now = replacement == SPIN_KV_BUCKETED ? spin_kv_bucket(row->view, list->step) : 0;
    spin_kv_row_check(row, replacement);
    for (uint32_t i = 0; i < list->count; i++) {
        const uint32_t slot = find_page(row, list->pages[i], replacement);
        SPIN_ASSERT_NE(slot, SPIN_PAGE_NONE);
        SPIN_ASSERT_EQ(list->slots[i], spin_kv_row_place(row, slot));
        SPIN_ASSERT_EQ(*spin_kv_row_stamp(row, slot), now);
    }
    SPIN_ASSERT_EQ(counters->hits + *list->miss_count, list->count);
    SPIN_ASSERT_LE(counters->misses, *list->miss_count);
    SPIN_ASSERT_LE(counters->evictions, *list->miss_count);
    SPIN_ASSERT_GE(counters->working_set, list->count);
    SPIN_ASSERT_LE(counters->working_set, row->slots);
    return true;
}
