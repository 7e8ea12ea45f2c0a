/* How large the two tiers of the KV are, where nobody said, and whether they hold what they must.
 *
 * On the CPU both are shares of the process's memory. On a GPU the slots get what
 * gpu_memory_utilization leaves of its memory beside what is in it already, the weights among that,
 * and what the engine is going to allocate there; the blocks are pinned, so every one of them is
 * there from the start, and half of the process's memory is left to everything else. */
#include "base/file.h"
#include "base/log.h"
#include "worker/engine/engine_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

/* Of the memory, for each tier by default: weights, activations and others want the rest. */
#define MEMORY_SHARE 8u
/* Of the memory, for the tiers by default, or for the pinned one. */
#define MEMORY_SHARE_MOST 2u

/* A GPU's memory, in bytes. */
struct room {
    uint64_t total;
    uint64_t used;    /* before the engine: weights, and whatever others have there */
    uint64_t planned; /* activations and workspaces */
    uint64_t tables;  /* of the KV, with all slots and blocks */
    uint64_t slots;   /* what is left for slots */
};

/* What decides how large the tiers are. */
struct tiers {
    struct spin_kv_budget budget;
    uint64_t column_bytes; /* a slab of every row */
    uint64_t memory_bytes; /* of the host */
    uint64_t hbm_share;    /* of the tier whose size was not given, at most */
    uint64_t host_share;
    bool on_gpu;
    struct room room; /* on a GPU */
};

/* The machine's memory, or the container's limit where that is lower. */
static uint64_t memory_bytes(void)
{
    const uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    char *text = NULL;
    uint64_t text_bytes = 0;
    if (spin_file_read("/sys/fs/cgroup/memory.max", 64, &text, &text_bytes, NULL) != SPIN_OK) {
        return machine;
    }
    char *end = NULL;
    const uint64_t limit = strtoull(text, &end, 10);
    const bool is_number = end != text; /* "max": no limit */
    free(text);
    return is_number ? SPIN_MIN(limit, machine) : machine;
}

/* Slots that no sequence within `longest` tokens can do without. Its needs grow with its length,
 * except where an algorithm turns sparse: just before, everything is attended to. */
static uint64_t hbm_needed(const struct spin_engine *engine, const struct tiers *tiers,
                           uint32_t longest)
{
    const uint32_t sparse_from = SPIN_MAX(engine->config.sparse.min_context, 2u);
    const uint32_t longest_dense = SPIN_MIN(sparse_from - 1, longest);
    const uint32_t slabs = SPIN_MAX(spin_kv_claim_slabs(&tiers->budget, longest),
                                    spin_kv_claim_slabs(&tiers->budget, longest_dense));
    return slabs * engine->slab_bytes;
}

static uint64_t host_needed(const struct spin_engine *engine, uint32_t longest)
{
    return spin_kv_blocks_for(longest) * engine->block_bytes;
}

/* --- a GPU's memory --- */

/* What the engine allocates there beside the KV. */
static uint64_t planned_bytes(const struct spin_engine *engine, const struct spin_kv_config *kv)
{
    const struct spin_forward_config forward = spin_engine_forward_config(engine);
    return spin_forward_plan_bytes(&forward, kv) +
           engine->prefill_slots * spin_engine_hidden_bytes(engine);
}

static uint64_t table_bytes(const struct spin_kv_config *kv)
{
    struct spin_kv_table_bytes tables;
    spin_kv_plan_tables(kv, &tables);
    return tables.directory + tables.page_table + tables.stamps + tables.slab_lists + tables.lists +
           tables.summaries + tables.cpu_page_table; /* a copy of the host's lies there, too */
}

/* The largest pool that fits `bytes` together with its tables, which grow with it. */
static uint64_t fit_slots(struct spin_kv_config *kv, uint64_t bytes)
{
    uint64_t fits = 0;
    for (uint64_t above = bytes + 1; above - fits > 1;) {
        kv->hbm_bytes = fits + (above - fits) / 2;
        if (kv->hbm_bytes + table_bytes(kv) <= bytes) {
            fits = kv->hbm_bytes;
        } else {
            above = kv->hbm_bytes;
        }
    }
    kv->hbm_bytes = fits;
    return fits;
}

