#include "tests/kernels/kv_tables_fixture.h"

#include <inttypes.h>

static void *array(struct test_tables *tables, uint64_t count, uint64_t bytes)
{
    assert_true(tables->array_count < TEST_TABLES_ARRAYS_MAX);
    struct test_memory *memory = &tables->arrays[tables->array_count++];
    *memory = spin_test_memory_create(count * bytes);
    return spin_test_memory_data(memory);
}

static void make_lists(struct test_tables *tables, uint64_t rows)
{
    struct spin_kv_lists *lists = &tables->lists;
    lists->stride = tables->view.slabs_max * SPIN_SLAB_SLOTS;
    lists->pages = array(tables, rows * lists->stride, sizeof *lists->pages);
    lists->page_count = array(tables, rows, sizeof *lists->page_count);
    lists->slots = array(tables, rows * lists->stride, sizeof *lists->slots);
    lists->visible = array(tables, rows, sizeof *lists->visible);
    lists->misses = array(tables, rows * lists->stride, sizeof *lists->misses);
    lists->miss_count = array(tables, rows, sizeof *lists->miss_count);
}

static void make_host_arrays(struct test_tables *tables)
{
    struct spin_kv_view *view = &tables->view;
    const uint64_t layers = (uint64_t)tables->sequences * view->layout.layers;
    const uint32_t groups = tables->slabs / view->layout.kv_heads;
    tables->residency = array(tables, tables->sequences, sizeof *tables->residency);
    tables->slab_list = array(tables, layers * view->slabs_max, sizeof *tables->slab_list);
    tables->slab_count = array(tables, layers, sizeof *tables->slab_count);
    tables->blocks =
        array(tables, (uint64_t)tables->sequences * view->blocks_max, sizeof *tables->blocks);
    tables->free_groups = array(tables, groups, sizeof *tables->free_groups);
    memset(tables->residency, SPIN_KV_BUFFERED, tables->sequences);
    memset(tables->slab_count, 0, layers * sizeof *tables->slab_count);
    for (uint32_t i = 0; i < groups; i++) {
        tables->free_groups[i] = i;
    }
    tables->free_count = groups;
    view->residency = tables->residency;
    view->slab_list = tables->slab_list;
    view->slab_count = tables->slab_count;
    view->blocks = tables->blocks;
}

static void make_tables(struct test_tables *tables)
{
    struct spin_kv_view *view = &tables->view;
    const uint64_t rows = (uint64_t)tables->sequences * view->layout.layers * view->layout.kv_heads;
    const uint64_t slots = (uint64_t)tables->slabs * SPIN_SLAB_SLOTS;
    view->stamp = array(tables, slots, sizeof *view->stamp);
    view->counters = array(tables, rows, sizeof *view->counters);
    memset(view->counters, 0, rows * sizeof *view->counters);
    if (tables->replacement == SPIN_KV_SLOT_LRU) {
        view->slot_page = array(tables, slots, sizeof *view->slot_page);
        return;
    }
    view->leaf = array(tables, slots * SPIN_LEAF_PAGES, sizeof *view->leaf);
    view->directory = array(tables, rows * view->directory_max, sizeof *view->directory);
    view->leaf_free = array(tables, rows, sizeof *view->leaf_free);
    memset(view->directory, 0, rows * view->directory_max * sizeof *view->directory);
}

struct test_tables spin_test_tables_create(const struct test_tables_config *config)
{
    struct test_tables tables = {
        .replacement = config->replacement, .sequences = config->sequences, .slabs = config->slabs};
    tables.view.layout = (struct spin_kv_layout){config->layers, config->kv_heads, config->head_dim,
                                                 SPIN_KV_BF16, SPIN_SWIZZLE_NONE};
    tables.view.page_tokens = config->page_tokens;
    tables.view.partition_tokens = config->page_tokens;
    tables.view.slabs_max = config->slabs_max;
    tables.view.directory_max = (config->pages_max + SPIN_LEAF_PAGES - 1) / SPIN_LEAF_PAGES;
    tables.view.blocks_max =
        (config->pages_max * config->page_tokens + SPIN_BLOCK_TOKENS - 1) / SPIN_BLOCK_TOKENS;
    tables.view.bucket_shift = config->bucket_shift;
    make_lists(&tables, (uint64_t)config->sequences * config->kv_heads);
    make_host_arrays(&tables);
    make_tables(&tables);
    return tables;
}

