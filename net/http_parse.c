#include "net/http_internal.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* llhttp knows HTTP; in front of it stands a scanner of the head's lines. It ends a head at the
 * first empty line and admits no other line end than CR LF, no control byte and no folded line, so
 * that nobody before or behind us can see the end of a request in another place. */
enum scan {
    SCAN_BEFORE,    /* empty lines before the request line are skipped */
    SCAN_BEFORE_CR, /* one of them began */
    SCAN_REQUEST,   /* in the request line */
    SCAN_TEXT,      /* in a field */
    SCAN_CR,        /* a LF must follow */
    SCAN_LINE,      /* at the start of a line */
    SCAN_LAST_CR,   /* the empty line began */
    SCAN_END,
    SCAN_BAD
};

/* Bodies take memory in these steps, as their bytes come: a number in a header takes none. */
#define BODY_STEP_BYTES 4096u
/* A kept connection keeps so much for its next head. */
#define HEAD_KEEP_BYTES 2048u

static int fail(struct spin_http_parser *parser, int status, const char *text)
{
    if (parser->status == 0) {
        parser->status = status;
        parser->text = text;
    }
    return HPE_USER;
}

/* --- the head's lines --- */

static enum scan scan_text(char byte, enum scan same)
{
    if (byte == '\r') {
        return SCAN_CR;
    }
    const unsigned char value = (unsigned char)byte;
    return (value < 0x20 && byte != '\t') || value == 0x7F ? SCAN_BAD : same;
}

static enum scan scan_byte(enum scan state, char byte)
{
    switch (state) {
    case SCAN_BEFORE:
        return byte == '\r' ? SCAN_BEFORE_CR : scan_text(byte, SCAN_REQUEST);
    case SCAN_BEFORE_CR:
        return byte == '\n' ? SCAN_BEFORE : SCAN_BAD;
    case SCAN_REQUEST:
    case SCAN_TEXT:
        return scan_text(byte, state);
    case SCAN_CR:
        return byte == '\n' ? SCAN_LINE : SCAN_BAD;
    case SCAN_LINE:
        if (byte == ' ' || byte == '\t') {
            return SCAN_BAD; /* a folded line */
        }
        return byte == '\r' ? SCAN_LAST_CR : scan_text(byte, SCAN_TEXT);
    case SCAN_LAST_CR:
        return byte == '\n' ? SCAN_END : SCAN_BAD;
    case SCAN_END:
    case SCAN_BAD:
        return state;
    }
    return SCAN_BAD;
}

/* How many bytes belong to the head, up to its end or the first bad byte. */
static uint64_t scan_head(struct spin_http_parser *parser, const char *bytes, uint64_t count)
{
    enum scan state = parser->scan;
    uint64_t at = 0;
    while (at < count && state != SCAN_END && state != SCAN_BAD) {
        state = scan_byte(state, bytes[at]);
        parser->spaces += state == SCAN_REQUEST && bytes[at] == ' ';
        at += state != SCAN_BAD;
    }
    parser->scan = (uint8_t)state;
    return at;
}

/* --- what llhttp finds --- */

static int keep(struct spin_http_parser *parser, const char *bytes, uint64_t count)
{
    return spin_http_buffer_append(&parser->head, bytes, count)
               ? 0
               : fail(parser, 503, "the server is out of memory");
}

static int on_url(llhttp_t *llhttp, const char *at, size_t count)
{
    return keep(llhttp->data, at, count);
}

static int on_url_complete(llhttp_t *llhttp)
{
    struct spin_http_parser *parser = llhttp->data;
    const int result = keep(parser, "", 1);
    parser->fields_at = parser->head.count;
    return result;
}

/* Fields behind a chunked body are discarded: nothing here asks for them. */
static int on_field(llhttp_t *llhttp, const char *at, size_t count)
{
    struct spin_http_parser *parser = llhttp->data;
    return parser->has_head ? 0 : keep(parser, at, count);
}

static int on_name_complete(llhttp_t *llhttp)
{
    struct spin_http_parser *parser = llhttp->data;
    const struct spin_http_buffer *head = &parser->head;
    parser->in_name = true;
    if (parser->has_head) {
        return 0;
    }
    return head->bytes[head->count - 1] == '\0' ? fail(parser, 400, "a header without a name")
                                                : keep(parser, "", 1);
}

