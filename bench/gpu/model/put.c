#include "bench/gpu/model/put.h"

#include "base/assert.h"

#include <string.h>

spin_status spin_put_host(const struct spin_put_args *args, struct spin_stream *stream)
{
    SPIN_ASSERT(spin_device_is_host(stream));
    SPIN_ASSERT_LE(args->stride, args->lists.stride);
    for (uint32_t row = 0; row < args->rows; row++) {
        SPIN_ASSERT_LE(args->page_count[row], args->stride);
        memcpy(args->lists.pages + (uint64_t)row * args->lists.stride,
               args->pages + (uint64_t)row * args->stride,
               args->page_count[row] * sizeof *args->pages);
        args->lists.page_count[row] = args->page_count[row];
    }
    return SPIN_OK;
}
