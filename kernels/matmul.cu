/* Matrix products by cuBLASLt: BF16 in, BF16 or F32 out, F32 sums. In its column-major terms y is
 * [N][M] = W^T [N][K] x [K][M]: "TN".
 *
 * Rule. Every (N, K) goes to the library, whatever M is. A kernel of our own for M = 1..64 was
 * measured beside it on an H200 and is left out: ranges of equal length for all multiprocessors,
 * tiles cut along K where a range ends, weights by the copy engine, products by wgmma. The products
 * of a layer of Qwen3-14B took 3 % longer at M = 8 with another kernel before each, as in a decode
 * step, and 23 % longer at M = 64 in a row. Started early, before the product ahead had ended, they
 * took 2 % less at M = 8, but 18 % more at M = 64. No (N, K) was faster for all M = 1..64, and one
 * rule for all of them is what invariance asks for.
 *
 * Plans. An algorithm is searched once per (N, K, type of y, class of M) and kept with the stream:
 * one class for M = 1..64 (decode), one for every power of two above, the last without end. The
 * first candidate of the library's heuristics for the class's largest M that is supported for the
 * whole class is taken, so that every M of a class runs the same kernel, with the same tile and the
 * same cuts of K, over the M rows there are: nothing is padded in memory. Where no candidate does,
 * the M at hand gets a plan of its own, with a warning: its rows are not invariant. Nothing is
 * searched under capture (asserted): run each shape once before.
 *
 * Invariance. Within a class a row of y depends on its row of x alone: the tests compare its bits
 * alone and among 2 to 64 rows. Across classes it may differ in its last bit: another tile may cut
 * K otherwise. Partial sums of a cut K are kept in F32 in the workspace and added in a fixed order;
 * sums in place and in BF16 are left out of the search.
 *
 * Bias. cuBLASLt adds biases in the type of y only. Here y starts as bias (+ y), rounded to y's
 * type, and the product is added to it in F32: exact up to y's own rounding where y is F32, and
 * where the biases are BF16 numbers and accumulate is false, as in the models that have biases.
 *
 * Neighbours. Parts whose weights, columns of y and biases lie side by side in memory, as those of
 * q, k, v and of gate, up do where the caller puts them so, are one product: fewer, larger ones
 * leave fewer multiprocessors idle at their ends. A part's bits then follow from all of them. */
#include "base/log.h"
#include "kernels/cublaslt_cuda.cuh"
#include "kernels/device_cuda.cuh"
#include "kernels/matmul.h"

#include <stdlib.h>
#include <string.h>

#define WORKSPACE_BYTES (UINT64_C(32) << 20)
#define WORKSPACE_ALIGNMENT 256u
#define ALIGNMENT 16u /* of rows: what the copy engine asks for */
#define DECODE_ROWS_MAX 64u
#define CLASS_ROWS_MAX 8192u
#define CANDIDATES 16
#define PLANS_MAX 512u /* a model has a handful of (N, K, type) and eight classes */
#define BIAS_THREADS 256u

struct plan {
    uint32_t n;
    uint32_t k;
    cudaDataType_t y_type;
    uint32_t first; /* M: the class, both ends included */
    uint32_t last;
    cublasLtMatmulAlgo_t algo;
};

struct spin_cuda_matmul {
    cublasLtHandle_t lt;
    cublasLtMatmulDesc_t product;
    cublasLtMatmulPreference_t preference;
    uint32_t plan_count; /* ever made: the oldest gives way */
    struct plan plans[PLANS_MAX];
};

struct layouts {
    cublasLtMatrixLayoutOpaque_t w;
    cublasLtMatrixLayoutOpaque_t x;
    cublasLtMatrixLayoutOpaque_t y;
};

struct shape {
    uint32_t m;
    uint32_t n;
    uint32_t k;
    cudaDataType_t y_type;
    uint64_t x_stride;
    uint64_t y_stride;
};

