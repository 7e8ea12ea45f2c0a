#include "bench/kv/replay.h"

#include "base/assert.h"

#include <stdlib.h>

#define LEAF_SAMPLE_STEPS 64u

/* Every array that the view's pointers to constants point to, in the order of the view. */
struct arrays {
    uint8_t *residency;
    uint32_t *slab_list;
    uint32_t *slab_count;
    uint16_t *slot_page;
    uint8_t *stamp;
    uint16_t *leaf;
    uint16_t *directory;
    uint16_t *leaf_free;
    struct spin_kv_counters *counters;
    uint32_t *sequence; /* [documents]: 0, 1, .. */
    uint32_t *tokens;
    uint32_t *step;
    uint16_t *pages;
    uint32_t *page_count;
    uint32_t *slots;
    uint32_t *visible;
    struct spin_kv_miss *misses;
    uint32_t *miss_count;
    uint32_t *slots_of;   /* [documents] */
    uint32_t *ballast_of; /* [documents] */
    uint8_t *resident;    /* [pages]: of one row, for leaves */
};

struct replay {
    const struct spin_replay_config *config;
    const struct spin_trace *trace;
    struct spin_kv_view view;
    struct arrays arrays;
    uint32_t stride;
    uint32_t pages_max;
    uint32_t at; /* step of the trace */
};

static void replay_deinit(struct replay *replay)
{
    struct arrays *arrays = &replay->arrays;
    void *all[] = {arrays->residency, arrays->slab_list,  arrays->slab_count, arrays->slot_page,
                   arrays->stamp,     arrays->leaf,       arrays->directory,  arrays->leaf_free,
                   arrays->counters,  arrays->sequence,   arrays->tokens,     arrays->step,
                   arrays->pages,     arrays->page_count, arrays->slots,      arrays->visible,
                   arrays->misses,    arrays->miss_count, arrays->slots_of,   arrays->ballast_of,
                   arrays->resident};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(all); i++) {
        free(all[i]);
    }
}

static void *take(uint64_t count, uint64_t size, bool *failed)
{
    void *memory = calloc(SPIN_MAX(count, 1), size);
    *failed = *failed || memory == NULL;
    return memory;
}

/* Slots of each document's rows, the ballast of their last slabs, and the sizes that follow. */
static spin_status size_rows(struct replay *replay, struct spin_error *err)
{
    const struct spin_trace *trace = replay->trace;
    uint32_t longest = 0;
    for (uint32_t i = 0; i < trace->shape.documents; i++) {
        const uint32_t slots = spin_replay_slots(trace, i, replay->config->buffering);
        const uint32_t slabs = (slots + SPIN_SLAB_SLOTS - 1) / SPIN_SLAB_SLOTS;
        const uint32_t ballast = slabs * SPIN_SLAB_SLOTS - slots;
        const uint32_t tokens = spin_trace_tokens(trace, i, trace->shape.steps - 1);
        const uint32_t pages = (tokens - 1) / trace->shape.page_tokens + 1 + ballast;
        replay->arrays.slots_of[i] = slabs * SPIN_SLAB_SLOTS;
        replay->arrays.ballast_of[i] = ballast;
        replay->view.slabs_max = SPIN_MAX(replay->view.slabs_max, slabs);
        replay->pages_max = SPIN_MAX(replay->pages_max, pages);
        longest = SPIN_MAX(longest, spin_trace_mandatory(trace, i) + ballast);
    }
    if (replay->pages_max > SPIN_ROW_PAGES_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "%u pages of a row: at most %u", replay->pages_max,
                         SPIN_ROW_PAGES_MAX);
    }
    if (replay->view.slabs_max > SPIN_ROW_SLOTS_MAX / SPIN_SLAB_SLOTS) {
        return spin_fail(err, SPIN_ERR_LIMIT, "%u slabs of a row: at most %u",
                         replay->view.slabs_max, SPIN_ROW_SLOTS_MAX / SPIN_SLAB_SLOTS);
    }
    replay->stride = longest;
    replay->view.directory_max = (replay->pages_max + SPIN_LEAF_PAGES - 1) / SPIN_LEAF_PAGES;
    return SPIN_OK;
}

