#include "bench/router/stub_streams.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/mutex.h"
#include "proto/spin/v1/worker.pb-c.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define TICK_NS SPIN_NS_PER_MS
#define BUCKETS 1024u /* ticks of one turn; what is due later goes round again */
#define TOP_MAX 20u   /* as a worker's limit */
#define HOLD_POLL_NS (10 * SPIN_NS_PER_MS)

/* One generation. Pacer thread, but where it says otherwise. */
struct stream {
    struct spin_link link;      /* arrived (under the mutex), then held or a bucket */
    struct spin_link left_link; /* under the mutex */
    bool ended;                 /* under the mutex: the call may be gone at any moment */
    struct spin_stub_streams *streams;
    struct spin_rpc_call *call;
    struct spin_list *list; /* where it is: held or a bucket; NULL: arrived */
    uint64_t key;
    uint64_t due_ns;
    uint32_t row; /* of the file of times */
    uint32_t prompt_tokens;
    uint32_t max_tokens;
    uint32_t place; /* of the next token */
    bool logprobs;
    uint32_t top; /* alternatives beside every token */
};

struct spin_stub_streams {
    struct spin_stub_config config;
    uint64_t interval_ns;
    uint64_t phase_ns; /* of the steps: workers are not in step with each other */
    pthread_t thread;
    struct spin_mutex mutex; /* the four below */
    struct spin_cond cond;
    struct spin_list arrived;
    struct spin_list left;
    struct spin_stub_counts counts;
    bool stopping;
    /* The pacer's. */
    struct spin_list held;
    struct spin_list buckets[BUCKETS];
    uint64_t tick; /* the last one that was served */
    uint32_t wheel_count;
};

static uint64_t now_ns(void)
{
    return spin_now_ns(spin_clock_real());
}

uint32_t spin_stub_stream_bytes(void)
{
    return sizeof(struct stream);
}

static uint64_t reserved_tokens(const struct stream *stream)
{
    return (uint64_t)stream->prompt_tokens + stream->max_tokens;
}

/* --- ending --- */

/* After this `gone` does not touch the stream any more. */
static void forget(struct stream *stream)
{
    struct spin_stub_streams *streams = stream->streams;
    spin_mutex_lock(&streams->mutex);
    stream->ended = true;
    if (stream->left_link.next != NULL) {
        spin_list_remove(&streams->left, &stream->left_link);
    }
    if (stream->list == NULL) { /* it left before it was looked at */
        spin_list_remove(&streams->arrived, &stream->link);
    }
    streams->counts.running--;
    streams->counts.kv_tokens -= reserved_tokens(stream);
    if (stream->list == &streams->held) {
        streams->counts.held--;
        streams->counts.prompt_tokens_held -= stream->prompt_tokens;
    }
    spin_mutex_unlock(&streams->mutex);
    if (stream->list != NULL) {
        spin_list_remove(stream->list, &stream->link);
        streams->wheel_count -= stream->list != &streams->held ? 1 : 0;
    }
}

static void end_with(struct stream *stream, spin_status status, const char *text)
{
    forget(stream);
    spin_rpc_call_finish(stream->call, status, text);
}

static void end_well(struct stream *stream)
{
    forget(stream);
    Spin__V1__Usage usage;
    spin__v1__usage__init(&usage);
    usage.prompt_tokens = stream->prompt_tokens;
    usage.completion_tokens = stream->place;
    Spin__V1__Finish finish;
    spin__v1__finish__init(&finish);
    finish.reason = SPIN__V1__FINISH_REASON__FINISH_LENGTH;
    finish.usage = &usage;
    Spin__V1__GenerateResponse response;
    spin__v1__generate_response__init(&response);
    response.finish = &finish;
    spin_rpc_call_append(stream->call, &response.base);
    spin_rpc_call_finish(stream->call, SPIN_OK, NULL);
}

/* --- drawing --- */

