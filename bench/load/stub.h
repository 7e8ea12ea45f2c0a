/* stub: a server that answers by the clock and fails on request; no model behind it.
 *
 * Why        A load generator is judged against a server whose every moment is known: the k-th
 *            message of an answer leaves ttft + k * itl after its request came, whatever else goes
 *            on. And each way in which servers fail must be to be had at will.
 *
 *            HTTP:  /v1/completions, /v1/chat/completions (streamed), /v1/models, /metrics
 *            gRPC:  spin.v1.Inference/Generate, GetModel
 *
 * Ownership  The stub borrows the loop; strings of config are copied or used during create alone.
 * Threading  The loop's thread; gRPC's handlers hand over to it.
 * Units      Nanoseconds; times of freezing and dying count from create.
 * Errors     create: those of the two servers. */
#pragma once

#include "net/loop.h"

SPIN_BEGIN_DECLS

/* X(NAME, name): the order of --fault's choices. After fault_after messages: */
#define SPIN_LOAD_FAULT_MAP(X) \
    X(NONE, none)       /* nothing */ \
    X(REFUSE, refuse)   /* at once: HTTP 500, INTERNAL */ \
    X(BUSY, busy)       /* at once: HTTP 429, RESOURCE_EXHAUSTED */ \
    X(ERROR, error)     /* an error in the stream; INTERNAL */ \
    X(CUT, cut)         /* the connection is reset; UNAVAILABLE */ \
    X(STALL, stall)     /* nothing comes any more */ \
    X(GARBAGE, garbage) /* an event that is no JSON; DATA_LOSS */ \
    X(SHORT, short)     /* the stream ends without saying so; UNAVAILABLE */ \
    X(EMPTY, empty)     /* an end, and no token before it */

#define SPIN_LOAD_FAULT_ENUM(name, text) SPIN_LOAD_FAULT_##name,
enum spin_load_fault { SPIN_LOAD_FAULT_MAP(SPIN_LOAD_FAULT_ENUM) SPIN_LOAD_FAULTS };
#undef SPIN_LOAD_FAULT_ENUM

struct spin_load_stub_config {
    const char *http_listen; /* "host:port"; NULL: no HTTP */
    const char *grpc_listen; /* NULL: no gRPC */
    uint64_t ttft_ns;
    uint64_t itl_ns;
    uint32_t tokens_per_message; /* at least 1 */
    uint32_t fault;              /* enum spin_load_fault */
    uint32_t fault_every;        /* of the n-th, 2n-th, ... request; at least 1 */
    uint32_t fault_after;
    bool usage;            /* HTTP: says how many tokens there were */
    uint64_t freeze_at_ns; /* from then on, for freeze_ns, nothing moves: no token, no request */
    uint64_t freeze_ns;
    uint64_t die_at_ns; /* HTTP: all connections are cut and no new one is taken; 0: never */
};

struct spin_load_stub; /* private to stub.c */

SPIN_MUST_USE spin_status spin_load_stub_create(struct spin_loop *loop,
                                                const struct spin_load_stub_config *config,
                                                struct spin_load_stub **out,
                                                struct spin_error *err);
uint32_t spin_load_stub_http_port(const struct spin_load_stub *stub); /* 0: none */
uint32_t spin_load_stub_grpc_port(const struct spin_load_stub *stub);
/* Cuts what is open, and `stopped` is called on the loop when all of it is gone. */
void spin_load_stub_stop(struct spin_load_stub *stub, void (*stopped)(void *context),
                         void *context);
void spin_load_stub_destroy(struct spin_load_stub *stub); /* stopped; not while the loop runs */

SPIN_END_DECLS
