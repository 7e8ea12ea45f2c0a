/* Method: one scene per path of the gradient, with the numbers of slabs, pages and demotions that
 * it must lead to, worked out by hand; the world compares all bytes meanwhile.
 *
 * Shape: 2 layers, 2 heads, 8-token pages, so a slab is 128 tokens of a row. Layer 0 attends to 10
 * pages (floor 2 slabs, target 4), layer 1 to 6 (floor 1, target 3): 6 slabs of all rows at the
 * floor, 14 at the target, as soon as a sequence has so many pages. */
#include "tests/kvstore/manager/kv_world.h"

#define FLOOR_SLABS 6u
#define TARGET_SLABS 14u

static void set_up(struct world *world, uint32_t slabs)
{
    struct world_options options = spin_world_options_default();
    options.slabs = slabs;
    spin_world_set_up(world, &options);
}

static uint32_t slabs_of(const struct world *world, const struct world_seq *seq)
{
    return spin_world_seq_stats(world, seq).slots / SPIN_SLAB_SLOTS;
}

static enum spin_kv_residency residency(const struct world *world, const struct world_seq *seq)
{
    return spin_world_seq_stats(world, seq).residency;
}

static struct world_seq *start(struct world *world, uint32_t index, uint32_t prompt)
{
    struct world_seq *seq = spin_world_open(world, index, prompt);
    assert_true(spin_world_activate(world, seq));
    spin_world_prefill(world, seq);
    return seq;
}

static void end(struct world *world)
{
    spin_kv_check(world->kv);
    spin_world_tear_down(world);
}

static void test_resident_while_there_is_room(void **state)
{
    (void)state;
    struct world world;
    set_up(&world, 20);
    struct world_seq *seq = start(&world, 0, 500);
    assert_int_equal(residency(&world, seq), SPIN_KV_RESIDENT);
    assert_int_equal(slabs_of(&world, seq), 4 * 4); /* 500 tokens: 4 slabs a row */
    spin_world_decode(&world, seq, 12);
    assert_int_equal(slabs_of(&world, seq), 4 * 4); /* 512 tokens */
    spin_world_decode(&world, seq, 1);
    assert_int_equal(slabs_of(&world, seq), 5 * 4);
    const struct spin_kv_stats stats = spin_world_stats(&world);
    assert_int_equal(stats.pages_retrieved, 0);
    assert_int_equal(stats.evictions, 0);
    assert_int_equal(stats.hits, 13 * 2 * (10 + 6));
    assert_int_equal(stats.sequences_resident, 1);
    assert_int_equal(spin_world_seq_stats(&world, seq).mandatory_pages, 8);
    end(&world);
}

static void test_arena_reads_back_and_is_exchanged(void **state)
{
    (void)state;
    struct world world;
    set_up(&world, 19); /* 640 tokens resident are 20 */
    struct world_seq *seq = spin_world_open(&world, 0, 640);
    assert_true(spin_world_activate(&world, seq));
    assert_int_equal(residency(&world, seq), SPIN_KV_BUFFERED);
    assert_int_equal(slabs_of(&world, seq), 2 * 5); /* the rows of one layer */
    spin_world_prefill(&world, seq);
    /* Super-chunks at 256 and 512: both layers read 32 and 64 pages of each head. */
    assert_int_equal(world.pages_read_back, 2 * 2 * (32 + 64));
    assert_int_equal(spin_world_stats(&world).pages_retrieved, world.pages_read_back);
    spin_world_close(&world, seq);

    seq = start(&world, 0, 630);
    const uint64_t before = spin_world_stats(&world).pages_retrieved;
    spin_world_decode(&world, seq, 1);
    assert_int_equal(slabs_of(&world, seq), TARGET_SLABS);
    /* The tables were empty: all that it chose is missed. */
    assert_int_equal(spin_world_stats(&world).pages_retrieved - before, 2 * (10 + 6));
    assert_int_equal(spin_world_seq_stats(&world, seq).misses, 2 * (10 + 6));
    world.keep_selection = true;
    spin_world_decode(&world, seq, 1);
    const uint64_t after = spin_world_stats(&world).pages_retrieved;
    spin_world_decode(&world, seq, 1); /* the same pages again */
    assert_int_equal(spin_world_stats(&world).pages_retrieved, after);
    end(&world);
}

