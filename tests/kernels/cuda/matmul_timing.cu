/* The time of a layer's products, by launches and by graphs, with what one algorithm for all M of
 * decode costs against one algorithm per M; of what adds to the residual stream, of logits, and of
 * parts apart and side by side. */
#include "tests/kernels/cuda/matmul_twins.cuh"

#include <cublasLt.h>

#include <algorithm>
#include <math.h>
#include <string>

#define COPY_GB_PER_S 4263.0
#define TIMINGS 9

/* Median of TIMINGS times `inner` calls of run(number), in us per call. */
template <typename F> static double time_us(struct spin_twins *twins, uint32_t inner, F run)
{
    cudaStream_t stream = spin_stream_cuda(twins->cuda);
    cudaEvent_t begin;
    cudaEvent_t end;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    std::vector<float> times;
    uint32_t number = 0;
    run(number++);
    run(number++);
    for (uint32_t i = 0; i < TIMINGS; i++) {
        cudaEventRecord(begin, stream);
        for (uint32_t j = 0; j < inner; j++) {
            run(number++);
        }
        cudaEventRecord(end, stream);
        if (spin_stream_sync(twins->cuda, SPIN_MATMUL_WAIT_NS) != SPIN_OK) {
            return NAN;
        }
        float ms = 0;
        cudaEventElapsedTime(&ms, begin, end);
        times.push_back(ms * 1e3F / (float)inner);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    std::sort(times.begin(), times.end());
    return (double)times[TIMINGS / 2];
}

/* cuBLASLt as it would be used without invariance: the first heuristic for this M. */
struct per_m {
    cublasLtHandle_t lt;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t w;
    cublasLtMatrixLayout_t x;
    cublasLtMatrixLayout_t y;
    cublasLtMatmulHeuristicResult_t result;
    int found;

    explicit per_m(struct spin_matmul_shape shape) : found(0)
    {
        const cublasOperation_t transposed = CUBLAS_OP_T;
        const size_t bytes = SPIN_MATMUL_WORKSPACE_BYTES;
        cublasLtMatmulPreference_t preference;
        cublasLtCreate(&lt);
        cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
        cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                       sizeof transposed);
        cublasLtMatrixLayoutCreate(&w, CUDA_R_16BF, shape.k, shape.n, shape.k);
        cublasLtMatrixLayoutCreate(&x, CUDA_R_16BF, shape.k, shape.m, shape.k);
        cublasLtMatrixLayoutCreate(&y, CUDA_R_16BF, shape.n, shape.m, shape.n);
        cublasLtMatmulPreferenceCreate(&preference);
        cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &bytes, sizeof bytes);
        cublasLtMatmulAlgoGetHeuristic(lt, product, w, x, y, y, preference, 1, &result, &found);
        cublasLtMatmulPreferenceDestroy(preference);
    }
    per_m(const per_m &) = delete;
    ~per_m()
    {
        cublasLtMatrixLayoutDestroy(y);
        cublasLtMatrixLayoutDestroy(x);
        cublasLtMatrixLayoutDestroy(w);
        cublasLtMatmulDescDestroy(product);
        cublasLtDestroy(lt);
    }
    void run(struct spin_matmul_operands *o, uint32_t set, cudaStream_t stream)
    {
        const float one = 1;
        const float zero = 0;
        const uint16_t *weight = o->w.data + (uint64_t)o->shape.n * o->shape.k * set;
        cublasLtMatmul(lt, product, &one, weight, w, o->x.data, x, &zero, o->y.data, y, o->y.data,
                       y, &result.algo, o->workspace.data, SPIN_MATMUL_WORKSPACE_BYTES, stream);
    }
};

/* The products of a layer of Qwen3-14B. */
static const struct {
    const char *name;
    uint32_t n;
    uint32_t k;
} layer[] = {
    {"qkv", 7168, 5120}, {"o", 5120, 5120}, {"gateup", 34816, 5120}, {"down", 5120, 17408}};

static const uint32_t batches[] = {1, 8, 16, 32, 64, 256, 2048};

static void time_batch(struct spin_twins *twins, struct spin_matmul_operands *o,
                       const std::string &name, uint32_t m, double *ours, double *theirs)
{
    const double weight_bytes = 2.0 * o->shape.n * o->shape.k;
    const uint32_t inner = m > 64 ? 2 : (uint32_t)std::max(4.0, std::min(24.0, 2e9 / weight_bytes));
    const double us = time_us(twins, inner, [&](uint32_t number) {
        const struct spin_matmul_args args = spin_matmul_args_for(o, 0, m, number % o->sets);
        if (spin_ops_cuda.matmul(&args, twins->cuda) != SPIN_OK) {
            printf("FAIL %s\n", name.c_str());
        }
    });
    per_m other({m, o->shape.n, o->shape.k});
    double other_us = NAN;
    if (other.found > 0) {
        other_us = time_us(twins, inner, [&](uint32_t number) {
            other.run(o, number % o->sets, spin_stream_cuda(twins->cuda));
        });
    }
    spin_twin_result(name.c_str(), us, "us");
    spin_twin_result((name + "_algorithm_per_m").c_str(), other_us, "us");
    const double bytes = weight_bytes + 2.0 * m * (o->shape.k + o->shape.n);
    if (m <= 64) {
        spin_twin_result((name + "_over_floor").c_str(), us / (bytes / COPY_GB_PER_S / 1e3),
                         "ratio");
    } else {
        spin_twin_result((name + "_rate").c_str(), weight_bytes * m / us / 1e6, "TFLOP/s");
    }
    *ours += us;
    *theirs += other_us;
}

