/* Every invariant of both planes, asserted by walking all tables. With the operations that it
 * judges it shares the arithmetic of places in kernels/kv_tables.h, and nothing else: what tables
 * have to say is written down here anew. */
#include "kvstore/manager/kv_internal.h"

#include <string.h>

/* --- slabs and blocks: each in one place, and its owner knows --- */

static void mark(const struct spin_kv *kv, uint32_t index)
{
    SPIN_ASSERT_EQ(kv->check_marks[index], 0);
    kv->check_marks[index] = 1;
}

static void check_groups_of(const struct spin_kv *kv, uint32_t seq)
{
    const struct spin_kv_sequence *sequence = &kv->sequences[seq];
    const uint32_t heads = kv->config.layout.kv_heads;
    uint32_t slabs = 0;
    for (uint32_t layer = 0; layer < kv->config.layout.layers; layer++) {
        const uint32_t count =
            *spin_kv_count_of(kv, seq, layer) + (layer == 0 ? sequence->arena_row : 0);
        SPIN_ASSERT_LE(count, kv->view.slabs_max);
        const uint64_t list = (uint64_t)seq * kv->config.layout.layers + layer;
        for (uint32_t i = 0; i < count; i++) {
            const uint32_t group = kv->slab_list[list * kv->view.slabs_max + i];
            SPIN_ASSERT_LT(group, kv->slabs / heads);
            SPIN_ASSERT_EQ(kv->group_owner[group], seq);
            mark(kv, group);
        }
        slabs += count * heads;
    }
    SPIN_ASSERT_EQ(sequence->slabs, slabs);
    SPIN_ASSERT(slabs == 0 || spin_kv_is_active(sequence));
}

static void check_slabs(const struct spin_kv *kv)
{
    const uint32_t heads = kv->config.layout.kv_heads;
    uint32_t used = 0;
    memset(kv->check_marks, 0, SPIN_MAX(kv->slabs, kv->blocks));
    SPIN_ASSERT_EQ(kv->slabs_free % heads, 0);
    for (uint32_t i = 0; i < kv->slabs_free / heads; i++) {
        SPIN_ASSERT_LT(kv->free_groups[i], kv->slabs / heads);
        SPIN_ASSERT_EQ(kv->group_owner[kv->free_groups[i]], SPIN_KV_NOBODY);
        mark(kv, kv->free_groups[i]);
    }
    for (uint32_t seq = 0; seq < kv->config.sequences_max; seq++) {
        check_groups_of(kv, seq);
        used += kv->sequences[seq].slabs;
    }
    SPIN_ASSERT_EQ(kv->slabs_free + used, kv->slabs);
}

static void check_blocks(const struct spin_kv *kv)
{
    uint32_t used = 0;
    memset(kv->check_marks, 0, SPIN_MAX(kv->slabs, kv->blocks));
    for (uint32_t i = 0; i < kv->blocks_free; i++) {
        SPIN_ASSERT_LT(kv->free_blocks[i], kv->blocks);
        SPIN_ASSERT_EQ(kv->block_holder[kv->free_blocks[i]], SPIN_KV_NOBODY);
        mark(kv, kv->free_blocks[i]);
    }
    for (uint32_t seq = 0; seq < kv->config.sequences_max; seq++) {
        const struct spin_kv_sequence *sequence = &kv->sequences[seq];
        SPIN_ASSERT(sequence->blocks == 0 || sequence->phase != SPIN_KV_CLOSED);
        SPIN_ASSERT_LE(spin_kv_blocks_for(sequence->phase == SPIN_KV_CLOSED ? 0 : sequence->tokens),
                       sequence->blocks);
        for (uint32_t i = 0; i < sequence->blocks; i++) {
            const uint32_t block = kv->block_list[(uint64_t)seq * kv->view.blocks_max + i];
            SPIN_ASSERT_LT(block, kv->blocks);
            SPIN_ASSERT_EQ(kv->block_holder[block], seq);
            mark(kv, block);
        }
        used += sequence->blocks;
    }
    SPIN_ASSERT_EQ(kv->blocks_free + used, kv->blocks);
}

