/* stub_internal: answers by the clock, whichever protocol carries them.
 *
 * Why        stub.c keeps the time, stub_http.c and stub_grpc.c know how an answer looks.
 *
 *            begin --> [first: ttft] --> [next: itl] --> ... --> carrier->end
 *                            due moments of a list only grow: it is its own order
 * Ownership  A stream lives where its protocol keeps it, from begin until carrier->end or leave.
 * Threading  The loop's thread.
 * Units      Nanoseconds on the monotonic clock.
 * Errors     None. */
#pragma once

#include "base/list.h"
#include "bench/load/stub.h"

SPIN_BEGIN_DECLS

struct spin_load_pacer;
struct spin_http_server;
struct spin_rpc_server;
struct stub_grpc;
struct stub_stream;

struct stub_carrier {
    void (*send)(struct stub_stream *stream, uint32_t tokens);
    /* The stream's own end, or that of its fault; the stream's memory may go in it. */
    void (*end)(struct stub_stream *stream, enum spin_load_fault fault);
};

struct stub_stream {
    struct spin_link link;
    struct spin_list *list; /* NULL: in none: stalled */
    const struct stub_carrier *carrier;
    uint64_t due_ns;
    uint32_t prompt_tokens;
    uint32_t tokens_max;
    uint32_t tokens;
    uint32_t messages;
    uint32_t fault; /* enum spin_load_fault */
};

struct spin_load_stub {
    struct spin_load_stub_config config;
    struct spin_loop *loop;
    struct spin_load_pacer *pacer;
    struct spin_timer *death;
    struct spin_http_server *http;
    struct stub_grpc *grpc;
    uint64_t start_ns;
    uint64_t requests;
    uint64_t messages;
    struct spin_list first;
    struct spin_list next;
    bool is_firing;
    bool http_closing;
    bool http_closed;
    void (*stopped)(void *context);
    void *stopped_context;
};

/* The fault of the request that came just now. */
enum spin_load_fault spin_load_stub_next_fault(struct spin_load_stub *stub);
void spin_load_stub_begin(struct spin_load_stub *stub, struct stub_stream *stream);
/* The client has gone: nothing is sent any more. */
void spin_load_stub_leave(struct stub_stream *stream);

SPIN_MUST_USE spin_status spin_load_stub_open_http(struct spin_load_stub *stub,
                                                   struct spin_error *err);
void spin_load_stub_close_http(struct spin_load_stub *stub);
SPIN_MUST_USE spin_status spin_load_stub_open_grpc(struct spin_load_stub *stub,
                                                   struct spin_error *err);
uint32_t spin_load_stub_port_grpc(const struct stub_grpc *grpc);
/* Open streams end; returns when all have. NULL is allowed. */
void spin_load_stub_close_grpc(struct stub_grpc *grpc);

SPIN_END_DECLS
