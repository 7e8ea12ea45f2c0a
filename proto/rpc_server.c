#include "proto/rpc_server.h"

#include "base/address.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/ring.h"
#include "proto/rpc_internal.h"

#include <grpc/grpc_security.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Requests posted ahead per method: what may arrive between two looks of the rpc thread at its
 * queue without waiting inside gRPC core. */
#define POSTED_REQUESTS 8u
#define LINES_MAX (SPIN_RPC_METHODS_MAX + SPIN_RPC_HEALTH_METHODS + 1u) /* and the catch-all */
#define CALLS_MAX 65536u
/* Streams of one connection beyond all calls that the methods admit. What is over this waits at the
 * client without a word, and a call over its method's limit shall be refused with one. */
#define CONNECTION_STREAMS_SPARE 256u
/* A peer that does not answer a ping within 10 + 5 s is gone, and so are its calls. */
#define KEEPALIVE_TIME_MS 10000
#define KEEPALIVE_TIMEOUT_MS 5000
#define PEER_PING_INTERVAL_MIN_MS 5000 /* more often is abuse; our client pings every 10 s */

struct line_state {
    _Atomic uint32_t open; /* calls admitted and not yet freed */
    uint32_t posted;       /* rpc thread */
};

struct spin_rpc_server {
    grpc_server *core;
    grpc_completion_queue *queue;
    struct spin_ring *ready; /* calls with something to send */
    struct spin_rpc_method health_methods[SPIN_RPC_HEALTH_METHODS];
    struct spin_rpc_health health;
    struct spin_rpc_method unknown;
    struct spin_rpc_line lines[LINES_MAX];
    struct line_state states[LINES_MAX];
    uint32_t line_count;
    uint32_t port;
    struct spin_rpc_tag shutdown_tag;
    _Atomic uint64_t stats[SPIN_RPC_STAT_COUNT];
    atomic_bool sender_stop;
    bool accepting;                /* rpc thread */
    struct spin_rpc_parser parser; /* rpc thread */
    bool started;
    pthread_t rpc_thread;
    pthread_t sender_thread;

    struct spin_mutex mutex; /* guards the rest: when the queue may be shut down */
    struct spin_cond over_changed;
    uint64_t objects; /* calls and posted requests: whatever can start a batch */
    bool notified;    /* gRPC core has shut the server down */
    bool over;        /* and the queue was shut down after it */
};

void spin_rpc_server_count(struct spin_rpc_server *server, enum spin_rpc_stat stat)
{
    (void)atomic_fetch_add_explicit(&server->stats[stat], 1, memory_order_relaxed); /* a counter */
}

bool spin_rpc_server_admit(struct spin_rpc_server *server, const struct spin_rpc_line *line)
{
    /* Only the rpc thread adds, so looking before adding is enough. */
    _Atomic uint32_t *open = &server->states[line->index].open;
    if (atomic_load_explicit(open, memory_order_relaxed) >= line->method->calls_max) {
        return false;
    }
    (void)atomic_fetch_add_explicit(open, 1, memory_order_relaxed);
    return true;
}

void spin_rpc_server_leave(struct spin_rpc_server *server, const struct spin_rpc_line *line)
{
    const uint32_t before =
        atomic_fetch_sub_explicit(&server->states[line->index].open, 1, memory_order_relaxed);
    SPIN_ASSERT_GT(before, 0);
}

void spin_rpc_server_schedule(struct spin_rpc_server *server, struct spin_rpc_call *call)
{
    /* The ring holds every call that can be open, and a call is in it at most once. */
    const spin_status status = spin_ring_push(server->ready, call);
    SPIN_ASSERT_EQ(status, SPIN_OK);
}

struct spin_rpc_parser *spin_rpc_server_parser(struct spin_rpc_server *server)
{
    return &server->parser;
}

/* Under the lock. Starting a batch on a queue that is shut down is illegal, so it is shut down by
 * whoever sees the last object that could start one go. */
static bool claim_over(struct spin_rpc_server *server)
{
    if (!server->notified || server->objects > 0 || server->over) {
        return false;
    }
    server->over = true;
    spin_cond_broadcast(&server->over_changed);
    return true;
}

void spin_rpc_server_object_created(struct spin_rpc_server *server)
{
    spin_mutex_lock(&server->mutex);
    SPIN_ASSERT(!server->over);
    server->objects++;
    spin_mutex_unlock(&server->mutex);
}

