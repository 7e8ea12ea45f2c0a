/* cursor: the walk of one prompt over the grid (super-chunk, layer, chunk).
 *
 * Why        A unit, one chunk of one layer, is the grain at which prefill can be paused, cancelled
 *            and shared. Super-chunks are outermost, so that a finished one is a whole prefix;
 *            layers come next, so that a layer's weights serve a whole super-chunk.
 * Layout     super-chunk 0                       super-chunk 1
 *              layer 0: chunk 0, chunk 1, ...      layer 0: ...
 *              layer 1: chunk 0, chunk 1, ...      layer 1: ...
 *            Both kinds of boundary are absolute multiples, cut off at the end of the prompt; a
 *            chunk also ends where its super-chunk does.
 * Threading  Any thread; pure values.
 * Units      Tokens; cost in token-layers (a token through one layer). */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

struct spin_grid {
    uint32_t layers;
    uint32_t super_chunk_tokens; /* at least 1 */
    uint32_t chunk_tokens;       /* at least 1 */
};

/* Tokens [begin, end) of layer `layer`; the super-chunk starts at token super_begin. */
struct spin_unit {
    uint32_t super_begin;
    uint32_t layer;
    uint32_t begin;
    uint32_t end;
};

struct spin_cursor {
    uint32_t tokens;       /* of the whole walk */
    struct spin_unit unit; /* the next one; begin == tokens: done */
};

/* tokens >= 1. */
struct spin_cursor spin_cursor_start(const struct spin_grid *grid, uint32_t tokens);
/* At the first unit of the super-chunk that the cursor is in: what is on the host by then is a
 * whole prefix, and hidden states inside of a super-chunk are not kept. */
struct spin_cursor spin_cursor_restart(const struct spin_grid *grid,
                                       const struct spin_cursor *cursor);
bool spin_cursor_done(const struct spin_cursor *cursor);
/* Behind the unit that cursor->unit names; not done. */
void spin_cursor_advance(const struct spin_grid *grid, struct spin_cursor *cursor);
/* Token-layers from cursor->unit to the end. */
uint64_t spin_cursor_remaining(const struct spin_grid *grid, const struct spin_cursor *cursor);

SPIN_END_DECLS
