/* matmul: against the reference on the same BF16 numbers; a row alone against the row among others,
 * as bits, in decode and in prefill; under capture, alone and one after another; and the time of a
 * layer's products, by launches and by graphs, with what one algorithm for all M of decode costs
 * against one algorithm per M. */
#include "kernels/dtype.h"
#include "kernels/ops_cuda.cuh"
#include "tests/kernels/cuda/twins.h"

#include <cublasLt.h>

#include <algorithm>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <vector>

#define WAIT_NS UINT64_C(20000000000)
#define WORKSPACE_BYTES (UINT64_C(32) << 20)
#define CANARY_VALUES 64u
#define POISON 0xFFFFu
#define COPY_GB_PER_S 4263.0
#define ERROR_MAX 4e-3     /* relative L2: rounding y to BF16 makes about 1.7e-3 */
#define ERROR_MAX_F32 1e-4 /* of an F32 y: what a sum in F32 may lose */

/* --- Memory */

/* The device's copy of host values; ends the program where there is no memory. */
template <typename T> struct device_array {
    struct spin_stream *stream;
    T *data;
    uint64_t count;

    device_array(struct spin_stream *stream_, uint64_t count_) : stream(stream_), count(count_)
    {
        struct spin_error err;
        void *memory = NULL;
        if (spin_device_alloc(stream, count * sizeof(T), &memory, &err) != SPIN_OK) {
            printf("FAIL %s\n", err.text);
            exit(2);
        }
        data = (T *)memory;
    }
    device_array(const device_array &) = delete;
    ~device_array()
    {
        spin_device_free(stream, data);
    }
    void write(const std::vector<T> &values)
    {
        if (spin_device_write(stream, data, values.data(), values.size() * sizeof(T)) != SPIN_OK ||
            spin_stream_sync(stream, WAIT_NS) != SPIN_OK) {
            printf("FAIL device write\n");
            exit(2);
        }
    }
    std::vector<T> read()
    {
        std::vector<T> values(count);
        if (spin_device_read(stream, values.data(), data, count * sizeof(T)) != SPIN_OK ||
            spin_stream_sync(stream, WAIT_NS) != SPIN_OK) {
            printf("FAIL device read\n");
            exit(2);
        }
        return values;
    }
};

/* BF16 normal numbers of this deviation. */
static std::vector<uint16_t> normal(struct spin_rng *rng, uint64_t count, double deviation)
{
    std::vector<uint16_t> values(count);
    for (uint64_t i = 0; i < count; i++) {
        values[i] = spin_bf16_from_f32((float)(deviation * spin_rng_normal(rng)));
    }
    return values;
}

static std::vector<float> widen(const std::vector<uint16_t> &values)
{
    std::vector<float> wide(values.size());
    for (uint64_t i = 0; i < values.size(); i++) {
        wide[i] = spin_f32_from_bf16(values[i]);
    }
    return wide;
}

/* --- Against the reference */

struct shape {
    uint32_t m;
    uint32_t n;
    uint32_t k;
};

/* One part of a call: y lies in rows of `stride`, poisoned or filled, with a canary behind. */
struct part {
    uint32_t n;
    uint64_t stride;
    bool accumulate;
    bool bias;
    bool is_f32; /* y */
    std::vector<uint16_t> w;
    std::vector<uint8_t> before; /* y as bytes */
    std::vector<float> b;

    uint32_t value_bytes() const
    {
        return is_f32 ? 4 : 2;
    }
    float value(const std::vector<uint8_t> &y, uint64_t i) const
    {
        uint32_t bits = 0;
        float f32;
        memcpy(&bits, &y[i * value_bytes()], value_bytes());
        memcpy(&f32, &bits, sizeof f32);
        return is_f32 ? f32 : spin_f32_from_bf16((uint16_t)bits);
    }
    bool is_poison(const std::vector<uint8_t> &y, uint64_t i) const
    {
        const auto at = y.begin() + (int64_t)(i * value_bytes());
        return std::count(at, at + value_bytes(), 0xFF) == value_bytes();
    }
};

