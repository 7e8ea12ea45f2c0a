#include "tests/kvstore/manager/kv_world.h"

#include "base/assert.h"

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

/* Random K and V of `count` tokens from `first` on; into the shadow, too. */
static void make_tokens(struct world *world, const struct world_seq *seq, uint32_t layer,
                        uint32_t first, uint32_t count)
{
    const uint64_t head_dim = world->options.head_dim;
    random_values(world, world->k, count * world->options.heads * world->options.head_dim);
    random_values(world, world->v, count * world->options.heads * world->options.head_dim);
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t head = 0; head < world->options.heads; head++) {
            uint8_t *tile =
                shadow_tile(world, seq, layer * world->options.heads + head, first + i) +
                (first + i) % 8 * row_bytes(world);
            shadow_put(world, tile, world->k + (i * world->options.heads + head) * head_dim);
            shadow_put(world, tile + 8 * row_bytes(world),
                       world->v + (i * world->options.heads + head) * head_dim);
        }
    }
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

void spin_world_set_up(struct world *world, const struct world_options *options)
{
    struct spin_error err;
    *world = (struct world){.options = *options, .demand = options->demand};
    world->demand.page_tokens = options->page_tokens;
    world->rng = (struct spin_rng){.seed = options->page_tokens, .stream = options->slabs};
    world->config = make_config(world);
    SPIN_EXPECT_OK(spin_stream_create_cpu(1, &world->stream, &err), &err);
    SPIN_EXPECT_OK(spin_kv_create(&world->config, world->stream, &world->kv, &err), &err);
    spin_kv_set_poison(world->kv, true);
    const uint64_t rows = (uint64_t)WORLD_SEQUENCES * world->options.layers * world->options.heads;
    const uint64_t elements =
        (uint64_t)options->tokens_max * world->options.heads * options->head_dim;
    void *memory = NULL;
    SPIN_EXPECT_OK(spin_device_alloc(world->stream, elements * sizeof(float), &memory, &err), &err);
    world->k = memory;
    SPIN_EXPECT_OK(spin_device_alloc(world->stream, elements * sizeof(float), &memory, &err), &err);
    world->v = memory;
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
    spin_kv_check(world->kv);
    const struct spin_kv_stats stats = spin_world_stats(world);
    assert_int_equal(stats.slabs_free, stats.slabs);
    assert_int_equal(stats.blocks_free, stats.blocks);
    assert_int_equal(stats.sequences_open, 0);
    spin_kv_destroy(world->kv);
    spin_device_free(world->stream, world->k);
    spin_device_free(world->stream, world->v);
    spin_stream_destroy(world->stream);
    free(world->shadow);
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

/* What is completed follows what was completed before, and stands where the range says. */
static void check_sealed(struct world *world, struct world_seq *seq, uint32_t layer,
                         const struct spin_kv_range *range, uint32_t tokens)
{
    const uint32_t partition = world->options.partition_tokens;
    const uint32_t pages = partition / world->options.page_tokens;
    if (range->count > 0) {
        assert_int_equal(range->first, seq->indexed[layer]);
        seq->indexed[layer] += range->count;
    }
    assert_int_equal(seq->indexed[layer], tokens / partition * pages);
}

static void append(struct world *world, const struct spin_page_lists *lists, uint32_t count,
                   const uint32_t *first, uint32_t sequences)
{
    const uint32_t cols = world->options.heads * world->options.head_dim;
    const struct spin_kv_append_args args = {
        .k = {world->k, SPIN_DTYPE_F32, count, cols, cols},
        .v = {world->v, SPIN_DTYPE_F32, count, cols, cols},
        .spans = {.first = first, .count = sequences},
        .pages = *lists,
    };
    SPIN_EXPECT_OK(world->options.ops->kv_append(&args, world->stream), NULL);
}

static void compare_unit(struct world *world, const struct world_seq *seq,
                         const struct spin_page_lists *lists, uint32_t end)
{
    const uint64_t bytes = spin_page_bytes(&lists->layout, lists->page_tokens);
    for (uint32_t head = 0; head < world->options.heads; head++) {
        assert_int_equal(lists->visible[head], end);
        for (uint32_t page = 0; page * lists->page_tokens < end; page++) {
            const uint64_t slot = lists->slots[lists->row_offset[head] + page];
            compare_page(world,
                         &(struct page){seq, seq->layer * world->options.heads + head, page, end},
                         lists->pool + slot * bytes);
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
    make_tokens(world, seq, seq->layer, begin, end - begin);
    append(world, &lists, end - begin, (const uint32_t[2]){0, end - begin}, 1);
    compare_unit(world, seq, &lists, end);
    const struct spin_kv_range *sealed = NULL;
    (void)spin_kv_sealed(world->kv, &sealed);
    check_sealed(world, seq, seq->layer, sealed, end);
    SPIN_EXPECT_OK(spin_kv_offload(world->kv, seq->layer), NULL);
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

static void select_step(struct world *world, struct world_seq *const *seqs, uint32_t count,
                        uint32_t layer)
{
    const struct spin_kv_lists lists = spin_kv_get_lists(world->kv);
    for (uint32_t row = 0; row < count * world->options.heads; row++) {
        const uint32_t tokens = seqs[row / world->options.heads]->tokens + 1;
        const uint32_t wanted = spin_world_mandatory(&world->demand, layer, tokens);
        lists.page_count[row] =
            select_pages(world, tokens, wanted, lists.pages + (uint64_t)row * lists.stride);
    }
}

/* The lists of a step lead to the shadow's bytes; the newest token is there iff `appended`. */
static void compare_step(struct world *world, struct world_seq *const *seqs, uint32_t count,
                         uint32_t layer, bool appended)
{
    const struct spin_kv_lists lists = spin_kv_get_lists(world->kv);
    const struct spin_kv_view *view = spin_kv_get_view(world->kv);
    const uint64_t bytes = spin_page_bytes(&view->layout, view->page_tokens);
    for (uint32_t row = 0; row < count * world->options.heads; row++) {
        const struct world_seq *seq = seqs[row / world->options.heads];
        const uint32_t end = seq->tokens + appended;
        const uint64_t start = (uint64_t)row * lists.stride;
        for (uint32_t i = 0; i < lists.page_count[row]; i++) {
            const struct page page = {seq,
                                      layer * world->options.heads + row % world->options.heads,
                                      lists.pages[start + i], end};
            compare_page(world, &page, view->pool + lists.slots[start + i] * bytes);
        }
    }
}

static void append_step(struct world *world, struct world_seq *const *seqs, uint32_t count,
                        uint32_t layer, const struct spin_page_lists *lists)
{
    const uint32_t cols = world->options.heads * world->options.head_dim;
    uint32_t first[WORLD_SEQUENCES + 1] = {0};
    float *k = world->k;
    float *v = world->v;
    for (uint32_t i = 0; i < count; i++) {
        make_tokens(world, seqs[i], layer, seqs[i]->tokens, 1);
        world->k += cols;
        world->v += cols;
        first[i + 1] = i + 1;
    }
    world->k = k;
    world->v = v;
    append(world, lists, count, first, count);
}

/* The pages of a range stand side by side on the lists of the sequence's rows. */
static void expect_listed(struct world *world, uint32_t index, const struct spin_kv_range *range)
{
    const struct spin_kv_lists lists = spin_kv_get_lists(world->kv);
    const struct spin_kv_view *view = spin_kv_get_view(world->kv);
    const struct spin_kv_batch batch = spin_kv_get_batch(world->kv, 0);
    for (uint32_t head = 0; head < world->options.heads && range->count > 0; head++) {
        const uint64_t row = (uint64_t)index * world->options.heads + head;
        const uint32_t entry = spin_kv_list_entry(view, &batch, &lists, row, range->first);
        for (uint32_t j = 0; j < range->count; j++) {
            assert_int_equal(lists.pages[row * lists.stride + entry + j], range->first + j);
        }
    }
}

static void step_layer(struct world *world, struct world_seq *const *seqs, uint32_t count,
                       uint32_t layer)
{
    struct spin_page_lists lists;
    const struct spin_kv_range *sealed = NULL;
    select_step(world, seqs, count, layer);
    SPIN_EXPECT_OK(spin_kv_retrieve(world->kv, layer, &lists), NULL);
    compare_step(world, seqs, count, layer, false);
    append_step(world, seqs, count, layer, &lists);
    compare_step(world, seqs, count, layer, true);
    (void)spin_kv_sealed(world->kv, &sealed);
    for (uint32_t i = 0; i < count; i++) {
        expect_listed(world, i, &sealed[i]);
        check_sealed(world, seqs[i], layer, &sealed[i], seqs[i]->tokens + 1);
    }
    SPIN_EXPECT_OK(spin_kv_offload(world->kv, layer), NULL);
    world->calls += 2;
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
    for (uint32_t layer = 0; layer < world->options.layers; layer++) {
        step_layer(world, seqs, count, layer);
    }
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
