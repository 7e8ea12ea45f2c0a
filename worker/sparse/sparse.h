/* sparse: SPIN's five-operation pipeline, and what an algorithm has to say to ride on it.
 *
 * Why        Index and Select are the algorithm's, Offload and Retrieve are the manager's,
 *            Attention is the forward pass's (SPIN, arXiv 2604.26837): this module puts them in
 *            order. Nothing else knows which algorithm runs.
 * Rule       A step with n visible tokens runs dense when n < min_context, and is counted (D16);
 *            the choice depends on n alone, so a sequence decodes alike wherever it continues
 *            (D1). Verify mode has no such steps: its budget takes every candidate at any length.
 * Ownership  Borrows the KV manager, the operations and the stream; owns the windows and a
 *            workspace.
 * Recording  What a step's calls submit depends on its count of sequences and on the manager's work
 *            alone: windows are read from memory that spin_sparse_step_begin has written.
 * Threading  The stream's thread; spin_sparse_mandatory: any thread, pure.
 * Units      Tokens, partitions, pages.
 * Errors     INVALID: an option out of range (the text names it). What an operation returns. */
#pragma once

#include "kvstore/manager/kv.h"

SPIN_BEGIN_DECLS

struct spin_sparse; /* private to pipeline.c */

struct spin_sparse_options {
    const struct spin_sparse_algorithm *algorithm;
    uint32_t budget_tokens; /* chosen by a step, of each row; 0: the algorithm's default */
    uint32_t min_context;   /* tokens; shorter contexts run dense */
    bool verify;            /* every step chooses, and chooses everything (--sparse-verify) */
};

/* One file each. */
struct spin_sparse_algorithm {
    const char *name;     /* of --sparse-attention */
    uint32_t page_tokens; /* 8 or 32 */
    uint32_t partition_tokens;
    enum spin_summary summary;
    uint32_t dense_layers; /* the first so many attend to everything (Quest) */
    /* Which partitions a step with `tokens` visible tokens, at least 1, takes anyway, and how many
     * of the others: sink_end, local_begin and k by the algorithm's own rules. Those before
     * local_begin are whole and were complete before this step. Pure. */
    struct spin_kv_window (*window)(const struct spin_sparse_options *options, uint32_t tokens);
};

extern const struct spin_sparse_algorithm spin_sparse_dense;
extern const struct spin_sparse_algorithm spin_sparse_quest;
extern const struct spin_sparse_algorithm spin_sparse_shadowkv;
/* All of them; the order of --sparse-attention's choices. */
extern const struct spin_sparse_algorithm *const spin_sparse_algorithms[];
extern const uint32_t spin_sparse_algorithm_count;
/* NULL: no such algorithm. */
const struct spin_sparse_algorithm *spin_sparse_find(const char *name);

/* Dense, default budget, min_context 4096. */
struct spin_sparse_options spin_sparse_options_default(void);
/* INVALID: a budget that does not hold one partition of what the algorithm chooses. */
SPIN_MUST_USE spin_status spin_sparse_check(const struct spin_sparse_options *options,
                                            struct spin_error *err);
/* For spin_kv_config.demand: pages of a row that a step with up to `tokens` visible tokens attends
 * to in `layer`. context: the spin_sparse_options, which must outlive the manager. */
uint32_t spin_sparse_mandatory(const void *context, uint32_t layer, uint32_t tokens);
/* Fills the fields of a manager's configuration that the algorithm decides. */
void spin_sparse_fill_kv_config(const struct spin_sparse_options *options,
                                struct spin_kv_config *config);

/* Bench and tests: called after Select of a wave was submitted, before Retrieve. What it submits
 * becomes part of a recording, where it is called but once. batch and lists are of the sequences
 * from `first` of the step on, in device memory. */
struct spin_sparse_observer {
    void *context;
    void (*selected)(void *context, uint32_t first, const struct spin_kv_batch *batch,
                     const struct spin_kv_lists *lists);
};

struct spin_sparse_config {
    struct spin_sparse_options options;
    const struct spin_ops *ops;
    struct spin_stream *stream;
    struct spin_kv *kv;
    uint32_t q_heads;
    float scale;
    uint32_t sequences_max;               /* of a decode step */
    struct spin_sparse_observer observer; /* all NULL: none */
};

struct spin_sparse_stats {
    uint64_t steps;           /* (sequence, step) pairs that ran sparse */
    uint64_t dense_fallbacks; /* those that ran dense because of min_context; not dense's own */
};

/* Device memory that create will allocate, for a manager of `kv`; config->kv is not read. */
uint64_t spin_sparse_plan_bytes(const struct spin_sparse_config *config,
                                const struct spin_kv_config *kv);
SPIN_MUST_USE spin_status spin_sparse_create(const struct spin_sparse_config *config,
                                             struct spin_sparse **out, struct spin_error *err);
void spin_sparse_destroy(struct spin_sparse *sparse); /* NULL is allowed */

/* After spin_kv_step_begin: the windows of the step's sequences. */
SPIN_MUST_USE spin_status spin_sparse_step_begin(struct spin_sparse *sparse);
/* Of that step: no list of `layer` sees more tokens. */
uint32_t spin_sparse_list_tokens(const struct spin_sparse *sparse, uint32_t layer);
/* Select and Resolve of a wave in one layer of the step; the layer's waves come in order. q:
 * [wave.count][q_heads * head_dim], rotated. *out: lists for kv_append and attention, which may
 * come after the gather (spin_kv_gather). Waits for what was sealed (SPIN_LANE_LATE). */
SPIN_MUST_USE spin_status spin_sparse_select(struct spin_sparse *sparse, uint32_t layer,
                                             struct spin_kv_wave wave, struct spin_matrix q,
                                             struct spin_page_lists *out);
/* Index and Offload of what this layer's pass, decode or prefill, has sealed, on SPIN_LANE_LATE;
 * after kv_append. Joined by the next layer's select, and by whoever ends the pass. */
SPIN_MUST_USE spin_status spin_sparse_seal(struct spin_sparse *sparse, uint32_t layer);

void spin_sparse_get_stats(const struct spin_sparse *sparse, struct spin_sparse_stats *out);

SPIN_END_DECLS
