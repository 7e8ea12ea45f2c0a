/* attention: against the reference on the same BF16 numbers, then the same query in every kind of
 * company, as bits: alone, in other batches, in chunks, over pages of another size, cut over blocks
 * and whole. No byte that a query may not see is a number. */
#include "kernels/kernels_internal.h"
#include "kernels/tensor_cuda.cuh"
#include "tests/kernels/cuda/twin_array.cuh"

#include <memory>

namespace
{

constexpr double COPY_GB_PER_S = 4263;
constexpr double ERROR_MAX = 4e-3; /* relative L2 */
constexpr double WORST_MAX = 1e-2; /* of the largest output */
constexpr uint32_t PADDING = 8;    /* values behind each row of q and out */
constexpr uint32_t SPARE_ROWS = 2; /* of q and out, that belong to no sequence */
/* So long a list, as far as the host knows, that blocks do not share any. */
constexpr uint32_t WHOLE = 512u * 100000u;

struct shape {
    uint32_t kv_heads;
    uint32_t group;
    uint32_t head_dim;
    uint32_t page_tokens;
};

/* One batch, here and on the device. Rows of a sequence that has one query see a few tokens less
 * from head to head. */
struct batch {
    struct spin_twins *twins;
    struct shape shape;
    uint32_t sequences;
    uint32_t rows; /* of q and out */
    uint32_t visible_max;
    std::vector<uint32_t> first;
    std::vector<uint32_t> visible;
    std::vector<uint64_t> row_offset;
    std::vector<uint32_t> slots;
    std::vector<uint8_t> pool;
    std::vector<float> q;
    std::vector<float> out;
    std::unique_ptr<spin_twin_array<uint32_t>> device_first;
    std::unique_ptr<spin_twin_array<uint32_t>> device_visible;
    std::unique_ptr<spin_twin_array<uint64_t>> device_row_offset;
    std::unique_ptr<spin_twin_array<uint32_t>> device_slots;
    std::unique_ptr<spin_twin_array<uint8_t>> device_pool;
    std::unique_ptr<spin_twin_array<uint16_t>> device_q;
    std::unique_ptr<spin_twin_array<uint16_t>> device_out;

