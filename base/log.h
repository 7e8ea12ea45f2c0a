/* log: one line per event on standard error, for an operator.
 *
 * Why        INFO is a state change an operator cares about, never a request or a token. Text is
 *            lower case, what happened, then fields: "peer lost: peer=%s after_ms=%u".
 * Threading  Any thread; a line is one write(2). Arguments are not evaluated when the level is off.
 * Errors     None: a log line that cannot be written is lost. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

enum spin_log_level {
    SPIN_LOG_ERROR,
    SPIN_LOG_WARN,
    SPIN_LOG_INFO,
    SPIN_LOG_DEBUG,
    SPIN_LOG_TRACE
};

/* Default INFO. Set once at start, before threads. */
void spin_log_set_level(enum spin_log_level level);
bool spin_log_enabled(enum spin_log_level level);
/* Output: "2026-04-29T12:00:00.123456Z info file.c:12 text\n". */
void spin_log_write(enum spin_log_level level, const char *file, int line, const char *fmt, ...)
    SPIN_PRINTF(4, 5);

#define SPIN_LOG_(level, ...) \
    (spin_log_enabled(level) ? spin_log_write((level), __FILE__, __LINE__, __VA_ARGS__) : (void)0)
#define SPIN_ERROR(...) SPIN_LOG_(SPIN_LOG_ERROR, __VA_ARGS__)
#define SPIN_WARN(...) SPIN_LOG_(SPIN_LOG_WARN, __VA_ARGS__)
#define SPIN_INFO(...) SPIN_LOG_(SPIN_LOG_INFO, __VA_ARGS__)
#define SPIN_DEBUG_LOG(...) SPIN_LOG_(SPIN_LOG_DEBUG, __VA_ARGS__)
#define SPIN_TRACE(...) SPIN_LOG_(SPIN_LOG_TRACE, __VA_ARGS__)

SPIN_END_DECLS
