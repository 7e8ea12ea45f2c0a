#include "kernels/kernels_internal.h"
#include "kernels/rms_norm.h"
#include "kernels/simd_cpu.h"

#include <math.h>

/* Eight lanes of partial sums whatever the width; the tail goes to the lanes it falls into. */
static float sum_squares(const float *x, uint32_t cols)
{
    __m256 sum = _mm256_setzero_ps();
    uint32_t c = 0;
    for (; c + 8 <= cols; c += 8) {
        const __m256 value = _mm256_loadu_ps(x + c);
        sum = _mm256_fmadd_ps(value, value, sum);
    }
    if (c < cols) {
        const __m256 value = _mm256_maskload_ps(x + c, spin_mask8(cols - c));
        sum = _mm256_fmadd_ps(value, value, sum);
    }
    return spin_sum8(sum);
}

static void run(void *context, uint32_t thread, uint32_t threads)
{
    const struct spin_rms_norm_args *args = *(const struct spin_rms_norm_args *const *)context;
    const uint32_t cols = args->x.cols;
    const struct spin_range rows = spin_cut(args->x.rows, 1, thread, threads);
    for (uint64_t r = rows.begin; r < rows.end; r++) {
        const float *x = spin_matrix_row(&args->x, r);
        float *y = spin_matrix_row(&args->y, r);
        const float scale = 1.0F / sqrtf(sum_squares(x, cols) / (float)cols + args->eps);
        for (uint32_t c = 0; c < cols; c++) {
            y[c] = x[c] * scale * args->weight[c];
        }
    }
}

void spin_rms_norm_rows_cpu(const struct spin_rms_norm_args *args)
{
    run(&args, 0, 1);
}

spin_status spin_rms_norm_cpu(const struct spin_rms_norm_args *args, struct spin_stream *stream)
{
    spin_matrix_check(&args->x);
    spin_matrix_check(&args->y);
    SPIN_ASSERT_EQ(args->x.rows, args->y.rows);
    SPIN_ASSERT_EQ(args->x.cols, args->y.cols);
    spin_run_rows(stream, run, &args, (uint64_t)args->x.rows * args->x.cols);
    return SPIN_OK;
}
