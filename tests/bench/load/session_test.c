/* Whole runs against the stub, over HTTP and over gRPC: what is scripted is what is measured, every
 * way of failing is counted under its name with a sentence, and nothing waits longer than it was
 * told to. */
#include "bench/load/session.h"

#include "base/clock.h"
#include "tests/bench/load/stub_thread.h"
#include "tests/spin_test.h"

#include <stdlib.h>
#include <string.h>

#define MS SPIN_NS_PER_MS

struct loaded {
    struct spin_load_options options;
    struct spin_config_values *values;
};

static struct loaded load(const char *target, const char *const *flags)
{
    const char *argv[32] = {"spin bench", "--target", target, "--progress=off"};
    char *const no_environment[] = {NULL};
    struct spin_error err = {0};
    bool exit_now = false;
    int argc = 4;
    for (; *flags != NULL; flags++) {
        argv[argc++] = *flags;
    }
    struct loaded loaded;
    char *const *words;
    const char *const *constant = argv;
    memcpy(&words, &constant, sizeof words);
    SPIN_EXPECT_OK(spin_config_load(&spin_load_config_spec, argc, words, no_environment,
                                    &loaded.options, &loaded.values, &exit_now, &err),
                   &err);
    return loaded;
}

/* One run with these flags; never longer than `limit_ns`. */
static struct spin_bench_result *run(const char *target, const char *const *flags,
                                     uint64_t limit_ns)
{
    struct loaded loaded = load(target, flags);
    struct spin_load_session *session = NULL;
    struct spin_bench_result *result = NULL;
    struct spin_error err = {0};
    const uint64_t start_ns = spin_now_ns(spin_clock_real());
    SPIN_EXPECT_OK(spin_load_session_open(&loaded.options, "test", &session, &err), &err);
    SPIN_EXPECT_OK(spin_load_session_run(session, &loaded.options.schedule, 0, &result, &err),
                   &err);
    spin_load_session_close(session);
    assert_true(spin_now_ns(spin_clock_real()) - start_ns < limit_ns);
    spin_config_values_destroy(loaded.values);
    return result;
}

static uint32_t count(const struct spin_bench_result *result, enum spin_bench_outcome outcome)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < result->requests_count; i++) {
        found += result->requests[i].outcome == outcome;
    }
    return found;
}

static const char *target_of(const struct stub_thread *stub, uint32_t protocol)
{
    return protocol == 0 ? stub->http : stub->grpc;
}

/* --- what is scripted --- */

static int compare_ns(const void *a, const void *b)
{
    const uint64_t *left = a;
    const uint64_t *right = b;
    return (*left > *right) - (*left < *right);
}

/* Never early; how late the median may be is what a loaded machine adds. */
static void assert_moments(uint64_t *values_ns, uint32_t values_count, uint64_t scripted_ns)
{
    qsort(values_ns, values_count, sizeof *values_ns, compare_ns);
    assert_true(values_ns[0] + MS / 10 >= scripted_ns);
    assert_true(values_ns[values_count / 2] < scripted_ns + 150 * MS);
}

