/* dispatcher: generations from a queue onto workers, and onto other workers when those die.
 *
 * Why        The one owner of every generation between a front door and a worker:
 *
 *            submit -> [admission queue] -> placed -> streaming -> ended
 *                            ^________ worker lost ____/   (D1: what it had drawn is replayed)
 *
 *            What to do is decided by pure parts (policy/, session/); this is the adapter that has
 *            the clock, the loop and the calls to workers.
 * Ownership  Owns generations, the connections to workers and the members' table. Borrows the loop,
 *            the tokenizer, the metrics and the configuration.
 * Threading  The loop's thread only. Sinks are called from the loop, never from inside submit or
 *            cancel.
 * Units      Tokens, nanoseconds.
 * Errors     submit: EXHAUSTED (a queue is full, the text says which and its limit), AGAIN (no
 *            worker has joined yet), SHUTDOWN, NO_MEMORY, those of spin_generation_check. After OK
 *            `ended` comes exactly once, unless cancel comes first. In `ended`: DEADLINE, PEER_LOST
 *            (no worker could be found in time, or too many died), EXHAUSTED, INVALID, LIMIT,
 *            SHUTDOWN, INTERNAL. */
#pragma once

#include "base/metrics.h"
#include "model/text/tokenizer.h"
#include "net/loop.h"
#include "proto/rpc_tls.h"
#include "router/generation.h"
#include "router/members.h"
#include "router/tenants.h"

SPIN_BEGIN_DECLS

struct spin_dispatcher; /* private to dispatcher.c */
struct spin_generation; /* private to dispatcher.c: a handle */

struct spin_dispatcher_config {  /* its texts are borrowed until destroy */
    uint32_t queue_max;          /* generations that wait, of all tenants */
    uint32_t tenant_queue_max;   /* and of one */
    uint32_t generations_max;    /* open at once, waiting or not */
    uint64_t queue_timeout_ns;   /* without a worker to go to */
    uint64_t request_timeout_ns; /* the longest any generation may take */
    uint64_t worker_timeout_ns;  /* without a word from a worker: it counts as dead */
    uint32_t recoveries_max;     /* per generation */
    const char *model_name;      /* that workers must serve; NULL: any */
    uint64_t status_interval_ns; /* asked of members: after four without a word one is suspected;
                                    0: nobody is */
    const char *cluster_secret;  /* salts come from it; NULL: none are sent */
    const char *worker_token;    /* bearer for calls to workers; NULL: none */
    struct spin_rpc_tls worker_tls;
};

struct spin_dispatcher_parts { /* borrowed until destroy */
    struct spin_loop *loop;
    const struct spin_tokenizer *tokenizer;
    const struct spin_tenants *tenants;
    struct spin_metrics *metrics; /* of spin_router_metrics */
};

SPIN_MUST_USE spin_status spin_dispatcher_create(const struct spin_dispatcher_config *config,
                                                 const struct spin_dispatcher_parts *parts,
                                                 struct spin_dispatcher **out,
                                                 struct spin_error *err);
/* No new generations; those that are open go on, and what is left after grace_ns ends with
 * SHUTDOWN. `drained` is called once, later, when the last has ended. */
void spin_dispatcher_drain(struct spin_dispatcher *dispatcher, uint64_t grace_ns,
                           void (*drained)(void *context), void *context);
void spin_dispatcher_destroy(struct spin_dispatcher *dispatcher); /* drained; NULL is allowed */

SPIN_MUST_USE spin_status spin_dispatcher_submit(struct spin_dispatcher *dispatcher,
                                                 const struct spin_generation_request *request,
                                                 struct spin_generation **out,
                                                 struct spin_error *err);
/* Nobody wants it any more: the sink is not called again, the handle is void. */
void spin_dispatcher_cancel(struct spin_dispatcher *dispatcher, struct spin_generation *generation);
/* Memory of one that is open, its tokens and its text aside. */
uint64_t spin_dispatcher_generation_bytes(void);
/* Seconds after which a refused client may try again: at least 1. */
uint32_t spin_dispatcher_retry_after_s(const struct spin_dispatcher *dispatcher);
/* Who is there: for Join, Describe, health and limits. */
struct spin_members *spin_dispatcher_members(struct spin_dispatcher *dispatcher);
/* Max_model_len 0: no worker has joined yet. */
struct spin_generation_limits spin_dispatcher_limits(const struct spin_dispatcher *dispatcher);

SPIN_END_DECLS
