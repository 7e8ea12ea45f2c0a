#include "kernels/kernels_internal.h"
#include "kernels/simd_cpu.h"
#include "kernels/swiglu.h"

static __m256 swiglu8(__m256 gate, __m256 up)
{
    const __m256 one = _mm256_set1_ps(1.0F);
    const __m256 negated = _mm256_xor_ps(gate, _mm256_set1_ps(-0.0F));
    const __m256 silu = _mm256_div_ps(gate, _mm256_add_ps(one, spin_exp8(negated)));
    return _mm256_mul_ps(silu, up);
}

static void swiglu_row(float *y, const float *gate, const float *up, uint32_t cols)
{
    uint32_t c = 0;
    for (; c + 8 <= cols; c += 8) {
        _mm256_storeu_ps(y + c, swiglu8(_mm256_loadu_ps(gate + c), _mm256_loadu_ps(up + c)));
    }
    if (c < cols) {
        const __m256i mask = spin_mask8(cols - c);
        const __m256 value =
            swiglu8(_mm256_maskload_ps(gate + c, mask), _mm256_maskload_ps(up + c, mask));
        _mm256_maskstore_ps(y + c, mask, value);
    }
}

static void run(void *context, uint32_t thread, uint32_t threads)
{
    const struct spin_swiglu_args *args = *(const struct spin_swiglu_args *const *)context;
    const struct spin_range rows = spin_cut(args->y.rows, 1, thread, threads);
    for (uint64_t m = rows.begin; m < rows.end; m++) {
        swiglu_row(spin_matrix_row(&args->y, m), spin_matrix_row(&args->gate, m),
                   spin_matrix_row(&args->up, m), args->y.cols);
    }
}

spin_status spin_swiglu_cpu(const struct spin_swiglu_args *args, struct spin_stream *stream)
{
    spin_matrix_check(&args->y);
    spin_matrix_check(&args->gate);
    spin_matrix_check(&args->up);
    SPIN_ASSERT_EQ(args->gate.cols, args->y.cols);
    SPIN_ASSERT_EQ(args->up.cols, args->y.cols);
    spin_run_rows(stream, run, &args, (uint64_t)args->y.rows * args->y.cols);
    return SPIN_OK;
}
