/* ops: one table of operations per backend; the whole model runs on any of them.
 *
 * Why        _ref is the oracle (float storage, double sums, obvious), _cpu is fast, CUDA is
 *            faster; the engine cannot tell which one it holds.
 * Threading  The stream's owner thread.
 * Errors     A broken limit asserts (it is our bug); DEVICE_LOST on a sticky device error. */
#pragma once

#include "kernels/attention.h"
#include "kernels/device.h"
#include "kernels/draw.h"
#include "kernels/embed.h"
#include "kernels/kv_append.h"
#include "kernels/kv_copy.h"
#include "kernels/kv_index.h"
#include "kernels/kv_list.h"
#include "kernels/kv_resize.h"
#include "kernels/kv_resolve.h"
#include "kernels/kv_select.h"
#include "kernels/matmul.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"

SPIN_BEGIN_DECLS

#define SPIN_OPS_HEAD_DIMS 2u

struct spin_ops {
    const char *name; /* "ref", "cpu", "cuda" */
    enum spin_dtype activation_dtype;
    enum spin_swizzle swizzle; /* the page swizzle that this backend's kernels read and write */
    /* While attention is dense, a token's K, V and hidden state have the same bits whether it came
     * by prefill or by a decode step. */
    bool prefill_is_decode;
    /* Rows of a decode step, and of the logits drawn from it, within which a row's bits do not
     * depend on how many there are. */
    uint32_t decode_rows_max;
    /* Heads that attention and selection have code for. */
    uint32_t head_dims[SPIN_OPS_HEAD_DIMS]; /* elements; all 0: any */
    uint32_t group_max;                     /* query heads of a KV head; 0: any */
    uint32_t vocab_step; /* vocabularies are multiples of it, as rows of logits are; 0: any */

    spin_status (*embed)(const struct spin_embed_args *args, struct spin_stream *stream);
    spin_status (*rms_norm)(const struct spin_rms_norm_args *args, struct spin_stream *stream);
    spin_status (*matmul)(const struct spin_matmul_args *args, struct spin_stream *stream);
    spin_status (*rope)(const struct spin_rope_args *args, struct spin_stream *stream);
    spin_status (*kv_append)(const struct spin_kv_append_args *args, struct spin_stream *stream);
    spin_status (*attention)(const struct spin_attention_args *args, struct spin_stream *stream);
    spin_status (*swiglu)(const struct spin_swiglu_args *args, struct spin_stream *stream);
    /* NULL: the host reads the logits and draws (worker/engine/sampler.h). */
    spin_status (*draw)(const struct spin_draw_args *args, struct spin_stream *stream);

    /* The five operations of the KV manager and its tables. */
    spin_status (*kv_index)(const struct spin_kv_index_args *args, struct spin_stream *stream);
    spin_status (*kv_select)(const struct spin_kv_select_args *args, struct spin_stream *stream);
    spin_status (*kv_gather)(const struct spin_kv_gather_args *args, struct spin_stream *stream);
    spin_status (*kv_offload)(const struct spin_kv_offload_args *args, struct spin_stream *stream);
    spin_status (*kv_resolve[SPIN_KV_REPLACEMENTS])(const struct spin_kv_resolve_args *args,
                                                    struct spin_stream *stream);
    spin_status (*kv_resize[SPIN_KV_REPLACEMENTS])(const struct spin_kv_resize_args *args,
                                                   struct spin_stream *stream);
    spin_status (*kv_list)(const struct spin_kv_list_args *args, struct spin_stream *stream);

    uint64_t (*matmul_workspace_bytes)(const struct spin_matmul_args *args);
    uint64_t (*attention_workspace_bytes)(const struct spin_attention_args *args);
    uint64_t (*kv_select_workspace_bytes)(const struct spin_kv_select_args *args);
};

extern const struct spin_ops spin_ops_ref;
/* Needs AVX2 and FMA. Chosen by spin_ops_best_cpu(). */
extern const struct spin_ops spin_ops_cpu;
/* BF16 activations, on streams of spin_stream_create_cuda. In //kernels:cuda; empty in a build
 * without CUDA, where there is no such stream. */
extern const struct spin_ops spin_ops_cuda;
/* spin_ops_cpu where the processor has what it needs, else spin_ops_ref, with a log line. */
const struct spin_ops *spin_ops_best_cpu(void);

SPIN_END_DECLS
