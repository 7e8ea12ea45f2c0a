#include "kernels/attention_tile.h"
#include "kernels/simd_cpu.h"

#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define LANES 8u
/* Queries per pass over a K block: twelve sums, two of K and one of q are what registers hold. */
#define PASS_QUERIES 6u
/* Output columns per pass over a V block: eight sums. */
#define PASS_COLUMNS 64u
/* How far ahead of the arithmetic K and V are asked for: 16 KiB of a head of 64. */
#define PREFETCH_TOKENS 64u
#define CACHE_LINE_BYTES 64u

/* Eight tokens' K into columns first_lane and up of the transposed block. */
static void transpose_k_tile(const uint16_t *k, uint32_t head_dim, float *target)
{
    for (uint32_t d = 0; d < head_dim; d += LANES) {
        __m256 v[LANES];
        for (uint32_t t = 0; t < LANES; t++) {
            const uint16_t *source = k + (uint64_t)t * head_dim + d;
            v[t] = spin_f32x8_from_bf16(_mm_loadu_si128((const __m128i *)(const void *)source));
        }
        spin_transpose8(v);
        for (uint32_t i = 0; i < LANES; i++) {
            _mm256_store_ps(target + (uint64_t)(d + i) * SPIN_BLOCK_LANES, v[i]);
        }
    }
}

/* A block reaches into its second tile of tokens only when some query sees that far. */
static struct spin_attention_block find_block(const struct spin_page_lists *pages, uint64_t row,
                                              struct spin_range tokens)
{
    struct spin_attention_block block = {.tokens = (uint32_t)(tokens.end - tokens.begin),
                                         .head_dim = pages->layout.head_dim};
    for (uint32_t i = 0; i * SPIN_TILE_TOKENS < block.tokens; i++) {
        const uint32_t token = (uint32_t)tokens.begin + i * SPIN_TILE_TOKENS;
        block.k[i] = spin_list_k(pages, row, token);
        block.v[i] = spin_list_v(pages, row, token);
    }
    return block;
}

static void load_k_block(struct spin_attention_tile *tile, const struct spin_attention_block *block)
{
    for (uint32_t i = 0; i < 2; i++) {
        if (block->k[i] != NULL) {
            transpose_k_tile(block->k[i], block->head_dim, tile->k[0] + i * SPIN_TILE_TOKENS);
        } else {
            for (uint32_t d = 0; d < block->head_dim; d++) {
                _mm256_store_ps(tile->k[d] + i * SPIN_TILE_TOKENS, _mm256_setzero_ps());
            }
        }
    }
}

INLINE void score_queries(struct spin_attention_tile *tile, uint32_t first, uint32_t column,
                          uint32_t head_dim, const uint32_t queries)
{
    __m256 low[PASS_QUERIES];
    __m256 high[PASS_QUERIES];
    for (uint32_t i = 0; i < queries; i++) {
        low[i] = _mm256_setzero_ps();
        high[i] = _mm256_setzero_ps();
    }
    for (uint32_t d = 0; d < head_dim; d++) {
        const __m256 k_low = _mm256_load_ps(tile->k[d]);
        const __m256 k_high = _mm256_load_ps(tile->k[d] + LANES);
        for (uint32_t i = 0; i < queries; i++) {
            const __m256 q = _mm256_set1_ps(tile->q[first + i][d]);
            low[i] = _mm256_fmadd_ps(q, k_low, low[i]);
            high[i] = _mm256_fmadd_ps(q, k_high, high[i]);
        }
    }
    for (uint32_t i = 0; i < queries; i++) {
        _mm256_store_ps(tile->score[first + i] + column, low[i]);
        _mm256_store_ps(tile->score[first + i] + column + LANES, high[i]);
    }
}

/* One copy of the loop per number of queries, so that its sums are registers. */
static void score_block(struct spin_attention_tile *tile, const struct spin_attention_block *block,
                        uint32_t column)
{
    const uint32_t head_dim = block->head_dim;
    load_k_block(tile, block);
    uint32_t first = 0;
    for (; first + PASS_QUERIES <= tile->queries; first += PASS_QUERIES) {
        score_queries(tile, first, column, head_dim, PASS_QUERIES);
    }
    switch (tile->queries - first) {
    case 1:
        score_queries(tile, first, column, head_dim, 1);
        break;
    case 2:
        score_queries(tile, first, column, head_dim, 2);
        break;
    case 3:
        score_queries(tile, first, column, head_dim, 3);
        break;
    case 4:
        score_queries(tile, first, column, head_dim, 4);
        break;
    case 5:
        score_queries(tile, first, column, head_dim, 5);
        break;
    default:
        break;
    }
}

