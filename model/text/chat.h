/* chat: messages into the prompt that the model was trained on.
 *
 * Why        A model ships its format as a Jinja program. Running programs from model files in a
 *            server is not needed: the formats of the supported families are written here in C, and
 *            the model's own template is recognised, never executed (docs/text.md says by what).
 *            One that is not recognised is a start-up error that names --chat-template.
 * Ownership  Formats are static; rendering writes to the caller's buffers.
 * Threading  Any thread; pure.
 * Units      Bytes of UTF-8; bytes of content that are none come out as U+FFFD.
 * Errors     UNSUPPORTED: unknown template, or a role or sequence that the model's own template
 *            rejects too. INVALID: no messages. LIMIT: capacity; the count that would have been
 *            needed is set. */
#pragma once

#include "base/status.h"
#include "model/text/tokenizer.h"

SPIN_BEGIN_DECLS

struct spin_chat_message {
    const char *role; /* "system", "user", "assistant", "tool" */
    const char *content;
    uint64_t content_bytes;
};

struct spin_chat_format; /* one of the built-in ones; static */

/* `template_text`: the model's own (may be NULL); `override_name`: --chat-template NAME, or
 * NULL. */
SPIN_MUST_USE spin_status spin_chat_format_find(const char *template_text,
                                                const char *override_name,
                                                const struct spin_chat_format **out,
                                                struct spin_error *err);
const char *spin_chat_format_name(const struct spin_chat_format *format);
/* "chatml, smollm2, llama3, qwen2, qwen3, ...": for --help and errors. */
const char *spin_chat_format_names(void);

struct spin_chat_options {
    bool add_generation_prompt;
    const char *bos_text;  /* the text of the BOS token, or NULL */
    const char *date_text; /* llama3: "26 Jul 2024" style, NULL for the template's default */
};

/* *out_bytes is set on OK and on LIMIT. Text for people and tests: to encode a prompt use
 * spin_chat_encode, which keeps special tokens that are spelled in content apart from real ones. */
SPIN_MUST_USE spin_status spin_chat_render(const struct spin_chat_format *format,
                                           const struct spin_chat_message *messages,
                                           uint32_t message_count,
                                           const struct spin_chat_options *options, char *out,
                                           uint64_t capacity, uint64_t *out_bytes,
                                           struct spin_error *err);

struct spin_chat_prompt {
    const struct spin_chat_format *format;
    const struct spin_chat_message *messages;
    uint32_t message_count;
    struct spin_chat_options options;
};

struct spin_chat_text { /* the caller's buffers; counts go on beyond capacities */
    char *bytes;
    uint64_t capacity;
    uint64_t count;
    struct spin_text_span *content; /* where `bytes` is message content: ascending and apart */
    uint32_t content_capacity;      /* two per message are enough */
    uint32_t content_count;
};

/* The same text, and which parts of it came from messages. The counts are set on OK and on
 * LIMIT. */
SPIN_MUST_USE spin_status spin_chat_render_text(const struct spin_chat_prompt *prompt,
                                                struct spin_chat_text *text,
                                                struct spin_error *err);

/* The tokens of the rendered prompt: special tokens of the format are parsed, what messages spell
 * is text. The same ids as encoding the whole text where no content spells a special token.
 * options.bos_text NULL: the tokenizer's own BOS, if it has one. LIMIT: sink->count is what would
 * have been needed; 0 when the text is over SPIN_TOKENIZER_TEXT_BYTES_MAX. */
SPIN_MUST_USE spin_status spin_chat_encode(const struct spin_tokenizer *tokenizer,
                                           const struct spin_chat_prompt *prompt,
                                           struct spin_token_sink *sink, struct spin_error *err);

SPIN_END_DECLS
