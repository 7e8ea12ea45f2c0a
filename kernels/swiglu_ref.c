#include "kernels/swiglu.h"

#include "kernels/kernels_internal.h"

#include <math.h>

spin_status spin_swiglu_ref(const struct spin_swiglu_args *args, struct spin_stream *stream)
{
    (void)stream;
    spin_matrix_check(&args->y);
    spin_matrix_check(&args->gate);
    spin_matrix_check(&args->up);
    SPIN_ASSERT_EQ(args->gate.cols, args->y.cols);
    SPIN_ASSERT_EQ(args->up.cols, args->y.cols);
    for (uint32_t m = 0; m < args->y.rows; m++) {
        float *y = spin_matrix_row(&args->y, m);
        const float *gate = spin_matrix_row(&args->gate, m);
        const float *up = spin_matrix_row(&args->up, m);
        for (uint32_t c = 0; c < args->y.cols; c++) {
            const double a = (double)gate[c];
            y[c] = (float)(a / (1 + exp(-a)) * (double)up[c]);
        }
    }
    return SPIN_OK;
}
