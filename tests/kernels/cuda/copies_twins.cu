/* kv_gather, kv_offload, kv_list and kv_append against their references: every byte of all that
 * they touch. */
#include "base/assert.h"
#include "base/clock.h"
#include "tests/kernels/cuda/tables_twins.h"

#include <algorithm>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#define SYNC_NS (30 * SPIN_NS_PER_S)
#define LAYERS 2u
#define BLOCKS_MAX 3u /* of a sequence */

namespace
{

/* --- gather and offload --- */

enum shape { FEW, ALL, ONE_ROW, NONE }; /* pages of the rows */

struct copy_config {
    uint32_t kv_heads;
    uint32_t head_dim;
    uint32_t page_tokens;
    uint32_t batch;
    uint32_t stride;
    enum shape shape;
};

/* What one side sees. */
struct copy_side {
    struct spin_kv_view view;
    struct spin_kv_batch batch;
    struct spin_kv_lists lists;
    uint32_t *blocks;
    uint32_t *sequence;
    uint32_t *tokens;
    struct spin_kv_range *ranges;
};

struct copy {
    struct copy_config config;
    struct spin_twins *twins;
    struct spin_rng rng;
    struct spin_twin_memory memory;
    struct copy_side ref;
    struct copy_side gpu;
    uint64_t host_bytes;
};

static uint64_t lay_copy(const struct copy_config *config, struct copy_side *side, uint8_t *base)
{
    struct spin_twin_cursor cursor = {base, 0};
    const uint64_t rows = (uint64_t)config->batch * config->kv_heads;
    struct spin_kv_view *view = &side->view;
    memset(side, 0, sizeof *side);
    view->layout.layers = LAYERS;
    view->layout.kv_heads = config->kv_heads;
    view->layout.head_dim = config->head_dim;
    view->layout.dtype = SPIN_KV_BF16;
    view->page_tokens = config->page_tokens;
    view->blocks_max = BLOCKS_MAX;
    view->frame_blocks = config->batch * BLOCKS_MAX;
    const uint64_t page_bytes = spin_page_bytes(&view->layout, config->page_tokens);
    view->pool = (uint8_t *)spin_twin_take(&cursor, rows * config->stride, page_bytes);
    side->blocks = (uint32_t *)spin_twin_take(&cursor, config->batch * BLOCKS_MAX, 4);
    side->sequence = (uint32_t *)spin_twin_take(&cursor, config->batch, 4);
    side->tokens = (uint32_t *)spin_twin_take(&cursor, config->batch, 4);
    side->ranges =
        (struct spin_kv_range *)spin_twin_take(&cursor, config->batch, sizeof *side->ranges);
    side->lists.stride = config->stride;
    side->lists.pages = (uint16_t *)spin_twin_take(&cursor, rows * config->stride, 2);
    side->lists.slots = (uint32_t *)spin_twin_take(&cursor, rows * config->stride, 4);
    side->lists.visible = (uint32_t *)spin_twin_take(&cursor, rows, 4);
    side->lists.misses = (struct spin_kv_miss *)spin_twin_take(&cursor, rows * config->stride,
                                                               sizeof *side->lists.misses);
    side->lists.miss_count = (uint32_t *)spin_twin_take(&cursor, rows, 4);
    view->blocks = side->blocks;
    side->batch.layer = 1;
    side->batch.count = config->batch;
    side->batch.sequence = side->sequence;
    side->batch.tokens = side->tokens;
    return cursor.used;
}

static void shuffle(std::vector<uint32_t> *values, struct spin_rng *rng)
{
    for (uint32_t i = 0; i < values->size(); i++) {
        (*values)[i] = i;
    }
    for (uint32_t i = (uint32_t)values->size() - 1; i > 0; i--) {
        std::swap((*values)[i], (*values)[spin_rng_below(rng, i + 1)]);
    }
}

static void fill(uint8_t *bytes, uint64_t count, struct spin_rng *rng)
{
    uint64_t state = (uint64_t)spin_rng_u32(rng) << 32 | spin_rng_u32(rng) | 1;
    for (uint64_t i = 0; i < count; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes[i] = (uint8_t)(state >> 32);
    }
}

static uint32_t pages_of_row(struct copy *copy, uint32_t row, uint32_t limit)
{
    const uint32_t rows = copy->config.batch * copy->config.kv_heads;
    switch (copy->config.shape) {
    case FEW:
        return spin_rng_below(&copy->rng, 3) == 0 ? spin_rng_below(&copy->rng, limit + 1) : 0;
    case ALL:
        return limit;
    case ONE_ROW:
        return row == rows / 2 ? limit : 0;
    default:
        return 0;
    }
}

/* Lists around the range of sequence i: with a few pages behind it and before it, as many of each
 * row as fit; the newest page is full or not. */
static void list_range(struct copy *copy, uint32_t i)
{
    const struct copy_config *config = &copy->config;
    const struct spin_kv_range range = copy->ref.ranges[i];
    const uint32_t pages = BLOCKS_MAX * SPIN_BLOCK_TOKENS / config->page_tokens;
    const uint32_t behind =
        std::min(config->stride - range.count, pages - range.first - range.count);
    const uint32_t end =
        std::max(range.first + range.count + spin_rng_below(&copy->rng, behind + 1), 1U);
    copy->ref.tokens[i] =
        end * config->page_tokens - spin_rng_below(&copy->rng, config->page_tokens);
    for (uint32_t head = 0; head < config->kv_heads; head++) {
        const uint32_t row = i * config->kv_heads + head;
        const uint32_t least = end > config->stride ? end - config->stride : 0;
        const uint32_t most = std::min(range.first, end - 1);
        const uint32_t first = least + spin_rng_below(&copy->rng, most - least + 1);
        for (uint32_t page = first; page < end; page++) {
            const uint64_t at = (uint64_t)row * config->stride + page - first;
            copy->ref.lists.pages[at] = (uint16_t)page;
        }
        copy->ref.lists.visible[row] = copy->ref.tokens[i] - first * config->page_tokens;
    }
}

/* Every list entry has a slot of its own, no two sequences share a block. */
static void fill_lists(struct copy *copy)
{
    const struct copy_config *config = &copy->config;
    const uint32_t pages = BLOCKS_MAX * SPIN_BLOCK_TOKENS / config->page_tokens;
    std::vector<uint32_t> slots((uint64_t)config->batch * config->kv_heads * config->stride);
    std::vector<uint32_t> blocks(config->batch * BLOCKS_MAX);
    std::vector<uint32_t> sequences(config->batch);
    shuffle(&slots, &copy->rng);
    shuffle(&blocks, &copy->rng);
    shuffle(&sequences, &copy->rng);
    std::copy(slots.begin(), slots.end(), copy->ref.lists.slots);
    std::copy(blocks.begin(), blocks.end(), copy->ref.blocks);
    std::copy(sequences.begin(), sequences.end(), copy->ref.sequence);
    for (uint32_t row = 0; row < config->batch * config->kv_heads; row++) {
        copy->ref.lists.miss_count[row] = pages_of_row(copy, row, config->stride);
        for (uint32_t m = 0; m < copy->ref.lists.miss_count[row]; m++) {
            const uint64_t at = (uint64_t)row * config->stride + m;
            copy->ref.lists.misses[at].page = (uint16_t)spin_rng_below(&copy->rng, pages);
            copy->ref.lists.misses[at].fresh = spin_rng_below(&copy->rng, 5) == 0;
            copy->ref.lists.misses[at].slot = copy->ref.lists.slots[at];
        }
    }
    for (uint32_t i = 0; i < config->batch; i++) {
        const uint32_t limit = std::min(config->stride, pages);
        const uint32_t count = pages_of_row(copy, i * config->kv_heads, limit);
        copy->ref.ranges[i].first = spin_rng_below(&copy->rng, pages - count + 1);
        copy->ref.ranges[i].count = count;
    }
    if (config->shape == ONE_ROW) { /* here: one sequence */
        copy->ref.ranges[config->batch / 2] = {0, std::min(config->stride, pages)};
    }
    for (uint32_t i = 0; i < config->batch; i++) {
        list_range(copy, i);
    }
}

/* Both directions, the pages of each row as they come; then once more, the same again. */
static void run_copies(struct copy *copy, bool gather)
{
    const struct spin_kv_gather_args gathers[] = {
        {&copy->gpu.view, copy->gpu.batch, copy->gpu.lists},
        {&copy->ref.view, copy->ref.batch, copy->ref.lists}};
    const struct spin_kv_offload_args offloads[] = {
        {&copy->gpu.view, copy->gpu.batch, copy->gpu.lists, copy->gpu.ranges},
        {&copy->ref.view, copy->ref.batch, copy->ref.lists, copy->ref.ranges}};
    uint64_t different = 0;
    char name[128];
    spin_twin_memory_write(&copy->memory);
    for (uint32_t i = 0; i < 2; i++) {
        if (gather) {
            different += spin_ops_cuda.kv_gather(&gathers[0], copy->twins->cuda) != SPIN_OK;
            (void)spin_ops_ref.kv_gather(&gathers[1], copy->twins->cpu);
        } else {
            different += spin_ops_cuda.kv_offload(&offloads[0], copy->twins->cuda) != SPIN_OK;
            (void)spin_ops_ref.kv_offload(&offloads[1], copy->twins->cpu);
        }
        different += spin_twin_memory_compare(&copy->memory, "pool");
        different += memcmp(copy->gpu.view.host, copy->ref.view.host, copy->host_bytes) != 0;
    }
    (void)snprintf(name, sizeof name, "%s_heads%u_d%u_P%u_batch%u_pages%u_shape%u",
                   gather ? "gather" : "offload", copy->config.kv_heads, copy->config.head_dim,
                   copy->config.page_tokens, copy->config.batch, copy->config.stride,
                   (uint32_t)copy->config.shape);
    spin_twin_check(copy->twins, name, different == 0, (double)different);
}

static void check_copy(struct spin_twins *twins, const struct copy_config *config)
{
    struct spin_error err;
    struct copy copy;
    void *host = NULL;
    copy.config = *config;
    copy.twins = twins;
    copy.rng = {twins->seed, 1000 + config->head_dim + config->batch, 0};
    copy.memory = spin_twin_memory_create(twins, lay_copy(config, &copy.ref, NULL));
    (void)lay_copy(config, &copy.ref, copy.memory.ref);
    (void)lay_copy(config, &copy.gpu, copy.memory.gpu);
    copy.host_bytes =
        (uint64_t)config->batch * BLOCKS_MAX * spin_block_bytes(&copy.ref.view.layout);
    SPIN_ASSERT_EQ(spin_host_alloc(twins->cuda, copy.host_bytes, &host, &err), SPIN_OK);
    copy.gpu.view.host = (uint8_t *)host;
    copy.ref.view.host = (uint8_t *)malloc(copy.host_bytes);
    SPIN_ASSERT(copy.ref.view.host != NULL);
    for (uint32_t gather = 0; gather < 2; gather++) {
        /* Blocks may share frames; what is written to those is anybody's. */
        const uint32_t frame_blocks = (config->batch * BLOCKS_MAX + gather) / (gather + 1);
        copy.ref.view.frame_blocks = frame_blocks;
        copy.gpu.view.frame_blocks = frame_blocks;
        fill_lists(&copy);
        fill(copy.ref.view.pool,
             (uint64_t)config->batch * config->kv_heads * config->stride *
                 spin_page_bytes(&copy.ref.view.layout, config->page_tokens),
             &copy.rng);
        fill(copy.ref.view.host, copy.host_bytes, &copy.rng);
        memcpy(host, copy.ref.view.host, copy.host_bytes);
        run_copies(&copy, gather == 1);
    }
    free(copy.ref.view.host);
    spin_host_free(twins->cuda, host);
    spin_twin_memory_destroy(&copy.memory);
}

static void check_copies(struct spin_twins *twins)
{
    static const struct copy_config configs[] = {
        {1, 8, 8, 1, 1, ALL},      {3, 8, 8, 7, 17, FEW},     {8, 64, 8, 5, 24, FEW},
        {8, 128, 8, 3, 40, ALL},   {8, 128, 8, 9, 40, NONE},  {8, 128, 8, 9, 40, ONE_ROW},
        {2, 128, 32, 5, 12, FEW},  {5, 256, 32, 2, 12, ALL},  {1, 40, 8, 4, 9, FEW},
        {8, 8, 8, 300, 6, FEW},    {8, 8, 32, 513, 3, ALL},   {256, 8, 8, 9, 2, ONE_ROW},
        {1, 24, 32, 2100, 2, FEW}, {1, 128, 8, 1, 3000, ALL},
    };
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(configs); i++) {
        if (twins->timing || i < 8) {
            check_copy(twins, &configs[i]);
        }
    }
}

