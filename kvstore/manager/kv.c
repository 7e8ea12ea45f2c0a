/* Create and destroy, and a sequence's place among the others. */
#include "kvstore/manager/kv.h"

#include "base/checked.h"
#include "kvstore/manager/kv_internal.h"

#include <inttypes.h>
#include <stdlib.h>

/* --- configuration --- */

static spin_status check_pages(const struct spin_kv_config *config, struct spin_error *err)
{
    if (config->page_tokens != 8 && config->page_tokens != 32) {
        return spin_fail(err, SPIN_ERR_INVALID, "page_tokens %u: must be 8 or 32",
                         config->page_tokens);
    }
    if (config->partition_tokens == 0 || config->partition_tokens % config->page_tokens != 0 ||
        SPIN_BLOCK_TOKENS % config->partition_tokens != 0) {
        return spin_fail(
            err, SPIN_ERR_INVALID,
            "partition_tokens %u: must be a multiple of page_tokens %u that divides %u",
            config->partition_tokens, config->page_tokens, SPIN_BLOCK_TOKENS);
    }
    if (config->tokens_max < 1 || config->tokens_max > SPIN_KV_TOKENS_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "tokens_max %u: must be 1 to %u", config->tokens_max,
                         SPIN_KV_TOKENS_MAX);
    }
    if (config->sequences_max < 1) {
        return spin_fail(err, SPIN_ERR_INVALID, "sequences_max 0: must be at least 1");
    }
    if (config->replacement != SPIN_KV_SLOT_LRU && config->replacement != SPIN_KV_BUCKETED) {
        return spin_fail(err, SPIN_ERR_INVALID, "replacement %d: no such policy",
                         (int)config->replacement);
    }
    if (config->bucket_shift > SPIN_BUCKET_SHIFT_MAX) {
        return spin_fail(err, SPIN_ERR_INVALID, "bucket_shift %u: must be 0 to %u",
                         config->bucket_shift, SPIN_BUCKET_SHIFT_MAX);
    }
    return SPIN_OK;
}

static struct spin_kv_budget budget_of(const struct spin_kv_config *config)
{
    return (struct spin_kv_budget){.layers = config->layout.layers,
                                   .kv_heads = config->layout.kv_heads,
                                   .page_tokens = config->page_tokens,
                                   .demand = config->demand};
}

uint64_t spin_kv_slab_bytes(const struct spin_kv_config *config)
{
    return SPIN_SLAB_SLOTS * spin_page_bytes(&config->layout, config->page_tokens);
}

uint64_t spin_kv_pool_slabs(const struct spin_kv_config *config)
{
    const uint64_t slabs = config->hbm_bytes / spin_kv_slab_bytes(config);
    return slabs - slabs % config->layout.kv_heads;
}

/* Every length has its turn while a sequence grows. */
static spin_status check_pools(const struct spin_kv_config *config, struct spin_error *err)
{
    const struct spin_kv_budget budget = budget_of(config);
    const uint64_t hbm =
        spin_kv_longest_claim_slabs(&budget, config->tokens_max) * spin_kv_slab_bytes(config);
    if (config->hbm_bytes < hbm) {
        return spin_fail(err, SPIN_ERR_LIMIT,
                         "KV slots of %" PRIu64 " bytes: one sequence of %u tokens needs %" PRIu64
                         "; give more memory or lower the longest sequence",
                         config->hbm_bytes, config->tokens_max, hbm);
    }
    const uint64_t host =
        spin_kv_blocks_for(config->tokens_max) * spin_block_bytes(&config->layout);
    if (config->host_bytes < host) {
        return spin_fail(err, SPIN_ERR_LIMIT,
                         "KV blocks of %" PRIu64 " bytes: one sequence of %u tokens needs %" PRIu64
                         "; give more memory or lower the longest sequence",
                         config->host_bytes, config->tokens_max, host);
    }
    return SPIN_OK;
}

