/* Passes: a decode step of many sequences, or a prefill unit of one. */
#include "kvstore/manager/kv_internal.h"

#include <string.h>

/* --- what operations take --- */

const struct spin_kv_view *spin_kv_get_view(const struct spin_kv *kv)
{
    return &kv->view;
}

static struct spin_kv_batch batch_of(const struct spin_kv_inputs *inputs, uint32_t layer,
                                     uint32_t count)
{
    return (struct spin_kv_batch){.layer = layer,
                                  .count = count,
                                  .sequence = inputs->sequence,
                                  .tokens = inputs->tokens,
                                  .step = inputs->step};
}

struct spin_kv_batch spin_kv_get_batch(const struct spin_kv *kv, uint32_t layer)
{
    SPIN_ASSERT_THREAD(&kv->owner);
    SPIN_ASSERT_LT(layer, kv->config.layout.layers);
    return batch_of(&kv->inputs, layer, kv->pass_count);
}

struct spin_kv_batch spin_kv_get_host_batch(const struct spin_kv *kv, uint32_t layer)
{
    SPIN_ASSERT_THREAD(&kv->owner);
    SPIN_ASSERT_LT(layer, kv->config.layout.layers);
    return batch_of(&kv->staged, layer, kv->pass_count);
}

struct spin_kv_lists spin_kv_get_lists(const struct spin_kv *kv)
{
    SPIN_ASSERT_THREAD(&kv->owner);
    return kv->lists;
}

struct spin_kv_batch spin_kv_get_wave(const struct spin_kv *kv, uint32_t layer,
                                      struct spin_kv_wave wave, struct spin_kv_lists *out)
{
    SPIN_ASSERT_LE(wave.first, kv->pass_count);
    SPIN_ASSERT_LE(wave.count, kv->pass_count - wave.first);
    *out = spin_kv_lists_part(kv->lists, wave.first * kv->config.layout.kv_heads);
    return spin_kv_batch_part(spin_kv_get_batch(kv, layer), wave.first, wave.count);
}

/* Of the sequences from `first` on. */
static struct spin_page_lists page_lists(const struct spin_kv *kv, uint32_t first)
{
    const uint32_t first_row = first * kv->config.layout.kv_heads;
    return (struct spin_page_lists){.layout = kv->config.layout,
                                    .pool = kv->view.pool,
                                    .slots = kv->lists.slots,
                                    .row_offset = kv->row_offset + first_row,
                                    .visible = kv->lists.visible + first_row,
                                    .page_tokens = kv->config.page_tokens};
}

/* --- what a pass reads --- */

uint64_t spin_kv_inputs_bytes(uint32_t sequences)
{
    return (uint64_t)sequences * (3 * sizeof(uint32_t) + 2 * sizeof(struct spin_kv_range));
}

struct spin_kv_inputs spin_kv_inputs_at(void *memory, uint32_t sequences)
{
    uint32_t *words = memory;
    if (words == NULL) {
        return (struct spin_kv_inputs){0};
    }
    struct spin_kv_range *ranges = (struct spin_kv_range *)(words + (uint64_t)3 * sequences);
    return (struct spin_kv_inputs){.sequence = words,
                                   .tokens = words + sequences,
                                   .step = words + (uint64_t)2 * sequences,
                                   .sealed = ranges,
                                   .offloaded = ranges + sequences};
}

static void stage(struct spin_kv *kv, struct spin_kv_inputs *inputs, uint32_t index, uint32_t seq,
                  uint32_t tokens)
{
    inputs->sequence[index] = seq;
    inputs->tokens[index] = tokens;
    inputs->step[index] = kv->sequences[seq].steps;
    inputs->sealed[index] = (struct spin_kv_range){0};
    inputs->offloaded[index] = (struct spin_kv_range){0};
}

/* What was staged becomes the pass at hand. */
static spin_status begin_pass(struct spin_kv *kv, enum spin_kv_pass pass, uint32_t count)
{
    SPIN_TRY(spin_kv_flush(kv));
    SPIN_TRY(spin_device_write(kv->stream, kv->inputs.sequence, kv->staged.sequence,
                               spin_kv_inputs_bytes(kv->config.sequences_max)));
    kv->pass = pass;
    kv->pass_count = count;
    kv->pass_layer = SPIN_KV_LAYER_NONE;
    kv->sealed_pages = 0;
    kv->offloaded_pages = 0;
    kv->may_miss = false;
    for (uint32_t i = 0; i < count; i++) {
        kv->sealed_pages += kv->staged.sealed[i].count;
        kv->offloaded_pages += kv->staged.offloaded[i].count;
        kv->may_miss = kv->may_miss || !spin_kv_is_resident_now(kv, kv->staged.sequence[i]);
    }
    return SPIN_OK;
}

