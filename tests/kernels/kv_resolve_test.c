/* Rows of one slab, step by step, with what the header says worked out by hand; then both versions
 * side by side on rows as large as they get. kv_tables_test has the model and the million. */
#include "tests/kernels/kv_tables_fixture.h"

enum { PAGE_TOKENS = 8, SLOTS = 16 };

/* One row of 16 slots, and who resolves it. */
struct row {
    struct test_tables tables;
    const struct spin_ops *ops;
    struct spin_stream *stream;
    uint32_t step;
    uint32_t tokens;
};

static struct row make_row(const struct spin_ops *ops, enum spin_kv_replacement replacement,
                           uint32_t bucket_shift)
{
    const struct test_tables_config config = {.replacement = replacement,
                                              .sequences = 1,
                                              .layers = 1,
                                              .kv_heads = 1,
                                              .head_dim = 8,
                                              .page_tokens = PAGE_TOKENS,
                                              .pages_max = 100,
                                              .slabs_max = 1,
                                              .slabs = 3,
                                              .bucket_shift = bucket_shift};
    struct row row = {spin_test_tables_create(&config), ops, spin_test_stream(1), 7, 0};
    struct spin_rng rng = {5, 0, 0};
    assert_true(spin_test_tables_grant(&row.tables, 0, 0, 1, &rng));
    const struct spin_kv_resize_args birth = {
        .view = &row.tables.view, .step = row.step, .after = SLOTS};
    assert_int_equal(ops->kv_resize[replacement](&birth, row.stream), SPIN_OK);
    return row;
}

static void destroy_row(struct row *row)
{
    spin_stream_destroy(row->stream);
    spin_test_tables_destroy(&row->tables);
}

/* The next step, with `tokens` visible tokens. */
static const struct spin_kv_counters *resolve(struct row *row, uint32_t tokens,
                                              const uint16_t *pages, uint32_t count)
{
    const uint32_t sequence = 0;
    row->tokens = tokens;
    row->step++;
    const struct spin_kv_resolve_args args = {
        &row->tables.view, {0, 1, &sequence, &row->tokens, &row->step}, row->tables.lists};
    memcpy(args.lists.pages, pages, count * sizeof *pages);
    args.lists.page_count[0] = count;
    assert_int_equal(row->ops->kv_resolve[row->tables.replacement](&args, row->stream), SPIN_OK);
    return row->tables.view.counters;
}

/* Pages [first, first + count), which end at the newest. */
static const struct spin_kv_counters *resolve_run(struct row *row, uint32_t first, uint32_t count)
{
    uint16_t pages[SLOTS];
    for (uint32_t i = 0; i < count; i++) {
        pages[i] = (uint16_t)(first + i);
    }
    return resolve(row, (first + count) * PAGE_TOKENS, pages, count);
}

static void expect_pages(const struct row *row, const int32_t expected[SLOTS])
{
    int32_t pages[SLOTS];
    spin_test_tables_read(&row->tables, 0, SLOTS, pages);
    for (uint32_t s = 0; s < SLOTS; s++) {
        if (pages[s] != expected[s]) {
            fail_msg("slot %u: page %d, wanted %d", s, pages[s], expected[s]);
        }
    }
}

static uint32_t age_of(const struct row *row, uint32_t slot)
{
    const uint8_t stamp = row->tables.view.stamp[spin_kv_pool_slot(&row->tables.view, 0, slot)];
    assert_int_not_equal(stamp, SPIN_STAMP_FREE);
    if (row->tables.replacement == SPIN_KV_SLOT_LRU) {
        return stamp;
    }
    return ((row->step >> row->tables.view.bucket_shift) - stamp) % 64;
}

