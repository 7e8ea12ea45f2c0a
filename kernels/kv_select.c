/* What the Selects share: the limits and the workspace. */
#include "kernels/kv_select.h"

#include "kernels/kv_select_internal.h"

static void check_sequence(const struct spin_kv_select_args *args, uint32_t sequence)
{
    const struct spin_kv_view *view = args->view;
    const struct spin_kv_window *window = &args->windows[sequence];
    const uint32_t tokens = args->batch.tokens[sequence];
    SPIN_ASSERT_GE(tokens, 1);
    SPIN_ASSERT_LE(tokens, (uint64_t)view->blocks_max * SPIN_BLOCK_TOKENS);
    SPIN_ASSERT_LE((tokens - 1) / view->page_tokens, SPIN_ROW_PAGES_MAX - 1);
    SPIN_ASSERT_LE(window->sink_end, window->local_begin);
    SPIN_ASSERT_LE(window->local_begin, (tokens - 1) / view->partition_tokens + 1);
    if (spin_window_candidates(window) > 0) {
        SPIN_ASSERT_NE(args->summary, SPIN_SUMMARY_NONE);
        /* The newest token's partition is not indexed yet, even if it is whole. */
        SPIN_ASSERT_LT((uint64_t)window->local_begin * view->partition_tokens, tokens);
    }
}

void spin_kv_select_check(const struct spin_kv_select_args *args)
{
    const struct spin_kv_view *view = args->view;
    const uint32_t head_dim = view->layout.head_dim;
    SPIN_ASSERT(view->page_tokens == 8 || view->page_tokens == 32);
    SPIN_ASSERT_EQ(view->partition_tokens % view->page_tokens, 0);
    SPIN_ASSERT_EQ(SPIN_BLOCK_TOKENS % view->partition_tokens, 0);
    SPIN_ASSERT_LT(args->batch.layer, view->layout.layers);
    if (args->summary != SPIN_SUMMARY_NONE) {
        spin_matrix_check(&args->q);
        SPIN_ASSERT_LE(args->batch.count, args->q.rows);
        SPIN_ASSERT_EQ(args->q.cols, (uint64_t)args->q_heads * head_dim);
        SPIN_ASSERT_EQ(args->q_heads % view->layout.kv_heads, 0);
        SPIN_ASSERT_EQ(view->layout.dtype, SPIN_KV_BF16);
        SPIN_ASSERT_LE(head_dim, SPIN_HEAD_DIM_MAX);
        SPIN_ASSERT_EQ(head_dim % 8, 0);
        SPIN_ASSERT_EQ(view->summary_bytes, spin_summary_width(args) * sizeof(uint16_t));
    }
    for (uint32_t s = 0; s < args->batch.count; s++) {
        check_sequence(args, s);
    }
}

uint64_t spin_kv_select_candidates_max(const struct spin_kv_view *view)
{
    const uint64_t partitions = SPIN_BLOCK_TOKENS / view->partition_tokens;
    return (view->blocks_max * partitions + 15) / 16 * 16;
}

/* Per row: a counter on a line of its own, a maximum and a sum of each segment and query head, the
 * scores of each query head, and those of the row. The reference keeps the latter in double: they
 * fit, because a group has a query head at least. */
uint64_t spin_kv_select_row_bytes(const struct spin_kv_select_args *args)
{
    const uint64_t candidates = spin_kv_select_candidates_max(args->view);
    const uint64_t segments = (candidates + SPIN_SELECT_SEGMENT - 1) / SPIN_SELECT_SEGMENT;
    const uint64_t group = args->q_heads / args->view->layout.kv_heads;
    const uint64_t floats = segments * group * 2 + candidates * (group + 1);
    return (64 + floats * sizeof(float) + 63) / 64 * 64;
}

uint64_t spin_kv_select_workspace_bytes(const struct spin_kv_select_args *args)
{
    const uint64_t rows = (uint64_t)args->batch.count * args->view->layout.kv_heads;
    return rows * spin_kv_select_row_bytes(args);
}

struct spin_select_list spin_select_list_begin(const struct spin_kv_select_args *args,
                                               uint32_t sequence, uint64_t row)
{
    const struct spin_kv_view *view = args->view;
    const uint32_t tokens = args->batch.tokens[sequence];
    const struct spin_select_list list = {
        .pages = args->lists.pages + row * args->lists.stride,
        .stride = args->lists.stride,
        .partition_pages = view->partition_tokens / view->page_tokens,
        .end = (tokens - 1) / view->page_tokens + 1,
        .end_partitions = (tokens - 1) / view->partition_tokens + 1,
    };
    return list;
}

void spin_select_without_scores(const struct spin_kv_select_args *args, uint32_t sequence,
                                uint64_t row)
{
    const struct spin_kv_window *window = &args->windows[sequence];
    struct spin_select_list list = spin_select_list_begin(args, sequence, row);
    spin_select_list_add(&list, 0, window->k == 0 ? window->sink_end : window->local_begin);
    spin_select_list_add(&list, window->local_begin, list.end_partitions);
    args->lists.page_count[row] = list.count;
}
