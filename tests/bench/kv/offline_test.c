/* Belady against the best of all ways to evict, found by trying every set of residents at every
 * step; and what must hold between policies and sizes on larger traces. */
#include "bench/kv/offline.h"

#include "base/base.h"
#include "tests/bench/kv/trace_maker.h"
#include "tests/spin_test.h"

#define SETS 256u /* of 8 pages */
#define NEVER (-1)

/* Hits at most, from a table of the most that each set of residents can have had so far. */
static int best_hits(const struct spin_trace *trace, uint32_t slots, uint32_t warm_steps)
{
    int hits[SETS];
    for (uint32_t set = 0; set < SETS; set++) {
        hits[set] = set == 0 ? 0 : NEVER;
    }
    for (uint32_t step = 0; step < trace->shape.steps; step++) {
        const struct spin_trace_list list = spin_trace_get_list(trace, 0, step, 0);
        const uint32_t tokens = spin_trace_tokens(trace, 0, step);
        const bool fresh = (tokens - 1) % trace->shape.page_tokens == 0;
        uint32_t selected = 0;
        for (uint32_t i = 0; i < list.count; i++) {
            selected |= 1u << list.pages[i];
        }
        const uint32_t counted = fresh ? selected & ~(1u << list.pages[list.count - 1]) : selected;
        int next[SETS];
        for (uint32_t after = 0; after < SETS; after++) {
            next[after] = NEVER;
            if ((after & selected) != selected || (uint32_t)__builtin_popcount(after) > slots) {
                continue;
            }
            for (uint32_t before = 0; before < SETS; before++) {
                /* Nothing comes but what was selected. */
                if (hits[before] == NEVER || (after & ~before & ~selected) != 0) {
                    continue;
                }
                const int gained = step < warm_steps ? 0 : __builtin_popcount(before & counted);
                next[after] = SPIN_MAX(next[after], hits[before] + gained);
            }
        }
        memcpy(hits, next, sizeof hits);
    }
    int best = 0;
    for (uint32_t set = 0; set < SETS; set++) {
        best = SPIN_MAX(best, hits[set]);
    }
    return best;
}

static struct spin_hit_tally run(const struct spin_trace *trace, enum spin_offline_policy policy,
                                 uint32_t buffering, uint32_t warm_steps)
{
    const struct spin_offline_config config = {
        .trace = trace, .policy = policy, .buffering = buffering, .warm_steps = warm_steps};
    struct spin_hit_tally tally;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_offline_run(&config, &tally, &err), &err);
    return tally;
}

static void test_belady_is_best(void **state)
{
    (void)state;
    uint32_t tight = 0; /* traces on which random does worse */
    for (uint64_t seed = 1; seed <= 40; seed++) {
        const struct spin_trace_plan plan = {.seed = seed,
                                             .documents = 1,
                                             .layers = 1,
                                             .kv_heads = 1,
                                             .prompt_tokens = 44,
                                             .steps = 18, /* pages 5 to 7 */
                                             .chosen = 1 + (uint32_t)seed % 3};
        struct spin_trace trace;
        spin_make_trace(&plan, &trace);
        for (uint32_t buffering = 0; buffering < 3; buffering++) {
            const uint32_t slots = spin_replay_slots(&trace, 0, buffering);
            const struct spin_hit_tally belady = run(&trace, SPIN_OFFLINE_BELADY, buffering, 2);
            const struct spin_hit_tally blind = run(&trace, SPIN_OFFLINE_RANDOM, buffering, 2);
            assert_int_equal(belady.hits, best_hits(&trace, slots, 2));
            assert_true(blind.hits <= belady.hits);
            tight += blind.hits < belady.hits;
        }
        spin_trace_close(&trace);
    }
    assert_true(tight > 20);
}

/* Counts by hand, and what a larger buffer and a blind policy may change. */
static void test_shape(void **state)
{
    (void)state;
    const struct spin_trace_plan plan = {.seed = 9,
                                         .documents = 2,
                                         .layers = 2,
                                         .kv_heads = 3,
                                         .prompt_tokens = 400,
                                         .steps = 60,
                                         .sink = 1,
                                         .local = 1,
                                         .chosen = 5};
    struct spin_trace trace;
    spin_make_trace(&plan, &trace);
    assert_int_equal(spin_replay_slots(&trace, 0, 0), 8);
    assert_int_equal(spin_replay_slots(&trace, 0, 3), 32);
    assert_int_equal(spin_replay_slots(&trace, 0, 8), 58); /* 460 tokens */
    const uint64_t lists = (uint64_t)2 * 50 * 6;
    uint64_t before = 0;
    for (uint32_t buffering = 0; buffering <= 8; buffering++) {
        const struct spin_hit_tally belady = run(&trace, SPIN_OFFLINE_BELADY, buffering, 10);
        const struct spin_hit_tally blind = run(&trace, SPIN_OFFLINE_RANDOM, buffering, 10);
        assert_int_equal(belady.selected, blind.selected);
        assert_int_equal(belady.chosen, 5 * lists);
        /* 3 private pages, but for the 6 times in 50 steps that the newest one is fresh. */
        assert_int_equal(belady.selected, 8 * lists - (uint64_t)2 * 6 * 6);
        assert_true(blind.hits <= belady.hits && belady.hits >= before);
        assert_true(belady.hits - belady.chosen_hits <= belady.selected - belady.chosen);
        before = belady.hits;
    }
    /* Every page has a slot. */
    const struct spin_hit_tally all = run(&trace, SPIN_OFFLINE_BELADY, 8, 0);
    assert_int_equal(all.evictions, 0);
    spin_trace_close(&trace);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_belady_is_best),
        cmocka_unit_test(test_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
