/* intake: a request's body as tokens, or as the reply when no worker is needed for it.
 *
 * Why        Reading and tokenising megabytes takes longer than the loop may block, so all of it is
 *            one function without the loop, the exchange or the dispatcher.
 * Ownership  Borrows the body, the model and its name until deinit; owns what came of them.
 * Threading  Any thread, one at a time.
 * Units      Tokens, bytes.
 * Errors     `status` not OK: `error` is what to tell the client. */
#pragma once

#include "router/http/openai_request.h"
#include "router/prompt.h"

SPIN_BEGIN_DECLS

struct spin_intake {
    /* In. */
    enum spin_openai_endpoint endpoint;
    const char *body;
    uint64_t body_bytes;
    const struct spin_prompt_model *model;
    const char *model_name;
    uint32_t max_model_len;
    /* Out. */
    spin_status status;
    struct spin_openai_error error;
    struct spin_openai_request *request;
    struct spin_prompt_tokens *prompts; /* chat, completions */
    uint32_t prompt_count;
    struct spin_json_writer reply; /* tokenize, detokenize */
};

void spin_intake_run(struct spin_intake *intake);
void spin_intake_deinit(struct spin_intake *intake); /* zeroed storage is allowed */
/* The text that `echo` puts before an answer, into *out as a string's inside. */
void spin_intake_echo(const struct spin_intake *intake, uint32_t prompt,
                      struct spin_json_writer *out);
/* The tokenizer put a BOS before the prompt: it is a token and not in the text. */
bool spin_intake_added_bos(const struct spin_intake *intake, uint32_t prompt);

SPIN_END_DECLS
