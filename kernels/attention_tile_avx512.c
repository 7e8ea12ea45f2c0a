/* The fast attention's inner parts with 512-bit vectors: sixteen tokens, or columns, at once.
 *
 * Every sum is the AVX2 variant's, in its order: a lane is a token (scores) or a column (values),
 * and what a lane adds up does not depend on how many lanes stand beside it. */
#include "kernels/attention_tile.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#define LANES 16u
/* Two BF16 to a word: what one vector of K or V has of a row. */
#define WORD_COLUMNS 32u
/* Queries per pass over a K block: their sums, K and q fill half of the registers. */
#define PASS_QUERIES 12u
/* Output columns per pass over a V block. */
#define PASS_COLUMNS 128u

/* Word j of v[i] goes to word i of v[j]. */
INLINE void transpose16(__m512i v[16])
{
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) { /* v[i + c]: word c of each 128-bit lane, four rows */
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int c = 0; c < 4; c++) { /* then the 128-bit lanes of four such vectors, four by four */
        const __m512i low0 = _mm512_shuffle_i32x4(v[c], v[4 + c], 0x88);
        const __m512i low1 = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0x88);
        const __m512i high0 = _mm512_shuffle_i32x4(v[c], v[4 + c], 0xdd);
        const __m512i high1 = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0xdd);
        t[c] = _mm512_shuffle_i32x4(low0, low1, 0x88);
        t[8 + c] = _mm512_shuffle_i32x4(low0, low1, 0xdd);
        t[4 + c] = _mm512_shuffle_i32x4(high0, high1, 0x88);
        t[12 + c] = _mm512_shuffle_i32x4(high0, high1, 0xdd);
    }
    for (int i = 0; i < 16; i++) {
        v[i] = t[i];
    }
}

/* Words are pairs of columns, so half the shuffles of a transposition of floats do. */
static void load_k_block(struct spin_attention_tile *tile, const struct spin_attention_block *block)
{
    for (uint32_t d = 0; d < block->head_dim; d += WORD_COLUMNS) {
        const uint32_t columns = SPIN_MIN(block->head_dim - d, WORD_COLUMNS);
        const __mmask16 mask = (__mmask16)((1u << (columns / 2)) - 1);
        __m512i v[LANES];
        for (uint32_t t = 0; t < LANES; t++) {
            const uint16_t *k = block->k[t / SPIN_TILE_TOKENS];
            v[t] = k == NULL
                       ? _mm512_setzero_si512()
                       : _mm512_maskz_loadu_epi32(
                             mask, k + (uint64_t)(t % SPIN_TILE_TOKENS) * block->head_dim + d);
        }
        transpose16(v);
        for (uint32_t i = 0; i < columns / 2; i++) {
            const __m512i odd = _mm512_and_si512(v[i], _mm512_set1_epi32((int)0xffff0000));
            _mm512_store_si512(tile->k[d + 2 * i], _mm512_slli_epi32(v[i], 16));
            _mm512_store_si512(tile->k[d + 2 * i + 1], odd);
        }
    }
}

INLINE void score_queries(struct spin_attention_tile *tile, uint32_t first, uint32_t column,
                          uint32_t head_dim, const uint32_t queries)
{
    __m512 sum[PASS_QUERIES];
    for (uint32_t i = 0; i < queries; i++) {
        sum[i] = _mm512_setzero_ps();
    }
    for (uint32_t d = 0; d < head_dim; d++) {
        const __m512 k = _mm512_load_ps(tile->k[d]);
        for (uint32_t i = 0; i < queries; i++) {
            sum[i] = _mm512_fmadd_ps(_mm512_set1_ps(tile->q[first + i][d]), k, sum[i]);
        }
    }
    for (uint32_t i = 0; i < queries; i++) {
        _mm512_storeu_ps(tile->score[first + i] + column, sum[i]);
    }
}

