#include "bench/load/run.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/list.h"
#include "bench/load/gauge.h"
#include "bench/load/pacer.h"
#include "bench/load/progress.h"
#include "bench/load/prompt.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SWEEP_TICKS 10u  /* limits are kept to 100 ms; a stream that failed rests as long */
#define SENDS_A_TURN 64u /* then the sockets have their turn */

struct slot { /* a request under way */
    struct spin_load_call call;
    struct spin_link link;
};

struct spin_load_run {
    struct spin_load_run_config config;
    struct spin_bench_result *result;
    struct spin_bench_result *part; /* the driver's thread's, merged at the end */
    struct spin_load_pacer *pacer;
    struct spin_timer *tick;
    struct spin_load_gauge gauge;
    struct spin_load_progress progress;
    struct spin_list in_flight;
    uint32_t in_flight_max;
    uint64_t start_ns;
    struct spin_bench_arrived next; /* open loop: what is due next */
    bool has_next;
    bool next_waits; /* it was counted as waiting */
    bool is_closed;
    uint32_t resting; /* closed loop: streams that failed and have not asked again */
    uint64_t ticks;
    uint64_t last_due_ns; /* of what was sent last */
    bool is_cut;
    struct spin_error failure; /* of the run itself */
};

static uint64_t now_ns(const struct spin_load_run *run)
{
    return spin_loop_now_ns(run->config.loop) - run->start_ns;
}

/* --- the end --- */

static bool is_over(const struct spin_load_run *run)
{
    return run->in_flight.count == 0 && !run->has_next && run->resting == 0;
}

static void check_over(struct spin_load_run *run)
{
    if (is_over(run)) {
        spin_loop_stop(run->config.loop);
    }
}

static void cancel_call(struct spin_load_run *run, struct spin_load_call *call,
                        enum spin_bench_outcome outcome)
{
    if (!call->cancelled) {
        call->cancelled = true;
        call->cancelled_as = outcome;
        run->config.driver->cancel(run->config.driver, call);
    }
}

static void cut_all(struct spin_load_run *run)
{
    SPIN_LIST_FOREACH (&run->in_flight, link) {
        cancel_call(run, &SPIN_CONTAINER_OF(link, struct slot, link)->call, SPIN_BENCH_CUT);
    }
}

static void stop_sending(struct spin_load_run *run)
{
    run->has_next = false;
    run->resting = 0;
    run->is_cut = true;
}

static void fail_run(struct spin_load_run *run, const struct spin_error *why)
{
    if (run->failure.status == SPIN_OK) {
        run->failure = *why;
    }
    stop_sending(run);
    cut_all(run);
}

/* --- one request --- */

static void add_record(struct spin_load_run *run, const struct spin_bench_request *record,
                       const char *error)
{
    struct spin_error err = {0};
    spin_load_progress_ended(&run->progress, record);
    if (spin_bench_result_add(run->result, record, error, &err) != SPIN_OK) {
        fail_run(run, &err);
    }
}

static void add_unsent(struct spin_load_run *run, const struct spin_bench_request *planned,
                       const char *why)
{
    struct spin_bench_request record = *planned;
    record.sent_ns = record.intended_ns;
    record.end_ns = SPIN_MAX(now_ns(run), record.intended_ns);
    record.outcome = SPIN_BENCH_UNSENT;
    add_record(run, &record, why);
}

static const char *cancelled_text(enum spin_bench_outcome outcome)
{
    switch ((uint32_t)outcome) {
    case SPIN_BENCH_STALLED:
        return "no byte came for the time of --stall-timeout";
    case SPIN_BENCH_TIMEOUT:
        return "not done within --timeout";
    default:
        return "still under way when the run ended";
    }
}