/* Scores to probabilities in place; `count` of them. */
static void softmax(float *score, uint32_t count, float *partial)
{
    const __m256 lowest = _mm256_set1_ps(-INFINITY);
    const uint32_t tail = count % LANES;
    const __m256i tail_mask = spin_mask8(tail);
    __m256 max = lowest;
    uint32_t t = 0;
    for (; t + LANES <= count; t += LANES) {
        max = _mm256_max_ps(max, _mm256_load_ps(score + t));
    }
    if (tail != 0) {
        const __m256 seen =
            _mm256_blendv_ps(lowest, _mm256_load_ps(score + t), _mm256_castsi256_ps(tail_mask));
        max = _mm256_max_ps(max, seen);
    }
    partial[SPIN_PARTIAL_M] = spin_max8(max);

    const __m256 m = _mm256_set1_ps(partial[SPIN_PARTIAL_M]);
    __m256 z = _mm256_setzero_ps();
    for (t = 0; t + LANES <= count; t += LANES) {
        const __m256 p = spin_exp8(_mm256_sub_ps(_mm256_load_ps(score + t), m));
        _mm256_store_ps(score + t, p);
        z = _mm256_add_ps(z, p);
    }
    if (tail != 0) {
        const __m256 p = _mm256_and_ps(spin_exp8(_mm256_sub_ps(_mm256_load_ps(score + t), m)),
                                       _mm256_castsi256_ps(tail_mask));
        _mm256_store_ps(score + t, p);
        z = _mm256_add_ps(z, p);
    }
    partial[SPIN_PARTIAL_Z] = spin_sum8(z);
}

static void load_v_block(struct spin_attention_tile *tile, const struct spin_attention_block *block)
{
    for (uint32_t t = 0; t < block->tokens; t++) {
        const uint16_t *v =
            block->v[t / SPIN_TILE_TOKENS] + (uint64_t)(t % SPIN_TILE_TOKENS) * block->head_dim;
        for (uint32_t d = 0; d < block->head_dim; d += LANES) {
            _mm256_store_ps(tile->v[t] + d, spin_f32x8_from_bf16(_mm_loadu_si128(
                                                (const __m128i *)(const void *)(v + d))));
        }
    }
}

/* o[0, columns) += sum over tokens of p[t] v[t]; rows of v are SPIN_HEAD_DIM_MAX apart. */
INLINE void weigh_columns(const float *v, const float *p, uint32_t tokens, float *o,
                          const uint32_t columns)
{
    __m256 sum[PASS_COLUMNS / LANES];
    for (uint64_t i = 0; i < columns / LANES; i++) {
        sum[i] = _mm256_loadu_ps(o + i * LANES);
    }
    for (uint64_t t = 0; t < tokens; t++) {
        const __m256 weight = _mm256_set1_ps(p[t]);
        for (uint64_t i = 0; i < columns / LANES; i++) {
            const __m256 value = _mm256_load_ps(v + t * SPIN_HEAD_DIM_MAX + i * LANES);
            sum[i] = _mm256_fmadd_ps(weight, value, sum[i]);
        }
    }
    for (uint64_t i = 0; i < columns / LANES; i++) {
        _mm256_storeu_ps(o + i * LANES, sum[i]);
    }
}

static void weigh_query(const struct spin_attention_tile *tile, const float *p, uint32_t tokens,
                        float *o, uint32_t head_dim)
{
    uint32_t column = 0;
    for (; column + PASS_COLUMNS <= head_dim; column += PASS_COLUMNS) {
        weigh_columns(tile->v[0] + column, p, tokens, o + column, PASS_COLUMNS);
    }
    for (; column < head_dim; column += LANES) {
        weigh_columns(tile->v[0] + column, p, tokens, o + column, LANES);
    }
}

/* How many of the tokens [begin, end) the query sees. */
static uint32_t seen_count(uint32_t visible, struct spin_range tokens)
{
    const uint64_t end = SPIN_MIN((uint64_t)visible, tokens.end);
    return end > tokens.begin ? (uint32_t)(end - tokens.begin) : 0;
}

static void weigh_block(struct spin_attention_tile *tile, const struct spin_attention_block *block,
                        uint32_t column, const uint32_t *seen)
{
    load_v_block(tile, block);
    for (uint32_t i = 0; i < tile->queries; i++) {
        weigh_query(tile, tile->score[i] + column, seen[i], tile->partial[i] + SPIN_PARTIAL_O,
                    block->head_dim);
    }
}

