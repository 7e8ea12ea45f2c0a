/* stop_filter: lets text through until one of several stop strings shows, and nothing of that one.
 *
 * Why        Text comes in pieces that end anywhere, so what may be the beginning of a stop string
 *            is held back until the next byte decides. One automaton per string (Knuth, Morris,
 *            Pratt): their tables are as small as the strings, where one automaton for all (Aho,
 *            Corasick) would take hundreds of KiB of every open stream.
 * Ownership  Copies the strings; one allocation, at create.
 * Threading  One thread at a time; pure.
 * Units      Bytes.
 * Errors     create: INVALID names the string (empty, over SPIN_STOP_STRING_BYTES_MAX, not UTF-8),
 *            LIMIT (over SPIN_STOP_STRINGS_MAX), NO_MEMORY. */
#pragma once

#include "router/generation.h"

SPIN_BEGIN_DECLS

struct spin_stop_filter; /* private to stop_filter.c */

SPIN_MUST_USE spin_status spin_stop_filter_create(const struct spin_stop_strings *stop,
                                                  struct spin_stop_filter **out,
                                                  struct spin_error *err);
void spin_stop_filter_destroy(struct spin_stop_filter *filter); /* NULL is allowed */

/* Writes what may pass, of what was held back and of `text`; `out` has room for bytes +
 * spin_stop_filter_held_max. Returns the bytes written. After a stop string was found nothing
 * passes any more. */
uint64_t spin_stop_filter_push(struct spin_stop_filter *filter, const char *text, uint64_t bytes,
                               char *out);
/* What was held back, at the end of the text. The same room. */
uint64_t spin_stop_filter_finish(struct spin_stop_filter *filter, char *out);
/* The string that came, as an index; -1: none yet. The first to be whole counts; of several that
 * became whole with the same byte the one that began first. */
int32_t spin_stop_filter_found(const struct spin_stop_filter *filter);
/* How much may be held back: the longest string but for its last byte. */
uint32_t spin_stop_filter_held_max(const struct spin_stop_filter *filter);

SPIN_END_DECLS
