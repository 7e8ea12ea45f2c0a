/* interrupt: Ctrl-C and SIGTERM as something to wait for, beside other things.
 *
 * Why        A command cancels its request before it ends, and a conversation outlives Ctrl-C, so
 *            signals must not end the process by themselves while one of these is open.
 * Ownership  One at a time in a process.
 * Threading  The main thread; open before the signals matter, after which other threads are started
 *            with all of them blocked.
 * Errors     open: IO. */
#pragma once

#include "base/status.h"

#include <signal.h>

SPIN_BEGIN_DECLS

struct spin_interrupt {
    int fd; /* readable when a signal came */
    sigset_t before;
};

SPIN_MUST_USE spin_status spin_interrupt_open(struct spin_interrupt *interrupt,
                                              struct spin_error *err);
/* Signals end the process again, one that came and was not taken too. */
void spin_interrupt_close(struct spin_interrupt *interrupt);
/* The number of a signal that came; 0: none. Does not block. */
int spin_interrupt_take(struct spin_interrupt *interrupt);
/* Lets signals end the process, or keeps them from it again. */
void spin_interrupt_let(struct spin_interrupt *interrupt);
void spin_interrupt_hold(struct spin_interrupt *interrupt);

SPIN_END_DECLS