/* Every combination of the three has a variant of its own, of eight. */
static struct part make_part(struct spin_rng *rng, struct shape shape, uint32_t variant)
{
    struct part part;
    part.n = shape.n;
    part.stride = (shape.n + UINT64_C(7)) / 8 * 8 + 8;
    part.accumulate = variant % 2 == 1;
    part.bias = variant / 2 % 2 == 1;
    part.is_f32 = variant / 4 % 2 == 1;
    part.w = normal(rng, (uint64_t)shape.n * shape.k, 1 / sqrt(shape.k));
    part.before.assign((shape.m * part.stride + CANARY_VALUES) * part.value_bytes(), 0xFF);
    for (uint64_t i = 0; part.accumulate && i < (uint64_t)shape.m * shape.n; i++) {
        const float value = (float)spin_rng_normal(rng);
        const uint16_t bits = spin_bf16_from_f32(value);
        uint8_t *target =
            &part.before[(i / shape.n * part.stride + i % shape.n) * part.value_bytes()];
        memcpy(target, part.is_f32 ? (const void *)&value : &bits, part.value_bytes());
    }
    part.b = widen(normal(rng, shape.n, 1));
    return part;
}

static std::vector<float> expected(const struct spin_twins *twins, const struct part &part,
                                   const std::vector<float> &x, struct shape shape)
{
    std::vector<float> y((uint64_t)shape.m * shape.n);
    for (uint32_t m = 0; part.accumulate && m < shape.m; m++) {
        for (uint32_t n = 0; n < shape.n; n++) {
            y[(uint64_t)m * shape.n + n] = part.value(part.before, m * part.stride + n);
        }
    }
    struct spin_matmul_args args = {};
    args.x = {(void *)x.data(), SPIN_DTYPE_F32, shape.m, shape.k, shape.k};
    args.parts[0].y = {y.data(), SPIN_DTYPE_F32, shape.m, shape.n, shape.n};
    args.parts[0].weight = {part.w.data(), SPIN_DTYPE_BF16, shape.n, shape.k};
    args.parts[0].bias = part.bias ? part.b.data() : NULL;
    args.parts[0].accumulate = part.accumulate;
    args.part_count = 1;
    if (spin_matmul_ref(&args, twins->cpu) != SPIN_OK) {
        y.assign(y.size(), NAN);
    }
    return y;
}

/* Relative L2 of y; infinite when something beside y was written. */
static double error_of(const struct part &part, const std::vector<uint8_t> &y,
                       const std::vector<float> &reference, uint32_t rows)
{
    double difference = 0;
    double size = 1e-30;
    for (uint64_t i = 0; i < y.size() / part.value_bytes(); i++) {
        const uint64_t m = i / part.stride;
        const uint64_t n = i % part.stride;
        if (m >= rows || n >= part.n) {
            if (!part.is_poison(y, i)) {
                return INFINITY;
            }
            continue;
        }
        const double r = (double)reference[m * part.n + n];
        const double d = (double)part.value(y, i) - r;
        difference += d * d;
        size += r * r;
    }
    return sqrt(difference / size);
}

