/* dtype: the number formats that tensors come in: names and sizes.
 *
 * Why        File readers, weights and kernels name the same formats; conversions are kernels'
 *            matter (kernels/dtype.h), so that a router which reads a tokenizer from a GGUF file
 *            links none.
 * Layout     Block bytes: kernels/dtype.h.
 * Threading  Any thread; pure. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

/* X(name, values per block, bytes per block) */
#define SPIN_DTYPE_MAP(X) \
    X(F32, 1, 4) \
    X(F16, 1, 2) \
    X(BF16, 1, 2) \
    X(Q8_0, 32, 34) \
    X(Q4_0, 32, 18) \
    X(Q4_1, 32, 20) \
    X(Q4_K, 256, 144) \
    X(Q6_K, 256, 210)

#define SPIN_DTYPE_ENUM(name, values, bytes) SPIN_DTYPE_##name,
enum spin_dtype { SPIN_DTYPE_MAP(SPIN_DTYPE_ENUM) SPIN_DTYPE_COUNT };
#undef SPIN_DTYPE_ENUM

const char *spin_dtype_name(enum spin_dtype dtype); /* "Q4_1" */
uint32_t spin_dtype_block_values(enum spin_dtype dtype);
uint32_t spin_dtype_block_bytes(enum spin_dtype dtype);
/* Bytes of a row of `cols` values; cols must be a multiple of the block (asserted). */
uint64_t spin_dtype_row_bytes(enum spin_dtype dtype, uint64_t cols);

SPIN_END_DECLS
