/* matrix: the two views that operations take: activations and weights.
 *
 * Why        Every operation names its operands the same way, whatever their memory and format.
 * Ownership  Views borrow; the memory outlives every operation that was given the view.
 * Layout     Row-major. An activation row starts every `stride` elements; a weight row every
 *            spin_dtype_row_bytes(dtype, cols) bytes, without padding.
 * Threading  Any thread; values only.
 * Units      rows, cols, stride in elements. */
#pragma once

#include "kernels/dtype.h"

SPIN_BEGIN_DECLS

/* Activations: F32 on the CPU tables; on CUDA BF16, and F32 for the residual stream and logits.
 * 64-byte aligned base. */
struct spin_matrix {
    void *data;
    enum spin_dtype dtype;
    uint32_t rows;
    uint32_t cols;
    uint64_t stride;
};

/* y = x W^T uses rows = outputs (N), cols = inputs (K). */
struct spin_weight {
    const void *data;
    enum spin_dtype dtype;
    uint32_t rows;
    uint32_t cols;
};

SPIN_END_DECLS
