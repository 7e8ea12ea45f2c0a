/* One thread against what a queue is; then threads, where every message must come once, in the
 * order of its producer, and no sleep may outlast its reason: a lost wake-up hangs the test. */
#include "base/ring.h"

#include "base/clock.h"
#include "tests/spin_test.h"

#include <pthread.h>
#include <sched.h>

static struct spin_ring *make(uint32_t capacity)
{
    struct spin_ring *ring = NULL;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_ring_create(capacity, &ring, &err), &err);
    return ring;
}

static void test_first_in_first_out_and_full(void **state)
{
    (void)state;
    static int messages[8];
    for (uint32_t capacity = 2; capacity <= 8; capacity *= 2) {
        struct spin_ring *ring = make(capacity);
        void *got = NULL;
        for (int lap = 0; lap < 5; lap++) {
            SPIN_EXPECT_STATUS(spin_ring_pop(ring, &got), SPIN_ERR_AGAIN);
            for (uint32_t i = 0; i < capacity; i++) {
                SPIN_EXPECT_STATUS(spin_ring_push(ring, &messages[i]), SPIN_OK);
            }
            SPIN_EXPECT_STATUS(spin_ring_push(ring, &messages[0]), SPIN_ERR_AGAIN);
            for (uint32_t i = 0; i < capacity; i++) {
                SPIN_EXPECT_STATUS(spin_ring_pop(ring, &got), SPIN_OK);
                assert_ptr_equal(got, &messages[i]);
            }
        }
        spin_ring_destroy(ring);
    }
    spin_ring_destroy(NULL);
}

/* The lap border lies at every place of the ring once. */
static void test_stays_in_order_around_the_ring(void **state)
{
    (void)state;
    static int messages[1000];
    struct spin_ring *ring = make(4);
    uint32_t pushed = 0;
    uint32_t popped = 0;
    void *got = NULL;
    while (popped < SPIN_ARRAY_COUNT(messages)) {
        for (int i = 0; i < 3 && pushed < SPIN_ARRAY_COUNT(messages); i++) {
            if (spin_ring_push(ring, &messages[pushed]) == SPIN_OK) {
                pushed++;
            }
        }
        SPIN_EXPECT_STATUS(spin_ring_pop(ring, &got), SPIN_OK);
        assert_ptr_equal(got, &messages[popped++]);
    }
    spin_ring_destroy(ring);
}

static void test_refuses_bad_capacities(void **state)
{
    (void)state;
    static const uint32_t capacities[] = {0, 1, 3, 6, 1000, UINT32_MAX};
    struct spin_ring *ring = NULL;
    struct spin_error err;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(capacities); i++) {
        SPIN_EXPECT_STATUS(spin_ring_create(capacities[i], &ring, &err), SPIN_ERR_INVALID);
        assert_null(ring);
    }
}

#define PRODUCERS 4
#define MESSAGES 5000u

struct message {
    uint32_t producer;
    uint32_t number;
};

struct producer {
    struct spin_ring *ring;
    struct message *messages; /* [MESSAGES] */
};

static void *produce(void *argument)
{
    const struct producer *producer = argument;
    for (uint32_t i = 0; i < MESSAGES; i++) {
        while (spin_ring_push(producer->ring, &producer->messages[i]) != SPIN_OK) {
            (void)sched_yield();
        }
    }
    return NULL;
}

/* Pops until `wanted` messages came; sleeps without a deadline whenever there is none. */
static void consume(struct spin_ring *ring, uint32_t wanted)
{
    uint32_t next[PRODUCERS] = {0};
    for (uint32_t seen = 0; seen < wanted;) {
        void *got = NULL;
        if (spin_ring_pop(ring, &got) != SPIN_OK) {
            spin_ring_wait(ring, SPIN_NO_DEADLINE);
            continue;
        }
        const struct message *message = got;
        assert_int_equal(message->number, next[message->producer]);
        next[message->producer]++;
        seen++;
    }
}

static void test_many_producers(void **state)
{
    (void)state;
    static struct message messages[PRODUCERS][MESSAGES];
    static const uint32_t capacities[] = {2, 64};
    for (uint32_t c = 0; c < SPIN_ARRAY_COUNT(capacities); c++) {
        struct spin_ring *ring = make(capacities[c]);
        struct producer producers[PRODUCERS];
        pthread_t threads[PRODUCERS];
        for (uint32_t p = 0; p < PRODUCERS; p++) {
            for (uint32_t i = 0; i < MESSAGES; i++) {
                messages[p][i] = (struct message){p, i};
            }
            producers[p] = (struct producer){ring, messages[p]};
            assert_int_equal(pthread_create(&threads[p], NULL, produce, &producers[p]), 0);
        }
        consume(ring, PRODUCERS * MESSAGES);
        for (uint32_t p = 0; p < PRODUCERS; p++) {
            assert_int_equal(pthread_join(threads[p], NULL), 0);
        }
        void *got = NULL;
        SPIN_EXPECT_STATUS(spin_ring_pop(ring, &got), SPIN_ERR_AGAIN);
        spin_ring_destroy(ring);
    }
}

