/* source: the requests of a schedule, as a simulated run asks for them.
 *
 * Why        The generator and the simulation take the same words for the same requests
 *            (bench/load/schedule.h); here is what the generator's loop does besides: who waits for
 *            a stream to be free.
 * Kinds      With a rate or a trace a request goes when it is due, or, where concurrency limits how
 *            many may be open, when the first of them has ended after that. In a closed loop every
 *            stream begins at 0 and asks again when it was answered, 100 ms later when it was not;
 *            who asks is due then.
 * Ownership  Borrows the schedule, which is read to its end.
 * Threading  One thread at a time.
 * Units      Nanoseconds since the run's start.
 * Errors     create: NO_MEMORY. */
#pragma once

#include "bench/load/schedule.h"
#include "bench/sim/cluster.h"

SPIN_BEGIN_DECLS

struct spin_sim_requests; /* private to source.c */

SPIN_MUST_USE spin_status spin_sim_requests_create(struct spin_bench_schedule *schedule,
                                                   struct spin_sim_requests **out,
                                                   struct spin_error *err);
void spin_sim_requests_destroy(struct spin_sim_requests *requests); /* NULL is allowed */
struct spin_sim_source spin_sim_requests_source(struct spin_sim_requests *requests);

SPIN_END_DECLS
