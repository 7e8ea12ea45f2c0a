/* The life of one call:
 *
 *   start --> attempt --messages, end--> finished --> freed with the last reference
 *                ^  \--not begun--> paused
 *                '------- due --------'
 *
 * An attempt that ended with PEER_LOST or EXHAUSTED before any message has done nothing for us, so
 * it may be made again; the packed request is kept until the first message for that. */
#include "base/assert.h"
#include "base/clock.h"
#include "client/spin_client_internal.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>

#define PAUSE_FIRST_NS (100 * SPIN_NS_PER_MS) /* then doubled, */
#define PAUSE_MAX_NS (2 * SPIN_NS_PER_S)      /* up to this: a router is back within seconds */
/* A router merges answers up to 1 MiB; the smallest tokens take 60 times their bytes in memory. */
#define RESPONSE_BYTES_MAX (2 * (UINT64_C(1) << 20))
#define RESPONSE_ARENA_BYTES (UINT64_C(128) << 20)
#define REQUEST_BYTES_MAX (UINT64_C(16) << 20) /* a router takes no more */

struct spin_client_call {
    struct spin_client *client;
    struct spin_client_exchange exchange; /* without its message */
    const struct ProtobufCMessageDescriptor *request;
    uint8_t *packed; /* the request, until the call has begun */
    uint64_t packed_bytes;
    _Atomic uint32_t refs; /* the caller's, and one until `finished` was called */
    bool stopped;          /* rpc thread: answered wanted no more */
    struct spin_link link; /* in client->paused; this and the rest: under the client's mutex */
    uint64_t due_ns;
    uint32_t attempts;
    struct spin_rpc_client_call *rpc; /* the attempt under way; NULL: paused, or over */
    bool cancelled;
};

uint64_t spin_client_deadline_ns(uint64_t duration_ns)
{
    return duration_ns == 0 ? SPIN_NO_DEADLINE
                            : spin_deadline_ns(spin_now_ns(spin_clock_real()), duration_ns);
}

static void unref(struct spin_client_call *call)
{
    /* Release: my writes are before the free. Acquire: the one who frees sees them. */
    if (atomic_fetch_sub_explicit(&call->refs, 1, memory_order_acq_rel) == 1) {
        free(call->packed);
        free(call);
    }
}

/* Not under the mutex: this calls out. */
static void end(struct spin_client_call *call, spin_status status, const char *text)
{
    call->exchange.finished(call->exchange.context, status, text);
    unref(call);
}

/* --- attempts --- */

static void on_message(void *context, const struct ProtobufCMessage *message)
{
    struct spin_client_call *call = context;
    free(call->packed); /* it has begun: never again */
    call->packed = NULL;
    spin_mutex_lock(&call->client->mutex);
    const bool wanted = !call->cancelled;
    spin_mutex_unlock(&call->client->mutex);
    if (wanted && !call->exchange.answered(call->exchange.context, message)) {
        call->stopped = true;
        spin_client_call_cancel(call);
    }
}

/* Growing, and never the same for two clients that were refused together. */
static uint64_t pause_ns(struct spin_client *client, uint32_t attempts)
{
    uint64_t pause = PAUSE_FIRST_NS;
    for (uint32_t i = 1; i < attempts && pause < PAUSE_MAX_NS; i++) {
        pause *= 2;
    }
    const double most = (double)SPIN_MIN(pause, PAUSE_MAX_NS);
    return (uint64_t)(most * (0.5 + 0.5 * spin_rng_uniform(&client->rng)));
}

/* Under the mutex: whether the call is now paused. */
static bool try_pause(struct spin_client_call *call, const struct spin_rpc_outcome *outcome)
{
    struct spin_client *client = call->client;
    const bool not_begun = outcome->messages == 0 && (outcome->status == SPIN_ERR_PEER_LOST ||
                                                      outcome->status == SPIN_ERR_EXHAUSTED);
    if (!not_begun || call->cancelled || client->closing || call->attempts > client->retries_max) {
        return false;
    }
    call->due_ns = spin_now_ns(spin_clock_real()) + pause_ns(client, call->attempts);
    if (call->due_ns >= call->exchange.deadline_ns) {
        return false;
    }
    SPIN_LIST_FOREACH (&client->paused, link) {
        if (SPIN_CONTAINER_OF(link, struct spin_client_call, link)->due_ns > call->due_ns) {
            spin_list_insert_before(&client->paused, link, &call->link);
            return true;
        }
    }
    spin_list_push_back(&client->paused, &call->link);
    return true;
}

