/* door: what outside threads share with the engine's: tickets, the queue's bound, closing.
 *
 * Why        submit, cancel and stop come from any thread; what they may touch is gathered here, so
 *            that everything else in the engine has one owner.
 * Threading  "any": any thread. The others: the engine's thread. No locks.
 * Units      A ticket names one request for ever; its index (below the capacity) names the place
 *            that the request has until it is released.
 * Errors     enter: EXHAUSTED (waiting_max, or no place), or the status that the door was closed
 *            with. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

struct spin_door; /* private to door.c */

SPIN_MUST_USE spin_status spin_door_create(uint32_t capacity, uint32_t waiting_max,
                                           struct spin_door **out, struct spin_error *err);
void spin_door_destroy(struct spin_door *door); /* NULL is allowed */

/* Any. Takes a place in the queue. The caller hands its request over and then calls passed. */
SPIN_MUST_USE spin_status spin_door_enter(struct spin_door *door, uint64_t *out_ticket);
void spin_door_passed(struct spin_door *door);
uint32_t spin_ticket_index(uint64_t ticket);

/* Any. Returns true when the ticket's request is here and had not been cancelled before. */
bool spin_door_cancel(struct spin_door *door, uint64_t ticket);
/* True when somebody was cancelled since the last call. */
bool spin_door_take_cancels(struct spin_door *door);
bool spin_door_is_cancelled(const struct spin_door *door, uint32_t index);

/* The request waits no longer: its first admission, or its end when it never was admitted. */
void spin_door_leave_queue(struct spin_door *door);
/* The place is free, its ticket void. */
void spin_door_release(struct spin_door *door, uint32_t index);

/* Any. Whoever enters from now on gets `status`; the first call decides. */
void spin_door_close(struct spin_door *door, spin_status status);
/* Any. SPIN_OK while open. */
spin_status spin_door_get_status(const struct spin_door *door);
/* Any. The engine is to end when it has nothing to do, or at `deadline_ns` whatever it does.
 * Closes. */
void spin_door_stop(struct spin_door *door, uint64_t deadline_ns);
bool spin_door_is_stopping(const struct spin_door *door, uint64_t *out_deadline_ns);
/* After close: nobody is between enter and passed, so nothing more will be handed over. */
bool spin_door_is_quiet(const struct spin_door *door);

SPIN_END_DECLS