static void test_newcomer_presses_residents_to_their_target(void **state)
{
    (void)state;
    struct world world;
    set_up(&world, 34);
    struct world_seq *old = start(&world, 0, 635); /* 20 slabs; 14 free */
    spin_world_decode(&world, old, 1);             /* its 5th slab of a row is not full */
    struct world_seq *new = spin_world_open(&world, 1, 600);
    assert_true(spin_world_activate(&world, new)); /* wants 20 */
    assert_int_equal(residency(&world, old), SPIN_KV_BUFFERED);
    assert_int_equal(slabs_of(&world, old), TARGET_SLABS);
    assert_int_equal(residency(&world, new), SPIN_KV_RESIDENT);
    assert_int_equal(spin_world_stats(&world).demotions, 1);
    /* 5 slabs become 4 in layer 0 and 3 in layer 1, of two heads. */
    assert_int_equal(spin_world_stats(&world).pages_dropped, 16 * 2 * (1 + 2));
    spin_kv_check(world.kv);
    /* The newest pages stayed, open one and all: a step that takes them misses nothing. */
    spin_world_prefill(&world, new);
    world.demand.pages[0] = 2;
    world.demand.pages[1] = 2;
    spin_world_decode(&world, old, 1);
    assert_int_equal(spin_world_stats(&world).pages_retrieved, 0);
    end(&world);
}

static void test_growth_without_room_gives_up_residency(void **state)
{
    (void)state;
    struct world world;
    set_up(&world, 16);
    struct world_seq *seq = start(&world, 0, 510);
    spin_world_decode(&world, seq, 2);
    assert_int_equal(residency(&world, seq), SPIN_KV_RESIDENT);
    spin_world_decode(&world, seq, 1); /* token 513 wants 4 slabs more */
    assert_int_equal(residency(&world, seq), SPIN_KV_BUFFERED);
    assert_int_equal(slabs_of(&world, seq), TARGET_SLABS);
    assert_int_equal(spin_world_stats(&world).demotions, 1);
    spin_world_decode(&world, seq, 30);
    assert_true(spin_world_stats(&world).evictions > 0);
    end(&world);
}

static void test_arena_presses_to_the_floor(void **state)
{
    (void)state;
    struct world world;
    set_up(&world, 16); /* a floor and an arena */
    struct world_seq *old = start(&world, 0, 510);
    spin_world_decode(&world, old, 5);
    assert_int_equal(slabs_of(&world, old), TARGET_SLABS);
    struct world_seq *new = spin_world_open(&world, 1, 640);
    assert_true(spin_world_activate(&world, new));
    assert_int_equal(slabs_of(&world, new), 10);
    assert_int_equal(slabs_of(&world, old), FLOOR_SLABS);
    spin_kv_check(world.kv);
    spin_world_decode(&world, old, 9); /* its open page came back from the host, or never left */
    spin_world_prefill(&world, new);
    spin_world_decode(&world, old, 1);
    /* No room for a third. */
    struct world_seq *third = spin_world_open(&world, 2, 640);
    assert_false(spin_world_activate(&world, third));
    end(&world);
}

/* Where every page is mandatory nothing can be pressed, and a step that lacks slabs says so. */
static void test_dense_says_again(void **state)
{
    (void)state;
    struct world world;
    struct world_options options = spin_world_options_default();
    options.slabs = 24;
    options.demand.dense_below = UINT32_MAX;
    spin_world_set_up(&world, &options);
    struct world_seq *a = start(&world, 0, 381); /* 12 slabs */
    struct world_seq *b = start(&world, 1, 380); /* 12 slabs */
    struct world_seq *const both[] = {a, b};
    for (uint32_t i = 0; i < 3; i++) {
        SPIN_EXPECT_OK(spin_kv_reserve(world.kv, a->id, 385), NULL);
        assert_true(spin_world_step(&world, both, 2));
    }
    assert_false(
        spin_world_step(&world, both, 2)); /* token 385 of a: asserts that nothing changed */
    spin_world_suspend(&world, b);
    assert_true(spin_world_step(&world, &a, 1));
    assert_int_equal(residency(&world, a), SPIN_KV_RESIDENT);
    assert_int_equal(slabs_of(&world, a), 16);
    assert_false(spin_world_activate(&world, b));
    spin_world_close(&world, a);
    assert_true(spin_world_activate(&world, b));
    spin_world_decode(&world, b, 40);
    assert_int_equal(spin_world_stats(&world).evictions, 0);
    end(&world);
}

static void test_resident_comes_back_resident(void **state)
{
    (void)state;
    struct world world;
    set_up(&world, 40);
    struct world_seq *seq = start(&world, 0, 300);
    spin_world_decode(&world, seq, 3); /* 303 tokens: 38 pages, the last one open */
    spin_world_suspend(&world, seq);
    assert_int_equal(slabs_of(&world, seq), 0);
    assert_false(spin_world_seq_stats(&world, seq).active);
    assert_int_equal(spin_world_stats(&world).slabs_free, 40);
    assert_true(spin_world_activate(&world, seq));
    assert_int_equal(residency(&world, seq), SPIN_KV_RESIDENT);
    assert_int_equal(spin_world_stats(&world).pages_retrieved, 38 * 4);
    assert_int_equal(spin_world_stats(&world).bytes_retrieved, 38 * 4 * 512);
    assert_int_equal(spin_world_stats(&world).suspensions, 1);
    spin_world_decode(&world, seq, 20);
    assert_int_equal(spin_world_stats(&world).pages_retrieved, 38 * 4);
    end(&world);
}

