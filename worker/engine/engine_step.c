/* The engine's thread: events in, one command of the scheduler at a time.
 *
 * What is known of a sequence beyond its prompt, tokens resumed from elsewhere or drawn before a
 * preemption, is prefilled with it where attention is dense: operations are row-invariant, so a
 * token's K and V have the same bits however it came. A sparse algorithm attends differently in
 * prefill and in decode; with one, those tokens go through the decode path again, and nothing is
 * drawn until the last of them has (D1). */
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
    SPIN_ERROR("device failed: operations=%s status=%s; refusing requests from now on",
               engine->config.ops->name, spin_status_name(status));
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

/* The last hidden row of a finished prompt gives the first token. */
static spin_status draw_first(struct spin_engine *engine, struct spin_job *job,
                              const struct spin_unit *unit, const float *hidden)
{
    const uint64_t last_row = unit->end - 1 - unit->super_begin;
    const float *logits = NULL;
    SPIN_TRY(spin_forward_logits(engine->forward, hidden + last_row * engine->model->config.hidden,
                                 1, &logits));
    spin_engine_draw(engine, job, logits, spin_now_ns(engine->clock));
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
    return over || unit->end < job->known_tokens ? SPIN_OK : draw_first(engine, job, unit, hidden);
}

static spin_status draw_batch(struct spin_engine *engine, const struct spin_command *command,
                              const float *hidden)
{
    const struct spin_model_config *shape = &engine->model->config;
    for (uint32_t at = 0; at < command->draw_count;) {
        const uint32_t count = SPIN_MIN(engine->logits_rows, command->draw_count - at);
        const float *logits = NULL;
        SPIN_TRY(spin_forward_logits(engine->forward, hidden + (uint64_t)at * shape->hidden, count,
                                     &logits));
        for (uint32_t i = 0; i < count; i++) {
            spin_engine_draw(engine, job_of(engine, command->batch[at + i]),
                             logits + (uint64_t)i * shape->vocab, spin_now_ns(engine->clock));
        }
        at += count;
    }
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
    SPIN_TRY(draw_batch(engine, command, hidden));
    SPIN_TRY(counted(spin_forward_decode_end(engine->forward)));
    const uint64_t elapsed_ns = spin_now_ns(engine->clock) - start_ns;
    spin_engine_count(engine, SPIN_ENGINE_METRIC_DECODE_STEPS, 1);
    spin_engine_observe_ns(engine, SPIN_ENGINE_METRIC_STEP, elapsed_ns);
    spin_engine_average_step(engine, &before, elapsed_ns);
    return SPIN_OK;
}

static void finish(struct spin_engine *engine, const struct spin_command *command)
{
    struct spin_job *job = job_of(engine, command->request);
    SPIN_ASSERT_EQ(command->held, job->opened);
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
