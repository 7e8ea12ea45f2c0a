#include "kvstore/block/layout.h"

#include "base/assert.h"

#include <string.h>

/* The wire descriptor. docs/kv-layout.md has the same table. */
static const uint8_t wire_magic[4] = {'S', 'P', 'K', 'V'};
enum wire_offset {
    WIRE_MAGIC = 0,
    WIRE_VERSION = 4,       /* u16 */
    WIRE_DTYPE = 6,         /* u8 */
    WIRE_SWIZZLE = 7,       /* u8 */
    WIRE_LAYERS = 8,        /* u32 */
    WIRE_KV_HEADS = 12,     /* u32 */
    WIRE_HEAD_DIM = 16,     /* u32 */
    WIRE_TILE_TOKENS = 20,  /* u16 */
    WIRE_BLOCK_TOKENS = 22, /* u16 */
    WIRE_END = 24
};
_Static_assert(WIRE_END == SPIN_KV_LAYOUT_WIRE_BYTES, "the fields fill the descriptor");
_Static_assert(SPIN_BLOCK_TOKENS % SPIN_TILE_TOKENS == 0, "a block is whole tiles");

/* XOR16 permutes 8 units of 16 bytes: the row of a token must be whole groups of them. */
#define XOR16_HEAD_DIM_MULTIPLE 64u

static void put_u16(uint8_t *out, uint32_t value)
{
    SPIN_ASSERT_LE(value, UINT16_MAX);
    out[0] = (uint8_t)value;
    out[1] = (uint8_t)(value >> 8);
}

static void put_u32(uint8_t *out, uint32_t value)
{
    put_u16(out, value & UINT16_MAX);
    put_u16(out + 2, value >> 16);
}

static uint32_t get_u16(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8;
}

static uint32_t get_u32(const uint8_t *bytes)
{
    return get_u16(bytes) | get_u16(bytes + 2) << 16;
}

void spin_kv_layout_encode(const struct spin_kv_layout *layout,
                           uint8_t out[SPIN_KV_LAYOUT_WIRE_BYTES])
{
    SPIN_ASSERT(spin_kv_layout_check(layout, NULL) == SPIN_OK);
    memcpy(out + WIRE_MAGIC, wire_magic, sizeof wire_magic);
    put_u16(out + WIRE_VERSION, SPIN_KV_LAYOUT_VERSION);
    out[WIRE_DTYPE] = (uint8_t)layout->dtype;
    out[WIRE_SWIZZLE] = (uint8_t)layout->swizzle;
    put_u32(out + WIRE_LAYERS, layout->layers);
    put_u32(out + WIRE_KV_HEADS, layout->kv_heads);
    put_u32(out + WIRE_HEAD_DIM, layout->head_dim);
    put_u16(out + WIRE_TILE_TOKENS, SPIN_TILE_TOKENS);
    put_u16(out + WIRE_BLOCK_TOKENS, SPIN_BLOCK_TOKENS);
}

static spin_status check_constant(const char *field, uint32_t got, uint32_t wanted,
                                  struct spin_error *err)
{
    return got == wanted ? SPIN_OK
                         : spin_fail(err, SPIN_ERR_INVALID, "kv layout: %s %u: only %u is known",
                                     field, got, wanted);
}

spin_status spin_kv_layout_decode(const uint8_t *bytes, uint64_t count, struct spin_kv_layout *out,
                                  struct spin_error *err)
{
    if (count != SPIN_KV_LAYOUT_WIRE_BYTES) {
        return spin_fail(err, SPIN_ERR_INVALID, "kv layout: %llu bytes instead of %u",
                         (unsigned long long)count, SPIN_KV_LAYOUT_WIRE_BYTES);
    }
    if (memcmp(bytes + WIRE_MAGIC, wire_magic, sizeof wire_magic) != 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "kv layout: magic is not \"SPKV\"");
    }
    SPIN_TRY(check_constant("version", get_u16(bytes + WIRE_VERSION), SPIN_KV_LAYOUT_VERSION, err));
    SPIN_TRY(
        check_constant("tile_tokens", get_u16(bytes + WIRE_TILE_TOKENS), SPIN_TILE_TOKENS, err));
    SPIN_TRY(
        check_constant("block_tokens", get_u16(bytes + WIRE_BLOCK_TOKENS), SPIN_BLOCK_TOKENS, err));
    const struct spin_kv_layout layout = {
        .layers = get_u32(bytes + WIRE_LAYERS),
        .kv_heads = get_u32(bytes + WIRE_KV_HEADS),
        .head_dim = get_u32(bytes + WIRE_HEAD_DIM),
        .dtype = (enum spin_kv_dtype)bytes[WIRE_DTYPE],
        .swizzle = (enum spin_swizzle)bytes[WIRE_SWIZZLE],
    };
    SPIN_TRY(spin_kv_layout_check(&layout, err));
    *out = layout;
    return SPIN_OK;
}

static spin_status check_range(const char *field, uint32_t value, uint32_t max,
                               struct spin_error *err)
{
    return value >= 1 && value <= max
               ? SPIN_OK
               : spin_fail(err, SPIN_ERR_INVALID, "kv layout: %s %u: not in 1..%u", field, value,
                           max);
}

spin_status spin_kv_layout_check(const struct spin_kv_layout *layout, struct spin_error *err)
{
    SPIN_TRY(check_range("layers", layout->layers, SPIN_LAYERS_MAX, err));
    SPIN_TRY(check_range("kv_heads", layout->kv_heads, SPIN_KV_HEADS_MAX, err));
    SPIN_TRY(check_range("head_dim", layout->head_dim, SPIN_HEAD_DIM_MAX, err));
    if (layout->head_dim % 8 != 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "kv layout: head_dim %u: not a multiple of 8",
                         layout->head_dim);
    }
    if (layout->dtype != SPIN_KV_BF16) {
        return spin_fail(err, SPIN_ERR_INVALID, "kv layout: dtype %u: only %u (bf16) is known",
                         (unsigned)layout->dtype, (unsigned)SPIN_KV_BF16);
    }
    if (layout->swizzle != SPIN_SWIZZLE_NONE && layout->swizzle != SPIN_SWIZZLE_XOR16) {
        return spin_fail(err, SPIN_ERR_INVALID, "kv layout: swizzle %u: not 0 (none) or 1 (xor16)",
                         (unsigned)layout->swizzle);
    }
    if (layout->swizzle == SPIN_SWIZZLE_XOR16 && layout->head_dim % XOR16_HEAD_DIM_MULTIPLE != 0) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "kv layout: head_dim %u: xor16 needs a multiple of %u", layout->head_dim,
                         XOR16_HEAD_DIM_MULTIPLE);
    }
    return SPIN_OK;
}

bool spin_kv_layout_equal(const struct spin_kv_layout *a, const struct spin_kv_layout *b)
{
    return a->layers == b->layers && a->kv_heads == b->kv_heads && a->head_dim == b->head_dim &&
           a->dtype == b->dtype && a->swizzle == b->swizzle;
}
