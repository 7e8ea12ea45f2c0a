/* The fast Select against the reference on tables of shapes; choices that can be told by hand; and
 * that a list is its own row's doing alone. The formula is checked by kv_oracle_test.py. */
#include "tests/kernels/kv_fixture.h"

#define MEAN SPIN_SUMMARY_MEAN
#define BOUNDS SPIN_SUMMARY_BOUNDS
#define SEQUENCES_MAX 64u

typedef spin_status (*select_fn)(const struct spin_kv_select_args *args,
                                 struct spin_stream *stream);

static const select_fn versions[] = {spin_kv_select_ref, spin_kv_select_cpu};

/* A call on a fixture, with its own windows, queries and workspace. */
struct call {
    struct spin_kv_select_args args;
    struct spin_kv_window windows[SEQUENCES_MAX];
    struct test_matrix q;
    struct test_memory workspace;
};

static void call_create(struct call *call, const struct fixture *fixture)
{
    const struct spin_kv_layout *layout = &fixture->view.layout;
    memset(call, 0, sizeof *call);
    const uint32_t q_heads = layout->kv_heads * fixture->group;
    call->q = spin_test_matrix_create(fixture->batch.count, q_heads * layout->head_dim, 3);
    call->args = (struct spin_kv_select_args){.view = &fixture->view,
                                              .batch = fixture->batch,
                                              .lists = fixture->lists,
                                              .summary = fixture->summary,
                                              .q = call->q.view,
                                              .q_heads = q_heads,
                                              .scale = 1 / sqrtf((float)layout->head_dim),
                                              .windows = call->windows};
    call->workspace = spin_test_memory_create(spin_kv_select_workspace_bytes(&call->args));
    call->args.workspace = spin_test_memory_data(&call->workspace);
}

static void call_destroy(struct call *call)
{
    spin_test_matrix_destroy(&call->q);
    spin_test_memory_destroy(&call->workspace);
}

static void call_run(const struct call *call, select_fn select, uint32_t threads)
{
    struct spin_stream *stream = spin_test_stream(threads);
    SPIN_EXPECT_OK(select(&call->args, stream), NULL);
    spin_stream_destroy(stream);
}

static const uint16_t *list_of(const struct call *call, uint64_t row)
{
    return call->args.lists.pages + row * call->args.lists.stride;
}

/* The pages of `list` are exactly those in `wanted`, and nothing was written behind them. */
static void expect_list(const struct call *call, uint64_t row, const uint16_t *wanted,
                        uint32_t count)
{
    const uint16_t *list = list_of(call, row);
    assert_int_equal(call->args.lists.page_count[row], count);
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(list[i], wanted[i]);
    }
    for (uint32_t i = count; i < call->args.lists.stride; i++) {
        assert_int_equal(list[i], UINT16_MAX);
    }
}

/* Every sequence: a partition of sink, a few of window, `k` of the rest. */
static void set_windows(struct call *call, const struct fixture *fixture, uint32_t local,
                        uint32_t k)
{
    for (uint32_t s = 0; s < fixture->batch.count; s++) {
        const uint32_t sealed = spin_test_fixture_sealed(fixture, s);
        const uint32_t local_begin = sealed > local ? sealed - local : 0;
        call->windows[s] = (struct spin_kv_window){SPIN_MIN(1, local_begin), local_begin, k};
    }
}

/* ---- the fast one against the reference ---- */

/* One token, a page less one, full pages, one over, a segment and a block more or less. */
static const uint32_t tokens[] = {1, 7, 8, 9, 33, 47, 48, 49, 128, 1000, 4096, 4143, 4144, 5003};

static const struct fixture_config shapes[] = {
    {MEAN, 3, 3, 64, 8, 8, SPIN_ARRAY_COUNT(tokens), tokens},
    {MEAN, 2, 1, 128, 8, 8, SPIN_ARRAY_COUNT(tokens), tokens},
    {MEAN, 1, 5, 64, 8, 8, SPIN_ARRAY_COUNT(tokens), tokens},
    {MEAN, 1, 8, 40, 8, 8, SPIN_ARRAY_COUNT(tokens), tokens},
    {BOUNDS, 3, 3, 64, 8, 16, SPIN_ARRAY_COUNT(tokens), tokens},
    {BOUNDS, 2, 2, 128, 8, 16, SPIN_ARRAY_COUNT(tokens), tokens},
    {BOUNDS, 1, 7, 8, 32, 32, SPIN_ARRAY_COUNT(tokens), tokens},
};

