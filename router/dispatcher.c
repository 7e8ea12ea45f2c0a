#include "router/dispatcher.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "kvstore/block/key.h"
#include "router/dispatcher_internal.h"
#include "router/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TICK_NS (50 * SPIN_NS_PER_MS)
/* A loop that stood still for this long heard nobody: that is no one else's silence. */
#define STALL_NS (SPIN_NS_PER_S / 2)
#define SUSPECT_INTERVALS 4u
/* admission.h's defaults: a prompt token counts 500 us, a tenant's turn is 2,048 of them. */
#define TOKEN_COST_NS (500 * SPIN_NS_PER_US)
#define QUANTUM_TOKENS 2048u
#define RETRY_AFTER_MAX_S 60u
/* The moving average of how long a sequence is at its worker takes in 1/8 of each. */
#define SERVICE_WEIGHT 0.125

static uint64_t now_of(const struct spin_dispatcher *dispatcher)
{
    return spin_loop_now_ns(dispatcher->parts.loop);
}

static void count(const struct spin_dispatcher *dispatcher, enum spin_router_metric metric,
                  uint64_t amount)
{
    spin_metrics_add(dispatcher->parts.metrics, metric, amount);
}

static void observe_ns(const struct spin_dispatcher *dispatcher, enum spin_router_metric metric,
                       uint64_t from_ns, uint64_t to_ns)
{
    spin_metrics_observe(dispatcher->parts.metrics, metric,
                         (double)(to_ns - SPIN_MIN(from_ns, to_ns)) / (double)SPIN_NS_PER_S);
}

static uint32_t alive_count(const struct spin_dispatcher *dispatcher)
{
    return dispatcher->open.count - dispatcher->dead.count;
}

/* --- entering and leaving --- */

void spin_dispatcher_schedule(struct spin_dispatcher *dispatcher)
{
    if (!dispatcher->pump_posted) {
        dispatcher->pump_posted = true;
        spin_loop_post(dispatcher->parts.loop, &dispatcher->pump);
    }
}

static void enter(struct spin_dispatcher *dispatcher)
{
    spin_loop_assert_thread(dispatcher->parts.loop);
    dispatcher->depth++;
}

static void destroy_dead(struct spin_dispatcher *dispatcher)
{
    while (dispatcher->dead.count > 0) {
        struct spin_generation *generation =
            SPIN_CONTAINER_OF(spin_list_first(&dispatcher->dead), struct spin_generation, dead);
        spin_list_remove(&dispatcher->dead, &generation->dead);
        spin_list_remove(&dispatcher->open, &generation->open);
        spin_generation_destroy(generation);
    }
}

static void leave(struct spin_dispatcher *dispatcher)
{
    SPIN_ASSERT_GT(dispatcher->depth, 0);
    dispatcher->depth--;
    if (dispatcher->depth > 0) {
        return;
    }
    destroy_dead(dispatcher);
    spin_metrics_set(dispatcher->parts.metrics, SPIN_ROUTER_METRIC_QUEUED,
                     spin_admission_count(dispatcher->admission));
    spin_metrics_set(dispatcher->parts.metrics, SPIN_ROUTER_METRIC_RUNNING, dispatcher->running);
    if (dispatcher->drained != NULL && dispatcher->open.count == 0) {
        spin_dispatcher_schedule(dispatcher);
    }
}

/* --- the end of a generation --- */

static enum spin_router_metric metric_of_end(const struct spin_sequence_end *end)
{
    if (end->status == SPIN_OK) {
        return end->reason == SPIN__V1__FINISH_REASON__FINISH_STOP
                   ? SPIN_ROUTER_METRIC_ENDED_STOP
                   : SPIN_ROUTER_METRIC_ENDED_LENGTH;
    }
    if (end->status == SPIN_ERR_CANCELLED) {
        return SPIN_ROUTER_METRIC_ENDED_CANCELLED;
    }
    return end->status == SPIN_ERR_DEADLINE ? SPIN_ROUTER_METRIC_ENDED_DEADLINE
                                            : SPIN_ROUTER_METRIC_ENDED_ERROR;
}

