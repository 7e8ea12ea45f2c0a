#include "model/text/normalize.h"

#include "base/assert.h"
#include "model/text/utf8.h"

#include <string.h>
#include <utf8proc.h>

/* A canonical decomposition has at most 4 code points (the stability policy keeps it so). */
#define DECOMPOSED_MAX 4u
/* Runs of marks up to here are sorted by insertion; real text has runs of one to five. */
#define SHORT_RUN 32u
/* NFC makes text at most three times as long in UTF-8 (the worst is a musical symbol: 4 to 12). */
#define GROWTH_MAX 3u

/* A character that is its own normal form and that nothing before it combines with: text may be cut
 * in front of it. Everything below U+0300 is; the ranges are letters of scripts that much text is
 * in. */
static bool is_inert(uint32_t code_point)
{
    return code_point < 0x300 || (code_point >= 0x400 && code_point <= 0x482) ||
           (code_point >= 0x621 && code_point <= 0x64A) ||
           (code_point >= 0x2010 && code_point <= 0x2027) ||
           (code_point >= 0x3041 && code_point <= 0x3096) ||
           (code_point >= 0x30A1 && code_point <= 0x30FA) ||
           (code_point >= 0x3400 && code_point <= 0x9FFF) ||
           (code_point >= 0xAC00 && code_point <= 0xD7A3) ||
           (code_point >= 0x1F300 && code_point <= 0x1FAFF);
}

/* From `from` on: the first character that is inert, or that is not. *before is the character in
 * front of it (`from` itself when there is none). The text's end when all are alike. */
static uint64_t find_character(struct spin_string text, uint64_t from, bool inert, uint64_t *before)
{
    uint64_t at = from;
    *before = from;
    while (at < text.count) {
        uint32_t length;
        if (is_inert(spin_utf8_decode(text.bytes + at, &length)) == inert) {
            break;
        }
        *before = at;
        at += length;
    }
    return at;
}

static uint8_t combining_class(int32_t code_point)
{
    return (uint8_t)utf8proc_get_property(code_point)->combining_class;
}

struct code_points {
    int32_t *at;
    int32_t *sorted; /* room for the longest run of marks */
    uint64_t count;
    uint64_t capacity;
};

struct writer {
    char *bytes;
    uint64_t capacity;
    uint64_t count;
};

static void insertion_sort(int32_t *marks, uint64_t count)
{
    for (uint64_t i = 1; i < count; i++) {
        const int32_t mark = marks[i];
        uint64_t j = i;
        while (j > 0 && combining_class(marks[j - 1]) > combining_class(mark)) {
            marks[j] = marks[j - 1];
            j--;
        }
        marks[j] = mark;
    }
}

static void counting_sort(int32_t *marks, uint64_t count, int32_t *sorted)
{
    uint64_t places[257] = {0};
    for (uint64_t i = 0; i < count; i++) {
        places[combining_class(marks[i]) + 1]++;
    }
    for (uint32_t i = 1; i < 257; i++) {
        places[i] += places[i - 1];
    }
    for (uint64_t i = 0; i < count; i++) {
        sorted[places[combining_class(marks[i])]++] = marks[i];
    }
    memcpy(marks, sorted, count * sizeof *marks);
}

/* The canonical ordering: each run of marks (class above 0) by class, stable. */
static void order_marks(struct code_points *text)
{
    uint64_t at = 0;
    while (at < text->count) {
        if (combining_class(text->at[at]) == 0) {
            at++;
            continue;
        }
        const uint64_t begin = at;
        while (at < text->count && combining_class(text->at[at]) != 0) {
            at++;
        }
        if (at - begin <= SHORT_RUN) {
            insertion_sort(text->at + begin, at - begin);
        } else {
            counting_sort(text->at + begin, at - begin, text->sorted);
        }
    }
}

static void decompose(struct spin_string text, struct code_points *out)
{
    uint64_t at = 0;
    while (at < text.count) {
        uint32_t length;
        const int32_t code_point = (int32_t)spin_utf8_decode(text.bytes + at, &length);
        int boundary = 0;
        SPIN_ASSERT_LE(out->count + DECOMPOSED_MAX, out->capacity);
        const utf8proc_ssize_t written =
            utf8proc_decompose_char(code_point, out->at + out->count, DECOMPOSED_MAX,
                                    UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &boundary);
        SPIN_ASSERT(written > 0 && written <= (utf8proc_ssize_t)DECOMPOSED_MAX);
        out->count += (uint64_t)written;
        at += length;
    }
}

static spin_status reserve(struct code_points *points, struct spin_string text,
                           struct spin_arena *arena)
{
    uint64_t characters = 0;
    for (uint64_t i = 0; i < text.count; i++) {
        characters += ((uint8_t)text.bytes[i] & 0xC0) != 0x80 ? 1 : 0;
    }
    points->count = 0;
    if (characters * DECOMPOSED_MAX <= points->capacity) {
        return SPIN_OK;
    }
    const uint64_t capacity = SPIN_MAX(characters * DECOMPOSED_MAX, 2 * points->capacity);
    points->at = spin_arena_take(arena, capacity * sizeof *points->at);
    points->sorted = spin_arena_take(arena, capacity * sizeof *points->sorted);
    if (points->at == NULL || points->sorted == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    points->capacity = capacity;
    return SPIN_OK;
}

static spin_status normalize_run(struct spin_string text, struct spin_arena *arena,
                                 struct code_points *points, struct writer *writer)
{
    if (text.count == 0) {
        return SPIN_OK;
    }
    SPIN_TRY(reserve(points, text, arena));
    SPIN_ASSERT(points->at != NULL);
    decompose(text, points);
    order_marks(points);
    const utf8proc_ssize_t composed = utf8proc_normalize_utf32(
        points->at, (utf8proc_ssize_t)points->count, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    SPIN_ASSERT(composed >= 0);
    for (utf8proc_ssize_t i = 0; i < composed; i++) {
        SPIN_ASSERT_LE(writer->count + 4, writer->capacity);
        writer->count += spin_utf8_encode((uint32_t)points->at[i], writer->bytes + writer->count);
    }
    return SPIN_OK;
}

spin_status spin_normalize_nfc(struct spin_string text, struct spin_arena *arena,
                               struct spin_string *out)
{
    uint64_t run;
    if (find_character(text, 0, false, &run) == text.count) {
        *out = text;
        return SPIN_OK;
    }
    struct writer writer = {.capacity = text.count * GROWTH_MAX + 4};
    writer.bytes = spin_arena_take(arena, writer.capacity);
    if (writer.bytes == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    struct code_points points = {0};
    for (uint64_t at = 0; at < text.count;) {
        /* A run begins with the inert character that marks may combine with, and ends at the
         * next. */
        const uint64_t other = find_character(text, at, false, &run);
        run = other == text.count ? text.count : run;
        memcpy(writer.bytes + writer.count, text.bytes + at, run - at);
        writer.count += run - at;
        uint64_t before;
        at = find_character(text, other, true, &before);
        SPIN_TRY(normalize_run((struct spin_string){text.bytes + run, at - run}, arena, &points,
                               &writer));
    }
    *out = (struct spin_string){writer.bytes, writer.count};
    return SPIN_OK;
}