/* What follows from the configuration alone. */
static spin_status size_up(struct spin_kv *kv, struct spin_error *err)
{
    const struct spin_kv_config *config = &kv->config;
    kv->budget = budget_of(config);
    kv->rows = config->layout.layers * config->layout.kv_heads;
    kv->page_bytes = spin_page_bytes(&config->layout, config->page_tokens);
    kv->block_bytes = spin_block_bytes(&config->layout);
    kv->summary_bytes =
        (uint64_t)kv->rows * (SPIN_BLOCK_TOKENS / config->partition_tokens) * config->summary_bytes;
    kv->pages_max = spin_kv_pages_of(kv, config->tokens_max);
    kv->view = (struct spin_kv_view){
        .layout = config->layout,
        .page_tokens = config->page_tokens,
        .partition_tokens = config->partition_tokens,
        .summary_bytes = config->summary_bytes,
        .slabs_max = spin_kv_full_row(&kv->budget, config->tokens_max),
        .directory_max = (kv->pages_max + SPIN_LEAF_PAGES - 1) / SPIN_LEAF_PAGES,
        .blocks_max = spin_kv_blocks_for(config->tokens_max),
        .bucket_shift = config->bucket_shift,
    };
    const uint64_t slabs = spin_kv_pool_slabs(config);
    const uint64_t blocks = config->host_bytes / kv->block_bytes;
    if (slabs > UINT32_MAX / SPIN_SLAB_SLOTS || blocks >= UINT32_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT,
                         "KV pools of %" PRIu64 " and %" PRIu64
                         " bytes: more than %u slots or blocks",
                         config->hbm_bytes, config->host_bytes, UINT32_MAX);
    }
    kv->slabs = (uint32_t)slabs;
    kv->blocks = (uint32_t)blocks;
    kv->view.frame_blocks =
        config->frame_blocks == 0 ? kv->blocks : SPIN_MIN(config->frame_blocks, kv->blocks);
    return SPIN_OK;
}

static spin_status alloc_control(struct spin_kv *kv, struct spin_error *err)
{
    const uint32_t sequences = kv->config.sequences_max;
    const uint64_t layers = (uint64_t)sequences * kv->config.layout.layers;
    const uint32_t groups = kv->slabs / kv->config.layout.kv_heads;
    kv->free_blocks = calloc(kv->blocks, sizeof *kv->free_blocks);
    kv->block_holder = calloc(kv->blocks, sizeof *kv->block_holder);
    kv->free_groups = calloc(groups, sizeof *kv->free_groups);
    kv->group_owner = calloc(groups, sizeof *kv->group_owner);
    kv->free_sequences = calloc(sequences, sizeof *kv->free_sequences);
    kv->sequences = calloc(sequences, sizeof *kv->sequences);
    kv->working_set = calloc(layers, sizeof *kv->working_set);
    kv->layer_tokens = calloc(layers, sizeof *kv->layer_tokens);
    kv->dirty = calloc(sequences, sizeof *kv->dirty);
    kv->no_counters = calloc(kv->rows, sizeof *kv->no_counters);
    kv->row_counters = calloc(kv->rows, sizeof *kv->row_counters);
    kv->before = calloc(kv->config.layout.layers, sizeof *kv->before);
    kv->one_staged = spin_kv_inputs_at(calloc(1, spin_kv_inputs_bytes(1)), 1);
    kv->check_pages = calloc(kv->pages_max, sizeof *kv->check_pages);
    kv->check_slots =
        calloc((uint64_t)kv->view.slabs_max * SPIN_SLAB_SLOTS, sizeof *kv->check_slots);
    kv->check_marks = calloc(SPIN_MAX(kv->slabs, kv->blocks), 1);
    if (kv->free_blocks == NULL || kv->block_holder == NULL || kv->free_groups == NULL ||
        kv->group_owner == NULL || kv->free_sequences == NULL || kv->sequences == NULL ||
        kv->working_set == NULL || kv->layer_tokens == NULL || kv->dirty == NULL ||
        kv->no_counters == NULL || kv->row_counters == NULL || kv->before == NULL ||
        kv->one_staged.sequence == NULL || kv->check_pages == NULL || kv->check_slots == NULL ||
        kv->check_marks == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "KV manager: %u slabs, %u blocks, %u sequences",
                         kv->slabs, kv->blocks, sequences);
    }
    for (uint32_t i = 0; i < kv->blocks; i++) {
        kv->free_blocks[i] = kv->blocks - 1 - i;
        kv->block_holder[i] = SPIN_KV_NOBODY;
    }
    for (uint32_t i = 0; i < groups; i++) {
        kv->free_groups[i] = groups - 1 - i;
        kv->group_owner[i] = SPIN_KV_NOBODY;
    }
    for (uint32_t i = 0; i < sequences; i++) {
        kv->free_sequences[i] = sequences - 1 - i;
    }
    kv->blocks_free = kv->blocks;
    kv->slabs_free = kv->slabs;
    kv->pass_layer = SPIN_KV_LAYER_NONE;
    return SPIN_OK;
}