static void measure_end(const struct spin_dispatcher *dispatcher,
                        const struct spin_generation *generation)
{
    count(dispatcher, metric_of_end(&generation->sequence.end), 1);
    observe_ns(dispatcher, SPIN_ROUTER_METRIC_E2E, generation->submitted_ns, now_of(dispatcher));
    if (generation->read > 1) {
        const uint64_t decode_ns = generation->last_token_ns - generation->first_token_ns;
        observe_ns(dispatcher, SPIN_ROUTER_METRIC_TPOT, 0, decode_ns / (generation->read - 1));
    }
}

static void bury(struct spin_dispatcher *dispatcher, struct spin_generation *generation)
{
    SPIN_ASSERT_EQ(generation->sequence.phase, SPIN_SEQUENCE_ENDED);
    if (generation->queued) {
        generation->queued = false;
        spin_admission_remove(dispatcher->admission, &generation->entry);
    }
    measure_end(dispatcher, generation);
    spin_list_push_back(&dispatcher->dead, &generation->dead);
}

/* --- what a step says --- */

/* Its place at the worker is free again. */
static void detach_call(struct spin_dispatcher *dispatcher, struct spin_generation *generation)
{
    const struct spin_worker_link *link = spin_worker_call_link(generation->call);
    if (link->member != NULL) {
        spin_members_done(link->member, generation->call_sent_ns, generation->call_prompt_tokens);
    }
    const uint64_t spent_ns = now_of(dispatcher) - generation->call_sent_ns;
    dispatcher->service_ns += SERVICE_WEIGHT * ((double)spent_ns - dispatcher->service_ns);
    generation->call = NULL;
    SPIN_ASSERT_GT(dispatcher->running, 0);
    dispatcher->running--;
    spin_dispatcher_schedule(dispatcher); /* somebody who waits may have it */
}

static void requeue(struct spin_dispatcher *dispatcher, struct spin_generation *generation,
                    const struct spin_sequence_step *step)
{
    count(dispatcher, step->begun ? SPIN_ROUTER_METRIC_RECOVERIES : SPIN_ROUTER_METRIC_RETRIES, 1);
    const spin_status status = spin_admission_push(dispatcher->admission, &generation->entry,
                                                   now_of(dispatcher), true, NULL);
    SPIN_ASSERT_EQ(status, SPIN_OK); /* no limit holds it back */
    generation->queued = true;
    spin_dispatcher_schedule(dispatcher);
}

/* `link`: of the call that was open when the event came; NULL: none was. */
static void apply(struct spin_dispatcher *dispatcher, struct spin_generation *generation,
                  struct spin_worker_link *link, const struct spin_sequence_step *step,
                  const char *text)
{
    if (step->cancel && generation->call != NULL) {
        spin_worker_call_abandon(generation->call);
        detach_call(dispatcher, generation);
    }
    if (step->blame != SPIN_SEQUENCE_NOBODY && link != NULL) {
        generation->avoid = link->serial;
        if (step->blame == SPIN_SEQUENCE_FAILED) {
            spin_worker_link_failed(link, text, now_of(dispatcher));
        } else {
            spin_worker_link_full(link, now_of(dispatcher));
        }
        spin_dispatcher_note_workers(dispatcher);
    }
    switch (step->next) {
    case SPIN_SEQUENCE_STAY:
        break;
    case SPIN_SEQUENCE_REQUEUE:
        requeue(dispatcher, generation, step);
        break;
    case SPIN_SEQUENCE_END:
        bury(dispatcher, generation);
        spin_generation_report_end(generation);
        break;
    }
}

static struct spin_worker_link *link_of(const struct spin_generation *generation)
{
    return generation->call == NULL ? NULL : spin_worker_call_link(generation->call);
}

/* --- what workers send --- */

static void measure_tokens(struct spin_dispatcher *dispatcher, struct spin_generation *generation,
                           uint32_t accepted, uint64_t now_ns)
{
    if (accepted == 0) {
        return;
    }
    count(dispatcher, SPIN_ROUTER_METRIC_OUTPUT_TOKENS, accepted);
    if (generation->first_token_ns == 0) {
        generation->first_token_ns = now_ns;
        observe_ns(dispatcher, SPIN_ROUTER_METRIC_TTFT, generation->submitted_ns, now_ns);
    } else {
        observe_ns(dispatcher, SPIN_ROUTER_METRIC_ITL, generation->last_token_ns, now_ns);
    }
    generation->last_token_ns = now_ns;
}

