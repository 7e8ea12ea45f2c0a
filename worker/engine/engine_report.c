/* Numbers for others: the load board, the metrics, who holds how much of the tiers. */
#include "base/assert.h"
#include "worker/engine/engine_internal.h"

#include <string.h>

/* Moving averages: about the last eight steps. */
#define AVERAGE_SHARE 0.125
/* People read it, and every renewal asks for each sequence's counters. */
#define REQUEST_KV_PERIOD_NS (100 * SPIN_NS_PER_MS)

static double average(double value, double sample)
{
    return value <= 0 ? sample : value + AVERAGE_SHARE * (sample - value);
}

void spin_engine_average_step(struct spin_engine *engine, const struct spin_kv_stats *before,
                              uint64_t elapsed_ns)
{
    struct spin_kv_stats after;
    spin_kv_get_stats(engine->kv, &after);
    const uint64_t hits = after.hits - before->hits;
    const uint64_t misses = after.misses - before->misses;
    if (hits + misses > 0) {
        engine->hit_ratio = average(engine->hit_ratio, (double)hits / (double)(hits + misses));
    }
    engine->load.step_ns = (uint64_t)average((double)engine->load.step_ns, (double)elapsed_ns);
}

void spin_engine_average_prefill(struct spin_engine *engine, uint32_t tokens, uint64_t elapsed_ns)
{
    if (elapsed_ns > 0) {
        engine->load.prefill_tokens_per_s = average(engine->load.prefill_tokens_per_s,
                                                    (double)tokens / engine->grid.layers *
                                                        (double)SPIN_NS_PER_S / (double)elapsed_ns);
    }
}

/* Counters that others keep since create. */
static void publish_counters(struct spin_engine *engine, const struct spin_kv_stats *kv,
                             const struct spin_sparse_stats *sparse, uint64_t suspensions)
{
    const struct spin_kv_stats *told = &engine->kv_told;
    const struct {
        enum spin_engine_metric metric;
        uint64_t amount;
    } counters[] = {
        {SPIN_ENGINE_METRIC_KV_HITS, kv->hits - told->hits},
        {SPIN_ENGINE_METRIC_KV_MISSES, kv->misses - told->misses},
        {SPIN_ENGINE_METRIC_KV_PAGES_RETRIEVED, kv->pages_retrieved - told->pages_retrieved},
        {SPIN_ENGINE_METRIC_KV_BYTES_RETRIEVED, kv->bytes_retrieved - told->bytes_retrieved},
        {SPIN_ENGINE_METRIC_KV_EVICTIONS, kv->evictions - told->evictions},
        {SPIN_ENGINE_METRIC_KV_PAGES_DROPPED, kv->pages_dropped - told->pages_dropped},
        {SPIN_ENGINE_METRIC_KV_PAGES_OFFLOADED, kv->pages_offloaded - told->pages_offloaded},
        {SPIN_ENGINE_METRIC_KV_DEMOTIONS, kv->demotions - told->demotions},
        {SPIN_ENGINE_METRIC_SUSPENSIONS, suspensions - engine->suspensions_told},
        {SPIN_ENGINE_METRIC_SPARSE_STEPS, sparse->steps - engine->sparse_told.steps},
        {SPIN_ENGINE_METRIC_DENSE_FALLBACKS,
         sparse->dense_fallbacks - engine->sparse_told.dense_fallbacks},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(counters); i++) {
        if (counters[i].amount > 0) {
            spin_engine_count(engine, counters[i].metric, counters[i].amount);
        }
    }
    engine->kv_told = *kv;
    engine->sparse_told = *sparse;
    engine->suspensions_told = suspensions;
}

static void publish_gauges(struct spin_engine *engine, const struct spin_kv_stats *kv,
                           uint32_t suspended)
{
    const struct spin_engine_load *load = &engine->load;
    const struct spin_kv_table_bytes *tables = &kv->tables;
    const struct {
        enum spin_engine_metric metric;
        double value;
    } gauges[] = {
        {SPIN_ENGINE_METRIC_RUNNING, load->running},
        {SPIN_ENGINE_METRIC_WAITING, load->waiting},
        {SPIN_ENGINE_METRIC_SUSPENDED, suspended},
        {SPIN_ENGINE_METRIC_SEQUENCES_RESIDENT, kv->sequences_resident},
        {SPIN_ENGINE_METRIC_KV_BYTES, (double)kv->hbm_bytes},
        {SPIN_ENGINE_METRIC_KV_USED_BYTES, (double)load->kv_hbm_bytes_used},
        {SPIN_ENGINE_METRIC_KV_HOST_BYTES, (double)kv->host_bytes},
        {SPIN_ENGINE_METRIC_KV_HOST_USED_BYTES, (double)load->kv_host_bytes_used},
        {SPIN_ENGINE_METRIC_KV_DIRECTORY_BYTES, (double)tables->directory},
        {SPIN_ENGINE_METRIC_KV_PAGE_TABLE_BYTES, (double)tables->page_table},
        {SPIN_ENGINE_METRIC_KV_STAMPS_BYTES, (double)tables->stamps},
        {SPIN_ENGINE_METRIC_KV_SLAB_LISTS_BYTES, (double)tables->slab_lists},
        {SPIN_ENGINE_METRIC_KV_LISTS_BYTES, (double)tables->lists},
        {SPIN_ENGINE_METRIC_KV_SUMMARIES_BYTES, (double)tables->summaries},
        {SPIN_ENGINE_METRIC_KV_CPU_PAGE_TABLE_BYTES, (double)tables->cpu_page_table},
        {SPIN_ENGINE_METRIC_KV_PARTITION_OFFSET_BYTES, (double)tables->partition_offset},
        {SPIN_ENGINE_METRIC_KV_HIT_RATIO, engine->hit_ratio},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(gauges); i++) {
        spin_engine_gauge(engine, gauges[i].metric, gauges[i].value);
    }
}

