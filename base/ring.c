#include "base/ring.h"

#include "base/assert.h"
#include "base/clock.h"

#include <linux/futex.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Each slot carries the position whose turn it is:
 *
 *     turn == position               free for the producer that claims `position`
 *     turn == position + 1           filled by it, ready for the consumer
 *     turn == position + capacity    taken by the consumer, free for the next lap
 *
 * Positions are 64 bits and never wrap. A producer claims by moving `tail`; it owns the slot from
 * then until it publishes the turn. A producer that stops in between holds back the consumer (order
 * is kept) but no other producer. */
struct slot {
    _Atomic uint64_t turn;
    void *message;
};

/* The consumer's sleep, one futex word:
 *
 *     AWAKE ----wait, nothing there----> ASLEEP ----push, wake----> NOTIFIED ----wait----> AWAKE
 *       \------------------wake (kept for the next wait)----------->/
 */
enum sleep_state { AWAKE, ASLEEP, NOTIFIED };

#define CACHE_LINE_BYTES 64

struct spin_ring {
    uint64_t mask;
    struct slot *slots;
    /* On lines of their own: producers fight for `tail`, the consumer alone moves `head`. */
    _Alignas(CACHE_LINE_BYTES) _Atomic uint64_t tail;
    _Alignas(CACHE_LINE_BYTES) uint64_t head;
    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t sleep;
};

spin_status spin_ring_create(uint32_t capacity, struct spin_ring **out, struct spin_error *err)
{
    /* With one slot, "filled" and "free for the next lap" would be the same turn. */
    if (capacity < 2 || (capacity & (capacity - 1)) != 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "ring capacity %u: not a power of two above 1",
                         capacity);
    }
    struct spin_ring *ring = aligned_alloc(CACHE_LINE_BYTES, sizeof *ring);
    struct slot *slots = calloc(capacity, sizeof *slots);
    if (ring == NULL || slots == NULL) {
        free(ring);
        free(slots);
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "ring of %u messages", capacity);
    }
    *ring = (struct spin_ring){.mask = capacity - 1, .slots = slots};
    for (uint32_t i = 0; i < capacity; i++) {
        atomic_init(&slots[i].turn, i);
    }
    *out = ring;
    return SPIN_OK;
}

void spin_ring_destroy(struct spin_ring *ring)
{
    if (ring != NULL) {
        SPIN_ASSERT_EQ(atomic_load(&ring->tail), ring->head);
        free(ring->slots);
        free(ring);
    }
}

static void futex_wake(_Atomic uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
}

/* Returns when the word is no longer `expected`, at the deadline, or for no reason. */
static void futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
    const struct timespec deadline = {.tv_sec = (time_t)(deadline_ns / SPIN_NS_PER_S),
                                      .tv_nsec = (long)(deadline_ns % SPIN_NS_PER_S)};
    /* WAIT_BITSET takes an absolute time on the monotonic clock; plain WAIT a relative one. */
    (void)syscall(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, expected,
                  deadline_ns == SPIN_NO_DEADLINE ? NULL : &deadline, NULL, FUTEX_BITSET_MATCH_ANY);
}

spin_status spin_ring_push(struct spin_ring *ring, void *message)
{
    SPIN_ASSERT(message != NULL);
    uint64_t position = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    struct slot *slot;
    for (;;) {
        slot = &ring->slots[position & ring->mask];
        /* Pairs with the release in spin_ring_pop: the consumer is done with the slot. */
        const uint64_t turn = atomic_load_explicit(&slot->turn, memory_order_acquire);
        if (turn < position) {
            return SPIN_ERR_AGAIN; /* still holds the message of the lap before */
        }
        if (turn > position) { /* another producer has it; look again */
            position = atomic_load_explicit(&ring->tail, memory_order_relaxed);
        } else if (atomic_compare_exchange_weak_explicit(&ring->tail, &position, position + 1,
                                                         memory_order_relaxed,
                                                         memory_order_relaxed)) {
            break;
        }
    }
    slot->message = message;
    /* This store and the load of `sleep` below against the consumer's store of `sleep` and load of
     * `turn` in spin_ring_wait: all four are sequentially consistent, so one side sees the other
     * and no wake-up is lost. */
    atomic_store(&slot->turn, position + 1);
    uint32_t asleep = ASLEEP;
    if (atomic_load(&ring->sleep) == ASLEEP &&
        atomic_compare_exchange_strong(&ring->sleep, &asleep, NOTIFIED)) {
        futex_wake(&ring->sleep);
    }
    return SPIN_OK;
}

static bool is_ready(struct spin_ring *ring)
{
    return atomic_load(&ring->slots[ring->head & ring->mask].turn) == ring->head + 1;
}

spin_status spin_ring_pop(struct spin_ring *ring, void **message)
{
    struct slot *slot = &ring->slots[ring->head & ring->mask];
    /* Pairs with the store that publishes in spin_ring_push. */
    if (atomic_load_explicit(&slot->turn, memory_order_acquire) != ring->head + 1) {
        return SPIN_ERR_AGAIN;
    }
    *message = slot->message;
    /* Pairs with the acquire in spin_ring_push, one lap later. */
    atomic_store_explicit(&slot->turn, ring->head + ring->mask + 1, memory_order_release);
    ring->head++;
    return SPIN_OK;
}

void spin_ring_wait(struct spin_ring *ring, uint64_t deadline_ns)
{
    uint32_t awake = AWAKE;
    if (!is_ready(ring) && atomic_compare_exchange_strong(&ring->sleep, &awake, ASLEEP)) {
        /* Only after ASLEEP is visible is it safe to find nothing: see spin_ring_push. */
        while (!is_ready(ring) && atomic_load(&ring->sleep) == ASLEEP &&
               spin_now_ns(spin_clock_real()) < deadline_ns) {
            futex_wait(&ring->sleep, ASLEEP, deadline_ns);
        }
    }
    /* An exchange, not a store: it reads NOTIFIED, so what the waker wrote before is seen here. */
    (void)atomic_exchange(&ring->sleep, AWAKE);
}

void spin_ring_wake(struct spin_ring *ring)
{
    if (atomic_exchange(&ring->sleep, NOTIFIED) == ASLEEP) {
        futex_wake(&ring->sleep);
    }
}
