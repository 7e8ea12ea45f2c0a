/* In place of the kernel where the build found no nvcc: there is no stream for it. */
#include "bench/gpu/model/put.h"

spin_status spin_put_cuda(const struct spin_put_args *args, struct spin_stream *stream)
{
    (void)args;
    (void)stream;
    return SPIN_ERR_UNSUPPORTED;
}
