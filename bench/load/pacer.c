#include "bench/load/pacer.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/mutex.h"

#include <signal.h>
#include <stdlib.h>

struct spin_load_pacer {
    struct spin_loop *loop;
    void (*fire)(void *context, uint64_t due_ns);
    void *context;
    pthread_t thread;
    struct spin_mutex mutex; /* the rest */
    struct spin_cond changed;
    struct spin_loop_message message;
    struct spin_loop_message turned;
    uint64_t due_ns;   /* SPIN_NO_DEADLINE: not set */
    uint64_t fired_ns; /* of the message under way */
    bool is_posted;
    bool is_stopping;
};

/* On the loop. */
static void on_message(struct spin_loop_message *message)
{
    struct spin_load_pacer *pacer = SPIN_CONTAINER_OF(message, struct spin_load_pacer, message);
    spin_mutex_lock(&pacer->mutex);
    const uint64_t due_ns = pacer->fired_ns;
    const bool is_stopping = pacer->is_stopping;
    pacer->is_posted = false;
    spin_cond_signal(&pacer->changed);
    spin_mutex_unlock(&pacer->mutex);
    if (!is_stopping) {
        pacer->fire(pacer->context, due_ns);
    }
}

static void *run(void *self)
{
    struct spin_load_pacer *pacer = self;
    (void)pthread_setname_np(pthread_self(), "spin-pacer");
    spin_mutex_lock(&pacer->mutex);
    while (!pacer->is_stopping) {
        const uint64_t due_ns = pacer->is_posted ? SPIN_NO_DEADLINE : pacer->due_ns;
        if (due_ns > spin_now_ns(spin_clock_real())) {
            (void)spin_cond_wait(&pacer->changed, &pacer->mutex, due_ns);
            continue;
        }
        pacer->fired_ns = due_ns;
        pacer->due_ns = SPIN_NO_DEADLINE;
        pacer->is_posted = true;
        spin_mutex_unlock(&pacer->mutex);
        spin_loop_post(pacer->loop, &pacer->message);
        spin_mutex_lock(&pacer->mutex);
    }
    spin_mutex_unlock(&pacer->mutex);
    return NULL;
}

spin_status spin_load_pacer_create(struct spin_loop *loop,
                                   void (*fire)(void *context, uint64_t due_ns), void *context,
                                   struct spin_load_pacer **out, struct spin_error *err)
{
    struct spin_load_pacer *pacer = calloc(1, sizeof *pacer);
    if (pacer == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "a pacer: %zu bytes", sizeof *pacer);
    }
    pacer->loop = loop;
    pacer->fire = fire;
    pacer->context = context;
    pacer->message.run = on_message;
    pacer->due_ns = SPIN_NO_DEADLINE;
    spin_mutex_init(&pacer->mutex);
    spin_cond_init(&pacer->changed);
    /* The process's signals are the main thread's. */
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    const int failure = pthread_create(&pacer->thread, NULL, run, pacer);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failure != 0) {
        spin_cond_deinit(&pacer->changed);
        spin_mutex_deinit(&pacer->mutex);
        free(pacer);
        return spin_fail(err, SPIN_ERR_EXHAUSTED, "the pacer's thread does not start");
    }
    *out = pacer;
    return SPIN_OK;
}

void spin_load_pacer_set(struct spin_load_pacer *pacer, uint64_t due_ns)
{
    spin_mutex_lock(&pacer->mutex);
    pacer->due_ns = due_ns;
    spin_cond_signal(&pacer->changed);
    spin_mutex_unlock(&pacer->mutex);
}

static void on_turned(struct spin_loop_message *message)
{
    spin_loop_stop(SPIN_CONTAINER_OF(message, struct spin_load_pacer, turned)->loop);
}

/* A message that is under way must be run before its memory goes: the loop turns once for it. */
static void drain(struct spin_load_pacer *pacer)
{
    if (pacer->is_posted) { /* the thread has ended: only the loop changes it */
        pacer->turned.run = on_turned;
        spin_loop_post(pacer->loop, &pacer->turned);
        spin_loop_run(pacer->loop);
    }
    SPIN_ASSERT(!pacer->is_posted);
}

void spin_load_pacer_destroy(struct spin_load_pacer *pacer)
{
    if (pacer == NULL) {
        return;
    }
    spin_mutex_lock(&pacer->mutex);
    pacer->is_stopping = true;
    spin_cond_signal(&pacer->changed);
    spin_mutex_unlock(&pacer->mutex);
    (void)pthread_join(pacer->thread, NULL);
    drain(pacer);
    spin_cond_deinit(&pacer->changed);
    spin_mutex_deinit(&pacer->mutex);
    free(pacer);
}
