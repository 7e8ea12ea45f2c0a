/* commands: what spin-bench can do; one function a command.
 *
 * Why        main only picks one.
 * Ownership  Borrow argv; argv[0] is the command's name.
 * Threading  The main thread.
 * Errors     Exit codes: 0 every request was answered, 3 some were not, 1 none was or it could not
 *            be run (one line on standard error), 2 wrong options, 130 interrupted. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

#define SPIN_BENCH_EXIT_FAILED 1
#define SPIN_BENCH_EXIT_WRONG 2
#define SPIN_BENCH_EXIT_SOME_FAILED 3
#define SPIN_BENCH_EXIT_INTERRUPTED 130

/* One workload against one server, --repeat times; prints tables, writes --json and --html. */
int spin_bench_run_main(int argc, char *const *argv);
/* Runs at one rate after another: the highest that holds --slo. 0: there is one, 1: none. */
int spin_bench_sweep_main(int argc, char *const *argv);

SPIN_END_DECLS
