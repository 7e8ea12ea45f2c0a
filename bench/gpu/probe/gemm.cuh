// gemm: cuBLASLt, y[M, N] = x[M, K] W[N, K]^T (column-major TN), bf16 in and out, fp32 sums.
//
// Why        Items that need a matrix product, measured or as the load beside something else.
// Ownership  Lt keeps its handle and workspace until the process ends.
// Threading  The main thread.
// Units      Elements.
// Errors     As in probe.cuh.
#pragma once

#include "bench/gpu/probe/probe.cuh"

#include <cublasLt.h>

#define CB(x) \
    do { \
        cublasStatus_t s_ = (x); \
        if (s_) { \
            printf("FAIL line %d %s: cublas %d\n", __LINE__, #x, (int)s_); \
            exit(1); \
        } \
    } while (0)
struct Lt {
    cublasLtHandle_t h;
    void *ws;
    static constexpr size_t WS = 32 << 20;
    Lt()
    {
        CB(cublasLtCreate(&h));
        ws = dal<uint8_t>(WS);
    }
    struct P {
        cublasLtMatmulDesc_t d;
        cublasLtMatrixLayout_t a, b, c;
        std::vector<cublasLtMatmulHeuristicResult_t> r;
    };
    P plan(int M, int N, int K, int want, int sms = 0)
    {
        P p;
        CB(cublasLtMatmulDescCreate(&p.d, CUBLAS_COMPUTE_32F, CUDA_R_32F));
        cublasOperation_t T = CUBLAS_OP_T;
        CB(cublasLtMatmulDescSetAttribute(p.d, CUBLASLT_MATMUL_DESC_TRANSA, &T, sizeof T));
        if (sms) {
            int32_t v = sms;
            CB(cublasLtMatmulDescSetAttribute(p.d, CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, &v,
                                              sizeof v));
        }
        CB(cublasLtMatrixLayoutCreate(&p.a, CUDA_R_16BF, K, N, K));
        CB(cublasLtMatrixLayoutCreate(&p.b, CUDA_R_16BF, K, M, K));
        CB(cublasLtMatrixLayoutCreate(&p.c, CUDA_R_16BF, N, M, N));
        cublasLtMatmulPreference_t pr;
        CB(cublasLtMatmulPreferenceCreate(&pr));
        size_t w = WS;
        CB(cublasLtMatmulPreferenceSetAttribute(pr, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &w,
                                                sizeof w));
        p.r.resize(want);
        int got = 0;
        CB(cublasLtMatmulAlgoGetHeuristic(h, p.d, p.a, p.b, p.c, p.c, pr, want, p.r.data(), &got));
        p.r.resize(got);
        CB(cublasLtMatmulPreferenceDestroy(pr));
        return p;
    }
    cublasStatus_t run(P &p, int i, const bf16 *W, const bf16 *x, bf16 *y, cudaStream_t s = 0)
    {
        float one = 1, zero = 0;
        return cublasLtMatmul(h, p.d, &one, W, p.a, x, p.b, &zero, y, p.c, y, p.c, &p.r[i].algo, ws,
                              WS, s);
    }
};
