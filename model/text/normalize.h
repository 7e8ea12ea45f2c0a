/* normalize: NFC, for the models whose tokenizer asks for it.
 *
 * Why        Long runs of combining marks are sorted by counting, not by swapping neighbours, so
 *            that no text costs more than linear time; text without marks is not copied at all.
 * Ownership  The result lies in the arena, or is the text itself where nothing had to change.
 * Threading  Any thread; the arena is the caller's.
 * Units      Bytes of valid UTF-8.
 * Errors     NO_MEMORY: the arena's cap. */
#pragma once

#include "base/arena.h"
#include "model/format/gguf.h"

SPIN_BEGIN_DECLS

SPIN_MUST_USE spin_status spin_normalize_nfc(struct spin_string text, struct spin_arena *arena,
                                             struct spin_string *out);

SPIN_END_DECLS
