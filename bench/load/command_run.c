#include "base/config.h"
#include "bench/load/command_internal.h"
#include "bench/load/commands.h"

#include <stdio.h>
#include <unistd.h>

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
        SPIN_TRY(spin_load_command_keep(result, runs, err));
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
        status = spin_load_command_write(options, &runs, &err);
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

int spin_bench_run_main(int argc, char *const *argv)
{
    struct spin_load_options options;
    struct spin_config_values *values = NULL;
    struct spin_error err = {0};
    bool exit_now = false;
    char command[SPIN_LOAD_COMMAND_BYTES];
    int code = 0;
    spin_status status = spin_config_load(&spin_load_config_spec, argc, argv, environ, &options,
                                          &values, &exit_now, &err);
    if (status == SPIN_OK && !exit_now) {
        status = spin_load_command_check(&options, &err);
    }
    if (status != SPIN_OK) {
        (void)fprintf(stderr, "spin bench: %s\n", err.text);
        code = SPIN_BENCH_EXIT_WRONG;
    } else if (!exit_now) {
        spin_load_command_join(argc, argv, command);
        code = run_with(&options, command);
    }
    spin_config_values_destroy(values);
    return code;
}
