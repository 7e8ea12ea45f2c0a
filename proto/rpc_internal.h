/* rpc_internal: what the files of the gRPC wrapper share; nobody else includes it.
 *
 * Why        rpc_server.c owns the threads and the counters, rpc_call.c the life of one call,
 *            rpc_client.c the other side; tags, buffers, addresses and certificates are common.
 * Ownership  As stated at each function.
 * Threading  As stated at each function.
 * Errors     As rpc_server.h and rpc_client.h. */
#pragma once

#include "base/list.h"
#include "base/mutex.h"
#include "proto/rpc_server.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>

SPIN_BEGIN_DECLS

/* A completion: embedded in the object that waits for it, which stays alive until it fires. */
struct spin_rpc_tag {
    void (*fire)(void *self, bool ok);
    void *self;
};

/* --- rpc_core.c --- */

/* gRPC core's own start and end, counted; its log lines go to ours. */
void spin_rpc_core_acquire(void);
void spin_rpc_core_release(void);
/* Why `address` cannot be listened on, found by trying; gRPC core does not say. Always an error. */
spin_status spin_rpc_address_explain(const char *address, const char *flag, struct spin_error *err);
/* Returns owned. */
grpc_byte_buffer *spin_rpc_buffer_from_message(const struct ProtobufCMessage *message);
/* Parses the messages of one thread, one at a time, in memory that it keeps. Zeroed: ready. */
struct spin_rpc_parser {
    struct spin_arena *arena; /* NULL: none yet */
};
/* `args` comes without source and arena; `buffer` stays the caller's. The message is valid until
 * forget, which follows whatever the outcome was. */
SPIN_MUST_USE spin_status spin_rpc_parser_read(struct spin_rpc_parser *parser,
                                               grpc_byte_buffer *buffer,
                                               const struct spin_rpc_unpack_args *args,
                                               struct ProtobufCMessage **out,
                                               struct spin_error *err);
void spin_rpc_parser_forget(struct spin_rpc_parser *parser);
void spin_rpc_parser_deinit(struct spin_rpc_parser *parser);
/* Runs completions until the queue is shut down and empty. */
void spin_rpc_queue_run(grpc_completion_queue *queue);
grpc_arg spin_rpc_integer_arg(const char *key, int value);
grpc_arg spin_rpc_string_arg(const char *key, const char *value); /* borrows both */
void spin_rpc_start_batch(grpc_call *call, const grpc_op *ops, size_t count,
                          struct spin_rpc_tag *tag);

/* --- rpc_tls.c --- */

/* Both read the files; without any, and not `enabled`, the connection is not encrypted. Return
 * owned. */
SPIN_MUST_USE spin_status spin_rpc_tls_server_credentials(const struct spin_rpc_tls *tls,
                                                          grpc_server_credentials **out,
                                                          struct spin_error *err);
SPIN_MUST_USE spin_status spin_rpc_tls_channel_credentials(const struct spin_rpc_tls *tls,
                                                           grpc_channel_credentials **out,
                                                           struct spin_error *err);

/* --- rpc_token.c --- */

/* The token in "authorization: Bearer <token>", or NULL when there is none. Returns owned. */
char *spin_rpc_token_find(const grpc_metadata_array *metadata);

/* --- rpc_server.c, for rpc_call.c --- */

/* One registered method. Immutable after create. */
struct spin_rpc_line {
    const struct spin_rpc_method *method;
    void *context;
    struct spin_rpc_server *server;
    grpc_server *core;
    grpc_completion_queue *queue;
    void *handle; /* gRPC core's name of the method; NULL: the catch-all */
    uint32_t index;
};

enum spin_rpc_stat {
    SPIN_RPC_STAT_CALLS,
    SPIN_RPC_STAT_REFUSED,
    SPIN_RPC_STAT_GONE,
    SPIN_RPC_STAT_SLOW_READERS,
    SPIN_RPC_STAT_MESSAGES_SENT,
    SPIN_RPC_STAT_COUNT
};
void spin_rpc_server_count(struct spin_rpc_server *server, enum spin_rpc_stat stat);
/* Takes one of the method's calls_max places; false when all are taken. leave gives it back. */
bool spin_rpc_server_admit(struct spin_rpc_server *server, const struct spin_rpc_line *line);
void spin_rpc_server_leave(struct spin_rpc_server *server, const struct spin_rpc_line *line);
/* Hands a call to the sender thread. At most once per call at a time, so there is always room. */
void spin_rpc_server_schedule(struct spin_rpc_server *server, struct spin_rpc_call *call);
/* The rpc thread's own. */
struct spin_rpc_parser *spin_rpc_server_parser(struct spin_rpc_server *server);
/* The queue may be shut down when the last object that can start a batch is gone. */
void spin_rpc_server_object_created(struct spin_rpc_server *server);
void spin_rpc_server_object_destroyed(struct spin_rpc_server *server);
/* rpc thread: a posted request was used up. */
void spin_rpc_server_request_taken(struct spin_rpc_server *server, const struct spin_rpc_line *line,
                                   bool ok);

/* --- rpc_call.c, for rpc_server.c --- */

/* Posts one request for the next call of this method; false: no memory. rpc thread. */
bool spin_rpc_call_post(const struct spin_rpc_line *line);
/* sender thread: the call came out of the ring. */
void spin_rpc_call_scheduled(struct spin_rpc_call *call);

/* --- rpc_health.c --- */

#define SPIN_RPC_HEALTH_METHODS 2u
#define SPIN_RPC_HEALTH_CALLS_MAX 64u /* of each; more probes at once are a mistake of theirs */

/* What the health service knows; the context of its methods. */
struct spin_rpc_health {
    const struct spin_rpc_server *server;
    struct spin_mutex mutex;   /* guards the rest */
    struct spin_list watchers; /* open Watch calls that want to know of changes */
    bool serving;
    bool ended; /* the server stops */
};

void spin_rpc_health_init(struct spin_rpc_health *health, const struct spin_rpc_server *server);
void spin_rpc_health_deinit(struct spin_rpc_health *health);
void spin_rpc_health_methods(struct spin_rpc_method methods[SPIN_RPC_HEALTH_METHODS]);
void spin_rpc_health_set(struct spin_rpc_health *health, bool serving); /* any thread */
/* NOT_SERVING from now on, and the end of every Watch. */
void spin_rpc_health_end(struct spin_rpc_health *health);
/* True when a registered method belongs to this service: "spin.v1.Worker". */
bool spin_rpc_server_has_service(const struct spin_rpc_server *server, const char *service);

SPIN_END_DECLS
