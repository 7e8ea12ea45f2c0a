/* embed: y[m][:] = W[token[m]][:], de-quantised.
 *
 * Layout     y: [rows][hidden] F32 on every backend: the residual stream; W: [vocab][hidden] any
 *            dtype; tokens: [rows] int32.
 * Limits     0 <= token < W.rows (checked by the engine before it gets here; asserted).
 * Execution  Asynchronous on `stream`; no allocation.
 * Invariance Row-invariant: yes. Bit-equal to the reference: yes (exact). */
#pragma once

#include "kernels/device.h"
#include "kernels/matrix.h"

SPIN_BEGIN_DECLS

struct spin_embed_args {
    struct spin_matrix y;     /* out */
    const int32_t *tokens;    /* in [y.rows] */
    struct spin_weight table; /* in */
};

spin_status spin_embed_ref(const struct spin_embed_args *args, struct spin_stream *stream);
spin_status spin_embed_cpu(const struct spin_embed_args *args, struct spin_stream *stream);
spin_status spin_embed_cuda(const struct spin_embed_args *args, struct spin_stream *stream);

SPIN_END_DECLS