/* --- lists in order --- */

struct list_side {
    struct spin_kv_view view;
    struct spin_kv_lists lists;
    uint32_t *slab_list;
};

static const uint32_t LIST_SEQUENCES = 2;

static uint64_t lay_list(uint32_t kv_heads, uint32_t slabs_max, struct list_side *side,
                         uint8_t *base)
{
    struct spin_twin_cursor cursor = {base, 0};
    const uint64_t entries = (uint64_t)kv_heads * (slabs_max * SPIN_SLAB_SLOTS + 3);
    memset(side, 0, sizeof *side);
    side->view.layout.layers = LAYERS;
    side->view.layout.kv_heads = kv_heads;
    side->view.page_tokens = 8;
    side->view.slabs_max = slabs_max;
    side->slab_list =
        (uint32_t *)spin_twin_take(&cursor, (uint64_t)LIST_SEQUENCES * LAYERS * slabs_max, 4);
    side->view.slab_list = side->slab_list;
    side->lists.stride = slabs_max * SPIN_SLAB_SLOTS + 3;
    side->lists.pages = (uint16_t *)spin_twin_take(&cursor, entries, 2);
    side->lists.page_count = (uint32_t *)spin_twin_take(&cursor, kv_heads, 4);
    side->lists.slots = (uint32_t *)spin_twin_take(&cursor, entries, 4);
    side->lists.visible = (uint32_t *)spin_twin_take(&cursor, kv_heads, 4);
    side->lists.misses =
        (struct spin_kv_miss *)spin_twin_take(&cursor, entries, sizeof *side->lists.misses);
    side->lists.miss_count = (uint32_t *)spin_twin_take(&cursor, kv_heads, 4);
    return cursor.used;
}

