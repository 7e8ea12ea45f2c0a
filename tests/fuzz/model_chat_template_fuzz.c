/* Any bytes up to the first NUL as a model's chat template, and behind it as a conversation: a
 * template is recognised or refused, and no content can bring a special token into a prompt. */
#include "base/assert.h"
#include "model/text/chat.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

#define MESSAGES_MAX 8u

static struct spin_tokenizer *tokenizer; /* bytes and ChatML's special tokens */

/* Each message: a byte that picks the role, then text up to the next byte 0x01. */
static uint32_t read_messages(const char *text, uint64_t count, struct spin_chat_message *messages)
{
    static const char *const roles[] = {"user", "assistant", "system", "tool"};
    uint32_t filled = 0;
    for (uint64_t at = 0; at < count && filled < MESSAGES_MAX;) {
        const char *role = roles[(uint8_t)text[at] % SPIN_ARRAY_COUNT(roles)];
        const char *content = text + at + 1;
        const uint64_t rest = count - at - 1;
        const char *end = rest == 0 ? NULL : memchr(content, 1, rest);
        const uint64_t bytes = end == NULL ? rest : (uint64_t)(end - content);
        messages[filled++] = (struct spin_chat_message){role, content, bytes};
        at += bytes + 2;
    }
    return filled;
}

static uint64_t count_special(const int32_t *tokens, uint64_t count)
{
    uint64_t special = 0;
    for (uint64_t i = 0; i < count; i++) {
        special += spin_tokenizer_is_special(tokenizer, tokens[i]) ? 1 : 0;
    }
    return special;
}

static uint64_t encode(const struct spin_chat_prompt *prompt, int32_t **tokens)
{
    struct spin_token_sink sink = {0};
    const spin_status measured = spin_chat_encode(tokenizer, prompt, &sink, NULL);
    SPIN_ASSERT(measured == SPIN_OK || measured == SPIN_ERR_LIMIT);
    *tokens = calloc(sink.count + 1, sizeof **tokens);
    SPIN_ASSERT(*tokens != NULL);
    sink = (struct spin_token_sink){*tokens, sink.count, 0};
    SPIN_ASSERT_EQ(spin_chat_encode(tokenizer, prompt, &sink, NULL), SPIN_OK);
    SPIN_ASSERT_EQ(sink.count, sink.capacity);
    return sink.count;
}

/* The tokens' bytes must be the rendered text. */
static void compare_text(const struct spin_chat_prompt *prompt, const int32_t *tokens,
                         uint64_t count)
{
    uint64_t bytes = 0;
    SPIN_ASSERT_EQ(spin_chat_render(prompt->format, prompt->messages, prompt->message_count,
                                    &prompt->options, NULL, 0, &bytes, NULL),
                   SPIN_ERR_LIMIT);
    char *text = malloc(bytes + 1);
    SPIN_ASSERT(text != NULL);
    SPIN_ASSERT_EQ(spin_chat_render(prompt->format, prompt->messages, prompt->message_count,
                                    &prompt->options, text, bytes, &bytes, NULL),
                   SPIN_OK);
    uint64_t at = 0;
    for (uint64_t i = 0; i < count; i++) {
        const char *piece = NULL;
        uint32_t piece_bytes = 0;
        SPIN_ASSERT(spin_tokenizer_piece(tokenizer, tokens[i], &piece, &piece_bytes));
        SPIN_ASSERT_LE(at + piece_bytes, bytes);
        SPIN_ASSERT(memcmp(text + at, piece, piece_bytes) == 0);
        at += piece_bytes;
    }
    SPIN_ASSERT_EQ(at, bytes);
    free(text);
}

static void converse(const struct spin_chat_format *format, const char *text, uint64_t count)
{
    struct spin_chat_message messages[MESSAGES_MAX];
    struct spin_chat_prompt prompt = {
        .format = format, .messages = messages, .options = {true, "<|endoftext|>", NULL}};
    prompt.message_count = read_messages(text, count, messages);
    uint64_t bytes = 0;
    if (spin_chat_render(format, messages, prompt.message_count, &prompt.options, NULL, 0, &bytes,
                         NULL) != SPIN_ERR_LIMIT) {
        return; /* no messages, or a role that the format has not */
    }
    int32_t *tokens = NULL;
    const uint64_t got = encode(&prompt, &tokens);
    compare_text(&prompt, tokens, got);
    const uint64_t special = count_special(tokens, got);
    free(tokens);
    for (uint32_t i = 0; i < prompt.message_count; i++) {
        messages[i].content = "x";
        messages[i].content_bytes = 1;
    }
    const uint64_t plain = encode(&prompt, &tokens);
    SPIN_ASSERT_EQ(special, count_special(tokens, plain));
    free(tokens);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    if (tokenizer == NULL) {
        SPIN_ASSERT_EQ(spin_tokenizer_open("random:", &tokenizer, NULL), SPIN_OK);
    }
    char *text = calloc(1, count + 1);
    SPIN_ASSERT(text != NULL);
    memcpy(text, bytes, count);
    const uint64_t template_bytes = strlen(text);
    const struct spin_chat_format *format = NULL;
    struct spin_error err = {.status = SPIN_OK};
    if (spin_chat_format_find(text, NULL, &format, &err) != SPIN_OK) {
        SPIN_ASSERT_EQ(err.status, SPIN_ERR_UNSUPPORTED);
        SPIN_ASSERT(strstr(err.text, "--chat-template") != NULL);
        SPIN_ASSERT_EQ(spin_chat_format_find(NULL, "qwen3", &format, NULL), SPIN_OK);
    }
    if (template_bytes < count) {
        converse(format, text + template_bytes + 1, count - template_bytes - 1);
    }
    free(text);
    return 0;
}
