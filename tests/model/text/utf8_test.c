/* The replacement rule against the examples of the Unicode standard, section 3.9, and a round trip
 * of every code point. */
#include "model/text/utf8.h"

#include "tests/spin_test.h"

#define FFFD "\xEF\xBF\xBD"

struct replaced {
    const char *bytes;
    const char *wanted;
};

static void test_replacement_of_maximal_subparts(void **state)
{
    (void)state;
    static const struct replaced cases[] = {
        {"", ""},
        {"plain", "plain"},
        /* Tables 3-8 to 3-11 of the standard. */
        {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A"},
        {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A"},
        {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", FFFD FFFD FFFD FFFD FFFD "A" FFFD FFFD "B"},
        {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", FFFD FFFD FFFD FFFD "A"},
        {"ends in \xF0\x9F\x98", "ends in " FFFD},
        {"\xE4\xB8\x96\xE4\xB8", "\xE4\xB8\x96" FFFD},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(cases); i++) {
        char out[256];
        const uint64_t count = strlen(cases[i].bytes);
        const uint64_t written = spin_utf8_replace(cases[i].bytes, count, out);
        out[written] = '\0';
        assert_string_equal(out, cases[i].wanted);
        assert_int_equal(spin_utf8_valid_prefix(out, written), written);
    }
}

static void test_every_code_point_comes_back(void **state)
{
    (void)state;
    for (uint32_t point = 0; point < 0x110000; point++) {
        char bytes[4];
        const uint32_t written = spin_utf8_encode(point, bytes);
        uint32_t length = 0;
        const enum spin_utf8_kind kind = spin_utf8_step(bytes, written, &length);
        if (point >= 0xD800 && point <= 0xDFFF) {
            assert_int_equal(kind, SPIN_UTF8_INVALID);
            continue;
        }
        assert_int_equal(kind, SPIN_UTF8_WHOLE);
        assert_int_equal(length, written);
        assert_int_equal(spin_utf8_decode(bytes, &length), point);
        assert_int_equal(length, written);
        for (uint32_t cut = 1; cut < written; cut++) {
            assert_int_equal(spin_utf8_step(bytes, cut, &length), SPIN_UTF8_TRUNCATED);
            assert_int_equal(length, cut);
        }
    }
}

static void test_valid_prefix_stops_at_any_place(void **state)
{
    (void)state;
    char text[64];
    for (uint32_t bad = 0; bad < sizeof text; bad++) {
        memset(text, 'a', sizeof text);
        text[bad] = (char)0xFF;
        assert_int_equal(spin_utf8_valid_prefix(text, sizeof text), bad);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replacement_of_maximal_subparts),
        cmocka_unit_test(test_every_code_point_comes_back),
        cmocka_unit_test(test_valid_prefix_stops_at_any_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