static void test_scripted_moments(void **state)
{
    (void)state;
    struct stub_thread *stub = spin_test_stub_start(
        &(struct spin_load_stub_config){.usage = true, .ttft_ns = 100 * MS, .itl_ns = 10 * MS});
    for (uint32_t protocol = 0; protocol < 2; protocol++) {
        static const char *const flags[] = {"--workload=fixed:20,11", "--rate=40",
                                            "--arrival=constant",     "--requests=20",
                                            "--warm-up=100ms",        NULL};
        struct spin_bench_result *result = run(target_of(stub, protocol), flags, 10000 * MS);
        assert_int_equal(result->requests_count, 20);
        assert_int_equal(count(result, SPIN_BENCH_OK), 20);
        uint64_t firsts_ns[20];
        uint64_t lasts_ns[20];
        for (uint32_t i = 0; i < 20; i++) {
            const struct spin_bench_request *request = &result->requests[i];
            assert_int_equal(request->intended_ns, request->index * (25 * MS));
            assert_int_equal(request->warm_up, request->index < 4);
            assert_true(request->sent_ns >= request->intended_ns);
            firsts_ns[i] = request->first_ns - request->intended_ns;
            lasts_ns[i] = request->last_ns - request->intended_ns;
            assert_int_equal(request->messages, 11);
            assert_true(request->usage);
            assert_int_equal(request->prompt_tokens, 20);
            assert_int_equal(request->output_tokens, 11);
            assert_int_equal(request->asked_tokens, 11);
            assert_true(request->end_ns >= request->last_ns);
        }
        assert_moments(firsts_ns, 20, 100 * MS);
        assert_moments(lasts_ns, 20, 200 * MS);
        assert_int_equal(result->itl.count, 16 * 10); /* none of the warm-up */
        assert_string_equal(result->setup.model, "stub");
        assert_string_equal(result->setup.driver, protocol == 0 ? "openai" : "grpc");
        assert_false(result->interrupted);
        spin_bench_result_destroy(result);
    }
    spin_test_stub_stop(stub);
}

static void test_tokens_beyond_messages(void **state)
{
    (void)state;
    struct stub_thread *stub = spin_test_stub_start(&(struct spin_load_stub_config){
        .usage = true, .ttft_ns = 1 * MS, .itl_ns = 1 * MS, .tokens_per_message = 4});
    for (uint32_t protocol = 0; protocol < 2; protocol++) {
        static const char *const flags[] = {"--workload=fixed:5,10", "--concurrency=2",
                                            "--requests=6", "--api=chat", NULL};
        struct spin_bench_result *result = run(target_of(stub, protocol), flags, 10000 * MS);
        assert_int_equal(count(result, SPIN_BENCH_OK), 6);
        uint64_t tokens = 0;
        for (uint32_t i = 0; i < result->timeline.count; i++) {
            tokens += result->timeline.tokens[i];
        }
        assert_int_equal(tokens, 60);
        assert_int_equal(result->itl.count, 6 * 2);
        assert_int_equal(result->requests[0].messages, 3);
        assert_int_equal(result->requests[0].output_tokens, 10);
        assert_string_equal(result->setup.arrival, "closed");
        spin_bench_result_destroy(result);
    }
    spin_test_stub_stop(stub);
}

static void test_without_usage_messages_count(void **state)
{
    (void)state;
    static const char *const flags[] = {"--workload=fixed:5,10", "--requests=3", NULL};
    struct stub_thread *stub =
        spin_test_stub_start(&(struct spin_load_stub_config){.itl_ns = 1 * MS});
    struct spin_bench_result *result = run(stub->http, flags, 10000 * MS);
    assert_int_equal(count(result, SPIN_BENCH_OK), 3);
    assert_false(result->requests[0].usage);
    assert_int_equal(result->requests[0].output_tokens, 10);
    assert_int_equal(result->requests[0].prompt_tokens, 5); /* as planned */
    spin_bench_result_destroy(result);
    spin_test_stub_stop(stub);
}

static void test_metrics_before_and_after(void **state)
{
    (void)state;
    static const char *const flags[] = {"--workload=fixed:5,3", "--requests=7", NULL};
    struct stub_thread *stub =
        spin_test_stub_start(&(struct spin_load_stub_config){.usage = true, .itl_ns = MS});
    struct spin_bench_result *result = run(stub->http, flags, 10000 * MS);
    bool found = false;
    for (uint32_t i = 0; i < result->metrics_count; i++) {
        const struct spin_bench_metric *metric = &result->metrics[i];
        if (strcmp(metric->name, "stub_requests_total") == 0) {
            found = true;
            assert_true(metric->has_before && metric->has_after);
            assert_true(metric->after - metric->before == 7);
        }
    }
    assert_true(found);
    assert_string_equal(result->metrics_note, "");
    spin_bench_result_destroy(result);
    result = run(stub->grpc, flags, 10000 * MS);
    assert_int_equal(result->metrics_count, 0);
    assert_non_null(strstr(result->metrics_note, "--metrics"));
    spin_bench_result_destroy(result);
    spin_test_stub_stop(stub);
}

