#include "kernels/rope.h"

#include "kernels/kernels_internal.h"

static void rotate(float *a, float *b, const float *cos_sin)
{
    const double c = (double)cos_sin[0];
    const double s = (double)cos_sin[1];
    const double x = (double)*a;
    const double y = (double)*b;
    *a = (float)(x * c - y * s);
    *b = (float)(x * s + y * c);
}

spin_status spin_rope_ref(const struct spin_rope_args *args, struct spin_stream *stream)
{
    (void)stream;
    const struct spin_rope_table *table = &args->table;
    spin_matrix_check(&args->x);
    SPIN_ASSERT_EQ(args->x.cols, (uint64_t)args->heads * args->head_dim);
    SPIN_ASSERT_EQ(table->rotary_dim % 2, 0);
    SPIN_ASSERT_LE(table->rotary_dim, args->head_dim);
    const uint32_t half = table->rotary_dim / 2;
    for (uint32_t m = 0; m < args->x.rows; m++) {
        SPIN_ASSERT_LT(args->positions[m], table->positions);
        spin_rope_norm_row(args, m, spin_rms_norm_rows_ref);
        const float *cos_sin = table->cos_sin + (uint64_t)args->positions[m] * half * 2;
        for (uint32_t h = 0; h < args->heads; h++) {
            float *x = spin_matrix_row(&args->x, m) + (uint64_t)h * args->head_dim;
            for (uint64_t i = 0; i < half; i++) {
                if (table->pairs == SPIN_ROPE_HALVES) {
                    rotate(&x[i], &x[i + half], cos_sin + 2 * i);
                } else {
                    rotate(&x[2 * i], &x[2 * i + 1], cos_sin + 2 * i);
                }
            }
        }
    }
    return SPIN_OK;
}
