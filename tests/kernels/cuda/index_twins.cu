/* select, too: kv_index against its reference, and the times of both operations.
 *
 * Bounds are exact; a mean is the fast CPU's bit by bit, and the reference's or a neighbour of it.
 * Floors: the summaries, or the keys, at the rate of a copy. */
#include "tests/kernels/cuda/select_twins.cuh"

namespace
{

constexpr double COPY_GB_PER_S = 4263;
constexpr double ROTATE_BYTES = 256e6;

/* ---- kv_index ---- */

/* The pages of all rows of a world, at random places of a pool. */
struct paged_world {
    struct spin_select_world world;
    spin_twin_pair<uint16_t> pool;
    spin_twin_pair<uint16_t> pages;
    spin_twin_pair<uint32_t> slots;
    spin_twin_pair<uint32_t> visible;
    spin_twin_pair<struct spin_kv_range> ranges;
    uint32_t stride;

    paged_world(struct spin_twins *twins, const struct spin_select_shape &shape, uint64_t stream)
        : world(twins, shape, stream)
    {
        const uint64_t page = spin_page_bytes(&world.view.layout, shape.page_tokens) / 2;
        std::vector<uint32_t> places;
        set_ranges();
        stride = world.pages_max() + 5;
        for (uint64_t i = 0; i < world.rows() * world.pages_max() + 1; i++) {
            places.push_back((uint32_t)i);
        }
        world.shuffle(&places);
        slots.host.assign(world.rows() * stride, places[0]);
        pages.host.assign(world.rows() * stride, 0xffff);
        pool.host.assign(places.size() * page, 0xffff);
        places.erase(places.begin());
        for (uint64_t r = 0; r < world.rows(); r++) {
            const uint32_t tokens = shape.tokens[r / shape.kv_heads];
            /* Lists leave out a few pages before their range. */
            const uint32_t skip = (uint32_t)r % (ranges.host[r / shape.kv_heads].first + 1);
            visible.host.push_back(tokens - skip * shape.page_tokens);
            for (uint32_t p = skip; p < world.pages((uint32_t)(r / shape.kv_heads)); p++) {
                pages.host[r * stride + p - skip] = (uint16_t)p;
                slots.host[r * stride + p - skip] = places.back();
                fill_page(places.back(),
                          std::min(tokens - p * shape.page_tokens, shape.page_tokens));
                places.pop_back();
            }
        }
    }
    /* Keys of the page's first tokens; sometimes zeros of a sign. */
    void fill_page(uint32_t slot, uint32_t tokens)
    {
        const struct spin_kv_layout &layout = world.view.layout;
        const uint64_t page = spin_page_bytes(&layout, world.shape.page_tokens) / 2;
        for (uint32_t t = 0; t < tokens; t++) {
            uint16_t *key = pool.host.data() + slot * page + spin_page_k_offset(&layout, t) / 2;
            for (uint32_t d = 0; d < layout.head_dim; d++) {
                const bool zero = spin_rng_below(&world.rng, 8) == 0;
                const float sign = spin_rng_below(&world.rng, 2) == 0 ? -0.0F : 0.0F;
                key[d] = spin_bf16_from_f32(zero || d % 16 == 3 ? sign : world.noise());
            }
        }
    }
    /* None, one, all or the later whole partitions of a sequence. */
    void set_ranges()
    {
        const uint32_t pp = world.shape.partition_tokens / world.shape.page_tokens;
        for (uint32_t s = 0; s < world.count(); s++) {
            const uint32_t whole = world.shape.tokens[s] / world.shape.partition_tokens;
            const uint32_t counts[] = {whole, whole / 2, whole > 0 ? 1U : 0, 0};
            const uint32_t first = whole - counts[s % 4];
            ranges.host.push_back({first * pp, counts[s % 4] * pp});
        }
    }
    struct spin_kv_index_args args(struct spin_kv_view *view, bool gpu)
    {
        *view = world.views(gpu);
        view->pool = (uint8_t *)(gpu ? pool.gpu->data() : pool.host.data());
        struct spin_kv_index_args args = {};
        args.view = view;
        args.batch = world.batch(gpu, 0, world.count());
        args.lists.stride = stride;
        args.lists.pages = gpu ? pages.gpu->data() : pages.host.data();
        args.lists.slots = gpu ? slots.gpu->data() : slots.host.data();
        args.lists.visible = gpu ? visible.gpu->data() : visible.host.data();
        args.summary = world.shape.summary;
        args.ranges = gpu ? ranges.gpu->data() : ranges.host.data();
        return args;
    }
    void upload()
    {
        world.upload();
        pool.upload(world.twins);
        pages.upload(world.twins);
        slots.upload(world.twins);
        visible.upload(world.twins);
        ranges.upload(world.twins);
    }
};

/* Elements that are not those of `wanted` nor, if allowed, next to them. */
uint64_t strangers(const std::vector<uint16_t> &got, const std::vector<uint16_t> &wanted,
                   int32_t allowed)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < got.size(); i++) {
        count += got[i] != wanted[i] &&
                 abs(spin_twin_place(got[i]) - spin_twin_place(wanted[i])) > allowed;
    }
    return count;
}

