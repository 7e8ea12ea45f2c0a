/* The page against text written by hand from the Prometheus exposition format 0.0.4; sums against
 * threads that count at once. */
#include "base/metrics.h"

#include "tests/spin_test.h"

#include <pthread.h>

enum metric { STOPPED, LENGTH, LOAD, SECONDS, QUEUE_FAST, QUEUE_SLOW, METRICS };

static const double second_bounds[] = {0.1, 1, 2.5};
static const double queue_bounds[] = {10};

static const struct spin_metric table[METRICS] = {
    [STOPPED] = {"spin_requests_total", "reason=\"stop\"", SPIN_METRIC_COUNTER,
                 "Requests that ended.", NULL, 0},
    [LENGTH] = {"spin_requests_total", "reason=\"length\"", SPIN_METRIC_COUNTER,
                "Requests that ended.", NULL, 0},
    [LOAD] = {"spin_load_ratio", NULL, SPIN_METRIC_GAUGE, "A \\ and a\nline feed.", NULL, 0},
    [SECONDS] = {"spin_request_seconds", NULL, SPIN_METRIC_HISTOGRAM, "Latency.", second_bounds, 3},
    [QUEUE_FAST] = {"spin_queue_depth", "queue=\"fast\"", SPIN_METRIC_HISTOGRAM, "Depth.",
                    queue_bounds, 1},
    [QUEUE_SLOW] = {"spin_queue_depth", "queue=\"slow\"", SPIN_METRIC_HISTOGRAM, "Depth.",
                    queue_bounds, 1},
};

static struct spin_metrics *make(void)
{
    struct spin_metrics *metrics = NULL;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_metrics_create(table, METRICS, &metrics, &err), &err);
    return metrics;
}

static void fill(struct spin_metrics *metrics)
{
    spin_metrics_add(metrics, STOPPED, 3);
    spin_metrics_add(metrics, LENGTH, UINT64_C(18446744073709551000));
    spin_metrics_set(metrics, LOAD, -0.1);
    static const double seconds[] = {0.1, 0.100001, 1, 2.5, 3, 1e300};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(seconds); i++) {
        spin_metrics_observe(metrics, SECONDS, seconds[i]);
    }
    spin_metrics_observe(metrics, QUEUE_SLOW, 4);
}

static const char golden[] = "# HELP spin_requests_total Requests that ended.\n"
                             "# TYPE spin_requests_total counter\n"
                             "spin_requests_total{reason=\"stop\"} 3\n"
                             "spin_requests_total{reason=\"length\"} 18446744073709551000\n"
                             "# HELP spin_load_ratio A \\\\ and a\\nline feed.\n"
                             "# TYPE spin_load_ratio gauge\n"
                             "spin_load_ratio -0.1\n"
                             "# HELP spin_request_seconds Latency.\n"
                             "# TYPE spin_request_seconds histogram\n"
                             "spin_request_seconds_bucket{le=\"0.1\"} 1\n"
                             "spin_request_seconds_bucket{le=\"1\"} 3\n"
                             "spin_request_seconds_bucket{le=\"2.5\"} 4\n"
                             "spin_request_seconds_bucket{le=\"+Inf\"} 6\n"
                             "spin_request_seconds_sum 1e+300\n"
                             "spin_request_seconds_count 6\n"
                             "# HELP spin_queue_depth Depth.\n"
                             "# TYPE spin_queue_depth histogram\n"
                             "spin_queue_depth_bucket{queue=\"fast\",le=\"10\"} 0\n"
                             "spin_queue_depth_bucket{queue=\"fast\",le=\"+Inf\"} 0\n"
                             "spin_queue_depth_sum{queue=\"fast\"} 0\n"
                             "spin_queue_depth_count{queue=\"fast\"} 0\n"
                             "spin_queue_depth_bucket{queue=\"slow\",le=\"10\"} 1\n"
                             "spin_queue_depth_bucket{queue=\"slow\",le=\"+Inf\"} 1\n"
                             "spin_queue_depth_sum{queue=\"slow\"} 4\n"
                             "spin_queue_depth_count{queue=\"slow\"} 1\n";

static void test_page_is_exact(void **state)
{
    (void)state;
    struct spin_metrics *metrics = make();
    fill(metrics);
    char page[4096];
    assert_int_equal(spin_metrics_render(metrics, NULL, page, sizeof page), sizeof golden - 1);
    assert_string_equal(page, golden);
    spin_metrics_destroy(metrics);
}

static void test_common_labels_come_first(void **state)
{
    (void)state;
    struct spin_metrics *metrics = make();
    char page[8192];
    (void)spin_metrics_render(metrics, "model_name=\"m\",role=\"decode\"", page, sizeof page);
    static const char *const lines[] = {
        "\nspin_requests_total{model_name=\"m\",role=\"decode\",reason=\"stop\"} 0\n",
        "\nspin_load_ratio{model_name=\"m\",role=\"decode\"} 0\n",
        "\nspin_request_seconds_bucket{model_name=\"m\",role=\"decode\",le=\"0.1\"} 0\n",
        "\nspin_queue_depth_bucket{model_name=\"m\",role=\"decode\",queue=\"fast\",le=\"10\"} 0\n",
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(lines); i++) {
        assert_non_null(strstr(page, lines[i]));
    }
    spin_metrics_destroy(metrics);
}