void spin_rpc_server_object_destroyed(struct spin_rpc_server *server)
{
    spin_mutex_lock(&server->mutex);
    SPIN_ASSERT_GT(server->objects, 0);
    server->objects--;
    grpc_completion_queue *queue = server->queue;
    const bool over = claim_over(server);
    spin_mutex_unlock(&server->mutex);
    if (over) {
        grpc_completion_queue_shutdown(queue);
    }
}

static void on_shutdown(void *self, bool ok)
{
    struct spin_rpc_server *server = self;
    (void)ok;
    spin_mutex_lock(&server->mutex);
    server->notified = true;
    const bool over = claim_over(server);
    spin_mutex_unlock(&server->mutex);
    if (over) {
        grpc_completion_queue_shutdown(server->queue);
    }
}

/* All methods, not only the one whose request was taken: what failed for lack of memory is
 * retried. */
static void post_requests(struct spin_rpc_server *server)
{
    for (uint32_t i = 0; i < server->line_count; i++) {
        struct line_state *state = &server->states[i];
        while (state->posted < POSTED_REQUESTS && spin_rpc_call_post(&server->lines[i])) {
            state->posted++;
        }
    }
}

void spin_rpc_server_request_taken(struct spin_rpc_server *server, const struct spin_rpc_line *line,
                                   bool ok)
{
    SPIN_ASSERT_GT(server->states[line->index].posted, 0);
    server->states[line->index].posted--;
    server->accepting = server->accepting && ok;
    if (server->accepting) {
        post_requests(server);
    }
}

bool spin_rpc_server_has_service(const struct spin_rpc_server *server, const char *service)
{
    const uint64_t bytes = strlen(service);
    for (uint32_t i = 0; i < server->line_count; i++) {
        const char *path = server->lines[i].method->path;
        if (server->lines[i].handle != NULL && strncmp(path + 1, service, bytes) == 0 &&
            path[bytes + 1] == '/') {
            return true;
        }
    }
    return false;
}

static void *rpc_thread_main(void *self)
{
    struct spin_rpc_server *server = self;
    (void)pthread_setname_np(pthread_self(), "rpc");
    server->accepting = true;
    post_requests(server);
    spin_rpc_queue_run(server->queue);
    return NULL;
}

static void *sender_thread_main(void *self)
{
    struct spin_rpc_server *server = self;
    (void)pthread_setname_np(pthread_self(), "rpc-send");
    for (;;) {
        void *call = NULL;
        if (spin_ring_pop(server->ready, &call) == SPIN_OK) {
            spin_rpc_call_scheduled(call);
        } else if (atomic_load(&server->sender_stop)) {
            return NULL;
        } else {
            spin_ring_wait(server->ready, SPIN_NO_DEADLINE);
        }
    }
}

static void check_method(const struct spin_rpc_method *method)
{
    SPIN_ASSERT(method->path[0] == '/');
    SPIN_ASSERT(method->start != NULL);
    SPIN_ASSERT(method->request != NULL);
    SPIN_ASSERT_GT(method->calls_max, 0);
    SPIN_ASSERT_LE(method->calls_max, CALLS_MAX);
    SPIN_ASSERT_LE(method->request_bytes_max, SPIN_RPC_GENERATE_BYTES_MAX);
    if (method->message == NULL) {
        SPIN_ASSERT(method->half_closed == NULL);
    } else {
        SPIN_ASSERT(method->gone != NULL); /* who else would finish? */
    }
}

static void add_line(struct spin_rpc_server *server, const struct spin_rpc_method *method,
                     void *context, bool registered)
{
    SPIN_ASSERT_LT(server->line_count, LINES_MAX);
    struct spin_rpc_line *line = &server->lines[server->line_count];
    *line = (struct spin_rpc_line){.method = method,
                                   .context = context,
                                   .server = server,
                                   .core = server->core,
                                   .queue = server->queue,
                                   .index = server->line_count};
    if (registered) {
        check_method(method);
        line->handle = grpc_server_register_method(server->core, method->path, NULL,
                                                   method->message == NULL
                                                       ? GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER
                                                       : GRPC_SRM_PAYLOAD_NONE,
                                                   0);
        SPIN_ASSERT(line->handle != NULL); /* registered twice */
    }
    server->line_count++;
}

