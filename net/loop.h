/* loop: one thread's event loop: timers, messages from other threads, work off the loop, signals.
 *
 * Why        A process has one thread that owns sessions, connections and tables, so none of them
 *            needs a lock; whatever happens elsewhere arrives here as a message.
 * Ownership  The caller owns the loop; timers and handlers must be gone before destroy. A message
 *            or a work belongs to the loop from post until its function is called, which may free
 *            it.
 * Threading  create, run, destroy and everything without another word: the loop's thread (create's
 *            thread until run is called). post, stop: any thread.
 * Units      Nanoseconds on the monotonic clock.
 * Errors     NO_MEMORY, EXHAUSTED (file descriptors) from create. Posting cannot fail: the link is
 *            in the message, so what bounds the queue is what bounds its senders. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

struct spin_loop;  /* private to net/ */
struct spin_timer; /* private to net/ */

SPIN_MUST_USE spin_status spin_loop_create(struct spin_loop **out, struct spin_error *err);
/* Runs until stop was asked for, or nothing is left to wait for: no message, work or name under
 * way, no timer set, no server, no shutdown handler. (A message that another thread has yet to post
 * cannot be seen.) May be called again. */
void spin_loop_run(struct spin_loop *loop);
void spin_loop_stop(struct spin_loop *loop); /* any thread */
void spin_loop_destroy(
    struct spin_loop *loop); /* messages posted and not run are run; NULL allowed */
/* The time now; cheap. */
uint64_t spin_loop_now_ns(const struct spin_loop *loop);
void spin_loop_assert_thread(const struct spin_loop *loop);

/* --- messages --- */

struct spin_loop_message { /* embedded in the sender's own struct */
    struct spin_loop_message *next;
    void (*run)(struct spin_loop_message *message); /* on the loop's thread */
};
/* Any thread; one thread's messages run in their order. Wakes the loop once for many. */
void spin_loop_post(struct spin_loop *loop, struct spin_loop_message *message);

/* --- work off the loop --- */

struct spin_loop_work {                        /* embedded in the caller's own struct */
    void *handle;                              /* the loop's */
    void (*run)(struct spin_loop_work *work);  /* a pool thread; may block */
    void (*done)(struct spin_loop_work *work); /* the loop's thread; exactly once */
};
/* NO_MEMORY: nothing will be called. */
SPIN_MUST_USE spin_status spin_loop_work(struct spin_loop *loop, struct spin_loop_work *work);

/* --- timers --- */

SPIN_MUST_USE spin_status spin_timer_create(struct spin_loop *loop, void (*fire)(void *context),
                                            void *context, struct spin_timer **out);
void spin_timer_destroy(struct spin_timer *timer); /* NULL is allowed */
/* Fires once after delay_ns, or every delay_ns; rounded up to milliseconds, never early; replaces
 * what was set. */
void spin_timer_start(struct spin_timer *timer, uint64_t delay_ns, bool repeat);
void spin_timer_stop(struct spin_timer *timer);

/* --- signals --- */

/* Takes SIGTERM and SIGINT; `handler` gets the number. One handler per process. A second signal
 * while the first is being handled ends the process at once with the signal's default action. */
SPIN_MUST_USE spin_status spin_loop_on_shutdown(struct spin_loop *loop,
                                                void (*handler)(void *context, int number),
                                                void *context, struct spin_error *err);

/* --- names --- */

#define SPIN_LOOP_ADDRESSES_MAX 64u

/* Resolves "host:port" to numeric "address:port" texts, off the loop. `done` is called exactly once
 * on the loop's thread; count 0 and a status when it failed. Texts are valid during the call. */
typedef void (*spin_resolved_fn)(void *context, spin_status status, const char *const *addresses,
                                 uint32_t count);
SPIN_MUST_USE spin_status spin_loop_resolve(struct spin_loop *loop, const char *target,
                                            spin_resolved_fn done, void *context,
                                            struct spin_error *err);

SPIN_END_DECLS