    uint32_t cols() const
    {
        return shape.kv_heads * shape.group * shape.head_dim;
    }
    uint64_t stride() const
    {
        return cols() + PADDING;
    }
    struct spin_kv_layout layout() const
    {
        return {1, shape.kv_heads, shape.head_dim, SPIN_KV_BF16, SPIN_SWIZZLE_NONE};
    }
    struct spin_page_lists lists() /* here */
    {
        return {layout(),          pool.data(),    slots.data(),
                row_offset.data(), visible.data(), shape.page_tokens};
    }
};

/* Roughly normal numbers, quickly. */
uint16_t quick_normal(struct spin_rng *rng)
{
    const uint32_t word = spin_rng_u32(rng);
    const uint32_t sum = (word & 255) + (word >> 8 & 255) + (word >> 16 & 255) + (word >> 24);
    return spin_bf16_from_f32(((float)sum - 510) / 147.8F);
}

void shuffle(std::vector<uint32_t> *values, struct spin_rng *rng)
{
    for (uint64_t i = values->size() - 1; i > 0; i--) {
        std::swap((*values)[i], (*values)[spin_rng_below(rng, (uint32_t)i + 1)]);
    }
}

void make_lists(struct batch *b, const std::vector<uint32_t> &visible,
                const std::vector<uint32_t> &queries, struct spin_rng *rng)
{
    uint64_t used = 0;
    b->first = {0};
    for (uint32_t s = 0; s < b->sequences; s++) {
        b->first.push_back(b->first[s] + queries[s]);
        for (uint32_t h = 0; h < b->shape.kv_heads; h++) {
            const uint32_t less = queries[s] == 1 && visible[s] > 40 ? 3 * h : 0;
            b->row_offset.push_back(used);
            b->visible.push_back(visible[s] - less);
            b->visible_max = SPIN_MAX(b->visible_max, visible[s]);
            used += (visible[s] - less + b->shape.page_tokens - 1) / b->shape.page_tokens;
        }
    }
    for (uint32_t i = 0; i < used + used / 4 + 3; i++) {
        b->slots.push_back(i);
    }
    shuffle(&b->slots, rng);
    const struct spin_kv_layout layout = b->layout();
    b->pool.assign(b->slots.size() * spin_page_bytes(&layout, b->shape.page_tokens), 0xff);
}

/* K and V of every list token that a query may see. */
void fill_tokens(struct batch *b, struct spin_rng *rng)
{
    const struct spin_page_lists lists = b->lists();
    for (uint64_t row = 0; row < b->visible.size(); row++) {
        for (uint32_t t = 0; t < b->visible[row]; t++) {
            uint16_t *k = spin_list_k(&lists, row, t);
            uint16_t *v = spin_list_v(&lists, row, t);
            for (uint32_t d = 0; d < b->shape.head_dim; d++) {
                k[d] = quick_normal(rng);
                v[d] = quick_normal(rng);
            }
        }
    }
}

template <typename T>
std::unique_ptr<spin_twin_array<T>> up(struct spin_twins *twins, const std::vector<T> &values)
{
    return std::unique_ptr<spin_twin_array<T>>(new spin_twin_array<T>(twins, values));
}

void upload(struct batch *b)
{
    b->device_first = up(b->twins, b->first);
    b->device_visible = up(b->twins, b->visible);
    b->device_row_offset = up(b->twins, b->row_offset);
    b->device_slots = up(b->twins, b->slots);
    b->device_pool = up(b->twins, b->pool);
    b->device_q = up(b->twins, spin_twin_narrow(b->q));
    b->device_out = std::unique_ptr<spin_twin_array<uint16_t>>(
        new spin_twin_array<uint16_t>(b->twins, b->rows * b->stride()));
}

struct batch make_batch(struct spin_twins *twins, const struct shape &shape,
                        const std::vector<uint32_t> &visible, const std::vector<uint32_t> &queries,
                        uint64_t number)
{
    struct spin_rng rng = {twins->seed, 1000 + number, 0};
    struct batch b = {};
    b.twins = twins;
    b.shape = shape;
    b.sequences = (uint32_t)visible.size();
    make_lists(&b, visible, queries, &rng);
    fill_tokens(&b, &rng);
    b.rows = b.first[b.sequences] + SPARE_ROWS;
    b.q = spin_twin_normal(&rng, b.rows * b.stride(), 1.3);
    b.out.assign(b.rows * b.stride(), NAN);
    for (uint64_t i = 0; i < b.q.size(); i++) {
        b.q[i] = i % b.stride() < b.cols() ? b.q[i] : NAN;
    }
    upload(&b);
    return b;
}

/* Arguments for the sequences [begin, end), which are all but the whole batch. */
struct spin_attention_args gpu_args(const struct batch &b, uint32_t begin, uint32_t end)
{
    struct spin_attention_args args = {};
    const uint64_t row = (uint64_t)begin * b.shape.kv_heads;
    const uint32_t token = b.first[begin];
    const uint32_t rows = end == b.sequences ? b.rows - token : b.first[end] - token;
    args.q = {b.device_q->data() + token * b.stride(), SPIN_DTYPE_BF16, rows, b.cols(), b.stride()};
    args.out = args.q;
    args.out.data = b.device_out->data() + token * b.stride();
    args.q_heads = b.shape.kv_heads * b.shape.group;
    args.scale = 1 / sqrtf((float)b.shape.head_dim);
    args.spans = {b.device_first->data(), end - begin};
    args.pages = {b.layout(),
                  b.device_pool->data(),
                  b.device_slots->data(),
                  b.device_row_offset->data() + row,
                  b.device_visible->data() + row,
                  b.shape.page_tokens};
    args.visible_max = b.visible_max;
    return args;
}

/* Runs `args`, and returns all of out, poisoned before; *ok: nothing failed, canaries live. */
std::vector<uint16_t> run(const struct batch &b, struct spin_attention_args args, bool *ok)
{
    spin_twin_array<uint8_t> workspace(b.twins, spin_attention_workspace_bytes_cuda(&args));
    args.workspace = workspace.data();
    b.device_out->poison();
    *ok = *ok && spin_attention_cuda(&args, b.twins->cuda) == SPIN_OK;
    std::vector<uint16_t> out = b.device_out->read();
    *ok = *ok && b.device_out->canaries_live() && workspace.canaries_live();
    return out;
}

std::vector<uint16_t> run_all(const struct batch &b, uint32_t visible_max, bool *ok)
{
    struct spin_attention_args args = gpu_args(b, 0, b.sequences);
    args.visible_max = visible_max;
    return run(b, args, ok);
}

std::string name_of(const char *what, const struct batch &b)
{
    return std::string("attention_") + what + "_g" + std::to_string(b.shape.group) + "_d" +
           std::to_string(b.shape.head_dim) + "_p" + std::to_string(b.shape.page_tokens) + "_h" +
           std::to_string(b.shape.kv_heads) + "_n" + std::to_string(b.visible_max) + "_s" +
           std::to_string(b.sequences);
}

void same(const struct batch &b, const char *what, bool ok)
{
    spin_twin_check(b.twins, name_of(what, b).c_str(), ok, ok);
}

/* Relative L2, and the worst value; -1 where something that is no output was written. */
void check_values(struct batch *b, const std::vector<uint16_t> &out, bool ok)
{
    struct spin_attention_args args = gpu_args(*b, 0, b->sequences);
    args.q = {b->q.data(), SPIN_DTYPE_F32, b->rows, b->cols(), b->stride()};
    args.out = {b->out.data(), SPIN_DTYPE_F32, b->rows, b->cols(), b->stride()};
    args.pages = b->lists();
    args.spans.first = b->first.data();
    ok = ok && spin_attention_ref(&args, b->twins->cpu) == SPIN_OK;
    double squares = 0;
    double errors = 0;
    double worst = 0;
    double largest = 0;
    for (uint64_t i = 0; i < out.size(); i++) {
        const bool is_output =
            i % b->stride() < b->cols() && i / b->stride() < b->first[b->sequences];
        if (!is_output) {
            ok = ok && out[i] == 0xffff;
            continue;
        }
        const double expected = (double)b->out[i];
        const double error = (double)spin_f32_from_bf16(out[i]) - expected;
        ok = ok && isfinite(error);
        squares += expected * expected;
        errors += error * error;
        worst = fmax(worst, fabs(error));
        largest = fmax(largest, fabs(expected));
    }
    const double relative = sqrt(errors / squares);
    ok = ok && relative < ERROR_MAX && worst < WORST_MAX * largest;
    spin_twin_check(b->twins, name_of("values", *b).c_str(), ok, relative);
}

/* Every sequence alone; as decode and prefill would have it, the last token of the batch first. */
void check_alone(const struct batch &b, const std::vector<uint16_t> &all)
{
    bool ok = true;
    for (uint32_t s = b.sequences; s-- > 0;) {
        const uint32_t count = b.first[s + 1] - b.first[s];
        if (count == 0) {
            continue;
        }
        spin_twin_array<uint32_t> first(b.twins, std::vector<uint32_t>{0, count});
        struct spin_attention_args args = gpu_args(b, s, s + 1);
        args.q.rows = args.out.rows = count;
        args.spans.first = first.data();
        args.visible_max = b.visible[(uint64_t)s * b.shape.kv_heads];
        const std::vector<uint16_t> alone = run(b, args, &ok);
        const uint64_t at = b.first[s] * b.stride();
        ok = ok && memcmp(&alone[at], &all[at], count * b.stride() * 2) == 0;
    }
    same(b, "alone", ok);
}

/* Queries of chunks as decode steps: the list that such a step sees ends with its query. */
void check_steps(const struct batch &b, const std::vector<uint16_t> &all)
{
    bool ok = true;
    spin_twin_array<uint32_t> first(b.twins, std::vector<uint32_t>{0, 1});
    for (uint32_t s = 0; s < b.sequences; s++) {
        const uint32_t count = b.first[s + 1] - b.first[s];
        for (uint32_t i = 0; i < count; i += SPIN_MAX(count / 3, 1u)) {
            const uint64_t row = (uint64_t)s * b.shape.kv_heads;
            const uint32_t seen = b.visible[row] - (count - 1 - i);
            std::vector<uint32_t> visible(b.visible.begin() + (int64_t)row,
                                          b.visible.begin() + (int64_t)row + b.shape.kv_heads);
            for (uint32_t &value : visible) {
                value -= count - 1 - i;
            }
            spin_twin_array<uint32_t> device_visible(b.twins, visible);
            struct spin_attention_args args = gpu_args(b, s, s + 1);
            const uint64_t at = (b.first[s] + i) * b.stride();
            args.q.data = b.device_q->data() + at;
            args.out.data = b.device_out->data() + at;
            args.q.rows = args.out.rows = 1;
            args.spans.first = first.data();
            args.pages.visible = device_visible.data();
            args.visible_max = seen;
            const std::vector<uint16_t> step = run(b, args, &ok);
            ok = ok && memcmp(&step[at], &all[at], b.cols() * 2) == 0;
        }
    }
    same(b, "steps", ok);
}

/* The same tokens in pages of the other size. */
void check_page_size(struct batch *b, const std::vector<uint16_t> &all)
{
    struct spin_rng rng = {b->twins->seed, 2000, 0};
    struct batch other = {};
    std::vector<uint32_t> visible;
    std::vector<uint32_t> queries;
    for (uint32_t s = 0; s < b->sequences; s++) {
        visible.push_back(b->visible[(uint64_t)s * b->shape.kv_heads]);
        queries.push_back(b->first[s + 1] - b->first[s]);
    }
    other.twins = b->twins;
    other.shape = b->shape;
    other.shape.page_tokens = 40 - b->shape.page_tokens;
    other.sequences = b->sequences;
    other.rows = b->rows;
    other.q = b->q;
    make_lists(&other, visible, queries, &rng);
    const struct spin_page_lists from = b->lists();
    const struct spin_page_lists to = other.lists();
    bool ok = other.visible == b->visible;
    for (uint64_t row = 0; ok && row < b->visible.size(); row++) {
        for (uint32_t t = 0; t < b->visible[row]; t++) {
            memcpy(spin_list_k(&to, row, t), spin_list_k(&from, row, t), b->shape.head_dim * 2);
            memcpy(spin_list_v(&to, row, t), spin_list_v(&from, row, t), b->shape.head_dim * 2);
        }
    }
    upload(&other);
    ok = ok && run_all(other, other.visible_max, &ok) == all;
    same(*b, "page_size", ok);
}

void check_batch(struct batch *b)
{
    bool ok = true;
    const std::vector<uint16_t> all = run_all(*b, b->visible_max, &ok);
    check_values(b, all, ok);
    same(*b, "twice", run_all(*b, b->visible_max, &ok) == all && ok);
    same(*b, "whole_lists", run_all(*b, WHOLE, &ok) == all && ok);
    same(*b, "longer_bound", run_all(*b, 3 * b->visible_max + 600, &ok) == all && ok);
    check_alone(*b, all);
    check_steps(*b, all);
    check_page_size(b, all);
}

/* One score far above the rest: the output is that token's value, and nothing overflows. */
void check_huge_score(struct spin_twins *twins, uint32_t winner, uint32_t head_dim)
{
    struct batch b = make_batch(twins, {1, 1, head_dim, 8}, {1300}, {1}, winner);
    const struct spin_page_lists lists = b.lists();
    uint16_t *k = spin_list_k(&lists, 0, winner);
    for (uint32_t d = 0; d < head_dim; d++) {
        k[d] = spin_bf16_from_f32(b.q[d] * 1e4F);
    }
    upload(&b);
    bool ok = true;
    const std::vector<uint16_t> out = run_all(b, b.visible_max, &ok);
    ok = ok && memcmp(out.data(), spin_list_v(&lists, 0, winner), head_dim * 2) == 0;
    same(b, "huge_score", ok);
}

/* Chunks of whole blocks and of parts of them, whose lists end anywhere in a page, beside single
 * queries; then so many sequences without a query that chunks are not worth a kernel of theirs. */
void check_chunks(struct spin_twins *twins, const struct shape &shape, uint64_t number)
{
    struct batch chunks =
        make_batch(twins, shape, {700, 3, 129, 2055, 77}, {200, 3, 129, 27, 1}, number);
    check_batch(&chunks);
    struct batch few = make_batch(twins, shape, {70, 1, 1, 1, 600, 1, 1, 9, 1},
                                  {3, 0, 0, 0, 1, 0, 0, 2, 0}, number + 1);
    check_batch(&few);
}

void check_all(struct spin_twins *twins)
{
    static const struct shape shapes[] = {{2, 5, 128, 8},  {3, 1, 128, 32}, {2, 3, 64, 8},
                                          {1, 4, 64, 32},  {2, 7, 128, 8},  {1, 8, 128, 32},
                                          {1, 8, 64, 8},   {1, 13, 128, 8}, {2, 2, 128, 8},
                                          {1, 5, 128, 32}, {1, 5, 64, 8}};
    const std::vector<uint32_t> steps = {1,   7,   8,  9,   63,   64,   65,   511,
                                         512, 513, 40, 577, 1000, 1025, 2048, 130};
    const std::vector<uint32_t> ones(steps.size(), 1);
    const std::vector<uint32_t> mixed = {1, 7, 600, 9, 513, 1, 0, 1030, 64, 700};
    const std::vector<uint32_t> chunks = {1, 7, 1, 3, 37, 1, 0, 5, 64, 1};
    uint64_t number = 0;
    for (const struct shape &shape : shapes) {
        struct batch decode = make_batch(twins, shape, steps, ones, number++);
        check_batch(&decode);
        struct batch prefill = make_batch(twins, shape, mixed, chunks, number++);
        check_batch(&prefill);
        struct batch one = make_batch(twins, shape, {4095}, {1}, number++);
        check_batch(&one);
        check_chunks(twins, shape, 100 + 2 * number);
    }
    for (const uint32_t winner : {0u, 63u, 64u, 511u, 512u, 1299u}) {
        check_huge_score(twins, winner, winner % 2 == 0 ? 128 : 64);
    }
    if (twins->timing) {
        struct batch odd = make_batch(twins, {1, 5, 128, 8}, std::vector<uint32_t>(67, 300),
                                      std::vector<uint32_t>(67, 1), number++);
        check_batch(&odd);
        struct batch large = make_batch(twins, {1, 5, 128, 8}, {131072}, {1}, number++);
        check_batch(&large);
        struct batch resumed = make_batch(twins, {1, 5, 128, 8}, {33001}, {77}, number++);
        check_batch(&resumed);
    }
}

/* x y^T and y x^T, on sums that are not zero. */
__global__ void swap_operands(const uint32_t *words, float *xy, float *yx)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint64_t at = (uint64_t)blockIdx.x * 256;
    uint32_t x[4];
    uint32_t y[4];
    for (uint32_t i = 0; i < 4; i++) {
        x[i] = words[at + i * 32 + lane];
        y[i] = words[at + 128 + i * 32 + lane];
    }
    for (uint32_t n = 0; n < 2; n++) {
        const uint32_t x_half[2] = {x[n], x[n + 2]};
        const uint32_t y_half[2] = {y[n], y[n + 2]};
        float a[4] = {0.37F, 0.37F, 0.37F, 0.37F};
        float b[4] = {0.37F, 0.37F, 0.37F, 0.37F};
        for (uint32_t repeat = 0; repeat < 3; repeat++) {
            spin_multiply_matrices(a, x, y_half);
            spin_multiply_matrices(b, y, x_half);
        }
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t row = lane / 4 + i / 2 * 8;
            const uint32_t col = n * 8 + lane % 4 * 2 + i % 2;
            xy[at + row * 16 + col] = a[i];
            yx[at + col * 16 + row] = b[i];
        }
    }
}

