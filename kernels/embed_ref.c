#include "kernels/embed.h"

#include "kernels/kernels_internal.h"

spin_status spin_embed_ref(const struct spin_embed_args *args, struct spin_stream *stream)
{
    (void)stream;
    spin_matrix_check(&args->y);
    SPIN_ASSERT_EQ(args->y.cols, args->table.cols);
    for (uint32_t m = 0; m < args->y.rows; m++) {
        const int32_t token = args->tokens[m];
        SPIN_ASSERT_GE(token, 0);
        SPIN_ASSERT_LT(token, (int64_t)args->table.rows);
        spin_dtype_to_f32(args->table.dtype, spin_weight_row(&args->table, (uint64_t)token),
                          spin_matrix_row(&args->y, m), args->y.cols);
    }
    return SPIN_OK;
}
