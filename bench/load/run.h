/* run: one run: a schedule through a driver into a result.
 *
 * Why        What makes a benchmark honest is here: requests go out when they are meant to,
 *            whatever became of those before; nothing that was asked is forgotten, whatever became
 *            of it; and nothing waits for ever.
 *
 *            open loop    [schedule] -- due --> submit ... end
 *                              '--- no room: it waits, and is late
 *            closed loop  [N streams] submit ... end --> submit ...; who failed rests 100 ms
 *
 *            after the last: in flight until drain_ns, then CUT; what waits still is UNSENT
 * Ownership  Borrows everything in the config until destroy.
 * Threading  create, start, destroy: the loop's thread, outside of it. interrupt: from the loop.
 * Units      Nanoseconds.
 * Errors     create: LIMIT (more streams than the driver can have open), NO_MEMORY, EXHAUSTED
 *            (threads). start: NO_MEMORY, LIMIT. What servers do is in the result. */
#pragma once

#include "bench/load/driver.h"
#include "bench/load/schedule.h"

#include <stdio.h>

SPIN_BEGIN_DECLS

struct spin_load_run; /* private to run.c */

struct spin_load_run_config {
    struct spin_loop *loop;
    struct spin_load_driver *driver; /* its `part`, start_ns, context and ended are the run's */
    struct spin_bench_schedule *schedule;
    uint32_t in_flight_max;   /* what the driver can have open */
    uint64_t stall_ns;        /* without a byte: STALLED */
    uint64_t timeout_ns;      /* from sent to end: TIMEOUT */
    uint64_t drain_ns;        /* after the last was due: CUT */
    FILE *progress;           /* NULL: none */
    bool progress_overwrites; /* a terminal: one line, drawn again */
};

SPIN_MUST_USE spin_status spin_load_run_create(const struct spin_load_run_config *config,
                                               struct spin_bench_result *result,
                                               struct spin_load_run **out, struct spin_error *err);
/* Runs the loop until the run is over; fills records, gaps, tokens, errors, generator, end_ns. */
SPIN_MUST_USE spin_status spin_load_run_start(struct spin_load_run *run, struct spin_error *err);
/* Nothing more is sent, what waits is UNSENT, what is in flight is cut; start returns soon. */
void spin_load_run_interrupt(struct spin_load_run *run);
void spin_load_run_destroy(struct spin_load_run *run); /* NULL is allowed */

SPIN_END_DECLS