static spin_status allocate(struct replay *replay, struct spin_error *err)
{
    struct arrays *a = &replay->arrays;
    const struct spin_kv_view *view = &replay->view;
    const uint64_t documents = replay->trace->shape.documents;
    const uint64_t layers = documents * view->layout.layers;
    const uint64_t rows = documents * spin_kv_rows(view);
    const uint64_t slots = rows * view->slabs_max * SPIN_SLAB_SLOTS;
    const uint64_t batch_rows = documents * view->layout.kv_heads;
    bool failed = false;
    a->residency = take(documents, sizeof *a->residency, &failed);
    a->slab_list = take(layers * view->slabs_max, sizeof *a->slab_list, &failed);
    a->slab_count = take(layers, sizeof *a->slab_count, &failed);
    a->slot_page = take(slots, sizeof *a->slot_page, &failed);
    a->stamp = take(slots, sizeof *a->stamp, &failed);
    a->leaf = take(slots * SPIN_LEAF_PAGES, sizeof *a->leaf, &failed);
    a->directory = take(rows * view->directory_max, sizeof *a->directory, &failed);
    a->leaf_free = take(rows, sizeof *a->leaf_free, &failed);
    a->counters = take(rows, sizeof *a->counters, &failed);
    a->sequence = take(documents, sizeof *a->sequence, &failed);
    a->tokens = take(documents, sizeof *a->tokens, &failed);
    a->step = take(documents, sizeof *a->step, &failed);
    a->pages = take(batch_rows * replay->stride, sizeof *a->pages, &failed);
    a->page_count = take(batch_rows, sizeof *a->page_count, &failed);
    a->slots = take(batch_rows * replay->stride, sizeof *a->slots, &failed);
    a->visible = take(batch_rows, sizeof *a->visible, &failed);
    a->misses = take(batch_rows * replay->stride, sizeof *a->misses, &failed);
    a->miss_count = take(batch_rows, sizeof *a->miss_count, &failed);
    a->resident = take(replay->pages_max, sizeof *a->resident, &failed);
    if (failed) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "tables of %llu slots",
                         (unsigned long long)slots);
    }
    return SPIN_OK;
}

/* Every row gets its slabs, and its tables learn of them. */
static spin_status grant(struct replay *replay)
{
    const struct spin_replay_config *config = replay->config;
    struct arrays *a = &replay->arrays;
    struct spin_kv_view *view = &replay->view;
    const uint64_t layers = (uint64_t)replay->trace->shape.documents * view->layout.layers;
    for (uint64_t i = 0; i < layers * view->slabs_max; i++) {
        a->slab_list[i] = (uint32_t)i;
    }
    view->residency = a->residency;
    view->slab_list = a->slab_list;
    view->slab_count = a->slab_count;
    view->slot_page = a->slot_page;
    view->stamp = a->stamp;
    view->leaf = a->leaf;
    view->directory = a->directory;
    view->leaf_free = a->leaf_free;
    view->counters = a->counters;
    for (uint32_t document = 0; document < replay->trace->shape.documents; document++) {
        a->residency[document] = SPIN_KV_BUFFERED;
        a->sequence[document] = document;
        for (uint32_t layer = 0; layer < view->layout.layers; layer++) {
            a->slab_count[document * view->layout.layers + layer] =
                a->slots_of[document] / SPIN_SLAB_SLOTS;
            const struct spin_kv_resize_args args = {
                .view = view, .sequence = document, .layer = layer, .after = a->slots_of[document]};
            SPIN_TRY(config->ops->kv_resize[config->replacement](&args, config->stream));
        }
    }
    return SPIN_OK;
}

