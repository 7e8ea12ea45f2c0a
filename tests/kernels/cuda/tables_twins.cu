/* Thousands of operations on tables of both policies: sequences are born BUFFERED or RESIDENT,
 * resolve selections that drift, jump or fill the row, grow, shrink, leave the identity map and are
 * emptied. After each of them every table, list and counter, and the gaps between them, are the
 * reference's, byte for byte. */
#include "base/assert.h"
#include "base/clock.h"
#include "tests/kernels/cuda/tables_twins.h"

#include <algorithm>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#define SYNC_NS (30 * SPIN_NS_PER_S)
#define GAP 256u

/* --- one memory, two sides --- */

void *spin_twin_take(struct spin_twin_cursor *cursor, uint64_t count, uint64_t bytes)
{
    uint8_t *array = cursor->base == NULL ? NULL : cursor->base + cursor->used;
    cursor->used += (count * bytes + GAP - 1) / GAP * GAP + GAP;
    return array;
}

struct spin_twin_memory spin_twin_memory_create(struct spin_twins *twins, uint64_t bytes)
{
    struct spin_error err;
    void *gpu = NULL;
    struct spin_twin_memory memory = {twins, bytes, (uint8_t *)aligned_alloc(GAP, bytes), NULL,
                                      (uint8_t *)malloc(bytes)};
    SPIN_ASSERT(memory.ref != NULL && memory.back != NULL);
    SPIN_ASSERT_EQ(spin_device_alloc(twins->cuda, bytes, &gpu, &err), SPIN_OK);
    memory.gpu = (uint8_t *)gpu;
    memset(memory.ref, 0xff, bytes);
    return memory;
}

void spin_twin_memory_destroy(struct spin_twin_memory *memory)
{
    spin_device_free(memory->twins->cuda, memory->gpu);
    free(memory->ref);
    free(memory->back);
}

void spin_twin_memory_write(struct spin_twin_memory *memory)
{
    struct spin_stream *stream = memory->twins->cuda;
    SPIN_ASSERT_EQ(spin_device_write(stream, memory->gpu, memory->ref, memory->bytes), SPIN_OK);
    SPIN_ASSERT_EQ(spin_stream_sync(stream, SYNC_NS), SPIN_OK);
}

uint64_t spin_twin_memory_compare(struct spin_twin_memory *memory, const char *what)
{
    struct spin_stream *stream = memory->twins->cuda;
    SPIN_ASSERT_EQ(spin_device_read(stream, memory->back, memory->gpu, memory->bytes), SPIN_OK);
    SPIN_ASSERT_EQ(spin_stream_sync(stream, SYNC_NS), SPIN_OK);
    if (memcmp(memory->back, memory->ref, memory->bytes) == 0) {
        return 0;
    }
    uint64_t different = 0;
    for (uint64_t i = 0; i < memory->bytes; i++) {
        if (memory->back[i] != memory->ref[i]) {
            if (different == 0) {
                (void)printf("%s: byte %" PRIu64 " is %u, wanted %u\n", what, i, memory->back[i],
                             memory->ref[i]);
            }
            different++;
        }
    }
    return different;
}

