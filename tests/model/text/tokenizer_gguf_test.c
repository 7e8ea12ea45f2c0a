/* GGUF metadata: a small file with one key wrong at a time, and the demo model under the
 * sanitizers. */
#include "model/text/tokenizer.h"
#include "model/text/utf8.h"
#include "model/text/vocab.h"
#include "tests/spin_test.h"

#include <unistd.h>

enum { TYPE_U32 = 4, TYPE_I32 = 5, TYPE_BOOL = 7, TYPE_STRING = 8, TYPE_ARRAY = 9 };

static const char *demo_model; /* a path */

/* A GGUF file with 256 byte tokens, "he" and "<|im_end|>", as it is written. */
struct writer {
    uint8_t bytes[32768];
    uint64_t count;
    uint32_t keys;
};

static void put(struct writer *writer, const void *bytes, uint64_t count)
{
    assert_true(writer->count + count <= sizeof writer->bytes);
    memcpy(writer->bytes + writer->count, bytes, count);
    writer->count += count;
}

static void put_u32(struct writer *writer, uint32_t value)
{
    put(writer, &value, sizeof value);
}

static void put_u64(struct writer *writer, uint64_t value)
{
    put(writer, &value, sizeof value);
}

static void put_string(struct writer *writer, const char *text)
{
    put_u64(writer, strlen(text));
    put(writer, text, strlen(text));
}

static void put_key(struct writer *writer, const char *key, uint32_t type)
{
    writer->keys++;
    put_string(writer, key);
    put_u32(writer, type);
}

static void put_array(struct writer *writer, const char *key, uint32_t type, uint64_t count)
{
    put_key(writer, key, TYPE_ARRAY);
    put_u32(writer, type);
    put_u64(writer, count);
}

#define TOKENS 258u

/* What one case changes; 0 and NULL leave the good value. */
struct change {
    const char *model;
    const char *pre;
    const char *last_token;
    const char *merge;
    uint32_t type_of_last; /* token type */
    uint32_t types_missing;
    uint32_t bos;          /* id + 1 */
    uint32_t letters_type; /* element type of tokenizer.ggml.tokens */
    bool add_bos;
    bool no_merges;
};

static const char *or_default(const char *text, const char *otherwise)
{
    return text == NULL ? otherwise : text;
}

static void put_tokens(struct writer *writer, const struct change *change)
{
    if (change->letters_type != 0) {
        put_array(writer, "tokenizer.ggml.tokens", change->letters_type, 1);
        put_u32(writer, 7);
        return;
    }
    put_array(writer, "tokenizer.ggml.tokens", TYPE_STRING, TOKENS);
    for (uint32_t byte = 0; byte < 256; byte++) {
        char letter[5] = {0};
        (void)spin_utf8_encode(spin_vocab_letter((uint8_t)byte), letter);
        put_string(writer, letter);
    }
    put_string(writer, "he");
    put_string(writer, or_default(change->last_token, "<|im_end|>"));
}

static void put_file(struct writer *writer, const struct change *change)
{
    put(writer, "GGUF", 4);
    put_u32(writer, 3);
    put_u64(writer, 0);
    put_u64(writer, 0); /* the number of keys: written at the end */
    put_key(writer, "tokenizer.ggml.model", TYPE_STRING);
    put_string(writer, or_default(change->model, "gpt2"));
    put_key(writer, "tokenizer.ggml.pre", TYPE_STRING);
    put_string(writer, or_default(change->pre, "smollm"));
    put_tokens(writer, change);
    const uint32_t types = TOKENS - change->types_missing;
    put_array(writer, "tokenizer.ggml.token_type", TYPE_I32, types);
    for (uint32_t i = 0; i < types; i++) {
        const uint32_t last = change->type_of_last == 0 ? 3 : change->type_of_last;
        put_u32(writer, i + 1 == TOKENS ? last : 1);
    }
    if (!change->no_merges) {
        put_array(writer, "tokenizer.ggml.merges", TYPE_STRING, 1);
        put_string(writer, or_default(change->merge, "h e"));
    }
    if (change->bos != 0) {
        put_key(writer, "tokenizer.ggml.bos_token_id", TYPE_U32);
        put_u32(writer, change->bos - 1);
    }
    if (change->add_bos) {
        put_key(writer, "tokenizer.ggml.add_bos_token", TYPE_BOOL);
        put(writer, &change->add_bos, 1);
    }
    memcpy(writer->bytes + 16, &writer->keys, sizeof writer->keys);
}

static spin_status open_changed(const struct change *change, struct spin_tokenizer **out,
                                struct spin_error *err)
{
    static struct writer writer;
    writer.count = 0;
    writer.keys = 0;
    put_file(&writer, change);
    char path[] = "/tmp/spin_tokenizer_gguf_XXXXXX";
    const int file = mkstemp(path);
    assert_true(file >= 0);
    assert_int_equal(write(file, writer.bytes, writer.count), writer.count);
    (void)close(file);
    const spin_status status = spin_tokenizer_open(path, out, err);
    (void)unlink(path);
    return status;
}

struct refused {
    struct change change;
    spin_status status;
    const char *text;
};