static void read_usage(struct spin_generation *generation, const Spin__V1__Usage *usage)
{
    generation->cached_tokens = usage->cached_tokens;
    generation->preemptions = usage->preemptions;
    generation->worker_queue_ns = usage->queue_ns;
}

/* Tokens and scores, on to the sink. False: the generation went on to something else. */
static bool read_news(struct spin_dispatcher *dispatcher, struct spin_generation *generation,
                      struct spin_worker_inbox *inbox)
{
    struct spin_generation_news news = {
        .inbox = inbox, .text = &dispatcher->text, .now_ns = now_of(dispatcher)};
    struct spin_worker_call *call = generation->call;
    struct spin_error err = {0};
    bool stopped = false;
    const spin_status status = spin_generation_read(generation, &news, &stopped, &err);
    measure_tokens(dispatcher, generation, news.accepted, news.now_ns);
    if (generation->call != call) { /* the sink cancelled it */
        return false;
    }
    if (status == SPIN_OK && !stopped) {
        return true;
    }
    const struct spin_sequence_step step =
        stopped ? spin_sequence_stopped(&generation->sequence)
                : spin_sequence_fail(&generation->sequence, status, err.text);
    apply(dispatcher, generation, link_of(generation), &step, err.text);
    return false;
}

static void on_call_ready(void *context, struct spin_worker_call *call,
                          struct spin_worker_inbox *inbox)
{
    struct spin_generation *generation = context;
    struct spin_dispatcher *dispatcher = generation->dispatcher;
    SPIN_ASSERT(generation->call == call);
    enter(dispatcher);
    struct spin_sequence *sequence = &generation->sequence;
    if (read_news(dispatcher, generation, inbox)) {
        if (inbox->finished) {
            spin_sequence_finished(sequence, sequence->attempt, &inbox->finish);
            read_usage(generation, &inbox->usage);
        }
        if (inbox->closed) {
            struct spin_worker_link *link = link_of(generation);
            detach_call(dispatcher, generation);
            const struct spin_sequence_step step = spin_sequence_closed(
                sequence, sequence->attempt, inbox->status, inbox->text, now_of(dispatcher));
            apply(dispatcher, generation, link, &step, inbox->text);
        }
    } else if (generation->call == call) {
        SPIN_ASSERT(false); /* every end abandons the call or detaches it */
    }
    leave(dispatcher);
}

/* --- placing --- */

static uint32_t choose(struct spin_dispatcher *dispatcher, const struct spin_generation *generation)
{
    const uint32_t members = spin_members_count(dispatcher->members);
    const uint64_t now_ns = now_of(dispatcher);
    struct spin_placement_request request = {
        .prompt_tokens = generation->prompt_count + generation->sequence.token_count,
        .max_tokens = generation->sampling.max_tokens - generation->sequence.token_count,
        .avoid = SPIN_PLACEMENT_NONE};
    for (uint32_t i = 0; i < members; i++) {
        const struct spin_member *member = spin_members_at(dispatcher->members, i);
        const struct spin_worker_link *link = member->link;
        dispatcher->views[i] = member->view;
        dispatcher->views[i].takes =
            spin_dispatcher_is_usable(member) && !spin_worker_link_is_paused(link, now_ns);
        if (link != NULL && link->serial == generation->avoid) {
            request.avoid = i;
        }
    }
    return spin_placement_choose(dispatcher->views, members, &request);
}

static void measure_first_send(struct spin_dispatcher *dispatcher,
                               struct spin_generation *generation)
{
    if (generation->sent_ns == 0) {
        generation->sent_ns = now_of(dispatcher);
        observe_ns(dispatcher, SPIN_ROUTER_METRIC_QUEUE, generation->submitted_ns,
                   generation->sent_ns);
        count(dispatcher, SPIN_ROUTER_METRIC_PROMPT_TOKENS, generation->prompt_count);
    }
}