void check_index(struct spin_twins *twins, const struct spin_select_shape &shape, uint64_t stream)
{
    struct paged_world world(twins, shape, stream);
    struct spin_kv_view view;
    world.upload();
    const struct spin_kv_index_args gpu = world.args(&view, true);
    spin_twin_must(spin_kv_index_cuda(&gpu, twins->cuda) == SPIN_OK, "kv_index");
    const std::vector<uint16_t> got = world.world.summaries.gpu->read();
    const std::vector<uint16_t> before = world.world.summaries.host;
    const struct spin_kv_index_args ref = world.args(&view, false);
    spin_twin_must(spin_kv_index_ref(&ref, twins->cpu) == SPIN_OK, "reference");
    const std::vector<uint16_t> wanted = world.world.summaries.host;
    world.world.summaries.host = before;
    const struct spin_kv_index_args cpu = world.args(&view, false);
    spin_twin_must(spin_kv_index_cpu(&cpu, twins->cpu) == SPIN_OK, "cpu");
    const bool mean = shape.summary == SPIN_SUMMARY_MEAN;
    const uint64_t far = strangers(got, wanted, mean ? 1 : -1);
    char name[96];
    (void)snprintf(name, sizeof name, "index_%s_%ux%u_p%u_t%u", mean ? "mean" : "bounds",
                   shape.kv_heads, shape.head_dim, shape.page_tokens, shape.partition_tokens);
    spin_twin_check(twins, (std::string(name) + "_ref").c_str(), far == 0 && wanted != before,
                    (double)far);
    spin_twin_check(twins, (std::string(name) + "_cpu").c_str(), got == world.world.summaries.host,
                    (double)strangers(got, world.world.summaries.host, -1));
    spin_twin_check(twins, (std::string(name) + "_canaries").c_str(),
                    world.world.summaries.gpu->canaries_live(), 1);
}

/* ---- times ---- */

/* Normal numbers; the upper half of a pair of bounds is above the lower one. */
__global__ void fill(uint16_t *values, uint64_t count, uint32_t head_dim, uint32_t width)
{
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count;
         i += (uint64_t)gridDim.x * blockDim.x) {
        uint32_t h = (uint32_t)i * 2654435761U + (uint32_t)(i >> 32);
        h = (h ^ h >> 16) * 0x7feb352dU;
        h = (h ^ h >> 15) * 0x846ca68bU;
        h ^= h >> 16;
        const int32_t sum = (int32_t)((h & 255) + (h >> 8 & 255) + (h >> 16 & 255) + (h >> 24));
        const float shift = width == head_dim ? 0.0F : i % width < head_dim ? -3.5F : 3.5F;
        values[i] = __bfloat16_as_ushort(__float2bfloat16_rn((float)(sum - 510) / 295.6F + shift));
    }
}

struct timed_shape {
    const char *name;
    enum spin_summary summary;
    uint32_t partition_tokens;
    uint32_t tokens;
    uint32_t count;
    uint32_t group;
    uint32_t head_dim;
};

