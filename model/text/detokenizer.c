#include "base/assert.h"
#include "model/text/tokenizer.h"
#include "model/text/utf8.h"

#include <string.h>

struct writer {
    char *out;
    uint64_t capacity;
    uint64_t count;
};

static void write_bytes(struct writer *writer, const char *bytes, uint32_t count)
{
    SPIN_ASSERT(writer->capacity - writer->count >= count);
    memcpy(writer->out + writer->count, bytes, count);
    writer->count += count;
}

static void write_verdict(struct writer *writer, enum spin_utf8_kind kind, const char *bytes,
                          uint32_t length)
{
    if (kind == SPIN_UTF8_WHOLE) {
        write_bytes(writer, bytes, length);
    } else {
        write_bytes(writer, SPIN_UTF8_REPLACEMENT, SPIN_UTF8_REPLACEMENT_BYTES);
    }
}

/* Adds bytes to the pending ones until they are a character, or cannot become one. Pending bytes
 * are a prefix of a character, so a verdict of INVALID is about all of them and not about the byte
 * that came: that byte is looked at anew. Returns how many new bytes were used. */
static uint32_t finish_pending(struct spin_detokenizer *detokenizer, struct writer *writer,
                               const char *bytes, uint32_t count)
{
    uint32_t used = 0;
    while (detokenizer->pending_bytes > 0 && used < count) {
        char joined[4];
        memcpy(joined, detokenizer->pending, detokenizer->pending_bytes);
        joined[detokenizer->pending_bytes] = bytes[used];
        uint32_t length;
        const enum spin_utf8_kind kind =
            spin_utf8_step(joined, detokenizer->pending_bytes + 1, &length);
        if (kind == SPIN_UTF8_TRUNCATED) {
            detokenizer->pending[detokenizer->pending_bytes++] = (uint8_t)bytes[used++];
            continue;
        }
        used += kind == SPIN_UTF8_WHOLE ? 1 : 0;
        write_verdict(writer, kind, joined, length);
        detokenizer->pending_bytes = 0;
    }
    return used;
}

void spin_detokenizer_init(struct spin_detokenizer *detokenizer,
                           const struct spin_tokenizer *tokenizer, bool skip_special)
{
    *detokenizer = (struct spin_detokenizer){.tokenizer = tokenizer, .skip_special = skip_special};
}

uint64_t spin_detokenizer_push(struct spin_detokenizer *detokenizer, int32_t token, char *out,
                               uint64_t capacity)
{
    const char *bytes = NULL;
    uint32_t count = 0;
    SPIN_ASSERT(spin_tokenizer_piece(detokenizer->tokenizer, token, &bytes, &count));
    if (detokenizer->skip_special && spin_tokenizer_is_special(detokenizer->tokenizer, token)) {
        return 0;
    }
    struct writer writer = {.capacity = capacity};
    writer.out = out;
    uint32_t at = finish_pending(detokenizer, &writer, bytes, count);
    while (at < count) {
        const uint32_t valid = (uint32_t)spin_utf8_valid_prefix(bytes + at, count - at);
        write_bytes(&writer, bytes + at, valid);
        at += valid;
        if (at == count) {
            break;
        }
        uint32_t length;
        const enum spin_utf8_kind kind = spin_utf8_step(bytes + at, count - at, &length);
        if (kind == SPIN_UTF8_TRUNCATED) {
            memcpy(detokenizer->pending, bytes + at, length);
            detokenizer->pending_bytes = length;
        } else {
            write_verdict(&writer, kind, bytes + at, length);
        }
        at += length;
    }
    return writer.count;
}

uint64_t spin_detokenizer_finish(struct spin_detokenizer *detokenizer, char *out, uint64_t capacity)
{
    if (detokenizer->pending_bytes == 0) {
        return 0;
    }
    detokenizer->pending_bytes = 0;
    struct writer writer = {.capacity = capacity};
    writer.out = out;
    write_verdict(&writer, SPIN_UTF8_INVALID, NULL, 0);
    return writer.count;
}
