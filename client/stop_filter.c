#include "client/stop_filter.h"

#include <string.h>

spin_status spin_stop_filter_init(struct spin_stop_filter *filter, const char *stop,
                                  struct spin_error *err)
{
    *filter = (struct spin_stop_filter){.stop = stop};
    if (stop == NULL) {
        return SPIN_OK;
    }
    const size_t bytes = strlen(stop);
    if (bytes == 0 || bytes > SPIN_STOP_BYTES_MAX) {
        return spin_fail(err, SPIN_ERR_INVALID, "--stop: %zu bytes, must be 1..%u", bytes,
                         SPIN_STOP_BYTES_MAX);
    }
    filter->stop_bytes = (uint32_t)bytes;
    uint16_t length = 0;
    for (uint32_t i = 1; i < filter->stop_bytes; i++) {
        while (length > 0 && stop[i] != stop[length]) {
            length = filter->fallback[length - 1];
        }
        length = (uint16_t)(length + (stop[i] == stop[length]));
        filter->fallback[i] = length;
    }
    return SPIN_OK;
}

/* One byte; returns the bytes written. What falls out of the match is its beginning. */
static uint64_t push_byte(struct spin_stop_filter *filter, char byte, char *out)
{
    uint64_t written = 0;
    while (filter->held > 0 && filter->stop[filter->held] != byte) {
        const uint32_t kept = filter->fallback[filter->held - 1];
        const uint32_t passed = filter->held - kept;
        memcpy(out + written, filter->stop, passed);
        written += passed;
        filter->held = kept;
    }
    if (filter->stop[filter->held] == byte) {
        filter->held++;
        filter->found = filter->held == filter->stop_bytes;
    } else {
        out[written++] = byte;
    }
    return written;
}

uint64_t spin_stop_filter_push(struct spin_stop_filter *filter, const char *text, uint64_t bytes,
                               char *out)
{
    if (filter->stop == NULL) {
        memcpy(out, text, bytes);
        return bytes;
    }
    uint64_t written = 0;
    for (uint64_t i = 0; i < bytes && !filter->found; i++) {
        written += push_byte(filter, text[i], out + written);
    }
    return written;
}

uint64_t spin_stop_filter_finish(struct spin_stop_filter *filter, char *out)
{
    if (filter->found || filter->held == 0) {
        return 0;
    }
    const uint64_t held = filter->held;
    memcpy(out, filter->stop, held);
    filter->held = 0;
    return held;
}
