/* Method: spin_kv_check must see each kind of damage, done to a healthy manager through the arrays
 * that the view names. */
#include "kvstore/manager/kv_internal.h"
#include "tests/kvstore/manager/kv_world.h"

/* Sequence 0 is RESIDENT, 1 BUFFERED, 2 in an arena. */
static void set_up(struct world *world, enum spin_kv_replacement replacement)
{
    struct world_options options = spin_world_options_default();
    options.slabs = 28;
    options.replacement = replacement;
    spin_world_set_up(world, &options);
    struct world_seq *buffered = spin_world_open(world, 1, 600);
    struct world_seq *resident = spin_world_open(world, 0, 128);
    struct world_seq *arena = spin_world_open(world, 2, 600);
    assert_true(spin_world_activate(world, buffered));
    spin_world_prefill(world, buffered);
    assert_true(spin_world_activate(world, resident));
    spin_world_prefill(world, resident);
    assert_true(spin_world_activate(world, arena));
    spin_world_unit(world, arena, 64);
    spin_world_decode(world, buffered, 3);
    spin_world_decode(world, resident, 0);
    assert_int_equal(spin_world_seq_stats(world, resident).residency, SPIN_KV_RESIDENT);
    assert_int_equal(spin_world_seq_stats(world, buffered).residency, SPIN_KV_BUFFERED);
    assert_int_equal(spin_world_seq_stats(world, arena).residency, SPIN_KV_BUFFERED);
    assert_true(spin_world_seq_stats(world, arena).slots > 0);
    spin_kv_check(world->kv);
}

static void check(void *argument)
{
    spin_kv_check(((struct world *)argument)->kv);
}

static void expect_seen(struct world *world, uint8_t *byte, uint8_t value, const char *text)
{
    const uint8_t before = *byte;
    *byte = value;
    assert_int_not_equal(before, value);
    if (!spin_test_dies(check, world, text)) {
        fail_msg("not seen: %s", text);
    }
    *byte = before;
    spin_kv_check(world->kv);
}

/* Pool slot of slot 0, layer 0, head 0 of a sequence. */
static uint32_t first_slot(const struct world *world, uint32_t index)
{
    const struct spin_kv_view *view = spin_kv_get_view(world->kv);
    return spin_kv_pool_slot(view, spin_kv_table_row(view, world->seqs[index].id.v, 0, 0), 0);
}

static void test_bytes(void **state)
{
    (void)state;
    struct world world;
    set_up(&world, SPIN_KV_SLOT_LRU);
    const struct spin_kv_view *view = spin_kv_get_view(world.kv);
    for (uint32_t i = 0; i < 3; i++) {
        uint8_t *byte = spin_kv_slot_bytes(view, first_slot(&world, i));
        expect_seen(&world, byte, *byte ^ 1, "memcmp");
        byte = spin_kv_frame_bytes(view, world.seqs[i].id.v, 0, 0, 0);
        if (i != 1) { /* a BUFFERED one has that page or has not */
            expect_seen(&world, byte, *byte ^ 1, "memcmp");
        }
    }
    spin_world_tear_down(&world);
}

static void test_slot_lru_tables(void **state)
{
    (void)state;
    struct world world;
    set_up(&world, SPIN_KV_SLOT_LRU);
    const struct spin_kv_view *view = spin_kv_get_view(world.kv);
    const uint32_t slot = first_slot(&world, 1);
    assert_int_not_equal(view->stamp[slot], SPIN_STAMP_FREE);
    assert_int_not_equal(view->stamp[slot + 1], SPIN_STAMP_FREE);
    expect_seen(&world, (uint8_t *)&view->slot_page[slot], (uint8_t)view->slot_page[slot + 1],
                "check_pages");
    expect_seen(&world, (uint8_t *)&view->slot_page[slot] + 1, 9, "pages_max");
    spin_world_tear_down(&world);
}

static void test_bucketed_tables(void **state)
{
    (void)state;
    struct world world;
    set_up(&world, SPIN_KV_BUCKETED);
    const struct spin_kv_view *view = spin_kv_get_view(world.kv);
    const uint32_t slot = first_slot(&world, 1);
    const uint64_t row = spin_kv_table_row(view, world.seqs[1].id.v, 0, 0);
    expect_seen(&world, &view->stamp[slot], SPIN_STAMP_FREE, "stamp <=");
    expect_seen(&world, &view->stamp[slot], SPIN_BUCKETS, "stamp <=");
    expect_seen(&world, (uint8_t *)&view->leaf_free[row] + 1, 0x7F, "row->slots");
    uint16_t *directory = view->directory + row * view->directory_max;
    uint32_t used = 0;
    while (directory[used] == SPIN_LEAF_NONE) {
        used++;
    }
    expect_seen(&world, (uint8_t *)&directory[used] + 1, 0x7F, "row->slots");
    spin_world_tear_down(&world);
}

static void test_ownership(void **state)
{
    (void)state;
    struct world world;
    set_up(&world, SPIN_KV_SLOT_LRU);
    struct spin_kv *kv = world.kv;
    const uint32_t seq = world.seqs[0].id.v;
    const uint32_t group = first_slot(&world, 0) / SPIN_SLAB_SLOTS / 2;
    const uint32_t block = kv->block_list[(uint64_t)seq * kv->view.blocks_max];
    expect_seen(&world, (uint8_t *)&kv->group_owner[group], (uint8_t)world.seqs[1].id.v,
                "group_owner");
    expect_seen(&world, (uint8_t *)&kv->block_holder[block], (uint8_t)world.seqs[1].id.v,
                "block_holder");
    /* The same group twice in a list. */
    uint32_t *list =
        kv->slab_list + (uint64_t)world.seqs[2].id.v * kv->view.layout.layers * kv->view.slabs_max;
    expect_seen(&world, (uint8_t *)&list[0], (uint8_t)list[1], "check_marks");
    expect_seen(&world, (uint8_t *)&kv->sequences[seq].slabs, 1, "sequence->slabs");
    if (kv->slabs_free > 0) {
        expect_seen(&world, (uint8_t *)&kv->free_groups[0], (uint8_t)group, "group_owner");
    }
    expect_seen(&world, (uint8_t *)&kv->blocks_free, 0, "");
    expect_seen(&world, (uint8_t *)&kv->sequences_open, 4, "sequences_open");
    spin_world_tear_down(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_slot_lru_tables),
        cmocka_unit_test(test_bucketed_tables),
        cmocka_unit_test(test_ownership),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