static void compare_lists(const struct fixture_config *shape, uint32_t k, bool always_score,
                          uint64_t seed)
{
    struct spin_rng rng = {seed, k, 0};
    struct fixture fixture = spin_test_fixture_create(shape, &rng);
    struct fixture other = fixture;
    other.pages = spin_test_memory_create(fixture.pages.bytes);
    other.lists.pages = spin_test_memory_data(&other.pages);
    other.lists.page_count = calloc(4096, sizeof(uint32_t));
    spin_test_fixture_fill_summaries(&fixture, &rng);
    struct call ref;
    struct call cpu;
    call_create(&ref, &fixture);
    call_create(&cpu, &other);
    set_windows(&ref, &fixture, 4, k);
    set_windows(&cpu, &fixture, 4, k);
    spin_test_matrix_fill(&ref.q, &rng);
    memcpy(cpu.q.view.data, ref.q.view.data, ref.q.view.rows * ref.q.view.stride * sizeof(float));
    cpu.args.always_score = always_score;
    call_run(&ref, spin_kv_select_ref, 2);
    call_run(&cpu, spin_kv_select_cpu, 3);
    for (uint64_t r = 0; r < (uint64_t)fixture.batch.count * shape->kv_heads; r++) {
        expect_list(&cpu, r, list_of(&ref, r), ref.args.lists.page_count[r]);
        const uint32_t last = ref.args.lists.page_count[r] - 1;
        assert_int_equal(list_of(&ref, r)[last],
                         spin_test_fixture_pages(&fixture, (uint32_t)(r / shape->kv_heads)) - 1);
    }
    call_destroy(&ref);
    call_destroy(&cpu);
    spin_test_memory_destroy(&other.pages);
    free(other.lists.page_count);
    spin_test_fixture_destroy(&fixture);
}

/* Seeds are such that no two scores near the k-th are closer than F32 tells. */
static void test_fast_equals_reference(void **state)
{
    (void)state;
    static const uint32_t ks[] = {0, 1, 3, 16, 100, 100000};
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(shapes); i++) {
        for (uint64_t j = 0; j < SPIN_ARRAY_COUNT(ks); j++) {
            compare_lists(&shapes[i], ks[j], j % 2 == 1, 11 + i);
        }
    }
}

/* The variants for other processors, on a width that no vector divides, too: every score, bit by
 * bit, is still in the workspace. */
static void test_variants_agree(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(shapes); i++) {
        struct spin_rng rng = {17, i, 0};
        struct fixture fixture = spin_test_fixture_create(&shapes[i], &rng);
        spin_test_fixture_fill_summaries(&fixture, &rng);
        struct call call;
        struct call narrow;
        call_create(&call, &fixture);
        set_windows(&call, &fixture, 4, 16);
        spin_test_matrix_fill(&call.q, &rng);
        call_run(&call, spin_kv_select_cpu, 2);
        narrow = call;
        narrow.workspace = spin_test_memory_create(call.workspace.bytes);
        narrow.args.workspace = spin_test_memory_data(&narrow.workspace);
        struct spin_stream *stream = spin_test_stream(1);
        spin_stream_limit_isa(stream, SPIN_ISA_AVX2);
        SPIN_EXPECT_OK(spin_kv_select_cpu(&narrow.args, stream), NULL);
        spin_stream_destroy(stream);
        assert_memory_equal(narrow.args.workspace, call.args.workspace, call.workspace.bytes);
        spin_test_memory_destroy(&narrow.workspace);
        call_destroy(&call);
        spin_test_fixture_destroy(&fixture);
    }
}

/* ---- by hand ---- */

/* 24 partitions of 8 tokens and a begun one; candidates 1..19; two query heads, the first looks at
 * element 0 alone, the second at element 1. */
#define HAND_TOKENS 196u
#define HAND_PARTITIONS 24u

struct hand {
    struct fixture fixture;
    struct call call;
};

