/* The manager's memory, and how what the host writes of it gets where operations read it. */
#include "base/checked.h"
#include "kvstore/manager/kv_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* --- taking --- */

/* Takes the manager's arrays one after another; after a failure, nothing more. */
struct taker {
    struct spin_stream *stream;
    struct spin_error *err;
    spin_status status;
    bool of_host; /* spin_host_alloc, not spin_device_alloc */
};

static void *alloc_array(struct taker *taker, uint64_t count, uint64_t element_bytes)
{
    uint64_t bytes;
    void *memory = NULL;
    if (taker->status != SPIN_OK || count == 0 || element_bytes == 0) {
        return NULL;
    }
    if (!spin_mul_u64(count, element_bytes, &bytes)) {
        taker->status = spin_fail(taker->err, SPIN_ERR_NO_MEMORY,
                                  "KV manager: a table of %" PRIu64 " entries", count);
        return NULL;
    }
    taker->status = taker->of_host ? spin_host_alloc(taker->stream, bytes, &memory, taker->err)
                                   : spin_device_alloc(taker->stream, bytes, &memory, taker->err);
    return taker->status == SPIN_OK ? memory : NULL;
}

/* An array that the host writes and operations read. *device: where they do. */
static void *alloc_shared(struct spin_kv *kv, struct taker *taker, uint64_t count,
                          uint64_t element_bytes, void **device)
{
    *device = alloc_array(taker, count, element_bytes);
    if (*device == NULL || spin_device_is_host(kv->stream)) {
        return *device;
    }
    SPIN_ASSERT(count > 0 && element_bytes > 0);
    void *memory = calloc(count, element_bytes);
    if (memory == NULL) {
        taker->status = spin_fail(taker->err, SPIN_ERR_NO_MEMORY,
                                  "KV manager: a table of %" PRIu64 " entries", count);
    }
    return memory;
}

static spin_status alloc_shared_tables(struct spin_kv *kv, struct spin_error *err)
{
    struct taker taker = {.stream = kv->stream, .err = err, .status = SPIN_OK};
    struct spin_kv_view *view = &kv->view;
    const uint64_t sequences = kv->config.sequences_max;
    const uint64_t layers = sequences * view->layout.layers;
    void *device = NULL;
    kv->residency = alloc_shared(kv, &taker, sequences, sizeof *kv->residency, &device);
    view->residency = device;
    kv->slab_list =
        alloc_shared(kv, &taker, layers * view->slabs_max, sizeof *kv->slab_list, &device);
    view->slab_list = device;
    kv->slab_count = alloc_shared(kv, &taker, layers, sizeof *kv->slab_count, &device);
    view->slab_count = device;
    kv->block_list =
        alloc_shared(kv, &taker, sequences * view->blocks_max, sizeof *kv->block_list, &device);
    view->blocks = device;
    return taker.status;
}

static spin_status alloc_tiers(struct spin_kv *kv, struct spin_error *err)
{
    struct taker taker = {.stream = kv->stream, .err = err, .status = SPIN_OK};
    kv->view.pool = alloc_array(&taker, (uint64_t)kv->slabs * SPIN_SLAB_SLOTS, kv->page_bytes);
    kv->view.summaries = alloc_array(&taker, kv->blocks, kv->summary_bytes);
    taker.of_host = true;
    kv->view.host = alloc_array(&taker, kv->view.frame_blocks, kv->block_bytes);
    return taker.status;
}