static spin_status replay_init(struct replay *replay, const struct spin_replay_config *config,
                               struct spin_error *err)
{
    const struct spin_trace_shape *shape = &config->trace->shape;
    *replay = (struct replay){.config = config, .trace = config->trace};
    replay->view = (struct spin_kv_view){
        .layout = {.layers = shape->layers,
                   .kv_heads = shape->kv_heads,
                   .head_dim = SPIN_TILE_TOKENS, /* no page is ever read */
                   .dtype = SPIN_KV_BF16},
        .page_tokens = shape->page_tokens,
        .partition_tokens = shape->page_tokens,
        .bucket_shift = config->bucket_shift,
    };
    bool failed = false;
    struct arrays *a = &replay->arrays;
    a->slots_of = take(shape->documents, sizeof *a->slots_of, &failed);
    a->ballast_of = take(shape->documents, sizeof *a->ballast_of, &failed);
    spin_status status =
        failed ? spin_fail(err, SPIN_ERR_NO_MEMORY, "%u documents", shape->documents) : SPIN_OK;
    SPIN_TRY_GOTO(status, status, fail);
    SPIN_TRY_GOTO(status, size_rows(replay, err), fail);
    SPIN_TRY_GOTO(status, allocate(replay, err), fail);
    SPIN_TRY_GOTO(status, grant(replay), fail);
    return SPIN_OK;
fail:
    replay_deinit(replay);
    return status;
}

static struct spin_trace_list list_of(const struct replay *replay, uint32_t document,
                                      uint32_t layer, uint32_t head)
{
    return spin_trace_get_list(replay->trace, document, replay->at,
                               layer * replay->view.layout.kv_heads + head);
}

/* Ballast, then the trace's list. */
static void put_list(struct replay *replay, uint32_t document, uint32_t layer, uint32_t head)
{
    const struct spin_trace_list list = list_of(replay, document, layer, head);
    const uint32_t ballast = replay->arrays.ballast_of[document];
    const uint64_t row = (uint64_t)document * replay->view.layout.kv_heads + head;
    uint16_t *pages = replay->arrays.pages + row * replay->stride;
    for (uint32_t i = 0; i < ballast; i++) {
        pages[i] = (uint16_t)i;
    }
    for (uint32_t i = 0; i < list.count; i++) {
        pages[ballast + i] = (uint16_t)(list.pages[i] + ballast);
    }
    replay->arrays.page_count[row] = ballast + list.count;
}

/* From the step's misses; a page of the list that is no miss and not fresh is a hit. */
static void tally_row(const struct replay *replay, uint32_t document, uint32_t layer, uint32_t head,
                      struct spin_hit_tally *tally)
{
    const struct arrays *a = &replay->arrays;
    const struct spin_trace_list list = list_of(replay, document, layer, head);
    const struct spin_trace_window *window =
        spin_trace_get_window(replay->trace, document, replay->at);
    const uint32_t ballast = a->ballast_of[document];
    const uint64_t row = (uint64_t)document * replay->view.layout.kv_heads + head;
    const struct spin_kv_miss *misses = a->misses + row * replay->stride;
    uint32_t missed = 0;
    uint32_t chosen_missed = 0;
    uint32_t fresh = 0;
    for (uint32_t i = 0; i < a->miss_count[row]; i++) {
        fresh += misses[i].fresh;
        if (misses[i].page >= ballast && misses[i].fresh == 0) {
            missed++;
            chosen_missed += !spin_trace_is_private(window, misses[i].page - ballast);
        }
    }
    uint32_t chosen = 0;
    for (uint32_t i = 0; i < list.count; i++) {
        chosen += !spin_trace_is_private(window, list.pages[i]);
    }
    const struct spin_kv_counters *counters =
        &a->counters[spin_kv_table_row(&replay->view, document, layer, head)];
    SPIN_ASSERT_EQ(counters->hits + counters->misses + fresh, ballast + list.count);
    tally->selected += list.count - fresh;
    tally->hits += list.count - fresh - missed;
    tally->chosen += chosen;
    tally->chosen_hits += chosen - chosen_missed;
    tally->evictions += counters->evictions;
}

