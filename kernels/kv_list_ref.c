#include "kernels/kv_list.h"

#include "kernels/kv_list_internal.h"

static void put_entry(const struct spin_kv_list_args *args, uint32_t head, uint32_t entry)
{
    const struct spin_kv_view *view = args->view;
    const uint64_t at = (uint64_t)head * args->lists.stride + entry;
    const uint32_t page = args->pages.first + entry;
    if (args->kind != SPIN_KV_LIST_MISSES) {
        args->lists.pages[at] = (uint16_t)page;
    }
    if (args->kind == SPIN_KV_LIST_PAGES) {
        return;
    }
    const uint64_t row = spin_kv_table_row(view, args->sequence, args->slot_layer, head);
    const uint32_t slot = spin_kv_pool_slot(view, row, page);
    if (args->kind == SPIN_KV_LIST_SLOTS) {
        args->lists.slots[at] = slot;
    } else {
        args->lists.misses[at] =
            (struct spin_kv_miss){.page = (uint16_t)page, .fresh = 0, .slot = slot};
    }
}

spin_status spin_kv_list_ref(const struct spin_kv_list_args *args, struct spin_stream *stream)
{
    (void)stream;
    spin_kv_list_check(args);
    for (uint32_t head = 0; head < args->view->layout.kv_heads; head++) {
        for (uint32_t entry = 0; entry < args->pages.count; entry++) {
            put_entry(args, head, entry);
        }
        if (args->kind == SPIN_KV_LIST_MISSES) {
            args->lists.miss_count[head] = args->pages.count;
        } else {
            args->lists.page_count[head] = args->pages.count;
        }
        if (args->kind == SPIN_KV_LIST_SLOTS) {
            args->lists.visible[head] = args->tokens - args->pages.first * args->view->page_tokens;
        }
    }
    return SPIN_OK;
}
