/* One resident pool and dense lists.
 *
 *   pool     block b holds slots [b S, (b + 1) S), S = layers * kv_heads * B pages,
 *            B = SPIN_BLOCK_TOKENS / page_tokens; inside it [layer][kv head][B]
 *   lists    [sequence][layer][kv head][pages_max] slots: row_offset is the same for every layer,
 *   and
 *            a layer is a constant distance into the table
 *   blocks   [sequence][blocks_max]: which blocks a sequence holds, in order
 *
 * A list is written when its block is taken, so planning a step touches two numbers per row. */
#include "kvstore/manager/kv.h"

#include "base/assert.h"
#include "base/checked.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define NOBODY UINT32_MAX /* holder of a free block */

struct sequence {
    bool open;
    uint32_t block_count;
};

struct spin_kv {
    struct spin_kv_config config;
    struct spin_stream *stream;
    struct spin_owner owner; /* the first thread that opens a sequence */
    bool poison;

    uint32_t rows;            /* layers * kv_heads */
    uint32_t pages_per_block; /* of one row */
    uint32_t blocks_max;      /* of one sequence */
    uint32_t pages_max;       /* of one row of one sequence */
    uint64_t block_bytes;

    uint32_t blocks;
    uint32_t blocks_free;
    uint32_t
        *free_blocks; /* [blocks], a stack: what was used last is used next and is in the caches */
    uint32_t *holder; /* [blocks] */

    uint32_t sequences_open;
    uint32_t *free_sequences; /* [sequences_max], a stack */
    struct sequence *sequences;
    uint32_t *sequence_blocks; /* [sequences_max][blocks_max] */

    /* Device memory: what operations read. */
    uint8_t *pool;
    uint32_t *slots;      /* [sequences_max][layers][kv_heads][pages_max] */
    uint64_t *row_offset; /* [sequences_max * kv_heads], of the plan */
    uint32_t *visible;    /* [sequences_max * kv_heads], of the plan */
};

uint32_t spin_kv_blocks_for(uint32_t tokens)
{
    return tokens / SPIN_BLOCK_TOKENS + (tokens % SPIN_BLOCK_TOKENS != 0);
}

static spin_status check_config(const struct spin_kv_config *config, struct spin_error *err)
{
    SPIN_TRY(spin_kv_layout_check(&config->layout, err));
    if (config->page_tokens != 8 && config->page_tokens != 32) {
        return spin_fail(err, SPIN_ERR_INVALID, "page_tokens %u: must be 8 or 32",
                         config->page_tokens);
    }
    const uint32_t tokens_limit = SPIN_ROW_PAGES_MAX * SPIN_TILE_TOKENS;
    if (config->tokens_max < 1 || config->tokens_max > tokens_limit) {
        return spin_fail(err, SPIN_ERR_LIMIT, "tokens_max %u: must be 1 to %u", config->tokens_max,
                         tokens_limit);
    }
    if (config->sequences_max < 1) {
        return spin_fail(err, SPIN_ERR_INVALID, "sequences_max 0: must be at least 1");
    }
    const uint64_t needed =
        spin_kv_blocks_for(config->tokens_max) * spin_block_bytes(&config->layout);
    if (config->pool_bytes < needed) {
        return spin_fail(err, SPIN_ERR_LIMIT,
                         "KV pool of %" PRIu64 " bytes: one sequence of %u tokens needs %" PRIu64
                         "; give more memory or lower the longest sequence",
                         config->pool_bytes, config->tokens_max, needed);
    }
    return SPIN_OK;
}

static spin_status size_pool(struct spin_kv *kv, struct spin_error *err)
{
    const struct spin_kv_config *config = &kv->config;
    kv->rows = config->layout.layers * config->layout.kv_heads;
    kv->pages_per_block = SPIN_BLOCK_TOKENS / config->page_tokens;
    kv->blocks_max = spin_kv_blocks_for(config->tokens_max);
    kv->pages_max = kv->blocks_max * kv->pages_per_block;
    kv->block_bytes = spin_block_bytes(&config->layout);
    const uint64_t blocks = config->pool_bytes / kv->block_bytes;
    const uint64_t block_slots = (uint64_t)kv->rows * kv->pages_per_block;
    if (blocks > UINT32_MAX / block_slots) {
        return spin_fail(err, SPIN_ERR_LIMIT,
                         "KV pool of %" PRIu64 " bytes: more than %u pages of %u tokens",
                         config->pool_bytes, UINT32_MAX, config->page_tokens);
    }
    kv->blocks = (uint32_t)blocks;
    return SPIN_OK;
}

