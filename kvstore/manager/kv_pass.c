/* Passes: a decode step of many sequences, or a prefill unit of one. */
#include "kvstore/manager/kv_internal.h"

#include <string.h>

/* --- what operations take --- */

const struct spin_kv_view *spin_kv_get_view(const struct spin_kv *kv)
{
    return &kv->view;
}

struct spin_kv_batch spin_kv_get_batch(const struct spin_kv *kv, uint32_t layer)
{
    SPIN_ASSERT_THREAD(&kv->owner);
    SPIN_ASSERT_LT(layer, kv->config.layout.layers);
    return (struct spin_kv_batch){.layer = layer,
                                  .count = kv->pass_count,
                                  .sequence = kv->batch_sequence,
                                  .tokens = kv->batch_tokens,
                                  .step = kv->batch_step};
}

struct spin_kv_lists spin_kv_get_lists(const struct spin_kv *kv)
{
    SPIN_ASSERT_THREAD(&kv->owner);
    return kv->lists;
}

static struct spin_page_lists page_lists(const struct spin_kv *kv)
{
    return (struct spin_page_lists){.layout = kv->config.layout,
                                    .pool = kv->view.pool,
                                    .slots = kv->lists.slots,
                                    .row_offset = kv->row_offset,
                                    .visible = kv->lists.visible,
                                    .page_tokens = kv->config.page_tokens};
}

static void put_in_batch(struct spin_kv *kv, uint32_t index, uint32_t seq, uint32_t tokens)
{
    kv->batch_sequence[index] = seq;
    kv->batch_tokens[index] = tokens;
    kv->batch_step[index] = kv->sequences[seq].steps;
    kv->sealed[index] = (struct spin_kv_range){0};
    kv->offloaded[index] = (struct spin_kv_range){0};
}

static void begin_pass(struct spin_kv *kv, enum spin_kv_pass pass, uint32_t count)
{
    kv->pass = pass;
    kv->pass_count = count;
    kv->pass_layer = SPIN_KV_LAYER_NONE;
    kv->sealed_pages = 0;
}

/* --- the four operations --- */

static spin_status resolve(struct spin_kv *kv, uint32_t layer)
{
    const struct spin_kv_resolve_args args = {
        .view = &kv->view, .batch = spin_kv_get_batch(kv, layer), .lists = kv->lists};
    return kv->config.ops->kv_resolve[kv->config.replacement](&args, kv->stream);
}

static spin_status gather(struct spin_kv *kv, uint32_t layer)
{
    const struct spin_kv_gather_args args = {
        .view = &kv->view, .batch = spin_kv_get_batch(kv, layer), .lists = kv->lists};
    return kv->config.ops->kv_gather(&args, kv->stream);
}

/* kv->offloaded says which pages. */
static spin_status offload(struct spin_kv *kv, uint32_t layer)
{
    const struct spin_kv_offload_args args = {.view = &kv->view,
                                              .batch = spin_kv_get_batch(kv, layer),
                                              .lists = kv->lists,
                                              .ranges = kv->offloaded};
    uint64_t pages = 0;
    for (uint32_t i = 0; i < kv->pass_count; i++) {
        pages += kv->offloaded[i].count;
    }
    if (pages == 0) {
        return SPIN_OK;
    }
    kv->stats.pages_offloaded += pages * kv->config.layout.kv_heads;
    return kv->config.ops->kv_offload(&args, kv->stream);
}

/* Tests: what loses its slot to a miss must not be read any more. */
static void poison_misses(struct spin_kv *kv)
{
    for (uint32_t row = 0; row < kv->pass_count * kv->config.layout.kv_heads; row++) {
        const struct spin_kv_miss *misses = kv->lists.misses + (uint64_t)row * kv->lists.stride;
        for (uint32_t i = 0; i < kv->lists.miss_count[row]; i++) {
            memset(spin_kv_slot_bytes(&kv->view, misses[i].slot), 0xFF, kv->page_bytes);
        }
    }
}