static void weigh_split(struct spin_attention_tile *tile, const struct spin_page_lists *pages,
                        uint64_t row, struct spin_range tokens)
{
    for (uint32_t i = 0; i < tile->queries; i++) {
        memset(tile->partial[i] + SPIN_PARTIAL_O, 0, pages->layout.head_dim * sizeof(float));
    }
    for (uint64_t t = tokens.begin; t < tokens.end; t += SPIN_BLOCK_LANES) {
        const struct spin_range range = {t, SPIN_MIN(t + SPIN_BLOCK_LANES, tokens.end)};
        const struct spin_attention_block block = find_block(pages, row, range);
        uint32_t seen[SPIN_TILE_QUERIES];
        for (uint32_t i = 0; i < tile->queries; i++) {
            seen[i] = seen_count(tile->visible[i], range);
        }
        (tile->wide ? spin_attention_weigh_avx512
                    : weigh_block)(tile, &block, (uint32_t)(t - tokens.begin), seen);
    }
}

/* K and V of two tiles, which lie together: V is wanted soon after, and alone every other KiB of K
 * is a pattern that hardware does not follow. */
static void prefetch_block(const struct spin_page_lists *pages, uint64_t row,
                           struct spin_range tokens)
{
    for (uint64_t t = tokens.begin; t < tokens.end; t += SPIN_TILE_TOKENS) {
        const char *tile = (const char *)spin_list_k(pages, row, (uint32_t)t);
        const uint64_t bytes = 2 * SPIN_TILE_TOKENS * sizeof(uint16_t) * pages->layout.head_dim;
        for (uint64_t i = 0; i < bytes; i += CACHE_LINE_BYTES) {
            _mm_prefetch(tile + i, _MM_HINT_T1);
        }
    }
}

static void score_split(struct spin_attention_tile *tile, const struct spin_page_lists *pages,
                        uint64_t row, struct spin_range tokens)
{
    for (uint64_t t = tokens.begin; t < tokens.end; t += SPIN_BLOCK_LANES) {
        const uint64_t ahead = t + PREFETCH_TOKENS;
        prefetch_block(pages, row,
                       (struct spin_range){ahead, SPIN_MIN(ahead + SPIN_BLOCK_LANES, tokens.end)});
        const struct spin_range range = {t, SPIN_MIN(t + SPIN_BLOCK_LANES, tokens.end)};
        const struct spin_attention_block block = find_block(pages, row, range);
        (tile->wide ? spin_attention_score_avx512 : score_block)(tile, &block,
                                                                 (uint32_t)(t - tokens.begin));
    }
}

bool spin_attention_split(struct spin_attention_tile *tile, const struct spin_page_lists *pages,
                          uint64_t row, uint32_t split)
{
    const uint64_t split_tokens = SPIN_SPLIT_TOKENS;
    uint32_t visible_max = 0;
    for (uint32_t i = 0; i < tile->queries; i++) {
        visible_max = SPIN_MAX(visible_max, tile->visible[i]);
    }
    const struct spin_range tokens = {split * split_tokens,
                                      SPIN_MIN((split + 1) * split_tokens, visible_max)};
    if (tokens.begin >= tokens.end) {
        return false;
    }
    score_split(tile, pages, row, tokens);
    for (uint32_t i = 0; i < tile->queries; i++) {
        const uint32_t seen = seen_count(tile->visible[i], tokens);
        if (seen != 0) {
            softmax(tile->score[i], seen, tile->partial[i]);
        }
    }
    weigh_split(tile, pages, row, tokens);
    return true;
}

void spin_partial_merge(float *into, const float *next, uint32_t head_dim, bool first)
{
    if (first) {
        memcpy(into, next, (head_dim + SPIN_PARTIAL_O) * sizeof *into);
        return;
    }
    const float m = SPIN_MAX(into[SPIN_PARTIAL_M], next[SPIN_PARTIAL_M]);
    const __m256 keep = spin_exp8(_mm256_set1_ps(into[SPIN_PARTIAL_M] - m));
    const __m256 add = spin_exp8(_mm256_set1_ps(next[SPIN_PARTIAL_M] - m));
    into[SPIN_PARTIAL_M] = m;
    into[SPIN_PARTIAL_Z] = into[SPIN_PARTIAL_Z] * _mm256_cvtss_f32(keep) +
                           next[SPIN_PARTIAL_Z] * _mm256_cvtss_f32(add);
    for (uint32_t d = SPIN_PARTIAL_O; d < head_dim + SPIN_PARTIAL_O; d += LANES) {
        const __m256 old = _mm256_mul_ps(_mm256_loadu_ps(into + d), keep);
        _mm256_storeu_ps(into + d, _mm256_fmadd_ps(_mm256_loadu_ps(next + d), add, old));
    }
}
