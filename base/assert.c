#include "base/assert.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *thread_name(char name[16])
{
    if (pthread_getname_np(pthread_self(), name, 16) != 0) {
        name[0] = '\0';
    }
    return name;
}

void spin_assert_fail(const char *expr, const char *file, int line)
{
    char name[16];
    (void)fprintf(stderr, "%s:%d: assertion failed: %s [thread %s]\n", file, line, expr,
                  thread_name(name));
    abort();
}

void spin_assert_fail_values(const char *expr, int64_t a, int64_t b, const char *where)
{
    char name[16];
    (void)fprintf(stderr,
                  "%s: assertion failed: %s: left %" PRId64 ", right %" PRId64 " [thread %s]\n",
                  where, expr, a, b, thread_name(name));
    abort();
}

static uint64_t current_thread(void)
{
    static _Thread_local uint64_t id;
    if (id == 0) {
        id = (uint64_t)syscall(SYS_gettid);
    }
    return id;
}

void spin_owner_set(struct spin_owner *owner)
{
    owner->thread = current_thread();
}

bool spin_owner_is_current(const struct spin_owner *owner)
{
    return owner->thread == current_thread();
}
