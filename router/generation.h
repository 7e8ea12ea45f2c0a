/* generation: one sequence to generate, in the words that the front doors and the dispatcher share.
 *
 * Why        HTTP and gRPC ask for the same thing and may ask it wrongly in the same ways, so what
 *            a request is and what is checked about it stand here once. A request for n answers, or
 *            with several prompts, is that many generations.
 * Ownership  What a request points to is borrowed during submit. What a sink gets is valid during
 *            the call.
 * Threading  The loop's thread. check: any thread, pure.
 * Units      Tokens, bytes, nanoseconds (absolute deadlines on the monotonic clock).
 * Errors     check: INVALID names the field, its value and the range; LIMIT both lengths. */
#pragma once

#include "base/status.h"
#include "proto/spin/v1/types.pb-c.h"

SPIN_BEGIN_DECLS

/* Limits of the API; what a worker limits itself (request.h there) is not wider. */
#define SPIN_GENERATION_ID_BYTES 64u
#define SPIN_GENERATIONS_MAX 128u /* of one request: prompts times n */
#define SPIN_STOP_STRINGS_MAX 16u
#define SPIN_STOP_STRING_BYTES_MAX 256u
#define SPIN_STOP_TOKEN_IDS_MAX 16u /* leaves a worker room for the model's own */
#define SPIN_LOGIT_BIASES_MAX 1024u
#define SPIN_TOP_LOGPROBS_LIMIT 20u

struct spin_stop_strings {
    const char *texts[SPIN_STOP_STRINGS_MAX]; /* NUL-terminated UTF-8, 1..256 bytes */
    uint32_t count;
};

/* A token that came, with its log probability where it was asked for. */
struct spin_generation_token {
    int32_t token;
    float logprob; /* NaN: none */
    const struct spin_generation_alternative {
        int32_t token;
        float logprob;
    } * top; /* most likely first */
    uint32_t top_count;
};

/* What is new since the last delta. */
struct spin_generation_delta {
    const char *text; /* whole characters; never part of a stop string */
    uint64_t text_bytes;
    const struct spin_generation_token *tokens; /* whose text is out; empty unless return_tokens */
    uint32_t token_count;
    const struct spin_generation_token *prompt; /* sampling.prompt_logprobs */
    uint32_t prompt_count;
};

struct spin_generation_end {
    spin_status status;            /* OK: `reason` says why it ended; else `text` why it failed */
    const char *text;              /* one sentence; "" when OK */
    Spin__V1__FinishReason reason; /* STOP or LENGTH when OK */
    int32_t stop_token;            /* STOP by this token; -1: by a string or not at all */
    const char *stop_string;       /* STOP by this string; NULL */
    uint32_t prompt_tokens;
    uint32_t completion_tokens;
    uint32_t cached_tokens;
    uint32_t recoveries; /* times it was moved to another worker after it had begun */
    uint64_t queue_ns;
    uint64_t prefill_ns;
    uint64_t decode_ns;
    uint32_t preemptions;
};

struct spin_generation_sink {
    void *context;
    void (*delta)(void *context, const struct spin_generation_delta *delta);
    /* Once, last; the generation's handle is void when it returns. */
    void (*ended)(void *context, const struct spin_generation_end *end);
};

struct spin_generation_request {
    const char *id;  /* 1..63 bytes, for logs */
    uint32_t tenant; /* tenants.h */
    const int32_t *prompt;
    uint32_t prompt_count;
    const Spin__V1__Sampling *sampling; /* every value final: seed drawn, max_tokens filled */
    struct spin_stop_strings stop;
    bool return_tokens;
    uint64_t deadline_ns; /* SPIN_NO_DEADLINE: the router's own */
    struct spin_generation_sink sink;
};

/* What a request is checked against. */
struct spin_generation_limits {
    uint32_t vocab;
    uint32_t max_model_len;
};

/* Ranges of every field of `sampling`, counts and ids of tokens, prompt and output against
 * max_model_len. Names are the OpenAI API's, which are the proto's too. */
SPIN_MUST_USE spin_status spin_generation_check(const struct spin_generation_request *request,
                                                const struct spin_generation_limits *limits,
                                                struct spin_error *err);
/* A seed from the system's random numbers, never 0. */
uint64_t spin_generation_draw_seed(void);

SPIN_END_DECLS