static void check_list(struct spin_twins *twins, uint32_t kv_heads, struct spin_kv_range pages,
                       enum spin_kv_list_kind kind)
{
    const uint32_t slabs_max = (pages.first + pages.count - 1) / SPIN_SLAB_SLOTS + 2;
    struct spin_rng rng = {twins->seed, 3000 + pages.count, (uint32_t)kind};
    struct list_side ref;
    struct list_side gpu;
    char name[128];
    struct spin_twin_memory memory =
        spin_twin_memory_create(twins, lay_list(kv_heads, slabs_max, &ref, NULL));
    (void)lay_list(kv_heads, slabs_max, &ref, memory.ref);
    (void)lay_list(kv_heads, slabs_max, &gpu, memory.gpu);
    for (uint32_t i = 0; i < LIST_SEQUENCES * LAYERS * slabs_max; i++) {
        ref.slab_list[i] = spin_rng_below(&rng, 100000);
    }
    const uint32_t tokens = (pages.first + pages.count) * 8 - spin_rng_below(&rng, 8);
    const struct spin_kv_list_args on_gpu = {&gpu.view, gpu.lists, kind, 1, 1, pages, tokens};
    const struct spin_kv_list_args on_ref = {&ref.view, ref.lists, kind, 1, 1, pages, tokens};
    spin_twin_memory_write(&memory);
    uint64_t different = spin_ops_cuda.kv_list(&on_gpu, twins->cuda) != SPIN_OK;
    (void)spin_ops_ref.kv_list(&on_ref, twins->cpu);
    different += spin_twin_memory_compare(&memory, "list");
    (void)snprintf(name, sizeof name, "list_kind%u_heads%u_first%u_pages%u", (uint32_t)kind,
                   kv_heads, pages.first, pages.count);
    spin_twin_check(twins, name, different == 0, (double)different);
    spin_twin_memory_destroy(&memory);
}

