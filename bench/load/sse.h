/* sse: a stream of server-sent events cut into their data.
 *
 * Why        A push parser that knows no socket: bytes arrive cut anywhere, and one event must come
 *            out the same. Of the format only `data` matters here; other fields and comments are
 *            skipped, lines may end with CR LF, LF or CR, and several data lines of an event are
 *            joined by LF, all as the HTML standard says.
 * Ownership  The parser owns its buffer; an event's bytes are valid during the callback.
 * Threading  One thread at a time.
 * Units      Bytes.
 * Errors     LIMIT: an event over SPIN_SSE_EVENT_BYTES_MAX. NO_MEMORY. After either it is over. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

#define SPIN_SSE_EVENT_BYTES_MAX (UINT64_C(1) << 20)

struct spin_sse { /* zeroed storage is a parser at the start of a stream */
    char *bytes;  /* the data so far, then the line that is being read */
    uint64_t capacity;
    uint64_t data_bytes;
    uint64_t line_bytes; /* behind data_bytes */
    bool has_data;
    bool after_cr; /* a LF that follows belongs to it */
};

/* The data is NUL-terminated, the NUL not counted. Return false to stop: the rest is not read. */
typedef bool (*spin_sse_event_fn)(void *context, const char *data, uint64_t bytes);

/* An event that is not ended by an empty line when the stream ends is none. */
SPIN_MUST_USE spin_status spin_sse_feed(struct spin_sse *sse, const char *bytes, uint64_t count,
                                        spin_sse_event_fn event, void *context);
void spin_sse_deinit(struct spin_sse *sse); /* zeroed storage is allowed */

SPIN_END_DECLS
