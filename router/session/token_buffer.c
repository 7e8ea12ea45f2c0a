#include "router/session/token_buffer.h"

#include "base/assert.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_CAPACITY 16u

void spin_token_buffer_deinit(struct spin_token_buffer *buffer)
{
    free(buffer->tokens);
    free(buffer->tops);
    *buffer = (struct spin_token_buffer){0};
}

/* `array` with room for `needed` elements, or NULL; *capacity follows. */
static void *grow(void *array, uint32_t *capacity, uint64_t needed, size_t size)
{
    if (needed <= *capacity) {
        return array;
    }
    uint64_t larger = SPIN_MAX(FIRST_CAPACITY, 2 * (uint64_t)*capacity);
    larger = SPIN_MAX(larger, needed);
    if (larger > UINT32_MAX) {
        return NULL;
    }
    void *grown = realloc(array, larger * size);
    if (grown != NULL) {
        *capacity = (uint32_t)larger;
    }
    return grown;
}

spin_status spin_token_buffer_append(struct spin_token_buffer *buffer,
                                     const struct spin_generation_token *token)
{
    void *tokens = grow(buffer->tokens, &buffer->capacity, (uint64_t)buffer->count + 1,
                        sizeof *buffer->tokens);
    if (tokens == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    buffer->tokens = tokens;
    if (token->top_count > 0) {
        void *tops = grow(buffer->tops, &buffer->top_capacity,
                          (uint64_t)buffer->top_count + token->top_count, sizeof *buffer->tops);
        if (tops == NULL) {
            return SPIN_ERR_NO_MEMORY;
        }
        buffer->tops = tops;
        memcpy(&buffer->tops[buffer->top_count], token->top,
               token->top_count * sizeof *buffer->tops);
        buffer->top_count += token->top_count;
    }
    buffer->tokens[buffer->count] = *token;
    buffer->tokens[buffer->count].top = NULL; /* the array may move until somebody looks */
    buffer->count++;
    return SPIN_OK;
}

const struct spin_generation_token *spin_token_buffer_view(struct spin_token_buffer *buffer)
{
    uint32_t first = 0;
    for (uint32_t i = 0; i < buffer->count; i++) {
        const uint32_t top_count = buffer->tokens[i].top_count;
        buffer->tokens[i].top = top_count > 0 ? &buffer->tops[first] : NULL;
        first += top_count;
    }
    SPIN_ASSERT_EQ(first, buffer->top_count);
    return buffer->tokens;
}

void spin_token_buffer_drop(struct spin_token_buffer *buffer, uint32_t count)
{
    SPIN_ASSERT_LE(count, buffer->count);
    uint32_t tops = 0;
    for (uint32_t i = 0; i < count; i++) {
        tops += buffer->tokens[i].top_count;
    }
    buffer->count -= count;
    buffer->top_count -= tops;
    if (buffer->count > 0 && count > 0) {
        memmove(buffer->tokens, &buffer->tokens[count], buffer->count * sizeof *buffer->tokens);
    }
    if (buffer->top_count > 0 && tops > 0) {
        memmove(buffer->tops, &buffer->tops[tops], buffer->top_count * sizeof *buffer->tops);
    }
}