static void check_lists(struct spin_twins *twins)
{
    static const struct spin_kv_range ranges[] = {{0, 1},   {0, 255}, {0, 256},
                                                  {7, 257}, {31, 1},  {0, 16384}};
    for (const struct spin_kv_range &range : ranges) {
        for (const enum spin_kv_list_kind kind :
             {SPIN_KV_LIST_SLOTS, SPIN_KV_LIST_MISSES, SPIN_KV_LIST_PAGES}) {
            check_list(twins, 1, range, kind);
            check_list(twins, 8, range, kind);
        }
    }
}

/* --- append --- */

struct append_config {
    uint32_t kv_heads;
    uint32_t head_dim;
    uint32_t page_tokens;
    std::vector<uint32_t> queries; /* of each sequence */
    std::vector<uint32_t> visible;
};

struct append_side {
    struct spin_kv_append_args args;
    uint32_t *first;
    uint32_t *slots;
    uint64_t *row_offset;
    uint32_t *visible;
    uint16_t *qkv; /* BF16, K and V behind two columns of heads that nobody reads */
};

static uint32_t tokens_of(const struct append_config *config)
{
    uint32_t tokens = 0;
    for (const uint32_t queries : config->queries) {
        tokens += queries;
    }
    return tokens;
}

static uint64_t slots_of(const struct append_config *config)
{
    uint64_t slots = 0;
    for (const uint32_t visible : config->visible) {
        slots += (uint64_t)config->kv_heads * ((visible - 1) / config->page_tokens + 1);
    }
    return slots;
}

