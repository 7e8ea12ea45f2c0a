#include "kernels/kv_copy.h"
#include "kernels/kv_row.h"

#include <string.h>

/* --- whole pages, dealt out evenly over the threads --- */

struct gather_job {
    const struct spin_kv_gather_args *args;
    uint64_t pages;
};

static void gather_row(const struct spin_kv_gather_args *args, uint64_t row,
                       struct spin_range misses)
{
    const struct spin_kv_view *view = args->view;
    const uint64_t page_bytes = spin_page_bytes(&view->layout, view->page_tokens);
    const uint32_t sequence = args->batch.sequence[row / view->layout.kv_heads];
    const uint32_t head = (uint32_t)(row % view->layout.kv_heads);
    const struct spin_kv_miss *list = args->lists.misses + row * args->lists.stride;
    for (uint64_t m = misses.begin; m < misses.end; m++) {
        uint8_t *slot = spin_kv_slot_bytes(view, list[m].slot);
        if (list[m].fresh != 0) {
            memset(slot, 0, page_bytes);
        } else {
            memcpy(slot, spin_kv_frame_bytes(view, sequence, args->batch.layer, head, list[m].page),
                   page_bytes);
        }
    }
}

/* The part of `share` that lies in the next `count` of all pages, counted from `first`. */
static struct spin_range part(struct spin_range share, uint64_t first, uint64_t count)
{
    const uint64_t begin = SPIN_MAX(share.begin, first);
    const uint64_t end = SPIN_MIN(share.end, first + count);
    const struct spin_range range = {begin - first, SPIN_MAX(begin, end) - first};
    return range;
}

static void run_gather(void *context, uint32_t thread, uint32_t threads)
{
    const struct gather_job *job = context;
    const struct spin_range share = spin_cut(job->pages, 1, thread, threads);
    uint64_t first = 0;
    for (uint64_t row = 0; first < share.end; row++) {
        const uint32_t count = job->args->lists.miss_count[row];
        gather_row(job->args, row, part(share, first, count));
        first += count;
    }
}

spin_status spin_kv_gather_cpu(const struct spin_kv_gather_args *args, struct spin_stream *stream)
{
    const struct spin_kv_view *view = args->view;
    struct gather_job job = {args, 0};
    for (uint64_t row = 0; row < (uint64_t)args->batch.count * view->layout.kv_heads; row++) {
        job.pages += args->lists.miss_count[row];
    }
    const uint64_t page_values = (uint64_t)2 * view->page_tokens * view->layout.head_dim;
    spin_run_rows(stream, run_gather, &job, job.pages * page_values);
    return SPIN_OK;
}

struct offload_job {
    const struct spin_kv_offload_args *args;
    uint64_t pages;
};

static void offload_row(const struct spin_kv_offload_args *args, uint64_t row,
                        struct spin_range pages)
{
    const struct spin_kv_view *view = args->view;
    const uint64_t page_bytes = spin_page_bytes(&view->layout, view->page_tokens);
    const uint64_t i = row / view->layout.kv_heads;
    const uint32_t head = (uint32_t)(row % view->layout.kv_heads);
    const struct spin_kv_range *range = &args->ranges[i];
    const uint32_t *slots = spin_kv_range_slots(view, &args->batch, &args->lists, range, row);
    for (uint64_t j = pages.begin; j < pages.end; j++) {
        memcpy(spin_kv_frame_bytes(view, args->batch.sequence[i], args->batch.layer, head,
                                   range->first + (uint32_t)j),
               spin_kv_slot_bytes(view, slots[j]), page_bytes);
    }
}

static void run_offload(void *context, uint32_t thread, uint32_t threads)
{
    const struct offload_job *job = context;
    const struct spin_range share = spin_cut(job->pages, 1, thread, threads);
    const uint32_t kv_heads = job->args->view->layout.kv_heads;
    uint64_t first = 0;
    for (uint64_t row = 0; first < share.end; row++) {
        const uint32_t count = job->args->ranges[row / kv_heads].count;
        offload_row(job->args, row, part(share, first, count));
        first += count;
    }
}

spin_status spin_kv_offload_cpu(const struct spin_kv_offload_args *args, struct spin_stream *stream)
{
    const struct spin_kv_view *view = args->view;
    struct offload_job job = {args, 0};
    for (uint32_t i = 0; i < args->batch.count; i++) {
        job.pages += (uint64_t)args->ranges[i].count * view->layout.kv_heads;
    }
    const uint64_t page_values = (uint64_t)2 * view->page_tokens * view->layout.head_dim;
    spin_run_rows(stream, run_offload, &job, job.pages * page_values);
    return SPIN_OK;
}