/* wanted.slot: of the row. */
static void expect_miss(const struct row *row, uint32_t index, struct spin_kv_miss wanted)
{
    const struct spin_kv_miss *miss = &row->tables.lists.misses[index];
    assert_true(index < row->tables.lists.miss_count[0]);
    assert_int_equal(miss->page, wanted.page);
    assert_int_equal(miss->slot, spin_kv_pool_slot(&row->tables.view, 0, wanted.slot));
    assert_int_equal(miss->fresh, wanted.fresh);
}

typedef void (*row_fn)(const struct spin_ops *ops, enum spin_kv_replacement replacement);

static void with_all(row_fn fn)
{
    for (uint32_t i = 0; i < SPIN_KV_REPLACEMENTS; i++) {
        fn(&spin_ops_ref, (enum spin_kv_replacement)i);
        fn(&spin_ops_cpu, (enum spin_kv_replacement)i);
    }
}

/* --- by hand --- */

/* Free slots first; then the oldest, the lower slot among equals. */
static void check_order(const struct spin_ops *ops, enum spin_kv_replacement replacement)
{
    struct row row = make_row(ops, replacement, 0);
    const struct spin_kv_counters *counters = resolve_run(&row, 0, 14);
    assert_int_equal(counters->hits, 0);
    assert_int_equal(counters->misses, 14);
    assert_int_equal(counters->evictions, 0);
    expect_pages(&row, (const int32_t[]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, -1, -1});

    const uint16_t some[] = {0, 1, 2, 3, 13};
    (void)resolve(&row, 112, some, SPIN_ARRAY_COUNT(some));
    assert_int_equal(age_of(&row, 13), 0);
    assert_int_equal(age_of(&row, 4), 1);

    /* Page 14 is there for its first token: not a miss, and zeros instead of a frame. */
    const uint16_t opened[] = {1, 14};
    counters = resolve(&row, 14 * PAGE_TOKENS + 1, opened, SPIN_ARRAY_COUNT(opened));
    assert_int_equal(counters->hits, 1);
    assert_int_equal(counters->misses, 0);
    assert_int_equal(row.tables.lists.miss_count[0], 1);
    assert_int_equal(row.tables.lists.visible[0], PAGE_TOKENS + 1);
    expect_miss(&row, 0, (struct spin_kv_miss){14, 1, 14});

    /* Taken: the last free slot, and the oldest two: 4 and 5, not selected for two steps. */
    const uint16_t more[] = {1, 15, 16, 17};
    counters = resolve(&row, 18 * PAGE_TOKENS, more, SPIN_ARRAY_COUNT(more));
    assert_int_equal(counters->evictions, 2);
    assert_int_equal(counters->misses, 3);
    expect_pages(&row, (const int32_t[]){0, 1, 2, 3, 15, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 17});
    expect_miss(&row, 0, (struct spin_kv_miss){15, 0, 4});
    expect_miss(&row, 1, (struct spin_kv_miss){16, 0, 5});
    expect_miss(&row, 2, (struct spin_kv_miss){17, 0, 15});
    assert_int_equal(row.tables.lists.slots[0], spin_kv_pool_slot(&row.tables.view, 0, 1));
    assert_int_equal(row.tables.lists.slots[3], spin_kv_pool_slot(&row.tables.view, 0, 15));
    assert_int_equal(age_of(&row, 4), 0);
    assert_int_equal(age_of(&row, 6), 3);
    assert_int_equal(age_of(&row, 0), 2);

    /* The same once more: nothing misses. */
    counters = resolve(&row, 18 * PAGE_TOKENS, more, SPIN_ARRAY_COUNT(more));
    assert_int_equal(counters->hits, 4);
    assert_int_equal(row.tables.lists.miss_count[0], 0);
    destroy_row(&row);
}

