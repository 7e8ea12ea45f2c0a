/* What the two attentions share: the limits and the workspace. */
#include "kernels/attention.h"

#include "kernels/kernels_internal.h"

void spin_attention_check(const struct spin_attention_args *args)
{
    const uint32_t head_dim = args->pages.layout.head_dim;
    spin_matrix_check(&args->q);
    spin_matrix_check(&args->out);
    spin_pages_check(&args->pages);
    SPIN_ASSERT_EQ(args->q.rows, args->out.rows);
    SPIN_ASSERT_EQ(args->q.cols, (uint64_t)args->q_heads * head_dim);
    SPIN_ASSERT_EQ(args->out.cols, args->q.cols);
    SPIN_ASSERT_EQ(args->q_heads % args->pages.layout.kv_heads, 0);
    SPIN_ASSERT_LE(args->spans.first[args->spans.count], args->q.rows);
}

/* Partials of every split of the sequences that are cut over splits; see attention_cpu.c. */
uint64_t spin_attention_workspace_bytes(const struct spin_attention_args *args)
{
    const uint64_t sequences = SPIN_MIN(args->spans.count, SPIN_ATTENTION_SPLIT_SEQUENCES_MAX);
    const uint64_t split_tokens = SPIN_SPLIT_TOKENS;
    const uint64_t splits = (args->visible_max + split_tokens - 1) / split_tokens;
    const uint64_t partial_floats = args->pages.layout.head_dim + 2;
    return sequences * args->q_heads * splits * partial_floats * sizeof(float);
}
