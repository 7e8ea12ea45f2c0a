/* forward_internal: what the files of the forward pass share.
 *
 * Why        forward.c runs layers, forward_memory.c owns what they work on, forward_graph.c keeps
 *            recorded steps.
 * Ownership  As in forward.h.
 * Threading  The stream's thread.
 * Units      Tokens, rows. */
#pragma once

#include "base/clock.h"
#include "kernels/rope_table.h"
#include "worker/engine/forward.h"

SPIN_BEGIN_DECLS

/* The rope table grows by this many positions when a sequence first gets there: 128K positions of a
 * 128-wide head are half a second of sines, which nobody should wait for at start. One block is
 * about a millisecond. */
#define SPIN_FORWARD_ROPE_POSITIONS 256u
#define SPIN_FORWARD_WAIT_NS (10 * SPIN_NS_PER_S) /* for the forward pass's own copies */
/* The classes of layers: those that stay dense whatever the algorithm, and the others. */
#define SPIN_FORWARD_CLASSES 2u

/* A step that may fetch pages is taken in waves of so many sequences, so that one wave's pages are
 * on their way while others are chosen and attended to. A wave costs half a dozen launches a layer,
 * and small ones fill neither the device nor the link to the host: on an H200 two waves are worth
 * 12 % of a step of 32 sequences and 2 % of one of 16, cost 2 % with 8, and four are slower
 * everywhere (docs/results/h200-engine.md). */
#define SPIN_FORWARD_WAVE_SEQUENCES 8u
#define SPIN_FORWARD_WAVES_MAX 2u

/* What a layer works on: rows of hidden, and where they stand in their sequences. */
struct spin_forward_rows {
    float *hidden;
    uint32_t count;
    struct spin_spans spans;
    const uint32_t *positions;                  /* device [count] */
    const int32_t *tokens;                      /* device [count] */
    uint32_t visible_max[SPIN_FORWARD_CLASSES]; /* no list of a layer of the class is longer */
    uint32_t waves;                             /* of a decode step */
    const struct spin_forward_unit *unit;       /* of prefill; NULL: a decode step */
};

/* A decode step that was submitted before with the same arguments, and its recording. */
struct spin_forward_graph {
    uint32_t count; /* 0: nothing is kept here */
    uint32_t work;
    uint32_t visible_max[SPIN_FORWARD_CLASSES];
    uint64_t used;            /* when it was last submitted, in steps */
    struct spin_graph *graph; /* NULL: it ran once, unrecorded */
};

struct spin_forward {
    struct spin_forward_config config;
    struct spin_sparse *sparse;
    uint32_t rows_max; /* of a layer: a chunk or a decode step */
    uint32_t q_cols;
    uint32_t kv_cols;
    float scale;
    bool step_open; /* submitted, and not ended */

    struct spin_kv_layout layout; /* of the manager's pages */
    uint32_t page_tokens;

    /* Device memory: the residual stream and logits are F32, the others activations. */
    void *step_hidden; /* F32 [sequences_max][hidden] */
    void *logits;      /* F32 [logits_rows_max][vocab] */
    void *normed;      /* [rows_max or logits_rows_max][hidden] */
    void *qkv;      /* [rows_max][q_cols + 2 kv_cols]: what is projected together lies together */
    void *attended; /* [rows_max][q_cols] */
    void *gate_up;  /* [rows_max][2 ffn] */
    void *workspace;
    void *cos_sin;    /* F32 [tokens_max][rope dim / 2][2] */
    void *inputs;     /* words of a pass: spans.first of a unit (2), positions, tokens; packed */
    void *step_first; /* u32 [sequences_max + 1]: 0, 1, ...: a step has one token each */

    /* Host memory. */
    void *staged;               /* inputs, on their way */
    void *rope_rows;            /* a block of cos_sin, on its way */
    struct spin_kv_step *steps; /* [sequences_max] */
    double *frequencies;        /* [rope dim / 2] */
    double rope_magnitude;
    uint32_t rope_positions; /* of cos_sin, filled */

    struct spin_forward_graph *graphs; /* [config.graphs_max]; NULL: steps are not recorded */
    struct spin_forward_graph_stats graph_stats;
};

SPIN_INLINE const struct spin_model_config *spin_forward_shape(const struct spin_forward *forward)
{
    return &forward->config.model->config;
}

/* An activation of this forward pass's operations, packed. */
SPIN_INLINE struct spin_matrix spin_forward_view(const struct spin_forward *forward, void *data,
                                                 uint32_t rows, uint32_t cols)
{
    const struct spin_matrix matrix = {data, forward->config.ops->activation_dtype, rows, cols,
                                       cols};
    return matrix;
}

/* Columns [first, first + cols) of a packed activation. */
SPIN_INLINE struct spin_matrix spin_forward_columns(struct spin_matrix all, uint32_t first,
                                                    uint32_t cols)
{
    all.data = (uint8_t *)all.data + spin_dtype_row_bytes(all.dtype, first);
    all.cols = cols;
    return all;
}

/* The rows from `first` on. */
SPIN_INLINE struct spin_matrix spin_forward_from_row(struct spin_matrix all, uint32_t first)
{
    all.data = (uint8_t *)all.data + first * spin_dtype_row_bytes(all.dtype, (uint32_t)all.stride);
    all.rows -= first;
    return all;
}

/* The fields that follow from the configuration; nothing is allocated. */
struct spin_forward spin_forward_measure(const struct spin_forward_config *config,
                                         struct spin_kv_layout layout, uint32_t page_tokens);
struct spin_sparse_config spin_forward_sparse_config(const struct spin_forward *forward);
SPIN_MUST_USE spin_status spin_forward_alloc(struct spin_forward *forward, struct spin_error *err);
void spin_forward_free(struct spin_forward *forward); /* what alloc got, as far as it got */

/* Waves of a step of `count` sequences that may fetch pages; configured 0: by the count. */
SPIN_INLINE uint32_t spin_forward_waves(uint32_t configured, uint32_t count)
{
    const uint32_t by_count = SPIN_MIN(count / SPIN_FORWARD_WAVE_SEQUENCES, SPIN_FORWARD_WAVES_MAX);
    return SPIN_MAX(SPIN_MIN(configured != 0 ? configured : by_count, count), 1U);
}

/* A decode step begins: an upper bound of `tokens`, one of few, so that recordings repeat. */
uint32_t spin_forward_round_up(const struct spin_forward *forward, uint32_t tokens);
/* All layers of a decode step, embedding included: submitted, recorded or replayed. */
SPIN_MUST_USE spin_status spin_forward_run_step(struct spin_forward *forward,
                                                const struct spin_forward_rows *rows);
/* The same, submitted one by one. */
SPIN_MUST_USE spin_status spin_forward_submit_step(struct spin_forward *forward,
                                                   const struct spin_forward_rows *rows);

SPIN_END_DECLS