static void add_lines(struct spin_rpc_server *server, const struct spin_rpc_server_config *config)
{
    SPIN_ASSERT_LE(config->method_count, SPIN_RPC_METHODS_MAX);
    for (uint32_t i = 0; i < config->method_count; i++) {
        const struct spin_rpc_method *method = &config->methods[i];
        add_line(server, method, method->context == NULL ? config->context : method->context, true);
    }
    spin_rpc_health_methods(server->health_methods);
    for (uint32_t i = 0; i < SPIN_RPC_HEALTH_METHODS; i++) {
        add_line(server, &server->health_methods[i], &server->health, true);
    }
    /* Without it a call of an unknown method hangs until its deadline. */
    server->unknown = (struct spin_rpc_method){.path = "/", .calls_max = 1};
    add_line(server, &server->unknown, NULL, false);
}

static spin_status create_ring(struct spin_rpc_server *server, struct spin_error *err)
{
    uint32_t calls = POSTED_REQUESTS; /* of the catch-all */
    for (uint32_t i = 0; i < server->line_count; i++) {
        calls += server->lines[i].method->calls_max;
    }
    uint32_t capacity = 2;
    while (capacity < calls) {
        capacity *= 2;
    }
    return spin_ring_create(capacity, &server->ready, err);
}

/* One peer may hold every call that there is: a router reaches a worker over one connection. */
static int connection_streams(const struct spin_rpc_server_config *config)
{
    uint32_t streams =
        CONNECTION_STREAMS_SPARE + SPIN_RPC_HEALTH_METHODS * SPIN_RPC_HEALTH_CALLS_MAX;
    for (uint32_t i = 0; i < config->method_count; i++) {
        streams += config->methods[i].calls_max;
    }
    return (int)streams;
}

static grpc_server *create_core(int streams_max)
{
    const grpc_arg args[] = {
        spin_rpc_integer_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, SPIN_RPC_GENERATE_BYTES_MAX),
        spin_rpc_integer_arg(GRPC_ARG_ALLOW_REUSEPORT,
                             0), /* a taken port is an error, not a share */
        spin_rpc_integer_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, streams_max),
        spin_rpc_integer_arg(GRPC_ARG_KEEPALIVE_TIME_MS, KEEPALIVE_TIME_MS),
        spin_rpc_integer_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_TIMEOUT_MS),
        spin_rpc_integer_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        spin_rpc_integer_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        spin_rpc_integer_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             PEER_PING_INTERVAL_MIN_MS),
        /* Nobody of ours compresses, and a few compressed bytes can ask for gigabytes. */
        spin_rpc_integer_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1),
        spin_rpc_integer_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
    };
    grpc_arg copy[SPIN_ARRAY_COUNT(args)]; /* gRPC's pointer is not const */
    memcpy(copy, args, sizeof args);
    const grpc_channel_args list = {.num_args = SPIN_ARRAY_COUNT(copy), .args = copy};
    return grpc_server_create(&list, NULL);
}

spin_status spin_rpc_server_create(const struct spin_rpc_server_config *config,
                                   struct spin_rpc_server **out, struct spin_error *err)
{
    struct spin_address parts; /* gRPC core does not say what is wrong with one */
    SPIN_TRY(spin_address_split(config->listen, &parts, err));
    struct spin_rpc_server *server = calloc(1, sizeof *server);
    if (server == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "rpc server: %zu bytes", sizeof *server);
    }
    spin_rpc_core_acquire();
    spin_mutex_init(&server->mutex);
    spin_cond_init(&server->over_changed);
    spin_rpc_health_init(&server->health, server);
    server->shutdown_tag = (struct spin_rpc_tag){on_shutdown, server};
    server->core = create_core(connection_streams(config));
    server->queue = grpc_completion_queue_create_for_next(NULL);
    grpc_server_register_completion_queue(server->core, server->queue, NULL);
    add_lines(server, config);

    spin_status status;
    SPIN_TRY_GOTO(status, create_ring(server, err), fail);
    grpc_server_credentials *credentials = NULL;
    SPIN_TRY_GOTO(status, spin_rpc_tls_server_credentials(&config->tls, &credentials, err), fail);
    const int port = grpc_server_add_http2_port(server->core, config->listen, credentials);
    grpc_server_credentials_release(credentials);
    if (port <= 0) {
        status = spin_rpc_address_explain(config->listen, config->listen_flag, err);
        goto fail;
    }
    server->port = (uint32_t)port;
    *out = server;
    return SPIN_OK;
