/* Any bytes as a file of runs: what is taken can be printed, compared with itself and written, and
 * what was written reads back as what was written. */
#include "base/assert.h"
#include "bench/report/compare.h"
#include "bench/report/run_file.h"
#include "bench/report/table.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

static void write_twice(const struct spin_bench_runs *list)
{
    struct spin_error err = {.status = SPIN_OK};
    struct spin_bench_runs again = {0};
    char *first = NULL;
    char *second = NULL;
    SPIN_ASSERT(spin_bench_runs_text(list, &first, &err) == SPIN_OK);
    SPIN_ASSERT(spin_bench_runs_parse(first, strlen(first), "first", &again, &err) == SPIN_OK);
    SPIN_ASSERT(spin_bench_runs_text(&again, &second, &err) == SPIN_OK);
    SPIN_ASSERT(strcmp(first, second) == 0);
    SPIN_ASSERT(strchr(first, '<') == NULL);
    spin_bench_runs_deinit(&again);
    free(first);
    free(second);
}

static void print(const struct spin_bench_runs *list)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    SPIN_ASSERT(out != NULL);
    struct spin_error err = {.status = SPIN_OK};
    struct spin_bench_comparison comparison;
    for (uint32_t i = 0; i < list->count; i++) {
        spin_bench_table_run(list->items[i], out);
    }
    spin_bench_table_runs(list, out);
    if (spin_bench_compare(list, list, 0.95, &comparison, &err) == SPIN_OK) {
        spin_bench_table_compare(&comparison, out);
    }
    (void)fclose(out);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    struct spin_bench_runs list = {0};
    struct spin_error err = {.status = SPIN_OK};
    const spin_status status =
        spin_bench_runs_parse((const char *)bytes, count, "fuzz", &list, &err);
    if (status == SPIN_OK) {
        write_twice(&list);
        print(&list);
    } else {
        SPIN_ASSERT(err.status == status);
        SPIN_ASSERT(err.text[0] != '\0');
    }
    spin_bench_runs_deinit(&list);
    return 0;
}