/* A batch of equal sequences in as many layers as make the caches forget. */
struct timed_world {
    struct spin_twins *twins;
    struct spin_kv_view view;
    uint64_t rows;
    uint64_t layer_bytes;
    uint32_t partitions;
    uint32_t stride;
    std::unique_ptr<spin_twin_array<uint16_t>> summaries;
    std::unique_ptr<spin_twin_array<uint32_t>> blocks;
    std::unique_ptr<spin_twin_array<uint32_t>> sequence;
    std::unique_ptr<spin_twin_array<uint32_t>> tokens;
    std::unique_ptr<spin_twin_array<uint16_t>> q;
    std::unique_ptr<spin_twin_array<struct spin_kv_window>> windows;
    std::unique_ptr<spin_twin_array<uint16_t>> pages;
    std::unique_ptr<spin_twin_array<uint32_t>> page_count;
    std::unique_ptr<spin_twin_array<uint8_t>> workspace;
    struct spin_kv_select_args args;

    timed_world(struct spin_twins *twins_, const struct timed_shape &shape)
        : twins(twins_), view{}, args{}
    {
        const uint32_t halves = shape.summary == SPIN_SUMMARY_BOUNDS ? 2 : 1;
        view.layout = {1, 8, shape.head_dim, SPIN_KV_BF16, SPIN_SWIZZLE_NONE};
        view.page_tokens = 8;
        view.partition_tokens = shape.partition_tokens;
        view.summary_bytes = halves * shape.head_dim * 2;
        view.blocks_max = shape.tokens / SPIN_BLOCK_TOKENS;
        rows = (uint64_t)shape.count * 8;
        partitions = shape.tokens / shape.partition_tokens;
        layer_bytes = rows * partitions * view.summary_bytes;
        view.layout.layers = (uint32_t)ceil(ROTATE_BYTES / (double)layer_bytes);
        stride = shape.tokens / 8;
        allocate(shape);
        set_args(shape);
    }
    void allocate(const struct timed_shape &shape)
    {
        const uint64_t elements = layer_bytes / 2 * view.layout.layers;
        struct spin_rng rng = {twins->seed, 90, 0};
        summaries = std::make_unique<spin_twin_array<uint16_t>>(twins, elements);
        fill<<<2112, 256, 0, spin_stream_cuda(twins->cuda)>>>(
            summaries->data(), elements, shape.head_dim, view.summary_bytes / 2);
        std::vector<uint32_t> numbers(shape.count * view.blocks_max);
        std::vector<uint32_t> sequences(shape.count);
        for (uint32_t i = 0; i < numbers.size(); i++) {
            numbers[i] = i;
        }
        for (uint32_t i = (uint32_t)numbers.size(); i > 1; i--) {
            std::swap(numbers[i - 1], numbers[spin_rng_below(&rng, i)]);
        }
        for (uint32_t s = 0; s < shape.count; s++) {
            sequences[s] = s;
        }
        const uint32_t local = partitions - 4;
        blocks = std::make_unique<spin_twin_array<uint32_t>>(twins, numbers);
        sequence = std::make_unique<spin_twin_array<uint32_t>>(twins, sequences);
        tokens = std::make_unique<spin_twin_array<uint32_t>>(
            twins, std::vector<uint32_t>(shape.count, shape.tokens));
        windows = std::make_unique<spin_twin_array<struct spin_kv_window>>(
            twins, std::vector<struct spin_kv_window>(shape.count, {1, local, partitions / 64}));
        q = std::make_unique<spin_twin_array<uint16_t>>(
            twins,
            spin_twin_narrow(spin_twin_normal(&rng, rows * shape.group * shape.head_dim, 1.5)));
        pages = std::make_unique<spin_twin_array<uint16_t>>(twins, rows * stride);
        page_count = std::make_unique<spin_twin_array<uint32_t>>(twins, rows);
    }
    void set_args(const struct timed_shape &shape)
    {
        const uint32_t q_cols = 8 * shape.group * shape.head_dim;
        view.summaries = (uint8_t *)summaries->data();
        view.blocks = blocks->data();
        args.view = &view;
        args.batch = {0, shape.count, sequence->data(), tokens->data(), NULL};
        args.lists.stride = stride;
        args.lists.pages = pages->data();
        args.lists.page_count = page_count->data();
        args.summary = shape.summary;
        args.q = {q->data(), SPIN_DTYPE_BF16, shape.count, q_cols, q_cols};
        args.q_heads = 8 * shape.group;
        args.scale = 1 / sqrtf((float)shape.head_dim);
        args.windows = windows->data();
        workspace = std::make_unique<spin_twin_array<uint8_t>>(
            twins, spin_kv_select_workspace_bytes(&args));
        args.workspace = workspace->data();
    }
    void run(const struct spin_kv_select_args &call)
    {
        spin_twin_must(spin_kv_select_cuda(&call, twins->cuda) == SPIN_OK, "kv_select");
    }
    /* A few sequences alone, over what the batch has chosen: nothing changes. */
    bool alone_is_same()
    {
        run(args);
        const std::vector<uint16_t> batch = pages->read();
        pages->poison();
        run(args);
        for (uint32_t s = 0; s < args.batch.count; s += 5) {
            struct spin_kv_select_args call = args;
            call.batch.count = 1;
            call.batch.sequence += s;
            call.batch.tokens += s;
            call.windows += s;
            call.q.data = q->data() + s * args.q.stride;
            call.lists.pages += (uint64_t)s * 8 * stride;
            call.lists.page_count += s * 8;
            spin_twin_must(cudaMemsetAsync(call.lists.pages, 0xff, (uint64_t)8 * stride * 2,
                                           spin_stream_cuda(twins->cuda)) == cudaSuccess,
                           "poison");
            run(call);
        }
        return pages->read() == batch;
    }
};

