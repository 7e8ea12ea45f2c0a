#include "model/text/vocab.h"

#include "base/assert.h"
#include "model/text/tokenizer.h"
#include "model/text/utf8.h"

#include <string.h>

/* The alphabet: a byte that is a printable Latin-1 character is itself; the other 68 are the
 * characters from U+0100 on, in order. */
#define ALPHABET_END (0x100u + 68u)
/* Half-full tables have short probe runs; a vocabulary made to collide is refused, not crawled. */
#define PROBES_MAX 1024u

static bool is_own_letter(uint32_t byte)
{
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
}

uint32_t spin_vocab_letter(uint8_t byte)
{
    if (is_own_letter(byte)) {
        return byte;
    }
    uint32_t before = 0;
    for (uint32_t other = 0; other < byte; other++) {
        before += is_own_letter(other) ? 0 : 1;
    }
    return 0x100 + before;
}

/* The inverse for the 68: index by code point - 0x100. */
static uint8_t shifted_byte(uint32_t code_point)
{
    const uint32_t index = code_point - 0x100;
    if (index < 33) {
        return (uint8_t)index; /* 0x00..0x20 */
    }
    return index == 67 ? 0xAD
                       : (uint8_t)(0x7F + (index - 33)); /* 0x7F..0xA0, then the soft hyphen */
}

bool spin_vocab_bytes_of(struct spin_string text, char *out, uint32_t *out_bytes)
{
    uint32_t written = 0;
    for (uint64_t at = 0; at < text.count;) {
        uint32_t length;
        if (spin_utf8_step(text.bytes + at, text.count - at, &length) != SPIN_UTF8_WHOLE) {
            return false;
        }
        const uint32_t letter = spin_utf8_decode(text.bytes + at, &length);
        if (letter >= ALPHABET_END || (letter < 0x100 && !is_own_letter(letter))) {
            return false;
        }
        out[written++] = (char)(letter < 0x100 ? (uint8_t)letter : shifted_byte(letter));
        at += length;
    }
    *out_bytes = written;
    return true;
}

static uint32_t hash_bytes(const char *bytes, uint64_t count)
{
    uint64_t hash = count * UINT64_C(0x9E3779B97F4A7C15);
    for (uint64_t at = 0; at < count; at += 8) {
        uint64_t word = 0;
        memcpy(&word, bytes + at, SPIN_MIN(count - at, 8));
        hash = (hash ^ word) * UINT64_C(0xD6E8FEB86659FD93);
        hash ^= hash >> 32;
    }
    return (uint32_t)(hash ^ hash >> 32);
}

static bool piece_equals(const struct spin_vocab *vocab, uint32_t id, const char *bytes,
                         uint64_t count)
{
    const uint32_t begin = vocab->offsets[id];
    return vocab->offsets[id + 1] - begin == count &&
           memcmp(vocab->bytes + begin, bytes, count) == 0;
}

int32_t spin_vocab_find(const struct spin_vocab *vocab, const char *bytes, uint64_t count)
{
    uint32_t at = hash_bytes(bytes, count) & vocab->slot_mask;
    while (vocab->slots[at] != 0) {
        const uint32_t id = vocab->slots[at] - 1;
        if (piece_equals(vocab, id, bytes, count)) {
            return (int32_t)id;
        }
        at = (at + 1) & vocab->slot_mask;
    }
    return -1;
}

/* An added token takes part in merges where both alphabets spell it alike, as files that list it
 * among the merged ones too expect. */
static bool is_mergeable(const struct spin_vocab *vocab, uint32_t id)
{
    if (vocab->kinds[id] == SPIN_TOKEN_NORMAL) {
        return true;
    }
    for (uint32_t at = vocab->offsets[id]; at < vocab->offsets[id + 1]; at++) {
        if (vocab->bytes[at] < 0x21 || vocab->bytes[at] > 0x7E) {
            return false;
        }
    }
    return vocab->offsets[id] < vocab->offsets[id + 1];
}

static spin_status insert(struct spin_vocab *vocab, uint32_t *slots, uint32_t id,
                          struct spin_error *err)
{
    const char *bytes = vocab->bytes + vocab->offsets[id];
    const uint32_t count = vocab->offsets[id + 1] - vocab->offsets[id];
    uint32_t at = hash_bytes(bytes, count) & vocab->slot_mask;
    for (uint32_t probes = 0; probes < PROBES_MAX; probes++) {
        if (slots[at] == 0) {
            slots[at] = id + 1;
            return SPIN_OK;
        }
        if (piece_equals(vocab, slots[at] - 1, bytes, count)) {
            return spin_fail(err, SPIN_ERR_CORRUPT, "vocabulary: token %u is token %u again", id,
                             slots[at] - 1);
        }
        at = (at + 1) & vocab->slot_mask;
    }
    return spin_fail(err, SPIN_ERR_CORRUPT, "vocabulary: token %u collides with %u others", id,
                     PROBES_MAX);
}

static spin_status total_bytes(const struct spin_token_row *rows, uint32_t count, uint64_t *out,
                               struct spin_error *err)
{
    uint64_t total = 0;
    for (uint32_t id = 0; id < count; id++) {
        if (rows[id].kind == SPIN_TOKEN_UNUSED) {
            continue;
        }
        if (rows[id].text.count > SPIN_TOKEN_BYTES_MAX) {
            return spin_fail(err, SPIN_ERR_LIMIT, "vocabulary: token %u has %llu bytes, limit %u",
                             id, (unsigned long long)rows[id].text.count, SPIN_TOKEN_BYTES_MAX);
        }
        total += rows[id].text.count;
    }
    if (total > SPIN_VOCAB_BYTES_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "vocabulary: %llu bytes of text, limit %llu",
                         (unsigned long long)total, (unsigned long long)SPIN_VOCAB_BYTES_MAX);
    }
    *out = total;
    return SPIN_OK;
}