spin_status spin_kv_read_back(struct spin_kv *kv, uint32_t seq, uint32_t layer, uint32_t slot_layer,
                              uint32_t pages)
{
    const uint32_t heads = kv->config.layout.kv_heads;
    SPIN_ASSERT_LE(pages, kv->lists.stride);
    for (uint32_t head = 0; head < heads; head++) {
        const uint64_t row = spin_kv_table_row(&kv->view, seq, slot_layer, head);
        struct spin_kv_miss *misses = kv->lists.misses + (uint64_t)head * kv->lists.stride;
        for (uint32_t page = 0; page < pages; page++) {
            misses[page] = (struct spin_kv_miss){.page = (uint16_t)page,
                                                 .fresh = 0,
                                                 .slot = spin_kv_pool_slot(&kv->view, row, page)};
        }
        kv->lists.miss_count[head] = pages;
    }
    put_in_batch(kv, 0, seq, kv->sequences[seq].tokens);
    kv->pass_count = 1;
    kv->stats.pages_retrieved += (uint64_t)pages * heads;
    kv->stats.bytes_retrieved += (uint64_t)pages * heads * kv->page_bytes;
    return gather(kv, layer);
}

/* Where the open page lies is for the tables to say: it is resolved alone, as a step would. That
 * makes the others of the row one step older, all of them alike. */
static spin_status write_open_page(struct spin_kv *kv, uint32_t layer, uint32_t page)
{
    const uint32_t heads = kv->config.layout.kv_heads;
    for (uint32_t head = 0; head < heads; head++) {
        kv->lists.pages[(uint64_t)head * kv->lists.stride] = (uint16_t)page;
        kv->lists.page_count[head] = 1;
    }
    SPIN_TRY(resolve(kv, layer));
    for (uint32_t head = 0; head < heads; head++) {
        SPIN_ASSERT_EQ(kv->lists.miss_count[head], 0);
    }
    return offload(kv, layer);
}

spin_status spin_kv_write_open_page(struct spin_kv *kv, uint32_t seq)
{
    struct spin_kv_sequence *sequence = &kv->sequences[seq];
    SPIN_ASSERT_EQ(kv->pass, SPIN_KV_PASS_NONE);
    if (!sequence->open_page_dirty) {
        return SPIN_OK;
    }
    const uint32_t page = (sequence->tokens - 1) / kv->config.page_tokens;
    kv->pass_count = 1;
    put_in_batch(kv, 0, seq, sequence->tokens);
    kv->offloaded[0] = (struct spin_kv_range){.first = page, .count = 1, .entry = 0};
    for (uint32_t layer = 0; layer < kv->config.layout.layers; layer++) {
        SPIN_TRY(write_open_page(kv, layer, page));
    }
    sequence->open_page_dirty = false;
    return SPIN_OK;
}

/* --- a decode step --- */

static void plan_step(struct spin_kv *kv, const struct spin_kv_step *step)
{
    struct spin_kv_sequence *sequence = spin_kv_sequence_of(kv, step->seq);
    SPIN_ASSERT(spin_kv_is_active(sequence));
    SPIN_ASSERT_NE(sequence->plan, kv->plan); /* named twice */
    sequence->plan = kv->plan;
    SPIN_ASSERT_EQ(step->tokens, sequence->tokens + 1);
    SPIN_ASSERT_LE(step->tokens, kv->config.tokens_max);
    SPIN_ASSERT_LE(spin_kv_blocks_for(step->tokens), sequence->blocks);
    for (uint32_t layer = 0; layer < kv->config.layout.layers; layer++) {
        SPIN_ASSERT_EQ(*spin_kv_layer_tokens_of(kv, step->seq.v, layer), sequence->tokens);
    }
    sequence->planned = step->tokens;
}

spin_status spin_kv_step_begin(struct spin_kv *kv, const struct spin_kv_step *steps, uint32_t count)
{
    SPIN_ASSERT_EQ(kv->pass, SPIN_KV_PASS_NONE);
    SPIN_ASSERT_GE(count, 1);
    SPIN_ASSERT_LE(count, kv->config.sequences_max);
    kv->plan++;
    for (uint32_t i = 0; i < count; i++) {
        plan_step(kv, &steps[i]);
    }
    SPIN_TRY(spin_kv_grant_step(kv, steps, count));
    for (uint32_t i = 0; i < count; i++) {
        put_in_batch(kv, i, steps[i].seq.v, steps[i].tokens);
    }
    begin_pass(kv, SPIN_KV_PASS_STEP, count);
    return SPIN_OK;
}

/* The pages of a range that ends with the newest page are on every row's list, at its end: lists
 * ascend, so with the last one in place (kv_resolve asserts that) the first one vouches for those
 * between. */