/* One sequence as a batch of its own, between passes. The memory that it is written from is not of
 * spin_host_alloc: it is free again when the call returns, however many follow one another. */
static spin_status write_one(struct spin_kv *kv, uint32_t seq, struct spin_kv_range offloaded)
{
    SPIN_TRY(spin_kv_flush(kv));
    stage(kv, &kv->one_staged, 0, seq, kv->sequences[seq].tokens);
    kv->one_staged.offloaded[0] = offloaded;
    return spin_device_write(kv->stream, kv->one.sequence, kv->one_staged.sequence,
                             spin_kv_inputs_bytes(1));
}

/* --- operations --- */

static spin_status resolve(struct spin_kv *kv, struct spin_kv_batch batch,
                           struct spin_kv_lists lists)
{
    const struct spin_kv_resolve_args args = {.view = &kv->view, .batch = batch, .lists = lists};
    return kv->config.ops->kv_resolve[kv->config.replacement](&args, kv->stream);
}

static spin_status gather(struct spin_kv *kv, struct spin_kv_batch batch,
                          struct spin_kv_lists lists)
{
    const struct spin_kv_gather_args args = {.view = &kv->view, .batch = batch, .lists = lists};
    return kv->config.ops->kv_gather(&args, kv->stream);
}

static spin_status offload(struct spin_kv *kv, struct spin_kv_batch batch,
                           const struct spin_kv_range *ranges)
{
    const struct spin_kv_offload_args args = {
        .view = &kv->view, .batch = batch, .lists = kv->lists, .ranges = ranges};
    return kv->config.ops->kv_offload(&args, kv->stream);
}

static void count_offloaded(struct spin_kv *kv, uint64_t pages)
{
    kv->stats.pages_offloaded += pages * kv->config.layout.kv_heads;
}

/* Tests: what loses its slot to a miss must not be read any more. */
static void poison_misses(struct spin_kv *kv, const struct spin_kv_lists *lists, uint32_t rows)
{
    for (uint32_t row = 0; row < rows; row++) {
        const struct spin_kv_miss *misses = lists->misses + (uint64_t)row * lists->stride;
        for (uint32_t i = 0; i < lists->miss_count[row]; i++) {
            memset(spin_kv_slot_bytes(&kv->view, misses[i].slot), 0xFF, kv->page_bytes);
        }
    }
}

spin_status spin_kv_read_back(struct spin_kv *kv, uint32_t seq, uint32_t layer, uint32_t slot_layer,
                              uint32_t pages)
{
    const uint64_t row_pages = (uint64_t)pages * kv->config.layout.kv_heads;
    const struct spin_kv_list_args args = {.view = &kv->view,
                                           .lists = kv->lists,
                                           .kind = SPIN_KV_LIST_MISSES,
                                           .sequence = seq,
                                           .slot_layer = slot_layer,
                                           .pages = {.first = 0, .count = pages}};
    SPIN_TRY(write_one(kv, seq, (struct spin_kv_range){0}));
    SPIN_TRY(kv->config.ops->kv_list(&args, kv->stream));
    kv->stats.pages_retrieved += row_pages;
    kv->stats.bytes_retrieved += row_pages * kv->page_bytes;
    return gather(kv, batch_of(&kv->one, layer, 1), kv->lists);
}

/* The open page is in its slots alone: it cannot be missing. */
static void check_found(const struct spin_kv *kv)
{
    for (uint32_t head = 0; head < kv->config.layout.kv_heads; head++) {
        SPIN_ASSERT_EQ(kv->lists.miss_count[head], 0);
    }
}

/* Where the open page lies is for the tables to say: it is resolved alone, as a step would. That
 * makes the others of the row one step older, all of them alike. */
