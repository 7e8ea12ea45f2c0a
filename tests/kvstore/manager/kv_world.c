#include "tests/kvstore/manager/kv_world.h"

#include "base/assert.h"
#include "kvstore/manager/kv_internal.h"
#include "tests/kernels/fake_device.h"

#define FAKE_BYTES (UINT64_C(256) << 20)
#define WAIT_NS UINT64_C(10000000000)
#define SUPER_CHUNK_TOKENS 256u

uint32_t spin_world_mandatory(const void *context, uint32_t layer, uint32_t tokens)
{
    const struct world_demand *demand = context;
    const uint32_t pages = (tokens + demand->page_tokens - 1) / demand->page_tokens;
    return tokens < demand->dense_below ? pages : SPIN_MIN(pages, demand->pages[layer]);
}

struct world_options spin_world_options_default(void)
{
    return (struct world_options){
        .ops = spin_ops_best_cpu(),
        .page_tokens = 8,
        .partition_tokens = 16,
        .layers = 2,
        .heads = 2,
        .head_dim = 16,
        .tokens_max = 640,
        .slabs = 1000,
        .blocks = 40,
        .demand = {.pages = {10, 6}},
    };
}

/* --- the shadow: tiles in the order of tokens, which is the byte order of any page size --- */

static uint64_t row_bytes(const struct world *world)
{
    return (uint64_t)2 * world->options.head_dim;
}

static uint8_t *shadow_tile(const struct world *world, const struct world_seq *seq, uint32_t row,
                            uint32_t token)
{
    const uint64_t tiles = (world->options.tokens_max + 7) / 8;
    const uint64_t index =
        (uint64_t)(seq - world->seqs) * world->options.layers * world->options.heads + row;
    return world->shadow + (index * tiles + token / 8) * 16 * row_bytes(world);
}

static void shadow_put(struct world *world, uint8_t *out, const float *values)
{
    for (uint64_t d = 0; d < world->options.head_dim; d++) {
        uint32_t bits;
        memcpy(&bits, &values[d], sizeof bits);
        const uint16_t bf16 = (uint16_t)(bits >> 16); /* exact: see random_values */
        memcpy(out + 2 * d, &bf16, sizeof bf16);
    }
}

/* +-1.m with 7 bits of m: BF16 holds it. */
static void random_values(struct world *world, float *out, uint32_t count)
{
    uint32_t word = 0;
    for (uint32_t i = 0; i < count; i++) {
        word = i % 4 == 0 ? spin_rng_u32(&world->rng) : word >> 8;
        const float magnitude = 1.0F + (float)(word & 0x7F) / 128.0F;
        out[i] = (word & 0x80) != 0 ? -magnitude : magnitude;
    }
}

/* Random K and V of `count` tokens of a sequence from `first` on, into the pass behind the tokens
 * that it has; into the shadow, too. */
static void make_tokens(struct world *world, const struct world_seq *seq, uint32_t layer,
                        uint32_t first, uint32_t count)
{
    const uint64_t head_dim = world->options.head_dim;
    const uint64_t cols = world->options.heads * head_dim;
    float *k = world->pass.made[layer] + world->pass.tokens[layer] * cols;
    float *v = k + world->options.tokens_max * cols;
    random_values(world, k, count * (uint32_t)cols);
    random_values(world, v, count * (uint32_t)cols);
    world->pass.tokens[layer] += count;
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t head = 0; head < world->options.heads; head++) {
            uint8_t *tile =
                shadow_tile(world, seq, layer * world->options.heads + head, first + i) +
                (first + i) % 8 * row_bytes(world);
            shadow_put(world, tile, k + (i * world->options.heads + head) * head_dim);
            shadow_put(world, tile + 8 * row_bytes(world),
                       v + (i * world->options.heads + head) * head_dim);
        }
    }
}

/* What happens on the device in one layer of the pass. */
struct moment {
    struct world *world;
    uint32_t layer;
    bool appended; /* the newest tokens are there */
    const struct spin_kv_range *sealed;
};