/* --- coordinated omission --- */

/* The server stands still from 0.5 s to 1.5 s. Requests go out all the same; who was meant to be
 * sent in that second waited for its rest, and its latency says so. */
static void test_a_frozen_server_hides_nothing(void **state)
{
    (void)state;
    static const char *const flags[] = {"--workload=fixed:5,2", "--rate=100", "--arrival=constant",
                                        "--duration=2s", NULL};
    for (uint32_t protocol = 0; protocol < 2; protocol++) {
        struct stub_thread *stub = spin_test_stub_start(&(struct spin_load_stub_config){
            .usage = true, .itl_ns = MS, .freeze_at_ns = 500 * MS, .freeze_ns = 1000 * MS});
        struct spin_bench_result *result = run(target_of(stub, protocol), flags, 20000 * MS);
        assert_int_equal(count(result, SPIN_BENCH_OK), 200);
        double sum_ms = 0;
        uint64_t longest_ns = 0;
        uint32_t sent_at_once = 0;
        for (uint32_t i = 0; i < 200; i++) {
            const struct spin_bench_request *request = &result->requests[i];
            const uint64_t ttft_ns = request->first_ns - request->intended_ns;
            sent_at_once += request->sent_ns - request->intended_ns < 400 * MS;
            sum_ms += 1e-6 * (double)ttft_ns;
            longest_ns = SPIN_MAX(longest_ns, ttft_ns);
        }
        /* 100 requests waited for 0 to 1 s: 50 s in all. A generator that waited with them would
         * have sent one of them, and seen 1 s in all. */
        assert_true(sum_ms > 25000);
        assert_true(longest_ns > 700 * MS);
        assert_true(sent_at_once > 150);
        spin_bench_result_destroy(result);
        spin_test_stub_stop(stub);
    }
}

/* Room for one stream, and the server needs 50 ms each: the schedule of 40 a second is not kept,
 * latencies grow, and the result says whose limit that was. */
static void test_too_few_streams_are_told(void **state)
{
    (void)state;
    static const char *const flags[] = {"--workload=fixed:5,2", "--rate=40",
                                        "--arrival=constant",   "--requests=20",
                                        "--concurrency=1",      NULL};
    struct stub_thread *stub = spin_test_stub_start(
        &(struct spin_load_stub_config){.usage = true, .ttft_ns = 49 * MS, .itl_ns = MS});
    struct spin_bench_result *result = run(stub->http, flags, 20000 * MS);
    const struct spin_bench_request *last = &result->requests[19];
    assert_int_equal(count(result, SPIN_BENCH_OK), 20);
    assert_int_equal(last->index, 19);
    assert_int_equal(last->intended_ns, 19 * (25 * MS));
    assert_true(last->sent_ns - last->intended_ns > 19 * (25 * MS) - 10 * MS);
    assert_true(result->generator.limited);
    assert_non_null(strstr(result->generator.limited_why, "--concurrency"));
    spin_bench_result_destroy(result);
    spin_test_stub_stop(stub);
}

/* --- failures --- */