/* Slot 9 is the oldest, slot 3 the next; but misses and slots are paired in ascending order. */
static void check_pairs(const struct spin_ops *ops, enum spin_kv_replacement replacement)
{
    struct row row = make_row(ops, replacement, 0);
    (void)resolve_run(&row, 0, 16);
    const uint16_t without_9[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15};
    (void)resolve(&row, 128, without_9, SPIN_ARRAY_COUNT(without_9));
    const uint16_t without_3[] = {0, 1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15};
    (void)resolve(&row, 128, without_3, SPIN_ARRAY_COUNT(without_3));
    (void)resolve_run(&row, 16, 2);
    expect_miss(&row, 0, (struct spin_kv_miss){16, 0, 3});
    expect_miss(&row, 1, (struct spin_kv_miss){17, 0, 9});
    expect_pages(&row, (const int32_t[]){0, 1, 2, 16, 4, 5, 6, 7, 8, 17, 10, 11, 12, 13, 14, 15});
    destroy_row(&row);
}

/* As many pages as slots: what was selected stays, all else goes. */
static void check_full(const struct spin_ops *ops, enum spin_kv_replacement replacement)
{
    struct row row = make_row(ops, replacement, 0);
    (void)resolve_run(&row, 0, 16);
    const struct spin_kv_counters *counters = resolve_run(&row, 8, 16);
    assert_int_equal(counters->hits, 8);
    assert_int_equal(counters->evictions, 8);
    expect_pages(&row,
                 (const int32_t[]){16, 17, 18, 19, 20, 21, 22, 23, 8, 9, 10, 11, 12, 13, 14, 15});
    destroy_row(&row);
}

/* Ages have an end, and an old page never comes to look young: page 7, selected 40 steps ago, is
 * younger than those that were not for 60, 61, ... 300 steps. */
static void check_saturation(const struct spin_ops *ops, enum spin_kv_replacement replacement)
{
    const uint32_t age_max = replacement == SPIN_KV_SLOT_LRU ? 254 : 62;
    for (uint32_t steps = 60; steps <= 300; steps += steps < 140 ? 1 : 53) {
        struct row row = make_row(ops, replacement, 0);
        (void)resolve_run(&row, 0, 16);
        for (uint32_t i = 1; i <= steps; i++) {
            const uint16_t both[] = {7, 15};
            const uint32_t only_15 = i == steps - 40 ? 0 : 1;
            (void)resolve(&row, 128, both + only_15, 2 - only_15);
            assert_int_equal(age_of(&row, 0), SPIN_MIN(i, age_max));
        }
        assert_int_equal(age_of(&row, 7), 40);
        (void)resolve_run(&row, 16, 14);
        expect_pages(
            &row, (const int32_t[]){16, 17, 18, 19, 20, 21, 22, 7, 23, 24, 25, 26, 27, 28, 29, 15});
        destroy_row(&row);
    }
}

/* Wide buckets: steps of one bucket are equally old; the working set counts whole buckets. */
static void check_wide_buckets(const struct spin_ops *ops, enum spin_kv_replacement replacement)
{
    if (replacement != SPIN_KV_BUCKETED) {
        return;
    }
    struct row row = make_row(ops, replacement, 2); /* its next step is 8: bucket 2 */
    (void)resolve_run(&row, 0, 16);
    for (uint32_t step = 9; step < 400; step++) {
        const struct spin_kv_counters *counters = resolve_run(&row, 15, 1);
        const uint32_t bucket = step / 4;
        assert_int_equal(age_of(&row, 3), SPIN_MIN(bucket - 2, 62));
        /* The last 12 steps reach back to step - 11, and so to bucket 2 up to step 22. */
        assert_int_equal(counters->working_set, step <= 22 ? 16 : 1);
    }
    destroy_row(&row);
}

/* Pages selected in the last 12 steps, this one included; the evicted ones not. */
static void check_working_set(const struct spin_ops *ops, enum spin_kv_replacement replacement)
{
    struct row row = make_row(ops, replacement, 0);
    assert_int_equal(resolve_run(&row, 0, 16)->working_set, 16);
    for (uint32_t i = 1; i < 12; i++) {
        assert_int_equal(resolve_run(&row, 15, 1)->working_set, 16);
    }
    assert_int_equal(resolve_run(&row, 15, 1)->working_set, 1);
    assert_int_equal(resolve_run(&row, 16, 4)->working_set, 5);
    for (uint32_t i = 0; i < 11; i++) {
        const uint32_t first = 20 + i;
        (void)resolve_run(&row, first, 1);
    }
    assert_int_equal(row.tables.view.counters->working_set, 15);
    assert_int_equal(row.tables.view.counters->evictions, 1);
    destroy_row(&row);
}

