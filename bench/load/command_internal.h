/* command_internal: what the commands that send requests have in common.
 *
 * Why        run and sweep make runs, keep them and write them alike.
 * Ownership  See each function.
 * Threading  The main thread.
 * Errors     Those of schedule.h, run_file.h and page.h. */
#pragma once

#include "bench/load/session.h"
#include "bench/report/run_file.h"

SPIN_BEGIN_DECLS

#define SPIN_LOAD_COMMAND_BYTES 1024u
#define SPIN_LOAD_REPEAT_MAX 100u

/* The command line for the report, with what is secret left out. */
void spin_load_command_join(int argc, char *const *argv, char out[SPIN_LOAD_COMMAND_BYTES]);
/* What is wrong with a schedule is a wrong option: before anybody is asked anything. */
SPIN_MUST_USE spin_status spin_load_command_check(const struct spin_load_options *options,
                                                  struct spin_error *err);
/* Prints a summary of the result, which is destroyed; it joins the runs. */
SPIN_MUST_USE spin_status spin_load_command_keep(struct spin_bench_result *result,
                                                 struct spin_bench_runs *runs,
                                                 struct spin_error *err);
/* A table of several runs, and the files that were asked for. */
SPIN_MUST_USE spin_status spin_load_command_write(const struct spin_load_options *options,
                                                  const struct spin_bench_runs *runs,
                                                  struct spin_error *err);

SPIN_END_DECLS