static void hand_create(struct hand *hand, uint32_t k)
{
    static const uint32_t length = HAND_TOKENS;
    const struct fixture_config config = {MEAN, 1, 2, 64, 8, 8, 1, &length};
    struct spin_rng rng = {5, 0, 0};
    hand->fixture = spin_test_fixture_create(&config, &rng);
    call_create(&hand->call, &hand->fixture);
    hand->call.windows[0] = (struct spin_kv_window){1, 20, k};
    hand->call.args.scale = 1;
    float *q = spin_test_row(&hand->call.q, 0);
    memset(q, 0, (uint64_t)2 * 64 * sizeof *q);
    q[0] = 1;
    q[64 + 1] = 1;
    for (uint32_t p = 0; p < HAND_PARTITIONS; p++) {
        memset(spin_test_fixture_summary(&hand->fixture, 0, p), 0, 64 * sizeof(uint16_t));
    }
}

static void hand_destroy(struct hand *hand)
{
    call_destroy(&hand->call);
    spin_test_fixture_destroy(&hand->fixture);
}

/* What the two heads see of a candidate. */
static void hand_set(const struct hand *hand, uint32_t partition, float first, float second)
{
    uint16_t *summary = spin_test_fixture_summary(&hand->fixture, 0, partition);
    summary[0] = spin_bf16_from_f32(first);
    summary[1] = spin_bf16_from_f32(second);
}

static void hand_expect(struct hand *hand, const uint16_t *chosen, uint32_t k)
{
    uint16_t wanted[HAND_PARTITIONS + 1] = {0};
    memcpy(wanted + 1, chosen, k * sizeof *chosen);
    for (uint16_t p = 20; p <= HAND_PARTITIONS; p++) {
        wanted[k + p - 19] = p;
    }
    for (uint64_t v = 0; v < SPIN_ARRAY_COUNT(versions); v++) {
        memset(spin_test_memory_data(&hand->fixture.pages), 0xff, hand->fixture.pages.bytes);
        call_run(&hand->call, versions[v], 1);
        expect_list(&hand->call, 0, wanted, k + 6);
    }
}

/* One head's favourite beats what both like a little: 0.6 and 0 against 0.4 and 0.4. */
static void test_group_takes_maximum(void **state)
{
    (void)state;
    struct hand hand;
    hand_create(&hand, 1);
    for (uint32_t p = 1; p < 20; p++) {
        hand_set(&hand, p, -20, -20);
    }
    hand_set(&hand, 5, logf(0.4F), logf(0.4F));
    hand_set(&hand, 9, logf(0.6F), -20);
    hand_set(&hand, 13, -20, logf(0.25F));
    hand_set(&hand, 14, -20, logf(0.35F));
    hand_expect(&hand, (const uint16_t[]){9}, 1);
    hand_destroy(&hand);
}

/* Heads are compared by their softmax: the second's scores are large and say nothing. */
static void test_heads_of_different_norms(void **state)
{
    (void)state;
    struct hand hand;
    hand_create(&hand, 2);
    for (uint32_t p = 1; p < 20; p++) {
        hand_set(&hand, p, 0, 1000);
    }
    hand_set(&hand, 7, 4, 1000);
    hand_set(&hand, 17, 3, 992);
    hand_expect(&hand, (const uint16_t[]){7, 17}, 2);
    hand_destroy(&hand);
}

static void test_equal_scores(void **state)
{
    (void)state;
    struct hand hand;
    hand_create(&hand, 5);
    hand_expect(&hand, (const uint16_t[]){1, 2, 3, 4, 5}, 5);
    hand_set(&hand, 12, 1, 1);
    hand_set(&hand, 18, 1, 1);
    hand_expect(&hand, (const uint16_t[]){1, 2, 3, 12, 18}, 5);
    /* Zeros of both signs are equal. */
    for (uint32_t p = 1; p < 20; p += 2) {
        hand_set(&hand, p, -0.0F, 0.0F);
    }
    hand_expect(&hand, (const uint16_t[]){1, 2, 3, 12, 18}, 5);
    hand_destroy(&hand);
}

/* Scores whose softmax is far below the smallest float keep their order; overflow to minus infinity
 * is the worst of all, and like any other. */
