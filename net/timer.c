#include "base/clock.h"
#include "net/loop_internal.h"

#include <uv.h>

#include <stdlib.h>

struct spin_timer {
    uv_timer_t uv;
    struct spin_loop *loop;
    void (*fire)(void *context);
    void *context;
};

static void on_fire(uv_timer_t *uv)
{
    struct spin_timer *timer = uv->data;
    timer->fire(timer->context); /* may destroy the timer */
}

spin_status spin_timer_create(struct spin_loop *loop, void (*fire)(void *context), void *context,
                              struct spin_timer **out)
{
    SPIN_ASSERT(fire != NULL);
    struct spin_timer *timer = calloc(1, sizeof *timer);
    if (timer == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    SPIN_ASSERT_EQ(uv_timer_init(spin_loop_uv(loop), &timer->uv), 0);
    timer->uv.data = timer;
    timer->loop = loop;
    timer->fire = fire;
    timer->context = context;
    spin_loop_hold(loop);
    *out = timer;
    return SPIN_OK;
}

static void release_timer(uv_handle_t *handle)
{
    free(handle->data);
}

void spin_timer_destroy(struct spin_timer *timer)
{
    if (timer != NULL) {
        spin_loop_release(timer->loop);
        uv_close((uv_handle_t *)&timer->uv, release_timer);
    }
}

/* A year is as good as never, and far from where sums overflow. */
#define DELAY_MS_MAX (UINT64_C(365) * 24 * 3600 * 1000)

void spin_timer_start(struct spin_timer *timer, uint64_t delay_ns, bool repeat)
{
    uv_loop_t *uv = spin_loop_uv(timer->loop);
    const uint64_t whole_ms = delay_ns / SPIN_NS_PER_MS + (delay_ns % SPIN_NS_PER_MS != 0);
    const uint64_t delay_ms = SPIN_MIN(whole_ms, DELAY_MS_MAX);
    /* libuv counts from the start of this turn and cuts its time to milliseconds: without the
     * update and the one more, a timer would fire early. */
    uv_update_time(uv);
    const uint64_t first_ms = delay_ms == 0 ? 0 : delay_ms + 1;
    const uint64_t every_ms = repeat ? SPIN_MAX(delay_ms, 1) : 0;
    SPIN_ASSERT_EQ(uv_timer_start(&timer->uv, on_fire, first_ms, every_ms), 0);
}

void spin_timer_stop(struct spin_timer *timer)
{
    spin_loop_assert_thread(timer->loop);
    SPIN_ASSERT_EQ(uv_timer_stop(&timer->uv), 0);
}
