// One block a row.
#include "bench/gpu/model/put.h"
#include "kernels/ops_cuda.cuh"

#define THREADS 128

__global__ void put_row(struct spin_put_args args)
{
    const uint32_t row = blockIdx.x;
    const uint32_t count = args.page_count[row];
    const uint16_t *pages = args.pages + (uint64_t)row * args.stride;
    uint16_t *out = args.lists.pages + (uint64_t)row * args.lists.stride;
    for (uint32_t i = threadIdx.x; i < count; i += THREADS) {
        out[i] = pages[i];
    }
    if (threadIdx.x == 0) {
        args.lists.page_count[row] = count;
    }
}

spin_status spin_put_cuda(const struct spin_put_args *args, struct spin_stream *stream)
{
    put_row<<<args->rows, THREADS, 0, spin_stream_cuda(stream)>>>(*args);
    return spin_cuda_launched("put");
}