static void test_huge_scores(void **state)
{
    (void)state;
    struct hand hand;
    hand_create(&hand, 3);
    for (uint32_t p = 1; p < 20; p++) {
        hand_set(&hand, p, -3e38F, -3e38F);
    }
    hand_set(&hand, 19, 3e30F, 3e30F);
    hand_set(&hand, 4, 1e30F, 1e29F);
    hand_set(&hand, 8, 2e30F, 1e29F);
    hand_expect(&hand, (const uint16_t[]){4, 8, 19}, 3);
    spin_test_row(&hand.call.q, 0)[0] = 4;
    spin_test_row(&hand.call.q, 0)[65] = 4;
    hand_expect(&hand, (const uint16_t[]){4, 8, 19}, 3);
    hand.call.windows[0].k = 5;
    hand_expect(&hand, (const uint16_t[]){1, 2, 4, 8, 19}, 5);
    hand_destroy(&hand);
}

/* One segment's scores are all minus infinity in F32, to the first query head alone or, with
 * `both`, to each; where there is no other score, candidates are alike. */
static void check_segment_below_f32(uint32_t candidates, bool both)
{
    static const uint32_t length = 1024 * 8 + 1;
    const struct fixture_config config = {MEAN, 1, 2, 64, 8, 8, 1, &length};
    struct spin_rng rng = {candidates, both, 0};
    struct fixture fixture = spin_test_fixture_create(&config, &rng);
    struct call call;
    spin_test_fixture_fill_summaries(&fixture, &rng);
    call_create(&call, &fixture);
    call.windows[0] = (struct spin_kv_window){0, candidates, 20};
    spin_test_matrix_fill(&call.q, &rng);
    spin_test_row(&call.q, 0)[0] = 64;
    spin_test_row(&call.q, 0)[64] = both ? 64 : 0;
    for (uint32_t p = 0; p < 512; p++) {
        spin_test_fixture_summary(&fixture, 0, p)[0] = spin_bf16_from_f32(-3e38F);
    }
    call_run(&call, spin_kv_select_ref, 1);
    uint16_t wanted[20 + 1025];
    const uint32_t count = fixture.lists.page_count[0];
    memcpy(wanted, list_of(&call, 0), count * sizeof *wanted);
    memset(spin_test_memory_data(&fixture.pages), 0xff, fixture.pages.bytes);
    call_run(&call, spin_kv_select_cpu, 2);
    if (candidates > 512 || !both) {
        expect_list(&call, 0, wanted, count);
    } else {
        assert_int_equal(list_of(&call, 0)[19], 19);
        assert_int_equal(list_of(&call, 0)[20], candidates);
    }
    call_destroy(&call);
    spin_test_fixture_destroy(&fixture);
}

static void test_segment_below_f32(void **state)
{
    (void)state;
    check_segment_below_f32(1024, false);
    check_segment_below_f32(1024, true);
    check_segment_below_f32(512, false);
    check_segment_below_f32(512, true);
}

static void run_select_ref(void *argument)
{
    call_run(argument, spin_kv_select_ref, 1);
}

/* The newest token's partition is not indexed when a step selects, even if this token completes
 * it. */
static void test_newest_partition_is_no_candidate(void **state)
{
    (void)state;
    static const uint32_t length = 32;
    const struct fixture_config config = {MEAN, 1, 2, 64, 32, 32, 1, &length};
    struct spin_rng rng = {7, 0, 0};
    struct fixture fixture = spin_test_fixture_create(&config, &rng);
    struct call call;
    call_create(&call, &fixture);
    call.windows[0] = (struct spin_kv_window){0, 1, 3};
    assert_true(spin_test_dies(run_select_ref, &call, "local_begin"));
    call_destroy(&call);
    spin_test_fixture_destroy(&fixture);
}

