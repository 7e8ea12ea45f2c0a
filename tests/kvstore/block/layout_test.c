/* Offsets against loops that lay the elements out one after another, as docs/kv-layout.md draws
 * them; the descriptor against its byte table, and every single wrong byte of it. */
#include "kvstore/block/layout.h"

#include "tests/spin_test.h"

/* docs/kv-layout.md says these numbers. */
_Static_assert(SPIN_TILE_TOKENS == 8, "tile");
_Static_assert(SPIN_BLOCK_TOKENS == 128, "block");
_Static_assert(SPIN_TILES_PER_BLOCK == 16, "tiles of a block");
_Static_assert(SPIN_KV_LAYOUT_WIRE_BYTES == 24, "descriptor");
_Static_assert(SPIN_ROW_PAGES_MAX *SPIN_TILE_TOKENS == 524280, "longest row of 8-token pages");

static const uint32_t head_dims[] = {8, 64, 80, 96, 128, 256};

static struct spin_kv_layout layout_of(uint32_t head_dim)
{
    return (struct spin_kv_layout){.layers = 3,
                                   .kv_heads = 2,
                                   .head_dim = head_dim,
                                   .dtype = SPIN_KV_BF16,
                                   .swizzle = SPIN_SWIZZLE_NONE};
}

/* Walks a page element by element in the order of the drawing. */
static void check_page(const struct spin_kv_layout *layout, uint32_t page_tokens)
{
    uint64_t offset = 0;
    for (uint32_t tile = 0; tile < page_tokens / 8; tile++) {
        for (uint32_t t = 0; t < 8; t++) {
            assert_int_equal(spin_page_k_offset(layout, tile * 8 + t), offset);
            offset += (uint64_t)layout->head_dim * 2;
        }
        for (uint32_t t = 0; t < 8; t++) {
            assert_int_equal(spin_page_v_offset(layout, tile * 8 + t), offset);
            offset += (uint64_t)layout->head_dim * 2;
        }
    }
    assert_int_equal(spin_page_bytes(layout, page_tokens), offset);
}

static void test_offsets_follow_the_drawing(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(head_dims); i++) {
        const struct spin_kv_layout layout = layout_of(head_dims[i]);
        check_page(&layout, 8);
        check_page(&layout, 32);
        check_page(&layout, 128);
        /* Four pages of 8 have the bytes of one of 32. */
        assert_int_equal(4 * spin_page_bytes(&layout, 8), spin_page_bytes(&layout, 32));
        uint64_t block = 0;
        for (uint32_t layer = 0; layer < layout.layers; layer++) {
            for (uint32_t head = 0; head < layout.kv_heads; head++) {
                block += spin_page_bytes(&layout, 128);
            }
        }
        assert_int_equal(spin_block_bytes(&layout), block);
    }
    const struct spin_kv_layout llama = {32, 8, 128, SPIN_KV_BF16, SPIN_SWIZZLE_NONE};
    assert_int_equal(spin_tile_bytes(&llama), 4096); /* 4 KiB: 8 tokens, K and V */
    assert_int_equal(spin_block_bytes(&llama), 32 * 8 * 16 * 4096);
}

/* The largest layout: no sum of sizes leaves 64 bits, no descriptor field its width. */
static void test_limits_do_not_overflow(void **state)
{
    (void)state;
    const struct spin_kv_layout largest = {SPIN_LAYERS_MAX, SPIN_KV_HEADS_MAX, SPIN_HEAD_DIM_MAX,
                                           SPIN_KV_BF16, SPIN_SWIZZLE_XOR16};
    assert_int_equal(spin_kv_layout_check(&largest, NULL), SPIN_OK);
    assert_int_equal(spin_block_bytes(&largest), UINT64_C(512) * 256 * 16 * 8192);
}

