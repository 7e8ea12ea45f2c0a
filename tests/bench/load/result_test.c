/* Records, time axis, errors and merging of a result; a page of metrics as servers write them, and
 * as no server should. */
#include "bench/load/result.h"

#include "tests/spin_test.h"

static struct spin_bench_result *make_result(void)
{
    struct spin_bench_result *result = NULL;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_bench_result_create(0, &result, &err), &err);
    return result;
}

static void add(struct spin_bench_result *result, enum spin_bench_outcome outcome, uint32_t index,
                const char *error)
{
    const struct spin_bench_request request = {
        .sent_ns = 1, .end_ns = 2, .index = index, .outcome = (uint8_t)outcome};
    struct spin_error err;
    SPIN_EXPECT_OK(spin_bench_result_add(result, &request, error, &err), &err);
}

static void test_records_grow_and_merge(void **state)
{
    (void)state;
    struct spin_bench_result *a = make_result();
    struct spin_bench_result *b = make_result();
    for (uint32_t i = 0; i < 1000; i++) {
        add(i % 3 == 0 ? a : b, SPIN_BENCH_OK, i, NULL);
    }
    add(b, SPIN_BENCH_BUSY, 1000, "first");
    add(b, SPIN_BENCH_BUSY, 1001, "second");
    add(a, SPIN_BENCH_BROKEN, 1002, NULL);
    b->end_ns = 7;
    b->interrupted = true;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_bench_result_merge(a, b, &err), &err);
    assert_int_equal(a->requests_count, 1003);
    bool seen[1003] = {false};
    for (uint32_t i = 0; i < a->requests_count; i++) {
        seen[a->requests[i].index] = true;
    }
    for (uint32_t i = 0; i < 1003; i++) {
        assert_true(seen[i]);
    }
    assert_int_equal(a->errors[SPIN_BENCH_BUSY].count, 2);
    assert_string_equal(a->errors[SPIN_BENCH_BUSY].first, "first");
    assert_int_equal(a->errors[SPIN_BENCH_BROKEN].count, 1);
    assert_string_equal(a->errors[SPIN_BENCH_BROKEN].first, "");
    assert_int_equal(a->errors[SPIN_BENCH_OK].count, 0);
    assert_int_equal(a->end_ns, 7);
    assert_true(a->interrupted);
    spin_bench_result_destroy(a);
    spin_bench_result_destroy(b);
}

static void test_too_many_records(void **state)
{
    (void)state;
    struct spin_bench_result *result = NULL;
    struct spin_error err;
    SPIN_EXPECT_STATUS(spin_bench_result_create(SPIN_BENCH_REQUESTS_MAX + 1, &result, &err),
                       SPIN_ERR_LIMIT);
    assert_null(result);
    result = make_result();
    result->requests_count = SPIN_BENCH_REQUESTS_MAX;
    result->requests_capacity = SPIN_BENCH_REQUESTS_MAX;
    const struct spin_bench_request request = {.outcome = SPIN_BENCH_OK};
    SPIN_EXPECT_STATUS(spin_bench_result_add(result, &request, NULL, &err), SPIN_ERR_LIMIT);
    spin_bench_result_destroy(result);
}

static uint64_t total(const struct spin_bench_timeline *timeline)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < SPIN_BENCH_TIMELINE_POINTS; i++) {
        sum += timeline->tokens[i];
        assert_true(i < timeline->count || timeline->tokens[i] == 0);
    }
    return sum;
}

static void test_time_axis_folds(void **state)
{
    (void)state;
    struct spin_bench_result *result = make_result();
    for (uint64_t i = 0; i < 3000; i++) {
        spin_bench_result_tokens(result, i * SPIN_BENCH_TIMELINE_STEP_NS, i + 1);
    }
    assert_int_equal(result->timeline.step_ns, 4 * SPIN_BENCH_TIMELINE_STEP_NS);
    assert_int_equal(result->timeline.count, 750);
    assert_int_equal(result->timeline.tokens[0], 1 + 2 + 3 + 4);
    assert_int_equal(result->timeline.tokens[749], 2997 + 2998 + 2999 + 3000);
    assert_int_equal(total(&result->timeline), 3000 * 3001 / 2);
    spin_bench_result_tokens(result, UINT64_MAX, 1);
    assert_int_equal(total(&result->timeline), 3000 * 3001 / 2 + 1);
    spin_bench_result_destroy(result);
}

static void test_time_axes_of_two_steps_merge(void **state)
{
    (void)state;
    struct spin_error err;
    struct spin_bench_result *all = make_result();
    struct spin_bench_result *parts[2] = {make_result(), make_result()};
    for (uint64_t i = 0; i < 1500; i++) {
        spin_bench_result_tokens(parts[0], i * SPIN_BENCH_TIMELINE_STEP_NS, 1);
        spin_bench_result_tokens(all, i * SPIN_BENCH_TIMELINE_STEP_NS, 1);
    }
    spin_bench_result_tokens(parts[1], 77 * SPIN_BENCH_TIMELINE_STEP_NS, 5);
    spin_bench_result_tokens(all, 77 * SPIN_BENCH_TIMELINE_STEP_NS, 5);
    /* Both ways round: the finer one is folded, or is taken in as it is. */
    struct spin_bench_result *copy = make_result();
    SPIN_EXPECT_OK(spin_bench_result_merge(copy, parts[1], &err), &err);
    SPIN_EXPECT_OK(spin_bench_result_merge(copy, parts[0], &err), &err);
    assert_memory_equal(&copy->timeline, &all->timeline, sizeof all->timeline);
    SPIN_EXPECT_OK(spin_bench_result_merge(parts[0], parts[1], &err), &err);
    assert_memory_equal(&parts[0]->timeline, &all->timeline, sizeof all->timeline);
    spin_bench_result_destroy(copy);
    spin_bench_result_destroy(parts[0]);
    spin_bench_result_destroy(parts[1]);
    spin_bench_result_destroy(all);
}

