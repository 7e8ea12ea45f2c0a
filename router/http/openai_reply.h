/* openai_reply: answers as OpenAI's JSON, whole or in chunks of a stream.
 *
 * Why        What is the same in every chunk is written once per request (the head); what a token
 *            adds is a few copies into one buffer. Pure, so that a test reads back all of it.
 * Ownership  Borrows texts, tokens and the tokenizer during calls; heads and logprobs own their
 *            buffers until deinit.
 * Threading  One thread at a time.
 * Units      Tokens; text_offset counts characters.
 * Errors     Those of json_writer: the writer says `failed`. */
#pragma once

#include "model/text/tokenizer.h"
#include "router/generation.h"
#include "router/http/json_writer.h"

SPIN_BEGIN_DECLS

#define SPIN_OPENAI_LISTS 4u

/* --- log probabilities of one answer --- */

struct spin_openai_logprobs {
    bool chat;
    const struct spin_tokenizer *tokenizer;
    uint64_t text_offset; /* characters before the next token; completions only */
    /* chat: entries; completions: tokens, token_logprobs, top_logprobs, text_offset. */
    struct spin_json_writer lists[SPIN_OPENAI_LISTS];
};

void spin_openai_logprobs_init(struct spin_openai_logprobs *logprobs, bool chat,
                               const struct spin_tokenizer *tokenizer, uint64_t cap_bytes);
void spin_openai_logprobs_deinit(struct spin_openai_logprobs *logprobs); /* zeroed is allowed */
/* `in_text`: the token's characters are part of the answer's text. */
void spin_openai_logprobs_add(struct spin_openai_logprobs *logprobs,
                              const struct spin_generation_token *token, bool in_text);
/* The object of all that was added; null when nothing was. */
void spin_openai_logprobs_write(const struct spin_openai_logprobs *logprobs,
                                struct spin_json_writer *writer);
/* Forgets what was added, keeps the offset: for the next chunk. */
void spin_openai_logprobs_reset(struct spin_openai_logprobs *logprobs);
uint64_t spin_openai_logprobs_bytes(const struct spin_openai_logprobs *logprobs);

/* --- replies --- */

struct spin_openai_head_config {
    bool chat;
    bool stream;
    const char *id;
    const char *model;
    uint64_t created_s;
};

struct spin_openai_head { /* of one request */
    bool chat;
    struct spin_json_writer bytes; /* up to and with the '[' of choices */
};
void spin_openai_head_init(struct spin_openai_head *head,
                           const struct spin_openai_head_config *config);
void spin_openai_head_deinit(struct spin_openai_head *head); /* zeroed is allowed */

struct spin_openai_usage {
    uint64_t prompt_tokens;
    uint64_t completion_tokens;
    uint64_t cached_tokens;
};

enum spin_openai_usage_mode {
    SPIN_OPENAI_USAGE_ABSENT, /* not asked for */
    SPIN_OPENAI_USAGE_NULL,   /* in the last chunk alone */
    SPIN_OPENAI_USAGE_SHOWN
};

struct spin_openai_chunk {
    uint32_t index;
    bool role; /* chat: the answer's first chunk, without text */
    const char *text;
    uint64_t text_bytes;
    const struct spin_json_writer *escaped;      /* instead of `text`; completions only */
    const struct spin_openai_logprobs *logprobs; /* NULL: not asked for */
    const char *finish_reason;                   /* NULL: goes on */
    enum spin_openai_usage_mode usage_mode;
    struct spin_openai_usage usage; /* when shown */
};
/* One event: "data: {...}\n\n". */
void spin_openai_write_chunk(struct spin_json_writer *writer, const struct spin_openai_head *head,
                             const struct spin_openai_chunk *chunk);
/* The last event but [DONE]: no choices. */
void spin_openai_write_usage_chunk(struct spin_json_writer *writer,
                                   const struct spin_openai_head *head,
                                   const struct spin_openai_usage *usage);

struct spin_openai_choice {
    uint32_t index;
    const struct spin_json_writer *text;         /* escaped already, without quotes */
    const struct spin_openai_logprobs *logprobs; /* NULL: not asked for */
    const char *finish_reason;
};
/* A whole reply is begin, its choices, end. */
void spin_openai_write_begin(struct spin_json_writer *writer, const struct spin_openai_head *head);
void spin_openai_write_choice(struct spin_json_writer *writer, const struct spin_openai_head *head,
                              const struct spin_openai_choice *choice);
void spin_openai_write_end(struct spin_json_writer *writer, const struct spin_openai_usage *usage);

/* "stop", "length". */
const char *spin_openai_finish_reason(Spin__V1__FinishReason reason);

SPIN_END_DECLS
