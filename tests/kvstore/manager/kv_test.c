/* Method: random opens, reservations and closes, compared after each with a naive model that keeps
 * sets of blocks; lists are checked by writing a mark through every slot and reading it back by
 * arithmetic on the layout alone. */
#include "kvstore/manager/kv.h"

#include "base/rng.h"
#include "tests/spin_test.h"

#define OPERATIONS 100000
#define SEQUENCES 6u
#define TOKENS_MAX 1000u

struct fixture {
    struct spin_stream *stream;
    struct spin_kv *kv;
    struct spin_kv_config config;
};

static struct spin_kv_config make_config(uint32_t page_tokens, uint32_t blocks)
{
    struct spin_kv_config config = {
        .layout = {.layers = 3, .kv_heads = 2, .head_dim = 16, .dtype = SPIN_KV_BF16},
        .sequences_max = SEQUENCES,
        .tokens_max = TOKENS_MAX,
        .page_tokens = page_tokens,
    };
    config.pool_bytes = blocks * spin_block_bytes(&config.layout) + 77; /* not a whole block */
    return config;
}

static void set_up(struct fixture *fixture, uint32_t page_tokens, uint32_t blocks)
{
    struct spin_error err;
    fixture->config = make_config(page_tokens, blocks);
    SPIN_EXPECT_OK(spin_stream_create_cpu(1, &fixture->stream, &err), &err);
    SPIN_EXPECT_OK(spin_kv_create(&fixture->config, fixture->stream, &fixture->kv, &err), &err);
}

static void tear_down(struct fixture *fixture)
{
    spin_kv_destroy(fixture->kv);
    spin_stream_destroy(fixture->stream);
}

struct naive {
    bool open;
    uint32_t tokens;
    spin_kv_seq seq;
};

static uint32_t naive_blocks(const struct naive *all)
{
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        blocks += all[i].open ? (all[i].tokens + 127) / 128 : 0;
    }
    return blocks;
}

static uint32_t *first_word(const struct fixture *fixture, const struct spin_page_lists *lists,
                            uint64_t entry)
{
    const uint64_t page_bytes = spin_page_bytes(&fixture->config.layout, lists->page_tokens);
    return (uint32_t *)(void *)(lists->pool + lists->slots[entry] * page_bytes);
}

/* A different mark per (sequence, layer, head, page): `write` puts it there, else it must be there.
 * A slot that two lists share would lose one of its marks. */
static void mark_pages(const struct fixture *fixture, const struct naive *all, bool write)
{
    spin_kv_seq seqs[SEQUENCES];
    uint32_t visible[SEQUENCES];
    uint32_t count = 0;
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        if (all[i].open && all[i].tokens > 0) {
            seqs[count] = all[i].seq;
            visible[count++] = all[i].tokens;
        }
    }
    if (count == 0) {
        return;
    }
    const uint32_t heads = fixture->config.layout.kv_heads;
    spin_kv_plan(fixture->kv, seqs, visible, count);
    for (uint32_t layer = 0; layer < fixture->config.layout.layers; layer++) {
        const struct spin_page_lists lists = spin_kv_layer(fixture->kv, layer);
        for (uint32_t row = 0; row < count * heads; row++) {
            assert_int_equal(lists.visible[row], visible[row / heads]);
            const uint32_t pages =
                (visible[row / heads] + lists.page_tokens - 1) / lists.page_tokens;
            for (uint32_t page = 0; page < pages; page++) {
                const uint32_t mark =
                    ((seqs[row / heads].v * 64 + layer) * 64 + row % heads) * 1024 + page;
                uint32_t *word = first_word(fixture, &lists, lists.row_offset[row] + page);
                if (write) {
                    *word = mark;
                }
                assert_int_equal(*word, mark);
            }
        }
    }
}

