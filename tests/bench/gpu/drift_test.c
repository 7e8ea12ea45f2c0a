#include "bench/gpu/model/drift.h"

#include "tests/spin_test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 6u
#define PARTITIONS 2048u
#define K 100u
#define STEPS 200u

static const struct spin_kv_window wide = {.sink_end = 1, .local_begin = PARTITIONS - 8, .k = K};

static struct spin_drift *make(double overlap, double returns, uint64_t seed)
{
    const struct spin_drift_config config = {.rows = ROWS,
                                             .partitions_max = PARTITIONS,
                                             .chosen_max = K,
                                             .overlap = overlap,
                                             .returns = returns,
                                             .seed = seed};
    struct spin_drift *drift = NULL;
    assert_int_equal(spin_drift_create(&config, &drift, NULL), SPIN_OK);
    return drift;
}

/* The choice of a row as one flag a partition, counted; nothing outside of the window. */
static uint32_t read_row(const struct spin_drift *drift, uint32_t row, uint8_t *flags)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        flags[i] = spin_drift_chose(drift, row, i) ? 1 : 0;
        count += flags[i];
    }
    return count;
}

static uint32_t shared(const uint8_t *a, const uint8_t *b)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        count += a[i] & b[i];
    }
    return count;
}

static void keep_exactly(double overlap, double returns, uint32_t kept)
{
    static uint8_t before[ROWS][PARTITIONS];
    static uint8_t after[PARTITIONS];
    struct spin_drift *drift = make(overlap, returns, 7);
    for (uint32_t step = 0; step < STEPS; step++) {
        spin_drift_step(drift, wide);
        for (uint32_t row = 0; row < ROWS; row++) {
            assert_int_equal(read_row(drift, row, after), K);
            if (step > 0) {
                assert_int_equal(shared(before[row], after), kept);
            }
            memcpy(before[row], after, sizeof after);
        }
    }
    spin_drift_destroy(drift);
}

static void overlap_is_exact(void **state)
{
    (void)state;
    keep_exactly(0.65, 0, 65);
    keep_exactly(0.75, 0, 75);
    keep_exactly(0.90, 0, 90);
    keep_exactly(0, 0, 0);
    keep_exactly(1, 0, 100);
    keep_exactly(0.75, 0.9, 75);
    keep_exactly(0.714, 1, 71);
}

static void choices_stay_inside_of_the_window(void **state)
{
    (void)state;
    struct spin_drift *drift = make(0.5, 0.5, 3);
    struct spin_kv_window window = {.sink_end = 4, .local_begin = 160, .k = K};
    for (uint32_t step = 0; step < STEPS; step++) {
        window.local_begin++;
        spin_drift_step(drift, window);
        for (uint32_t i = 0; i < PARTITIONS; i++) {
            assert_true(!spin_drift_chose(drift, step % ROWS, i) ||
                        (i >= window.sink_end && i < window.local_begin));
        }
    }
    spin_drift_destroy(drift);
}

/* Fewer candidates than a new choice wants: all of them, then as many new ones as there are. */
static void few_candidates_raise_the_overlap(void **state)
{
    (void)state;
    static uint8_t before[PARTITIONS];
    static uint8_t after[PARTITIONS];
    struct spin_drift *drift = make(0, 0, 3);
    spin_drift_step(drift, (struct spin_kv_window){.sink_end = 1, .local_begin = 51, .k = K});
    assert_int_equal(read_row(drift, 0, before), 50);
    spin_drift_step(drift, (struct spin_kv_window){.sink_end = 1, .local_begin = 121, .k = K});
    assert_int_equal(read_row(drift, 0, before), K);
    spin_drift_step(drift, (struct spin_kv_window){.sink_end = 1, .local_begin = 121, .k = K});
    assert_int_equal(read_row(drift, 0, after), K);
    assert_int_equal(shared(before, after), 80);
    spin_drift_destroy(drift);
}

/* Distinct partitions of a row in the last steps: fewer when those that left come back. */
static uint32_t working_set(double returns)
{
    static uint8_t seen[PARTITIONS];
    static uint8_t now[PARTITIONS];
    memset(seen, 0, sizeof seen);
    struct spin_drift *drift = make(0.7, returns, 11);
    for (uint32_t step = 0; step < 32; step++) {
        spin_drift_step(drift, wide);
        (void)read_row(drift, 0, now);
        for (uint32_t i = 0; i < PARTITIONS && step >= 20; i++) {
            seen[i] |= now[i];
        }
    }
    spin_drift_destroy(drift);
    uint32_t count = 0;
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        count += seen[i];
    }
    return count;
}

