#include "kernels/embed.h"
#include "kernels/kernels_internal.h"

/* Exact by definition, and one row per token: all that is gained is that rows are shared out. */
static void run(void *context, uint32_t thread, uint32_t threads)
{
    const struct spin_embed_args *args = *(const struct spin_embed_args *const *)context;
    const struct spin_range rows = spin_cut(args->y.rows, 1, thread, threads);
    for (uint64_t m = rows.begin; m < rows.end; m++) {
        const int32_t token = args->tokens[m];
        SPIN_ASSERT_GE(token, 0);
        SPIN_ASSERT_LT(token, (int64_t)args->table.rows);
        spin_dtype_to_f32(args->table.dtype, spin_weight_row(&args->table, (uint64_t)token),
                          spin_matrix_row(&args->y, m), args->y.cols);
    }
}

spin_status spin_embed_cpu(const struct spin_embed_args *args, struct spin_stream *stream)
{
    spin_matrix_check(&args->y);
    SPIN_ASSERT_EQ(args->y.cols, args->table.cols);
    spin_run_rows(stream, run, &args, (uint64_t)args->y.rows * args->y.cols);
    return SPIN_OK;
}