static int on_value_complete(llhttp_t *llhttp)
{
    struct spin_http_parser *parser = llhttp->data;
    if (!parser->in_name) {
        return fail(parser, 400, "malformed header");
    }
    parser->in_name = false;
    if (parser->has_head) {
        return 0;
    }
    struct spin_http_buffer *head = &parser->head; /* llhttp leaves the blanks behind a value */
    while (head->bytes[head->count - 1] == ' ' || head->bytes[head->count - 1] == '\t') {
        head->count--;
    }
    return keep(parser, "", 1);
}

/* The memory that `needed` bytes take, a function of their number alone. */
static uint64_t body_capacity(const struct spin_http_parser *parser, uint64_t needed)
{
    uint64_t capacity = BODY_STEP_BYTES;
    while (capacity < needed + 1) {
        capacity *= 2;
    }
    const bool is_chunked = (parser->llhttp.flags & F_CHUNKED) != 0;
    const uint64_t largest =
        is_chunked ? parser->limits->body_bytes_max : needed + parser->llhttp.content_length;
    return SPIN_MIN(capacity, largest + 1);
}

static int body_grow(struct spin_http_parser *parser, uint64_t needed)
{
    struct spin_http_budget *bodies = parser->limits->bodies;
    const uint64_t capacity = body_capacity(parser, needed);
    if (capacity <= parser->body.capacity) {
        return 0;
    }
    const uint64_t more = capacity - parser->body.capacity;
    if (more > bodies->max - bodies->used) {
        return fail(parser, 503, "too many request bodies at once");
    }
    if (!spin_http_buffer_grow(&parser->body, capacity)) {
        return fail(parser, 503, "the server is out of memory");
    }
    bodies->used += more;
    return 0;
}

static int on_body(llhttp_t *llhttp, const char *at, size_t count)
{
    struct spin_http_parser *parser = llhttp->data;
    if (count > parser->limits->body_bytes_max - parser->body.count) {
        return fail(parser, 413, "the body is over the limit");
    }
    const int result = body_grow(parser, parser->body.count + count);
    if (result == 0) {
        memcpy(parser->body.bytes + parser->body.count, at, count);
        parser->body.count += count;
    }
    return result;
}

static int on_headers_complete(llhttp_t *llhttp)
{
    struct spin_http_parser *parser = llhttp->data;
    parser->has_head = true;
    parser->keep_alive = llhttp_should_keep_alive(llhttp) != 0;
    llhttp->upgrade = 0; /* an offer to speak something else is not taken up */
    return HPE_PAUSED;
}

