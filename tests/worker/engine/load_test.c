/* Method: a writer sets loads whose fields are all functions of one number; readers must never see
 * two numbers in one load. */
#include "worker/engine/load.h"

#include "tests/spin_test.h"

#include <pthread.h>
#include <stdatomic.h>

#define SETS 200000u

struct board_case {
    struct spin_load_board *board;
    _Atomic uint32_t done;
};

static struct spin_engine_load make_load(uint32_t n)
{
    return (struct spin_engine_load){.running = n,
                                     .waiting = n + 1,
                                     .kv_tokens = (uint64_t)n * 3,
                                     .kv_tokens_used = (uint64_t)n * 5,
                                     .queued_prompt_tokens = (uint64_t)n * 7,
                                     .step_ns = (uint64_t)n * 11,
                                     .prefill_tokens_per_s = (double)n * 13,
                                     .preemptions = (uint64_t)n * 17,
                                     .suspensions = (uint64_t)n * 19,
                                     .dense_fallbacks = (uint64_t)n * 23};
}

static void *reader_main(void *argument)
{
    struct board_case *c = argument;
    uint32_t last = 0;
    while (atomic_load(&c->done) == 0) {
        struct spin_engine_load load;
        spin_load_board_get(c->board, &load);
        const struct spin_engine_load wanted = make_load(load.running);
        assert_memory_equal(&load, &wanted, sizeof load);
        assert_true(load.running >= last);
        last = load.running;
    }
    return NULL;
}

static void test_readers_see_whole_loads(void **state)
{
    (void)state;
    struct spin_error err;
    struct board_case c = {0};
    SPIN_EXPECT_OK(spin_load_board_create(&c.board, &err), &err);
    struct spin_engine_load load = make_load(0);
    spin_load_board_set(c.board, &load);
    pthread_t readers[2];
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&readers[i], NULL, reader_main, &c), 0);
    }
    for (uint32_t n = 1; n <= SETS; n++) {
        load = make_load(n);
        spin_load_board_set(c.board, &load);
    }
    atomic_store(&c.done, 1);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(readers[i], NULL), 0);
    }
    spin_load_board_get(c.board, &load);
    assert_int_equal(load.running, SETS);
    spin_load_board_destroy(c.board);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_readers_see_whole_loads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