static spin_status alloc_tables(struct spin_kv *kv, struct spin_error *err)
{
    struct taker taker = {.stream = kv->stream, .err = err, .status = SPIN_OK};
    struct spin_kv_view *view = &kv->view;
    const uint64_t sequences = kv->config.sequences_max;
    const uint64_t table_rows = sequences * kv->rows;
    const uint64_t slots = (uint64_t)kv->slabs * SPIN_SLAB_SLOTS;
    view->stamp = alloc_array(&taker, slots, sizeof *view->stamp);
    view->counters = alloc_array(&taker, table_rows, sizeof *view->counters);
    if (kv->config.replacement == SPIN_KV_SLOT_LRU) {
        view->slot_page = alloc_array(&taker, slots, sizeof *view->slot_page);
    } else {
        view->leaf = alloc_array(&taker, slots, SPIN_LEAF_PAGES * sizeof *view->leaf);
        view->directory =
            alloc_array(&taker, table_rows * view->directory_max, sizeof *view->directory);
        view->leaf_free = alloc_array(&taker, table_rows, sizeof *view->leaf_free);
    }
    kv->counters = view->counters;
    if (!spin_device_is_host(kv->stream)) {
        taker.of_host = true;
        kv->counters = alloc_array(&taker, table_rows, sizeof *kv->counters);
    }
    return taker.status;
}

static spin_status alloc_lists(struct spin_kv *kv, struct spin_error *err)
{
    struct taker taker = {.stream = kv->stream, .err = err, .status = SPIN_OK};
    struct spin_kv_lists *lists = &kv->lists;
    const uint64_t sequences = kv->config.sequences_max;
    const uint64_t rows = sequences * kv->config.layout.kv_heads;
    const uint64_t entries = rows * kv->pages_max;
    lists->stride = kv->pages_max;
    lists->pages = alloc_array(&taker, entries, sizeof *lists->pages);
    lists->page_count = alloc_array(&taker, rows, sizeof *lists->page_count);
    lists->slots = alloc_array(&taker, entries, sizeof *lists->slots);
    lists->visible = alloc_array(&taker, rows, sizeof *lists->visible);
    lists->misses = alloc_array(&taker, entries, sizeof *lists->misses);
    lists->miss_count = alloc_array(&taker, rows, sizeof *lists->miss_count);
    kv->row_offset = alloc_array(&taker, rows, sizeof *kv->row_offset);
    SPIN_TRY(taker.status);
    uint64_t *offsets = calloc(rows, sizeof *offsets);
    if (offsets == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "KV manager: lists of %" PRIu64 " rows", rows);
    }
    for (uint64_t row = 0; row < rows; row++) {
        offsets[row] = row * lists->stride;
    }
    const spin_status status =
        spin_device_write(kv->stream, kv->row_offset, offsets, rows * sizeof *offsets);
    free(offsets);
    return status;
}

static spin_status alloc_inputs(struct spin_kv *kv, struct spin_error *err)
{
    const uint32_t sequences = kv->config.sequences_max;
    const uint64_t bytes = spin_kv_inputs_bytes(sequences);
    struct taker taker = {.stream = kv->stream, .err = err, .status = SPIN_OK};
    kv->inputs = spin_kv_inputs_at(alloc_array(&taker, bytes, 1), sequences);
    kv->one = spin_kv_inputs_at(alloc_array(&taker, spin_kv_inputs_bytes(1), 1), 1);
    taker.of_host = true;
    kv->staged = spin_kv_inputs_at(alloc_array(&taker, bytes, 1), sequences);
    return taker.status;
}

spin_status spin_kv_alloc_memory(struct spin_kv *kv, struct spin_error *err)
{
    SPIN_TRY(alloc_tiers(kv, err));
    SPIN_TRY(alloc_shared_tables(kv, err));
    SPIN_TRY(alloc_tables(kv, err));
    SPIN_TRY(alloc_lists(kv, err));
    return alloc_inputs(kv, err);
}

/* The host's half of an array that operations have a copy of. */
static void free_shared(void *memory, const void *device)
{
    if (memory != device) {
        free(memory);
    }
}

