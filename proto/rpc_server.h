/* rpc_server: gRPC's server side as a table of methods.
 *
 * Why        The only door to gRPC core for those who serve: a handler sees a parsed message and
 *            a call to answer; threads, tags, flow control, limits and the order of shutdown stay
 *            in here.
 *
 *            client --request--> [rpc thread] start() .. append, append, finish --> [outbox] -->
 *            client
 *                                             gone() when the client left before finish
 *
 *            Every method is a stream of answers; a unary one appends once. A method that takes a
 *            stream of requests has `message`, and start comes before the first of them. A method
 *            that nobody registered answers UNIMPLEMENTED, and grpc.health.v1.Health (Check, Watch)
 *            is served already.
 * Ownership  The server owns its calls. A handler holds its call from start to finish, which it
 *            calls exactly once, also after gone. Messages given to append and texts given to
 *            finish are borrowed during the call.
 * Threading  create, start, stop, destroy: one control thread. start, message, half_closed and gone
 *            run on the rpc thread, one at a time, and must not block. append, finish: any thread,
 *            one at a time per call; they neither block, allocate nor call into gRPC (a sender
 *            thread does), so an engine may. A handler that finishes from another thread may still
 *            see a message, half_closed or gone that was on its way.
 * Units      Bytes, nanoseconds.
 * Errors     create: INVALID (the address), IO (taken; the text says by what and which flag to
 *            change), those of rpc_tls.h. A client over a limit gets RESOURCE_EXHAUSTED, one with a
 *            malformed message INVALID_ARGUMENT, one without the method's token UNAUTHENTICATED. */
#pragma once

#include "proto/rpc_message.h"
#include "proto/rpc_status.h"
#include "proto/rpc_tls.h"

SPIN_BEGIN_DECLS

struct spin_rpc_server; /* private to rpc_server.c */
struct spin_rpc_call;   /* private to rpc_call.c */

/* No message is larger than this, but Generate's request. */
#define SPIN_RPC_MESSAGE_BYTES_MAX (UINT64_C(1) << 20)
#define SPIN_RPC_GENERATE_BYTES_MAX (UINT64_C(16) << 20)
#define SPIN_RPC_METHODS_MAX 16u

struct spin_rpc_method {
    const char *path; /* "/spin.v1.Worker/Generate" */
    const struct ProtobufCMessageDescriptor *request;
    uint64_t request_bytes_max;
    uint64_t arena_bytes_max; /* of one parsed request; freed when start or message returns */
    uint64_t outbox_bytes; /* of answers that wait for a slow reader; over it the call is cut off */
    uint32_t calls_max;    /* at once; 1..65536 */
    uint32_t state_bytes;  /* of the handler's own, zeroed, in every call */
    void *context;         /* handed to this method's handlers; NULL: the server's */
    bool merge;            /* answers that wait together leave as one message (rpc_outbox.h) */
    /* The call must carry "authorization: Bearer <this>", compared in constant time; NULL: start
     * decides for itself (spin_rpc_call_bearer). Borrowed until destroy. */
    const char *bearer;
    /* `request` is valid until start returns; NULL where the method has `message`. */
    void (*start)(void *context, struct spin_rpc_call *call,
                  const struct ProtobufCMessage *request);
    /* NULL: one request. Else the client sends a stream, and this gets its messages in order. One
     * over a limit or malformed ends the call; gone follows. */
    void (*message)(void *context, struct spin_rpc_call *call,
                    const struct ProtobufCMessage *message);
    /* With `message`: the client has sent its last one. The handler still has to finish. */
    void (*half_closed)(void *context, struct spin_rpc_call *call);
    /* The client left, the deadline passed or the reader was too slow; once, before finish. NULL:
     * the handler finishes inside start. */
    void (*gone)(void *context, struct spin_rpc_call *call);
};

struct spin_rpc_server_config {
    const char *listen;                    /* "host:port"; port 0: any free one */
    const char *listen_flag;               /* the option to name in errors: "--listen" */
    const struct spin_rpc_method *methods; /* borrowed until destroy */
    uint32_t method_count;
    void *context; /* handed to the handlers */
    struct spin_rpc_tls tls;
};

/* Counts since create. */
struct spin_rpc_server_stats {
    uint64_t calls;         /* that reached a handler */
    uint64_t refused;       /* over a limit, malformed, or unknown */
    uint64_t gone;          /* the client left before the end */
    uint64_t slow_readers;  /* cut off at outbox_bytes */
    uint64_t messages_sent; /* on the wire: merged ones count once */
    uint64_t calls_open;    /* right now */
};

SPIN_MUST_USE spin_status spin_rpc_server_create(const struct spin_rpc_server_config *config,
                                                 struct spin_rpc_server **out,
                                                 struct spin_error *err);
/* The port that create bound. */
uint32_t spin_rpc_server_port(const struct spin_rpc_server *server);
SPIN_MUST_USE spin_status spin_rpc_server_start(struct spin_rpc_server *server,
                                                struct spin_error *err);
/* What health checks answer; false until told otherwise. Any thread. */
void spin_rpc_server_set_serving(struct spin_rpc_server *server, bool serving);
/* No new calls; those open may end until grace_ns has passed, then are cancelled. Returns when
 * every call is over, so whoever drives handlers must still be able to finish them. */
void spin_rpc_server_stop(struct spin_rpc_server *server, uint64_t grace_ns);
void spin_rpc_server_destroy(
    struct spin_rpc_server *server); /* stopped or never started; NULL allowed */
void spin_rpc_server_get_stats(const struct spin_rpc_server *server,
                               struct spin_rpc_server_stats *out); /* any thread */

/* The handler's side of a call. */
void *spin_rpc_call_state(struct spin_rpc_call *call); /* state_bytes, zeroed */
uint64_t spin_rpc_call_deadline_ns(
    const struct spin_rpc_call *call); /* monotonic, or SPIN_NO_DEADLINE */
/* The token behind "authorization: Bearer ", or "" when there is none; valid while the handler
 * holds the call. Compare it with spin_rpc_token_equal. */
const char *spin_rpc_call_bearer(const struct spin_rpc_call *call);
/* In a time that depends on the length of `given` alone. */
bool spin_rpc_token_equal(const char *given, const char *expected);
/* "ipv4:127.0.0.1:4711"; valid while the handler holds the call, which asks from one thread. */
const char *spin_rpc_call_peer(struct spin_rpc_call *call);
/* Queues a message. When there is no room the call is cut off and gone follows; appending to a
 * call that is over is allowed and does nothing. */
void spin_rpc_call_append(struct spin_rpc_call *call, const struct ProtobufCMessage *message);
/* Ends the call after what is queued; the handler's hold on it ends here. `text` may be NULL when
 * OK. */
void spin_rpc_call_finish(struct spin_rpc_call *call, spin_status status, const char *text);

SPIN_END_DECLS