/* As a worker's: the token itself is the most likely. */
static void fill_top(Spin__V1__Token *token, Spin__V1__TokenLogprob *top, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        spin__v1__token_logprob__init(&top[i]);
        top[i].token = 'a' + (token->token - 'a' + (int32_t)i) % 26;
        top[i].logprob = token->logprob - (float)i;
        token->top[i] = &top[i];
    }
    token->n_top = count;
}

static void send_token(struct stream *stream)
{
    Spin__V1__TokenLogprob top[TOP_MAX];
    Spin__V1__TokenLogprob *top_list[TOP_MAX];
    Spin__V1__Token token;
    spin__v1__token__init(&token);
    token.token = spin_stub_token(stream->key, stream->place);
    token.logprob = stream->logprobs ? -1.0F : 0.0F;
    token.top = top_list;
    fill_top(&token, top, stream->top);
    Spin__V1__Token *list[1] = {&token};
    Spin__V1__GenerateResponse response;
    spin__v1__generate_response__init(&response);
    response.tokens = list;
    response.n_tokens = 1;
    if (stream->streams->config.times != NULL) {
        spin_stub_times_set(stream->streams->config.times, stream->row, stream->place, now_ns());
    }
    spin_rpc_call_append(stream->call, &response.base);
    stream->place++;
}

static void put_in_wheel(struct spin_stub_streams *streams, struct stream *stream)
{
    const uint64_t tick = SPIN_MAX(stream->due_ns / TICK_NS, streams->tick + 1);
    stream->list = &streams->buckets[tick % BUCKETS];
    spin_list_push_back(stream->list, &stream->link);
    streams->wheel_count++;
}

static void serve(struct spin_stub_streams *streams, struct stream *stream, uint64_t now)
{
    while (stream->due_ns <= now && stream->place < stream->max_tokens) {
        send_token(stream);
        stream->due_ns += streams->interval_ns;
    }
    if (stream->place == stream->max_tokens) {
        end_well(stream);
        return;
    }
    spin_list_remove(stream->list, &stream->link);
    streams->wheel_count--;
    put_in_wheel(streams, stream);
}

static void serve_bucket(struct spin_stub_streams *streams, struct spin_list *bucket, uint64_t now)
{
    for (uint32_t left = bucket->count; left != 0; left--) {
        serve(streams, SPIN_CONTAINER_OF(spin_list_first(bucket), struct stream, link), now);
    }
}

/* Everything that is due. A pacer that fell behind sends what it owes at once: the load is what was
 * asked for, not what the machine found convenient. */
static void turn_wheel(struct spin_stub_streams *streams)
{
    const uint64_t now = now_ns();
    const uint64_t last = now / TICK_NS;
    if (last - streams->tick > BUCKETS) {
        streams->tick = last - BUCKETS;
    }
    while (streams->tick < last) {
        streams->tick++;
        serve_bucket(streams, &streams->buckets[streams->tick % BUCKETS], now);
    }
}

static void begin(struct spin_stub_streams *streams, struct stream *stream)
{
    stream->due_ns = now_ns() + streams->config.ttft_ns;
    if (streams->config.pattern == SPIN_STUB_STEP) {
        const uint64_t step = (stream->due_ns - streams->phase_ns) / streams->interval_ns + 1;
        stream->due_ns = step * streams->interval_ns + streams->phase_ns;
    }
    put_in_wheel(streams, stream);
}

/* --- the pacer --- */

static bool holds(const struct spin_stub_streams *streams)
{
    return streams->config.hold_file != NULL && access(streams->config.hold_file, F_OK) == 0;
}

static void hold(struct spin_stub_streams *streams, struct stream *stream)
{
    stream->list = &streams->held;
    spin_list_push_back(&streams->held, &stream->link);
    spin_mutex_lock(&streams->mutex);
    streams->counts.held++;
    streams->counts.prompt_tokens_held += stream->prompt_tokens;
    spin_mutex_unlock(&streams->mutex);
}

static void release_held(struct spin_stub_streams *streams)
{
    while (streams->held.count != 0) {
        struct stream *stream =
            SPIN_CONTAINER_OF(spin_list_first(&streams->held), struct stream, link);
        spin_list_remove(&streams->held, &stream->link);
        spin_mutex_lock(&streams->mutex);
        streams->counts.held--;
        streams->counts.prompt_tokens_held -= stream->prompt_tokens;
        spin_mutex_unlock(&streams->mutex);
        begin(streams, stream);
    }
}