static spin_status write_open_page(struct spin_kv *kv, uint32_t seq, uint32_t layer,
                                   struct spin_kv_range page)
{
    const struct spin_kv_batch batch = batch_of(&kv->one, layer, 1);
    const struct spin_kv_list_args args = {.view = &kv->view,
                                           .lists = kv->lists,
                                           .kind = SPIN_KV_LIST_PAGES,
                                           .sequence = seq,
                                           .slot_layer = layer,
                                           .pages = page};
    SPIN_TRY(kv->config.ops->kv_list(&args, kv->stream));
    SPIN_TRY(resolve(kv, batch, kv->lists));
    if (spin_device_is_host(kv->stream)) {
        check_found(kv);
    }
    count_offloaded(kv, 1);
    return offload(kv, batch, kv->one.offloaded);
}

spin_status spin_kv_write_open_page(struct spin_kv *kv, uint32_t seq)
{
    struct spin_kv_sequence *sequence = &kv->sequences[seq];
    SPIN_ASSERT_EQ(kv->pass, SPIN_KV_PASS_NONE);
    if (!sequence->open_page_dirty) {
        return SPIN_OK;
    }
    const struct spin_kv_range page = {.first = (sequence->tokens - 1) / kv->config.page_tokens,
                                       .count = 1};
    SPIN_TRY(write_one(kv, seq, page));
    for (uint32_t layer = 0; layer < kv->config.layout.layers; layer++) {
        SPIN_TRY(write_open_page(kv, seq, layer, page));
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

/* What a step completes is at the end of the lists, whatever else it selects. */
static void find_completed(struct spin_kv *kv, uint32_t index)
{
    const uint32_t page_tokens = kv->config.page_tokens;
    const uint32_t partition_tokens = kv->config.partition_tokens;
    const uint32_t tokens = kv->staged.tokens[index];
    if (tokens % page_tokens == 0) {
        kv->staged.offloaded[index] =
            (struct spin_kv_range){.first = tokens / page_tokens - 1, .count = 1};
    }
    if (tokens % partition_tokens == 0 && kv->config.summary_bytes > 0) {
        const uint32_t pages = partition_tokens / page_tokens;
        kv->staged.sealed[index] =
            (struct spin_kv_range){.first = tokens / page_tokens - pages, .count = pages};
    }
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
        stage(kv, &kv->staged, i, steps[i].seq.v, steps[i].tokens);
        find_completed(kv, i);
    }
    return begin_pass(kv, SPIN_KV_PASS_STEP, count);
}

spin_status spin_kv_resolve(struct spin_kv *kv, uint32_t layer, struct spin_kv_wave wave,
                            struct spin_page_lists *out)
{
    struct spin_kv_lists lists;
    const struct spin_kv_batch batch = spin_kv_get_wave(kv, layer, wave, &lists);
    SPIN_ASSERT_EQ(kv->pass, SPIN_KV_PASS_STEP);
    SPIN_TRY(resolve(kv, batch, lists));
    if (kv->poison) {
        poison_misses(kv, &lists, batch.count * kv->config.layout.kv_heads);
    }
    kv->pass_layer = layer;
    *out = page_lists(kv, wave.first);
    return SPIN_OK;
}

spin_status spin_kv_gather(struct spin_kv *kv, uint32_t layer, struct spin_kv_wave wave)
{
    struct spin_kv_lists lists;
    const struct spin_kv_batch batch = spin_kv_get_wave(kv, layer, wave, &lists);
    SPIN_ASSERT_EQ(kv->pass, SPIN_KV_PASS_STEP);
    SPIN_ASSERT_EQ(kv->pass_layer, layer);
    return kv->may_miss ? gather(kv, batch, lists) : SPIN_OK;
}

uint32_t spin_kv_sealed(const struct spin_kv *kv, const struct spin_kv_range **out)
{
    SPIN_ASSERT_THREAD(&kv->owner);
    SPIN_ASSERT_NE(kv->pass, SPIN_KV_PASS_NONE);
    *out = kv->inputs.sealed;
    return kv->sealed_pages;
}

/* The KV of a layer is there, for the whole batch. */
static void book_layer(struct spin_kv *kv, uint32_t layer)
{
    count_offloaded(kv, kv->offloaded_pages);
    for (uint32_t i = 0; i < kv->pass_count; i++) {
        *spin_kv_layer_tokens_of(kv, kv->staged.sequence[i], layer) = kv->staged.tokens[i];
    }
}

uint32_t spin_kv_step_work(const struct spin_kv *kv)
{
    SPIN_ASSERT_THREAD(&kv->owner);
    SPIN_ASSERT_EQ(kv->pass, SPIN_KV_PASS_STEP);
    return (kv->sealed_pages > 0 ? SPIN_KV_WORK_INDEX : 0) |
           (kv->offloaded_pages > 0 ? SPIN_KV_WORK_OFFLOAD : 0) |
           (kv->may_miss ? SPIN_KV_WORK_GATHER : 0);
}

void spin_kv_step_recorded(struct spin_kv *kv)
{
    SPIN_ASSERT_THREAD(&kv->owner);
    SPIN_ASSERT_EQ(kv->pass, SPIN_KV_PASS_STEP);
    SPIN_ASSERT_EQ(kv->pass_layer, SPIN_KV_LAYER_NONE); /* no layer's calls were made */
    for (uint32_t layer = 0; layer < kv->config.layout.layers; layer++) {
        book_layer(kv, layer);
        kv->pass_layer = layer;
    }
}

/* A unit is over with its Offload. */
static void end_unit(struct spin_kv *kv, uint32_t layer)
{
    const uint32_t seq = kv->staged.sequence[0];
    struct spin_kv_sequence *sequence = &kv->sequences[seq];
    sequence->tokens = kv->staged.tokens[0];
    if (sequence->arena_row > 0) {
        sequence->arena_layer = layer;
        sequence->arena_tokens = sequence->tokens;
    } else if (layer + 1 == kv->config.layout.layers && sequence->tokens == sequence->goal) {
        sequence->phase = SPIN_KV_DECODE;
        spin_kv_plan_next(kv, seq);
    }
    kv->pass = SPIN_KV_PASS_NONE;
}

spin_status spin_kv_offload(struct spin_kv *kv, uint32_t layer)
{
    SPIN_ASSERT_THREAD(&kv->owner);
    SPIN_ASSERT_NE(kv->pass, SPIN_KV_PASS_NONE);
    SPIN_ASSERT_EQ(kv->pass_layer, layer);
    if (kv->offloaded_pages > 0) {
        SPIN_TRY(offload(kv, spin_kv_get_batch(kv, layer), kv->inputs.offloaded));
    }
    book_layer(kv, layer);
    if (kv->pass == SPIN_KV_PASS_PREFILL) {
        end_unit(kv, layer);
        return SPIN_OK;
    }
    return layer + 1 == kv->config.layout.layers ? spin_kv_read_counters(kv) : SPIN_OK;
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
        SPIN_TRY(end_step_of(kv, kv->staged.sequence[i], kv->staged.tokens[i]));
    }
    return SPIN_OK;
}

