/* cluster: a simulated run: requests to a router, the router's policy, workers, a result.
 *
 * Why        "How many workers do I need" is asked before there are any. What decides is the
 *            product's own code, linked: admission and placement (router/policy), the scheduler
 *            (worker/engine); what is simulated is time alone. The result is that of a real run.
 *
 *            source --> admission --> placement --> worker --> tokens --> result
 *               ^         (router/policy)   ^          |          |
 *               |                           +- status -+          |
 *               +------------- closed loop: the next --------------+
 *
 * As real    The router knows of a worker what its last status said, every status_interval_ns, and
 *            what it sent there and got back since. Requests that wait longer than their limit end;
 *            full queues refuse. Not simulated: failures of workers, recoveries, bytes on the wire;
 *            network_ns is added on the way in and on the way back. A worker that refuses gets
 *            nothing before its next status (in reality a pause of about that length).
 * Ownership  Borrows everything until it returns.
 * Threading  One thread; several runs at once do not meet.
 * Units      Nanoseconds since the run's start; tokens. By seed and source alone: the same input
 *            gives the same result, to the last bit.
 * Errors     run: NO_MEMORY; LIMIT, more requests than a result holds; EXHAUSTED, more events than
 *            events_max. What happens to a request is its outcome. */
#pragma once

#include "bench/load/result.h"
#include "bench/sim/worker.h"

SPIN_BEGIN_DECLS

#define SPIN_SIM_WORKERS_MAX 1024u /* what a router has room for: SPIN_MEMBERS_MAX */

struct spin_sim_config {
    const struct spin_sim_engine *engine;
    uint32_t workers;
    uint32_t queue_max; /* these five are the router's options */
    uint32_t tenant_queue_max;
    uint32_t generations_max;
    uint64_t status_interval_ns;
    uint64_t request_timeout_ns;
    uint64_t network_ns; /* one way, client to engine */
    uint64_t events_max; /* arrivals, statuses and visits to workers; 0: SPIN_SIM_EVENTS_MAX */
    uint64_t seed;       /* of the moments at which workers report */
    bool stepwise;       /* every command of a worker is an event: slower, the same result */
};
#define SPIN_SIM_EVENTS_MAX UINT64_C(100000000000)
struct spin_sim_config spin_sim_config_default(const struct spin_sim_engine *engine);

struct spin_sim_arrival {
    uint64_t intended_ns;
    uint64_t sent_ns; /* >= intended_ns; not before those that came earlier */
    uint32_t index;   /* its place in the schedule */
    uint32_t prompt_tokens;
    uint32_t output_tokens;
    bool warm_up;
};

/* Who asks. */
struct spin_sim_source {
    void *context;
    /* The next request, if one is known; false: nobody comes before somebody else has ended, or
     * ever. The same until it is popped. */
    bool (*peek)(void *context, struct spin_sim_arrival *out);
    void (*pop)(void *context);
    /* One that was popped has ended, as its client sees it; answered: to its end. */
    void (*ended)(void *context, uint64_t at_ns, bool answered);
};

struct spin_sim_stats {
    uint64_t events;
    uint64_t statuses;
    uint64_t placements;
    uint64_t refusals;                    /* by workers */
    struct spin_sim_worker_stats workers; /* summed up */
};

SPIN_MUST_USE spin_status spin_sim_run(const struct spin_sim_config *config,
                                       const struct spin_sim_source *source,
                                       struct spin_bench_result *result,
                                       struct spin_sim_stats *out_stats, struct spin_error *err);

SPIN_END_DECLS
