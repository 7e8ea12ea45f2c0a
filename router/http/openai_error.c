#include "router/http/openai_error.h"

#include "base/assert.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    int http_status;
    const char *type;
    const char *code;
} rows[] = {
#define ROW(name, http_status, type, code) {(http_status), (type), (code)},
    SPIN_OPENAI_ERROR_MAP(ROW)
#undef ROW
};

static void set(struct spin_openai_error *error, enum spin_openai_error_kind kind)
{
    SPIN_ASSERT_LT((uint32_t)kind, SPIN_ARRAY_COUNT(rows));
    error->http_status = rows[kind].http_status;
    error->type = rows[kind].type;
    error->code = rows[kind].code;
    error->param[0] = '\0';
    error->message[0] = '\0';
}

spin_status spin_openai_refuse(struct spin_openai_error *error, enum spin_openai_error_kind kind,
                               const char *param, const char *fmt, ...)
{
    set(error, kind);
    (void)snprintf(error->param, sizeof error->param, "%s", param == NULL ? "" : param);
    va_list args;
    va_start(args, fmt);
    /* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): va_start is just above */
    (void)vsnprintf(error->message, sizeof error->message, fmt, args);
    va_end(args);
    return SPIN_ERR_INVALID;
}

static enum spin_openai_error_kind kind_of(spin_status status)
{
    switch (status) {
    case SPIN_ERR_INVALID:
        return SPIN_OPENAI_VALUE;
    case SPIN_ERR_UNSUPPORTED:
        return SPIN_OPENAI_UNSUPPORTED;
    case SPIN_ERR_LIMIT:
        return SPIN_OPENAI_CONTEXT;
    case SPIN_ERR_DENIED:
        return SPIN_OPENAI_KEY;
    case SPIN_ERR_NOT_FOUND:
        return SPIN_OPENAI_MODEL;
    case SPIN_ERR_EXHAUSTED:
        return SPIN_OPENAI_FULL;
    case SPIN_ERR_DEADLINE:
        return SPIN_OPENAI_DEADLINE;
    case SPIN_ERR_AGAIN:
    case SPIN_ERR_CANCELLED: /* by us, while going down: the client is still there */
    case SPIN_ERR_NO_MEMORY:
    case SPIN_ERR_PEER_LOST:
    case SPIN_ERR_PEER_MISMATCH:
    case SPIN_ERR_DEVICE_LOST:
    case SPIN_ERR_SHUTDOWN:
        return SPIN_OPENAI_UNAVAILABLE;
    case SPIN_OK:
    case SPIN_ERR_CORRUPT:
    case SPIN_ERR_IO:
    case SPIN_ERR_INTERNAL:
        break;
    }
    return SPIN_OPENAI_INTERNAL;
}

static void find_param(struct spin_openai_error *error)
{
    static const char name_bytes[] = "abcdefghijklmnopqrstuvwxyz0123456789_.[]";
    const size_t bytes = strspn(error->message, name_bytes);
    if (bytes > 0 && bytes < sizeof error->param && error->message[bytes] == ':') {
        memcpy(error->param, error->message, bytes);
        error->param[bytes] = '\0';
    }
}

void spin_openai_error_from_status(struct spin_openai_error *error, spin_status status,
                                   const char *text)
{
    SPIN_ASSERT_NE(status, SPIN_OK);
    const bool has_text = text != NULL && text[0] != '\0';
    set(error, kind_of(status));
    (void)snprintf(error->message, sizeof error->message, "%s",
                   has_text ? text : spin_status_text(status));
    if (error->http_status == 400) {
        find_param(error);
    }
}

void spin_openai_error_from_http(struct spin_openai_error *error, int http_status, const char *text)
{
    enum spin_openai_error_kind kind = http_status >= 500 ? SPIN_OPENAI_INTERNAL : SPIN_OPENAI_HTTP;
    for (uint32_t i = SPIN_OPENAI_HTTP; i < SPIN_ARRAY_COUNT(rows); i++) {
        if (rows[i].http_status == http_status) {
            kind = (enum spin_openai_error_kind)i;
            break;
        }
    }
    set(error, kind);
    error->http_status = http_status;
    (void)snprintf(error->message, sizeof error->message, "%s", text);
}

void spin_openai_error_write(const struct spin_openai_error *error, struct spin_json_writer *writer)
{
    SPIN_JSON_LITERAL(writer, "{\"error\":{\"message\":");
    spin_json_put_text(writer, error->message);
    SPIN_JSON_LITERAL(writer, ",\"type\":");
    spin_json_put_text(writer, error->type);
    SPIN_JSON_LITERAL(writer, ",\"param\":");
    spin_json_put_text(writer, error->param[0] == '\0' ? NULL : error->param);
    SPIN_JSON_LITERAL(writer, ",\"code\":");
    spin_json_put_text(writer, error->code);
    SPIN_JSON_LITERAL(writer, "}}");
}
