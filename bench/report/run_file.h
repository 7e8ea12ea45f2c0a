/* run_file: runs in a file of JSON, written and read back.
 *
 * Why        A run outlives its process: it is compared with later ones, drawn, and read by other
 *            programs. docs/bench-schema.md is the contract; a change that a reader of before would
 *            misread raises SPIN_BENCH_FILE_VERSION, and older files stay readable.
 * Ownership  read gives a list that the caller owns; create a text that the caller frees.
 * Threading  Any thread.
 * Units      In the keys.
 * Errors     read: NOT_FOUND, DENIED, IO; LIMIT (bytes, runs, points, samples); CORRUPT: the text
 *            names the file and the key. A key that is not known is passed over. */
#pragma once

#include "bench/report/summary.h"

SPIN_BEGIN_DECLS

#define SPIN_BENCH_FILE_VERSION 1u
#define SPIN_BENCH_FILE_BYTES_MAX (UINT64_C(256) << 20)
#define SPIN_BENCH_RUNS_MAX 1024u /* of a file, and of what is compared or drawn together */

struct spin_bench_runs {
    struct spin_bench_summary **items;
    uint32_t count;
};

/* Appends; *list is zero or what an earlier call made of it. */
SPIN_MUST_USE spin_status spin_bench_runs_read(const char *path, struct spin_bench_runs *list,
                                               struct spin_error *err);
/* The same from memory; `name` is what errors call it. */
SPIN_MUST_USE spin_status spin_bench_runs_parse(const char *text, uint64_t bytes, const char *name,
                                                struct spin_bench_runs *list,
                                                struct spin_error *err);
/* Takes the summary, also when it fails. */
SPIN_MUST_USE spin_status spin_bench_runs_append(struct spin_bench_runs *list,
                                                 struct spin_bench_summary *summary,
                                                 struct spin_error *err);
/* Takes out the last `count` runs. */
void spin_bench_runs_drop(struct spin_bench_runs *list, uint32_t count);
void spin_bench_runs_deinit(struct spin_bench_runs *list); /* zeroed storage is allowed */

/* NUL-terminated; free with free(). It has no '<', so it can stand in a page of HTML. */
SPIN_MUST_USE spin_status spin_bench_runs_text(const struct spin_bench_runs *list, char **out,
                                               struct spin_error *err);
SPIN_MUST_USE spin_status spin_bench_runs_write(const char *path,
                                                const struct spin_bench_runs *list,
                                                struct spin_error *err);

SPIN_END_DECLS