/* In the order of the stream: at once, or late. */
static void run(struct world *world, spin_fake_fn fn, uint32_t layer, bool appended)
{
    struct moment moment = {world, layer, appended, NULL};
    (void)spin_kv_sealed(world->kv, &moment.sealed);
    SPIN_EXPECT_OK(spin_fake_submit(world->stream, fn, &moment, sizeof moment), NULL);
}

static void wait(const struct world *world)
{
    SPIN_EXPECT_OK(spin_stream_sync(world->stream, WAIT_NS), NULL);
}

/* A page of a row, and what of it is to be compared: the tokens below `end`. */
struct page {
    const struct world_seq *seq;
    uint32_t row; /* of the sequence */
    uint32_t number;
    uint32_t end;
};

static void compare_page(struct world *world, const struct page *page, const uint8_t *bytes)
{
    const uint32_t page_tokens = world->options.page_tokens;
    const uint32_t begin = page->number * page_tokens;
    for (uint32_t first = begin; first < begin + page_tokens; first += 8) {
        const uint32_t count = first >= page->end ? 0 : SPIN_MIN(8, page->end - first);
        const uint8_t *tile = shadow_tile(world, page->seq, page->row, first);
        const uint8_t *got = bytes + (uint64_t)(first - begin) / 8 * 16 * row_bytes(world);
        assert_memory_equal(got, tile, count * row_bytes(world));
        assert_memory_equal(got + 8 * row_bytes(world), tile + 8 * row_bytes(world),
                            count * row_bytes(world));
    }
    world->pages_compared++;
}

/* --- set up and tear down --- */

static struct spin_kv_config make_config(struct world *world)
{
    const struct world_options *options = &world->options;
    struct spin_kv_config config = {
        .layout = {.layers = world->options.layers,
                   .kv_heads = world->options.heads,
                   .head_dim = options->head_dim,
                   .dtype = SPIN_KV_BF16,
                   .swizzle = options->ops->swizzle},
        .ops = options->ops,
        .sequences_max = WORLD_SEQUENCES,
        .tokens_max = options->tokens_max,
        .page_tokens = options->page_tokens,
        .partition_tokens = options->partition_tokens,
        .summary_bytes = 2 * options->head_dim,
        .replacement = options->replacement,
        .bucket_shift = options->bucket_shift,
        .frame_blocks = options->frame_blocks,
        .buffered = options->buffered,
        .demand = {.context = &world->demand, .mandatory = spin_world_mandatory},
    };
    const struct spin_kv_budget budget = {.layers = world->options.layers,
                                          .kv_heads = world->options.heads,
                                          .page_tokens = options->page_tokens,
                                          .demand = config.demand};
    const uint32_t slabs = options->slabs == 0
                               ? spin_kv_longest_claim_slabs(&budget, options->tokens_max)
                               : options->slabs;
    const uint32_t blocks =
        options->blocks == 0 ? spin_kv_blocks_for(options->tokens_max) : options->blocks;
    config.hbm_bytes = slabs * spin_kv_slab_bytes(&config) + 77; /* not whole slabs */
    config.host_bytes = blocks * spin_block_bytes(&config.layout) + 77;
    return config;
}

/* A frame, by the host's own list of blocks: that of the view may be out of its reach. */
static uint8_t *frame_of(const struct world *world, const struct world_seq *seq, uint32_t row,
                         uint32_t page)
{
    struct spin_kv_view view = *spin_kv_get_view(world->kv);
    const uint32_t heads = world->options.heads;
    view.blocks = world->kv->block_list;
    return spin_kv_frame_bytes(&view, seq->id.v, row / heads, row % heads, page);
}

static void *take_device(struct world *world, uint64_t bytes)
{
    struct spin_error err;
    void *memory = NULL;
    SPIN_EXPECT_OK(spin_device_alloc(world->stream, bytes, &memory, &err), &err);
    return memory;
}

