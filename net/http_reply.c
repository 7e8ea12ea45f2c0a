#include "base/clock.h"
#include "net/http_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

struct reason {
    int status;
    const char *text;
};

static const char *reason_of(int status)
{
    static const struct reason reasons[] = {
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {304, "Not Modified"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(reasons); i++) {
        if (reasons[i].status == status) {
            return reasons[i].text;
        }
    }
    return "Status";
}

bool spin_http_status_has_body(int status)
{
    return status >= 200 && status != 204 && status != 304;
}

static bool append_text(struct spin_http_buffer *out, const char *text)
{
    return spin_http_buffer_append(out, text, strlen(text));
}

/* A handler may quote what a client sent: a line break in it must not start a header of its own. */
static bool append_field(struct spin_http_buffer *out, const char *name, const char *value)
{
    if (!append_text(out, name) || !append_text(out, ": ")) {
        return false;
    }
    const uint64_t at = out->count;
    if (!append_text(out, value)) {
        return false;
    }
    for (uint64_t i = at; i < out->count; i++) {
        const unsigned char byte = (unsigned char)out->bytes[i];
        if (byte < 0x20 || byte == 0x7F) {
            out->bytes[i] = ' ';
        }
    }
    return append_text(out, "\r\n");
}

/* "Sun, 06 Nov 1994 08:49:37 GMT", whatever the locale. */
static void format_date(uint64_t wall_ns, char out[40])
{
    static const char days[] = "SunMonTueWedThuFriSat";
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    const time_t seconds = (time_t)(wall_ns / SPIN_NS_PER_S);
    struct tm utc;
    (void)gmtime_r(&seconds, &utc);
    char clock[32];
    (void)strftime(clock, sizeof clock, "%Y %H:%M:%S GMT", &utc);
    (void)snprintf(out, 40, "%.3s, %02d %.3s %.24s", days + 3 * (ptrdiff_t)utc.tm_wday, utc.tm_mday,
                   months + 3 * (ptrdiff_t)utc.tm_mon, clock);
}

static bool append_length(struct spin_http_buffer *out, const struct spin_http_reply *reply,
                          const struct spin_http_reply_frame *frame)
{
    char length[24];
    switch (frame->body) {
    case SPIN_HTTP_BODY_KNOWN:
        if (!spin_http_status_has_body(reply->status)) {
            return true;
        }
        (void)snprintf(length, sizeof length, "%" PRIu64, reply->body_bytes);
        return append_field(out, "Content-Length", length);
    case SPIN_HTTP_BODY_CHUNKED:
        return append_field(out, "Transfer-Encoding", "chunked");
    case SPIN_HTTP_BODY_TO_CLOSE:
        return true;
    }
    return true;
}

bool spin_http_append_head(struct spin_http_buffer *out, const struct spin_http_reply *reply,
                           const struct spin_http_reply_frame *frame)
{
    SPIN_ASSERT(reply->status >= 200 && reply->status <= 599);
    char line[64];
    char date[40];
    (void)snprintf(line, sizeof line, "HTTP/1.1 %d %.40s\r\n", reply->status,
                   reason_of(reply->status));
    format_date(frame->wall_ns, date);
    if (!append_text(out, line) || !append_field(out, "Date", date) ||
        (reply->content_type != NULL && !append_field(out, "Content-Type", reply->content_type)) ||
        !append_length(out, reply, frame)) {
        return false;
    }
    for (uint32_t i = 0; i < reply->header_count; i++) {
        if (!append_field(out, reply->headers[i].name, reply->headers[i].value)) {
            return false;
        }
    }
    return append_field(out, "Connection", frame->keep_alive ? "keep-alive" : "close") &&
           append_text(out, "\r\n");
}

bool spin_http_append_chunk(struct spin_http_buffer *out, const char *bytes, uint64_t count)
{
    char size[24];
    const int size_bytes = snprintf(size, sizeof size, "%" PRIx64 "\r\n", count);
    return spin_http_buffer_append(out, size, (uint64_t)size_bytes) &&
           spin_http_buffer_append(out, bytes, count) && spin_http_buffer_append(out, "\r\n", 2);
}