static void check_parts(struct spin_twins *twins, const std::vector<struct shape> &shapes,
                        uint32_t variant)
{
    struct spin_rng rng = {twins->seed, 100 + variant, shapes[0].m};
    const uint32_t m = shapes[0].m;
    const uint32_t k = shapes[0].k;
    const uint64_t x_stride = k + 16;
    const std::vector<uint16_t> x = normal(&rng, (uint64_t)m * k, 1);
    std::vector<uint16_t> x_rows(m * x_stride + CANARY_VALUES, POISON); /* NaN beside x */
    for (uint64_t i = 0; i < m; i++) {
        std::copy_n(x.begin() + (int64_t)(i * k), k, x_rows.begin() + (int64_t)(i * x_stride));
    }
    device_array<uint16_t> x_there(twins->cuda, x_rows.size());
    device_array<uint8_t> workspace(twins->cuda, WORKSPACE_BYTES);
    x_there.write(x_rows);
    struct spin_matmul_args args = {};
    args.x = {x_there.data, SPIN_DTYPE_BF16, m, k, x_stride};
    args.part_count = (uint32_t)shapes.size();
    args.workspace = workspace.data;
    struct part parts[SPIN_MATMUL_PARTS_MAX];
    device_array<uint16_t> *w[SPIN_MATMUL_PARTS_MAX];
    device_array<uint8_t> *y[SPIN_MATMUL_PARTS_MAX];
    device_array<float> *b[SPIN_MATMUL_PARTS_MAX];
    for (uint32_t p = 0; p < args.part_count; p++) {
        parts[p] = make_part(&rng, shapes[p], variant + p);
        w[p] = new device_array<uint16_t>(twins->cuda, parts[p].w.size());
        y[p] = new device_array<uint8_t>(twins->cuda, parts[p].before.size());
        b[p] = new device_array<float>(twins->cuda, parts[p].b.size());
        w[p]->write(parts[p].w);
        y[p]->write(parts[p].before);
        b[p]->write(parts[p].b);
        const enum spin_dtype dtype = parts[p].is_f32 ? SPIN_DTYPE_F32 : SPIN_DTYPE_BF16;
        args.parts[p].y = {y[p]->data, dtype, m, shapes[p].n, parts[p].stride};
        args.parts[p].weight = {w[p]->data, SPIN_DTYPE_BF16, shapes[p].n, k};
        args.parts[p].bias = parts[p].bias ? b[p]->data : NULL;
        args.parts[p].accumulate = parts[p].accumulate;
    }
    const bool ran = spin_ops_cuda.matmul(&args, twins->cuda) == SPIN_OK;
    for (uint32_t p = 0; p < args.part_count; p++) {
        const std::string name = "matmul_m" + std::to_string(m) + "_n" +
                                 std::to_string(shapes[p].n) + "_k" + std::to_string(k) +
                                 (parts[p].is_f32 ? "_f32" : "") + (parts[p].bias ? "_bias" : "") +
                                 (parts[p].accumulate ? "_accumulate" : "");
        const double error =
            error_of(parts[p], y[p]->read(), expected(twins, parts[p], widen(x), shapes[p]), m);
        const double error_max = parts[p].is_f32 ? ERROR_MAX_F32 : ERROR_MAX;
        spin_twin_check(twins, name.c_str(), ran && error < error_max, error);
        delete w[p];
        delete y[p];
        delete b[p];
    }
}

static void check_shapes(struct spin_twins *twins)
{
    static const uint32_t ms[] = {1, 2, 7, 8, 9, 16, 17, 32, 33, 63, 64, 65, 130};
    static const struct shape widths[] = {{0, 17, 32},   {0, 576, 576},  {0, 1536, 96},
                                          {0, 64, 2304}, {0, 192, 1024}, {0, 1, 64}};
    uint32_t variant = 0;
    for (uint32_t m : ms) {
        for (struct shape width : widths) {
            width.m = m;
            check_parts(twins, {width}, variant++);
        }
    }
    for (const uint32_t first : {0u, 3u, 6u}) { /* parts of both types together */
        check_parts(twins, {{5, 96, 512}, {5, 31, 512}, {5, 8, 512}}, first);
        check_parts(twins, {{9, 960, 576}, {9, 320, 576}, {9, 320, 576}}, first + 2);
    }
    check_parts(twins, {{64, 512, 5120}, {64, 128, 5120}}, 1);
    check_parts(twins, {{64, 512, 5120}, {64, 128, 5120}}, 4);
    check_parts(twins, {{13, 2061, 4128}}, 3);
    check_parts(twins, {{13, 2061, 4128}}, 5);
    struct spin_matmul_args none = {}; /* no rows: nothing to do, nothing touched */
    none.x = {NULL, SPIN_DTYPE_BF16, 0, 64, 64};
    none.parts[0].y = {NULL, SPIN_DTYPE_BF16, 0, 8, 8};
    none.parts[0].weight = {NULL, SPIN_DTYPE_BF16, 8, 64};
    none.part_count = 1;
    const bool ok = spin_ops_cuda.matmul(&none, twins->cuda) == SPIN_OK;
    spin_twin_check(twins, "matmul_no_rows", ok, ok);
}

