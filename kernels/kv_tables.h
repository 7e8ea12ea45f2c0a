/* kv_tables: the tables and tiers of the KV manager as operations walk them: plain arrays.
 *
 * Why        The host grants and revokes slabs; inside a slab the device decides (D7). So what says
 *            where a page lies are arrays that a kernel reads and writes, and every change to them
 *            is an operation with a reference twin.
 * Words      page: P tokens of one (layer, kv head), number p of its sequence counts from 0. slot:
 *            a page's place in HBM; slab: SPIN_SLAB_SLOTS neighbouring slots of one row; slab
 *            group: kv_heads neighbouring slabs, one for each row of a layer, granted together.
 *            frame: a page's place in host memory. partition: what an algorithm selects, one page
 *            or more. table row: (sequence, layer, kv head), number (sequence * layers + layer) *
 *            kv_heads + head; its slot s is slot s % 16 of slab `head` of group slab_list[s / 16].
 * Tables     GPU meta-partition table (directory) and GPU page table (leaves): `bucketed` only.
 *            CPU page table: blocks[]; a page's frame is arithmetic inside its block. The CPU
 *            partition-offset table is arithmetic, too, as long as partitions have one size.
 *            slot_lru needs none of the first two: slot_page says what a slot holds.
 * Residency  RESIDENT: page p lies in slot p of its row, and nothing else is kept about it (the
 *            identity map). BUFFERED: tables say which pages are there.
 * Ownership  The manager owns every array; operations write only what is said to be theirs.
 * Threading  The stream's.
 * Units      Bytes, slots, slabs, pages, tokens, decode steps of the sequence. */
#pragma once

#include "kvstore/block/layout.h"

SPIN_BEGIN_DECLS

#define SPIN_SLAB_SLOTS 16u
/* Pages of a leaf of the GPU page table. Residents are scattered (measured by kv-metadata): larger
 * leaves are mostly empty, smaller ones make the directory the larger part. */
#define SPIN_LEAF_PAGES 4u
/* Of one row: numbers of slots and leaves are u16, slabs are whole, and NONE is nobody's number. */
#define SPIN_ROW_SLOTS_MAX (SPIN_ROW_PAGES_MAX / SPIN_SLAB_SLOTS * SPIN_SLAB_SLOTS)
#define SPIN_PAGE_NONE UINT16_MAX
#define SPIN_LEAF_NONE UINT16_MAX
#define SPIN_STAMP_FREE UINT8_MAX /* the slot holds nothing */
#define SPIN_LRU_AGE_MAX 254u     /* steps; older pages are all equally old */
#define SPIN_BUCKETS 64u          /* of `bucketed`: stamps 0..63 (arXiv 2604.26837, bucketed LRU) */
#define SPIN_BUCKET_SHIFT_MAX 26u /* a step that wraps (u32) then wraps its stamp, too */
#define SPIN_WORKING_SET_STEPS 12u

enum spin_kv_replacement { SPIN_KV_SLOT_LRU, SPIN_KV_BUCKETED };
#define SPIN_KV_REPLACEMENTS 2u

enum spin_kv_residency { SPIN_KV_RESIDENT, SPIN_KV_BUFFERED };

/* Of one table row; of the last resolve, except `dropped`. All 0 when a sequence is opened. */
struct spin_kv_counters {
    uint32_t hits;
    uint32_t misses;      /* the fresh page is neither */
    uint32_t evictions;   /* pages that gave their slot to another */
    uint32_t working_set; /* resident pages that were selected in the last 12 steps */
    uint32_t dropped;     /* pages that lost their slot to a resize since then, modulo 2^32 */
};

