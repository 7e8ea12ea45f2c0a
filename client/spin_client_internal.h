/* spin_client_internal: what the files of the SDK share; only they and the commands include it.
 *
 * Why        spin_client.h stays free of protobuf. Underneath there is one kind of call: a request
 *            message, any number of answers, an end; attempts and pauses between them are
 *            spin_client_call.c's, what the messages mean is others'.
 * Ownership  As stated at each function.
 * Threading  A call's `mutex` is its client's; it guards what is said to be guarded.
 * Units      Bytes, nanoseconds; deadlines here are absolute on the monotonic clock.
 * Errors     As spin_client.h. */
#pragma once

#include "base/list.h"
#include "base/mutex.h"
#include "base/rng.h"
#include "client/spin_client.h"
#include "proto/rpc_client.h"
#include "proto/spin/v1/inference.pb-c.h"

#include <pthread.h>

SPIN_BEGIN_DECLS

/* Where a message's tokens become those of the public header. The rpc thread's. */
struct spin_client_scratch {
    struct spin_client_token *tokens;
    uint64_t token_capacity;
    struct spin_client_alternative *top;
    uint64_t top_capacity;
};

struct spin_client {
    struct spin_rpc_thread *thread;
    struct spin_rpc_client *rpc;
    char target[256];
    uint32_t retries_max;
    struct spin_client_scratch scratch;
    pthread_t pauses; /* sleeps until a paused call is due */
    bool pauses_started;
    struct spin_mutex mutex; /* guards the rest */
    struct spin_cond changed;
    struct spin_list paused; /* calls between two attempts, the next one due first */
    struct spin_rng rng;
    bool closing;
};

/* --- spin_client_call.c --- */

struct spin_client_exchange {
    const char *path;
    const struct ProtobufCMessage *message; /* borrowed during start */
    const struct ProtobufCMessageDescriptor *response;
    uint64_t deadline_ns; /* absolute */
    void *context;
    /* False: no more of it; the call ends with CANCELLED. */
    bool (*answered)(void *context, const struct ProtobufCMessage *message);
    spin_client_finished_fn finished; /* exactly once, last */
};
SPIN_MUST_USE spin_status spin_client_call_start(struct spin_client *client,
                                                 const struct spin_client_exchange *exchange,
                                                 struct spin_client_call **out,
                                                 struct spin_error *err);
/* The same, and waits for the end; not from a callback. `exchange` comes without finished. */
SPIN_MUST_USE spin_status spin_client_call_run(struct spin_client *client,
                                               const struct spin_client_exchange *exchange,
                                               struct spin_error *err);
/* The thread of spin_client.pauses, until `closing`. */
void *spin_client_run_pauses(void *self);
/* A duration from now as a deadline; 0: none. */
uint64_t spin_client_deadline_ns(uint64_t duration_ns);

/* --- spin_client_request.c --- */

/* Packs nothing: `out` borrows from `request` and from `arena`. */
SPIN_MUST_USE spin_status spin_client_request_fill(const struct spin_client_request *request,
                                                   struct spin_arena *arena,
                                                   Spin__V1__InferenceRequest *out,
                                                   struct spin_error *err);

/* --- spin_client_delta.c --- */

struct spin_client_reader {
    spin_client_delta_fn on_delta;
    void *context;
    bool logprobs; /* were asked for */
    uint32_t n;
    uint32_t ended; /* answers whose ending has come */
};
/* Calls `on_delta` for each of the message's deltas. *out_wanted is false when it wants no more.
 * INTERNAL: not what a router sends. */
SPIN_MUST_USE spin_status spin_client_read_deltas(struct spin_client_reader *reader,
                                                  struct spin_client_scratch *scratch,
                                                  const Spin__V1__InferenceResponse *message,
                                                  bool *out_wanted, struct spin_error *err);
void spin_client_scratch_deinit(struct spin_client_scratch *scratch);

SPIN_END_DECLS