void spin_world_set_up(struct world *world, const struct world_options *options)
{
    struct spin_error err;
    *world = (struct world){.options = *options, .demand = options->demand};
    world->demand.page_tokens = options->page_tokens;
    world->rng = (struct spin_rng){.seed = options->page_tokens, .stream = options->slabs};
    world->config = make_config(world);
    if (options->fake) {
        world->stream = spin_fake_stream_create(FAKE_BYTES);
    } else {
        SPIN_EXPECT_OK(spin_stream_create_cpu(1, &world->stream, &err), &err);
    }
    SPIN_EXPECT_OK(spin_kv_create(&world->config, world->stream, &world->kv, &err), &err);
    if (!options->fake) {
        spin_kv_set_poison(world->kv, true);
    }
    const uint64_t rows = (uint64_t)WORLD_SEQUENCES * world->options.layers * world->options.heads;
    const uint64_t elements =
        (uint64_t)options->tokens_max * world->options.heads * options->head_dim;
    const uint64_t world_rows = (uint64_t)WORLD_SEQUENCES * options->heads;
    const uint64_t pages_max = /* the lists' stride */
        (options->tokens_max + options->page_tokens - 1) / options->page_tokens;
    world->k = take_device(world, elements * sizeof(float));
    world->v = take_device(world, elements * sizeof(float));
    world->first = take_device(world, (WORLD_SEQUENCES + 1) * sizeof(uint32_t));
    for (uint32_t layer = 0; layer < options->layers; layer++) {
        world->pass.made[layer] = calloc(2 * elements, sizeof(float));
        world->pass.pages[layer] = calloc(world_rows, pages_max * sizeof(uint16_t));
        assert_true(world->pass.made[layer] != NULL && world->pass.pages[layer] != NULL);
    }
    world->shadow = calloc(rows * ((options->tokens_max + 7) / 8), 16 * row_bytes(world));
    assert_non_null(world->shadow);
}

void spin_world_tear_down(struct world *world)
{
    for (uint32_t i = 0; i < WORLD_SEQUENCES; i++) {
        if (world->seqs[i].open) {
            spin_world_close(world, &world->seqs[i]);
        }
    }
    spin_world_check(world);
    const struct spin_kv_stats stats = spin_world_stats(world);
    assert_int_equal(stats.slabs_free, stats.slabs);
    assert_int_equal(stats.blocks_free, stats.blocks);
    assert_int_equal(stats.sequences_open, 0);
    spin_kv_destroy(world->kv);
    spin_device_free(world->stream, world->k);
    spin_device_free(world->stream, world->v);
    spin_device_free(world->stream, world->first);
    for (uint32_t i = 0; i < WORLD_SEQUENCES * WORLD_WORKS; i++) {
        spin_graph_destroy(world->stream, world->graphs[i / WORLD_WORKS][i % WORLD_WORKS]);
    }
    spin_stream_destroy(world->stream);
    for (uint32_t layer = 0; layer < world->options.layers; layer++) {
        free(world->pass.made[layer]);
        free(world->pass.pages[layer]);
    }
    free(world->shadow);
}

void spin_world_check(const struct world *world)
{
    wait(world);
    if (!world->options.fake) {
        spin_kv_check(world->kv);
    }
}

struct spin_kv_stats spin_world_stats(const struct world *world)
{
    struct spin_kv_stats stats;
    spin_kv_get_stats(world->kv, &stats);
    return stats;
}

struct spin_kv_seq_stats spin_world_seq_stats(const struct world *world,
                                              const struct world_seq *seq)
{
    struct spin_kv_seq_stats stats;
    spin_kv_get_seq_stats(world->kv, seq->id, &stats);
    return stats;
}

/* --- a sequence's life --- */

