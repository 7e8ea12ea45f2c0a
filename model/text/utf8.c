#include "model/text/utf8.h"

#include <string.h>

/* Table 3-7: how many bytes follow a lead byte, and what the first of them may be. */
struct lead {
    uint32_t followers;
    uint8_t second_min;
    uint8_t second_max;
};

static struct lead classify(uint8_t byte)
{
    struct lead lead = {0, 0x80, 0xBF};
    if (byte >= 0xC2 && byte <= 0xDF) {
        lead.followers = 1;
    } else if (byte >= 0xE0 && byte <= 0xEF) {
        lead.followers = 2;
        lead.second_min = byte == 0xE0 ? 0xA0 : 0x80; /* no overlong forms */
        lead.second_max = byte == 0xED ? 0x9F : 0xBF; /* no surrogates */
    } else if (byte >= 0xF0 && byte <= 0xF4) {
        lead.followers = 3;
        lead.second_min = byte == 0xF0 ? 0x90 : 0x80;
        lead.second_max = byte == 0xF4 ? 0x8F : 0xBF; /* nothing above U+10FFFF */
    }
    return lead;
}

enum spin_utf8_kind spin_utf8_step(const char *bytes, uint64_t count, uint32_t *length)
{
    const uint8_t *at = (const uint8_t *)bytes;
    *length = 1;
    if (at[0] < 0x80) {
        return SPIN_UTF8_WHOLE;
    }
    const struct lead lead = classify(at[0]);
    if (lead.followers == 0) {
        return SPIN_UTF8_INVALID;
    }
    for (uint32_t i = 1; i <= lead.followers; i++) {
        *length = i;
        if (i == count) {
            return SPIN_UTF8_TRUNCATED;
        }
        const uint8_t min = i == 1 ? lead.second_min : 0x80;
        const uint8_t max = i == 1 ? lead.second_max : 0xBF;
        if (at[i] < min || at[i] > max) {
            return SPIN_UTF8_INVALID;
        }
    }
    *length = lead.followers + 1;
    return SPIN_UTF8_WHOLE;
}

uint32_t spin_utf8_decode(const char *bytes, uint32_t *length)
{
    const uint8_t *at = (const uint8_t *)bytes;
    if (at[0] < 0x80) {
        *length = 1;
        return at[0];
    }
    if (at[0] < 0xE0) {
        *length = 2;
        return (at[0] & 0x1Fu) << 6 | (at[1] & 0x3Fu);
    }
    if (at[0] < 0xF0) {
        *length = 3;
        return (at[0] & 0x0Fu) << 12 | (at[1] & 0x3Fu) << 6 | (at[2] & 0x3Fu);
    }
    *length = 4;
    return (at[0] & 0x07u) << 18 | (at[1] & 0x3Fu) << 12 | (at[2] & 0x3Fu) << 6 | (at[3] & 0x3Fu);
}

uint32_t spin_utf8_encode(uint32_t code_point, char out[4])
{
    if (code_point < 0x80) {
        out[0] = (char)code_point;
        return 1;
    }
    const uint32_t length = code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
    static const uint8_t lead_bits[] = {0, 0, 0xC0, 0xE0, 0xF0};
    uint32_t rest = code_point;
    for (uint32_t i = length - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (rest & 0x3F));
        rest >>= 6;
    }
    out[0] = (char)(lead_bits[length] | rest);
    return length;
}

/* The bytes from `from` on that are ASCII, eight at a time: most text is. */
static uint64_t skip_ascii(const char *bytes, uint64_t count, uint64_t from)
{
    uint64_t at = from;
    while (count - at >= 8) {
        uint64_t word;
        memcpy(&word, bytes + at, sizeof word);
        if ((word & UINT64_C(0x8080808080808080)) != 0) {
            break;
        }
        at += 8;
    }
    while (at < count && (uint8_t)bytes[at] < 0x80) {
        at++;
    }
    return at;
}

uint64_t spin_utf8_valid_prefix(const char *bytes, uint64_t count)
{
    uint64_t at = skip_ascii(bytes, count, 0);
    while (at < count) {
        uint32_t length;
        if (spin_utf8_step(bytes + at, count - at, &length) != SPIN_UTF8_WHOLE) {
            break;
        }
        at += length;
        if (at < count && (uint8_t)bytes[at] < 0x80) {
            at = skip_ascii(bytes, count, at);
        }
    }
    return at;
}

uint64_t spin_utf8_replace(const char *bytes, uint64_t count, char *out)
{
    static const char replacement[SPIN_UTF8_REPLACEMENT_BYTES] = SPIN_UTF8_REPLACEMENT;
    uint64_t at = 0;
    uint64_t written = 0;
    while (at < count) {
        const uint64_t valid = spin_utf8_valid_prefix(bytes + at, count - at);
        memcpy(out + written, bytes + at, valid);
        at += valid;
        written += valid;
        if (at < count) {
            uint32_t length;
            (void)spin_utf8_step(bytes + at, count - at, &length);
            memcpy(out + written, replacement, sizeof replacement);
            written += SPIN_UTF8_REPLACEMENT_BYTES;
            at += length;
        }
    }
    return written;
}