struct spin_kv_view {
    struct spin_kv_layout layout;
    uint32_t page_tokens;      /* P: 8 or 32 */
    uint32_t partition_tokens; /* a multiple of P that divides SPIN_BLOCK_TOKENS */
    uint32_t summary_bytes;    /* of a partition and row; 0: none */
    uint32_t slabs_max;        /* of a row; groups of a layer */
    uint32_t directory_max;    /* of a row: leaves that cover the longest sequence */
    uint32_t blocks_max;       /* of a sequence */
    uint32_t frame_blocks;     /* of `host`; block b's frames lie in block b % frame_blocks there */
    uint32_t bucket_shift;     /* bucketed: a bucket is 1 << bucket_shift steps */

    uint8_t *pool;      /* HBM: [slots][page bytes] */
    uint8_t *host;      /* host: [frame_blocks][block bytes], the canonical layout of a block */
    uint8_t *summaries; /* HBM: [blocks][layers][kv_heads][partitions of a block][summary_bytes] */

    /* Written by the host, read by operations. */
    const uint8_t *residency;   /* [sequences] enum spin_kv_residency */
    const uint32_t *slab_list;  /* [sequences][layers][slabs_max]: slab groups */
    const uint32_t *slab_count; /* [sequences][layers]: groups; slabs of each row */
    const uint32_t *blocks;     /* host: [sequences][blocks_max] */

    /* Written by kv_resolve and kv_resize alone, but for counters, which the manager zeroes. */
    uint16_t *slot_page;               /* slot_lru: [slots]; of free slots anything */
    uint8_t *stamp;                    /* [slots]: slot_lru: age in steps; bucketed: bucket */
    uint16_t *leaf;                    /* bucketed: [slots][SPIN_LEAF_PAGES]; slot s of a row
                                          brings its leaf s. An entry is the slot (of the row) that
                                          holds the page, or SPIN_PAGE_NONE; entry 0 of a free leaf
                                          is the next free one */
    uint16_t *directory;               /* bucketed: [table rows][directory_max]: leaf of the row */
    uint16_t *leaf_free;               /* bucketed: [table rows]: first free leaf */
    struct spin_kv_counters *counters; /* [table rows] */
};

/* The sequences of a decode step, or the one of a prefill unit, in one layer. */
struct spin_kv_batch {
    uint32_t layer;
    uint32_t count;
    const uint32_t *sequence; /* [count]: number in the tables */
    const uint32_t *tokens;   /* [count]: visible to the last query; its own token included */
    const uint32_t *step;     /* [count]: decode steps that the sequence has behind it */
};

struct spin_kv_miss {
    uint16_t page;
    uint16_t fresh; /* 1: nothing was ever written to it: zeros instead of its frame */
    uint32_t slot;  /* of the pool */
};

/* What Select and Retrieve hand on, by batch row: sequence of the batch * kv_heads + head. Rows
 * begin `stride` apart. Pages ascend; the last one holds the newest token. */
struct spin_kv_lists {
    uint32_t stride;
    uint16_t *pages;             /* out of kv_select */
    uint32_t *page_count;        /* out of kv_select */
    uint32_t *slots;             /* out of kv_resolve: pool slots, in the order of pages */
    uint32_t *visible;           /* out of kv_resolve: list tokens, for attention; as many pages */
    struct spin_kv_miss *misses; /* out of kv_resolve, in the order of pages */
    uint32_t *miss_count;        /* out of kv_resolve */
};

/* Sequences [first, first + count) of a batch, and their part of its lists. */
SPIN_INLINE struct spin_kv_batch spin_kv_batch_part(struct spin_kv_batch batch, uint32_t first,
                                                    uint32_t count)
{
    batch.count = count;
    batch.sequence += first;
    batch.tokens += first;
    batch.step += first;
    return batch;
}

SPIN_INLINE struct spin_kv_lists spin_kv_lists_part(struct spin_kv_lists lists, uint32_t first_row)
{
    const uint64_t entries = (uint64_t)first_row * lists.stride;
    lists.pages += entries;
    lists.page_count += first_row;
    lists.slots += entries;
    lists.visible += first_row;
    lists.misses += entries;
    lists.miss_count += first_row;
    return lists;
}

