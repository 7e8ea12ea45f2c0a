/* text_stream: tokens in, text out, up to the first of several stop strings.
 *
 * Why        One place turns what a worker sends into what a client reads: whole UTF-8 characters,
 *            special tokens left out, nothing of a stop string. What may be the beginning of a stop
 *            string is held back until the next byte decides.
 * Ownership  Borrows the tokenizer; copies the stop strings.
 * Threading  One thread at a time; pure.
 * Units      Bytes, tokens.
 * Errors     create: INVALID (an empty or too long stop string), NO_MEMORY. push: INVALID (a token
 *            that the tokenizer does not know, so it is another model's). */
#pragma once

#include "model/text/tokenizer.h"
#include "router/generation.h"

SPIN_BEGIN_DECLS

struct spin_text_stream; /* private to text_stream.c */

struct spin_text { /* valid until the next call on the stream */
    const char *bytes;
    uint64_t count;
    /* How many more of the tokens pushed have all their text out now; they leave in order. A token
     * that a stop string began in never does. */
    uint32_t tokens;
};

SPIN_MUST_USE spin_status spin_text_stream_create(const struct spin_tokenizer *tokenizer,
                                                  const struct spin_stop_strings *stop,
                                                  struct spin_text_stream **out,
                                                  struct spin_error *err);
void spin_text_stream_destroy(struct spin_text_stream *stream); /* NULL is allowed */
/* After a stop string was found nothing comes out any more. */
SPIN_MUST_USE spin_status spin_text_stream_push(struct spin_text_stream *stream, int32_t token,
                                                struct spin_text *out, struct spin_error *err);
/* What was held back for want of more, at the end. */
struct spin_text spin_text_stream_finish(struct spin_text_stream *stream);
/* The index of the stop string that came; -1: none. Of several that end at the same byte, the one
 * that began first. */
int32_t spin_text_stream_stopped(const struct spin_text_stream *stream);

SPIN_END_DECLS