/* Tensor cores do not tell their operands apart: half of why a chunk has the bits of steps, by
 * itself, so that where steps differ it says whether this is why. */
void check_swap(struct spin_twins *twins)
{
    constexpr uint32_t BLOCKS = 4096;
    struct spin_rng rng = {twins->seed, 5000, 0};
    std::vector<uint32_t> words;
    for (uint32_t i = 0; i < BLOCKS * 256; i++) {
        words.push_back(quick_normal(&rng) | (uint32_t)quick_normal(&rng) << 16);
    }
    spin_twin_array<uint32_t> device_words(twins, words);
    spin_twin_array<float> xy(twins, (uint64_t)BLOCKS * 256);
    spin_twin_array<float> yx(twins, (uint64_t)BLOCKS * 256);
    swap_operands<<<BLOCKS, 32, 0, spin_stream_cuda(twins->cuda)>>>(device_words.data(), xy.data(),
                                                                    yx.data());
    const std::vector<float> a = xy.read();
    const std::vector<float> b = yx.read();
    const bool ok = memcmp(a.data(), b.data(), a.size() * 4) == 0;
    spin_twin_check(twins, "attention_swapped_operands", ok, ok);
}

/* --- times --- */

__global__ void fill_pool(uint32_t *words, uint64_t count)
{
    const uint64_t step = (uint64_t)gridDim.x * blockDim.x;
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
        uint32_t x = (uint32_t)i * 2654435761u + (uint32_t)(i >> 32);
        x = (x ^ x >> 16) * 0x7feb352du;
        x ^= x >> 15;
        words[i] = (x & 0x807f807fu) | 0x3f003f00u; /* 0.5 to 1, of either sign */
    }
}