void spin_kv_free_memory(struct spin_kv *kv)
{
    const struct spin_kv_view *view = &kv->view;
    free_shared(kv->residency, view->residency);
    free_shared(kv->slab_list, view->slab_list);
    free_shared(kv->slab_count, view->slab_count);
    free_shared(kv->block_list, view->blocks);
    if (kv->counters != view->counters) {
        spin_host_free(kv->stream, kv->counters);
    }
    union {
        const void *in;
        void *out;
    } const memory[] = {
        {view->pool},       {view->summaries}, {view->residency},      {view->slab_list},
        {view->slab_count}, {view->blocks},    {view->slot_page},      {view->stamp},
        {view->leaf},       {view->directory}, {view->leaf_free},      {view->counters},
        {kv->lists.pages},  {kv->lists.slots}, {kv->lists.page_count}, {kv->lists.visible},
        {kv->lists.misses}, {kv->row_offset},  {kv->lists.miss_count}, {kv->inputs.sequence},
        {kv->one.sequence},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(memory); i++) {
        spin_device_free(kv->stream, memory[i].out);
    }
    spin_host_free(kv->stream, view->host);
    spin_host_free(kv->stream, kv->staged.sequence);
}

/* --- sending --- */

/* The `part`-th of an array's parts of `bytes` each. What the view names is const to the host. */
static spin_status send(struct spin_kv *kv, const void *device, const void *memory, uint64_t part,
                        uint64_t bytes)
{
    union {
        const uint8_t *in;
        uint8_t *out;
    } const target = {.in = device};
    return spin_device_write(kv->stream, target.out + part * bytes,
                             (const uint8_t *)memory + part * bytes, bytes);
}

/* None of this memory is of spin_host_alloc: it may change again when the calls have returned. */
static spin_status send_slabs(struct spin_kv *kv, uint32_t seq)
{
    const struct spin_kv_view *view = &kv->view;
    const uint64_t layers = view->layout.layers;
    SPIN_TRY(send(kv, view->residency, kv->residency, seq, sizeof *kv->residency));
    SPIN_TRY(send(kv, view->slab_count, kv->slab_count, seq, layers * sizeof *kv->slab_count));
    return send(kv, view->slab_list, kv->slab_list, seq,
                layers * view->slabs_max * sizeof *kv->slab_list);
}

static spin_status send_changes(struct spin_kv *kv, uint32_t seq)
{
    if ((kv->dirty[seq] & SPIN_KV_DIRTY_SLABS) != 0) {
        SPIN_TRY(send_slabs(kv, seq));
    }
    if ((kv->dirty[seq] & SPIN_KV_DIRTY_BLOCKS) != 0) {
        SPIN_TRY(send(kv, kv->view.blocks, kv->block_list, seq,
                      kv->view.blocks_max * sizeof *kv->block_list));
    }
    return SPIN_OK;
}

spin_status spin_kv_flush(struct spin_kv *kv)
{
    const bool is_sent = !spin_device_is_host(kv->stream);
    if (!kv->any_dirty) {
        return SPIN_OK;
    }
    for (uint32_t seq = 0; seq < kv->config.sequences_max; seq++) {
        if (is_sent) {
            SPIN_TRY(send_changes(kv, seq));
        }
        kv->dirty[seq] = 0;
    }
    kv->any_dirty = false;
    return SPIN_OK;
}

/* --- bringing --- */

spin_status spin_kv_read_counters(struct spin_kv *kv)
{
    if (spin_device_is_host(kv->stream)) {
        return SPIN_OK;
    }
    const uint64_t rows = (uint64_t)kv->config.sequences_max * kv->rows;
    return spin_device_read(kv->stream, kv->counters, kv->view.counters,
                            rows * sizeof *kv->counters);
}

void spin_kv_wait_for_counters(struct spin_kv *kv, uint32_t seq)
{
    const uint64_t row = spin_kv_table_row(&kv->view, seq, 0, 0);
    const uint64_t bytes = kv->rows * sizeof *kv->counters;
    /* This memory is not of spin_host_alloc. */
    if (!spin_device_is_host(kv->stream) &&
        spin_device_read(kv->stream, kv->row_counters, kv->view.counters + row, bytes) == SPIN_OK) {
        memcpy(kv->counters + row, kv->row_counters, bytes);
    }
}
