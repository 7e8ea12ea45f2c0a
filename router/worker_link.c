#include "router/worker_link.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mutex.h"
#include "proto/rpc_server.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FAILED_PAUSE_FIRST_NS (100 * SPIN_NS_PER_MS)
#define FAILED_PAUSE_MAX_NS (5 * SPIN_NS_PER_S)
#define FULL_PAUSE_FIRST_NS (20 * SPIN_NS_PER_MS)
#define FULL_PAUSE_MAX_NS (500 * SPIN_NS_PER_MS)

/* A worker's messages are at most its outbox. The smallest alternative takes two bytes on the wire
 * and forty in memory. */
#define RESPONSE_BYTES_MAX SPIN_RPC_MESSAGE_BYTES_MAX
#define RESPONSE_ARENA_BYTES (24 * SPIN_RPC_MESSAGE_BYTES_MAX)

/*   rpc thread:  message --> filling, post once --+           the mutex guards `filling` and
 *   loop:                        reading <--------+ swap      `posted`, and nothing else
 *
 * After `closed` a post is under way or has been taken, so the call is destroyed in its own run. */
struct spin_worker_call {
    struct spin_loop_message message; /* first: run gets it */
    struct spin_worker_call_config config;
    struct spin_link of_link;
    struct spin_rpc_client_call *rpc;
    uint64_t made_ns;
    bool abandoned;
    bool orphaned; /* the link is gone */
    struct spin_worker_inbox reading;

    struct spin_mutex mutex;
    struct spin_worker_inbox filling;
    uint32_t tokens_seen; /* rpc thread */
    uint32_t prompt_seen;
    bool overflow; /* rpc thread: no memory for what came */
    bool posted;
};

/* --- links --- */

spin_status spin_worker_link_create(struct spin_rpc_thread *thread,
                                    const struct spin_rpc_client_config *config,
                                    const struct spin_member *member, struct spin_worker_link **out,
                                    struct spin_error *err)
{
    struct spin_worker_link *link = calloc(1, sizeof *link);
    if (link == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "link to %s: %zu bytes", member->id,
                         sizeof *link);
    }
    const spin_status status = spin_rpc_client_create(thread, config, &link->client, err);
    if (status != SPIN_OK) {
        free(link);
        return status;
    }
    memcpy(link->id, member->id, sizeof link->id);
    memcpy(link->address, member->address, sizeof link->address);
    link->heard_ns = member->heard_ns;
    spin_list_init(&link->calls);
    *out = link;
    return SPIN_OK;
}

void spin_worker_link_destroy(struct spin_worker_link *link)
{
    if (link == NULL) {
        return;
    }
    spin_rpc_client_destroy(link->client); /* every call is closed now, and posted */
    SPIN_LIST_FOREACH (&link->calls, at) {
        struct spin_worker_call *call = SPIN_CONTAINER_OF(at, struct spin_worker_call, of_link);
        SPIN_ASSERT(call->abandoned);
        call->orphaned = true;
    }
    free(link);
}

bool spin_worker_link_is_paused(const struct spin_worker_link *link, uint64_t now_ns)
{
    return now_ns < link->failed_until_ns || now_ns < link->full_until_ns;
}

bool spin_worker_link_is_sound(const struct spin_worker_link *link)
{
    return link->failures == 0 || link->recovering;
}

static uint64_t pause_ns(uint64_t first_ns, uint64_t max_ns, uint32_t times)
{
    const uint32_t doublings = SPIN_MIN(times - 1, 16);
    return SPIN_MIN(first_ns << doublings, max_ns);
}

void spin_worker_link_failed(struct spin_worker_link *link, const char *text, uint64_t now_ns)
{
    if (now_ns < link->failed_until_ns) {
        return; /* many streams break at once: that is one failure */
    }
    link->failures++;
    link->recovering = false;
    link->failed_ns = now_ns;
    const uint64_t pause = pause_ns(FAILED_PAUSE_FIRST_NS, FAILED_PAUSE_MAX_NS, link->failures);
    link->failed_until_ns = spin_deadline_ns(now_ns, pause);
    SPIN_WARN("worker failed: id=%s address=%s in_a_row=%u pause_ms=%" PRIu64 ": %s", link->id,
              link->address, link->failures, pause / SPIN_NS_PER_MS, text);
}

