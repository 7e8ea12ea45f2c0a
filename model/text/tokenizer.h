/* tokenizer: byte-level BPE, from GGUF metadata or tokenizer.json, and back.
 *
 * Why        Routers and clients speak text, workers speak token ids; both sides must agree to the
 *            token with the model's own tokenizer (tested against the tokenizers package).
 * Input      UTF-8. Bytes that are not valid UTF-8 are replaced by U+FFFD, one per maximal subpart
 *            (Unicode 15, section 3.9), before anything else; docs/text.md.
 * Ownership  The tokenizer owns its tables; it is immutable after open.
 * Threading  Open on one thread; encode and decode from any number of threads.
 * Units      Bytes and tokens; ids are int32.
 * Errors     NOT_FOUND, IO: the file. UNSUPPORTED: a pre-tokenizer, normaliser or model kind that
 *            we do not have, by name. CORRUPT, LIMIT from open. LIMIT from encode when the text has
 *            more than `capacity` tokens: *count is then what would have been needed. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

#define SPIN_TOKENIZER_VOCAB_MAX (1u << 20)
#define SPIN_TOKENIZER_TEXT_BYTES_MAX (UINT64_C(64) << 20)

struct spin_tokenizer; /* private to tokenizer.c */

/* `source`: a .gguf file, a folder with tokenizer.json (and tokenizer_config.json), a
 * tokenizer.json, or "random:..." (256 byte tokens and the specials of a tiny vocabulary). */
SPIN_MUST_USE spin_status spin_tokenizer_open(const char *source, struct spin_tokenizer **out,
                                              struct spin_error *err);
void spin_tokenizer_close(struct spin_tokenizer *tokenizer); /* NULL is allowed */

struct spin_token_sink { /* counts all tokens, keeps those that fit */
    int32_t *tokens;
    uint64_t capacity;
    uint64_t count;
};

struct spin_text_span { /* bytes [begin, end) of a text */
    uint64_t begin;
    uint64_t end;
};

enum spin_encode_flags {
    SPIN_ENCODE_PLAIN = 0,
    SPIN_ENCODE_ADD_BOS = 1, /* prepend BOS where the model's tokenizer says so */
    SPIN_ENCODE_PARSE_SPECIAL =
        2 /* special tokens in the text become their ids; otherwise they are text */
};

/* *count is set on OK and on LIMIT (0 when the text itself is over
 * SPIN_TOKENIZER_TEXT_BYTES_MAX). */
SPIN_MUST_USE spin_status spin_tokenizer_encode(const struct spin_tokenizer *tokenizer,
                                                const char *text, uint64_t text_bytes,
                                                uint32_t flags, int32_t *tokens, uint64_t capacity,
                                                uint64_t *count, struct spin_error *err);

/* The bytes that a token stands for (special tokens: their text). False for an id out of range. */
bool spin_tokenizer_piece(const struct spin_tokenizer *tokenizer, int32_t token, const char **bytes,
                          uint32_t *byte_count);
bool spin_tokenizer_is_special(const struct spin_tokenizer *tokenizer, int32_t token);
/* End of generation: EOS, and the end-of-turn tokens of the model's chat format. */
bool spin_tokenizer_is_end(const struct spin_tokenizer *tokenizer, int32_t token);
/* The ids for which is_end holds; returns how many there are, writes at most `capacity`. */
uint32_t spin_tokenizer_end_tokens(const struct spin_tokenizer *tokenizer, int32_t *tokens,
                                   uint32_t capacity);

uint32_t spin_tokenizer_vocab(const struct spin_tokenizer *tokenizer);
int32_t spin_tokenizer_bos(const struct spin_tokenizer *tokenizer); /* -1: none */
int32_t spin_tokenizer_eos(const struct spin_tokenizer *tokenizer); /* -1: none */
/* The model's own chat template (Jinja source), or NULL. NUL-terminated. */
const char *spin_tokenizer_chat_template(const struct spin_tokenizer *tokenizer);

/* A stream of tokens back into text: what comes out is always whole UTF-8 characters. */
struct spin_detokenizer {
    const struct spin_tokenizer *tokenizer;
    bool skip_special;  /* special tokens give no text */
    uint8_t pending[4]; /* the first bytes of a character that is not whole yet */
    uint32_t pending_bytes;
};
void spin_detokenizer_init(struct spin_detokenizer *detokenizer,
                           const struct spin_tokenizer *tokenizer, bool skip_special);
/* Writes the characters that became whole; needs capacity >= piece bytes * 3 + 12 (invalid bytes
 * become U+FFFD). Returns the bytes written. Asserts the token's range. */
uint64_t spin_detokenizer_push(struct spin_detokenizer *detokenizer, int32_t token, char *out,
                               uint64_t capacity);
/* What is still pending, as U+FFFD; at the end of a stream. Returns the bytes written (0 or 3). */
uint64_t spin_detokenizer_finish(struct spin_detokenizer *detokenizer, char *out,
                                 uint64_t capacity);
/* The longest piece of this vocabulary, to size push's buffer. */
uint32_t spin_tokenizer_piece_bytes_max(const struct spin_tokenizer *tokenizer);

SPIN_END_DECLS
