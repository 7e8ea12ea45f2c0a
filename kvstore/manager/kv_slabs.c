/* The slabs of one sequence: what its rows or its arena are made of. The rows of a layer get theirs
 * together, a group at a time. An arena lies in the slab list of layer 0, whose count stays 0:
 * operations that walk tables see a sequence without rows. */
#include "kvstore/manager/kv_internal.h"

#include <string.h>

static uint32_t *groups_of(const struct spin_kv *kv, uint32_t seq, uint32_t layer)
{
    return kv->slab_list + ((uint64_t)seq * kv->config.layout.layers + layer) * kv->view.slabs_max;
}

/* These groups of a layer's list, from the free ones. */
static void take(struct spin_kv *kv, uint32_t seq, uint32_t layer, struct spin_kv_range groups)
{
    const uint32_t heads = kv->config.layout.kv_heads;
    uint32_t *list = groups_of(kv, seq, layer) + groups.first;
    SPIN_ASSERT_LE(groups.first + groups.count, kv->view.slabs_max);
    SPIN_ASSERT_LE((uint64_t)groups.count * heads, kv->slabs_free);
    for (uint32_t i = 0; i < groups.count; i++) {
        kv->slabs_free -= heads;
        list[i] = kv->free_groups[kv->slabs_free / heads];
        SPIN_ASSERT_EQ(kv->group_owner[list[i]], SPIN_KV_NOBODY);
        kv->group_owner[list[i]] = seq;
    }
    kv->sequences[seq].slabs += groups.count * heads;
    spin_kv_touch(kv, seq, SPIN_KV_DIRTY_SLABS);
}

static void give_group(struct spin_kv *kv, uint32_t seq, uint32_t group)
{
    const uint32_t heads = kv->config.layout.kv_heads;
    SPIN_ASSERT_LT(group, kv->slabs / heads);
    SPIN_ASSERT_EQ(kv->group_owner[group], seq);
    SPIN_ASSERT_LT(kv->slabs_free, kv->slabs);
    kv->group_owner[group] = SPIN_KV_NOBODY;
    kv->free_groups[kv->slabs_free / heads] = group;
    kv->slabs_free += heads;
    if (kv->poison) {
        const uint64_t bytes = (uint64_t)heads * SPIN_SLAB_SLOTS * kv->page_bytes;
        memset(kv->view.pool + group * bytes, 0xFF, bytes); /* BF16 NaN */
    }
}

static void give(struct spin_kv *kv, uint32_t seq, uint32_t layer, struct spin_kv_range groups)
{
    const uint32_t heads = kv->config.layout.kv_heads;
    const uint32_t *list = groups_of(kv, seq, layer) + groups.first;
    for (uint32_t i = 0; i < groups.count; i++) {
        give_group(kv, seq, list[i]);
    }
    SPIN_ASSERT_GE(kv->sequences[seq].slabs, groups.count * heads);
    kv->sequences[seq].slabs -= groups.count * heads;
    spin_kv_touch(kv, seq, SPIN_KV_DIRTY_SLABS);
}

static struct spin_kv_range range(uint32_t begin, uint32_t end)
{
    return (struct spin_kv_range){.first = begin, .count = end - begin};
}

uint32_t spin_kv_level_row(const struct spin_kv *kv, uint32_t seq, uint32_t layer,
                           enum spin_kv_level level)
{
    const uint32_t tokens = kv->sequences[seq].planned;
    switch (level) {
    case SPIN_KV_LEVEL_NONE:
        return 0;
    case SPIN_KV_MANDATORY:
        return spin_kv_mandatory_row(&kv->budget, layer, tokens);
    case SPIN_KV_FLOOR:
        return spin_kv_floor_row(&kv->budget, layer, tokens);
    case SPIN_KV_TARGET:
        return spin_kv_target_row(
            &kv->budget, layer, tokens,
            kv->working_set[(uint64_t)seq * kv->config.layout.layers + layer]);
    case SPIN_KV_FULL:
        return spin_kv_full_row(&kv->budget, tokens);
    }
    SPIN_ASSERT(false);
    return 0;
}

void spin_kv_set_residency(struct spin_kv *kv, uint32_t seq, enum spin_kv_residency residency)
{
    kv->residency[seq] = (uint8_t)residency;
    spin_kv_touch(kv, seq, SPIN_KV_DIRTY_SLABS);
}

/* --- grants --- */

