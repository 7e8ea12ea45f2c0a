/* attention: out[m][h] = softmax(scale q[m][h] K^T) V over the visible tokens of the row's page
 * list.
 *
 * Formula    Splits of SPIN_SPLIT_TOKENS tokens of the list, in list order (D5). Split s gives
 *            m_s = max scale q.k, z_s = sum exp(scale q.k - m_s), o_s = sum exp(scale q.k - m_s) v;
 *            partials are merged in list order. What a split holds never depends on chunk, batch,
 *            residency or thread count.
 * Layout     q, out: [tokens][q_heads * head_dim] activations; query head h reads kv head
 *            h / (q_heads / kv_heads). Pages: kernels/pages.h.
 * Limits     q_heads a multiple of kv_heads; every query sees at least one token.
 * Numerics   _ref: two-pass softmax in double over the list. _cpu: F32 over BF16 pages.
 * Workspace  spin_attention_workspace_bytes(args) bytes, 64-byte aligned.
 * Execution  Asynchronous on `stream`; no allocation.
 * Invariance Row-invariant: yes, in tokens (queries). */
#pragma once

#include "kernels/device.h"
#include "kernels/matrix.h"
#include "kernels/pages.h"

SPIN_BEGIN_DECLS

struct spin_attention_args {
    struct spin_matrix out; /* out */
    struct spin_matrix q;   /* in */
    uint32_t q_heads;
    float scale; /* 1 / sqrt(head_dim), unless the model says otherwise */
    struct spin_spans spans;
    struct spin_page_lists pages; /* in */
    uint32_t visible_max;         /* the largest visible[]; sizes the workspace */
    void *workspace;
};

/* Reads q_heads, spans.count, visible_max and of pages the layout and page_tokens; enough for any
 * call with no more of the first three. */
uint64_t spin_attention_workspace_bytes(const struct spin_attention_args *args);
spin_status spin_attention_ref(const struct spin_attention_args *args, struct spin_stream *stream);
spin_status spin_attention_cpu(const struct spin_attention_args *args, struct spin_stream *stream);
uint64_t spin_attention_workspace_bytes_cuda(const struct spin_attention_args *args);
spin_status spin_attention_cuda(const struct spin_attention_args *args, struct spin_stream *stream);

SPIN_END_DECLS
