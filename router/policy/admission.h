/* admission: the bounded queue in front of the workers.
 *
 * Why        Who may wait, and who goes next. Tenants take turns by prompt tokens (deficit round
 *            robin), so one that floods the router delays itself; inside a tenant the key is
 *            arrival + cost, so a short prompt passes a long one that came just before, and no
 *            prompt waits longer than its own cost behind later ones.
 * Ownership  Intrusive: the caller owns the entries, which are in the queue from push to pop or
 *            remove.
 * Threading  One thread at a time; pure: time is an argument.
 * Units      Nanoseconds, prompt tokens.
 * Errors     EXHAUSTED: a queue is full; the text says whose and the limit. */
#pragma once

#include "base/list.h"
#include "base/status.h"

SPIN_BEGIN_DECLS

struct spin_admission; /* private to admission.c */

struct spin_admission_entry {
    struct spin_link link; /* the queue's */
    uint64_t key_ns;       /* the queue's: arrival + cost */
    uint32_t tenant;
    uint32_t prompt_tokens;
};

struct spin_admission_config {
    uint32_t queue_max; /* of all tenants */
    uint32_t tenant_queue_max;
    uint32_t tenant_count;
    uint64_t token_cost_ns;  /* of one prompt token; default 500 us: 2,000 tokens/s */
    uint32_t quantum_tokens; /* a tenant's turn; default 2,048 */
};

SPIN_MUST_USE spin_status spin_admission_create(const struct spin_admission_config *config,
                                                struct spin_admission **out,
                                                struct spin_error *err);
void spin_admission_destroy(struct spin_admission *admission); /* empty; NULL is allowed */
/* `first`: it was running before (its worker died): it goes ahead of everything, and no limit holds
 * it back. */
SPIN_MUST_USE spin_status spin_admission_push(struct spin_admission *admission,
                                              struct spin_admission_entry *entry, uint64_t now_ns,
                                              bool first, struct spin_error *err);
/* Who goes next; NULL: nobody waits. peek does not take a turn, pop does. */
struct spin_admission_entry *spin_admission_peek(struct spin_admission *admission);
void spin_admission_pop(struct spin_admission *admission, struct spin_admission_entry *entry);
void spin_admission_remove(struct spin_admission *admission, struct spin_admission_entry *entry);
uint32_t spin_admission_count(const struct spin_admission *admission);

SPIN_END_DECLS
