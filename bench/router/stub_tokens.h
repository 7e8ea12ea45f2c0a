/* stub_tokens: what a stub worker answers, and when it sent it.
 *
 * Why        Token n of an answer is a function of (prompt, seed, n), so that whoever knows the
 *            request can check every token that comes, also after a stream has moved to another
 *            worker. The moment of every send lies in a file that processes of one machine map, so
 *            that a client knows how long each token was on its way without a byte in the protocol.
 * Layout     One u64 per (stream, token): nanoseconds of CLOCK_MONOTONIC; 0: not sent. The
 *            prompt's first two tokens name the stream: 256 * first + second.
 * Ownership  The mapping belongs to whoever opened it, until close.
 * Threading  Any thread; a stream's times are written by one.
 * Units      Nanoseconds.
 * Errors     open: IO, the text names the file. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

#define SPIN_STUB_STREAMS_MAX 1024u /* whose times are kept; there may be more streams */
#define SPIN_STUB_TOKENS_MAX 4096u  /* of one stream */

/* All that the answer depends on, but the place. */
uint64_t spin_stub_key(const int32_t *prompt, uint64_t prompt_count, uint64_t seed);
/* A small letter: one byte token of a "random:..." vocabulary, one character of text, one byte of
 * JSON. */
int32_t spin_stub_token(uint64_t key, uint32_t place);

struct spin_stub_times;

SPIN_MUST_USE spin_status spin_stub_times_open(const char *path, struct spin_stub_times **out,
                                               struct spin_error *err);
void spin_stub_times_close(struct spin_stub_times *times); /* NULL is allowed */
/* SPIN_STUB_STREAMS_MAX or more: a stream that has no row. */
uint32_t spin_stub_stream(const int32_t *prompt, uint64_t prompt_count);
/* Both ignore what has no row or column; get gives 0 then. */
void spin_stub_times_set(struct spin_stub_times *times, uint32_t stream, uint32_t place,
                         uint64_t sent_ns);
uint64_t spin_stub_times_get(const struct spin_stub_times *times, uint32_t stream, uint32_t place);

SPIN_END_DECLS
