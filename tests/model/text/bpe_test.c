/* Merging against the rule as it is written: look at all pairs, merge the leftmost of lowest rank,
 * start again. Random merges over three letters, pieces on both sides of the border between scan
 * and heap. */
#include "model/text/bpe.h"

#include "base/rng.h"
#include "tests/spin_test.h"

#define LETTERS 95u /* a vocabulary must have printable ASCII */
#define TOKENS_MAX 400u
#define PIECE_MAX 300u

struct fixture {
    struct spin_arena *arena;
    struct spin_token_row rows[TOKENS_MAX];
    char texts[TOKENS_MAX][64];
    uint32_t count;
    struct spin_merge_row merges[TOKENS_MAX];
    uint32_t merge_ids[TOKENS_MAX][3]; /* left, right, merged */
    uint32_t merge_count;
    struct spin_vocab vocab;
    struct spin_bpe bpe;
};

static uint32_t find_text(const struct fixture *fixture, const char *text)
{
    for (uint32_t i = 0; i < fixture->count; i++) {
        if (strcmp(fixture->texts[i], text) == 0) {
            return i;
        }
    }
    return TOKENS_MAX;
}

static void add_token(struct fixture *fixture, const char *text)
{
    char *copy = fixture->texts[fixture->count];
    (void)snprintf(copy, sizeof fixture->texts[0], "%s", text);
    fixture->rows[fixture->count++] =
        (struct spin_token_row){.text = {copy, strlen(copy)}, .kind = SPIN_TOKEN_NORMAL};
}

/* The ranks are in random order: a merge can come before the merges that make its parts. */
static void add_merges(struct fixture *fixture, struct spin_rng *rng, uint32_t count)
{
    for (uint32_t tries = 0; tries < 20 * count && fixture->merge_count < count; tries++) {
        const uint32_t pool = 3 + fixture->count - LETTERS; /* a, b, c and what was merged */
        const uint32_t pick[2] = {spin_rng_below(rng, pool), spin_rng_below(rng, pool)};
        uint32_t ids[2];
        for (uint32_t k = 0; k < 2; k++) {
            ids[k] = pick[k] < 3 ? 'a' - 0x20 + pick[k] : LETTERS + pick[k] - 3;
        }
        char joined[128];
        (void)snprintf(joined, sizeof joined, "%s%s", fixture->texts[ids[0]],
                       fixture->texts[ids[1]]);
        if (strlen(joined) > 40) {
            continue;
        }
        if (find_text(fixture, joined) == TOKENS_MAX) {
            add_token(fixture, joined);
        }
        const uint32_t index = fixture->merge_count++;
        fixture->merges[index] =
            (struct spin_merge_row){fixture->rows[ids[0]].text, fixture->rows[ids[1]].text};
        fixture->merge_ids[index][0] = ids[0];
        fixture->merge_ids[index][1] = ids[1];
        fixture->merge_ids[index][2] = find_text(fixture, joined);
    }
}

static void shuffle(struct fixture *fixture, struct spin_rng *rng)
{
    for (uint32_t i = fixture->merge_count; i > 1; i--) {
        const uint32_t k = spin_rng_below(rng, i);
        const struct spin_merge_row row = fixture->merges[i - 1];
        fixture->merges[i - 1] = fixture->merges[k];
        fixture->merges[k] = row;
        for (uint32_t part = 0; part < 3; part++) {
            const uint32_t id = fixture->merge_ids[i - 1][part];
            fixture->merge_ids[i - 1][part] = fixture->merge_ids[k][part];
            fixture->merge_ids[k][part] = id;
        }
    }
}

static void fixture_init(struct fixture *fixture, struct spin_rng *rng, uint32_t merges)
{
    struct spin_error err;
    memset(fixture, 0, sizeof *fixture);
    for (uint32_t i = 0; i < LETTERS; i++) {
        /* The byte alphabet spells the space as U+0120. */
        const char letter[2] = {(char)(0x20 + i), '\0'};
        add_token(fixture, i == 0 ? "\xC4\xA0" : letter);
    }
    add_merges(fixture, rng, merges);
    shuffle(fixture, rng);
    SPIN_EXPECT_OK(spin_arena_create(1 << 16, 1 << 26, &fixture->arena, &err), &err);
    SPIN_EXPECT_OK(
        spin_vocab_build(fixture->rows, fixture->count, fixture->arena, &fixture->vocab, &err),
        &err);
    fixture->bpe.unknown = -1;
    SPIN_EXPECT_OK(spin_bpe_build(&(struct spin_merge_list){fixture->merges, fixture->merge_count},
                                  &fixture->vocab, fixture->arena, &fixture->bpe, &err),
                   &err);
}

