/* commands: what `spin` can do; one function a command.
 *
 * Why        main only picks one.
 * Ownership  Borrow argv.
 * Threading  The main thread.
 * Errors     Exit codes: 0 done, 1 failed (one line on standard error), 2 wrong options,
 *            130 interrupted. argv[0] is the command's name. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

int spin_command_generate(int argc, char *const *argv);
int spin_command_chat(int argc, char *const *argv);
int spin_command_status(int argc, char *const *argv);
/* Becomes spin-bench: its exit codes are bench/load/commands.h's. */
int spin_command_bench(int argc, char *const *argv);

SPIN_END_DECLS
