#include "base/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#undef spin_fail /* the analyser's view of them, in status.h */
#undef spin_fail_errno

const char *spin_status_name(spin_status status)
{
    switch (status) {
    case SPIN_OK:
        return "OK";
#define STATUS_NAME(name, code, text) \
    case SPIN_ERR_##name: \
        return #name;
        SPIN_STATUS_MAP(STATUS_NAME)
#undef STATUS_NAME
    }
    return "UNKNOWN";
}

const char *spin_status_text(spin_status status)
{
    switch (status) {
    case SPIN_OK:
        return "ok";
#define STATUS_TEXT(name, code, text) \
    case SPIN_ERR_##name: \
        return text;
        SPIN_STATUS_MAP(STATUS_TEXT)
#undef STATUS_TEXT
    }
    return "unknown status";
}

enum spin_status_scope spin_status_scope(spin_status status)
{
    const int code = (int)status;
    if (code < 10) {
        return SPIN_SCOPE_NONE;
    }
    if (code < 30) {
        return SPIN_SCOPE_REQUEST;
    }
    if (code < 50) {
        return SPIN_SCOPE_PEER;
    }
    return code < 60 ? SPIN_SCOPE_DEVICE : SPIN_SCOPE_PROCESS;
}

spin_status spin_fail(struct spin_error *err, spin_status status, const char *fmt, ...)
{
    if (err != NULL) {
        va_list args;
        va_start(args, fmt);
        err->status = status;
        (void)vsnprintf(err->text, sizeof err->text, fmt, args);
        va_end(args);
    }
    return status;
}

spin_status spin_fail_errno(struct spin_error *err, spin_status status, const char *fmt, ...)
{
    const int saved = errno;
    if (err != NULL) {
        va_list args;
        va_start(args, fmt);
        err->status = status;
        (void)vsnprintf(err->text, sizeof err->text, fmt, args);
        va_end(args);
        const size_t used = strlen(err->text);
        char reason[96];
        (void)snprintf(err->text + used, sizeof err->text - used, ": %s",
                       strerror_r(saved, reason, sizeof reason));
    }
    return status;
}