/* The last of equal pairs counts, as in the package. */
static uint32_t rank_of(const struct fixture *fixture, int32_t left, int32_t right)
{
    for (uint32_t i = fixture->merge_count; i > 0; i--) {
        if (fixture->merge_ids[i - 1][0] == (uint32_t)left &&
            fixture->merge_ids[i - 1][1] == (uint32_t)right) {
            return i - 1;
        }
    }
    return UINT32_MAX;
}

static uint32_t naive(const struct fixture *fixture, int32_t *ids, uint32_t count)
{
    for (;;) {
        uint32_t best = UINT32_MAX;
        uint32_t place = 0;
        for (uint32_t i = 0; i + 1 < count; i++) {
            const uint32_t rank = rank_of(fixture, ids[i], ids[i + 1]);
            if (rank < best) {
                best = rank;
                place = i;
            }
        }
        if (best == UINT32_MAX) {
            return count;
        }
        ids[place] = (int32_t)fixture->merge_ids[best][2];
        memmove(ids + place + 1, ids + place + 2, (count - place - 2) * sizeof *ids);
        count--;
    }
}

static void compare_piece(struct fixture *fixture, struct spin_bpe_workspace *workspace,
                          const char *piece, uint32_t bytes)
{
    int32_t wanted[PIECE_MAX];
    int32_t got[PIECE_MAX];
    for (uint32_t i = 0; i < bytes; i++) {
        wanted[i] = piece[i] - 0x20;
    }
    const uint32_t count = naive(fixture, wanted, bytes);
    struct spin_token_sink sink = {got, PIECE_MAX, 0};
    SPIN_EXPECT_OK(spin_bpe_encode(&fixture->bpe, &fixture->vocab,
                                   (struct spin_string){piece, bytes}, workspace, &sink),
                   NULL);
    assert_int_equal(sink.count, count);
    assert_memory_equal(got, wanted, count * sizeof *got);
}

static void test_merging_follows_the_rule(void **state)
{
    (void)state;
    static struct fixture fixture;
    struct spin_rng rng = {.seed = 20};
    for (uint32_t round = 0; round < 12; round++) {
        fixture_init(&fixture, &rng, 5 + 15 * round);
        struct spin_bpe_workspace workspace = {.arena = fixture.arena};
        for (uint32_t i = 0; i < 60; i++) {
            char piece[PIECE_MAX];
            const uint32_t bytes = 1 + spin_rng_below(&rng, i % 4 == 0 ? PIECE_MAX : 60);
            const uint32_t letters = 1 + spin_rng_below(&rng, 3);
            for (uint32_t k = 0; k < bytes; k++) {
                piece[k] = (char)('a' + (int)spin_rng_below(&rng, letters));
            }
            compare_piece(&fixture, &workspace, piece, bytes);
        }
        spin_arena_destroy(fixture.arena);
    }
}

static void test_merges_must_be_of_the_vocabulary(void **state)
{
    (void)state;
    static struct fixture fixture;
    struct spin_rng rng = {.seed = 3};
    struct spin_error err;
    fixture_init(&fixture, &rng, 2);
    const struct spin_merge_row bad[] = {
        {{"Z", 1}, {"Q", 1}}, {{"", 0}, {"a", 1}}, {{"a", 1}, {" ", 1}}, {{"\xFF", 1}, {"a", 1}}};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(bad); i++) {
        struct spin_bpe bpe = {0};
        SPIN_EXPECT_STATUS(spin_bpe_build(&(struct spin_merge_list){&bad[i], 1}, &fixture.vocab,
                                          fixture.arena, &bpe, &err),
                           SPIN_ERR_CORRUPT);
        assert_non_null(strstr(err.text, "merge 0"));
    }
    spin_arena_destroy(fixture.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merging_follows_the_rule),
        cmocka_unit_test(test_merges_must_be_of_the_vocabulary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
