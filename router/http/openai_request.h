/* openai_request: the JSON body of a request, checked and as plain values.
 *
 * Why        Everything about OpenAI's field names, types, ranges, no-ops and refusals is decided
 *            here, before a token is made; docs/http-api.md is this table for people. Strict: a
 *            field that would change the answer and is not supported is refused by name, and so is
 *            one that nobody knows.
 * Ownership  create returns owned; strings, tokens and messages are valid until destroy. The body
 *            is not needed after create.
 * Threading  One thread at a time; pure, so that megabytes can be read off the loop.
 * Units      Tokens, bytes.
 * Errors     INVALID: *error is what to tell the client. Sizes are bounded by the body's. */
#pragma once

#include "model/text/chat.h"
#include "router/generation.h"
#include "router/http/openai_error.h"

SPIN_BEGIN_DECLS

struct json_t;     /* <jansson.h> */
struct spin_arena; /* base/arena.h */

#define SPIN_OPENAI_MESSAGES_MAX 16384u
/* What a body may hold, so that megabytes of brackets do not become gigabytes of values. */
#define SPIN_OPENAI_CONTAINERS_MAX 65536u
#define SPIN_OPENAI_VALUES_MAX 2097152u

enum spin_openai_endpoint { /* bits */
                            SPIN_OPENAI_CHAT = 1,
                            SPIN_OPENAI_COMPLETIONS = 2,
                            SPIN_OPENAI_TOKENIZE = 4,
                            SPIN_OPENAI_DETOKENIZE = 8
};

struct spin_openai_prompt {
    const char *text; /* NULL: tokens */
    uint64_t text_bytes;
    const int32_t *tokens;
    uint64_t token_count;
};

struct spin_openai_request {
    enum spin_openai_endpoint endpoint;
    const char *model;                        /* NULL: the one that is served */
    const struct spin_openai_prompt *prompts; /* completions, tokenize; detokenize: one, tokens */
    uint32_t prompt_count;                    /* 0: messages */
    const struct spin_chat_message *messages; /* chat, tokenize */
    uint32_t message_count;
    bool add_special_tokens; /* tokenize */
    bool echo;
    bool stream;
    bool include_usage;
    bool continuous_usage; /* usage in every chunk */
    bool logprobs;
    bool ignore_eos;
    bool max_tokens_given;
    bool seed_given;
    uint32_t max_tokens;
    uint32_t n;
    uint32_t best_of; /* 0: not given; else n */
    uint64_t seed;
    struct spin_stop_strings stop;
    Spin__V1__Sampling sampling; /* all of it but seed and max_tokens */
    struct json_t *document;     /* what the texts point into */
    struct spin_arena *arena;    /* and the rest */
};

SPIN_MUST_USE spin_status spin_openai_request_create(enum spin_openai_endpoint endpoint,
                                                     const char *body, uint64_t bytes,
                                                     struct spin_openai_request **out,
                                                     struct spin_openai_error *error);
void spin_openai_request_destroy(struct spin_openai_request *request); /* NULL is allowed */

SPIN_END_DECLS
