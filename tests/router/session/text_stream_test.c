/* The stream against a model that has the whole text before it: the bytes of all tokens in a row,
 * decoded at once, searched for every stop string. Random tokens, among them pieces that cut
 * through characters, special ones and some without text; after every token the stream must have
 * let out exactly what the model lets out for the tokens so far, and count exactly its tokens. */
#include "router/session/text_stream.h"

#include "base/rng.h"
#include "model/text/utf8.h"
#include "tests/model/text/small_json.h"
#include "tests/spin_test.h"

#define TOKENS_MAX 48u
#define TEXT_BYTES_MAX 1024u
#define STOPS_MAX 4u
#define STOP_TEXT_BYTES 64 /* of 12 characters of 3 bytes */

/* Beside the bytes: one of every kind of piece. The letters of bytes are GPT-2's: "â" is E2, "Ĥ"
 * 82, "¬" AC. */
static const struct small_json pieces = {
    .vocab = "\"aâ\":256,\"Ĥ¬b\":257,\"abab\":258,\"bbaâĤ\":259",
    .merges = "",
    .added = "{\"id\":260,\"content\":\"<|end|>\",\"special\":true},"
             "{\"id\":261,\"content\":\"€é\",\"special\":false},"
             "{\"id\":262,\"content\":\"ab€ab€abé\",\"special\":false}",
};
static const int32_t drawn_tokens[] = {'a',  'a',  'b', 'b', 0xC3, 0xA9, 0xE2, 0x82, 0xAC,
                                       0xFF, 0xF0, 256, 257, 258,  259,  260,  261,  262};
static const char *const characters[] = {"a", "b", "\xc3\xa9", "\xe2\x82\xac", "\xef\xbf\xbd"};

static struct spin_tokenizer *open_pieces(void)
{
    struct spin_tokenizer *tokenizer = NULL;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_small_json_open(&pieces, NULL, &tokenizer, &err), &err);
    return tokenizer;
}

/* --- the model --- */

struct whole {
    char text[TEXT_BYTES_MAX];
    uint32_t bytes;
    uint32_t ends[TOKENS_MAX]; /* UINT32_MAX: in a character that is not whole */
};

static void decode(const struct spin_tokenizer *tokenizer, const int32_t *tokens, uint32_t count,
                   bool ended, struct whole *out)
{
    char raw[TEXT_BYTES_MAX];
    uint32_t raw_bytes = 0;
    uint32_t raw_ends[TOKENS_MAX];
    for (uint32_t i = 0; i < count; i++) {
        const char *piece = NULL;
        uint32_t bytes = 0;
        assert_true(spin_tokenizer_piece(tokenizer, tokens[i], &piece, &bytes));
        if (!spin_tokenizer_is_special(tokenizer, tokens[i])) {
            memcpy(raw + raw_bytes, piece, bytes);
            raw_bytes += bytes;
        }
        raw_ends[i] = raw_bytes;
        out->ends[i] = raw_bytes == 0 ? 0 : UINT32_MAX;
    }
    out->bytes = 0;
    for (uint32_t at = 0; at < raw_bytes;) {
        uint32_t length = 0;
        const enum spin_utf8_kind kind = spin_utf8_step(raw + at, raw_bytes - at, &length);
        if (kind == SPIN_UTF8_TRUNCATED && !ended) {
            break;
        }
        const bool good = kind == SPIN_UTF8_WHOLE;
        const uint32_t written = good ? length : SPIN_UTF8_REPLACEMENT_BYTES;
        memcpy(out->text + out->bytes, good ? raw + at : SPIN_UTF8_REPLACEMENT, written);
        out->bytes += written;
        for (uint32_t i = 0; i < count; i++) {
            if (raw_ends[i] > at && raw_ends[i] <= at + length) {
                out->ends[i] = out->bytes;
            }
        }
        at += length;
    }
}

struct let_out {
    int32_t stop;
    uint32_t bytes;
    uint32_t tokens;
};

static bool begins_here(const struct whole *whole, uint32_t at, const char *text)
{
    const uint32_t bytes = (uint32_t)strlen(text);
    return at + bytes <= whole->bytes && memcmp(whole->text + at, text, bytes) == 0;
}

