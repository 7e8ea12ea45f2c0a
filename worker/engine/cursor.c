#include "worker/engine/cursor.h"

#include "base/assert.h"

/* The smaller of `limit` and the first multiple of `step` after `from`. */
static uint32_t next_boundary(uint32_t from, uint32_t step, uint32_t limit)
{
    const uint64_t boundary = ((uint64_t)from / step + 1) * step;
    return boundary < limit ? (uint32_t)boundary : limit;
}

static uint32_t super_end(const struct spin_grid *grid, const struct spin_cursor *cursor)
{
    return next_boundary(cursor->unit.super_begin, grid->super_chunk_tokens, cursor->tokens);
}

static void go_to(const struct spin_grid *grid, struct spin_cursor *cursor, uint32_t layer,
                  uint32_t begin)
{
    cursor->unit.layer = layer;
    cursor->unit.begin = begin;
    cursor->unit.end = next_boundary(begin, grid->chunk_tokens, super_end(grid, cursor));
}

struct spin_cursor spin_cursor_start(const struct spin_grid *grid, uint32_t tokens)
{
    SPIN_ASSERT_GE(tokens, 1);
    SPIN_ASSERT_GE(grid->layers, 1);
    SPIN_ASSERT_GE(grid->chunk_tokens, 1);
    SPIN_ASSERT_GE(grid->super_chunk_tokens, 1);
    struct spin_cursor cursor = {.tokens = tokens, .unit = {0, 0, 0, 0}};
    go_to(grid, &cursor, 0, 0);
    return cursor;
}

struct spin_cursor spin_cursor_restart(const struct spin_grid *grid,
                                       const struct spin_cursor *cursor)
{
    struct spin_cursor restarted = *cursor;
    if (!spin_cursor_done(cursor)) {
        go_to(grid, &restarted, 0, cursor->unit.super_begin);
    }
    return restarted;
}

bool spin_cursor_done(const struct spin_cursor *cursor)
{
    return cursor->unit.begin == cursor->tokens;
}

void spin_cursor_advance(const struct spin_grid *grid, struct spin_cursor *cursor)
{
    SPIN_ASSERT(!spin_cursor_done(cursor));
    struct spin_unit *unit = &cursor->unit;
    if (unit->end < super_end(grid, cursor)) {
        go_to(grid, cursor, unit->layer, unit->end);
    } else if (unit->layer + 1 < grid->layers) {
        go_to(grid, cursor, unit->layer + 1, unit->super_begin);
    } else {
        unit->super_begin = unit->end;
        go_to(grid, cursor, 0, unit->end);
    }
}

uint64_t spin_cursor_remaining(const struct spin_grid *grid, const struct spin_cursor *cursor)
{
    if (spin_cursor_done(cursor)) {
        return 0;
    }
    const uint32_t end = super_end(grid, cursor);
    const uint64_t layer_rest = end - cursor->unit.begin;
    const uint64_t other_layers =
        (uint64_t)(grid->layers - 1 - cursor->unit.layer) * (end - cursor->unit.super_begin);
    return layer_rest + other_layers + (uint64_t)(cursor->tokens - end) * grid->layers;
}