static void place(struct spin_dispatcher *dispatcher, struct spin_generation *generation,
                  struct spin_member *member)
{
    struct spin_sequence *sequence = &generation->sequence;
    const uint64_t now_ns = now_of(dispatcher);
    Spin__V1__GenerateRequest message;
    Spin__V1__Sampling sampling;
    spin_generation_fill_message(generation, &message, &sampling);
    if (dispatcher->salts != NULL) {
        message.salt.data = dispatcher->salts[generation->tenant].bytes;
        message.salt.len = SPIN_SALT_BYTES;
    }
    const struct spin_worker_call_config config = {.link = member->link,
                                                   .loop = dispatcher->parts.loop,
                                                   .message = &message,
                                                   .deadline_ns = sequence->config.deadline_ns,
                                                   .logprobs = generation->sampling.logprobs,
                                                   .tokens_max = sequence->config.max_tokens -
                                                                 sequence->token_count,
                                                   .prompt_max = sequence->config.prompt_scores,
                                                   .context = generation,
                                                   .ready = on_call_ready};
    measure_first_send(dispatcher, generation);
    generation->call_sent_ns = now_ns;
    const uint32_t attempt = spin_sequence_placed(sequence, now_ns);
    struct spin_error err = {0};
    const spin_status status = spin_worker_call_create(&config, &generation->call, &err);
    if (status == SPIN_OK) {
        dispatcher->running++;
        generation->call_prompt_tokens = generation->prompt_count + sequence->token_count;
        spin_members_sent(member, generation->call_prompt_tokens);
        return;
    }
    const struct spin_sequence_step step =
        spin_sequence_closed(sequence, attempt, status, err.text, now_ns);
    apply(dispatcher, generation, member->link, &step, err.text);
}

/* Ends because whoever failed is paused: nobody is left to choose. */
static void place_waiting(struct spin_dispatcher *dispatcher)
{
    for (;;) {
        struct spin_admission_entry *entry = spin_admission_peek(dispatcher->admission);
        if (entry == NULL) {
            return;
        }
        struct spin_generation *generation =
            SPIN_CONTAINER_OF(entry, struct spin_generation, entry);
        const uint32_t index = choose(dispatcher, generation);
        if (index == SPIN_PLACEMENT_NONE) {
            return;
        }
        spin_admission_pop(dispatcher->admission, entry);
        generation->queued = false;
        place(dispatcher, generation, spin_members_at(dispatcher->members, index));
    }
}

static void release_memory(struct spin_dispatcher *dispatcher)
{
    free(dispatcher);
}

static void report_drained(struct spin_dispatcher *dispatcher)
{
    void (*drained)(void *) = dispatcher->drained;
    if (drained != NULL && dispatcher->open.count == 0) {
        dispatcher->drained = NULL;
        drained(dispatcher->drained_context); /* may destroy the dispatcher */
    }
}

static void on_pump(struct spin_loop_message *message)
{
    struct spin_dispatcher *dispatcher = SPIN_CONTAINER_OF(message, struct spin_dispatcher, pump);
    if (dispatcher->destroyed) {
        release_memory(dispatcher);
        return;
    }
    dispatcher->pump_posted = false;
    enter(dispatcher);
    place_waiting(dispatcher);
    leave(dispatcher);
    report_drained(dispatcher);
}

/* --- time --- */

static void tick_generation(struct spin_dispatcher *dispatcher, struct spin_generation *generation,
                            uint64_t now_ns)
{
    struct spin_worker_link *link = link_of(generation);
    struct spin_sequence_times times = {.now_ns = now_ns,
                                        .worker_heard_ns = dispatcher->silence_floor_ns,
                                        .no_worker_ns = dispatcher->no_worker_ns};
    if (link != NULL) {
        times.worker_heard_ns = SPIN_MAX(times.worker_heard_ns, link->heard_ns);
        if (link->member != NULL) {
            times.worker_heard_ns = SPIN_MAX(times.worker_heard_ns, link->member->heard_ns);
        }
    }
    struct spin_sequence_step step;
    if (dispatcher->draining && now_ns >= dispatcher->drain_deadline_ns) {
        step = spin_sequence_fail(&generation->sequence, SPIN_ERR_SHUTDOWN,
                                  "the router is shutting down");
    } else {
        step = spin_sequence_tick(&generation->sequence, &times);
    }
    apply(dispatcher, generation, link, &step, "not a word in --worker-timeout");
}

