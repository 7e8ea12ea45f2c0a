#include "bench/kv/accounting.h"

/* 100 GB over the 335,544,320 pages of the paper's case. */
#define PAPER_PAGE_BYTES 298u
#define LEAN_PAGE_BYTES 4u
#define ENTRY_BYTES 2u /* of directory and leaves */

/* The first five are what a cluster descriptor of RetroInfer holds (arXiv 2505.02922), the earlier
 * work of the same group; no list of single fields comes near 298 bytes, so the rest must be room
 * for the longest list of page numbers that a partition may have. */
const struct spin_paper_field spin_paper_fields[SPIN_PAPER_FIELDS] = {
    {"resident flag, valid tokens", 4},
    {"place in host memory", 8},
    {"number of pages", 4},
    {"recency links", 16},
    {"owner", 2},
    {"page list for the worst case: 33 ids of 8 bytes", 264},
};

static uint64_t rows(const struct spin_accounting_case *shape)
{
    return (uint64_t)shape->layout.layers * shape->layout.kv_heads * shape->batch;
}

static uint64_t pages_of_row(const struct spin_accounting_case *shape)
{
    return shape->tokens / shape->page_tokens + (shape->tokens % shape->page_tokens != 0);
}

uint64_t spin_accounting_pages(const struct spin_accounting_case *shape)
{
    return rows(shape) * pages_of_row(shape);
}

uint64_t spin_accounting_paper_flat(const struct spin_accounting_case *shape)
{
    return spin_accounting_pages(shape) * PAPER_PAGE_BYTES;
}

uint64_t spin_accounting_lean_flat(const struct spin_accounting_case *shape)
{
    return spin_accounting_pages(shape) * LEAN_PAGE_BYTES;
}

/* Of one sequence, all rows: what it should have before its working set is known. */
static uint64_t target_slabs(const struct spin_accounting_case *shape)
{
    const struct spin_kv_budget budget = {.layers = shape->layout.layers,
                                          .kv_heads = shape->layout.kv_heads,
                                          .page_tokens = shape->page_tokens,
                                          .demand = shape->demand};
    uint64_t slabs = 0;
    for (uint32_t layer = 0; layer < shape->layout.layers; layer++) {
        slabs += spin_kv_target_row(&budget, layer, shape->tokens, 0);
    }
    return slabs * shape->layout.kv_heads;
}

struct spin_kv_config spin_accounting_config(const struct spin_accounting_case *shape,
                                             enum spin_kv_replacement replacement)
{
    struct spin_kv_config config = {.layout = shape->layout,
                                    .sequences_max = shape->batch,
                                    .tokens_max = shape->tokens,
                                    .page_tokens = shape->page_tokens,
                                    .partition_tokens = shape->partition_tokens,
                                    .replacement = replacement,
                                    .demand = shape->demand};
    config.hbm_bytes = shape->batch * target_slabs(shape) * spin_kv_slab_bytes(&config);
    config.host_bytes = (uint64_t)shape->batch * spin_kv_blocks_for(shape->tokens) *
                        spin_block_bytes(&shape->layout);
    return config;
}

double spin_accounting_slots(const struct spin_accounting_case *shape)
{
    return (double)(target_slabs(shape) * SPIN_SLAB_SLOTS) /
           (shape->layout.layers * shape->layout.kv_heads);
}

uint64_t spin_accounting_tables(const struct spin_kv_table_bytes *bytes)
{
    return bytes->directory + bytes->page_table + bytes->stamps + bytes->slab_lists;
}

uint64_t spin_accounting_granted(const struct spin_accounting_case *shape)
{
    return shape->batch * target_slabs(shape) / shape->layout.kv_heads * sizeof(uint32_t);
}

double spin_accounting_leaves(const struct spin_accounting_case *shape, uint32_t leaf_pages,
                              double used)
{
    const uint64_t leaves = (pages_of_row(shape) + leaf_pages - 1) / leaf_pages;
    return (double)(rows(shape) * leaves) * ENTRY_BYTES * (1 + used * leaf_pages);
}

double spin_accounting_leaves_built(const struct spin_accounting_case *shape, uint32_t leaf_pages)
{
    const double slots = (double)(shape->batch * target_slabs(shape) * SPIN_SLAB_SLOTS);
    return spin_accounting_leaves(shape, leaf_pages, 0) + slots * leaf_pages * ENTRY_BYTES;
}
