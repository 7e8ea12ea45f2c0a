/* Method: what a pass hands out, field by field, on small sequences; broken calls must die. */
#include "tests/kvstore/manager/kv_world.h"

#include <pthread.h>

static void test_prefill_lists(void **state)
{
    (void)state;
    struct world_options options = spin_world_options_default();
    struct world world;
    spin_world_set_up(&world, &options);
    struct world_seq *seq = spin_world_open(&world, 0, 100);
    assert_true(spin_world_activate(&world, seq));
    struct spin_page_lists lists;
    const struct spin_kv_range *sealed = NULL;
    SPIN_EXPECT_OK(spin_kv_prefill_begin(world.kv, seq->id, 0, 0, 60, true, &lists), NULL);
    const struct spin_kv_batch batch = spin_kv_get_batch(world.kv, 0);
    assert_int_equal(batch.count, 1);
    assert_int_equal(batch.sequence[0], seq->id.v);
    assert_int_equal(batch.tokens[0], 60);
    assert_int_equal(batch.step[0], 0);
    assert_int_equal(lists.visible[0], 60);
    assert_int_equal(lists.visible[1], 60);
    assert_int_equal(lists.page_tokens, 8);
    /* 60 tokens are three partitions of 16 and a part; 8 pages go to the host, the last in part. */
    assert_int_equal(spin_kv_sealed(world.kv, &sealed), 6);
    assert_int_equal(sealed[0].first, 0);
    assert_int_equal(sealed[0].count, 6);
    SPIN_EXPECT_OK(spin_kv_offload(world.kv, 0), NULL);
    assert_int_equal(spin_world_stats(&world).pages_offloaded, 2 * 8);
    /* The partition that was open is completed by the next unit, and page 7 goes again. */
    SPIN_EXPECT_OK(spin_kv_prefill_begin(world.kv, seq->id, 0, 60, 100, false, &lists), NULL);
    assert_int_equal(spin_kv_sealed(world.kv, &sealed), 6);
    assert_int_equal(sealed[0].first, 6);
    SPIN_EXPECT_OK(spin_kv_offload(world.kv, 0), NULL);
    assert_int_equal(spin_world_stats(&world).pages_offloaded, 2 * (8 + 6));
    spin_world_tear_down(&world);
}

/* Of a step: a page goes to the host with its last token, a partition is sealed with its own; the
 * step's number is the sequence's own. */
static void test_step_completes_pages(void **state)
{
    (void)state;
    struct world_options options = spin_world_options_default();
    struct world world;
    spin_world_set_up(&world, &options);
    struct world_seq *seq = spin_world_open(&world, 0, 100);
    assert_true(spin_world_activate(&world, seq));
    spin_world_prefill(&world, seq);
    const uint64_t before = spin_world_stats(&world).pages_offloaded;
    spin_world_decode(&world, seq, 3); /* 103 */
    assert_int_equal(spin_world_stats(&world).pages_offloaded, before);
    assert_int_equal(seq->indexed[0], 12);
    spin_world_decode(&world, seq, 1);
    assert_int_equal(spin_world_stats(&world).pages_offloaded, before + 4);
    spin_world_decode(&world, seq, 8); /* 112 is a whole partition, too */
    assert_int_equal(spin_world_stats(&world).pages_offloaded, before + 8);
    assert_int_equal(seq->indexed[0], 14);
    assert_int_equal(spin_kv_get_batch(world.kv, 0).step[0], 11);
    spin_world_suspend(&world, seq); /* no page is open */
    assert_int_equal(spin_world_stats(&world).pages_offloaded, before + 8);
    assert_true(spin_world_activate(&world, seq));
    spin_world_decode(&world, seq, 1);
    assert_int_equal(spin_kv_get_batch(world.kv, 0).step[0], 12);
    spin_world_suspend(&world, seq); /* one is */
    assert_int_equal(spin_world_stats(&world).pages_offloaded, before + 12);
    spin_world_tear_down(&world);
}

static void test_nothing_to_index_without_summaries(void **state)
{
    (void)state;
    struct world_options options = spin_world_options_default();
    struct world world;
    spin_world_set_up(&world, &options);
    struct spin_kv_config config = world.config;
    struct spin_kv *kv = NULL;
    config.summary_bytes = 0;
    SPIN_EXPECT_OK(spin_kv_create(&config, world.stream, &kv, NULL), NULL);
    spin_kv_set_poison(kv, true);
    spin_kv_seq seq;
    struct spin_page_lists lists;
    const struct spin_kv_range *sealed = NULL;
    SPIN_EXPECT_OK(spin_kv_open(kv, &seq), NULL);
    SPIN_EXPECT_OK(spin_kv_reserve(kv, seq, 128), NULL);
    SPIN_EXPECT_OK(spin_kv_activate(kv, seq, 128, 0), NULL);
    SPIN_EXPECT_OK(spin_kv_prefill_begin(kv, seq, 0, 0, 128, true, &lists), NULL);
    assert_int_equal(spin_kv_sealed(kv, &sealed), 0);
    SPIN_EXPECT_OK(spin_kv_offload(kv, 0), NULL);
    spin_kv_close(kv, seq);
    spin_kv_destroy(kv);
    spin_world_tear_down(&world);
}

/* A miss's slot is NaN between resolve and gather: the copy must come from the frame. Seen by an
 * operation table whose gather looks first. */
static uint64_t poisoned_misses;