/* --- Large operands, made on the device */

static __global__ void fill(uint16_t *target, uint64_t count, uint32_t seed, float deviation)
{
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < count;
         i += (uint64_t)gridDim.x * blockDim.x) {
        uint32_t h = (uint32_t)i * 2654435761u + seed + (uint32_t)(i >> 32);
        h = (h ^ (h >> 16)) * 0x7feb352du;
        h = (h ^ (h >> 15)) * 0x846ca68bu;
        h ^= h >> 16;
        const int sum = (int)((h & 255) + (h >> 8 & 255) + (h >> 16 & 255) + (h >> 24)) - 510;
        target[i] = __bfloat16_as_ushort(
            __float2bfloat16_rn((float)sum * deviation * (1 / 147.8F))); /* about normal */
    }
}

enum y_kind { Y_BF16, Y_F32, Y_F32_ACCUMULATED };

struct operands {
    device_array<uint16_t> w; /* several sets, so that none stays in the cache */
    device_array<uint16_t> x;
    device_array<uint16_t> y;
    device_array<uint8_t> workspace;
    struct shape shape; /* m: the most */
    uint32_t sets;
    enum y_kind kind;

    operands(struct spin_twins *twins, struct shape shape_, uint32_t sets_,
             enum y_kind kind_ = Y_BF16)
        : w(twins->cuda, (uint64_t)shape_.n * shape_.k * sets_),
          x(twins->cuda, (uint64_t)shape_.m * shape_.k),
          y(twins->cuda, (uint64_t)shape_.m * shape_.n * (kind_ == Y_BF16 ? 1 : 2)),
          workspace(twins->cuda, WORKSPACE_BYTES), shape(shape_), sets(sets_), kind(kind_)
    {
        cudaStream_t stream = spin_stream_cuda(twins->cuda);
        const uint32_t seed = (uint32_t)twins->seed;
        fill<<<2112, 256, 0, stream>>>(w.data, w.count, seed, 1 / sqrtf((float)shape.k));
        fill<<<2112, 256, 0, stream>>>(x.data, x.count, seed + 1, 1);
    }
    /* Of y, in halves of F32 values where they are that. */
    uint64_t row_words() const
    {
        return (uint64_t)shape.n * (kind == Y_BF16 ? 1 : 2);
    }
    uint64_t y_bytes() const /* read and written for a row */
    {
        return 2 * row_words() * (kind == Y_F32_ACCUMULATED ? 2 : 1);
    }
};

/* Rows [first, first + count) of x, into the rows of y in the same place. */
static struct spin_matmul_args args_for(struct operands *o, uint32_t first, uint32_t count,
                                        uint32_t set)
{
    const struct shape shape = o->shape;
    struct spin_matmul_args args = {};
    args.x = {o->x.data + (uint64_t)first * shape.k, SPIN_DTYPE_BF16, count, shape.k, shape.k};
    args.parts[0].y = {o->y.data + first * o->row_words(),
                       o->kind == Y_BF16 ? SPIN_DTYPE_BF16 : SPIN_DTYPE_F32, count, shape.n,
                       shape.n};
    args.parts[0].accumulate = o->kind == Y_F32_ACCUMULATED;
    args.parts[0].weight = {o->w.data + (uint64_t)shape.n * shape.k * set, SPIN_DTYPE_BF16, shape.n,
                            shape.k};
    args.part_count = 1;
    args.workspace = o->workspace.data;
    return args;
}

