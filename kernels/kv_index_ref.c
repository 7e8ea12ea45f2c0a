#include "kernels/dtype.h"
#include "kernels/kernels_internal.h"
#include "kernels/kv_index_internal.h"

/* Element `d` of the summary's halves, over the partition's keys. */
static void summarize(const struct spin_kv_index_args *args, const struct spin_index_task *task,
                      uint32_t d)
{
    const uint32_t head_dim = args->view->layout.head_dim;
    const uint32_t tokens = args->view->partition_tokens;
    double sum = 0;
    float min = 0;
    float max = 0;
    for (uint32_t t = 0; t < tokens; t++) {
        const float key = spin_f32_from_bf16(spin_index_key(args, task, t)[d]);
        sum += (double)key;
        min = t == 0 || key < min ? key : min;
        max = t == 0 || key > max ? key : max;
    }
    if (args->summary == SPIN_SUMMARY_MEAN) {
        task->summary[d] = spin_bf16_from_f32((float)(sum / tokens));
    } else {
        task->summary[d] = spin_bf16_from_f32(min);
        task->summary[head_dim + d] = spin_bf16_from_f32(max);
    }
}

spin_status spin_kv_index_ref(const struct spin_kv_index_args *args, struct spin_stream *stream)
{
    (void)stream;
    spin_index_check(args);
    for (uint32_t s = 0; s < args->batch.count; s++) {
        for (uint64_t i = 0; i < spin_index_tasks(args, s); i++) {
            const struct spin_index_task task = spin_index_task(args, s, i);
            for (uint32_t d = 0; d < args->view->layout.head_dim; d++) {
                summarize(args, &task, d);
            }
        }
    }
    return SPIN_OK;
}
