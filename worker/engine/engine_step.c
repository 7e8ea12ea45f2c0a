/* The engine's thread: events in, one command of the scheduler at a time.
 *
 * What is known of a sequence beyond its prompt, tokens resumed from elsewhere or drawn before a
 * preemption, is prefilled with it where attention is dense and the operations are row-invariant
 * whatever the rows: a token's K and V have the same bits then however it came. A sparse algorithm
 * attends differently in prefill and in decode, and a GPU multiplies many rows in another order
 * than few; there those tokens go through the decode path again, and nothing is drawn until the
 * last of them has (D1). */
#include "base/assert.h"
#include "base/log.h"
#include "worker/engine/engine_internal.h"

static struct spin_job *job_of(struct spin_engine *engine, uint32_t index)
{
    SPIN_ASSERT_LT(index, engine->requests_max);
    return &engine->jobs[index];
}

static void end_with_error(struct spin_engine *engine, struct spin_job *job, spin_status status)
{
    job->status = status;
    spin_scheduler_end(engine->scheduler, spin_job_index(job), SPIN_FINISH_ERROR);
}

static void take_inbox(struct spin_engine *engine)
{
    void *message = NULL;
    while (spin_ring_pop(engine->inbox, &message) == SPIN_OK) {
        struct spin_job *job = message;
        job->order = engine->orders++;
        const struct spin_scheduler_request request = {
            .index = spin_job_index(job),
            .known_tokens = job->known_tokens,
            .prompt_tokens = job->request.prompt_count,
            .tokens_max = spin_job_tokens_max(job),
            .deadline_ns = job->request.deadline_ns,
            .replay = engine->replay,
            .score = job->request.prompt_logprobs,
        };
        spin_scheduler_submit(engine->scheduler, &request);
        const spin_status status = spin_door_get_status(engine->door);
        if (status == SPIN_ERR_DEVICE_LOST) { /* it came in while the device failed */
            end_with_error(engine, job, status);
        } else if (spin_door_is_cancelled(engine->door, spin_job_index(job))) {
            /* Cancelled before it was here to be found. */
            spin_scheduler_end(engine->scheduler, spin_job_index(job), SPIN_FINISH_CANCELLED);
        }
    }
}

/* `all` or those whose tickets were cancelled. */
static void cancel_jobs(struct spin_engine *engine, bool all)
{
    for (uint32_t i = 0; i < engine->requests_max; i++) {
        if (spin_scheduler_knows(engine->scheduler, i) &&
            (all || spin_door_is_cancelled(engine->door, i))) {
            spin_scheduler_end(engine->scheduler, i, SPIN_FINISH_CANCELLED);
        }
    }
}

/* A failed operation is the device's end: every request fails, new ones are refused, and the
 * process decides what to do about it. */
static void fail_device(struct spin_engine *engine, spin_status status)
{
    SPIN_ERROR(
        "device failed: device=\"%s\" operations=%s status=%s; refusing requests from now on",
        spin_device_name(engine->stream), engine->config.ops->name, spin_status_name(status));
    engine->lost = true;
    spin_door_close(engine->door, SPIN_ERR_DEVICE_LOST);
    for (uint32_t i = 0; i < engine->requests_max; i++) {
        if (spin_scheduler_knows(engine->scheduler, i)) {
            end_with_error(engine, job_of(engine, i), status);
        }
    }
}

/* The scheduler has counted blocks and slabs: a tier that is full is our own bug. */
static spin_status counted(spin_status status)
{
    SPIN_ASSERT(status != SPIN_ERR_AGAIN);
    SPIN_ASSERT(status != SPIN_ERR_LIMIT);
    return status;
}

static void close_sequence(struct spin_engine *engine, struct spin_job *job)
{
    SPIN_ASSERT(job->opened);
    spin_kv_close(engine->kv, job->seq);
    job->opened = false;
}

static spin_status admit(struct spin_engine *engine, const struct spin_command *command,
                         uint64_t now_ns)
{
    struct spin_job *job = job_of(engine, command->request);
    SPIN_ASSERT_EQ(command->opened, job->opened);
    SPIN_ASSERT_LE(command->tokens, job->known_tokens);
    if (!job->opened) {
        SPIN_TRY(counted(spin_kv_open(engine->kv, &job->seq)));
        job->opened = true;
    }
    if (!job->admitted) {
        job->admitted = true;
        job->admitted_ns = now_ns;
        spin_door_leave_queue(engine->door);
        spin_engine_observe_ns(engine, SPIN_ENGINE_METRIC_QUEUE, now_ns - job->submitted_ns);
    }
    SPIN_TRY(counted(spin_kv_reserve(engine->kv, job->seq, command->tokens)));
    return counted(spin_kv_activate(engine->kv, job->seq, command->tokens, command->written));
}