static cublasStatus_t set_preferences(cublasLtMatmulPreference_t preference)
{
    const size_t workspace = WORKSPACE_BYTES;
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const uint32_t alignment = ALIGNMENT;
    static const cublasLtMatmulPreferenceAttributes_t operands[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    cublasStatus_t status = spin_cublaslt.MatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = spin_cublaslt.MatmulPreferenceSetAttribute(
            preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions);
    }
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(operands) && status == CUBLAS_STATUS_SUCCESS; i++) {
        status = spin_cublaslt.MatmulPreferenceSetAttribute(preference, operands[i], &alignment,
                                                            sizeof alignment);
    }
    return status;
}

spin_status spin_cuda_matmul_create(struct spin_cuda_matmul **out, struct spin_error *err)
{
    SPIN_TRY(spin_cublaslt_find(err));
    struct spin_cuda_matmul *self = (struct spin_cuda_matmul *)calloc(1, sizeof *self);
    if (self == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "matmul plans: %zu bytes", sizeof *self);
    }
    const cublasOperation_t transposed = CUBLAS_OP_T;
    cublasStatus_t status = spin_cublaslt.Create(&self->lt);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = spin_cublaslt.MatmulDescCreate(&self->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = spin_cublaslt.MatmulDescSetAttribute(self->product, CUBLASLT_MATMUL_DESC_TRANSA,
                                                      &transposed, sizeof transposed);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = spin_cublaslt.MatmulPreferenceCreate(&self->preference);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = set_preferences(self->preference);
    }
    if (status != CUBLAS_STATUS_SUCCESS) {
        spin_cuda_matmul_destroy(self);
        return spin_fail(err, SPIN_ERR_UNSUPPORTED, "cuBLASLt: %s",
                         spin_cublaslt.GetStatusName(status));
    }
    *out = self;
    return SPIN_OK;
}

void spin_cuda_matmul_destroy(struct spin_cuda_matmul *matmul)
{
    if (matmul == NULL) {
        return;
    }
    if (matmul->preference != NULL) {
        (void)spin_cublaslt.MatmulPreferenceDestroy(matmul->preference);
    }
    if (matmul->product != NULL) {
        (void)spin_cublaslt.MatmulDescDestroy(matmul->product);
    }
    if (matmul->lt != NULL) {
        (void)spin_cublaslt.Destroy(matmul->lt);
    }
    free(matmul);
}

static void describe(const struct shape *shape, struct layouts *layouts)
{
    const cudaDataType_t type = CUDA_R_16BF;
    const auto init = spin_cublaslt.MatrixLayoutInit_internal;
    const cublasStatus_t w =
        init(&layouts->w, sizeof layouts->w, type, shape->k, shape->n, shape->k);
    const cublasStatus_t x =
        init(&layouts->x, sizeof layouts->x, type, shape->k, shape->m, (int64_t)shape->x_stride);
    const cublasStatus_t y = init(&layouts->y, sizeof layouts->y, shape->y_type, shape->n, shape->m,
                                  (int64_t)shape->y_stride);
    SPIN_ASSERT(w == CUBLAS_STATUS_SUCCESS && x == CUBLAS_STATUS_SUCCESS &&
                y == CUBLAS_STATUS_SUCCESS);
}

/* Packed rows, as plans are searched: an algorithm depends on the alignment of rows alone. */
static struct layouts packed(const struct plan *plan, uint32_t m)
{
    const struct shape shape = {
        m, plan->n, plan->k, plan->y_type, plan->k, (plan->n + UINT64_C(7)) / 8 * 8};
    struct layouts layouts;
    describe(&shape, &layouts);
    return layouts;
}

