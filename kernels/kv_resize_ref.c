#include "kernels/kv_resize.h"

#include "kernels/kv_row.h"

/* The rows of the layer, one after another, with all slots that they have before or after. */
static struct spin_kv_row row_of(const struct spin_kv_resize_args *args, uint32_t head)
{
    return spin_kv_row_at(args->view,
                          spin_kv_table_row(args->view, args->sequence, args->layer, head),
                          SPIN_MAX(args->before, args->after));
}

/* --- slot_lru --- */

spin_status spin_kv_resize_slot_lru_ref(const struct spin_kv_resize_args *args,
                                        struct spin_stream *stream)
{
    (void)stream;
    spin_kv_resize_check(args, SPIN_KV_SLOT_LRU);
    for (uint32_t head = 0; head < args->view->layout.kv_heads; head++) {
        const struct spin_kv_row row = row_of(args, head);
        for (uint32_t s = args->after; s < args->before; s++) {
            row.counters->dropped += *spin_kv_row_stamp(&row, s) != SPIN_STAMP_FREE;
            *spin_kv_row_stamp(&row, s) = SPIN_STAMP_FREE;
        }
        for (uint32_t s = args->before; s < args->after; s++) {
            *spin_kv_row_stamp(&row, s) = SPIN_STAMP_FREE;
            if (s < args->held) {
                row.view->slot_page[spin_kv_row_place(&row, s)] = (uint16_t)(args->first_page + s);
                *spin_kv_row_stamp(&row, s) = 0;
            }
        }
    }
    return SPIN_OK;
}

/* --- bucketed --- */

static void make_empty(const struct spin_kv_row *row)
{
    for (uint32_t d = 0; d < row->view->directory_max; d++) {
        spin_kv_row_directory(row)[d] = SPIN_LEAF_NONE;
    }
}

static void make_free(const struct spin_kv_row *row, uint32_t begin, uint32_t end)
{
    for (uint32_t s = begin; s < end; s++) {
        *spin_kv_row_stamp(row, s) = SPIN_STAMP_FREE;
    }
}

static bool is_used(const struct spin_kv_row *row, uint32_t leaf)
{
    for (uint32_t d = 0; d < row->view->directory_max; d++) {
        if (spin_kv_row_directory(row)[d] == leaf) {
            return true;
        }
    }
    return false;
}

/* Pages in slots that go away lose them. */
static void drop(const struct spin_kv_row *row, uint32_t after)
{
    for (uint32_t page = 0; page < row->view->directory_max * SPIN_LEAF_PAGES; page++) {
        const uint32_t slot = spin_kv_leaf_find(row, page);
        if (slot != SPIN_PAGE_NONE && slot >= after) {
            spin_kv_leaf_remove(row, page);
            row->counters->dropped++;
        }
    }
}

/* Leaves in slots that go away move to the lowest free ones that stay. */
static void move_leaves(const struct spin_kv_row *row, uint32_t after)
{
    for (uint32_t d = 0; d < row->view->directory_max; d++) {
        if (spin_kv_row_directory(row)[d] == SPIN_LEAF_NONE ||
            spin_kv_row_directory(row)[d] < after) {
            continue;
        }
        uint32_t leaf = 0;
        while (is_used(row, leaf)) {
            leaf++;
            SPIN_ASSERT_LT(leaf, after);
        }
        for (uint32_t i = 0; i < SPIN_LEAF_PAGES; i++) {
            spin_kv_row_leaf(row, leaf)[i] =
                spin_kv_row_leaf(row, spin_kv_row_directory(row)[d])[i];
        }
        spin_kv_row_directory(row)[d] = (uint16_t)leaf;
    }
}

/* The free leaves, lowest on top. */
static void stack_leaves(const struct spin_kv_row *row, uint32_t after)
{
    *spin_kv_row_leaf_free(row) = SPIN_LEAF_NONE;
    for (uint32_t leaf = after; leaf-- > 0;) {
        if (!is_used(row, leaf)) {
            uint16_t *entries = spin_kv_row_leaf(row, leaf);
            entries[0] = *spin_kv_row_leaf_free(row);
            for (uint32_t i = 1; i < SPIN_LEAF_PAGES; i++) {
                entries[i] = SPIN_PAGE_NONE;
            }
            *spin_kv_row_leaf_free(row) = (uint16_t)leaf;
        }
    }
}

/* Leaves of slots that went away. */
static void clear_leaves(const struct spin_kv_row *row, uint32_t begin, uint32_t end)
{
    for (uint32_t leaf = begin; leaf < end; leaf++) {
        for (uint32_t i = 0; i < SPIN_LEAF_PAGES; i++) {
            spin_kv_row_leaf(row, leaf)[i] = SPIN_PAGE_NONE;
        }
    }
}

spin_status spin_kv_resize_bucketed_ref(const struct spin_kv_resize_args *args,
                                        struct spin_stream *stream)
{
    (void)stream;
    spin_kv_resize_check(args, SPIN_KV_BUCKETED);
    for (uint32_t head = 0; head < args->view->layout.kv_heads; head++) {
        const struct spin_kv_row row = row_of(args, head);
        if (args->before == 0) {
            make_empty(&row);
        }
        drop(&row, args->after);
        move_leaves(&row, args->after);
        make_free(&row, SPIN_MIN(args->before, args->after), SPIN_MAX(args->before, args->after));
        stack_leaves(&row, args->after);
        clear_leaves(&row, args->after, args->before);
        for (uint32_t s = 0; s < args->held; s++) {
            spin_kv_leaf_insert(&row, args->first_page + s, s);
            *spin_kv_row_stamp(&row, s) = spin_kv_bucket(args->view, args->step - 1);
        }
    }
    return SPIN_OK;
}
