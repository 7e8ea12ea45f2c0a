/* text_stream: tokens in, text out, up to the stop string.
 *
 * Why        One place turns what a worker sends into what a person reads: whole UTF-8 characters,
 *            special tokens left out, nothing of a stop string.
 * Ownership  Borrows the tokenizer and the stop string until destroy.
 * Threading  One thread at a time.
 * Units      Bytes.
 * Errors     INVALID from push: a token that the tokenizer does not know, so it is another
 *            model's. */
#pragma once

#include "model/text/tokenizer.h"

SPIN_BEGIN_DECLS

struct spin_text_stream; /* private to text_stream.c */

struct spin_text { /* valid until the next call on the stream */
    const char *bytes;
    uint64_t count;
};

SPIN_MUST_USE spin_status spin_text_stream_create(const struct spin_tokenizer *tokenizer,
                                                  const char *stop, struct spin_text_stream **out,
                                                  struct spin_error *err);
void spin_text_stream_destroy(struct spin_text_stream *stream); /* NULL is allowed */
SPIN_MUST_USE spin_status spin_text_stream_push(struct spin_text_stream *stream, int32_t token,
                                                struct spin_text *out, struct spin_error *err);
/* What was held back for want of more. */
struct spin_text spin_text_stream_finish(struct spin_text_stream *stream);
/* The stop string came: what follows is not wanted. */
bool spin_text_stream_stopped(const struct spin_text_stream *stream);

SPIN_END_DECLS