static spin_status suspend(struct spin_engine *engine, const struct spin_command *command)
{
    const struct spin_job *job = job_of(engine, command->request);
    return spin_kv_suspend(engine->kv, job->seq);
}

static void preempt(struct spin_engine *engine, const struct spin_command *command)
{
    struct spin_job *job = job_of(engine, command->request);
    close_sequence(engine, job);
    job->preemptions++;
    spin_engine_count(engine, SPIN_ENGINE_METRIC_PREEMPTIONS, 1);
}

/* Everybody knows by now that the device is lost: whoever runs the process, too. */
static void tell_lost(struct spin_engine *engine)
{
    const struct spin_engine_watcher *watcher = &engine->config.watcher;
    if (engine->lost && !engine->lost_told && watcher->lost != NULL) {
        watcher->lost(watcher->context);
    }
    engine->lost_told = engine->lost;
}

/* The last hidden row of a finished prompt gives the first token. */
static spin_status draw_first(struct spin_engine *engine, const struct spin_command *command)
{
    const struct spin_unit *unit = &command->unit;
    const uint64_t last_row = unit->end - 1 - unit->super_begin;
    const float *hidden = engine->hidden[command->slot] + last_row * engine->model->config.hidden;
    SPIN_TRY(spin_engine_submit_draws(engine, &command->request, 1, hidden));
    SPIN_TRY(spin_engine_sync(engine));
    spin_engine_take_draws(engine, &command->request, 1);
    return SPIN_OK;
}

static spin_status prefill(struct spin_engine *engine, const struct spin_command *command)
{
    struct spin_job *job = job_of(engine, command->request);
    const struct spin_unit *unit = &command->unit;
    const uint64_t start_ns = spin_now_ns(engine->clock);
    float *hidden = engine->hidden[command->slot];
    const struct spin_forward_unit args = {
        .seq = job->seq, .unit = *unit, .tokens = job->tokens, .hidden = hidden};
    SPIN_TRY(spin_forward_prefill(engine->forward, &args));
    SPIN_TRY(spin_engine_sync(engine));
    if (unit->layer + 1 == engine->grid.layers && job->request.prompt_logprobs) {
        SPIN_TRY(spin_engine_tell_prompt(engine, job, unit, hidden));
    }
    spin_engine_count(engine, SPIN_ENGINE_METRIC_PREFILL_UNITS, 1);
    spin_engine_average_prefill(engine, unit->end - unit->begin,
                                spin_now_ns(engine->clock) - start_ns);
    if (!spin_scheduler_unit_done(engine->scheduler, command->request)) {
        return SPIN_OK;
    }
    if (!job->prefilled) {
        job->prefilled = true;
        spin_engine_count(engine, SPIN_ENGINE_METRIC_PROMPT_TOKENS, job->request.prompt_count);
    }
    /* Nothing is drawn where there is nothing to generate, or tokens are to be replayed first. */
    const bool over = job->known_tokens == spin_job_tokens_max(job);
    return over || unit->end < job->known_tokens ? SPIN_OK : draw_first(engine, command);
}

/* The end of a step that was submitted: its draws go with it as far as one product of logits
 * reaches, so that the device is waited for once. */
static spin_status finish_step(struct spin_engine *engine, const struct spin_command *command,
                               const float *hidden)
{
    const uint64_t width = engine->model->config.hidden;
    uint32_t at = 0;
    do {
        const uint32_t *jobs = command->batch + at;
        const uint32_t count = SPIN_MIN(engine->logits_rows, command->draw_count - at);
        SPIN_TRY(spin_engine_submit_draws(engine, jobs, count, hidden + at * width));
        SPIN_TRY(spin_engine_sync(engine));
        if (at == 0) {
            SPIN_TRY(counted(spin_forward_decode_end(engine->forward)));
        }
        spin_engine_take_draws(engine, jobs, count);
        at += count;
    } while (at < command->draw_count);
    return SPIN_OK;
}