static struct let_out search(const struct whole *whole, const struct spin_stop_strings *stop,
                             bool ended)
{
    struct let_out found = {.stop = -1};
    uint32_t found_end = UINT32_MAX;
    uint32_t held = 0;
    for (uint32_t i = 0; i < stop->count; i++) {
        const uint32_t bytes = (uint32_t)strlen(stop->texts[i]);
        for (uint32_t at = 0; at < whole->bytes; at++) {
            const uint32_t left = whole->bytes - at;
            if (begins_here(whole, at, stop->texts[i]) &&
                (at + bytes < found_end || (at + bytes == found_end && at < found.bytes))) {
                found = (struct let_out){.stop = (int32_t)i, .bytes = at};
                found_end = at + bytes;
            }
            if (left < bytes && left > held &&
                memcmp(whole->text + at, stop->texts[i], left) == 0) {
                held = left;
            }
        }
    }
    if (found.stop < 0) {
        found.bytes = whole->bytes - (ended ? 0 : held);
    }
    return found;
}

static struct let_out model(const struct whole *whole, uint32_t count,
                            const struct spin_stop_strings *stop, bool ended)
{
    struct let_out out = search(whole, stop, ended);
    while (out.tokens < count && whole->ends[out.tokens] <= out.bytes) {
        out.tokens++;
    }
    return out;
}

/* --- the comparison --- */

struct seen {
    char text[TEXT_BYTES_MAX];
    uint32_t bytes;
    uint32_t tokens;
};

static void keep(struct seen *seen, struct spin_text text)
{
    memcpy(seen->text + seen->bytes, text.bytes, text.count);
    seen->bytes += (uint32_t)text.count;
    seen->tokens += text.tokens;
    assert_int_equal(spin_utf8_valid_prefix(seen->text, seen->bytes), seen->bytes);
}

static void compare(const struct seen *seen, const struct whole *whole, struct let_out wanted,
                    const struct spin_text_stream *stream)
{
    assert_int_equal(spin_text_stream_stopped(stream), wanted.stop);
    assert_int_equal(seen->bytes, wanted.bytes);
    assert_memory_equal(seen->text, whole->text, wanted.bytes);
    assert_int_equal(seen->tokens, wanted.tokens);
}

static void run_case(const struct spin_tokenizer *tokenizer, const int32_t *tokens, uint32_t count,
                     const struct spin_stop_strings *stop)
{
    struct spin_text_stream *stream = NULL;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_text_stream_create(tokenizer, stop, &stream, &err), &err);
    struct seen seen = {.bytes = 0};
    struct whole whole;
    struct let_out wanted = {.stop = -1};
    for (uint32_t i = 0; i < count; i++) {
        struct spin_text text;
        SPIN_EXPECT_OK(spin_text_stream_push(stream, tokens[i], &text, &err), &err);
        keep(&seen, text);
        if (wanted.stop < 0) { /* else nothing may change any more */
            decode(tokenizer, tokens, i + 1, false, &whole);
            wanted = model(&whole, i + 1, stop, false);
        }
        compare(&seen, &whole, wanted, stream);
    }
    keep(&seen, spin_text_stream_finish(stream));
    if (wanted.stop < 0) {
        decode(tokenizer, tokens, count, true, &whole);
        wanted = model(&whole, count, stop, true);
    }
    compare(&seen, &whole, wanted, stream);
    spin_text_stream_destroy(stream);
}

/* Strings of a few characters; one in two begins like the one before it. */
static void draw_stop(struct spin_rng *rng, char texts[][STOP_TEXT_BYTES],
                      struct spin_stop_strings *stop)
{
    stop->count = spin_rng_below(rng, STOPS_MAX + 1);
    for (uint32_t i = 0; i < stop->count; i++) {
        const bool longer = i > 0 && spin_rng_below(rng, 2) == 0;
        int bytes = snprintf(texts[i], STOP_TEXT_BYTES, "%s", longer ? texts[i - 1] : "");
        for (uint32_t left = 1 + spin_rng_below(rng, 3); left > 0; left--) {
            bytes += snprintf(texts[i] + bytes, (size_t)(STOP_TEXT_BYTES - bytes), "%s",
                              characters[spin_rng_below(rng, SPIN_ARRAY_COUNT(characters))]);
            assert_in_range(bytes, 1, STOP_TEXT_BYTES - 1);
        }
        stop->texts[i] = texts[i];
    }
}

