/* rope: rotates pairs of q and k by position: (a, b) -> (a cos - b sin, a sin + b cos); heads that
 * have a norm (qwen3) are normed before.
 *
 * Why        Heads of q and of k that lie side by side are one call: on a GPU, one launch for what
 *            would be two norms and two rotations.
 * Formula    angle(position, i) = position * frequency[i], i < rotary_dim / 2; cos and sin come
 *            from a table made in double precision with the model's scaling (and YaRN's magnitude)
 *            folded in.
 *            Norm of a head: as rms_norm's of its head_dim values; on CUDA what is rotated then is
 *            not rounded in between.
 * Layout     x: [tokens][heads * head_dim], in place. HALVES pairs (i, i + rotary_dim / 2) (HF,
 *            NeoX); INTERLEAVED pairs (2 i, 2 i + 1) (GGUF's llama).
 *            table: [positions][rotary_dim / 2] of {cos, sin}.
 * Limits     rotary_dim even, <= head_dim; position[m] < table_positions (asserted).
 * Execution  Asynchronous on `stream`; no allocation.
 * Invariance Row-invariant: yes. */
#pragma once

#include "kernels/device.h"
#include "kernels/matrix.h"

SPIN_BEGIN_DECLS

enum spin_rope_pairs { SPIN_ROPE_HALVES, SPIN_ROPE_INTERLEAVED };

struct spin_rope_table {
    const float *cos_sin; /* [positions][rotary_dim / 2][2] */
    uint32_t positions;
    uint32_t rotary_dim;
    enum spin_rope_pairs pairs;
};

/* Heads [0, split) are normed by weight[0], the others by weight[1]; NULL: they are not. */
struct spin_rope_norm {
    const float *weight[2]; /* in [head_dim] */
    uint32_t split;
    float eps;
};

struct spin_rope_args {
    struct spin_matrix x; /* in, out */
    uint32_t heads;
    uint32_t head_dim;
    const uint32_t *positions; /* in [x.rows] */
    struct spin_rope_table table;
    struct spin_rope_norm norm; /* zero: none */
};

spin_status spin_rope_ref(const struct spin_rope_args *args, struct spin_stream *stream);
spin_status spin_rope_cpu(const struct spin_rope_args *args, struct spin_stream *stream);
spin_status spin_rope_cuda(const struct spin_rope_args *args, struct spin_stream *stream);

SPIN_END_DECLS
