/* matmul: against the reference on the same numbers; a row alone against the row among others, as
 * bits, in decode and in prefill; parts side by side against the product that they are; and under
 * capture, alone and one after another. */
#include "kernels/dtype.h"
#include "tests/kernels/cuda/matmul_twins.cuh"

#include <algorithm>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <vector>

#define CANARY_VALUES 64u
#define POISON 0xFFFFu
#define ERROR_MAX 4e-3     /* relative L2: rounding y to BF16 makes about 1.7e-3 */
#define ERROR_MAX_F32 1e-4 /* of an F32 y: what a sum in F32 may lose */

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
static struct part make_part(struct spin_rng *rng, struct spin_matmul_shape shape, uint32_t variant)
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
                                   const std::vector<float> &x, struct spin_matmul_shape shape)
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

static void check_parts(struct spin_twins *twins,
                        const std::vector<struct spin_matmul_shape> &shapes, uint32_t variant)
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
    spin_matmul_array<uint16_t> x_there(twins->cuda, x_rows.size());
    spin_matmul_array<uint8_t> workspace(twins->cuda, SPIN_MATMUL_WORKSPACE_BYTES);
    x_there.write(x_rows);
    struct spin_matmul_args args = {};
    args.x = {x_there.data, SPIN_DTYPE_BF16, m, k, x_stride};
    args.part_count = (uint32_t)shapes.size();
    args.workspace = workspace.data;
    struct part parts[SPIN_MATMUL_PARTS_MAX];
    spin_matmul_array<uint16_t> *w[SPIN_MATMUL_PARTS_MAX];
    spin_matmul_array<uint8_t> *y[SPIN_MATMUL_PARTS_MAX];
    spin_matmul_array<float> *b[SPIN_MATMUL_PARTS_MAX];
    for (uint32_t p = 0; p < args.part_count; p++) {
        parts[p] = make_part(&rng, shapes[p], variant + p);
        w[p] = new spin_matmul_array<uint16_t>(twins->cuda, parts[p].w.size());
        y[p] = new spin_matmul_array<uint8_t>(twins->cuda, parts[p].before.size());
        b[p] = new spin_matmul_array<float>(twins->cuda, parts[p].b.size());
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
    static const struct spin_matmul_shape widths[] = {{0, 17, 32},   {0, 576, 576},  {0, 1536, 96},
                                                      {0, 64, 2304}, {0, 192, 1024}, {0, 1, 64}};
    uint32_t variant = 0;
    for (uint32_t m : ms) {
        for (struct spin_matmul_shape width : widths) {
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

/* --- Rows as bits */

static std::vector<uint16_t> rows_in_batches(struct spin_twins *twins,
                                             struct spin_matmul_operands *o, uint32_t rows,
                                             uint32_t batch)
{
    cudaStream_t stream = spin_stream_cuda(twins->cuda);
    if (o->kind == SPIN_MATMUL_Y_F32_ACCUMULATED) { /* two halves are about a normal number */
        spin_matmul_fill<<<2112, 256, 0, stream>>>(o->y.data, o->y.count, (uint32_t)twins->seed + 2,
                                                   1);
    } else {
        cudaMemsetAsync(o->y.data, 0xFF, o->y.count * 2, stream);
    }
    for (uint32_t first = 0; first < rows; first += batch) {
        const struct spin_matmul_args args =
            spin_matmul_args_for(o, first, std::min(batch, rows - first), 0);
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
static void check_invariance(struct spin_twins *twins, const char *name,
                             struct spin_matmul_shape shape,
                             enum spin_matmul_y kind = SPIN_MATMUL_Y_BF16)
{
    struct spin_matmul_operands o(twins, shape, 1, kind);
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
                     kind == SPIN_MATMUL_Y_BF16 ? "of_values" : "of_halves");
}

/* A graph of one product gives the bits of the product. */
static void check_capture(struct spin_twins *twins)
{
    struct spin_matmul_operands o(twins, {8, 1024, 1024}, 1);
    const std::vector<uint16_t> direct = rows_in_batches(twins, &o, 8, 8);
    cudaStream_t stream = spin_stream_cuda(twins->cuda);
    cudaMemsetAsync(o.y.data, 0xFF, o.y.count * 2, stream);
    const struct spin_matmul_args args = spin_matmul_args_for(&o, 0, 8, 0);
    cudaGraphExec_t graph = spin_matmul_capture(
        stream, [&]() { return spin_ops_cuda.matmul(&args, twins->cuda) == SPIN_OK; });
    const bool ok = graph != NULL && cudaGraphLaunch(graph, stream) == cudaSuccess;
    const double value = differing(direct, o.y.read());
    spin_twin_check(twins, "matmul_capture", ok && value == 0, value);
    if (graph != NULL) {
        cudaGraphExecDestroy(graph);
    }
}

/* Parts of a product that lie side by side: as bits, the product. */
static void check_neighbours(struct spin_twins *twins, enum spin_matmul_y kind)
{
    struct spin_matmul_operands o(twins, {64, 1408, 1024}, 1, kind);
    static const uint32_t widths[] = {1024, 128, 256};
    for (uint32_t m : {1u, 9u, 64u}) {
        const std::vector<uint16_t> whole = rows_in_batches(twins, &o, m, m);
        (void)cudaMemsetAsync(o.y.data, 0xFF, o.y.count * 2, spin_stream_cuda(twins->cuda));
        struct spin_matmul_args args = spin_matmul_args_for(&o, 0, m, 0);
        const struct spin_matmul_part all = args.parts[0];
        args.part_count = SPIN_ARRAY_COUNT(widths);
        uint32_t begin = 0;
        for (uint32_t p = 0; p < args.part_count; p++) {
            struct spin_matmul_part *part = &args.parts[p];
            *part = all;
            part->weight.data = (const uint16_t *)all.weight.data + (uint64_t)begin * o.shape.k;
            part->weight.rows = widths[p];
            part->y.data =
                (uint8_t *)all.y.data + (uint64_t)begin * (kind == SPIN_MATMUL_Y_BF16 ? 2 : 4);
            part->y.cols = widths[p];
            begin += widths[p];
        }
        const bool ok = spin_ops_cuda.matmul(&args, twins->cuda) == SPIN_OK;
        std::vector<uint16_t> parts = o.y.read();
        parts.resize(whole.size());
        const double value = differing(whole, parts);
        spin_twin_check(
            twins, ("matmul_neighbours_" + std::to_string(kind) + "_m" + std::to_string(m)).c_str(),
            ok && !whole.empty() && value == 0, value);
    }
}

#define CHAIN 16u

/* CHAIN products, of which each reads what the one before wrote: the last writes `other`. */
static bool run_chain(struct spin_twins *twins, struct spin_matmul_operands *o, uint16_t *other,
                      bool waits)
{
    bool ok = true;
    for (uint32_t i = 0; i < CHAIN; i++) {
        struct spin_matmul_args args = spin_matmul_args_for(o, 0, o->shape.m, i % o->sets);
        args.x.data = i == 0 ? o->x.data : i % 2 == 1 ? o->y.data : other;
        args.parts[0].y.data = i % 2 == 0 ? o->y.data : other;
        ok = ok && spin_ops_cuda.matmul(&args, twins->cuda) == SPIN_OK;
        ok = ok && (!waits || spin_stream_sync(twins->cuda, SPIN_MATMUL_WAIT_NS) == SPIN_OK);
    }
    return ok;
}

/* A chain in a row, and in a graph launched twice: as bits what its products are one by one. */
static void check_chain(struct spin_twins *twins, struct spin_matmul_shape shape)
{
    struct spin_matmul_operands o(twins, shape, 4);
    spin_matmul_array<uint16_t> other(twins->cuda, o.y.count);
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
        spin_matmul_capture(stream, [&]() { return run_chain(twins, &o, other.data, false); });
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

void spin_twins_matmul(struct spin_twins *twins)
{
    check_shapes(twins);
    check_invariance(twins, "o", {256, 5120, 5120});
    check_invariance(twins, "smollm", {256, 576, 1536});
    check_invariance(twins, "smollm_f32", {256, 576, 1536}, SPIN_MATMUL_Y_F32_ACCUMULATED);
    check_invariance(twins, "smollm_head", {256, 8192, 576}, SPIN_MATMUL_Y_F32);
    check_neighbours(twins, SPIN_MATMUL_Y_BF16);
    check_neighbours(twins, SPIN_MATMUL_Y_F32);
    check_capture(twins);
    for (uint32_t m : {1u, 8u, 16u, 32u, 64u}) {
        check_chain(twins, {m, 2048, 2048});
    }
    if (twins->timing) {
        check_chain(twins, {8, 5120, 5120});
        check_invariance(twins, "qkv", {256, 7168, 5120});
        check_invariance(twins, "down", {256, 5120, 17408});
        check_invariance(twins, "gateup", {256, 34816, 5120});
        check_invariance(twins, "o_f32", {256, 5120, 5120}, SPIN_MATMUL_Y_F32_ACCUMULATED);
        check_invariance(twins, "down_f32", {256, 5120, 17408}, SPIN_MATMUL_Y_F32_ACCUMULATED);
        check_invariance(twins, "head_f32", {256, 151936, 5120}, SPIN_MATMUL_Y_F32);
        spin_twins_matmul_timing(twins);
    }
}
