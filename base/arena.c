#include "base/arena.h"

#include "base/assert.h"
#include "base/checked.h"

#include <stdlib.h>
#include <string.h>

/* One cache line, and the widest vector load of the kernels. */
#define PIECE_ALIGNMENT UINT64_C(64)
/* What a forgotten piece reads as in debug builds. */
#define FORGOTTEN_BYTE 0xDD

/* The header takes one alignment unit, so the bytes after it are aligned like the chunk itself. */
struct chunk {
    struct chunk *next;
    uint64_t capacity_bytes; /* of the bytes after the header */
    uint64_t used_bytes;
};
_Static_assert(sizeof(struct chunk) <= PIECE_ALIGNMENT, "the header must fit its unit");

struct spin_arena {
    uint64_t chunk_bytes;
    uint64_t cap_bytes;
    uint64_t held_bytes; /* capacity of all chunks, taken and spare: at most cap_bytes */
    uint64_t used_bytes;
    struct chunk *taken; /* chunks with pieces; the first one is where pieces come from */
    struct chunk *spare; /* chunks kept by reset, without pieces */
};

static uint8_t *chunk_bytes(struct chunk *chunk)
{
    return (uint8_t *)chunk + PIECE_ALIGNMENT;
}

static uint64_t chunk_room(const struct chunk *chunk)
{
    return chunk == NULL ? 0 : chunk->capacity_bytes - chunk->used_bytes;
}

/* Rounds up to the alignment; an empty piece takes a unit too, so that its pointer is its own. */
static bool piece_bytes(uint64_t bytes, uint64_t *out)
{
    uint64_t padded;
    if (!spin_add_u64(SPIN_MAX(bytes, 1), PIECE_ALIGNMENT - 1, &padded)) {
        return false;
    }
    *out = padded & ~(PIECE_ALIGNMENT - 1);
    return true;
}

static void free_chunks(struct chunk *chunk)
{
    while (chunk != NULL) {
        struct chunk *next = chunk->next;
        free(chunk);
        chunk = next;
    }
}

spin_status spin_arena_create(uint64_t chunk_bytes_wanted, uint64_t cap_bytes,
                              struct spin_arena **out, struct spin_error *err)
{
    uint64_t chunk;
    if (!piece_bytes(chunk_bytes_wanted, &chunk) || chunk > cap_bytes) {
        return spin_fail(err, SPIN_ERR_INVALID, "arena: chunks of %llu bytes under a cap of %llu",
                         (unsigned long long)chunk_bytes_wanted, (unsigned long long)cap_bytes);
    }
    struct spin_arena *arena = calloc(1, sizeof *arena);
    if (arena == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "arena: %zu bytes", sizeof *arena);
    }
    arena->chunk_bytes = chunk;
    arena->cap_bytes = cap_bytes;
    *out = arena;
    return SPIN_OK;
}

void spin_arena_destroy(struct spin_arena *arena)
{
    if (arena != NULL) {
        free_chunks(arena->taken);
        free_chunks(arena->spare);
        free(arena);
    }
}

static struct chunk *find_spare(struct spin_arena *arena, uint64_t bytes)
{
    for (struct chunk **at = &arena->spare; *at != NULL; at = &(*at)->next) {
        struct chunk *chunk = *at;
        if (chunk->capacity_bytes >= bytes) {
            *at = chunk->next;
            return chunk;
        }
    }
    return NULL;
}

/* Spare chunks that are too small must not make a warm arena refuse what a cold one would give. */
static void release_spares(struct spin_arena *arena, uint64_t wanted_bytes)
{
    while (arena->spare != NULL && arena->cap_bytes - arena->held_bytes < wanted_bytes) {
        struct chunk *chunk = arena->spare;
        arena->spare = chunk->next;
        arena->held_bytes -= chunk->capacity_bytes;
        free(chunk);
    }
}

static struct chunk *new_chunk(struct spin_arena *arena, uint64_t bytes)
{
    if (bytes > arena->cap_bytes) {
        return NULL;
    }
    release_spares(arena, bytes);
    const uint64_t room = arena->cap_bytes - arena->held_bytes;
    if (bytes > room) {
        return NULL;
    }
    /* The last chunk before the cap may be smaller than the others. */
    const uint64_t capacity =
        SPIN_MAX(bytes, SPIN_MIN(arena->chunk_bytes, room) & ~(PIECE_ALIGNMENT - 1));
    uint64_t total;
    if (!spin_add_u64(capacity, PIECE_ALIGNMENT, &total)) {
        return NULL;
    }
    struct chunk *chunk = aligned_alloc(PIECE_ALIGNMENT, total);
    if (chunk == NULL) {
        return NULL;
    }
    *chunk = (struct chunk){.capacity_bytes = capacity};
    arena->held_bytes += capacity;
    return chunk;
}

/* Whichever of the two has more room left serves the next pieces. */
static void add_taken(struct spin_arena *arena, struct chunk *chunk, uint64_t bytes)
{
    if (chunk_room(arena->taken) > chunk->capacity_bytes - bytes) {
        chunk->next = arena->taken->next;
        arena->taken->next = chunk;
    } else {
        chunk->next = arena->taken;
        arena->taken = chunk;
    }
}

static void *cut_piece(struct spin_arena *arena, struct chunk *chunk, uint64_t bytes)
{
    void *piece = chunk_bytes(chunk) + chunk->used_bytes;
    chunk->used_bytes += bytes;
    arena->used_bytes += bytes;
    return piece;
}

void *spin_arena_take(struct spin_arena *arena, uint64_t bytes)
{
    uint64_t wanted;
    if (!piece_bytes(bytes, &wanted)) {
        return NULL;
    }
    if (chunk_room(arena->taken) >= wanted) {
        return cut_piece(arena, arena->taken, wanted);
    }
    struct chunk *chunk = find_spare(arena, wanted);
    if (chunk == NULL) {
        chunk = new_chunk(arena, wanted);
    }
    if (chunk == NULL) {
        return NULL;
    }
    add_taken(arena, chunk, wanted);
    return cut_piece(arena, chunk, wanted);
}

void *spin_arena_take_zeroed(struct spin_arena *arena, uint64_t count, uint64_t size)
{
    uint64_t bytes;
    if (!spin_mul_u64(count, size, &bytes)) {
        return NULL;
    }
    void *piece = spin_arena_take(arena, bytes);
    if (piece != NULL) {
        memset(piece, 0, bytes);
    }
    return piece;
}

char *spin_arena_copy_string(struct spin_arena *arena, const char *text, uint64_t bytes)
{
    uint64_t with_nul;
    if (!spin_add_u64(bytes, 1, &with_nul)) {
        return NULL;
    }
    char *copy = spin_arena_take(arena, with_nul);
    if (copy != NULL) {
        if (bytes > 0) { /* text may be NULL then, which memcpy does not allow */
            memcpy(copy, text, bytes);
        }
        copy[bytes] = '\0';
    }
    return copy;
}

void spin_arena_reset(struct spin_arena *arena)
{
    while (arena->taken != NULL) {
        struct chunk *chunk = arena->taken;
        arena->taken = chunk->next;
#ifdef SPIN_DEBUG
        memset(chunk_bytes(chunk), FORGOTTEN_BYTE, chunk->used_bytes);
#endif
        chunk->used_bytes = 0;
        chunk->next = arena->spare;
        arena->spare = chunk;
    }
    arena->used_bytes = 0;
}

uint64_t spin_arena_used_bytes(const struct spin_arena *arena)
{
    return arena->used_bytes;
}
