/* mutex: the only lock in the tree, for the few places where threads meet outside a ring.
 *
 * Why        No domain state lives behind a lock; what does (outbound queues of calls, start-up and
 *            shutdown hand-shakes) uses these so that the tidy test can find every user.
 * Threading  Any thread. Never held while calling out. */
#pragma once

#include "base/base.h"

#include <pthread.h>

SPIN_BEGIN_DECLS

struct spin_mutex {
    pthread_mutex_t impl;
};
struct spin_cond {
    pthread_cond_t impl; /* waits on the monotonic clock */
};

void spin_mutex_init(struct spin_mutex *mutex);
void spin_mutex_deinit(struct spin_mutex *mutex);
void spin_mutex_lock(struct spin_mutex *mutex);
void spin_mutex_unlock(struct spin_mutex *mutex);
void spin_cond_init(struct spin_cond *cond);
void spin_cond_deinit(struct spin_cond *cond);
/* Returns false when deadline_ns passed. */
bool spin_cond_wait(struct spin_cond *cond, struct spin_mutex *mutex, uint64_t deadline_ns);
void spin_cond_signal(struct spin_cond *cond);
void spin_cond_broadcast(struct spin_cond *cond);

SPIN_END_DECLS