static bool supports(const struct spin_cuda_matmul *self, const struct plan *plan, uint32_t m)
{
    struct layouts layouts = packed(plan, m);
    cublasLtMatmulHeuristicResult_t result;
    const cublasStatus_t status =
        spin_cublaslt.MatmulAlgoCheck(self->lt, self->product, &layouts.w, &layouts.x, &layouts.y,
                                      &layouts.y, &plan->algo, &result);
    return status == CUBLAS_STATUS_SUCCESS && result.state == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= WORKSPACE_BYTES;
}

/* Decode is asked for every M; above, both ends speak for what is between. */
static bool supports_class(const struct spin_cuda_matmul *self, const struct plan *plan)
{
    const uint32_t step = plan->last <= DECODE_ROWS_MAX ? 1 : plan->last - plan->first;
    for (uint64_t m = plan->first; m <= plan->last; m += SPIN_MAX(step, 1u)) {
        if (!supports(self, plan, (uint32_t)m)) {
            return false;
        }
    }
    return true;
}

static uint32_t attribute(const cublasLtMatmulAlgo_t *algo,
                          cublasLtMatmulAlgoConfigAttributes_t name)
{
    uint32_t value = 0;
    (void)spin_cublaslt.MatmulAlgoConfigGetAttribute(algo, name, &value, sizeof value, NULL);
    return value;
}

/* False when the library has nothing for the whole class. */
static bool search(const struct spin_cuda_matmul *self, struct plan *plan)
{
    cublasLtMatmulHeuristicResult_t candidates[CANDIDATES];
    struct layouts layouts = packed(plan, plan->last);
    int found = 0;
    const cublasStatus_t status = spin_cublaslt.MatmulAlgoGetHeuristic(
        self->lt, self->product, &layouts.w, &layouts.x, &layouts.y, &layouts.y, self->preference,
        CANDIDATES, candidates, &found);
    for (int i = 0; status == CUBLAS_STATUS_SUCCESS && i < found; i++) {
        plan->algo = candidates[i].algo;
        if (candidates[i].state != CUBLAS_STATUS_SUCCESS || !supports_class(self, plan)) {
            continue;
        }
        SPIN_DEBUG_LOG("matmul plan: n=%u k=%u y=%s rows=%u..%u candidate=%d of=%d tile=%u "
                       "stages=%u split_k=%u reduction=%u",
                       plan->n, plan->k, plan->y_type == CUDA_R_32F ? "f32" : "bf16", plan->first,
                       plan->last, i, found, attribute(&plan->algo, CUBLASLT_ALGO_CONFIG_TILE_ID),
                       attribute(&plan->algo, CUBLASLT_ALGO_CONFIG_STAGES_ID),
                       attribute(&plan->algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM),
                       attribute(&plan->algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME));
        return true;
    }
    return false;
}

/* The class of m; the last one is searched as if it had an end. */
static void set_class(struct plan *plan, uint32_t m)
{
    plan->first = 1;
    plan->last = DECODE_ROWS_MAX;
    while (plan->last < m && plan->last < CLASS_ROWS_MAX) {
        plan->first = plan->last + 1;
        plan->last *= 2;
    }
}

static const struct plan *find_plan(const struct spin_cuda_matmul *self, const struct shape *shape)
{
    const uint32_t m = SPIN_MIN(shape->m, CLASS_ROWS_MAX);
    for (uint32_t i = 0; i < SPIN_MIN(self->plan_count, PLANS_MAX); i++) {
        const struct plan *plan = &self->plans[i];
        if (plan->n == shape->n && plan->k == shape->k && plan->y_type == shape->y_type &&
            plan->first <= m && m <= plan->last) {
            return plan;
        }
    }
    return NULL;
}