static void test_buffered_comes_back_empty(void **state)
{
    (void)state;
    struct world world;
    set_up(&world, 16);
    struct world_seq *seq = start(&world, 0, 600);
    spin_world_decode(&world, seq, 5);
    spin_world_suspend(&world, seq);
    const uint64_t before = spin_world_stats(&world).pages_retrieved;
    assert_true(spin_world_activate(&world, seq));
    assert_int_equal(residency(&world, seq), SPIN_KV_BUFFERED);
    assert_int_equal(slabs_of(&world, seq), TARGET_SLABS);
    assert_int_equal(spin_world_stats(&world).pages_retrieved, before);
    spin_world_decode(&world, seq, 1);
    assert_int_equal(spin_world_stats(&world).pages_retrieved - before, 2 * (10 + 6));
    end(&world);
}

/* In the middle of a super-chunk: what was written is kept as far as the last whole one. */
static void test_suspended_prompt_goes_on(void **state)
{
    (void)state;
    struct world world;
    set_up(&world, 40);
    struct world_seq *seq = spin_world_open(&world, 0, 600);
    assert_true(spin_world_activate(&world, seq));
    for (uint32_t i = 0; i < 8; i++) { /* 256 tokens are 6 units, then 2 more */
        spin_world_unit(&world, seq, 96);
    }
    assert_int_equal(seq->tokens, 256);
    spin_world_suspend(&world, seq);
    assert_true(spin_world_activate(&world, seq));
    assert_int_equal(spin_world_stats(&world).pages_retrieved, 32 * 4);
    spin_world_prefill(&world, seq);
    spin_world_decode(&world, seq, 10);
    end(&world);
}

/* A prompt in prefill gives way, too: all but an arena, and reads what it lost back. */
static void test_resident_prompt_is_pressed_to_an_arena(void **state)
{
    (void)state;
    struct world world;
    set_up(&world, 22);
    struct world_seq *old = spin_world_open(&world, 0, 640);
    assert_true(spin_world_activate(&world, old)); /* 20 slabs */
    for (uint32_t i = 0; i < 8; i++) {
        spin_world_unit(&world, old, 96);
    }
    struct world_seq *new = spin_world_open(&world, 1, 500);
    assert_true(spin_world_activate(&world, new)); /* an arena of 8 */
    assert_int_equal(slabs_of(&world, old), 10);
    assert_int_equal(residency(&world, old), SPIN_KV_BUFFERED);
    spin_kv_check(world.kv);
    spin_world_prefill(&world, old);
    spin_world_prefill(&world, new);
    spin_world_decode(&world, new, 1);
    end(&world);
}

/* W pages of a row in 12 steps: the target follows, and is what pressure leaves. */
static void test_target_follows_the_working_set(void **state)
{
    (void)state;
    struct world world;
    set_up(&world, 20);
    struct world_seq *seq = start(&world, 0, 510);
    spin_world_decode(&world, seq, 2);
    struct world_seq *filler = spin_world_open(&world, 1, 384); /* an arena of 6: 4 are free */
    assert_true(spin_world_activate(&world, filler));
    assert_int_equal(residency(&world, seq), SPIN_KV_BUFFERED);
    assert_int_equal(slabs_of(&world, seq), TARGET_SLABS);
    spin_world_close(&world, filler);
    world.keep_selection = true;
    spin_world_decode(&world, seq,
                      24); /* the same pages but for the newest: W is 12 and 8 at most */
    assert_in_range(spin_world_seq_stats(&world, seq).working_set, 8, 10);
    assert_int_equal(slabs_of(&world, seq), TARGET_SLABS); /* nobody needs them */
    filler = spin_world_open(&world, 1, 384);              /* 12 to be resident, 6 are free */
    assert_true(spin_world_activate(&world, filler));
    assert_int_equal(residency(&world, filler), SPIN_KV_RESIDENT);
    assert_int_equal(slabs_of(&world, seq), FLOOR_SLABS); /* 1.25 W is less than 2x mandatory */
    spin_world_close(&world, filler);
    world.keep_selection = false;
    spin_world_decode(&world, seq, 12); /* random pages: W is all that it has, and there is room */
    assert_in_range(slabs_of(&world, seq), FLOOR_SLABS + 4, TARGET_SLABS - 1);
    spin_world_decode(&world, seq, 36);
    assert_int_equal(slabs_of(&world, seq), TARGET_SLABS);
    end(&world);
}