static uint64_t list_entries(const struct spin_kv *kv)
{
    return (uint64_t)kv->config.sequences_max * kv->rows * kv->pages_max;
}

static spin_status alloc_device(struct spin_kv *kv, struct spin_error *err)
{
    const uint64_t plan_rows = (uint64_t)kv->config.sequences_max * kv->config.layout.kv_heads;
    void *memory = NULL;
    SPIN_TRY(spin_device_alloc(kv->stream, kv->blocks * kv->block_bytes, &memory, err));
    kv->pool = memory;
    SPIN_TRY(spin_device_alloc(kv->stream, list_entries(kv) * sizeof *kv->slots, &memory, err));
    kv->slots = memory;
    SPIN_TRY(spin_device_alloc(kv->stream, plan_rows * sizeof *kv->row_offset, &memory, err));
    kv->row_offset = memory;
    SPIN_TRY(spin_device_alloc(kv->stream, plan_rows * sizeof *kv->visible, &memory, err));
    kv->visible = memory;
    return SPIN_OK;
}

static spin_status alloc_host(struct spin_kv *kv, struct spin_error *err)
{
    const uint32_t sequences = kv->config.sequences_max;
    kv->free_blocks = calloc(kv->blocks, sizeof *kv->free_blocks);
    kv->holder = calloc(kv->blocks, sizeof *kv->holder);
    kv->free_sequences = calloc(sequences, sizeof *kv->free_sequences);
    kv->sequences = calloc(sequences, sizeof *kv->sequences);
    kv->sequence_blocks = calloc((uint64_t)sequences * kv->blocks_max, sizeof *kv->sequence_blocks);
    if (kv->free_blocks == NULL || kv->holder == NULL || kv->free_sequences == NULL ||
        kv->sequences == NULL || kv->sequence_blocks == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "KV tables: %u blocks, %u sequences", kv->blocks,
                         sequences);
    }
    for (uint32_t i = 0; i < kv->blocks; i++) {
        kv->free_blocks[i] = kv->blocks - 1 - i;
        kv->holder[i] = NOBODY;
    }
    for (uint32_t i = 0; i < sequences; i++) {
        kv->free_sequences[i] = sequences - 1 - i;
    }
    kv->blocks_free = kv->blocks;
    return SPIN_OK;
}

spin_status spin_kv_create(const struct spin_kv_config *config, struct spin_stream *stream,
                           struct spin_kv **out, struct spin_error *err)
{
    SPIN_TRY(check_config(config, err));
    struct spin_kv *kv = calloc(1, sizeof *kv);
    if (kv == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "KV manager: %zu bytes", sizeof *kv);
    }
    kv->config = *config;
    kv->stream = stream;
    spin_status status = SPIN_OK;
    SPIN_TRY_GOTO(status, size_pool(kv, err), fail);
    SPIN_TRY_GOTO(status, alloc_host(kv, err), fail);
    SPIN_TRY_GOTO(status, alloc_device(kv, err), fail);
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
    spin_device_free(kv->stream, kv->pool);
    spin_device_free(kv->stream, kv->slots);
    spin_device_free(kv->stream, kv->row_offset);
    spin_device_free(kv->stream, kv->visible);
    free(kv->free_blocks);
    free(kv->holder);
    free(kv->free_sequences);
    free(kv->sequences);
    free(kv->sequence_blocks);
    free(kv);
}

static struct sequence *get_sequence(struct spin_kv *kv, spin_kv_seq seq)
{
    SPIN_ASSERT_THREAD(&kv->owner);
    SPIN_ASSERT_LT(seq.v, kv->config.sequences_max);
    SPIN_ASSERT(kv->sequences[seq.v].open);
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
    kv->sequences_open++;
    out->v = kv->free_sequences[kv->config.sequences_max - kv->sequences_open];
    struct sequence *sequence = &kv->sequences[out->v];
    SPIN_ASSERT(!sequence->open);
    SPIN_ASSERT_EQ(sequence->block_count, 0);
    sequence->open = true;
    return SPIN_OK;
}

static uint64_t list_start(const struct spin_kv *kv, spin_kv_seq seq, uint32_t row)
{
    return ((uint64_t)seq.v * kv->rows + row) * kv->pages_max;
}

