#include "base/mutex.h"

#include "base/assert.h"
#include "base/clock.h"

#include <errno.h>
#include <time.h>

void spin_mutex_init(struct spin_mutex *mutex)
{
    SPIN_ASSERT_EQ(pthread_mutex_init(&mutex->impl, NULL), 0);
}

void spin_mutex_deinit(struct spin_mutex *mutex)
{
    SPIN_ASSERT_EQ(pthread_mutex_destroy(&mutex->impl), 0);
}

void spin_mutex_lock(struct spin_mutex *mutex)
{
    SPIN_ASSERT_EQ(pthread_mutex_lock(&mutex->impl), 0);
}

void spin_mutex_unlock(struct spin_mutex *mutex)
{
    SPIN_ASSERT_EQ(pthread_mutex_unlock(&mutex->impl), 0);
}

void spin_cond_init(struct spin_cond *cond)
{
    pthread_condattr_t attributes;
    SPIN_ASSERT_EQ(pthread_condattr_init(&attributes), 0);
    SPIN_ASSERT_EQ(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC), 0);
    SPIN_ASSERT_EQ(pthread_cond_init(&cond->impl, &attributes), 0);
    SPIN_ASSERT_EQ(pthread_condattr_destroy(&attributes), 0);
}

void spin_cond_deinit(struct spin_cond *cond)
{
    SPIN_ASSERT_EQ(pthread_cond_destroy(&cond->impl), 0);
}

bool spin_cond_wait(struct spin_cond *cond, struct spin_mutex *mutex, uint64_t deadline_ns)
{
    if (deadline_ns == SPIN_NO_DEADLINE) {
        SPIN_ASSERT_EQ(pthread_cond_wait(&cond->impl, &mutex->impl), 0);
        return true;
    }
    const struct timespec deadline = {.tv_sec = (time_t)(deadline_ns / SPIN_NS_PER_S),
                                      .tv_nsec = (long)(deadline_ns % SPIN_NS_PER_S)};
    const int result = pthread_cond_timedwait(&cond->impl, &mutex->impl, &deadline);
    SPIN_ASSERT(result == 0 || result == ETIMEDOUT);
    return result == 0;
}

void spin_cond_signal(struct spin_cond *cond)
{
    SPIN_ASSERT_EQ(pthread_cond_signal(&cond->impl), 0);
}

void spin_cond_broadcast(struct spin_cond *cond)
{
    SPIN_ASSERT_EQ(pthread_cond_broadcast(&cond->impl), 0);
}
