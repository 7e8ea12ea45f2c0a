#include "kernels/kv_index_internal.h"
#include "kernels/simd_cpu.h"

static __m256 load_key(const struct spin_kv_index_args *args, const struct spin_index_task *task,
                       uint32_t token, uint32_t d)
{
    const void *key = spin_index_key(args, task, token) + d;
    return spin_f32x8_from_bf16(_mm_loadu_si128(key));
}

static void store_eight(uint16_t *target, __m256 values)
{
    _mm_storeu_si128((__m128i *)(void *)target, spin_bf16_from_f32x8(values));
}

/* Partitions are powers of two long: one over their length is exact. */
static void store_mean(const struct spin_kv_index_args *args, const struct spin_index_task *task)
{
    const uint32_t tokens = args->view->partition_tokens;
    const __m256 inverse = _mm256_set1_ps(1.0F / (float)tokens);
    for (uint32_t d = 0; d < args->view->layout.head_dim; d += 8) {
        __m256 sum = load_key(args, task, 0, d);
        for (uint32_t t = 1; t < tokens; t++) {
            sum = _mm256_add_ps(sum, load_key(args, task, t, d));
        }
        store_eight(task->summary + d, _mm256_mul_ps(sum, inverse));
    }
}

/* Of equal operands min and max return the second one: the first key's, as in the reference. */
static void store_bounds(const struct spin_kv_index_args *args, const struct spin_index_task *task)
{
    const uint32_t head_dim = args->view->layout.head_dim;
    const uint32_t tokens = args->view->partition_tokens;
    for (uint32_t d = 0; d < head_dim; d += 8) {
        __m256 min = load_key(args, task, 0, d);
        __m256 max = min;
        for (uint32_t t = 1; t < tokens; t++) {
            const __m256 key = load_key(args, task, t, d);
            min = _mm256_min_ps(key, min);
            max = _mm256_max_ps(key, max);
        }
        store_eight(task->summary + d, min);
        store_eight(task->summary + head_dim + d, max);
    }
}

static void run(void *context, uint32_t thread, uint32_t threads)
{
    const struct spin_kv_index_args *args = *(const struct spin_kv_index_args *const *)context;
    uint64_t before = 0; /* tasks of earlier sequences */
    for (uint32_t s = 0; s < args->batch.count; s++) {
        const uint64_t tasks = spin_index_tasks(args, s);
        /* Every thread takes each `threads`-th task of the whole batch. */
        const uint64_t first = (thread + threads - before % threads) % threads;
        for (uint64_t i = first; i < tasks; i += threads) {
            const struct spin_index_task task = spin_index_task(args, s, i);
            if (args->summary == SPIN_SUMMARY_MEAN) {
                store_mean(args, &task);
            } else {
                store_bounds(args, &task);
            }
        }
        before += tasks;
    }
}

spin_status spin_kv_index_cpu(const struct spin_kv_index_args *args, struct spin_stream *stream)
{
    spin_index_check(args);
    uint64_t tasks = 0;
    for (uint32_t s = 0; s < args->batch.count; s++) {
        tasks += spin_index_tasks(args, s);
    }
    const uint64_t partition_values =
        (uint64_t)args->view->partition_tokens * args->view->layout.head_dim;
    spin_run_rows(stream, run, &args, tasks * partition_values);
    return SPIN_OK;
}
