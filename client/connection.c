#include "client/connection.h"

#include "base/clock.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define ATTEMPTS_MAX 3u

struct spin_connection {
    struct spin_rpc_thread *thread;
    struct spin_rpc_client *client;
    pthread_t main_thread;
    sigset_t signals; /* SIGINT, SIGTERM, and SIGUSR1: the call is over */
    uint64_t timeout_ns;
};

struct running_call {
    struct spin_connection *connection;
    spin_message_fn message_received;
    void *context;
    struct spin_rpc_client_call *call;
    struct spin_call_result *result;
    atomic_bool refused; /* the caller wants no more */
    atomic_bool over;
};

/* SIGUSR1 stays blocked: one may come after the call that it was about. */
static void unblock_interrupts(void)
{
    sigset_t interrupts;
    (void)sigemptyset(&interrupts);
    (void)sigaddset(&interrupts, SIGINT);
    (void)sigaddset(&interrupts, SIGTERM);
    (void)pthread_sigmask(SIG_UNBLOCK, &interrupts, NULL);
}

static spin_status wait_ready(struct spin_connection *connection, const char *worker,
                              struct spin_error *err)
{
    const uint64_t now_ns = spin_now_ns(spin_clock_real());
    if (spin_rpc_client_wait_ready(connection->client,
                                   spin_deadline_ns(now_ns, connection->timeout_ns),
                                   NULL) == SPIN_OK) {
        return SPIN_OK;
    }
    return spin_fail(err, SPIN_ERR_PEER_LOST,
                     "no worker answers at %.64s: start one with `deploy/local up` or `spin-worker "
                     "--model FILE`, or name another with --worker host:port",
                     worker);
}

spin_status spin_connection_open(const char *worker, uint64_t timeout_ns,
                                 struct spin_connection **out, struct spin_error *err)
{
    struct spin_connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "connection: %zu bytes", sizeof *connection);
    }
    connection->main_thread = pthread_self();
    connection->timeout_ns = timeout_ns;
    (void)sigemptyset(&connection->signals);
    (void)sigaddset(&connection->signals, SIGINT);
    (void)sigaddset(&connection->signals, SIGTERM);
    (void)sigaddset(&connection->signals, SIGUSR1);
    (void)signal(SIGPIPE, SIG_IGN);
    /* Threads started here leave signals to the main thread, which waits for them in call; while no
     * call runs, Ctrl-C ends the process as usual. */
    (void)pthread_sigmask(SIG_BLOCK, &connection->signals, NULL);
    spin_status status = spin_rpc_thread_create(&connection->thread, err);
    unblock_interrupts();
    if (status == SPIN_OK) {
        const struct spin_rpc_client_config config = {.target = worker};
        status = spin_rpc_client_create(connection->thread, &config, &connection->client, err);
    }
    if (status == SPIN_OK) {
        status = wait_ready(connection, worker, err);
    }
    if (status != SPIN_OK) {
        spin_connection_close(connection);
        return status;
    }
    *out = connection;
    return SPIN_OK;
}

void spin_connection_close(struct spin_connection *connection)
{
    if (connection != NULL) {
        spin_rpc_client_destroy(connection->client);
        spin_rpc_thread_destroy(connection->thread);
        free(connection);
    }
}

static void on_message(void *context, const struct ProtobufCMessage *message)
{
    struct running_call *running = context;
    if (!atomic_load(&running->refused) && !running->message_received(running->context, message)) {
        atomic_store(&running->refused, true);
        (void)pthread_kill(running->connection->main_thread, SIGUSR1); /* it cancels */
    }
}

static void on_finished(void *context, const struct spin_rpc_outcome *outcome)
{
    struct running_call *running = context;
    running->result->status = outcome->status;
    running->result->code = outcome->code;
    running->result->messages = outcome->messages;
    (void)snprintf(running->result->text, sizeof running->result->text, "%s", outcome->text);
    struct spin_connection *connection = running->connection;
    /* Pairs with the acquire in wait_over: the result is whole; `running` may be gone after it. */
    atomic_store_explicit(&running->over, true, memory_order_release);
    (void)pthread_kill(connection->main_thread, SIGUSR1);
}

/* Sleeps until a signal, does what it asks for, until the call is over. */
static void wait_over(struct running_call *running)
{
    /* Pairs with the release in on_finished. */
    while (!atomic_load_explicit(&running->over, memory_order_acquire)) {
        int signal_number = 0;
        (void)sigwait(&running->connection->signals, &signal_number);
        if (signal_number != SIGUSR1) {
            running->result->interrupted = true;
            spin_rpc_client_call_cancel(running->call);
            unblock_interrupts(); /* the next one does not ask */
        } else if (atomic_load(&running->refused)) {
            spin_rpc_client_call_cancel(running->call);
        }
    }
}

static spin_status call_once(struct spin_connection *connection,
                             const struct spin_rpc_request *request,
                             spin_message_fn message_received, void *context,
                             struct spin_call_result *out)
{
    *out = (struct spin_call_result){0};
    struct running_call running = {.connection = connection,
                                   .message_received = message_received,
                                   .context = context,
                                   .result = out};
    struct spin_rpc_request own = *request;
    own.context = &running;
    own.message_received = on_message;
    own.finished = on_finished;
    struct spin_error err = {0};
    const spin_status status =
        spin_rpc_client_submit(connection->client, &own, &running.call, &err);
    if (status != SPIN_OK) {
        out->status = status;
        (void)snprintf(out->text, sizeof out->text, "%s", err.text);
        return status;
    }
    wait_over(&running);
    spin_rpc_client_call_release(running.call);
    return out->status;
}

spin_status spin_connection_call(struct spin_connection *connection,
                                 const struct spin_rpc_request *request,
                                 spin_message_fn message_received, void *context,
                                 struct spin_call_result *out)
{
    (void)pthread_sigmask(SIG_BLOCK, &connection->signals, NULL);
    spin_status status = SPIN_OK;
    for (uint32_t attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
        status = call_once(connection, request, message_received, context, out);
        const bool begun = out->code != SPIN_RPC_UNAVAILABLE || out->messages > 0;
        if (begun || out->interrupted) {
            break;
        }
    }
    unblock_interrupts();
    return status;
}