/* Pages [first, first + count) of each row of a sequence. */
struct spin_kv_range {
    uint32_t first;
    uint32_t count;
};

SPIN_INLINE uint32_t spin_kv_rows(const struct spin_kv_view *view)
{
    return view->layout.layers * view->layout.kv_heads;
}

SPIN_INLINE uint64_t spin_kv_table_row(const struct spin_kv_view *view, uint32_t sequence,
                                       uint32_t layer, uint32_t head)
{
    return ((uint64_t)sequence * view->layout.layers + layer) * view->layout.kv_heads + head;
}

/* The slab groups of the layer that a table row belongs to. */
SPIN_INLINE const uint32_t *spin_kv_slab_groups(const struct spin_kv_view *view, uint64_t table_row)
{
    return view->slab_list + table_row / view->layout.kv_heads * view->slabs_max;
}

/* Pool slot of slot s of the row of `head` whose layer has these groups. */
SPIN_INLINE uint32_t spin_kv_group_slot(const struct spin_kv_view *view, const uint32_t *groups,
                                        uint32_t head, uint32_t slot)
{
    return (groups[slot / SPIN_SLAB_SLOTS] * view->layout.kv_heads + head) * SPIN_SLAB_SLOTS +
           slot % SPIN_SLAB_SLOTS;
}

/* Pool slot of slot s of a table row. */
SPIN_INLINE uint32_t spin_kv_pool_slot(const struct spin_kv_view *view, uint64_t table_row,
                                       uint32_t slot)
{
    return spin_kv_group_slot(view, spin_kv_slab_groups(view, table_row),
                              (uint32_t)(table_row % view->layout.kv_heads), slot);
}

SPIN_INLINE uint8_t *spin_kv_slot_bytes(const struct spin_kv_view *view, uint32_t pool_slot)
{
    return view->pool + pool_slot * spin_page_bytes(&view->layout, view->page_tokens);
}

/* Where page `page` stands on the list of batch row `row`. A list ascends and ends with the newest
 * token's page: so do, backwards from there, the pages that the batch has just completed. */
SPIN_INLINE uint32_t spin_kv_list_entry(const struct spin_kv_view *view,
                                        const struct spin_kv_batch *batch,
                                        const struct spin_kv_lists *lists, uint64_t row,
                                        uint32_t page)
{
    const uint32_t newest = (batch->tokens[row / view->layout.kv_heads] - 1) / view->page_tokens;
    const uint32_t last = (lists->visible[row] - 1) / view->page_tokens;
    return last - (newest - page);
}

/* The frame of page `page` of (layer, head) of a sequence: CPU page table, then arithmetic. */
SPIN_INLINE uint8_t *spin_kv_frame_bytes(const struct spin_kv_view *view, uint32_t sequence,
                                         uint32_t layer, uint32_t head, uint32_t page)
{
    const uint32_t pages = SPIN_BLOCK_TOKENS / view->page_tokens;
    const uint64_t block = view->blocks[(uint64_t)sequence * view->blocks_max + page / pages];
    const uint64_t row = (uint64_t)layer * view->layout.kv_heads + head;
    return view->host + block % view->frame_blocks * spin_block_bytes(&view->layout) +
           (row * pages + page % pages) * spin_page_bytes(&view->layout, view->page_tokens);
}

/* The summary of partition `partition`; those of one block and row lie one after another. */
SPIN_INLINE uint8_t *spin_kv_summary(const struct spin_kv_view *view, uint32_t sequence,
                                     uint32_t layer, uint32_t head, uint32_t partition)
{
    const uint32_t partitions = SPIN_BLOCK_TOKENS / view->partition_tokens;
    const uint64_t block =
        view->blocks[(uint64_t)sequence * view->blocks_max + partition / partitions];
    const uint64_t row = (uint64_t)layer * view->layout.kv_heads + head;
    return view->summaries +
           ((block * spin_kv_rows(view) + row) * partitions + partition % partitions) *
               view->summary_bytes;
}

SPIN_END_DECLS
