/* agenda: who is next, of a fixed crowd of whom each has one appointment at most.
 *
 * Why        A simulation of a thousand workers asks "who is next" and "he is earlier now" millions
 *            of times: an indexed binary heap, O(log n) each.
 * Order      By time, then by index: the same appointments always come in the same order.
 * Threading  One thread at a time.
 * Units      Nanoseconds; SPIN_NO_DEADLINE: no appointment. */
#pragma once

#include "base/clock.h"
#include "base/status.h"

SPIN_BEGIN_DECLS

struct spin_agenda; /* private to agenda.c */

SPIN_MUST_USE spin_status spin_agenda_create(uint32_t crowd, struct spin_agenda **out,
                                             struct spin_error *err);
void spin_agenda_destroy(struct spin_agenda *agenda); /* NULL is allowed */
void spin_agenda_set(struct spin_agenda *agenda, uint32_t who, uint64_t at_ns);
/* The earliest appointment and whose it is; SPIN_NO_DEADLINE: nobody has one. */
uint64_t spin_agenda_next(const struct spin_agenda *agenda, uint32_t *out_who);

SPIN_END_DECLS