static void time_layer(struct spin_twins *twins)
{
    double ours[SPIN_ARRAY_COUNT(batches)] = {};
    double theirs[SPIN_ARRAY_COUNT(batches)] = {};
    for (const auto &product : layer) {
        const uint64_t bytes = (uint64_t)product.n * product.k * 2;
        struct spin_matmul_operands o(
            twins, {2048, product.n, product.k},
            (uint32_t)std::max<uint64_t>(2, (UINT64_C(1100) << 20) / bytes));
        for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(batches); i++) {
            const std::string name =
                std::string("matmul_") + product.name + "_m" + std::to_string(batches[i]);
            time_batch(twins, &o, name, batches[i], &ours[i], &theirs[i]);
        }
    }
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(batches); i++) {
        const std::string name = "matmul_layer_m" + std::to_string(batches[i]);
        spin_twin_result(name.c_str(), ours[i], "us");
        spin_twin_result((name + "_price_of_one_algorithm").c_str(), ours[i] / theirs[i], "ratio");
    }
}

/* As time_us, by a graph of `inner` calls of run(number), so that launching is no part of it. */
template <typename F> static double graph_us(struct spin_twins *twins, uint32_t inner, F run)
{
    cudaStream_t stream = spin_stream_cuda(twins->cuda);
    bool ok = run(0) &&
              spin_stream_sync(twins->cuda, SPIN_MATMUL_WAIT_NS) == SPIN_OK; /* searches plans */
    cudaGraphExec_t graph = spin_matmul_capture(stream, [&]() {
        for (uint32_t i = 0; i < inner; i++) {
            ok = run(i) && ok;
        }
        return ok;
    });
    if (graph == NULL) {
        return NAN;
    }
    const double us = time_us(twins, 1, [&](uint32_t) { cudaGraphLaunch(graph, stream); });
    cudaGraphExecDestroy(graph);
    return us / inner;
}

static __global__ void touch(uint16_t *value)
{
    if (threadIdx.x == 0) {
        *value = 0x3F80;
    }
}

/* Products in a graph, in a row or with a kernel before each: us a product, with that kernel. */
static double time_graph(struct spin_twins *twins, struct spin_matmul_operands *o,
                         const std::string &name, uint32_t m, bool is_between)
{
    const double bytes = 2.0 * o->shape.n * o->shape.k;
    const uint32_t inner = (uint32_t)std::max(4.0, std::min(100.0, 2e9 / bytes));
    const double us = graph_us(twins, inner, [&](uint32_t number) {
        if (is_between) {
            touch<<<1, 32, 0, spin_stream_cuda(twins->cuda)>>>(o->x.data);
        }
        const struct spin_matmul_args args = spin_matmul_args_for(o, 0, m, number % o->sets);
        return spin_ops_cuda.matmul(&args, twins->cuda) == SPIN_OK;
    });
    const double row_bytes = 2.0 * o->shape.k + (double)o->y_bytes();
    const double floor_us = (bytes + m * row_bytes) / COPY_GB_PER_S / 1e3;
    const std::string result =
        name + "_m" + std::to_string(m) + (is_between ? "_between_graph" : "_graph");
    spin_twin_result(result.c_str(), us, "us");
    spin_twin_result((result + "_over_floor").c_str(), us / floor_us, "ratio");
    return us;
}

static const uint32_t decode_batches[] = {1, 8, 16, 32, 64};

static void time_layer_graphs(struct spin_twins *twins)
{
    double in_a_row[SPIN_ARRAY_COUNT(decode_batches)] = {};
    double between[SPIN_ARRAY_COUNT(decode_batches)] = {};
    for (const auto &product : layer) {
        const uint64_t bytes = (uint64_t)product.n * product.k * 2;
        struct spin_matmul_operands o(
            twins, {64, product.n, product.k},
            (uint32_t)std::max<uint64_t>(2, (UINT64_C(1100) << 20) / bytes));
        const std::string name = std::string("matmul_") + product.name;
        for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(decode_batches); i++) {
            in_a_row[i] += time_graph(twins, &o, name, decode_batches[i], false);
            between[i] += time_graph(twins, &o, name, decode_batches[i], true);
        }
    }
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(decode_batches); i++) {
        const std::string name = "matmul_layer_m" + std::to_string(decode_batches[i]);
        spin_twin_result((name + "_graph").c_str(), in_a_row[i], "us");
        spin_twin_result((name + "_between_graph").c_str(), between[i], "us");
    }
}

