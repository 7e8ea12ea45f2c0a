/* Method: the rules one by one, then four threads that enter and cancel as fast as they can while a
 * fifth releases: every place is somebody's exactly once at a time. */
#include "worker/engine/door.h"

#include "base/ring.h"
#include "tests/spin_test.h"

#include <pthread.h>
#include <stdatomic.h>

static struct spin_door *make_door(uint32_t capacity, uint32_t waiting_max)
{
    struct spin_error err;
    struct spin_door *door = NULL;
    SPIN_EXPECT_OK(spin_door_create(capacity, waiting_max, &door, &err), &err);
    return door;
}

static uint64_t enter(struct spin_door *door)
{
    uint64_t ticket = 0;
    SPIN_EXPECT_OK(spin_door_enter(door, &ticket), NULL);
    spin_door_passed(door);
    return ticket;
}

static void test_bounds(void **state)
{
    (void)state;
    struct spin_door *door = make_door(4, 2);
    uint64_t ticket = 77;
    const uint64_t a = enter(door);
    const uint64_t b = enter(door);
    SPIN_EXPECT_STATUS(spin_door_enter(door, &ticket), SPIN_ERR_EXHAUSTED); /* two wait */
    assert_int_equal(ticket, 77);
    spin_door_leave_queue(door);
    const uint64_t c = enter(door);
    spin_door_leave_queue(door);
    const uint64_t d = enter(door);
    spin_door_leave_queue(door);
    SPIN_EXPECT_STATUS(spin_door_enter(door, &ticket), SPIN_ERR_EXHAUSTED); /* four places */
    spin_door_release(door, spin_ticket_index(b));
    const uint64_t e = enter(door);
    assert_int_equal(spin_ticket_index(e), spin_ticket_index(b));
    assert_true(e != b);
    assert_true(a != c && c != d && a != 0);
    spin_door_leave_queue(door);
    spin_door_leave_queue(door);
    spin_door_destroy(door);
}

static void test_cancel(void **state)
{
    (void)state;
    struct spin_door *door = make_door(2, 2);
    const uint64_t old = enter(door);
    assert_false(spin_door_take_cancels(door));
    assert_true(spin_door_cancel(door, old));
    assert_false(spin_door_cancel(door, old)); /* once */
    assert_true(spin_door_take_cancels(door));
    assert_false(spin_door_take_cancels(door));
    assert_true(spin_door_is_cancelled(door, spin_ticket_index(old)));
    spin_door_leave_queue(door);
    spin_door_release(door, spin_ticket_index(old));
    const uint64_t fresh = enter(door);
    assert_int_equal(spin_ticket_index(fresh), spin_ticket_index(old));
    assert_false(spin_door_is_cancelled(door, spin_ticket_index(fresh)));
    assert_false(spin_door_cancel(door, old)); /* void */
    assert_false(spin_door_cancel(door, 0));
    assert_false(spin_door_cancel(door, UINT64_MAX));
    assert_false(spin_door_is_cancelled(door, spin_ticket_index(fresh)));
    spin_door_leave_queue(door);
    spin_door_destroy(door);
}

static void test_close_and_stop(void **state)
{
    (void)state;
    struct spin_door *door = make_door(2, 2);
    uint64_t ticket = 0;
    uint64_t deadline_ns = 0;
    SPIN_EXPECT_OK(spin_door_enter(door, &ticket), NULL);
    assert_false(spin_door_is_stopping(door, &deadline_ns));
    spin_door_close(door, SPIN_ERR_DEVICE_LOST);
    assert_false(spin_door_is_quiet(door)); /* the one inside */
    spin_door_passed(door);
    assert_true(spin_door_is_quiet(door));
    spin_door_stop(door, 1234);
    assert_true(spin_door_is_stopping(door, &deadline_ns));
    assert_int_equal(deadline_ns, 1234);
    SPIN_EXPECT_STATUS(spin_door_enter(door, &ticket), SPIN_ERR_DEVICE_LOST); /* the first reason */
    assert_true(spin_door_is_quiet(door));
    spin_door_leave_queue(door);
    spin_door_destroy(door);
}

#define THREADS 4
#define ENTRIES 20000u
#define PLACES 7u

struct crowd {
    struct spin_door *door;
    struct spin_ring *ring;
    uint64_t tickets[PLACES];
    _Atomic uint32_t holders[PLACES];
    _Atomic uint32_t refused;
};

static void *crowd_main(void *argument)
{
    struct crowd *crowd = argument;
    for (uint32_t entries = 0; entries < ENTRIES;) {
        uint64_t ticket = 0;
        if (spin_door_enter(crowd->door, &ticket) != SPIN_OK) {
            (void)atomic_fetch_add(&crowd->refused, 1);
            (void)sched_yield();
            continue;
        }
        entries++;
        const uint32_t index = spin_ticket_index(ticket);
        assert_int_equal(atomic_fetch_add(&crowd->holders[index], 1), 0);
        crowd->tickets[index] = ticket; /* plain: the place is ours, then the consumer's */
        SPIN_EXPECT_OK(spin_ring_push(crowd->ring, &crowd->tickets[index]), NULL);
        spin_door_passed(crowd->door);
        (void)spin_door_cancel(crowd->door, ticket); /* may be too late, never somebody else's */
    }
    return NULL;
}

static void test_crowd(void **state)
{
    (void)state;
    struct spin_error err;
    struct crowd *crowd = calloc(1, sizeof *crowd);
    crowd->door = make_door(PLACES, PLACES);
    SPIN_EXPECT_OK(spin_ring_create(8, &crowd->ring, &err), &err);
    pthread_t threads[THREADS];
    for (uint32_t i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, crowd_main, crowd), 0);
    }
    for (uint32_t served = 0; served < THREADS * ENTRIES;) {
        void *message = NULL;
        if (spin_ring_pop(crowd->ring, &message) != SPIN_OK) {
            (void)sched_yield();
            continue;
        }
        served++;
        const uint64_t ticket = *(const uint64_t *)message;
        const uint32_t index = spin_ticket_index(ticket);
        assert_int_equal(atomic_fetch_sub(&crowd->holders[index], 1), 1);
        spin_door_leave_queue(crowd->door);
        spin_door_release(crowd->door, index);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    spin_ring_destroy(crowd->ring);
    spin_door_destroy(crowd->door);
    free(crowd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_close_and_stop),
        cmocka_unit_test(test_crowd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
