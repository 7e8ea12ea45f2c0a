/* The replay against a least-recently-used cache written down naively, with the product's order of
 * slots but without slabs, ballast or tables; both op tables; and leaves counted by hand. */
#include "bench/kv/replay.h"

#include "tests/bench/kv/trace_maker.h"
#include "tests/spin_test.h"

#define SLOTS_MAX 256u
#define NOTHING UINT32_MAX
#define WARM_STEPS 10u

struct naive {
    const struct spin_trace *trace;
    uint32_t document;
    uint32_t row;
    uint32_t page[SLOTS_MAX];
    uint32_t used[SLOTS_MAX]; /* step, plus one; 0: never */
    uint32_t slots;
};

static uint32_t find(const struct naive *naive, uint32_t page)
{
    for (uint32_t slot = 0; slot < naive->slots; slot++) {
        if (naive->page[slot] == page) {
            return slot;
        }
    }
    return NOTHING;
}

/* Marks the slot that gives way: a free one, else the oldest; the first of equals. */
static void take(const struct naive *naive, bool taken[SLOTS_MAX], uint32_t now)
{
    uint32_t best = NOTHING;
    for (uint32_t slot = 0; slot < naive->slots; slot++) {
        if (!taken[slot] && naive->used[slot] != now &&
            (best == NOTHING || naive->used[slot] < naive->used[best])) {
            best = slot;
        }
    }
    assert_true(best != NOTHING);
    taken[best] = true;
}

static void naive_step(struct naive *naive, uint32_t step, struct spin_hit_tally *tally)
{
    const struct spin_trace *trace = naive->trace;
    const struct spin_trace_list list =
        spin_trace_get_list(trace, naive->document, step, naive->row);
    const struct spin_trace_window *window = spin_trace_get_window(trace, naive->document, step);
    const uint32_t tokens = spin_trace_tokens(trace, naive->document, step);
    const bool fresh = tokens % trace->shape.page_tokens == 1;
    uint32_t misses[SLOTS_MAX];
    uint32_t missed = 0;
    for (uint32_t i = 0; i < list.count; i++) {
        const uint32_t slot = find(naive, list.pages[i]);
        const bool chosen = !spin_trace_is_private(window, list.pages[i]);
        const bool counted = !fresh || i + 1 < list.count;
        tally->selected += counted;
        tally->hits += counted && slot != NOTHING;
        tally->chosen += chosen;
        tally->chosen_hits += chosen && slot != NOTHING;
        if (slot != NOTHING) {
            naive->used[slot] = step + 1;
        } else {
            misses[missed++] = list.pages[i];
        }
    }
    bool taken[SLOTS_MAX] = {false};
    for (uint32_t i = 0; i < missed; i++) {
        take(naive, taken, step + 1);
    }
    uint32_t slot = 0;
    for (uint32_t i = 0; i < missed; i++, slot++) {
        while (!taken[slot]) {
            slot++;
        }
        tally->evictions += naive->used[slot] != 0;
        naive->page[slot] = misses[i];
        naive->used[slot] = step + 1;
    }
}

static struct spin_hit_tally run_naive(const struct spin_trace *trace, uint32_t buffering)
{
    struct spin_hit_tally tally = {0};
    struct spin_hit_tally warm = {0};
    const uint32_t rows = spin_trace_rows(&trace->shape);
    for (uint32_t i = 0; i < trace->shape.documents * rows; i++) {
        struct naive naive = {.trace = trace,
                              .document = i / rows,
                              .row = i % rows,
                              .slots = spin_replay_slots(trace, i / rows, buffering)};
        for (uint32_t slot = 0; slot < naive.slots; slot++) {
            naive.page[slot] = NOTHING;
        }
        for (uint32_t step = 0; step < trace->shape.steps; step++) {
            naive_step(&naive, step, step < WARM_STEPS ? &warm : &tally);
        }
    }
    return tally;
}

static struct spin_hit_tally run(const struct spin_trace *trace, const struct spin_ops *ops,
                                 struct spin_replay_config config, struct spin_leaf_share *leaves)
{
    struct spin_hit_tally tally;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_stream_create_cpu(1, &config.stream, &err), &err);
    config.trace = trace;
    config.ops = ops;
    config.warm_steps = WARM_STEPS;
    SPIN_EXPECT_OK(spin_replay_run(&config, &tally, leaves, &err), &err);
    spin_stream_destroy(config.stream);
    return tally;
}

static void expect_equal(struct spin_hit_tally a, struct spin_hit_tally b)
{
    assert_int_equal(a.selected, b.selected);
    assert_int_equal(a.chosen, b.chosen);
    assert_int_equal(a.hits, b.hits);
    assert_int_equal(a.chosen_hits, b.chosen_hits);
    assert_int_equal(a.evictions, b.evictions);
}

