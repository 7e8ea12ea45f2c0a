/* kv_list in both versions against lists worked out here from the slab lists: every entry that the
 * kind names, and not a byte of anything else. */
#include "tests/kernels/kernel_test.h"

enum { SEQUENCES = 3, LAYERS = 2, HEADS = 3, SLABS_MAX = 1100, STRIDE = 17000, ROWS = HEADS + 1 };

struct lists {
    struct spin_kv_lists view;
    struct test_memory pages;
    struct test_memory page_count;
    struct test_memory slots;
    struct test_memory visible;
    struct test_memory misses;
    struct test_memory miss_count;
};

/* One row more than is written. */
static struct lists make_lists(void)
{
    struct lists lists = {
        .pages = spin_test_memory_create((uint64_t)ROWS * STRIDE * sizeof(uint16_t)),
        .page_count = spin_test_memory_create(ROWS * sizeof(uint32_t)),
        .slots = spin_test_memory_create((uint64_t)ROWS * STRIDE * sizeof(uint32_t)),
        .visible = spin_test_memory_create(ROWS * sizeof(uint32_t)),
        .misses = spin_test_memory_create((uint64_t)ROWS * STRIDE * sizeof(struct spin_kv_miss)),
        .miss_count = spin_test_memory_create(ROWS * sizeof(uint32_t)),
    };
    lists.view = (struct spin_kv_lists){.stride = STRIDE,
                                        .pages = spin_test_memory_data(&lists.pages),
                                        .page_count = spin_test_memory_data(&lists.page_count),
                                        .slots = spin_test_memory_data(&lists.slots),
                                        .visible = spin_test_memory_data(&lists.visible),
                                        .misses = spin_test_memory_data(&lists.misses),
                                        .miss_count = spin_test_memory_data(&lists.miss_count)};
    return lists;
}

static void expect_same_memory(struct test_memory *got, struct test_memory *wanted)
{
    assert_memory_equal(spin_test_memory_data(got), spin_test_memory_data(wanted), wanted->bytes);
    spin_test_memory_destroy(got);
    spin_test_memory_destroy(wanted);
}

static uint32_t slab_list[SEQUENCES * LAYERS * SLABS_MAX];

static const struct spin_kv_view view = {
    .layout = {LAYERS, HEADS, 16, SPIN_KV_BF16, SPIN_SWIZZLE_NONE},
    .page_tokens = 8,
    .slabs_max = SLABS_MAX,
    .slab_list = slab_list,
};

/* Pool slot of a page of a row of layer `layer`: slabs are 16 slots, a group has one per head. */
static uint32_t slot_of(const struct spin_kv_list_args *args, uint32_t head, uint32_t page)
{
    const uint64_t list = ((uint64_t)args->sequence * LAYERS + args->slot_layer) * SLABS_MAX;
    return (slab_list[list + page / 16] * HEADS + head) * 16 + page % 16;
}

static void expect_list(const struct spin_kv_list_args *args, struct lists *lists)
{
    for (uint64_t head = 0; head < HEADS; head++) {
        for (uint32_t i = 0; i < args->pages.count; i++) {
            const uint32_t page = args->pages.first + i;
            const uint64_t at = head * STRIDE + i;
            if (args->kind == SPIN_KV_LIST_MISSES) {
                lists->view.misses[at] =
                    (struct spin_kv_miss){(uint16_t)page, 0, slot_of(args, (uint32_t)head, page)};
                continue;
            }
            lists->view.pages[at] = (uint16_t)page;
            if (args->kind == SPIN_KV_LIST_SLOTS) {
                lists->view.slots[at] = slot_of(args, (uint32_t)head, page);
            }
        }
        if (args->kind == SPIN_KV_LIST_MISSES) {
            lists->view.miss_count[head] = args->pages.count;
            continue;
        }
        lists->view.page_count[head] = args->pages.count;
        if (args->kind == SPIN_KV_LIST_SLOTS) {
            lists->view.visible[head] = args->tokens - 8 * args->pages.first;
        }
    }
}

static void check(const struct spin_ops *ops, struct spin_kv_list_args args, uint32_t threads)
{
    struct spin_stream *stream = spin_test_stream(threads);
    struct lists got = make_lists();
    struct lists wanted = make_lists();
    expect_list(&args, &wanted);
    args.lists = got.view;
    SPIN_EXPECT_OK(ops->kv_list(&args, stream), NULL);
    expect_same_memory(&got.pages, &wanted.pages);
    expect_same_memory(&got.page_count, &wanted.page_count);
    expect_same_memory(&got.slots, &wanted.slots);
    expect_same_memory(&got.visible, &wanted.visible);
    expect_same_memory(&got.misses, &wanted.misses);
    expect_same_memory(&got.miss_count, &wanted.miss_count);
    spin_stream_destroy(stream);
}

static void test_kinds(void **state)
{
    (void)state;
    static const struct spin_kv_range ranges[] = {{0, 1},  {0, 15},  {0, 16},  {0, 17},    {5, 1},
                                                  {15, 2}, {16, 16}, {31, 40}, {0, STRIDE}};
    struct spin_rng rng = {41, 0, 0};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(slab_list); i++) {
        slab_list[i] = spin_rng_below(&rng, 1000000);
    }
    for (uint32_t i = 0; i < 3 * SPIN_ARRAY_COUNT(ranges); i++) {
        const struct spin_kv_range range = ranges[i / 3];
        const struct spin_kv_list_args args = {
            .view = &view,
            .kind = (enum spin_kv_list_kind)(i % 3),
            .sequence = i % SEQUENCES,
            .slot_layer = i / 2 % LAYERS,
            .pages = range,
            .tokens = (range.first + range.count) * 8 - i % 8,
        };
        check(&spin_ops_ref, args, 1);
        check(&spin_ops_cpu, args, 1);
        check(&spin_ops_cpu, args, 3);
    }
}

static void list_another_page(void *argument)
{
    struct spin_stream *stream = spin_test_stream(1);
    struct lists lists = make_lists();
    const struct spin_kv_list_args args = {.view = &view,
                                           .lists = lists.view,
                                           .kind = SPIN_KV_LIST_SLOTS,
                                           .pages = {0, 3},
                                           .tokens = 25};
    (void)((const struct spin_ops *)argument)->kv_list(&args, stream);
}

static void test_limits(void **state)
{
    (void)state;
    struct spin_ops tables[] = {spin_ops_ref, spin_ops_cpu};
    assert_true(spin_test_dies(list_another_page, &tables[0], "end"));
    assert_true(spin_test_dies(list_another_page, &tables[1], "end"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