static std::vector<uint16_t> rows_in_batches(struct spin_twins *twins, struct operands *o,
                                             uint32_t rows, uint32_t batch)
{
    cudaStream_t stream = spin_stream_cuda(twins->cuda);
    if (o->kind == Y_F32_ACCUMULATED) { /* two halves are about a normal number */
        fill<<<2112, 256, 0, stream>>>(o->y.data, o->y.count, (uint32_t)twins->seed + 2, 1);
    } else {
        cudaMemsetAsync(o->y.data, 0xFF, o->y.count * 2, stream);
    }
    for (uint32_t first = 0; first < rows; first += batch) {
        const struct spin_matmul_args args = args_for(o, first, std::min(batch, rows - first), 0);
        if (spin_ops_cuda.matmul(&args, twins->cuda) != SPIN_OK) {
            return {};
        }
    }
    std::vector<uint16_t> y = o->y.read();
    y.resize(rows * o->row_words());
    return y;
}

static double differing(const std::vector<uint16_t> &a, const std::vector<uint16_t> &b)
{
    uint64_t count = a.size() != b.size();
    for (uint64_t i = 0; i < std::min(a.size(), b.size()); i++) {
        count += a[i] != b[i];
    }
    return (double)count;
}

/* Rows as bits: in every batch of decode, and in prefill's classes; twice; and, as a figure, what
 * of a row changes between decode and prefill. */
static void check_invariance(struct spin_twins *twins, const char *name, struct shape shape,
                             enum y_kind kind = Y_BF16)
{
    struct operands o(twins, shape, 1, kind);
    const std::string prefix = std::string("matmul_rows_") + name;
    const std::vector<uint16_t> all = rows_in_batches(twins, &o, 64, 64);
    double value = differing(all, rows_in_batches(twins, &o, 64, 64));
    spin_twin_check(twins, (prefix + "_twice").c_str(), !all.empty() && value == 0, value);
    for (uint32_t batch : {1u, 2u, 3u, 7u, 8u, 9u, 16u, 17u, 24u, 32u, 33u, 48u, 63u}) {
        value = differing(all, rows_in_batches(twins, &o, 64, batch));
        spin_twin_check(twins, (prefix + "_decode_m" + std::to_string(batch)).c_str(), value == 0,
                        value);
    }
    const std::vector<uint16_t> prefill = rows_in_batches(twins, &o, 256, 256);
    for (uint32_t rows : {129u, 191u, 200u}) {
        std::vector<uint16_t> same(prefill.begin(),
                                   prefill.begin() + (int64_t)(rows * o.row_words()));
        value = differing(same, rows_in_batches(twins, &o, rows, rows));
        spin_twin_check(twins, (prefix + "_prefill_m" + std::to_string(rows)).c_str(), value == 0,
                        value);
    }
    std::vector<uint16_t> first(prefill.begin(), prefill.begin() + (int64_t)(64 * o.row_words()));
    spin_twin_result((prefix + "_decode_against_prefill").c_str(),
                     differing(all, first) / (double)all.size(),
                     kind == Y_BF16 ? "of_values" : "of_halves");
}

/* A graph of what `run` puts on the stream, ready to launch; NULL when it cannot be made. */
template <typename F> static cudaGraphExec_t capture(cudaStream_t stream, F run)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t executable = NULL;
    bool ok = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess;
    ok = ok && run();
    ok = cudaStreamEndCapture(stream, &graph) == cudaSuccess && ok;
    if (ok && cudaGraphInstantiate(&executable, graph, 0) != cudaSuccess) {
        executable = NULL;
    }
    if (graph != NULL) {
        cudaGraphDestroy(graph);
    }
    return executable;
}