static void act(struct fixture *fixture, struct naive *all, struct spin_rng *rng)
{
    struct naive *one = &all[spin_rng_below(rng, SEQUENCES)];
    struct spin_kv_stats stats;
    if (!one->open) {
        SPIN_EXPECT_OK(spin_kv_open(fixture->kv, &one->seq), NULL);
        *one = (struct naive){.open = true, .tokens = 0, .seq = one->seq};
    } else if (spin_rng_below(rng, 5) == 0) {
        spin_kv_close(fixture->kv, one->seq);
        one->open = false;
    } else {
        const uint32_t tokens = spin_rng_below(rng, TOKENS_MAX + 20);
        spin_kv_get_stats(fixture->kv, &stats);
        const uint32_t held = (one->tokens + 127) / 128;
        const uint32_t needed = (tokens + 127) / 128;
        const bool fits = needed <= held || needed - held <= stats.blocks_free;
        const spin_status status = spin_kv_reserve(fixture->kv, one->seq, tokens);
        if (tokens > TOKENS_MAX) {
            assert_int_equal(status, SPIN_ERR_LIMIT);
        } else {
            assert_int_equal(status, fits ? SPIN_OK : SPIN_ERR_AGAIN);
        }
        if (status == SPIN_OK && tokens > one->tokens) {
            one->tokens = tokens;
        }
    }
    spin_kv_get_stats(fixture->kv, &stats);
    assert_int_equal(stats.blocks - stats.blocks_free, naive_blocks(all));
}

static void random_operations(uint32_t page_tokens)
{
    struct fixture fixture;
    set_up(&fixture, page_tokens, 20);
    struct naive all[SEQUENCES] = {0};
    struct spin_rng rng = {.seed = page_tokens, .stream = 0, .counter = 0};
    for (int i = 0; i < OPERATIONS; i++) {
        act(&fixture, all, &rng);
        if (i % 64 == 0) {
            mark_pages(&fixture, all, true);
            mark_pages(&fixture, all, false);
        }
    }
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        if (all[i].open) {
            spin_kv_close(fixture.kv, all[i].seq);
        }
    }
    struct spin_kv_stats stats;
    spin_kv_get_stats(fixture.kv, &stats);
    assert_int_equal(stats.blocks, 20);
    assert_int_equal(stats.blocks_free, 20);
    assert_int_equal(stats.sequences_open, 0);
    tear_down(&fixture);
}

static void test_random_short_pages(void **state)
{
    (void)state;
    random_operations(8);
}

static void test_random_long_pages(void **state)
{
    (void)state;
    random_operations(32);
}

/* D20: the bytes of four 8-token pages are the bytes of one 32-token page, so the two lists of a
 * block name the same bytes in the same order. */
static void test_page_sizes_share_bytes(void **state)
{
    (void)state;
    struct fixture small;
    struct fixture large;
    set_up(&small, 8, 8);
    set_up(&large, 32, 8);
    struct fixture *both[2] = {&small, &large};
    for (int i = 0; i < 2; i++) {
        spin_kv_seq seq;
        const uint32_t visible = 300;
        SPIN_EXPECT_OK(spin_kv_open(both[i]->kv, &seq), NULL);
        SPIN_EXPECT_OK(spin_kv_reserve(both[i]->kv, seq, visible), NULL);
        spin_kv_plan(both[i]->kv, &seq, &visible, 1);
    }
    for (uint32_t layer = 0; layer < 3; layer++) {
        const struct spin_page_lists s = spin_kv_layer(small.kv, layer);
        const struct spin_page_lists l = spin_kv_layer(large.kv, layer);
        for (uint32_t row = 0; row < 2; row++) {
            for (uint32_t tile = 0; tile < 300 / 8; tile++) {
                const uint64_t tile_bytes = spin_tile_bytes(&small.config.layout);
                const uint64_t in_small = s.slots[s.row_offset[row] + tile] * tile_bytes;
                const uint64_t in_large =
                    (uint64_t)l.slots[l.row_offset[row] + tile / 4] * 4 * tile_bytes +
                    tile % 4 * tile_bytes;
                assert_int_equal(in_small, in_large);
            }
        }
    }
    spin_kv_close(small.kv, (spin_kv_seq){0});
    spin_kv_close(large.kv, (spin_kv_seq){0});
    tear_down(&small);
    tear_down(&large);
}

static void test_sequences_run_out(void **state)
{
    (void)state;
    struct fixture fixture;
    set_up(&fixture, 8, 8);
    spin_kv_seq seqs[SEQUENCES];
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        SPIN_EXPECT_OK(spin_kv_open(fixture.kv, &seqs[i]), NULL);
    }
    spin_kv_seq more = {77};
    SPIN_EXPECT_STATUS(spin_kv_open(fixture.kv, &more), SPIN_ERR_AGAIN);
    assert_int_equal(more.v, 77);
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        spin_kv_close(fixture.kv, seqs[i]);
    }
    tear_down(&fixture);
}