struct tables {
    uint32_t *offsets;
    char *bytes;
    uint8_t *kinds;
    uint32_t *slots;
};

/* Writes one piece at `at`. Normal tokens are translated; one with a letter outside the alphabet
 * can never be merged into being and is what it says, as the reference decoder has it. */
static uint32_t write_piece(struct tables *tables, uint32_t id, const struct spin_token_row *row,
                            uint32_t at)
{
    uint32_t written = 0;
    tables->kinds[id] = (uint8_t)row->kind;
    if (row->kind == SPIN_TOKEN_UNUSED) {
        return 0;
    }
    if (row->kind == SPIN_TOKEN_NORMAL &&
        spin_vocab_bytes_of(row->text, tables->bytes + at, &written)) {
        return written;
    }
    if (row->kind == SPIN_TOKEN_NORMAL) {
        tables->kinds[id] = SPIN_TOKEN_ADDED;
    }
    if (row->text.count > 0) {
        memcpy(tables->bytes + at, row->text.bytes, row->text.count);
    }
    return (uint32_t)row->text.count;
}

static spin_status write_pieces(const struct spin_token_row *rows, struct tables *tables,
                                struct spin_vocab *vocab, struct spin_error *err)
{
    uint32_t at = 0;
    for (uint32_t id = 0; id < vocab->count; id++) {
        const struct spin_string text = rows[id].text;
        if (rows[id].kind != SPIN_TOKEN_UNUSED &&
            spin_utf8_valid_prefix(text.bytes, text.count) != text.count) {
            return spin_fail(err, SPIN_ERR_CORRUPT, "vocabulary: token %u is not UTF-8", id);
        }
        tables->offsets[id] = at;
        const uint32_t written = write_piece(tables, id, &rows[id], at);
        vocab->piece_bytes_max = SPIN_MAX(vocab->piece_bytes_max, written);
        at += written;
    }
    tables->offsets[vocab->count] = at;
    return SPIN_OK;
}

/* Normal tokens first: where an added one has the same bytes, merges mean the normal one. */
static spin_status index_pieces(struct spin_vocab *vocab, uint32_t *slots, struct spin_error *err)
{
    for (uint32_t id = 0; id < vocab->count; id++) {
        if (vocab->kinds[id] == SPIN_TOKEN_NORMAL) {
            SPIN_TRY(insert(vocab, slots, id, err));
        }
    }
    for (uint32_t id = 0; id < vocab->count; id++) {
        const char *bytes = vocab->bytes + vocab->offsets[id];
        const uint32_t count = vocab->offsets[id + 1] - vocab->offsets[id];
        if (vocab->kinds[id] != SPIN_TOKEN_NORMAL && is_mergeable(vocab, id) &&
            spin_vocab_find(vocab, bytes, count) < 0) {
            SPIN_TRY(insert(vocab, slots, id, err));
        }
    }
    return SPIN_OK;
}

/* Rare control bytes may lack a token (published vocabularies do: docs/text.md); one that lacks a
 * printable ASCII character is not a byte-level vocabulary at all. */
static spin_status index_bytes(struct spin_vocab *vocab, struct spin_error *err)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        const char text = (char)byte;
        vocab->byte_tokens[byte] = spin_vocab_find(vocab, &text, 1);
        if (vocab->byte_tokens[byte] < 0 && byte >= 0x20 && byte <= 0x7E) {
            return spin_fail(err, SPIN_ERR_CORRUPT, "vocabulary: no token for byte 0x%02x", byte);
        }
    }
    return SPIN_OK;
}

spin_status spin_vocab_build(const struct spin_token_row *rows, uint32_t count,
                             struct spin_arena *arena, struct spin_vocab *out,
                             struct spin_error *err)
{
    if (count == 0 || count > SPIN_TOKENIZER_VOCAB_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "vocabulary: %u tokens, limit 1 to %u", count,
                         SPIN_TOKENIZER_VOCAB_MAX);
    }
    uint64_t bytes = 0;
    SPIN_TRY(total_bytes(rows, count, &bytes, err));
    uint32_t slot_count = 512;
    while (slot_count < 2 * count) {
        slot_count *= 2;
    }
    struct tables tables = {
        .offsets = spin_arena_take_zeroed(arena, (uint64_t)count + 1, sizeof *tables.offsets),
        .bytes = spin_arena_take(arena, bytes),
        .kinds = spin_arena_take_zeroed(arena, count, 1),
        .slots = spin_arena_take_zeroed(arena, slot_count, sizeof *tables.slots),
    };
    if (tables.offsets == NULL || tables.bytes == NULL || tables.kinds == NULL ||
        tables.slots == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "vocabulary: %u tokens", count);
    }
    struct spin_vocab vocab = {.count = count,
                               .offsets = tables.offsets,
                               .bytes = tables.bytes,
                               .kinds = tables.kinds,
                               .slots = tables.slots,
                               .slot_mask = slot_count - 1};
    SPIN_TRY(write_pieces(rows, &tables, &vocab, err));
    SPIN_TRY(index_pieces(&vocab, tables.slots, err));
    SPIN_TRY(index_bytes(&vocab, err));
    *out = vocab;
    return SPIN_OK;
}
