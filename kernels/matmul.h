/* matmul: for each part p: y_p[m][n] = sum_k x[m][k] W_p[n][k] + bias_p[n] (+ y_p[m][n]).
 *
 * Why        Projections that read the same x (q, k, v; gate, up) are one call, so x is prepared
 *            once and the threads meet once. The residual add rides on `accumulate`.
 * Layout     x: [M][K] activation; W_p: [N_p][K] any dtype, rows unpadded; bias_p: [N_p] F32 or
 *            NULL; y_p: [M][N_p] activation; _cuda: BF16 or F32, each part for itself (the residual
 *            stream and logits are F32). y_p never aliases x.
 * Limits     1 <= parts <= 3, K a multiple of W's block and of 32, M >= 0. _cuda: BF16 weights,
 *            rows of x, y and W that start at multiples of 16 bytes.
 * Numerics   _ref: double sums over de-quantised weights and unrounded x. _cpu: F32, F16, BF16
 *            weights: F32 products and sums; block formats: x rounded to int8 per group of 32 (d =
 *            max|x|/127), exact integer dots inside a group, F32 across groups.
 *            _cuda: F32 sums, rounded to y's type; with a bias, bias (+ y) is so rounded first.
 * Workspace  The op table's matmul_workspace_bytes(args), aligned as its device memory is, for the
 *            duration of the call.
 * Execution  Asynchronous on `stream`; no allocation. _cuda: cuBLASLt for every (N, K) and M; parts
 *            whose weights, columns of y and biases lie side by side are one product; a
 *            new (N, K, type of y) or class of M searches its algorithm and must not be met first
 *            under graph capture (asserted).
 * Invariance Row-invariant: yes. y[m][n] is one fixed sequence of operations over K, whatever M,
 *            the thread count and the neighbours are (D6). _cuda: within M = 1..64, and within each
 *            range up to the next power of two above (4097 and more: one); not across them. */
#pragma once

#include "kernels/device.h"
#include "kernels/matrix.h"

SPIN_BEGIN_DECLS

#define SPIN_MATMUL_PARTS_MAX 3u

struct spin_matmul_part {
    struct spin_matrix y;      /* out; in too with accumulate */
    struct spin_weight weight; /* in */
    const float *bias;         /* in [weight.rows], or NULL */
    bool accumulate;
};

struct spin_matmul_args {
    struct spin_matrix x; /* in */
    struct spin_matmul_part parts[SPIN_MATMUL_PARTS_MAX];
    uint32_t part_count;
    void *workspace;
};

/* For any M' <= args->x.rows and any part of the same K. */
uint64_t spin_matmul_workspace_bytes(const struct spin_matmul_args *args);
spin_status spin_matmul_ref(const struct spin_matmul_args *args, struct spin_stream *stream);
spin_status spin_matmul_cpu(const struct spin_matmul_args *args, struct spin_stream *stream);
uint64_t spin_matmul_workspace_bytes_cuda(const struct spin_matmul_args *args);
spin_status spin_matmul_cuda(const struct spin_matmul_args *args, struct spin_stream *stream);

SPIN_END_DECLS