/* NULL when the library can do nothing with the shape. */
static const struct plan *make_plan(struct spin_cuda_matmul *self, const struct shape *shape,
                                    cudaStream_t stream)
{
    enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    (void)cudaStreamIsCapturing(stream, &capture);
    SPIN_ASSERT(capture == cudaStreamCaptureStatusNone); /* run the shape once before capture */
    const uint32_t m = SPIN_MIN(shape->m, CLASS_ROWS_MAX);
    struct plan plan;
    memset(&plan, 0, sizeof plan);
    plan.n = shape->n;
    plan.k = shape->k;
    plan.y_type = shape->y_type;
    set_class(&plan, m);
    if (!search(self, &plan)) {
        SPIN_WARN("no algorithm for a class of products: n=%u k=%u rows=%u..%u", plan.n, plan.k,
                  plan.first, plan.last);
        plan.first = m;
        plan.last = m;
        if (!search(self, &plan)) {
            return NULL;
        }
    }
    struct plan *kept = &self->plans[self->plan_count % PLANS_MAX];
    *kept = plan;
    self->plan_count++;
    return kept;
}

static __device__ inline float widen(float value)
{
    return value;
}

static __device__ inline float widen(__nv_bfloat16 value)
{
    return __bfloat162float(value);
}

static __device__ inline void put(float *y, float value)
{
    *y = value;
}

static __device__ inline void put(__nv_bfloat16 *y, float value)
{
    *y = __float2bfloat16_rn(value);
}

template <typename T>
static __global__ void start_from_bias(const struct shape shape, T *y, const float *bias,
                                       bool accumulate)
{
    const uint32_t n = blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= shape.n) {
        return;
    }
    const float b = bias[n];
    for (uint64_t m = blockIdx.y; m < shape.m; m += gridDim.y) {
        T *value = y + m * shape.y_stride + n;
        put(value, accumulate ? widen(*value) + b : b);
    }
}

static void start(const struct shape *shape, const struct spin_matmul_part *part,
                  cudaStream_t stream)
{
    const dim3 grid((shape->n + BIAS_THREADS - 1) / BIAS_THREADS, SPIN_MIN(shape->m, 1024u));
    if (shape->y_type == CUDA_R_32F) {
        start_from_bias<<<grid, BIAS_THREADS, 0, stream>>>(*shape, (float *)part->y.data,
                                                           part->bias, part->accumulate);
    } else {
        start_from_bias<<<grid, BIAS_THREADS, 0, stream>>>(*shape, (__nv_bfloat16 *)part->y.data,
                                                           part->bias, part->accumulate);
    }
}

static void check_matrix(const struct spin_matrix *matrix)
{
    const uint64_t row_bytes = matrix->stride * spin_dtype_block_bytes(matrix->dtype);
    SPIN_ASSERT_GE(matrix->stride, matrix->cols);
    SPIN_ASSERT_EQ(row_bytes % ALIGNMENT, 0);
    SPIN_ASSERT(matrix->rows == 0 || matrix->data != NULL);
    SPIN_ASSERT_EQ((uintptr_t)matrix->data % ALIGNMENT, 0);
}

static void check(const struct spin_matmul_args *args)
{
    check_matrix(&args->x);
    SPIN_ASSERT_EQ(args->x.dtype, SPIN_DTYPE_BF16);
    SPIN_ASSERT_GE(args->part_count, 1);
    SPIN_ASSERT_LE(args->part_count, SPIN_MATMUL_PARTS_MAX);
    SPIN_ASSERT_EQ(args->x.cols % 32, 0);
    SPIN_ASSERT_EQ((uintptr_t)args->workspace % WORKSPACE_ALIGNMENT, 0);
    for (uint32_t p = 0; p < args->part_count; p++) {
        const struct spin_matmul_part *part = &args->parts[p];
        check_matrix(&part->y);
        SPIN_ASSERT(part->y.dtype == SPIN_DTYPE_BF16 || part->y.dtype == SPIN_DTYPE_F32);
        SPIN_ASSERT_EQ(part->weight.dtype, SPIN_DTYPE_BF16); /* others are converted at load */
        SPIN_ASSERT_EQ((uintptr_t)part->weight.data % ALIGNMENT, 0);
        SPIN_ASSERT_EQ(part->y.rows, args->x.rows);
        SPIN_ASSERT_EQ(part->y.cols, part->weight.rows);
        SPIN_ASSERT_EQ(part->weight.cols, args->x.cols);
        SPIN_ASSERT(part->y.data != args->x.data || args->x.rows == 0);
    }
}

