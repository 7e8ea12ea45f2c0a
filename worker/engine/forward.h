/* forward: one transformer over a table of operations: decode steps and units of prefill.
 *
 * Why        Every backend, the engine and the reference comparison run the same few functions, so
 *            what is compared is what serves.
 * Formula    h += W_o attention(rope(norm_h(W_q x + b_q)), ...), x = rms_norm(h); h += W_down
 *            (silu(W_gate x) W_up x), x = rms_norm(h); logits = W_lm rms_norm(h). norm_h: qwen3's
 *            per-head norm of q and k; b: qwen2's biases.
 * Ownership  Borrows model, operations, stream and KV; owns the sparse pipeline, activations, the
 *            rope table and one workspace, all sized at create.
 * Threading  The stream's thread.
 * Units      Tokens, rows. Hidden states are activations [rows][hidden], stride = hidden.
 * Errors     What an operation or the KV manager returns (DEVICE_LOST; AGAIN: see kv.h). No call
 *            allocates after create.
 * Invariance Every operation is row-invariant, so a token's bits depend on its prefix alone: not on
 *            the batch, the chunk, or where its pages lie; and while attention is dense, not on
 *            whether it came by decode or by prefill. */
#pragma once

#include "kernels/ops.h"
#include "kvstore/manager/kv.h"
#include "model/weights/model.h"
#include "worker/engine/cursor.h"
#include "worker/sparse/sparse.h"

SPIN_BEGIN_DECLS

struct spin_forward; /* private to forward.c */

struct spin_forward_config {
    const struct spin_model *model;
    const struct spin_ops *ops;
    struct spin_stream *stream;
    struct spin_kv *kv;
    struct spin_grid grid;             /* layers are the model's */
    uint32_t sequences_max;            /* of a decode step */
    uint32_t tokens_max;               /* of a sequence */
    uint32_t logits_rows_max;          /* of one call of spin_forward_logits */
    struct spin_sparse_options sparse; /* of decode steps; prefill is dense */
    struct spin_sparse_observer observer;
};

/* UNSUPPORTED: the table's activations are not F32. INVALID: a sparse option. NO_MEMORY. */
SPIN_MUST_USE spin_status spin_forward_create(const struct spin_forward_config *config,
                                              struct spin_forward **out, struct spin_error *err);
void spin_forward_destroy(struct spin_forward *forward); /* NULL is allowed */

/* One sequence's part of a decode step: its last token, which is at position `position`. */
struct spin_forward_step {
    spin_kv_seq seq; /* active; position + 1 tokens are reserved */
    int32_t token;
    uint32_t position;
};

/* Forwards steps[0..count) through all layers. *out_hidden: [count][hidden], valid until the next
 * decode. */
SPIN_MUST_USE spin_status spin_forward_decode(struct spin_forward *forward,
                                              const struct spin_forward_step *steps, uint32_t count,
                                              float **out_hidden);

struct spin_forward_unit {
    spin_kv_seq seq; /* active; unit.end tokens are reserved */
    struct spin_unit unit;
    const int32_t *tokens; /* of the sequence, from position 0 */
    float *hidden;         /* in, out: of the super-chunk, row 0 is token unit.super_begin */
};

/* One chunk of one layer. Layer 0 embeds first. Units of a sequence come in the cursor's order. */
SPIN_MUST_USE spin_status spin_forward_prefill(struct spin_forward *forward,
                                               const struct spin_forward_unit *unit);

/* The logits of `rows` hidden rows after the last layer (which stay as they are). *out:
 * [rows][vocab], valid until the next call. rows <= logits_rows_max. */
SPIN_MUST_USE spin_status spin_forward_logits(struct spin_forward *forward, const float *hidden,
                                              uint32_t rows, const float **out);

void spin_forward_get_sparse_stats(const struct spin_forward *forward,
                                   struct spin_sparse_stats *out);

SPIN_END_DECLS
