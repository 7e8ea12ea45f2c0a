#include "bench/report/commands.h"

#include "base/config.h"
#include "bench/report/page.h"
#include "bench/report/table.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define EXIT_DONE 0
#define EXIT_FAILED 1
#define EXIT_WRONG 2
#define FILES_MAX 256u
#define NO_RANGE .min = 0, .max = -1

struct compare_options {
    double confidence;
    const char *html;
    const char *json;
};

static const struct spin_option compare_rows[] = {
    {.name = "confidence",
     .type = SPIN_OPTION_DOUBLE,
     .offset = offsetof(struct compare_options, confidence),
     .default_value = "0.95",
     .min = 0.5,
     .max = 0.9999,
     .help = "How sure an interval is to hold the true ratio."},
    {.name = "html",
     .type = SPIN_OPTION_STRING,
     .offset = offsetof(struct compare_options, html),
     NO_RANGE,
     .help = "Where to write a page with plots of both sides."},
    {.name = "json",
     .type = SPIN_OPTION_STRING,
     .offset = offsetof(struct compare_options, json),
     NO_RANGE,
     .help = "Where to write the comparison for programs."},
};

static const struct spin_config_spec compare_spec = {
    .program = "spin bench compare",
    .synopsis = "A.json B.json | A.json... vs B.json...",
    .about = "Ratios of B to A, figure by figure, with intervals where both sides have two runs or "
             "more: files written with --repeat, or several files on both sides of \"vs\".",
    .options = compare_rows,
    .option_count = SPIN_ARRAY_COUNT(compare_rows),
    .positional_max = FILES_MAX};

struct report_options {
    const char *html;
    const char *title;
};

static const struct spin_option report_rows[] = {
    {.name = "html",
     .type = SPIN_OPTION_STRING,
     .offset = offsetof(struct report_options, html),
     NO_RANGE,
     .help = "Where to write a page with plots."},
    {.name = "title",
     .type = SPIN_OPTION_STRING,
     .offset = offsetof(struct report_options, title),
     .default_value = "spin bench",
     NO_RANGE,
     .help = "What the page is called."},
};

static const struct spin_config_spec report_spec = {
    .program = "spin bench report",
    .synopsis = "RUN.json...",
    .about = "Prints the runs of files, and draws them: runs of one label as one.",
    .options = report_rows,
    .option_count = SPIN_ARRAY_COUNT(report_rows),
    .positional_max = FILES_MAX};

static int complain(const struct spin_config_spec *spec, const struct spin_error *err, int code)
{
    (void)fprintf(stderr, "%s: %s\n", spec->program, err->text);
    return code;
}

static int written(const struct spin_config_spec *spec)
{
    if (fflush(stdout) != 0 || ferror(stdout) != 0) {
        (void)fprintf(stderr, "%s: cannot write to standard output\n", spec->program);
        return EXIT_FAILED;
    }
    return EXIT_DONE;
}

/* Reads the files [from, to) of the command line. */
static spin_status read_files(const struct spin_config_values *values, uint32_t from, uint32_t to,
                              struct spin_bench_runs *list, struct spin_error *err)
{
    for (uint32_t i = from; i < to; i++) {
        SPIN_TRY(spin_bench_runs_read(spin_config_positional(values, i), list, err));
    }
    return SPIN_OK;
}

/* Where the files of B begin, and how many of the words before are A's. */
static spin_status find_sides(const struct spin_config_values *values, uint32_t *base_end,
                              uint32_t *other_start, struct spin_error *err)
{
    const uint32_t count = spin_config_positional_count(values);
    for (uint32_t i = 0; i < count; i++) {
        if (strcmp(spin_config_positional(values, i), "vs") == 0) {
            *base_end = i;
            *other_start = i + 1;
            return SPIN_OK;
        }
    }
    if (count != 2) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "%u files: give A.json B.json, or the word vs between both sides", count);
    }
    *base_end = 1;
    *other_start = 1;
    return SPIN_OK;
}