static void test_refused_reserve_changes_nothing(void **state)
{
    (void)state;
    struct fixture fixture;
    set_up(&fixture, 8, 8);
    spin_kv_seq a;
    spin_kv_seq b;
    SPIN_EXPECT_OK(spin_kv_open(fixture.kv, &a), NULL);
    SPIN_EXPECT_OK(spin_kv_open(fixture.kv, &b), NULL);
    SPIN_EXPECT_OK(spin_kv_reserve(fixture.kv, a, 6 * 128), NULL);
    SPIN_EXPECT_STATUS(spin_kv_reserve(fixture.kv, b, 3 * 128), SPIN_ERR_AGAIN);
    struct spin_kv_stats stats;
    spin_kv_get_stats(fixture.kv, &stats);
    assert_int_equal(stats.blocks_free, 2);
    SPIN_EXPECT_OK(spin_kv_reserve(fixture.kv, b, 2 * 128), NULL);
    spin_kv_close(fixture.kv, a);
    spin_kv_close(fixture.kv, b);
    tear_down(&fixture);
}

static void test_poison_fills_released_blocks(void **state)
{
    (void)state;
    struct fixture fixture;
    set_up(&fixture, 8, 8);
    spin_kv_set_poison(fixture.kv, true);
    spin_kv_seq seq;
    const uint32_t visible = 128;
    SPIN_EXPECT_OK(spin_kv_open(fixture.kv, &seq), NULL);
    SPIN_EXPECT_OK(spin_kv_reserve(fixture.kv, seq, visible), NULL);
    spin_kv_plan(fixture.kv, &seq, &visible, 1);
    const struct spin_page_lists lists = spin_kv_layer(fixture.kv, 2);
    uint16_t *value = (uint16_t *)(void *)first_word(&fixture, &lists, lists.row_offset[1]);
    *value = 0x3F80; /* 1.0 */
    spin_kv_close(fixture.kv, seq);
    assert_int_equal(*value & 0x7F80, 0x7F80); /* exponent of NaN ... */
    assert_int_not_equal(*value & 0x7F, 0);    /* ... and not infinity */
    tear_down(&fixture);
}

static void test_config_is_checked(void **state)
{
    (void)state;
    struct spin_error err;
    struct spin_stream *stream = NULL;
    struct spin_kv *kv = NULL;
    SPIN_EXPECT_OK(spin_stream_create_cpu(1, &stream, &err), &err);
    struct spin_kv_config config = make_config(16, 8);
    SPIN_EXPECT_STATUS(spin_kv_create(&config, stream, &kv, &err), SPIN_ERR_INVALID);
    assert_non_null(strstr(err.text, "page_tokens 16"));
    config = make_config(8, 7); /* 1,000 tokens are 8 blocks */
    SPIN_EXPECT_STATUS(spin_kv_create(&config, stream, &kv, &err), SPIN_ERR_LIMIT);
    assert_non_null(strstr(err.text, "one sequence of 1000 tokens"));
    config = make_config(8, 8);
    config.tokens_max = 524281; /* one more than u16 page ids of 8 tokens reach */
    SPIN_EXPECT_STATUS(spin_kv_create(&config, stream, &kv, &err), SPIN_ERR_LIMIT);
    config = make_config(8, 8);
    config.sequences_max = 0;
    SPIN_EXPECT_STATUS(spin_kv_create(&config, stream, &kv, &err), SPIN_ERR_INVALID);
    config = make_config(8, 8);
    config.layout.head_dim = 12;
    SPIN_EXPECT_STATUS(spin_kv_create(&config, stream, &kv, &err), SPIN_ERR_INVALID);
    assert_null(kv);
    spin_stream_destroy(stream);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_short_pages),
        cmocka_unit_test(test_random_long_pages),
        cmocka_unit_test(test_page_sizes_share_bytes),
        cmocka_unit_test(test_sequences_run_out),
        cmocka_unit_test(test_refused_reserve_changes_nothing),
        cmocka_unit_test(test_poison_fills_released_blocks),
        cmocka_unit_test(test_config_is_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
