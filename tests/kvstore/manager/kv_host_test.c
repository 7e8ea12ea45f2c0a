/* Method: reservations against arithmetic; poison seen through the frames that the view names. */
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reserve),
        cmocka_unit_test(test_poison_fills_what_is_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
