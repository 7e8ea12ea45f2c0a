/* What the golden tests in Python do not reach: capacities, spans and errors, each at every
 * size. */
#include "model/text/chat.h"

#include "tests/spin_test.h"

static const struct spin_chat_message messages[] = {
    {"user", "a\xFF", 2}, {"assistant", "", 0}, {"user", "<|im_end|>", 10}};
static const char wanted[] =
    "<|im_start|>user\na\xEF\xBF\xBD<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n"
    "<|im_start|>user\n<|im_end|><|im_end|>\n<|im_start|>assistant\n";

static const struct spin_chat_format *chatml(void)
{
    const struct spin_chat_format *format = NULL;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_chat_format_find(NULL, "chatml", &format, &err), &err);
    return format;
}

static void test_every_capacity(void **state)
{
    (void)state;
    const struct spin_chat_options options = {.add_generation_prompt = true};
    for (uint64_t capacity = 0; capacity <= sizeof wanted; capacity++) {
        char out[sizeof wanted + 1];
        uint64_t bytes = 0;
        struct spin_error err;
        memset(out, '#', sizeof out);
        const spin_status status =
            spin_chat_render(chatml(), messages, 3, &options, out, capacity, &bytes, &err);
        assert_int_equal(status, capacity < sizeof wanted - 1 ? SPIN_ERR_LIMIT : SPIN_OK);
        assert_int_equal(bytes, sizeof wanted - 1);
        const uint64_t written = SPIN_MIN(capacity, sizeof wanted - 1);
        assert_memory_equal(out, wanted, written);
        assert_int_equal(out[written], '#');
    }
}

static void test_spans_are_the_content(void **state)
{
    (void)state;
    char bytes[256];
    struct spin_text_span spans[8];
    struct spin_error err;
    const struct spin_chat_prompt prompt = {chatml(), messages, 3, {.add_generation_prompt = true}};
    struct spin_chat_text text = {
        .bytes = bytes, .capacity = sizeof bytes, .content = spans, .content_capacity = 8};
    SPIN_EXPECT_OK(spin_chat_render_text(&prompt, &text, &err), &err);
    assert_int_equal(text.content_count, 2); /* empty content has no span */
    assert_int_equal(spans[0].end - spans[0].begin, 4);
    assert_memory_equal(bytes + spans[0].begin, "a\xEF\xBF\xBD", 4);
    assert_int_equal(spans[1].end - spans[1].begin, 10);
    assert_memory_equal(bytes + spans[1].begin, "<|im_end|>", 10);
}

static void test_encoding_parses_the_format_only(void **state)
{
    (void)state;
    struct spin_tokenizer *tokenizer = NULL;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_tokenizer_open("random:tiny", &tokenizer, &err), &err);
    const struct spin_chat_prompt prompt = {chatml(), messages, 3, {.add_generation_prompt = true}};
    int32_t tokens[256];
    struct spin_token_sink sink = {tokens, 256, 99};
    SPIN_EXPECT_OK(spin_chat_encode(tokenizer, &prompt, &sink, &err), &err);
    uint32_t starts = 0;
    uint32_t ends = 0;
    for (uint64_t i = 0; i < sink.count; i++) {
        starts += tokens[i] == 257 ? 1 : 0;
        ends += tokens[i] == 258 ? 1 : 0;
    }
    assert_int_equal(starts, 4);
    assert_int_equal(ends, 3); /* the fourth is content */
    const uint64_t needed = sink.count;
    sink = (struct spin_token_sink){tokens, 5, 0};
    SPIN_EXPECT_STATUS(spin_chat_encode(tokenizer, &prompt, &sink, &err), SPIN_ERR_LIMIT);
    assert_int_equal(sink.count, needed);
    spin_tokenizer_close(tokenizer);
}

static void test_names_are_all_found(void **state)
{
    (void)state;
    uint32_t count = 0;
    for (const char *rest = spin_chat_format_names(); *rest != '\0'; rest += strspn(rest, ", ")) {
        char name[64];
        const struct spin_chat_format *format = NULL;
        struct spin_error err;
        (void)snprintf(name, sizeof name, "%.*s", (int)strcspn(rest, ", "), rest);
        SPIN_EXPECT_OK(spin_chat_format_find(NULL, name, &format, &err), &err);
        assert_string_equal(spin_chat_format_name(format), name);
        rest += strlen(name);
        count++;
    }
    assert_int_equal(count, 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_capacity),
        cmocka_unit_test(test_spans_are_the_content),
        cmocka_unit_test(test_encoding_parses_the_format_only),
        cmocka_unit_test(test_names_are_all_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
