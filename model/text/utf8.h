/* utf8: one character at a time, and the one rule for bytes that are none.
 *
 * Why        Encoder and detokenizer replace bad bytes alike: U+FFFD for each maximal subpart
 *            (Unicode 15, section 3.9, table 3-7), so that cutting a stream anywhere changes
 *            nothing.
 * Ownership  Borrows the text, writes to the caller's buffers.
 * Threading  Any thread; pure.
 * Units      Bytes. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

enum spin_utf8_kind {
    SPIN_UTF8_WHOLE,    /* a character */
    SPIN_UTF8_INVALID,  /* a maximal subpart, or a byte that begins nothing */
    SPIN_UTF8_TRUNCATED /* a proper prefix of a character, and the text ends here */
};

#define SPIN_UTF8_REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */
#define SPIN_UTF8_REPLACEMENT_BYTES 3u

/* Looks at the start of `bytes`; count > 0. *length: how many bytes the verdict is about, 1 to
 * 4. */
enum spin_utf8_kind spin_utf8_step(const char *bytes, uint64_t count, uint32_t *length);

/* The code point of a whole character at `bytes`; *length is its bytes. Valid UTF-8 only. */
uint32_t spin_utf8_decode(const char *bytes, uint32_t *length);

/* Writes a code point below U+110000 as 1 to 4 bytes and returns how many. */
uint32_t spin_utf8_encode(uint32_t code_point, char out[4]);

/* How many leading bytes are valid UTF-8 (whole characters). */
uint64_t spin_utf8_valid_prefix(const char *bytes, uint64_t count);

/* Copies with every maximal subpart replaced; a truncated end counts as one. Writes at most count *
 * 3 bytes and returns how many. */
uint64_t spin_utf8_replace(const char *bytes, uint64_t count, char *out);

SPIN_END_DECLS