static void returns_make_the_working_set_smaller(void **state)
{
    (void)state;
    const uint32_t none = working_set(0);
    const uint32_t most = working_set(0.95);
    /* 100 and 11 times 30 new ones, of 2,039: few of those twice. */
    assert_in_range(none, 370, 430);
    assert_true(most < none / 2 + 60);
    assert_true(most > K + 30);
}

/* All partitions of the window are chosen alike: the uniform part has no favourites. */
static void new_ones_come_from_everywhere(void **state)
{
    (void)state;
    static uint32_t times[8];
    struct spin_drift *drift = make(0, 0, 5);
    for (uint32_t step = 0; step < STEPS; step++) {
        spin_drift_step(drift, wide);
        for (uint32_t i = wide.sink_end; i < wide.local_begin; i++) {
            times[(i - wide.sink_end) * 8 / (wide.local_begin - wide.sink_end)] +=
                spin_drift_chose(drift, 2, i) ? 1 : 0;
        }
    }
    const double expected = (double)STEPS * K / 8;
    for (uint32_t i = 0; i < 8; i++) {
        assert_true(fabs(times[i] - expected) < 6 * sqrt(expected));
    }
    spin_drift_destroy(drift);
}

static void lists_are_what_select_hands_on(void **state)
{
    (void)state;
    struct spin_drift *drift = make(0.5, 0, 9);
    const struct spin_kv_window window = {.sink_end = 2, .local_begin = 500, .k = K};
    const struct spin_drift_list list = {.pages = 2, .newest_page = 1006};
    static uint16_t pages[PARTITIONS * 2];
    spin_drift_step(drift, window);
    for (uint32_t row = 0; row < ROWS; row++) {
        const uint32_t count = spin_drift_write(drift, row, &list, pages);
        assert_int_equal(count, 4 + 2 * K + 7);
        assert_int_equal(count, spin_drift_entries(window, &list));
        assert_int_equal(pages[0], 0);
        assert_int_equal(pages[3], 3);
        assert_int_equal(pages[count - 7], 1000);
        assert_int_equal(pages[count - 1], 1006);
        for (uint32_t i = 1; i < count; i++) {
            assert_true(pages[i] > pages[i - 1]);
        }
        for (uint32_t i = 4; i < count - 7; i++) {
            assert_true(spin_drift_chose(drift, row, pages[i] / 2));
        }
    }
    spin_drift_destroy(drift);
}

static void the_same_seed_chooses_the_same(void **state)
{
    (void)state;
    static uint8_t a[PARTITIONS];
    static uint8_t b[PARTITIONS];
    struct spin_drift *one = make(0.75, 0.5, 21);
    struct spin_drift *two = make(0.75, 0.5, 21);
    struct spin_drift *other = make(0.75, 0.5, 22);
    for (uint32_t step = 0; step < 5; step++) {
        spin_drift_step(one, wide);
        spin_drift_step(two, wide);
        spin_drift_step(other, wide);
    }
    (void)read_row(one, 3, a);
    (void)read_row(two, 3, b);
    assert_memory_equal(a, b, sizeof a);
    (void)read_row(other, 3, b);
    assert_memory_not_equal(a, b, sizeof a);
    (void)read_row(one, 4, b);
    assert_memory_not_equal(a, b, sizeof a);
    spin_drift_destroy(one);
    spin_drift_destroy(two);
    spin_drift_destroy(other);
}

static void bad_shares_are_named(void **state)
{
    (void)state;
    struct spin_error err;
    struct spin_drift *drift = NULL;
    struct spin_drift_config config = {
        .rows = 1, .partitions_max = 10, .chosen_max = 2, .overlap = 1.5};
    assert_int_equal(spin_drift_create(&config, &drift, &err), SPIN_ERR_INVALID);
    assert_non_null(strstr(err.text, "1.5"));
    config.overlap = NAN;
    assert_int_equal(spin_drift_create(&config, &drift, &err), SPIN_ERR_INVALID);
    config.overlap = 0.5;
    config.partitions_max = 1U << 20;
    assert_int_equal(spin_drift_create(&config, &drift, &err), SPIN_ERR_INVALID);
    assert_non_null(strstr(err.text, "1048576"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(overlap_is_exact),
        cmocka_unit_test(choices_stay_inside_of_the_window),
        cmocka_unit_test(few_candidates_raise_the_overlap),
        cmocka_unit_test(returns_make_the_working_set_smaller),
        cmocka_unit_test(new_ones_come_from_everywhere),
        cmocka_unit_test(lists_are_what_select_hands_on),
        cmocka_unit_test(the_same_seed_chooses_the_same),
        cmocka_unit_test(bad_shares_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
