/* http_server: HTTP/1.1 with keep-alive, pipelining, chunked replies and server-sent events.
 *
 * Why        A handler sees one whole request and gives one reply, whole or as a stream; framing,
 *            limits, slow clients and the order of replies on a connection stay in here.
 *
 *            bytes --> [parser] --> request() .. respond                      --> bytes
 *                                        \.. stream_begin, write..., end      --> chunks
 *                                   gone(): the client left, or was cut off, before the end
 *
 *            Of what a client sends ahead during a reply 64 KiB are kept for afterwards; after more
 *            the connection closes with that reply.
 * Ownership  The server owns its connections. The handler holds an exchange from request until it
 *            ends it with respond or stream_end, which it does exactly once, also after gone. The
 *            request's texts are valid until then; bodies given to us are copied.
 * Threading  The loop's thread only.
 * Units      Bytes, nanoseconds.
 * Errors     create: INVALID (the address), IO (taken: the text names the holder's flag). A client
 *            gets 400 (framing), 408 (too slow), 413 (body), 414/431 (line, headers), 417, 501 or
 *            505, with format_error's body, and the connection closes. Every limit is counted. */
#pragma once

#include "net/loop.h"

SPIN_BEGIN_DECLS

struct spin_http_server;   /* private to net/ */
struct spin_http_exchange; /* private to net/ */

struct spin_http_request {
    const char *method; /* "GET" */
    const char *path;   /* as sent, up to '?' */
    const char *query;  /* after '?'; "" when there is none */
    const char *body;   /* NUL behind it, not counted */
    uint64_t body_bytes;
    const char *peer; /* "address:port" */
};

struct spin_http_server_config {
    const char *listen;          /* "host:port"; port 0: any free one */
    const char *listen_flag;     /* the option to name in errors: "--listen" */
    uint64_t header_bytes_max;   /* request line and headers */
    uint64_t body_bytes_max;     /* one request */
    uint64_t bodies_bytes_max;   /* of all, from their first byte to their reply; over it 503 */
    uint64_t write_bytes_max;    /* of a stream, waiting for its client; over it it is cut off */
    uint32_t connections_max;    /* over it 503 and close */
    uint64_t idle_timeout_ns;    /* between requests on a kept connection */
    uint64_t request_timeout_ns; /* from the first byte of a request to its last */
    uint64_t write_timeout_ns;   /* without a byte taken by the client while some wait */
    void *context;
    void (*request)(void *context, struct spin_http_exchange *exchange,
                    const struct spin_http_request *request);
    /* At most once, before its end; from the loop, never from inside a call of yours. A client that
     * closes its sending side while it waits for the reply counts as gone. */
    void (*gone)(void *context, struct spin_http_exchange *exchange);
    /* The body of an error that the server answers itself (JSON, say). NULL: plain text. Returns
     * the bytes needed, writes at most `capacity`. */
    uint64_t (*format_error)(void *context, int status, const char *text, char *out,
                             uint64_t capacity);
    const char *error_content_type;
};
struct spin_http_server_config spin_http_server_config_default(void); /* limits only */

struct spin_http_server_stats { /* counts since create, but *_open */
    uint64_t connections;
    uint64_t connections_open;
    uint64_t exchanges_open;
    uint64_t requests;
    uint64_t refused;      /* answered by the server itself: framing and limits */
    uint64_t refused_5xx;  /* of those: too much at once, or beyond us; no fault of the client */
    uint64_t gone;         /* the client left before the end */
    uint64_t slow_clients; /* cut off at write_bytes_max or write_timeout_ns */
    uint64_t bytes_in;
    uint64_t bytes_out;
};

/* Binds; answers from the next turn of the loop on. For the process, it raises the soft limit of
 * open files to the hard one and ignores SIGPIPE. */
SPIN_MUST_USE spin_status spin_http_server_create(struct spin_loop *loop,
                                                  const struct spin_http_server_config *config,
                                                  struct spin_http_server **out,
                                                  struct spin_error *err);
uint32_t spin_http_server_port(const struct spin_http_server *server);
/* No new connections or requests; kept connections close when idle, exchanges go on. `closed` is
 * called once, from the loop, when the last connection and exchange is gone; it may destroy the
 * server. After grace_ns what is left is cut. */
void spin_http_server_close(struct spin_http_server *server, uint64_t grace_ns,
                            void (*closed)(void *context), void *context);
/* No exchange is open; connections that are left are cut, and `closed` is not called any more. The
 * memory goes in the loop's next turns. NULL is allowed. */
void spin_http_server_destroy(struct spin_http_server *server);
void spin_http_server_get_stats(const struct spin_http_server *server,
                                struct spin_http_server_stats *out);

/* A request's header, or NULL; names compare without case. Of repeated ones, the first. */
const char *spin_http_header(const struct spin_http_exchange *exchange, const char *name);
/* The handler's own pointer, NULL until set. */
void spin_http_set_state(struct spin_http_exchange *exchange, void *state);
void *spin_http_state(const struct spin_http_exchange *exchange);
/* The client left or was cut off: what is written goes nowhere. */
bool spin_http_is_gone(const struct spin_http_exchange *exchange);

struct spin_http_header_field {
    const char *name;
    const char *value;
};
struct spin_http_reply {
    int status;
    const char *content_type;
    const struct spin_http_header_field *headers; /* besides those the server sets itself */
    uint32_t header_count;
    const char *body; /* respond only */
    uint64_t body_bytes;
};
/* The whole reply; ends the exchange. */
void spin_http_respond(struct spin_http_exchange *exchange, const struct spin_http_reply *reply);
/* A reply whose length is not known: status and headers now, chunks as they come. What is written
 * in one turn of the loop leaves in one piece. */
void spin_http_stream_begin(struct spin_http_exchange *exchange,
                            const struct spin_http_reply *reply);
void spin_http_stream_write(struct spin_http_exchange *exchange, const char *bytes, uint64_t count);
/* Ends the exchange. `complete` false: the connection is closed without the last chunk, so that
 * the client can tell. */
void spin_http_stream_end(struct spin_http_exchange *exchange, bool complete);

SPIN_END_DECLS