static void test_refusals_name_the_key(void **state)
{
    (void)state;
    static const struct refused cases[] = {
        {{.model = "llama"}, SPIN_ERR_UNSUPPORTED, "tokenizer.ggml.model 'llama'"},
        {{.pre = "falcon"}, SPIN_ERR_UNSUPPORTED, "tokenizer.ggml.pre 'falcon'"},
        {{.pre = "\x1b[31m"}, SPIN_ERR_UNSUPPORTED, "tokenizer.ggml.pre '(unprintable)'"},
        {{.type_of_last = 9}, SPIN_ERR_CORRUPT, "token 257 has type 9"},
        {{.types_missing = 1}, SPIN_ERR_CORRUPT, "257 elements"},
        {{.letters_type = TYPE_U32}, SPIN_ERR_CORRUPT, "tokenizer.ggml.tokens"},
        {{.merge = "he"}, SPIN_ERR_CORRUPT, "merge 0"},
        {{.merge = "h x"}, SPIN_ERR_CORRUPT, "merge 0"},
        {{.merge = ""}, SPIN_ERR_CORRUPT, "merge 0"},
        {{.no_merges = true}, SPIN_ERR_CORRUPT, "tokenizer.ggml.merges"},
        {{.bos = TOKENS + 1}, SPIN_ERR_CORRUPT, "bos_token_id 258"},
        {{.add_bos = true}, SPIN_ERR_CORRUPT, "add_bos"},
        {{.last_token = "he", .type_of_last = 1}, SPIN_ERR_CORRUPT, "token 257 is token 256"},
        {{.last_token = "\xFFx", .type_of_last = 1}, SPIN_ERR_CORRUPT, "token 257 is not UTF-8"},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(cases); i++) {
        struct spin_tokenizer *tokenizer = NULL;
        struct spin_error err = {.status = SPIN_OK};
        const spin_status status = open_changed(&cases[i].change, &tokenizer, &err);
        if (status != cases[i].status || strstr(err.text, cases[i].text) == NULL) {
            fail_msg("case %u: %s: %s; wanted %s with '%s'", i, spin_status_name(status), err.text,
                     spin_status_name(cases[i].status), cases[i].text);
        }
    }
}

static uint64_t count_tokens(const struct spin_tokenizer *tokenizer, const char *text,
                             int32_t *first)
{
    int32_t tokens[64] = {0};
    uint64_t count = 0;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_tokenizer_encode(tokenizer, text, strlen(text),
                                         SPIN_ENCODE_ADD_BOS | SPIN_ENCODE_PARSE_SPECIAL, tokens,
                                         64, &count, &err),
                   &err);
    *first = tokens[0];
    return count;
}

static void test_families_and_kinds(void **state)
{
    (void)state;
    struct spin_tokenizer *tokenizer = NULL;
    struct spin_error err;
    int32_t first;
    SPIN_EXPECT_OK(open_changed(&(struct change){0}, &tokenizer, &err), &err);
    assert_int_equal(count_tokens(tokenizer, "he<|im_end|>", &first), 2);
    assert_true(spin_tokenizer_is_end(tokenizer, 257)); /* by its text */
    spin_tokenizer_close(tokenizer);
    /* Llama 3 adds BOS unless the file says no. */
    SPIN_EXPECT_OK(open_changed(&(struct change){.pre = "llama-bpe", .bos = 258}, &tokenizer, &err),
                   &err);
    assert_int_equal(count_tokens(tokenizer, "he", &first), 2);
    assert_int_equal(first, 257);
    spin_tokenizer_close(tokenizer);
    /* An unused token has no text and matches nothing. */
    SPIN_EXPECT_OK(open_changed(&(struct change){.type_of_last = 5}, &tokenizer, &err), &err);
    const char *piece;
    uint32_t bytes = 1;
    assert_true(spin_tokenizer_piece(tokenizer, 257, &piece, &bytes));
    assert_int_equal(bytes, 0);
    assert_int_equal(count_tokens(tokenizer, "<|im_end|>", &first), 10);
    spin_tokenizer_close(tokenizer);
    /* A user-defined one is matched in any mode and is no end. */
    SPIN_EXPECT_OK(open_changed(&(struct change){.type_of_last = 4}, &tokenizer, &err), &err);
    assert_int_equal(count_tokens(tokenizer, "<|im_end|>", &first), 1);
    assert_false(spin_tokenizer_is_special(tokenizer, 257));
    assert_false(spin_tokenizer_is_end(tokenizer, 257));
    spin_tokenizer_close(tokenizer);
}

/* One piece of a megabyte: a quadratic merge would not end within the test's time limit. */
static void test_a_long_piece_is_not_quadratic(void **state)
{
    (void)state;
    static const char fill[] = {'a', ' ', '\n', '=', '1'};
    const uint64_t bytes = UINT64_C(1) << 20;
    struct spin_tokenizer *tokenizer = NULL;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_tokenizer_open(demo_model, &tokenizer, &err), &err);
    char *text = malloc(bytes);
    int32_t *tokens = malloc(bytes * sizeof *tokens);
    assert_non_null(text);
    assert_non_null(tokens);
    for (uint32_t i = 0; i < sizeof fill; i++) {
        memset(text, fill[i], bytes);
        uint64_t count = 0;
        SPIN_EXPECT_OK(spin_tokenizer_encode(tokenizer, text, bytes, SPIN_ENCODE_PLAIN, tokens,
                                             bytes, &count, &err),
                       &err);
        uint64_t decoded = 0;
        for (uint64_t k = 0; k < count; k++) {
            const char *piece;
            uint32_t piece_bytes = 0;
            assert_true(spin_tokenizer_piece(tokenizer, tokens[k], &piece, &piece_bytes));
            decoded += piece_bytes;
        }
        assert_int_equal(decoded, bytes);
    }
    free(tokens);
    free(text);
    spin_tokenizer_close(tokenizer);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        (void)fprintf(stderr, "usage: tokenizer_gguf_test MODEL\n");
        return 2;
    }
    demo_model = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals_name_the_key),
        cmocka_unit_test(test_families_and_kinds),
        cmocka_unit_test(test_a_long_piece_is_not_quadratic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
