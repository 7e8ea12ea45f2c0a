/* rpc_client_internal: what the client's connections and its calls share; nobody else includes it.
 *
 * Why        rpc_client.c owns the thread and the connections, rpc_client_call.c the life of one
 *            call.
 * Ownership  A client owns its channel and its bearer; the queue and the parser are the thread's.
 * Threading  `calls` is guarded by `mutex`, `parser` is the rpc thread's, the rest is immutable.
 * Errors     As rpc_client.h. */
#pragma once

#include "base/list.h"
#include "base/mutex.h"
#include "proto/rpc_client.h"
#include "proto/rpc_internal.h"

SPIN_BEGIN_DECLS

struct spin_rpc_client {
    struct spin_rpc_thread *thread;
    grpc_completion_queue *queue;
    struct spin_rpc_parser *parser;
    grpc_channel *channel;
    grpc_metadata authorization;
    bool authorized; /* `authorization` goes with every call */
    char target[256];

    struct spin_mutex mutex; /* guards the rest */
    struct spin_cond changed;
    struct spin_list calls; /* open ones, for destroy to cancel */
};

gpr_timespec spin_rpc_core_deadline(uint64_t deadline_ns);
/* Asks every open call to end and waits until `finished` was called for each. */
void spin_rpc_client_cancel_calls(struct spin_rpc_client *client);

SPIN_END_DECLS
