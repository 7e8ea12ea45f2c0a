#include "kernels/rope_table.h"

#include "base/assert.h"

#include <math.h>

uint64_t spin_rope_table_bytes(uint32_t positions, uint32_t rotary_dim)
{
    return (uint64_t)positions * rotary_dim * sizeof(float);
}

void spin_rope_table_fill(const struct spin_rope_frequencies *frequencies, uint32_t first,
                          uint32_t count, float *rows)
{
    SPIN_ASSERT_EQ(frequencies->rotary_dim % 2, 0);
    const uint32_t half = frequencies->rotary_dim / 2;
    for (uint32_t p = first; p < first + count; p++) {
        for (uint32_t i = 0; i < half; i++) {
            const double angle = p * frequencies->frequency[i];
            rows[0] = (float)(frequencies->magnitude * cos(angle));
            rows[1] = (float)(frequencies->magnitude * sin(angle));
            rows += 2;
        }
    }
}
