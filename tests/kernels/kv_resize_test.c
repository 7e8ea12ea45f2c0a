/* A row's life by hand: birth, growth, shrinking, the step from the identity map, the end; what it
 * says after each, what the next resolve makes of it, and that nobody else's tables change.
 * kv_tables_test has the model and the million. */
#include "tests/kernels/kv_tables_fixture.h"

enum { SEQUENCES = 2, LAYERS = 2, HEADS = 2, SLABS_MAX = 5, PAGE_TOKENS = 32 };
enum { SEQUENCE = 1, LAYER = 1, STEP = 100 }; /* whose tables change */

struct rows {
    struct test_tables tables;
    const struct spin_ops *ops;
    struct spin_stream *stream;
    struct spin_rng rng;
};

static uint32_t slots_of(const struct rows *rows)
{
    return spin_test_tables_slots(&rows->tables, SEQUENCE, LAYER);
}

static uint64_t row_of(uint32_t head)
{
    return ((uint64_t)SEQUENCE * LAYERS + LAYER) * HEADS + head;
}

static void resize(struct rows *rows, const struct spin_kv_resize_args *shape)
{
    struct spin_kv_resize_args args = *shape;
    args.view = &rows->tables.view;
    args.sequence = SEQUENCE;
    args.layer = LAYER;
    args.step = STEP;
    assert_int_equal(rows->ops->kv_resize[rows->tables.replacement](&args, rows->stream), SPIN_OK);
}

static void grow(struct rows *rows, uint32_t slabs)
{
    const uint32_t before = slots_of(rows);
    assert_true(spin_test_tables_grant(&rows->tables, SEQUENCE, LAYER, slabs, &rows->rng));
    resize(rows, &(struct spin_kv_resize_args){.before = before, .after = slots_of(rows)});
}

static void shrink(struct rows *rows, uint32_t slabs)
{
    const uint32_t before = slots_of(rows);
    resize(rows, &(struct spin_kv_resize_args){.before = before,
                                               .after = before - slabs * SPIN_SLAB_SLOTS});
    spin_test_tables_revoke(&rows->tables, SEQUENCE, LAYER, slabs);
}

static struct rows make_rows(const struct spin_ops *ops, enum spin_kv_replacement replacement)
{
    const struct test_tables_config config = {.replacement = replacement,
                                              .sequences = SEQUENCES,
                                              .layers = LAYERS,
                                              .kv_heads = HEADS,
                                              .head_dim = 8,
                                              .page_tokens = PAGE_TOKENS,
                                              .pages_max = 120,
                                              .slabs_max = SLABS_MAX,
                                              .slabs = SEQUENCES * LAYERS * HEADS * SLABS_MAX};
    return (struct rows){spin_test_tables_create(&config), ops, spin_test_stream(1), {6, 0, 0}};
}

static void destroy_rows(struct rows *rows)
{
    spin_stream_destroy(rows->stream);
    spin_test_tables_destroy(&rows->tables);
}

/* Resolves the same pages in every row, `step` steps after STEP. Returns the misses of a row. */
static uint32_t resolve(struct rows *rows, uint32_t step, const uint16_t *pages, uint32_t count)
{
    const uint32_t sequence = SEQUENCE;
    const uint32_t tokens = (pages[count - 1] + 1u) * PAGE_TOKENS;
    const uint32_t now = STEP + step;
    const struct spin_kv_resolve_args args = {
        &rows->tables.view, {LAYER, 1, &sequence, &tokens, &now}, rows->tables.lists};
    for (uint32_t head = 0; head < HEADS; head++) {
        memcpy(args.lists.pages + (uint64_t)head * args.lists.stride, pages, count * sizeof *pages);
        args.lists.page_count[head] = count;
    }
    assert_int_equal(rows->ops->kv_resolve[rows->tables.replacement](&args, rows->stream), SPIN_OK);
    assert_int_equal(args.lists.miss_count[0], args.lists.miss_count[1]);
    return args.lists.miss_count[0];
}

/* Slot s holds page pages[s]; the slots behind them are free. */
static void expect_pages(const struct rows *rows, const int32_t *pages, uint32_t count)
{
    for (uint32_t head = 0; head < HEADS; head++) {
        int32_t held[SLABS_MAX * SPIN_SLAB_SLOTS];
        spin_test_tables_read(&rows->tables, row_of(head), slots_of(rows), held);
        for (uint32_t s = 0; s < slots_of(rows); s++) {
            const int32_t wanted = s < count ? pages[s] : -1;
            if (held[s] != wanted) {
                fail_msg("head %u slot %u: page %d, wanted %d", head, s, held[s], wanted);
            }
        }
    }
}

