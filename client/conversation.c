#include "client/conversation.h"

#include "base/assert.h"

#include <stdlib.h>
#include <string.h>

#define CAPACITY_FIRST 16u

static void free_text(struct spin_client_message *message)
{
    char *content; /* ours, whatever the public struct says */
    memcpy(&content, &message->content, sizeof content);
    free(content);
}

static bool has_system(const struct spin_conversation *conversation)
{
    return conversation->count > 0 && strcmp(conversation->messages[0].role, "system") == 0;
}

static void remove_at(struct spin_conversation *conversation, uint32_t index)
{
    SPIN_ASSERT_LT(index, conversation->count);
    free_text(&conversation->messages[index]);
    conversation->count--;
    memmove(conversation->messages + index, conversation->messages + index + 1,
            (conversation->count - index) * sizeof conversation->messages[0]);
}

void spin_conversation_deinit(struct spin_conversation *conversation)
{
    while (conversation->count > 0) {
        spin_conversation_drop_last(conversation);
    }
    free(conversation->messages);
    *conversation = (struct spin_conversation){.count = 0};
}

static spin_status insert(struct spin_conversation *conversation, uint32_t index, const char *role,
                          const char *text, struct spin_error *err)
{
    if (conversation->count == conversation->capacity) {
        const uint32_t capacity = SPIN_MAX(2 * conversation->capacity, CAPACITY_FIRST);
        struct spin_client_message *larger =
            realloc(conversation->messages, capacity * sizeof *larger);
        if (larger == NULL) {
            return spin_fail(err, SPIN_ERR_NO_MEMORY, "conversation: %u messages", capacity);
        }
        conversation->messages = larger;
        conversation->capacity = capacity;
    }
    char *content = strdup(text);
    if (content == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "conversation: %zu bytes", strlen(text));
    }
    memmove(conversation->messages + index + 1, conversation->messages + index,
            (conversation->count - index) * sizeof conversation->messages[0]);
    conversation->messages[index] = (struct spin_client_message){role, content};
    conversation->count++;
    return SPIN_OK;
}

spin_status spin_conversation_set_system(struct spin_conversation *conversation, const char *text,
                                         struct spin_error *err)
{
    const bool replaces = has_system(conversation);
    if (text != NULL) {
        SPIN_TRY(insert(conversation, 0, "system", text, err));
    }
    if (replaces) {
        remove_at(conversation, text != NULL ? 1 : 0);
    }
    return SPIN_OK;
}

spin_status spin_conversation_add(struct spin_conversation *conversation, const char *role,
                                  const char *text, struct spin_error *err)
{
    return insert(conversation, conversation->count, role, text, err);
}

void spin_conversation_drop_last(struct spin_conversation *conversation)
{
    remove_at(conversation, conversation->count - 1);
}

uint32_t spin_conversation_view(const struct spin_conversation *conversation, uint32_t turns,
                                struct spin_client_message *out)
{
    const uint32_t kept = has_system(conversation) ? 1 : 0;
    const uint32_t first = kept + 2 * turns;
    if (first >= conversation->count) {
        return 0;
    }
    uint32_t count = 0;
    for (uint32_t i = 0; i < conversation->count; i++) {
        if (i < kept || i >= first) {
            out[count++] = conversation->messages[i];
        }
    }
    return count;
}

void spin_conversation_forget(struct spin_conversation *conversation, uint32_t turns)
{
    const uint32_t first = has_system(conversation) ? 1 : 0;
    for (uint32_t i = 0; i < 2 * turns; i++) {
        remove_at(conversation, first);
    }
}

void spin_conversation_reset(struct spin_conversation *conversation)
{
    const uint32_t kept = has_system(conversation) ? 1 : 0;
    while (conversation->count > kept) {
        spin_conversation_drop_last(conversation);
    }
}
