/* encode: text to tokens where some stretches must stay text whatever they say.
 *
 * Why        A chat prompt is format text with special tokens around content that people write.
 *            Content that spells a special token must not become one, yet pieces may span the
 *            border between the two, so the prompt is encoded whole with the content marked.
 * Ownership  Borrows everything for the call.
 * Threading  Any number of threads on one tokenizer.
 * Units      Bytes and tokens.
 * Errors     As spin_tokenizer_encode; count is then what would have been needed. */
#pragma once

#include "model/format/gguf.h"
#include "model/text/tokenizer.h"

SPIN_BEGIN_DECLS

struct spin_encode_input {
    struct spin_string text;
    uint32_t flags; /* enum spin_encode_flags */
    /* Ascending and apart: no special token that touches one of these is parsed. */
    const struct spin_text_span *literal;
    uint32_t literal_count;
};

/* With literal spans the text must be valid UTF-8 (replacing would move the spans): asserted. */
SPIN_MUST_USE spin_status spin_tokenizer_encode_input(const struct spin_tokenizer *tokenizer,
                                                      const struct spin_encode_input *input,
                                                      struct spin_token_sink *sink,
                                                      struct spin_error *err);

SPIN_END_DECLS
