/* kv_list on CUDA: a thread writes one entry of one row. */
#include "kernels/kv_list.h"
#include "kernels/kv_list_internal.h"
#include "kernels/ops_cuda.cuh"

namespace
{

constexpr uint32_t THREADS = 256;

struct list_params {
    struct spin_kv_view view;
    struct spin_kv_lists lists;
    enum spin_kv_list_kind kind;
    uint32_t sequence;
    uint32_t slot_layer;
    struct spin_kv_range pages;
    uint32_t visible;
};

__device__ __forceinline__ void put_entry(const struct list_params &p, uint32_t head,
                                          uint32_t entry)
{
    const uint64_t at = (uint64_t)head * p.lists.stride + entry;
    const uint32_t page = p.pages.first + entry;
    if (p.kind != SPIN_KV_LIST_MISSES) {
        p.lists.pages[at] = (uint16_t)page;
    }
    if (p.kind == SPIN_KV_LIST_PAGES) {
        return;
    }
    const uint64_t row = spin_kv_table_row(&p.view, p.sequence, p.slot_layer, head);
    const uint32_t slot = spin_kv_pool_slot(&p.view, row, page);
    if (p.kind == SPIN_KV_LIST_SLOTS) {
        p.lists.slots[at] = slot;
    } else {
        p.lists.misses[at] = {(uint16_t)page, 0, slot};
    }
}

__global__ __launch_bounds__(THREADS) void list_pages(const __grid_constant__ struct list_params p)
{
    const uint32_t head = blockIdx.y;
    const uint32_t entry = blockIdx.x * THREADS + threadIdx.x;
    if (entry < p.pages.count) {
        put_entry(p, head, entry);
    }
    if (entry > 0) {
        return;
    }
    if (p.kind == SPIN_KV_LIST_MISSES) {
        p.lists.miss_count[head] = p.pages.count;
    } else {
        p.lists.page_count[head] = p.pages.count;
    }
    if (p.kind == SPIN_KV_LIST_SLOTS) {
        p.lists.visible[head] = p.visible;
    }
}

} // namespace

extern "C" spin_status spin_kv_list_cuda(const struct spin_kv_list_args *args,
                                         struct spin_stream *stream)
{
    spin_kv_list_check(args);
    const struct list_params p = {*args->view,
                                  args->lists,
                                  args->kind,
                                  args->sequence,
                                  args->slot_layer,
                                  args->pages,
                                  args->tokens - args->pages.first * args->view->page_tokens};
    const dim3 grid((args->pages.count + THREADS - 1) / THREADS, args->view->layout.kv_heads);
    list_pages<<<grid, THREADS, 0, spin_stream_cuda(stream)>>>(p);
    return spin_cuda_launched("kv_list");
}