struct timing {
    const char *name;
    uint32_t sequences;
    uint32_t tokens; /* of a list */
};

/* 8 kv heads x 5 x 128, pages of 8 all over the pool; the calls go through 512 MB of lists or more,
 * so that none finds its pages in the cache. */
void time_one(struct spin_twins *twins, const struct timing &timing, uint16_t *pool,
              uint64_t pool_pages)
{
    constexpr uint32_t KV_HEADS = 8;
    constexpr uint32_t GROUP = 5;
    constexpr uint32_t HEAD_DIM = 128;
    constexpr uint64_t PAGE_BYTES = 4096;
    const uint64_t rows = (uint64_t)timing.sequences * KV_HEADS;
    const uint64_t list = timing.tokens / 8;
    const double bytes = (double)(rows * list * PAGE_BYTES);
    const uint32_t sets = (uint32_t)SPIN_MAX(2.0, ceil(512e6 / bytes));
    struct spin_rng rng = {twins->seed, 3000 + rows, list};
    std::vector<uint32_t> slots(rows * list * sets);
    for (uint64_t i = 0; i < slots.size(); i++) {
        slots[i] = (uint32_t)(i % pool_pages);
    }
    shuffle(&slots, &rng);
    std::vector<uint64_t> row_offset;
    std::vector<uint32_t> first = {0};
    for (uint64_t row = 0; row < rows; row++) {
        row_offset.push_back(row * list);
    }
    for (uint32_t s = 1; s <= timing.sequences; s++) {
        first.push_back(s);
    }
    spin_twin_array<uint32_t> device_slots(twins, slots);
    spin_twin_array<uint64_t> device_offset(twins, row_offset);
    spin_twin_array<uint32_t> device_first(twins, first);
    spin_twin_array<uint32_t> device_visible(twins, std::vector<uint32_t>(rows, timing.tokens));
    const uint32_t cols = KV_HEADS * GROUP * HEAD_DIM;
    spin_twin_array<uint16_t> q(
        twins, spin_twin_narrow(spin_twin_normal(&rng, (uint64_t)timing.sequences * cols, 1)));
    spin_twin_array<uint16_t> out(twins, q.count);
    struct spin_attention_args args = {};
    args.q = {q.data(), SPIN_DTYPE_BF16, timing.sequences, cols, cols};
    args.out = {out.data(), SPIN_DTYPE_BF16, timing.sequences, cols, cols};
    args.q_heads = KV_HEADS * GROUP;
    args.scale = 0.088F;
    args.spans = {device_first.data(), timing.sequences};
    args.pages = {{1, KV_HEADS, HEAD_DIM, SPIN_KV_BF16, SPIN_SWIZZLE_NONE},
                  (uint8_t *)pool,
                  NULL,
                  device_offset.data(),
                  device_visible.data(),
                  8};
    args.visible_max = timing.tokens;
    spin_twin_array<uint8_t> workspace(twins, spin_attention_workspace_bytes_cuda(&args));
    args.workspace = workspace.data();
    const double us = spin_twin_time_us(twins, sets, [&](uint32_t i) {
        args.pages.slots = device_slots.data() + i * rows * list;
        (void)spin_attention_cuda(&args, twins->cuda);
    });
    const std::string name = std::string("attention_") + timing.name;
    spin_twin_result((name + "_time").c_str(), us, "us");
    spin_twin_result((name + "_over_floor").c_str(), us * 1e3 * COPY_GB_PER_S / bytes, "ratio");
}

