/* rms_norm: y[r][c] = x[r][c] / sqrt(mean_c(x[r]^2) + eps) * w[c].
 *
 * Layout     x, y: [rows][cols] activations with any stride; w: [cols] F32. y may be x exactly
 *            where both are of one type. _cuda: y BF16, x BF16 or F32 (the residual stream).
 *            Per-head norms (qwen3) are the same op over [tokens * heads][head_dim].
 * Limits     1 <= cols <= 65536; rows may be 0.
 * Execution  Asynchronous on `stream`; no allocation. Sums in F32 or better.
 * Invariance Row-invariant: yes. */
#pragma once

#include "kernels/device.h"
#include "kernels/matrix.h"

SPIN_BEGIN_DECLS

struct spin_rms_norm_args {
    struct spin_matrix y; /* out */
    struct spin_matrix x; /* in */
    const float *weight;  /* in [cols] */
    float eps;
};

spin_status spin_rms_norm_ref(const struct spin_rms_norm_args *args, struct spin_stream *stream);
spin_status spin_rms_norm_cpu(const struct spin_rms_norm_args *args, struct spin_stream *stream);
spin_status spin_rms_norm_cuda(const struct spin_rms_norm_args *args, struct spin_stream *stream);

SPIN_END_DECLS
