/* arena: memory with one lifetime, taken piece by piece and given back at once.
 *
 * Why        A request or a step frees everything together; nothing on the hot path calls malloc.
 * Ownership  The arena owns its chunks; pieces are valid until reset or destroy.
 * Threading  One thread at a time.
 * Units      Bytes. Pieces are aligned to 64 bytes.
 * Errors     A take over the cap returns NULL; the caller answers NO_MEMORY at request scope. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

struct spin_arena; /* private to arena.c */

/* Takes chunks of `chunk_bytes` (larger for a larger piece) up to `cap_bytes` in all. */
SPIN_MUST_USE spin_status spin_arena_create(uint64_t chunk_bytes, uint64_t cap_bytes,
                                            struct spin_arena **out, struct spin_error *err);
void spin_arena_destroy(struct spin_arena *arena); /* NULL is allowed */
/* Uninitialised bytes, or NULL over the cap. bytes == 0 gives a valid pointer. */
void *spin_arena_take(struct spin_arena *arena, uint64_t bytes);
/* count * size zeroed bytes, or NULL on overflow or over the cap. */
void *spin_arena_take_zeroed(struct spin_arena *arena, uint64_t count, uint64_t size);
/* A NUL-terminated copy, or NULL over the cap. */
char *spin_arena_copy_string(struct spin_arena *arena, const char *text, uint64_t bytes);
/* Forgets all pieces, keeps the chunks: a warm arena takes without malloc. */
void spin_arena_reset(struct spin_arena *arena);
uint64_t spin_arena_used_bytes(const struct spin_arena *arena);

SPIN_END_DECLS