/* A chunk of a sequence that has `earlier` tokens already, in TFLOP/s of what is seen. */
void time_chunk(struct spin_twins *twins, uint32_t earlier, uint16_t *pool)
{
    constexpr uint32_t KV_HEADS = 8;
    constexpr uint32_t GROUP = 5;
    constexpr uint32_t HEAD_DIM = 128;
    constexpr uint32_t QUERIES = 2048;
    const uint32_t tokens = earlier + QUERIES;
    const uint64_t list = tokens / 8;
    struct spin_rng rng = {twins->seed, 4000, earlier};
    std::vector<uint32_t> slots(KV_HEADS * list);
    std::vector<uint64_t> row_offset;
    for (uint64_t i = 0; i < slots.size(); i++) {
        slots[i] = (uint32_t)i;
    }
    shuffle(&slots, &rng);
    for (uint64_t row = 0; row < KV_HEADS; row++) {
        row_offset.push_back(row * list);
    }
    spin_twin_array<uint32_t> device_slots(twins, slots);
    spin_twin_array<uint64_t> device_offset(twins, row_offset);
    spin_twin_array<uint32_t> device_first(twins, std::vector<uint32_t>{0, QUERIES});
    spin_twin_array<uint32_t> device_visible(twins, std::vector<uint32_t>(KV_HEADS, tokens));
    const uint32_t cols = KV_HEADS * GROUP * HEAD_DIM;
    spin_twin_array<uint16_t> q(
        twins, spin_twin_narrow(spin_twin_normal(&rng, (uint64_t)QUERIES * cols, 1)));
    spin_twin_array<uint16_t> out(twins, q.count);
    struct spin_attention_args args = {};
    args.q = {q.data(), SPIN_DTYPE_BF16, QUERIES, cols, cols};
    args.out = {out.data(), SPIN_DTYPE_BF16, QUERIES, cols, cols};
    args.q_heads = KV_HEADS * GROUP;
    args.scale = 0.088F;
    args.spans = {device_first.data(), 1};
    args.pages = {{1, KV_HEADS, HEAD_DIM, SPIN_KV_BF16, SPIN_SWIZZLE_NONE},
                  (uint8_t *)pool,
                  device_slots.data(),
                  device_offset.data(),
                  device_visible.data(),
                  8};
    args.visible_max = tokens;
    spin_twin_array<uint8_t> workspace(twins, spin_attention_workspace_bytes_cuda(&args));
    args.workspace = workspace.data();
    const double us = spin_twin_time_us(
        twins, 3, [&](uint32_t) { (void)spin_attention_cuda(&args, twins->cuda); });
    const double pairs = ((double)earlier + (QUERIES + 1) / 2.0) * QUERIES * KV_HEADS * GROUP;
    const std::string name = "attention_chunk_2048_over_" + std::to_string(earlier);
    spin_twin_result((name + "_time").c_str(), us, "us");
    spin_twin_result((name + "_rate").c_str(), pairs * 4 * HEAD_DIM / us * 1e-6, "TFLOP/s");
}

