/* prompt: the prompt's text from wherever it is, as tokens.
 *
 * Why        Argument, file and standard input are one thing after this; so are chat and raw
 *            prompts.
 * Ownership  A spin_prompt owns its tokens until deinit.
 * Threading  The main thread; read blocks on standard input.
 * Units      Bytes of UTF-8, tokens.
 * Errors     INVALID: no prompt, or two. NOT_FOUND, IO, LIMIT: the file. UNSUPPORTED: the
 *            template. */
#pragma once

#include "client/options.h"
#include "model/text/tokenizer.h"

SPIN_BEGIN_DECLS

struct spin_prompt {
    int32_t *tokens;
    uint64_t count;
};

/* `argument`: the bare argument, or NULL. */
SPIN_MUST_USE spin_status spin_prompt_init(struct spin_prompt *prompt,
                                           const struct spin_generate_options *options,
                                           const char *argument,
                                           const struct spin_tokenizer *tokenizer,
                                           struct spin_error *err);
void spin_prompt_deinit(struct spin_prompt *prompt);

SPIN_END_DECLS
