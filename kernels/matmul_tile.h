/* matmul_tile: the two halves of the fast matmul: weights unpacked into panels, and panels times x.
 *
 * Why        A weight row is unpacked once for all rows of x, into an order in which one vector
 *            lane is one output. The sum behind an output is then the same few operations for every
 *            tile shape and instruction set:
 *              block formats  acc = fma(scale * d, dot, acc), then, where there is a minimum,
 *                             acc = fma(min, d_sum, acc); group after group, dot being an exact
 *                             integer of 32 (Q6_K: 16) products
 *              plain formats  acc = fma(x[k], w[k], acc), k after k
 * Layout     panel: 16 rows. Bytes q[group][4 values][row][value]: one 32-bit lane holds four
 *            consecutive values of one row. Plain values: w[k][row].
 * Ownership  Panels and sums are the calling thread's scratch.
 * Threading  Any compute thread; pure.
 * Units      A group is 32 values of K. */
#pragma once

#include "kernels/kernels_internal.h"

SPIN_BEGIN_DECLS

#define SPIN_GROUP 32u
#define SPIN_PANEL_ROWS 16u
/* Chunks of K: with x's share a panel stays in a 32 KiB first-level cache. */
#define SPIN_PANEL_GROUPS 32u
#define SPIN_PANEL_VALUES 256u
/* Rows of x that one kernel call takes; what it keeps in registers. */
#define SPIN_TILE_M 8u

/* How the bytes of a panel are to be read. */
enum spin_panel_kind {
    SPIN_PANEL_NIBBLE_OFFSET, /* Q4_0: u8 0..15, value - 8 */
    SPIN_PANEL_NIBBLE_MIN,    /* Q4_1, Q4_K: u8 0..15, and a minimum */
    SPIN_PANEL_SIGNED,        /* Q8_0: int8 */
    SPIN_PANEL_HALVES,        /* Q6_K: u8 0..63, value - 32, a scale for each 16 */
    SPIN_PANEL_KINDS
};

struct spin_panel {
    uint8_t q[SPIN_PANEL_GROUPS][SPIN_GROUP / 4][SPIN_PANEL_ROWS][4] __attribute__((aligned(64)));
    float scale[SPIN_PANEL_GROUPS][2][SPIN_PANEL_ROWS]; /* [1] with SPIN_PANEL_HALVES only */
    float min[SPIN_PANEL_GROUPS][SPIN_PANEL_ROWS];
};

struct spin_float_panel {
    float w[SPIN_PANEL_VALUES][SPIN_PANEL_ROWS] __attribute__((aligned(64)));
};

/* Rows of x times one panel: acc[m][row] goes on from what it holds. */
struct spin_tile {
    const struct spin_panel *panel;
    uint32_t groups;
    const int8_t *q;                  /* x: the chunk's first value of the first row */
    const struct spin_x_group *group; /* and its first group */
    uint64_t q_stride;                /* bytes from row to row; a row has q_stride / 32 groups */
    float *acc;
    uint64_t acc_stride;
};

struct spin_float_tile {
    const struct spin_float_panel *panel;
    uint32_t values;
    const float *x;
    uint64_t x_stride;
    float *acc;
    uint64_t acc_stride;
};

/* rows <= SPIN_TILE_M rows of x. */
void spin_tile_avx2(const struct spin_tile *tile, enum spin_panel_kind kind, uint32_t rows);
void spin_tile_avx512(const struct spin_tile *tile, enum spin_panel_kind kind, uint32_t rows);
void spin_float_tile_avx2(const struct spin_float_tile *tile, uint32_t rows);
void spin_float_tile_avx512(const struct spin_float_tile *tile, uint32_t rows);

/* Where a panel comes from: 16 rows from `first_row`; rows beyond the end repeat the last one. */
struct spin_panel_source {
    const struct spin_weight *weight;
    uint64_t first_row;
    uint64_t first_value; /* a multiple of SPIN_PANEL_VALUES */
};
bool spin_dtype_is_plain(enum spin_dtype dtype); /* F32 F16 BF16 */
enum spin_panel_kind spin_panel_kind(enum spin_dtype dtype);
void spin_panel_unpack(const struct spin_panel_source *source, uint32_t groups,
                       struct spin_panel *panel);
void spin_float_panel_unpack(const struct spin_panel_source *source, uint32_t values,
                             struct spin_float_panel *panel);

/* x rounded to int8: d = max |x| / 127, q = x / d to nearest even. */
void spin_x_quantize(const float *x, uint64_t groups, int8_t *q, struct spin_x_group *group);

SPIN_END_DECLS
