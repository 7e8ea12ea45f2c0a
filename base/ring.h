/* ring: a bounded queue of pointers between threads: many producers, one consumer.
 *
 * Why        Threads talk by moving ownership of a message; a full queue says so and drops nothing.
 * Ownership  push moves the pointer to the consumer; after AGAIN it still is the producer's.
 * Threading  push: any thread. pop, wait: the consumer's thread only.
 * Units      capacity is in messages, a power of two, at least 2.
 * Errors     AGAIN: full (push) or empty (pop). */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

struct spin_ring; /* private to ring.c */

SPIN_MUST_USE spin_status spin_ring_create(uint32_t capacity, struct spin_ring **out,
                                           struct spin_error *err);
void spin_ring_destroy(struct spin_ring *ring); /* must be empty; NULL is allowed */
SPIN_MUST_USE spin_status spin_ring_push(struct spin_ring *ring, void *message);
SPIN_MUST_USE spin_status spin_ring_pop(struct spin_ring *ring, void **message);
/* Sleeps until something is there, spin_ring_wake is called, or deadline_ns (monotonic) passes. */
void spin_ring_wait(struct spin_ring *ring, uint64_t deadline_ns);
void spin_ring_wake(struct spin_ring *ring);

SPIN_END_DECLS
