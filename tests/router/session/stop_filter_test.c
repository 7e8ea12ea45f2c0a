/* The filter against the obvious, a search in the whole text: random texts and strings over a small
 * alphabet, so that strings overlap and begin one another, cut into random pieces. */
#include "router/session/stop_filter.h"

#include "base/rng.h"
#include "tests/spin_test.h"

#define TEXT_BYTES 60u
#define STRING_BYTES 10u
#define OUT_BYTES (TEXT_BYTES + 2 * SPIN_STOP_STRING_BYTES_MAX)

static struct spin_stop_filter *filter_of(const struct spin_stop_strings *stop)
{
    struct spin_stop_filter *filter = NULL;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_stop_filter_create(stop, &filter, &err), &err);
    return filter;
}

struct place {
    int32_t string; /* -1: none */
    uint32_t begin;
};

/* The string that is whole first; of those that end together the longest. */
static struct place search(const char *text, const struct spin_stop_strings *stop)
{
    struct place best = {-1, (uint32_t)strlen(text)};
    uint32_t best_end = UINT32_MAX;
    for (uint32_t i = 0; i < stop->count; i++) {
        const char *at = strstr(text, stop->texts[i]);
        if (at == NULL) {
            continue;
        }
        const uint32_t begin = (uint32_t)(at - text);
        const uint32_t end = begin + (uint32_t)strlen(stop->texts[i]);
        if (end < best_end || (end == best_end && begin < best.begin)) {
            best = (struct place){(int32_t)i, begin};
            best_end = end;
        }
    }
    return best;
}

static void draw(struct spin_rng *rng, char *out, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++) {
        out[i] = (char)('a' + spin_rng_below(rng, 2));
    }
    out[bytes] = '\0';
}

static void run_case(struct spin_rng *rng)
{
    char text[TEXT_BYTES + 1];
    char strings[SPIN_STOP_STRINGS_MAX][STRING_BYTES + 1];
    struct spin_stop_strings stop = {.count = spin_rng_below(rng, 6)};
    draw(rng, text, TEXT_BYTES);
    for (uint32_t i = 0; i < stop.count; i++) {
        draw(rng, strings[i], 3 + spin_rng_below(rng, STRING_BYTES - 2));
        stop.texts[i] = strings[i];
    }
    const struct place wanted = search(text, &stop);

    struct spin_stop_filter *filter = filter_of(&stop);
    char out[OUT_BYTES];
    uint64_t written = 0;
    for (uint32_t at = 0; at < TEXT_BYTES;) {
        const uint32_t drawn = spin_rng_below(rng, 9);
        const uint32_t piece = SPIN_MIN(TEXT_BYTES - at, drawn);
        written += spin_stop_filter_push(filter, text + at, piece, out + written);
        at += piece;
        assert_true(written <= wanted.begin); /* nothing too early */
    }
    written += spin_stop_filter_finish(filter, out + written);
    assert_int_equal(spin_stop_filter_found(filter), wanted.string);
    assert_int_equal(written, wanted.begin);
    assert_memory_equal(out, text, wanted.begin);
    spin_stop_filter_destroy(filter);
}

static void test_equals_a_search_in_the_whole_text(void **state)
{
    (void)state;
    struct spin_rng rng = {.seed = 3};
    for (uint32_t i = 0; i < 20000; i++) {
        run_case(&rng);
    }
}

