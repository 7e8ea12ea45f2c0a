/* fake_worker: a worker behind real gRPC, in the test's process, that does as it is told.
 *
 * Why        The dispatcher's tests need workers that die after the n-th token, refuse, fall silent
 *            and end without an end, at will. The n-th token is a function of n, so every text is
 *            known whoever generates it.
 * Ownership  The test owns the worker and stops its server.
 * Threading  start, stop: the test's thread. tell, read: any thread.
 * Errors     A request that resumes from tokens that this worker would not have drawn is refused:
 *            INVALID_ARGUMENT. */
#pragma once

#include "base/mutex.h"
#include "kvstore/block/key.h"
#include "proto/rpc_server.h"
#include "router/members.h"

SPIN_BEGIN_DECLS

#define SPIN_FAKE_TOKEN "worker-token" /* that calls must bear */
#define SPIN_FAKE_FOREVER UINT32_MAX

struct spin_fake_script {
    uint32_t die_after;  /* scores and tokens of a call; SPIN_FAKE_FOREVER: it lives */
    uint32_t deaths;     /* calls that die, then it lives; SPIN_FAKE_FOREVER: all */
    spin_status death;   /* what those calls end with */
    bool hold;           /* after die_after it falls silent instead */
    uint32_t stop_at;    /* an end token comes at this index */
    bool without_finish; /* it ends well, but does not say how */
};

struct spin_fake_worker {
    struct spin_rpc_method method;
    struct spin_rpc_server *server;
    struct spin_mutex mutex; /* guards the rest */
    struct spin_fake_script script;
    uint32_t calls;
    uint32_t gone;
    uint32_t resumed; /* of the last call */
    uint64_t seed;
    uint32_t max_tokens;
    bool asked_scores;
    uint8_t salt[SPIN_SALT_BYTES];
    uint32_t salt_bytes;
};

int32_t spin_fake_letter(uint32_t index); /* the n-th token: the byte that it stands for */
/* `one_by_one`: no two tokens in a message. Fails the test when it cannot. */
void spin_fake_worker_start(struct spin_fake_worker *worker, bool one_by_one);
void spin_fake_worker_stop(struct spin_fake_worker *worker);
/* Into the table, as Join would: now, with room for 64. */
struct spin_member *spin_fake_worker_join(struct spin_fake_worker *worker,
                                          struct spin_members *members, const char *id,
                                          uint64_t incarnation);
void spin_fake_worker_tell(struct spin_fake_worker *worker, struct spin_fake_script script);
uint32_t spin_fake_worker_read(struct spin_fake_worker *worker, const uint32_t *value);

SPIN_END_DECLS
