/* vocab: what each token id stands for, and the id of a byte string.
 *
 * Why        A vocabulary file spells bytes as printable characters (the GPT-2 byte alphabet). It
 *            is translated once, at open: afterwards there are only bytes. All tables lie in one
 *            arena.
 * Ownership  The tables belong to the arena given to build.
 * Threading  Built on one thread; read by all.
 * Units      Bytes and token ids.
 * Errors     CORRUPT with the token's index: a duplicate, text that is no UTF-8, no token for a
 *            printable ASCII byte. LIMIT: too many or too long tokens. */
#pragma once

#include "base/arena.h"
#include "base/status.h"
#include "model/format/gguf.h"

SPIN_BEGIN_DECLS

/* The longest in published vocabularies are runs of a few hundred spaces. */
#define SPIN_TOKEN_BYTES_MAX 16384u
#define SPIN_VOCAB_BYTES_MAX (UINT64_C(256) << 20)

enum spin_token_kind {
    SPIN_TOKEN_UNUSED, /* a hole or padding: no text */
    SPIN_TOKEN_NORMAL, /* spelled in the byte alphabet; what merges make */
    SPIN_TOKEN_ADDED,  /* plain text, matched before everything else */
    SPIN_TOKEN_SPECIAL /* the same, and control: matched only where special tokens are parsed */
};

struct spin_token_row {
    struct spin_string text;
    enum spin_token_kind kind;
    bool normalized; /* added tokens: matched after those that are not (docs/text.md) */
};

struct spin_vocab {
    uint32_t count;
    const uint32_t *offsets; /* [count + 1] into bytes */
    const char *bytes;
    const uint8_t *kinds;  /* [count] enum spin_token_kind */
    const uint32_t *slots; /* open addressing over pieces: id + 1, 0 is empty */
    uint32_t slot_mask;
    uint32_t piece_bytes_max;
    int32_t byte_tokens[256]; /* -1: this byte has no token */
};

SPIN_MUST_USE spin_status spin_vocab_build(const struct spin_token_row *rows, uint32_t count,
                                           struct spin_arena *arena, struct spin_vocab *out,
                                           struct spin_error *err);

/* The token that merging can make and that stands for these bytes, or -1. */
int32_t spin_vocab_find(const struct spin_vocab *vocab, const char *bytes, uint64_t count);

/* Translates the byte alphabet into bytes: `out` has room for text.count. False when a character is
 * not of the alphabet or the text is not UTF-8. */
bool spin_vocab_bytes_of(struct spin_string text, char *out, uint32_t *out_bytes);

/* The character that spells `byte` in the byte alphabet. */
uint32_t spin_vocab_letter(uint8_t byte);

SPIN_END_DECLS
