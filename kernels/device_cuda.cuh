/* device_cuda: what an operation keeps with its CUDA stream.
 *
 * Why        A library handle and its plans live as long as the stream does and are made once.
 * Ownership  The stream creates and destroys them.
 * Threading  The stream's owner thread.
 * Units      None.
 * Errors     NO_MEMORY, UNSUPPORTED. */
#pragma once

#include "kernels/ops_cuda.cuh"

struct spin_cuda_matmul; /* matmul.cu */

SPIN_MUST_USE spin_status spin_cuda_matmul_create(struct spin_cuda_matmul **out,
                                                  struct spin_error *err);
void spin_cuda_matmul_destroy(struct spin_cuda_matmul *matmul); /* NULL is allowed */

struct spin_cuda_matmul *spin_stream_cuda_matmul(const struct spin_stream *stream);