#define ROUND_TRIPS 5000u

struct pair {
    struct spin_ring *there;
    struct spin_ring *back;
};

static void *pop_or_sleep(struct spin_ring *ring)
{
    void *got = NULL;
    while (spin_ring_pop(ring, &got) != SPIN_OK) {
        spin_ring_wait(ring, SPIN_NO_DEADLINE);
    }
    return got;
}

static void *send_back(void *argument)
{
    const struct pair *pair = argument;
    for (uint32_t i = 0; i < ROUND_TRIPS; i++) {
        SPIN_EXPECT_STATUS(spin_ring_push(pair->back, pop_or_sleep(pair->there)), SPIN_OK);
    }
    return NULL;
}

/* With one message between them, each side is asleep or about to be when it comes. */
static void test_no_wake_up_is_lost(void **state)
{
    (void)state;
    struct pair pair = {make(2), make(2)};
    pthread_t other;
    static int ball;
    assert_int_equal(pthread_create(&other, NULL, send_back, &pair), 0);
    for (uint32_t i = 0; i < ROUND_TRIPS; i++) {
        SPIN_EXPECT_STATUS(spin_ring_push(pair.there, &ball), SPIN_OK);
        assert_ptr_equal(pop_or_sleep(pair.back), &ball);
    }
    assert_int_equal(pthread_join(other, NULL), 0);
    spin_ring_destroy(pair.there);
    spin_ring_destroy(pair.back);
}

static void *wake_up(void *argument)
{
    struct pair *pair = argument;
    for (uint32_t i = 0; i < ROUND_TRIPS; i++) {
        spin_ring_wake(pair->there);
        (void)pop_or_sleep(pair->back);
    }
    return NULL;
}

/* Wakes without a message, before, during and after the sleep begins. */
static void test_no_wake_is_lost(void **state)
{
    (void)state;
    struct pair pair = {make(2), make(2)};
    pthread_t other;
    static int answer;
    assert_int_equal(pthread_create(&other, NULL, wake_up, &pair), 0);
    for (uint32_t i = 0; i < ROUND_TRIPS; i++) {
        spin_ring_wait(pair.there, SPIN_NO_DEADLINE);
        SPIN_EXPECT_STATUS(spin_ring_push(pair.back, &answer), SPIN_OK);
    }
    assert_int_equal(pthread_join(other, NULL), 0);
    spin_ring_destroy(pair.there);
    spin_ring_destroy(pair.back);
}

static void test_wait_ends_at_the_deadline(void **state)
{
    (void)state;
    struct spin_ring *ring = make(2);
    const uint64_t deadline = spin_now_ns(spin_clock_real()) + 20 * SPIN_NS_PER_MS;
    spin_ring_wait(ring, deadline);
    assert_true(spin_now_ns(spin_clock_real()) >= deadline);
    spin_ring_wait(ring, 0); /* long ago */
    spin_ring_wake(ring);    /* kept for the next wait, which returns at once */
    spin_ring_wait(ring, SPIN_NO_DEADLINE);
    static int message;
    SPIN_EXPECT_STATUS(spin_ring_push(ring, &message), SPIN_OK);
    spin_ring_wait(ring, SPIN_NO_DEADLINE); /* something is there */
    void *got = NULL;
    SPIN_EXPECT_STATUS(spin_ring_pop(ring, &got), SPIN_OK);
    spin_ring_destroy(ring);
}

static void destroy_full(void *argument)
{
    struct spin_ring *ring = argument;
    if (spin_ring_push(ring, argument) == SPIN_OK) {
        spin_ring_destroy(ring);
    }
}

static void test_destroying_messages_is_asserted(void **state)
{
    (void)state;
    struct spin_ring *ring = make(2);
    assert_true(spin_test_dies(destroy_full, ring, "left 1, right 0"));
    spin_ring_destroy(ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_in_first_out_and_full),
        cmocka_unit_test(test_stays_in_order_around_the_ring),
        cmocka_unit_test(test_refuses_bad_capacities),
        cmocka_unit_test(test_many_producers),
        cmocka_unit_test(test_no_wake_up_is_lost),
        cmocka_unit_test(test_no_wake_is_lost),
        cmocka_unit_test(test_wait_ends_at_the_deadline),
        cmocka_unit_test(test_destroying_messages_is_asserted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
