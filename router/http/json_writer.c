#include "router/http/json_writer.h"

#include "base/assert.h"
#include "model/text/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BYTES 512u

void spin_json_writer_init(struct spin_json_writer *writer, uint64_t cap_bytes)
{
    *writer = (struct spin_json_writer){.cap_bytes = cap_bytes};
}

void spin_json_writer_deinit(struct spin_json_writer *writer)
{
    free(writer->bytes);
    *writer = (struct spin_json_writer){0};
}

void spin_json_writer_reset(struct spin_json_writer *writer)
{
    writer->count = 0;
    writer->failed = false;
}

/* Makes place for `count` more bytes; false when there is none. */
static bool grow(struct spin_json_writer *writer, uint64_t count)
{
    SPIN_ASSERT_LE(writer->count, writer->capacity);
    if (writer->failed || count > writer->cap_bytes - writer->count) {
        writer->failed = true;
        return false;
    }
    const uint64_t wanted = writer->count + count;
    uint64_t capacity = SPIN_MAX(writer->capacity * 2, FIRST_BYTES);
    capacity = SPIN_MIN(SPIN_MAX(capacity, wanted), writer->cap_bytes);
    char *bytes = realloc(writer->bytes, (size_t)capacity);
    if (bytes == NULL) {
        writer->failed = true;
        return false;
    }
    writer->bytes = bytes;
    writer->capacity = capacity;
    return true;
}

char *spin_json_reserve(struct spin_json_writer *writer, uint64_t count)
{
    if (count > writer->capacity - writer->count && !grow(writer, count)) {
        return NULL;
    }
    return writer->bytes + writer->count;
}

void spin_json_put_raw(struct spin_json_writer *writer, const char *bytes, uint64_t count)
{
    if (writer->failed || (count > writer->capacity - writer->count && !grow(writer, count))) {
        return;
    }
    if (count != 0) {
        memcpy(writer->bytes + writer->count, bytes, (size_t)count);
        writer->count += count;
    }
}

/* RFC 8259, section 7: quotation mark, reverse solidus and U+0000..U+001F. */
static void escape_ascii(struct spin_json_writer *writer, uint8_t byte)
{
    static const char digits[] = "0123456789abcdef";
    switch (byte) {
    case '"':
        SPIN_JSON_LITERAL(writer, "\\\"");
        return;
    case '\\':
        SPIN_JSON_LITERAL(writer, "\\\\");
        return;
    case '\n':
        SPIN_JSON_LITERAL(writer, "\\n");
        return;
    case '\r':
        SPIN_JSON_LITERAL(writer, "\\r");
        return;
    case '\t':
        SPIN_JSON_LITERAL(writer, "\\t");
        return;
    default:
        break;
    }
    const char hex[] = {'\\', 'u', '0', '0', digits[byte >> 4], digits[byte & 15]};
    spin_json_put_raw(writer, hex, sizeof hex);
}

static bool is_plain(uint8_t byte)
{
    return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
}

void spin_json_put_escaped(struct spin_json_writer *writer, const char *text, uint64_t count)
{
    if (count == 0) {
        return; /* `text` may be NULL */
    }
    uint64_t done = 0; /* written */
    uint64_t at = 0;   /* looked at: text[done, at) goes out as it is */
    while (at < count) {
        if (is_plain((uint8_t)text[at])) {
            at++;
            continue;
        }
        uint32_t length = 1;
        const bool ascii = (uint8_t)text[at] < 0x80;
        if (!ascii && spin_utf8_step(text + at, count - at, &length) == SPIN_UTF8_WHOLE) {
            at += length;
            continue;
        }
        spin_json_put_raw(writer, text + done, at - done);
        if (ascii) {
            escape_ascii(writer, (uint8_t)text[at]);
        } else {
            SPIN_JSON_LITERAL(writer, SPIN_UTF8_REPLACEMENT);
        }
        at += length;
        done = at;
    }
    spin_json_put_raw(writer, text + done, at - done);
}

void spin_json_put_string(struct spin_json_writer *writer, const char *text, uint64_t count)
{
    SPIN_JSON_LITERAL(writer, "\"");
    spin_json_put_escaped(writer, text, count);
    SPIN_JSON_LITERAL(writer, "\"");
}

void spin_json_put_text(struct spin_json_writer *writer, const char *text)
{
    if (text == NULL) {
        SPIN_JSON_LITERAL(writer, "null");
    } else {
        spin_json_put_string(writer, text, strlen(text));
    }
}

void spin_json_put_u64(struct spin_json_writer *writer, uint64_t value)
{
    char digits[20];
    uint32_t first = sizeof digits;
    do {
        digits[--first] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    spin_json_put_raw(writer, digits + first, sizeof digits - first);
}

void spin_json_put_real(struct spin_json_writer *writer, double value)
{
    SPIN_ASSERT(isfinite(value));
    char text[32];
    const int bytes = snprintf(text, sizeof text, "%.9g", value);
    SPIN_ASSERT(bytes > 0 && (size_t)bytes < sizeof text);
    spin_json_put_raw(writer, text, (uint64_t)bytes);
}
