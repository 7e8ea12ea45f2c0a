/* accounting: what the tables of the KV manager cost for a case that no machine here can run.
 *
 * Why        The size of metadata is a claim about 70B models at 128K tokens; the manager's own
 *            arithmetic answers for any configuration without allocating it.
 * Beside it  paper flat: what arXiv 2604.26837 compares with, up to 100 GB for Llama-3.1-70B at
 *            128K and batch 32: 298 bytes for each page of 8 tokens and kv head. Its fields are not
 *            published; spin_paper_fields reconstructs them. lean flat: one int32 (a slot, or none)
 *            for each page: the least clever thing that works.
 * Threading  Any thread; pure.
 * Units      Bytes, pages, slots, tokens. */
#pragma once

#include "kvstore/manager/kv.h"

SPIN_BEGIN_DECLS

struct spin_accounting_case {
    struct spin_kv_layout layout;
    uint32_t tokens; /* of each sequence */
    uint32_t batch;
    uint32_t page_tokens;
    uint32_t partition_tokens;
    struct spin_kv_demand demand;
};

struct spin_paper_field {
    const char *name;
    uint32_t bytes; /* of a page of one kv head */
};
#define SPIN_PAPER_FIELDS 6u
extern const struct spin_paper_field spin_paper_fields[SPIN_PAPER_FIELDS];

/* Pages of all rows of all sequences. */
uint64_t spin_accounting_pages(const struct spin_accounting_case *shape);
uint64_t spin_accounting_paper_flat(const struct spin_accounting_case *shape);
uint64_t spin_accounting_lean_flat(const struct spin_accounting_case *shape);

/* A manager whose pool holds what every sequence should have: mandatory + 5x, in whole slabs. */
struct spin_kv_config spin_accounting_config(const struct spin_accounting_case *shape,
                                             enum spin_kv_replacement replacement);
/* Of a row, mean over layers. */
double spin_accounting_slots(const struct spin_accounting_case *shape);
/* HBM bytes that say where pages are: directory, page table, stamps, slab lists. A pass's lists are
 * workspace, summaries belong to the algorithm. */
uint64_t spin_accounting_tables(const struct spin_kv_table_bytes *bytes);
/* Entries of slab_list that name a slab group, in bytes: the rest has room for resident ones. */
uint64_t spin_accounting_granted(const struct spin_accounting_case *shape);

/* Directory and leaves of `leaf_pages` pages when `used` of the leaves that cover the contexts hold
 * a resident page, and no others exist. */
double spin_accounting_leaves(const struct spin_accounting_case *shape, uint32_t leaf_pages,
                              double used);
/* The same with a leaf for every slot, as the tables have it: the worst case cannot run out. */
double spin_accounting_leaves_built(const struct spin_accounting_case *shape, uint32_t leaf_pages);

SPIN_END_DECLS