const struct timed_shape timed_shapes[] = {
    {"select_mean_32K_B1", SPIN_SUMMARY_MEAN, 8, 32768, 1, 5, 128},
    {"select_mean_32K_B4", SPIN_SUMMARY_MEAN, 8, 32768, 4, 5, 128},
    {"select_mean_32K_B8", SPIN_SUMMARY_MEAN, 8, 32768, 8, 5, 128},
    {"select_mean_32K_B32", SPIN_SUMMARY_MEAN, 8, 32768, 32, 5, 128},
    {"select_mean_128K_B1", SPIN_SUMMARY_MEAN, 8, 131072, 1, 5, 128},
    {"select_mean_128K_B2", SPIN_SUMMARY_MEAN, 8, 131072, 2, 5, 128},
    {"select_mean_128K_B8", SPIN_SUMMARY_MEAN, 8, 131072, 8, 5, 128},
    {"select_mean_128K_B12", SPIN_SUMMARY_MEAN, 8, 131072, 12, 5, 128},
    {"select_mean_128K_B16", SPIN_SUMMARY_MEAN, 8, 131072, 16, 5, 128},
    {"select_mean_128K_B32", SPIN_SUMMARY_MEAN, 8, 131072, 32, 5, 128},
    {"select_bounds_32K_B1", SPIN_SUMMARY_BOUNDS, 16, 32768, 1, 5, 128},
    {"select_bounds_32K_B32", SPIN_SUMMARY_BOUNDS, 16, 32768, 32, 5, 128},
    {"select_bounds_128K_B1", SPIN_SUMMARY_BOUNDS, 16, 131072, 1, 5, 128},
    {"select_bounds_128K_B8", SPIN_SUMMARY_BOUNDS, 16, 131072, 8, 5, 128},
    {"select_bounds_128K_B32", SPIN_SUMMARY_BOUNDS, 16, 131072, 32, 5, 128},
    {"select_mean_128K_B16_G8", SPIN_SUMMARY_MEAN, 8, 131072, 16, 8, 128},
    {"select_mean_128K_B16_d64", SPIN_SUMMARY_MEAN, 8, 131072, 16, 4, 64},
};

void put_times(const std::string &name, double us, double bytes)
{
    spin_twin_result((name + "_time").c_str(), us, "us");
    spin_twin_result((name + "_over_floor").c_str(), us * COPY_GB_PER_S * 1e3 / bytes, "ratio");
}

void time_select(struct spin_twins *twins, const struct timed_shape &shape)
{
    struct timed_world world(twins, shape);
    const bool same = world.alone_is_same();
    spin_twin_check(twins, (std::string(shape.name) + "_alone").c_str(), same, same);
    const double us = spin_twin_time_us(twins, 2 * world.view.layout.layers + 4, [&](uint32_t i) {
        struct spin_kv_select_args call = world.args;
        call.batch.layer = i % world.view.layout.layers;
        world.run(call);
    });
    put_times(shape.name, us, (double)world.layer_bytes);
}

