#include "bench/sim/cluster.h"

#include "base/assert.h"
#include "base/list.h"
#include "base/rng.h"
#include "bench/sim/agenda.h"
#include "kvstore/block/layout.h"
#include "router/policy/admission.h"
#include "router/policy/placement.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* The dispatcher's: a prompt token counts 500 us, a tenant's turn is 2,048 of them. */
#define TOKEN_COST_NS (500 * SPIN_NS_PER_US)
#define QUANTUM_TOKENS 2048u
#define NO_WORKER UINT32_MAX

struct request {
    struct spin_sim_request asked;
    struct spin_admission_entry entry;
    struct spin_link waiting; /* in the router's queue, by arrival */
    struct spin_bench_request record;
    uint32_t worker;
    uint64_t sent_ns;  /* to the worker */
    uint64_t token_ns; /* of the last token, at the worker */
};

struct worker {
    struct spin_sim_worker *engine;
    uint64_t status_ns; /* of its last status */
};

struct cluster {
    struct spin_sim_config config;
    const struct spin_sim_source *source;
    struct spin_bench_result *result;
    struct spin_sim_stats stats;
    struct spin_admission *admission;
    struct spin_agenda *agenda;
    struct worker *workers;         /* [workers] */
    struct spin_worker_view *views; /* [workers]: what the router knows */
    uint32_t *turns;                /* [workers]: the order in which they report */
    uint64_t status_turn;           /* since the start */
    struct request *requests;       /* [generations_max] */
    uint32_t *free_requests;        /* [generations_max]; the last given back goes first */
    uint32_t free_count;
    uint32_t open;
    struct spin_list waiting; /* in the queue, by arrival and so by deadline */
    uint64_t now_ns;
    uint64_t last_end_ns; /* as clients saw it */
    spin_status status;   /* of the run: what the result refused */
    struct spin_error *err;
};

struct spin_sim_config spin_sim_config_default(const struct spin_sim_engine *engine)
{
    return (struct spin_sim_config){.engine = engine,
                                    .workers = 1,
                                    .queue_max = 4096,
                                    .tenant_queue_max = 2048,
                                    .generations_max = 16384,
                                    .status_interval_ns = 250 * SPIN_NS_PER_MS,
                                    .request_timeout_ns = 600 * SPIN_NS_PER_S};
}

/* --- the end of a request --- */

static void record_end(struct cluster *cluster, struct spin_bench_request *record,
                       enum spin_bench_outcome outcome, const char *text)
{
    record->outcome = (uint8_t)outcome;
    record->end_ns = cluster->now_ns + cluster->config.network_ns;
    cluster->last_end_ns = SPIN_MAX(cluster->last_end_ns, record->end_ns);
    if (cluster->status == SPIN_OK) {
        cluster->status = spin_bench_result_add(cluster->result, record, text, cluster->err);
    }
    cluster->source->ended(cluster->source->context, record->end_ns, outcome == SPIN_BENCH_OK);
}

static void end_request(struct cluster *cluster, struct request *request,
                        enum spin_bench_outcome outcome, const char *text)
{
    record_end(cluster, &request->record, outcome, text);
    cluster->free_requests[cluster->free_count++] = (uint32_t)(request - cluster->requests);
    SPIN_ASSERT_GT(cluster->open, 0);
    cluster->open--;
}

/* --- what workers tell --- */

/* Streams of one step mostly have the same gap: they are counted at once. */
static void on_tokens(void *context, uint64_t at_ns, struct spin_sim_request *const *requests,
                      uint32_t count)
{
    struct cluster *cluster = context;
    const uint64_t seen_ns = at_ns + cluster->config.network_ns;
    uint64_t gap_ns = 0;
    uint64_t gaps = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct request *request = SPIN_CONTAINER_OF(requests[i], struct request, asked);
        struct spin_bench_request *record = &request->record;
        if (record->messages == 0) {
            record->first_ns = seen_ns;
        } else if (!record->warm_up) {
            const uint64_t own_ns = at_ns - request->token_ns;
            if (own_ns != gap_ns) {
                spin_histogram_add(&cluster->result->itl, gap_ns, gaps);
                gap_ns = own_ns;
                gaps = 0;
            }
            gaps++;
        }
        record->last_ns = seen_ns;
        record->messages++;
        record->output_tokens++;
        request->token_ns = at_ns;
    }
    spin_histogram_add(&cluster->result->itl, gap_ns, gaps);
    spin_bench_result_tokens(cluster->result, seen_ns, count);
}