/* Two floors are 12 slabs, two mandatory sets 8: a step goes on, and none is pressed for it. */
static void test_mandatory_slots_are_enough(void **state)
{
    (void)state;
    struct world world;
    set_up(&world, 10);
    struct world_seq *const both[] = {start(&world, 0, 120), start(&world, 1, 120)};
    for (uint32_t i = 0; i < 30; i++) {
        for (uint32_t j = 0; j < 2; j++) {
            SPIN_EXPECT_OK(spin_kv_reserve(world.kv, both[j]->id, both[j]->tokens + 1), NULL);
        }
        assert_true(spin_world_step(&world, both, 2));
    }
    assert_int_equal(residency(&world, both[0]), SPIN_KV_BUFFERED);
    /* What was free went to the first when its target was looked at. */
    assert_int_equal(slabs_of(&world, both[0]), FLOOR_SLABS);
    assert_int_equal(slabs_of(&world, both[1]), 4);
    end(&world);
}

/* Layer 1 is dense and grows; the last slabs come from the sequence's own layer 0. */
static void test_layers_give_to_each_other(void **state)
{
    (void)state;
    struct world world;
    struct world_options options = spin_world_options_default();
    options.demand.pages[1] = 80;
    options.slabs = 14; /* 2 and 5 slabs of two heads: no more than create wants */
    spin_world_set_up(&world, &options);
    struct world_seq *seq = start(&world, 0, 300);
    spin_world_decode(&world, seq, 212);
    assert_int_equal(residency(&world, seq), SPIN_KV_BUFFERED);
    assert_int_equal(spin_world_stats(&world).slabs_free, 0);
    spin_world_decode(&world, seq, 8); /* token 513 is page 65 */
    assert_int_equal(slabs_of(&world, seq), 14);
    end(&world);
}

/* At 299 tokens the last step was dense, the next one is not: others may count with that. */
static void test_others_count_with_the_next_step(void **state)
{
    (void)state;
    struct world world;
    struct world_options options = spin_world_options_default();
    options.demand.dense_below = 300;
    options.slabs = 16; /* a floor of 300 tokens and an arena of 640 */
    spin_world_set_up(&world, &options);
    struct world_seq *old = start(&world, 0, 290);
    spin_world_decode(&world, old, 9);
    assert_int_equal(slabs_of(&world, old), 12);
    struct world_seq *new = spin_world_open(&world, 1, 640);
    assert_true(spin_world_activate(&world, new));
    assert_int_equal(slabs_of(&world, old), FLOOR_SLABS);
    spin_world_decode(&world, old, 5);
    end(&world);
}

/* Nobody is RESIDENT, however much room there is. */
static void test_buffered_by_configuration(void **state)
{
    (void)state;
    struct world world;
    struct world_options options = spin_world_options_default();
    options.buffered = true;
    options.demand.dense_below = UINT32_MAX;
    spin_world_set_up(&world, &options);
    struct world_seq *seq = start(&world, 0, 300);
    spin_world_decode(&world, seq, 1);
    assert_int_equal(residency(&world, seq), SPIN_KV_BUFFERED);
    /* Every page went through the tables; none was the first token's of its page. */
    assert_int_equal(spin_world_seq_stats(&world, seq).misses, 4 * 38);
    spin_world_decode(&world, seq, 50);
    assert_int_equal(spin_world_stats(&world).evictions, 0);
    assert_int_equal(spin_world_stats(&world).sequences_resident, 0);
    end(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resident_while_there_is_room),
        cmocka_unit_test(test_arena_reads_back_and_is_exchanged),
        cmocka_unit_test(test_newcomer_presses_residents_to_their_target),
        cmocka_unit_test(test_growth_without_room_gives_up_residency),
        cmocka_unit_test(test_arena_presses_to_the_floor),
        cmocka_unit_test(test_dense_says_again),
        cmocka_unit_test(test_resident_comes_back_resident),
        cmocka_unit_test(test_buffered_comes_back_empty),
        cmocka_unit_test(test_suspended_prompt_goes_on),
        cmocka_unit_test(test_resident_prompt_is_pressed_to_an_arena),
        cmocka_unit_test(test_target_follows_the_working_set),
        cmocka_unit_test(test_mandatory_slots_are_enough),
        cmocka_unit_test(test_layers_give_to_each_other),
        cmocka_unit_test(test_others_count_with_the_next_step),
        cmocka_unit_test(test_buffered_by_configuration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
