#include "bench/sim/agenda.h"

#include "base/assert.h"

#include <stdlib.h>

/* Everybody stays in the heap: who has no appointment sinks to its end. */
struct spin_agenda {
    uint32_t crowd;
    uint64_t *at_ns; /* [crowd], by who */
    uint32_t *heap;  /* [crowd]: who */
    uint32_t *place; /* [crowd], by who: where in the heap */
};

spin_status spin_agenda_create(uint32_t crowd, struct spin_agenda **out, struct spin_error *err)
{
    SPIN_ASSERT_GE(crowd, 1);
    struct spin_agenda *agenda = calloc(1, sizeof *agenda);
    if (agenda == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "agenda: %zu bytes", sizeof *agenda);
    }
    agenda->crowd = crowd;
    agenda->at_ns = calloc(crowd, sizeof *agenda->at_ns);
    agenda->heap = calloc(crowd, sizeof *agenda->heap);
    agenda->place = calloc(crowd, sizeof *agenda->place);
    if (agenda->at_ns == NULL || agenda->heap == NULL || agenda->place == NULL) {
        spin_agenda_destroy(agenda);
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "agenda: a crowd of %u", crowd);
    }
    for (uint32_t i = 0; i < crowd; i++) {
        agenda->at_ns[i] = SPIN_NO_DEADLINE;
        agenda->heap[i] = i;
        agenda->place[i] = i;
    }
    *out = agenda;
    return SPIN_OK;
}

void spin_agenda_destroy(struct spin_agenda *agenda)
{
    if (agenda != NULL) {
        free(agenda->at_ns);
        free(agenda->heap);
        free(agenda->place);
        free(agenda);
    }
}

static bool is_before(const struct spin_agenda *agenda, uint32_t a, uint32_t b)
{
    return agenda->at_ns[a] != agenda->at_ns[b] ? agenda->at_ns[a] < agenda->at_ns[b] : a < b;
}

static void put(struct spin_agenda *agenda, uint32_t place, uint32_t who)
{
    agenda->heap[place] = who;
    agenda->place[who] = place;
}

static void rise(struct spin_agenda *agenda, uint32_t place, uint32_t who)
{
    while (place > 0) {
        const uint32_t parent = (place - 1) / 2;
        if (!is_before(agenda, who, agenda->heap[parent])) {
            break;
        }
        put(agenda, place, agenda->heap[parent]);
        place = parent;
    }
    put(agenda, place, who);
}

static void sink(struct spin_agenda *agenda, uint32_t place, uint32_t who)
{
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child >= agenda->crowd) {
            break;
        }
        if (child + 1 < agenda->crowd &&
            is_before(agenda, agenda->heap[child + 1], agenda->heap[child])) {
            child++;
        }
        if (!is_before(agenda, agenda->heap[child], who)) {
            break;
        }
        put(agenda, place, agenda->heap[child]);
        place = child;
    }
    put(agenda, place, who);
}

void spin_agenda_set(struct spin_agenda *agenda, uint32_t who, uint64_t at_ns)
{
    SPIN_ASSERT_LT(who, agenda->crowd);
    const uint64_t before_ns = agenda->at_ns[who];
    agenda->at_ns[who] = at_ns;
    if (at_ns < before_ns) {
        rise(agenda, agenda->place[who], who);
    } else if (at_ns > before_ns) {
        sink(agenda, agenda->place[who], who);
    }
}

uint64_t spin_agenda_next(const struct spin_agenda *agenda, uint32_t *out_who)
{
    *out_who = agenda->heap[0];
    return agenda->at_ns[agenda->heap[0]];
}
