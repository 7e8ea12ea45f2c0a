/* conversation: the turns of a chat, of which the oldest may be forgotten.
 *
 * Why        A model's memory is its context; when the turns grow over it, something has to go, and
 *            the system message must not.
 * Ownership  Owns copies of all texts. Messages are valid until the next call.
 * Threading  One thread at a time; pure.
 * Units      Bytes of UTF-8; a turn is a user's message and the answer to it.
 * Errors     NO_MEMORY. */
#pragma once

#include "client/spin_client.h"

SPIN_BEGIN_DECLS

struct spin_conversation { /* zeroed: empty */
    struct spin_client_message *messages;
    uint32_t count;
    uint32_t capacity;
};

void spin_conversation_deinit(struct spin_conversation *conversation);
/* Sets the first message, or removes it (NULL). */
SPIN_MUST_USE spin_status spin_conversation_set_system(struct spin_conversation *conversation,
                                                       const char *text, struct spin_error *err);
SPIN_MUST_USE spin_status spin_conversation_add(struct spin_conversation *conversation,
                                                const char *role, const char *text,
                                                struct spin_error *err);
/* Removes the last message. */
void spin_conversation_drop_last(struct spin_conversation *conversation);
/* The messages without the oldest `turns`, the system message kept; `out` has room for all. Returns
 * how many; 0 when the last message would be among those left out. */
uint32_t spin_conversation_view(const struct spin_conversation *conversation, uint32_t turns,
                                struct spin_client_message *out);
/* Removes the oldest `turns`; there are more messages than that. */
void spin_conversation_forget(struct spin_conversation *conversation, uint32_t turns);
/* Removes everything but the system message. */
void spin_conversation_reset(struct spin_conversation *conversation);

SPIN_END_DECLS
