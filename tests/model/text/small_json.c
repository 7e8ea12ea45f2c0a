#include "tests/model/text/small_json.h"

#include "base/assert.h"
#include "model/text/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JSON_BYTES (1u << 20)

static const char *or_default(const char *text, const char *otherwise)
{
    return text == NULL ? otherwise : text;
}

static void put_letters(char *out, uint64_t capacity)
{
    uint64_t written = 0;
    for (uint32_t byte = 0; byte < 256; byte++) {
        char letter[5] = {0};
        (void)spin_utf8_encode(spin_vocab_letter((uint8_t)byte), letter);
        const bool escaped = letter[0] == '"' || letter[0] == '\\';
        const int bytes = snprintf(out + written, capacity - written, "\"%s%s\":%u,",
                                   escaped ? "\\" : "", letter, byte);
        SPIN_ASSERT(bytes > 0 && written + (uint64_t)bytes < capacity);
        written += (uint64_t)bytes;
    }
}

char *spin_small_json(const struct small_json *json)
{
    char *text = malloc(JSON_BYTES);
    char *letters = malloc(JSON_BYTES);
    SPIN_ASSERT(text != NULL && letters != NULL);
    put_letters(letters, JSON_BYTES);
    const int bytes = snprintf(
        text, JSON_BYTES,
        "{\"added_tokens\":[%s],\"normalizer\":%s,\"pre_tokenizer\":%s,\"post_processor\":%s,"
        "\"decoder\":%s,\"model\":{\"type\":\"BPE\",%s\"vocab\":{%s%s},\"merges\":[%s]}}",
        or_default(json->added, "{\"id\":260,\"content\":\"<|end|>\",\"special\":true},"
                                "{\"id\":261,\"content\":\"<tool>\",\"special\":false}"),
        or_default(json->normalizer, "null"),
        or_default(json->pre_tokenizer, "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"),
        or_default(json->post_processor, "null"),
        or_default(json->decoder, "{\"type\":\"ByteLevel\"}"), or_default(json->model, ""), letters,
        or_default(json->vocab, "\"he\":256,\"ll\":257,\"hell\":258,\"hello\":259"),
        or_default(json->merges, "\"h e\",\"l l\",[\"he\",\"ll\"],\"hell o\""));
    SPIN_ASSERT(bytes > 0 && (uint32_t)bytes < JSON_BYTES);
    free(letters);
    return text;
}

spin_status spin_small_json_open(const struct small_json *json, const char *config,
                                 struct spin_tokenizer **out, struct spin_error *err)
{
    char *text = spin_small_json(json);
    const struct spin_tokenizer_json documents = {
        .tokenizer = {text, strlen(text)},
        .config = {config, config == NULL ? 0 : strlen(config)},
    };
    const spin_status status = spin_tokenizer_parse_json(&documents, out, err);
    free(text);
    return status;
}
