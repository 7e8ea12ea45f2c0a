/* ask: a router, and one request to it that a person waits for.
 *
 * Why        Commands say the same things when a router is away, and wait in one place, where
 *            Ctrl-C becomes a cancel.
 * Ownership  open returns owned; spin_client_close ends it. `ask` borrows everything during the
 *            call.
 * Threading  The main thread. `on_delta` runs on the client's.
 * Units      Nanoseconds.
 * Errors     open: PEER_LOST with a sentence that says what to do, and those of
 *            spin_client_connect. */
#pragma once

#include "client/interrupt.h"
#include "client/options.h"
#include "client/spin_client.h"

SPIN_BEGIN_DECLS

enum spin_exit { /* of every command */
                 SPIN_EXIT_DONE = 0,
                 SPIN_EXIT_FAILED = 1,
                 SPIN_EXIT_OPTIONS = 2,
                 SPIN_EXIT_INTERRUPTED = 130
};

SPIN_MUST_USE spin_status spin_ask_open(const struct spin_router_options *options,
                                        struct spin_client **out, struct spin_error *err);

struct spin_asked {
    struct spin_error outcome; /* CANCELLED after a signal */
    int interrupted;           /* the signal; 0: none */
};
struct spin_asking {
    struct spin_client *client;
    struct spin_interrupt *interrupt;
    spin_client_delta_fn on_delta;
    void *context;
};
/* After the first signal the request is cancelled; a second one ends the process. */
void spin_ask(const struct spin_asking *asking, const struct spin_client_request *request,
              struct spin_asked *out);

/* Fills what the options say; `stops` is borrowed by the request. */
void spin_ask_fill(struct spin_client_request *request, const struct spin_sampling_options *options,
                   const struct spin_stops *stops);

/* One line on standard error, with what to do where we know it. */
void spin_complain(const char *command, const struct spin_router_options *options,
                   const struct spin_error *err);

SPIN_END_DECLS