static spin_status decode(struct spin_engine *engine, const struct spin_command *command)
{
    const uint64_t start_ns = spin_now_ns(engine->clock);
    struct spin_kv_stats before;
    spin_kv_get_stats(engine->kv, &before);
    for (uint32_t i = 0; i < command->batch_count; i++) {
        const struct spin_job *job = job_of(engine, command->batch[i]);
        const uint32_t position = spin_scheduler_computed(engine->scheduler, command->batch[i]);
        SPIN_TRY(counted(spin_kv_reserve(engine->kv, job->seq, position + 1)));
        engine->steps[i] = (struct spin_forward_step){
            .seq = job->seq, .token = job->tokens[position], .position = position};
    }
    float *hidden = NULL;
    SPIN_TRY(counted(
        spin_forward_decode(engine->forward, engine->steps, command->batch_count, &hidden)));
    for (uint32_t i = command->draw_count; i < command->batch_count; i++) {
        spin_scheduler_replayed(engine->scheduler, command->batch[i]);
    }
    SPIN_TRY(finish_step(engine, command, hidden));
    const uint64_t elapsed_ns = spin_now_ns(engine->clock) - start_ns;
    spin_engine_count(engine, SPIN_ENGINE_METRIC_DECODE_STEPS, 1);
    spin_engine_observe_ns(engine, SPIN_ENGINE_METRIC_STEP, elapsed_ns);
    spin_engine_average_step(engine, &before, elapsed_ns);
    return SPIN_OK;
}

static void finish(struct spin_engine *engine, const struct spin_command *command)
{
    struct spin_job *job = job_of(engine, command->request);
    /* The scheduler holds one that the manager could not open on a lost device. */
    SPIN_ASSERT(command->held == job->opened || (engine->lost && command->held));
    if (job->opened) {
        close_sequence(engine, job);
    }
    spin_engine_finish(engine, job, command->reason);
}

static void sleep_until_event(struct spin_engine *engine, uint64_t now_ns)
{
    uint64_t deadline_ns = 0;
    /* While stopping, somebody may be inside the door who will be refused and so wakes nobody. */
    const bool stopping = spin_door_is_stopping(engine->door, &deadline_ns);
    spin_ring_wait(engine->inbox, stopping ? now_ns + SPIN_NS_PER_MS : SPIN_NO_DEADLINE);
}

static spin_status run_command(struct spin_engine *engine, const struct spin_command *command,
                               uint64_t now_ns)
{
    switch (command->kind) {
    case SPIN_COMMAND_IDLE:
        sleep_until_event(engine, now_ns);
        return SPIN_OK;
    case SPIN_COMMAND_ADMIT:
        return admit(engine, command, now_ns);
    case SPIN_COMMAND_SUSPEND:
        return suspend(engine, command);
    case SPIN_COMMAND_PREEMPT:
        preempt(engine, command);
        return SPIN_OK;
    case SPIN_COMMAND_PREFILL:
        return prefill(engine, command);
    case SPIN_COMMAND_DECODE:
        return decode(engine, command);
    case SPIN_COMMAND_FINISH:
        finish(engine, command);
        return SPIN_OK;
    }
    return SPIN_OK;
}

/* True when the engine was stopped, nothing is known and nothing more can come. */
static bool is_over(const struct spin_engine *engine, const struct spin_command *command)
{
    uint64_t deadline_ns = 0;
    return command->kind == SPIN_COMMAND_IDLE && spin_door_is_stopping(engine->door, &deadline_ns);
}

void spin_engine_run(struct spin_engine *engine)
{
    for (;;) {
        /* Before the inbox: who is not inside by now finds the door closed, and who was has
         * pushed. */
        const bool quiet =
            spin_door_get_status(engine->door) != SPIN_OK && spin_door_is_quiet(engine->door);
        take_inbox(engine);
        if (spin_door_take_cancels(engine->door)) {
            cancel_jobs(engine, false);
        }
        const uint64_t now_ns = spin_now_ns(engine->clock);
        uint64_t deadline_ns = 0;
        if (spin_door_is_stopping(engine->door, &deadline_ns) && now_ns >= deadline_ns) {
            cancel_jobs(engine, true);
        }
        struct spin_command command;
        spin_scheduler_next(engine->scheduler, now_ns, &command);
        if (command.kind == SPIN_COMMAND_IDLE) {
            tell_lost(engine);
        }
        if (quiet && is_over(engine, &command)) {
            return;
        }
        if (command.kind == SPIN_COMMAND_IDLE) {
            spin_engine_publish(engine); /* also what the last command left behind */
            spin_engine_publish_requests(engine, true);
        }
        const spin_status status = run_command(engine, &command, now_ns);
        if (status != SPIN_OK) {
            fail_device(engine, status);
        }
        spin_engine_publish(engine);
        spin_engine_publish_requests(engine, false);
    }
}