/* slot_lru: whoever has a stamp is resident. */
static void sample_leaves(const struct replay *replay, uint64_t table_row, uint32_t document,
                          struct spin_leaf_share *leaves)
{
    const struct arrays *a = &replay->arrays;
    const uint32_t ballast = a->ballast_of[document];
    const uint32_t newest = (spin_trace_tokens(replay->trace, document, replay->at) - 1) /
                            replay->trace->shape.page_tokens;
    for (uint32_t page = 0; page <= newest; page++) {
        a->resident[page] = 0;
    }
    for (uint32_t slot = 0; slot < a->slots_of[document]; slot++) {
        const uint32_t pool_slot = spin_kv_pool_slot(&replay->view, table_row, slot);
        if (a->stamp[pool_slot] != SPIN_STAMP_FREE && a->slot_page[pool_slot] >= ballast) {
            a->resident[a->slot_page[pool_slot] - ballast] = 1;
            leaves->residents++;
        }
    }
    leaves->pages += newest + 1;
    for (uint32_t size = 0; size < SPIN_LEAF_SIZES; size++) {
        uint32_t behind = 0; /* pages in front of it belong to leaves that were counted */
        for (uint32_t page = 0; page <= newest; page++) {
            if (a->resident[page] != 0 && page >= behind) {
                leaves->used[size]++;
                behind = ((page >> size) + 1) << size;
            }
        }
        leaves->leaves[size] += (newest >> size) + 1;
    }
}

static spin_status run_layer(struct replay *replay, uint32_t layer, struct spin_hit_tally *tally,
                             struct spin_leaf_share *leaves)
{
    const struct spin_replay_config *config = replay->config;
    struct arrays *a = &replay->arrays;
    const uint32_t documents = replay->trace->shape.documents;
    const uint32_t heads = replay->view.layout.kv_heads;
    for (uint32_t i = 0; i < documents * heads; i++) {
        put_list(replay, i / heads, layer, i % heads);
    }
    const struct spin_kv_resolve_args args = {
        .view = &replay->view,
        .batch = {.layer = layer,
                  .count = documents,
                  .sequence = a->sequence,
                  .tokens = a->tokens,
                  .step = a->step},
        .lists = {.stride = replay->stride,
                  .pages = a->pages,
                  .page_count = a->page_count,
                  .slots = a->slots,
                  .visible = a->visible,
                  .misses = a->misses,
                  .miss_count = a->miss_count},
    };
    SPIN_TRY(config->ops->kv_resolve[config->replacement](&args, config->stream));
    const bool sampled = leaves != NULL && replay->at >= config->warm_steps &&
                         (replay->at - config->warm_steps) % LEAF_SAMPLE_STEPS == 0;
    for (uint32_t i = 0; i < documents * heads; i++) {
        tally_row(replay, i / heads, layer, i % heads, tally);
        if (sampled) {
            const uint64_t row = spin_kv_table_row(&replay->view, i / heads, layer, i % heads);
            sample_leaves(replay, row, i / heads, leaves);
        }
    }
    return SPIN_OK;
}

static spin_status run_step(struct replay *replay, struct spin_hit_tally *tally,
                            struct spin_leaf_share *leaves)
{
    struct arrays *a = &replay->arrays;
    for (uint32_t i = 0; i < replay->trace->shape.documents; i++) {
        a->tokens[i] = spin_trace_tokens(replay->trace, i, replay->at) +
                       a->ballast_of[i] * replay->trace->shape.page_tokens;
        a->step[i] = replay->at;
    }
    for (uint32_t layer = 0; layer < replay->view.layout.layers; layer++) {
        SPIN_TRY(run_layer(replay, layer, tally, leaves));
    }
    return SPIN_OK;
}

spin_status spin_replay_run(const struct spin_replay_config *config, struct spin_hit_tally *out,
                            struct spin_leaf_share *leaves, struct spin_error *err)
{
    SPIN_ASSERT(leaves == NULL || config->replacement == SPIN_KV_SLOT_LRU);
    struct replay replay;
    SPIN_TRY(replay_init(&replay, config, err));
    *out = (struct spin_hit_tally){0};
    struct spin_hit_tally warm = {0};
    spin_status status = SPIN_OK;
    for (replay.at = 0; replay.at < config->trace->shape.steps && status == SPIN_OK; replay.at++) {
        status = run_step(&replay, replay.at < config->warm_steps ? &warm : out, leaves);
    }
    replay_deinit(&replay);
    return status != SPIN_OK ? spin_fail(err, status, "a table operation failed") : SPIN_OK;
}
