/* Method: windows against tables worked out by hand from the papers' rules; the number of pages of
 * a step against a set of tokens filled by those rules, for every length up to some thousands; and
 * that a row's room never falls below what a shorter sparse context needed. */
#include "tests/spin_test.h"
#include "worker/sparse/sparse.h"

#define LENGTH_MAX 6000u
#define OTHER_LAYER 2u /* no algorithm's first layers */

struct case_of_window {
    uint32_t budget_tokens;
    uint32_t tokens;
    struct spin_kv_window window;
};

static void expect_windows(const struct spin_sparse_algorithm *algorithm,
                           const struct case_of_window *cases, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct spin_sparse_options options = spin_sparse_options_default();
        options.algorithm = algorithm;
        options.budget_tokens = cases[i].budget_tokens;
        const struct spin_kv_window wanted = cases[i].window;
        const struct spin_kv_window got = algorithm->window(&options, cases[i].tokens);
        if (got.sink_end != wanted.sink_end || got.local_begin != wanted.local_begin ||
            got.k != wanted.k) {
            fail_msg("%s, %u tokens: [0, %u) [%u, end) and %u, wanted [0, %u) [%u, end) and %u",
                     algorithm->name, cases[i].tokens, got.sink_end, got.local_begin, got.k,
                     wanted.sink_end, wanted.local_begin, wanted.k);
        }
    }
}

/* Chunks of 8; the last four whole ones and the tail are local; chunk 0 is kept as soon as it is
 * not local; a budget of 1/64 of the context, at least 256 tokens. */
static void test_shadowkv_windows(void **state)
{
    (void)state;
    const struct case_of_window cases[] = {
        {0, 1, {0, 0, 32}},           /* the shortest step */
        {0, 7, {0, 0, 32}},           /* no whole chunk */
        {0, 8, {0, 0, 32}},           /* exactly one */
        {0, 9, {0, 0, 32}},           /* one over */
        {0, 39, {0, 0, 32}},          /* four whole chunks: all local */
        {0, 40, {1, 1, 32}},          /* five: chunk 0 is the sink, and no candidate */
        {0, 47, {1, 1, 32}},          /* a long tail */
        {0, 48, {1, 2, 32}},          /* the first candidate */
        {0, 4096, {1, 508, 32}},      /* the shortest sparse step by default */
        {0, 16384, {1, 2044, 32}},    /* 1/64 is 256 tokens */
        {0, 16385, {1, 2044, 32}},    /* 257 tokens are 32 chunks */
        {0, 16833, {1, 2100, 33}},    /* ceil(n / 64) = 264 */
        {0, 16832, {1, 2100, 32}},    /* 263 */
        {0, 131072, {1, 16380, 256}}, /* 1.56 % of 128K */
        {64, 4096, {1, 508, 8}},      /* a budget by hand */
        {71, 4096, {1, 508, 8}},      /* of whole chunks */
        {9000, 4096, {1, 508, 1125}}, /* more than there is */
    };
    expect_windows(&spin_sparse_shadowkv, cases, SPIN_ARRAY_COUNT(cases));
}

/* Partitions of 16; the newest token's is taken and counts in the budget, 1024 by default. */
static void test_quest_windows(void **state)
{
    (void)state;
    const struct case_of_window cases[] = {
        {0, 1, {0, 0, 63}},        /* the shortest step */
        {0, 16, {0, 0, 63}},       /* exactly one: it holds the newest token */
        {0, 17, {0, 1, 63}},       /* one over */
        {0, 32, {0, 1, 63}},       /* */
        {0, 33, {0, 2, 63}},       /* */
        {0, 1024, {0, 63, 63}},    /* the budget is the context */
        {0, 1025, {0, 64, 63}},    /* the first that leaves a partition out */
        {0, 4096, {0, 255, 63}},   /* the shortest sparse step by default */
        {256, 4096, {0, 255, 15}}, /* */
        {16, 4096, {0, 255, 0}},   /* nothing but the newest */
    };
    expect_windows(&spin_sparse_quest, cases, SPIN_ARRAY_COUNT(cases));
}

static void test_dense_takes_everything(void **state)
{
    (void)state;
    const struct case_of_window cases[] = {
        {0, 1, {0, 0, 0}}, {0, 32, {0, 0, 0}}, {0, 33, {0, 0, 0}}, {0, 131072, {0, 0, 0}}};
    expect_windows(&spin_sparse_dense, cases, SPIN_ARRAY_COUNT(cases));
}

/* ---- pages of a step, from the rules again: tokens are marked, marked pages counted ---- */

/* Any `choose` of the partitions not taken: which ones makes no difference to how many pages. */
static uint32_t marked_pages(bool *partition_taken, uint32_t partitions, uint32_t choose,
                             const uint32_t tokens_of[2], uint32_t tokens)
{
    const uint32_t partition_tokens = tokens_of[0];
    const uint32_t page_tokens = tokens_of[1];
    for (uint32_t c = 0; c < partitions && choose > 0; c++) {
        choose -= partition_taken[c] ? 0 : 1;
        partition_taken[c] = true;
    }
    uint32_t pages = 0;
    for (uint32_t begin = 0; begin < tokens; begin += page_tokens) {
        pages += partition_taken[begin / partition_tokens] ? 1 : 0;
    }
    return pages;
}