static uint64_t lay_append(const struct append_config *config, struct append_side *side,
                           uint8_t *base)
{
    struct spin_twin_cursor cursor = {base, 0};
    const uint32_t count = (uint32_t)config->queries.size();
    const uint32_t cols = config->kv_heads * config->head_dim;
    struct spin_page_lists *pages = &side->args.pages;
    memset(side, 0, sizeof *side);
    pages->layout.layers = 1;
    pages->layout.kv_heads = config->kv_heads;
    pages->layout.head_dim = config->head_dim;
    pages->layout.dtype = SPIN_KV_BF16;
    pages->page_tokens = config->page_tokens;
    const uint64_t page_bytes = spin_page_bytes(&pages->layout, config->page_tokens);
    const uint64_t stride = 4 * cols;
    side->qkv = (uint16_t *)spin_twin_take(&cursor, tokens_of(config) * stride, 2);
    side->first = (uint32_t *)spin_twin_take(&cursor, count + 1, 4);
    side->slots = (uint32_t *)spin_twin_take(&cursor, slots_of(config), 4);
    side->row_offset = (uint64_t *)spin_twin_take(&cursor, count * config->kv_heads, 8);
    side->visible = (uint32_t *)spin_twin_take(&cursor, count * config->kv_heads, 4);
    pages->pool = (uint8_t *)spin_twin_take(&cursor, slots_of(config), page_bytes);
    pages->slots = side->slots;
    pages->row_offset = side->row_offset;
    pages->visible = side->visible;
    side->args.spans.first = side->first;
    side->args.spans.count = count;
    const struct spin_matrix matrix = {NULL, SPIN_DTYPE_BF16, tokens_of(config), cols, stride};
    side->args.k = matrix;
    side->args.v = matrix;
    side->args.k.data = side->qkv + 2 * cols;
    side->args.v.data = side->qkv + 3 * cols;
    return cursor.used;
}