static void on_finished(void *context, uint64_t at_ns, struct spin_sim_request *asked,
                        enum spin_finish_reason reason)
{
    struct cluster *cluster = context;
    struct request *request = SPIN_CONTAINER_OF(asked, struct request, asked);
    SPIN_ASSERT_EQ(at_ns, cluster->now_ns); /* nobody was left alone for too long */
    spin_worker_view_done(&cluster->views[request->worker], asked->prompt_tokens,
                          request->sent_ns >= cluster->workers[request->worker].status_ns);
    if (reason == SPIN_FINISH_LENGTH) {
        SPIN_ASSERT_EQ(request->record.output_tokens, asked->output_tokens);
        end_request(cluster, request, SPIN_BENCH_OK, NULL);
    } else {
        SPIN_ASSERT_EQ(reason, SPIN_FINISH_DEADLINE);
        end_request(cluster, request, SPIN_BENCH_TIMEOUT, "the request's deadline has passed");
    }
}

/* --- placing --- */

static void visit(struct cluster *cluster, uint32_t index)
{
    struct spin_sim_worker *engine = cluster->workers[index].engine;
    if (spin_sim_worker_advance(engine, cluster->now_ns)) {
        spin_agenda_set(cluster->agenda, index,
                        spin_sim_worker_next_ns(engine, cluster->config.stepwise));
    }
}

/* True when it went there. Refused, it is the first to go elsewhere. */
static bool send(struct cluster *cluster, struct request *request, uint32_t index)
{
    struct worker *worker = &cluster->workers[index];
    visit(cluster, index);
    if (spin_sim_worker_submit(worker->engine, cluster->now_ns, &request->asked) != SPIN_OK) {
        cluster->views[index].takes = false;
        cluster->stats.refusals++;
        return false;
    }
    spin_agenda_set(cluster->agenda, index,
                    spin_sim_worker_next_ns(worker->engine, cluster->config.stepwise));
    request->worker = index;
    request->sent_ns = cluster->now_ns;
    spin_worker_view_sent(&cluster->views[index], request->asked.prompt_tokens);
    cluster->stats.placements++;
    return true;
}

/* Places what waits: on `only`, when no other worker has got room since the last time, or anywhere.
 * Whether anybody has room does not depend on the request, so asking one is asking all. */
static void place_waiting(struct cluster *cluster, uint32_t only)
{
    for (;;) {
        struct spin_admission_entry *entry = spin_admission_peek(cluster->admission);
        if (entry == NULL) {
            return;
        }
        struct request *request = SPIN_CONTAINER_OF(entry, struct request, entry);
        const struct spin_placement_request wanted = {.prompt_tokens = request->asked.prompt_tokens,
                                                      .max_tokens = request->asked.output_tokens,
                                                      .avoid = SPIN_PLACEMENT_NONE};
        const bool any = only == NO_WORKER;
        const uint32_t chosen =
            any ? spin_placement_choose(cluster->views, cluster->config.workers, &wanted)
                : spin_placement_choose(&cluster->views[only], 1, &wanted);
        if (chosen == SPIN_PLACEMENT_NONE) {
            return;
        }
        spin_admission_pop(cluster->admission, entry);
        spin_list_remove(&cluster->waiting, &request->waiting);
        if (!send(cluster, request, any ? chosen : only)) {
            const spin_status status =
                spin_admission_push(cluster->admission, entry, cluster->now_ns, true, NULL);
            SPIN_ASSERT_EQ(status, SPIN_OK); /* no limit holds it back */
            spin_list_push_front(&cluster->waiting, &request->waiting);
        }
    }
}

