/* pacer: wakes the loop at exact moments.
 *
 * Why        The loop's timers count milliseconds and fire up to two late: as much as the latencies
 *            that are measured. A thread that sleeps until the moment is late by tens of
 *            microseconds and costs nothing in between.
 * Ownership  The pacer borrows the loop.
 * Threading  create, set, destroy: the loop's thread. `fire` comes on the loop's thread.
 * Units      Nanoseconds on the monotonic clock.
 * Errors     create: NO_MEMORY, EXHAUSTED (threads). */
#pragma once

#include "net/loop.h"

SPIN_BEGIN_DECLS

struct spin_load_pacer; /* private to pacer.c */

SPIN_MUST_USE spin_status spin_load_pacer_create(struct spin_loop *loop,
                                                 void (*fire)(void *context, uint64_t due_ns),
                                                 void *context, struct spin_load_pacer **out,
                                                 struct spin_error *err);
/* Fires once at due_ns, at once when that has passed; replaces what was set. SPIN_NO_DEADLINE:
 * never. */
void spin_load_pacer_set(struct spin_load_pacer *pacer, uint64_t due_ns);
/* Not while the loop runs; it does not fire any more. NULL is allowed. */
void spin_load_pacer_destroy(struct spin_load_pacer *pacer);

SPIN_END_DECLS
