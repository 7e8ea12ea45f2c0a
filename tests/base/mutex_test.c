/* Two threads count together, meet at a condition, and a deadline passes. */
#include "base/mutex.h"

#include "base/clock.h"
#include "tests/spin_test.h"

#define ROUNDS 20000

struct shared {
    struct spin_mutex mutex;
    struct spin_cond cond;
    uint64_t count;
    bool open;
};

static void *count_up(void *argument)
{
    struct shared *shared = argument;
    for (int i = 0; i < ROUNDS; i++) {
        spin_mutex_lock(&shared->mutex);
        shared->count++;
        spin_mutex_unlock(&shared->mutex);
    }
    return NULL;
}

static void *wait_for_gate(void *argument)
{
    struct shared *shared = argument;
    spin_mutex_lock(&shared->mutex);
    while (!shared->open) {
        (void)spin_cond_wait(&shared->cond, &shared->mutex, SPIN_NO_DEADLINE);
    }
    shared->count++;
    spin_mutex_unlock(&shared->mutex);
    return NULL;
}

static void init(struct shared *shared)
{
    *shared = (struct shared){.count = 0};
    spin_mutex_init(&shared->mutex);
    spin_cond_init(&shared->cond);
}

static void deinit(struct shared *shared)
{
    spin_cond_deinit(&shared->cond);
    spin_mutex_deinit(&shared->mutex);
}

static void run_two(struct shared *shared, void *(*body)(void *),
                    void (*meanwhile)(struct shared *))
{
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, body, shared), 0);
    }
    if (meanwhile != NULL) {
        meanwhile(shared);
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
}

static void test_excludes(void **state)
{
    (void)state;
    struct shared shared;
    init(&shared);
    run_two(&shared, count_up, NULL);
    assert_int_equal(shared.count, 2 * ROUNDS);
    deinit(&shared);
}

static void open_to_all(struct shared *shared)
{
    spin_mutex_lock(&shared->mutex);
    shared->open = true;
    spin_cond_broadcast(&shared->cond);
    spin_mutex_unlock(&shared->mutex);
}

static void open_to_each(struct shared *shared)
{
    spin_mutex_lock(&shared->mutex);
    shared->open = true;
    spin_cond_signal(&shared->cond);
    spin_cond_signal(&shared->cond);
    spin_mutex_unlock(&shared->mutex);
}

static void test_signal_and_broadcast_wake(void **state)
{
    (void)state;
    struct shared shared;
    init(&shared);
    run_two(&shared, wait_for_gate, open_to_all);
    shared.open = false;
    run_two(&shared, wait_for_gate, open_to_each);
    assert_int_equal(shared.count, 4);
    deinit(&shared);
}

static void test_deadline_passes(void **state)
{
    (void)state;
    struct shared shared;
    init(&shared);
    const uint64_t deadline = spin_now_ns(spin_clock_real()) + 20 * SPIN_NS_PER_MS;
    spin_mutex_lock(&shared.mutex);
    while (spin_cond_wait(&shared.cond, &shared.mutex, deadline)) {
    }
    assert_true(spin_now_ns(spin_clock_real()) >= deadline);
    assert_false(spin_cond_wait(&shared.cond, &shared.mutex, 0)); /* long ago */
    spin_mutex_unlock(&shared.mutex);
    deinit(&shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_excludes),
        cmocka_unit_test(test_signal_and_broadcast_wake),
        cmocka_unit_test(test_deadline_passes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
