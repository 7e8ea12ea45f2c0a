/* http_internal: what the files of the HTTP server share: buffer, parser, reply texts, connection.
 *
 * Why        The parser is a push parser that knows no socket, so that it can be driven, split and
 *            fuzzed alone; connections feed it, and the server sweeps over connections.
 * Ownership  A connection owns its buffers and its one exchange; it is freed when its socket is
 *            closed and its exchange ended.
 * Threading  The loop's thread; the parser: one thread at a time.
 * Units      Bytes, nanoseconds.
 * Errors     The parser's failures are HTTP statuses with a text for the client. */
#pragma once

#include "base/list.h"
#include "net/http_server.h"
#include "net/loop_internal.h"

#include <uv.h>

#include <llhttp.h>

SPIN_BEGIN_DECLS

/* --- buffer --- */

struct spin_http_buffer {
    char *bytes;
    uint64_t count;
    uint64_t capacity;
};

/* False: out of memory, nothing changed. */
SPIN_MUST_USE bool spin_http_buffer_grow(struct spin_http_buffer *buffer, uint64_t capacity);
SPIN_MUST_USE bool spin_http_buffer_append(struct spin_http_buffer *buffer, const char *bytes,
                                           uint64_t count);
void spin_http_buffer_release(struct spin_http_buffer *buffer);

/* --- parser --- */

/* Memory of bodies, counted over all parsers that share it. */
struct spin_http_budget {
    uint64_t used;
    uint64_t max;
};

struct spin_http_limits {
    uint64_t header_bytes_max;
    uint64_t body_bytes_max;
    struct spin_http_budget *bodies;
};

enum spin_http_parsed {
    SPIN_HTTP_MORE,  /* all bytes are used, the request is not whole */
    SPIN_HTTP_HEAD,  /* the head is there; call again, even without bytes */
    SPIN_HTTP_WHOLE, /* a request; bytes behind it are not used. Reset before the next */
    SPIN_HTTP_FAILED /* status and text say why; the connection cannot go on */
};

struct spin_http_parser {
    struct llhttp__internal_s llhttp;
    const struct spin_http_limits *limits;
    struct spin_http_buffer head; /* url NUL, then name NUL value NUL ... */
    struct spin_http_buffer body;
    uint64_t head_bytes; /* as they came */
    uint64_t path_at;    /* in head */
    uint64_t query_at;
    uint64_t fields_at;
    uint64_t spaces; /* in the request line */
    uint8_t scan;    /* how far the head's lines are: enum scan in http_parse.c */
    bool paused;
    bool has_head;
    bool in_name; /* a field's name is there, its value's end is not */
    bool keep_alive;
    bool wants_continue; /* Expect: 100-continue */
    bool is_http_1_0;
    int status; /* of a failure */
    const char *text;
};

/* Borrows the limits. */
void spin_http_parser_init(struct spin_http_parser *parser, const struct spin_http_limits *limits);
void spin_http_parser_deinit(struct spin_http_parser *parser);
/* For the next request of the connection; keeps a small buffer. */
void spin_http_parser_reset(struct spin_http_parser *parser);
/* Where the input is cut into calls changes nothing of what comes out. */
SPIN_MUST_USE enum spin_http_parsed spin_http_parse(struct spin_http_parser *parser,
                                                    const char *bytes, uint64_t count,
                                                    uint64_t *used);
/* A whole request; peer is not filled. Valid until reset. */
void spin_http_parser_request(struct spin_http_parser *parser, struct spin_http_request *out);
const char *spin_http_parser_header(const struct spin_http_parser *parser, const char *name);
bool spin_http_parser_is_head_request(const struct spin_http_parser *parser);

/* --- replies --- */

struct spin_http_reply_frame {
    enum { SPIN_HTTP_BODY_KNOWN, SPIN_HTTP_BODY_CHUNKED, SPIN_HTTP_BODY_TO_CLOSE } body;
    bool keep_alive;
    uint64_t wall_ns; /* for the Date */
};

/* Status line, headers and the empty line. False: out of memory. */
SPIN_MUST_USE bool spin_http_append_head(struct spin_http_buffer *out,
                                         const struct spin_http_reply *reply,
                                         const struct spin_http_reply_frame *frame);
SPIN_MUST_USE bool spin_http_append_chunk(struct spin_http_buffer *out, const char *bytes,
                                          uint64_t count);
/* Whether a reply of this status may have a body at all. */
bool spin_http_status_has_body(int status);

/* --- connections --- */

struct spin_http_exchange {
    struct spin_http_connection *connection;
    void *state;
    bool is_open;   /* the handler has it */
    bool is_stream; /* the head is out, chunks may follow */
    bool is_head;   /* a HEAD request: no body goes out */
    bool is_chunked;
    bool keep_alive;
};