/* The reference's activations are F32: the same numbers. */
static std::vector<float> widen(struct spin_matrix *matrix)
{
    const uint16_t *from = (const uint16_t *)matrix->data;
    std::vector<float> values((uint64_t)matrix->rows * matrix->cols);
    for (uint64_t i = 0; i < values.size(); i++) {
        values[i] = spin_f32_from_bf16(from[i / matrix->cols * matrix->stride + i % matrix->cols]);
    }
    matrix->data = values.data();
    matrix->dtype = SPIN_DTYPE_F32;
    matrix->stride = matrix->cols;
    return values;
}

static void fill_append(const struct append_config *config, struct append_side *side,
                        struct spin_rng *rng)
{
    std::vector<uint32_t> slots(slots_of(config));
    uint64_t offset = 0;
    shuffle(&slots, rng);
    std::copy(slots.begin(), slots.end(), side->slots);
    side->first[0] = 0;
    for (uint32_t s = 0; s < config->queries.size(); s++) {
        side->first[s + 1] = side->first[s] + config->queries[s];
        for (uint32_t h = 0; h < config->kv_heads; h++) {
            side->row_offset[s * config->kv_heads + h] = offset;
            side->visible[s * config->kv_heads + h] = config->visible[s];
            offset += (config->visible[s] - 1) / config->page_tokens + 1;
        }
    }
    for (uint64_t i = 0; i < side->args.k.rows * side->args.k.stride; i++) {
        const uint32_t bits = spin_rng_u32(rng);
        /* No NaN: its bits may change on their way through F32. */
        side->qkv[i] = (uint16_t)((bits & 0x7f80u) == 0x7f80u ? bits & 0xff80u : bits);
    }
}

static void check_append(struct spin_twins *twins, const struct append_config *config,
                         const char *what)
{
    struct spin_rng rng = {twins->seed, 2000 + config->head_dim, 0};
    struct append_side ref;
    struct append_side gpu;
    char name[128];
    struct spin_twin_memory memory = spin_twin_memory_create(twins, lay_append(config, &ref, NULL));
    (void)lay_append(config, &ref, memory.ref);
    (void)lay_append(config, &gpu, memory.gpu);
    fill_append(config, &ref, &rng);
    struct spin_kv_append_args args = ref.args;
    const std::vector<float> k = widen(&args.k);
    const std::vector<float> v = widen(&args.v);
    spin_twin_memory_write(&memory);
    uint64_t different = spin_ops_cuda.kv_append(&gpu.args, twins->cuda) != SPIN_OK;
    (void)spin_ops_ref.kv_append(&args, twins->cpu);
    different += spin_twin_memory_compare(&memory, "append");
    (void)snprintf(name, sizeof name, "append_%s_heads%u_d%u_P%u", what, config->kv_heads,
                   config->head_dim, config->page_tokens);
    spin_twin_check(twins, name, different == 0, (double)different);
    spin_twin_memory_destroy(&memory);
}

static void check_appends(struct spin_twins *twins)
{
    static const uint32_t lengths[] = {1, 7, 8, 9, 63, 64, 65, 4095, 1000, 33};
    static const uint32_t shapes[][2] = {{1, 8}, {3, 40}, {8, 64}, {8, 128}, {5, 256}};
    for (uint64_t i = 0; i < 2 * SPIN_ARRAY_COUNT(shapes); i++) {
        struct append_config config;
        config.kv_heads = shapes[i / 2][0];
        config.head_dim = shapes[i / 2][1];
        config.page_tokens = i % 2 == 0 ? 8 : 32;
        for (const uint32_t length : lengths) {
            config.visible.push_back(length);
            config.queries.push_back(1);
        }
        check_append(twins, &config, "decode");
        config.queries = {1, 0, 8, 3, 63, 0, 64, 700, 1, 0};
        check_append(twins, &config, "mixed");
        config.queries.assign(67, 1);
        config.visible.assign(67, 130);
        config.queries[40] = 0;
        check_append(twins, &config, "batch");
        config.queries = {300};
        config.visible = {1201};
        check_append(twins, &config, "prefill");
    }
}

} // namespace

void spin_twins_copies(struct spin_twins *twins)
{
    check_copies(twins);
    check_lists(twins);
    check_appends(twins);
}
