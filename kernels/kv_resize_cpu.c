#include "kernels/kv_resize.h"
#include "kernels/kv_row.h"

#include <string.h>

static struct spin_kv_row row_of(const struct spin_kv_resize_args *args, uint32_t head)
{
    return spin_kv_row_at(args->view,
                          spin_kv_table_row(args->view, args->sequence, args->layer, head),
                          SPIN_MAX(args->before, args->after));
}

/* --- both: stamps, a slab at a time --- */

/* Returns how many of the slots held a page. */
static uint32_t free_slots(const struct spin_kv_row *row, uint32_t begin, uint32_t end)
{
    uint32_t held = 0;
    for (uint32_t s = begin; s < end; s += SPIN_SLAB_SLOTS) {
        uint8_t *stamp = spin_kv_row_stamp(row, s);
        for (uint32_t i = 0; i < SPIN_SLAB_SLOTS; i++) {
            held += stamp[i] != SPIN_STAMP_FREE;
        }
        memset(stamp, SPIN_STAMP_FREE, SPIN_SLAB_SLOTS);
    }
    return held;
}

/* What the identity map held. */
static void stamp_held(const struct spin_kv_row *row, uint32_t held, uint8_t stamp)
{
    for (uint32_t s = 0; s < held; s += SPIN_SLAB_SLOTS) {
        memset(spin_kv_row_stamp(row, s), stamp, SPIN_MIN(SPIN_SLAB_SLOTS, held - s));
    }
}

/* --- slot_lru --- */

spin_status spin_kv_resize_slot_lru_cpu(const struct spin_kv_resize_args *args,
                                        struct spin_stream *stream)
{
    (void)stream;
    spin_kv_resize_check(args, SPIN_KV_SLOT_LRU);
    for (uint32_t head = 0; head < args->view->layout.kv_heads; head++) {
        const struct spin_kv_row row = row_of(args, head);
        row.counters->dropped += free_slots(&row, args->after, args->before);
        (void)free_slots(&row, args->before, args->after);
        stamp_held(&row, args->held, 0);
        for (uint32_t s = 0; s < args->held; s++) {
            row.view->slot_page[spin_kv_row_place(&row, s)] = (uint16_t)(args->first_page + s);
        }
    }
    return SPIN_OK;
}

/* --- bucketed --- */

/* Of the row at hand, in the calling thread's scratch: leaves in use. */
struct marks {
    bool used[SPIN_ROW_SLOTS_MAX];
};

_Static_assert(sizeof(struct marks) <= SPIN_SCRATCH_BYTES, "fits the stream's scratch");

/* Entries of slots that go away, and the leaves that this empties. */
static void drop(const struct spin_kv_row *row, uint32_t after, struct marks *marks)
{
    memset(marks->used, 0, row->slots * sizeof marks->used[0]);
    for (uint32_t d = 0; d < row->view->directory_max; d++) {
        const uint32_t leaf = spin_kv_row_directory(row)[d];
        if (leaf == SPIN_LEAF_NONE) {
            continue;
        }
        uint16_t *entries = spin_kv_row_leaf(row, leaf);
        for (uint32_t i = 0; i < SPIN_LEAF_PAGES; i++) {
            if (entries[i] != SPIN_PAGE_NONE && entries[i] >= after) {
                entries[i] = SPIN_PAGE_NONE;
                row->counters->dropped++;
            }
            marks->used[leaf] |= entries[i] != SPIN_PAGE_NONE;
        }
        if (!marks->used[leaf]) {
            spin_kv_row_directory(row)[d] = SPIN_LEAF_NONE;
        }
    }
}

static void move_leaves(const struct spin_kv_row *row, uint32_t after, struct marks *marks)
{
    uint32_t lowest = 0;
    for (uint32_t d = 0; d < row->view->directory_max; d++) {
        if (spin_kv_row_directory(row)[d] == SPIN_LEAF_NONE ||
            spin_kv_row_directory(row)[d] < after) {
            continue;
        }
        while (marks->used[lowest]) {
            lowest++;
        }
        SPIN_ASSERT_LT(lowest, after);
        memcpy(spin_kv_row_leaf(row, lowest), spin_kv_row_leaf(row, spin_kv_row_directory(row)[d]),
               SPIN_LEAF_PAGES * sizeof(uint16_t));
        marks->used[lowest] = true;
        spin_kv_row_directory(row)[d] = (uint16_t)lowest;
    }
}

static void stack_leaves(const struct spin_kv_row *row, uint32_t after, const struct marks *marks)
{
    uint16_t top = SPIN_LEAF_NONE;
    for (uint32_t leaf = after; leaf-- > 0;) {
        if (!marks->used[leaf]) {
            uint16_t *entries = spin_kv_row_leaf(row, leaf);
            memset(entries, 0xff, SPIN_LEAF_PAGES * sizeof *entries);
            entries[0] = top;
            top = (uint16_t)leaf;
        }
    }
    *spin_kv_row_leaf_free(row) = top;
}

/* Leaves of slots that went away. */
static void clear_leaves(const struct spin_kv_row *row, uint32_t begin, uint32_t end)
{
    for (uint32_t leaf = begin; leaf < end; leaf++) {
        memset(spin_kv_row_leaf(row, leaf), 0xff, SPIN_LEAF_PAGES * sizeof(uint16_t));
    }
}

_Static_assert(SPIN_PAGE_NONE == UINT16_MAX && SPIN_LEAF_NONE == UINT16_MAX, "none is all ones");

spin_status spin_kv_resize_bucketed_cpu(const struct spin_kv_resize_args *args,
                                        struct spin_stream *stream)
{
    spin_kv_resize_check(args, SPIN_KV_BUCKETED);
    struct marks *marks = spin_stream_scratch(stream, 0);
    for (uint32_t head = 0; head < args->view->layout.kv_heads; head++) {
        const struct spin_kv_row row = row_of(args, head);
        if (args->before == 0) {
            memset(spin_kv_row_directory(&row), 0xff, row.view->directory_max * sizeof(uint16_t));
        }
        drop(&row, args->after, marks);
        move_leaves(&row, args->after, marks);
        stack_leaves(&row, args->after, marks);
        clear_leaves(&row, args->after, args->before);
        (void)free_slots(&row, SPIN_MIN(args->before, args->after),
                         SPIN_MAX(args->before, args->after));
        stamp_held(&row, args->held, spin_kv_bucket(args->view, args->step - 1));
        for (uint32_t s = 0; s < args->held; s++) {
            spin_kv_leaf_insert(&row, args->first_page + s, s);
        }
    }
    return SPIN_OK;
}
