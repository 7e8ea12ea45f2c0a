#include "tests/bench/load/stub_thread.h"

#include "base/clock.h"
#include "base/list.h"
#include "base/mutex.h"
#include "tests/spin_test.h"

#include <pthread.h>
#include <stdlib.h>

struct running {
    struct stub_thread shown;
    struct spin_load_stub_config config;
    pthread_t thread;
    struct spin_loop *loop;
    struct spin_load_stub *stub;
    struct spin_loop_message stop;
    struct spin_mutex mutex; /* the next */
    struct spin_cond changed;
    bool is_ready;
    struct spin_error err;
};

static void on_stopped(void *context)
{
    spin_loop_stop(context);
}

static void on_stop(struct spin_loop_message *message)
{
    struct running *running = SPIN_CONTAINER_OF(message, struct running, stop);
    spin_load_stub_stop(running->stub, on_stopped, running->loop);
}

static void on_hour(void *context)
{
    (void)context;
}

static void *run(void *self)
{
    struct running *running = self;
    struct spin_timer *hour = NULL; /* without HTTP a loop has nothing to wait for, and ends */
    spin_status status = spin_loop_create(&running->loop, &running->err);
    if (status == SPIN_OK) {
        status = spin_timer_create(running->loop, on_hour, NULL, &hour);
        spin_timer_start(hour, 3600 * SPIN_NS_PER_S, true);
    }
    if (status == SPIN_OK) {
        status =
            spin_load_stub_create(running->loop, &running->config, &running->stub, &running->err);
    }
    spin_mutex_lock(&running->mutex);
    running->is_ready = true;
    spin_cond_signal(&running->changed);
    spin_mutex_unlock(&running->mutex);
    if (status == SPIN_OK) {
        spin_loop_run(running->loop);
    }
    spin_load_stub_destroy(running->stub);
    spin_timer_destroy(hour);
    spin_loop_destroy(running->loop);
    return NULL;
}

struct stub_thread *spin_test_stub_start(const struct spin_load_stub_config *config)
{
    struct running *running = calloc(1, sizeof *running);
    assert_non_null(running);
    running->config = *config;
    running->config.http_listen = "127.0.0.1:0";
    running->config.grpc_listen = "127.0.0.1:0";
    running->config.tokens_per_message = SPIN_MAX(config->tokens_per_message, 1u);
    running->config.fault_every = SPIN_MAX(config->fault_every, 1u);
    running->stop.run = on_stop;
    spin_mutex_init(&running->mutex);
    spin_cond_init(&running->changed);
    assert_int_equal(pthread_create(&running->thread, NULL, run, running), 0);
    spin_mutex_lock(&running->mutex);
    while (!running->is_ready) {
        (void)spin_cond_wait(&running->changed, &running->mutex, SPIN_NO_DEADLINE);
    }
    spin_mutex_unlock(&running->mutex);
    SPIN_EXPECT_OK(running->err.status, &running->err);
    (void)snprintf(running->shown.http, sizeof running->shown.http, "http://127.0.0.1:%u",
                   spin_load_stub_http_port(running->stub));
    (void)snprintf(running->shown.grpc, sizeof running->shown.grpc, "127.0.0.1:%u",
                   spin_load_stub_grpc_port(running->stub));
    return &running->shown;
}

void spin_test_stub_stop(struct stub_thread *stub)
{
    struct running *running = SPIN_CONTAINER_OF(stub, struct running, shown);
    spin_loop_post(running->loop, &running->stop);
    assert_int_equal(pthread_join(running->thread, NULL), 0);
    spin_cond_deinit(&running->changed);
    spin_mutex_deinit(&running->mutex);
    free(running);
}