/* Block `block` becomes the next 128 tokens of every row of the sequence. */
static void append_block(struct spin_kv *kv, spin_kv_seq seq, uint32_t block)
{
    struct sequence *sequence = &kv->sequences[seq.v];
    SPIN_ASSERT_LT(sequence->block_count, kv->blocks_max);
    SPIN_ASSERT_EQ(kv->holder[block], NOBODY);
    kv->holder[block] = seq.v;
    const uint32_t index = sequence->block_count++;
    kv->sequence_blocks[(uint64_t)seq.v * kv->blocks_max + index] = block;
    for (uint32_t row = 0; row < kv->rows; row++) {
        const uint32_t slot = (block * kv->rows + row) * kv->pages_per_block;
        uint32_t *list =
            kv->slots + list_start(kv, seq, row) + (uint64_t)index * kv->pages_per_block;
        for (uint32_t page = 0; page < kv->pages_per_block; page++) {
            list[page] = slot + page;
        }
    }
}

spin_status spin_kv_reserve(struct spin_kv *kv, spin_kv_seq seq, uint32_t tokens)
{
    const struct sequence *sequence = get_sequence(kv, seq);
    if (tokens > kv->config.tokens_max) {
        return SPIN_ERR_LIMIT;
    }
    const uint32_t needed = spin_kv_blocks_for(tokens);
    if (needed > sequence->block_count && needed - sequence->block_count > kv->blocks_free) {
        return SPIN_ERR_AGAIN;
    }
    while (sequence->block_count < needed) {
        SPIN_ASSERT_GT(kv->blocks_free, 0);
        append_block(kv, seq, kv->free_blocks[--kv->blocks_free]);
    }
    return SPIN_OK;
}

static void release_block(struct spin_kv *kv, spin_kv_seq seq, uint32_t block)
{
    SPIN_ASSERT_LT(block, kv->blocks);
    SPIN_ASSERT_EQ(kv->holder[block], seq.v);
    SPIN_ASSERT_LT(kv->blocks_free, kv->blocks);
    kv->holder[block] = NOBODY;
    kv->free_blocks[kv->blocks_free++] = block;
    if (kv->poison) {
        memset(kv->pool + block * kv->block_bytes, 0xFF, kv->block_bytes); /* BF16 NaN */
    }
}

void spin_kv_close(struct spin_kv *kv, spin_kv_seq seq)
{
    struct sequence *sequence = get_sequence(kv, seq);
    while (sequence->block_count > 0) {
        sequence->block_count--;
        release_block(
            kv, seq, kv->sequence_blocks[(uint64_t)seq.v * kv->blocks_max + sequence->block_count]);
    }
    sequence->open = false;
    SPIN_ASSERT_GT(kv->sequences_open, 0);
    kv->free_sequences[kv->config.sequences_max - kv->sequences_open] = seq.v;
    kv->sequences_open--;
}

void spin_kv_plan(struct spin_kv *kv, const spin_kv_seq *seqs, const uint32_t *visible,
                  uint32_t count)
{
    SPIN_ASSERT_LE(count, kv->config.sequences_max);
    const uint32_t heads = kv->config.layout.kv_heads;
    for (uint32_t i = 0; i < count; i++) {
        const struct sequence *sequence = get_sequence(kv, seqs[i]);
        SPIN_ASSERT_GE(visible[i], 1);
        SPIN_ASSERT_LE(spin_kv_blocks_for(visible[i]), sequence->block_count);
        for (uint32_t head = 0; head < heads; head++) {
            kv->row_offset[i * heads + head] = list_start(kv, seqs[i], head);
            kv->visible[i * heads + head] = visible[i];
        }
    }
}

struct spin_page_lists spin_kv_layer(const struct spin_kv *kv, uint32_t layer)
{
    SPIN_ASSERT_LT(layer, kv->config.layout.layers);
    const uint64_t first_row = (uint64_t)layer * kv->config.layout.kv_heads;
    return (struct spin_page_lists){.layout = kv->config.layout,
                                    .pool = kv->pool,
                                    .slots = kv->slots + first_row * kv->pages_max,
                                    .row_offset = kv->row_offset,
                                    .visible = kv->visible,
                                    .page_tokens = kv->config.page_tokens};
}

void spin_kv_get_stats(const struct spin_kv *kv, struct spin_kv_stats *out)
{
    const uint64_t plan_rows = (uint64_t)kv->config.sequences_max * kv->config.layout.kv_heads;
    out->pool_bytes = kv->blocks * kv->block_bytes;
    out->table_bytes = list_entries(kv) * sizeof *kv->slots +
                       plan_rows * (sizeof *kv->row_offset + sizeof *kv->visible);
    out->blocks = kv->blocks;
    out->blocks_free = kv->blocks_free;
    out->sequences_open = kv->sequences_open;
}

void spin_kv_set_poison(struct spin_kv *kv, bool on)
{
    kv->poison = on;
}