static void on_tick(void *context)
{
    struct spin_dispatcher *dispatcher = context;
    const uint64_t now_ns = now_of(dispatcher);
    enter(dispatcher);
    if (now_ns - dispatcher->ticked_ns > STALL_NS) {
        dispatcher->silence_floor_ns = now_ns;
    }
    dispatcher->ticked_ns = now_ns;
    spin_members_expire(dispatcher->members, now_ns);
    spin_dispatcher_note_workers(dispatcher);
    SPIN_LIST_FOREACH (&dispatcher->open, at) {
        struct spin_generation *generation = SPIN_CONTAINER_OF(at, struct spin_generation, open);
        if (generation->sequence.phase != SPIN_SEQUENCE_ENDED) {
            tick_generation(dispatcher, generation, now_ns);
        }
    }
    spin_dispatcher_destroy_idle_links(dispatcher);
    place_waiting(dispatcher); /* pauses may be over */
    leave(dispatcher);
}

static void on_member_left(void *context, struct spin_member *member, bool replaced)
{
    struct spin_dispatcher *dispatcher = context;
    struct spin_worker_link *link = member->link;
    spin_dispatcher_unlink_member(member);
    if (link == NULL || !replaced) {
        return;
    }
    if (member->joined && !member->goodbye) { /* its stream never noticed */
        count(dispatcher, SPIN_ROUTER_METRIC_WORKERS_LOST, 1);
    }
    /* A new incarnation: the old process is dead, whether its connections know it or not. */
    enter(dispatcher);
    SPIN_LIST_FOREACH (&dispatcher->open, at) {
        struct spin_generation *generation = SPIN_CONTAINER_OF(at, struct spin_generation, open);
        if (link_of(generation) == link) {
            static const char text[] = "it was started again";
            const struct spin_sequence_step step = spin_sequence_lost(
                &generation->sequence, generation->sequence.attempt, text, now_of(dispatcher));
            apply(dispatcher, generation, link, &step, text);
        }
    }
    leave(dispatcher);
}

/* --- create and destroy --- */

static spin_status make_salts(struct spin_dispatcher *dispatcher, struct spin_error *err)
{
    const char *secret = dispatcher->config.cluster_secret;
    if (secret == NULL) {
        return SPIN_OK;
    }
    const uint32_t tenants = spin_tenants_count(dispatcher->parts.tenants);
    dispatcher->salts = calloc(tenants, sizeof *dispatcher->salts);
    if (dispatcher->salts == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "salts of %u tenants", tenants);
    }
    for (uint32_t i = 0; i < tenants; i++) {
        dispatcher->salts[i] = spin_salt_derive((const uint8_t *)secret, strlen(secret),
                                                spin_tenants_name(dispatcher->parts.tenants, i));
    }
    return SPIN_OK;
}

/* A tokenizer with every id there can be (the random one) has no size to compare. */
static uint32_t expected_vocab(const struct spin_tokenizer *tokenizer)
{
    const uint32_t vocab = spin_tokenizer_vocab(tokenizer);
    return vocab == SPIN_TOKENIZER_VOCAB_MAX ? 0 : vocab;
}

static spin_status build(struct spin_dispatcher *dispatcher, struct spin_error *err)
{
    const struct spin_dispatcher_config *config = &dispatcher->config;
    const struct spin_members_config members = {
        .model_name = config->model_name,
        .vocab = expected_vocab(dispatcher->parts.tokenizer),
        .suspect_ns = SUSPECT_INTERVALS * config->status_interval_ns,
        .context = dispatcher,
        .changed = spin_dispatcher_member_changed,
        .left = on_member_left};
    const struct spin_admission_config admission = {
        .queue_max = config->queue_max,
        .tenant_queue_max = config->tenant_queue_max,
        .tenant_count = spin_tenants_count(dispatcher->parts.tenants),
        .token_cost_ns = TOKEN_COST_NS,
        .quantum_tokens = QUANTUM_TOKENS};
    SPIN_TRY(spin_members_create(&members, &dispatcher->members, err));
    SPIN_TRY(spin_admission_create(&admission, &dispatcher->admission, err));
    SPIN_TRY(make_salts(dispatcher, err));
    SPIN_TRY(spin_rpc_thread_create(&dispatcher->thread, err));
    if (spin_timer_create(dispatcher->parts.loop, on_tick, dispatcher, &dispatcher->timer) !=
        SPIN_OK) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "dispatcher: no timer");
    }
    spin_timer_start(dispatcher->timer, TICK_NS, true);
    return SPIN_OK;
}

