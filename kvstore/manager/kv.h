/* kv: the SPIN KV manager: the KV of the sequences in flight, in two tiers.
 *
 * Why        All KV lies in host memory; HBM holds what the next steps will read. Who is resident,
 *            what a miss evicts and how slots are shared are decided here, and nothing else knows.
 * Tiers      host: blocks of 128 tokens, all rows, the authority on every sealed page: written as
 *            pages seal (write-behind), so that eviction is free. HBM: one pool of slots, granted
 *            to rows in slabs.
 * Planes     control: this module's host memory: sequences, slabs, blocks, budgets. data: the
 *            arrays of kernels/kv_tables.h, changed by operations alone (D7).
 * Gradient   A sequence that fits is RESIDENT: every page keeps its slot. When room is short, the
 *            sequence furthest above its target becomes BUFFERED and shrinks to it, then everybody
 *            shrinks towards the floor (budget.h). A suspended one has no slots, and loses nothing.
 * Passes     A decode step or a unit of prefill is a pass:
 *              decode    spin_kv_step_begin, then per layer: [Select into lists] spin_kv_resolve,
 *                        spin_kv_gather, kv_append, attention, [Index of spin_kv_sealed]
 *                        spin_kv_offload; spin_kv_step_end
 *              prefill   spin_kv_prefill_begin, kv_append, attention, [Index of spin_kv_sealed]
 *                        spin_kv_offload
 *            Prefill of a sequence that is not RESIDENT happens in an arena: slabs for the rows of
 *            one layer; earlier super-chunks of that layer are read back from the host first.
 * Claims     An active sequence claims spin_kv_claim_slabs() of its prompt until its first decode
 *            step has begun, because an arena stays until then; after that, and when it comes back
 *            with nothing left to prefill, the floor of its next step. Claims that fit the pool
 *            always get their slabs.
 * Ownership  The manager owns both tiers, tables, summaries and lists; the host tier is of
 *            spin_host_alloc. A sequence owns its blocks
 *            until close, its slabs until suspend or close.
 * Threading  The engine's thread only: that of the first spin_kv_open. Asserted by every call that
 *            names a sequence or belongs to a pass; not by create, destroy, spin_kv_get_view, the
 *            budget, the statistics of all and the calls for tests, which may also be made before
 *            there is an engine's thread and after it has ended.
 * Stream     Calls submit operations and copies, and do not wait for them. Whoever drives passes
 *            waits (spin_stream_sync) after the last operation of a pass, be it the manager's or
 *            not, and before the next call that is not of that pass: the manager then writes what
 *            the next pass reads, and spin_kv_step_end reads what this one counted. Calls between
 *            passes may follow one another without a wait. On the CPU operations are done when
 *            they return, and nobody has to wait.
 *            Tables that the host writes have a copy on the device, unless device memory is the
 *            host's; what has changed is sent before the next operation. Lists, tables, slots and
 *            what spin_kv_get_batch and spin_kv_sealed name are device memory.
 * Units      Tokens; blocks of SPIN_BLOCK_TOKENS; slabs of SPIN_SLAB_SLOTS slots; bytes.
 * Errors     AGAIN: no block, no slab or no sequence left and nothing has changed; the scheduler
 *            waits or preempts. LIMIT: over tokens_max. Others: what an operation returns; after
 *            one of those, tables and slots are worth nothing, and only close and destroy are
 *            allowed. No call allocates after create. */
#pragma once

#include "kernels/ops.h"
#include "kvstore/manager/budget.h"

SPIN_BEGIN_DECLS

/* Of one sequence. Page ids are u16, and so are slots of a row, which come in whole slabs: 65,520
 * pages, whatever the page size. */
#define SPIN_KV_TOKENS_MAX (SPIN_ROW_SLOTS_MAX * SPIN_TILE_TOKENS)

struct spin_kv; /* private to the manager */

struct spin_kv_config {
    struct spin_kv_layout layout;
    const struct spin_ops *ops;
    uint64_t hbm_bytes;     /* pool of slots; holds spin_kv_claim_slabs() of any length at least */
    uint64_t host_bytes;    /* blocks; one sequence of tokens_max at least */
    uint32_t sequences_max; /* open at once */
    uint32_t tokens_max;    /* of one sequence */
    uint32_t page_tokens;   /* 8 or 32 */
    uint32_t partition_tokens;
    uint32_t summary_bytes; /* of a partition of a row; 0: the algorithm keeps none */
    enum spin_kv_replacement replacement;
    uint32_t bucket_shift;
    /* Benches: the host tier has room for so many blocks, and block b's frames lie in block
     * b % frame_blocks of it. 0: one place for each block. */
    uint32_t frame_blocks;
    /* Nobody is RESIDENT: prompts go through the arena, all pages of a step through the tables, so
     * that Retrieve has work to do where everything would fit (--sparse-verify). */
    bool buffered;
    struct spin_kv_demand demand;
};

