/* Numbers: what the data plane counted, summed up when a step is over, and what tables weigh. */
#include "kvstore/manager/kv_internal.h"

#include <string.h>

/* --- counters --- */

static struct spin_kv_counters *counters_of(const struct spin_kv *kv, uint32_t seq)
{
    return kv->counters + spin_kv_table_row(&kv->view, seq, 0, 0);
}

/* What a read of the last owner's counters brings comes before the write, which waits. */
spin_status spin_kv_zero_counters(struct spin_kv *kv, uint32_t seq)
{
    const uint64_t bytes = kv->rows * sizeof(struct spin_kv_counters);
    SPIN_TRY(spin_device_write(kv->stream,
                               kv->view.counters + spin_kv_table_row(&kv->view, seq, 0, 0),
                               kv->no_counters, bytes));
    memset(counters_of(kv, seq), 0, bytes);
    return SPIN_OK;
}

/* All modulo 2^32, as the rows count; between two readings far fewer are dropped. */
static void count_dropped(struct spin_kv *kv, uint32_t seq)
{
    const struct spin_kv_counters *counters = counters_of(kv, seq);
    uint32_t dropped = 0;
    for (uint32_t row = 0; row < kv->rows; row++) {
        dropped += counters[row].dropped;
    }
    kv->stats.pages_dropped += dropped - kv->sequences[seq].dropped;
    kv->sequences[seq].dropped = dropped;
    kv->sequences[seq].dropping = false;
}

void spin_kv_count_dropped(struct spin_kv *kv, uint32_t seq)
{
    if (kv->sequences[seq].dropping) {
        spin_kv_wait_for_counters(kv, seq);
    }
    count_dropped(kv, seq);
}

void spin_kv_count_step(struct spin_kv *kv, uint32_t seq)
{
    struct spin_kv_sequence *sequence = &kv->sequences[seq];
    const struct spin_kv_counters *counters = counters_of(kv, seq);
    uint64_t hits = 0;
    uint64_t misses = 0;
    uint64_t evictions = 0;
    sequence->working_set = 0;
    for (uint32_t row = 0; row < kv->rows; row++) {
        hits += counters[row].hits;
        misses += counters[row].misses;
        evictions += counters[row].evictions;
        sequence->working_set += counters[row].working_set;
    }
    sequence->hits += hits;
    sequence->misses += misses;
    sequence->evictions += evictions;
    kv->stats.hits += hits;
    kv->stats.misses += misses;
    kv->stats.evictions += evictions;
    kv->stats.pages_retrieved += misses;
    kv->stats.bytes_retrieved += misses * kv->page_bytes;
    count_dropped(kv, seq);
}

void spin_kv_note_working_set(struct spin_kv *kv, uint32_t seq)
{
    const uint32_t heads = kv->config.layout.kv_heads;
    const struct spin_kv_counters *counters = counters_of(kv, seq);
    for (uint32_t layer = 0; layer < kv->config.layout.layers; layer++) {
        uint32_t most = 0;
        for (uint32_t head = 0; head < heads; head++) {
            most = SPIN_MAX(most, counters[(uint64_t)layer * heads + head].working_set);
        }
        kv->working_set[(uint64_t)seq * kv->config.layout.layers + layer] = most;
    }
}

/* --- tables --- */

/* What is in use of the parts that grow with slots and blocks. */
struct use {
    uint64_t slots;
    uint64_t blocks;
};