void time_all(struct spin_twins *twins)
{
    static const struct timing timings[] = {
        {"sel_256_pages_b1", 1, 2048},   {"sel_256_pages_b8", 8, 2048},
        {"sel_256_pages_b32", 32, 2048}, {"sel_72_pages_b1", 1, 576},
        {"dense_32k_b1", 1, 32768},      {"dense_32k_b8", 8, 32768},
        {"dense_32k_b32", 32, 32768},    {"dense_128k_b1", 1, 131072},
        {"dense_128k_b8", 8, 131072},    {"dense_128k_b32", 32, 131072},
    };
    const uint64_t pool_pages = UINT64_C(4) << 20; /* 16 GiB */
    spin_twin_array<uint16_t> pool(twins, pool_pages * 2048);
    fill_pool<<<1024, 256, 0, spin_stream_cuda(twins->cuda)>>>((uint32_t *)pool.data(),
                                                               pool_pages * 1024);
    for (const struct timing &timing : timings) {
        time_one(twins, timing, pool.data(), pool_pages);
    }
    for (const uint32_t earlier : {2048u, 8192u, 32768u}) {
        time_chunk(twins, earlier, pool.data());
    }
}

} // namespace

extern "C" void spin_twins_attention(struct spin_twins *twins)
{
    check_swap(twins);
    check_all(twins);
    if (twins->timing) {
        time_all(twins);
    }
}
