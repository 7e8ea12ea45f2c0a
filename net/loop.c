#include "base/clock.h"
#include "net/loop_internal.h"

#include <uv.h>

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

/* Messages are pushed onto a stack, which takes one compare-and-swap and cannot be full, and taken
 * off all at once. The stack holds the last first, so the reader turns it round: what one thread
 * pushed comes out in the order of its pushes. Only who finds the stack empty wakes the loop, so a
 * thousand messages cost one system call. */
struct spin_loop {
    uv_loop_t uv;
    uv_async_t wake;
    uv_async_t shutdown; /* open while has_shutdown */
    struct spin_owner owner;
    _Atomic(struct spin_loop_message *) posted;
    atomic_bool stop;
    uint32_t holds; /* timers, servers */
    bool has_shutdown;
    void (*on_shutdown)(void *context, int number);
    void *on_shutdown_context;
};

/* --- messages --- */

void spin_loop_post(struct spin_loop *loop, struct spin_loop_message *message)
{
    SPIN_ASSERT(message->run != NULL);
    struct spin_loop_message *top = atomic_load_explicit(&loop->posted, memory_order_relaxed);
    do {
        message->next = top;
        /* The release pairs with the acquire in run_posted. */
    } while (!atomic_compare_exchange_weak_explicit(&loop->posted, &top, message,
                                                    memory_order_release, memory_order_relaxed));
    if (top == NULL) {
        SPIN_ASSERT_EQ(uv_async_send(&loop->wake), 0);
    }
}

static struct spin_loop_message *reversed(struct spin_loop_message *top)
{
    struct spin_loop_message *first = NULL;
    while (top != NULL) {
        struct spin_loop_message *below = top->next;
        top->next = first;
        first = top;
        top = below;
    }
    return first;
}

/* What is posted meanwhile waits for the next turn, so that messages cannot starve the sockets. */
static void run_posted(struct spin_loop *loop)
{
    struct spin_loop_message *message =
        reversed(atomic_exchange_explicit(&loop->posted, NULL, memory_order_acquire));
    while (message != NULL) {
        struct spin_loop_message *next = message->next; /* run may free the message */
        message->run(message);
        message = next;
    }
}

static bool has_posted(struct spin_loop *loop)
{
    return atomic_load_explicit(&loop->posted, memory_order_relaxed) != NULL;
}

static void on_wake(uv_async_t *wake)
{
    struct spin_loop *loop = wake->data;
    run_posted(loop);
    if (atomic_load(&loop->stop)) {
        uv_stop(&loop->uv);
    }
}

/* --- signals --- */

static const int shutdown_signals[] = {SIGTERM, SIGINT};

/* A signal handler knows no context: these are the two words it reads. The loop is set before the
 * handlers are and cleared after they are gone. */
static _Atomic(struct spin_loop *) shutdown_loop;
static atomic_int shutdown_number;

static void set_signals(void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    (void)sigfillset(&action.sa_mask);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(shutdown_signals); i++) {
        SPIN_ASSERT_EQ(sigaction(shutdown_signals[i], &action, NULL), 0);
    }
}

/* The default actions are back before anybody hears of the first signal, so that a second one ends
 * the process even when its loop is stuck. All that is called is safe in a signal handler. */
static void on_signal(int number)
{
    const int saved_errno = errno;
    set_signals(SIG_DFL);
    struct spin_loop *loop = atomic_load(&shutdown_loop);
    if (loop != NULL) {
        atomic_store(&shutdown_number, number);
        (void)uv_async_send(&loop->shutdown);
    }
    errno = saved_errno;
}

static void on_shutdown(uv_async_t *shutdown)
{
    struct spin_loop *loop = shutdown->data;
    const int number = atomic_exchange(&shutdown_number, 0);
    if (number != 0) {
        loop->on_shutdown(loop->on_shutdown_context, number);
    }
}

spin_status spin_loop_on_shutdown(struct spin_loop *loop,
                                  void (*handler)(void *context, int number), void *context,
                                  struct spin_error *err)
{
    SPIN_ASSERT_THREAD(&loop->owner);
    SPIN_ASSERT(!loop->has_shutdown);
    const int failure = uv_async_init(&loop->uv, &loop->shutdown, on_shutdown);
    if (failure != 0) {
        return spin_fail(err, spin_net_status(failure), "signals: %s", uv_strerror(failure));
    }
    loop->shutdown.data = loop;
    loop->on_shutdown = handler;
    loop->on_shutdown_context = context;
    loop->has_shutdown = true;
    struct spin_loop *nobody = NULL;
    SPIN_ASSERT(atomic_compare_exchange_strong(&shutdown_loop, &nobody, loop));
    atomic_store(&shutdown_number, 0);
    set_signals(on_signal);
    return SPIN_OK;
}

