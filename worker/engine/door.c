/* A place's word is (generation << 32 | index) << 1 | cancelled while a request has it; the
 * generation goes up at release, so a late cancel of an old ticket finds another word and does
 * nothing.
 *
 * Free places are a stack that any thread pops and the engine's thread pushes: its head carries a
 * tag that every change raises, so a head that was popped and pushed back in between is not
 * mistaken for an unchanged one. */
#include "worker/engine/door.h"

#include "base/assert.h"

#include <stdatomic.h>
#include <stdlib.h>

#define NONE UINT32_MAX

struct place {
    _Atomic uint64_t word;
    _Atomic uint32_t next; /* of the free stack */
};

struct spin_door {
    uint32_t capacity;
    uint32_t waiting_max;
    struct place *places;
    _Atomic uint64_t free_head; /* tag << 32 | index or NONE */
    _Atomic uint32_t waiting;
    _Atomic uint32_t inside; /* threads between enter and passed */
    _Atomic uint32_t cancels;
    _Atomic uint32_t status;
    _Atomic uint32_t stopping;
    _Atomic uint64_t deadline_ns;
};

static uint64_t make_word(uint32_t generation, uint32_t index)
{
    return ((uint64_t)generation << 32 | index) << 1;
}

spin_status spin_door_create(uint32_t capacity, uint32_t waiting_max, struct spin_door **out,
                             struct spin_error *err)
{
    SPIN_ASSERT_GE(capacity, 1);
    SPIN_ASSERT_LT(capacity, NONE);
    struct spin_door *door = calloc(1, sizeof *door);
    struct place *places = calloc(capacity, sizeof *places);
    if (door == NULL || places == NULL) {
        free(door);
        free(places);
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "door: %u places", capacity);
    }
    door->capacity = capacity;
    door->waiting_max = waiting_max;
    door->places = places;
    for (uint32_t i = 0; i < capacity; i++) {
        /* Generations start at 1: ticket 0 names nobody. */
        atomic_init(&places[i].word, make_word(1, i));
        atomic_init(&places[i].next, i + 1 < capacity ? i + 1 : NONE);
    }
    *out = door;
    return SPIN_OK;
}

void spin_door_destroy(struct spin_door *door)
{
    if (door != NULL) {
        SPIN_ASSERT_EQ(atomic_load(&door->waiting), 0);
        free(door->places);
        free(door);
    }
}

static uint64_t with_head(uint64_t head, uint32_t index)
{
    return ((head >> 32) + 1) << 32 | index;
}

static uint32_t pop_place(struct spin_door *door)
{
    /* Acquire pairs with the release in push_place: what the engine's thread wrote about the
     * place's last request is seen by its next one. */
    uint64_t head = atomic_load_explicit(&door->free_head, memory_order_acquire);
    for (;;) {
        const uint32_t index = (uint32_t)head;
        if (index == NONE) {
            return NONE;
        }
        /* May be stale when another thread pops first; then the tag has moved and we try again. */
        const uint32_t next = atomic_load_explicit(&door->places[index].next, memory_order_relaxed);
        if (atomic_compare_exchange_weak_explicit(&door->free_head, &head, with_head(head, next),
                                                  memory_order_acquire, memory_order_acquire)) {
            return index;
        }
    }
}

static void push_place(struct spin_door *door, uint32_t index)
{
    uint64_t head = atomic_load_explicit(&door->free_head, memory_order_relaxed);
    do {
        atomic_store_explicit(&door->places[index].next, (uint32_t)head, memory_order_relaxed);
        /* Release pairs with the acquire in pop_place. */
    } while (!atomic_compare_exchange_weak_explicit(&door->free_head, &head, with_head(head, index),
                                                    memory_order_release, memory_order_relaxed));
}

