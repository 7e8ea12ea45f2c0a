/* bpe: merges, from bytes to tokens.
 *
 * Why        The rule is "merge the leftmost pair of lowest rank until no pair has one". Short
 *            pieces are done by scanning; a long one goes through a heap, so that 64 MB of one
 *            letter costs O(n log n).
 * Ownership  The merge table belongs to the arena given to build. A workspace is the caller's; one
 *            per thread at a time.
 * Threading  Table: built on one thread, read by all. Workspace and sink: one thread.
 * Units      Bytes and tokens.
 * Errors     CORRUPT with the merge's index. NO_MEMORY from encode. */
#pragma once

#include "base/arena.h"
#include "model/text/tokenizer.h"
#include "model/text/vocab.h"

SPIN_BEGIN_DECLS

#define SPIN_MERGES_MAX (1u << 22)

struct spin_merge_row { /* as a file has it: spelled in the byte alphabet */
    struct spin_string left;
    struct spin_string right;
};

struct spin_merge { /* 16 bytes: a lookup is one cache line */
    uint64_t key;   /* left and right ids; UINT64_MAX: empty slot */
    uint32_t rank;
    int32_t merged;
};

struct spin_bpe {
    const struct spin_merge *slots;
    uint32_t slot_mask;
    int32_t unknown;    /* what a byte without a token becomes; -1: nothing */
    bool fuse_unknown;  /* a run of such bytes is one */
    bool ignore_merges; /* a whole piece that is a token is that token */
};

struct spin_merge_list {
    const struct spin_merge_row *rows;
    uint64_t count;
};

/* Sets slots and slot_mask of *out and leaves the rest alone. A pair that comes twice has its last
 * rank, as in the reference. */
SPIN_MUST_USE spin_status spin_bpe_build(const struct spin_merge_list *merges,
                                         const struct spin_vocab *vocab, struct spin_arena *arena,
                                         struct spin_bpe *out, struct spin_error *err);

static inline void spin_token_sink_put(struct spin_token_sink *sink, int32_t token)
{
    if (sink->count < sink->capacity) {
        sink->tokens[sink->count] = token;
    }
    sink->count++;
}

struct spin_bpe_workspace {
    struct spin_arena *arena; /* borrowed; grows with the longest piece */
    int32_t *ids;             /* [capacity], like the rest */
    uint32_t *next;
    uint32_t *previous;
    uint64_t *heap; /* [2 * capacity] */
    uint64_t capacity;
};

/* One pre-token; count > 0 and below 2^32. */
SPIN_MUST_USE spin_status spin_bpe_encode(const struct spin_bpe *bpe,
                                          const struct spin_vocab *vocab, struct spin_string piece,
                                          struct spin_bpe_workspace *workspace,
                                          struct spin_token_sink *sink);

SPIN_END_DECLS