static void test_only_what_may_match_is_held(void **state)
{
    (void)state;
    struct spin_stop_filter *filter =
        filter_of(&(struct spin_stop_strings){{"\n\nUser:", "###", "\nUse no"}, 3});
    assert_int_equal(spin_stop_filter_held_max(filter), 6);
    char out[OUT_BYTES];
    assert_int_equal(spin_stop_filter_push(filter, "one\n", 4, out), 3);
    assert_int_equal(spin_stop_filter_push(filter, "two#", 4, out), 4);
    assert_memory_equal(out, "\ntwo", 4);
    assert_int_equal(spin_stop_filter_push(filter, "\n\nUse", 5, out), 1);
    assert_int_equal(out[0], '#');
    assert_int_equal(spin_stop_filter_push(filter, " n", 2, out), 1); /* only the third may come */
    assert_int_equal(out[0], '\n');
    assert_int_equal(spin_stop_filter_push(filter, "o such", 6, out), 0);
    assert_int_equal(spin_stop_filter_found(filter), 2);
    assert_int_equal(spin_stop_filter_push(filter, "more", 4, out), 0);
    assert_int_equal(spin_stop_filter_finish(filter, out), 0);
    spin_stop_filter_destroy(filter);
}

static void test_of_those_that_end_together_the_first_begun(void **state)
{
    (void)state;
    const struct spin_stop_strings together = {{"c", "bc", "abc", "abc", "xbc"}, 5};
    struct spin_stop_filter *filter = filter_of(&together);
    char out[OUT_BYTES];
    assert_int_equal(spin_stop_filter_push(filter, "zabc", 4, out), 1);
    assert_int_equal(spin_stop_filter_found(filter), 2);
    spin_stop_filter_destroy(filter);
    /* But one that ends earlier is there first, wherever it began. */
    filter = filter_of(&(struct spin_stop_strings){{"abcd", "bc"}, 2});
    assert_int_equal(spin_stop_filter_push(filter, "abcd", 4, out), 1);
    assert_int_equal(spin_stop_filter_found(filter), 1);
    spin_stop_filter_destroy(filter);
}

static void expect_refused(const struct spin_stop_strings *stop, spin_status status,
                           const char *text)
{
    struct spin_stop_filter *filter = NULL;
    struct spin_error err = {0};
    SPIN_EXPECT_STATUS(spin_stop_filter_create(stop, &filter, &err), status);
    assert_non_null(strstr(err.text, text));
    assert_null(filter);
}

static void test_limits(void **state)
{
    (void)state;
    char longest[SPIN_STOP_STRING_BYTES_MAX + 2] = {0};
    memset(longest, 'x', SPIN_STOP_STRING_BYTES_MAX + 1);
    struct spin_stop_strings stop = {{"a", longest}, 2};
    expect_refused(&stop, SPIN_ERR_INVALID, "stop[1]: 257 bytes, must be 1..256");
    stop.texts[1] = "";
    expect_refused(&stop, SPIN_ERR_INVALID, "stop[1]: 0 bytes");
    stop.texts[1] = "\xe2\x82";
    expect_refused(&stop, SPIN_ERR_INVALID, "stop[1]: not valid UTF-8");
    stop.count = SPIN_STOP_STRINGS_MAX + 1;
    expect_refused(&stop, SPIN_ERR_LIMIT, "stop: 17 strings, at most 16");

    longest[SPIN_STOP_STRING_BYTES_MAX] = '\0';
    stop = (struct spin_stop_strings){{longest}, 1};
    struct spin_stop_filter *filter = filter_of(&stop);
    char out[OUT_BYTES];
    assert_int_equal(spin_stop_filter_push(filter, longest, 255, out), 0);
    assert_int_equal(spin_stop_filter_push(filter, "y", 1, out), 256);
    assert_int_equal(spin_stop_filter_push(filter, longest, 256, out), 0);
    assert_int_equal(spin_stop_filter_found(filter), 0);
    spin_stop_filter_destroy(filter);

    filter = filter_of(&(struct spin_stop_strings){.count = 0});
    assert_int_equal(spin_stop_filter_push(filter, "all", 3, out), 3);
    assert_int_equal(spin_stop_filter_finish(filter, out), 0);
    spin_stop_filter_destroy(filter);
    spin_stop_filter_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_a_search_in_the_whole_text),
        cmocka_unit_test(test_only_what_may_match_is_held),
        cmocka_unit_test(test_of_those_that_end_together_the_first_begun),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