static uint32_t pages_by_rule(const struct spin_sparse_algorithm *algorithm, uint32_t budget,
                              uint32_t tokens)
{
    static bool taken[LENGTH_MAX / 8 + 1];
    memset(taken, 0, sizeof taken);
    if (algorithm == &spin_sparse_quest) {
        taken[(tokens - 1) / 16] = true;
        const uint32_t of[2] = {16, 8};
        return marked_pages(taken, (tokens + 15) / 16, budget / 16 - 1, of, tokens);
    }
    taken[0] = true;
    for (uint32_t t = 0; t < tokens; t++) {
        taken[t / 8] |= t / 8 + 4 >= tokens / 8;
    }
    const uint32_t of[2] = {8, 8};
    return marked_pages(taken, (tokens + 7) / 8, budget / 8, of, tokens);
}

static void expect_room(const struct spin_sparse_algorithm *algorithm, uint32_t budget,
                        uint32_t min_context)
{
    struct spin_sparse_options options = spin_sparse_options_default();
    options.algorithm = algorithm;
    options.budget_tokens = budget;
    options.min_context = min_context;
    uint32_t most = 0;
    for (uint32_t tokens = 1; tokens <= LENGTH_MAX; tokens++) {
        const uint32_t room = spin_sparse_mandatory(&options, OTHER_LAYER, tokens);
        const uint32_t all = (tokens + 7) / 8;
        if (tokens < min_context) {
            assert_int_equal(room, all);
            continue;
        }
        most = SPIN_MAX(most, pages_by_rule(algorithm, budget, tokens));
        if (room != most) {
            fail_msg("%s, budget %u, %u tokens: room for %u pages, steps need %u", algorithm->name,
                     budget, tokens, room, most);
        }
    }
}

static void test_room_covers_every_step(void **state)
{
    (void)state;
    const uint32_t budgets[] = {16, 64, 256, 1000, 8000};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(budgets); i++) {
        expect_room(&spin_sparse_shadowkv, budgets[i], 1);
        expect_room(&spin_sparse_quest, budgets[i], 1);
        expect_room(&spin_sparse_shadowkv, budgets[i], 4096);
        expect_room(&spin_sparse_quest, budgets[i], 4096);
    }
}

static void test_room_of_dense_layers(void **state)
{
    (void)state;
    struct spin_sparse_options options = spin_sparse_options_default();
    assert_int_equal(spin_sparse_mandatory(&options, 0, 0), 0);
    assert_int_equal(spin_sparse_mandatory(&options, 0, 1), 1);
    assert_int_equal(spin_sparse_mandatory(&options, 0, 32), 1);
    assert_int_equal(spin_sparse_mandatory(&options, 7, 33), 2);
    options.algorithm = &spin_sparse_quest;
    assert_int_equal(spin_sparse_mandatory(&options, 0, 8192), 1024);
    assert_int_equal(spin_sparse_mandatory(&options, 1, 8192), 1024);
    assert_int_equal(spin_sparse_mandatory(&options, 2, 8192), 128);
    options.verify = true;
    assert_int_equal(spin_sparse_mandatory(&options, 2, 8192), 1024);
    assert_int_equal(spin_sparse_mandatory(&options, 2, 17), 3);
    options.algorithm = &spin_sparse_shadowkv;
    assert_int_equal(spin_sparse_mandatory(&options, 0, 8192), 1024);
}

static void test_list(void **state)
{
    (void)state;
    const char *const names[] = {"dense", "quest", "shadowkv"};
    assert_int_equal(spin_sparse_algorithm_count, SPIN_ARRAY_COUNT(names));
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(names); i++) {
        assert_string_equal(spin_sparse_algorithms[i]->name, names[i]);
        assert_ptr_equal(spin_sparse_find(names[i]), spin_sparse_algorithms[i]);
    }
    assert_null(spin_sparse_find("Quest"));
    assert_null(spin_sparse_find(""));
    assert_ptr_equal(spin_sparse_options_default().algorithm, &spin_sparse_dense);
    assert_int_equal(spin_sparse_options_default().min_context, 4096);
}

static void test_fills_the_managers_fields(void **state)
{
    (void)state;
    const struct {
        const struct spin_sparse_algorithm *algorithm;
        uint32_t page_tokens;
        uint32_t partition_tokens;
        uint32_t summary_bytes; /* at a head of 64 */
    } cases[] = {{&spin_sparse_dense, 32, 32, 0},
                 {&spin_sparse_quest, 8, 16, 256},
                 {&spin_sparse_shadowkv, 8, 8, 128}};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(cases); i++) {
        struct spin_sparse_options options = spin_sparse_options_default();
        options.algorithm = cases[i].algorithm;
        struct spin_kv_config config = {.layout = {.head_dim = 64}};
        spin_sparse_fill_kv_config(&options, &config);
        assert_int_equal(config.page_tokens, cases[i].page_tokens);
        assert_int_equal(config.partition_tokens, cases[i].partition_tokens);
        assert_int_equal(config.summary_bytes, cases[i].summary_bytes);
        assert_ptr_equal(config.demand.context, &options);
        assert_int_equal(config.demand.mandatory(&options, 0, 1), 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shadowkv_windows),
        cmocka_unit_test(test_quest_windows),
        cmocka_unit_test(test_dense_takes_everything),
        cmocka_unit_test(test_room_covers_every_step),
        cmocka_unit_test(test_room_of_dense_layers),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_fills_the_managers_fields),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