spin_status spin_door_enter(struct spin_door *door, uint64_t *out_ticket)
{
    /* Sequentially consistent, like close and is_quiet: either this thread sees that the door is
     * closed, or the engine's thread sees it inside. */
    atomic_fetch_add(&door->inside, 1);
    spin_status status = (spin_status)atomic_load(&door->status);
    if (status == SPIN_OK && atomic_fetch_add(&door->waiting, 1) >= door->waiting_max) {
        atomic_fetch_sub(&door->waiting, 1);
        status = SPIN_ERR_EXHAUSTED;
    }
    if (status == SPIN_OK) {
        const uint32_t index = pop_place(door);
        if (index != NONE) {
            *out_ticket = atomic_load(&door->places[index].word) >> 1;
            return SPIN_OK;
        }
        atomic_fetch_sub(&door->waiting, 1);
        status = SPIN_ERR_EXHAUSTED;
    }
    atomic_fetch_sub(&door->inside, 1);
    return status;
}

void spin_door_passed(struct spin_door *door)
{
    SPIN_ASSERT_GT(atomic_fetch_sub(&door->inside, 1), 0);
}

uint32_t spin_ticket_index(uint64_t ticket)
{
    return (uint32_t)ticket;
}

bool spin_door_cancel(struct spin_door *door, uint64_t ticket)
{
    const uint32_t index = spin_ticket_index(ticket);
    if (index >= door->capacity) {
        return false; /* not a ticket of ours */
    }
    uint64_t word = ticket << 1;
    if (!atomic_compare_exchange_strong(&door->places[index].word, &word, word | 1)) {
        return false;
    }
    atomic_store(&door->cancels, 1);
    return true;
}

bool spin_door_take_cancels(struct spin_door *door)
{
    /* The plain load keeps the common case free of a locked instruction. */
    return atomic_load(&door->cancels) != 0 && atomic_exchange(&door->cancels, 0) != 0;
}

bool spin_door_is_cancelled(const struct spin_door *door, uint32_t index)
{
    SPIN_ASSERT_LT(index, door->capacity);
    return (atomic_load(&door->places[index].word) & 1) != 0;
}

void spin_door_leave_queue(struct spin_door *door)
{
    SPIN_ASSERT_GT(atomic_fetch_sub(&door->waiting, 1), 0);
}

void spin_door_release(struct spin_door *door, uint32_t index)
{
    SPIN_ASSERT_LT(index, door->capacity);
    const uint64_t word = atomic_load(&door->places[index].word);
    /* The word's upper 31 bits are the generation. It wraps after 2^31 requests of one place: a
     * ticket kept for that long may cancel a stranger, which is taken. 0 is skipped. */
    uint32_t generation = (uint32_t)(word >> 33) + 1;
    generation = generation >> 31 != 0 ? 1 : generation;
    atomic_store(&door->places[index].word, make_word(generation, index));
    push_place(door, index);
}

void spin_door_close(struct spin_door *door, spin_status status)
{
    SPIN_ASSERT_NE(status, SPIN_OK);
    uint32_t open = SPIN_OK;
    (void)atomic_compare_exchange_strong(&door->status, &open, (uint32_t)status);
}

spin_status spin_door_get_status(const struct spin_door *door)
{
    return (spin_status)atomic_load(&door->status);
}

void spin_door_stop(struct spin_door *door, uint64_t deadline_ns)
{
    spin_door_close(door, SPIN_ERR_SHUTDOWN);
    atomic_store(&door->deadline_ns, deadline_ns);
    atomic_store(&door->stopping, 1); /* after the deadline that it announces */
}

bool spin_door_is_stopping(const struct spin_door *door, uint64_t *out_deadline_ns)
{
    if (atomic_load(&door->stopping) == 0) {
        return false;
    }
    *out_deadline_ns = atomic_load(&door->deadline_ns);
    return true;
}

bool spin_door_is_quiet(const struct spin_door *door)
{
    SPIN_ASSERT_NE(atomic_load(&door->status), SPIN_OK);
    return atomic_load(&door->inside) == 0;
}
