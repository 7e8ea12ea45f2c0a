/* commands: what works on files of runs alone, without a server.
 *
 * Why        spin-bench and spin-sim both offer them; a main only picks one.
 * Ownership  Borrow argv; argv[0] is the command's name.
 * Threading  The main thread.
 * Errors     Exit codes: 0 done, 1 failed (one line on standard error), 2 wrong options. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

/* compare A.json B.json, or A.json... vs B.json...: which side is better, and how surely. */
int spin_bench_compare_main(int argc, char *const *argv);
/* report RUN.json...: tables, and with --html a page. */
int spin_bench_report_main(int argc, char *const *argv);

SPIN_END_DECLS