/* A graph of one product gives the bits of the product. */
static void check_capture(struct spin_twins *twins)
{
    struct operands o(twins, {8, 1024, 1024}, 1);
    const std::vector<uint16_t> direct = rows_in_batches(twins, &o, 8, 8);
    cudaStream_t stream = spin_stream_cuda(twins->cuda);
    cudaMemsetAsync(o.y.data, 0xFF, o.y.count * 2, stream);
    const struct spin_matmul_args args = args_for(&o, 0, 8, 0);
    cudaGraphExec_t graph =
        capture(stream, [&]() { return spin_ops_cuda.matmul(&args, twins->cuda) == SPIN_OK; });
    const bool ok = graph != NULL && cudaGraphLaunch(graph, stream) == cudaSuccess;
    const double value = differing(direct, o.y.read());
    spin_twin_check(twins, "matmul_capture", ok && value == 0, value);
    if (graph != NULL) {
        cudaGraphExecDestroy(graph);
    }
}

#define CHAIN 16u

/* CHAIN products, of which each reads what the one before wrote: the last writes `other`. */
static bool run_chain(struct spin_twins *twins, struct operands *o, uint16_t *other, bool waits)
{
    bool ok = true;
    for (uint32_t i = 0; i < CHAIN; i++) {
        struct spin_matmul_args args = args_for(o, 0, o->shape.m, i % o->sets);
        args.x.data = i == 0 ? o->x.data : i % 2 == 1 ? o->y.data : other;
        args.parts[0].y.data = i % 2 == 0 ? o->y.data : other;
        ok = ok && spin_ops_cuda.matmul(&args, twins->cuda) == SPIN_OK;
        ok = ok && (!waits || spin_stream_sync(twins->cuda, WAIT_NS) == SPIN_OK);
    }
    return ok;
}

/* A chain in a row, and in a graph launched twice: as bits what its products are one by one. */
static void check_chain(struct spin_twins *twins, struct shape shape)
{
    struct operands o(twins, shape, 4);
    device_array<uint16_t> other(twins->cuda, o.y.count);
    cudaStream_t stream = spin_stream_cuda(twins->cuda);
    const auto poison = [&]() {
        cudaMemsetAsync(o.y.data, 0xFF, o.y.count * 2, stream);
        cudaMemsetAsync(other.data, 0xFF, other.count * 2, stream);
    };
    poison();
    bool ok = run_chain(twins, &o, other.data, true);
    const std::vector<uint16_t> one_by_one = other.read();
    poison();
    ok = run_chain(twins, &o, other.data, false) && ok;
    double value = differing(one_by_one, other.read());
    cudaGraphExec_t graph =
        capture(stream, [&]() { return run_chain(twins, &o, other.data, false); });
    ok = ok && graph != NULL;
    for (uint32_t i = 0; ok && i < 2; i++) {
        poison();
        ok = cudaGraphLaunch(graph, stream) == cudaSuccess;
        value += differing(one_by_one, other.read());
    }
    ok = ok && value == 0 && std::count(one_by_one.begin(), one_by_one.end(), POISON) == 0;
    const std::string name = "matmul_chain_n" + std::to_string(shape.n) + "_m";
    spin_twin_check(twins, (name + std::to_string(shape.m)).c_str(), ok, value);
    if (graph != NULL) {
        cudaGraphExecDestroy(graph);
    }
}