static const uint8_t wire[SPIN_KV_LAYOUT_WIRE_BYTES] = {
    'S',  'P', 'K', 'V', /* 0  magic */
    1,    0,             /* 4  version */
    1,                   /* 6  dtype */
    1,                   /* 7  swizzle */
    0x20, 0,   0,   0,   /* 8  layers */
    8,    0,   0,   0,   /* 12 kv_heads */
    128,  0,   0,   0,   /* 16 head_dim */
    8,    0,             /* 20 tile_tokens */
    128,  0,             /* 22 block_tokens */
};
static const struct spin_kv_layout of_wire = {32, 8, 128, SPIN_KV_BF16, SPIN_SWIZZLE_XOR16};

static void test_descriptor_bytes(void **state)
{
    (void)state;
    uint8_t bytes[SPIN_KV_LAYOUT_WIRE_BYTES];
    spin_kv_layout_encode(&of_wire, bytes);
    assert_memory_equal(bytes, wire, sizeof wire);
    struct spin_kv_layout layout;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_kv_layout_decode(wire, sizeof wire, &layout, &err), &err);
    assert_true(spin_kv_layout_equal(&layout, &of_wire));
}

static void test_descriptor_of_other_sizes(void **state)
{
    (void)state;
    uint8_t longer[SPIN_KV_LAYOUT_WIRE_BYTES + 1] = {0};
    memcpy(longer, wire, sizeof wire);
    struct spin_kv_layout layout = layout_of(8);
    struct spin_error err;
    for (uint64_t count = 0; count <= sizeof longer; count++) {
        if (count != sizeof wire) {
            SPIN_EXPECT_STATUS(spin_kv_layout_decode(longer, count, &layout, &err),
                               SPIN_ERR_INVALID);
        }
    }
    assert_int_equal(layout.layers, 3); /* untouched */
}

/* Every byte with every value: what decodes is within the limits and encodes to the same bytes. */
static void test_every_changed_byte(void **state)
{
    (void)state;
    uint32_t good = 0;
    for (uint32_t at = 0; at < sizeof wire; at++) {
        for (uint32_t value = 0; value < 256; value++) {
            uint8_t bytes[SPIN_KV_LAYOUT_WIRE_BYTES];
            memcpy(bytes, wire, sizeof wire);
            bytes[at] = (uint8_t)value;
            struct spin_kv_layout layout;
            struct spin_error err = {.status = SPIN_OK};
            if (spin_kv_layout_decode(bytes, sizeof bytes, &layout, &err) != SPIN_OK) {
                assert_int_equal(err.status, SPIN_ERR_INVALID);
                assert_memory_equal(err.text, "kv layout: ", 11);
                continue;
            }
            uint8_t again[SPIN_KV_LAYOUT_WIRE_BYTES];
            spin_kv_layout_encode(&layout, again);
            assert_memory_equal(again, bytes, sizeof bytes);
            good += bytes[at] != wire[at];
        }
    }
    /* Other good values: swizzle none; layers 1..255 and + 256 by byte 9 (0x120 fits, 0x220 does
     * not); kv_heads 1..255, 256 + 8 does not fit; head_dim 64, 192 and, by byte 17, none below
     * 257. */
    assert_int_equal(good, 1 + 254 + 1 + 254 + 2);
}

