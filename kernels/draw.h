/* draw: rows of logits become tokens on the device, so that a step reads back tokens, not rows.
 *
 * Why        One row of 152K logits is 608 KB; a token of it is 16 bytes.
 * Formula    worker/engine/sampler.h's for a row without biases and penalties: masked tokens go;
 *            temperature 0 takes the largest; else w = exp((l - max) / temperature), top_k keeps
 *            the k largest, top_p the fewest largest that hold that share of what is left, min_p
 *            what is at least that share of the largest; the token is where the running sum of w,
 *            in order of ids, passes u * total. Where logits are equal the lower id goes first.
 *            Logits that are not finite are never drawn.
 * Numerics   w is a whole number of 2^-43 (kernels/draw_weight.h), made by the same sequence of
 *            operations in double everywhere, and sums of w are exact: _ref and _cuda draw the same
 *            token, whatever the order they add in. What is less than 2^-43.5 of the largest is not
 *            drawn. log_sum: _ref in double; _cuda of such w, within 1e-7.
 * Layout     logits: [rows][vocab] F32; _cuda: rows that start at multiples of 16 bytes. rows and
 *            out are memory of the device.
 * Limits     1 <= vocab <= SPIN_DRAW_VOCAB_MAX; count may be 0. The fields of a row are in the
 *            ranges that they say (checked when a request comes in; _ref asserts).
 * Execution  Asynchronous on `stream`; no allocation, no workspace.
 * Errors     A row without a finite logit gives token -1.
 * Invariance Row-invariant: yes. Bit-equal to the reference: token and logit. */
#pragma once

#include "kernels/device.h"
#include "kernels/matrix.h"

SPIN_BEGIN_DECLS

#define SPIN_DRAW_VOCAB_MAX (UINT32_C(1) << 18)
#define SPIN_DRAW_MASKED_MAX 32u

struct spin_draw_row {
    double u;            /* [0, 1) */
    uint32_t logits_row; /* which row of logits: several draws may share one */
    float temperature;   /* >= 0; 0: the largest, and what follows is not looked at */
    float top_p;         /* (0, 1]; 1: off */
    float min_p;         /* [0, 1]; 0: off */
    uint32_t top_k;      /* 0: off */
    uint32_t log_sum;    /* 1: wanted; 0: it is NaN */
    uint32_t masked_count;
    int32_t masked[SPIN_DRAW_MASKED_MAX]; /* [masked_count] ids that are not drawn */
};

struct spin_drawn {
    int32_t token;  /* -1: no logit that is finite and not masked */
    float logit;    /* of the token, as it lies in the row; NaN without one */
    double log_sum; /* ln of the sum of exp over the row as it lies there, masked ids included; NaN
                     * where a logit is NaN or +inf or all are -inf. ln p = logit - log_sum */
};

struct spin_draw_args {
    struct spin_matrix logits;        /* in */
    const struct spin_draw_row *rows; /* in [count] */
    struct spin_drawn *out;           /* out [count] */
    uint32_t count;
};

spin_status spin_draw_ref(const struct spin_draw_args *args, struct spin_stream *stream);
spin_status spin_draw_cuda(const struct spin_draw_args *args, struct spin_stream *stream);

SPIN_END_DECLS