typedef struct spin_kv_seq {
    uint32_t v;
} spin_kv_seq;

SPIN_MUST_USE spin_status spin_kv_create(const struct spin_kv_config *config,
                                         struct spin_stream *stream, struct spin_kv **out,
                                         struct spin_error *err);
/* Every sequence must be closed by now (asserted). NULL is allowed. */
void spin_kv_destroy(struct spin_kv *kv);

/* --- a sequence's life --- */

SPIN_MUST_USE spin_status spin_kv_open(struct spin_kv *kv, spin_kv_seq *out);
/* Host blocks for tokens [0, tokens). */
SPIN_MUST_USE spin_status spin_kv_reserve(struct spin_kv *kv, spin_kv_seq seq, uint32_t tokens);
/* HBM for prefilling [0, tokens): resident where that fits without pressing anybody below target,
 * else an arena, for which others are pressed to their floors. The first `written` tokens are on
 * the host already (a suspended sequence). Reserved before. */
SPIN_MUST_USE spin_status spin_kv_activate(struct spin_kv *kv, spin_kv_seq seq, uint32_t tokens,
                                           uint32_t written);
/* The first `tokens` tokens of a sequence without slots are on the host: somebody else, a transfer
 * or a bench, wrote their frames and summaries. Reserved before; activated with all `written`. */
void spin_kv_adopt(struct spin_kv *kv, spin_kv_seq seq, uint32_t tokens);
/* Forgets its slots; open pages are written to the host first. It is activated before its next
 * pass. */
SPIN_MUST_USE spin_status spin_kv_suspend(struct spin_kv *kv, spin_kv_seq seq);
/* Gives back everything. */
void spin_kv_close(struct spin_kv *kv, spin_kv_seq seq);

/* --- passes --- */

struct spin_kv_step {
    spin_kv_seq seq;
    uint32_t tokens; /* visible, the token of this step included; reserved */
};

/* Slabs for one step of everybody named; a sequence whose prompt has just been prefilled in an
 * arena exchanges it for its target. AGAIN cannot come while the claims of all who are active fit
 * the pool. count <= sequences_max; a sequence is named once (asserted). */
SPIN_MUST_USE spin_status spin_kv_step_begin(struct spin_kv *kv, const struct spin_kv_step *steps,
                                             uint32_t count);
/* One unit: tokens [begin, end) of one layer. first: the first unit of this layer in its
 * super-chunk, so an arena has to read [0, begin) back. *out: lists for kv_append and attention. */
SPIN_MUST_USE spin_status spin_kv_prefill_begin(struct spin_kv *kv, spin_kv_seq seq, uint32_t layer,
                                                uint32_t begin, uint32_t end, bool first,
                                                struct spin_page_lists *out);

/* Of the pass at hand: what operations take. Valid until the next pass. */
const struct spin_kv_view *spin_kv_get_view(const struct spin_kv *kv);
struct spin_kv_batch spin_kv_get_batch(const struct spin_kv *kv, uint32_t layer);
/* The same in host memory, for whoever plans the pass. */
struct spin_kv_batch spin_kv_get_host_batch(const struct spin_kv *kv, uint32_t layer);
struct spin_kv_lists spin_kv_get_lists(const struct spin_kv *kv);

/* Sequences [first, first + count) of a step's batch. A layer may be taken in several waves, each
 * sequence in one of them: so one wave's pages are on their way while others are chosen or attended
 * to. */
struct spin_kv_wave {
    uint32_t first;
    uint32_t count;
};
/* The wave as a batch of its own; *out: its lists. */
struct spin_kv_batch spin_kv_get_wave(const struct spin_kv *kv, uint32_t layer,
                                      struct spin_kv_wave wave, struct spin_kv_lists *out);
/* Retrieve, of a wave: resolves the pages that Select put into the lists, and gathers what is
 * missing: submits nothing where nothing can be. *out: lists for kv_append and attention, after the
 * gather. */
SPIN_MUST_USE spin_status spin_kv_resolve(struct spin_kv *kv, uint32_t layer,
                                          struct spin_kv_wave wave, struct spin_page_lists *out);
SPIN_MUST_USE spin_status spin_kv_gather(struct spin_kv *kv, uint32_t layer,
                                         struct spin_kv_wave wave);
/* The whole partitions that this pass completes, by sequence of the batch: device memory. Their
 * pages are on the lists. Returns how many pages in all: 0, nothing to index. */
