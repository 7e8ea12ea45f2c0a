/* The stream: every thread runs every job once, a barrier separates what is before it from what is
 * after, and both hold when threads had time to fall asleep. Meant to be run with a thread
 * sanitizer. */
#include "tests/kernels/kernel_test.h"

#include <stdatomic.h>
#include <time.h>

#define THREADS_MAX 5u

struct exchange {
    struct spin_stream *stream;
    uint64_t written[THREADS_MAX]; /* plain memory: the barrier must order it */
    uint64_t sums[THREADS_MAX];
    uint64_t round;
};

/* Each thread writes its own word and, after the barrier, adds up everybody's. */
static void exchange_words(void *context, uint32_t thread, uint32_t threads)
{
    struct exchange *exchange = context;
    for (uint64_t phase = 0; phase < 3; phase++) {
        exchange->written[thread] = exchange->round * 10 + phase + thread;
        spin_stream_barrier(exchange->stream);
        uint64_t sum = 0;
        for (uint32_t i = 0; i < threads; i++) {
            sum += exchange->written[i];
        }
        exchange->sums[thread] = sum;
        spin_stream_barrier(exchange->stream);
    }
}

static void sleep_us(long us)
{
    const struct timespec time = {0, us * 1000};
    (void)nanosleep(&time, NULL);
}

static void test_jobs_and_barriers(void **state)
{
    (void)state;
    for (uint32_t threads = 1; threads <= THREADS_MAX; threads++) {
        struct exchange exchange = {.stream = spin_test_stream(threads)};
        assert_int_equal(spin_stream_threads(exchange.stream), threads);
        for (uint64_t round = 0; round < 200; round++) {
            exchange.round = round;
            spin_stream_parallel(exchange.stream, exchange_words, &exchange);
            const uint64_t expected =
                threads * (round * 10 + 2) + (uint64_t)threads * (threads - 1) / 2;
            for (uint32_t i = 0; i < threads; i++) {
                assert_int_equal(exchange.sums[i], expected);
            }
            if (round % 50 == 0) {
                sleep_us(300); /* far beyond the spinning time: the workers sleep */
            }
        }
        spin_stream_destroy(exchange.stream);
    }
}

struct straggler {
    struct spin_stream *stream;
    uint32_t late;
    uint64_t before[THREADS_MAX];
    bool all_seen[THREADS_MAX];
};

/* One thread comes so late that the others sleep at the barrier. */
static void wait_for_straggler(void *context, uint32_t thread, uint32_t threads)
{
    struct straggler *straggler = context;
    if (thread == straggler->late) {
        sleep_us(500);
    }
    straggler->before[thread] = 1;
    spin_stream_barrier(straggler->stream);
    uint64_t seen = 0;
    for (uint32_t i = 0; i < threads; i++) {
        seen += straggler->before[i];
    }
    straggler->all_seen[thread] = seen == threads;
}

static void test_sleeping_at_a_barrier(void **state)
{
    (void)state;
    struct straggler straggler = {.stream = spin_test_stream(3)};
    for (uint32_t late = 0; late < 3; late++) {
        memset(straggler.before, 0, sizeof straggler.before);
        straggler.late = late;
        spin_stream_parallel(straggler.stream, wait_for_straggler, &straggler);
        for (uint32_t i = 0; i < 3; i++) {
            assert_true(straggler.all_seen[i]);
        }
    }
    spin_stream_destroy(straggler.stream);
}

static void test_limits(void **state)
{
    (void)state;
    struct spin_stream *stream = NULL;
    struct spin_error err;
    SPIN_EXPECT_STATUS(spin_stream_create_cpu(0, &stream, &err), SPIN_ERR_INVALID);
    SPIN_EXPECT_STATUS(spin_stream_create_cpu(65, &stream, &err), SPIN_ERR_INVALID);
    assert_non_null(strstr(err.text, "65"));
    assert_null(stream);
    spin_stream_destroy(NULL);
}

typedef spin_status (*alloc_fn)(struct spin_stream *stream, uint64_t bytes, void **out,
                                struct spin_error *err);
typedef void (*free_fn)(struct spin_stream *stream, void *memory);