/* --- what slots hold --- */

/* One row, of whichever tables. */
struct row {
    const struct spin_kv *kv;
    uint32_t seq;
    uint32_t layer;
    uint32_t head;
    uint64_t number;
    uint32_t slots;
    uint32_t tokens; /* whose KV is there */
};

/* A sealed page is on the host, byte for byte. */
static void check_bytes(const struct row *row, uint32_t page, uint32_t pool_slot)
{
    const struct spin_kv_view *view = &row->kv->view;
    SPIN_ASSERT_LT(page, spin_kv_pages_of(row->kv, row->tokens));
    if ((uint64_t)(page + 1) * view->page_tokens <= row->tokens) {
        const uint8_t *frame = spin_kv_frame_bytes(view, row->seq, row->layer, row->head, page);
        SPIN_ASSERT(memcmp(spin_kv_slot_bytes(view, pool_slot), frame, row->kv->page_bytes) == 0);
    }
}

/* Pages [0, tokens) in the slots of their numbers. */
static void check_identity(const struct row *row)
{
    const uint32_t pages = spin_kv_pages_of(row->kv, row->tokens);
    SPIN_ASSERT_LE(pages, row->slots);
    for (uint32_t page = 0; page < pages; page++) {
        check_bytes(row, page, spin_kv_pool_slot(&row->kv->view, row->number, page));
    }
}

static void note_page(const struct row *row, uint32_t slot, uint32_t page)
{
    const struct spin_kv *kv = row->kv;
    SPIN_ASSERT_LT(slot, row->slots);
    SPIN_ASSERT_LT(page, kv->pages_max);
    SPIN_ASSERT_EQ(kv->check_slots[slot], SPIN_PAGE_NONE); /* one page in a slot */
    SPIN_ASSERT_EQ(kv->check_pages[page], SPIN_PAGE_NONE); /* a page in one slot */
    kv->check_slots[slot] = (uint16_t)page;
    kv->check_pages[page] = (uint16_t)slot;
}

static void note_slot_lru(const struct row *row)
{
    const struct spin_kv_view *view = &row->kv->view;
    for (uint32_t slot = 0; slot < row->slots; slot++) {
        const uint32_t pool_slot = spin_kv_pool_slot(view, row->number, slot);
        if (view->stamp[pool_slot] != SPIN_STAMP_FREE) {
            note_page(row, slot, view->slot_page[pool_slot]);
        }
    }
}

static const uint16_t *leaf_of(const struct row *row, uint32_t leaf)
{
    const struct spin_kv_view *view = &row->kv->view;
    SPIN_ASSERT_LT(leaf, row->slots);
    return view->leaf + (uint64_t)spin_kv_pool_slot(view, row->number, leaf) * SPIN_LEAF_PAGES;
}

static void note_bucketed(const struct row *row)
{
    const struct spin_kv_view *view = &row->kv->view;
    const uint16_t *directory = view->directory + row->number * view->directory_max;
    uint32_t leaves = 0;
    for (uint32_t i = 0; i < view->directory_max; i++) {
        if (directory[i] == SPIN_LEAF_NONE) {
            continue;
        }
        uint32_t used = 0;
        for (uint32_t j = 0; j < SPIN_LEAF_PAGES; j++) {
            const uint32_t slot = leaf_of(row, directory[i])[j];
            if (slot != SPIN_PAGE_NONE) {
                note_page(row, slot, i * SPIN_LEAF_PAGES + j);
                used++;
            }
        }
        SPIN_ASSERT_GT(used, 0); /* an empty leaf is a free one */
        leaves++;
    }
    for (uint32_t leaf = view->leaf_free[row->number]; leaf != SPIN_LEAF_NONE; leaves++) {
        SPIN_ASSERT_LT(leaves, row->slots);
        leaf = leaf_of(row, leaf)[0];
    }
    SPIN_ASSERT_EQ(leaves, row->slots);
}

