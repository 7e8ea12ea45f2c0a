/* Tokens of a random model, one per byte, so that every cut through a character occurs: what
 * comes out at each step is whole characters, and altogether the text that was encoded. */
#include "client/text_stream.h"

#include "tests/spin_test.h"

#define TOKENS_MAX 256u

struct fixture {
    struct spin_tokenizer *tokenizer;
    int32_t tokens[TOKENS_MAX];
    uint64_t count;
    char text[1024];
    uint64_t bytes;
};

static void encode(struct fixture *fixture, const char *text)
{
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_tokenizer_open("random:tiny", &fixture->tokenizer, &err), &err);
    SPIN_EXPECT_OK(spin_tokenizer_encode(fixture->tokenizer, text, strlen(text), SPIN_ENCODE_PLAIN,
                                         fixture->tokens, TOKENS_MAX, &fixture->count, &err),
                   &err);
    assert_int_equal(fixture->count, strlen(text)); /* one token a byte: the worst case */
}

static void keep(struct fixture *fixture, struct spin_text text)
{
    /* A character never starts with a continuation byte. */
    assert_true(text.count == 0 || ((uint8_t)text.bytes[0] & 0xC0) != 0x80);
    memcpy(fixture->text + fixture->bytes, text.bytes, text.count);
    fixture->bytes += text.count;
}

static void stream_all(struct fixture *fixture, const char *stop, uint64_t count)
{
    struct spin_text_stream *stream = NULL;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_text_stream_create(fixture->tokenizer, stop, &stream, &err), &err);
    fixture->bytes = 0;
    for (uint64_t i = 0; i < count && !spin_text_stream_stopped(stream); i++) {
        struct spin_text text;
        SPIN_EXPECT_OK(spin_text_stream_push(stream, fixture->tokens[i], &text, &err), &err);
        keep(fixture, text);
    }
    keep(fixture, spin_text_stream_finish(stream));
    spin_text_stream_destroy(stream);
}

static void expect_text(const struct fixture *fixture, const char *wanted)
{
    assert_int_equal(fixture->bytes, strlen(wanted));
    assert_memory_equal(fixture->text, wanted, fixture->bytes);
}

static void test_text_comes_back_in_whole_characters(void **state)
{
    (void)state;
    static struct fixture fixture;
    const char *text = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80 end";
    encode(&fixture, text);
    stream_all(&fixture, NULL, fixture.count);
    expect_text(&fixture, text);
    stream_all(&fixture, NULL, 8); /* ends inside the emoji */
    expect_text(&fixture, "a\xc3\xa9\xe2\x82\xac\xef\xbf\xbd");
    stream_all(&fixture, "\xe2\x82\xac", fixture.count);
    expect_text(&fixture, "a\xc3\xa9");
    stream_all(&fixture, "endless", fixture.count); /* held back, then let go */
    expect_text(&fixture, text);
    spin_tokenizer_close(fixture.tokenizer);
}

static void test_a_foreign_token_is_refused(void **state)
{
    (void)state;
    static struct fixture fixture;
    encode(&fixture, "x");
    struct spin_text_stream *stream = NULL;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_text_stream_create(fixture.tokenizer, NULL, &stream, &err), &err);
    struct spin_text text;
    const int32_t vocab = (int32_t)spin_tokenizer_vocab(fixture.tokenizer);
    SPIN_EXPECT_STATUS(spin_text_stream_push(stream, vocab, &text, &err), SPIN_ERR_INVALID);
    assert_non_null(strstr(err.text, "--model"));
    SPIN_EXPECT_STATUS(spin_text_stream_push(stream, -1, &text, &err), SPIN_ERR_INVALID);
    spin_text_stream_destroy(stream);
    spin_tokenizer_close(fixture.tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_comes_back_in_whole_characters),
        cmocka_unit_test(test_a_foreign_token_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
