#include "kernels/matmul.h"

#include "kernels/kernels_internal.h"

#include <string.h>

/* De-quantising costs as much as a dot product, and x would be read once per weight row: four rows
 * at a time keep a prompt of a thousand tokens within seconds. Every sum stays on its own. */
#define ROWS 4u
#define COLS_MAX UINT64_C(65536)
_Static_assert(ROWS *COLS_MAX * sizeof(double) <= SPIN_SCRATCH_BYTES,
               "weight rows fit the scratch");

struct job {
    const struct spin_matmul_args *args;
    struct spin_stream *stream;
};

static void weight_rows_to_double(const struct spin_weight *weight, uint64_t first, double *w)
{
    float values[256]; /* the largest block */
    const uint32_t block = SPIN_MAX(32u, spin_dtype_block_values(weight->dtype));
    const uint64_t block_bytes = spin_dtype_row_bytes(weight->dtype, block);
    for (uint64_t r = 0; r < ROWS; r++) {
        if (first + r >= weight->rows) {
            memset(w + r * weight->cols, 0, weight->cols * sizeof *w);
            continue;
        }
        const uint8_t *source = spin_weight_row(weight, first + r);
        for (uint64_t k = 0; k < weight->cols; k += block) {
            spin_dtype_to_f32(weight->dtype, source + k / block * block_bytes, values, block);
            for (uint32_t i = 0; i < block; i++) {
                w[r * weight->cols + k + i] = (double)values[i];
            }
        }
    }
}

static void dot_rows(const float *x, const double *w, uint32_t cols, double sum[ROWS])
{
    const double *w1 = w + cols;
    const double *w2 = w1 + cols;
    const double *w3 = w2 + cols;
    double s0 = 0;
    double s1 = 0;
    double s2 = 0;
    double s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (uint32_t k = 0; k < cols; k++) {
        const double value = (double)x[k];
        s0 += value * w[k];
        s1 += value * w1[k];
        s2 += value * w2[k];
        s3 += value * w3[k];
    }
    sum[0] = s0;
    sum[1] = s1;
    sum[2] = s2;
    sum[3] = s3;
}

static void store(const struct spin_matmul_part *part, uint64_t m, uint64_t n, double sum)
{
    float *y = spin_matrix_row(&part->y, m) + n;
    if (part->bias != NULL) {
        sum += (double)part->bias[n];
    }
    if (part->accumulate) {
        sum += (double)*y;
    }
    *y = (float)sum;
}

static void multiply_part(const struct spin_matmul_args *args, const struct spin_matmul_part *part,
                          struct spin_range rows, double *w)
{
    for (uint64_t n = rows.begin; n < rows.end; n += ROWS) {
        weight_rows_to_double(&part->weight, n, w);
        for (uint64_t m = 0; m < args->x.rows; m++) {
            double sum[ROWS];
            dot_rows(spin_matrix_row(&args->x, m), w, args->x.cols, sum);
            for (uint64_t r = 0; r < ROWS && n + r < rows.end; r++) {
                store(part, m, n + r, sum[r]);
            }
        }
    }
}

static void run(void *context, uint32_t thread, uint32_t threads)
{
    const struct job *job = context;
    double *w = spin_stream_scratch(job->stream, thread);
    for (uint32_t p = 0; p < job->args->part_count; p++) {
        const struct spin_matmul_part *part = &job->args->parts[p];
        multiply_part(job->args, part, spin_cut(part->weight.rows, ROWS, thread, threads), w);
    }
}

spin_status spin_matmul_ref(const struct spin_matmul_args *args, struct spin_stream *stream)
{
    spin_matmul_check(args);
    SPIN_ASSERT_LE(args->x.cols, COLS_MAX);
    struct job job = {args, stream};
    spin_stream_parallel(stream, run, &job);
    return SPIN_OK;
}