static struct spin_kv_table_bytes weigh(const struct spin_kv_config *config, struct use use)
{
    const uint64_t sequences = config->sequences_max;
    const uint64_t layers = sequences * config->layout.layers;
    const uint64_t table_rows = layers * config->layout.kv_heads;
    const uint64_t list_rows = sequences * config->layout.kv_heads;
    const uint64_t pages_max =
        ((uint64_t)config->tokens_max + config->page_tokens - 1) / config->page_tokens;
    const uint64_t slabs_max = (pages_max + SPIN_SLAB_SLOTS - 1) / SPIN_SLAB_SLOTS;
    const uint64_t directory_max = (pages_max + SPIN_LEAF_PAGES - 1) / SPIN_LEAF_PAGES;
    const uint64_t rows = (uint64_t)config->layout.layers * config->layout.kv_heads;
    const uint64_t partitions = SPIN_BLOCK_TOKENS / config->partition_tokens;
    const bool bucketed = config->replacement == SPIN_KV_BUCKETED;
    return (struct spin_kv_table_bytes){
        .directory = bucketed ? table_rows * directory_max * sizeof(uint16_t) : 0,
        .page_table = bucketed ? use.slots * SPIN_LEAF_PAGES * sizeof(uint16_t) +
                                     table_rows * sizeof(uint16_t)
                               : use.slots * sizeof(uint16_t),
        .stamps = use.slots,
        .slab_lists = layers * slabs_max * sizeof(uint32_t) + layers * sizeof(uint32_t) + sequences,
        .lists = list_rows * pages_max *
                     (sizeof(uint16_t) + sizeof(uint32_t) + sizeof(struct spin_kv_miss)) +
                 list_rows * (3 * sizeof(uint32_t) + sizeof(uint64_t)) +
                 spin_kv_inputs_bytes(config->sequences_max) + spin_kv_inputs_bytes(1) +
                 table_rows * sizeof(struct spin_kv_counters),
        .summaries = use.blocks * rows * partitions * config->summary_bytes,
        .cpu_page_table = sequences * spin_kv_blocks_for(config->tokens_max) * sizeof(uint32_t),
        .partition_offset = 0, /* partitions have one size: arithmetic */
    };
}

void spin_kv_plan_tables(const struct spin_kv_config *config, struct spin_kv_table_bytes *out)
{
    *out = weigh(config,
                 (struct use){.slots = spin_kv_pool_slabs(config) * SPIN_SLAB_SLOTS,
                              .blocks = config->host_bytes / spin_block_bytes(&config->layout)});
}

/* --- for others --- */

void spin_kv_get_stats(const struct spin_kv *kv, struct spin_kv_stats *out)
{
    *out = kv->stats;
    out->hbm_bytes = kv->slabs * spin_kv_slab_bytes(&kv->config);
    out->host_bytes = kv->view.frame_blocks * kv->block_bytes;
    out->slabs = kv->slabs;
    out->slabs_free = kv->slabs_free;
    out->blocks = kv->blocks;
    out->blocks_free = kv->blocks_free;
    out->sequences_open = kv->sequences_open;
    for (uint32_t i = 0; i < kv->config.sequences_max; i++) {
        out->sequences_resident +=
            spin_kv_is_active(&kv->sequences[i]) && spin_kv_is_resident_now(kv, i);
    }
    out->tables = weigh(
        &kv->config, (struct use){.slots = (uint64_t)(kv->slabs - kv->slabs_free) * SPIN_SLAB_SLOTS,
                                  .blocks = kv->blocks - kv->blocks_free});
}

static uint32_t mean_mandatory(const struct spin_kv *kv, uint32_t tokens)
{
    const struct spin_kv_demand *demand = &kv->budget.demand;
    const uint32_t layers = kv->config.layout.layers;
    uint64_t pages = 0;
    SPIN_ASSERT_GT(layers, 0);
    for (uint32_t layer = 0; tokens > 0 && layer < layers; layer++) {
        pages += demand->mandatory(demand->context, layer, tokens);
    }
    return (uint32_t)(pages / layers);
}

void spin_kv_get_seq_stats(const struct spin_kv *kv, spin_kv_seq seq, struct spin_kv_seq_stats *out)
{
    const struct spin_kv_sequence *sequence = spin_kv_sequence_of(kv, seq);
    const uint32_t slots = sequence->slabs * SPIN_SLAB_SLOTS;
    SPIN_ASSERT_GT(kv->rows, 0);
    *out = (struct spin_kv_seq_stats){
        .residency = (enum spin_kv_residency)kv->residency[seq.v],
        .active = spin_kv_is_active(sequence),
        .tokens = sequence->tokens,
        .slots = slots,
        .mandatory_pages = mean_mandatory(kv, sequence->tokens),
        .budget_pages = slots / kv->rows,
        .working_set = sequence->working_set / kv->rows,
        .hits = sequence->hits,
        .misses = sequence->misses,
        .evictions = sequence->evictions,
    };
}
