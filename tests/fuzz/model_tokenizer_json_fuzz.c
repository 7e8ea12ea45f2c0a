/* Any bytes as tokenizer.json, and behind the first NUL as tokenizer_config.json: a tokenizer that
 * works, or an error with a text. */
#include "base/assert.h"
#include "model/text/tokenizer_parts.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static void use(const struct spin_tokenizer *tokenizer)
{
    static const char text[] = "hello <|end|><tool> 12 \xC3\xA9\n\n'S \xE4\xB8\x96";
    int32_t tokens[3 * sizeof text];
    char out[3 * SPIN_TOKEN_BYTES_MAX + 12];
    uint64_t count = 0;
    struct spin_error err;
    struct spin_detokenizer detokenizer;
    SPIN_ASSERT_EQ(spin_tokenizer_encode(tokenizer, text, sizeof text - 1,
                                         SPIN_ENCODE_ADD_BOS | SPIN_ENCODE_PARSE_SPECIAL, tokens,
                                         SPIN_ARRAY_COUNT(tokens), &count, &err),
                   SPIN_OK);
    spin_detokenizer_init(&detokenizer, tokenizer, false);
    for (uint64_t i = 0; i < count; i++) {
        SPIN_ASSERT_LT((uint32_t)tokens[i], spin_tokenizer_vocab(tokenizer));
        (void)spin_detokenizer_push(&detokenizer, tokens[i], out, sizeof out);
    }
    SPIN_ASSERT_LE(spin_tokenizer_piece_bytes_max(tokenizer), SPIN_TOKEN_BYTES_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    const char *text = (const char *)bytes;
    const char *nul = count == 0 ? NULL : memchr(text, '\0', count);
    const uint64_t json_bytes = nul == NULL ? count : (uint64_t)(nul - text);
    const struct spin_tokenizer_json json = {
        .tokenizer = {text, json_bytes},
        .config = {nul == NULL ? NULL : nul + 1, nul == NULL ? 0 : count - json_bytes - 1},
    };
    struct spin_tokenizer *tokenizer = NULL;
    struct spin_error err = {.status = SPIN_OK};
    const spin_status status = spin_tokenizer_parse_json(&json, &tokenizer, &err);
    if (status == SPIN_OK) {
        use(tokenizer);
    } else {
        SPIN_ASSERT_EQ(err.status, status);
        SPIN_ASSERT(err.text[0] != '\0' && tokenizer == NULL);
    }
    spin_tokenizer_close(tokenizer);
    return 0;
}