/* --- events --- */

static void expire(struct cluster *cluster)
{
    for (;;) {
        struct spin_link *link = spin_list_first(&cluster->waiting);
        if (link == NULL) {
            return;
        }
        struct request *request = SPIN_CONTAINER_OF(link, struct request, waiting);
        if (request->asked.deadline_ns > cluster->now_ns) {
            return;
        }
        spin_list_remove(&cluster->waiting, link);
        spin_admission_remove(cluster->admission, &request->entry);
        end_request(cluster, request, SPIN_BENCH_TIMEOUT,
                    "the request's deadline has passed while it waited for a worker");
    }
}

static void refuse(struct cluster *cluster, const struct spin_sim_arrival *arrival,
                   enum spin_bench_outcome outcome, const char *text)
{
    struct spin_bench_request record = {.intended_ns = arrival->intended_ns,
                                        .sent_ns = arrival->sent_ns,
                                        .index = arrival->index,
                                        .asked_tokens = arrival->output_tokens,
                                        .prompt_tokens = arrival->prompt_tokens,
                                        .warm_up = arrival->warm_up};
    record_end(cluster, &record, outcome, text);
}

static void open_request(struct cluster *cluster, const struct spin_sim_arrival *arrival)
{
    struct request *request = &cluster->requests[cluster->free_requests[cluster->free_count - 1]];
    struct spin_error err;
    *request = (struct request){.asked = {.prompt_tokens = arrival->prompt_tokens,
                                          .output_tokens = arrival->output_tokens,
                                          .deadline_ns = spin_deadline_ns(
                                              cluster->now_ns, cluster->config.request_timeout_ns)},
                                .entry = {.tenant = 0, .prompt_tokens = arrival->prompt_tokens},
                                .record = {.intended_ns = arrival->intended_ns,
                                           .sent_ns = arrival->sent_ns,
                                           .index = arrival->index,
                                           .asked_tokens = arrival->output_tokens,
                                           .prompt_tokens = arrival->prompt_tokens,
                                           .warm_up = arrival->warm_up,
                                           .usage = true}};
    if (spin_admission_push(cluster->admission, &request->entry, cluster->now_ns, false, &err) !=
        SPIN_OK) {
        refuse(cluster, arrival, SPIN_BENCH_BUSY, err.text);
        return;
    }
    cluster->free_count--;
    cluster->open++;
    spin_list_push_back(&cluster->waiting, &request->waiting);
    if (cluster->waiting.count == 1) { /* else nobody has room */
        place_waiting(cluster, NO_WORKER);
    }
}

static void arrive(struct cluster *cluster, const struct spin_sim_arrival *arrival)
{
    const uint64_t tokens = (uint64_t)arrival->prompt_tokens + arrival->output_tokens;
    const uint32_t longest = cluster->config.engine->config.max_model_len;
    char text[160];
    cluster->source->pop(cluster->source->context);
    if (arrival->prompt_tokens == 0 || arrival->output_tokens == 0 || tokens > longest) {
        (void)snprintf(text, sizeof text,
                       "prompt of %u tokens and max_tokens %u: at least 1 each, together at most "
                       "max_model_len, %u",
                       arrival->prompt_tokens, arrival->output_tokens, longest);
        refuse(cluster, arrival, SPIN_BENCH_REFUSED, text);
    } else if (cluster->free_count == 0) {
        (void)snprintf(text, sizeof text, "%u generations are open, at most %u (max_generations)",
                       cluster->open, cluster->config.generations_max);
        refuse(cluster, arrival, SPIN_BENCH_BUSY, text);
    } else {
        open_request(cluster, arrival);
    }
}

static uint64_t next_status_ns(const struct cluster *cluster)
{
    const uint64_t workers = cluster->config.workers;
    const uint64_t interval_ns = cluster->config.status_interval_ns;
    return cluster->status_turn / workers * interval_ns +
           cluster->status_turn % workers * interval_ns / workers;
}