namespace
{

/* --- a world --- */

struct config {
    const char *name;
    enum spin_kv_replacement replacement;
    uint32_t sequences;
    uint32_t layers;
    uint32_t kv_heads;
    uint32_t page_tokens;
    uint32_t pages_max; /* of a sequence */
    uint32_t slabs_max; /* of a row */
    uint32_t groups;    /* of the pool */
    uint32_t bucket_shift;
    const struct spin_ops *reference;
    uint32_t operations;
};

/* The arrays, as one side sees them. */
struct side {
    struct spin_kv_view view;
    struct spin_kv_lists lists;
    uint8_t *residency;
    uint32_t *slab_list;
    uint32_t *slab_count;
    uint32_t *sequence;
    uint32_t *tokens;
    uint32_t *step;
    uint8_t *outputs; /* of resolve: from here on */
    uint64_t output_bytes;
};

enum life { EMPTY, BUFFERED, RESIDENT };

struct sequence {
    enum life life;
    uint32_t tokens;
    uint32_t step;
};

struct world {
    const struct config *config;
    struct spin_twins *twins;
    struct spin_rng rng;
    struct spin_twin_memory memory;
    struct side ref;
    struct side gpu;
    std::vector<uint32_t> free_groups;
    std::vector<struct sequence> sequences;
    std::vector<std::vector<uint16_t>> last; /* selections, by table row */
    std::vector<bool> chosen;                /* pages of the selection at hand */
    uint32_t operations;
    uint64_t different;
    /* What has happened, or the test has not tested it. */
    uint64_t resolves;
    uint64_t evictions;
    uint64_t misses;
    uint64_t fresh;
    uint64_t dropped;
    uint64_t held;
};

static uint32_t below(struct world *world, uint32_t bound)
{
    return spin_rng_below(&world->rng, bound);
}

static void lay_tables(const struct config *config, struct side *side,
                       struct spin_twin_cursor *cursor)
{
    struct spin_kv_view *view = &side->view;
    const uint64_t rows = (uint64_t)config->sequences * config->layers * config->kv_heads;
    const uint64_t slots = (uint64_t)config->groups * config->kv_heads * SPIN_SLAB_SLOTS;
    view->stamp = (uint8_t *)spin_twin_take(cursor, slots, sizeof *view->stamp);
    view->counters =
        (struct spin_kv_counters *)spin_twin_take(cursor, rows, sizeof *view->counters);
    if (config->replacement == SPIN_KV_SLOT_LRU) {
        view->slot_page = (uint16_t *)spin_twin_take(cursor, slots, sizeof *view->slot_page);
        return;
    }
    view->leaf = (uint16_t *)spin_twin_take(cursor, slots * SPIN_LEAF_PAGES, sizeof *view->leaf);
    view->directory =
        (uint16_t *)spin_twin_take(cursor, rows * view->directory_max, sizeof *view->directory);
    view->leaf_free = (uint16_t *)spin_twin_take(cursor, rows, sizeof *view->leaf_free);
}

static void lay_lists(const struct config *config, struct side *side,
                      struct spin_twin_cursor *cursor)
{
    struct spin_kv_lists *lists = &side->lists;
    const uint64_t rows = (uint64_t)config->sequences * config->kv_heads;
    lists->stride = std::min(config->slabs_max * SPIN_SLAB_SLOTS, config->pages_max) + 3;
    lists->pages = (uint16_t *)spin_twin_take(cursor, rows * lists->stride, sizeof *lists->pages);
    lists->page_count = (uint32_t *)spin_twin_take(cursor, rows, sizeof *lists->page_count);
    const uint64_t before = cursor->used;
    lists->slots = (uint32_t *)spin_twin_take(cursor, rows * lists->stride, sizeof *lists->slots);
    lists->visible = (uint32_t *)spin_twin_take(cursor, rows, sizeof *lists->visible);
    lists->misses =
        (struct spin_kv_miss *)spin_twin_take(cursor, rows * lists->stride, sizeof *lists->misses);
    lists->miss_count = (uint32_t *)spin_twin_take(cursor, rows, sizeof *lists->miss_count);
    side->outputs = (uint8_t *)lists->slots;
    side->output_bytes = cursor->used - before;
}

/* Returns how many bytes a side takes. */
static uint64_t lay_out(const struct config *config, struct side *side, uint8_t *base)
{
    struct spin_twin_cursor cursor = {base, 0};
    const uint64_t layers = (uint64_t)config->sequences * config->layers;
    const uint32_t tokens_max = config->pages_max * config->page_tokens;
    memset(side, 0, sizeof *side);
    side->view.layout.layers = config->layers;
    side->view.layout.kv_heads = config->kv_heads;
    side->view.layout.head_dim = 8;
    side->view.layout.dtype = SPIN_KV_BF16;
    side->view.layout.swizzle = SPIN_SWIZZLE_NONE;
    side->view.page_tokens = config->page_tokens;
    side->view.partition_tokens = config->page_tokens;
    side->view.slabs_max = config->slabs_max;
    side->view.directory_max = (config->pages_max + SPIN_LEAF_PAGES - 1) / SPIN_LEAF_PAGES;
    side->view.blocks_max = (tokens_max + SPIN_BLOCK_TOKENS - 1) / SPIN_BLOCK_TOKENS;
    side->view.bucket_shift = config->bucket_shift;
    side->residency = (uint8_t *)spin_twin_take(&cursor, config->sequences, 1);
    side->slab_list = (uint32_t *)spin_twin_take(&cursor, layers * config->slabs_max, 4);
    side->slab_count = (uint32_t *)spin_twin_take(&cursor, layers, 4);
    side->sequence = (uint32_t *)spin_twin_take(&cursor, config->sequences, 4);
    side->tokens = (uint32_t *)spin_twin_take(&cursor, config->sequences, 4);
    side->step = (uint32_t *)spin_twin_take(&cursor, config->sequences, 4);
    side->view.residency = side->residency;
    side->view.slab_list = side->slab_list;
    side->view.slab_count = side->slab_count;
    lay_lists(config, side, &cursor);
    lay_tables(config, side, &cursor);
    return cursor.used;
}

static struct world make_world(struct spin_twins *twins, const struct config *config,
                               uint64_t stream)
{
    struct world world = {};
    const uint64_t layers = (uint64_t)config->sequences * config->layers;
    world.config = config;
    world.twins = twins;
    world.rng = {twins->seed, stream, 0};
    world.memory = spin_twin_memory_create(twins, lay_out(config, &world.ref, NULL));
    (void)lay_out(config, &world.ref, world.memory.ref);
    (void)lay_out(config, &world.gpu, world.memory.gpu);
    memset(world.ref.residency, SPIN_KV_BUFFERED, config->sequences);
    memset(world.ref.slab_count, 0, layers * sizeof *world.ref.slab_count);
    memset(world.ref.view.counters, 0, layers * config->kv_heads * sizeof *world.ref.view.counters);
    for (uint32_t i = 0; i < config->groups; i++) {
        world.free_groups.push_back(i);
    }
    world.sequences.assign(config->sequences, {EMPTY, 0, 0});
    world.last.resize(layers * config->kv_heads);
    world.chosen.assign(config->pages_max, false);
    return world;
}

static uint32_t *count_of(struct world *world, uint32_t s, uint32_t layer)
{
    return &world->ref.slab_count[(uint64_t)s * world->config->layers + layer];
}

static uint32_t *list_of(struct world *world, uint32_t s, uint32_t layer)
{
    return world->ref.slab_list +
           ((uint64_t)s * world->config->layers + layer) * world->config->slabs_max;
}

static void grant(struct world *world, uint32_t s, uint32_t layer, uint32_t slabs)
{
    SPIN_ASSERT_LE(slabs, world->free_groups.size());
    for (uint32_t i = 0; i < slabs; i++) {
        const uint32_t pick = below(world, (uint32_t)world->free_groups.size());
        list_of(world, s, layer)[(*count_of(world, s, layer))++] = world->free_groups[pick];
        world->free_groups[pick] = world->free_groups.back();
        world->free_groups.pop_back();
    }
}

static void revoke(struct world *world, uint32_t s, uint32_t layer, uint32_t slabs)
{
    for (uint32_t i = 0; i < slabs; i++) {
        uint32_t *group = &list_of(world, s, layer)[--*count_of(world, s, layer)];
        world->free_groups.push_back(*group);
        *group = UINT32_MAX;
    }
}

static uint32_t pages_of(const struct world *world, uint32_t s)
{
    return (world->sequences[s].tokens - 1) / world->config->page_tokens + 1;
}

/* --- resizing --- */

static void resize(struct world *world, uint32_t s, uint32_t layer, uint32_t before, uint32_t after,
                   uint32_t first_page, uint32_t held)
{
    const enum spin_kv_replacement replacement = world->config->replacement;
    struct spin_kv_resize_args args = {
        &world->gpu.view, s, layer, world->sequences[s].step, before, after, first_page, held};
    spin_twin_memory_write(&world->memory);
    const spin_status status = spin_ops_cuda.kv_resize[replacement](&args, world->twins->cuda);
    args.view = &world->ref.view;
    (void)world->config->reference->kv_resize[replacement](&args, world->twins->cpu);
    world->different += status != SPIN_OK;
    world->different += spin_twin_memory_compare(&world->memory, "resize");
    world->held += held;
    world->operations++;
}

/* Of every layer: `slabs` more, as far as there are. */
static void grow(struct world *world, uint32_t s, uint32_t slabs)
{
    for (uint32_t layer = 0; layer < world->config->layers; layer++) {
        const uint32_t before = *count_of(world, s, layer);
        const uint32_t room = world->config->slabs_max - before;
        grant(world, s, layer, std::min({slabs, room, (uint32_t)world->free_groups.size()}));
        resize(world, s, layer, before * SPIN_SLAB_SLOTS,
               *count_of(world, s, layer) * SPIN_SLAB_SLOTS, 0, 0);
    }
}

/* Of every layer: down to `slabs`. */
static void shrink(struct world *world, uint32_t s, uint32_t slabs)
{
    for (uint32_t layer = 0; layer < world->config->layers; layer++) {
        const uint32_t before = *count_of(world, s, layer);
        const uint32_t after = std::min(before, slabs);
        if (world->sequences[s].life == BUFFERED) {
            resize(world, s, layer, before * SPIN_SLAB_SLOTS, after * SPIN_SLAB_SLOTS, 0, 0);
        }
        revoke(world, s, layer, before - after);
    }
}

static void be_born(struct world *world, uint32_t s)
{
    const struct config *config = world->config;
    struct sequence *sequence = &world->sequences[s];
    const uint32_t slabs_max =
        std::min(config->slabs_max, (uint32_t)world->free_groups.size() / config->layers);
    const bool resident = below(world, 3) == 0;
    const uint32_t pages_max =
        resident ? std::min(slabs_max * SPIN_SLAB_SLOTS, config->pages_max) : config->pages_max;
    if (slabs_max == 0) {
        return;
    }
    sequence->tokens = 1 + below(world, pages_max * config->page_tokens);
    sequence->step = below(world, 4) == 0 ? UINT32_MAX - 50 : below(world, 100);
    sequence->life = resident ? RESIDENT : BUFFERED;
    world->ref.residency[s] = resident ? SPIN_KV_RESIDENT : SPIN_KV_BUFFERED;
    if (!resident) {
        grow(world, s, 1 + below(world, slabs_max));
        return;
    }
    for (uint32_t layer = 0; layer < config->layers; layer++) {
        grant(world, s, layer, (pages_of(world, s) + SPIN_SLAB_SLOTS - 1) / SPIN_SLAB_SLOTS);
    }
}

/* Some of the middle of what the identity map held stays. */
static void leave_identity_map(struct world *world, uint32_t s)
{
    const uint32_t pages = pages_of(world, s);
    world->sequences[s].life = BUFFERED;
    world->ref.residency[s] = SPIN_KV_BUFFERED;
    for (uint32_t layer = 0; layer < world->config->layers; layer++) {
        const uint32_t slabs = *count_of(world, s, layer);
        const uint32_t first = below(world, slabs);
        uint32_t *list = list_of(world, s, layer);
        std::rotate(list, list + first, list + slabs);
        revoke(world, s, layer, first + below(world, slabs - first));
        const uint32_t after = *count_of(world, s, layer) * SPIN_SLAB_SLOTS;
        /* Pages need not begin at a slab's first one. */
        const uint32_t first_page = first * SPIN_SLAB_SLOTS + below(world, 3);
        const uint32_t held = first_page < pages ? std::min(pages - first_page, after) : 0;
        resize(world, s, layer, 0, after, first_page, held);
    }
}

/* --- selecting --- */

enum choice { SAME, DRIFT, RANDOM, RUN, LEAVES, FULL, NEWEST, CHOICES };

static void pick(struct world *world, uint32_t page, uint32_t *left)
{
    if (*left > 0 && !world->chosen[page]) {
        world->chosen[page] = true;
        (*left)--;
    }
}

/* Marks pages below `newest`; no more than `left`. */
static void choose(struct world *world, const std::vector<uint16_t> &last, uint32_t newest,
                   uint32_t left)
{
    const enum choice choice = (enum choice)below(world, CHOICES);
    const uint32_t wanted = choice == FULL ? left : below(world, left + 1);
    const uint32_t start = below(world, newest + 1);
    const uint32_t spread = choice == RUN ? 1 : 1 + below(world, 6);
    if (choice == SAME || choice == DRIFT) {
        for (const uint16_t page : last) {
            if (page < newest && (choice == SAME || below(world, 10) > 0)) {
                pick(world, page, &left);
            }
        }
    }
    if (choice == NEWEST || choice == SAME) {
        return;
    }
    left = std::min(left, choice == DRIFT ? left / 10 + 1 : wanted);
    uint32_t page = start;
    for (uint32_t i = 0; i < 2 * wanted && newest > 0; i++) {
        page = choice == RANDOM || choice == DRIFT ? below(world, newest)
                                                   : (page + 1 + below(world, spread)) % newest;
        pick(world, page, &left);
    }
    for (page = 0; choice == FULL && page < newest; page++) {
        pick(world, page, &left);
    }
}

static void select_pages(struct world *world, uint32_t index, uint32_t s, uint32_t layer,
                         uint32_t head)
{
    const struct config *config = world->config;
    const uint32_t newest = pages_of(world, s) - 1;
    const uint32_t slots = *count_of(world, s, layer) * SPIN_SLAB_SLOTS;
    const uint32_t limit = std::min(slots, world->ref.lists.stride) - 1;
    std::vector<uint16_t> &last =
        world->last[((uint64_t)s * config->layers + layer) * config->kv_heads + head];
    uint16_t *pages = world->ref.lists.pages + (uint64_t)index * world->ref.lists.stride;
    choose(world, last, newest, std::min(limit, newest));
    last.clear();
    for (uint32_t page = 0; page < newest; page++) {
        if (world->chosen[page]) {
            last.push_back((uint16_t)page);
        }
        world->chosen[page] = false;
    }
    last.push_back((uint16_t)newest);
    memset(pages, 0xff, world->ref.lists.stride * sizeof *pages);
    std::copy(last.begin(), last.end(), pages);
    world->ref.lists.page_count[index] = (uint32_t)last.size();
}

/* --- resolving --- */

static void resolve(struct world *world, uint32_t layer, uint32_t count)
{
    const struct config *config = world->config;
    const uint32_t rows = count * config->kv_heads;
    memset(world->ref.outputs, 0xff, world->ref.output_bytes);
    spin_twin_memory_write(&world->memory);
    const struct spin_kv_resolve_args gpu = {
        &world->gpu.view,
        {layer, count, world->gpu.sequence, world->gpu.tokens, world->gpu.step},
        world->gpu.lists};
    const struct spin_kv_resolve_args ref = {
        &world->ref.view,
        {layer, count, world->ref.sequence, world->ref.tokens, world->ref.step},
        world->ref.lists};
    world->different +=
        spin_ops_cuda.kv_resolve[config->replacement](&gpu, world->twins->cuda) != SPIN_OK;
    (void)config->reference->kv_resolve[config->replacement](&ref, world->twins->cpu);
    world->different += spin_twin_memory_compare(&world->memory, "resolve");
    for (uint32_t row = 0; row < rows; row++) {
        const struct spin_kv_miss *misses =
            world->ref.lists.misses + (uint64_t)row * world->ref.lists.stride;
        const uint32_t s = world->ref.sequence[row / config->kv_heads];
        const uint64_t number =
            spin_kv_table_row(&world->ref.view, s, layer, row % config->kv_heads);
        const uint32_t miss_count = world->ref.lists.miss_count[row];
        world->misses += miss_count;
        world->fresh += miss_count > 0 && misses[miss_count - 1].fresh != 0;
        world->evictions += world->ref.view.counters[number].evictions;
    }
    world->resolves++;
    world->operations++;
}

/* Some of the sequences that live, in any order, a token further, in every layer. */
static void step(struct world *world)
{
    const struct config *config = world->config;
    uint32_t count = 0;
    const uint32_t start = below(world, config->sequences);
    for (uint32_t i = 0; i < config->sequences; i++) {
        const uint32_t s = (start + i) % config->sequences;
        struct sequence *sequence = &world->sequences[s];
        const uint32_t slots = *count_of(world, s, 0) * SPIN_SLAB_SLOTS;
        const uint32_t pages_max =
            sequence->life == RESIDENT ? std::min(slots, config->pages_max) : config->pages_max;
        if (sequence->life == EMPTY || slots == 0 || below(world, 4) == 0) {
            continue;
        }
        /* Mostly a token; fresh pages are to come often enough. */
        const uint32_t ahead = 1 + (below(world, 4) == 0 ? below(world, config->page_tokens) : 0);
        sequence->tokens = std::min(sequence->tokens + ahead, pages_max * config->page_tokens);
        sequence->step++;
        world->ref.sequence[count] = s;
        world->ref.tokens[count] = sequence->tokens;
        world->ref.step[count] = sequence->step;
        count++;
    }
    if (count == 0) {
        return;
    }
    for (uint32_t layer = 0; layer < config->layers; layer++) {
        for (uint32_t row = 0; row < count * config->kv_heads; row++) {
            select_pages(world, row, world->ref.sequence[row / config->kv_heads], layer,
                         row % config->kv_heads);
        }
        resolve(world, layer, count);
    }
}

static void live(struct world *world)
{
    const uint32_t s = below(world, world->config->sequences);
    struct sequence *sequence = &world->sequences[s];
    const uint32_t slabs = *count_of(world, s, 0);
    if (sequence->life == EMPTY) {
        be_born(world, s);
    } else if (below(world, 6) == 0) {
        shrink(world, s, 0);
        sequence->life = EMPTY;
    } else if (sequence->life == RESIDENT) {
        if (below(world, 2) == 0) {
            leave_identity_map(world, s);
        }
    } else if (below(world, 2) == 0) {
        grow(world, s, below(world, world->config->slabs_max + 1));
    } else if (slabs > 1) {
        shrink(world, s, 1 + below(world, slabs - 1));
    }
}

static void check_world(struct spin_twins *twins, const struct config *config, uint64_t stream)
{
    char name[96];
    struct world world = make_world(twins, config, stream);
    const uint64_t rows = (uint64_t)config->sequences * config->layers * config->kv_heads;
    while (world.operations < config->operations) {
        if (below(&world, 4) == 0) {
            live(&world);
        } else {
            step(&world);
        }
    }
    for (uint64_t row = 0; row < rows; row++) {
        world.dropped += world.ref.view.counters[row].dropped;
    }
    const char *policy = config->replacement == SPIN_KV_BUCKETED ? "bucketed" : "slot_lru";
    (void)snprintf(name, sizeof name, "tables_%s_%s_shift%u_equal", config->name, policy,
                   config->bucket_shift);
    spin_twin_check(twins, name, world.different == 0, (double)world.different);
    (void)printf("%s: %u operations, %" PRIu64 " resolves, %" PRIu64 " misses, %" PRIu64
                 " fresh, %" PRIu64 " evictions, %" PRIu64 " dropped, %" PRIu64 " held\n",
                 name, world.operations, world.resolves, world.misses, world.fresh, world.evictions,
                 world.dropped, world.held);
    if (config->operations >= 1000) { /* fewer may well do without */
        (void)snprintf(name, sizeof name, "tables_%s_%s_shift%u_all_happened", config->name, policy,
                       config->bucket_shift);
        const bool all = world.misses > 0 && world.fresh > 0 && world.evictions > 0 &&
                         world.dropped > 0 && world.held > 0;
        spin_twin_check(twins, name, all, all);
    }
    spin_twin_memory_destroy(&world.memory);
}

static void check_tables(struct spin_twins *twins, enum spin_kv_replacement replacement)
{
    const uint32_t n = twins->timing ? 20 : 1;
    const uint32_t pages_max = SPIN_ROW_PAGES_MAX;
    const uint32_t slabs_max = SPIN_ROW_SLOTS_MAX / SPIN_SLAB_SLOTS;
    const struct config configs[] = {
        {"small", replacement, 5, 2, 3, 8, 250, 4, 24, 0, &spin_ops_ref, 200 * n},
        {"small", replacement, 5, 2, 1, 32, 200, 4, 24, 1, &spin_ops_ref, 100 * n},
        {"middle", replacement, 3, 1, 2, 32, 3001, 40, 90, 3, &spin_ops_ref, 20 * n},
        {"paper", replacement, 2, 1, 8, 8, 16384, 96, 150, 0, &spin_ops_cpu, 20 * n},
        {"wide", replacement, 2, 1, 1, 8, 16384, 1024, 1800, 0, &spin_ops_cpu, 10 * n},
        {"longest", replacement, 2, 1, 1, 8, pages_max, slabs_max, 6000, 0, &spin_ops_cpu, 6 * n},
    };
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(configs); i++) {
        check_world(twins, &configs[i], i * SPIN_KV_REPLACEMENTS + replacement);
    }
}

} // namespace

void spin_twins_tables(struct spin_twins *twins)
{
    check_tables(twins, SPIN_KV_SLOT_LRU);
    check_tables(twins, SPIN_KV_BUCKETED);
    spin_twins_copies(twins);
    if (twins->timing) {
        spin_twins_tables_timing(twins);
    }
}
