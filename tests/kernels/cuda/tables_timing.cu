/* What the operations of the area cost at the shapes of a decode step of a model of 40 layers, 8 kv
 * heads of 128, pages of 8 tokens: medians of single launches between two events, each after 256 MB
 * were written elsewhere, so that no table is in a cache. Beside kv_resolve, whose tables are a few
 * KB a row, stands what a kernel that does nothing costs; copies stand beside the link's rate. */
#include "base/assert.h"
#include "base/clock.h"
#include "kernels/ops_cuda.cuh"
#include "tests/kernels/cuda/tables_twins.h"

#include <algorithm>
#include <functional>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#define SYNC_NS (30 * SPIN_NS_PER_S)
#define HEADS 8u
#define HEAD_DIM 128u
#define PAGE_TOKENS 8u
#define FLUSH_BYTES (UINT64_C(256) << 20)
#define HBM_BYTES_PER_US 4263e3 /* measured: a copy, read and written */
#define LINK_BYTES_PER_US 51.2e3
#define WARM_STEPS 24u
#define TIMED_STEPS 15u

namespace
{

struct bench {
    struct spin_twins *twins;
    struct spin_rng rng;
    void *flush;
    std::vector<void *> memory; /* of the device */
};

static __global__ void nothing(void)
{
}

static void *take(struct bench *bench, uint64_t bytes)
{
    struct spin_error err;
    void *memory = NULL;
    SPIN_ASSERT_EQ(spin_device_alloc(bench->twins->cuda, bytes, &memory, &err), SPIN_OK);
    bench->memory.push_back(memory);
    return memory;
}

template <class T> static T *put(struct bench *bench, const std::vector<T> &values)
{
    T *memory = (T *)take(bench, values.size() * sizeof(T));
    SPIN_ASSERT_EQ(
        spin_device_write(bench->twins->cuda, memory, values.data(), values.size() * sizeof(T)),
        SPIN_OK);
    SPIN_ASSERT_EQ(spin_stream_sync(bench->twins->cuda, SYNC_NS), SPIN_OK);
    return memory;
}

static void release(struct bench *bench)
{
    for (void *memory : bench->memory) {
        spin_device_free(bench->twins->cuda, memory);
    }
    bench->memory.clear();
}

/* The median of `count` calls, in us; call(i) is given its number. */
static double time_us(struct bench *bench, uint32_t count,
                      const std::function<void(uint32_t)> &call)
{
    const cudaStream_t stream = spin_stream_cuda(bench->twins->cuda);
    std::vector<float> times;
    cudaEvent_t begin;
    cudaEvent_t end;
    SPIN_ASSERT_EQ(cudaEventCreate(&begin), cudaSuccess);
    SPIN_ASSERT_EQ(cudaEventCreate(&end), cudaSuccess);
    for (uint32_t i = 0; i < count; i++) {
        float ms = 0;
        (void)cudaMemsetAsync(bench->flush, (int)i, FLUSH_BYTES, stream);
        (void)cudaEventRecord(begin, stream);
        call(i);
        (void)cudaEventRecord(end, stream);
        SPIN_ASSERT_EQ(spin_stream_sync(bench->twins->cuda, SYNC_NS), SPIN_OK);
        (void)cudaEventElapsedTime(&ms, begin, end);
        times.push_back(ms * 1e3f);
    }
    (void)cudaEventDestroy(begin);
    (void)cudaEventDestroy(end);
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

static void say(const char *name, double us, double floor_us)
{
    char line[160];
    spin_twin_result(name, us, "us");
    (void)snprintf(line, sizeof line, "%s_over_floor", name);
    spin_twin_result(line, us / floor_us, "ratio");
}

static std::vector<uint32_t> permutation(struct bench *bench, uint32_t count)
{
    std::vector<uint32_t> values(count);
    for (uint32_t i = 0; i < count; i++) {
        values[i] = i;
    }
    for (uint32_t i = count - 1; i > 0; i--) {
        std::swap(values[i], values[spin_rng_below(&bench->rng, i + 1)]);
    }
    return values;
}

/* --- resolve and resize --- */

struct table {
    struct spin_kv_view view;
    struct spin_kv_lists lists;
    struct spin_kv_batch batch;
    uint32_t sequences;
    uint32_t pages;  /* of a row */
    uint32_t slots;  /* of a row */
    uint32_t chosen; /* of a row */
    std::vector<uint16_t> selection;
};

static void make_lists(struct bench *bench, struct table *table)
{
    const uint32_t rows = table->sequences * HEADS;
    struct spin_kv_lists *lists = &table->lists;
    lists->stride = table->pages;
    lists->page_count = put(bench, std::vector<uint32_t>(rows, table->chosen));
    lists->slots = (uint32_t *)take(bench, (uint64_t)rows * lists->stride * 4);
    lists->visible = (uint32_t *)take(bench, rows * 4);
    lists->misses =
        (struct spin_kv_miss *)take(bench, (uint64_t)rows * lists->stride * sizeof *lists->misses);
    lists->miss_count = (uint32_t *)take(bench, rows * 4);
    std::vector<uint32_t> sequence(table->sequences);
    for (uint32_t s = 0; s < table->sequences; s++) {
        sequence[s] = s;
    }
    table->batch.count = table->sequences;
    table->batch.sequence = put(bench, sequence);
    table->batch.tokens =
        put(bench, std::vector<uint32_t>(table->sequences, table->pages * PAGE_TOKENS));
}

/* One layer; every sequence has the same number of pages, slots and chosen pages. */
static struct table make_table(struct bench *bench, uint32_t sequences, uint32_t pages)
{
    struct table table = {};
    struct spin_kv_view *view = &table.view;
    table.sequences = sequences;
    table.pages = pages;
    table.chosen = pages / 64;    /* 1.56 % */
    table.slots = pages * 3 / 32; /* six times as many */
    const uint32_t slabs = table.slots / SPIN_SLAB_SLOTS;
    const uint32_t rows = sequences * HEADS;
    view->layout = {1, HEADS, HEAD_DIM, SPIN_KV_BF16, SPIN_SWIZZLE_NONE};
    view->page_tokens = PAGE_TOKENS;
    view->partition_tokens = PAGE_TOKENS;
    view->slabs_max = pages / SPIN_SLAB_SLOTS;
    view->directory_max = pages / SPIN_LEAF_PAGES;
    view->blocks_max = pages * PAGE_TOKENS / SPIN_BLOCK_TOKENS;
    const std::vector<uint32_t> groups = permutation(bench, sequences * slabs);
    std::vector<uint32_t> list((uint64_t)sequences * view->slabs_max);
    for (uint32_t i = 0; i < groups.size(); i++) {
        list[(uint64_t)(i / slabs) * view->slabs_max + i % slabs] = groups[i];
    }
    const uint64_t pool = (uint64_t)rows * table.slots;
    view->residency = put(bench, std::vector<uint8_t>(sequences, SPIN_KV_BUFFERED));
    view->slab_list = put(bench, list);
    view->slab_count = put(bench, std::vector<uint32_t>(sequences, slabs));
    view->stamp = (uint8_t *)take(bench, pool);
    view->slot_page = (uint16_t *)take(bench, pool * 2);
    view->leaf = (uint16_t *)take(bench, pool * 2 * SPIN_LEAF_PAGES);
    view->directory = (uint16_t *)take(bench, (uint64_t)rows * view->directory_max * 2);
    view->leaf_free = (uint16_t *)take(bench, rows * 2);
    view->counters = (struct spin_kv_counters *)take(bench, rows * sizeof *view->counters);
    make_lists(bench, &table);
    return table;
}

/* A share of the chosen pages changes; the newest stays. `change` in thousandths. */
static void drift(struct bench *bench, struct table *table, uint32_t change)
{
    std::vector<uint16_t> pages((uint64_t)table->sequences * HEADS * table->lists.stride);
    const bool first = table->selection.empty();
    for (uint32_t row = 0; row < table->sequences * HEADS; row++) {
        const uint64_t at = (uint64_t)row * table->lists.stride;
        std::vector<bool> in(table->pages, false);
        in[table->pages - 1] = true;
        for (uint32_t i = 0; i + 1 < table->chosen; i++) {
            uint32_t page = first ? 0 : table->selection[at + i];
            while (first || in[page] || spin_rng_below(&bench->rng, 1000) < change) {
                page = spin_rng_below(&bench->rng, table->pages - 1);
                if (!in[page]) {
                    break;
                }
            }
            in[page] = true;
        }
        for (uint32_t page = 0, i = 0; page < table->pages; page++) {
            if (in[page]) {
                pages[at + i++] = (uint16_t)page;
            }
        }
    }
    table->selection = pages;
}

static void time_resolve(struct bench *bench, enum spin_kv_replacement replacement,
                         uint32_t sequences, uint32_t pages, uint32_t change)
{
    char name[128];
    struct table table = make_table(bench, sequences, pages);
    struct spin_stream *stream = bench->twins->cuda;
    std::vector<const uint16_t *> selections;
    std::vector<const uint32_t *> steps;
    for (uint32_t i = 0; i < WARM_STEPS + TIMED_STEPS; i++) {
        drift(bench, &table, change);
        selections.push_back(put(bench, table.selection));
        steps.push_back(put(bench, std::vector<uint32_t>(sequences, i)));
    }
    for (uint32_t s = 0; s < sequences; s++) {
        const struct spin_kv_resize_args birth = {&table.view, s, 0, 0, 0, table.slots, 0, 0};
        (void)spin_ops_cuda.kv_resize[replacement](&birth, stream);
    }
    const auto resolve = [&](uint32_t i) {
        table.lists.pages = (uint16_t *)(uintptr_t)selections[i];
        table.batch.step = steps[i];
        const struct spin_kv_resolve_args args = {&table.view, table.batch, table.lists};
        (void)spin_ops_cuda.kv_resolve[replacement](&args, stream);
    };
    for (uint32_t i = 0; i < WARM_STEPS; i++) {
        resolve(i);
    }
    uint64_t misses = 0;
    std::vector<uint32_t> counts(sequences * HEADS);
    const double us = time_us(bench, TIMED_STEPS, [&](uint32_t i) { resolve(WARM_STEPS + i); });
    SPIN_ASSERT_EQ(
        spin_device_read(stream, counts.data(), table.lists.miss_count, counts.size() * 4),
        SPIN_OK);
    SPIN_ASSERT_EQ(spin_stream_sync(stream, SYNC_NS), SPIN_OK);
    for (const uint32_t count : counts) {
        misses += count;
    }
    const double empty = time_us(bench, TIMED_STEPS, [&](uint32_t i) {
        (void)i;
        nothing<<<sequences * HEADS, 512, 0, spin_stream_cuda(stream)>>>();
    });
    (void)snprintf(name, sizeof name, "resolve_%s_B%u_%uK_change%u",
                   replacement == SPIN_KV_BUCKETED ? "bucketed" : "slot_lru", sequences,
                   pages * PAGE_TOKENS / 1024, change);
    say(name, us, empty);
    (void)snprintf(name + strlen(name), sizeof name - strlen(name), "_misses_per_row");
    spin_twin_result(name, (double)misses / (sequences * HEADS), "pages");
    release(bench);
}

static void time_resize(struct bench *bench, enum spin_kv_replacement replacement, uint32_t pages)
{
    char name[128];
    const char *policy = replacement == SPIN_KV_BUCKETED ? "bucketed" : "slot_lru";
    struct table table = make_table(bench, 1, pages);
    struct spin_stream *stream = bench->twins->cuda;
    const uint32_t half = table.slots / 2 / SPIN_SLAB_SLOTS * SPIN_SLAB_SLOTS;
    const auto resize = [&](uint32_t before, uint32_t after, uint32_t held) {
        const struct spin_kv_resize_args args = {&table.view, 0, 0, 9, before, after, 0, held};
        (void)spin_ops_cuda.kv_resize[replacement](&args, stream);
    };
    const double born =
        time_us(bench, TIMED_STEPS, [&](uint32_t i) { resize(0, table.slots, i % 2 * half); });
    resize(0, table.slots, table.slots);
    const double change = time_us(bench, TIMED_STEPS, [&](uint32_t i) {
        resize(i % 2 == 0 ? table.slots : half, i % 2 == 0 ? half : table.slots, 0);
    });
    const double empty = time_us(bench, TIMED_STEPS, [&](uint32_t i) {
        (void)i;
        nothing<<<HEADS, 512, 0, spin_stream_cuda(stream)>>>();
    });
    (void)snprintf(name, sizeof name, "resize_birth_%s_%uK", policy, pages * PAGE_TOKENS / 1024);
    say(name, born, empty);
    (void)snprintf(name, sizeof name, "resize_half_%s_%uK", policy, pages * PAGE_TOKENS / 1024);
    say(name, change, empty);
    release(bench);
}

/* --- copies --- */

/* 40 layers, blocks of 128 tokens: 20 MiB each. */
static void time_copies(struct bench *bench, const uint8_t *host, uint32_t blocks,
                        uint32_t sequences, uint32_t per_row)
{
    char name[128];
    struct spin_kv_view view = {};
    struct spin_stream *stream = bench->twins->cuda;
    const uint32_t rows = sequences * HEADS;
    const uint32_t block_pages = SPIN_BLOCK_TOKENS / PAGE_TOKENS;
    view.layout = {40, HEADS, HEAD_DIM, SPIN_KV_BF16, SPIN_SWIZZLE_NONE};
    view.page_tokens = PAGE_TOKENS;
    view.blocks_max = blocks;
    view.frame_blocks = blocks;
    view.host = (uint8_t *)(uintptr_t)host;
    const double bytes = (double)rows * per_row * spin_page_bytes(&view.layout, PAGE_TOKENS);
    std::vector<uint32_t> list;
    std::vector<uint32_t> sequence(sequences);
    for (uint32_t s = 0; s < sequences; s++) {
        const std::vector<uint32_t> some = permutation(bench, blocks);
        list.insert(list.end(), some.begin(), some.end());
        sequence[s] = s;
    }
    const std::vector<uint32_t> slots = permutation(bench, rows * per_row);
    std::vector<struct spin_kv_miss> misses(slots.size());
    for (uint64_t i = 0; i < misses.size(); i++) {
        misses[i] = {(uint16_t)spin_rng_below(&bench->rng, blocks * block_pages), 0, slots[i]};
    }
    view.pool = (uint8_t *)take(bench, (uint64_t)bytes);
    view.blocks = put(bench, list);
    const uint32_t count = std::min(per_row, blocks * block_pages);
    const uint32_t tokens = count * PAGE_TOKENS; /* offload: the lists are these pages */
    const struct spin_kv_lists lists = {per_row,
                                        NULL,
                                        NULL,
                                        put(bench, slots),
                                        put(bench, std::vector<uint32_t>(rows, tokens)),
                                        put(bench, misses),
                                        put(bench, std::vector<uint32_t>(rows, per_row))};
    const struct spin_kv_range *ranges =
        put(bench, std::vector<struct spin_kv_range>(sequences, {0, count}));
    struct spin_kv_batch batch = {0, sequences, put(bench, sequence),
                                  put(bench, std::vector<uint32_t>(sequences, tokens)), NULL};
    const double gather = time_us(bench, TIMED_STEPS, [&](uint32_t i) {
        batch.layer = i % 40; /* other frames each time */
        const struct spin_kv_gather_args args = {&view, batch, lists};
        (void)spin_ops_cuda.kv_gather(&args, stream);
    });
    const double offload = time_us(bench, TIMED_STEPS, [&](uint32_t i) {
        batch.layer = i % 40;
        const struct spin_kv_offload_args args = {&view, batch, lists, ranges};
        (void)spin_ops_cuda.kv_offload(&args, stream);
    });
    (void)snprintf(name, sizeof name, "gather_B%u_pages%u", sequences, per_row);
    say(name, gather, bytes / LINK_BYTES_PER_US);
    (void)snprintf(name, sizeof name, "gather_B%u_pages%u_rate", sequences, per_row);
    spin_twin_result(name, bytes / gather / 1e3, "GB/s");
    (void)snprintf(name, sizeof name, "offload_B%u_pages%u", sequences, count);
    say(name, offload, bytes * count / per_row / LINK_BYTES_PER_US);
    release(bench);
}

static void time_append(struct bench *bench, uint32_t sequences, uint32_t queries)
{
    char name[128];
    struct spin_kv_append_args args = {};
    struct spin_stream *stream = bench->twins->cuda;
    const uint32_t tokens = sequences * queries;
    const uint32_t row_pages = (queries - 1) / PAGE_TOKENS + 1;
    const uint32_t rows = sequences * HEADS;
    std::vector<uint32_t> first(sequences + 1);
    std::vector<uint64_t> offsets(rows);
    for (uint32_t s = 0; s <= sequences; s++) {
        first[s] = s * queries;
    }
    for (uint32_t row = 0; row < rows; row++) {
        offsets[row] = (uint64_t)row * row_pages;
    }
    args.pages.layout = {1, HEADS, HEAD_DIM, SPIN_KV_BF16, SPIN_SWIZZLE_NONE};
    args.pages.page_tokens = PAGE_TOKENS;
    args.pages.pool = (uint8_t *)take(bench, (uint64_t)rows * row_pages *
                                                 spin_page_bytes(&args.pages.layout, PAGE_TOKENS));
    args.pages.slots = put(bench, permutation(bench, rows * row_pages));
    args.pages.row_offset = put(bench, offsets);
    args.pages.visible = put(bench, std::vector<uint32_t>(rows, queries));
    args.spans.first = put(bench, first);
    args.spans.count = sequences;
    const uint32_t cols = HEADS * HEAD_DIM;
    uint16_t *qkv = (uint16_t *)take(bench, (uint64_t)tokens * 7 * cols * 2);
    args.k = {qkv + 5 * cols, SPIN_DTYPE_BF16, tokens, cols, 7 * cols};
    args.v = {qkv + 6 * cols, SPIN_DTYPE_BF16, tokens, cols, 7 * cols};
    const double us = time_us(bench, TIMED_STEPS, [&](uint32_t i) {
        (void)i;
        (void)spin_ops_cuda.kv_append(&args, stream);
    });
    (void)snprintf(name, sizeof name, "append_B%u_queries%u", sequences, queries);
    say(name, us, 4.0 * tokens * cols * 2 / HBM_BYTES_PER_US);
    release(bench);
}

} // namespace

void spin_twins_tables_timing(struct spin_twins *twins)
{
    static const uint32_t batches[] = {1, 8, 32};
    static const uint32_t pages[] = {4096, 16384};
    static const uint32_t changes[] = {0, 50, 300};
    struct bench bench = {twins, {twins->seed, 3000, 0}, NULL, {}};
    struct spin_error err;
    void *host = NULL;
    const uint32_t blocks = 100; /* 2 GB */
    const uint64_t host_bytes = blocks * (UINT64_C(40) * HEADS * 16 * 4096);
    SPIN_ASSERT_EQ(spin_device_alloc(twins->cuda, FLUSH_BYTES, &bench.flush, &err), SPIN_OK);
    SPIN_ASSERT_EQ(spin_host_alloc(twins->cuda, host_bytes, &host, &err), SPIN_OK);
    for (uint32_t r = 0; r < SPIN_KV_REPLACEMENTS; r++) {
        for (uint32_t i = 0; i < 18; i++) {
            time_resolve(&bench, (enum spin_kv_replacement)r, batches[i / 6], pages[i / 3 % 2],
                         changes[i % 3]);
        }
        time_resize(&bench, (enum spin_kv_replacement)r, pages[0]);
        time_resize(&bench, (enum spin_kv_replacement)r, pages[1]);
    }
    for (const uint32_t batch : batches) {
        for (const uint32_t per_row : {1u, 12u, 69u}) {
            time_copies(&bench, (const uint8_t *)host, blocks, batch, per_row);
        }
        time_append(&bench, batch, 1);
    }
    time_copies(&bench, (const uint8_t *)host, blocks, 1, 256);
    time_append(&bench, 1, 2048);
    spin_host_free(twins->cuda, host);
    spin_device_free(twins->cuda, bench.flush);
}
