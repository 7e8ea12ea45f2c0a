/* forward: one transformer over a table of operations: decode steps and units of prefill.
 *
 * Why        Every backend, the engine and the reference comparison run the same few functions, so
 *            what is compared is what serves.
 * Formula    h += W_o attention(rope(norm_h(W_q x + b_q)), ...), x = rms_norm(h); h += W_down
 *            (silu(W_gate x) W_up x), x = rms_norm(h); logits = W_lm rms_norm(h). norm_h: qwen3's
 *            per-head norm of q and k; b: qwen2's biases.
 *            The residual stream and logits are F32; what products read is of the operations'
 *            activation type.
 * Ownership  Borrows model, operations, stream and KV; owns the sparse pipeline, activations, the
 *            rope table, one workspace and the recordings, all sized at create but the last.
 * Threading  The stream's thread.
 * Waiting    Calls submit. Whoever drives them waits for the stream (spin_stream_sync) after the
 *            last operation of a decode step, its logits included, before spin_forward_decode_end,
 *            and after a unit of prefill before any other call: what a pass reads of the host's is
 *            changed by the next one.
 * Recording  Where the stream can (spin_stream_records), a decode step whose kind came before is
 *            submitted as one recording of all layers: see forward_graph.c.
 * Units      Tokens, rows. Hidden states are F32 [rows][hidden] of device memory, stride = hidden.
 * Errors     What an operation or the KV manager returns (DEVICE_LOST; AGAIN: see kv.h). No call
 *            allocates after create, but for recordings.
 * Invariance Every operation is row-invariant, so a token's bits depend on its prefix alone: not on
 *            the batch, the chunk, or where its pages lie; and while attention is dense, not on
 *            whether it came by decode or by prefill. Where the table says that prefill is not
 *            decode, that holds of decode steps of up to decode_rows_max rows among each other. */
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
    uint32_t graphs_max; /* kinds of decode steps that are kept recorded; 0: none is recorded */
    uint32_t waves;      /* of a step that may fetch pages, on a device; 0: by its sequences */
};

/* Device memory that create will allocate, for a manager of `kv`; config->kv is not read. */
uint64_t spin_forward_plan_bytes(const struct spin_forward_config *config,
                                 const struct spin_kv_config *kv);
/* INVALID: a sparse option. NO_MEMORY. */
SPIN_MUST_USE spin_status spin_forward_create(const struct spin_forward_config *config,
                                              struct spin_forward **out, struct spin_error *err);
void spin_forward_destroy(struct spin_forward *forward); /* NULL is allowed */

/* One sequence's part of a decode step: its last token, which is at position `position`. */
struct spin_forward_step {
    spin_kv_seq seq; /* active; position + 1 tokens are reserved */
    int32_t token;
    uint32_t position;
};

/* Submits steps[0..count) through all layers. *out_hidden: [count][hidden], valid until the next
 * decode. */
SPIN_MUST_USE spin_status spin_forward_decode(struct spin_forward *forward,
                                              const struct spin_forward_step *steps, uint32_t count,
                                              float **out_hidden);
/* Ends the step at hand, after the wait. */
SPIN_MUST_USE spin_status spin_forward_decode_end(struct spin_forward *forward);

struct spin_forward_unit {
    spin_kv_seq seq; /* active; unit.end tokens are reserved */
    struct spin_unit unit;
    const int32_t *tokens; /* of the sequence, from position 0 */
    float *hidden;         /* device; in, out: of the super-chunk; row 0: unit.super_begin */
};

/* Submits one chunk of one layer. Layer 0 embeds first. Units of a sequence come in the cursor's
 * order. */
SPIN_MUST_USE spin_status spin_forward_prefill(struct spin_forward *forward,
                                               const struct spin_forward_unit *unit);

/* Submits the logits of `rows` hidden rows after the last layer (which stay as they are). *out:
 * [rows][vocab] of device memory, valid until the next call. rows <= logits_rows_max. */
SPIN_MUST_USE spin_status spin_forward_logits(struct spin_forward *forward, const float *hidden,
                                              uint32_t rows, const float **out);

void spin_forward_get_sparse_stats(const struct spin_forward *forward,
                                   struct spin_sparse_stats *out);

/* Since create. */
struct spin_forward_graph_stats {
    uint64_t steps; /* decode steps while steps are recorded at all */
    uint64_t recorded;
    uint64_t replayed; /* without the step that recorded */
    uint64_t dropped;
};
void spin_forward_get_graph_stats(const struct spin_forward *forward,
                                  struct spin_forward_graph_stats *out);

SPIN_END_DECLS