static void check_completed(const struct spin_kv *kv, uint32_t index,
                            const struct spin_kv_range *range)
{
    const uint32_t heads = kv->config.layout.kv_heads;
    for (uint64_t row = (uint64_t)index * heads; row < ((uint64_t)index + 1) * heads; row++) {
        SPIN_ASSERT_EQ(kv->lists.pages[row * kv->lists.stride + range->entry], range->first);
    }
}

/* What this step completes is at the end of the lists, which are as long for every head. */
static void find_completed(struct spin_kv *kv, uint32_t index)
{
    const uint32_t heads = kv->config.layout.kv_heads;
    const uint32_t page_tokens = kv->config.page_tokens;
    const uint32_t partition_tokens = kv->config.partition_tokens;
    const uint32_t tokens = kv->batch_tokens[index];
    const uint32_t *counts = kv->lists.page_count + (uint64_t)index * heads;
    for (uint32_t head = 1; head < heads; head++) {
        SPIN_ASSERT_EQ(counts[head], counts[0]);
    }
    kv->offloaded[index] = (struct spin_kv_range){0};
    kv->sealed[index] = (struct spin_kv_range){0};
    if (tokens % page_tokens == 0) {
        kv->offloaded[index] = (struct spin_kv_range){
            .first = tokens / page_tokens - 1, .count = 1, .entry = counts[0] - 1};
        check_completed(kv, index, &kv->offloaded[index]);
    }
    if (tokens % partition_tokens == 0 && kv->config.summary_bytes > 0) {
        const uint32_t pages = partition_tokens / page_tokens;
        SPIN_ASSERT_GE(counts[0], pages);
        kv->sealed[index] = (struct spin_kv_range){
            .first = tokens / page_tokens - pages, .count = pages, .entry = counts[0] - pages};
        kv->sealed_pages += pages;
        check_completed(kv, index, &kv->sealed[index]);
    }
}

spin_status spin_kv_retrieve(struct spin_kv *kv, uint32_t layer, struct spin_page_lists *out)
{
    SPIN_ASSERT_THREAD(&kv->owner);
    SPIN_ASSERT_EQ(kv->pass, SPIN_KV_PASS_STEP);
    SPIN_TRY(resolve(kv, layer));
    if (kv->poison) {
        poison_misses(kv);
    }
    SPIN_TRY(gather(kv, layer));
    kv->sealed_pages = 0;
    for (uint32_t i = 0; i < kv->pass_count; i++) {
        find_completed(kv, i);
    }
    kv->pass_layer = layer;
    *out = page_lists(kv);
    return SPIN_OK;
}

uint32_t spin_kv_sealed(const struct spin_kv *kv, const struct spin_kv_range **out)
{
    SPIN_ASSERT_THREAD(&kv->owner);
    SPIN_ASSERT_NE(kv->pass, SPIN_KV_PASS_NONE);
    SPIN_ASSERT_NE(kv->pass_layer, SPIN_KV_LAYER_NONE);
    *out = kv->sealed;
    return kv->sealed_pages;
}

/* A unit is over with its Offload. */
static void end_unit(struct spin_kv *kv, uint32_t layer)
{
    struct spin_kv_sequence *sequence = &kv->sequences[kv->batch_sequence[0]];
    sequence->tokens = kv->batch_tokens[0];
    if (sequence->arena_row > 0) {
        sequence->arena_layer = layer;
        sequence->arena_tokens = sequence->tokens;
    } else if (layer + 1 == kv->config.layout.layers && sequence->tokens == sequence->goal) {
        sequence->phase = SPIN_KV_DECODE;
        spin_kv_plan_next(kv, kv->batch_sequence[0]);
    }
    kv->pass = SPIN_KV_PASS_NONE;
}

spin_status spin_kv_offload(struct spin_kv *kv, uint32_t layer)
{
    SPIN_ASSERT_THREAD(&kv->owner);
    SPIN_ASSERT_NE(kv->pass, SPIN_KV_PASS_NONE);
    SPIN_ASSERT_EQ(kv->pass_layer, layer);
    SPIN_TRY(offload(kv, layer));
    for (uint32_t i = 0; i < kv->pass_count; i++) {
        *spin_kv_layer_tokens_of(kv, kv->batch_sequence[i], layer) = kv->batch_tokens[i];
    }
    if (kv->pass == SPIN_KV_PASS_PREFILL) {
        end_unit(kv, layer);
    }
    return SPIN_OK;
}