/* What the run cancelled ended for the run's reason, unless its end was already on the way. */
static void judge_cancelled(struct spin_load_call *call)
{
    struct spin_bench_request *record = &call->record;
    if (!call->cancelled || record->outcome == SPIN_BENCH_OK) {
        return;
    }
    const bool is_no_connection =
        record->outcome == SPIN_BENCH_CONNECT && call->cancelled_as == SPIN_BENCH_STALLED;
    record->outcome = (uint8_t)(is_no_connection ? SPIN_BENCH_CONNECT : call->cancelled_as);
    (void)snprintf(call->error, sizeof call->error, "%s",
                   is_no_connection ? "no connection within --stall-timeout"
                                    : cancelled_text(call->cancelled_as));
}

static struct slot *slot_create(struct spin_load_run *run, const struct spin_bench_plan *plan)
{
    struct slot *slot = calloc(1, sizeof *slot);
    char *prompt = malloc(spin_bench_prompt_bytes_max(plan));
    if (slot == NULL || prompt == NULL) {
        free(slot);
        free(prompt);
        return NULL;
    }
    slot->call.driver = run->config.driver;
    slot->call.prompt = prompt;
    slot->call.prompt_bytes = spin_bench_prompt_write(plan, prompt);
    prompt[slot->call.prompt_bytes] = '\0'; /* where its last space was */
    slot->call.seed = plan->text_seed;
    return slot;
}

/* The prompt was written for submit alone. */
static void release_prompt(struct spin_load_call *call)
{
    char *owned;
    memcpy(&owned, &call->prompt, sizeof owned);
    free(owned);
    call->prompt = NULL;
}

static void send_request(struct spin_load_run *run, const struct spin_bench_arrived *arrived)
{
    struct spin_bench_plan plan;
    struct spin_error err = {0};
    spin_bench_workload_plan(spin_bench_schedule_workload(run->config.schedule), arrived->index,
                             &plan);
    const struct spin_bench_request record = {.intended_ns = arrived->at_ns,
                                              .index = arrived->index,
                                              .asked_tokens = plan.output_tokens,
                                              .prompt_tokens = plan.prompt_tokens,
                                              .warm_up = arrived->warm_up};
    struct slot *slot = slot_create(run, &plan);
    if (slot == NULL) {
        add_unsent(run, &record, "the generator is out of memory");
        run->resting += run->is_closed ? 1 : 0;
        return;
    }
    struct spin_load_call *call = &slot->call;
    call->record = record;
    call->record.sent_ns = SPIN_MAX(now_ns(run), record.intended_ns);
    call->heard_ns = run->start_ns + call->record.sent_ns;
    run->last_due_ns = record.intended_ns;
    spin_list_push_back(&run->in_flight, &slot->link);
    const spin_status status = run->config.driver->submit(run->config.driver, call, &err);
    release_prompt(call);
    run->progress.sent++;
    if (status != SPIN_OK) {
        spin_list_remove(&run->in_flight, &slot->link);
        free(slot);
        add_unsent(run, &record, err.text);
        run->resting += run->is_closed ? 1 : 0;
    }
}

/* --- open loop --- */

static void advance(struct spin_load_run *run)
{
    uint32_t sends = 0;
    while (run->has_next && run->next.at_ns <= now_ns(run)) {
        if (run->in_flight.count >= run->in_flight_max) {
            run->gauge.waited += run->next_waits ? 0 : 1;
            run->next_waits = true;
            return; /* the end of another comes here again */
        }
        if (sends++ == SENDS_A_TURN) {
            break;
        }
        const struct spin_bench_arrived due = run->next;
        run->has_next = spin_bench_schedule_next(run->config.schedule, &run->next);
        run->next_waits = false;
        send_request(run, &due);
    }
    if (run->has_next) {
        spin_load_pacer_set(run->pacer, run->start_ns + run->next.at_ns);
    }
}

static void on_due(void *context, uint64_t due_ns)
{
    struct spin_load_run *run = context;
    spin_load_gauge_lag(&run->gauge, spin_loop_now_ns(run->config.loop) - due_ns);
    advance(run);
    check_over(run);
}

/* --- closed loop --- */

