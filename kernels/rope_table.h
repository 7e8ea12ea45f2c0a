/* rope_table: fills the cos/sin table that rope reads.
 *
 * Why        Angles of position 100,000 have to be made in double precision, once, not per token.
 * Formula    table[p][i] = magnitude * {cos(p f_i), sin(p f_i)}; f_i already carries the model's
 *            scaling, magnitude is YaRN's (1 elsewhere).
 * Ownership  The caller's memory: spin_rope_table_bytes() bytes.
 * Threading  Any thread; pure.
 * Units      frequencies in radians per position, rotary_dim / 2 of them. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

struct spin_rope_frequencies {
    const double *frequency; /* [rotary_dim / 2] */
    uint32_t rotary_dim;
    double magnitude;
};

uint64_t spin_rope_table_bytes(uint32_t positions, uint32_t rotary_dim);
/* Writes the rows of positions [first, first + count) to `rows` ([count][rotary_dim / 2][2]): a
 * table of 128K positions is filled as sequences reach them. */
void spin_rope_table_fill(const struct spin_rope_frequencies *frequencies, uint32_t first,
                          uint32_t count, float *rows);

SPIN_END_DECLS
