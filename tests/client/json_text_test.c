/* Strings against what RFC 8259 and Unicode 15 table 3-7 say they are; the Python tests read whole
 * outputs back with a JSON parser that we did not write. */
#include "client/json_text.h"

#include "tests/spin_test.h"

static void expect(const char *bytes, uint64_t count, const char *wanted)
{
    char out[256] = {0};
    FILE *stream = fmemopen(out, sizeof out, "w");
    assert_non_null(stream);
    spin_json_write_string(stream, bytes, count);
    (void)fclose(stream);
    assert_string_equal(out, wanted);
}

#define EXPECT(literal, wanted) expect((literal), sizeof(literal) - 1, (wanted))

static void test_escapes(void **state)
{
    (void)state;
    EXPECT("", "\"\"");
    EXPECT("plain / text", "\"plain / text\"");
    EXPECT("a\"b\\c\nd\te", "\"a\\\"b\\\\c\\nd\\u0009e\"");
    EXPECT("\0\x1f\x7f", "\"\\u0000\\u001f\\u007f\"");
}

static void test_utf8_passes_and_the_rest_is_replaced(void **state)
{
    (void)state;
    EXPECT("\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "\"\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\"");
    EXPECT("\xff", "\"\\ufffd\"");
    EXPECT("\xc3", "\"\\ufffd\"");                                  /* cut */
    EXPECT("\xc0\x80", "\"\\ufffd\\ufffd\"");                       /* overlong */
    EXPECT("\xe0\x80\x80", "\"\\ufffd\\ufffd\\ufffd\"");            /* overlong */
    EXPECT("\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\"");            /* a surrogate */
    EXPECT("\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\""); /* over U+10FFFF */
    EXPECT("\xe2\x82x", "\"\\ufffd\\ufffdx\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_escapes),
        cmocka_unit_test(test_utf8_passes_and_the_rest_is_replaced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