static void expect_dropped(const struct rows *rows, uint32_t dropped)
{
    for (uint32_t head = 0; head < HEADS; head++) {
        assert_int_equal(rows->tables.view.counters[row_of(head)].dropped, dropped);
    }
}

static uint8_t stamp_of(const struct rows *rows, uint32_t slot)
{
    return rows->tables.view.stamp[spin_kv_pool_slot(&rows->tables.view, row_of(HEADS - 1), slot)];
}

typedef void (*rows_fn)(struct rows *rows);

static void with_all(rows_fn fn)
{
    static const struct spin_ops *const ops[] = {&spin_ops_ref, &spin_ops_cpu};
    for (uint32_t i = 0; i < 2 * SPIN_KV_REPLACEMENTS; i++) {
        struct rows rows = make_rows(ops[i % 2], (enum spin_kv_replacement)(i / 2));
        fn(&rows);
        destroy_rows(&rows);
    }
}

/* --- a life --- */

/* 40 pages, two to a leaf in places, in the slots of three slabs. */
static uint32_t fill(struct rows *rows, int32_t *pages)
{
    uint16_t list[40];
    for (uint32_t i = 0; i < 40; i++) {
        list[i] = (uint16_t)(i * 3 - i % 2);
        pages[i] = list[i];
    }
    assert_int_equal(resolve(rows, 0, list, 40), 40);
    expect_pages(rows, pages, 40);
    return 40;
}

static void check_growth(struct rows *rows)
{
    int32_t pages[40];
    grow(rows, 1);
    expect_pages(rows, NULL, 0);
    grow(rows, 2);
    expect_pages(rows, NULL, 0);
    (void)fill(rows, pages);
    grow(rows, 2);
    expect_pages(rows, pages, 40);
    expect_dropped(rows, 0);

    /* New slots are taken after the old free ones. */
    const uint16_t more[] = {117, 118, 119};
    assert_int_equal(resolve(rows, 1, more, 3), 3);
    assert_int_equal(rows->tables.lists.misses[0].slot,
                     spin_kv_pool_slot(&rows->tables.view, row_of(0), 40));
    assert_int_equal(rows->tables.lists.misses[2].slot,
                     spin_kv_pool_slot(&rows->tables.view, row_of(0), 42));
}

static void check_shrinking(struct rows *rows)
{
    int32_t pages[40];
    grow(rows, 4);
    (void)fill(rows, pages);
    shrink(rows, 1); /* nothing in it */
    expect_pages(rows, pages, 40);
    expect_dropped(rows, 0);
    shrink(rows, 2);
    expect_pages(rows, pages, 16);
    expect_dropped(rows, 24);
    assert_int_equal(rows->tables.view.counters[row_of(0)].evictions, 0);

    /* What was kept is hit where it was; what was dropped misses. */
    const uint16_t both[] = {(uint16_t)pages[2], (uint16_t)pages[15], (uint16_t)pages[16]};
    assert_int_equal(resolve(rows, 1, both, 3), 1);
    assert_int_equal(rows->tables.lists.slots[1],
                     spin_kv_pool_slot(&rows->tables.view, row_of(0), 15));
    grow(rows, 1);
    shrink(rows, 2);
    expect_dropped(rows, 24 + 16);
    assert_int_equal(slots_of(rows), 0);
}

/* bucketed: leaves of the row in slots from `slot` on that are in use. */
static uint32_t leaves_from(const struct rows *rows, uint32_t slot)
{
    const struct spin_kv_view *view = &rows->tables.view;
    uint32_t count = 0;
    for (uint32_t d = 0; view->directory != NULL && d < view->directory_max; d++) {
        const uint32_t leaf = view->directory[row_of(0) * view->directory_max + d];
        count += leaf != SPIN_LEAF_NONE && leaf >= slot;
    }
    return count;
}

/* Pages stay in the first slab while leaves of theirs are in the second, which goes away. */
static void check_leaves_move(struct rows *rows)
{
    uint16_t list[32];
    int32_t pages[16];
    grow(rows, 1);
    for (uint16_t i = 0; i < 16; i++) {
        list[i] = i;
    }
    assert_int_equal(resolve(rows, 0, list, 16), 16); /* 4 leaves */
    grow(rows, 1);
    for (uint16_t i = 0; i < 16; i++) {
        list[i] = (uint16_t)(16 + i * 4);
    }
    assert_int_equal(resolve(rows, 1, list, 16), 16); /* 16 leaves more */
    for (uint16_t i = 0; i < 16; i++) {
        /* 80 81 84 85 .. 100 101 104 108 112 116: 10 leaves, 4 of them from the first slab */
        list[16 + i] = (uint16_t)(i < 12 ? 80 + i / 2 * 4 + i % 2 : 104 + (i - 12) * 4);
        pages[i] = list[16 + i];
    }
    assert_int_equal(resolve(rows, 2, list, 32), 16);
    if (rows->tables.replacement == SPIN_KV_BUCKETED) {
        assert_int_equal(leaves_from(rows, 16), 4 + 6);
    }
    shrink(rows, 1);
    assert_int_equal(leaves_from(rows, 16), 0);
    expect_pages(rows, pages, 16);
    expect_dropped(rows, 16);
    assert_int_equal(resolve(rows, 3, list + 16, 16), 0);
}

