/* stub_streams: generations that answer by the clock, with no model behind them.
 *
 * Why        What a router costs is measured with a worker that costs next to nothing and draws
 *            tokens at the rate it was told. One thread serves thousands of streams from a wheel of
 *            milliseconds.
 *
 *            rpc thread   start ----> [arrived]           gone --> [left]
 *            pacer thread       [arrived] -> [held] -> [wheel: ttft, token, token, ...] -> finish
 *
 * Patterns   spread: every stream has its own phase. step: all tokens of a worker come at the same
 *            moments, as from an engine that decodes one batch.
 * Ownership  A stream lives in its call's state (spin_stub_stream_bytes), from start to finish.
 * Threading  start, gone: the rpc thread. counts: any thread. Everything else: the pacer.
 * Units      Nanoseconds, tokens.
 * Errors     A call whose resumed tokens are not what this worker would have drawn ends with
 *            INVALID; the text names the place. */
#pragma once

#include "bench/router/stub_tokens.h"
#include "proto/rpc_server.h"

SPIN_BEGIN_DECLS

enum spin_stub_pattern { SPIN_STUB_SPREAD, SPIN_STUB_STEP };

struct spin_stub_config {
    double tokens_per_s; /* of one stream; above 0 */
    uint64_t ttft_ns;    /* from the call's start to its first token */
    enum spin_stub_pattern pattern;
    const char *hold_file;         /* while it exists no stream starts to draw; NULL: none */
    struct spin_stub_times *times; /* borrowed; NULL: not kept */
};

struct spin_stub_counts {
    uint32_t running; /* streams that are open */
    uint32_t held;    /* of them: waiting for the hold file to go */
    uint64_t prompt_tokens_held;
    uint64_t kv_tokens; /* prompts and answers of open streams */
};

struct spin_stub_streams; /* private to stub_streams.c */

SPIN_MUST_USE spin_status spin_stub_streams_create(const struct spin_stub_config *config,
                                                   struct spin_stub_streams **out,
                                                   struct spin_error *err);
/* Open streams end with SHUTDOWN, later ones at once; returns when the pacer has ended. */
void spin_stub_streams_stop(struct spin_stub_streams *streams);
void spin_stub_streams_destroy(struct spin_stub_streams *streams); /* stopped; NULL is allowed */
struct spin_stub_counts spin_stub_streams_counts(struct spin_stub_streams *streams);

/* For the table of methods; the context is a struct spin_stub_streams. */
uint32_t spin_stub_stream_bytes(void);
void spin_stub_generate_start(void *context, struct spin_rpc_call *call,
                              const struct ProtobufCMessage *request);
void spin_stub_generate_gone(void *context, struct spin_rpc_call *call);

SPIN_END_DECLS
