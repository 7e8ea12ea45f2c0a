/* The fast kv_list: a slab's neighbouring slots at a time; slabs of all rows dealt out over the
 * threads. */
#include "kernels/kernels_internal.h"
#include "kernels/kv_list.h"
#include "kernels/kv_list_internal.h"

/* Entries [begin, end) of a row: pages of one slab, the first of which is in pool slot `slot`. */
static void put_slab(const struct spin_kv_list_args *args, uint32_t head, struct spin_range entries,
                     uint32_t slot)
{
    const uint64_t start = (uint64_t)head * args->lists.stride;
    for (uint64_t i = entries.begin; i < entries.end; i++) {
        const uint16_t page = (uint16_t)(args->pages.first + i);
        const uint32_t place = slot + (uint32_t)(i - entries.begin);
        if (args->kind == SPIN_KV_LIST_SLOTS) {
            args->lists.pages[start + i] = page;
            args->lists.slots[start + i] = place;
        } else if (args->kind == SPIN_KV_LIST_MISSES) {
            args->lists.misses[start + i] = (struct spin_kv_miss){page, 0, place};
        } else {
            args->lists.pages[start + i] = page;
        }
    }
}

static void put_counts(const struct spin_kv_list_args *args, uint32_t head)
{
    if (args->kind == SPIN_KV_LIST_MISSES) {
        args->lists.miss_count[head] = args->pages.count;
    } else {
        args->lists.page_count[head] = args->pages.count;
    }
    if (args->kind == SPIN_KV_LIST_SLOTS) {
        args->lists.visible[head] = args->tokens - args->pages.first * args->view->page_tokens;
    }
}

/* Work is cut into (row, slab of the range). */
static void run(void *context, uint32_t thread, uint32_t threads)
{
    const struct spin_kv_list_args *args = *(const struct spin_kv_list_args *const *)context;
    const struct spin_kv_view *view = args->view;
    const uint32_t first = args->pages.first;
    const uint32_t end = first + args->pages.count;
    const uint32_t first_slab = first / SPIN_SLAB_SLOTS;
    const uint64_t slabs = (end - 1) / SPIN_SLAB_SLOTS - first_slab + 1;
    const struct spin_range share = spin_cut(slabs * view->layout.kv_heads, 1, thread, threads);
    for (uint64_t i = share.begin; i < share.end; i++) {
        const uint32_t head = (uint32_t)(i / slabs);
        const uint32_t slab = first_slab + (uint32_t)(i % slabs);
        const uint32_t begin = SPIN_MAX(first, slab * SPIN_SLAB_SLOTS);
        const struct spin_range entries = {begin - first,
                                           SPIN_MIN(end, (slab + 1) * SPIN_SLAB_SLOTS) - first};
        uint32_t slot = 0;
        if (args->kind != SPIN_KV_LIST_PAGES) {
            const uint64_t row = spin_kv_table_row(view, args->sequence, args->slot_layer, head);
            slot = spin_kv_pool_slot(view, row, begin);
        }
        put_slab(args, head, entries, slot);
        if (slab == first_slab) {
            put_counts(args, head);
        }
    }
}

spin_status spin_kv_list_cpu(const struct spin_kv_list_args *args, struct spin_stream *stream)
{
    spin_kv_list_check(args);
    spin_run_rows(stream, run, &args, (uint64_t)args->pages.count * args->view->layout.kv_heads);
    return SPIN_OK;
}
