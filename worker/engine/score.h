/* score: the logits of a given token sequence, without a scheduler, a sampler or a thread.
 *
 * Why        Reference comparisons, perplexity and quality runs ask "what does the model say here?"
 *            of the same forward pass that serves, by prefill or by decode steps, on any table of
 *            operations.
 * Ownership  Borrows the model; owns stream, KV and forward pass.
 * Threading  One thread at a time.
 * Units      Tokens; logits are [vocab] floats.
 * Errors     INVALID: a token out of range. LIMIT: more than tokens_max tokens. What an operation
 *            returns. */
#pragma once

#include "kernels/ops.h"
#include "model/weights/model.h"

SPIN_BEGIN_DECLS

struct spin_scorer; /* private to score.c */

struct spin_scorer_config {
    const struct spin_ops *ops;  /* NULL: spin_ops_best_cpu() */
    uint32_t threads;            /* compute threads; default 1 */
    uint32_t tokens_max;         /* of the sequence; default: what the model was made for */
    uint32_t chunk_tokens;       /* default 128 */
    uint32_t super_chunk_tokens; /* default 2048 */
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

/* One layer's K and V of the sequence so far, as they are stored; valid until the next call. For
 * comparisons: what a page holds is part of what a reference has to agree with. */
struct spin_page_lists spin_scorer_pages(struct spin_scorer *scorer, uint32_t layer);

SPIN_END_DECLS