/* --- Time */

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
        if (spin_stream_sync(twins->cuda, WAIT_NS) != SPIN_OK) {
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

    explicit per_m(struct shape shape) : found(0)
    {
        const cublasOperation_t transposed = CUBLAS_OP_T;
        const size_t bytes = WORKSPACE_BYTES;
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
    void run(struct operands *o, uint32_t set, cudaStream_t stream)
    {
        const float one = 1;
        const float zero = 0;
        const uint16_t *weight = o->w.data + (uint64_t)o->shape.n * o->shape.k * set;
        cublasLtMatmul(lt, product, &one, weight, w, o->x.data, x, &zero, o->y.data, y, o->y.data,
                       y, &result.algo, o->workspace.data, WORKSPACE_BYTES, stream);
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

static void time_batch(struct spin_twins *twins, struct operands *o, const std::string &name,
                       uint32_t m, double *ours, double *theirs)
{
    const double weight_bytes = 2.0 * o->shape.n * o->shape.k;
    const uint32_t inner = m > 64 ? 2 : (uint32_t)std::max(4.0, std::min(24.0, 2e9 / weight_bytes));
    const double us = time_us(twins, inner, [&](uint32_t number) {
        const struct spin_matmul_args args = args_for(o, 0, m, number % o->sets);
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
        struct operands o(twins, {2048, product.n, product.k},
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
    bool ok = run(0) && spin_stream_sync(twins->cuda, WAIT_NS) == SPIN_OK; /* searches plans */
    cudaGraphExec_t graph = capture(stream, [&]() {
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
static double time_graph(struct spin_twins *twins, struct operands *o, const std::string &name,
                         uint32_t m, bool is_between)
{
    const double bytes = 2.0 * o->shape.n * o->shape.k;
    const uint32_t inner = (uint32_t)std::max(4.0, std::min(100.0, 2e9 / bytes));
    const double us = graph_us(twins, inner, [&](uint32_t number) {
        if (is_between) {
            touch<<<1, 32, 0, spin_stream_cuda(twins->cuda)>>>(o->x.data);
        }
        const struct spin_matmul_args args = args_for(o, 0, m, number % o->sets);
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
        struct operands o(twins, {64, product.n, product.k},
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
        enum y_kind kind;
    } products[] = {{"o_f32", 5120, 5120, Y_F32_ACCUMULATED},
                    {"down_f32", 5120, 17408, Y_F32_ACCUMULATED},
                    {"head_f32", 151936, 5120, Y_F32}};
    for (const auto &product : products) {
        const uint64_t bytes = (uint64_t)product.n * product.k * 2;
        struct operands o(twins, {64, product.n, product.k},
                          (uint32_t)std::max<uint64_t>(2, (UINT64_C(1100) << 20) / bytes),
                          product.kind);
        for (uint32_t m : decode_batches) {
            (void)time_graph(twins, &o, std::string("matmul_") + product.name, m, true);
        }
    }
}

static void time_small_graphs(struct spin_twins *twins)
{
    static const struct shape shapes[] = {
        {64, 576, 576}, {64, 576, 1536}, {64, 1024, 1024}, {64, 2048, 2048}, {64, 4096, 2048}};
    for (const struct shape &shape : shapes) {
        const uint64_t bytes = (uint64_t)shape.n * shape.k * 2;
        struct operands o(twins, shape, (uint32_t)((UINT64_C(400) << 20) / bytes));
        const std::string name =
            "matmul_n" + std::to_string(shape.n) + "_k" + std::to_string(shape.k);
        for (uint32_t m : decode_batches) {
            (void)time_graph(twins, &o, name, m, false);
        }
    }
}

void spin_twins_matmul(struct spin_twins *twins)
{
    check_shapes(twins);
    check_invariance(twins, "o", {256, 5120, 5120});
    check_invariance(twins, "smollm", {256, 576, 1536});
    check_invariance(twins, "smollm_f32", {256, 576, 1536}, Y_F32_ACCUMULATED);
    check_invariance(twins, "smollm_head", {256, 8192, 576}, Y_F32);
    check_capture(twins);
    for (uint32_t m : decode_batches) {
        check_chain(twins, {m, 2048, 2048});
    }
    if (twins->timing) {
        check_chain(twins, {8, 5120, 5120});
        check_invariance(twins, "qkv", {256, 7168, 5120});
        check_invariance(twins, "down", {256, 5120, 17408});
        check_invariance(twins, "gateup", {256, 34816, 5120});
        check_invariance(twins, "o_f32", {256, 5120, 5120}, Y_F32_ACCUMULATED);
        check_invariance(twins, "down_f32", {256, 5120, 17408}, Y_F32_ACCUMULATED);
        check_invariance(twins, "head_f32", {256, 151936, 5120}, Y_F32);
        time_layer(twins);
        time_layer_graphs(twins);
        time_f32_graphs(twins);
        time_small_graphs(twins);
    }
}
