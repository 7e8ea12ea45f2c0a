/* kv: the KV of the sequences in flight: pages, and the lists that operations walk.
 *
 * Why        The engine asks for room and hands page lists to operations; where pages lie, and that
 *            one day only a part of them is in HBM, is this module's business. Today: one resident
 *            pool of 128-token blocks, dense lists. Tiers, tables and budgets (D7, D9) grow behind
 *            this header.
 * Ownership  The manager owns the pool and the lists. A sequence owns its blocks from reserve to
 *            close; a block has one holder.
 * Threading  The engine's thread only; asserted.
 * Units      Tokens; blocks of SPIN_BLOCK_TOKENS; bytes.
 * Errors     AGAIN: no blocks or no sequence left; the scheduler preempts or waits. LIMIT: over
 *            tokens_max. No call allocates after create. */
#pragma once

#include "kernels/device.h"
#include "kernels/pages.h"

SPIN_BEGIN_DECLS

struct spin_kv; /* private to kv.c */

struct spin_kv_config {
    struct spin_kv_layout layout;
    uint64_t pool_bytes;    /* rounded down to whole blocks; at least one sequence of tokens_max */
    uint32_t sequences_max; /* open at once */
    uint32_t tokens_max;    /* of one sequence */
    uint32_t page_tokens;   /* of the lists: 8 or 32 */
};

typedef struct spin_kv_seq {
    uint32_t v;
} spin_kv_seq;

struct spin_kv_stats {
    uint64_t pool_bytes;
    uint64_t table_bytes;
    uint32_t blocks;
    uint32_t blocks_free;
    uint32_t sequences_open;
};

SPIN_MUST_USE spin_status spin_kv_create(const struct spin_kv_config *config,
                                         struct spin_stream *stream, struct spin_kv **out,
                                         struct spin_error *err);
/* Every sequence must be closed by now (asserted). NULL is allowed. */
void spin_kv_destroy(struct spin_kv *kv);

SPIN_MUST_USE spin_status spin_kv_open(struct spin_kv *kv, spin_kv_seq *out);
/* Makes the lists of `seq` cover list tokens [0, tokens). Pages are stale until appended to. On
 * AGAIN nothing has changed. */
SPIN_MUST_USE spin_status spin_kv_reserve(struct spin_kv *kv, spin_kv_seq seq, uint32_t tokens);
/* Gives back every block. O(blocks of the sequence). */
void spin_kv_close(struct spin_kv *kv, spin_kv_seq seq);

/* The lists of a batch: sequence i of the batch is seqs[i], and its last query of this call sees
 * visible[i] tokens (all reserved). Fills the arrays that spin_kv_layer's result points to; valid
 * until the next plan. count <= sequences_max. */
void spin_kv_plan(struct spin_kv *kv, const spin_kv_seq *seqs, const uint32_t *visible,
                  uint32_t count);
struct spin_page_lists spin_kv_layer(const struct spin_kv *kv, uint32_t layer);

uint32_t spin_kv_blocks_for(uint32_t tokens);
void spin_kv_get_stats(const struct spin_kv *kv, struct spin_kv_stats *out);

/* Tests: fills free blocks with NaN when they are given back, so that a stale read shows. */
void spin_kv_set_poison(struct spin_kv *kv, bool on);

SPIN_END_DECLS
