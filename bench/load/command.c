#include "bench/load/command_internal.h"
#include "bench/report/page.h"
#include "bench/report/table.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The command line for the report, with what is secret left out. */
void spin_load_command_join(int argc, char *const *argv, char out[SPIN_LOAD_COMMAND_BYTES])
{
    static const char key[] = "--api-key";
    bool is_secret = false;
    uint64_t bytes = (uint64_t)snprintf(out, SPIN_LOAD_COMMAND_BYTES, "spin bench");
    for (int i = 1; i < argc && bytes + 1 < SPIN_LOAD_COMMAND_BYTES; i++) {
        const bool has_key = strncmp(argv[i], key, sizeof key - 1) == 0;
        const char *shown = is_secret ? "***" : argv[i];
        shown = has_key && argv[i][sizeof key - 1] == '=' ? "--api-key=***" : shown;
        is_secret = has_key && argv[i][sizeof key - 1] == '\0';
        const int wrote = snprintf(out + bytes, SPIN_LOAD_COMMAND_BYTES - bytes, " %s", shown);
        bytes += wrote < 0 ? 0 : (uint64_t)wrote;
    }
}

/* A summary of the result, which is destroyed, joins the runs. */
spin_status spin_load_command_keep(struct spin_bench_result *result, struct spin_bench_runs *runs,
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

/* A report that cannot be written is to be known before the hours that it is about. */
static spin_status check_folder(const char *option, const char *path, struct spin_error *err)
{
    char folder[PATH_MAX] = ".";
    if (path == NULL) {
        return SPIN_OK;
    }
    const char *slash = strrchr(path, '/');
    const uint64_t bytes = slash == NULL ? 1 : SPIN_MAX((uint64_t)(slash - path), 1u);
    if (bytes < sizeof folder && slash != NULL) {
        (void)snprintf(folder, sizeof folder, "%.*s", (int)bytes, path);
    }
    if (bytes >= sizeof folder || access(folder, W_OK | X_OK) != 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "--%s %.128s: no folder that can be written to",
                         option, path);
    }
    return SPIN_OK;
}

/* What is wrong with a schedule is a wrong option: before anybody is asked anything. */
spin_status spin_load_command_check(const struct spin_load_options *options, struct spin_error *err)
{
    struct spin_bench_schedule *schedule = NULL;
    SPIN_TRY(check_folder("json", options->json, err));
    SPIN_TRY(check_folder("html", options->html, err));
    SPIN_TRY(spin_bench_schedule_open(&options->schedule, &schedule, err));
    spin_bench_schedule_close(schedule);
    return SPIN_OK;
}

spin_status spin_load_command_write(const struct spin_load_options *options,
                                    const struct spin_bench_runs *runs, struct spin_error *err)
{
    if (runs->count > 1) {
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
