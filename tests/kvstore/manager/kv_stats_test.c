/* Method: the bytes of tables against sums worked by hand, and one sequence's numbers against what
 * was done with it. */
#include "kvstore/manager/kv_internal.h"
#include "tests/kernels/fake_device.h"
#include "tests/kvstore/manager/kv_world.h"

/* 6 sequences, 2 layers, 2 heads, 640 tokens: 24 table rows, 80 pages, 5 slabs, 20 leaves each. */
static void test_planned_tables(void **state)
{
    (void)state;
    struct world_options options = spin_world_options_default();
    struct world world;
    spin_world_set_up(&world, &options); /* 1,000 slabs of 16 slots, 40 blocks */
    struct spin_kv_table_bytes tables;
    struct spin_kv_config config = world.config;
    spin_kv_plan_tables(&config, &tables);
    assert_int_equal(tables.directory, 0);
    assert_int_equal(tables.page_table, 16000 * 2);
    assert_int_equal(tables.stamps, 16000);
    assert_int_equal(tables.slab_lists, 12 * 5 * 4 + 12 * 4 + 6);
    assert_int_equal(tables.summaries, 40 * 4 * 8 * 32);
    assert_int_equal(tables.cpu_page_table, 6 * 5 * 4);
    assert_int_equal(tables.partition_offset, 0);
    /* 12 lists of 80 entries of 14 bytes; then what a list, a sequence of a batch, a row has. */
    assert_int_equal(tables.lists, 12 * 80 * 14 + 12 * 20 + (6 + 1) * 28 + 24 * 20);
    config.replacement = SPIN_KV_BUCKETED;
    spin_kv_plan_tables(&config, &tables);
    assert_int_equal(tables.directory, 24 * 20 * 2);
    assert_int_equal(tables.page_table, 16000 * 8 + 24 * 2);
    spin_world_tear_down(&world);
}

static void test_tables_in_use(void **state)
{
    (void)state;
    struct world_options options = spin_world_options_default();
    struct world world;
    spin_world_set_up(&world, &options);
    struct spin_kv_stats stats = spin_world_stats(&world);
    assert_int_equal(stats.hbm_bytes, 1000 * 16 * 512);
    assert_int_equal(stats.host_bytes, 40 * spin_block_bytes(&world.config.layout));
    assert_int_equal(stats.tables.page_table, 0);
    assert_int_equal(stats.tables.summaries, 0);
    struct world_seq *seq = spin_world_open(&world, 0, 300);
    assert_true(spin_world_activate(&world, seq)); /* 3 slabs of 4 rows, 3 blocks */
    stats = spin_world_stats(&world);
    assert_int_equal(stats.tables.page_table, 12 * 16 * 2);
    assert_int_equal(stats.tables.stamps, 12 * 16);
    assert_int_equal(stats.tables.summaries, 3 * 4 * 8 * 32);
    spin_world_tear_down(&world);
}

static void test_sequence_numbers(void **state)
{
    (void)state;
    struct world_options options = spin_world_options_default();
    struct world world;
    options.slabs = 16;
    spin_world_set_up(&world, &options);
    struct world_seq *seq = spin_world_open(&world, 0, 600);
    struct spin_kv_seq_stats stats = spin_world_seq_stats(&world, seq);
    assert_false(stats.active);
    assert_int_equal(stats.tokens, 0);
    assert_int_equal(stats.mandatory_pages, 0);
    assert_true(spin_world_activate(&world, seq));
    spin_world_prefill(&world, seq);
    spin_world_decode(&world, seq, 24);
    stats = spin_world_seq_stats(&world, seq);
    assert_true(stats.active);
    assert_int_equal(stats.tokens, 624);
    assert_int_equal(stats.mandatory_pages, (10 + 6) / 2);
    assert_int_equal(stats.slots, 14 * 16);
    assert_int_equal(stats.budget_pages, 14 * 16 / 4);
    assert_true(stats.working_set > stats.mandatory_pages);
    assert_true(stats.working_set <= stats.budget_pages);
    /* Every selected page is a hit, a miss or fresh; fresh: pages 75 to 77 in 4 rows. */
    assert_int_equal(stats.hits + stats.misses, 24 * 2 * (10 + 6) - 3 * 4);
    const struct spin_kv_stats all = spin_world_stats(&world);
    assert_int_equal(all.hits, stats.hits);
    assert_int_equal(all.evictions, stats.evictions);
    assert_int_equal(all.pages_retrieved, stats.misses + world.pages_read_back);
    assert_int_equal(all.bytes_retrieved, all.pages_retrieved * 512);
    spin_world_tear_down(&world);
}

/* Rows count what they drop modulo 2^32, each sequence from 0 on. */
static void test_dropped_pages_wrap(void **state)
{
    (void)state;
    struct world_options options = spin_world_options_default();
    struct world world;
    options.slabs = 14;
    spin_world_set_up(&world, &options);
    struct world_seq *seq = spin_world_open(&world, 0, 510);
    assert_true(spin_world_activate(&world, seq));
    spin_world_prefill(&world, seq);
    spin_world_decode(&world, seq, 40);
    struct spin_kv *kv = world.kv;
    const uint64_t rows = (uint64_t)seq->id.v * kv->rows;
    for (uint32_t row = 0; row < kv->rows; row++) {
        kv->view.counters[rows + row].dropped += UINT32_MAX - 2;
        kv->sequences[seq->id.v].dropped += UINT32_MAX - 2;
    }
    const uint64_t before = spin_world_stats(&world).pages_dropped;
    struct world_seq *other = spin_world_open(&world, 1, 400); /* presses the first one */
    assert_true(spin_world_activate(&world, other));
    spin_world_close(&world, seq);
    const uint64_t dropped = spin_world_stats(&world).pages_dropped - before;
    assert_in_range(dropped, 9, 16 * 14);
    seq = spin_world_open(&world, 0, 10);
    const struct spin_kv_counters none = {0};
    assert_memory_equal(&kv->view.counters[(uint64_t)seq->id.v * kv->rows], &none, sizeof none);
    spin_world_tear_down(&world);
}

/* The rows of a sequence that has shrunk since its last step count on the device alone: on one that
 * is not the host, closing it counts as much as where the host sees them. */
static uint64_t drop_and_close(const struct spin_ops *ops, bool fake)
{
    struct world_options options = spin_world_options_default();
    struct world world;
    options.slabs = 14;
    options.ops = ops;
    options.fake = fake;
    spin_world_set_up(&world, &options);
    struct world_seq *seq = spin_world_open(&world, 0, 510);
    assert_true(spin_world_activate(&world, seq));
    spin_world_prefill(&world, seq);
    spin_world_decode(&world, seq, 40);
    const uint64_t before = spin_world_stats(&world).pages_dropped;
    struct world_seq *other = spin_world_open(&world, 1, 400); /* presses the first one */
    assert_true(spin_world_activate(&world, other));
    assert_int_equal(spin_world_stats(&world).pages_dropped, before);
    spin_world_close(&world, seq);
    const uint64_t dropped = spin_world_stats(&world).pages_dropped - before;
    spin_world_tear_down(&world);
    return dropped;
}

static void test_dropped_pages_late(void **state)
{
    (void)state;
    const uint64_t dropped = drop_and_close(&spin_ops_ref, false);
    assert_true(dropped > 0);
    assert_int_equal(drop_and_close(&spin_ops_fake, true), dropped);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dropped_pages_late), cmocka_unit_test(test_planned_tables),
        cmocka_unit_test(test_tables_in_use),      cmocka_unit_test(test_sequence_numbers),
        cmocka_unit_test(test_dropped_pages_wrap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
