/* worker_link: the router's connection to one worker, and the Generate calls on it.
 *
 * Why        Answers arrive on the rpc thread and belong to the loop's. A call copies them into an
 *            inbox and posts itself once; the loop takes everything that came meanwhile in one
 *            turn, so a thousand tokens cost one wake-up, and none of them an allocation.
 *
 *            A worker that fails is left alone for a pause that doubles (100 ms .. 5 s), one that
 *            says it is full for a shorter one (20 ms .. 500 ms). A call that was made after the
 *            failure and comes to its end ends the row; what older streams say proves nothing.
 * Ownership  The dispatcher owns links and calls; a call is closed on the loop when its stream is
 *            over, and whoever wants nothing of it any more abandons it before that.
 * Threading  The loop's thread only.
 * Units      Nanoseconds, tokens.
 * Errors     create, call_create: those of rpc_client.h, NO_MEMORY. */
#pragma once

#include "base/list.h"
#include "net/loop.h"
#include "proto/rpc_client.h"
#include "proto/spin/v1/worker.pb-c.h"
#include "router/members.h"
#include "router/session/sequence.h"
#include "router/session/token_buffer.h"

SPIN_BEGIN_DECLS

struct spin_worker_call; /* private to worker_link.c */

struct spin_worker_link {
    struct spin_link link;      /* the dispatcher's list */
    struct spin_member *member; /* NULL: its row is gone; calls may still run */
    struct spin_rpc_client *client;
    char id[SPIN_MEMBER_ID_BYTES];
    char address[SPIN_MEMBER_ADDRESS_BYTES];
    uint64_t serial;        /* tells links apart for ever */
    uint64_t heard_ns;      /* the last word of the worker on any stream of its */
    struct spin_list calls; /* not closed yet, abandoned ones too */
    uint32_t failures;      /* in a row */
    bool recovering;        /* a call that was made after the last of them speaks */
    uint64_t failed_ns;     /* the last of them */
    uint64_t failed_until_ns;
    uint32_t refusals; /* in a row, for want of room */
    uint64_t full_until_ns;
};

SPIN_MUST_USE spin_status spin_worker_link_create(struct spin_rpc_thread *thread,
                                                  const struct spin_rpc_client_config *config,
                                                  const struct spin_member *member,
                                                  struct spin_worker_link **out,
                                                  struct spin_error *err);
/* Cancels what is open, all of it abandoned, and waits until the rpc thread has let go of it. Calls
 * free themselves on the loop's next turn, or when the loop is destroyed. NULL is allowed. */
void spin_worker_link_destroy(struct spin_worker_link *link);
/* It serves, as far as its last call can tell. */
bool spin_worker_link_is_sound(const struct spin_worker_link *link);
bool spin_worker_link_is_paused(const struct spin_worker_link *link, uint64_t now_ns);
void spin_worker_link_failed(struct spin_worker_link *link, const char *text, uint64_t now_ns);
void spin_worker_link_full(struct spin_worker_link *link, uint64_t now_ns);
/* It joined again: what was held against it is forgotten. */
void spin_worker_link_forgive(struct spin_worker_link *link);

/* --- calls --- */

/* What came since the last look. */
struct spin_worker_inbox {
    struct spin_token_buffer tokens;
    struct spin_token_buffer prompt;
    bool finished; /* the last message; the next two are of it */
    struct spin_sequence_finish finish;
    Spin__V1__Usage usage; /* without pointers */
    bool closed;           /* the stream is over; the next two say how */
    spin_status status;
    char text[240];
};

struct spin_worker_call_config {
    struct spin_worker_link *link;
    struct spin_loop *loop;
    const Spin__V1__GenerateRequest *message; /* borrowed during create */
    uint64_t deadline_ns;
    bool logprobs;       /* else tokens come with NaN */
    uint32_t tokens_max; /* that may come: the inbox's bound */
    uint32_t prompt_max;
    void *context;
    /* Something is in the inbox. When it is closed the call is destroyed after this returns. */
    void (*ready)(void *context, struct spin_worker_call *call, struct spin_worker_inbox *inbox);
};
SPIN_MUST_USE spin_status spin_worker_call_create(const struct spin_worker_call_config *config,
                                                  struct spin_worker_call **out,
                                                  struct spin_error *err);
struct spin_worker_link *spin_worker_call_link(const struct spin_worker_call *call);
/* Cancels it; `ready` is not called again, and it is destroyed when its stream is over. */
void spin_worker_call_abandon(struct spin_worker_call *call);

SPIN_END_DECLS
