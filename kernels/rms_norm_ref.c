#include "kernels/rms_norm.h"

#include "kernels/kernels_internal.h"

#include <math.h>

void spin_rms_norm_rows_ref(const struct spin_rms_norm_args *args)
{
    const uint32_t cols = args->x.cols;
    for (uint32_t r = 0; r < args->x.rows; r++) {
        const float *x = spin_matrix_row(&args->x, r);
        float *y = spin_matrix_row(&args->y, r);
        double squares = 0;
        for (uint32_t c = 0; c < cols; c++) {
            squares += (double)x[c] * (double)x[c];
        }
        const double scale = 1 / sqrt(squares / cols + (double)args->eps);
        for (uint32_t c = 0; c < cols; c++) {
            y[c] = (float)((double)x[c] * scale * (double)args->weight[c]);
        }
    }
}

spin_status spin_rms_norm_ref(const struct spin_rms_norm_args *args, struct spin_stream *stream)
{
    (void)stream;
    spin_matrix_check(&args->x);
    spin_matrix_check(&args->y);
    SPIN_ASSERT_EQ(args->x.rows, args->y.rows);
    SPIN_ASSERT_EQ(args->x.cols, args->y.cols);
    spin_rms_norm_rows_ref(args);
    return SPIN_OK;
}