static void on_finished(void *context, const struct spin_rpc_outcome *outcome)
{
    struct spin_client_call *call = context;
    struct spin_client *client = call->client;
    spin_mutex_lock(&client->mutex);
    spin_rpc_client_call_release(call->rpc);
    call->rpc = NULL;
    const bool paused = try_pause(call, outcome);
    const bool cancelled = call->cancelled || client->closing;
    if (paused) {
        spin_cond_broadcast(&client->changed);
    }
    spin_mutex_unlock(&client->mutex);
    if (paused) { /* and another thread's by now */
        return;
    }
    if (call->stopped || (cancelled && outcome->status != SPIN_OK)) {
        end(call, SPIN_ERR_CANCELLED, "cancelled");
    } else {
        end(call, outcome->status, outcome->text);
    }
}

/* Under the mutex, which on_finished waits for: so `rpc` is there before it is looked at. */
static spin_status attempt(struct spin_client_call *call, const struct ProtobufCMessage *message,
                           struct spin_error *err)
{
    const struct spin_rpc_request request = {.path = call->exchange.path,
                                             .message = message,
                                             .response = call->exchange.response,
                                             .response_bytes_max = RESPONSE_BYTES_MAX,
                                             .arena_bytes_max = RESPONSE_ARENA_BYTES,
                                             .deadline_ns = call->exchange.deadline_ns,
                                             .context = call,
                                             .message_received = on_message,
                                             .finished = on_finished};
    call->attempts++;
    return spin_rpc_client_submit(call->client->rpc, &request, &call->rpc, err);
}

static spin_status attempt_again(struct spin_client_call *call, struct spin_error *err)
{
    /* Our own bytes. */
    ProtobufCMessage *message =
        protobuf_c_message_unpack(call->request, NULL, call->packed_bytes, call->packed);
    if (message == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "request: %" PRIu64 " bytes", call->packed_bytes);
    }
    const spin_status status = attempt(call, message, err);
    protobuf_c_message_free_unpacked(message, NULL);
    return status;
}

/* The next one that is due, taken off the list; NULL: the client closes. Under the mutex. */
static struct spin_client_call *wait_due(struct spin_client *client)
{
    for (;;) {
        struct spin_link *first = spin_list_first(&client->paused);
        if (first == NULL && client->closing) {
            return NULL;
        }
        uint64_t due_ns = SPIN_NO_DEADLINE;
        if (first != NULL) {
            struct spin_client_call *call = SPIN_CONTAINER_OF(first, struct spin_client_call, link);
            due_ns = call->due_ns;
            if (client->closing || due_ns <= spin_now_ns(spin_clock_real())) {
                spin_list_remove(&client->paused, first);
                return call;
            }
        }
        (void)spin_cond_wait(&client->changed, &client->mutex, due_ns);
    }
}

void *spin_client_run_pauses(void *self)
{
    struct spin_client *client = self;
    (void)pthread_setname_np(pthread_self(), "spin-client");
    spin_mutex_lock(&client->mutex);
    struct spin_client_call *call = wait_due(client);
    while (call != NULL) {
        struct spin_error err = {0};
        spin_status status = SPIN_OK;
        if (client->closing || call->cancelled) {
            status = spin_fail(&err, SPIN_ERR_CANCELLED, "cancelled");
        } else {
            status = attempt_again(call, &err);
        }
        if (status != SPIN_OK) {
            spin_mutex_unlock(&client->mutex);
            end(call, status, err.text);
            spin_mutex_lock(&client->mutex);
        }
        call = wait_due(client);
    }
    spin_mutex_unlock(&client->mutex);
    return NULL;
}

/* --- from the caller --- */