spin_status spin_kv_create(const struct spin_kv_config *config, struct spin_stream *stream,
                           struct spin_kv **out, struct spin_error *err)
{
    SPIN_ASSERT(config->ops != NULL);
    SPIN_ASSERT(config->demand.mandatory != NULL);
    SPIN_TRY(spin_kv_layout_check(&config->layout, err));
    SPIN_TRY(check_pages(config, err));
    SPIN_TRY(check_pools(config, err));
    struct spin_kv *kv = calloc(1, sizeof *kv);
    if (kv == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "KV manager: %zu bytes", sizeof *kv);
    }
    kv->config = *config;
    kv->stream = stream;
    spin_status status = SPIN_OK;
    SPIN_TRY_GOTO(status, size_up(kv, err), fail);
    SPIN_TRY_GOTO(status, alloc_control(kv, err), fail);
    SPIN_TRY_GOTO(status, spin_kv_alloc_memory(kv, err), fail);
    *out = kv;
    return SPIN_OK;
fail:
    spin_kv_destroy(kv);
    return status;
}

void spin_kv_destroy(struct spin_kv *kv)
{
    if (kv == NULL) {
        return;
    }
    SPIN_ASSERT_EQ(kv->sequences_open, 0);
    spin_kv_free_memory(kv);
    free(kv->free_blocks);
    free(kv->block_holder);
    free(kv->free_groups);
    free(kv->group_owner);
    free(kv->free_sequences);
    free(kv->sequences);
    free(kv->working_set);
    free(kv->layer_tokens);
    free(kv->dirty);
    free(kv->no_counters);
    free(kv->row_counters);
    free(kv->before);
    free(kv->one_staged.sequence);
    free(kv->check_pages);
    free(kv->check_slots);
    free(kv->check_marks);
    free(kv);
}

/* --- sequences --- */

struct spin_kv_sequence *spin_kv_sequence_of(const struct spin_kv *kv, spin_kv_seq seq)
{
    SPIN_ASSERT_THREAD(&kv->owner);
    SPIN_ASSERT_LT(seq.v, kv->config.sequences_max);
    SPIN_ASSERT_NE(kv->sequences[seq.v].phase, SPIN_KV_CLOSED);
    return &kv->sequences[seq.v];
}

spin_status spin_kv_open(struct spin_kv *kv, spin_kv_seq *out)
{
    if (kv->owner.thread == 0) {
        spin_owner_set(&kv->owner);
    }
    SPIN_ASSERT_THREAD(&kv->owner);
    if (kv->sequences_open == kv->config.sequences_max) {
        return SPIN_ERR_AGAIN;
    }
    out->v = kv->free_sequences[kv->config.sequences_max - kv->sequences_open - 1];
    SPIN_TRY(spin_kv_zero_counters(kv, out->v));
    kv->sequences_open++;
    struct spin_kv_sequence *sequence = &kv->sequences[out->v];
    SPIN_ASSERT_EQ(sequence->phase, SPIN_KV_CLOSED);
    SPIN_ASSERT_EQ(sequence->blocks, 0);
    SPIN_ASSERT_EQ(sequence->slabs, 0);
    *sequence = (struct spin_kv_sequence){.phase = SPIN_KV_IDLE, .arena_layer = SPIN_KV_LAYER_NONE};
    for (uint32_t layer = 0; layer < kv->config.layout.layers; layer++) {
        *spin_kv_layer_tokens_of(kv, out->v, layer) = 0;
    }
    return SPIN_OK;
}

void spin_kv_close(struct spin_kv *kv, spin_kv_seq seq)
{
    struct spin_kv_sequence *sequence = spin_kv_sequence_of(kv, seq);
    for (uint32_t i = 0; kv->pass != SPIN_KV_PASS_NONE && i < kv->pass_count; i++) {
        if (kv->staged.sequence[i] == seq.v) {
            kv->pass = SPIN_KV_PASS_NONE; /* an operation failed: nobody ends this pass */
        }
    }
    if (spin_kv_is_active(sequence)) {
        spin_kv_count_dropped(kv, seq.v);
        spin_kv_release_slabs(kv, seq.v);
    }
    spin_kv_release_blocks(kv, seq.v);
    sequence->phase = SPIN_KV_CLOSED;
    SPIN_ASSERT_GT(kv->sequences_open, 0);
    kv->free_sequences[kv->config.sequences_max - kv->sequences_open] = seq.v;
    kv->sequences_open--;
}

const struct spin_kv_budget *spin_kv_get_budget(const struct spin_kv *kv)
{
    return &kv->budget;
}

void spin_kv_set_poison(struct spin_kv *kv, bool on)
{
    SPIN_ASSERT(!on || spin_device_is_host(kv->stream));
    SPIN_ASSERT(!on || kv->view.frame_blocks == kv->blocks); /* a frame is its block's alone */
    kv->poison = on;
}
