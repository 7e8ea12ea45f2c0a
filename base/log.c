#include "base/log.h"

#include "base/clock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* One line, newline included. Longer text is cut and ends in "..." */
#define LINE_BYTES_MAX 2048

/* Relaxed: the level is set before threads start; a late reader loses a line at most. */
static _Atomic int level_max = SPIN_LOG_INFO;

void spin_log_set_level(enum spin_log_level level)
{
    atomic_store_explicit(&level_max, (int)level, memory_order_relaxed);
}

bool spin_log_enabled(enum spin_log_level level)
{
    return (int)level <= atomic_load_explicit(&level_max, memory_order_relaxed);
}

static const char *level_name(enum spin_log_level level)
{
    switch (level) {
    case SPIN_LOG_ERROR:
        return "error";
    case SPIN_LOG_WARN:
        return "warn";
    case SPIN_LOG_INFO:
        return "info";
    case SPIN_LOG_DEBUG:
        return "debug";
    case SPIN_LOG_TRACE:
        return "trace";
    }
    return "unknown";
}

static size_t write_prefix(char *line, enum spin_log_level level, const char *file, int line_number)
{
    const uint64_t wall_ns = spin_wall_ns();
    const time_t seconds = (time_t)(wall_ns / SPIN_NS_PER_S);
    struct tm utc;
    (void)gmtime_r(&seconds, &utc);
    const char *slash = strrchr(file, '/');
    const size_t date = strftime(line, LINE_BYTES_MAX, "%Y-%m-%dT%H:%M:%S", &utc);
    const int rest = snprintf(line + date, LINE_BYTES_MAX - date, ".%06uZ %s %.80s:%d ",
                              (unsigned)(wall_ns % SPIN_NS_PER_S / SPIN_NS_PER_US),
                              level_name(level), slash == NULL ? file : slash + 1, line_number);
    return date + (rest > 0 ? (size_t)rest : 0);
}

/* Text may quote bytes from outside: a line break in it must not look like a line of ours. */
static void mask_control_bytes(char *text, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const unsigned char byte = (unsigned char)text[i];
        if (byte < 0x20 || byte == 0x7F) {
            text[i] = '?';
        }
    }
}

void spin_log_write(enum spin_log_level level, const char *file, int line, const char *fmt, ...)
{
    const int saved_errno = errno;
    char text[LINE_BYTES_MAX];
    const size_t prefix = write_prefix(text, level, file, line);
    const size_t room = sizeof text - prefix - 1; /* one byte for the newline */
    va_list args;
    va_start(args, fmt);
    const int wanted = vsnprintf(text + prefix, room, fmt, args);
    va_end(args);
    size_t count = prefix + (wanted > 0 ? (size_t)wanted : 0);
    if (wanted > 0 && (size_t)wanted >= room) {
        count = sizeof text - 2;
        memset(text + count - 3, '.', 3);
    }
    mask_control_bytes(text + prefix, count - prefix);
    text[count] = '\n';
    const ssize_t written = write(STDERR_FILENO, text, count + 1);
    (void)written;
    errno = saved_errno;
}
