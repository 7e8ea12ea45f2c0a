/* process: spin-router from its options to its end: build up, serve, drain, take down.
 *
 * Why        main parses options; everything that has an order (what is created before what, who
 *            stops first) is here in one place.
 * Ownership  Borrows the options, which have been checked, and the values until it returns.
 * Threading  The main thread, which becomes the loop's.
 * Errors     Logged where they are decided; the result is the exit code: 0 after a clean shutdown,
 *            1 otherwise. A second signal during the shutdown ends the process at once. */
#pragma once

#include "router/options.h"

SPIN_BEGIN_DECLS

int spin_router_process_run(const struct spin_router_options *options,
                            const struct spin_config_values *values);

SPIN_END_DECLS
