/* One router: dial, say hello, be welcomed, say how it goes, and again after every end. */
#include "base/assert.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "proto/join_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JOIN_PATH "/spin.v1.Cluster/Join"
/* A router that takes the stream and says nothing is none. */
#define WELCOME_LIMIT_NS (5 * SPIN_NS_PER_S)
#define PAUSE_FIRST_NS (100 * SPIN_NS_PER_MS)
#define PAUSE_MAX_NS (5 * SPIN_NS_PER_S)
#define PAUSE_DOUBLINGS_MAX 6u /* 100 ms << 6 is over the maximum */
/* What a router may ask for. */
#define INTERVAL_MIN_MS 50u
#define INTERVAL_MAX_MS 10000u
/* A welcome is a few dozen bytes. */
#define WELCOME_BYTES_MAX (UINT64_C(64) << 10)
/* What waits for the wire: a status takes up to about 4.5 KB, nearly all of it the 32 requests of a
 * worker, so a dozen of them; the goodbye is not to be the one that finds no room. */
#define OUTBOX_BYTES (UINT64_C(64) << 10)
#define GOODBYE_BYTES UINT64_C(256) /* with its length field */
#define REASON_BYTES_MAX 200u       /* of a goodbye */

/* --- on the rpc thread --- */

static void on_message(void *context, const struct ProtobufCMessage *message)
{
    struct spin_join_link *link = context;
    const Spin__V1__Welcome *welcome = ((const Spin__V1__RouterMessage *)message)->welcome;
    if (welcome == NULL || link->welcome.posted) {
        return; /* a newer router's words, or a second welcome */
    }
    link->welcome.posted = true;
    link->welcome.interval_ms = welcome->status_interval_ms;
    (void)snprintf(link->welcome.router_id, sizeof link->welcome.router_id, "%s",
                   welcome->router_id);
    spin_loop_post(link->join->loop, &link->welcome.message);
}

static void on_finished(void *context, const struct spin_rpc_outcome *outcome)
{
    struct spin_join_link *link = context;
    link->ended.status = outcome->status;
    (void)snprintf(link->ended.text, sizeof link->ended.text, "%s",
                   outcome->status == SPIN_OK ? "the router ended the stream" : outcome->text);
    spin_loop_post(link->join->loop, &link->ended.message);
}

/* --- on the loop --- */

static void pause_then_dial(struct spin_join_link *link)
{
    const uint32_t doublings = SPIN_MIN(link->failures, PAUSE_DOUBLINGS_MAX);
    const uint64_t pause_ns = SPIN_MIN(PAUSE_FIRST_NS << doublings, PAUSE_MAX_NS);
    /* A router that comes back is not dialled by all its members in the same moment. */
    const double jitter = 0.5 + 0.5 * spin_rng_uniform(&link->join->rng);
    link->state = SPIN_JOIN_PAUSED;
    spin_timer_start(link->timer, (uint64_t)((double)pause_ns * jitter), false);
}

static void log_end(struct spin_join_link *link, bool was_joined)
{
    const char *why = link->reason != NULL ? link->reason : link->ended.text;
    if (was_joined) {
        SPIN_WARN("router lost: router=%s id=%s why=%s", link->address, link->router_id, why);
    } else if (link->failures == 0 || link->failure_logged != link->ended.status) {
        SPIN_WARN("cannot join, trying again: router=%s why=%s", link->address, why);
        link->failure_logged = link->ended.status;
    }
}

static void end_stream(struct spin_join_link *link)
{
    const bool was_joined = link->state == SPIN_JOIN_JOINED;
    const bool asked_for = link->state == SPIN_JOIN_ENDING && link->reason == NULL;
    if (!asked_for) {
        log_end(link, was_joined);
    }
    link->failures += (was_joined || asked_for) ? 0 : 1;
    link->reason = NULL;
    pause_then_dial(link);
    spin_join_link_is_over(link->join, link);
}

/* While the call is open its end frees the memory. */
static void release(struct spin_join_link *link)
{
    if (!link->open) {
        free(link);
    }
}

static void on_ended(struct spin_loop_message *message)
{
    struct spin_join_link *link = SPIN_CONTAINER_OF(message, struct spin_join_link, ended.message);
    link->open = false;
    if (link->join == NULL) {
        release(link);
        return;
    }
    spin_rpc_client_call_release(link->call);
    link->call = NULL;
    end_stream(link);
}

static void send_status(struct spin_join_link *link)
{
    const struct spin_join_config *config = &link->join->config;
    Spin__V1__MemberStatus status;
    spin__v1__member_status__init(&status);
    config->fill_status(config->context, &status);
    Spin__V1__MemberMessage message;
    spin__v1__member_message__init(&message);
    message.status = &status;
    if (spin_rpc_client_call_send(link->call, &message.base, GOODBYE_BYTES) != SPIN_OK) {
        /* A router that does not read misses a status; the next one says all again. */
        SPIN_DEBUG_LOG("status dropped: router=%s", link->address);
    }
}

static void on_welcome(struct spin_loop_message *message)
{
    struct spin_join_link *link =
        SPIN_CONTAINER_OF(message, struct spin_join_link, welcome.message);
    if (link->join == NULL || link->state != SPIN_JOIN_WAITING) {
        return; /* we have given up on it meanwhile */
    }
    const uint32_t interval_ms =
        SPIN_MIN(SPIN_MAX(link->welcome.interval_ms, INTERVAL_MIN_MS), INTERVAL_MAX_MS);
    memcpy(link->router_id, link->welcome.router_id, sizeof link->router_id);
    link->state = SPIN_JOIN_JOINED;
    link->failures = 0;
    link->failure_logged = SPIN_OK;
    SPIN_INFO("joined: router=%s id=%s interval_ms=%u", link->address, link->router_id,
              interval_ms);
    spin_timer_start(link->timer, interval_ms * SPIN_NS_PER_MS, true);
    send_status(link);
    spin_join_link_welcomed(link->join, link);
}