/* A chunk of `tokens` of each sequence, in pages of 8 at neighbouring slots. */
void time_index(struct spin_twins *twins, const char *name, uint32_t count, uint32_t tokens)
{
    const uint32_t pages = tokens / 8;
    const uint64_t rows = (uint64_t)count * 8;
    struct spin_kv_view view = {};
    view.layout = {1, 8, 128, SPIN_KV_BF16, SPIN_SWIZZLE_NONE};
    view.page_tokens = 8;
    view.partition_tokens = 8;
    view.summary_bytes = 256;
    view.blocks_max = (tokens + SPIN_BLOCK_TOKENS - 1) / SPIN_BLOCK_TOKENS;
    const uint64_t page = spin_page_bytes(&view.layout, 8) / 2;
    const double read = (double)(rows * pages * page);
    const uint32_t sets = (uint32_t)ceil(ROTATE_BYTES / (read * 2));
    std::vector<uint32_t> slots(rows * pages);
    std::vector<uint32_t> blocks(count * view.blocks_max);
    std::vector<uint32_t> sequences(count);
    for (uint32_t i = 0; i < slots.size(); i++) {
        slots[i] = i;
    }
    for (uint32_t i = 0; i < blocks.size(); i++) {
        blocks[i] = i;
        sequences[i / view.blocks_max] = i / view.blocks_max;
    }
    spin_twin_array<uint16_t> pool(twins, rows * pages * page * sets);
    spin_twin_array<uint16_t> summaries(twins, blocks.size() * 8 * 16 * 128);
    spin_twin_array<uint32_t> gpu_slots(twins, slots);
    spin_twin_array<uint32_t> gpu_blocks(twins, blocks);
    spin_twin_array<uint32_t> gpu_sequences(twins, sequences);
    spin_twin_array<uint32_t> gpu_tokens(twins, std::vector<uint32_t>(count, tokens));
    spin_twin_array<uint32_t> visible(twins, std::vector<uint32_t>(rows, tokens));
    spin_twin_array<struct spin_kv_range> ranges(
        twins, std::vector<struct spin_kv_range>(count, {0, pages}));
    fill<<<2112, 256, 0, spin_stream_cuda(twins->cuda)>>>(pool.data(), pool.count, 128, 128);
    view.summaries = (uint8_t *)summaries.data();
    view.blocks = gpu_blocks.data();
    const double us = spin_twin_time_us(twins, std::min(2 * sets + 2, 64U), [&](uint32_t i) {
        struct spin_kv_view here = view;
        here.pool = (uint8_t *)(pool.data() + i % sets * rows * pages * page);
        struct spin_kv_index_args args = {};
        args.view = &here;
        args.batch = {0, count, gpu_sequences.data(), gpu_tokens.data(), NULL};
        args.lists.stride = pages;
        args.lists.slots = gpu_slots.data();
        args.lists.visible = visible.data();
        args.summary = SPIN_SUMMARY_MEAN;
        args.ranges = ranges.data();
        spin_twin_must(spin_kv_index_cuda(&args, twins->cuda) == SPIN_OK, "kv_index");
    });
    put_times(name, us, read + (double)(rows * pages * 256));
}

} // namespace

void spin_twins_index(struct spin_twins *twins)
{
    const std::vector<uint32_t> lengths = {1, 7, 8, 9, 63, 64, 65, 127, 128, 129, 1000, 2049};
    uint64_t stream = 2000;
    for (enum spin_summary summary : {SPIN_SUMMARY_MEAN, SPIN_SUMMARY_BOUNDS}) {
        check_index(twins, {summary, 3, 1, 64, 8, 8, lengths}, stream++);
        check_index(twins, {summary, 2, 1, 128, 8, 16, lengths}, stream++);
        check_index(twins, {summary, 2, 1, 128, 32, 32, lengths}, stream++);
        check_index(twins, {summary, 1, 1, 40, 8, 128, lengths}, stream++);
    }
}

void spin_twins_select_timing(struct spin_twins *twins)
{
    for (const struct timed_shape &shape : timed_shapes) {
        time_select(twins, shape);
    }
    time_index(twins, "index_mean_chunk2048", 1, 2048);
    time_index(twins, "index_mean_32_partitions", 32, 8);
}
