#include "bench/gpu/model/rig.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/rng.h"
#include "model/weights/place.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Random memory is this much of it, again and again: more than any cache holds. */
#define PATTERN_BYTES (UINT64_C(256) << 20)

double spin_rig_now_ms(void)
{
    return (double)spin_now_ns(spin_clock_real()) / SPIN_NS_PER_MS;
}

static spin_status open_device(struct spin_rig *rig, enum spin_rig_device device, uint32_t threads,
                               struct spin_error *err)
{
    SPIN_TRY(spin_stream_create_cpu(threads, &rig->host, err));
    if (device != SPIN_RIG_CPU) {
        const spin_status status = spin_stream_create_cuda(0, &rig->stream, err);
        rig->is_cuda = status == SPIN_OK;
        if (status != SPIN_OK && (device == SPIN_RIG_CUDA || status != SPIN_ERR_UNSUPPORTED)) {
            return status;
        }
    }
    if (!rig->is_cuda) {
        SPIN_TRY(spin_stream_create_cpu(threads, &rig->stream, err));
    }
    rig->all_ops = rig->is_cuda ? &spin_ops_cuda : spin_ops_best_cpu();
    rig->ops = *rig->all_ops;
    rig->put = rig->is_cuda ? spin_put_cuda : spin_put_host;
    return SPIN_OK;
}

static spin_status open_model(struct spin_rig *rig, const char *source, struct spin_error *err)
{
    struct spin_model *loaded = NULL;
    const double begun_ms = spin_rig_now_ms();
    SPIN_TRY(spin_model_open(source, &loaded, err));
    const double loaded_ms = spin_rig_now_ms();
    if (!rig->is_cuda) {
        rig->model = loaded;
        printf("opened %s: %.1f s\n", source, (loaded_ms - begun_ms) / 1e3);
        return SPIN_OK;
    }
    const spin_status status = spin_model_place(loaded, rig->stream, &rig->model, err);
    spin_model_close(loaded);
    printf("opened %s: %.1f s, placed: %.1f s\n", source, (loaded_ms - begun_ms) / 1e3,
           (spin_rig_now_ms() - loaded_ms) / 1e3);
    return status;
}

spin_status spin_rig_open(struct spin_rig *rig, enum spin_rig_device device, const char *model,
                          uint32_t threads, struct spin_error *err)
{
    *rig = (struct spin_rig){.is_cuda = false};
    spin_status status = open_device(rig, device, threads, err);
    if (status == SPIN_OK) {
        status = open_model(rig, model, err);
    }
    if (status != SPIN_OK) {
        spin_rig_close(rig);
    }
    return status;
}

void spin_rig_close(struct spin_rig *rig)
{
    spin_model_close(rig->model);
    spin_stream_destroy(rig->stream);
    spin_stream_destroy(rig->host);
    *rig = (struct spin_rig){.is_cuda = false};
}

spin_status spin_rig_sync(const struct spin_rig *rig)
{
    return spin_stream_sync(rig->stream, SPIN_RIG_WAIT_NS);
}

/* --- KV --- */

static uint32_t pages_of(const struct spin_rig_kv *kv, uint32_t tokens)
{
    return (tokens - 1) / kv->sparse->algorithm->page_tokens + 1;
}

/* Slots that a row of the layer is to have. */
static uint32_t slots_of_row(const struct spin_rig_kv *kv, uint32_t layer)
{
    const uint32_t pages = pages_of(kv, kv->tokens_max);
    const double read = spin_sparse_mandatory(kv->sparse, layer, kv->tokens_max);
    const double wanted = ceil(kv->slots_factor * read);
    return kv->slots_factor == 0 || wanted > pages ? pages : (uint32_t)wanted;
}

/* A demand whose floor, twice of it, is what the row is to have; it does not grow with the tokens.
 * A layer that reads every page has no choice. */
static uint32_t demand_half(const void *context, uint32_t layer, uint32_t tokens)
{
    const struct spin_rig_kv *kv = context;
    const uint32_t pages = pages_of(kv, tokens);
    const uint32_t half = (slots_of_row(kv, layer) + 1) / 2;
    const bool is_all = spin_sparse_mandatory(kv->sparse, layer, tokens) >= pages;
    return is_all ? pages : SPIN_MIN(half, pages);
}

/* For all sequences: rows as they are to be, and one claim at least. */
static uint64_t pool_bytes(const struct spin_rig_kv *kv, const struct spin_kv_config *config)
{
    const struct spin_kv_budget budget = {.layers = config->layout.layers,
                                          .kv_heads = config->layout.kv_heads,
                                          .page_tokens = config->page_tokens,
                                          .demand = config->demand};
    uint64_t slabs = 0;
    for (uint32_t layer = 0; layer < budget.layers; layer++) {
        slabs += (slots_of_row(kv, layer) + SPIN_SLAB_SLOTS - 1) / SPIN_SLAB_SLOTS;
    }
    const uint64_t least = spin_kv_longest_claim_slabs(&budget, kv->tokens_max);
    return SPIN_MAX(kv->sequences * slabs * budget.kv_heads, least) * spin_kv_slab_bytes(config);
}