/* --- a unit of prefill --- */

/* What the unit [begin, tokens) of the staged sequence completes. */
static void find_unit_completed(struct spin_kv *kv, uint32_t begin)
{
    const uint32_t end = kv->staged.tokens[0];
    const uint32_t first = begin / kv->config.page_tokens;
    kv->staged.offloaded[0] =
        (struct spin_kv_range){.first = first, .count = spin_kv_pages_of(kv, end) - first};
    if (kv->config.summary_bytes > 0) {
        const uint32_t partition = kv->config.partition_tokens;
        const uint32_t pages = partition / kv->config.page_tokens;
        kv->staged.sealed[0] =
            (struct spin_kv_range){.first = begin / partition * pages,
                                   .count = (end / partition - begin / partition) * pages};
    }
}

/* The lists of all pages there are, in order. */
static spin_status list_unit(struct spin_kv *kv, uint32_t slot_layer)
{
    const uint32_t tokens = kv->staged.tokens[0];
    const struct spin_kv_list_args args = {
        .view = &kv->view,
        .lists = kv->lists,
        .kind = SPIN_KV_LIST_SLOTS,
        .sequence = kv->staged.sequence[0],
        .slot_layer = slot_layer,
        .pages = {.first = 0, .count = spin_kv_pages_of(kv, tokens)},
        .tokens = tokens};
    return kv->config.ops->kv_list(&args, kv->stream);
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
    stage(kv, &kv->staged, 0, seq.v, end);
    find_unit_completed(kv, begin);
    SPIN_TRY(begin_pass(kv, SPIN_KV_PASS_PREFILL, 1));
    SPIN_TRY(list_unit(kv, slot_layer));
    kv->pass_layer = layer;
    *out = page_lists(kv, 0);
    return SPIN_OK;
}
