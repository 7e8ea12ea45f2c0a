#include "kernels/kv_copy.h"

#include "kernels/kv_row.h"

#include <string.h>

spin_status spin_kv_gather_ref(const struct spin_kv_gather_args *args, struct spin_stream *stream)
{
    (void)stream;
    const struct spin_kv_view *view = args->view;
    const uint64_t page_bytes = spin_page_bytes(&view->layout, view->page_tokens);
    for (uint32_t i = 0; i < args->batch.count; i++) {
        for (uint32_t head = 0; head < view->layout.kv_heads; head++) {
            const uint64_t row = (uint64_t)i * view->layout.kv_heads + head;
            const struct spin_kv_miss *misses = args->lists.misses + row * args->lists.stride;
            for (uint32_t m = 0; m < args->lists.miss_count[row]; m++) {
                uint8_t *slot = spin_kv_slot_bytes(view, misses[m].slot);
                if (misses[m].fresh != 0) {
                    memset(slot, 0, page_bytes);
                } else {
                    memcpy(slot,
                           spin_kv_frame_bytes(view, args->batch.sequence[i], args->batch.layer,
                                               head, misses[m].page),
                           page_bytes);
                }
            }
        }
    }
    return SPIN_OK;
}

spin_status spin_kv_offload_ref(const struct spin_kv_offload_args *args, struct spin_stream *stream)
{
    (void)stream;
    const struct spin_kv_view *view = args->view;
    const uint64_t page_bytes = spin_page_bytes(&view->layout, view->page_tokens);
    for (uint32_t i = 0; i < args->batch.count; i++) {
        for (uint32_t head = 0; head < view->layout.kv_heads; head++) {
            const uint64_t row = (uint64_t)i * view->layout.kv_heads + head;
            const uint32_t *slots =
                spin_kv_range_slots(view, &args->batch, &args->lists, &args->ranges[i], row);
            for (uint32_t j = 0; j < args->ranges[i].count; j++) {
                memcpy(spin_kv_frame_bytes(view, args->batch.sequence[i], args->batch.layer, head,
                                           args->ranges[i].first + j),
                       spin_kv_slot_bytes(view, slots[j]), page_bytes);
            }
        }
    }
    return SPIN_OK;
}
