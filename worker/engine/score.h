/* score: the logits of a given token sequence, without a scheduler, a sampler or a thread.
 *
 * Why        Reference comparisons, perplexity and quality runs ask "what does the model say here?"
 *            of the same forward pass that serves, by prefill or by decode steps, on any table of
 *            operations.
 * Tiers      Prompts are prefilled densely; decode steps attend as `sparse` says. With a small
 *            kv_hbm_bytes pages come and go as in the engine under pressure; logits stay the same.
 * Ownership  Borrows the model, and a stream if it is given one; owns KV and forward pass.
 * Threading  One thread at a time.
 * Units      Tokens; logits are [vocab] floats of host memory.
 * Errors     INVALID: a token out of range, a sparse option. LIMIT: more than tokens_max tokens, or
 *            a pool that is too small for them. What an operation returns. */
#pragma once

#include "worker/engine/forward.h"

SPIN_BEGIN_DECLS

struct spin_scorer; /* private to score.c */

struct spin_scorer_config {
    const struct spin_ops *ops;        /* NULL: spin_ops_best_cpu() */
    struct spin_stream *stream;        /* of `ops`, where the weights are; NULL: on processors */
    uint32_t threads;                  /* compute threads there; default 1 */
    uint32_t tokens_max;               /* of the sequence; default: what the model was made for */
    uint32_t chunk_tokens;             /* default 128 */
    uint32_t super_chunk_tokens;       /* default 2048 */
    struct spin_sparse_options sparse; /* of decode steps; default dense */
    struct spin_sparse_observer observer; /* default none */
    uint32_t graphs_max;   /* see spin_forward_config; default 32, where the stream records */
    uint64_t kv_hbm_bytes; /* default 0: room for tokens_max, so that everything stays resident */
    enum spin_kv_replacement kv_replacement; /* default slot_lru */
    bool kv_poison;                          /* tests: see spin_kv_set_poison; default false */
};
struct spin_scorer_config spin_scorer_config_default(const struct spin_model *model);

SPIN_MUST_USE spin_status spin_scorer_create(const struct spin_scorer_config *config,
                                             const struct spin_model *model,
                                             struct spin_scorer **out, struct spin_error *err);
void spin_scorer_destroy(struct spin_scorer *scorer); /* NULL is allowed */

/* Called with positions in ascending order; `logits` predict the token at position + 1 and are
 * valid during the call. */
typedef void (*spin_score_fn)(void *context, uint32_t position, const float *logits);

struct spin_score_rows {
    uint32_t first; /* rows of positions before this one are not computed */
    spin_score_fn row;
    void *context;
};

/* Forgets the sequence, prefills `tokens` and hands over the rows [rows->first, count). */
SPIN_MUST_USE spin_status spin_scorer_prefill(struct spin_scorer *scorer, const int32_t *tokens,
                                              uint32_t count, const struct spin_score_rows *rows,
                                              struct spin_error *err);
/* Appends one token to the sequence by a decode step. *out_logits: valid until the next call. */
SPIN_MUST_USE spin_status spin_scorer_decode(struct spin_scorer *scorer, int32_t token,
                                             const float **out_logits, struct spin_error *err);

void spin_scorer_get_kv_stats(const struct spin_scorer *scorer, struct spin_kv_stats *out);
void spin_scorer_get_sparse_stats(const struct spin_scorer *scorer, struct spin_sparse_stats *out);
void spin_scorer_get_graph_stats(const struct spin_scorer *scorer,
                                 struct spin_forward_graph_stats *out);

/* One layer's K and V of the sequence so far, as they are stored; valid until the next call. For
 * comparisons: what a page holds is part of what a reference has to agree with. The sequence is
 * resident, as it is with the default pool, and the host reads device memory (both asserted). */
struct spin_page_lists spin_scorer_pages(struct spin_scorer *scorer, uint32_t layer);

SPIN_END_DECLS
