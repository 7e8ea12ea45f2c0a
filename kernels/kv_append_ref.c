#include "kernels/kv_append.h"

#include "kernels/kernels_internal.h"

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
        const float *k = spin_matrix_row(&args->k, m) + (uint64_t)h * head_dim;
        const float *v = spin_matrix_row(&args->v, m) + (uint64_t)h * head_dim;
        uint16_t *page_k = spin_list_k(pages, row, token);
        uint16_t *page_v = spin_list_v(pages, row, token);
        for (uint32_t d = 0; d < head_dim; d++) {
            page_k[d] = spin_bf16_from_f32(k[d]);
            page_v[d] = spin_bf16_from_f32(v[d]);
        }
    }
}

spin_status spin_kv_append_ref(const struct spin_kv_append_args *args, struct spin_stream *stream)
{
    (void)stream;
    spin_matrix_check(&args->k);
    spin_matrix_check(&args->v);
    spin_pages_check(&args->pages);
    SPIN_ASSERT_EQ(args->k.cols % args->pages.layout.head_dim, 0);
    SPIN_ASSERT_EQ(args->k.cols, args->v.cols);
    for (uint32_t s = 0; s < args->spans.count; s++) {
        for (uint32_t m = args->spans.first[s]; m < args->spans.first[s + 1]; m++) {
            append_token(args, s, m);
        }
    }
    return SPIN_OK;
}
