/* driver: one way of asking for completions; a run uses exactly one.
 *
 * Why        The run knows when and what, a driver knows how: the same requests go over our gRPC
 *            or over anybody's HTTP. Tokens are noted where they arrive, on the driver's own
 *            thread, without a message to the loop for each of them.
 *
 *            run (loop):    submit .................................. ended() --> call freed
 *            driver thread:        ... heard, tokens, usage ... end --/
 *
 * Ownership  The run owns calls and their prompts; a prompt is borrowed until submit returns. A
 *            driver owns `state` of a call from submit until forget.
 * Threading  submit, cancel, forget: the loop. The functions of calls below: the driver's one
 *            thread, from submit on; `ended` of the run comes as a message on the loop.
 * Units      Nanoseconds on the monotonic clock; a record counts from start_ns.
 * Errors     submit: the request was not sent, and its call does not end. After OK it ends exactly
 *            once, whatever happens: an outcome and a sentence. */
#pragma once

#include "bench/load/result.h"
#include "net/loop.h"

SPIN_BEGIN_DECLS

struct spin_load_driver;

struct spin_load_counts { /* for progress; written by the driver's thread, read by the loop */
    uint64_t messages;
};

struct spin_load_call {
    struct spin_loop_message message; /* of its end */
    struct spin_load_driver *driver;
    struct spin_bench_request record;
    char error[160]; /* of an outcome other than OK; "" for none */
    uint64_t seed;
    const char *prompt; /* letters and spaces, NUL-terminated; until submit returns */
    uint64_t prompt_bytes;
    uint64_t heard_ns; /* when something last came; atomic, relaxed */
    bool cancelled;    /* loop: asked for, with what it will be */
    enum spin_bench_outcome cancelled_as;
    void *state; /* the driver's */
};

struct spin_load_driver {
    const char *name; /* "openai" */
    spin_status (*submit)(struct spin_load_driver *driver, struct spin_load_call *call,
                          struct spin_error *err);
    void (*cancel)(struct spin_load_driver *driver, struct spin_load_call *call);
    void (*forget)(struct spin_load_driver *driver, struct spin_load_call *call);
    void (*destroy)(struct spin_load_driver *driver);
    /* The run's. */
    struct spin_loop *loop;
    uint64_t start_ns;
    struct spin_bench_result *part; /* gaps and tokens of the driver's thread */
    struct spin_load_counts counts;
    void *context;
    void (*ended)(void *context, struct spin_load_call *call);
};

/* Bytes came that are no token. */
void spin_load_heard(struct spin_load_call *call, uint64_t at_ns);
/* A message with tokens came. */
void spin_load_tokens(struct spin_load_call *call, uint64_t at_ns);
/* The server counted. 0 output tokens: it did not, and messages stand for them. */
void spin_load_usage(struct spin_load_call *call, uint32_t prompt_tokens, uint32_t output_tokens);
/* Exactly once, last. OK without a token becomes EMPTY. */
void spin_load_end(struct spin_load_call *call, enum spin_bench_outcome outcome, const char *text);

SPIN_END_DECLS
