/* NFC against examples of Unicode Standard Annex 15 and its test file, and against utf8proc's own
 * whole-string function, which orders marks by another algorithm. */
#include "model/text/normalize.h"

#include "base/rng.h"
#include "model/text/utf8.h"
#include "tests/spin_test.h"

#include <utf8proc.h>

static struct spin_arena *arena;

static struct spin_string nfc(const char *text, uint64_t bytes)
{
    struct spin_string out = {NULL, 0};
    SPIN_EXPECT_OK(spin_normalize_nfc((struct spin_string){text, bytes}, arena, &out), NULL);
    return out;
}

struct example {
    const char *text;
    const char *wanted;
};

static void test_examples(void **state)
{
    (void)state;
    static const struct example examples[] = {
        {"", ""},
        {"ASCII only", "ASCII only"},
        {"e\u0301", "\u00e9"},
        {"\u212b", "\u00c5"},             /* ANGSTROM SIGN: a singleton */
        {"\u1e0b\u0323", "\u1e0d\u0307"}, /* marks change places, one composes */
        {"q\u0307\u0323", "q\u0323\u0307"},
        {"\u1100\u1161\u11a8", "\uac01"},       /* Hangul L V T */
        {"\uac00\u11a8", "\uac01"},             /* LV T */
        {"\u0958", "\u0915\u093c"},             /* composition exclusion */
        {"\U0001d15e", "\U0001d157\U0001d165"}, /* grows */
        {"\ufb01", "\ufb01"},                   /* compatibility only: stays */
        {"\u304b\u3099\u304b", "\u304c\u304b"}, /* kana and voicing mark */
        {"a\u0300\u4e16\u754c e\u0301x", "\u00e0\u4e16\u754c \u00e9x"},
        {"\u0344", "\u0308\u0301"},
        {"x\u0301", "x\u0301"},
        {"\u0301a", "\u0301a"},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(examples); i++) {
        const struct spin_string out = nfc(examples[i].text, strlen(examples[i].text));
        assert_int_equal(out.count, strlen(examples[i].wanted));
        assert_memory_equal(out.bytes, examples[i].wanted, out.count);
        spin_arena_reset(arena);
    }
}

static void compare_with_utf8proc(const char *text, uint64_t bytes)
{
    utf8proc_uint8_t *wanted = NULL;
    const utf8proc_ssize_t count =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &wanted,
                     UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    assert_true(count >= 0);
    const struct spin_string out = nfc(text, bytes);
    assert_int_equal(out.count, count);
    assert_memory_equal(out.bytes, wanted, out.count);
    free(wanted);
    spin_arena_reset(arena);
}

/* Every code point after a letter and before a mark; every place where a run can be cut. */
static void test_every_code_point(void **state)
{
    (void)state;
    for (uint32_t point = 1; point < 0x110000; point++) {
        if (point >= 0xD800 && point <= 0xDFFF) {
            continue;
        }
        char text[16] = "a";
        uint32_t bytes = 1 + spin_utf8_encode(point, text + 1);
        bytes += spin_utf8_encode(0x301, text + bytes);
        compare_with_utf8proc(text, bytes);
    }
}

static void test_random_marks(void **state)
{
    (void)state;
    static const uint32_t points[] = {'a',     'e',    0xE9,   0x300,  0x301,  0x315,
                                      0x323,   0x5AE,  0x9BE,  0x9C7,  0x1100, 0x1161,
                                      0x11A8,  0xAC00, 0x304B, 0x3099, 0x4E16, 0x1D15E,
                                      0x1F3FF, 0x212B, 0x1DCE, 0x419,  0x306};
    struct spin_rng rng = {.seed = 1};
    for (uint32_t round = 0; round < 20000; round++) {
        char text[512];
        uint32_t bytes = 0;
        const uint32_t count = 1 + spin_rng_below(&rng, round % 50 == 0 ? 100 : 12);
        const uint32_t from = round % 50 == 0 ? 3 : 0; /* long runs of marks */
        const uint32_t kinds = round % 50 == 0 ? 5 : SPIN_ARRAY_COUNT(points);
        for (uint32_t i = 0; i < count; i++) {
            bytes += spin_utf8_encode(points[from + spin_rng_below(&rng, kinds)], text + bytes);
        }
        compare_with_utf8proc(text, bytes);
    }
}

/* Sorting neighbours would need 10^11 steps here; the test's time limit is the check. */
static void test_many_marks_are_sorted_in_linear_time(void **state)
{
    (void)state;
    const uint32_t pairs = 1u << 19;
    char *text = malloc(4 * (size_t)pairs);
    assert_non_null(text);
    for (uint32_t i = 0; i < pairs; i++) {
        uint32_t bytes = spin_utf8_encode(i < pairs / 2 ? 0x315 : 0x301, text + 4 * (size_t)i);
        bytes += spin_utf8_encode(i < pairs / 2 ? 0x301 : 0x323, text + 4 * (size_t)i + bytes);
        assert_int_equal(bytes, 4);
    }
    const struct spin_string out = nfc(text, 4 * (uint64_t)pairs);
    assert_int_equal(out.count, 4 * (uint64_t)pairs);
    /* U+0323 (220) before U+0301 (230) before U+0315 (232) */
    assert_memory_equal(out.bytes, "\u0323", 2);
    assert_memory_equal(out.bytes + out.count - 2, "\u0315", 2);
    free(text);
    spin_arena_reset(arena);
}

int main(void)
{
    struct spin_error err;
    if (spin_arena_create(1 << 16, 1 << 28, &arena, &err) != SPIN_OK) {
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_examples),
        cmocka_unit_test(test_every_code_point),
        cmocka_unit_test(test_random_marks),
        cmocka_unit_test(test_many_marks_are_sorted_in_linear_time),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    spin_arena_destroy(arena);
    return failed;
}