struct world_seq *spin_world_open(struct world *world, uint32_t index, uint32_t prompt)
{
    struct world_seq *seq = &world->seqs[index];
    assert_false(seq->open);
    *seq = (struct world_seq){.open = true, .prompt = prompt};
    SPIN_EXPECT_OK(spin_kv_open(world->kv, &seq->id), NULL);
    world->calls++;
    return seq;
}

void spin_world_adopt(struct world *world, struct world_seq *seq)
{
    const struct spin_kv_view *view = spin_kv_get_view(world->kv);
    const uint32_t heads = world->options.heads;
    const uint64_t page_bytes = spin_page_bytes(&view->layout, view->page_tokens);
    SPIN_EXPECT_OK(spin_kv_reserve(world->kv, seq->id, seq->prompt), NULL);
    seq->reserved = seq->prompt;
    for (uint32_t row = 0; row < world->options.layers * heads; row++) {
        if (row % heads == 0) {
            world->pass.tokens[row / heads] = 0;
            make_tokens(world, seq, row / heads, 0, seq->prompt);
        }
        for (uint32_t token = 0; token < seq->prompt; token += view->page_tokens) {
            memcpy(frame_of(world, seq, row, token / view->page_tokens),
                   shadow_tile(world, seq, row, token), page_bytes);
        }
    }
    spin_kv_adopt(world->kv, seq->id, seq->prompt);
    seq->tokens = seq->prompt;
    seq->decoding = true;
    world->calls += 2;
}

/* What the scheduler adds up before it asks for anything: claims of prompts, which last until the
 * first step, and floors of others. */
static uint32_t claim_of(const struct world *world, const struct world_seq *seq)
{
    const struct spin_kv_budget *budget = spin_kv_get_budget(world->kv);
    const uint32_t next = SPIN_MIN(seq->tokens + 1, world->options.tokens_max);
    const uint32_t floor = spin_kv_floor_slabs(budget, next);
    if (!seq->decoding) {
        return spin_kv_claim_slabs(budget, seq->prompt);
    }
    return seq->prefilled ? SPIN_MAX(floor, spin_kv_arena_slabs(budget, seq->prompt)) : floor;
}

static bool claims_fit(const struct world *world, const struct world_seq *newcomer)
{
    uint32_t slabs = 0;
    for (uint32_t i = 0; i < WORLD_SEQUENCES; i++) {
        const struct world_seq *seq = &world->seqs[i];
        slabs += seq->active || seq == newcomer ? claim_of(world, seq) : 0;
    }
    return slabs <= spin_world_stats(world).slabs;
}

/* Claims when the step of those named has begun. */
static bool step_fits(struct world *world, struct world_seq *const *seqs, uint32_t count)
{
    bool prefilled[WORLD_SEQUENCES];
    for (uint32_t i = 0; i < count; i++) {
        prefilled[i] = seqs[i]->prefilled;
        seqs[i]->prefilled = false;
    }
    const bool fits = claims_fit(world, NULL);
    for (uint32_t i = 0; i < count; i++) {
        seqs[i]->prefilled = prefilled[i];
    }
    return fits;
}

/* Nothing has changed. */
static void expect_same(const struct world *world, const struct spin_kv_stats *before)
{
    const struct spin_kv_stats after = spin_world_stats(world);
    assert_memory_equal(&after, before, sizeof after);
}

static bool reserve(struct world *world, struct world_seq *seq, uint32_t tokens)
{
    const struct spin_kv_stats before = spin_world_stats(world);
    const uint32_t needed = spin_kv_blocks_for(tokens);
    const uint32_t held = spin_kv_blocks_for(seq->reserved);
    const spin_status status = spin_kv_reserve(world->kv, seq->id, tokens);
    world->calls++;
    if (needed > held && needed - held > before.blocks_free) {
        assert_int_equal(status, SPIN_ERR_AGAIN);
        expect_same(world, &before);
        return false;
    }
    assert_int_equal(status, SPIN_OK);
    seq->reserved = SPIN_MAX(seq->reserved, tokens);
    return true;
}