/* What adds to the residual stream, and the logits: as in a decode step. */
static void time_f32_graphs(struct spin_twins *twins)
{
    static const struct {
        const char *name;
        uint32_t n;
        uint32_t k;
        enum spin_matmul_y kind;
    } products[] = {{"o_f32", 5120, 5120, SPIN_MATMUL_Y_F32_ACCUMULATED},
                    {"down_f32", 5120, 17408, SPIN_MATMUL_Y_F32_ACCUMULATED},
                    {"head_f32", 151936, 5120, SPIN_MATMUL_Y_F32}};
    for (const auto &product : products) {
        const uint64_t bytes = (uint64_t)product.n * product.k * 2;
        struct spin_matmul_operands o(
            twins, {64, product.n, product.k},
            (uint32_t)std::max<uint64_t>(2, (UINT64_C(1100) << 20) / bytes), product.kind);
        for (uint32_t m : decode_batches) {
            (void)time_graph(twins, &o, std::string("matmul_") + product.name, m, true);
        }
    }
}

/* What a layer multiplies together. */
struct family {
    const char *name;
    uint32_t widths[SPIN_MATMUL_PARTS_MAX];
    uint32_t count;
    uint32_t n; /* of all */
};

/* All rows of x by the family's weights, into one y or, apart, into one for each. */
static struct spin_matmul_args family_args(struct spin_matmul_operands *o,
                                           const struct family &family, uint32_t m, bool apart)
{
    struct spin_matmul_args args = spin_matmul_args_for(o, 0, m, 0);
    const struct spin_matmul_part all = args.parts[0];
    uint64_t begin = 0;
    args.part_count = family.count;
    for (uint32_t p = 0; p < family.count; p++) {
        struct spin_matmul_part *part = &args.parts[p];
        const uint32_t width = family.widths[p];
        *part = all;
        part->weight.data = (const uint16_t *)all.weight.data + begin * o->shape.k;
        part->weight.rows = width;
        part->y.data = (uint16_t *)all.y.data + begin * (apart ? m : 1);
        part->y.cols = width;
        part->y.stride = apart ? width : family.n;
        begin += width;
    }
    return args;
}

static void time_family(struct spin_twins *twins, const struct family &family)
{
    constexpr uint32_t K = 5120;
    const uint64_t set_values = (uint64_t)family.n * K;
    const uint32_t sets = (uint32_t)std::max<uint64_t>(2, (UINT64_C(1100) << 20) / set_values / 2);
    struct spin_matmul_operands o(twins, {64, family.n, K}, sets);
    for (uint32_t i = 0; i < 6; i++) {
        static const uint32_t batches_of[] = {1, 8, 32};
        const uint32_t rows = batches_of[i / 2];
        const bool apart = i % 2 == 0;
        const double us = graph_us(twins, std::min(sets * 4, 60u), [&](uint32_t number) {
            struct spin_matmul_args args = family_args(&o, family, rows, apart);
            for (uint32_t p = 0; p < args.part_count; p++) {
                const uint16_t *weights = (const uint16_t *)args.parts[p].weight.data;
                args.parts[p].weight.data = weights + number % sets * set_values;
            }
            return spin_ops_cuda.matmul(&args, twins->cuda) == SPIN_OK;
        });
        const std::string name = std::string("matmul_") + family.name +
                                 (apart ? "_apart_m" : "_neighbours_m") + std::to_string(rows);
        spin_twin_result((name + "_graph").c_str(), us, "us");
    }
}

static void time_small_graphs(struct spin_twins *twins)
{
    static const struct spin_matmul_shape shapes[] = {
        {64, 576, 576}, {64, 576, 1536}, {64, 1024, 1024}, {64, 2048, 2048}, {64, 4096, 2048}};
    for (const struct spin_matmul_shape &shape : shapes) {
        const uint64_t bytes = (uint64_t)shape.n * shape.k * 2;
        struct spin_matmul_operands o(twins, shape, (uint32_t)((UINT64_C(400) << 20) / bytes));
        const std::string name =
            "matmul_n" + std::to_string(shape.n) + "_k" + std::to_string(shape.k);
        for (uint32_t m : decode_batches) {
            (void)time_graph(twins, &o, name, m, false);
        }
    }
}

void spin_twins_matmul_timing(struct spin_twins *twins)
{
    time_layer(twins);
    time_layer_graphs(twins);
    time_f32_graphs(twins);
    time_family(twins, {"qkv", {5120, 1024, 1024}, 3, 7168});
    time_family(twins, {"gateup", {17408, 17408, 0}, 2, 34816});
    time_small_graphs(twins);
}
