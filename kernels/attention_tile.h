/* attention_tile: a tile of queries against one split of a page list; the fast attention's
 * arithmetic.
 *
 * Why        Queries that read the same row share its K and V: both are made into floats once for
 *            the tile. What happens to one query never depends on the others:
 *              s_t = sum_d (scale q[d]) k_t[d], one fma after the other
 *              m   = max s_t over its tokens
 *              p_t = exp(s_t - m);   z = sum of p_t in eight lanes
 *              o[d] = fma(p_t, v_t[d], o[d]), t after t
 *            and partials are merged split after split, always by spin_partial_merge.
 * Ownership  Everything lies in the calling thread's scratch, or in the op's workspace (partials).
 * Threading  Any compute thread; pure.
 * Units      Tokens are list tokens; lengths in floats. */
#pragma once

#include "kernels/kernels_internal.h"

SPIN_BEGIN_DECLS

#define SPIN_TILE_QUERIES 64u
/* K and V become floats this many tokens at a time: two tiles of the page layout. */
#define SPIN_BLOCK_LANES 16u

/* A partial of one query over some splits is m, z, o[head_dim] in a row, unnormalised. */
#define SPIN_PARTIAL_M 0u
#define SPIN_PARTIAL_Z 1u
#define SPIN_PARTIAL_O 2u
#define SPIN_PARTIAL_FLOATS_MAX (SPIN_PARTIAL_O + SPIN_HEAD_DIM_MAX)

struct spin_attention_tile {
    float q[SPIN_TILE_QUERIES][SPIN_HEAD_DIM_MAX] __attribute__((aligned(64))); /* times scale */
    float score[SPIN_TILE_QUERIES][SPIN_SPLIT_TOKENS];
    union {
        float k[SPIN_HEAD_DIM_MAX][SPIN_BLOCK_LANES]; /* transposed */
        float v[SPIN_BLOCK_LANES][SPIN_HEAD_DIM_MAX];
    };
    float partial[SPIN_TILE_QUERIES][SPIN_PARTIAL_FLOATS_MAX]; /* of the split at hand */
    float merged[SPIN_TILE_QUERIES][SPIN_PARTIAL_FLOATS_MAX];
    uint32_t visible[SPIN_TILE_QUERIES];
    uint32_t queries;
    bool wide; /* use the 512-bit variants below: the same bits, sooner */
};

/* K and V of SPIN_BLOCK_LANES tokens as they lie in pages. */
struct spin_attention_block {
    const uint16_t *k[2]; /* [8][head_dim] each; the second NULL where no query sees that far */
    const uint16_t *v[2];
    uint32_t tokens; /* 1..16 */
    uint32_t head_dim;
};

/* score[queries][column..column + 16) of the block; only behind spin_isa_detect. */
void spin_attention_score_avx512(struct spin_attention_tile *tile,
                                 const struct spin_attention_block *block, uint32_t column);
/* partial[queries] o += p v over the block's tokens that each query sees: seen[queries]. */
void spin_attention_weigh_avx512(struct spin_attention_tile *tile,
                                 const struct spin_attention_block *block, uint32_t column,
                                 const uint32_t *seen);

/* Fills partial[] of the queries that see any token of the split; returns false when none does. */
bool spin_attention_split(struct spin_attention_tile *tile, const struct spin_page_lists *pages,
                          uint64_t row, uint32_t split);
/* into += next; the first one is copied. */
void spin_partial_merge(float *into, const float *next, uint32_t head_dim, bool first);

SPIN_END_DECLS