bool spin_world_activate(struct world *world, struct world_seq *seq)
{
    const uint32_t tokens = seq->decoding ? seq->tokens : seq->prompt;
    if (!reserve(world, seq, tokens)) {
        return false;
    }
    const struct spin_kv_stats before = spin_world_stats(world);
    const spin_status status = spin_kv_activate(world->kv, seq->id, tokens, seq->tokens);
    world->calls++;
    if (status == SPIN_ERR_AGAIN) {
        assert_false(claims_fit(world, seq));
        expect_same(world, &before);
        return false;
    }
    assert_int_equal(status, SPIN_OK);
    seq->active = true;
    seq->prefilled = !seq->decoding;
    seq->super_begin = seq->tokens;
    seq->layer = 0;
    seq->next = seq->tokens;
    for (uint32_t layer = 0; layer < world->options.layers; layer++) {
        const uint32_t partition = world->options.partition_tokens;
        seq->indexed[layer] = seq->tokens / partition * (partition / world->options.page_tokens);
    }
    return true;
}

void spin_world_suspend(struct world *world, struct world_seq *seq)
{
    SPIN_EXPECT_OK(spin_kv_suspend(world->kv, seq->id), NULL);
    world->calls++;
    seq->active = false;
}

void spin_world_close(struct world *world, struct world_seq *seq)
{
    spin_kv_close(world->kv, seq->id);
    world->calls++;
    seq->open = false;
    seq->active = false;
}

/* --- passes --- */

static void begin_pass(struct world *world)
{
    world->pass.count = 0;
    for (uint32_t layer = 0; layer < world->options.layers; layer++) {
        world->pass.tokens[layer] = 0;
    }
}

/* A sequence of the pass, which has `end` tokens when it is over. What it completes in a layer
 * follows what was completed before. */
static void plan(struct world *world, const struct world_seq *seq, uint32_t end)
{
    world->pass.seqs[world->pass.count] = seq;
    world->pass.end[world->pass.count] = end;
    world->pass.count++;
}

static void plan_sealed(struct world *world, struct world_seq *seq, uint32_t layer, uint32_t index)
{
    const uint32_t partition = world->options.partition_tokens;
    const uint32_t end =
        world->pass.end[index] / partition * (partition / world->options.page_tokens);
    world->pass.sealed[layer][index] =
        (struct spin_kv_range){.first = seq->indexed[layer], .count = end - seq->indexed[layer]};
    seq->indexed[layer] = end;
}

/* The pages of a range stand side by side on the lists of the sequence's rows. */
static void look_at_range(const struct moment *moment, uint32_t index,
                          const struct spin_kv_range *range)
{
    const struct world *world = moment->world;
    const struct spin_kv_view *view = spin_kv_get_view(world->kv);
    const struct spin_kv_batch batch = spin_kv_get_batch(world->kv, moment->layer);
    const struct spin_kv_lists lists = spin_kv_get_lists(world->kv);
    for (uint32_t head = 0; head < world->options.heads; head++) {
        const uint64_t row = (uint64_t)index * world->options.heads + head;
        const uint32_t entry = spin_kv_list_entry(view, &batch, &lists, row, range->first);
        for (uint32_t j = 0; j < range->count; j++) {
            assert_int_equal(lists.pages[row * lists.stride + entry + j], range->first + j);
        }
    }
}

static void look_at_sealed(const void *context)
{
    const struct moment *moment = context;
    const struct world *world = moment->world;
    const struct spin_kv_range *ranges = moment->sealed;
    for (uint32_t i = 0; i < world->pass.count; i++) {
        const struct spin_kv_range *wanted = &world->pass.sealed[moment->layer][i];
        assert_int_equal(ranges[i].count, wanted->count);
        if (wanted->count > 0) {
            assert_int_equal(ranges[i].first, wanted->first);
            look_at_range(moment, i, &ranges[i]);
        }
    }
}