static spin_status multiply(const struct spin_matmul_args *args,
                            const struct spin_matmul_part *part, struct spin_stream *stream)
{
    struct spin_cuda_matmul *self = spin_stream_cuda_matmul(stream);
    cudaStream_t cuda = spin_stream_cuda(stream);
    const struct shape shape = {
        args->x.rows,   part->weight.rows,
        args->x.cols,   part->y.dtype == SPIN_DTYPE_F32 ? CUDA_R_32F : CUDA_R_16BF,
        args->x.stride, part->y.stride};
    const struct plan *plan = find_plan(self, &shape);
    if (plan == NULL) {
        plan = make_plan(self, &shape, cuda);
    }
    if (plan == NULL) {
        SPIN_ERROR("no algorithm for a product: m=%u n=%u k=%u", shape.m, shape.n, shape.k);
        return SPIN_ERR_UNSUPPORTED;
    }
    if (part->bias != NULL) {
        start(&shape, part, cuda);
    }
    struct layouts layouts;
    describe(&shape, &layouts);
    const float one = 1;
    const float add = part->accumulate || part->bias != NULL ? 1 : 0;
    const cublasStatus_t status = spin_cublaslt.Matmul(
        self->lt, self->product, &one, part->weight.data, &layouts.w, args->x.data, &layouts.x,
        &add, part->y.data, &layouts.y, part->y.data, &layouts.y, &plan->algo, args->workspace,
        (size_t)WORKSPACE_BYTES, cuda);
    if (status != CUBLAS_STATUS_SUCCESS) {
        SPIN_ERROR("device lost: op=matmul m=%u n=%u k=%u why=%s", shape.m, shape.n, shape.k,
                   spin_cublaslt.GetStatusName(status));
        return SPIN_ERR_DEVICE_LOST;
    }
    return spin_cuda_launched("matmul");
}

uint64_t spin_matmul_workspace_bytes_cuda(const struct spin_matmul_args *args)
{
    (void)args;
    return WORKSPACE_BYTES;
}

/* Whether `next` goes on where `part` ends. */
static bool continues(const struct spin_matmul_part *part, const struct spin_matmul_part *next)
{
    const struct spin_matrix *y = &part->y;
    const uint64_t weight_bytes =
        part->weight.rows * spin_dtype_row_bytes(part->weight.dtype, part->weight.cols);
    const uint64_t y_bytes = y->cols * (uint64_t)spin_dtype_block_bytes(y->dtype);
    const float *bias = part->bias == NULL ? NULL : part->bias + part->weight.rows;
    return (const uint8_t *)part->weight.data + weight_bytes == next->weight.data &&
           (const uint8_t *)y->data + y_bytes == next->y.data && y->dtype == next->y.dtype &&
           y->stride == next->y.stride && (uint64_t)y->cols + next->y.cols <= y->stride &&
           bias == next->bias && part->accumulate == next->accumulate;
}

spin_status spin_matmul_cuda(const struct spin_matmul_args *args, struct spin_stream *stream)
{
    check(args);
    for (uint32_t p = 0; args->x.rows > 0 && p < args->part_count; p++) {
        struct spin_matmul_part part = args->parts[p];
        while (p + 1 < args->part_count && continues(&part, &args->parts[p + 1])) {
            p++;
            part.weight.rows += args->parts[p].weight.rows;
            part.y.cols += args->parts[p].y.cols;
        }
        if (part.weight.rows > 0) {
            SPIN_TRY(multiply(args, &part, stream));
        }
    }
    return SPIN_OK;
}
