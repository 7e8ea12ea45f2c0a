/* A stream against the whole: random ids pushed one by one must give the text of all their bytes at
 * once, whole characters only, whatever the bytes are. */
#include "base/rng.h"
#include "model/text/tokenizer.h"
#include "model/text/utf8.h"
#include "tests/spin_test.h"

#define TOKENS_MAX 40u

static struct spin_tokenizer *tokenizer; /* 256 byte tokens and three special ones */

/* Bytes that begin, continue and break characters are more likely than others. */
static int32_t random_token(struct spin_rng *rng)
{
    static const int32_t likely[] = {0xC3, 0xA9, 0xE4, 0xB8, 0x96, 0xF0, 0x9F, 0x98, 0x80,
                                     0xED, 0xA0, 0xF4, 0x90, 0xFF, 'a',  257,  258};
    return spin_rng_below(rng, 8) == 0 ? (int32_t)spin_rng_below(rng, 259)
                                       : likely[spin_rng_below(rng, SPIN_ARRAY_COUNT(likely))];
}

static void compare(const int32_t *tokens, uint32_t count, bool skip_special)
{
    char bytes[TOKENS_MAX * 16];
    char whole[3 * sizeof bytes];
    char stream[3 * sizeof bytes];
    uint64_t bytes_count = 0;
    uint64_t written = 0;
    struct spin_detokenizer detokenizer;
    spin_detokenizer_init(&detokenizer, tokenizer, skip_special);
    for (uint32_t i = 0; i < count; i++) {
        const char *piece = NULL;
        uint32_t piece_bytes = 0;
        assert_true(spin_tokenizer_piece(tokenizer, tokens[i], &piece, &piece_bytes));
        if (!skip_special || !spin_tokenizer_is_special(tokenizer, tokens[i])) {
            memcpy(bytes + bytes_count, piece, piece_bytes);
            bytes_count += piece_bytes;
        }
        const uint64_t pushed = spin_detokenizer_push(&detokenizer, tokens[i], stream + written,
                                                      3 * (uint64_t)piece_bytes + 12);
        assert_int_equal(spin_utf8_valid_prefix(stream + written, pushed), pushed);
        written += pushed;
    }
    written += spin_detokenizer_finish(&detokenizer, stream + written, sizeof stream - written);
    assert_int_equal(spin_detokenizer_finish(&detokenizer, stream, sizeof stream), 0);
    const uint64_t wanted = spin_utf8_replace(bytes, bytes_count, whole);
    assert_int_equal(written, wanted);
    assert_memory_equal(stream, whole, wanted);
}

static void test_stream_equals_whole(void **state)
{
    (void)state;
    struct spin_rng rng = {.seed = 5};
    for (uint32_t round = 0; round < 20000; round++) {
        int32_t tokens[TOKENS_MAX];
        const uint32_t count = spin_rng_below(&rng, TOKENS_MAX + 1);
        for (uint32_t i = 0; i < count; i++) {
            tokens[i] = random_token(&rng);
        }
        compare(tokens, count, round % 2 == 0);
    }
}

static void test_a_character_comes_with_its_last_byte(void **state)
{
    (void)state;
    struct spin_detokenizer detokenizer;
    char out[16];
    spin_detokenizer_init(&detokenizer, tokenizer, true);
    assert_int_equal(spin_detokenizer_push(&detokenizer, 0xF0, out, sizeof out), 0);
    assert_int_equal(spin_detokenizer_push(&detokenizer, 0x9F, out, sizeof out), 0);
    assert_int_equal(spin_detokenizer_push(&detokenizer, 258, out, sizeof out), 0); /* left out */
    assert_int_equal(spin_detokenizer_push(&detokenizer, 0x98, out, sizeof out), 0);
    assert_int_equal(spin_detokenizer_push(&detokenizer, 0x80, out, sizeof out), 4);
    assert_memory_equal(out, "\xF0\x9F\x98\x80", 4);
    assert_int_equal(spin_detokenizer_finish(&detokenizer, out, sizeof out), 0);
    assert_int_equal(spin_detokenizer_push(&detokenizer, 0xE4, out, sizeof out), 0);
    assert_int_equal(spin_detokenizer_finish(&detokenizer, out, sizeof out), 3);
    assert_memory_equal(out, "\xEF\xBF\xBD", 3);
}

int main(void)
{
    struct spin_error err;
    if (spin_tokenizer_open("random:tiny", &tokenizer, &err) != SPIN_OK) {
        (void)fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream_equals_whole),
        cmocka_unit_test(test_a_character_comes_with_its_last_byte),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    spin_tokenizer_close(tokenizer);
    return failed;
}