static spin_status find_room(struct spin_engine *engine, struct tiers *tiers,
                             struct spin_error *err)
{
    const struct spin_engine_config *config = &engine->config;
    struct room *room = &tiers->room;
    const uint64_t available = spin_device_memory(engine->stream, &room->total);
    struct spin_kv_config kv = spin_engine_kv_config(engine);
    if (room->total == 0) {
        return spin_fail(err, SPIN_ERR_DEVICE_LOST, "%s: it does not say how much memory it has",
                         spin_device_name(engine->stream));
    }
    room->used = room->total - available;
    room->planned = planned_bytes(engine, &kv);
    if (kv.host_bytes == 0) {
        kv.host_bytes = SPIN_MIN(tiers->host_share,
                                 config->max_num_seqs * host_needed(engine, config->max_model_len));
    }
    const uint64_t usable = (uint64_t)((double)room->total * config->gpu_memory_utilization);
    const uint64_t taken = room->used + room->planned;
    room->slots = usable > taken ? fit_slots(&kv, usable - taken) : 0;
    room->tables = table_bytes(&kv);
    tiers->hbm_share = room->slots;
    SPIN_INFO("gpu memory: total=%" PRIu64 " utilization=%.2f in_use=%" PRIu64
              " activations=%" PRIu64 " kv_tables=%" PRIu64 " left_for_slots=%" PRIu64,
              room->total, config->gpu_memory_utilization, room->used, room->planned, room->tables,
              room->slots);
    return SPIN_OK;
}

static double gb(uint64_t bytes)
{
    return (double)bytes / 1e9;
}

/* Every number that went into it, and what may be changed. */
static spin_status too_little_room(const struct spin_engine *engine, const struct tiers *tiers,
                                   uint64_t wanted, struct spin_error *err)
{
    const struct room *room = &tiers->room;
    return spin_fail(
        err, SPIN_ERR_NO_MEMORY,
        "%s: %.2f GB of slots are wanted, and %.2f GB are left: %.2f of %.2f GB "
        "(--gpu-memory-utilization) less %.2f GB in use, %.2f GB of activations, %.2f GB of KV "
        "tables; lower --max-model-len, --max-num-seqs or --kv-hbm-bytes",
        spin_device_name(engine->stream), gb(wanted), gb(room->slots),
        engine->config.gpu_memory_utilization, gb(room->total), gb(room->used), gb(room->planned),
        gb(room->tables));
}

/* --- sizes --- */

static spin_status tiers_of(struct spin_engine *engine, struct tiers *out, struct spin_error *err)
{
    const struct spin_kv_config kv = spin_engine_kv_config(engine);
    engine->slab_bytes = spin_kv_slab_bytes(&kv);
    engine->block_bytes = spin_block_bytes(&kv.layout);
    const uint64_t memory =
        engine->config.memory_bytes != 0 ? engine->config.memory_bytes : memory_bytes();
    const bool on_gpu = !spin_device_is_host(engine->stream);
    *out = (struct tiers){.budget = {.layers = kv.layout.layers,
                                     .kv_heads = kv.layout.kv_heads,
                                     .page_tokens = kv.page_tokens,
                                     .demand = kv.demand},
                          .column_bytes =
                              (uint64_t)kv.layout.layers * kv.layout.kv_heads * engine->slab_bytes,
                          .memory_bytes = memory,
                          .hbm_share = memory / MEMORY_SHARE,
                          .host_share = memory / (on_gpu ? MEMORY_SHARE_MOST : MEMORY_SHARE),
                          .on_gpu = on_gpu};
    return on_gpu ? find_room(engine, out, err) : SPIN_OK;
}

/* A length that nobody asked for gives way to the tiers. */
static spin_status cap_model_len(struct spin_engine *engine, const struct tiers *tiers,
                                 struct spin_error *err)
{
    struct spin_engine_config *config = &engine->config;
    const uint64_t hbm = config->kv_hbm_bytes != 0 ? config->kv_hbm_bytes : tiers->hbm_share;
    const uint64_t host = config->kv_host_bytes != 0 ? config->kv_host_bytes : tiers->host_share;
    const uint32_t wanted = config->max_model_len;
    uint32_t fits = 0;
    for (uint32_t above = wanted + 1; above - fits > 1;) {
        const uint32_t tokens = fits + (above - fits) / 2;
        if (hbm_needed(engine, tiers, tokens) <= hbm && host_needed(engine, tokens) <= host) {
            fits = tokens;
        } else {
            above = tokens;
        }
    }
    const uint64_t least = hbm_needed(engine, tiers, 1);
    if (least > hbm && tiers->on_gpu && config->kv_hbm_bytes == 0) {
        return too_little_room(engine, tiers, least, err);
    }
    if (fits == 0) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--kv-hbm-bytes %" PRIu64 ", --kv-host-bytes %" PRIu64
                         ": too small for a sequence of any length",
                         hbm, host);
    }
    if (fits < wanted) {
        SPIN_WARN("sequences are shorter than the model allows: max_model_len=%u model=%u "
                  "kv_hbm_bytes=%" PRIu64 " kv_host_bytes=%" PRIu64,
                  fits, wanted, hbm, host);
    }
    config->max_model_len = fits;
    return SPIN_OK;
}