static int on_message_complete(llhttp_t *llhttp)
{
    (void)llhttp;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_url = on_url,
    .on_url_complete = on_url_complete,
    .on_header_field = on_field,
    .on_header_field_complete = on_name_complete,
    .on_header_value = on_field,
    .on_header_value_complete = on_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

/* --- what the head says --- */

/* The value of the next field named so, from *at on, which moves behind it; NULL at the end. */
static const char *next_field(const struct spin_http_parser *parser, const char *name, uint64_t *at)
{
    const char *bytes = parser->head.bytes;
    while (*at < parser->head.count) {
        const char *found = bytes + *at;
        const char *value = found + strlen(found) + 1;
        *at = (uint64_t)(value - bytes) + strlen(value) + 1;
        if (strcasecmp(found, name) == 0) {
            return value;
        }
    }
    return NULL;
}

const char *spin_http_parser_header(const struct spin_http_parser *parser, const char *name)
{
    uint64_t at = parser->fields_at;
    return next_field(parser, name, &at);
}

static uint32_t count_fields(const struct spin_http_parser *parser, const char *name)
{
    uint64_t at = parser->fields_at;
    uint32_t count = 0;
    while (next_field(parser, name, &at) != NULL) {
        count++;
    }
    return count;
}

/* Finds path and query in the target: "/path?query", the same behind a scheme and host, or "*". */
static int split_target(struct spin_http_parser *parser)
{
    char *target = parser->head.bytes;
    char *scheme_end = target[0] == '/' ? NULL : strstr(target, "://");
    char *path = scheme_end == NULL ? target : scheme_end + 3 + strcspn(scheme_end + 3, "/");
    if ((path[0] != '/' && strcmp(path, "*") != 0) || strchr(path, '#') != NULL) {
        return fail(parser, 400, "the request's target must be a path");
    }
    char *question = path + strcspn(path, "?");
    parser->path_at = (uint64_t)(path - target);
    parser->query_at = (uint64_t)(question - target) + (*question == '?');
    *question = '\0';
    return 0;
}

static int check_version(struct spin_http_parser *parser)
{
    const llhttp_t *llhttp = &parser->llhttp;
    if (parser->spaces != 2) {
        return fail(parser, 400, "malformed request line"); /* llhttp skips more than one */
    }
    if (llhttp->http_major != 1 || llhttp->http_minor > 1) {
        return fail(parser, 505, "HTTP/1.0 and HTTP/1.1 only");
    }
    parser->is_http_1_0 = llhttp->http_minor == 0;
    if (llhttp->method == HTTP_CONNECT) {
        return fail(parser, 501, "CONNECT is not supported");
    }
    const uint32_t hosts = count_fields(parser, "Host");
    if (hosts > 1 || (hosts == 0 && !parser->is_http_1_0)) {
        return fail(parser, 400, "a request needs one Host header");
    }
    return 0;
}

/* How long the body is must be beyond doubt. */
static int check_framing(struct spin_http_parser *parser)
{
    const uint32_t encodings = count_fields(parser, "Transfer-Encoding");
    if (encodings != 0) {
        if (parser->is_http_1_0 || count_fields(parser, "Content-Length") != 0) {
            return fail(parser, 400, "the length of the body is ambiguous");
        }
        const char *encoding = spin_http_parser_header(parser, "Transfer-Encoding");
        if (encodings > 1 || strcasecmp(encoding, "chunked") != 0) {
            return fail(parser, 501, "only the transfer encoding chunked is supported");
        }
    }
    if (count_fields(parser, "Content-Length") > 1) {
        return fail(parser, 400, "more than one Content-Length");
    }
    if (parser->llhttp.content_length > parser->limits->body_bytes_max) {
        return fail(parser, 413, "the body is over the limit");
    }
    return 0;
}

static int check_expectation(struct spin_http_parser *parser)
{
    const char *expectation = spin_http_parser_header(parser, "Expect");
    if (expectation == NULL || parser->is_http_1_0) {
        return 0;
    }
    if (strcasecmp(expectation, "100-continue") != 0) {
        return fail(parser, 417, "only the expectation 100-continue can be met");
    }
    parser->wants_continue =
        parser->llhttp.content_length != 0 || (parser->llhttp.flags & F_CHUNKED) != 0;
    return 0;
}

static int check_head(struct spin_http_parser *parser)
{
    int result = check_version(parser);
    result = result != 0 ? result : check_framing(parser);
    result = result != 0 ? result : split_target(parser);
    return result != 0 ? result : check_expectation(parser);
}

/* --- the parser --- */

void spin_http_parser_init(struct spin_http_parser *parser, const struct spin_http_limits *limits)
{
    *parser = (struct spin_http_parser){.limits = limits};
    llhttp_init(&parser->llhttp, HTTP_REQUEST, &settings);
    parser->llhttp.data = parser;
}

static void body_release(struct spin_http_parser *parser)
{
    SPIN_ASSERT_LE(parser->body.capacity, parser->limits->bodies->used);
    parser->limits->bodies->used -= parser->body.capacity;
    spin_http_buffer_release(&parser->body);
}

void spin_http_parser_deinit(struct spin_http_parser *parser)
{
    body_release(parser);
    spin_http_buffer_release(&parser->head);
}

void spin_http_parser_reset(struct spin_http_parser *parser)
{
    body_release(parser);
    if (parser->head.capacity > HEAD_KEEP_BYTES) {
        spin_http_buffer_release(&parser->head);
    }
    struct spin_http_buffer head = parser->head;
    head.count = 0;
    spin_http_parser_init(parser, parser->limits);
    parser->head = head;
}

/* llhttp's reasons are its own; what a client can do about them is in these texts. */
static void fail_as(struct spin_http_parser *parser, llhttp_errno_t error)
{
    if (error == HPE_INVALID_METHOD) {
        (void)fail(parser, 501, "unknown method");
    } else if (error == HPE_INVALID_VERSION || error == HPE_PAUSED_H2_UPGRADE) {
        (void)fail(parser, 505, "HTTP/1.0 and HTTP/1.1 only");
    } else if (error == HPE_INVALID_URL) {
        (void)fail(parser, 400, "malformed request target");
    } else if (error == HPE_UNEXPECTED_CONTENT_LENGTH || error == HPE_INVALID_CONTENT_LENGTH ||
               error == HPE_INVALID_TRANSFER_ENCODING) {
        (void)fail(parser, 400, "the length of the body is ambiguous");
    } else if (error == HPE_INVALID_CHUNK_SIZE) {
        (void)fail(parser, 400, "malformed chunk size");
    } else {
        (void)fail(parser, 400, "malformed request");
    }
}

/* What llhttp took of the bytes; *error is HPE_OK, HPE_PAUSED or a failure. */
static uint64_t execute(struct spin_http_parser *parser, const char *bytes, uint64_t count,
                        llhttp_errno_t *error)
{
    if (parser->paused) {
        parser->paused = false;
        llhttp_resume(&parser->llhttp);
    }
    *error = llhttp_execute(&parser->llhttp, bytes, count);
    if (*error == HPE_OK) {
        return count;
    }
    if (*error != HPE_PAUSED) {
        fail_as(parser, *error);
        return 0;
    }
    parser->paused = true;
    const char *stopped = llhttp_get_error_pos(&parser->llhttp);
    SPIN_ASSERT(stopped >= bytes);
    SPIN_ASSERT(stopped <= bytes + count);
    return (uint64_t)(stopped - bytes);
}

static enum spin_http_parsed parse_head(struct spin_http_parser *parser, const char *bytes,
                                        uint64_t count, uint64_t *used)
{
    const uint64_t room = parser->limits->header_bytes_max - parser->head_bytes;
    const uint64_t line_bytes = scan_head(parser, bytes, SPIN_MIN(count, room));
    llhttp_errno_t error;
    *used = execute(parser, bytes, line_bytes, &error);
    parser->head_bytes += *used;
    if (error == HPE_OK) {
        if (parser->scan == SCAN_END && parser->llhttp.method == HTTP_PRI) {
            (void)fail(parser, 505, "HTTP/1.0 and HTTP/1.1 only");
        } else if (parser->scan == SCAN_BAD || parser->scan == SCAN_END) {
            (void)fail(parser, 400, "malformed line in the head");
        } else if (parser->head_bytes == parser->limits->header_bytes_max) {
            const bool in_line = parser->scan <= SCAN_REQUEST;
            (void)fail(parser, in_line ? 414 : 431, "the headers are over the limit");
        } else {
            return SPIN_HTTP_MORE;
        }
    }
    if (error == HPE_PAUSED && parser->status == 0) {
        (void)check_head(parser);
    }
    return parser->status == 0 ? SPIN_HTTP_HEAD : SPIN_HTTP_FAILED;
}

enum spin_http_parsed spin_http_parse(struct spin_http_parser *parser, const char *bytes,
                                      uint64_t count, uint64_t *used)
{
    *used = 0;
    if (parser->status != 0) {
        return SPIN_HTTP_FAILED;
    }
    if (!parser->has_head) {
        return parse_head(parser, bytes, count, used);
    }
    llhttp_errno_t error;
    *used = execute(parser, bytes, count, &error);
    if (error == HPE_OK) {
        return SPIN_HTTP_MORE;
    }
    return error == HPE_PAUSED ? SPIN_HTTP_WHOLE : SPIN_HTTP_FAILED;
}

void spin_http_parser_request(struct spin_http_parser *parser, struct spin_http_request *out)
{
    if (parser->body.count != 0) {
        parser->body.bytes[parser->body.count] = '\0'; /* body_capacity left the room */
    }
    *out = (struct spin_http_request){
        .method = llhttp_method_name((llhttp_method_t)parser->llhttp.method),
        .path = parser->head.bytes + parser->path_at,
        .query = parser->head.bytes + parser->query_at,
        .body = parser->body.count == 0 ? "" : parser->body.bytes,
        .body_bytes = parser->body.count,
    };
}

bool spin_http_parser_is_head_request(const struct spin_http_parser *parser)
{
    return parser->fields_at != 0 && parser->llhttp.method == HTTP_HEAD;
}
