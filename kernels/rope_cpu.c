#include "kernels/kernels_internal.h"
#include "kernels/rope.h"

/* Pair i is (a[i * step], b[i * step]); the loops are the compiler's to vectorise, which changes no
 * bit: every product and sum is rounded on its own. */
static void rotate_halves(float *a, float *b, const float *cos_sin, uint32_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        const float x = a[i];
        const float y = b[i];
        const float c = cos_sin[2 * i];
        const float s = cos_sin[2 * i + 1];
        a[i] = x * c - y * s;
        b[i] = x * s + y * c;
    }
}

static void rotate_neighbours(float *pairs, const float *cos_sin, uint32_t count)
{
    for (uint64_t i = 0; i < (uint64_t)2 * count; i += 2) {
        const float x = pairs[i];
        const float y = pairs[i + 1];
        const float c = cos_sin[i];
        const float s = cos_sin[i + 1];
        pairs[i] = x * c - y * s;
        pairs[i + 1] = x * s + y * c;
    }
}

static void run(void *context, uint32_t thread, uint32_t threads)
{
    const struct spin_rope_args *args = *(const struct spin_rope_args *const *)context;
    const struct spin_rope_table *table = &args->table;
    const uint32_t half = table->rotary_dim / 2;
    const struct spin_range rows = spin_cut(args->x.rows, 1, thread, threads);
    for (uint64_t m = rows.begin; m < rows.end; m++) {
        SPIN_ASSERT_LT(args->positions[m], table->positions);
        spin_rope_norm_row(args, m, spin_rms_norm_rows_cpu);
        const float *cos_sin = table->cos_sin + (uint64_t)args->positions[m] * half * 2;
        for (uint32_t h = 0; h < args->heads; h++) {
            float *x = spin_matrix_row(&args->x, m) + (uint64_t)h * args->head_dim;
            if (table->pairs == SPIN_ROPE_HALVES) {
                rotate_halves(x, x + half, cos_sin, half);
            } else {
                rotate_neighbours(x, cos_sin, half);
            }
        }
    }
}

spin_status spin_rope_cpu(const struct spin_rope_args *args, struct spin_stream *stream)
{
    spin_matrix_check(&args->x);
    SPIN_ASSERT_EQ(args->x.cols, (uint64_t)args->heads * args->head_dim);
    SPIN_ASSERT_EQ(args->table.rotary_dim % 2, 0);
    SPIN_ASSERT_LE(args->table.rotary_dim, args->head_dim);
    spin_run_rows(stream, run, &args, (uint64_t)args->x.rows * args->x.cols);
    return SPIN_OK;
}
