/* layout: how KV bytes lie in memory and on the wire, and the descriptor that names it.
 *
 * Why        Every tier, every algorithm and every peer share one byte order, so moving KV is
 *            copying. The descriptor is part of every block key and of the handshake: another
 *            layout is a miss or a refusal with a sentence, never a wrong answer.
 * Layout     tile   8 tokens of one (layer, kv head): K[8][head_dim], then V[8][head_dim].
 *            page   P consecutive tokens of one (layer, kv head), P = 8 or 32: P/8 tiles. The bytes
 *                   of four 8-token pages are the bytes of one 32-token page.
 *            block  128 consecutive tokens of every row, layer-major:
 *                     [layer][kv head][16 tiles]
 *                   starts at an absolute multiple of 128.
 *            Swizzle XOR16: inside a tile, the 16-byte unit c of token t lies at unit c ^ (t & 7).
 * Threading  Any thread; pure values and arithmetic, usable in kernels.
 * Units      Bytes, tokens. K is stored after RoPE.
 * Errors     INVALID from decode and check, with the field and the limit. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

#define SPIN_TILE_TOKENS 8u
#define SPIN_BLOCK_TOKENS 128u
#define SPIN_TILES_PER_BLOCK (SPIN_BLOCK_TOKENS / SPIN_TILE_TOKENS)
/* Attention works on splits of this many tokens of a list (D5), whatever the page size: a sparse
 * list that holds every page then gives the very bits of the dense one. */
#define SPIN_SPLIT_TOKENS 512u
/* Page ids of one row are u16, and one of those names no page: a row of 8-token pages ends at
 * 524,280 tokens. */
#define SPIN_ROW_PAGES_MAX 65535u

#define SPIN_LAYERS_MAX 512u
#define SPIN_KV_HEADS_MAX 256u
#define SPIN_HEAD_DIM_MAX 256u

enum spin_kv_dtype { SPIN_KV_BF16 = 1 };                             /* wire values */
enum spin_swizzle { SPIN_SWIZZLE_NONE = 0, SPIN_SWIZZLE_XOR16 = 1 }; /* wire values */

struct spin_kv_layout {
    uint32_t layers;
    uint32_t kv_heads; /* of the whole model; a tensor-parallel worker holds a part */
    uint32_t head_dim; /* a multiple of 8 */
    enum spin_kv_dtype dtype;
    enum spin_swizzle swizzle;
};

/* The descriptor on the wire, little endian: docs/kv-layout.md. */
#define SPIN_KV_LAYOUT_WIRE_BYTES 24u
#define SPIN_KV_LAYOUT_VERSION 1u
void spin_kv_layout_encode(const struct spin_kv_layout *layout,
                           uint8_t out[SPIN_KV_LAYOUT_WIRE_BYTES]);
SPIN_MUST_USE spin_status spin_kv_layout_decode(const uint8_t *bytes, uint64_t count,
                                                struct spin_kv_layout *out, struct spin_error *err);
SPIN_MUST_USE spin_status spin_kv_layout_check(const struct spin_kv_layout *layout,
                                               struct spin_error *err);
bool spin_kv_layout_equal(const struct spin_kv_layout *a, const struct spin_kv_layout *b);

SPIN_INLINE uint32_t spin_kv_element_bytes(const struct spin_kv_layout *layout)
{
    (void)layout; /* BF16 is the only stored type */
    return 2;
}

SPIN_INLINE uint64_t spin_tile_bytes(const struct spin_kv_layout *layout)
{
    return (uint64_t)2 * SPIN_TILE_TOKENS * layout->head_dim * spin_kv_element_bytes(layout);
}

SPIN_INLINE uint64_t spin_page_bytes(const struct spin_kv_layout *layout, uint32_t page_tokens)
{
    return page_tokens / SPIN_TILE_TOKENS * spin_tile_bytes(layout);
}

SPIN_INLINE uint64_t spin_block_bytes(const struct spin_kv_layout *layout)
{
    return (uint64_t)layout->layers * layout->kv_heads * SPIN_TILES_PER_BLOCK *
           spin_tile_bytes(layout);
}

/* Where K of token t (0..P-1) starts inside its page, unswizzled. V: + SPIN_TILE_TOKENS * head_dim
 * elements. */
SPIN_INLINE uint64_t spin_page_k_offset(const struct spin_kv_layout *layout, uint32_t token)
{
    const uint64_t row = (uint64_t)layout->head_dim * spin_kv_element_bytes(layout);
    return token / SPIN_TILE_TOKENS * spin_tile_bytes(layout) + token % SPIN_TILE_TOKENS * row;
}

SPIN_INLINE uint64_t spin_page_v_offset(const struct spin_kv_layout *layout, uint32_t token)
{
    const uint64_t row = (uint64_t)layout->head_dim * spin_kv_element_bytes(layout);
    return spin_page_k_offset(layout, token) + SPIN_TILE_TOKENS * row;
}

SPIN_END_DECLS