static void report(struct cluster *cluster)
{
    const uint32_t index = cluster->turns[cluster->status_turn % cluster->config.workers];
    struct worker *worker = &cluster->workers[index];
    struct spin_worker_view *view = &cluster->views[index];
    struct spin_sim_load load;
    cluster->status_turn++;
    cluster->stats.statuses++;
    visit(cluster, index);
    spin_sim_worker_get_load(worker->engine, &load);
    worker->status_ns = cluster->now_ns;
    view->takes = true;
    view->running = load.running;
    view->waiting = load.waiting;
    view->kv_tokens_used = load.kv_tokens_used;
    view->queued_prompt_tokens = load.queued_prompt_tokens;
    view->step_ns = load.step_ns;
    view->prefill_tokens_per_s = load.prefill_tokens_per_s;
    view->sent_sequences = 0;
    view->sent_prompt_tokens = 0;
    expire(cluster);
    place_waiting(cluster, index);
}

/* Ends when nobody is open and nobody comes: everybody who is open has a deadline. */
static spin_status run(struct cluster *cluster)
{
    const uint64_t events_max =
        cluster->config.events_max == 0 ? SPIN_SIM_EVENTS_MAX : cluster->config.events_max;
    while (cluster->status == SPIN_OK) {
        struct spin_sim_arrival arrival;
        uint32_t who = 0;
        const bool comes = cluster->source->peek(cluster->source->context, &arrival);
        if (!comes && cluster->open == 0) {
            return SPIN_OK;
        }
        const uint64_t arrival_ns =
            comes ? arrival.sent_ns + cluster->config.network_ns : SPIN_NO_DEADLINE;
        const uint64_t status_ns = next_status_ns(cluster);
        const uint64_t worker_ns = spin_agenda_next(cluster->agenda, &who);
        const uint64_t next_ns = SPIN_MIN(arrival_ns, SPIN_MIN(status_ns, worker_ns));
        SPIN_ASSERT_GE(next_ns, cluster->now_ns);
        cluster->now_ns = next_ns;
        if (++cluster->stats.events > events_max) {
            return spin_fail(cluster->err, SPIN_ERR_EXHAUSTED,
                             "%" PRIu64 " events at %.3f simulated seconds, and no end", events_max,
                             (double)next_ns / SPIN_NS_PER_S);
        }
        if (worker_ns == next_ns) {
            visit(cluster, who);
            place_waiting(cluster, who);
        } else if (status_ns == next_ns) {
            report(cluster);
        } else {
            arrive(cluster, &arrival);
        }
    }
    return cluster->status;
}

/* --- create and destroy --- */

static void shuffle_turns(struct cluster *cluster)
{
    struct spin_rng rng = {.seed = cluster->config.seed, .stream = 0x5349};
    for (uint32_t i = 0; i < cluster->config.workers; i++) {
        const uint32_t j = spin_rng_below(&rng, i + 1);
        cluster->turns[i] = cluster->turns[j];
        cluster->turns[j] = i;
    }
}

static spin_status create_workers(struct cluster *cluster)
{
    const struct spin_sim_config *config = &cluster->config;
    const struct spin_step_engine *engine = &config->engine->config;
    const struct spin_sim_sink sink = {
        .context = cluster, .tokens = on_tokens, .finished = on_finished};
    for (uint32_t i = 0; i < config->workers; i++) {
        cluster->views[i] =
            (struct spin_worker_view){.takes = true,
                                      .sequences_max = engine->max_num_seqs,
                                      .queue_max = engine->max_waiting,
                                      .kv_tokens = (uint64_t)engine->kv_blocks * SPIN_BLOCK_TOKENS};
        SPIN_TRY(spin_sim_worker_create(config->engine, &sink, &cluster->workers[i].engine,
                                        cluster->err));
    }
    return SPIN_OK;
}