static void check_tables(const struct row *row)
{
    const struct spin_kv *kv = row->kv;
    const bool bucketed = kv->config.replacement == SPIN_KV_BUCKETED;
    memset(kv->check_pages, 0xFF, kv->pages_max * sizeof *kv->check_pages);
    memset(kv->check_slots, 0xFF, row->slots * sizeof *kv->check_slots);
    if (bucketed) {
        note_bucketed(row);
    } else {
        note_slot_lru(row);
    }
    for (uint32_t slot = 0; slot < row->slots; slot++) {
        const uint32_t pool_slot = spin_kv_pool_slot(&kv->view, row->number, slot);
        const uint8_t stamp = kv->view.stamp[pool_slot];
        if (kv->check_slots[slot] == SPIN_PAGE_NONE) {
            SPIN_ASSERT_EQ(stamp, SPIN_STAMP_FREE);
        } else {
            SPIN_ASSERT_LE(stamp, bucketed ? SPIN_BUCKETS - 1 : SPIN_LRU_AGE_MAX);
            check_bytes(row, kv->check_slots[slot], pool_slot);
        }
    }
}

static void check_rows_of(const struct spin_kv *kv, uint32_t seq, uint32_t layer)
{
    const struct spin_kv_sequence *sequence = &kv->sequences[seq];
    const uint32_t slabs = *spin_kv_count_of(kv, seq, layer);
    for (uint32_t head = 0; head < kv->config.layout.kv_heads; head++) {
        struct row row = {.kv = kv,
                          .seq = seq,
                          .layer = layer,
                          .head = head,
                          .number = spin_kv_table_row(&kv->view, seq, layer, head),
                          .slots = slabs * SPIN_SLAB_SLOTS,
                          .tokens = *spin_kv_layer_tokens_of(kv, seq, layer)};
        if (sequence->arena_row > 0) {
            SPIN_ASSERT_EQ(slabs, 0);
            if (layer == sequence->arena_layer) {
                row.number = spin_kv_table_row(&kv->view, seq, 0, head);
                row.slots = sequence->arena_row * SPIN_SLAB_SLOTS;
                row.tokens = sequence->arena_tokens;
                check_identity(&row);
            }
        } else if (spin_kv_is_resident_now(kv, seq)) {
            check_identity(&row);
        } else {
            check_tables(&row);
        }
    }
}

static void check_sequence(const struct spin_kv *kv, uint32_t seq)
{
    const struct spin_kv_sequence *sequence = &kv->sequences[seq];
    if (!spin_kv_is_active(sequence)) {
        return;
    }
    if (sequence->phase == SPIN_KV_PREFILL) {
        SPIN_ASSERT(spin_kv_is_resident_now(kv, seq) || sequence->arena_row > 0);
    } else {
        SPIN_ASSERT_EQ(sequence->arena_row, 0);
    }
    SPIN_ASSERT(!sequence->open_page_dirty || sequence->phase == SPIN_KV_DECODE);
    for (uint32_t layer = 0; layer < kv->config.layout.layers; layer++) {
        check_rows_of(kv, seq, layer);
    }
}

void spin_kv_check(const struct spin_kv *kv)
{
    uint32_t open = 0;
    SPIN_ASSERT(spin_device_is_host(kv->stream));
    SPIN_ASSERT_EQ(kv->view.frame_blocks, kv->blocks); /* frames are nobody's but the block's */
    SPIN_ASSERT_EQ(kv->pass, SPIN_KV_PASS_NONE);
    check_slabs(kv);
    check_blocks(kv);
    for (uint32_t seq = 0; seq < kv->config.sequences_max; seq++) {
        open += kv->sequences[seq].phase != SPIN_KV_CLOSED;
        check_sequence(kv, seq);
    }
    SPIN_ASSERT_EQ(kv->sequences_open, open);
}