static const struct {
    struct spin_kv_layout layout;
    const char *words;
} bad_layouts[] = {
    {{0, 8, 128, SPIN_KV_BF16, SPIN_SWIZZLE_NONE}, "layers 0: not in 1..512"},
    {{513, 8, 128, SPIN_KV_BF16, SPIN_SWIZZLE_NONE}, "layers 513: not in 1..512"},
    {{32, 0, 128, SPIN_KV_BF16, SPIN_SWIZZLE_NONE}, "kv_heads 0: not in 1..256"},
    {{32, 257, 128, SPIN_KV_BF16, SPIN_SWIZZLE_NONE}, "kv_heads 257: not in 1..256"},
    {{32, 8, 0, SPIN_KV_BF16, SPIN_SWIZZLE_NONE}, "head_dim 0: not in 1..256"},
    {{32, 8, 264, SPIN_KV_BF16, SPIN_SWIZZLE_NONE}, "head_dim 264: not in 1..256"},
    {{32, 8, 100, SPIN_KV_BF16, SPIN_SWIZZLE_NONE}, "head_dim 100: not a multiple of 8"},
    {{32, 8, 128, (enum spin_kv_dtype)2, SPIN_SWIZZLE_NONE}, "dtype 2: only 1"},
    {{32, 8, 128, SPIN_KV_BF16, (enum spin_swizzle)2}, "swizzle 2: not 0 (none) or 1 (xor16)"},
    {{32, 8, 80, SPIN_KV_BF16, SPIN_SWIZZLE_XOR16}, "head_dim 80: xor16 needs a multiple of 64"},
};

static void test_check_names_the_field_and_the_limit(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(bad_layouts); i++) {
        struct spin_error err;
        SPIN_EXPECT_STATUS(spin_kv_layout_check(&bad_layouts[i].layout, &err), SPIN_ERR_INVALID);
        if (strstr(err.text, bad_layouts[i].words) == NULL) {
            fail_msg("wanted \"%s\", got \"%s\"", bad_layouts[i].words, err.text);
        }
    }
}

/* XOR16 moves the 16-byte units of a token's row among themselves: with a head_dim that check
 * admits, it is a permutation that never leaves the row. */
static void test_swizzle_stays_in_the_row(void **state)
{
    (void)state;
    for (uint32_t head_dim = 8; head_dim <= SPIN_HEAD_DIM_MAX; head_dim += 8) {
        struct spin_kv_layout layout = layout_of(head_dim);
        layout.swizzle = SPIN_SWIZZLE_XOR16;
        const uint32_t units = head_dim * spin_kv_element_bytes(&layout) / 16;
        bool stays = true;
        for (uint32_t t = 0; t < SPIN_TILE_TOKENS; t++) {
            for (uint32_t c = 0; c < units; c++) {
                stays = stays && (c ^ (t & 7)) < units;
            }
        }
        assert_int_equal(spin_kv_layout_check(&layout, NULL) == SPIN_OK, stays);
    }
}

static void test_equal_compares_every_field(void **state)
{
    (void)state;
    const struct spin_kv_layout base = layout_of(64);
    struct spin_kv_layout others[] = {base, base, base, base, base};
    others[0].layers++;
    others[1].kv_heads++;
    others[2].head_dim += 64;
    others[3].dtype = (enum spin_kv_dtype)2;
    others[4].swizzle = SPIN_SWIZZLE_XOR16;
    assert_true(spin_kv_layout_equal(&base, &base));
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(others); i++) {
        assert_false(spin_kv_layout_equal(&base, &others[i]));
    }
}

static void encode_bad(void *argument)
{
    uint8_t bytes[SPIN_KV_LAYOUT_WIRE_BYTES];
    spin_kv_layout_encode(argument, bytes);
}

static void test_encoding_a_bad_layout_is_asserted(void **state)
{
    (void)state;
    struct spin_kv_layout layout = layout_of(7);
    assert_true(spin_test_dies(encode_bad, &layout, "spin_kv_layout_check"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_offsets_follow_the_drawing),
        cmocka_unit_test(test_limits_do_not_overflow),
        cmocka_unit_test(test_descriptor_bytes),
        cmocka_unit_test(test_descriptor_of_other_sizes),
        cmocka_unit_test(test_every_changed_byte),
        cmocka_unit_test(test_check_names_the_field_and_the_limit),
        cmocka_unit_test(test_swizzle_stays_in_the_row),
        cmocka_unit_test(test_equal_compares_every_field),
        cmocka_unit_test(test_encoding_a_bad_layout_is_asserted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