static void put_values(const void *context)
{
    const struct moment *moment = context;
    struct world *world = moment->world;
    const struct world_pass *pass = &world->pass;
    const uint64_t cols = (uint64_t)world->options.heads * world->options.head_dim;
    const uint64_t bytes = pass->tokens[moment->layer] * cols * sizeof *world->k;
    const float *made = pass->made[moment->layer];
    memcpy(world->k, made, bytes);
    memcpy(world->v, made + world->options.tokens_max * cols, bytes);
    for (uint32_t i = 0; i <= pass->count; i++) { /* one token of each, or all of one */
        world->first[i] = i * pass->tokens[moment->layer] / pass->count;
    }
}

static void append(struct world *world, uint32_t layer, const struct spin_page_lists *lists)
{
    const uint32_t cols = world->options.heads * world->options.head_dim;
    const uint32_t tokens = world->pass.tokens[layer];
    const struct spin_kv_append_args args = {
        .k = {world->k, SPIN_DTYPE_F32, tokens, cols, cols},
        .v = {world->v, SPIN_DTYPE_F32, tokens, cols, cols},
        .spans = {.first = world->first, .count = world->pass.count},
        .pages = *lists,
    };
    run(world, put_values, layer, false);
    SPIN_EXPECT_OK(world->options.ops->kv_append(&args, world->stream), NULL);
}

/* The lists of all pages lead to the shadow's bytes. */
static void compare_unit(const void *context)
{
    const struct moment *moment = context;
    struct world *world = moment->world;
    const struct spin_kv_lists lists = spin_kv_get_lists(world->kv);
    const struct spin_kv_view *view = spin_kv_get_view(world->kv);
    const uint32_t end = world->pass.end[0];
    for (uint32_t head = 0; head < world->options.heads; head++) {
        assert_int_equal(lists.visible[head], end);
        for (uint32_t page = 0; page * view->page_tokens < end; page++) {
            const uint32_t slot = lists.slots[(uint64_t)head * lists.stride + page];
            compare_page(world,
                         &(struct page){world->pass.seqs[0],
                                        moment->layer * world->options.heads + head, page, end},
                         spin_kv_slot_bytes(view, slot));
        }
    }
}

void spin_world_unit(struct world *world, struct world_seq *seq, uint32_t tokens)
{
    const uint32_t super_end = SPIN_MIN(seq->super_begin + SUPER_CHUNK_TOKENS, seq->prompt);
    const uint32_t begin = seq->next;
    const uint32_t end = SPIN_MIN(begin + tokens, super_end);
    const bool first = begin == seq->super_begin;
    const bool resident = spin_world_seq_stats(world, seq).residency == SPIN_KV_RESIDENT;
    struct spin_page_lists lists;
    SPIN_EXPECT_OK(spin_kv_prefill_begin(world->kv, seq->id, seq->layer, begin, end, first, &lists),
                   NULL);
    if (!resident && first) {
        const uint64_t pages = (begin + lists.page_tokens - 1) / lists.page_tokens;
        world->pages_read_back += pages * world->options.heads;
    }
    begin_pass(world);
    plan(world, seq, end);
    plan_sealed(world, seq, seq->layer, 0);
    make_tokens(world, seq, seq->layer, begin, end - begin);
    append(world, seq->layer, &lists);
    run(world, compare_unit, seq->layer, true);
    run(world, look_at_sealed, seq->layer, true);
    SPIN_EXPECT_OK(spin_kv_offload(world->kv, seq->layer), NULL);
    wait(world);
    world->calls += 2;
    seq->next = end;
    if (end == super_end && ++seq->layer == world->options.layers) {
        seq->tokens = end;
        seq->super_begin = end;
        seq->layer = 0;
        seq->decoding = end == seq->prompt;
    }
    if (end == super_end) {
        seq->next = seq->super_begin;
    }
}

