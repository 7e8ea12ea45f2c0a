/* stop_filter: lets text through until a stop string shows, and nothing of the stop string itself.
 *
 * Why        Text comes in pieces that end anywhere, so what may be the beginning of the stop
 *            string is held back until the next byte decides (Knuth, Morris, Pratt).
 * Ownership  Borrows the stop string.
 * Threading  One thread at a time.
 * Units      Bytes.
 * Errors     INVALID from init: empty or too long. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

#define SPIN_STOP_BYTES_MAX 256u

struct spin_stop_filter {
    const char *stop; /* NULL: everything passes */
    uint32_t stop_bytes;
    uint32_t held; /* bytes held back: stop[0, held) */
    bool found;
    /* fallback[i]: the longest proper prefix of stop that ends stop[0, i] */
    uint16_t fallback[SPIN_STOP_BYTES_MAX];
};

/* stop NULL: no stop string. */
SPIN_MUST_USE spin_status spin_stop_filter_init(struct spin_stop_filter *filter, const char *stop,
                                                struct spin_error *err);
/* Writes what may pass of `text`; `out` has room for bytes + SPIN_STOP_BYTES_MAX. Returns the bytes
 * written. After the stop string was found nothing passes any more. */
uint64_t spin_stop_filter_push(struct spin_stop_filter *filter, const char *text, uint64_t bytes,
                               char *out);
/* What was held back, at the end of the text. The same room. */
uint64_t spin_stop_filter_finish(struct spin_stop_filter *filter, char *out);

SPIN_END_DECLS