static spin_status end_step_of(struct spin_kv *kv, uint32_t seq, uint32_t tokens)
{
    struct spin_kv_sequence *sequence = &kv->sequences[seq];
    for (uint32_t layer = 0; layer < kv->config.layout.layers; layer++) {
        SPIN_ASSERT_EQ(*spin_kv_layer_tokens_of(kv, seq, layer), tokens);
    }
    sequence->tokens = tokens;
    sequence->open_page_dirty = tokens % kv->config.page_tokens != 0;
    sequence->steps++;
    spin_kv_plan_next(kv, seq);
    spin_kv_count_step(kv, seq);
    if (spin_kv_is_resident_now(kv, seq)) {
        return SPIN_OK;
    }
    sequence->steps_buffered++;
    if (sequence->steps_buffered % SPIN_WORKING_SET_STEPS != 0) {
        return SPIN_OK;
    }
    spin_kv_note_working_set(kv, seq);
    return spin_kv_follow(kv, seq);
}

spin_status spin_kv_step_end(struct spin_kv *kv)
{
    SPIN_ASSERT_THREAD(&kv->owner);
    SPIN_ASSERT_EQ(kv->pass, SPIN_KV_PASS_STEP);
    kv->pass = SPIN_KV_PASS_NONE;
    for (uint32_t i = 0; i < kv->pass_count; i++) {
        SPIN_TRY(end_step_of(kv, kv->batch_sequence[i], kv->batch_tokens[i]));
    }
    return SPIN_OK;
}

/* --- a unit of prefill --- */

/* The lists of all pages up to `end`, in order, and what the unit completes. */
static void list_unit(struct spin_kv *kv, uint32_t slot_layer, uint32_t begin, uint32_t end)
{
    const uint32_t seq = kv->batch_sequence[0];
    const uint32_t pages = spin_kv_pages_of(kv, end);
    for (uint32_t head = 0; head < kv->config.layout.kv_heads; head++) {
        const uint64_t row = spin_kv_table_row(&kv->view, seq, slot_layer, head);
        uint32_t *slots = kv->lists.slots + (uint64_t)head * kv->lists.stride;
        for (uint32_t page = 0; page < pages; page++) {
            slots[page] = spin_kv_pool_slot(&kv->view, row, page);
        }
        kv->lists.visible[head] = end;
    }
    const uint32_t page = begin / kv->config.page_tokens;
    kv->offloaded[0] = (struct spin_kv_range){.first = page, .count = pages - page, .entry = page};
    if (kv->config.summary_bytes > 0) {
        const uint32_t partition = kv->config.partition_tokens;
        const uint32_t first = begin / partition * (partition / kv->config.page_tokens);
        const uint32_t last = end / partition * (partition / kv->config.page_tokens);
        kv->sealed[0] =
            (struct spin_kv_range){.first = first, .count = last - first, .entry = first};
        kv->sealed_pages = last - first;
    }
}

/* NOLINTNEXTLINE(readability-function-size): a unit as the cursor has it; a struct would copy it */
spin_status spin_kv_prefill_begin(struct spin_kv *kv, spin_kv_seq seq, uint32_t layer,
                                  uint32_t begin, uint32_t end, bool first,
                                  struct spin_page_lists *out)
{
    const struct spin_kv_sequence *sequence = spin_kv_sequence_of(kv, seq);
    SPIN_ASSERT_EQ(kv->pass, SPIN_KV_PASS_NONE);
    SPIN_ASSERT_EQ(sequence->phase, SPIN_KV_PREFILL);
    SPIN_ASSERT_LT(layer, kv->config.layout.layers);
    SPIN_ASSERT_LT(begin, end);
    SPIN_ASSERT_LE(end, sequence->goal);
    SPIN_ASSERT_EQ(*spin_kv_layer_tokens_of(kv, seq.v, layer), begin);
    const bool in_arena = sequence->arena_row > 0;
    const uint32_t slot_layer = in_arena ? 0 : layer;
    if (in_arena && begin > 0 &&
        (first || sequence->arena_layer != layer || sequence->arena_tokens != begin)) {
        SPIN_TRY(spin_kv_read_back(kv, seq.v, layer, slot_layer, spin_kv_pages_of(kv, begin)));
    }
    put_in_batch(kv, 0, seq.v, end);
    begin_pass(kv, SPIN_KV_PASS_PREFILL, 1);
    kv->pass_layer = layer;
    list_unit(kv, slot_layer, begin, end);
    *out = page_lists(kv);
    return SPIN_OK;
}
