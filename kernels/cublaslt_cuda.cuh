/* cublaslt_cuda: the functions of cuBLASLt that products call, found when the first stream is made.
 *
 * Why        The library is half a gigabyte. A program linked with it does not start where it is
 *            missing, and maps it where there is no GPU; a worker has to do neither.
 * Ownership  The library stays until the process ends.
 * Threading  Any thread; the table is constant once find has returned OK.
 * Errors     UNSUPPORTED: no such library, or one without a function; the text says which. */
#pragma once

#include "base/status.h"

#include <cublasLt.h>

/* By their names without the prefix. */
#define SPIN_CUBLASLT_MAP(X) \
    X(Create) \
    X(Destroy) \
    X(GetStatusName) \
    X(Matmul) \
    X(MatmulAlgoCheck) \
    X(MatmulAlgoConfigGetAttribute) \
    X(MatmulAlgoGetHeuristic) \
    X(MatmulDescCreate) \
    X(MatmulDescDestroy) \
    X(MatmulDescSetAttribute) \
    X(MatmulPreferenceCreate) \
    X(MatmulPreferenceDestroy) \
    X(MatmulPreferenceSetAttribute) \
    X(MatrixLayoutInit_internal)

struct spin_cublaslt {
#define SPIN_CUBLASLT_FIELD(name) decltype(&cublasLt##name) name;
    SPIN_CUBLASLT_MAP(SPIN_CUBLASLT_FIELD)
#undef SPIN_CUBLASLT_FIELD
};

/* To be called through once find has returned OK. */
extern struct spin_cublaslt spin_cublaslt;

SPIN_MUST_USE spin_status spin_cublaslt_find(struct spin_error *err);
