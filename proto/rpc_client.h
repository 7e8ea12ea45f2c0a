/* rpc_client: gRPC's client side: connections, and calls that answer through callbacks.
 *
 * Why        The only door to gRPC core for those who ask. A unary method is a stream of one
 *            answer, so there is one kind of call. Any number of connections share one thread.
 * Ownership  A thread outlives its clients; a client owns its connection and outlives nobody's
 *            call. submit copies what it needs and returns a call that the caller releases; a call
 *            may be released before it is over.
 * Threading  create, destroy: one control thread, never from inside a callback. Everything else:
 *            any thread, callbacks too. Callbacks run on the rpc thread, one at a time; until one
 *            returns, the stream it belongs to stands still, which is the back-pressure that the
 *            server sees.
 * Units      Bytes; deadlines are absolute on the monotonic clock.
 * Errors     create: INVALID (the address, the bearer), those of rpc_tls.h. submit: NO_MEMORY; then
 *            no callback comes. After OK `finished` is called exactly once, last. A peer that
 *            cannot be reached is PEER_LOST in `finished`. */
#pragma once

#include "proto/rpc_message.h"
#include "proto/rpc_status.h"
#include "proto/rpc_tls.h"

SPIN_BEGIN_DECLS

struct spin_rpc_thread;      /* private to rpc_client.c */
struct spin_rpc_client;      /* private to rpc_client.c */
struct spin_rpc_client_call; /* private to rpc_client.c */

/* How a call ended. */
struct spin_rpc_outcome {
    spin_status status;
    enum spin_rpc_code code; /* as it came over the wire */
    const char *text;        /* never NULL; valid during the callback */
    uint64_t messages;       /* delivered before it; 0 and UNAVAILABLE: the peer has done nothing */
};

struct spin_rpc_request {
    const char *path; /* "/spin.v1.Worker/Generate" */
    const struct ProtobufCMessage *message;
    const struct ProtobufCMessageDescriptor *response;
    uint64_t response_bytes_max;
    uint64_t arena_bytes_max; /* of one parsed response */
    uint64_t deadline_ns;     /* SPIN_NO_DEADLINE: none */
    /* The caller sends a stream: `message` (may be NULL) is its first message, call_send adds
     * others, call_close_send ends it. outbox_bytes bounds what waits for the wire. */
    bool sends_stream;
    uint64_t outbox_bytes;
    void *context;
    void (*message_received)(void *context, const struct ProtobufCMessage *message);
    void (*finished)(void *context, const struct spin_rpc_outcome *outcome);
};

SPIN_MUST_USE spin_status spin_rpc_thread_create(struct spin_rpc_thread **out,
                                                 struct spin_error *err);
void spin_rpc_thread_destroy(struct spin_rpc_thread *thread); /* without clients; NULL allowed */

struct spin_rpc_client_config {
    const char *target; /* "host:port" */
    const char *bearer; /* sent as "authorization: Bearer <this>" with every call; NULL: none */
    struct spin_rpc_tls tls;
};
/* Connects lazily. Borrows `config` during the call. */
SPIN_MUST_USE spin_status spin_rpc_client_create(struct spin_rpc_thread *thread,
                                                 const struct spin_rpc_client_config *config,
                                                 struct spin_rpc_client **out,
                                                 struct spin_error *err);
/* Cancels what is open and waits for every `finished`. NULL is allowed. */
void spin_rpc_client_destroy(struct spin_rpc_client *client);
/* Blocks until the connection stands. PEER_LOST when it does not by then. */
SPIN_MUST_USE spin_status spin_rpc_client_wait_ready(struct spin_rpc_client *client,
                                                     uint64_t deadline_ns, struct spin_error *err);
SPIN_MUST_USE spin_status spin_rpc_client_submit(struct spin_rpc_client *client,
                                                 const struct spin_rpc_request *request,
                                                 struct spin_rpc_client_call **out,
                                                 struct spin_error *err);
/* sends_stream only, before close_send. EXHAUSTED: fewer than `reserve` of outbox_bytes would be
 * left, nothing was queued; so a message that can be missed leaves room for one that cannot. OK
 * when the call is over: the message goes nowhere and `finished` says why. */
SPIN_MUST_USE spin_status spin_rpc_client_call_send(struct spin_rpc_client_call *call,
                                                    const struct ProtobufCMessage *message,
                                                    uint64_t reserve);
void spin_rpc_client_call_close_send(struct spin_rpc_client_call *call);
/* A request, not an order: `finished` still comes. */
void spin_rpc_client_call_cancel(struct spin_rpc_client_call *call);
void spin_rpc_client_call_release(struct spin_rpc_client_call *call);

SPIN_END_DECLS