/* The next of `list`, taken out under the mutex; NULL: none. */
static struct spin_link *take(struct spin_stub_streams *streams, struct spin_list *list)
{
    spin_mutex_lock(&streams->mutex);
    struct spin_link *link = spin_list_first(list);
    if (link != NULL) {
        spin_list_remove(list, link);
    }
    spin_mutex_unlock(&streams->mutex);
    return link;
}

static void take_arrivals(struct spin_stub_streams *streams)
{
    struct spin_link *link;
    while ((link = take(streams, &streams->arrived)) != NULL) {
        struct stream *stream = SPIN_CONTAINER_OF(link, struct stream, link);
        if (holds(streams)) {
            hold(streams, stream);
        } else {
            begin(streams, stream);
        }
    }
    if (streams->held.count != 0 && !holds(streams)) {
        release_held(streams);
    }
}

static void take_leavers(struct spin_stub_streams *streams)
{
    struct spin_link *link;
    while ((link = take(streams, &streams->left)) != NULL) {
        end_with(SPIN_CONTAINER_OF(link, struct stream, left_link), SPIN_ERR_CANCELLED,
                 "the client left");
    }
}

static uint64_t next_look_ns(const struct spin_stub_streams *streams)
{
    if (streams->wheel_count != 0) {
        return (streams->tick + 1) * TICK_NS;
    }
    return streams->held.count != 0 ? now_ns() + HOLD_POLL_NS : SPIN_NO_DEADLINE;
}

/* False: stop. */
static bool wait_for_work(struct spin_stub_streams *streams)
{
    const uint64_t deadline_ns = next_look_ns(streams);
    spin_mutex_lock(&streams->mutex);
    bool in_time = true;
    while (in_time && !streams->stopping && streams->arrived.count == 0 &&
           streams->left.count == 0) {
        in_time = spin_cond_wait(&streams->cond, &streams->mutex, deadline_ns);
    }
    const bool stopping = streams->stopping;
    spin_mutex_unlock(&streams->mutex);
    return !stopping;
}

static void end_all(struct spin_list *list)
{
    while (list->count != 0) {
        end_with(SPIN_CONTAINER_OF(spin_list_first(list), struct stream, link), SPIN_ERR_SHUTDOWN,
                 "the worker is shutting down");
    }
}

static void *pace(void *argument)
{
    struct spin_stub_streams *streams = argument;
    streams->tick = now_ns() / TICK_NS;
    while (wait_for_work(streams)) {
        take_arrivals(streams);
        take_leavers(streams);
        turn_wheel(streams);
    }
    take_arrivals(streams);
    end_all(&streams->held);
    for (uint32_t i = 0; i < BUCKETS; i++) {
        end_all(&streams->buckets[i]);
    }
    return NULL;
}

/* --- the rpc thread --- */

static spin_status read_request(struct stream *stream, const Spin__V1__GenerateRequest *request,
                                struct spin_error *err)
{
    const Spin__V1__Sampling *sampling = request->sampling;
    if (sampling == NULL || request->n_prompt_tokens == 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "%s: missing",
                         sampling == NULL ? "sampling" : "prompt_tokens");
    }
    if (request->n_resumed_tokens > sampling->max_tokens) {
        return spin_fail(err, SPIN_ERR_INVALID, "resumed_tokens: %zu, max_tokens is %u",
                         request->n_resumed_tokens, sampling->max_tokens);
    }
    stream->key = spin_stub_key(request->prompt_tokens, request->n_prompt_tokens, sampling->seed);
    for (uint32_t i = 0; i < request->n_resumed_tokens; i++) {
        const int32_t drawn = spin_stub_token(stream->key, i);
        if (request->resumed_tokens[i] != drawn) {
            return spin_fail(err, SPIN_ERR_INVALID, "resumed_tokens[%u]: %d, this worker drew %d",
                             i, request->resumed_tokens[i], drawn);
        }
    }
    stream->row = spin_stub_stream(request->prompt_tokens, request->n_prompt_tokens);
    stream->prompt_tokens = (uint32_t)request->n_prompt_tokens;
    stream->max_tokens = sampling->max_tokens;
    stream->place = (uint32_t)request->n_resumed_tokens;
    stream->logprobs = sampling->logprobs;
    stream->top = SPIN_MIN(sampling->top_logprobs, TOP_MAX);
    return SPIN_OK;
}