/* protobuf-c has no const; it only reads. */
static Spin__V1__Hello *borrow_hello(const Spin__V1__Hello *hello)
{
    union {
        const Spin__V1__Hello *given;
        Spin__V1__Hello *wanted;
    } pointer = {.given = hello};
    return pointer.wanted;
}

static void dial(struct spin_join_link *link)
{
    SPIN_ASSERT(!link->open);
    Spin__V1__MemberMessage message;
    spin__v1__member_message__init(&message);
    message.hello = borrow_hello(link->join->config.hello);
    const struct spin_rpc_request request = {.path = JOIN_PATH,
                                             .message = &message.base,
                                             .response = &spin__v1__router_message__descriptor,
                                             .response_bytes_max = WELCOME_BYTES_MAX,
                                             .arena_bytes_max = 2 * WELCOME_BYTES_MAX,
                                             .deadline_ns = SPIN_NO_DEADLINE,
                                             .sends_stream = true,
                                             .outbox_bytes = OUTBOX_BYTES,
                                             .context = link,
                                             .message_received = on_message,
                                             .finished = on_finished};
    link->state = SPIN_JOIN_WAITING;
    link->welcome.posted = false;
    struct spin_error err = {0};
    const spin_status status = spin_rpc_client_submit(link->client, &request, &link->call, &err);
    if (status != SPIN_OK) { /* no callback will come */
        link->ended.status = status;
        memcpy(link->ended.text, err.text, sizeof link->ended.text);
        link->ended.text[sizeof link->ended.text - 1] = '\0';
        end_stream(link);
        return;
    }
    link->open = true;
    spin_timer_start(link->timer, WELCOME_LIMIT_NS, false);
}

static void cancel(struct spin_join_link *link, const char *reason)
{
    link->state = SPIN_JOIN_ENDING;
    link->reason = reason;
    spin_timer_stop(link->timer);
    spin_rpc_client_call_cancel(link->call);
}

static void on_timer(void *context)
{
    struct spin_join_link *link = context;
    switch (link->state) {
    case SPIN_JOIN_PAUSED:
        dial(link);
        return;
    case SPIN_JOIN_WAITING:
        cancel(link, "no welcome within 5 s");
        return;
    case SPIN_JOIN_JOINED:
        send_status(link);
        return;
    case SPIN_JOIN_ENDING:
    case SPIN_JOIN_RESTING:
        return; /* neither has a timer */
    }
}

void spin_join_link_report(struct spin_join_link *link)
{
    if (link->state == SPIN_JOIN_JOINED) {
        send_status(link);
    }
}

void spin_join_link_leave(struct spin_join_link *link, const char *reason)
{
    if (link->state == SPIN_JOIN_WAITING) {
        cancel(link, NULL);
        return;
    }
    spin_timer_stop(link->timer);
    if (link->state != SPIN_JOIN_JOINED) {
        return;
    }
    Spin__V1__Goodbye goodbye;
    spin__v1__goodbye__init(&goodbye);
    memcpy(&goodbye.reason, &reason, sizeof reason); /* protobuf-c has no const; it only reads */
    Spin__V1__MemberMessage message;
    spin__v1__member_message__init(&message);
    message.goodbye = &goodbye;
    SPIN_ASSERT_LE(strlen(reason), REASON_BYTES_MAX);
    const spin_status status = spin_rpc_client_call_send(link->call, &message.base, 0);
    SPIN_ASSERT_EQ(status, SPIN_OK); /* every status has left room for it */
    spin_rpc_client_call_close_send(link->call);
    link->state = SPIN_JOIN_ENDING;
}

void spin_join_link_rest(struct spin_join_link *link)
{
    if (link->open) {
        cancel(link, NULL);
        return;
    }
    spin_timer_stop(link->timer);
    link->state = SPIN_JOIN_RESTING;
}

void spin_join_link_wake(struct spin_join_link *link)
{
    SPIN_ASSERT_EQ(link->state, SPIN_JOIN_RESTING);
    pause_then_dial(link);
}

spin_status spin_join_link_create(struct spin_join *join, const char *address,
                                  const char *server_name, struct spin_join_link **out,
                                  struct spin_error *err)
{
    struct spin_join_link *link = calloc(1, sizeof *link);
    if (link == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "join: %zu bytes", sizeof *link);
    }
    link->join = join;
    link->welcome.message.run = on_welcome;
    link->ended.message.run = on_ended;
    (void)snprintf(link->address, sizeof link->address, "%s", address);
    struct spin_rpc_client_config client = {
        .target = address, .bearer = join->config.bearer, .tls = join->config.tls};
    if (client.tls.server_name == NULL) {
        client.tls.server_name = server_name;
    }
    spin_status status;
    SPIN_TRY_GOTO(status, spin_timer_create(join->loop, on_timer, link, &link->timer), fail);
    SPIN_TRY_GOTO(status, spin_rpc_client_create(join->thread, &client, &link->client, err), fail);
    spin_timer_start(link->timer, 0, false); /* PAUSED, but not for long */
    *out = link;
    return SPIN_OK;
fail:
    spin_join_link_destroy(link);
    return status;
}

void spin_join_link_destroy(struct spin_join_link *link)
{
    if (link == NULL) {
        return;
    }
    spin_timer_destroy(link->timer);
    if (link->call != NULL) {
        spin_rpc_client_call_release(link->call);
    }
    spin_rpc_client_destroy(link->client); /* when it returns, `ended` has been posted */
    link->join = NULL;
    release(link);
}
