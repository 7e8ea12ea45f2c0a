/* inference_internal: what the files of the Inference service share; nobody else includes it.
 *
 * Why        Every method takes the same way, which is inference_call.c; a kind says what is done
 *            at its stations.
 *
 *            rpc thread    start: copy the request ----.               gone ----.
 *            loop                                      '-> arrived ---> ready    '-> left
 *            pool thread                                    '-- prepare --^
 *                                                 (on the loop itself when the request is small)
 *
 * Ownership  A call is its own from start to spin_inference_call_end, which frees it.
 * Threading  As the picture says; everything without another word: the loop's thread.
 * Units      Bytes, tokens.
 * Errors     As inference.h. */
#pragma once

#include "base/list.h"
#include "base/mutex.h"
#include "proto/rpc_message.h"
#include "proto/spin/v1/inference.pb-c.h"
#include "router/grpc/inference.h"

SPIN_BEGIN_DECLS

struct spin_inference_call;
struct spin_inference_scratch; /* private to inference_delta.c */

/* --- inference_call.c --- */

struct spin_inference_kind {
    struct spin_rpc_method method; /* its row, but for the handlers and the context */
    /* Any thread, pure: from `message`, which lives as long as the call's arena, to what ready
     * needs (in call->made). */
    spin_status (*prepare)(struct spin_inference_call *call, const struct ProtobufCMessage *message,
                           struct spin_error *err);
    /* Answers and ends, or starts what will. */
    void (*ready)(struct spin_inference_call *call);
    /* The client left after ready: gives up what was started, and ends. NULL: ready has ended. */
    void (*left)(struct spin_inference_call *call);
};

struct spin_inference_line { /* the context of a method's handlers */
    struct spin_inference *inference;
    const struct spin_inference_kind *kind;
};

struct spin_inference {
    struct spin_inference_parts parts;
    struct spin_inference_line lines[SPIN_INFERENCE_METHODS];
    struct spin_inference_scratch *scratch;
    struct spin_mutex mutex; /* guards the rest */
    uint64_t request_bytes;  /* held by calls */
};

/* What prepare makes; each kind uses its part. */
struct spin_inference_made {
    struct spin_prompt_tokens prompt;          /* Generate, Tokenize */
    struct spin_generation_request generation; /* Generate: of the first answer */
    Spin__V1__Sampling sampling;
    uint32_t n;
    char *text; /* Detokenize */
};

struct spin_inference_call {
    const struct spin_inference_line *line;
    struct spin_rpc_call *rpc;
    struct spin_loop_message arrived;
    struct spin_loop_message gone;
    struct spin_loop_work work;
    struct spin_arena
        *arena; /* the request and what points into it; NULL when not needed any more */
    struct spin_rpc_bytes request;        /* packed */
    uint64_t held_bytes;                  /* counted in request_bytes */
    struct spin_generation_limits limits; /* as the call arrived */
    spin_status status;                   /* prepare's */
    struct spin_error refused;            /* its words, when it failed */
    struct spin_inference_made made;
    uint32_t tenant;
    bool is_ready;
    bool has_left;                          /* `gone` was seen */
    bool has_ended;                         /* and nothing but `gone` is waited for */
    struct spin_inference_answers *answers; /* Generate's; freed with the call */
};

/* The handlers of every method. */
uint32_t spin_inference_call_state_bytes(void);
void spin_inference_call_start(void *context, struct spin_rpc_call *rpc,
                               const struct ProtobufCMessage *request);
void spin_inference_call_gone(void *context, struct spin_rpc_call *rpc);
/* The request and what was made of it are not needed any more. */
void spin_inference_call_forget(struct spin_inference_call *call);
/* The last word to the client. The call is void when it returns. */
void spin_inference_call_end(struct spin_inference_call *call, spin_status status,
                             const char *text);
/* The same for a request that is not taken; counts it. */
void spin_inference_call_refuse(struct spin_inference_call *call, const struct spin_error *err);
/* Any thread. NOT_FOUND when it is not the one that is served; "" is. */
SPIN_MUST_USE spin_status spin_inference_check_model(const struct spin_inference_call *call,
                                                     const char *model, struct spin_error *err);
/* Any thread. The one of text, messages and tokens that is given, as tokens. */
SPIN_MUST_USE spin_status spin_inference_read_prompt(struct spin_inference_call *call,
                                                     const Spin__V1__Prompt *prompt,
                                                     uint32_t tokens_max, struct spin_error *err);

/* --- the methods --- */

extern const struct spin_inference_kind spin_inference_generate;   /* inference_generate.c */
extern const struct spin_inference_kind spin_inference_tokenize;   /* inference_text.c */
extern const struct spin_inference_kind spin_inference_detokenize; /* inference_text.c */
extern const struct spin_inference_kind spin_inference_get_model;  /* inference_text.c */

/* --- inference_delta.c: what comes from the dispatcher, as messages --- */

SPIN_MUST_USE spin_status spin_inference_scratch_create(struct spin_inference_scratch **out,
                                                        struct spin_error *err);
void spin_inference_scratch_destroy(struct spin_inference_scratch *scratch); /* NULL is allowed */

struct spin_inference_answer {
    struct spin_inference_call *call;
    struct spin_generation *generation; /* NULL: ended, or never submitted */
    uint32_t index;
};
/* protobuf-c's strings end at a NUL, so U+0000 comes out as U+FFFD: `out` has room for three times
 * the bytes. Returns the bytes written. Any thread. */
uint64_t spin_inference_copy_text(char *out, const char *text, uint64_t bytes);
/* protobuf-c's string fields are not const; packing only reads them. */
char *spin_inference_borrow(const char *text);
/* One message, or several when one would grow too large. `request_id` NULL: it was sent. */
void spin_inference_send_delta(const struct spin_inference_answer *answer, const char *request_id,
                               bool logprobs, const struct spin_generation_delta *delta);
void spin_inference_send_ending(const struct spin_inference_answer *answer, const char *request_id,
                                const struct spin_generation_end *end);

SPIN_END_DECLS
