#include "kernels/kernels_internal.h"
#include "kernels/kv_append.h"
#include "kernels/simd_cpu.h"

/* head_dim is a multiple of 8. */
static void round_row(uint16_t *target, const float *source, uint32_t count)
{
    for (uint32_t i = 0; i < count; i += 8) {
        _mm_storeu_si128((__m128i *)(void *)(target + i),
                         spin_bf16_from_f32x8(_mm256_loadu_ps(source + i)));
    }
}

static void append_token(const struct spin_kv_append_args *args, uint32_t sequence, uint32_t m)
{
    const struct spin_page_lists *pages = &args->pages;
    const uint32_t head_dim = pages->layout.head_dim;
    const uint32_t kv_heads = args->k.cols / head_dim;
    const uint32_t places_before_last = args->spans.first[sequence + 1] - 1 - m;
    for (uint32_t h = 0; h < kv_heads; h++) {
        const uint64_t row = (uint64_t)sequence * kv_heads + h;
        SPIN_ASSERT_LT(places_before_last, pages->visible[row]);
        const uint32_t token = pages->visible[row] - 1 - places_before_last;
        const uint64_t column = (uint64_t)h * head_dim;
        round_row(spin_list_k(pages, row, token), spin_matrix_row(&args->k, m) + column, head_dim);
        round_row(spin_list_v(pages, row, token), spin_matrix_row(&args->v, m) + column, head_dim);
    }
}

static void run(void *context, uint32_t thread, uint32_t threads)
{
    const struct spin_kv_append_args *args = *(const struct spin_kv_append_args *const *)context;
    const struct spin_spans *spans = &args->spans;
    const struct spin_range share = spin_cut(spans->first[spans->count], 1, thread, threads);
    for (uint32_t s = 0; s < spans->count; s++) {
        const uint32_t begin = (uint32_t)SPIN_MAX(share.begin, spans->first[s]);
        const uint32_t end = (uint32_t)SPIN_MIN(share.end, spans->first[s + 1]);
        for (uint32_t m = begin; m < end; m++) {
            append_token(args, s, m);
        }
    }
}

spin_status spin_kv_append_cpu(const struct spin_kv_append_args *args, struct spin_stream *stream)
{
    spin_matrix_check(&args->k);
    spin_matrix_check(&args->v);
    spin_pages_check(&args->pages);
    SPIN_ASSERT_EQ(args->k.cols % args->pages.layout.head_dim, 0);
    SPIN_ASSERT_EQ(args->k.cols, args->v.cols);
    spin_run_rows(stream, run, &args, (uint64_t)args->k.rows * args->k.cols);
    return SPIN_OK;
}