static void test_by_hand(void **state)
{
    (void)state;
    with_all(check_order);
    with_all(check_pairs);
    with_all(check_full);
    with_all(check_saturation);
    with_all(check_wide_buckets);
    with_all(check_working_set);
}

/* The identity map: no table is read, and none is written. */
static void check_resident(const struct spin_ops *ops, enum spin_kv_replacement replacement)
{
    struct row row = make_row(ops, replacement, 0);
    row.tables.residency[0] = SPIN_KV_RESIDENT;
    const uint16_t pages[] = {2, 3, 11};
    const struct spin_kv_counters *counters = resolve(&row, 93, pages, SPIN_ARRAY_COUNT(pages));
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(pages); i++) {
        assert_int_equal(row.tables.lists.slots[i],
                         spin_kv_pool_slot(&row.tables.view, 0, pages[i]));
    }
    assert_int_equal(row.tables.lists.visible[0], 2 * PAGE_TOKENS + 5);
    assert_int_equal(row.tables.lists.miss_count[0], 0);
    assert_int_equal(counters->hits, 3);
    assert_int_equal(counters->misses + counters->evictions + counters->working_set, 0);
    int32_t nothing[SLOTS];
    memset(nothing, 0xff, sizeof nothing);
    expect_pages(&row, nothing);
    destroy_row(&row);
}

static void test_resident(void **state)
{
    (void)state;
    with_all(check_resident);
}

/* --- limits --- */

static void resolve_17_pages(void *argument)
{
    uint16_t pages[SLOTS + 1];
    for (uint32_t i = 0; i <= SLOTS; i++) {
        pages[i] = (uint16_t)i;
    }
    struct row *row = argument;
    row->tables.lists.stride = SLOTS + 1;
    (void)resolve(row, (SLOTS + 1) * PAGE_TOKENS, pages, SLOTS + 1);
}

static void resolve_without_newest(void *argument)
{
    const uint16_t pages[] = {1, 2};
    (void)resolve(argument, 100, pages, SPIN_ARRAY_COUNT(pages));
}

/* Its last slot would have the number that stands for none. */
static void resolve_65536_slots(void *argument)
{
    const uint16_t page = 0;
    struct row *row = argument;
    row->tables.view.slabs_max = 65536 / SPIN_SLAB_SLOTS;
    (void)resolve(row, 1, &page, 1);
}

static void check_limits(const struct spin_ops *ops, enum spin_kv_replacement replacement)
{
    struct row row = make_row(ops, replacement, 0);
    assert_true(spin_test_dies(resolve_65536_slots, &row, "slabs_max <= "));
    assert_true(spin_test_dies(resolve_17_pages, &row, "list.count <= row->slots"));
    assert_true(spin_test_dies(resolve_without_newest, &row, "list.newest"));
    destroy_row(&row);
}

static void test_limits(void **state)
{
    (void)state;
    with_all(check_limits);
}

/* --- both versions, on large rows --- */

enum { SEQUENCES = 5, HEADS = 3, LAYERS = 2, SLABS = 13 };

/* Debug builds walk every directory after every resolve. */
#ifdef SPIN_DEBUG
#define STEPS 30u
#else
#define STEPS 250u
#endif

struct pair {
    struct test_tables ref;
    struct test_tables cpu;
};