void spin_worker_link_full(struct spin_worker_link *link, uint64_t now_ns)
{
    if (now_ns < link->full_until_ns) {
        return;
    }
    link->refusals++;
    const uint64_t pause = pause_ns(FULL_PAUSE_FIRST_NS, FULL_PAUSE_MAX_NS, link->refusals);
    link->full_until_ns = spin_deadline_ns(now_ns, pause);
}

void spin_worker_link_forgive(struct spin_worker_link *link)
{
    link->failures = 0;
    link->failed_until_ns = 0;
    link->refusals = 0;
    link->full_until_ns = 0;
}

/* Something came on a call that was made at made_ns. */
static void hear(struct spin_worker_link *link, uint64_t made_ns, uint64_t now_ns, bool finished)
{
    link->heard_ns = now_ns;
    link->refusals = 0; /* but the pause stands: the next may be refused again */
    if (link->failures == 0 || made_ns <= link->failed_ns) {
        return;
    }
    link->recovering = true;
    if (finished) {
        SPIN_INFO("worker works again: id=%s address=%s", link->id, link->address);
        link->failures = 0;
        link->failed_until_ns = 0;
    }
}

/* --- calls: the rpc thread's side --- */

static void post(struct spin_worker_call *call)
{
    if (!call->posted) {
        call->posted = true;
        spin_loop_post(call->config.loop, &call->message);
    }
}

static spin_status append(struct spin_token_buffer *buffer, const Spin__V1__Token *token,
                          bool logprobs)
{
    struct spin_generation_alternative top[SPIN_TOP_LOGPROBS_LIMIT];
    const uint32_t count = (uint32_t)SPIN_MIN(token->n_top, SPIN_TOP_LOGPROBS_LIMIT);
    for (uint32_t i = 0; i < count; i++) {
        top[i] = (struct spin_generation_alternative){token->top[i]->token, token->top[i]->logprob};
    }
    const struct spin_generation_token copy = {.token = token->token,
                                               .logprob = logprobs ? token->logprob : NAN,
                                               .top = top,
                                               .top_count = count};
    return spin_token_buffer_append(buffer, &copy);
}

static spin_status append_all(struct spin_worker_call *call,
                              const Spin__V1__GenerateResponse *response)
{
    const struct spin_worker_call_config *config = &call->config;
    /* What goes beyond what was asked for is dropped here: it must not fill the memory. */
    for (size_t i = 0; i < response->n_prompt && call->prompt_seen < config->prompt_max; i++) {
        call->prompt_seen++;
        SPIN_TRY(append(&call->filling.prompt, response->prompt[i], true));
    }
    for (size_t i = 0; i < response->n_tokens && call->tokens_seen < config->tokens_max; i++) {
        call->tokens_seen++;
        SPIN_TRY(append(&call->filling.tokens, response->tokens[i], config->logprobs));
    }
    return SPIN_OK;
}

static void on_message(void *context, const struct ProtobufCMessage *message)
{
    struct spin_worker_call *call = context;
    const Spin__V1__GenerateResponse *response = (const Spin__V1__GenerateResponse *)message;
    spin_mutex_lock(&call->mutex);
    if (!call->overflow && append_all(call, response) != SPIN_OK) {
        call->overflow = true;
    }
    if (response->finish != NULL) {
        call->filling.finished = true;
        call->filling.finish.reason = response->finish->reason;
        call->filling.finish.stop_token = response->finish->stop_token;
        if (response->finish->usage != NULL) {
            call->filling.usage = *response->finish->usage;
            call->filling.usage.base.n_unknown_fields = 0; /* they are the message's */
            call->filling.usage.base.unknown_fields = NULL;
        }
    }
    post(call);
    spin_mutex_unlock(&call->mutex);
}