static void test_equals_the_whole_text_model(void **state)
{
    (void)state;
    struct spin_tokenizer *tokenizer = open_pieces();
    struct spin_rng rng = {.seed = 11};
    for (uint32_t round = 0; round < 4000; round++) {
        int32_t tokens[TOKENS_MAX];
        const uint32_t count = 1 + spin_rng_below(&rng, TOKENS_MAX);
        for (uint32_t i = 0; i < count; i++) {
            tokens[i] = drawn_tokens[spin_rng_below(&rng, SPIN_ARRAY_COUNT(drawn_tokens))];
        }
        char texts[STOPS_MAX][STOP_TEXT_BYTES];
        struct spin_stop_strings stop;
        draw_stop(&rng, texts, &stop);
        run_case(tokenizer, tokens, count, &stop);
    }
    spin_tokenizer_close(tokenizer);
}

/* One string that begins again and again, another a prefix of it, over tokens of one byte. */
static void test_overlapping_beginnings(void **state)
{
    (void)state;
    struct spin_tokenizer *tokenizer = open_pieces();
    static const char text[] = "aabaabaaabaabaabaaaab\xe2\x82\xac\xe2\x82\xac";
    int32_t tokens[TOKENS_MAX];
    for (uint32_t i = 0; i < sizeof text - 1; i++) {
        tokens[i] = (uint8_t)text[i];
    }
    static const struct spin_stop_strings cases[] = {
        {{"aabaabaab", "aaaa"}, 2},
        {{"aabaabaabaaaab\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac"}, 1},
        {{"baaaab", "baaab", "baab\xe2\x82\xac"}, 3},
        {{"\xe2\x82\xac\xe2\x82\xac", "\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac"}, 2},
        {{"b", "bb"}, 2},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(cases); i++) {
        run_case(tokenizer, tokens, sizeof text - 1, &cases[i]);
    }
    spin_tokenizer_close(tokenizer);
}

/* Tokens without text wait behind what is held back; there may be any number of them. */
static void test_tokens_without_text(void **state)
{
    (void)state;
    struct spin_tokenizer *tokenizer = open_pieces();
    struct spin_text_stream *stream = NULL;
    struct spin_error err = {0};
    const struct spin_stop_strings stop = {{"ab"}, 1};
    SPIN_EXPECT_OK(spin_text_stream_create(tokenizer, &stop, &stream, &err), &err);
    struct spin_text text;
    SPIN_EXPECT_OK(spin_text_stream_push(stream, SMALL_END, &text, &err), &err);
    assert_int_equal(text.tokens, 1);
    SPIN_EXPECT_OK(spin_text_stream_push(stream, 'a', &text, &err), &err);
    assert_int_equal(text.tokens, 0);
    for (uint32_t i = 0; i < 100000; i++) {
        SPIN_EXPECT_OK(spin_text_stream_push(stream, SMALL_END, &text, &err), &err);
        assert_int_equal(text.tokens, 0);
    }
    SPIN_EXPECT_OK(spin_text_stream_push(stream, 'c', &text, &err), &err);
    assert_int_equal(text.tokens, 100002);
    assert_int_equal(text.count, 2);
    assert_memory_equal(text.bytes, "ac", 2);
    spin_text_stream_destroy(stream);
    spin_tokenizer_close(tokenizer);
}

static void test_refusals(void **state)
{
    (void)state;
    struct spin_tokenizer *tokenizer = open_pieces();
    struct spin_text_stream *stream = NULL;
    struct spin_error err = {0};
    const struct spin_stop_strings empty = {{""}, 1};
    SPIN_EXPECT_STATUS(spin_text_stream_create(tokenizer, &empty, &stream, &err), SPIN_ERR_INVALID);
    const struct spin_stop_strings none = {.count = 0};
    SPIN_EXPECT_OK(spin_text_stream_create(tokenizer, &none, &stream, &err), &err);
    struct spin_text text;
    const int32_t vocab = (int32_t)spin_tokenizer_vocab(tokenizer);
    SPIN_EXPECT_STATUS(spin_text_stream_push(stream, vocab, &text, &err), SPIN_ERR_INVALID);
    assert_non_null(strstr(err.text, "another model's"));
    SPIN_EXPECT_STATUS(spin_text_stream_push(stream, -1, &text, &err), SPIN_ERR_INVALID);
    spin_text_stream_destroy(stream);
    spin_text_stream_destroy(NULL);
    spin_tokenizer_close(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_the_whole_text_model),
        cmocka_unit_test(test_overlapping_beginnings),
        cmocka_unit_test(test_tokens_without_text),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