/* Sizes that were not given: room for max_num_seqs whole sequences, or a share of the memory; more
 * than that where one sequence needs it, which check_sizes may refuse. */
static void fill_sizes(struct spin_engine *engine, const struct tiers *tiers)
{
    struct spin_engine_config *config = &engine->config;
    const uint32_t longest = config->max_model_len;
    if (config->kv_hbm_bytes == 0) {
        const uint64_t whole = spin_kv_full_row(&tiers->budget, longest) * tiers->column_bytes;
        const uint64_t most = SPIN_MAX(tiers->hbm_share, hbm_needed(engine, tiers, longest));
        config->kv_hbm_bytes = SPIN_MIN(config->max_num_seqs * whole, most);
    }
    if (config->kv_host_bytes == 0) {
        const uint64_t host = host_needed(engine, longest);
        config->kv_host_bytes =
            SPIN_MIN(config->max_num_seqs * host, SPIN_MAX(tiers->host_share, host));
    }
}

/* Sizes that were given must hold a sequence. */
static spin_status check_given(const struct spin_engine *engine, const struct tiers *tiers,
                               struct spin_error *err)
{
    const struct spin_engine_config *config = &engine->config;
    const uint32_t longest = config->max_model_len;
    const uint64_t hbm = hbm_needed(engine, tiers, longest);
    const uint64_t host = host_needed(engine, longest);
    if (config->kv_hbm_bytes != 0 && config->kv_hbm_bytes < hbm) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--kv-hbm-bytes %" PRIu64 ": a sequence of %u tokens (--max-model-len) "
                         "needs %" PRIu64 " bytes of slots with --sparse-attention %s",
                         config->kv_hbm_bytes, longest, hbm, config->sparse.algorithm->name);
    }
    if (config->kv_host_bytes != 0 && config->kv_host_bytes < host) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--kv-host-bytes %" PRIu64 ": a sequence of %u tokens (--max-model-len) "
                         "needs %" PRIu64 " bytes of blocks",
                         config->kv_host_bytes, longest, host);
    }
    return SPIN_OK;
}

static spin_status check_on_cpu(const struct spin_engine *engine, const struct tiers *tiers,
                                const struct spin_engine_config *given, struct spin_error *err)
{
    const struct spin_engine_config *config = &engine->config;
    const uint64_t taken = (given->kv_hbm_bytes == 0 ? config->kv_hbm_bytes : 0) +
                           (given->kv_host_bytes == 0 ? config->kv_host_bytes : 0);
    if (taken > tiers->memory_bytes / MEMORY_SHARE_MOST) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--max-model-len %u: a sequence needs %" PRIu64 " bytes of slots and "
                         "%" PRIu64 " of blocks; tiers without a size (--kv-hbm-bytes, "
                         "--kv-host-bytes) take half of %" PRIu64 " at most",
                         config->max_model_len, hbm_needed(engine, tiers, config->max_model_len),
                         host_needed(engine, config->max_model_len), tiers->memory_bytes);
    }
    return SPIN_OK;
}

static spin_status check_on_gpu(const struct spin_engine *engine, const struct tiers *tiers,
                                const struct spin_engine_config *given, struct spin_error *err)
{
    const struct spin_engine_config *config = &engine->config;
    if (config->kv_hbm_bytes > tiers->room.slots) {
        return too_little_room(engine, tiers, config->kv_hbm_bytes, err);
    }
    const uint64_t most =
        given->kv_host_bytes != 0 ? tiers->memory_bytes : tiers->memory_bytes / MEMORY_SHARE_MOST;
    if (config->kv_host_bytes > most) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY,
                         "--kv-host-bytes %" PRIu64 ": blocks of a GPU are pinned memory, and of "
                         "the %" PRIu64 " bytes that this process may use they take %" PRIu64
                         " at most; a sequence of %u tokens (--max-model-len) needs %" PRIu64,
                         config->kv_host_bytes, tiers->memory_bytes, most, config->max_model_len,
                         host_needed(engine, config->max_model_len));
    }
    return SPIN_OK;
}

spin_status spin_engine_resolve_tiers(struct spin_engine *engine, bool length_given,
                                      struct spin_error *err)
{
    struct tiers tiers;
    SPIN_TRY(tiers_of(engine, &tiers, err));
    if (!length_given) {
        SPIN_TRY(cap_model_len(engine, &tiers, err));
    }
    SPIN_TRY(check_given(engine, &tiers, err));
    const struct spin_engine_config given = engine->config;
    fill_sizes(engine, &tiers);
    return tiers.on_gpu ? check_on_gpu(engine, &tiers, &given, err)
                        : check_on_cpu(engine, &tiers, &given, err);
}