static const struct failure {
    enum spin_load_fault fault;
    uint32_t after;
    enum spin_bench_outcome outcomes[2]; /* HTTP, gRPC */
    const char *says[2];
} failures[] = {
    {SPIN_LOAD_FAULT_REFUSE, 0, {SPIN_BENCH_SERVER, SPIN_BENCH_SERVER}, {"HTTP 500", "told"}},
    {SPIN_LOAD_FAULT_BUSY, 0, {SPIN_BENCH_BUSY, SPIN_BENCH_BUSY}, {"HTTP 429", "told"}},
    {SPIN_LOAD_FAULT_ERROR, 3, {SPIN_BENCH_SERVER, SPIN_BENCH_SERVER}, {"told", "told"}},
    {SPIN_LOAD_FAULT_CUT, 3, {SPIN_BENCH_BROKEN, SPIN_BENCH_BROKEN}, {"ended", "told"}},
    {SPIN_LOAD_FAULT_CUT, 0, {SPIN_BENCH_BROKEN, SPIN_BENCH_BUSY}, {"ended", "told"}},
    {SPIN_LOAD_FAULT_STALL, 3, {SPIN_BENCH_STALLED, SPIN_BENCH_STALLED}, {"stall", "stall"}},
    {SPIN_LOAD_FAULT_STALL, 0, {SPIN_BENCH_STALLED, SPIN_BENCH_STALLED}, {"stall", "stall"}},
    {SPIN_LOAD_FAULT_GARBAGE, 3, {SPIN_BENCH_PROTOCOL, SPIN_BENCH_PROTOCOL}, {"JSON", "told"}},
    {SPIN_LOAD_FAULT_SHORT, 3, {SPIN_BENCH_BROKEN, SPIN_BENCH_BROKEN}, {"[DONE]", "told"}},
    {SPIN_LOAD_FAULT_EMPTY, 0, {SPIN_BENCH_EMPTY, SPIN_BENCH_EMPTY}, {"token", "token"}},
};

/* Every third of 12 requests fails: 4, and the others do not notice. */
static void test_every_failure_has_its_name(void **state)
{
    (void)state;
    static const char *const flags[] = {"--workload=fixed:8,6", "--rate=200", "--requests=12",
                                        "--stall-timeout=500ms", NULL};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(failures) * 2; i++) {
        const struct failure *failure = &failures[i / 2];
        const uint32_t protocol = i % 2;
        struct stub_thread *stub =
            spin_test_stub_start(&(struct spin_load_stub_config){.usage = true,
                                                                 .ttft_ns = 2 * MS,
                                                                 .itl_ns = 2 * MS,
                                                                 .fault = failure->fault,
                                                                 .fault_every = 3,
                                                                 .fault_after = failure->after});
        struct spin_bench_result *result = run(target_of(stub, protocol), flags, 10000 * MS);
        const enum spin_bench_outcome outcome = failure->outcomes[protocol];
        print_message("fault %u after %u over %s: %s\n", (uint32_t)failure->fault, failure->after,
                      result->setup.driver, result->errors[outcome].first);
        assert_int_equal(result->requests_count, 12);
        assert_int_equal(count(result, outcome), 4);
        assert_int_equal(count(result, SPIN_BENCH_OK), 8);
        assert_int_equal(result->errors[outcome].count, 4);
        assert_non_null(strstr(result->errors[outcome].first, failure->says[protocol]));
        spin_bench_result_destroy(result);
        spin_test_stub_stop(stub);
    }
}

static void test_limits_of_time(void **state)
{
    (void)state;
    static const char *const flags[] = {"--workload=fixed:8,1000", "--rate=100", "--requests=5",
                                        "--timeout=600ms", NULL};
    static const char *const drain[] = {"--workload=fixed:8,1000", "--rate=100", "--duration=50ms",
                                        "--drain-timeout=300ms", NULL};
    struct stub_thread *stub =
        spin_test_stub_start(&(struct spin_load_stub_config){.usage = true, .itl_ns = 20 * MS});
    for (uint32_t protocol = 0; protocol < 2; protocol++) {
        struct spin_bench_result *result = run(target_of(stub, protocol), flags, 5000 * MS);
        assert_int_equal(count(result, SPIN_BENCH_TIMEOUT), 5);
        assert_true(result->requests[0].messages > 5);
        assert_true(result->requests[0].output_tokens == result->requests[0].messages);
        spin_bench_result_destroy(result);
        result = run(target_of(stub, protocol), drain, 5000 * MS);
        assert_true(result->requests_count >= 1);
        assert_int_equal(count(result, SPIN_BENCH_CUT), result->requests_count);
        spin_bench_result_destroy(result);
    }
    spin_test_stub_stop(stub);
}

