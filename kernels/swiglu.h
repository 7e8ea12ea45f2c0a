/* swiglu: y[m][c] = silu(gate[m][c]) * up[m][c], silu(a) = a / (1 + exp(-a)).
 *
 * Layout     y, gate, up: [rows][cols] activations; y may be gate or up exactly.
 * Execution  Asynchronous on `stream`; no allocation.
 * Invariance Row-invariant: yes. */
#pragma once

#include "kernels/device.h"
#include "kernels/matrix.h"

SPIN_BEGIN_DECLS

struct spin_swiglu_args {
    struct spin_matrix y;    /* out */
    struct spin_matrix gate; /* in */
    struct spin_matrix up;   /* in */
};

spin_status spin_swiglu_ref(const struct spin_swiglu_args *args, struct spin_stream *stream);
spin_status spin_swiglu_cpu(const struct spin_swiglu_args *args, struct spin_stream *stream);
spin_status spin_swiglu_cuda(const struct spin_swiglu_args *args, struct spin_stream *stream);

SPIN_END_DECLS