static spin_status pack(struct spin_client_call *call, const struct ProtobufCMessage *message,
                        struct spin_error *err)
{
    const uint64_t bytes = protobuf_c_message_get_packed_size(message);
    if (bytes > REQUEST_BYTES_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "request: %" PRIu64 " bytes, at most %" PRIu64, bytes,
                         REQUEST_BYTES_MAX);
    }
    if (call->client->retries_max == 0) {
        return SPIN_OK;
    }
    call->packed = malloc(SPIN_MAX(bytes, 1));
    if (call->packed == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "request: %" PRIu64 " bytes", bytes);
    }
    call->packed_bytes = protobuf_c_message_pack(message, call->packed);
    return SPIN_OK;
}

spin_status spin_client_call_start(struct spin_client *client,
                                   const struct spin_client_exchange *exchange,
                                   struct spin_client_call **out, struct spin_error *err)
{
    struct spin_client_call *call = calloc(1, sizeof *call);
    if (call == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "call: %zu bytes", sizeof *call);
    }
    call->client = client;
    call->exchange = *exchange;
    call->exchange.message = NULL;
    call->request = exchange->message->descriptor;
    atomic_init(&call->refs, 2);
    spin_status status = pack(call, exchange->message, err);
    if (status == SPIN_OK) {
        /* Set first: a callback may use it before this returns. */
        *out = call;
        spin_mutex_lock(&client->mutex);
        status = client->closing ? spin_fail(err, SPIN_ERR_SHUTDOWN, "the client is being closed")
                                 : attempt(call, exchange->message, err);
        spin_mutex_unlock(&client->mutex);
    }
    if (status != SPIN_OK) {
        *out = NULL;
        free(call->packed);
        free(call);
    }
    return status;
}

void spin_client_call_cancel(struct spin_client_call *call)
{
    struct spin_client *client = call->client;
    spin_mutex_lock(&client->mutex);
    call->cancelled = true;
    if (call->rpc != NULL) {
        spin_rpc_client_call_cancel(call->rpc); /* only marks: no callback runs in here */
    } else if (call->link.next != NULL) {
        spin_list_remove(&client->paused, &call->link);
        call->due_ns = 0;
        spin_list_push_front(&client->paused, &call->link);
        spin_cond_broadcast(&client->changed);
    }
    spin_mutex_unlock(&client->mutex);
}

void spin_client_call_release(struct spin_client_call *call)
{
    if (call != NULL) {
        unref(call);
    }
}

/* --- and wait for it --- */

struct waiter {
    struct spin_client *client;
    const struct spin_client_exchange *exchange;
    struct spin_error outcome; /* this and the next: under the client's mutex */
    bool over;
};

static bool on_answered(void *context, const struct ProtobufCMessage *message)
{
    const struct waiter *waiter = context;
    return waiter->exchange->answered(waiter->exchange->context, message);
}

static void on_over(void *context, spin_status status, const char *text)
{
    struct waiter *waiter = context;
    struct spin_client *client = waiter->client;
    spin_mutex_lock(&client->mutex);
    (void)spin_fail(&waiter->outcome, status, "%s", text);
    waiter->over = true;
    spin_cond_broadcast(&client->changed);
    spin_mutex_unlock(&client->mutex);
}

spin_status spin_client_call_run(struct spin_client *client,
                                 const struct spin_client_exchange *exchange,
                                 struct spin_error *err)
{
    struct waiter waiter = {.client = client, .exchange = exchange};
    struct spin_client_exchange own = *exchange;
    own.context = &waiter;
    own.answered = on_answered;
    own.finished = on_over;
    struct spin_client_call *call = NULL;
    SPIN_TRY(spin_client_call_start(client, &own, &call, err));
    spin_mutex_lock(&client->mutex);
    while (!waiter.over) {
        (void)spin_cond_wait(&client->changed, &client->mutex, SPIN_NO_DEADLINE);
    }
    spin_mutex_unlock(&client->mutex);
    spin_client_call_release(call);
    if (err != NULL) {
        *err = waiter.outcome;
    }
    return waiter.outcome.status;
}