static const struct spin_trace_plan plan = {.seed = 21,
                                            .documents = 3,
                                            .layers = 2,
                                            .kv_heads = 2,
                                            .prompt_tokens = 801,
                                            .steps = 90,
                                            .sink = 1,
                                            .local = 2,
                                            .chosen = 9};

/* Fewer than 62 steps pass between two uses of a page, or the ages 62 and more of `bucketed` are
 * equal: over 40 steps both policies are the same, ties included. */
static void test_naive_lru(void **state)
{
    (void)state;
    struct spin_trace trace;
    const struct spin_ops *tables[] = {&spin_ops_ref, spin_ops_best_cpu()};
    spin_make_trace(&plan, &trace);
    for (uint32_t buffering = 0; buffering <= 8; buffering += 2) {
        const struct spin_hit_tally wanted = run_naive(&trace, buffering);
        const struct spin_offline_config best = {
            .trace = &trace, .buffering = buffering, .warm_steps = WARM_STEPS};
        struct spin_hit_tally belady;
        struct spin_error err;
        SPIN_EXPECT_OK(spin_offline_run(&best, &belady, &err), &err);
        assert_int_equal(wanted.selected, belady.selected);
        assert_true(wanted.hits <= belady.hits);
        for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(tables); i++) {
            const struct spin_replay_config lru = {.replacement = SPIN_KV_SLOT_LRU,
                                                   .buffering = buffering};
            expect_equal(run(&trace, tables[i], lru, NULL), wanted);
        }
    }
    spin_trace_close(&trace);
}

static void test_bucketed(void **state)
{
    (void)state;
    struct spin_trace trace;
    struct spin_trace_plan shorter = plan;
    shorter.steps = 40;
    spin_make_trace(&shorter, &trace);
    uint64_t hits[3];
    for (uint32_t shift = 0; shift < 3; shift++) {
        const struct spin_replay_config config = {
            .replacement = SPIN_KV_BUCKETED, .bucket_shift = shift, .buffering = 1};
        const struct spin_hit_tally tally = run(&trace, &spin_ops_ref, config, NULL);
        expect_equal(run(&trace, spin_ops_best_cpu(), config, NULL), tally);
        hits[shift] = tally.hits;
    }
    assert_int_equal(hits[0], run_naive(&trace, 1).hits);
    assert_true(hits[1] != hits[0] || hits[2] != hits[0]);
    spin_trace_close(&trace);
}

/* One row that selects pages 0, 5 and 6, and the newest: 8, and 9 from 73 tokens on. Sampled at the
 * first counted step, of 75 tokens. */
static void test_leaves(void **state)
{
    (void)state;
    const char *path = spin_trace_path("leaves.trace");
    const struct spin_trace_shape shape = {.page_tokens = 8,
                                           .layers = 1,
                                           .kv_heads = 1,
                                           .documents = 1,
                                           .steps = WARM_STEPS + 1,
                                           .algorithm = "leaves"};
    const struct spin_trace_document document = {.name = "hand", .prompt_tokens = 64};
    struct spin_trace_writer writer;
    struct spin_trace trace;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_trace_create(path, &shape, &document, &writer, &err), &err);
    for (uint32_t step = 0; step < shape.steps; step++) {
        const uint16_t newest = (uint16_t)((64 + step) / 8);
        const uint16_t pages[] = {0, 5, 6, newest};
        spin_trace_put_window(&writer, (struct spin_trace_window){0, newest});
        spin_trace_put_list(&writer, (struct spin_trace_list){pages, 4});
    }
    SPIN_EXPECT_OK(spin_trace_finish(&writer, &err), &err);
    SPIN_EXPECT_OK(spin_trace_open(path, &trace, &err), &err);
    struct spin_leaf_share share = {0};
    const struct spin_replay_config config = {.replacement = SPIN_KV_SLOT_LRU, .buffering = 2};
    (void)run(&trace, &spin_ops_ref, config, &share);
    /* Pages 0 to 9; residents 0, 5, 6, 8, 9. */
    assert_int_equal(share.pages, 10);
    assert_int_equal(share.residents, 5);
    const uint64_t leaves[SPIN_LEAF_SIZES] = {10, 5, 3, 2, 1, 1};
    const uint64_t used[SPIN_LEAF_SIZES] = {5, 4, 3, 2, 1, 1};
    for (uint32_t i = 0; i < SPIN_LEAF_SIZES; i++) {
        assert_int_equal(share.leaves[i], leaves[i]);
        assert_int_equal(share.used[i], used[i]);
    }
    spin_trace_close(&trace);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_naive_lru),
        cmocka_unit_test(test_bucketed),
        cmocka_unit_test(test_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