void spin_test_tables_destroy(struct test_tables *tables)
{
    for (uint32_t i = 0; i < tables->array_count; i++) {
        spin_test_memory_destroy(&tables->arrays[i]);
    }
}

void spin_test_tables_copy_host(struct test_tables *to, const struct test_tables *from)
{
    const uint64_t layers = (uint64_t)to->sequences * to->view.layout.layers;
    memcpy(to->residency, from->residency, to->sequences * sizeof *to->residency);
    memcpy(to->slab_list, from->slab_list, layers * to->view.slabs_max * sizeof *to->slab_list);
    memcpy(to->slab_count, from->slab_count, layers * sizeof *to->slab_count);
    memcpy(to->free_groups, from->free_groups,
           to->slabs / to->view.layout.kv_heads * sizeof *to->free_groups);
    to->free_count = from->free_count;
}

void spin_test_tables_expect_same(const struct test_tables *a, const struct test_tables *b)
{
    assert_int_equal(a->array_count, b->array_count);
    for (uint32_t i = 0; i < a->array_count; i++) {
        const uint8_t *x = spin_test_memory_data(&a->arrays[i]);
        const uint8_t *y = spin_test_memory_data(&b->arrays[i]);
        assert_int_equal(a->arrays[i].bytes, b->arrays[i].bytes);
        if (memcmp(x, y, a->arrays[i].bytes) == 0) {
            continue;
        }
        uint64_t byte = 0;
        while (x[byte] == y[byte]) {
            byte++;
        }
        fail_msg("array %u differs at byte %" PRIu64 ": %u and %u", i, byte, x[byte], y[byte]);
    }
}

/* --- slabs --- */

static uint32_t *count_of(struct test_tables *tables, uint32_t sequence, uint32_t layer)
{
    return &tables->slab_count[(uint64_t)sequence * tables->view.layout.layers + layer];
}

static uint32_t *list_of(struct test_tables *tables, uint32_t sequence, uint32_t layer)
{
    return tables->slab_list +
           ((uint64_t)sequence * tables->view.layout.layers + layer) * tables->view.slabs_max;
}

bool spin_test_tables_grant(struct test_tables *tables, uint32_t sequence, uint32_t layer,
                            uint32_t slabs, struct spin_rng *rng)
{
    uint32_t *count = count_of(tables, sequence, layer);
    assert_true(*count + slabs <= tables->view.slabs_max);
    if (slabs > tables->free_count) {
        return false;
    }
    for (uint32_t i = 0; i < slabs; i++) {
        const uint32_t pick = spin_rng_below(rng, tables->free_count);
        list_of(tables, sequence, layer)[*count + i] = tables->free_groups[pick];
        tables->free_groups[pick] = tables->free_groups[--tables->free_count];
    }
    *count += slabs;
    return true;
}

void spin_test_tables_revoke(struct test_tables *tables, uint32_t sequence, uint32_t layer,
                             uint32_t slabs)
{
    uint32_t *count = count_of(tables, sequence, layer);
    assert_true(slabs <= *count);
    for (uint32_t i = *count - slabs; i < *count; i++) {
        tables->free_groups[tables->free_count++] = list_of(tables, sequence, layer)[i];
    }
    *count -= slabs;
}