fail:
    spin_rpc_server_destroy(server);
    return status;
}

uint32_t spin_rpc_server_port(const struct spin_rpc_server *server)
{
    return server->port;
}

spin_status spin_rpc_server_start(struct spin_rpc_server *server, struct spin_error *err)
{
    SPIN_ASSERT(!server->started);
    if (pthread_create(&server->sender_thread, NULL, sender_thread_main, server) != 0) {
        return spin_fail(err, SPIN_ERR_EXHAUSTED, "rpc server: cannot start its sender thread");
    }
    grpc_server_start(server->core);
    if (pthread_create(&server->rpc_thread, NULL, rpc_thread_main, server) != 0) {
        atomic_store(&server->sender_stop, true);
        spin_ring_wake(server->ready);
        (void)pthread_join(server->sender_thread, NULL);
        return spin_fail(err, SPIN_ERR_EXHAUSTED, "rpc server: cannot start its thread");
    }
    server->started = true;
    return SPIN_OK;
}

void spin_rpc_server_set_serving(struct spin_rpc_server *server, bool serving)
{
    spin_rpc_health_set(&server->health, serving);
}

static bool wait_until_over(struct spin_rpc_server *server, uint64_t deadline_ns)
{
    bool in_time = true;
    spin_mutex_lock(&server->mutex);
    while (!server->over && in_time) {
        in_time = spin_cond_wait(&server->over_changed, &server->mutex, deadline_ns);
    }
    const bool over = server->over;
    spin_mutex_unlock(&server->mutex);
    return over;
}

void spin_rpc_server_stop(struct spin_rpc_server *server, uint64_t grace_ns)
{
    SPIN_ASSERT(server->started);
    spin_rpc_health_end(&server->health);
    grpc_server_shutdown_and_notify(server->core, server->queue, &server->shutdown_tag);
    const uint64_t now_ns = spin_now_ns(spin_clock_real());
    if (!wait_until_over(server, spin_deadline_ns(now_ns, grace_ns))) {
        grpc_server_cancel_all_calls(server->core);
        (void)wait_until_over(server, SPIN_NO_DEADLINE);
    }
    (void)pthread_join(server->rpc_thread, NULL);
    atomic_store(&server->sender_stop, true);
    spin_ring_wake(server->ready);
    (void)pthread_join(server->sender_thread, NULL);
    server->started = false;
}

void spin_rpc_server_destroy(struct spin_rpc_server *server)
{
    if (server == NULL) {
        return;
    }
    SPIN_ASSERT(!server->started);
    if (!server->over) { /* never started: its own thread did not run down the queue */
        grpc_server_shutdown_and_notify(server->core, server->queue, &server->shutdown_tag);
        grpc_server_cancel_all_calls(server->core);
        spin_rpc_queue_run(server->queue);
    }
    grpc_server_destroy(server->core);
    grpc_completion_queue_destroy(server->queue);
    spin_ring_destroy(server->ready);
    spin_rpc_parser_deinit(&server->parser);
    spin_rpc_health_deinit(&server->health);
    spin_cond_deinit(&server->over_changed);
    spin_mutex_deinit(&server->mutex);
    free(server);
    spin_rpc_core_release();
}

void spin_rpc_server_get_stats(const struct spin_rpc_server *server,
                               struct spin_rpc_server_stats *out)
{
    uint64_t open = 0;
    for (uint32_t i = 0; i < server->line_count; i++) {
        open += atomic_load_explicit(&server->states[i].open, memory_order_relaxed);
    }
    /* Relaxed: counters, read one by one. */
#define READ(stat) atomic_load_explicit(&server->stats[SPIN_RPC_STAT_##stat], memory_order_relaxed)
    *out = (struct spin_rpc_server_stats){.calls = READ(CALLS),
                                          .refused = READ(REFUSED),
                                          .gone = READ(GONE),
                                          .slow_readers = READ(SLOW_READERS),
                                          .messages_sent = READ(MESSAGES_SENT),
                                          .calls_open = open};
#undef READ
}
