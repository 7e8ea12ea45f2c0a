/* Opening, encoding and asking: a small tokenizer whose tokens can be counted by hand, and the byte
 * tokenizer of random models. */
#include "model/text/tokenizer.h"

#include "model/text/encode.h"
#include "tests/model/text/small_json.h"
#include "tests/spin_test.h"

static struct spin_tokenizer *open_small(const struct small_json *json)
{
    struct spin_tokenizer *tokenizer = NULL;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_small_json_open(json, NULL, &tokenizer, &err), &err);
    return tokenizer;
}

static void expect_tokens(const struct spin_tokenizer *tokenizer, const char *text, uint32_t flags,
                          const int32_t *wanted, uint64_t wanted_count)
{
    int32_t tokens[64];
    uint64_t count = 0;
    struct spin_error err;
    SPIN_EXPECT_OK(
        spin_tokenizer_encode(tokenizer, text, strlen(text), flags, tokens, 64, &count, &err),
        &err);
    assert_int_equal(count, wanted_count);
    assert_memory_equal(tokens, wanted, count * sizeof *tokens);
}
#define EXPECT_TOKENS(tokenizer, text, flags, ...) \
    expect_tokens((tokenizer), (text), (flags), (const int32_t[]){__VA_ARGS__}, \
                  SPIN_ARRAY_COUNT(((const int32_t[]){__VA_ARGS__})))

static void test_merges_and_added_tokens(void **state)
{
    (void)state;
    struct spin_tokenizer *tokenizer = open_small(&(struct small_json){0});
    EXPECT_TOKENS(tokenizer, "hello", SPIN_ENCODE_PLAIN, SMALL_HELLO);
    EXPECT_TOKENS(tokenizer, "hell he", SPIN_ENCODE_PLAIN, SMALL_HELL, ' ', SMALL_HE);
    EXPECT_TOKENS(tokenizer, "<tool>x", SPIN_ENCODE_PLAIN, SMALL_TOOL, 'x');
    EXPECT_TOKENS(tokenizer, "a<|end|>", SPIN_ENCODE_PARSE_SPECIAL, 'a', SMALL_END);
    EXPECT_TOKENS(tokenizer, "<|end|>", SPIN_ENCODE_PLAIN, '<', '|', 'e', 'n', 'd', '|', '>');
    assert_int_equal(spin_tokenizer_vocab(tokenizer), SMALL_COUNT);
    assert_true(spin_tokenizer_is_special(tokenizer, SMALL_END));
    assert_false(spin_tokenizer_is_special(tokenizer, SMALL_TOOL));
    assert_false(spin_tokenizer_is_special(tokenizer, -1));
    assert_int_equal(spin_tokenizer_bos(tokenizer), -1);
    assert_null(spin_tokenizer_chat_template(tokenizer));
    assert_int_equal(spin_tokenizer_piece_bytes_max(tokenizer), strlen("<|end|>"));
    spin_tokenizer_close(tokenizer);
}

static void test_longest_added_token_wins(void **state)
{
    (void)state;
    struct spin_tokenizer *tokenizer = open_small(
        &(struct small_json){.added = "{\"id\":260,\"content\":\"ab\",\"special\":false},"
                                      "{\"id\":261,\"content\":\"abc\",\"special\":false},"
                                      "{\"id\":262,\"content\":\"b\",\"special\":false},"
                                      "{\"id\":263,\"content\":\"abcde\",\"special\":true}"});
    EXPECT_TOKENS(tokenizer, "abcd", SPIN_ENCODE_PLAIN, 261, 'd');
    EXPECT_TOKENS(tokenizer, "abab", SPIN_ENCODE_PLAIN, 260, 260);
    EXPECT_TOKENS(tokenizer, "cbab", SPIN_ENCODE_PLAIN, 'c', 262, 260);
    EXPECT_TOKENS(tokenizer, "abcde", SPIN_ENCODE_PARSE_SPECIAL, 263);
    /* As in the package: one that may not be parsed is stepped over, with what is inside. */
    EXPECT_TOKENS(tokenizer, "abcdeab", SPIN_ENCODE_PLAIN, 'a', 'b', 'c', 'd', 'e', 260);
    spin_tokenizer_close(tokenizer);
}

static void test_capacity_is_told(void **state)
{
    (void)state;
    struct spin_tokenizer *tokenizer = open_small(&(struct small_json){0});
    int32_t tokens[3] = {-7, -7, -7};
    uint64_t count = 0;
    struct spin_error err;
    SPIN_EXPECT_STATUS(
        spin_tokenizer_encode(tokenizer, "abcd", 4, SPIN_ENCODE_PLAIN, tokens, 2, &count, &err),
        SPIN_ERR_LIMIT);
    assert_int_equal(count, 4);
    assert_int_equal(tokens[2], -7);
    SPIN_EXPECT_OK(
        spin_tokenizer_encode(tokenizer, "", 0, SPIN_ENCODE_PLAIN, tokens, 0, &count, &err), &err);
    assert_int_equal(count, 0);
    SPIN_EXPECT_STATUS(spin_tokenizer_encode(tokenizer, "", SPIN_TOKENIZER_TEXT_BYTES_MAX + 1,
                                             SPIN_ENCODE_PLAIN, tokens, 3, &count, &err),
                       SPIN_ERR_LIMIT);
    assert_int_equal(count, 0);
    spin_tokenizer_close(tokenizer);
}