static const char before[] = "# HELP spin_requests_total Requests.\n"
                             "# TYPE spin_requests_total counter\n"
                             "spin_requests_total{reason=\"stop\"} 3\n"
                             "spin_requests_total{reason=\"a \\\"}\\\" b\"} 4 1700000000000\n"
                             "spin_ttft_seconds_bucket{le=\"0.1\"} 9\n"
                             "spin_ttft_seconds_bucket 9\n"
                             "spin_ttft_seconds_sum 1.5e-3\r\n"
                             "spin_ttft_seconds_count\t12\n"
                             "only_before 1\n"
                             "not_a_number NaN\n"
                             "no_value\n"
                             "unclosed{a=\"b 1\n"
                             "{} 1\n"
                             "\n"
                             "control{a=\"\001\"} 1\n"
                             "words 1x\n";
static const char after[] = "only_after -2\n"
                            "spin_requests_total{reason=\"stop\"} 10\n"
                            "spin_ttft_seconds_sum 2.5e-3";

static const struct spin_bench_metric *find(const struct spin_bench_result *result,
                                            const char *name)
{
    for (uint32_t i = 0; i < result->metrics_count; i++) {
        if (strcmp(result->metrics[i].name, name) == 0) {
            return &result->metrics[i];
        }
    }
    fail_msg("no metric %s", name);
    return NULL;
}

static void take(struct spin_bench_result *result, enum spin_bench_metrics_when when,
                 const char *page)
{
    struct spin_error err;
    SPIN_EXPECT_OK(spin_bench_result_metrics(result, when, page, strlen(page), &err), &err);
}

static void test_pages_of_metrics(void **state)
{
    (void)state;
    struct spin_bench_result *result = make_result();
    take(result, SPIN_BENCH_BEFORE, before);
    take(result, SPIN_BENCH_AFTER, after);
    assert_int_equal(result->metrics_count, 6);
    const struct spin_bench_metric *stop = find(result, "spin_requests_total{reason=\"stop\"}");
    assert_true(stop->has_before && stop->before == 3 && stop->has_after && stop->after == 10);
    assert_true(find(result, "spin_requests_total{reason=\"a \\\"}\\\" b\"}")->before == 4);
    const struct spin_bench_metric *sum = find(result, "spin_ttft_seconds_sum");
    assert_true(sum->before == 1.5e-3 && sum->after == 2.5e-3);
    assert_true(find(result, "spin_ttft_seconds_count")->before == 12);
    assert_false(find(result, "only_before")->has_after);
    assert_false(find(result, "only_after")->has_before);
    assert_string_equal(result->metrics_note, "");
    spin_bench_result_destroy(result);
}

static void test_metrics_over_limits(void **state)
{
    (void)state;
    struct spin_bench_result *result = make_result();
    char *page = malloc(UINT64_C(64) * (SPIN_BENCH_METRICS_MAX + 10));
    assert_non_null(page);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < SPIN_BENCH_METRICS_MAX + 10; i++) {
        bytes += (uint64_t)snprintf(page + bytes, 64, "metric_%u %u\n", i, i);
    }
    take(result, SPIN_BENCH_BEFORE, page);
    assert_int_equal(result->metrics_count, SPIN_BENCH_METRICS_MAX);
    take(result, SPIN_BENCH_AFTER, "another 1\nmetric_5 6\n");
    assert_int_equal(result->metrics_count, SPIN_BENCH_METRICS_MAX);
    assert_non_null(strstr(result->metrics_note, "only the first"));
    assert_true(find(result, "metric_5")->after == 6);
    spin_bench_result_destroy(result);

    result = make_result();
    memset(page, 'a', 232);
    (void)snprintf(page + 232, 64, " 1\nshort 2\n");
    take(result, SPIN_BENCH_BEFORE, page);
    assert_int_equal(result->metrics_count, 1);
    assert_non_null(strstr(result->metrics_note, "232 bytes"));
    free(page);
    spin_bench_result_destroy(result);
}

static void test_outcomes_have_words(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_BENCH_OUTCOMES; i++) {
        assert_true(strlen(spin_bench_outcome_name((enum spin_bench_outcome)i)) > 1);
        assert_true(strlen(spin_bench_outcome_text((enum spin_bench_outcome)i)) > 1);
    }
    assert_string_equal(spin_bench_outcome_name(SPIN_BENCH_STALLED), "stalled");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records_grow_and_merge),
        cmocka_unit_test(test_too_many_records),
        cmocka_unit_test(test_time_axis_folds),
        cmocka_unit_test(test_time_axes_of_two_steps_merge),
        cmocka_unit_test(test_pages_of_metrics),
        cmocka_unit_test(test_metrics_over_limits),
        cmocka_unit_test(test_outcomes_have_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