/* The identity map's slots, stamped as of the step before. */
static void check_from_resident(struct rows *rows)
{
    const bool bucketed = rows->tables.replacement == SPIN_KV_BUCKETED;
    assert_true(spin_test_tables_grant(&rows->tables, SEQUENCE, LAYER, 3, &rows->rng));
    resize(rows, &(struct spin_kv_resize_args){.after = 48, .first_page = 16, .held = 37});
    int32_t pages[37];
    uint16_t list[37];
    for (uint16_t i = 0; i < 37; i++) {
        list[i] = (uint16_t)(16 + i);
        pages[i] = list[i];
    }
    expect_pages(rows, pages, 37);
    expect_dropped(rows, 0);
    assert_int_equal(stamp_of(rows, 36), bucketed ? (STEP - 1) % 64 : 0);
    assert_int_equal(stamp_of(rows, 37), SPIN_STAMP_FREE);
    assert_int_equal(resolve(rows, 0, list + 5, 32), 0);
    assert_int_equal(stamp_of(rows, 4), bucketed ? (STEP - 1) % 64 : 1);
    assert_int_equal(stamp_of(rows, 5), bucketed ? STEP % 64 : 0);
    assert_int_equal(rows->tables.view.counters[row_of(0)].working_set, 37);
}

static void check_end_and_again(struct rows *rows)
{
    int32_t pages[40];
    grow(rows, 3);
    (void)fill(rows, pages);
    shrink(rows, 3);
    expect_pages(rows, NULL, 0);
    expect_dropped(rows, 40);
    grow(rows, 3);
    expect_pages(rows, NULL, 0);
    (void)fill(rows, pages);
}

/* Two rows of the layer and no other: not one byte of anybody else's. */
static void check_neighbours(struct rows *rows)
{
    const struct spin_kv_view *view = &rows->tables.view;
    const uint64_t slots = (uint64_t)rows->tables.slabs * SPIN_SLAB_SLOTS;
    int32_t pages[40];
    grow(rows, 3);
    (void)fill(rows, pages);
    shrink(rows, 1);
    uint64_t touched = 0;
    for (uint64_t place = 0; place < slots; place++) {
        touched += view->stamp[place] != 0xff;
    }
    assert_int_equal(touched, HEADS * 32);
    for (uint64_t row = 0; row < row_of(0); row++) {
        assert_int_equal(view->counters[row].dropped, 0);
        if (rows->tables.replacement == SPIN_KV_BUCKETED) {
            assert_int_equal(view->leaf_free[row], 0xffff);
            for (uint32_t d = 0; d < view->directory_max; d++) {
                assert_int_equal(view->directory[row * view->directory_max + d], 0);
            }
        }
    }
}

static void test_life(void **state)
{
    (void)state;
    with_all(check_growth);
    with_all(check_shrinking);
    with_all(check_leaves_move);
    with_all(check_from_resident);
    with_all(check_end_and_again);
    with_all(check_neighbours);
}

/* --- limits --- */

static void hold_too_much(void *argument)
{
    resize(argument, &(struct spin_kv_resize_args){.after = 16, .held = 17});
}

static void hold_in_the_middle_of_life(void *argument)
{
    resize(argument, &(struct spin_kv_resize_args){.before = 16, .after = 32, .held = 1});
}

static void half_a_slab(void *argument)
{
    resize(argument, &(struct spin_kv_resize_args){.after = 24});
}

static void more_slabs_than_a_row_has(void *argument)
{
    resize(argument, &(struct spin_kv_resize_args){.after = (SLABS_MAX + 1) * SPIN_SLAB_SLOTS});
}

static void check_limits(struct rows *rows)
{
    assert_true(spin_test_dies(hold_too_much, rows, "args->held <= args->after"));
    assert_true(spin_test_dies(hold_in_the_middle_of_life, rows, "args->held == 0"));
    assert_true(spin_test_dies(half_a_slab, rows, "args->after % "));
    assert_true(spin_test_dies(more_slabs_than_a_row_has, rows, "slabs_max"));
}

static void test_limits(void **state)
{
    (void)state;
    with_all(check_limits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