void spin_test_tables_revoke_first(struct test_tables *tables, uint32_t sequence, uint32_t layer,
                                   uint32_t count)
{
    const uint32_t slabs = *count_of(tables, sequence, layer);
    uint32_t *list = list_of(tables, sequence, layer);
    for (uint32_t turn = 0; turn < count; turn++) {
        const uint32_t first = list[0];
        memmove(list, list + 1, (slabs - 1) * sizeof *list);
        list[slabs - 1] = first;
    }
    spin_test_tables_revoke(tables, sequence, layer, count);
}

uint32_t spin_test_tables_slots(const struct test_tables *tables, uint32_t sequence, uint32_t layer)
{
    return tables->slab_count[(uint64_t)sequence * tables->view.layout.layers + layer] *
           SPIN_SLAB_SLOTS;
}

/* --- what tables say, read without the operations' help --- */

static const uint16_t *leaf_at(const struct test_tables *tables, uint64_t row, uint32_t leaf)
{
    return tables->view.leaf +
           (uint64_t)spin_kv_pool_slot(&tables->view, row, leaf) * SPIN_LEAF_PAGES;
}

/* Marks leaf `leaf`, which must be new. */
static void mark_leaf(bool *seen, uint32_t leaf, uint32_t slots)
{
    assert_true(leaf < slots);
    assert_false(seen[leaf]);
    seen[leaf] = true;
}

static void read_leaves(const struct test_tables *tables, uint64_t row, uint32_t slots,
                        int32_t *pages)
{
    bool seen[TEST_TABLES_SLOTS_MAX];
    uint32_t leaves = 0;
    assert_true(slots <= TEST_TABLES_SLOTS_MAX);
    memset(seen, 0, slots * sizeof seen[0]);
    for (uint32_t d = 0; d < tables->view.directory_max; d++) {
        const uint32_t leaf = tables->view.directory[row * tables->view.directory_max + d];
        if (leaf == SPIN_LEAF_NONE) {
            continue;
        }
        mark_leaf(seen, leaf, slots);
        leaves++;
        uint32_t held = 0;
        for (uint32_t i = 0; i < SPIN_LEAF_PAGES; i++) {
            const uint32_t slot = leaf_at(tables, row, leaf)[i];
            if (slot != SPIN_PAGE_NONE) {
                assert_true(slot < slots);
                assert_int_equal(pages[slot], -1);
                pages[slot] = (int32_t)(d * SPIN_LEAF_PAGES + i);
                held++;
            }
        }
        assert_int_not_equal(held, 0);
    }
    uint32_t leaf = tables->view.leaf_free[row];
    while (leaf != SPIN_LEAF_NONE) {
        mark_leaf(seen, leaf, slots);
        leaves++;
        leaf = leaf_at(tables, row, leaf)[0];
    }
    assert_int_equal(leaves, slots);
}

void spin_test_tables_read(const struct test_tables *tables, uint64_t row, uint32_t slots,
                           int32_t *pages)
{
    bool seen[TEST_TABLES_PAGES_MAX];
    const uint32_t pages_max = tables->view.directory_max * SPIN_LEAF_PAGES;
    assert_true(pages_max <= TEST_TABLES_PAGES_MAX);
    memset(seen, 0, pages_max * sizeof seen[0]);
    for (uint32_t s = 0; s < slots; s++) {
        pages[s] = -1;
    }
    if (tables->replacement == SPIN_KV_BUCKETED) {
        read_leaves(tables, row, slots, pages);
    }
    for (uint32_t s = 0; s < slots; s++) {
        const uint32_t place = spin_kv_pool_slot(&tables->view, row, s);
        const bool free = tables->view.stamp[place] == SPIN_STAMP_FREE;
        if (tables->replacement == SPIN_KV_SLOT_LRU && !free) {
            pages[s] = tables->view.slot_page[place];
        }
        assert_int_equal(free, pages[s] == -1);
        if (!free) {
            assert_true(pages[s] < (int32_t)pages_max);
            assert_false(seen[pages[s]]);
            seen[pages[s]] = true;
        }
    }
}
