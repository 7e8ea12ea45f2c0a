#include "router/session/stop_filter.h"

#include "base/assert.h"
#include "model/text/utf8.h"

#include <stdlib.h>
#include <string.h>

struct stop_string {
    const char *text;
    uint32_t bytes;
    uint32_t matched;         /* text[0, matched) ends what was seen */
    const uint16_t *fallback; /* [i]: the longest proper prefix that ends text[0, i] */
};

struct spin_stop_filter {
    uint32_t count;
    uint32_t held_max;
    uint32_t held;       /* bytes held back: the most that any string has matched */
    uint32_t held_in;    /* they are the beginning of this one */
    int32_t found;       /* -1: none */
    uint8_t begins[256]; /* a string begins with this byte */
    struct stop_string strings[SPIN_STOP_STRINGS_MAX];
    uint16_t tables[]; /* every string's fallback, then every string's text */
};

/* Whole characters only: so what is let through can never end inside one. */
static spin_status check(const struct spin_stop_strings *stop, uint64_t *out_bytes,
                         struct spin_error *err)
{
    if (stop->count > SPIN_STOP_STRINGS_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "stop: %u strings, at most %u are allowed",
                         stop->count, SPIN_STOP_STRINGS_MAX);
    }
    *out_bytes = 0;
    for (uint32_t i = 0; i < stop->count; i++) {
        const size_t bytes = strlen(stop->texts[i]);
        if (bytes == 0 || bytes > SPIN_STOP_STRING_BYTES_MAX) {
            return spin_fail(err, SPIN_ERR_INVALID, "stop[%u]: %zu bytes, must be 1..%u", i, bytes,
                             SPIN_STOP_STRING_BYTES_MAX);
        }
        if (spin_utf8_valid_prefix(stop->texts[i], bytes) != bytes) {
            return spin_fail(err, SPIN_ERR_INVALID, "stop[%u]: not valid UTF-8", i);
        }
        *out_bytes += bytes;
    }
    return SPIN_OK;
}

static void fill_fallback(const char *text, uint32_t bytes, uint16_t *fallback)
{
    uint32_t length = 0;
    fallback[0] = 0;
    for (uint32_t i = 1; i < bytes; i++) {
        while (length > 0 && text[i] != text[length]) {
            length = fallback[length - 1];
        }
        length += text[i] == text[length];
        fallback[i] = (uint16_t)length;
    }
}

spin_status spin_stop_filter_create(const struct spin_stop_strings *stop,
                                    struct spin_stop_filter **out, struct spin_error *err)
{
    uint64_t bytes = 0;
    SPIN_TRY(check(stop, &bytes, err));
    struct spin_stop_filter *filter =
        calloc(1, sizeof *filter + bytes * (sizeof(uint16_t) + sizeof(char)));
    if (filter == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "stop: %llu bytes", (unsigned long long)bytes);
    }
    filter->count = stop->count;
    filter->found = -1;
    uint16_t *fallback = filter->tables;
    char *text = (char *)(filter->tables + bytes);
    for (uint32_t i = 0; i < stop->count; i++) {
        const uint32_t length = (uint32_t)strlen(stop->texts[i]);
        memcpy(text, stop->texts[i], length);
        fill_fallback(text, length, fallback);
        filter->strings[i] =
            (struct stop_string){.text = text, .bytes = length, .fallback = fallback};
        filter->begins[(uint8_t)text[0]] = 1;
        filter->held_max = SPIN_MAX(filter->held_max, length - 1);
        text += length;
        fallback += length;
    }
    *out = filter;
    return SPIN_OK;
}

void spin_stop_filter_destroy(struct spin_stop_filter *filter)
{
    free(filter);
}

/* Takes every string's automaton over one byte. Afterwards the longest match says what is held, or,
 * when one is whole, the longest whole one what was found. */
static void match_byte(struct spin_stop_filter *filter, char byte)
{
    filter->held = 0;
    uint32_t whole_bytes = 0;
    for (uint32_t i = 0; i < filter->count; i++) {
        struct stop_string *string = &filter->strings[i];
        uint32_t matched = string->matched;
        while (matched > 0 && string->text[matched] != byte) {
            matched = string->fallback[matched - 1];
        }
        matched += string->text[matched] == byte;
        string->matched = matched;
        if (matched > filter->held) {
            filter->held = matched;
            filter->held_in = i;
        }
        if (matched == string->bytes && matched > whole_bytes) {
            whole_bytes = matched;
            filter->found = (int32_t)i;
        }
    }
}

/* One byte; returns the bytes written: what was held and is no beginning of anything any more, and
 * the byte itself if it is none either. Up to a stop string that is whole now. */
static uint64_t push_byte(struct spin_stop_filter *filter, char byte, char *out)
{
    const char *held_text = filter->strings[filter->held_in].text;
    const uint32_t seen = filter->held + 1;
    match_byte(filter, byte);
    const uint32_t kept = filter->found < 0 ? filter->held : filter->strings[filter->found].bytes;
    SPIN_DASSERT(kept <= seen);
    const uint32_t passed = seen - kept;
    if (kept > 0) {
        memcpy(out, held_text, passed);
    } else {
        memcpy(out, held_text, passed - 1);
        out[passed - 1] = byte;
    }
    return passed;
}

uint64_t spin_stop_filter_push(struct spin_stop_filter *filter, const char *text, uint64_t bytes,
                               char *out)
{
    uint64_t written = 0;
    for (uint64_t i = 0; i < bytes && filter->found < 0; i++) {
        if (filter->held == 0 && filter->begins[(uint8_t)text[i]] == 0) {
            out[written++] = text[i]; /* nearly every byte */
        } else {
            written += push_byte(filter, text[i], out + written);
        }
    }
    return written;
}

uint64_t spin_stop_filter_finish(struct spin_stop_filter *filter, char *out)
{
    if (filter->found >= 0) {
        return 0;
    }
    const uint32_t held = filter->held;
    if (held > 0) {
        memcpy(out, filter->strings[filter->held_in].text, held);
    }
    filter->held = 0;
    return held;
}

int32_t spin_stop_filter_found(const struct spin_stop_filter *filter)
{
    return filter->found;
}

uint32_t spin_stop_filter_held_max(const struct spin_stop_filter *filter)
{
    return filter->held_max;
}