void spin_kv_grow_resident(struct spin_kv *kv, uint32_t seq, uint32_t tokens)
{
    SPIN_ASSERT(spin_kv_is_resident_now(kv, seq));
    const uint32_t slabs = spin_kv_full_row(&kv->budget, tokens);
    for (uint32_t layer = 0; layer < kv->config.layout.layers; layer++) {
        uint32_t *count = spin_kv_count_of(kv, seq, layer);
        if (*count < slabs) {
            take(kv, seq, layer, range(*count, slabs));
            *count = slabs;
        }
    }
}

void spin_kv_grant_resident(struct spin_kv *kv, uint32_t seq, uint32_t tokens)
{
    SPIN_ASSERT_EQ(kv->sequences[seq].slabs, 0);
    spin_kv_set_residency(kv, seq, SPIN_KV_RESIDENT);
    spin_kv_grow_resident(kv, seq, tokens);
}

void spin_kv_grant_arena(struct spin_kv *kv, uint32_t seq, uint32_t tokens)
{
    struct spin_kv_sequence *sequence = &kv->sequences[seq];
    SPIN_ASSERT_EQ(sequence->slabs, 0);
    spin_kv_set_residency(kv, seq, SPIN_KV_BUFFERED);
    sequence->arena_row = spin_kv_full_row(&kv->budget, tokens);
    sequence->arena_layer = SPIN_KV_LAYER_NONE;
    take(kv, seq, 0, range(0, sequence->arena_row));
}

/* The tables of a layer follow its slabs: what the device knows of them is flushed. */
static spin_status resize(struct spin_kv *kv, uint32_t seq, uint32_t layer, uint32_t before,
                          uint32_t after)
{
    const struct spin_kv_resize_args args = {
        .view = &kv->view,
        .sequence = seq,
        .layer = layer,
        .step = kv->sequences[seq].steps,
        .before = before * SPIN_SLAB_SLOTS,
        .after = after * SPIN_SLAB_SLOTS,
    };
    return kv->config.ops->kv_resize[kv->config.replacement](&args, kv->stream);
}

spin_status spin_kv_grow_rows(struct spin_kv *kv, uint32_t seq, enum spin_kv_level level)
{
    SPIN_ASSERT(!spin_kv_is_resident_now(kv, seq));
    SPIN_ASSERT_EQ(kv->sequences[seq].arena_row, 0);
    bool grown = false;
    for (uint32_t layer = 0; layer < kv->config.layout.layers; layer++) {
        uint32_t *count = spin_kv_count_of(kv, seq, layer);
        const uint32_t wanted = spin_kv_level_row(kv, seq, layer, level);
        const uint32_t free = kv->slabs_free / kv->config.layout.kv_heads;
        const uint32_t missing = wanted > *count ? SPIN_MIN(wanted - *count, free) : 0;
        kv->before[layer] = *count;
        if (missing > 0) {
            take(kv, seq, layer, range(*count, *count + missing));
            *count += missing;
            grown = true;
        }
    }
    if (!grown) {
        return SPIN_OK;
    }
    SPIN_TRY(spin_kv_flush(kv));
    for (uint32_t layer = 0; layer < kv->config.layout.layers; layer++) {
        const uint32_t after = *spin_kv_count_of(kv, seq, layer);
        if (after > kv->before[layer]) {
            SPIN_TRY(resize(kv, seq, layer, kv->before[layer], after));
        }
    }
    return SPIN_OK;
}

/* --- giving back --- */

/* Slabs of a row that hold pages. */
static uint32_t slabs_used(const struct spin_kv *kv, uint32_t seq)
{
    const uint32_t pages = spin_kv_pages_of(kv, kv->sequences[seq].tokens);
    return (pages + SPIN_SLAB_SLOTS - 1) / SPIN_SLAB_SLOTS;
}

/* The first of those that stay when a RESIDENT row keeps `after` slabs: the newest pages do. */
static uint32_t first_kept(const struct spin_kv *kv, uint32_t seq, uint32_t after)
{
    const uint32_t used = slabs_used(kv, seq);
    return used > after ? used - after : 0;
}

/* RESIDENT to BUFFERED, one layer: what stays does so in the slabs that it is in. */
static void keep_newest(struct spin_kv *kv, uint32_t seq, uint32_t layer, uint32_t wanted)
{
    uint32_t *count = spin_kv_count_of(kv, seq, layer);
    const uint32_t after = SPIN_MIN(wanted, *count);
    const uint32_t first = first_kept(kv, seq, after);
    SPIN_ASSERT_GE(after, 1);
    SPIN_ASSERT_LE(slabs_used(kv, seq), *count);
    give(kv, seq, layer, range(0, first));
    give(kv, seq, layer, range(first + after, *count));
    uint32_t *list = groups_of(kv, seq, layer);
    memmove(list, list + first, after * sizeof *list);
    *count = after;
    kv->stats.pages_dropped += (uint64_t)first * SPIN_SLAB_SLOTS * kv->config.layout.kv_heads;
}

