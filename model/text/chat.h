/* chat: messages into the prompt text that the model was trained on.
 *
 * Why        A model ships its format as a Jinja program. Running programs from model files in a server
 *            is not needed: the formats of the supported families are written here in C, and the
 *            model's own template is recognised, never executed. One that is not recognised is a
 *            start-up error that names --chat-template.
 * Ownership  Formats are static; rendering writes to the caller's buffer.
 * Threading  Any thread; pure.
 * Units      Bytes of UTF-8.
 * Errors     UNSUPPORTED: unknown template, or a role or sequence that the model's own template
 *            rejects too. LIMIT: capacity; *out_bytes is what would have been needed. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

struct spin_chat_message {
    const char *role; /* "system", "user", "assistant", "tool" */
    const char *content;
    uint64_t content_bytes;
};

struct spin_chat_format; /* one of the built-in ones; static */

/* `template_text`: the model's own (may be NULL); `override_name`: --chat-template NAME, or NULL. */
SPIN_MUST_USE spin_status spin_chat_format_find(const char *template_text, const char *override_name,
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

SPIN_MUST_USE spin_status spin_chat_render(const struct spin_chat_format *format,
                                           const struct spin_chat_message *messages,
                                           uint32_t message_count,
                                           const struct spin_chat_options *options, char *out,
                                           uint64_t capacity, uint64_t *out_bytes,
                                           struct spin_error *err);

SPIN_END_DECLS
