/* fake_router: a router in the test's process that does what its script says.
 *
 * Why        Refusals, breaks and hangs at the wanted moment cannot be had from a real one.
 * Ownership  The test owns it; every call it holds must be over before destroy.
 * Threading  Its handlers run on its rpc thread; the counters may be read from any.
 * Errors     None: it fails the test. */
#pragma once

#include "proto/rpc_server.h"
#include "proto/spin/v1/inference.pb-c.h"

SPIN_BEGIN_DECLS

enum fake_act {
    FAKE_ANSWER,    /* "Hel", "lo", the ending */
    FAKE_REFUSE,    /* `status`, before any message */
    FAKE_BREAK,     /* "Hel", then `status` */
    FAKE_HANG,      /* nothing, until the client leaves */
    FAKE_BEGIN,     /* "Hel", and nothing more until the client leaves */
    FAKE_NO_ENDING, /* "Hel", then OK */
    FAKE_WRONG,     /* a delta of answer 7 */
    FAKE_RICH,      /* tokens, alternatives, prompt, two answers */
    FAKE_FLOOD,     /* messages of 16 KiB until the client is gone */
};

struct fake_router {
    struct spin_rpc_server *server;
    struct spin_rpc_method methods[2];
    char address[32];
    enum fake_act act;  /* after `refusals` */
    spin_status status; /* of REFUSE and BREAK */
    uint32_t refusals;  /* calls that are refused first */
    uint32_t calls;     /* atomic, like `gone`: read with spin_fake_router_calls */
    uint32_t gone;
    /* Looks at a request of Generate; NULL: nobody does. */
    void (*inspect)(void *context, const Spin__V1__InferenceRequest *request);
    void *context;
    struct spin_rpc_call *flooded; /* FLOOD's */
};

/* `api_key` NULL: anyone may ask. */
void spin_fake_router_start(struct fake_router *fake, const char *api_key);
void spin_fake_router_stop(struct fake_router *fake);
/* Calls of Generate so far. */
uint32_t spin_fake_router_calls(const struct fake_router *fake);
/* Fails the test when there are not `count` calls gone within ten seconds. */
void spin_fake_router_wait_gone(struct fake_router *fake, uint32_t count);

SPIN_END_DECLS