spin_status spin_dispatcher_create(const struct spin_dispatcher_config *config,
                                   const struct spin_dispatcher_parts *parts,
                                   struct spin_dispatcher **out, struct spin_error *err)
{
    struct spin_dispatcher *dispatcher = calloc(1, sizeof *dispatcher);
    if (dispatcher == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "dispatcher: %zu bytes", sizeof *dispatcher);
    }
    dispatcher->config = *config;
    dispatcher->parts = *parts;
    dispatcher->pump.run = on_pump;
    dispatcher->ticked_ns = now_of(dispatcher);
    dispatcher->silence_floor_ns = dispatcher->ticked_ns;
    dispatcher->no_worker_ns = dispatcher->ticked_ns;
    spin_list_init(&dispatcher->links);
    spin_list_init(&dispatcher->open);
    spin_list_init(&dispatcher->dead);
    const spin_status status = build(dispatcher, err);
    if (status != SPIN_OK) {
        spin_dispatcher_destroy(dispatcher);
        return status;
    }
    *out = dispatcher;
    return SPIN_OK;
}

void spin_dispatcher_drain(struct spin_dispatcher *dispatcher, uint64_t grace_ns,
                           void (*drained)(void *context), void *context)
{
    enter(dispatcher);
    dispatcher->draining = true;
    dispatcher->drain_deadline_ns = spin_deadline_ns(now_of(dispatcher), grace_ns);
    dispatcher->drained = drained;
    dispatcher->drained_context = context;
    leave(dispatcher);
}

static void destroy_links(struct spin_dispatcher *dispatcher)
{
    while (dispatcher->links.count > 0) {
        struct spin_worker_link *link =
            SPIN_CONTAINER_OF(spin_list_first(&dispatcher->links), struct spin_worker_link, link);
        spin_list_remove(&dispatcher->links, &link->link);
        spin_worker_link_destroy(link);
    }
}

void spin_dispatcher_destroy(struct spin_dispatcher *dispatcher)
{
    if (dispatcher == NULL) {
        return;
    }
    SPIN_ASSERT_EQ(dispatcher->open.count, 0);
    spin_timer_destroy(dispatcher->timer);
    spin_members_destroy(dispatcher->members);
    destroy_links(dispatcher);
    spin_rpc_thread_destroy(dispatcher->thread);
    spin_admission_destroy(dispatcher->admission);
    free(dispatcher->salts);
    free(dispatcher->text.bytes);
    dispatcher->destroyed = true;
    if (!dispatcher->pump_posted) {
        release_memory(dispatcher);
    }
}

/* --- the front doors' side --- */

static spin_status check_submit(const struct spin_dispatcher *dispatcher,
                                const struct spin_generation_request *request,
                                struct spin_error *err)
{
    if (dispatcher->draining) {
        return spin_fail(err, SPIN_ERR_SHUTDOWN, "the router is shutting down");
    }
    const struct spin_generation_limits limits = spin_dispatcher_limits(dispatcher);
    if (limits.max_model_len == 0) {
        count(dispatcher, SPIN_ROUTER_METRIC_REFUSED_NO_WORKER, 1);
        return spin_fail(err, SPIN_ERR_AGAIN, "no worker has joined yet");
    }
    SPIN_TRY(spin_generation_check(request, &limits, err)); /* counted by the front doors */
    if (alive_count(dispatcher) >= dispatcher->config.generations_max) {
        count(dispatcher, SPIN_ROUTER_METRIC_REFUSED_QUEUE, 1);
        return spin_fail(err, SPIN_ERR_EXHAUSTED, "%u sequences are open, at most %u",
                         alive_count(dispatcher), dispatcher->config.generations_max);
    }
    return SPIN_OK;
}

