/* openai_error: what went wrong, as OpenAI's error object.
 *
 * Why        Clients choose what to do by the HTTP status, `type` and `code`, so which error has
 *            which stands in one table; docs/http-api.md shows it to people.
 * Ownership  Values; type and code are static.
 * Threading  Any thread; pure. */
#pragma once

#include "base/status.h"
#include "router/http/json_writer.h"

SPIN_BEGIN_DECLS

/* X(name, HTTP status, type, code) */
#define SPIN_OPENAI_ERROR_MAP(X) \
    X(VALUE, 400, "invalid_request_error", "invalid_value") \
    X(JSON, 400, "invalid_request_error", "invalid_json") \
    X(MISSING, 400, "invalid_request_error", "missing_required_parameter") \
    X(UNKNOWN, 400, "invalid_request_error", "unknown_parameter") \
    X(UNSUPPORTED, 400, "invalid_request_error", "unsupported_parameter") \
    X(CONTEXT, 400, "invalid_request_error", "context_length_exceeded") \
    X(HTTP, 400, "invalid_request_error", "bad_request") \
    X(KEY, 401, "authentication_error", "invalid_api_key") \
    X(MODEL, 404, "invalid_request_error", "model_not_found") \
    X(ROUTE, 404, "invalid_request_error", "not_found") \
    X(METHOD, 405, "invalid_request_error", "method_not_allowed") \
    X(SLOW, 408, "invalid_request_error", "request_timeout") \
    X(BODY, 413, "invalid_request_error", "request_too_large") \
    X(HEADERS, 431, "invalid_request_error", "headers_too_large") \
    X(FULL, 429, "rate_limit_error", "rate_limit_exceeded") \
    X(INTERNAL, 500, "server_error", "internal_error") \
    X(UNAVAILABLE, 503, "server_error", "service_unavailable") \
    X(DEADLINE, 504, "server_error", "deadline_exceeded")

#define SPIN_OPENAI_ERROR_ENUM(name, http_status, type, code) SPIN_OPENAI_##name,
enum spin_openai_error_kind { SPIN_OPENAI_ERROR_MAP(SPIN_OPENAI_ERROR_ENUM) };
#undef SPIN_OPENAI_ERROR_ENUM

struct spin_openai_error {
    int http_status;
    const char *type;
    const char *code;
    char param[64]; /* the field; "": none, null in JSON */
    char message[320];
};

/* Fills *error and returns INVALID, for `return spin_openai_refuse(..)`. `param` may be NULL. */
spin_status spin_openai_refuse(struct spin_openai_error *error, enum spin_openai_error_kind kind,
                               const char *param, const char *fmt, ...) SPIN_PRINTF(4, 5);
/* An error of the router's own. A text that begins with the name of a field and a colon gives
 * `param`. */
void spin_openai_error_from_status(struct spin_openai_error *error, spin_status status,
                                   const char *text);
/* One that the HTTP server answers itself; a status that has no row keeps its number. */
void spin_openai_error_from_http(struct spin_openai_error *error, int http_status,
                                 const char *text);
/* {"error":{...}} */
void spin_openai_error_write(const struct spin_openai_error *error,
                             struct spin_json_writer *writer);

SPIN_END_DECLS
