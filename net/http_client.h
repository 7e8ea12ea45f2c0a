/* http_client: HTTP/1.1 requests whose answers come as they are made; connections are kept.
 *
 * Why        Who measures servers needs thousands of streamed answers at once from one loop, each
 *            with the moment at which its bytes came; framing, reuse and the many ways in which a
 *            connection ends stay in here.
 *
 *            submit --> [dial | kept connection] --> head() --> body()... --> finished()
 *
 *            A kept connection is used for one request at a time, the last one put back first. One
 *            that the server closes while idle is forgotten. Nothing is sent twice.
 * Ownership  The client owns its connections and calls; a call is valid until `finished` returns.
 *            submit copies the request; what callbacks get is valid during the callback.
 * Threading  The loop's thread only. Callbacks come from the loop, never from inside a call of
 *            yours; they may submit and cancel, not destroy.
 * Units      Bytes, nanoseconds. There are no time limits in here: cancel is the caller's.
 * Errors     create: INVALID (the address). submit: EXHAUSTED (connections_max, descriptors),
 *            NO_MEMORY; then no callback comes. After OK `finished` is called exactly once, last,
 *            with how far the call came and a sentence. */
#pragma once

#include "net/loop.h"

SPIN_BEGIN_DECLS

struct spin_http_client; /* private to net/ */
struct spin_http_call;   /* private to net/ */

/* How far a call came. */
enum spin_http_stage {
    SPIN_HTTP_STAGE_DIAL,  /* there was no connection yet */
    SPIN_HTTP_STAGE_SENT,  /* a connection, and no whole head of an answer */
    SPIN_HTTP_STAGE_BODY,  /* a head, and not the answer's end */
    SPIN_HTTP_STAGE_WHOLE, /* all of it */
};

struct spin_http_outcome {
    spin_status status; /* OK: whole. PEER_LOST, CORRUPT (no HTTP), LIMIT (the head), CANCELLED */
    enum spin_http_stage stage;
    int code;         /* 200; 0 before there is a head */
    const char *text; /* what went wrong; "" when OK */
};

struct spin_http_client_config {
    const char *address;      /* "1.2.3.4:80", "[::1]:80": numbers (spin_loop_resolve) */
    const char *host;         /* what the Host header says; NULL: the address */
    uint32_t connections_max; /* dialled, in use and kept, together */
    uint64_t head_bytes_max;  /* of an answer's status line and headers */
};

/* Borrows `config` during the call. For the process, it ignores SIGPIPE. */
SPIN_MUST_USE spin_status spin_http_client_create(struct spin_loop *loop,
                                                  const struct spin_http_client_config *config,
                                                  struct spin_http_client **out,
                                                  struct spin_error *err);
/* No call is open (asserted); kept connections close, and the memory goes in the loop's next turns.
 * NULL is allowed. */
void spin_http_client_destroy(struct spin_http_client *client);

struct spin_http_call_request {
    const char *method; /* "GET" */
    const char *path;   /* "/v1/models" */
    const char *fields; /* header lines of the caller's, each with its CR LF; NULL: none */
    const char *body;   /* NULL: none */
    uint64_t body_bytes;
    void *context;
    void (*head)(void *context, int code);
    /* at_ns: when the bytes were read, on the monotonic clock. */
    void (*body_received)(void *context, uint64_t at_ns, const char *bytes, uint64_t count);
    void (*finished)(void *context, const struct spin_http_outcome *outcome);
};
SPIN_MUST_USE spin_status spin_http_client_submit(struct spin_http_client *client,
                                                  const struct spin_http_call_request *request,
                                                  struct spin_http_call **out,
                                                  struct spin_error *err);
/* No head, no body any more; `finished` still comes, later, with CANCELLED. Its connection goes. */
void spin_http_call_cancel(struct spin_http_call *call);

struct spin_http_client_stats { /* counts since create, but *_open */
    uint64_t dialled;
    uint64_t connections_open;
    uint64_t calls_open;
    uint64_t bytes_in;
    uint64_t bytes_out;
};
void spin_http_client_get_stats(const struct spin_http_client *client,
                                struct spin_http_client_stats *out);

SPIN_END_DECLS
