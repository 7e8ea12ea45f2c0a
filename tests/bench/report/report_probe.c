/* What the Python tests drive: events as lines in, a file of runs out.
 *
 *   report_probe run OUT.json < LINES       one run out of its events
 *   report_probe stats < LINES              "t P DF", "percentile P N VALUE...": a number each
 *   report_probe copy IN.json OUT.json      read and written again
 *   report_probe refuse FILE...             what the reader says of each
 *   report_probe compare|report ARGS...     the commands themselves */
#include "bench/report/commands.h"
#include "bench/report/run_file.h"
#include "bench/report/stats.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VALUES_MAX 100000u

static int fail(const char *what)
{
    (void)fprintf(stderr, "report_probe: %s\n", what);
    return 1;
}

static uint64_t next_u64(char **at)
{
    return strtoull(*at, at, 10);
}

/* A line is a word and numbers; setup is "set label TEXT" or "set workload TEXT". */
static spin_status take_line(struct spin_bench_result *result, char *line, struct spin_error *err)
{
    char *at = line + strcspn(line, " \n");
    const uint64_t word_bytes = (uint64_t)(at - line);
    if (strncmp(line, "request", word_bytes) == 0) {
        struct spin_bench_request request = {.intended_ns = next_u64(&at)};
        request.sent_ns = next_u64(&at);
        request.first_ns = next_u64(&at);
        request.last_ns = next_u64(&at);
        request.end_ns = next_u64(&at);
        request.index = (uint32_t)next_u64(&at);
        request.prompt_tokens = (uint32_t)next_u64(&at);
        request.output_tokens = (uint32_t)next_u64(&at);
        request.messages = (uint32_t)next_u64(&at);
        request.outcome = (uint8_t)next_u64(&at);
        request.warm_up = next_u64(&at) != 0;
        request.usage = next_u64(&at) != 0;
        return spin_bench_result_add(result, &request, "said <b>so</b> \xff", err);
    }
    if (strncmp(line, "gap", word_bytes) == 0) {
        const uint64_t gap_ns = next_u64(&at);
        spin_histogram_add(&result->itl, gap_ns, next_u64(&at));
    } else if (strncmp(line, "tokens", word_bytes) == 0) {
        const uint64_t at_ns = next_u64(&at);
        spin_bench_result_tokens(result, at_ns, next_u64(&at));
    } else if (strncmp(line, "slo", word_bytes) == 0) {
        result->slo.ttft_ns = next_u64(&at);
        result->slo.tpot_ns = next_u64(&at);
        result->slo.e2e_ns = next_u64(&at);
    } else if (strncmp(line, "end", word_bytes) == 0) {
        result->end_ns = next_u64(&at);
    } else if (strncmp(line, "rate", word_bytes) == 0) {
        result->setup.rate_per_s = strtod(at, &at);
    } else if (strncmp(line, "seed", word_bytes) == 0) {
        result->setup.seed = next_u64(&at);
    } else if (strncmp(line, "label", word_bytes) == 0) {
        (void)snprintf(result->setup.label, sizeof result->setup.label, "%.*s",
                       (int)strcspn(at + 1, "\n"), at + 1);
    } else if (strncmp(line, "metric", word_bytes) == 0) {
        const uint64_t when = next_u64(&at);
        return spin_bench_result_metrics(result, when == 0 ? SPIN_BENCH_BEFORE : SPIN_BENCH_AFTER,
                                         at + 1, strlen(at + 1), err);
    } else {
        return spin_fail(err, SPIN_ERR_INVALID, "no such line: %s", line);
    }
    return SPIN_OK;
}

static spin_status take_lines(struct spin_bench_result *result, struct spin_error *err)
{
    char line[4096];
    while (fgets(line, sizeof line, stdin) != NULL) {
        SPIN_TRY(take_line(result, line, err));
    }
    return SPIN_OK;
}

static int run(const char *path)
{
    struct spin_error err = {0};
    struct spin_bench_result *result = NULL;
    struct spin_bench_summary *summary = NULL;
    struct spin_bench_runs list = {0};
    bool good = spin_bench_result_create(1, &result, &err) == SPIN_OK;
    if (good) {
        (void)snprintf(result->setup.generator, sizeof result->setup.generator, "report_probe");
        (void)snprintf(result->setup.workload, sizeof result->setup.workload, "fixed:512,64");
        result->setup.wall_start_ns = UINT64_C(1700000000000000000);
        good = take_lines(result, &err) == SPIN_OK &&
               spin_bench_summary_create(result, &summary, &err) == SPIN_OK &&
               spin_bench_runs_append(&list, summary, &err) == SPIN_OK &&
               spin_bench_runs_write(path, &list, &err) == SPIN_OK;
    }
    spin_bench_runs_deinit(&list);
    spin_bench_result_destroy(result);
    return good ? 0 : fail(err.text);
}

static int stats(void)
{
    static char line[4u << 20];
    static double values[VALUES_MAX];
    while (fgets(line, sizeof line, stdin) != NULL) {
        char *at = line + strcspn(line, " \n");
        const double p = strtod(at, &at);
        if (line[0] == 't') {
            (void)printf("%.17g\n", spin_stats_t_quantile(p, strtod(at, &at)));
            continue;
        }
        const uint64_t count = next_u64(&at);
        if (count == 0 || count > VALUES_MAX) {
            return fail("1 to 100000 values");
        }
        for (uint64_t i = 0; i < count; i++) {
            values[i] = strtod(at, &at);
        }
        spin_stats_sort(values, count);
        (void)printf("%.17g\n", spin_stats_percentile(values, count, p));
    }
    return 0;
}

static int copy(const char *from, const char *to)
{
    struct spin_error err = {0};
    struct spin_bench_runs list = {0};
    const bool good = spin_bench_runs_read(from, &list, &err) == SPIN_OK &&
                      spin_bench_runs_write(to, &list, &err) == SPIN_OK;
    spin_bench_runs_deinit(&list);
    return good ? 0 : fail(err.text);
}

static int refuse(int count, char **paths)
{
    for (int i = 0; i < count; i++) {
        struct spin_error err = {0};
        struct spin_bench_runs list = {0};
        const spin_status status = spin_bench_runs_read(paths[i], &list, &err);
        (void)printf("%s %s\n", status == SPIN_OK ? "OK" : spin_status_name(status), err.text);
        spin_bench_runs_deinit(&list);
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";
    if (strcmp(command, "run") == 0 && argc == 3) {
        return run(argv[2]);
    }
    if (strcmp(command, "stats") == 0) {
        return stats();
    }
    if (strcmp(command, "compare") == 0) {
        return spin_bench_compare_main(argc - 1, argv + 1);
    }
    if (strcmp(command, "report") == 0) {
        return spin_bench_report_main(argc - 1, argv + 1);
    }
    if (strcmp(command, "copy") == 0 && argc == 4) {
        return copy(argv[2], argv[3]);
    }
    if (strcmp(command, "refuse") == 0) {
        return refuse(argc - 2, argv + 2);
    }
    return fail("run OUT.json, stats, copy IN OUT, refuse FILE..., compare or report");
}