static void on_finished(void *context, const struct spin_rpc_outcome *outcome)
{
    struct spin_worker_call *call = context;
    spin_mutex_lock(&call->mutex);
    call->filling.closed = true;
    call->filling.status = outcome->status;
    (void)snprintf(call->filling.text, sizeof call->filling.text, "%s", outcome->text);
    if (call->overflow) {
        call->filling.finished = false; /* tokens are missing: what it said does not count */
        call->filling.status = SPIN_ERR_NO_MEMORY;
        (void)snprintf(call->filling.text, sizeof call->filling.text, "no memory for its tokens");
    }
    post(call);
    spin_mutex_unlock(&call->mutex);
    /* The loop may run and destroy the call from here on. */
}

/* --- calls: the loop's side --- */

static void call_free(struct spin_worker_call *call)
{
    spin_rpc_client_call_release(call->rpc);
    spin_mutex_deinit(&call->mutex);
    spin_token_buffer_deinit(&call->reading.tokens);
    spin_token_buffer_deinit(&call->reading.prompt);
    spin_token_buffer_deinit(&call->filling.tokens);
    spin_token_buffer_deinit(&call->filling.prompt);
    free(call);
}

/* Takes what came; the empty buffers go back, with their room. */
static void take_inbox(struct spin_worker_call *call)
{
    call->reading.tokens.count = 0;
    call->reading.tokens.top_count = 0;
    call->reading.prompt.count = 0;
    call->reading.prompt.top_count = 0;
    spin_mutex_lock(&call->mutex);
    const struct spin_worker_inbox taken = call->filling;
    call->filling.tokens = call->reading.tokens;
    call->filling.prompt = call->reading.prompt;
    call->posted = false;
    spin_mutex_unlock(&call->mutex);
    call->reading = taken;
}

static void run(struct spin_loop_message *message)
{
    struct spin_worker_call *call = (struct spin_worker_call *)message;
    take_inbox(call);
    const bool closed = call->reading.closed;
    const bool spoke =
        call->reading.tokens.count > 0 || call->reading.prompt.count > 0 || call->reading.finished;
    if (!call->orphaned && spoke) {
        hear(call->config.link, call->made_ns, spin_loop_now_ns(call->config.loop),
             call->reading.finished);
    }
    if (!call->abandoned) {
        call->config.ready(call->config.context, call, &call->reading);
    }
    if (closed) {
        if (!call->orphaned) {
            spin_list_remove(&call->config.link->calls, &call->of_link);
        }
        call_free(call);
    }
}

spin_status spin_worker_call_create(const struct spin_worker_call_config *config,
                                    struct spin_worker_call **out, struct spin_error *err)
{
    struct spin_worker_call *call = calloc(1, sizeof *call);
    if (call == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "call: %zu bytes", sizeof *call);
    }
    call->message.run = run;
    call->config = *config;
    call->config.message = NULL; /* borrowed only now */
    call->made_ns = spin_loop_now_ns(config->loop);
    spin__v1__usage__init(&call->filling.usage);
    spin_mutex_init(&call->mutex);
    const struct spin_rpc_request request = {.path = "/spin.v1.Worker/Generate",
                                             .message = &config->message->base,
                                             .response = &spin__v1__generate_response__descriptor,
                                             .response_bytes_max = RESPONSE_BYTES_MAX,
                                             .arena_bytes_max = RESPONSE_ARENA_BYTES,
                                             .deadline_ns = config->deadline_ns,
                                             .context = call,
                                             .message_received = on_message,
                                             .finished = on_finished};
    const spin_status status =
        spin_rpc_client_submit(config->link->client, &request, &call->rpc, err);
    if (status != SPIN_OK) {
        call_free(call);
        return status;
    }
    spin_list_push_back(&config->link->calls, &call->of_link);
    *out = call;
    return SPIN_OK;
}

struct spin_worker_link *spin_worker_call_link(const struct spin_worker_call *call)
{
    return call->config.link;
}

void spin_worker_call_abandon(struct spin_worker_call *call)
{
    call->abandoned = true;
    spin_rpc_client_call_cancel(call->rpc);
}
