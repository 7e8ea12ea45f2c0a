#include "bench/sim/worker.h"

#include "base/assert.h"
#include "base/clock.h"
#include "kvstore/block/layout.h"

#include <stdlib.h>

/* The engine's moving averages: about the last eight steps (engine_report.c). */
#define AVERAGE_SHARE 0.125

struct spin_sim_worker {
    const struct spin_sim_engine *engine;
    struct spin_sim_sink sink;
    struct spin_scheduler *scheduler;

    uint64_t now_ns; /* when the last command was over, or a submission found it idle */
    uint64_t end_ns; /* busy: of the command at hand */
    bool busy;
    struct spin_command command;
    uint64_t elapsed_ns; /* of the command at hand; a unit without the draw of its token */

    struct spin_sim_request **by_slot; /* [requests_max] */
    uint32_t *free_slots;              /* [requests_max]; the last given back goes first */
    uint32_t free_count;
    struct spin_sim_request **known; /* [requests_max]: from submit to the end, in no order */
    uint32_t known_count;
    struct spin_sim_request **inbox; /* [requests_max]: not taken yet */
    uint32_t inbox_count;
    uint32_t unadmitted;             /* of the known ones */
    struct spin_sim_request **drawn; /* [max_num_seqs]: scratch of a step */

    uint64_t step_ns;
    double prefill_tokens_per_s;
    struct spin_sim_load load; /* as of the last change, if `load_is_new` */
    bool load_is_new;
    struct spin_sim_worker_stats stats;
};

spin_status spin_sim_worker_create(const struct spin_sim_engine *engine,
                                   const struct spin_sim_sink *sink, struct spin_sim_worker **out,
                                   struct spin_error *err)
{
    const uint32_t count = engine->scheduler.requests_max;
    struct spin_sim_worker *worker = calloc(1, sizeof *worker);
    if (worker == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "worker: %zu bytes", sizeof *worker);
    }
    worker->engine = engine;
    worker->sink = *sink;
    worker->by_slot = calloc(count, sizeof(struct spin_sim_request *));
    worker->free_slots = calloc(count, sizeof *worker->free_slots);
    worker->known = calloc(count, sizeof(struct spin_sim_request *));
    worker->inbox = calloc(count, sizeof(struct spin_sim_request *));
    worker->drawn = calloc(engine->scheduler.max_num_seqs, sizeof(struct spin_sim_request *));
    if (worker->by_slot == NULL || worker->free_slots == NULL || worker->known == NULL ||
        worker->inbox == NULL || worker->drawn == NULL) {
        spin_sim_worker_destroy(worker);
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "worker: %u requests", count);
    }
    for (uint32_t i = 0; i < count; i++) {
        worker->free_slots[i] = count - 1 - i;
    }
    worker->free_count = count;
    const spin_status status = spin_scheduler_create(&engine->scheduler, &worker->scheduler, err);
    if (status != SPIN_OK) {
        spin_sim_worker_destroy(worker);
        return status;
    }
    *out = worker;
    return SPIN_OK;
}

void spin_sim_worker_destroy(struct spin_sim_worker *worker)
{
    if (worker == NULL) {
        return;
    }
    spin_scheduler_destroy(worker->scheduler);
    free((void *)worker->by_slot);
    free(worker->free_slots);
    free((void *)worker->known);
    free((void *)worker->inbox);
    free((void *)worker->drawn);
    free(worker);
}

/* --- requests --- */

static void take_inbox(struct spin_sim_worker *worker)
{
    for (uint32_t i = 0; i < worker->inbox_count; i++) {
        const struct spin_sim_request *request = worker->inbox[i];
        const struct spin_scheduler_request submitted = {.index = request->slot,
                                                         .known_tokens = request->prompt_tokens,
                                                         .prompt_tokens = request->prompt_tokens,
                                                         .tokens_max = request->prompt_tokens +
                                                                       request->output_tokens,
                                                         .deadline_ns = request->deadline_ns,
                                                         .replay = worker->engine->replay};
        spin_scheduler_submit(worker->scheduler, &submitted);
    }
    worker->inbox_count = 0;
}

static void admit(struct spin_sim_worker *worker, struct spin_sim_request *request)
{
    if (!request->admitted) {
        SPIN_ASSERT_GT(worker->unadmitted, 0);
        request->admitted = true;
        worker->unadmitted--;
    }
}

