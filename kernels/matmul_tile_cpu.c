/* Panels times x with 256-bit vectors: eight rows of a panel in one register. */
#include "kernels/matmul_tile.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define LANES 8u
/* Rows of x at a time: with their sums of two widths, the weights and x, sixteen registers. */
#define ROWS_MAX 4u

INLINE __m256i load_x4(const int8_t *x)
{
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm256_set1_epi32(four);
}

INLINE __m256i widen(__m256i pairs)
{
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

/* Four products of each lane as two int16 sums: unsigned times signed bytes. 4- and 6-bit weights
 * stay below 2 * 63 * 127; int8 weights go in as |w| with their sign moved to x, 2 * 128 * 127 at
 * most, which int16 still holds. x never is -128. */
INLINE __m256i pair_dots(__m256i w, __m256i x, enum spin_panel_kind kind)
{
    if (kind == SPIN_PANEL_SIGNED) {
        return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    }
    return _mm256_maddubs_epi16(w, x);
}

/* Values [4 j_begin, 4 j_end) of group g for lanes `first_row` and up; `half` names their scale. */
struct span {
    uint32_t g;
    uint32_t j_begin;
    uint32_t j_end;
    uint32_t half;
    uint32_t first_row;
};

INLINE void add_dots(const struct spin_tile *tile, enum spin_panel_kind kind, struct span span,
                     __m256 *acc, const uint32_t rows)
{
    __m256i dot[ROWS_MAX];   /* int32 */
    __m256i pairs[ROWS_MAX]; /* int16; eight times 2 * 15 * 127 fits */
    const uint64_t group_stride = tile->q_stride / SPIN_GROUP;
    for (uint32_t m = 0; m < rows; m++) {
        const int32_t *sum = tile->group[m * group_stride + span.g].sum;
        pairs[m] = _mm256_setzero_si256();
        dot[m] = _mm256_setzero_si256();
        if (kind == SPIN_PANEL_NIBBLE_OFFSET) {
            dot[m] = _mm256_set1_epi32(-8 * (sum[0] + sum[1]));
        } else if (kind == SPIN_PANEL_HALVES) {
            dot[m] = _mm256_set1_epi32(-32 * sum[span.half]);
        }
    }
#pragma GCC unroll 8
    for (uint32_t j = span.j_begin; j < span.j_end; j++) {
        const __m256i w = _mm256_load_si256(
            (const __m256i *)(const void *)tile->panel->q[span.g][j][span.first_row]);
        for (uint32_t m = 0; m < rows; m++) {
            const int8_t *x =
                tile->q + m * tile->q_stride + ((uint64_t)span.g * SPIN_GROUP + 4 * (uint64_t)j);
            const __m256i two = pair_dots(w, load_x4(x), kind);
            if (kind == SPIN_PANEL_NIBBLE_OFFSET || kind == SPIN_PANEL_NIBBLE_MIN) {
                pairs[m] = _mm256_add_epi16(pairs[m], two);
            } else {
                dot[m] = _mm256_add_epi32(dot[m], widen(two));
            }
        }
    }
    const __m256 scale = _mm256_load_ps(tile->panel->scale[span.g][span.half] + span.first_row);
    for (uint32_t m = 0; m < rows; m++) {
        const __m256 d = _mm256_set1_ps(tile->group[m * group_stride + span.g].d);
        const __m256 sum = _mm256_cvtepi32_ps(_mm256_add_epi32(dot[m], widen(pairs[m])));
        acc[m] = _mm256_fmadd_ps(_mm256_mul_ps(scale, d), sum, acc[m]);
    }
}

INLINE void tile_rows(const struct spin_tile *tile, enum spin_panel_kind kind, uint32_t first_row,
                      const uint32_t rows)
{
    __m256 acc[ROWS_MAX];
    const uint64_t group_stride = tile->q_stride / SPIN_GROUP;
    for (uint32_t m = 0; m < rows; m++) {
        acc[m] = _mm256_loadu_ps(tile->acc + m * tile->acc_stride + first_row);
    }
    for (uint32_t g = 0; g < tile->groups; g++) {
        if (kind == SPIN_PANEL_HALVES) {
            add_dots(tile, kind, (struct span){g, 0, 4, 0, first_row}, acc, rows);
            add_dots(tile, kind, (struct span){g, 4, 8, 1, first_row}, acc, rows);
        } else {
            add_dots(tile, kind, (struct span){g, 0, 8, 0, first_row}, acc, rows);
        }
        if (kind == SPIN_PANEL_NIBBLE_MIN) {
            const __m256 min = _mm256_load_ps(tile->panel->min[g] + first_row);
            for (uint32_t m = 0; m < rows; m++) {
                const __m256 sum = _mm256_set1_ps(tile->group[m * group_stride + g].d_sum);
                acc[m] = _mm256_fmadd_ps(min, sum, acc[m]);
            }
        }
    }
    for (uint32_t m = 0; m < rows; m++) {
        _mm256_storeu_ps(tile->acc + m * tile->acc_stride + first_row, acc[m]);
    }
}

INLINE void tile_kind(const struct spin_tile *tile, enum spin_panel_kind kind, uint32_t rows)
{
    struct spin_tile part = *tile;
    while (rows != 0) {
        const uint32_t count = rows >= ROWS_MAX ? ROWS_MAX : 1;
        for (uint32_t first_row = 0; first_row < SPIN_PANEL_ROWS; first_row += LANES) {
            if (count == ROWS_MAX) {
                tile_rows(&part, kind, first_row, ROWS_MAX);
            } else {
                tile_rows(&part, kind, first_row, 1);
            }
        }
        part.q += count * part.q_stride;
        part.group += count * (part.q_stride / SPIN_GROUP);
        part.acc += count * part.acc_stride;
        rows -= count;
    }
}

void spin_tile_avx2(const struct spin_tile *tile, enum spin_panel_kind kind, uint32_t rows)
{
    switch (kind) {
    case SPIN_PANEL_NIBBLE_OFFSET:
        tile_kind(tile, SPIN_PANEL_NIBBLE_OFFSET, rows);
        break;
    case SPIN_PANEL_NIBBLE_MIN:
        tile_kind(tile, SPIN_PANEL_NIBBLE_MIN, rows);
        break;
    case SPIN_PANEL_SIGNED:
        tile_kind(tile, SPIN_PANEL_SIGNED, rows);
        break;
    case SPIN_PANEL_HALVES:
        tile_kind(tile, SPIN_PANEL_HALVES, rows);
        break;
    case SPIN_PANEL_KINDS:
        break;
    }
}

INLINE void float_tile_rows(const struct spin_float_tile *tile, const uint32_t rows)
{
    __m256 low[ROWS_MAX];
    __m256 high[ROWS_MAX];
    for (uint32_t m = 0; m < rows; m++) {
        low[m] = _mm256_loadu_ps(tile->acc + m * tile->acc_stride);
        high[m] = _mm256_loadu_ps(tile->acc + m * tile->acc_stride + LANES);
    }
    for (uint32_t k = 0; k < tile->values; k++) {
        const __m256 w_low = _mm256_load_ps(tile->panel->w[k]);
        const __m256 w_high = _mm256_load_ps(tile->panel->w[k] + LANES);
        for (uint32_t m = 0; m < rows; m++) {
            const __m256 x = _mm256_set1_ps(tile->x[m * tile->x_stride + k]);
            low[m] = _mm256_fmadd_ps(x, w_low, low[m]);
            high[m] = _mm256_fmadd_ps(x, w_high, high[m]);
        }
    }
    for (uint32_t m = 0; m < rows; m++) {
        _mm256_storeu_ps(tile->acc + m * tile->acc_stride, low[m]);
        _mm256_storeu_ps(tile->acc + m * tile->acc_stride + LANES, high[m]);
    }
}

void spin_float_tile_avx2(const struct spin_float_tile *tile, uint32_t rows)
{
    struct spin_float_tile part = *tile;
    while (rows != 0) {
        const uint32_t count = rows >= ROWS_MAX ? ROWS_MAX : 1;
        if (count == ROWS_MAX) {
            float_tile_rows(&part, ROWS_MAX);
        } else {
            float_tile_rows(&part, 1);
        }
        part.x += count * part.x_stride;
        part.acc += count * part.acc_stride;
        rows -= count;
    }
}