/*  READ --request--> REPLY --end, keep-alive--> READ
 *   |                  \-----end-------------\
 *   \--refused--------------------------------> DRAIN --client closes, or its time is up--\
 *   any: the client is lost, too slow, or the server is closed --------------------------> CLOSED
 */
enum spin_http_phase {
    SPIN_HTTP_READ,  /* between requests or inside one */
    SPIN_HTTP_REPLY, /* the handler has the exchange; what comes is kept for later, up to a limit */
    SPIN_HTTP_DRAIN, /* our last bytes leave; what comes is discarded, or closing would reset it */
    SPIN_HTTP_CLOSED /* the socket is given back, or about to be */
};

struct spin_http_connection {
    uv_tcp_t tcp;
    uv_write_t write;
    struct spin_http_server *server;
    struct spin_link link;       /* in the server's connections */
    struct spin_link dirty_link; /* in its list of those with something to do this turn */
    struct spin_http_parser parser;
    struct spin_http_exchange exchange;
    struct spin_http_buffer ahead;  /* read, not parsed yet */
    struct spin_http_buffer out;    /* to be written at the end of this turn */
    struct spin_http_buffer flight; /* being written by libuv, which the socket did not take yet */
    uint64_t flight_left;           /* of those, at the last look */
    uint64_t since_ns;       /* idle, or the first byte of a request, or the last one drained */
    uint64_t write_since_ns; /* the last byte taken while some were waiting */
    uint64_t drain_bytes;
    enum spin_http_phase phase;
    bool in_request; /* READ: a byte of it has come */
    bool is_reading;
    bool is_overrun; /* REPLY: too much was sent ahead; the connection closes after the reply */
    bool is_lost;    /* to be closed at the end of this turn */
    bool is_shut;    /* DRAIN: our side is closed */
    bool has_eof;    /* the client's side is */
    bool is_torn;    /* DRAIN: ends with a reset */
    bool is_closed;
    char peer[SPIN_NET_ADDRESS_BYTES];
};

#define SPIN_HTTP_READ_BYTES 65536u
/* A turn's output goes to the socket early at this size. */
#define SPIN_HTTP_OUT_BYTES_EARLY 65536u

struct spin_http_server {
    uv_tcp_t listener;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_timer_t sweep;
    uv_timer_t grace;
    uint32_t handles; /* of the five above, not closed yet */
    struct spin_loop *loop;
    struct spin_http_server_config config;
    struct spin_http_limits limits;
    struct spin_http_budget bodies;
    struct spin_http_server_stats stats;
    struct spin_list connections;
    struct spin_list dirty;
    uint32_t port;
    uint64_t accepts_failed;
    uint64_t warn_at_ns;
    bool accept_waits; /* a socket that we had no memory for */
    bool is_closing;   /* nothing new */
    bool is_finishing; /* the last handles are being closed */
    bool is_abandoned; /* destroyed: frees itself with the last handle */
    void (*closed)(void *context);
    void *closed_context;
    char read_buffer[SPIN_HTTP_READ_BYTES]; /* one for all: it is empty again when a read returns */
};

/* Takes the socket that waits at the listener. */
void spin_http_connection_open(struct spin_http_server *server);
/* What this turn left to do: close, write, go on with what was read ahead. */
void spin_http_connection_turn(struct spin_http_connection *connection);
/* Looks at the clock. */
void spin_http_connection_sweep(struct spin_http_connection *connection, uint64_t now_ns);
/* Refuses what is half read, closes what is idle. */
void spin_http_connection_retire(struct spin_http_connection *connection);
/* Closes the socket now; tells the handler when it has the exchange. Not from inside its calls. */
void spin_http_connection_cut(struct spin_http_connection *connection);
/* The server's own answer, after which the connection closes. */
void spin_http_connection_refuse(struct spin_http_connection *connection, int status,
                                 const char *text);
void spin_http_connection_mark(struct spin_http_connection *connection);
/* Cuts at the end of the turn. */
void spin_http_connection_lose(struct spin_http_connection *connection);
/* Whether bytes wait that the socket does not take. */
bool spin_http_connection_is_blocked(const struct spin_http_connection *connection);
/* Writes what the socket takes. */
void spin_http_connection_flush(struct spin_http_connection *connection);
/* The handler has given the exchange back. */
void spin_http_connection_end_exchange(struct spin_http_connection *connection, bool keep_alive);
/* A connection is gone for good. */
void spin_http_server_forget(struct spin_http_server *server);

SPIN_END_DECLS
