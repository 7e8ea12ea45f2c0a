/* fetch: one small GET, waited for: what a server serves, and its page of metrics.
 *
 * Why        Before and after a run there is nothing else to do, so the loop runs until it is done.
 * Ownership  The caller frees the body.
 * Threading  The loop's thread, outside of the loop.
 * Units      Bytes, nanoseconds.
 * Errors     PEER_LOST (nobody answers at any of the host's addresses, or not in time), LIMIT (the
 *            body), NOT_FOUND (the host); the text names the target. */
#pragma once

#include "net/loop.h"

SPIN_BEGIN_DECLS

#define SPIN_LOAD_NUMERIC_BYTES 64u

struct spin_load_fetch {
    const char *target; /* "host:port" */
    const char *path;
    const char *fields; /* header lines, each with its CR LF; NULL: none */
    uint64_t bytes_max;
    uint64_t timeout_ns; /* for each address of the host */
};

struct spin_load_fetched {
    int code;
    char *body; /* NUL-terminated */
    uint64_t bytes;
    char address[SPIN_LOAD_NUMERIC_BYTES]; /* the one that answered */
};

SPIN_MUST_USE spin_status spin_load_fetch(struct spin_loop *loop,
                                          const struct spin_load_fetch *fetch,
                                          struct spin_load_fetched *out, struct spin_error *err);

SPIN_END_DECLS
