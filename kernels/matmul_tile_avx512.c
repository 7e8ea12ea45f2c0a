/* Panels times x with 512-bit vectors: all 16 rows of a panel in one register. */
#include "kernels/matmul_tile.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* What a byte of the panel stands above the value it means, as a multiple of x's sum. */
INLINE int32_t offset_of(enum spin_panel_kind kind)
{
    switch (kind) {
    case SPIN_PANEL_NIBBLE_OFFSET:
        return 8;
    case SPIN_PANEL_SIGNED:
        return 128; /* the instruction wants unsigned weights: they are shifted as they are read */
    case SPIN_PANEL_HALVES:
        return 32;
    case SPIN_PANEL_NIBBLE_MIN:
    case SPIN_PANEL_KINDS:
        break;
    }
    return 0;
}

INLINE __m512i load_x4(const int8_t *x)
{
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
}

INLINE __m512i load_w(const uint8_t *q, enum spin_panel_kind kind)
{
    const __m512i w = _mm512_load_si512(q);
    return kind == SPIN_PANEL_SIGNED ? _mm512_xor_si512(w, _mm512_set1_epi8(-128)) : w;
}

/* Values [4 j_begin, 4 j_end) of group g, all of it or one half; `half` names their scale. */
struct span {
    uint32_t g;
    uint32_t j_begin;
    uint32_t j_end;
    uint32_t half;
};

INLINE void add_dots(const struct spin_tile *tile, enum spin_panel_kind kind, struct span span,
                     __m512 *acc, const uint32_t rows)
{
    __m512i dot[SPIN_TILE_M];
    const uint64_t group_stride = tile->q_stride / SPIN_GROUP;
    const int32_t offset = offset_of(kind);
    for (uint32_t m = 0; m < rows; m++) {
        const int32_t *sum = tile->group[m * group_stride + span.g].sum;
        const int32_t covered = kind == SPIN_PANEL_HALVES ? sum[span.half] : sum[0] + sum[1];
        dot[m] = offset == 0 ? _mm512_setzero_si512() : _mm512_set1_epi32(-offset * covered);
    }
#pragma GCC unroll 8
    for (uint32_t j = span.j_begin; j < span.j_end; j++) {
        const __m512i w = load_w(tile->panel->q[span.g][j][0], kind);
        for (uint32_t m = 0; m < rows; m++) {
            const int8_t *x =
                tile->q + m * tile->q_stride + ((uint64_t)span.g * SPIN_GROUP + 4 * (uint64_t)j);
            dot[m] = _mm512_dpbusd_epi32(dot[m], w, load_x4(x));
        }
    }
    const __m512 scale = _mm512_load_ps(tile->panel->scale[span.g][span.half]);
    for (uint32_t m = 0; m < rows; m++) {
        const __m512 d = _mm512_set1_ps(tile->group[m * group_stride + span.g].d);
        acc[m] = _mm512_fmadd_ps(_mm512_mul_ps(scale, d), _mm512_cvtepi32_ps(dot[m]), acc[m]);
    }
}

INLINE void tile_rows(const struct spin_tile *tile, enum spin_panel_kind kind, const uint32_t rows)
{
    __m512 acc[SPIN_TILE_M];
    const uint64_t group_stride = tile->q_stride / SPIN_GROUP;
    for (uint32_t m = 0; m < rows; m++) {
        acc[m] = _mm512_loadu_ps(tile->acc + m * tile->acc_stride);
    }
    for (uint32_t g = 0; g < tile->groups; g++) {
        if (kind == SPIN_PANEL_HALVES) {
            add_dots(tile, kind, (struct span){g, 0, 4, 0}, acc, rows);
            add_dots(tile, kind, (struct span){g, 4, 8, 1}, acc, rows);
        } else {
            add_dots(tile, kind, (struct span){g, 0, 8, 0}, acc, rows);
        }
        if (kind == SPIN_PANEL_NIBBLE_MIN) {
            const __m512 min = _mm512_load_ps(tile->panel->min[g]);
            for (uint32_t m = 0; m < rows; m++) {
                const __m512 sum = _mm512_set1_ps(tile->group[m * group_stride + g].d_sum);
                acc[m] = _mm512_fmadd_ps(min, sum, acc[m]);
            }
        }
    }
    for (uint32_t m = 0; m < rows; m++) {
        _mm512_storeu_ps(tile->acc + m * tile->acc_stride, acc[m]);
    }
}

/* One copy of the code for eight, four and one row, so that the sums are registers. */
INLINE void tile_kind(const struct spin_tile *tile, enum spin_panel_kind kind, uint32_t rows)
{
    struct spin_tile part = *tile;
    while (rows != 0) {
        const uint32_t count = rows >= SPIN_TILE_M ? SPIN_TILE_M : rows >= 4 ? 4 : 1;
        if (count == SPIN_TILE_M) {
            tile_rows(&part, kind, SPIN_TILE_M);
        } else if (count == 4) {
            tile_rows(&part, kind, 4);
        } else {
            tile_rows(&part, kind, 1);
        }
        part.q += count * part.q_stride;
        part.group += count * (part.q_stride / SPIN_GROUP);
        part.acc += count * part.acc_stride;
        rows -= count;
    }
}

void spin_tile_avx512(const struct spin_tile *tile, enum spin_panel_kind kind, uint32_t rows)
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
    __m512 acc[SPIN_TILE_M];
    for (uint32_t m = 0; m < rows; m++) {
        acc[m] = _mm512_loadu_ps(tile->acc + m * tile->acc_stride);
    }
    for (uint32_t k = 0; k < tile->values; k++) {
        const __m512 w = _mm512_load_ps(tile->panel->w[k]);
        for (uint32_t m = 0; m < rows; m++) {
            acc[m] = _mm512_fmadd_ps(_mm512_set1_ps(tile->x[m * tile->x_stride + k]), w, acc[m]);
        }
    }
    for (uint32_t m = 0; m < rows; m++) {
        _mm512_storeu_ps(tile->acc + m * tile->acc_stride, acc[m]);
    }
}

void spin_float_tile_avx512(const struct spin_float_tile *tile, uint32_t rows)
{
    if (rows == SPIN_TILE_M) {
        float_tile_rows(tile, SPIN_TILE_M);
        return;
    }
    struct spin_float_tile row = *tile;
    for (uint32_t m = 0; m < rows; m++) {
        float_tile_rows(&row, 1);
        row.x += row.x_stride;
        row.acc += row.acc_stride;
    }
}