static void resize(struct pair *pair, const struct spin_kv_resize_args *shape,
                   struct spin_stream *stream)
{
    struct spin_kv_resize_args args = *shape;
    args.view = &pair->ref.view;
    assert_int_equal(spin_ops_ref.kv_resize[pair->ref.replacement](&args, stream), SPIN_OK);
    args.view = &pair->cpu.view;
    assert_int_equal(spin_ops_cpu.kv_resize[pair->ref.replacement](&args, stream), SPIN_OK);
}

static struct pair make_pair(enum spin_kv_replacement replacement, struct spin_rng *rng,
                             struct spin_stream *stream)
{
    const struct test_tables_config config = {.replacement = replacement,
                                              .sequences = SEQUENCES,
                                              .layers = LAYERS,
                                              .kv_heads = HEADS,
                                              .head_dim = 8,
                                              .page_tokens = PAGE_TOKENS,
                                              .pages_max = SPIN_ROW_PAGES_MAX,
                                              .slabs_max = SLABS,
                                              .slabs = SEQUENCES * LAYERS * HEADS * SLABS,
                                              .bucket_shift = 1};
    struct pair pair = {spin_test_tables_create(&config), spin_test_tables_create(&config)};
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        const uint32_t slabs = SLABS - s; /* 13 to 9 */
        pair.ref.residency[s] = s == 3 ? SPIN_KV_RESIDENT : SPIN_KV_BUFFERED;
        assert_true(spin_test_tables_grant(&pair.ref, s, 1, slabs, rng));
    }
    spin_test_tables_copy_host(&pair.cpu, &pair.ref);
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        const struct spin_kv_resize_args birth = {
            .sequence = s, .layer = 1, .after = (SLABS - s) * SPIN_SLAB_SLOTS};
        if (s != 3) {
            resize(&pair, &birth, stream);
        }
    }
    return pair;
}

/* Up to 100 pages, most of them near each other, from both ends of what a row can number. */
static void choose(struct pair *pair, const struct spin_kv_batch *batch, uint64_t row,
                   struct spin_rng *rng)
{
    const bool resident = batch->sequence[row / HEADS] == 3;
    const uint32_t newest = (batch->tokens[row / HEADS] - 1) / PAGE_TOKENS;
    uint16_t *pages = pair->ref.lists.pages + row * pair->ref.lists.stride;
    const uint32_t spread = resident ? 2 : 1 + spin_rng_below(rng, 9);
    const uint32_t count = 1 + spin_rng_below(rng, SPIN_MIN(newest / 9 + 1, 100));
    uint32_t page = newest;
    for (uint32_t i = count; i-- > 0;) {
        pages[i] = (uint16_t)page;
        page -= i > 0 ? 1 + spin_rng_below(rng, spread) : 0;
    }
    if (count > 1 && !resident && spin_rng_below(rng, 2) == 0) {
        pages[0] = (uint16_t)spin_rng_below(rng, pages[0] + 1u);
    }
    pair->ref.lists.page_count[row] = count;
    pair->cpu.lists.page_count[row] = count;
    memcpy(pair->cpu.lists.pages + row * pair->cpu.lists.stride, pages, count * sizeof *pages);
}

static void resolve_pair(struct pair *pair, const struct spin_kv_batch *batch,
                         struct spin_stream *one, struct spin_stream *many)
{
    struct spin_kv_resolve_args args = {&pair->ref.view, *batch, pair->ref.lists};
    const enum spin_kv_replacement replacement = pair->ref.replacement;
    assert_int_equal(spin_ops_ref.kv_resolve[replacement](&args, one), SPIN_OK);
    args = (struct spin_kv_resolve_args){&pair->cpu.view, *batch, pair->cpu.lists};
    assert_int_equal(spin_ops_cpu.kv_resolve[replacement](&args, many), SPIN_OK);
    spin_test_tables_expect_same(&pair->ref, &pair->cpu);
}

