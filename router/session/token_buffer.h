/* token_buffer: tokens that wait, with their alternatives, in two arrays that only grow.
 *
 * Why        Tokens wait twice: between the rpc thread and the loop, and until their text is out.
 *            In the steady state neither costs an allocation.
 * Ownership  The buffer owns its arrays; zeroed storage is an empty buffer.
 * Threading  One thread at a time; pure.
 * Units      Tokens.
 * Errors     append: NO_MEMORY, nothing was added. */
#pragma once

#include "router/generation.h"

SPIN_BEGIN_DECLS

struct spin_token_buffer {
    struct spin_generation_token *tokens; /* whose `top` is set by view */
    uint32_t count;
    uint32_t capacity;
    struct spin_generation_alternative *tops;
    uint32_t top_count;
    uint32_t top_capacity;
};

void spin_token_buffer_deinit(struct spin_token_buffer *buffer);
/* Copies the token and its alternatives. */
SPIN_MUST_USE spin_status spin_token_buffer_append(struct spin_token_buffer *buffer,
                                                   const struct spin_generation_token *token);
/* All of them, in order; valid until the buffer changes. */
const struct spin_generation_token *spin_token_buffer_view(struct spin_token_buffer *buffer);
/* Forgets the first `count`. */
void spin_token_buffer_drop(struct spin_token_buffer *buffer, uint32_t count);

SPIN_END_DECLS