static spin_status build(struct cluster *cluster)
{
    const struct spin_sim_config *config = &cluster->config;
    const struct spin_admission_config admission = {.queue_max = config->queue_max,
                                                    .tenant_queue_max = config->tenant_queue_max,
                                                    .tenant_count = 1,
                                                    .token_cost_ns = TOKEN_COST_NS,
                                                    .quantum_tokens = QUANTUM_TOKENS};
    spin_list_init(&cluster->waiting);
    SPIN_TRY(spin_admission_create(&admission, &cluster->admission, cluster->err));
    SPIN_TRY(spin_agenda_create(config->workers, &cluster->agenda, cluster->err));
    cluster->workers = calloc(config->workers, sizeof *cluster->workers);
    cluster->views = calloc(config->workers, sizeof *cluster->views);
    cluster->turns = calloc(config->workers, sizeof *cluster->turns);
    cluster->requests = calloc(config->generations_max, sizeof *cluster->requests);
    cluster->free_requests = calloc(config->generations_max, sizeof *cluster->free_requests);
    if (cluster->workers == NULL || cluster->views == NULL || cluster->turns == NULL ||
        cluster->requests == NULL || cluster->free_requests == NULL) {
        return spin_fail(cluster->err, SPIN_ERR_NO_MEMORY, "%u workers, %u generations",
                         config->workers, config->generations_max);
    }
    for (uint32_t i = 0; i < config->generations_max; i++) {
        cluster->free_requests[i] = config->generations_max - 1 - i;
    }
    cluster->free_count = config->generations_max;
    shuffle_turns(cluster);
    return create_workers(cluster);
}

static void sum_up(struct cluster *cluster)
{
    struct spin_sim_worker_stats *sum = &cluster->stats.workers;
    for (uint32_t i = 0; i < cluster->config.workers; i++) {
        struct spin_sim_worker_stats stats;
        spin_sim_worker_get_stats(cluster->workers[i].engine, &stats);
        sum->commands += stats.commands;
        sum->decode_steps += stats.decode_steps;
        sum->units += stats.units;
        sum->busy_ns += stats.busy_ns;
        sum->preemptions += stats.preemptions;
        sum->suspensions += stats.suspensions;
        sum->beyond += stats.beyond;
    }
}

/* A run that failed leaves requests in the queue. */
static void clear(struct cluster *cluster)
{
    for (uint32_t i = 0; cluster->workers != NULL && i < cluster->config.workers; i++) {
        spin_sim_worker_destroy(cluster->workers[i].engine);
    }
    while (cluster->waiting.count > 0) {
        struct request *request =
            SPIN_CONTAINER_OF(spin_list_first(&cluster->waiting), struct request, waiting);
        spin_list_remove(&cluster->waiting, &request->waiting);
        spin_admission_remove(cluster->admission, &request->entry);
    }
    spin_admission_destroy(cluster->admission);
    spin_agenda_destroy(cluster->agenda);
    free(cluster->workers);
    free(cluster->views);
    free(cluster->turns);
    free(cluster->requests);
    free(cluster->free_requests);
}

spin_status spin_sim_run(const struct spin_sim_config *config, const struct spin_sim_source *source,
                         struct spin_bench_result *result, struct spin_sim_stats *out_stats,
                         struct spin_error *err)
{
    SPIN_ASSERT_GE(config->workers, 1);
    SPIN_ASSERT_LE(config->workers, SPIN_SIM_WORKERS_MAX);
    SPIN_ASSERT_GE(config->generations_max, 1);
    SPIN_ASSERT_GE(config->status_interval_ns, 1);
    SPIN_ASSERT_LT(config->request_timeout_ns, SPIN_NO_DEADLINE); /* so every run ends */
    struct cluster cluster = {
        .config = *config, .source = source, .result = result, .status = SPIN_OK, .err = err};
    spin_status status = build(&cluster);
    if (status == SPIN_OK) {
        status = run(&cluster);
    }
    if (status == SPIN_OK) {
        sum_up(&cluster);
        result->end_ns = cluster.last_end_ns;
        *out_stats = cluster.stats;
    }
    clear(&cluster);
    return status;
}