/* What waits for a stream when the run ends was never sent, and is in the result. */
static void test_waiting_requests_are_not_forgotten(void **state)
{
    (void)state;
    static const char *const flags[] = {"--workload=fixed:8,1000",
                                        "--rate=100",
                                        "--arrival=constant",
                                        "--duration=200ms",
                                        "--concurrency=2",
                                        "--drain-timeout=200ms",
                                        NULL};
    struct stub_thread *stub =
        spin_test_stub_start(&(struct spin_load_stub_config){.usage = true, .itl_ns = 20 * MS});
    struct spin_bench_result *result = run(stub->http, flags, 5000 * MS);
    assert_int_equal(result->requests_count, 20);
    assert_int_equal(count(result, SPIN_BENCH_CUT), 2);
    assert_int_equal(count(result, SPIN_BENCH_UNSENT), 18);
    spin_bench_result_destroy(result);
    spin_test_stub_stop(stub);
}

/* Dies at 0.6 s: those under way break, those after find nobody, and the run goes on to its end. */
static void test_a_server_that_dies(void **state)
{
    (void)state;
    static const char *const flags[] = {"--workload=fixed:8,50", "--rate=50", "--arrival=constant",
                                        "--duration=1500ms", NULL};
    static const char *const closed[] = {"--workload=fixed:8,50", "--concurrency=4",
                                         "--duration=1500ms", NULL};
    for (uint32_t i = 0; i < 2; i++) {
        struct stub_thread *stub = spin_test_stub_start(&(struct spin_load_stub_config){
            .usage = true, .itl_ns = 4 * MS, .die_at_ns = 600 * MS});
        struct spin_bench_result *result = run(stub->http, i == 0 ? flags : closed, 10000 * MS);
        assert_true(count(result, SPIN_BENCH_OK) > 0);
        assert_true(count(result, SPIN_BENCH_BROKEN) > 0);
        assert_true(count(result, SPIN_BENCH_CONNECT) > (i == 0 ? 20 : 8));
        assert_true(i == 0 || count(result, SPIN_BENCH_CONNECT) < 60); /* it rests in between */
        assert_non_null(strstr(result->errors[SPIN_BENCH_CONNECT].first, "refused"));
        spin_bench_result_destroy(result);
        spin_test_stub_stop(stub);
    }
}

static void test_nobody_there(void **state)
{
    (void)state;
    static const char *const flags[] = {"--connect-timeout=500ms", NULL};
    static const struct {
        const char *target;
        const char *says;
    } nobody[] = {
        {"http://127.0.0.1:1", "refused"},
        {"127.0.0.1:1", "no router answers"},
        {"grpc://no.such.host.invalid:80", "no router answers"},
        {"https://127.0.0.1:1", "not encrypted"},
        {"127.0.0.1", "port"},
        {"http://127.0.0.1:1/a b", "base path"},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(nobody); i++) {
        struct loaded loaded = load(nobody[i].target, flags);
        struct spin_load_session *session = NULL;
        struct spin_error err = {0};
        assert_int_not_equal(spin_load_session_open(&loaded.options, "test", &session, &err),
                             SPIN_OK);
        assert_null(session);
        print_message("%s: %s\n", nobody[i].target, err.text);
        assert_non_null(strstr(err.text, nobody[i].says));
        spin_config_values_destroy(loaded.values);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scripted_moments),
        cmocka_unit_test(test_tokens_beyond_messages),
        cmocka_unit_test(test_without_usage_messages_count),
        cmocka_unit_test(test_metrics_before_and_after),
        cmocka_unit_test(test_a_frozen_server_hides_nothing),
        cmocka_unit_test(test_too_few_streams_are_told),
        cmocka_unit_test(test_every_failure_has_its_name),
        cmocka_unit_test(test_limits_of_time),
        cmocka_unit_test(test_waiting_requests_are_not_forgotten),
        cmocka_unit_test(test_a_server_that_dies),
        cmocka_unit_test(test_nobody_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
