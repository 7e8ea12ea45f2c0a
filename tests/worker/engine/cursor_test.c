/* Method: the whole walk is compared, unit by unit, with three nested loops over a table of
 * grids. */
#include "worker/engine/cursor.h"

#include "tests/spin_test.h"

struct example {
    struct spin_grid grid;
    uint32_t tokens;
};

static const struct example examples[] = {
    {{1, 128, 128}, 1},    {{1, 128, 128}, 128}, {{1, 128, 128}, 129}, {{4, 128, 7}, 300},
    {{3, 256, 64}, 1000},  {{2, 128, 1}, 140},   {{5, 2048, 128}, 2},  {{2, 2048, 128}, 5000},
    {{30, 256, 256}, 513}, {{2, 384, 100}, 800}, {{1, 128, 1000}, 300}};

static uint32_t first_multiple_after(uint32_t from, uint32_t step)
{
    return (from / step + 1) * step;
}

static void expect_unit(const struct spin_cursor *cursor, const struct spin_unit *wanted)
{
    assert_false(spin_cursor_done(cursor));
    assert_int_equal(cursor->unit.super_begin, wanted->super_begin);
    assert_int_equal(cursor->unit.layer, wanted->layer);
    assert_int_equal(cursor->unit.begin, wanted->begin);
    assert_int_equal(cursor->unit.end, wanted->end);
}

/* Walks one super-chunk; *remaining is what the cursor should say before each unit. */
static void walk_super(const struct example *example, struct spin_cursor *cursor, uint32_t begin,
                       uint64_t *remaining)
{
    const struct spin_grid *grid = &example->grid;
    const uint32_t end =
        SPIN_MIN(first_multiple_after(begin, grid->super_chunk_tokens), example->tokens);
    for (uint32_t layer = 0; layer < grid->layers; layer++) {
        for (uint32_t at = begin; at < end;) {
            const uint32_t next = SPIN_MIN(first_multiple_after(at, grid->chunk_tokens), end);
            const struct spin_unit wanted = {begin, layer, at, next};
            expect_unit(cursor, &wanted);
            const struct spin_cursor again = spin_cursor_restart(grid, cursor);
            const struct spin_unit start = {
                begin, 0, begin, SPIN_MIN(first_multiple_after(begin, grid->chunk_tokens), end)};
            expect_unit(&again, &start);
            assert_int_equal(spin_cursor_remaining(grid, cursor), *remaining);
            *remaining -= next - at;
            spin_cursor_advance(grid, cursor);
            at = next;
        }
    }
}

static void test_walk_is_three_loops(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(examples); i++) {
        const struct example *example = &examples[i];
        struct spin_cursor cursor = spin_cursor_start(&example->grid, example->tokens);
        uint64_t remaining = (uint64_t)example->tokens * example->grid.layers;
        for (uint32_t begin = 0; begin < example->tokens;
             begin = first_multiple_after(begin, example->grid.super_chunk_tokens)) {
            walk_super(example, &cursor, begin, &remaining);
        }
        assert_true(spin_cursor_done(&cursor));
        assert_int_equal(remaining, 0);
        assert_int_equal(spin_cursor_remaining(&example->grid, &cursor), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_walk_is_three_loops)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
