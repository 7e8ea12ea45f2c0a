/* chat_format: the built-in chat formats, as data and one renderer per family.
 *
 * Why        chat.c recognises and offers them; chat_format.c knows what they look like.
 * Ownership  Static tables; a writer borrows the caller's buffers.
 * Threading  Any thread; pure.
 * Units      Bytes of UTF-8. */
#pragma once

#include "model/text/chat.h"

SPIN_BEGIN_DECLS

#define SPIN_CHAT_MARKERS_MAX 5u

struct spin_chat_format {
    const char *name;
    /* A template is of this format when it has all of `has` and none of `lacks`; NULL ends a list.
     * An empty `has`: found by name only. */
    const char *has[SPIN_CHAT_MARKERS_MAX];
    const char *lacks[SPIN_CHAT_MARKERS_MAX];
    spin_status (*render)(const struct spin_chat_prompt *prompt, struct spin_chat_text *text,
                          struct spin_error *err);
    /* ChatML: */
    const char *default_system;    /* where the first message is not of the system; NULL: none */
    const char *generation_suffix; /* behind the assistant's header */
    bool wraps_tools;              /* tool messages are the user's, inside <tool_response> */
    bool thinks;                   /* <think> blocks of earlier turns are dropped */
};

extern const struct spin_chat_format spin_chat_formats[];
extern const uint32_t spin_chat_formats_count;

SPIN_END_DECLS
