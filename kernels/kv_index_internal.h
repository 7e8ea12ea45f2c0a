/* kv_index_internal: what the Indexes share: limits, and where keys and summaries lie.
 *
 * Why        A task is one partition of one row; finding it is the same for both.
 * Ownership  Borrows from the operation's arguments.
 * Threading  Any thread; pure.
 * Units      Tasks of a sequence: row after row, partitions ascending. */
#pragma once

#include "kernels/kv_index.h"
#include "kernels/kv_row.h"

SPIN_BEGIN_DECLS

struct spin_index_task {
    const uint32_t *slots; /* of the partition's pages */
    uint16_t *summary;
};

static inline uint64_t spin_index_tasks(const struct spin_kv_index_args *args, uint32_t sequence)
{
    const struct spin_kv_view *view = args->view;
    const uint32_t partition_pages = view->partition_tokens / view->page_tokens;
    return (uint64_t)args->ranges[sequence].count / partition_pages * view->layout.kv_heads;
}

static inline struct spin_index_task spin_index_task(const struct spin_kv_index_args *args,
                                                     uint32_t sequence, uint64_t index)
{
    const struct spin_kv_view *view = args->view;
    const struct spin_kv_range *range = &args->ranges[sequence];
    const uint32_t partition_pages = view->partition_tokens / view->page_tokens;
    const uint32_t partitions = range->count / partition_pages;
    const uint32_t head = (uint32_t)(index / partitions);
    const uint64_t place = index % partitions;
    const uint64_t row = (uint64_t)sequence * view->layout.kv_heads + head;
    const struct spin_index_task task = {
        spin_kv_range_slots(view, &args->batch, &args->lists, range, row) + place * partition_pages,
        (uint16_t *)(void *)spin_kv_summary(view, args->batch.sequence[sequence], args->batch.layer,
                                            head,
                                            range->first / partition_pages + (uint32_t)place)};
    return task;
}

/* K of token `token` of the partition. */
static inline const uint16_t *spin_index_key(const struct spin_kv_index_args *args,
                                             const struct spin_index_task *task, uint32_t token)
{
    const struct spin_kv_view *view = args->view;
    const uint8_t *page = spin_kv_slot_bytes(view, task->slots[token / view->page_tokens]);
    return (const uint16_t *)(const void *)(page + spin_page_k_offset(&view->layout,
                                                                      token % view->page_tokens));
}

static inline void spin_index_check(const struct spin_kv_index_args *args)
{
    const struct spin_kv_view *view = args->view;
    const uint64_t halves = args->summary == SPIN_SUMMARY_BOUNDS ? 2 : 1;
    SPIN_ASSERT_NE(args->summary, SPIN_SUMMARY_NONE);
    SPIN_ASSERT_EQ(view->layout.swizzle, SPIN_SWIZZLE_NONE);
    SPIN_ASSERT_EQ(view->layout.dtype, SPIN_KV_BF16);
    SPIN_ASSERT_EQ(view->layout.head_dim % 8, 0);
    SPIN_ASSERT_LE(view->layout.head_dim, SPIN_HEAD_DIM_MAX);
    SPIN_ASSERT_EQ(view->partition_tokens % view->page_tokens, 0);
    SPIN_ASSERT_EQ(SPIN_BLOCK_TOKENS % view->partition_tokens, 0);
    SPIN_ASSERT_EQ(view->summary_bytes, halves * view->layout.head_dim * sizeof(uint16_t));
    SPIN_ASSERT_LT(args->batch.layer, view->layout.layers);
    for (uint32_t s = 0; s < args->batch.count; s++) {
        const uint32_t partition_pages = view->partition_tokens / view->page_tokens;
        SPIN_ASSERT_EQ(args->ranges[s].first % partition_pages, 0);
        SPIN_ASSERT_EQ(args->ranges[s].count % partition_pages, 0);
    }
}

SPIN_END_DECLS
