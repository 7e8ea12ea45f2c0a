#include "router/prompt.h"

#include "base/assert.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Tokens that a chat format puts around a message; more only costs a second pass. */
#define MESSAGE_TOKENS 32u

/* What encodes: text or messages into a sink. */
struct source {
    const struct spin_prompt_model *model;
    const char *text; /* NULL: messages */
    uint64_t bytes;
    struct spin_chat_prompt chat;
};

static spin_status encode(const struct source *source, struct spin_token_sink *sink,
                          struct spin_error *err)
{
    const struct spin_tokenizer *tokenizer = source->model->tokenizer;
    sink->count = 0;
    if (source->text == NULL) {
        return spin_chat_encode(tokenizer, &source->chat, sink, err);
    }
    return spin_tokenizer_encode(tokenizer, source->text, source->bytes,
                                 SPIN_ENCODE_ADD_BOS | SPIN_ENCODE_PARSE_SPECIAL, sink->tokens,
                                 sink->capacity, &sink->count, err);
}

/* Clients know this error by its words: "maximum context length is". */
static spin_status too_long(uint64_t count, uint32_t tokens_max, struct spin_error *err)
{
    return spin_fail(err, SPIN_ERR_LIMIT,
                     "prompt: %" PRIu64 " tokens; this model's maximum context length is %u tokens",
                     count, tokens_max);
}

static spin_status grow_tokens(struct spin_token_sink *sink, uint64_t capacity,
                               struct spin_error *err)
{
    int32_t *tokens = realloc(sink->tokens, (size_t)SPIN_MAX(capacity, 1) * sizeof *tokens);
    if (tokens == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "prompt: %" PRIu64 " tokens", capacity);
    }
    sink->tokens = tokens;
    sink->capacity = capacity;
    return SPIN_OK;
}

/* One pass, and a second where the first guess of the count was too small. */
static spin_status fill(const struct source *source, uint64_t guess, uint32_t tokens_max,
                        struct spin_token_sink *sink, struct spin_error *err)
{
    SPIN_TRY(grow_tokens(sink, SPIN_MIN(guess, tokens_max), err));
    spin_status status = encode(source, sink, err);
    if (status == SPIN_ERR_LIMIT && sink->count > sink->capacity && sink->count <= tokens_max) {
        SPIN_TRY(grow_tokens(sink, sink->count, err));
        status = encode(source, sink, err);
    }
    if (status == SPIN_ERR_LIMIT && sink->count != 0) {
        return too_long(sink->count, tokens_max, err);
    }
    if (status != SPIN_OK) {
        return status;
    }
    if (sink->count == 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "prompt: empty, at least 1 token");
    }
    return grow_tokens(sink, sink->count, err); /* what the guess had too much goes back */
}

static spin_status build_prompt(const struct source *source, uint64_t guess, uint32_t tokens_max,
                                struct spin_prompt_tokens *out, struct spin_error *err)
{
    struct spin_token_sink sink = {0};
    const spin_status status = fill(source, guess, tokens_max, &sink, err);
    if (status != SPIN_OK) {
        free(sink.tokens);
        return status;
    }
    SPIN_ASSERT_LE(sink.count, tokens_max);
    *out = (struct spin_prompt_tokens){sink.tokens, (uint32_t)sink.count};
    return SPIN_OK;
}

/* NOLINTNEXTLINE(readability-function-size): the public contract spells its arguments out. */
spin_status spin_prompt_from_text(const struct spin_prompt_model *model, const char *text,
                                  uint64_t bytes, uint32_t tokens_max,
                                  struct spin_prompt_tokens *out, struct spin_error *err)
{
    SPIN_ASSERT(text != NULL);
    const struct source source = {.model = model, .text = text, .bytes = bytes};
    /* No more tokens than bytes, but for BOS and what normalisation adds. */
    return build_prompt(&source, bytes + 8, tokens_max, out, err);
}

static spin_status check_roles(const struct spin_chat_message *messages, uint32_t count,
                               struct spin_error *err)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    for (uint32_t i = 0; i < count; i++) {
        bool known = false;
        for (uint32_t k = 0; k < SPIN_ARRAY_COUNT(roles); k++) {
            known = known || strcmp(messages[i].role, roles[k]) == 0;
        }
        if (!known) {
            return spin_fail(err, SPIN_ERR_INVALID,
                             "messages[%u].role: must be system, user, assistant or tool", i);
        }
    }
    return SPIN_OK;
}

/* NOLINTNEXTLINE(readability-function-size): the public contract spells its arguments out. */
spin_status spin_prompt_from_messages(const struct spin_prompt_model *model,
                                      const struct spin_chat_message *messages, uint32_t count,
                                      uint32_t tokens_max, struct spin_prompt_tokens *out,
                                      struct spin_error *err)
{
    if (model->chat_format == NULL) {
        return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                         "messages: this model has no chat format; send a prompt");
    }
    if (count == 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "messages: empty, at least 1 message");
    }
    SPIN_TRY(check_roles(messages, count, err));
    uint64_t guess = MESSAGE_TOKENS;
    for (uint32_t i = 0; i < count; i++) {
        guess += messages[i].content_bytes + MESSAGE_TOKENS;
    }
    const struct source source = {.model = model,
                                  .chat = {.format = model->chat_format,
                                           .messages = messages,
                                           .message_count = count,
                                           .options = {.add_generation_prompt = true}}};
    return build_prompt(&source, guess, tokens_max, out, err);
}

/* NOLINTNEXTLINE(readability-function-size): the public contract spells its arguments out. */
spin_status spin_prompt_from_tokens(const struct spin_prompt_model *model, const int32_t *tokens,
                                    uint64_t count, uint32_t tokens_max,
                                    struct spin_prompt_tokens *out, struct spin_error *err)
{
    if (count == 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "prompt: empty, at least 1 token");
    }
    if (count > tokens_max) {
        return too_long(count, tokens_max, err);
    }
    const uint32_t vocab = spin_tokenizer_vocab(model->tokenizer);
    for (uint64_t i = 0; i < count; i++) {
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= vocab) {
            return spin_fail(err, SPIN_ERR_INVALID,
                             "prompt[%" PRIu64 "]: token %d, the vocabulary is 0..%u", i, tokens[i],
                             vocab - 1);
        }
    }
    struct spin_token_sink sink = {0};
    SPIN_TRY(grow_tokens(&sink, count, err));
    memcpy(sink.tokens, tokens, (size_t)count * sizeof *tokens);
    *out = (struct spin_prompt_tokens){sink.tokens, (uint32_t)count};
    return SPIN_OK;
}

void spin_prompt_tokens_deinit(struct spin_prompt_tokens *prompt)
{
    free(prompt->tokens);
    *prompt = (struct spin_prompt_tokens){0};
}