static void finish(struct spin_sim_worker *worker, const struct spin_command *command)
{
    struct spin_sim_request *request = worker->by_slot[command->request];
    SPIN_ASSERT(request != NULL);
    admit(worker, request); /* one that was never admitted leaves the queue, too */
    worker->by_slot[request->slot] = NULL;
    worker->free_slots[worker->free_count++] = request->slot;
    struct spin_sim_request *last = worker->known[--worker->known_count];
    last->place = request->place;
    worker->known[last->place] = last;
    worker->sink.finished(worker->sink.context, worker->now_ns, request, command->reason);
}

/* --- commands --- */

static double average(double value, double sample)
{
    return value <= 0 ? sample : value + AVERAGE_SHARE * (sample - value);
}

/* The last unit of all that is known draws a token; one before tokens to replay does not. */
static bool draws(const struct spin_sim_worker *worker, const struct spin_command *command)
{
    const struct spin_sim_request *request = worker->by_slot[command->request];
    return command->unit.layer + 1 == worker->engine->scheduler.grid.layers &&
           command->unit.end == request->prompt_tokens + request->drawn;
}

static uint64_t prefill_ns(struct spin_sim_worker *worker, const struct spin_command *command)
{
    const struct spin_step_times *times = worker->engine->times;
    worker->elapsed_ns = spin_step_times_unit_ns(times, command->unit.begin, command->unit.end);
    worker->stats.units++;
    worker->stats.beyond += command->unit.end > spin_step_times_prompt_max(times);
    return worker->elapsed_ns + (draws(worker, command) ? spin_step_times_first_ns(times) : 0);
}

static uint64_t decode_ns(struct spin_sim_worker *worker, const struct spin_command *command)
{
    const struct spin_step_times *times = worker->engine->times;
    uint64_t context = 0;
    for (uint32_t i = 0; i < command->batch_count; i++) {
        context += (uint64_t)spin_scheduler_computed(worker->scheduler, command->batch[i]) + 1;
    }
    worker->stats.decode_steps++;
    worker->stats.beyond +=
        command->batch_count > spin_step_times_sequences_max(times) ||
        context > (uint64_t)command->batch_count * spin_step_times_context_max(times);
    worker->elapsed_ns = spin_step_times_decode_ns(times, command->batch_count, context);
    return worker->elapsed_ns;
}

static void begin(struct spin_sim_worker *worker, uint64_t takes_ns)
{
    SPIN_ASSERT_GE(takes_ns, 1); /* the table has no zeros: time goes on */
    worker->busy = true;
    worker->end_ns = worker->now_ns + takes_ns;
    worker->stats.commands++;
    worker->stats.busy_ns += worker->end_ns - worker->now_ns;
}

/* What takes no time, up to the next command that does. */
static void run_on(struct spin_sim_worker *worker)
{
    worker->busy = false;
    worker->load_is_new = false;
    take_inbox(worker);
    for (;;) {
        struct spin_command *command = &worker->command;
        spin_scheduler_next(worker->scheduler, worker->now_ns, command);
        switch (command->kind) {
        case SPIN_COMMAND_IDLE:
            return;
        case SPIN_COMMAND_ADMIT:
            admit(worker, worker->by_slot[command->request]);
            break;
        case SPIN_COMMAND_SUSPEND:
        case SPIN_COMMAND_PREEMPT:
            break;
        case SPIN_COMMAND_PREFILL:
            begin(worker, prefill_ns(worker, command));
            return;
        case SPIN_COMMAND_DECODE:
            begin(worker, decode_ns(worker, command));
            return;
        case SPIN_COMMAND_FINISH:
            finish(worker, command);
            break;
        }
    }
}

static void tell_tokens(struct spin_sim_worker *worker, const uint32_t *slots, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        worker->drawn[i] = worker->by_slot[slots[i]];
        worker->drawn[i]->drawn++;
    }
    worker->sink.tokens(worker->sink.context, worker->now_ns, worker->drawn, count);
    for (uint32_t i = 0; i < count; i++) {
        spin_scheduler_token(worker->scheduler, slots[i]);
    }
}

static void end_unit(struct spin_sim_worker *worker)
{
    const struct spin_command *command = &worker->command;
    const double tokens = command->unit.end - command->unit.begin;
    worker->prefill_tokens_per_s = average(worker->prefill_tokens_per_s,
                                           tokens / worker->engine->scheduler.grid.layers *
                                               (double)SPIN_NS_PER_S / (double)worker->elapsed_ns);
    const bool drawn = draws(worker, command);
    const bool done = spin_scheduler_unit_done(worker->scheduler, command->request);
    SPIN_ASSERT(done || !drawn);
    if (drawn) {
        tell_tokens(worker, &command->request, 1);
    }
}