/* Both sides in one list, which borrows: the page shows A's runs, then B's. */
static spin_status write_compare_page(const char *path, const struct spin_bench_runs *base,
                                      const struct spin_bench_runs *other,
                                      const struct spin_bench_comparison *comparison,
                                      struct spin_error *err)
{
    struct spin_bench_summary *items[2 * SPIN_BENCH_RUNS_MAX];
    for (uint32_t i = 0; i < base->count; i++) {
        items[i] = base->items[i];
    }
    for (uint32_t i = 0; i < other->count; i++) {
        items[base->count + i] = other->items[i];
    }
    const struct spin_bench_runs all = {items, base->count + other->count};
    const struct spin_bench_page page = {
        .title = "spin bench compare", .runs = &all, .comparison = comparison};
    return spin_bench_page_write(path, &page, err);
}

static spin_status compare_runs(const struct compare_options *options,
                                const struct spin_bench_runs *base,
                                const struct spin_bench_runs *other, struct spin_error *err)
{
    struct spin_bench_comparison comparison;
    SPIN_TRY(spin_bench_compare(base, other, options->confidence, &comparison, err));
    spin_bench_table_compare(&comparison, stdout);
    if (options->json != NULL) {
        SPIN_TRY(spin_bench_comparison_write(options->json, &comparison, err));
    }
    if (options->html != NULL) {
        SPIN_TRY(write_compare_page(options->html, base, other, &comparison, err));
    }
    return SPIN_OK;
}

static spin_status compare_files(const struct compare_options *options,
                                 const struct spin_config_values *values, uint32_t base_end,
                                 uint32_t other_start, struct spin_error *err)
{
    struct spin_bench_runs base = {0};
    struct spin_bench_runs other = {0};
    spin_status status = read_files(values, 0, base_end, &base, err);
    if (status == SPIN_OK) {
        status = read_files(values, other_start, spin_config_positional_count(values), &other, err);
    }
    if (status == SPIN_OK) {
        status = compare_runs(options, &base, &other, err);
    }
    spin_bench_runs_deinit(&base);
    spin_bench_runs_deinit(&other);
    return status;
}

int spin_bench_compare_main(int argc, char *const *argv)
{
    struct compare_options options;
    struct spin_config_values *values = NULL;
    struct spin_error err = {0};
    bool leave = false;
    if (spin_config_load(&compare_spec, argc, argv, environ, &options, &values, &leave, &err) !=
        SPIN_OK) {
        return complain(&compare_spec, &err, EXIT_WRONG);
    }
    int code = EXIT_DONE;
    uint32_t base_end = 0;
    uint32_t other_start = 0;
    if (leave) {
        code = EXIT_DONE;
    } else if (find_sides(values, &base_end, &other_start, &err) != SPIN_OK) {
        code = complain(&compare_spec, &err, EXIT_WRONG);
    } else if (compare_files(&options, values, base_end, other_start, &err) != SPIN_OK) {
        code = complain(&compare_spec, &err, EXIT_FAILED);
    } else {
        code = written(&compare_spec);
    }
    spin_config_values_destroy(values);
    return code;
}

static spin_status report_files(const struct report_options *options,
                                const struct spin_config_values *values,
                                struct spin_bench_runs *list, struct spin_error *err)
{
    SPIN_TRY(read_files(values, 0, spin_config_positional_count(values), list, err));
    for (uint32_t i = 0; i < list->count; i++) {
        spin_bench_table_run(list->items[i], stdout);
        (void)fputs("\n", stdout);
    }
    if (list->count > 1) {
        spin_bench_table_runs(list, stdout);
    }
    if (options->html == NULL) {
        return SPIN_OK;
    }
    const struct spin_bench_page page = {.title = options->title, .runs = list};
    return spin_bench_page_write(options->html, &page, err);
}

int spin_bench_report_main(int argc, char *const *argv)
{
    struct report_options options;
    struct spin_config_values *values = NULL;
    struct spin_error err = {0};
    bool leave = false;
    if (spin_config_load(&report_spec, argc, argv, environ, &options, &values, &leave, &err) !=
        SPIN_OK) {
        return complain(&report_spec, &err, EXIT_WRONG);
    }
    int code = EXIT_DONE;
    struct spin_bench_runs list = {0};
    if (!leave && spin_config_positional_count(values) == 0) {
        (void)spin_fail(&err, SPIN_ERR_INVALID, "no files: give RUN.json...");
        code = complain(&report_spec, &err, EXIT_WRONG);
    } else if (!leave) {
        code = report_files(&options, values, &list, &err) != SPIN_OK
                   ? complain(&report_spec, &err, EXIT_FAILED)
                   : written(&report_spec);
    }
    spin_bench_runs_deinit(&list);
    spin_config_values_destroy(values);
    return code;
}
