/* In place of the CUDA backend where the build found no nvcc: there is no stream, so the empty
 * table is never called. */
#include "kernels/device.h"
#include "kernels/ops.h"

spin_status spin_stream_create_cuda(uint32_t ordinal, struct spin_stream **out,
                                    struct spin_error *err)
{
    (void)out;
    return spin_fail(err, SPIN_ERR_UNSUPPORTED, "GPU %u: this program was built without CUDA",
                     ordinal);
}

const struct spin_ops spin_ops_cuda = {
    .name = "cuda",
    .activation_dtype = SPIN_DTYPE_BF16,
    .swizzle = SPIN_SWIZZLE_NONE,
    .prefill_is_decode = false,
    .decode_rows_max = 64,
    .head_dims = {64, 128},
    .group_max = 16, /* kv_select.cu: two products of eight heads */
    .vocab_step = 4,
};