/* Every capacity: the bytes needed stay the same, and what is written is whole lines and zeros. */
static void test_small_buffers_hold_whole_lines(void **state)
{
    (void)state;
    struct spin_metrics *metrics = make();
    fill(metrics);
    char page[sizeof golden + 16];
    assert_int_equal(spin_metrics_render(metrics, NULL, NULL, 0), sizeof golden - 1);
    for (size_t capacity = 1; capacity < sizeof golden; capacity++) {
        memset(page, '#', sizeof page);
        assert_int_equal(spin_metrics_render(metrics, NULL, page, capacity), sizeof golden - 1);
        const size_t written = strnlen(page, capacity);
        assert_memory_equal(page, golden, written);
        assert_true(written == 0 || page[written - 1] == '\n');
        const char *next_end = strchr(golden + written, '\n');
        assert_true(next_end == NULL || (size_t)(next_end + 1 - golden) > capacity);
        for (size_t i = written; i < capacity; i++) {
            assert_int_equal(page[i], 0);
        }
        assert_int_equal(page[capacity], '#');
    }
    spin_metrics_destroy(metrics);
}

static void test_special_values(void **state)
{
    (void)state;
    static const struct {
        double value;
        const char *line;
    } values[] = {
        {(double)INFINITY, "\nspin_load_ratio +Inf\n"},
        {-(double)INFINITY, "\nspin_load_ratio -Inf\n"},
        {(double)NAN, "\nspin_load_ratio NaN\n"},
        {0.1 + 0.2, "\nspin_load_ratio 0.30000000000000004\n"},
        {1e15, "\nspin_load_ratio 1e+15\n"},
        {123456789, "\nspin_load_ratio 123456789\n"},
    };
    struct spin_metrics *metrics = make();
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(values); i++) {
        char page[4096];
        spin_metrics_set(metrics, LOAD, values[i].value);
        (void)spin_metrics_render(metrics, NULL, page, sizeof page);
        assert_non_null(strstr(page, values[i].line));
    }
    spin_metrics_observe(metrics, SECONDS, (double)NAN); /* counted, in no finite bucket */
    assert_true(spin_metrics_read(metrics, SECONDS) == 1);
    spin_metrics_destroy(metrics);
}

#define THREADS 20 /* more than there are shards */
#define ROUNDS 2000

static void *count_up(void *argument)
{
    struct spin_metrics *metrics = argument;
    for (int i = 0; i < ROUNDS; i++) {
        spin_metrics_add(metrics, STOPPED, 2);
        spin_metrics_observe(metrics, SECONDS, 0.5);
        spin_metrics_set(metrics, LOAD, 7);
    }
    return NULL;
}

static void test_threads_lose_nothing(void **state)
{
    (void)state;
    struct spin_metrics *metrics = make();
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, count_up, metrics), 0);
    }
    char page[4096];
    double before = 0;
    for (int i = 0; i < 50; i++) { /* a scrape meanwhile never goes back */
        (void)spin_metrics_render(metrics, NULL, page, sizeof page);
        const double now = spin_metrics_read(metrics, STOPPED);
        assert_true(now >= before);
        before = now;
    }
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    assert_true(spin_metrics_read(metrics, STOPPED) == 2.0 * THREADS * ROUNDS);
    assert_true(spin_metrics_read(metrics, SECONDS) == 1.0 * THREADS * ROUNDS);
    assert_true(spin_metrics_read(metrics, LOAD) == 7);
    (void)spin_metrics_render(metrics, NULL, page, sizeof page);
    assert_non_null(strstr(page, "\nspin_request_seconds_sum 20000\n"));
    spin_metrics_destroy(metrics);
}

static void test_latency_bounds_ascend(void **state)
{
    (void)state;
    assert_true(spin_metric_latency_bounds[0] == 0.001);
    for (uint32_t i = 1; i < SPIN_METRIC_LATENCY_BOUNDS; i++) {
        assert_true(spin_metric_latency_bounds[i - 1] < spin_metric_latency_bounds[i]);
    }
    assert_true(spin_metric_latency_bounds[SPIN_METRIC_LATENCY_BOUNDS - 1] == 600);
}

static void add_to_gauge(void *argument)
{
    spin_metrics_add(argument, LOAD, 1);
}

static void make_from_bad_table(void *argument)
{
    struct spin_metrics *metrics = NULL;
    const spin_status status = spin_metrics_create(argument, 3, &metrics, NULL);
    (void)status;
}

static void test_mistakes_in_our_tables_are_asserted(void **state)
{
    (void)state;
    struct spin_metrics *metrics = make();
    assert_true(spin_test_dies(add_to_gauge, metrics, "table[metric].kind == kind"));
    spin_metrics_destroy(metrics);
    struct spin_metric bad_name[3] = {table[STOPPED], table[LENGTH], table[LOAD]};
    bad_name[2].name = "spin-load";
    assert_true(spin_test_dies(make_from_bad_table, bad_name, "is_name"));
    struct spin_metric apart[3] = {table[STOPPED], table[LOAD], table[LENGTH]};
    assert_true(spin_test_dies(make_from_bad_table, apart, "strcmp(metric->name"));
    struct spin_metric kinds[3] = {table[STOPPED], table[LENGTH], table[LOAD]};
    kinds[1].kind = SPIN_METRIC_GAUGE;
    assert_true(spin_test_dies(make_from_bad_table, kinds, "metric->kind"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_page_is_exact),
        cmocka_unit_test(test_common_labels_come_first),
        cmocka_unit_test(test_small_buffers_hold_whole_lines),
        cmocka_unit_test(test_special_values),
        cmocka_unit_test(test_threads_lose_nothing),
        cmocka_unit_test(test_latency_bounds_ascend),
        cmocka_unit_test(test_mistakes_in_our_tables_are_asserted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
