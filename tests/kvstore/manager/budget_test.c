/* Method: the formulas of the header, worked by hand for a few shapes, and its promises for all
 * lengths. */
#include "kvstore/manager/budget.h"

#include "tests/spin_test.h"

#define LAYERS 3u
#define HEADS 2u

/* Layer 0 attends to everything, layer 1 to 40 pages, layer 2 to 10; below `dense_below` all do. */
struct shape {
    uint32_t page_tokens;
    uint32_t dense_below;
};

static uint32_t mandatory(const void *context, uint32_t layer, uint32_t tokens)
{
    const struct shape *shape = context;
    const uint32_t pages = (tokens + shape->page_tokens - 1) / shape->page_tokens;
    const uint32_t chosen[LAYERS] = {pages, 40, 10};
    return tokens < shape->dense_below ? pages : SPIN_MIN(pages, chosen[layer]);
}

static struct spin_kv_budget make_budget(const struct shape *shape)
{
    return (struct spin_kv_budget){.layers = LAYERS,
                                   .kv_heads = HEADS,
                                   .page_tokens = shape->page_tokens,
                                   .demand = {.context = shape, .mandatory = mandatory}};
}

static void test_rows(void **state)
{
    (void)state;
    static const struct {
        uint32_t tokens;
        uint32_t layer;
        uint32_t working_set;
        uint32_t mandatory;
        uint32_t floor;
        uint32_t target;
        uint32_t full;
    } rows[] = {
        /* One token: one page, one slab of everything. */
        {1, 2, 0, 1, 1, 1, 1},
        /* 128 tokens are 16 pages, one slab; one token more is a second. */
        {128, 0, 0, 1, 1, 1, 1},
        {129, 0, 0, 2, 2, 2, 2},
        /* 8,000 tokens, 1,000 pages, 63 slabs: 40 pages are 3 slabs, 80 are 5, 240 are 15. */
        {8000, 0, 0, 63, 63, 63, 63},
        {8000, 1, 0, 3, 5, 15, 63},
        {8000, 2, 0, 1, 2, 4, 63},
        /* 1.25 W between 2x and 6x: 100 -> 125 slots; 10 -> 80, 1,000 -> 240. */
        {8000, 1, 100, 3, 5, 8, 63},
        {8000, 1, 10, 3, 5, 5, 63},
        {8000, 1, 1000, 3, 5, 15, 63},
        /* Rounded up before slabs: W = 65 is 81.25, 82 slots, 6 slabs. */
        {8000, 1, 65, 3, 5, 6, 63},
        /* 800 tokens are 100 pages: 240 slots are more than there are pages. */
        {800, 1, 0, 3, 5, 7, 7},
    };
    const struct shape shape = {.page_tokens = 8, .dense_below = 0};
    const struct spin_kv_budget budget = make_budget(&shape);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        const uint32_t layer = rows[i].layer;
        const uint32_t tokens = rows[i].tokens;
        assert_int_equal(spin_kv_mandatory_row(&budget, layer, tokens), rows[i].mandatory);
        assert_int_equal(spin_kv_floor_row(&budget, layer, tokens), rows[i].floor);
        assert_int_equal(spin_kv_target_row(&budget, layer, tokens, rows[i].working_set),
                         rows[i].target);
        assert_int_equal(spin_kv_full_row(&budget, tokens), rows[i].full);
    }
}

static void test_sequences(void **state)
{
    (void)state;
    const struct shape shape = {.page_tokens = 8, .dense_below = 0};
    struct spin_kv_budget budget = make_budget(&shape);
    /* (63 + 5 + 2) rows' slabs, two heads; an arena is 63 for each head. */
    assert_int_equal(spin_kv_floor_slabs(&budget, 8000), 140);
    assert_int_equal(spin_kv_arena_slabs(&budget, 8000), 126);
    assert_int_equal(spin_kv_claim_slabs(&budget, 8000), 140);
    /* Without its dense layer the arena is the larger. */
    const struct shape late = {.page_tokens = 32, .dense_below = 0};
    budget = make_budget(&late);
    budget.layers = 1;
    assert_int_equal(spin_kv_claim_slabs(&budget, 8000), 2 * 16);
    assert_int_equal(spin_kv_floor_slabs(&budget, 0), 0);
}

/* mandatory <= floor <= target <= full, whatever W; and no row falls as its sequence grows but
 * where the algorithm turns sparse. */
static void test_order(void **state)
{
    (void)state;
    static const uint32_t working_sets[] = {0, 1, 12, 100, 5000, UINT32_MAX};
    const struct shape shape = {.page_tokens = 8, .dense_below = 1000};
    const struct spin_kv_budget budget = make_budget(&shape);
    for (uint32_t tokens = 1; tokens < 3000; tokens++) {
        for (uint32_t layer = 0; layer < LAYERS; layer++) {
            const uint32_t floor = spin_kv_floor_row(&budget, layer, tokens);
            assert_true(spin_kv_mandatory_row(&budget, layer, tokens) <= floor);
            if (tokens != shape.dense_below) {
                assert_true(spin_kv_floor_row(&budget, layer, tokens - 1) <= floor);
            }
            for (uint32_t w = 0; w < SPIN_ARRAY_COUNT(working_sets); w++) {
                const uint32_t target = spin_kv_target_row(&budget, layer, tokens, working_sets[w]);
                assert_true(floor <= target);
                assert_true(target <= spin_kv_full_row(&budget, tokens));
            }
        }
    }
    /* Turning sparse is a fall: the claim just before is the larger one. */
    assert_true(spin_kv_claim_slabs(&budget, 999) > spin_kv_claim_slabs(&budget, 1000));
}

/* By trying every length, for every length at which the algorithm may turn sparse. */
static void test_longest_claim(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {8, 32};
    static const uint32_t lengths[] = {1, 127, 640, 1500};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(sizes); i++) {
        for (uint32_t j = 0; j < SPIN_ARRAY_COUNT(lengths); j++) {
            for (uint32_t dense_below = 0; dense_below < 700; dense_below++) {
                const struct shape shape = {.page_tokens = sizes[i], .dense_below = dense_below};
                struct spin_kv_budget budget = make_budget(&shape);
                uint32_t most = 0;
                budget.layers = 1 + dense_below % LAYERS;
                for (uint32_t tokens = 1; tokens <= lengths[j]; tokens++) {
                    most = SPIN_MAX(most, spin_kv_claim_slabs(&budget, tokens));
                }
                assert_int_equal(spin_kv_longest_claim_slabs(&budget, lengths[j]), most);
            }
        }
    }
    const struct shape dense = {.page_tokens = 8, .dense_below = UINT32_MAX};
    const struct spin_kv_budget budget = make_budget(&dense);
    assert_int_equal(spin_kv_longest_claim_slabs(&budget, 8000), LAYERS * HEADS * 63);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_sequences),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_longest_claim),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
