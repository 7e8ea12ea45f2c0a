/* status: the one result type, grouped by how much an error kills.
 *
 * Why        A handler asks "what must I tear down?", so codes come in blocks by blast radius:
 *            1-9 expected, 10-29 this request, 30-49 this peer, 50-59 this device, 60+ the process.
 * Ownership  A struct spin_error is the caller's; it may be NULL wherever it is asked for.
 * Threading  Any thread.
 * Errors     Whoever decides the status writes the text (spin_fail); callers in between are
 *            silent. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

/* X(name, code, text). Codes are part of the wire protocol (proto/rpc maps them to gRPC): never
 * reuse one. */
#define SPIN_STATUS_MAP(X) \
    X(AGAIN, 1, "not now, retry later") \
    X(NOT_FOUND, 2, "not found") \
    X(CANCELLED, 3, "cancelled") \
    X(DEADLINE, 4, "deadline passed") \
    X(INVALID, 10, "invalid argument") \
    X(NO_MEMORY, 11, "allocation refused") \
    X(LIMIT, 12, "over a limit") \
    X(EXHAUSTED, 13, "no capacity left") \
    X(UNSUPPORTED, 14, "not supported") \
    X(CORRUPT, 15, "bytes are not what they claim to be") \
    X(DENIED, 16, "not allowed") \
    X(IO, 17, "input or output failed") \
    X(PEER_LOST, 30, "peer unreachable") \
    X(PEER_MISMATCH, 31, "peer is not what was expected") \
    X(DEVICE_LOST, 50, "device unusable") \
    X(SHUTDOWN, 60, "process is shutting down") \
    X(INTERNAL, 61, "internal error")

#define SPIN_STATUS_ENUM(name, code, text) SPIN_ERR_##name = (code),
typedef enum spin_status { SPIN_OK = 0, SPIN_STATUS_MAP(SPIN_STATUS_ENUM) } spin_status;
#undef SPIN_STATUS_ENUM

enum spin_status_scope {
    SPIN_SCOPE_NONE,    /* nothing to tear down: OK and the expected ones */
    SPIN_SCOPE_REQUEST, /* this request */
    SPIN_SCOPE_PEER,    /* everything shared with this peer */
    SPIN_SCOPE_DEVICE,  /* the engine of this device */
    SPIN_SCOPE_PROCESS
};

struct spin_error {
    spin_status status;
    char text[240];
};

const char *spin_status_name(spin_status status); /* "INVALID" */
const char *spin_status_text(spin_status status); /* "invalid argument" */
enum spin_status_scope spin_status_scope(spin_status status);

/* Writes status and text into err (NULL allowed) and returns status. */
spin_status spin_fail(struct spin_error *err, spin_status status, const char *fmt, ...)
    SPIN_PRINTF(3, 4);
/* The same with ": <strerror(errno)>" appended. */
spin_status spin_fail_errno(struct spin_error *err, spin_status status, const char *fmt, ...)
    SPIN_PRINTF(3, 4);

#ifdef __clang_analyzer__
/* The analyser does not see into status.c: a failure is the status that was given, never OK. */
#define spin_fail(err, status, ...) ((void)spin_fail((err), (status), __VA_ARGS__), (status))
#define spin_fail_errno(err, status, ...) \
    ((void)spin_fail_errno((err), (status), __VA_ARGS__), (status))
#endif

/* Return early when there is nothing to undo. */
#define SPIN_TRY(expr) \
    do { \
        const spin_status try_status_ = (expr); \
        if (try_status_ != SPIN_OK) { \
            return try_status_; \
        } \
    } while (0)

#define SPIN_TRY_GOTO(status, expr, label) \
    do { \
        (status) = (expr); \
        if ((status) != SPIN_OK) { \
            goto label; \
        } \
    } while (0)

SPIN_END_DECLS