static spin_status look_and_gather(const struct spin_kv_gather_args *args,
                                   struct spin_stream *stream)
{
    const uint64_t bytes = spin_page_bytes(&args->view->layout, args->view->page_tokens);
    const uint32_t rows = args->batch.count * args->view->layout.kv_heads;
    for (uint32_t row = 0; row < rows; row++) {
        for (uint32_t i = 0; i < args->lists.miss_count[row]; i++) {
            const uint32_t slot = args->lists.misses[row * args->lists.stride + i].slot;
            const uint8_t *page = spin_kv_slot_bytes(args->view, slot);
            poisoned_misses += page[0] == 0xFF && page[bytes - 1] == 0xFF;
        }
    }
    return spin_ops_ref.kv_gather(args, stream);
}

static void test_misses_are_poisoned(void **state)
{
    (void)state;
    struct spin_ops ops = spin_ops_ref;
    struct world_options options = spin_world_options_default();
    struct world world;
    ops.kv_gather = look_and_gather;
    options.ops = &ops;
    options.slabs = 16;
    spin_world_set_up(&world, &options);
    struct world_seq *seq = spin_world_open(&world, 0, 600);
    assert_true(spin_world_activate(&world, seq));
    spin_world_prefill(&world, seq);
    poisoned_misses = 0;
    spin_world_decode(&world, seq, 30);
    const struct spin_kv_seq_stats stats = spin_world_seq_stats(&world, seq);
    assert_true(stats.evictions > 0);
    /* 630 tokens: pages 75 to 78 began, fresh, in 4 rows. */
    assert_int_equal(poisoned_misses, stats.misses + 16);
    spin_world_tear_down(&world);
}

static void skip_a_token(void *argument)
{
    struct world *world = argument;
    const struct spin_kv_step step = {.seq = world->seqs[0].id, .tokens = 102};
    SPIN_EXPECT_OK(spin_kv_step_begin(world->kv, &step, 1), NULL);
}

static void skip_a_unit(void *argument)
{
    struct world *world = argument;
    struct spin_page_lists lists;
    SPIN_EXPECT_OK(spin_kv_prefill_begin(world->kv, world->seqs[1].id, 0, 8, 16, true, &lists),
                   NULL);
}

static void name_twice(void *argument)
{
    struct world *world = argument;
    const struct spin_kv_step step = {.seq = world->seqs[0].id, .tokens = 101};
    const struct spin_kv_step twice[] = {step, step};
    SPIN_EXPECT_OK(spin_kv_step_begin(world->kv, twice, 2), NULL);
}

/* Token 128 completes a partition of two pages; the second head leaves out the first of them. */
static void leave_out_a_page(void *argument)
{
    struct world *world = argument;
    const struct spin_kv_step step = {.seq = world->seqs[3].id, .tokens = 128};
    struct spin_page_lists out;
    SPIN_EXPECT_OK(spin_kv_step_begin(world->kv, &step, 1), NULL);
    const struct spin_kv_lists lists = spin_kv_get_lists(world->kv);
    static const uint16_t pages[2][3] = {{0, 14, 15}, {0, 13, 15}};
    for (uint64_t head = 0; head < 2; head++) {
        memcpy(lists.pages + head * lists.stride, pages[head], sizeof pages[head]);
        lists.page_count[head] = 3;
    }
    SPIN_EXPECT_OK(
        spin_kv_resolve(world->kv, 0, (struct spin_kv_wave){.first = 0, .count = 1}, &out), NULL);
    struct spin_kv_index_args args = {.view = spin_kv_get_view(world->kv),
                                      .batch = spin_kv_get_batch(world->kv, 0),
                                      .lists = lists,
                                      .summary = SPIN_SUMMARY_MEAN};
    assert_int_equal(spin_kv_sealed(world->kv, &args.ranges), 2);
    SPIN_EXPECT_OK(world->options.ops->kv_index(&args, world->stream), NULL);
}

static void *look_at_lists(void *argument)
{
    (void)spin_kv_get_lists(((struct world *)argument)->kv);
    return NULL;
}

static void call_from_another_thread(void *argument)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, look_at_lists, argument), 0);
    (void)pthread_join(thread, NULL);
}

static void step_without_blocks(void *argument)
{
    struct world *world = argument;
    const struct spin_kv_step step = {.seq = world->seqs[2].id, .tokens = 129};
    SPIN_EXPECT_OK(spin_kv_step_begin(world->kv, &step, 1), NULL);
}

static void test_broken_calls_die(void **state)
{
    (void)state;
    struct world_options options = spin_world_options_default();
    struct world world;
    spin_world_set_up(&world, &options);
    static const uint32_t prompts[] = {100, 100, 128, 127};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(prompts); i++) {
        struct world_seq *seq = spin_world_open(&world, i, prompts[i]);
        assert_true(spin_world_activate(&world, seq));
        if (i != 1) {
            spin_world_prefill(&world, seq);
        }
    }
    assert_true(spin_test_dies(skip_a_token, &world, "step->tokens"));
    assert_true(spin_test_dies(skip_a_unit, &world, "begin"));
    assert_true(spin_test_dies(step_without_blocks, &world, "sequence->blocks"));
    assert_true(spin_test_dies(name_twice, &world, "sequence->plan"));
    assert_true(spin_test_dies(leave_out_a_page, &world, "range->first"));
    assert_true(spin_test_dies(call_from_another_thread, &world, "owner"));
    spin_world_tear_down(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefill_lists),
        cmocka_unit_test(test_step_completes_pages),
        cmocka_unit_test(test_nothing_to_index_without_summaries),
        cmocka_unit_test(test_misses_are_poisoned),
        cmocka_unit_test(test_broken_calls_die),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