/* The windows' edges: nothing but them, everything, and no score where none is needed. */
static void test_windows(void **state)
{
    (void)state;
    struct hand hand;
    hand_create(&hand, 0);
    hand_expect(&hand, (const uint16_t[]){0}, 0);
    hand_set(&hand, 10, NAN, NAN); /* not looked at */
    uint16_t all[19];
    for (uint16_t p = 0; p < 19; p++) {
        all[p] = (uint16_t)(p + 1);
    }
    hand.call.windows[0].k = 19;
    hand_expect(&hand, all, 19);
    hand.call.windows[0].k = UINT32_MAX;
    hand_expect(&hand, all, 19);
    hand.call.windows[0] = (struct spin_kv_window){20, 20, 3};
    hand_expect(&hand, all, 19);
    hand.call.windows[0] = (struct spin_kv_window){0, 0, 3};
    hand_expect(&hand, all, 19);
    hand_set(&hand, 10, 0, 0);
    hand.call.windows[0] = (struct spin_kv_window){1, 20, 19};
    hand.call.args.always_score = true;
    hand_expect(&hand, all, 19);
    hand_destroy(&hand);
}

static void run_version(void *argument)
{
    const struct hand *hand = argument;
    call_run(&hand->call, hand->call.args.always_score ? spin_kv_select_cpu : spin_kv_select_ref,
             1);
}

static void test_nan_dies(void **state)
{
    (void)state;
    struct hand hand;
    hand_create(&hand, 3);
    hand_set(&hand, 10, NAN, 0);
    assert_true(spin_test_dies(run_version, &hand, "nan"));
    hand.call.args.always_score = true;
    assert_true(spin_test_dies(run_version, &hand, "nan"));
    hand_destroy(&hand);
}

/* ---- row invariance ---- */

/* The same sequence alone, among 7 and among 64, in every place, on 1 to 3 threads. */
static void test_neighbours_change_nothing(void **state)
{
    (void)state;
    uint32_t lengths[SEQUENCES_MAX];
    for (uint32_t s = 0; s < SEQUENCES_MAX; s++) {
        lengths[s] = s % 7 == 3 ? 5 + s : 4500 + 13 * s;
    }
    const struct fixture_config shape = {MEAN, 1, 3, 64, 8, 8, SEQUENCES_MAX, lengths};
    struct spin_rng rng = {21, 0, 0};
    struct fixture fixture = spin_test_fixture_create(&shape, &rng);
    spin_test_fixture_fill_summaries(&fixture, &rng);
    struct call call;
    call_create(&call, &fixture);
    set_windows(&call, &fixture, 4, 32);
    spin_test_matrix_fill(&call.q, &rng);
    call_run(&call, spin_kv_select_cpu, 3);
    const uint64_t bytes = fixture.pages.bytes;
    uint16_t *wanted = malloc(bytes);
    assert_non_null(wanted);
    memcpy(wanted, fixture.lists.pages, bytes);
    static const uint32_t sizes[] = {1, 7};
    for (uint32_t i = 0; i < 2; i++) {
        for (uint32_t first = 0; first + sizes[i] <= SEQUENCES_MAX; first += sizes[i]) {
            struct spin_kv_select_args args = call.args;
            args.batch.count = sizes[i];
            args.batch.sequence += first;
            args.batch.tokens += first;
            args.windows += first;
            args.q = spin_test_rows(&call.q, first, sizes[i]);
            args.lists.pages += (uint64_t)first * args.lists.stride;
            args.lists.page_count += first;
            memset(args.lists.pages, 0xff, (uint64_t)sizes[i] * args.lists.stride * 2);
            struct spin_stream *stream = spin_test_stream(1 + first % 3);
            SPIN_EXPECT_OK(spin_kv_select_cpu(&args, stream), NULL);
            spin_stream_destroy(stream);
        }
        assert_memory_equal(fixture.lists.pages, wanted, bytes);
    }
    free(wanted);
    call_destroy(&call);
    spin_test_fixture_destroy(&fixture);
}

/* kv_select_test [NAME]: all tests, or the one of that name. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fast_equals_reference),
        cmocka_unit_test(test_variants_agree),
        cmocka_unit_test(test_group_takes_maximum),
        cmocka_unit_test(test_heads_of_different_norms),
        cmocka_unit_test(test_equal_scores),
        cmocka_unit_test(test_huge_scores),
        cmocka_unit_test(test_segment_below_f32),
        cmocka_unit_test(test_newest_partition_is_no_candidate),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_nan_dies),
        cmocka_unit_test(test_neighbours_change_nothing),
    };
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
