#include "base/config.h"
#include "bench/load/commands.h"
#include "bench/load/session.h"
#include "bench/report/page.h"
#include "bench/report/run_file.h"
#include "bench/report/table.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define COMMAND_BYTES 1024u

/* The command line for the report, with what is secret left out. */
static void join_command(int argc, char *const *argv, char out[COMMAND_BYTES])
{
    static const char key[] = "--api-key";
    bool is_secret = false;
    uint64_t bytes = (uint64_t)snprintf(out, COMMAND_BYTES, "spin bench");
    for (int i = 1; i < argc && bytes + 1 < COMMAND_BYTES; i++) {
        const bool has_key = strncmp(argv[i], key, sizeof key - 1) == 0;
        const char *shown = is_secret ? "***" : argv[i];
        shown = has_key && argv[i][sizeof key - 1] == '=' ? "--api-key=***" : shown;
        is_secret = has_key && argv[i][sizeof key - 1] == '\0';
        const int wrote = snprintf(out + bytes, COMMAND_BYTES - bytes, " %s", shown);
        bytes += wrote < 0 ? 0 : (uint64_t)wrote;
    }
}

/* A summary of the result, which is destroyed, joins the runs. */
static spin_status keep(struct spin_bench_result *result, struct spin_bench_runs *runs,
                        struct spin_error *err)
{
    struct spin_bench_summary *summary = NULL;
    const spin_status status = spin_bench_summary_create(result, &summary, err);
    spin_bench_result_destroy(result);
    if (status != SPIN_OK) {
        return status;
    }
    spin_bench_table_run(summary, stdout);
    (void)fflush(stdout);
    return spin_bench_runs_append(runs, summary, err);
}

static spin_status run_all(struct spin_load_session *session,
                           const struct spin_load_options *options, struct spin_bench_runs *runs,
                           struct spin_error *err)
{
    for (uint32_t i = 0; i < options->repeat; i++) {
        struct spin_bench_schedule_options schedule = options->schedule;
        struct spin_bench_result *result = NULL;
        schedule.seed += i;
        if (spin_load_session_is_interrupted(session)) {
            break;
        }
        SPIN_TRY(spin_load_session_run(session, &schedule, i, &result, err));
        SPIN_TRY(keep(result, runs, err));
    }
    return SPIN_OK;
}

static spin_status write_reports(const struct spin_load_options *options,
                                 const struct spin_bench_runs *runs, struct spin_error *err)
{
    if (options->repeat > 1) {
        (void)printf("\n");
        spin_bench_table_runs(runs, stdout);
    }
    if (options->json != NULL) {
        SPIN_TRY(spin_bench_runs_write(options->json, runs, err));
    }
    if (options->html != NULL) {
        const struct spin_bench_page page = {.title = "spin bench", .runs = runs};
        SPIN_TRY(spin_bench_page_write(options->html, &page, err));
    }
    return SPIN_OK;
}

/* Nothing that was asked may pass for answered. */
static int exit_code(const struct spin_bench_runs *runs, bool interrupted)
{
    uint64_t answered = 0;
    uint64_t failed = 0;
    for (uint32_t i = 0; i < runs->count; i++) {
        const struct spin_bench_counts *counts = &runs->items[i]->counts;
        answered += counts->by_outcome[SPIN_BENCH_OK];
        failed += counts->measured - counts->by_outcome[SPIN_BENCH_OK];
    }
    if (interrupted) {
        return SPIN_BENCH_EXIT_INTERRUPTED;
    }
    if (answered == 0) {
        (void)fprintf(stderr, "spin bench: not one request was answered\n");
        return SPIN_BENCH_EXIT_FAILED;
    }
    return failed == 0 ? 0 : SPIN_BENCH_EXIT_SOME_FAILED;
}

static int run_with(const struct spin_load_options *options, const char *command)
{
    struct spin_load_session *session = NULL;
    struct spin_bench_runs runs = {0};
    struct spin_error err = {0};
    spin_status status = spin_load_session_open(options, command, &session, &err);
    if (status == SPIN_OK) {
        status = run_all(session, options, &runs, &err);
    }
    const bool interrupted = session != NULL && spin_load_session_is_interrupted(session);
    spin_load_session_close(session);
    if (status == SPIN_OK) {
        status = write_reports(options, &runs, &err);
    }
    int code = SPIN_BENCH_EXIT_FAILED;
    if (status == SPIN_OK) {
        code = exit_code(&runs, interrupted);
    } else {
        (void)fprintf(stderr, "spin bench: %s\n", err.text);
    }
    spin_bench_runs_deinit(&runs);
    return code;
}

/* What is wrong with a schedule is a wrong option: before anybody is asked anything. */
static spin_status check(const struct spin_load_options *options, struct spin_error *err)
{
    struct spin_bench_schedule *schedule = NULL;
    SPIN_TRY(spin_bench_schedule_open(&options->schedule, &schedule, err));
    spin_bench_schedule_close(schedule);
    return SPIN_OK;
}

int spin_bench_run_main(int argc, char *const *argv)
{
    struct spin_load_options options;
    struct spin_config_values *values = NULL;
    struct spin_error err = {0};
    bool exit_now = false;
    char command[COMMAND_BYTES];
    int code = 0;
    spin_status status = spin_config_load(&spin_load_config_spec, argc, argv, environ, &options,
                                          &values, &exit_now, &err);
    if (status == SPIN_OK && !exit_now) {
        status = check(&options, &err);
    }
    if (status != SPIN_OK) {
        (void)fprintf(stderr, "spin bench: %s\n", err.text);
        code = SPIN_BENCH_EXIT_WRONG;
    } else if (!exit_now) {
        join_command(argc, argv, command);
        code = run_with(&options, command);
    }
    spin_config_values_destroy(values);
    return code;
}
