#include "net/http_internal.h"

#include <stdlib.h>
#include <string.h>

/* Fits a streamed chunk or a short request's headers. */
#define CAPACITY_MIN 1024u

bool spin_http_buffer_grow(struct spin_http_buffer *buffer, uint64_t capacity)
{
    if (capacity <= buffer->capacity) {
        return true;
    }
    char *bytes = realloc(buffer->bytes, capacity);
    if (bytes == NULL) {
        return false;
    }
    buffer->bytes = bytes;
    buffer->capacity = capacity;
    return true;
}

bool spin_http_buffer_append(struct spin_http_buffer *buffer, const char *bytes, uint64_t count)
{
    if (count == 0) {
        return true;
    }
    if (count > buffer->capacity - buffer->count) {
        if (count > UINT64_MAX / 4 - buffer->count) {
            return false;
        }
        const uint64_t doubled = SPIN_MAX(buffer->capacity * 2, CAPACITY_MIN);
        if (!spin_http_buffer_grow(buffer, SPIN_MAX(buffer->count + count, doubled))) {
            return false;
        }
    }
    memcpy(buffer->bytes + buffer->count, bytes, count);
    buffer->count += count;
    return true;
}

void spin_http_buffer_release(struct spin_http_buffer *buffer)
{
    free(buffer->bytes);
    *buffer = (struct spin_http_buffer){0};
}
