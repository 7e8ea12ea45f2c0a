/* connection: one worker, dialled by a command that a person waits for.
 *
 * Why        Commands block the main thread in one place, where Ctrl-C is seen and turned into a
 *            cancel.
 * Ownership  Owns its rpc client. Borrows the request during call.
 * Threading  The main thread; open before any other thread, it blocks signals for those to come.
 * Units      Nanoseconds.
 * Errors     open: INVALID (the address), PEER_LOST with a sentence that says what to do. */
#pragma once

#include "proto/rpc_client.h"

SPIN_BEGIN_DECLS

struct spin_connection; /* private to connection.c */

struct spin_call_result {
    spin_status status;
    enum spin_rpc_code code;
    uint64_t messages;
    bool interrupted; /* Ctrl-C, SIGTERM */
    char text[256];
};

SPIN_MUST_USE spin_status spin_connection_open(const char *worker, uint64_t timeout_ns,
                                               struct spin_connection **out,
                                               struct spin_error *err);
void spin_connection_close(struct spin_connection *connection); /* NULL is allowed */
/* Runs one call to its end; `request` comes without context and finished. `message_received` gets
 * `context` and may answer false: the call is cancelled. A call that the worker never began
 * (UNAVAILABLE before any message) is asked again, twice at most. */
typedef bool (*spin_message_fn)(void *context, const struct ProtobufCMessage *message);
SPIN_MUST_USE spin_status spin_connection_call(struct spin_connection *connection,
                                               const struct spin_rpc_request *request,
                                               spin_message_fn message_received, void *context,
                                               struct spin_call_result *out);

SPIN_END_DECLS