static void check_memory(alloc_fn alloc, free_fn release)
{
    static const uint64_t sizes[] = {0, 1, 63, 4096, UINT64_C(2) << 20, (UINT64_C(4) << 20) + 1};
    struct spin_stream *stream = spin_test_stream(1);
    struct spin_error err;
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(sizes); i++) {
        void *memory = NULL;
        SPIN_EXPECT_OK(alloc(stream, sizes[i], &memory, &err), &err);
        assert_int_equal((uintptr_t)memory % 64, 0);
        for (uint64_t j = 0; j < sizes[i]; j++) {
            assert_int_equal(((uint8_t *)memory)[j], 0);
        }
        memset(memory, 0xff, sizes[i]); /* what is reused next must be zeroed again */
        release(stream, memory);
    }
    void *memory = NULL;
    SPIN_EXPECT_STATUS(alloc(stream, UINT64_MAX, &memory, &err), SPIN_ERR_NO_MEMORY);
    assert_null(memory);
    release(stream, NULL);
    spin_stream_destroy(stream);
}

static void test_memory_is_zeroed_and_aligned(void **state)
{
    (void)state;
    check_memory(spin_device_alloc, spin_device_free);
    check_memory(spin_host_alloc, spin_host_free);
}

/* Operations are complete when they return, so copies and waits are too. */
static void test_copies_and_waits(void **state)
{
    (void)state;
    struct spin_stream *stream = spin_test_stream(2);
    struct spin_error err;
    void *device = NULL;
    void *host = NULL;
    uint8_t back[301];
    memset(back, 0, sizeof back);
    SPIN_EXPECT_OK(spin_device_alloc(stream, 301, &device, &err), &err);
    SPIN_EXPECT_OK(spin_host_alloc(stream, 301, &host, &err), &err);
    for (uint32_t i = 0; i < 301; i++) {
        ((uint8_t *)host)[i] = (uint8_t)(i * 7);
    }
    assert_int_equal(spin_device_write(stream, device, host, 300), SPIN_OK);
    assert_int_equal(spin_device_read(stream, back, device, 301), SPIN_OK);
    assert_memory_equal(back, host, 300);
    assert_int_equal(back[300], 0);
    assert_int_equal(spin_device_write(stream, NULL, NULL, 0), SPIN_OK);
    assert_int_equal(spin_device_read(stream, NULL, NULL, 0), SPIN_OK);
    assert_int_equal(spin_stream_sync(stream, 0), SPIN_OK);
    spin_device_free(stream, device);
    spin_host_free(stream, host);
    spin_stream_destroy(stream);
}

/* One lane, nothing to record, and device memory is the machine's. */
static void test_what_a_cpu_stream_is(void **state)
{
    (void)state;
    struct spin_stream *stream = spin_test_stream(1);
    assert_string_equal(spin_device_name(stream), "CPU");
    assert_true(spin_device_is_host(stream));
    assert_false(spin_stream_records(stream));
    spin_graph_destroy(stream, NULL);
    uint64_t total = 0;
    const uint64_t available = spin_device_memory(stream, &total);
    assert_in_range(total, UINT64_C(64) << 20, UINT64_C(1) << 50);
    assert_in_range(available, 1, total);
    spin_stream_destroy(stream);
}

static void test_side_lane_keeps_the_order(void **state)
{
    (void)state;
    struct spin_stream *stream = spin_test_stream(2);
    uint8_t words[3] = {1, 0, 0};
    assert_false(spin_stream_has_lanes(stream));
    for (uint32_t round = 0; round < 2; round++) {
        assert_int_equal(spin_stream_side_begin(stream, SPIN_LANE_LATE), SPIN_OK);
        assert_int_equal(spin_device_write(stream, &words[1], &words[0], 1), SPIN_OK);
        assert_int_equal(spin_stream_side_end(stream), SPIN_OK);
        assert_int_equal(words[1], words[0]);
        assert_int_equal(spin_device_write(stream, &words[2], &words[1], 1), SPIN_OK);
        assert_int_equal(spin_stream_side_join(stream, SPIN_LANE_LATE), SPIN_OK);
        assert_int_equal(words[2], words[0]);
        words[0]++;
    }
    spin_stream_destroy(stream);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_jobs_and_barriers),
        cmocka_unit_test(test_sleeping_at_a_barrier),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_memory_is_zeroed_and_aligned),
        cmocka_unit_test(test_copies_and_waits),
        cmocka_unit_test(test_what_a_cpu_stream_is),
        cmocka_unit_test(test_side_lane_keeps_the_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