void spin_attention_score_avx512(struct spin_attention_tile *tile,
                                 const struct spin_attention_block *block, uint32_t column)
{
    load_k_block(tile, block);
    uint32_t i = 0;
    for (; i + PASS_QUERIES <= tile->queries; i += PASS_QUERIES) {
        score_queries(tile, i, column, block->head_dim, PASS_QUERIES);
    }
    for (; i + 3 <= tile->queries; i += 3) {
        score_queries(tile, i, column, block->head_dim, 3);
    }
    for (; i < tile->queries; i++) {
        score_queries(tile, i, column, block->head_dim, 1);
    }
}

/* A row of V may end eight columns into a vector: what is behind is not read. */
static void load_v_block(struct spin_attention_tile *tile, const struct spin_attention_block *block)
{
    for (uint32_t t = 0; t < block->tokens; t++) {
        const uint16_t *v =
            block->v[t / SPIN_TILE_TOKENS] + (uint64_t)(t % SPIN_TILE_TOKENS) * block->head_dim;
        for (uint32_t d = 0; d < block->head_dim; d += LANES) {
            const __mmask16 mask = block->head_dim - d >= LANES ? 0xffff : 0x00ff;
            const __m256i bits = _mm256_maskz_loadu_epi16(mask, v + d);
            _mm512_store_si512(tile->v[t] + d, _mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
        }
    }
}

/* o[0, columns) += sum over tokens of p[t] v[t]; rows of v are SPIN_HEAD_DIM_MAX apart. */
INLINE void weigh_columns(const float *v, const float *p, uint32_t tokens, float *o,
                          const uint32_t columns)
{
    __m512 sum[PASS_COLUMNS / LANES];
    for (uint32_t i = 0; i < columns / LANES; i++) {
        sum[i] = _mm512_loadu_ps(o + i * LANES);
    }
    for (uint64_t t = 0; t < tokens; t++) {
        const __m512 weight = _mm512_set1_ps(p[t]);
        for (uint32_t i = 0; i < columns / LANES; i++) {
            const __m512 value = _mm512_load_ps(v + t * SPIN_HEAD_DIM_MAX + i * LANES);
            sum[i] = _mm512_fmadd_ps(weight, value, sum[i]);
        }
    }
    for (uint32_t i = 0; i < columns / LANES; i++) {
        _mm512_storeu_ps(o + i * LANES, sum[i]);
    }
}

INLINE void weigh_eight(const float *v, const float *p, uint32_t tokens, float *o)
{
    __m256 sum = _mm256_loadu_ps(o);
    for (uint64_t t = 0; t < tokens; t++) {
        sum = _mm256_fmadd_ps(_mm256_set1_ps(p[t]), _mm256_load_ps(v + t * SPIN_HEAD_DIM_MAX), sum);
    }
    _mm256_storeu_ps(o, sum);
}

static void weigh_query(const struct spin_attention_tile *tile, const float *p, uint32_t tokens,
                        float *o, uint32_t head_dim)
{
    uint32_t column = 0;
    for (; column + PASS_COLUMNS <= head_dim; column += PASS_COLUMNS) {
        weigh_columns(tile->v[0] + column, p, tokens, o + column, PASS_COLUMNS);
    }
    for (; column + PASS_COLUMNS / 2 <= head_dim; column += PASS_COLUMNS / 2) {
        weigh_columns(tile->v[0] + column, p, tokens, o + column, PASS_COLUMNS / 2);
    }
    for (; column + LANES <= head_dim; column += LANES) {
        weigh_columns(tile->v[0] + column, p, tokens, o + column, LANES);
    }
    if (column < head_dim) {
        weigh_eight(tile->v[0] + column, p, tokens, o + column);
    }
}

void spin_attention_weigh_avx512(struct spin_attention_tile *tile,
                                 const struct spin_attention_block *block, uint32_t column,
                                 const uint32_t *seen)
{
    load_v_block(tile, block);
    for (uint32_t i = 0; i < tile->queries; i++) {
        weigh_query(tile, tile->score[i] + column, seen[i], tile->partial[i] + SPIN_PARTIAL_O,
                    block->head_dim);
    }
}