static spin_status enqueue(struct spin_dispatcher *dispatcher, struct spin_generation *generation,
                           struct spin_error *err)
{
    generation->entry.tenant = generation->tenant;
    generation->entry.prompt_tokens = generation->prompt_count;
    const spin_status status = spin_admission_push(dispatcher->admission, &generation->entry,
                                                   now_of(dispatcher), false, err);
    if (status != SPIN_OK) {
        count(dispatcher, SPIN_ROUTER_METRIC_REFUSED_QUEUE, 1);
        return status;
    }
    generation->queued = true;
    spin_list_push_back(&dispatcher->open, &generation->open);
    spin_dispatcher_schedule(dispatcher);
    return SPIN_OK;
}

spin_status spin_dispatcher_submit(struct spin_dispatcher *dispatcher,
                                   const struct spin_generation_request *request,
                                   struct spin_generation **out, struct spin_error *err)
{
    count(dispatcher, SPIN_ROUTER_METRIC_GENERATIONS, 1);
    SPIN_TRY(check_submit(dispatcher, request, err));
    const uint64_t now_ns = now_of(dispatcher);
    const uint64_t own_ns = spin_deadline_ns(now_ns, dispatcher->config.request_timeout_ns);
    const struct spin_generation_setup setup = {
        .tokenizer = dispatcher->parts.tokenizer,
        .sequence = {.max_tokens = request->sampling->max_tokens,
                     .prompt_scores =
                         request->sampling->prompt_logprobs ? request->prompt_count : 0,
                     .failures_max = dispatcher->config.recoveries_max,
                     .deadline_ns = SPIN_MIN(request->deadline_ns, own_ns),
                     .queue_timeout_ns = dispatcher->config.queue_timeout_ns,
                     .worker_timeout_ns = dispatcher->config.worker_timeout_ns},
        .now_ns = now_ns};
    struct spin_generation *generation = NULL;
    SPIN_TRY(spin_generation_create(request, &setup, &generation, err));
    generation->dispatcher = dispatcher;
    enter(dispatcher);
    const spin_status status = enqueue(dispatcher, generation, err);
    if (status == SPIN_OK) {
        *out = generation;
    } else {
        spin_generation_destroy(generation);
    }
    leave(dispatcher);
    return status;
}

void spin_dispatcher_cancel(struct spin_dispatcher *dispatcher, struct spin_generation *generation)
{
    SPIN_ASSERT(generation->dispatcher == dispatcher);
    SPIN_ASSERT(!generation->over);
    enter(dispatcher);
    generation->over = true;
    const struct spin_sequence_step step =
        spin_sequence_fail(&generation->sequence, SPIN_ERR_CANCELLED, "cancelled");
    if (step.cancel) {
        spin_worker_call_abandon(generation->call);
        detach_call(dispatcher, generation);
    }
    if (step.next == SPIN_SEQUENCE_END) { /* else its sink is just hearing its last delta */
        bury(dispatcher, generation);
    }
    leave(dispatcher);
}

uint32_t spin_dispatcher_retry_after_s(const struct spin_dispatcher *dispatcher)
{
    uint64_t places = 0;
    for (uint32_t i = 0; i < spin_members_count(dispatcher->members); i++) {
        const struct spin_member *member = spin_members_at(dispatcher->members, i);
        places += member->view.takes ? member->view.sequences_max : 0;
    }
    const double waiting = (double)spin_admission_count(dispatcher->admission) + 1;
    const double seconds =
        waiting * dispatcher->service_ns / ((double)SPIN_MAX(places, 1) * (double)SPIN_NS_PER_S);
    return seconds >= RETRY_AFTER_MAX_S ? RETRY_AFTER_MAX_S : (uint32_t)SPIN_MAX(seconds, 1.0);
}

struct spin_members *spin_dispatcher_members(struct spin_dispatcher *dispatcher)
{
    return dispatcher->members;
}

struct spin_generation_limits spin_dispatcher_limits(const struct spin_dispatcher *dispatcher)
{
    const uint32_t own = spin_tokenizer_vocab(dispatcher->parts.tokenizer);
    const uint32_t workers = spin_members_vocab(dispatcher->members);
    return (struct spin_generation_limits){.vocab = workers == 0 ? own : SPIN_MIN(own, workers),
                                           .max_model_len =
                                               spin_members_max_model_len(dispatcher->members)};
}