static void restore_signals(struct spin_loop *loop)
{
    if (loop->has_shutdown) {
        loop->has_shutdown = false;
        set_signals(SIG_DFL);
        atomic_store(&shutdown_loop, NULL);
        uv_close((uv_handle_t *)&loop->shutdown, NULL);
    }
}

/* --- life --- */

spin_status spin_loop_create(struct spin_loop **out, struct spin_error *err)
{
    struct spin_loop *loop = calloc(1, sizeof *loop);
    if (loop == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "event loop: %zu bytes", sizeof *loop);
    }
    int failure = uv_loop_init(&loop->uv);
    if (failure != 0) {
        free(loop);
        return spin_fail(err, spin_net_status(failure), "event loop: %s", uv_strerror(failure));
    }
    failure = uv_async_init(&loop->uv, &loop->wake, on_wake);
    if (failure != 0) {
        SPIN_ASSERT_EQ(uv_loop_close(&loop->uv), 0);
        free(loop);
        return spin_fail(err, spin_net_status(failure), "event loop: %s", uv_strerror(failure));
    }
    loop->wake.data = loop;
    /* That a message may come keeps nobody waiting: see spin_loop_run. */
    uv_unref((uv_handle_t *)&loop->wake);
    spin_owner_set(&loop->owner);
    *out = loop;
    return SPIN_OK;
}

void spin_loop_run(struct spin_loop *loop)
{
    spin_owner_set(&loop->owner);
    if (atomic_exchange(&loop->stop, false)) {
        return; /* asked for before we began */
    }
    do {
        run_posted(loop); /* libuv does not look for them when it has nothing else to wait for */
        (void)uv_run(&loop->uv, UV_RUN_DEFAULT);
    } while (!atomic_exchange(&loop->stop, false) && has_posted(loop));
}

void spin_loop_stop(struct spin_loop *loop)
{
    atomic_store(&loop->stop, true);
    SPIN_ASSERT_EQ(uv_async_send(&loop->wake), 0);
}

void spin_loop_destroy(struct spin_loop *loop)
{
    if (loop == NULL) {
        return;
    }
    SPIN_ASSERT_THREAD(&loop->owner);
    restore_signals(loop);
    SPIN_ASSERT_EQ(loop->holds, 0);
    /* Work under way calls back, and what it posts is run. */
    while (uv_loop_alive(&loop->uv) != 0 || has_posted(loop)) {
        run_posted(loop);
        (void)uv_run(&loop->uv, UV_RUN_DEFAULT);
    }
    uv_close((uv_handle_t *)&loop->wake, NULL);
    (void)uv_run(&loop->uv, UV_RUN_DEFAULT);
    SPIN_ASSERT_EQ(uv_loop_close(&loop->uv), 0);
    free(loop);
}

uint64_t spin_loop_now_ns(const struct spin_loop *loop)
{
    (void)loop; /* libuv's own time is in milliseconds: too coarse for latencies */
    return spin_now_ns(spin_clock_real());
}

void spin_loop_assert_thread(const struct spin_loop *loop)
{
    SPIN_ASSERT_THREAD(&loop->owner);
}

struct uv_loop_s *spin_loop_uv(struct spin_loop *loop)
{
    SPIN_ASSERT_THREAD(&loop->owner);
    return &loop->uv;
}

void spin_loop_hold(struct spin_loop *loop)
{
    SPIN_ASSERT_THREAD(&loop->owner);
    loop->holds++;
}

void spin_loop_release(struct spin_loop *loop)
{
    SPIN_ASSERT_THREAD(&loop->owner);
    SPIN_ASSERT_NE(loop->holds, 0);
    loop->holds--;
}

/* --- work --- */

static void work_run(uv_work_t *handle)
{
    struct spin_loop_work *work = handle->data;
    work->run(work);
}

static void work_release(uv_work_t *handle, int status)
{
    struct spin_loop_work *work = handle->data;
    SPIN_ASSERT_EQ(status, 0); /* nobody cancels it */
    work->handle = NULL;
    free(handle);
    work->done(work); /* may free the work */
}

static uv_work_t *work_create(struct spin_loop_work *work)
{
    uv_work_t *handle = malloc(sizeof *handle);
    if (handle != NULL) {
        handle->data = work;
    }
    return handle;
}

spin_status spin_loop_work(struct spin_loop *loop, struct spin_loop_work *work)
{
    SPIN_ASSERT_THREAD(&loop->owner);
    SPIN_ASSERT(work->run != NULL);
    SPIN_ASSERT(work->done != NULL);
    uv_work_t *handle = work_create(work);
    if (handle == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    work->handle = handle;
    SPIN_ASSERT_EQ(uv_queue_work(&loop->uv, handle, work_run, work_release), 0);
    return SPIN_OK;
}