void spin_world_prefill(struct world *world, struct world_seq *seq)
{
    while (!seq->decoding) {
        spin_world_unit(world, seq, 96);
    }
}

/* Random pages of a row: the first one, the last of each partition that is open, others. */
static uint32_t select_pages(struct world *world, uint32_t tokens, uint32_t wanted, uint16_t *out)
{
    const uint32_t pages = (tokens + world->options.page_tokens - 1) / world->options.page_tokens;
    const uint32_t local =
        SPIN_MIN(pages, world->options.partition_tokens / world->options.page_tokens);
    const uint32_t others = pages - local;
    uint32_t left = wanted - local;
    uint32_t count = 0;
    for (uint32_t page = 0; page < others; page++) {
        /* Knuth's algorithm S: `left` of the `others - page` that remain. */
        const bool taken = world->keep_selection || left == others - page
                               ? left > 0
                               : spin_rng_below(&world->rng, others - page) < left;
        if (taken) {
            out[count++] = (uint16_t)page;
            left--;
        }
    }
    for (uint32_t page = others; page < pages; page++) {
        out[count++] = (uint16_t)page;
    }
    assert_int_equal(count, wanted);
    return count;
}

/* All that is random in a step. */
static void plan_step(struct world *world, struct world_seq *const *seqs, uint32_t count)
{
    const uint32_t stride = spin_kv_get_lists(world->kv).stride;
    struct world_pass *pass = &world->pass;
    begin_pass(world);
    for (uint32_t i = 0; i < count; i++) {
        plan(world, seqs[i], seqs[i]->tokens + 1);
    }
    for (uint32_t layer = 0; layer < world->options.layers; layer++) {
        for (uint32_t row = 0; row < count * world->options.heads; row++) {
            const uint32_t tokens = pass->end[row / world->options.heads];
            const uint32_t wanted = spin_world_mandatory(&world->demand, layer, tokens);
            pass->page_count[layer][row] =
                select_pages(world, tokens, wanted, pass->pages[layer] + (uint64_t)row * stride);
        }
        for (uint32_t i = 0; i < count; i++) {
            make_tokens(world, seqs[i], layer, seqs[i]->tokens, 1);
            plan_sealed(world, seqs[i], layer, i);
        }
    }
}

static void put_selection(const void *context)
{
    const struct moment *moment = context;
    const struct world_pass *pass = &moment->world->pass;
    const struct spin_kv_lists lists = spin_kv_get_lists(moment->world->kv);
    const uint64_t rows = (uint64_t)pass->count * moment->world->options.heads;
    memcpy(lists.pages, pass->pages[moment->layer], rows * lists.stride * sizeof *lists.pages);
    memcpy(lists.page_count, pass->page_count[moment->layer], rows * sizeof *lists.page_count);
}

/* The lists of a step lead to the shadow's bytes; the newest token's are there once appended. */
static void compare_step(const void *context)
{
    const struct moment *moment = context;
    struct world *world = moment->world;
    const struct spin_kv_lists lists = spin_kv_get_lists(world->kv);
    const struct spin_kv_view *view = spin_kv_get_view(world->kv);
    const uint32_t heads = world->options.heads;
    for (uint32_t row = 0; row < world->pass.count * heads; row++) {
        const uint64_t start = (uint64_t)row * lists.stride;
        for (uint32_t i = 0; i < lists.page_count[row]; i++) {
            const struct page page = {world->pass.seqs[row / heads],
                                      moment->layer * heads + row % heads, lists.pages[start + i],
                                      world->pass.end[row / heads] - !moment->appended};
            compare_page(world, &page, spin_kv_slot_bytes(view, lists.slots[start + i]));
        }
    }
}