static void ask_again(struct spin_load_run *run)
{
    struct spin_bench_arrived arrived;
    const uint64_t now = now_ns(run);
    if (run->is_cut || now >= spin_bench_schedule_end_ns(run->config.schedule) ||
        !spin_bench_schedule_next(run->config.schedule, &arrived)) {
        return;
    }
    arrived.at_ns = now;
    arrived.warm_up = now < spin_bench_schedule_warm_up_ns(run->config.schedule);
    send_request(run, &arrived);
}

static void wake_resting(struct spin_load_run *run)
{
    const uint32_t count = run->resting;
    run->resting = 0;
    for (uint32_t i = 0; i < count; i++) {
        ask_again(run);
    }
}

/* --- what ended --- */

static void on_ended(void *context, struct spin_load_call *call)
{
    struct spin_load_run *run = context;
    struct slot *slot = SPIN_CONTAINER_OF(call, struct slot, call);
    judge_cancelled(call);
    const bool is_ok = call->record.outcome == SPIN_BENCH_OK;
    run->config.driver->forget(run->config.driver, call);
    spin_list_remove(&run->in_flight, &slot->link);
    add_record(run, &call->record, call->error);
    free(slot);
    if (!run->is_closed) {
        advance(run);
    } else if (is_ok) {
        ask_again(run);
    } else {
        run->resting += run->is_cut ? 0 : 1;
    }
    check_over(run);
}

/* --- limits --- */

static void sweep_call(struct spin_load_run *run, struct spin_load_call *call, uint64_t now)
{
    const uint64_t heard_ns = __atomic_load_n(&call->heard_ns, __ATOMIC_RELAXED) - run->start_ns;
    if (now >= heard_ns + run->config.stall_ns) {
        cancel_call(run, call, SPIN_BENCH_STALLED);
    } else if (now >= call->record.sent_ns + run->config.timeout_ns) {
        cancel_call(run, call, SPIN_BENCH_TIMEOUT);
    }
}

/* Nothing more is to be sent: how long ago. */
static uint64_t draining_ns(const struct spin_load_run *run, uint64_t now)
{
    const uint64_t end_ns = spin_bench_schedule_end_ns(run->config.schedule);
    const uint64_t last_ns = end_ns != UINT64_MAX || run->has_next ? end_ns : run->last_due_ns;
    return now > last_ns ? now - last_ns : 0;
}

/* What was due by then and found no stream is counted, too. */
static void give_up_waiting(struct spin_load_run *run, uint64_t until_ns)
{
    while (run->has_next && run->next.at_ns <= until_ns) {
        struct spin_bench_plan plan;
        spin_bench_workload_plan(spin_bench_schedule_workload(run->config.schedule),
                                 run->next.index, &plan);
        const struct spin_bench_request record = {.intended_ns = run->next.at_ns,
                                                  .index = run->next.index,
                                                  .asked_tokens = plan.output_tokens,
                                                  .prompt_tokens = plan.prompt_tokens,
                                                  .warm_up = run->next.warm_up};
        add_unsent(run, &record, "it still waited for a stream when the run ended");
        run->has_next = !run->is_cut && spin_bench_schedule_next(run->config.schedule, &run->next);
    }
}

static void sweep(struct spin_load_run *run)
{
    const uint64_t now = now_ns(run);
    SPIN_LIST_FOREACH (&run->in_flight, link) {
        sweep_call(run, &SPIN_CONTAINER_OF(link, struct slot, link)->call, now);
    }
    wake_resting(run);
    if (!run->is_closed || now >= spin_bench_schedule_end_ns(run->config.schedule)) {
        if (draining_ns(run, now) > run->config.drain_ns) {
            give_up_waiting(run, UINT64_MAX);
            run->is_cut = true;
            cut_all(run);
        }
    }
    check_over(run);
}

void spin_load_run_interrupt(struct spin_load_run *run)
{
    run->result->interrupted = true;
    give_up_waiting(run, now_ns(run));
    stop_sending(run);
    cut_all(run);
    check_over(run);
}

