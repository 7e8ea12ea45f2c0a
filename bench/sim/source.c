#include "bench/sim/source.h"

#include "base/assert.h"
#include "base/clock.h"

#include <stdlib.h>

#define REST_NS (100 * SPIN_NS_PER_MS) /* as long as a stream of bench/load/run.c */

struct spin_sim_requests {
    struct spin_bench_schedule *schedule;
    bool has_next;
    bool over;
    struct spin_sim_arrival next;
    /* When the streams that are free became so, a ring: requests end in order of time. */
    uint32_t streams;  /* 0: as many as wanted */
    uint64_t *free_ns; /* [streams] */
    uint32_t free_first;
    uint32_t free_count;
    uint64_t last_free_ns; /* of the stream taken last */
};

spin_status spin_sim_requests_create(struct spin_bench_schedule *schedule,
                                     struct spin_sim_requests **out, struct spin_error *err)
{
    struct spin_sim_requests *requests = calloc(1, sizeof *requests);
    if (requests == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "requests: %zu bytes", sizeof *requests);
    }
    requests->schedule = schedule;
    requests->streams = spin_bench_schedule_concurrency(schedule);
    if (spin_bench_schedule_is_closed(schedule)) {
        requests->streams = SPIN_MAX(requests->streams, 1);
    }
    requests->free_count = requests->streams; /* all at 0 */
    requests->free_ns = calloc((size_t)requests->streams + 1, sizeof *requests->free_ns);
    if (requests->free_ns == NULL) {
        const uint32_t streams = requests->streams;
        free(requests);
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "requests: %u streams", streams);
    }
    *out = requests;
    return SPIN_OK;
}

void spin_sim_requests_destroy(struct spin_sim_requests *requests)
{
    if (requests != NULL) {
        free(requests->free_ns);
        free(requests);
    }
}

static uint64_t take_stream(struct spin_sim_requests *requests)
{
    if (requests->streams == 0) {
        return 0;
    }
    const uint64_t at_ns = requests->free_ns[requests->free_first];
    requests->free_first = (requests->free_first + 1) % requests->streams;
    requests->free_count--;
    return at_ns;
}

static void take_next(struct spin_sim_requests *requests)
{
    struct spin_bench_arrived due;
    const bool closed = spin_bench_schedule_is_closed(requests->schedule);
    if (!spin_bench_schedule_next(requests->schedule, &due)) {
        requests->over = true;
        return;
    }
    /* Behind one that rests those that were answered since wait, too: times only grow. */
    const uint64_t own_ns = take_stream(requests);
    const uint64_t free_ns = SPIN_MAX(own_ns, requests->last_free_ns);
    requests->last_free_ns = free_ns;
    const uint64_t intended_ns = closed ? free_ns : due.at_ns;
    if (intended_ns >= spin_bench_schedule_end_ns(requests->schedule)) {
        requests->over = true;
        return;
    }
    struct spin_bench_plan plan;
    spin_bench_workload_plan(spin_bench_schedule_workload(requests->schedule), due.index, &plan);
    requests->has_next = true;
    requests->next = (struct spin_sim_arrival){
        .intended_ns = intended_ns,
        .sent_ns = SPIN_MAX(intended_ns, free_ns),
        .index = due.index,
        .prompt_tokens = plan.prompt_tokens,
        .output_tokens = plan.output_tokens,
        .warm_up = intended_ns < spin_bench_schedule_warm_up_ns(requests->schedule)};
}

static bool peek(void *context, struct spin_sim_arrival *out)
{
    struct spin_sim_requests *requests = context;
    const bool waits = requests->streams != 0 && requests->free_count == 0;
    if (!requests->has_next && !requests->over && !waits) {
        take_next(requests);
    }
    *out = requests->next;
    return requests->has_next;
}

static void pop(void *context)
{
    struct spin_sim_requests *requests = context;
    SPIN_ASSERT(requests->has_next);
    requests->has_next = false;
}

/* In a closed loop who was not answered rests, as with the generator: else who is refused at once
 * would ask for ever, and no time would pass. */
static void ended(void *context, uint64_t at_ns, bool answered)
{
    struct spin_sim_requests *requests = context;
    if (requests->streams != 0) {
        SPIN_ASSERT_LT(requests->free_count, requests->streams);
        const uint32_t last = (requests->free_first + requests->free_count) % requests->streams;
        const bool rests = !answered && spin_bench_schedule_is_closed(requests->schedule);
        requests->free_ns[last] = at_ns + (rests ? REST_NS : 0);
        requests->free_count++;
    }
}

struct spin_sim_source spin_sim_requests_source(struct spin_sim_requests *requests)
{
    return (struct spin_sim_source){.context = requests, .peek = peek, .pop = pop, .ended = ended};
}