/* The tables of such a layer: it had none. */
static spin_status resize_newest(struct spin_kv *kv, uint32_t seq, uint32_t layer)
{
    const struct spin_kv_sequence *sequence = &kv->sequences[seq];
    const uint32_t after = *spin_kv_count_of(kv, seq, layer);
    const uint32_t first = first_kept(kv, seq, after);
    const struct spin_kv_resize_args args = {
        .view = &kv->view,
        .sequence = seq,
        .layer = layer,
        .step = sequence->steps,
        .before = 0,
        .after = after * SPIN_SLAB_SLOTS,
        .first_page = first * SPIN_SLAB_SLOTS,
        .held = spin_kv_pages_of(kv, sequence->tokens) - first * SPIN_SLAB_SLOTS,
    };
    return kv->config.ops->kv_resize[kv->config.replacement](&args, kv->stream);
}

static spin_status demote(struct spin_kv *kv, uint32_t seq, enum spin_kv_level level)
{
    const uint32_t layers = kv->config.layout.layers;
    for (uint32_t layer = 0; layer < layers; layer++) {
        keep_newest(kv, seq, layer, spin_kv_level_row(kv, seq, layer, level));
    }
    spin_kv_set_residency(kv, seq, SPIN_KV_BUFFERED);
    kv->sequences[seq].steps_buffered = 0;
    kv->stats.demotions++;
    SPIN_TRY(spin_kv_flush(kv));
    for (uint32_t layer = 0; layer < layers; layer++) {
        SPIN_TRY(resize_newest(kv, seq, layer));
    }
    return SPIN_OK;
}

/* In the middle of a prompt: all that was written is on the host, so the rows of layer 0 stay as
 * the arena and the others go. */
static void demote_to_arena(struct spin_kv *kv, uint32_t seq)
{
    struct spin_kv_sequence *sequence = &kv->sequences[seq];
    sequence->arena_row = *spin_kv_count_of(kv, seq, 0);
    sequence->arena_layer = 0;
    sequence->arena_tokens = *spin_kv_layer_tokens_of(kv, seq, 0);
    *spin_kv_count_of(kv, seq, 0) = 0;
    for (uint32_t layer = 1; layer < kv->config.layout.layers; layer++) {
        uint32_t *count = spin_kv_count_of(kv, seq, layer);
        give(kv, seq, layer, range(0, *count));
        *count = 0;
    }
    spin_kv_set_residency(kv, seq, SPIN_KV_BUFFERED);
    kv->stats.demotions++;
}

spin_status spin_kv_shrink(struct spin_kv *kv, uint32_t seq, enum spin_kv_level level,
                           uint32_t wanted)
{
    struct spin_kv_sequence *sequence = &kv->sequences[seq];
    if (spin_kv_is_resident_now(kv, seq)) {
        if (sequence->phase == SPIN_KV_PREFILL) {
            demote_to_arena(kv, seq);
            return SPIN_OK;
        }
        return demote(kv, seq, level);
    }
    SPIN_ASSERT_EQ(sequence->arena_row, 0);
    SPIN_TRY(spin_kv_write_open_page(kv, seq)); /* its slot may be among those that go */
    SPIN_TRY(spin_kv_flush(kv));
    for (uint32_t layer = 0; layer < kv->config.layout.layers && kv->slabs_free < wanted; layer++) {
        uint32_t *count = spin_kv_count_of(kv, seq, layer);
        const uint32_t after = spin_kv_level_row(kv, seq, layer, level);
        if (after < *count) { /* on the device the layer keeps its slabs until the next flush */
            SPIN_TRY(resize(kv, seq, layer, *count, after));
            give(kv, seq, layer, range(after, *count));
            *count = after;
        }
    }
    sequence->dropping = true;
    return SPIN_OK;
}

void spin_kv_release_slabs(struct spin_kv *kv, uint32_t seq)
{
    struct spin_kv_sequence *sequence = &kv->sequences[seq];
    give(kv, seq, 0, range(0, sequence->arena_row));
    sequence->arena_row = 0;
    sequence->arena_layer = SPIN_KV_LAYER_NONE;
    for (uint32_t layer = 0; layer < kv->config.layout.layers; layer++) {
        uint32_t *count = spin_kv_count_of(kv, seq, layer);
        give(kv, seq, layer, range(0, *count));
        *count = 0;
    }
    SPIN_ASSERT_EQ(sequence->slabs, 0);
    spin_kv_set_residency(kv, seq, SPIN_KV_BUFFERED);
}
