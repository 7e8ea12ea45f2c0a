/* Any bytes through every family's tokenizer: what is decoded is the text with bad bytes replaced,
 * in NFC where the family asks for it, and a second way round changes nothing. */
#include "base/assert.h"
#include "model/text/utf8.h"
#include "tests/fuzz/fuzz.h"
#include "tests/model/text/small_json.h"

#include <stdlib.h>
#include <string.h>

#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define SEQUENCE(first) "{\"type\":\"Sequence\",\"pretokenizers\":[" first "," BYTE_LEVEL "]}"
#define SPLIT(digits) \
    SEQUENCE( \
        "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"invert\":false,\"pattern\":{\"Regex\":" \
        "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}" digits \
        "| " \
        "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}}")

enum { GPT2, SMOLLM, LLAMA3, QWEN2, FAMILIES };

static const struct small_json families[FAMILIES] = {
    [GPT2] = {.pre_tokenizer = NULL},
    [SMOLLM] = {.pre_tokenizer = SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":true},"
                                          "{\"type\":\"Digits\"}")},
    [LLAMA3] = {.pre_tokenizer = SPLIT("{1,3}"), .model = "\"ignore_merges\":true,"},
    [QWEN2] = {.pre_tokenizer = SPLIT(""), .normalizer = "{\"type\":\"NFC\"}"},
};

static struct spin_tokenizer *tokenizers[FAMILIES];

struct text {
    char *bytes;
    uint64_t count;
};

static void open_all(void)
{
    for (uint32_t i = 0; i < FAMILIES; i++) {
        SPIN_ASSERT_EQ(spin_small_json_open(&families[i], NULL, &tokenizers[i], NULL), SPIN_OK);
    }
}

static int32_t *encode(const struct spin_tokenizer *tokenizer, struct text text, uint32_t flags,
                       uint64_t *count)
{
    const uint64_t capacity = 3 * text.count + 1;
    int32_t *tokens = malloc(capacity * sizeof *tokens);
    SPIN_ASSERT(tokens != NULL);
    SPIN_ASSERT_EQ(spin_tokenizer_encode(tokenizer, text.bytes, text.count, flags, tokens, capacity,
                                         count, NULL),
                   SPIN_OK);
    return tokens;
}

static struct text decode(const struct spin_tokenizer *tokenizer, const int32_t *tokens,
                          uint64_t count)
{
    const uint64_t room = 3 * (uint64_t)spin_tokenizer_piece_bytes_max(tokenizer) + 12;
    struct text text = {malloc((count + 1) * room), 0};
    SPIN_ASSERT(text.bytes != NULL);
    struct spin_detokenizer detokenizer;
    spin_detokenizer_init(&detokenizer, tokenizer, false);
    for (uint64_t i = 0; i < count; i++) {
        text.count += spin_detokenizer_push(&detokenizer, tokens[i], text.bytes + text.count, room);
    }
    /* Tokens of valid text leave nothing behind. */
    SPIN_ASSERT_EQ(spin_detokenizer_finish(&detokenizer, text.bytes + text.count, room), 0);
    return text;
}

/* QWEN2's text is in NFC besides, which the second way round checks: NFC changes nothing twice. */
static void compare(uint32_t family, struct text decoded, struct text text)
{
    char *wanted = malloc(3 * text.count + 1);
    SPIN_ASSERT(wanted != NULL);
    const uint64_t wanted_bytes = spin_utf8_replace(text.bytes, text.count, wanted);
    if (family != QWEN2) {
        SPIN_ASSERT_EQ(decoded.count, wanted_bytes);
        SPIN_ASSERT(memcmp(decoded.bytes, wanted, wanted_bytes) == 0);
    }
    free(wanted);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    if (tokenizers[0] == NULL) {
        open_all();
    }
    if (count == 0) {
        return 0;
    }
    const uint32_t family = bytes[0] % FAMILIES;
    const uint32_t flags = (bytes[0] & 0x80) != 0 ? SPIN_ENCODE_PARSE_SPECIAL : SPIN_ENCODE_PLAIN;
    struct text text = {malloc(count), count - 1};
    SPIN_ASSERT(text.bytes != NULL);
    memcpy(text.bytes, bytes + 1, count - 1);
    uint64_t tokens = 0;
    int32_t *first = encode(tokenizers[family], text, flags, &tokens);
    struct text decoded = decode(tokenizers[family], first, tokens);
    compare(family, decoded, text);
    uint64_t again = 0;
    int32_t *second = encode(tokenizers[family], decoded, flags, &again);
    SPIN_ASSERT_EQ(again, tokens);
    SPIN_ASSERT(memcmp(first, second, tokens * sizeof *first) == 0);
    free(second);
    free(decoded.bytes);
    free(first);
    free(text.bytes);
    return 0;
}
