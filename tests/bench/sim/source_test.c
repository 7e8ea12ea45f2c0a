/* Method: a driver that answers by a rule instead of a cluster: what is asked, and when, is
 * compared with the schedule's own words. */
#include "bench/sim/source.h"

#include "tests/spin_test.h"

#define MS UINT64_C(1000000)

struct asked {
    struct spin_bench_schedule *schedule;
    struct spin_sim_requests *requests;
    struct spin_sim_source source;
};

static struct asked ask(const struct spin_bench_schedule_options *options)
{
    struct asked asked = {0};
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_bench_schedule_open(options, &asked.schedule, &err), &err);
    SPIN_EXPECT_OK(spin_sim_requests_create(asked.schedule, &asked.requests, &err), &err);
    asked.source = spin_sim_requests_source(asked.requests);
    return asked;
}

static void stop(struct asked *asked)
{
    spin_sim_requests_destroy(asked->requests);
    spin_bench_schedule_close(asked->schedule);
}

static bool take(const struct asked *asked, struct spin_sim_arrival *out)
{
    struct spin_sim_arrival again;
    if (!asked->source.peek(asked->source.context, out)) {
        return false;
    }
    assert_true(asked->source.peek(asked->source.context, &again)); /* the same until popped */
    assert_memory_equal(&again, out, sizeof again);
    asked->source.pop(asked->source.context);
    return true;
}

/* With a rate nobody waits for answers. */
static void test_rate(void **state)
{
    (void)state;
    const struct spin_bench_schedule_options options = {.workload = "fixed:100,20",
                                                        .scale = 1,
                                                        .arrival = "constant",
                                                        .rate_per_s = 10,
                                                        .warm_up_ns = 250 * MS,
                                                        .requests = 5};
    struct asked asked = ask(&options);
    struct spin_sim_arrival arrival;
    for (uint32_t i = 0; i < 5; i++) {
        assert_true(take(&asked, &arrival));
        assert_int_equal(arrival.index, i);
        assert_int_equal(arrival.intended_ns, 100 * MS * i);
        assert_int_equal(arrival.sent_ns, arrival.intended_ns);
        assert_int_equal(arrival.prompt_tokens, 100);
        assert_int_equal(arrival.output_tokens, 20);
        assert_int_equal(arrival.warm_up, i < 3);
    }
    assert_false(take(&asked, &arrival));
    stop(&asked);
}

/* With a rate and a limit, who finds no stream free is late, and due when it was due. */
static void test_rate_with_a_limit(void **state)
{
    (void)state;
    const struct spin_bench_schedule_options options = {.workload = "fixed:1,1",
                                                        .scale = 1,
                                                        .arrival = "constant",
                                                        .rate_per_s = 10,
                                                        .concurrency = 2,
                                                        .requests = 4};
    struct asked asked = ask(&options);
    struct spin_sim_arrival arrival;
    assert_true(take(&asked, &arrival));
    assert_true(take(&asked, &arrival));
    assert_int_equal(arrival.sent_ns, 100 * MS);
    assert_false(take(&asked, &arrival)); /* both streams are busy */
    asked.source.ended(asked.source.context, 730 * MS, true);
    assert_true(take(&asked, &arrival));
    assert_int_equal(arrival.intended_ns, 200 * MS);
    assert_int_equal(arrival.sent_ns, 730 * MS);
    assert_false(take(&asked, &arrival));
    asked.source.ended(asked.source.context, 740 * MS, true);
    assert_true(take(&asked, &arrival));
    assert_int_equal(arrival.intended_ns, 300 * MS);
    assert_int_equal(arrival.sent_ns, 740 * MS);
    stop(&asked);
}

/* Closed: who was answered asks again at that moment, until the time is over. */
static void test_closed(void **state)
{
    (void)state;
    const struct spin_bench_schedule_options options = {.workload = "chat",
                                                        .scale = 1,
                                                        .concurrency = 3,
                                                        .warm_up_ns = 100 * MS,
                                                        .duration_ns = 900 * MS};
    struct asked asked = ask(&options);
    struct spin_sim_arrival arrival;
    for (uint32_t i = 0; i < 3; i++) {
        assert_true(take(&asked, &arrival));
        assert_int_equal(arrival.intended_ns, 0);
        assert_true(arrival.warm_up);
    }
    assert_false(take(&asked, &arrival));
    asked.source.ended(asked.source.context, 40 * MS, true);
    asked.source.ended(asked.source.context, 999 * MS, true);
    asked.source.ended(asked.source.context, 1000 * MS, true);
    assert_true(take(&asked, &arrival));
    assert_int_equal(arrival.intended_ns, 40 * MS);
    assert_int_equal(arrival.index, 3);
    assert_true(arrival.warm_up);
    assert_true(take(&asked, &arrival));
    assert_int_equal(arrival.intended_ns, 999 * MS);
    assert_int_equal(arrival.sent_ns, 999 * MS);
    assert_false(arrival.warm_up);
    assert_false(take(&asked, &arrival)); /* at one second it is over */
    stop(&asked);
}

/* Who is refused at once asks again later, and time goes on. */
static void test_closed_rests(void **state)
{
    (void)state;
    const struct spin_bench_schedule_options options = {
        .workload = "fixed:1,1", .scale = 1, .concurrency = 2, .duration_ns = 250 * MS};
    struct asked asked = ask(&options);
    struct spin_sim_arrival arrival;
    assert_true(take(&asked, &arrival));
    assert_true(take(&asked, &arrival));
    asked.source.ended(asked.source.context, 0, false);
    asked.source.ended(asked.source.context, 30 * MS, true);
    assert_true(take(&asked, &arrival));
    assert_int_equal(arrival.intended_ns, 100 * MS);
    assert_true(take(&asked, &arrival));
    assert_int_equal(arrival.intended_ns, 100 * MS);
    asked.source.ended(asked.source.context, 140 * MS, false);
    asked.source.ended(asked.source.context, 160 * MS, false);
    assert_true(take(&asked, &arrival));
    assert_int_equal(arrival.intended_ns, 240 * MS);
    assert_false(take(&asked, &arrival));
    stop(&asked);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rate),
        cmocka_unit_test(test_rate_with_a_limit),
        cmocka_unit_test(test_closed),
        cmocka_unit_test(test_closed_rests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
