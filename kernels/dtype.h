/* dtype: the exact bytes of the number formats (base/dtype.h) and their conversions.
 *
 * Why        Weights are multiplied as they lie in the file; every kernel shares these definitions.
 * Layout     F32 F16 BF16: plain little-endian values. The others are GGUF blocks
 *            (docs/formats.md):
 *            Q8_0 32 values, 34 bytes   f16 d; int8 q[32]                   x = d q
 *            Q4_0 32 values, 18 bytes   f16 d; u8 qs[16]                    x = d (q - 8)
 *            Q4_1 32 values, 20 bytes   f16 d, m; u8 qs[16]                 x = d q + m
 *            Q4_K 256 values, 144 bytes f16 d, dmin; u8 scales[12], qs[128] x = d sc q - dmin mn
 *            Q6_K 256 values, 210 bytes u8 ql[128], qh[64]; int8 sc[16]; f16 d   x = d sc (q - 32)
 * Threading  Any thread; pure.
 * Errors     None: a dtype from outside is checked where it is parsed (model/format). */
#pragma once

#include "base/dtype.h"
#include "base/status.h"

SPIN_BEGIN_DECLS

/* `count` values of one row as float, straight from the formulas above; exact. */
void spin_dtype_to_f32(enum spin_dtype dtype, const void *source, float *target, uint64_t count);

float spin_f32_from_f16(uint16_t bits);
uint16_t spin_f16_from_f32(float value); /* round to nearest even */
float spin_f32_from_bf16(uint16_t bits);
uint16_t spin_bf16_from_f32(float value); /* round to nearest even; NaN stays NaN */

SPIN_END_DECLS