static void on_tick(void *context)
{
    struct spin_load_run *run = context;
    const uint64_t now = spin_loop_now_ns(run->config.loop);
    spin_load_gauge_tick(&run->gauge, now);
    if (++run->ticks % SWEEP_TICKS == 0) {
        sweep(run);
    }
    if (run->config.progress != NULL) {
        run->progress.in_flight = run->in_flight.count;
        run->progress.messages =
            __atomic_load_n(&run->config.driver->counts.messages, __ATOMIC_RELAXED);
        spin_load_progress_tick(&run->progress, now - run->start_ns);
    }
}

/* --- life --- */

spin_status spin_load_run_create(const struct spin_load_run_config *config,
                                 struct spin_bench_result *result, struct spin_load_run **out,
                                 struct spin_error *err)
{
    const uint32_t wanted = spin_bench_schedule_concurrency(config->schedule);
    if (wanted > config->in_flight_max) { /* fewer would be another experiment */
        return spin_fail(err, SPIN_ERR_LIMIT,
                         "--concurrency %u: this process may open %u streams (ulimit -n)", wanted,
                         config->in_flight_max);
    }
    struct spin_load_run *run = calloc(1, sizeof *run);
    if (run == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "a run: %zu bytes", sizeof *run);
    }
    run->config = *config;
    run->result = result;
    run->is_closed = spin_bench_schedule_is_closed(config->schedule);
    run->in_flight_max = wanted == 0 ? config->in_flight_max : wanted;
    run->progress = (struct spin_load_progress){.out = config->progress,
                                                .overwrites = config->progress_overwrites};
    spin_list_init(&run->in_flight);
    spin_status status = SPIN_ERR_NO_MEMORY;
    if (spin_timer_create(config->loop, on_tick, run, &run->tick) != SPIN_OK) {
        (void)spin_fail(err, status, "a timer");
        goto fail;
    }
    SPIN_TRY_GOTO(status, spin_bench_result_create(0, &run->part, err), fail);
    SPIN_TRY_GOTO(status, spin_load_pacer_create(config->loop, on_due, run, &run->pacer, err),
                  fail);
    *out = run;
    return SPIN_OK;
fail:
    spin_load_run_destroy(run);
    return status;
}

static void begin(struct spin_load_run *run)
{
    struct spin_load_driver *driver = run->config.driver;
    run->start_ns = spin_loop_now_ns(run->config.loop);
    driver->start_ns = run->start_ns;
    driver->part = run->part;
    driver->context = run;
    driver->ended = on_ended;
    driver->counts.messages = 0;
    spin_load_gauge_start(&run->gauge, run->start_ns);
    spin_timer_start(run->tick, SPIN_LOAD_TICK_NS, true);
    if (run->is_closed) {
        run->resting = run->in_flight_max;
        wake_resting(run);
    } else {
        run->has_next = spin_bench_schedule_next(run->config.schedule, &run->next);
        advance(run);
    }
    check_over(run);
}

spin_status spin_load_run_start(struct spin_load_run *run, struct spin_error *err)
{
    begin(run);
    while (!is_over(run)) {
        spin_loop_run(run->config.loop);
    }
    const uint64_t now = spin_loop_now_ns(run->config.loop);
    spin_timer_stop(run->tick);
    spin_load_progress_end(&run->progress);
    run->result->end_ns = now - run->start_ns;
    spin_load_gauge_stop(&run->gauge, now, &run->result->generator);
    if (run->failure.status != SPIN_OK) {
        return spin_fail(err, run->failure.status, "%s", run->failure.text);
    }
    return spin_bench_result_merge(run->result, run->part, err);
}

void spin_load_run_destroy(struct spin_load_run *run)
{
    if (run == NULL) {
        return;
    }
    SPIN_ASSERT_EQ(run->in_flight.count, 0);
    spin_load_pacer_destroy(run->pacer);
    spin_timer_destroy(run->tick);
    spin_bench_result_destroy(run->part);
    free(run);
}