void spin_engine_publish(struct spin_engine *engine)
{
    struct spin_scheduler_stats stats;
    struct spin_kv_stats kv;
    struct spin_sparse_stats sparse;
    spin_scheduler_get_stats(engine->scheduler, &stats);
    spin_kv_get_stats(engine->kv, &kv);
    spin_forward_get_sparse_stats(engine->forward, &sparse);
    const uint32_t blocks_used = kv.blocks - kv.blocks_free;
    const uint32_t slabs_used = kv.slabs - kv.slabs_free;
    const struct spin_kv_table_bytes *tables = &kv.tables;
    struct spin_engine_load *load = &engine->load;
    load->running = stats.in_flight;
    load->waiting = stats.waiting;
    load->kv_tokens = (uint64_t)kv.blocks * SPIN_BLOCK_TOKENS;
    load->kv_tokens_used = (uint64_t)blocks_used * SPIN_BLOCK_TOKENS;
    load->queued_prompt_tokens = stats.waiting_tokens + stats.prefill_tokens;
    load->preemptions = stats.preemptions;
    load->suspensions = stats.suspensions;
    load->kv_hits = kv.hits;
    load->kv_misses = kv.misses;
    load->kv_pages_retrieved = kv.pages_retrieved;
    load->kv_evictions = kv.evictions;
    load->kv_table_bytes =
        tables->directory + tables->page_table + tables->stamps + tables->slab_lists;
    load->kv_summary_bytes = tables->summaries;
    load->kv_hbm_bytes_used = engine->slab_bytes * slabs_used;
    load->kv_host_bytes_used = engine->block_bytes * blocks_used;
    load->dense_fallbacks = sparse.dense_fallbacks;
    spin_load_board_set(engine->board, load);
    publish_counters(engine, &kv, &sparse, stats.suspensions);
    publish_gauges(engine, &kv, stats.suspended);
}

/* The jobs that have a sequence, oldest first. */
static uint32_t find_holders(struct spin_engine *engine)
{
    const struct spin_job *jobs = engine->jobs;
    uint32_t *holders = engine->holders;
    uint32_t count = 0;
    for (uint32_t i = 0; i < engine->requests_max; i++) {
        if (!spin_scheduler_knows(engine->scheduler, i) || !jobs[i].opened) {
            continue;
        }
        SPIN_ASSERT_LT(count, engine->config.max_num_seqs);
        uint32_t at = count++;
        for (; at > 0 && jobs[holders[at - 1]].order > jobs[i].order; at--) {
            holders[at] = holders[at - 1];
        }
        holders[at] = i;
    }
    return count;
}

static struct spin_engine_request_kv describe(const struct spin_engine *engine,
                                              const struct spin_job *job)
{
    struct spin_kv_seq_stats stats;
    spin_kv_get_seq_stats(engine->kv, job->seq, &stats);
    struct spin_engine_request_kv row = {
        .resident = stats.active && stats.residency == SPIN_KV_RESIDENT,
        .active = stats.active,
        .tokens = stats.tokens,
        .budget_pages = stats.budget_pages,
        .mandatory_pages = stats.mandatory_pages,
        .working_set = stats.working_set,
        .slots = stats.slots,
        .hits = stats.hits,
        .misses = stats.misses,
    };
    memcpy(row.id, job->request.id, sizeof row.id);
    return row;
}

void spin_engine_publish_requests(struct spin_engine *engine, bool now)
{
    const uint64_t now_ns = spin_now_ns(engine->clock);
    if (!now && now_ns - engine->request_kv_ns < REQUEST_KV_PERIOD_NS) {
        return;
    }
    engine->request_kv_ns = now_ns;
    const uint32_t count = find_holders(engine);
    spin_mutex_lock(&engine->request_kv_mutex);
    for (uint32_t i = 0; i < count; i++) {
        engine->request_kv[i] = describe(engine, &engine->jobs[engine->holders[i]]);
    }
    engine->request_kv_count = count;
    spin_mutex_unlock(&engine->request_kv_mutex);
}

uint32_t spin_engine_get_requests(struct spin_engine *engine, struct spin_engine_request_kv *out,
                                  uint32_t max)
{
    spin_mutex_lock(&engine->request_kv_mutex);
    const uint32_t count = SPIN_MIN(engine->request_kv_count, max);
    for (uint32_t i = 0; i < count; i++) {
        out[i] = engine->request_kv[i];
    }
    spin_mutex_unlock(&engine->request_kv_mutex);
    return count;
}
