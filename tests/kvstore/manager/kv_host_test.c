/* Method: reservations against arithmetic; poison seen through the frames that the view names. */
#include "tests/kernels/fake_device.h"
#include "tests/kvstore/manager/kv_world.h"

static void test_reserve(void **state)
{
    (void)state;
    struct world_options options = spin_world_options_default();
    struct world world;
    options.blocks = 8;
    spin_world_set_up(&world, &options);
    const struct world_seq *a = spin_world_open(&world, 0, 1);
    const struct world_seq *b = spin_world_open(&world, 1, 1);
    SPIN_EXPECT_OK(spin_kv_reserve(world.kv, a->id, 0), NULL);
    assert_int_equal(spin_world_stats(&world).blocks_free, 8);
    SPIN_EXPECT_OK(spin_kv_reserve(world.kv, a->id, 1), NULL);
    SPIN_EXPECT_OK(spin_kv_reserve(world.kv, a->id, 128), NULL);
    assert_int_equal(spin_world_stats(&world).blocks_free, 7);
    SPIN_EXPECT_OK(spin_kv_reserve(world.kv, a->id, 640), NULL);
    assert_int_equal(spin_world_stats(&world).blocks_free, 3);
    /* One block too many: nothing changes, less is still to be had. */
    SPIN_EXPECT_STATUS(spin_kv_reserve(world.kv, b->id, 385), SPIN_ERR_AGAIN);
    assert_int_equal(spin_world_stats(&world).blocks_free, 3);
    SPIN_EXPECT_OK(spin_kv_reserve(world.kv, b->id, 384), NULL);
    SPIN_EXPECT_STATUS(spin_kv_reserve(world.kv, b->id, 641), SPIN_ERR_LIMIT);
    /* Never less than before. */
    SPIN_EXPECT_OK(spin_kv_reserve(world.kv, a->id, 5), NULL);
    assert_int_equal(spin_world_stats(&world).blocks_free, 0);
    spin_kv_check(world.kv);
    spin_world_tear_down(&world);
}

static bool is_nan(const uint8_t *bf16)
{
    uint16_t bits;
    memcpy(&bits, bf16, sizeof bits);
    return (bits & 0x7F80) == 0x7F80 && (bits & 0x7F) != 0;
}

static void test_poison_fills_what_is_given_back(void **state)
{
    (void)state;
    const struct world_options options = spin_world_options_default();
    struct world world;
    spin_world_set_up(&world, &options);
    struct world_seq *seq = spin_world_open(&world, 0, 200);
    assert_true(spin_world_activate(&world, seq));
    spin_world_prefill(&world, seq);
    const struct spin_kv_view *view = spin_kv_get_view(world.kv);
    const uint32_t row = 1; /* layer 0, head 1 */
    const uint8_t *slot = spin_kv_slot_bytes(view, spin_kv_pool_slot(view, seq->id.v * 4 + row, 3));
    const uint8_t *frame = spin_kv_frame_bytes(view, seq->id.v, 0, row, 3);
    const uint8_t *summary = spin_kv_summary(view, seq->id.v, 0, row, 3);
    assert_false(is_nan(slot));
    assert_false(is_nan(frame));
    spin_world_suspend(&world, seq);
    assert_true(is_nan(slot)); /* its slots are gone, its blocks are not */
    assert_false(is_nan(frame));
    assert_false(is_nan(summary));
    spin_world_close(&world, seq);
    assert_true(is_nan(frame));
    assert_true(is_nan(summary));
    spin_world_tear_down(&world);
}

/* A prompt that somebody else put on the host: pages come from its frames, whether all fit or few,
 * and what is decoded goes on behind it. */
static void adopt(uint32_t slabs, uint32_t prompt, bool fake)
{
    struct world_options options = spin_world_options_default();
    struct world world;
    options.slabs = slabs;
    options.fake = fake;
    options.ops = fake ? &spin_ops_fake : options.ops;
    spin_world_set_up(&world, &options);
    struct world_seq *seq = spin_world_open(&world, 0, prompt);
    spin_world_adopt(&world, seq);
    assert_true(spin_world_activate(&world, seq));
    const bool resident = slabs > 100 || prompt == 1;
    assert_int_equal(spin_world_seq_stats(&world, seq).residency,
                     resident ? SPIN_KV_RESIDENT : SPIN_KV_BUFFERED);
    const uint64_t at_once = spin_world_stats(&world).pages_retrieved;
    assert_int_equal(at_once, resident ? 4 * ((prompt + 7) / 8) : 0);
    spin_world_decode(&world, seq, 20);
    assert_int_equal(spin_world_stats(&world).pages_retrieved > at_once, !resident);
    spin_world_check(&world);
    spin_world_suspend(&world, seq);
    assert_true(spin_world_activate(&world, seq));
    spin_world_decode(&world, seq, 3);
    spin_world_tear_down(&world);
}

static void test_adopt(void **state)
{
    (void)state;
    for (uint32_t fake = 0; fake < 2; fake++) {
        adopt(200, 300, fake == 1); /* a page is open, a block, a partition */
        adopt(200, 256, fake == 1);
        adopt(14, 515, fake == 1);
        adopt(14, 1, fake == 1);
    }
}

static void adopt_without_blocks(void *argument)
{
    struct world *world = argument;
    spin_kv_adopt(world->kv, world->seqs[0].id, 1);
}

static void poison(void *argument)
{
    spin_kv_set_poison(((struct world *)argument)->kv, true);
}

static void check(void *argument)
{
    spin_kv_check(((struct world *)argument)->kv);
}

/* Frames that several blocks share are nobody's: what looks at bytes refuses them. */
static void test_shared_frames(void **state)
{
    (void)state;
    struct world_options options = spin_world_options_default();
    struct world world;
    options.frame_blocks = 3;
    options.fake = true;
    options.ops = &spin_ops_fake;
    spin_world_set_up(&world, &options);
    const struct spin_kv_view *view = spin_kv_get_view(world.kv);
    struct spin_kv_view host = *view;
    const uint32_t blocks[] = {2, 5, 6};
    host.blocks = blocks;
    host.blocks_max = SPIN_ARRAY_COUNT(blocks);
    assert_int_equal(view->frame_blocks, 3);
    assert_ptr_equal(spin_kv_frame_bytes(&host, 0, 1, 1, 3),
                     spin_kv_frame_bytes(&host, 0, 1, 1, 16 + 3));
    assert_ptr_equal(spin_kv_frame_bytes(&host, 0, 0, 0, 32), view->host);
    assert_int_equal(spin_world_stats(&world).host_bytes, 3 * spin_block_bytes(&view->layout));
    assert_int_equal(spin_world_stats(&world).blocks, 40);
    (void)spin_world_open(&world, 0, 300);
    assert_true(spin_test_dies(adopt_without_blocks, &world, "sequence->blocks"));
    assert_true(spin_test_dies(poison, &world, "spin_device_is_host"));
    spin_kv_set_poison(world.kv, false); /* that it is not on anyway is no mistake */
    assert_true(spin_test_dies(check, &world, "spin_device_is_host"));
    spin_world_tear_down(&world);
    options.fake = false;
    options.ops = spin_ops_best_cpu();
    options.frame_blocks = 0;
    spin_world_set_up(&world, &options);
    spin_world_tear_down(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adopt),
        cmocka_unit_test(test_shared_frames),
        cmocka_unit_test(test_reserve),
        cmocka_unit_test(test_poison_fills_what_is_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