static void check_large(enum spin_kv_replacement replacement, uint32_t threads)
{
    struct spin_rng rng = {91, replacement, threads};
    struct spin_stream *one = spin_test_stream(1);
    struct spin_stream *many = spin_test_stream(threads);
    struct pair pair = make_pair(replacement, &rng, one);
    uint32_t tokens[SEQUENCES] = {3000, 524000, 40000, 1000, 9};
    uint32_t steps[SEQUENCES] = {0, 60, UINT32_MAX - 40, 5, 1000};
    uint32_t evictions = 0;
    for (uint32_t i = 0; i < STEPS; i++) {
        const uint32_t sequence[SEQUENCES] = {4, 0, 3, 1, 2};
        uint32_t batch_tokens[SEQUENCES];
        uint32_t batch_steps[SEQUENCES];
        const struct spin_kv_batch batch = {1, SEQUENCES, sequence, batch_tokens, batch_steps};
        for (uint32_t b = 0; b < SEQUENCES; b++) {
            batch_tokens[b] = ++tokens[sequence[b]];
            batch_steps[b] = ++steps[sequence[b]];
        }
        for (uint32_t row = 0; row < SEQUENCES * HEADS; row++) {
            choose(&pair, &batch, row, &rng);
        }
        resolve_pair(&pair, &batch, one, many);
        for (uint32_t row = 0; row < SEQUENCES * LAYERS * HEADS; row++) {
            evictions += pair.ref.view.counters[row].evictions;
        }
    }
    assert_true(evictions > 4 * STEPS);
    spin_test_tables_destroy(&pair.ref);
    spin_test_tables_destroy(&pair.cpu);
    spin_stream_destroy(one);
    spin_stream_destroy(many);
}

/* A row of as many slots as there are numbers for: the last slot, and at `bucketed` the last leaf,
 * are like any other. */
static void check_longest_row(const struct spin_ops *ops, enum spin_kv_replacement replacement)
{
    const uint32_t slabs = SPIN_ROW_SLOTS_MAX / SPIN_SLAB_SLOTS;
    const struct test_tables_config config = {.replacement = replacement,
                                              .sequences = 1,
                                              .layers = 1,
                                              .kv_heads = 1,
                                              .head_dim = 8,
                                              .page_tokens = PAGE_TOKENS,
                                              .pages_max = SPIN_ROW_PAGES_MAX,
                                              .slabs_max = slabs,
                                              .slabs = slabs};
    struct row row = {spin_test_tables_create(&config), ops, spin_test_stream(1), 7, 0};
    struct spin_rng rng = {6, 0, 0};
    assert_true(spin_test_tables_grant(&row.tables, 0, 0, slabs, &rng));
    const struct spin_kv_resize_args birth = {.view = &row.tables.view,
                                              .step = row.step,
                                              .after = SPIN_ROW_SLOTS_MAX,
                                              .first_page = 15,
                                              .held = SPIN_ROW_SLOTS_MAX};
    assert_int_equal(ops->kv_resize[replacement](&birth, row.stream), SPIN_OK);
    const uint16_t pages[] = {15, SPIN_ROW_PAGES_MAX - 1};
    const struct spin_kv_counters *counters =
        resolve(&row, SPIN_ROW_PAGES_MAX * PAGE_TOKENS, pages, SPIN_ARRAY_COUNT(pages));
    assert_int_equal(counters->hits, 2);
    assert_int_equal(counters->working_set, SPIN_ROW_SLOTS_MAX);
    assert_int_equal(row.tables.lists.slots[1],
                     spin_kv_pool_slot(&row.tables.view, 0, SPIN_ROW_SLOTS_MAX - 1));
    destroy_row(&row);
}

static void test_longest_row(void **state)
{
    (void)state;
    with_all(check_longest_row);
}

static void test_large_rows(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_KV_REPLACEMENTS; i++) {
        check_large((enum spin_kv_replacement)i, 1);
        check_large((enum spin_kv_replacement)i, 3);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),    cmocka_unit_test(test_resident),
        cmocka_unit_test(test_limits),     cmocka_unit_test(test_longest_row),
        cmocka_unit_test(test_large_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
