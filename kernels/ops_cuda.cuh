/* ops_cuda: what the CUDA operations of this directory share and nobody else sees.
 *
 * Why        Launching and turning CUDA's errors into ours is the same in every op. Index
 *            arithmetic is that of the host's inline headers, which are compiled for the device as
 *            they are.
 * Ownership  Nothing is owned here; pointers are device memory, or host memory that is pinned and
 *            mapped (the host tier).
 * Threading  The stream's owner thread launches; kernels see const data.
 * Units      Bytes, rows, tokens. */
#pragma once

#include "base/assert.h"
#include "kernels/ops.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>

/* The CUDA stream behind a stream of spin_stream_create_cuda. */
cudaStream_t spin_stream_cuda(const struct spin_stream *stream);

/* After a launch: OK, or DEVICE_LOST with a log line that names the operation. */
spin_status spin_cuda_launched(const char *op);
