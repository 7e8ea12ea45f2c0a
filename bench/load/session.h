/* session: a server that answered, and runs against it.
 *
 * Why        One command makes several runs (repeat, sweep): connections, the model's name and
 *            Ctrl-C belong to all of them.
 * Ownership  The session owns loop, driver and connections; options and their strings are borrowed
 *            for its life. Results are the caller's.
 * Threading  The main thread. While a session is open, SIGINT and SIGTERM are its.
 * Units      As result.h.
 * Errors     open: those of url.h, fetch.h and the drivers; the text names the target. run: those
 *            of schedule.h and run.h; what servers do is in the result. */
#pragma once

#include "bench/load/options.h"
#include "bench/load/result.h"

SPIN_BEGIN_DECLS

struct spin_load_session; /* private to session.c */

SPIN_MUST_USE spin_status spin_load_session_open(const struct spin_load_options *options,
                                                 const char *command,
                                                 struct spin_load_session **out,
                                                 struct spin_error *err);
/* One run of `schedule`; result->setup.repeat is `repeat`. */
SPIN_MUST_USE spin_status spin_load_session_run(struct spin_load_session *session,
                                                const struct spin_bench_schedule_options *schedule,
                                                uint32_t repeat, struct spin_bench_result **out,
                                                struct spin_error *err);
/* The user wants to stop: the last run was cut short, and there should be no other. */
bool spin_load_session_is_interrupted(const struct spin_load_session *session);
void spin_load_session_close(struct spin_load_session *session); /* NULL is allowed */

SPIN_END_DECLS
