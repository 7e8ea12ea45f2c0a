/* spin_client: the C SDK: ask a SPIN cluster for text.
 *
 * Why        Programs in C (and in whatever can call C) get streaming, cancelling, deadlines and
 *            typed errors without knowing gRPC: link libspin_client and include this one header.
 *
 *                struct spin_client *client;
 *                spin_client_connect(&(struct spin_client_config){.target = "127.0.0.1:9000"},
 *                                    &client, &err);
 *                spin_client_generate(client, &request, on_delta, context, &err);
 *                spin_client_close(client);
 *
 * Ownership  The client owns its connection and thread. What a request points to is borrowed during
 *            the call it is given to; what a callback gets is valid during the callback.
 * Threading  A client: any thread, calls at once are fine. Callbacks run on the client's threads,
 *            those of one call one at a time; they may cancel, submit and release, but not wait
 *            (generate, get_model) or close, and what they spend the streams wait for
 *            (back-pressure).
 * Units      Tokens, bytes, nanoseconds; deadlines are durations from now, 0 is none.
 * Errors     Every failure is a spin_status and a sentence in struct spin_error: INVALID (a field,
 *            with its range), LIMIT (too long), NOT_FOUND (the model), DENIED (the key), EXHAUSTED
 *            (overload: try later), PEER_LOST (unreachable), DEADLINE, CANCELLED, SHUTDOWN.
 * Retries    A call that the cluster has not begun (PEER_LOST or EXHAUSTED before any message) is
 *            tried again after a growing pause with jitter, retries_max times and never beyond its
 *            deadline. What has begun is never repeated: the cluster itself recovers streams. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

struct spin_client;      /* private to the SDK */
struct spin_client_call; /* private to the SDK */

struct spin_client_config {
    const char *target;    /* "host:port" of a router's gRPC */
    const char *api_key;   /* NULL: none */
    bool tls;              /* encrypt; the next three are PEM files and imply it */
    const char *ca_file;   /* NULL: the system's authorities */
    const char *cert_file; /* with key_file: mutual TLS */
    const char *key_file;
    uint64_t connect_timeout_ns; /* 0: 10 s */
    uint32_t retries_max;        /* of what never began; the default configuration says 3 */
};
struct spin_client_config spin_client_config_default(void); /* 127.0.0.1:9000, 3 retries */

SPIN_MUST_USE spin_status spin_client_connect(const struct spin_client_config *config,
                                              struct spin_client **out, struct spin_error *err);
/* Cancels what is open and waits for its end. NULL is allowed. */
void spin_client_close(struct spin_client *client);

struct spin_client_message {
    const char *role; /* "system", "user", "assistant", "tool" */
    const char *content;
};

struct spin_client_bias {
    int32_t token;
    float bias;
};

/* Exactly one of text, messages and tokens is set. Zeros are the defaults. */
struct spin_client_request {
    const char *model; /* NULL: the one that is served */
    const char *text;
    const struct spin_client_message *messages;
    uint32_t message_count;
    const int32_t *tokens;
    uint32_t token_count;
    uint32_t max_tokens; /* 0: as many as fit */
    uint32_t min_tokens;
    float temperature; /* 0: greedy */
    float top_p;       /* 0 or 1: off */
    uint32_t top_k;
    float min_p;
    float presence_penalty;
    float frequency_penalty;
    float repetition_penalty; /* 0 or 1: off */
    uint64_t seed;            /* 0: drawn by the router */
    const char *const *stop;
    uint32_t stop_count;
    const int32_t *stop_token_ids;
    uint32_t stop_token_id_count;
    const struct spin_client_bias *logit_bias;
    uint32_t logit_bias_count;
    bool ignore_eos;
    bool logprobs;
    uint32_t top_logprobs;
    bool prompt_logprobs;
    bool score_only; /* with prompt_logprobs: nothing is generated */
    bool return_tokens;
    uint32_t n; /* answers; 0: one */
    uint64_t deadline_ns;
    const char *request_id; /* NULL: drawn by the router */
};

struct spin_client_alternative {
    int32_t token;
    float logprob;
};
struct spin_client_token {
    int32_t token;
    float logprob; /* NaN: not known */
    const struct spin_client_alternative *top;
    uint32_t top_count;
};

enum spin_client_reason { SPIN_CLIENT_STOP, SPIN_CLIENT_LENGTH };

struct spin_client_ending {
    enum spin_client_reason reason;
    const char *stop_string; /* NULL: another reason */
    int32_t stop_token;      /* -1: another reason */
    uint32_t prompt_tokens;
    uint32_t completion_tokens;
    uint32_t cached_tokens;
    uint32_t recoveries; /* times the cluster moved it to another worker */
    uint64_t queue_ns;
    uint64_t prefill_ns;
    uint64_t decode_ns;
};

struct spin_client_delta {
    uint32_t index; /* which answer */
    const char *text;
    uint64_t text_bytes;
    const struct spin_client_token *tokens;
    uint32_t token_count;
    const struct spin_client_token *prompt;
    uint32_t prompt_count;
    const struct spin_client_ending *ending; /* the answer's last delta; NULL before */
};

/* Return false to cancel. */
typedef bool (*spin_client_delta_fn)(void *context, const struct spin_client_delta *delta);
typedef void (*spin_client_finished_fn)(void *context, spin_status status, const char *text);

/* Blocks until the end. CANCELLED when `on_delta` returned false. */
SPIN_MUST_USE spin_status spin_client_generate(struct spin_client *client,
                                               const struct spin_client_request *request,
                                               spin_client_delta_fn on_delta, void *context,
                                               struct spin_error *err);

struct spin_client_handlers {
    void *context;
    spin_client_delta_fn delta;
    spin_client_finished_fn finished; /* exactly once, last */
};
/* Returns at once. An error here: no callback comes. The call is released by its owner, which may
 * be before its end. */
SPIN_MUST_USE spin_status spin_client_submit(struct spin_client *client,
                                             const struct spin_client_request *request,
                                             const struct spin_client_handlers *handlers,
                                             struct spin_client_call **out, struct spin_error *err);
/* `finished` still comes. Not after close. */
void spin_client_call_cancel(struct spin_client_call *call);
void spin_client_call_release(struct spin_client_call *call); /* NULL is allowed */

struct spin_client_model {
    char name[128];
    char chat_format[32]; /* "": the model has none */
    uint32_t vocab;
    uint32_t max_model_len;
    uint32_t workers; /* that take requests */
};
SPIN_MUST_USE spin_status spin_client_get_model(struct spin_client *client,
                                                struct spin_client_model *out,
                                                struct spin_error *err);

SPIN_END_DECLS
