/* Sizes of a case small enough for a hand: 2 layers, 2 heads, 1,024 tokens in pages of 8, batch 3,
 * 10 mandatory pages; and the paper's case, whose flat table is up to 100 GB. */
#include "bench/kv/accounting.h"

#include "tests/spin_test.h"

static uint32_t ten(const void *context, uint32_t layer, uint32_t tokens)
{
    (void)context;
    (void)layer;
    (void)tokens;
    return 10;
}

static const struct spin_accounting_case small = {
    .layout = {.layers = 2, .kv_heads = 2, .head_dim = 16, .dtype = SPIN_KV_BF16},
    .tokens = 1024,
    .batch = 3,
    .page_tokens = 8,
    .partition_tokens = 8,
    .demand = {.mandatory = ten},
};

/* 12 rows of 128 pages. */
static void test_flat(void **state)
{
    (void)state;
    assert_int_equal(spin_accounting_pages(&small), 1536);
    assert_int_equal(spin_accounting_paper_flat(&small), 1536 * 298);
    assert_int_equal(spin_accounting_lean_flat(&small), 6144);
    uint32_t bytes = 0;
    for (uint32_t i = 0; i < SPIN_PAPER_FIELDS; i++) {
        bytes += spin_paper_fields[i].bytes;
    }
    assert_int_equal(bytes, 298);
    const struct spin_accounting_case paper = {
        .layout = {.layers = 80, .kv_heads = 8, .head_dim = 128, .dtype = SPIN_KV_BF16},
        .tokens = 131072,
        .batch = 32,
        .page_tokens = 8,
    };
    assert_int_equal(spin_accounting_pages(&paper), 335544320);
    assert_true(fabs((double)spin_accounting_paper_flat(&paper) / 1e9 - 100) < 0.1);
}

/* 6 times 10 slots in slabs of 16: 4 slabs a row, 48 in all; pages of 512 bytes. */
static void test_pool(void **state)
{
    (void)state;
    const struct spin_kv_config config = spin_accounting_config(&small, SPIN_KV_SLOT_LRU);
    assert_true(spin_accounting_slots(&small) == 64);
    assert_int_equal(config.hbm_bytes, 48 * 16 * 512);
    assert_int_equal(config.host_bytes, 3 * 8 * 128 * 4 * 64); /* blocks of 128 tokens, 4 rows */
    assert_int_equal(spin_accounting_granted(&small), 24 * 4); /* groups of two */
}

/* 768 slots. */
static void test_tables(void **state)
{
    (void)state;
    struct spin_kv_table_bytes lru;
    struct spin_kv_table_bytes two;
    struct spin_kv_config config = spin_accounting_config(&small, SPIN_KV_SLOT_LRU);
    spin_kv_plan_tables(&config, &lru);
    config.replacement = SPIN_KV_BUCKETED;
    spin_kv_plan_tables(&config, &two);
    assert_int_equal(lru.directory, 0);
    assert_int_equal(lru.page_table, 768 * 2);
    assert_int_equal(lru.stamps, 768);
    assert_int_equal(two.directory, 12 * 32 * 2);           /* leaves of 4 pages */
    assert_int_equal(two.page_table, 768 * 4 * 2 + 12 * 2); /* a leaf a slot, a free list a row */
    assert_int_equal(two.stamps, 768);
    assert_int_equal(two.slab_lists, lru.slab_lists);
    assert_true(lru.slab_lists >= spin_accounting_granted(&small));
    assert_int_equal(lru.partition_offset, 0);
    assert_int_equal(spin_accounting_tables(&two),
                     two.directory + two.page_table + two.stamps + two.slab_lists);
}

/* 32 leaves of 4 pages a row: 64 bytes of directory, and leaves of 8 bytes. */
static void test_leaves(void **state)
{
    (void)state;
    assert_true(spin_accounting_leaves(&small, 4, 0) == 12 * 64);
    assert_true(spin_accounting_leaves(&small, 4, 0.5) == 12 * (64 + 16 * 8));
    assert_true(spin_accounting_leaves(&small, 32, 1) == 12 * (4 * 2 + 4 * 64));
    /* 64 slots of a row, a leaf each. */
    assert_true(spin_accounting_leaves_built(&small, 4) == 12 * (64 + 64 * 8));
    assert_true(spin_accounting_leaves_built(&small, 32) == 12 * (8 + 64 * 64));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flat),
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
