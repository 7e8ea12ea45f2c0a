/* process: spin-worker from its options to its end: build up, serve, drain, take down.
 *
 * Why        main parses options; everything that has an order (what is created before what, who
 *            stops first) is here in one place.
 * Ownership  Borrows the options and the values until it returns.
 * Threading  The main thread, with no other thread started yet; it becomes the loop's thread.
 * Errors     Logged where they are decided; the result is the exit code: 0 after a clean shutdown,
 *            1 otherwise. A second signal during the shutdown ends the process at once. When the
 *            device is lost, clients and routers are told, and then it does not return but ends the
 *            process with 1. */
#pragma once

#include "worker/service/options.h"

SPIN_BEGIN_DECLS

int spin_worker_process_run(const struct spin_worker_options *options,
                            const struct spin_config_values *values);

SPIN_END_DECLS
