#include "client/interrupt.h"

#include <pthread.h>
#include <sys/signalfd.h>
#include <unistd.h>

static sigset_t both(void)
{
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    return set;
}

spin_status spin_interrupt_open(struct spin_interrupt *interrupt, struct spin_error *err)
{
    const sigset_t set = both();
    const int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0) {
        return spin_fail_errno(err, SPIN_ERR_IO, "signals");
    }
    interrupt->fd = fd;
    (void)pthread_sigmask(SIG_BLOCK, &set, &interrupt->before);
    return SPIN_OK;
}

void spin_interrupt_close(struct spin_interrupt *interrupt)
{
    (void)pthread_sigmask(SIG_SETMASK, &interrupt->before, NULL);
    (void)close(interrupt->fd);
}

int spin_interrupt_take(struct spin_interrupt *interrupt)
{
    struct signalfd_siginfo info;
    if (read(interrupt->fd, &info, sizeof info) != (ssize_t)sizeof info) {
        return 0;
    }
    return (int)info.ssi_signo;
}

void spin_interrupt_let(struct spin_interrupt *interrupt)
{
    (void)pthread_sigmask(SIG_SETMASK, &interrupt->before, NULL);
}

void spin_interrupt_hold(struct spin_interrupt *interrupt)
{
    const sigset_t set = both();
    (void)interrupt;
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL);
}