/* A wave's gather runs beside what comes until the next one's has to begin. *out: its lists. */
static void retrieve(struct world *world, uint32_t layer, struct spin_kv_wave wave,
                     struct spin_page_lists *out)
{
    SPIN_EXPECT_OK(spin_kv_resolve(world->kv, layer, wave, out), NULL);
    SPIN_EXPECT_OK(spin_stream_side_join(world->stream, SPIN_LANE_SOON), NULL);
    SPIN_EXPECT_OK(spin_stream_side_begin(world->stream, SPIN_LANE_SOON), NULL);
    SPIN_EXPECT_OK(spin_kv_gather(world->kv, layer, wave), NULL);
    SPIN_EXPECT_OK(spin_stream_side_end(world->stream), NULL);
}

/* Two waves, where there are two sequences. The lists of the first begin where those of all do. */
static void step_layer(struct world *world, uint32_t layer)
{
    const uint32_t half = (world->pass.count + 1) / 2;
    const uint32_t rest = world->pass.count - half;
    struct spin_page_lists lists;
    struct spin_page_lists others;
    run(world, put_selection, layer, false);
    retrieve(world, layer, (struct spin_kv_wave){.first = 0, .count = half}, &lists);
    if (rest > 0) {
        retrieve(world, layer, (struct spin_kv_wave){.first = half, .count = rest}, &others);
        assert_ptr_equal(others.visible, lists.visible + (uint64_t)half * world->options.heads);
    }
    SPIN_EXPECT_OK(spin_stream_side_join(world->stream, SPIN_LANE_SOON), NULL);
    run(world, compare_step, layer, false);
    append(world, layer, &lists);
    run(world, compare_step, layer, true);
    run(world, look_at_sealed, layer, true);
    SPIN_EXPECT_OK(spin_kv_offload(world->kv, layer), NULL);
}

static void step_layers(struct world *world)
{
    for (uint32_t layer = 0; layer < world->options.layers; layer++) {
        step_layer(world, layer);
    }
    world->calls += (uint64_t)2 * world->options.layers;
}

/* A step whose like was recorded is launched; another is recorded first. */
static void step_recorded(struct world *world)
{
    struct spin_error err;
    struct spin_graph **graph = &world->graphs[world->pass.count - 1][spin_kv_step_work(world->kv)];
    if (*graph == NULL) {
        SPIN_EXPECT_OK(spin_graph_begin(world->stream), NULL);
        step_layers(world);
        SPIN_EXPECT_OK(spin_graph_end(world->stream, graph, &err), &err);
    } else {
        spin_kv_step_recorded(world->kv);
        world->calls += (uint64_t)2 * world->options.layers; /* as many as without */
        world->recorded++;
    }
    SPIN_EXPECT_OK(spin_graph_launch(world->stream, *graph), NULL);
}

bool spin_world_step(struct world *world, struct world_seq *const *seqs, uint32_t count)
{
    struct spin_kv_step steps[WORLD_SEQUENCES];
    for (uint32_t i = 0; i < count; i++) {
        steps[i] = (struct spin_kv_step){.seq = seqs[i]->id, .tokens = seqs[i]->tokens + 1};
    }
    const struct spin_kv_stats before = spin_world_stats(world);
    const spin_status status = spin_kv_step_begin(world->kv, steps, count);
    world->calls++;
    if (status == SPIN_ERR_AGAIN) {
        assert_false(step_fits(world, seqs, count));
        expect_same(world, &before);
        return false;
    }
    assert_int_equal(status, SPIN_OK);
    plan_step(world, seqs, count);
    if (world->options.record) {
        step_recorded(world);
    } else {
        step_layers(world);
    }
    wait(world);
    SPIN_EXPECT_OK(spin_kv_step_end(world->kv), NULL);
    world->calls++;
    for (uint32_t i = 0; i < count; i++) {
        seqs[i]->tokens++;
        seqs[i]->prefilled = false;
    }
    return true;
}

void spin_world_decode(struct world *world, struct world_seq *seq, uint32_t steps)
{
    for (uint32_t i = 0; i < steps; i++) {
        assert_true(reserve(world, seq, seq->tokens + 1));
        assert_true(spin_world_step(world, &seq, 1));
    }
}