static bool arrive(struct spin_stub_streams *streams, struct stream *stream)
{
    spin_mutex_lock(&streams->mutex);
    const bool open = !streams->stopping;
    if (open) {
        streams->counts.running++;
        streams->counts.kv_tokens += reserved_tokens(stream);
        spin_list_push_back(&streams->arrived, &stream->link);
        spin_cond_signal(&streams->cond);
    }
    spin_mutex_unlock(&streams->mutex);
    return open;
}

void spin_stub_generate_start(void *context, struct spin_rpc_call *call,
                              const struct ProtobufCMessage *request)
{
    struct stream *stream = spin_rpc_call_state(call);
    stream->streams = context;
    stream->call = call;
    struct spin_error err = {0};
    const spin_status status =
        read_request(stream, (const Spin__V1__GenerateRequest *)request, &err);
    if (status != SPIN_OK) {
        spin_rpc_call_finish(call, status, err.text);
    } else if (!arrive(context, stream)) {
        spin_rpc_call_finish(call, SPIN_ERR_SHUTDOWN, "the worker is shutting down");
    }
}

void spin_stub_generate_gone(void *context, struct spin_rpc_call *call)
{
    struct spin_stub_streams *streams = context;
    struct stream *stream = spin_rpc_call_state(call);
    spin_mutex_lock(&streams->mutex);
    if (!stream->ended) {
        spin_list_push_back(&streams->left, &stream->left_link);
        spin_cond_signal(&streams->cond);
    }
    spin_mutex_unlock(&streams->mutex);
}

/* --- the whole --- */

spin_status spin_stub_streams_create(const struct spin_stub_config *config,
                                     struct spin_stub_streams **out, struct spin_error *err)
{
    SPIN_ASSERT(config->tokens_per_s > 0);
    struct spin_stub_streams *streams = calloc(1, sizeof *streams);
    if (streams == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "streams: %zu bytes", sizeof *streams);
    }
    streams->config = *config;
    streams->interval_ns =
        SPIN_MAX((uint64_t)llround((double)SPIN_NS_PER_S / config->tokens_per_s), 1);
    streams->phase_ns = now_ns() % streams->interval_ns;
    spin_mutex_init(&streams->mutex);
    spin_cond_init(&streams->cond);
    spin_list_init(&streams->arrived);
    spin_list_init(&streams->left);
    spin_list_init(&streams->held);
    for (uint32_t i = 0; i < BUCKETS; i++) {
        spin_list_init(&streams->buckets[i]);
    }
    if (pthread_create(&streams->thread, NULL, pace, streams) != 0) {
        free(streams);
        return spin_fail(err, SPIN_ERR_EXHAUSTED, "no thread for the pacer");
    }
    *out = streams;
    return SPIN_OK;
}

void spin_stub_streams_stop(struct spin_stub_streams *streams)
{
    spin_mutex_lock(&streams->mutex);
    streams->stopping = true;
    spin_cond_signal(&streams->cond);
    spin_mutex_unlock(&streams->mutex);
    (void)pthread_join(streams->thread, NULL);
}

void spin_stub_streams_destroy(struct spin_stub_streams *streams)
{
    if (streams != NULL) {
        spin_cond_deinit(&streams->cond);
        spin_mutex_deinit(&streams->mutex);
        free(streams);
    }
}

struct spin_stub_counts spin_stub_streams_counts(struct spin_stub_streams *streams)
{
    spin_mutex_lock(&streams->mutex);
    const struct spin_stub_counts counts = streams->counts;
    spin_mutex_unlock(&streams->mutex);
    return counts;
}