static void end_step(struct spin_sim_worker *worker)
{
    const struct spin_command *command = &worker->command;
    for (uint32_t i = command->draw_count; i < command->batch_count; i++) {
        spin_scheduler_replayed(worker->scheduler, command->batch[i]);
    }
    if (command->draw_count > 0) {
        tell_tokens(worker, command->batch, command->draw_count);
    }
    worker->step_ns = (uint64_t)average((double)worker->step_ns, (double)worker->elapsed_ns);
}

bool spin_sim_worker_advance(struct spin_sim_worker *worker, uint64_t until_ns)
{
    bool changed = false;
    while (worker->busy && worker->end_ns <= until_ns) {
        worker->now_ns = worker->end_ns;
        if (worker->command.kind == SPIN_COMMAND_PREFILL) {
            end_unit(worker);
        } else {
            end_step(worker);
        }
        run_on(worker);
        changed = true;
    }
    return changed;
}

spin_status spin_sim_worker_submit(struct spin_sim_worker *worker, uint64_t now_ns,
                                   struct spin_sim_request *request)
{
    SPIN_ASSERT(!worker->busy || worker->end_ns > now_ns);
    SPIN_ASSERT_GE(request->prompt_tokens, 1);
    SPIN_ASSERT_GE(request->output_tokens, 1);
    SPIN_ASSERT_LE((uint64_t)request->prompt_tokens + request->output_tokens,
                   worker->engine->config.max_model_len);
    if (worker->unadmitted == worker->engine->config.max_waiting || worker->free_count == 0) {
        return SPIN_ERR_EXHAUSTED;
    }
    request->drawn = 0;
    request->admitted = false;
    request->slot = worker->free_slots[--worker->free_count];
    request->place = worker->known_count;
    worker->by_slot[request->slot] = request;
    worker->known[worker->known_count++] = request;
    worker->inbox[worker->inbox_count++] = request;
    worker->unadmitted++;
    if (!worker->busy) {
        worker->now_ns = now_ns;
        run_on(worker);
    }
    return SPIN_OK;
}

/* Whoever needs r tokens more gets one with the command at hand at best, and the others one by one
 * with decode steps, none of which is shorter than the shortest that there is. */
uint64_t spin_sim_worker_next_ns(const struct spin_sim_worker *worker, bool stepwise)
{
    if (!worker->busy || stepwise) {
        return worker->busy ? worker->end_ns : SPIN_NO_DEADLINE;
    }
    uint32_t least = UINT32_MAX;
    uint64_t deadline_ns = SPIN_NO_DEADLINE;
    for (uint32_t i = 0; i < worker->known_count; i++) {
        const struct spin_sim_request *request = worker->known[i];
        least = SPIN_MIN(least, request->output_tokens - request->drawn);
        deadline_ns = SPIN_MIN(deadline_ns, request->deadline_ns);
    }
    SPIN_ASSERT_GE(least, 1);
    const uint64_t steps_ns = (least - 1) * spin_step_times_least_decode_ns(worker->engine->times);
    return SPIN_MIN(worker->end_ns + steps_ns, SPIN_MAX(deadline_ns, worker->end_ns));
}

/* The scheduler walks everybody in flight for its numbers, and a large cluster reports thousands of
 * times a second: between two changes they are the same. */
void spin_sim_worker_get_load(struct spin_sim_worker *worker, struct spin_sim_load *out)
{
    if (!worker->load_is_new) {
        struct spin_scheduler_stats stats;
        spin_scheduler_get_stats(worker->scheduler, &stats);
        worker->load_is_new = true;
        worker->load = (struct spin_sim_load){
            .running = stats.in_flight,
            .waiting = stats.waiting,
            .kv_tokens_used = (uint64_t)stats.blocks_held * SPIN_BLOCK_TOKENS,
            .queued_prompt_tokens = stats.waiting_tokens + stats.prefill_tokens,
            .step_ns = worker->step_ns,
            .prefill_tokens_per_s = worker->prefill_tokens_per_s};
    }
    *out = worker->load;
}

void spin_sim_worker_get_stats(const struct spin_sim_worker *worker,
                               struct spin_sim_worker_stats *out)
{
    struct spin_scheduler_stats stats;
    spin_scheduler_get_stats(worker->scheduler, &stats);
    *out = worker->stats;
    out->preemptions = stats.preemptions;
    out->suspensions = stats.suspensions;
}
