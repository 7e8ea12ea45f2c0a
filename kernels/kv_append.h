/* kv_append: writes K (after RoPE) and V of the batch's tokens into their pages, rounded to BF16.
 *
 * Layout     k, v: [tokens][kv_heads * head_dim] activations. The last token of a sequence goes to
 *            list token visible[row] - 1, the token j places before it to visible[row] - 1 - j.
 * Limits     The pages are on the lists already and not shared.
 * Execution  Asynchronous on `stream`; no allocation.
 * Invariance Row-invariant: yes. Bit-equal to the reference: yes (round to nearest even). */
#pragma once

#include "kernels/device.h"
#include "kernels/matrix.h"
#include "kernels/pages.h"

SPIN_BEGIN_DECLS

struct spin_kv_append_args {
    struct spin_matrix k; /* in */
    struct spin_matrix v; /* in */
    struct spin_spans spans;
    struct spin_page_lists pages; /* out: page contents */
};

spin_status spin_kv_append_ref(const struct spin_kv_append_args *args, struct spin_stream *stream);
spin_status spin_kv_append_cpu(const struct spin_kv_append_args *args, struct spin_stream *stream);
spin_status spin_kv_append_cuda(const struct spin_kv_append_args *args, struct spin_stream *stream);

SPIN_END_DECLS
