/* request: what the engine is asked to do, and what it answers with.
 *
 * Why        The gRPC service, tests and benchmarks speak to the engine in these plain values;
 *            nothing of the wire is in them.
 * Ownership  Pointers in a spin_request are borrowed during submit only: submit copies. What a sink
 *            is handed is valid during the call.
 * Threading  Sinks are called on the engine's thread, never from inside submit or cancel; they must
 *            not block and must not call the engine.
 * Units      Tokens; nanoseconds (absolute deadlines on the monotonic clock). */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

#define SPIN_REQUEST_ID_BYTES 64u
#define SPIN_STOP_TOKENS_MAX 32u
#define SPIN_LOGIT_BIAS_MAX 1024u
#define SPIN_TOP_LOGPROBS_MAX 20u
#define SPIN_TEMPERATURE_MAX 100.0    /* beyond it a draw is uniform for all that matters */
#define SPIN_LOGIT_BIAS_ABS_MAX 100.0 /* OpenAI's limit: bans or forces a token */
#define SPIN_PENALTY_ABS_MAX 2.0      /* OpenAI's limit, presence and frequency */
#define SPIN_REPETITION_PENALTY_MAX 10.0

struct spin_logit_bias {
    int32_t token;
    float bias;
};

/* How the next token is drawn from logits; every field of the Sampling message. */
struct spin_sampling {
    float temperature;        /* [0, 100]; 0: greedy; ties go to the lowest id */
    float top_p;              /* (0, 1]; 1: off */
    uint32_t top_k;           /* 0: off */
    float min_p;              /* [0, 1]; 0: off */
    float presence_penalty;   /* [-2, 2]; over generated tokens */
    float frequency_penalty;  /* [-2, 2]; over generated tokens */
    float repetition_penalty; /* (0, 10]; 1: off; over prompt and generated tokens */
    uint64_t seed;
    const struct spin_logit_bias *logit_bias;
    uint32_t logit_bias_count;
};
struct spin_sampling spin_sampling_default(void); /* greedy, everything else off */

struct spin_top_logprob {
    int32_t token;
    float logprob;
};

struct spin_sampled {
    int32_t token;
    float logprob; /* log softmax of the raw logits; NaN when not asked for */
    const struct spin_top_logprob *top;
    uint32_t top_count;
};

enum spin_finish_reason {
    SPIN_FINISH_STOP,
    SPIN_FINISH_LENGTH,
    SPIN_FINISH_CANCELLED,
    SPIN_FINISH_DEADLINE,
    SPIN_FINISH_ERROR
};

struct spin_usage {
    uint32_t prompt_tokens;
    uint32_t cached_tokens;
    uint32_t completion_tokens; /* resumed ones included */
    uint32_t preemptions;
    uint64_t queue_ns;
    uint64_t prefill_ns;
    uint64_t decode_ns;
};

struct spin_finish {
    enum spin_finish_reason reason;
    int32_t stop_token; /* STOP: the token that ended it, not emitted; else -1 */
    spin_status status; /* ERROR: why */
    const char *text;   /* ERROR: one sentence; else NULL */
    struct spin_usage usage;
};

struct spin_sink {
    void *context;
    /* A prompt token's logprob (prompt_logprobs), in order, before the first token. The very first
     * has nothing before it: its logprob is NaN, without alternatives. */
    void (*prompt_token)(void *context, const struct spin_sampled *token);
    void (*token)(void *context, const struct spin_sampled *token);
    /* Exactly once, last, for every request whose submit returned OK. */
    void (*finished)(void *context, const struct spin_finish *finish);
};

struct spin_request {
    char id[SPIN_REQUEST_ID_BYTES]; /* for logs; NUL-terminated */
    const int32_t *prompt;
    uint32_t prompt_count;  /* >= 1 */
    const int32_t *resumed; /* generated before, elsewhere: part of the context, not emitted (D1) */
    uint32_t resumed_count;
    struct spin_sampling sampling;
    uint32_t max_tokens; /* resumed ones included; 0 only with prompt_logprobs */
    uint32_t min_tokens;
    const int32_t *stop_tokens; /* the model's end tokens included unless ignore_eos */
    uint32_t stop_token_count;
    bool logprobs;
    uint32_t top_logprobs;
    bool prompt_logprobs;
    uint64_t deadline_ns; /* SPIN_NO_DEADLINE: none */
    struct spin_sink sink;
};

SPIN_END_DECLS
