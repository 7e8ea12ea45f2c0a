/* The list of run_file.h, and its file. */
#include "base/assert.h"
#include "base/file.h"
#include "bench/report/run_file.h"

#include <stdlib.h>

spin_status spin_bench_runs_append(struct spin_bench_runs *list, struct spin_bench_summary *summary,
                                   struct spin_error *err)
{
    spin_status status = SPIN_OK;
    if (list->count == SPIN_BENCH_RUNS_MAX) {
        status = spin_fail(err, SPIN_ERR_LIMIT, "more than %u runs", SPIN_BENCH_RUNS_MAX);
        goto fail;
    }
    struct spin_bench_summary **items =
        realloc(list->items, (list->count + UINT64_C(1)) * sizeof(void *));
    if (items == NULL) {
        status = spin_fail(err, SPIN_ERR_NO_MEMORY, "a list of %u runs", list->count + 1);
        goto fail;
    }
    list->items = items;
    list->items[list->count++] = summary;
    return SPIN_OK;
fail:
    spin_bench_summary_destroy(summary);
    return status;
}

void spin_bench_runs_drop(struct spin_bench_runs *list, uint32_t count)
{
    SPIN_ASSERT(count <= list->count);
    for (uint32_t i = 0; i < count; i++) {
        spin_bench_summary_destroy(list->items[--list->count]);
    }
}

void spin_bench_runs_deinit(struct spin_bench_runs *list)
{
    spin_bench_runs_drop(list, list->count);
    free(list->items);
    *list = (struct spin_bench_runs){0};
}

spin_status spin_bench_runs_read(const char *path, struct spin_bench_runs *list,
                                 struct spin_error *err)
{
    char *text = NULL;
    uint64_t bytes = 0;
    SPIN_TRY(spin_file_read(path, SPIN_BENCH_FILE_BYTES_MAX, &text, &bytes, err));
    const spin_status status = spin_bench_runs_parse(text, bytes, path, list, err);
    free(text);
    return status;
}

spin_status spin_bench_runs_write(const char *path, const struct spin_bench_runs *list,
                                  struct spin_error *err)
{
    char *text = NULL;
    SPIN_TRY(spin_bench_runs_text(list, &text, err));
    const spin_status status = spin_file_replace(path, text, err);
    free(text);
    return status;
}
