/* Which requests options come to: how many, when, which are warm-up, and what is refused. */
#include "bench/load/schedule.h"

#include "base/clock.h"
#include "tests/spin_test.h"

#include <string.h>

#define MS SPIN_NS_PER_MS

struct options { /* as a program has them */
    struct spin_bench_schedule_options schedule;
};

static const struct spin_option rows[] = {SPIN_BENCH_SCHEDULE_ROWS(struct options)};

static spin_status open_with(const char *const *flags, struct spin_bench_schedule **out,
                             struct spin_error *err)
{
    const struct spin_config_spec spec = {.program = "x",
                                          .synopsis = "",
                                          .about = "",
                                          .options = rows,
                                          .option_count = SPIN_ARRAY_COUNT(rows)};
    const char *argv[16] = {"x"};
    char *const no_environment[] = {NULL};
    int argc = 1;
    for (; *flags != NULL; flags++) {
        argv[argc++] = *flags;
    }
    struct options options;
    struct spin_config_values *values = NULL;
    bool exit_now = false;
    char *const *words;
    const char *const *constant = argv;
    memcpy(&words, &constant, sizeof words);
    SPIN_EXPECT_OK(
        spin_config_load(&spec, argc, words, no_environment, &options, &values, &exit_now, err),
        err);
    const spin_status status = spin_bench_schedule_open(&options.schedule, out, err);
    spin_config_values_destroy(values);
    return status;
}

static const struct row {
    const char *flags[8];
    const char *arrival;
    uint32_t requests; /* of an open loop */
    uint32_t warm_up;
    uint64_t end_ns;
} schedules[] = {
    {{"--rate=10", "--arrival=constant", "--duration=2s"}, "constant", 20, 0, 2000 * MS},
    {{"--rate=10", "--arrival=constant", "--duration=2s", "--warm-up=1s"},
     "constant",
     30,
     10,
     3000 * MS},
    {{"--rate=10", "--arrival=constant"}, "constant", 300, 0, 30000 * MS},
    {{"--rate=10", "--arrival=burst:4", "--requests=7"}, "burst:4", 7, 0, UINT64_MAX},
    {{"--rate=10", "--requests=50"}, "poisson", 50, 0, UINT64_MAX},
    {{"--rate=10", "--arrival=constant", "--requests=50", "--duration=1s"},
     "constant",
     10,
     0,
     1000 * MS},
    {{"--concurrency=3", "--requests=5"}, "closed", 5, 5, UINT64_MAX},
};

static void test_schedules(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(schedules); i++) {
        const struct row *row = &schedules[i];
        struct spin_bench_schedule *schedule = NULL;
        struct spin_error err = {0};
        SPIN_EXPECT_OK(open_with(row->flags, &schedule, &err), &err);
        struct spin_bench_arrived arrived;
        uint32_t count = 0;
        uint32_t warm_up = 0;
        uint64_t last_ns = 0;
        while (spin_bench_schedule_next(schedule, &arrived)) {
            assert_int_equal(arrived.index, count);
            assert_true(arrived.at_ns >= last_ns);
            assert_true(arrived.at_ns < row->end_ns);
            last_ns = arrived.at_ns;
            warm_up += arrived.warm_up;
            count++;
        }
        assert_false(spin_bench_schedule_next(schedule, &arrived));
        assert_int_equal(count, row->requests);
        const bool is_closed = spin_bench_schedule_is_closed(schedule);
        assert_int_equal(warm_up, is_closed ? 0 : row->warm_up);
        assert_int_equal(spin_bench_schedule_end_ns(schedule), row->end_ns);
        assert_true(spin_bench_schedule_expected(schedule) >= SPIN_MIN(count, 1024u));
        struct spin_bench_setup setup = {.rate_per_s = 0};
        spin_bench_schedule_describe(schedule, &setup);
        assert_string_equal(setup.arrival, row->arrival);
        assert_string_equal(setup.workload, "chat");
        spin_bench_schedule_close(schedule);
    }
}

static void test_a_closed_loop_has_a_stream(void **state)
{
    (void)state;
    static const char *const flags[] = {"--workload=fixed:5,6", NULL};
    struct spin_bench_schedule *schedule = NULL;
    assert_int_equal(open_with(flags, &schedule, NULL), SPIN_OK);
    assert_true(spin_bench_schedule_is_closed(schedule));
    assert_int_equal(spin_bench_schedule_concurrency(schedule), 1);
    assert_int_equal(spin_bench_schedule_end_ns(schedule), SPIN_BENCH_DURATION_DEFAULT_NS);
    spin_bench_schedule_close(schedule);
    spin_bench_schedule_close(NULL);
}

static void test_wrong_ones(void **state)
{
    (void)state;
    static const struct {
        const char *flags[4];
        const char *says;
    } wrong[] = {
        {{"--arrival=poisson"}, "--rate"},
        {{"--arrival=closed", "--rate=3"}, "--rate"},
        {{"--arrival=trace"}, "no timestamps"},
        {{"--arrival=now"}, "poisson"},
        {{"--workload=longbench"}, "longbench-v2"},
        {{"--slo=ttft"}, "ttft=TIME"},
        {{"--slo=ttft=fast"}, "--slo"},
        {{"--slo=itl=5ms"}, "--slo"},
        {{"--slo=help=1"}, "--slo"},
        {{"--slo=config=x"}, "--slo"},
        {{"--slo=,"}, "--slo"},
        {{"--slo=ttft=1s,ttft=1s,ttft=1s,ttft=1s"}, "--slo"},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(wrong); i++) {
        struct spin_bench_schedule *schedule = NULL;
        struct spin_error err = {0};
        assert_int_equal(open_with(wrong[i].flags, &schedule, &err), SPIN_ERR_INVALID);
        assert_null(schedule);
        assert_non_null(strstr(err.text, wrong[i].says));
    }
}

static void test_slo(void **state)
{
    (void)state;
    struct spin_bench_slo slo = {.e2e_ns = 7};
    assert_int_equal(spin_bench_slo_parse("tpot=50ms,ttft=0.2s", &slo, NULL), SPIN_OK);
    assert_int_equal(slo.ttft_ns, 200 * MS);
    assert_int_equal(slo.tpot_ns, 50 * MS);
    assert_int_equal(slo.e2e_ns, 0);
    assert_int_equal(spin_bench_slo_parse(NULL, &slo, NULL), SPIN_OK);
    assert_int_equal(slo.ttft_ns, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schedules),
        cmocka_unit_test(test_a_closed_loop_has_a_stream),
        cmocka_unit_test(test_wrong_ones),
        cmocka_unit_test(test_slo),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