static void test_bos_where_the_model_has_it(void **state)
{
    (void)state;
    struct spin_tokenizer *tokenizer = open_small(&(struct small_json){
        .post_processor =
            "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<|end|>\"}},"
            "{\"Sequence\":{\"id\":\"A\"}}]}"});
    EXPECT_TOKENS(tokenizer, "a", SPIN_ENCODE_ADD_BOS, SMALL_END, 'a');
    EXPECT_TOKENS(tokenizer, "a", SPIN_ENCODE_PLAIN, 'a');
    assert_int_equal(spin_tokenizer_bos(tokenizer), SMALL_END);
    spin_tokenizer_close(tokenizer);
    tokenizer = open_small(&(struct small_json){0});
    EXPECT_TOKENS(tokenizer, "a", SPIN_ENCODE_ADD_BOS, 'a');
    spin_tokenizer_close(tokenizer);
}

static void test_whole_pieces_skip_merges_on_request(void **state)
{
    (void)state;
    struct small_json json = {.model = "\"ignore_merges\":true,", .merges = "\"h e\""};
    struct spin_tokenizer *tokenizer = open_small(&json);
    EXPECT_TOKENS(tokenizer, "hello", SPIN_ENCODE_PLAIN, SMALL_HELLO);
    EXPECT_TOKENS(tokenizer, "hellos", SPIN_ENCODE_PLAIN, SMALL_HE, 'l', 'l', 'o', 's');
    spin_tokenizer_close(tokenizer);
    json.model = NULL;
    tokenizer = open_small(&json);
    EXPECT_TOKENS(tokenizer, "hello", SPIN_ENCODE_PLAIN, SMALL_HE, 'l', 'l', 'o');
    spin_tokenizer_close(tokenizer);
}

/* A span of literal text keeps its special tokens text, and cannot swallow one that begins behind
 * it. */
static void test_literal_spans(void **state)
{
    (void)state;
    struct spin_tokenizer *tokenizer = open_small(
        &(struct small_json){.added = "{\"id\":260,\"content\":\"#\",\"special\":true},"
                                      "{\"id\":261,\"content\":\"x#\",\"special\":true},"
                                      "{\"id\":262,\"content\":\"#y\",\"special\":true}"});
    static const struct spin_text_span spans[] = {{1, 3}, {4, 5}};
    /* "#x##y": bytes 1, 2 and 4 are content */
    const struct spin_encode_input input = {
        .text = {"#x##y", 5},
        .flags = SPIN_ENCODE_PARSE_SPECIAL,
        .literal = spans,
        .literal_count = 2,
    };
    int32_t tokens[8];
    struct spin_token_sink sink = {tokens, 8, 0};
    struct spin_error err;
    SPIN_EXPECT_OK(spin_tokenizer_encode_input(tokenizer, &input, &sink, &err), &err);
    /* "x#" is content and stays text; "#y" runs from the format into content: its "#" is the
     * format's. */
    const int32_t wanted[] = {260, 'x', '#', 260, 'y'};
    assert_int_equal(sink.count, 5);
    assert_memory_equal(tokens, wanted, sizeof wanted);
    spin_tokenizer_close(tokenizer);
}

static void test_random_source_is_bytes(void **state)
{
    (void)state;
    struct spin_tokenizer *tokenizer = NULL;
    struct spin_error err;
    const char *piece;
    uint32_t bytes = 0;
    SPIN_EXPECT_OK(spin_tokenizer_open("random:tiny", &tokenizer, &err), &err);
    EXPECT_TOKENS(tokenizer, "a \n\xC3\xA9", SPIN_ENCODE_ADD_BOS, 'a', ' ', '\n', 0xC3, 0xA9);
    EXPECT_TOKENS(tokenizer, "<|im_end|><|endoftext|>", SPIN_ENCODE_PARSE_SPECIAL, 258, 256);
    for (int32_t id = 0; id < 256; id++) {
        assert_true(spin_tokenizer_piece(tokenizer, id, &piece, &bytes));
        assert_int_equal(bytes, 1);
        assert_int_equal((uint8_t)piece[0], id);
    }
    /* Random weights answer with ids beyond: they are known and empty. */
    assert_true(spin_tokenizer_piece(tokenizer, 200000, &piece, &bytes));
    assert_int_equal(bytes, 0);
    assert_false(
        spin_tokenizer_piece(tokenizer, (int32_t)SPIN_TOKENIZER_VOCAB_MAX, &piece, &bytes));
    int32_t ends[4];
    assert_int_equal(spin_tokenizer_end_tokens(tokenizer, ends, 1), 2);
    assert_int_equal(ends[0], 256);
    assert_true(spin_tokenizer_is_end(tokenizer, 258));
    assert_false(spin_tokenizer_is_end(tokenizer, 257));
    spin_tokenizer_close(tokenizer);
}

static void test_sources_that_are_not_there(void **state)
{
    (void)state;
    struct spin_tokenizer *tokenizer = NULL;
    struct spin_error err;
    static const char *const absent[] = {"/nowhere/model.gguf", "/nowhere/tokenizer.json", "/dev"};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(absent); i++) {
        SPIN_EXPECT_STATUS(spin_tokenizer_open(absent[i], &tokenizer, &err), SPIN_ERR_NOT_FOUND);
        assert_null(tokenizer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merges_and_added_tokens),
        cmocka_unit_test(test_longest_added_token_wins),
        cmocka_unit_test(test_capacity_is_told),
        cmocka_unit_test(test_bos_where_the_model_has_it),
        cmocka_unit_test(test_whole_pieces_skip_merges_on_request),
        cmocka_unit_test(test_literal_spans),
        cmocka_unit_test(test_random_source_is_bytes),
        cmocka_unit_test(test_sources_that_are_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