uint32_t spin_kv_sealed(const struct spin_kv *kv, const struct spin_kv_range **out);
/* Offload: pages that this pass completed go to the host; a prefill unit's last page too, whole or
 * not. After Index: what is on the host is indexed. */
SPIN_MUST_USE spin_status spin_kv_offload(struct spin_kv *kv, uint32_t layer);
/* Counters of the step are summed up; budgets follow the working sets (every 12 steps). */
SPIN_MUST_USE spin_status spin_kv_step_end(struct spin_kv *kv);

/* --- a step as a recording ---
 *
 * What the calls of a step's layers submit depends on its count of sequences and on its work alone;
 * numbers, lengths and ranges are read from memory that spin_kv_step_begin has written. */

#define SPIN_KV_WORK_INDEX 1u   /* a partition is completed: Index runs */
#define SPIN_KV_WORK_OFFLOAD 2u /* a page is */
#define SPIN_KV_WORK_GATHER 4u  /* somebody is not RESIDENT: pages may be missing */
/* Of the step that has begun. */
uint32_t spin_kv_step_work(const struct spin_kv *kv);
/* Instead of all layers' calls, when a recording of them was launched: books what those would. */
void spin_kv_step_recorded(struct spin_kv *kv);

/* --- numbers --- */

uint32_t spin_kv_blocks_for(uint32_t tokens);
uint64_t spin_kv_slab_bytes(const struct spin_kv_config *config);
/* What hbm_bytes make: whole groups of kv_heads slabs. */
uint64_t spin_kv_pool_slabs(const struct spin_kv_config *config);
const struct spin_kv_budget *spin_kv_get_budget(const struct spin_kv *kv);

/* Bytes of each table, by the tier that it lies in. Of a running manager: static parts (directory,
 * lists, what says who owns what) whole, on-demand parts (leaves, stamps, slot_page, slabs,
 * summaries, blocks) as far as slots are granted and blocks are held. */
struct spin_kv_table_bytes {
    uint64_t directory;        /* HBM: GPU meta-partition table */
    uint64_t page_table;       /* HBM: GPU page table: leaves and their free lists, or slot_page */
    uint64_t stamps;           /* HBM */
    uint64_t slab_lists;       /* HBM: what each layer was granted */
    uint64_t lists;            /* HBM: of a pass */
    uint64_t summaries;        /* HBM */
    uint64_t cpu_page_table;   /* host, and a copy in HBM where that is another memory */
    uint64_t partition_offset; /* host: 0 while partitions have one size */
};

/* What create allocates for `config`, all of it in use; pure, and good for shapes that no memory
 * holds. */
void spin_kv_plan_tables(const struct spin_kv_config *config, struct spin_kv_table_bytes *out);

struct spin_kv_stats {
    uint64_t hbm_bytes;
    uint64_t host_bytes;
    uint32_t slabs;
    uint32_t slabs_free;
    uint32_t blocks;
    uint32_t blocks_free;
    uint32_t sequences_open;
    uint32_t sequences_resident;
    struct spin_kv_table_bytes tables;
    /* Since create. */
    uint64_t hits;
    uint64_t misses;          /* of decode steps */
    uint64_t pages_retrieved; /* misses, and what a resident sequence or an arena read back */
    uint64_t bytes_retrieved;
    uint64_t evictions;
    uint64_t pages_dropped; /* by shrinking */
    uint64_t pages_offloaded;
    uint64_t demotions; /* RESIDENT to BUFFERED */
    uint64_t suspensions;
};
void spin_kv_get_stats(const struct spin_kv *kv, struct spin_kv_stats *out);

struct spin_kv_seq_stats {
    enum spin_kv_residency residency;
    bool active;              /* false: suspended, or not activated yet */
    uint32_t tokens;          /* of its last pass */
    uint32_t slots;           /* granted, all rows */
    uint32_t mandatory_pages; /* of a row, mean over rows, at its last step */
    uint32_t budget_pages;    /* of a row, mean over rows: slots */
    uint32_t working_set;     /* of a row, mean over rows */
    uint64_t hits;
    uint64_t misses;
    uint64_t evictions;
};
void spin_kv_get_seq_stats(const struct spin_kv *kv, spin_kv_seq seq,
                           struct spin_kv_seq_stats *out);

/* Tests, where device memory is the host's (asserted when it is to be on): slots that lose their
 * page and blocks that are given back become NaN, so that a stale read shows. */
void spin_kv_set_poison(struct spin_kv *kv, bool on);
/* Tests, likewise: asserts every invariant of both planes, walking all tables; slow. A page in at
 * most one slot; slabs and blocks in one place; free + used = all; sealed slots equal their frames.
 */
void spin_kv_check(const struct spin_kv *kv);

SPIN_END_DECLS
