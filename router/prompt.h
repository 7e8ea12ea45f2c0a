/* prompt: what a client sends as its prompt, as the tokens that a worker gets.
 *
 * Why        Text, chat messages and token ids are one thing after this, for both front doors.
 * Ownership  A spin_prompt_tokens owns its tokens until deinit.
 * Threading  Any thread, so that megabytes can be tokenised off the loop.
 * Units      Tokens, bytes.
 * Errors     INVALID: an empty prompt, an unknown role. LIMIT: more than tokens_max; the text gives
 *            both numbers. UNSUPPORTED: messages for a model without a chat format. NO_MEMORY. */
#pragma once

#include "model/text/chat.h"
#include "model/text/tokenizer.h"

SPIN_BEGIN_DECLS

struct spin_prompt_model { /* the same for every request */
    const struct spin_tokenizer *tokenizer;
    const struct spin_chat_format *chat_format; /* NULL: the model has none */
};

struct spin_prompt_tokens {
    int32_t *tokens;
    uint32_t count;
};

/* BOS as the model says; special tokens in plain text are parsed, in messages they are text. */
SPIN_MUST_USE spin_status spin_prompt_from_text(const struct spin_prompt_model *model,
                                                const char *text, uint64_t bytes,
                                                uint32_t tokens_max, struct spin_prompt_tokens *out,
                                                struct spin_error *err);
SPIN_MUST_USE spin_status spin_prompt_from_messages(const struct spin_prompt_model *model,
                                                    const struct spin_chat_message *messages,
                                                    uint32_t count, uint32_t tokens_max,
                                                    struct spin_prompt_tokens *out,
                                                    struct spin_error *err);
/* Copies and checks the range of every id. */
SPIN_MUST_USE spin_status spin_prompt_from_tokens(const struct spin_prompt_model *model,
                                                  const int32_t *tokens, uint64_t count,
                                                  uint32_t tokens_max,
                                                  struct spin_prompt_tokens *out,
                                                  struct spin_error *err);
void spin_prompt_tokens_deinit(struct spin_prompt_tokens *prompt); /* zeroed storage is allowed */

SPIN_END_DECLS
