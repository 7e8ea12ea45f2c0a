#include "bench/load/sse.h"

#include <stdlib.h>
#include <string.h>

#define CAPACITY_MIN 1024u

static spin_status make_room(struct spin_sse *sse, uint64_t count)
{
    const uint64_t wanted = sse->data_bytes + sse->line_bytes + count + 2; /* a LF, a NUL */
    if (count > SPIN_SSE_EVENT_BYTES_MAX || wanted > SPIN_SSE_EVENT_BYTES_MAX) {
        return SPIN_ERR_LIMIT;
    }
    if (wanted <= sse->capacity) {
        return SPIN_OK;
    }
    const uint64_t capacity = SPIN_MAX(SPIN_MAX(2 * sse->capacity, wanted), CAPACITY_MIN);
    char *grown = realloc(sse->bytes, capacity);
    if (grown == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    sse->bytes = grown;
    sse->capacity = capacity;
    return SPIN_OK;
}

/* A data line joins the event's data, where it lies already; any other is forgotten. */
static void take_line(struct spin_sse *sse)
{
    static const char field[] = "data";
    const uint64_t name_bytes = sizeof field - 1;
    char *line = sse->bytes + sse->data_bytes;
    const uint64_t bytes = sse->line_bytes;
    sse->line_bytes = 0;
    if (bytes < name_bytes || memcmp(line, field, name_bytes) != 0 ||
        (bytes > name_bytes && line[name_bytes] != ':')) {
        return;
    }
    uint64_t skip = SPIN_MIN(bytes, name_bytes + 1);
    skip += skip < bytes && line[skip] == ' ' ? 1 : 0;
    if (sse->has_data) {
        *line++ = '\n'; /* "data" was longer */
        sse->data_bytes++;
        skip--;
        memmove(line, line + skip, bytes - skip - 1);
        sse->data_bytes += bytes - skip - 1;
    } else {
        memmove(line, line + skip, bytes - skip);
        sse->data_bytes += bytes - skip;
    }
    sse->has_data = true;
}

/* False: whoever gets the events wants no more. */
static bool end_line(struct spin_sse *sse, spin_sse_event_fn event, void *context)
{
    if (sse->line_bytes != 0) {
        take_line(sse);
        return true;
    }
    if (!sse->has_data) {
        return true;
    }
    const uint64_t bytes = sse->data_bytes;
    sse->bytes[bytes] = '\0';
    sse->has_data = false;
    sse->data_bytes = 0;
    return event(context, sse->bytes, bytes);
}

static uint64_t line_end(const char *bytes, uint64_t count)
{
    const char *feed = memchr(bytes, '\n', count);
    const uint64_t to_feed = feed == NULL ? count : (uint64_t)(feed - bytes);
    const char *carriage = memchr(bytes, '\r', to_feed);
    return carriage == NULL ? to_feed : (uint64_t)(carriage - bytes);
}

spin_status spin_sse_feed(struct spin_sse *sse, const char *bytes, uint64_t count,
                          spin_sse_event_fn event, void *context)
{
    uint64_t at = 0;
    while (at < count) {
        if (sse->after_cr && bytes[at] == '\n') {
            sse->after_cr = false;
            at++;
            continue;
        }
        sse->after_cr = false;
        const uint64_t part = line_end(bytes + at, count - at);
        SPIN_TRY(make_room(sse, part));
        memcpy(sse->bytes + sse->data_bytes + sse->line_bytes, bytes + at, part);
        sse->line_bytes += part;
        at += part;
        if (at == count) {
            return SPIN_OK;
        }
        sse->after_cr = bytes[at++] == '\r';
        if (!end_line(sse, event, context)) {
            return SPIN_OK;
        }
    }
    return SPIN_OK;
}

void spin_sse_deinit(struct spin_sse *sse)
{
    free(sse->bytes);
    *sse = (struct spin_sse){0};
}