struct spin_kv_config spin_rig_kv_config(const struct spin_rig *rig, const struct spin_rig_kv *kv)
{
    const struct spin_model_config *shape = &rig->model->config;
    SPIN_ASSERT(kv->slots_factor == 0 || kv->slots_factor >= 1);
    struct spin_kv_config config = {
        .layout = {.layers = shape->layers,
                   .kv_heads = shape->kv_heads,
                   .head_dim = shape->head_dim,
                   .dtype = SPIN_KV_BF16,
                   .swizzle = rig->ops.swizzle},
        .ops = &rig->ops,
        .sequences_max = kv->sequences,
        .tokens_max = kv->tokens_max,
        .replacement = SPIN_KV_SLOT_LRU,
    };
    spin_sparse_fill_kv_config(kv->sparse, &config);
    config.buffered = config.buffered || kv->slots_factor > 0;
    if (kv->slots_factor > 0 && kv->slots_factor < SPIN_RIG_SLOTS_PRODUCT) {
        config.demand = (struct spin_kv_demand){.context = kv, .mandatory = demand_half};
    }
    config.hbm_bytes = pool_bytes(kv, &config);
    const uint64_t block_bytes = spin_block_bytes(&config.layout);
    const uint64_t blocks = (uint64_t)kv->sequences * spin_kv_blocks_for(kv->tokens_max);
    config.host_bytes = blocks * block_bytes;
    if (kv->frame_bytes != 0 && kv->frame_bytes < config.host_bytes) {
        config.frame_blocks = (uint32_t)SPIN_MAX(1, kv->frame_bytes / block_bytes);
    }
    return config;
}

uint64_t spin_rig_kv_bytes(const struct spin_kv_config *config)
{
    struct spin_kv_table_bytes tables;
    spin_kv_plan_tables(config, &tables);
    return config->hbm_bytes + tables.directory + tables.page_table + tables.stamps +
           tables.slab_lists + tables.lists + tables.summaries;
}

/* --- filling --- */

struct fill {
    uint8_t *target;
    uint64_t bytes;
    const uint8_t *pattern; /* NULL: made here */
    uint64_t seed;
};

/* A thread's share; the pattern is a function of the place alone. */
static void fill_share(void *context, uint32_t thread, uint32_t threads)
{
    const struct fill *fill = context;
    const uint64_t unit = sizeof(struct spin_philox_block);
    const uint64_t units = fill->bytes / unit;
    const uint64_t begin = units * thread / threads * unit;
    const uint64_t end =
        thread + 1 == threads ? fill->bytes : units * (thread + 1) / threads * unit;
    for (uint64_t at = begin; at < end && fill->pattern == NULL; at += unit) {
        struct spin_philox_block block = spin_philox(fill->seed, 0, at / unit);
        for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(block.word); i++) {
            block.word[i] = (block.word[i] & 0x80FF80FFu) | 0x3F003F00u; /* +- [0.5, 2) */
        }
        memcpy(fill->target + at, &block, SPIN_MIN(unit, end - at));
    }
    for (uint64_t at = begin; at < end && fill->pattern != NULL;) {
        const uint64_t from = at % PATTERN_BYTES;
        const uint64_t bytes = SPIN_MIN(end - at, PATTERN_BYTES - from);
        memcpy(fill->target + at, fill->pattern + from, bytes);
        at += bytes;
    }
}

static spin_status fill_summaries(const struct spin_rig *rig, const struct spin_kv_view *view,
                                  uint64_t total, const struct fill *pattern)
{
    for (uint64_t at = 0; at < total; at += pattern->bytes) {
        SPIN_TRY(spin_device_write(rig->stream, view->summaries + at, pattern->target,
                                   SPIN_MIN(pattern->bytes, total - at)));
    }
    return spin_rig_sync(rig);
}

spin_status spin_rig_fill_kv(const struct spin_rig *rig, const struct spin_kv_config *config,
                             struct spin_kv *kv, uint64_t seed, struct spin_error *err)
{
    const struct spin_kv_view *view = spin_kv_get_view(kv);
    const uint64_t block_bytes = spin_block_bytes(&config->layout);
    const uint64_t blocks = config->host_bytes / block_bytes;
    const uint64_t frames = config->frame_blocks != 0 ? config->frame_blocks : blocks;
    const uint64_t summaries = blocks * spin_kv_rows(view) *
                               (SPIN_BLOCK_TOKENS / config->partition_tokens) *
                               config->summary_bytes;
    const uint64_t bytes =
        SPIN_MIN(PATTERN_BYTES, SPIN_MAX(frames * block_bytes, SPIN_MAX(summaries, 1)));
    void *memory = NULL;
    SPIN_TRY(spin_host_alloc(rig->stream, bytes, &memory, err));
    struct fill pattern = {.target = memory, .bytes = bytes, .pattern = NULL, .seed = seed};
    spin_stream_parallel(rig->host, fill_share, &pattern);
    struct fill host = {
        .target = view->host, .bytes = frames * block_bytes, .pattern = pattern.target};
    spin_stream_parallel(rig->host, fill_share, &host);
    const spin_status status = fill_summaries(rig, view, summaries, &pattern);
    spin_host_free(rig->stream, memory);
    return status == SPIN_OK ? SPIN_OK : spin_fail(err, status, "summaries could not be written");
}
