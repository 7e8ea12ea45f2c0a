/* Traces as they are published, and every way in which a line can be wrong. */
#include "bench/load/trace.h"

#include "bench/load/workload.h"
#include "tests/spin_test.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static spin_status parse(const char *text, struct spin_bench_trace **out, struct spin_error *err)
{
    return spin_bench_trace_parse("t.jsonl", text, strlen(text), out, err);
}

static const char good[] =
    "{\"timestamp\": 27482, \"input_length\": 6955, \"output_length\": 52, \"hash_ids\": [46, "
    "47]}\n"
    "\n"
    "{\"timestamp\": 27482.5, \"input_length\": 600, \"output_length\": 1, \"other\": null}\r\n"
    "{\"timestamp\": 30482, \"input_length\": 700, \"output_length\": 26, \"hash_ids\": [46]}";

static void test_lines(void **state)
{
    (void)state;
    struct spin_bench_trace *trace = NULL;
    struct spin_error err = {0};
    assert_int_equal(parse(good, &trace, &err), SPIN_OK);
    assert_int_equal(spin_bench_trace_count(trace), 3);
    const struct spin_bench_trace_line *line = spin_bench_trace_line(trace, 0);
    assert_int_equal(line->at_ns, 0);
    assert_int_equal(line->input_tokens, 6955);
    assert_int_equal(line->output_tokens, 52);
    assert_int_equal(line->hash_count, 2);
    assert_int_equal(line->hash_ids[1], 47);
    line = spin_bench_trace_line(trace, 1);
    assert_int_equal(line->at_ns, 500000);
    assert_int_equal(line->hash_count, 0);
    assert_int_equal(spin_bench_trace_line(trace, 2)->at_ns, 3000000000);
    spin_bench_trace_close(trace);
}

static void test_as_a_workload(void **state)
{
    (void)state;
    char path[] = "/tmp/spin_trace_XXXXXX";
    const int file = mkstemp(path);
    assert_true(file >= 0);
    assert_int_equal(write(file, good, sizeof good - 1), sizeof good - 1);
    (void)close(file);
    char name[64];
    (void)snprintf(name, sizeof name, "trace:%s", path);
    const struct spin_bench_workload_config config = {.name = name, .scale = 0.5, .seed = 1};
    struct spin_bench_workload *workload = NULL;
    struct spin_error err = {0};
    assert_int_equal(spin_bench_workload_create(&config, &workload, &err), SPIN_OK);
    assert_int_equal(spin_bench_workload_count(workload), 3);
    assert_true(spin_bench_workload_has_times(workload));
    struct spin_bench_plan plan;
    spin_bench_workload_plan(workload, 2, &plan);
    assert_int_equal(plan.prompt_tokens, 350);
    assert_int_equal(plan.output_tokens, 13);
    assert_int_equal(plan.block_tokens, SPIN_BENCH_TRACE_BLOCK_TOKENS / 2);
    assert_int_equal(plan.blocks[0], 46);
    assert_int_equal(plan.at_ns, 3000000000);
    spin_bench_workload_destroy(workload);
    (void)unlink(path);
}

static void test_wrong_lines(void **state)
{
    (void)state;
    static const char start[] = "{\"timestamp\":5,\"input_length\":1,\"output_length\":1}\n";
    static const struct {
        const char *line;
        const char *says;
    } wrong[] = {
        {"{", "line 2"},
        {"[1]", "JSON object"},
        {"7", "JSON object"},
        {"{\"timestamp\":5,\"timestamp\":6}", "line 2"},
        {"{\"input_length\":1,\"output_length\":1}", "timestamp"},
        {"{\"timestamp\":\"5\",\"input_length\":1,\"output_length\":1}", "timestamp"},
        {"{\"timestamp\":-1,\"input_length\":1,\"output_length\":1}", "timestamp"},
        {"{\"timestamp\":1e13,\"input_length\":1,\"output_length\":1}", "timestamp"},
        {"{\"timestamp\":4,\"input_length\":1,\"output_length\":1}", "before"},
        {"{\"timestamp\":5,\"output_length\":1}", "input_length"},
        {"{\"timestamp\":5,\"input_length\":0,\"output_length\":1}", "input_length"},
        {"{\"timestamp\":5,\"input_length\":1.5,\"output_length\":1}", "input_length"},
        {"{\"timestamp\":5,\"input_length\":1,\"output_length\":4194305}", "output_length"},
        {"{\"timestamp\":5,\"input_length\":1,\"output_length\":1,\"hash_ids\":5}", "hash_ids"},
        {"{\"timestamp\":5,\"input_length\":1,\"output_length\":1,\"hash_ids\":[-1]}", "hash_ids"},
        {"{\"timestamp\":5,\"input_length\":1,\"output_length\":1,\"hash_ids\":[0,\"x\"]}",
         "hash_ids"},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(wrong); i++) {
        char text[512];
        struct spin_bench_trace *trace = NULL;
        struct spin_error err = {0};
        (void)snprintf(text, sizeof text, "%s%s\n", start, wrong[i].line);
        assert_int_equal(parse(text, &trace, &err), SPIN_ERR_INVALID);
        assert_null(trace);
        assert_non_null(strstr(err.text, "line 2"));
        assert_non_null(strstr(err.text, wrong[i].says));
    }
}

static void test_empty_ones(void **state)
{
    (void)state;
    struct spin_bench_trace *trace = NULL;
    struct spin_error err = {0};
    assert_int_equal(parse("", &trace, &err), SPIN_ERR_INVALID);
    assert_int_equal(parse("\n \n", &trace, &err), SPIN_ERR_INVALID);
    assert_non_null(strstr(err.text, "no request"));
    spin_bench_trace_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_as_a_workload),
        cmocka_unit_test(test_wrong_lines),
        cmocka_unit_test(test_empty_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
