#include "client/lines.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READ_BYTES UINT64_C(4096)

void spin_lines_deinit(struct spin_lines *lines)
{
    free(lines->bytes);
    *lines = (struct spin_lines){.fd = lines->fd};
}

/* Takes a whole line out of what was read; NULL: there is none yet. */
static char *take_line(struct spin_lines *lines)
{
    char *first = lines->bytes + lines->begin;
    char *end = lines->count == 0 ? NULL : memchr(first, '\n', lines->count);
    uint64_t used = 0;
    if (end != NULL) {
        used = (uint64_t)(end - first) + 1;
    } else if (lines->ended && lines->count > 0) { /* the last line may lack its end */
        used = lines->count;
        end = first + used;
    } else {
        return NULL;
    }
    *end = '\0'; /* there is always room for one byte more */
    if (end > first && end[-1] == '\r') {
        end[-1] = '\0';
    }
    lines->begin += used;
    lines->count -= used;
    return first;
}

/* Room for READ_BYTES and a NUL behind what there is. */
static spin_status reserve(struct spin_lines *lines, struct spin_error *err)
{
    if (lines->begin > 0) {
        memmove(lines->bytes, lines->bytes + lines->begin, lines->count);
        lines->begin = 0;
    }
    const uint64_t wanted = lines->count + READ_BYTES + 1;
    if (wanted > lines->capacity) {
        const uint64_t capacity = SPIN_MAX(2 * lines->capacity, wanted);
        char *larger = realloc(lines->bytes, capacity);
        if (larger == NULL) {
            return spin_fail(err, SPIN_ERR_NO_MEMORY, "input: %" PRIu64 " bytes", capacity);
        }
        lines->bytes = larger;
        lines->capacity = capacity;
    }
    return SPIN_OK;
}

static spin_status read_more(struct spin_lines *lines, struct spin_error *err)
{
    SPIN_TRY(reserve(lines, err));
    const ssize_t got = read(lines->fd, lines->bytes + lines->count, READ_BYTES);
    if (got < 0 && errno != EINTR && errno != EAGAIN) {
        return spin_fail_errno(err, SPIN_ERR_IO, "standard input");
    }
    lines->ended = got == 0;
    lines->count += got > 0 ? (uint64_t)got : 0;
    return SPIN_OK;
}

/* Waits for input or a signal; the number of the signal, or 0. */
static int wait_input(const struct spin_lines *lines, struct spin_interrupt *interrupt)
{
    struct pollfd fds[] = {{.fd = lines->fd, .events = POLLIN},
                           {.fd = interrupt->fd, .events = POLLIN}};
    for (;;) {
        (void)poll(fds, SPIN_ARRAY_COUNT(fds), -1);
        const int number = spin_interrupt_take(interrupt);
        if (number != 0 || fds[0].revents != 0) {
            return number;
        }
    }
}

/* What begins a line that is longer than any may be is forgotten as it comes. */
static void drop_long(struct spin_lines *lines)
{
    if (lines->skips || lines->count > SPIN_LINE_BYTES_MAX) {
        lines->skips = true;
        lines->count = 0;
        lines->begin = 0;
    }
}

static spin_status refuse_long(struct spin_error *err)
{
    return spin_fail(err, SPIN_ERR_LIMIT, "a line over %" PRIu64 " bytes is skipped",
                     SPIN_LINE_BYTES_MAX);
}

spin_status spin_lines_next(struct spin_lines *lines, struct spin_interrupt *interrupt, char **out,
                            int *out_signal, struct spin_error *err)
{
    for (;;) {
        char *line = take_line(lines);
        if (line != NULL) {
            const bool was_long = lines->skips || strlen(line) > SPIN_LINE_BYTES_MAX;
            lines->skips = false;
            if (was_long) {
                return refuse_long(err);
            }
            *out = line;
            return SPIN_OK;
        }
        drop_long(lines);
        if (lines->ended && lines->skips) { /* it was the last line */
            lines->skips = false;
            return refuse_long(err);
        }
        if (lines->ended) {
            return spin_fail(err, SPIN_ERR_NOT_FOUND, "the end of the input");
        }
        const int number = wait_input(lines, interrupt);
        if (number != 0) {
            *out_signal = number;
            return spin_fail(err, SPIN_ERR_CANCELLED, "signal %d", number);
        }
        SPIN_TRY(read_more(lines, err));
    }
}
