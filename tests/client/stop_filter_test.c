/* The filter against the obvious: strstr over the whole text, for random texts over a small
 * alphabet, cut into random pieces. */
#include "client/stop_filter.h"

#include "base/rng.h"
#include "tests/spin_test.h"

#define TEXT_BYTES 60u

static void run_case(struct spin_rng *rng, uint32_t stop_bytes)
{
    char text[TEXT_BYTES + 1] = {0};
    char stop[SPIN_STOP_BYTES_MAX + 1] = {0};
    for (uint32_t i = 0; i < TEXT_BYTES; i++) {
        text[i] = (char)('a' + spin_rng_below(rng, 2));
    }
    for (uint32_t i = 0; i < stop_bytes; i++) {
        stop[i] = (char)('a' + spin_rng_below(rng, 2));
    }
    const char *place = strstr(text, stop);
    const uint64_t wanted = place == NULL ? TEXT_BYTES : (uint64_t)(place - text);

    struct spin_stop_filter filter;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_stop_filter_init(&filter, stop, &err), &err);
    char out[TEXT_BYTES + 2 * SPIN_STOP_BYTES_MAX];
    uint64_t written = 0;
    for (uint32_t at = 0; at < TEXT_BYTES;) {
        const uint32_t drawn = spin_rng_below(rng, 9);
        const uint32_t piece = SPIN_MIN(TEXT_BYTES - at, drawn);
        written += spin_stop_filter_push(&filter, text + at, piece, out + written);
        at += piece;
        assert_true(written <= wanted); /* nothing too early */
    }
    written += spin_stop_filter_finish(&filter, out + written);
    assert_int_equal(filter.found, place != NULL);
    assert_int_equal(written, wanted);
    assert_memory_equal(out, text, wanted);
}

static void test_equals_strstr(void **state)
{
    (void)state;
    struct spin_rng rng = {.seed = 3};
    for (uint32_t i = 0; i < 20000; i++) {
        run_case(&rng, 1 + spin_rng_below(&rng, 9));
    }
}

static void test_only_what_may_match_is_held(void **state)
{
    (void)state;
    struct spin_stop_filter filter;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_stop_filter_init(&filter, "\n\nUser:", &err), &err);
    char out[1024];
    assert_int_equal(spin_stop_filter_push(&filter, "one\n", 4, out), 3);
    assert_int_equal(spin_stop_filter_push(&filter, "two", 3, out), 4);
    assert_memory_equal(out, "\ntwo", 4);
    assert_int_equal(spin_stop_filter_push(&filter, "\n\nUse", 5, out), 0);
    assert_int_equal(spin_stop_filter_push(&filter, "r: x", 4, out), 0);
    assert_true(filter.found);
    assert_int_equal(spin_stop_filter_push(&filter, "more", 4, out), 0);
    assert_int_equal(spin_stop_filter_finish(&filter, out), 0);
}

static void test_limits(void **state)
{
    (void)state;
    struct spin_stop_filter filter;
    struct spin_error err = {0};
    char stop[SPIN_STOP_BYTES_MAX + 2] = {0};
    memset(stop, 'x', SPIN_STOP_BYTES_MAX + 1);
    SPIN_EXPECT_STATUS(spin_stop_filter_init(&filter, stop, &err), SPIN_ERR_INVALID);
    assert_non_null(strstr(err.text, "--stop: 257 bytes, must be 1..256"));
    SPIN_EXPECT_STATUS(spin_stop_filter_init(&filter, "", &err), SPIN_ERR_INVALID);
    stop[SPIN_STOP_BYTES_MAX] = '\0';
    SPIN_EXPECT_OK(spin_stop_filter_init(&filter, stop, &err), &err);
    char out[2 * SPIN_STOP_BYTES_MAX];
    assert_int_equal(spin_stop_filter_push(&filter, stop, SPIN_STOP_BYTES_MAX - 1, out), 0);
    assert_int_equal(spin_stop_filter_push(&filter, "y", 1, out), SPIN_STOP_BYTES_MAX);

    SPIN_EXPECT_OK(spin_stop_filter_init(&filter, NULL, &err), &err);
    assert_int_equal(spin_stop_filter_push(&filter, "all", 3, out), 3);
    assert_int_equal(spin_stop_filter_finish(&filter, out), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_strstr),
        cmocka_unit_test(test_only_what_may_match_is_held),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
