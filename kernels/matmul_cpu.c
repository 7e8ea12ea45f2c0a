/* The fast matmul: who does what, when.
 *
 *   round x to int8 (all threads, by rows) -- barrier -- take tasks until there are none
 *
 * A task is up to TASK_M rows of x times up to four panels of weights: unpack a chunk of K,
 * run every block of x rows over it, go on with the next chunk, store. Tasks are dealt out by a
 * counter; who computes an output changes nothing about it. */
#include "kernels/matmul.h"
#include "kernels/matmul_tile.h"

#include <stdatomic.h>
#include <string.h>

#define CHUNK_VALUES ((uint64_t)SPIN_PANEL_GROUPS * SPIN_GROUP)
#define TASK_M 256u
#define TASK_PANELS 4u
#define TASK_N ((uint64_t)TASK_PANELS * SPIN_PANEL_ROWS)
/* From here on a task has four panels: x is read once for 64 outputs, and the panels still live in
 * the second-level cache. Below, one panel stays in the first. */
#define WIDE_M 16u
/* x so small that rounding it again on every thread is cheaper than meeting. */
#define LOCAL_VALUES 4096u
/* Tickets per thread: few enough to take them cheaply, enough to even out a slow core. */
#define TICKETS_PER_THREAD 8u

struct thread_scratch {
    _Alignas(64) float acc[TASK_M][TASK_N];
    union {
        struct spin_panel panel[TASK_PANELS];
        struct spin_float_panel float_panel[TASK_PANELS];
    };
    struct spin_x_group local_group[LOCAL_VALUES / SPIN_GROUP];
    int8_t local_q[LOCAL_VALUES];
};
_Static_assert(sizeof(struct thread_scratch) <= SPIN_SCRATCH_BYTES, "fits the stream's scratch");

/* x as the tiles read it. */
struct rounded_x {
    int8_t *q;
    struct spin_x_group *group;
};

struct job {
    const struct spin_matmul_args *args;
    struct spin_stream *stream;
    struct rounded_x x; /* shared, in the workspace */
    bool needs_rounding;
    bool local;
    uint32_t panels;     /* per task */
    uint64_t task_count; /* of all parts */
    uint64_t grain;      /* tasks per ticket */
    _Atomic uint64_t next_ticket;
};

/* One output tile. */
struct task {
    const struct spin_matmul_part *part;
    uint64_t m_begin;
    uint32_t m_count;
    uint64_t n_begin;
    uint32_t panels;
};

static uint64_t round_up_div(uint64_t a, uint64_t b)
{
    return (a + b - 1) / b;
}

static uint64_t part_tasks(const struct job *job, const struct spin_matmul_part *part)
{
    return round_up_div(part->weight.rows, (uint64_t)job->panels * SPIN_PANEL_ROWS) *
           round_up_div(job->args->x.rows, TASK_M);
}

/* Neighbouring tasks share rows of x and have neighbouring weights. */
static struct task find_task(const struct job *job, uint64_t index)
{
    const struct spin_matmul_part *part = job->args->parts;
    while (index >= part_tasks(job, part)) {
        index -= part_tasks(job, part);
        part++;
    }
    const uint64_t task_n = (uint64_t)job->panels * SPIN_PANEL_ROWS;
    const uint64_t columns = round_up_div(part->weight.rows, task_n);
    struct task task = {.part = part};
    task.m_begin = index / columns * TASK_M;
    task.m_count = (uint32_t)SPIN_MIN(job->args->x.rows - task.m_begin, TASK_M);
    task.n_begin = index % columns * task_n;
    task.panels = (uint32_t)SPIN_MIN(
        round_up_div(part->weight.rows - task.n_begin, SPIN_PANEL_ROWS), job->panels);
    return task;
}

static void multiply_blocks(const struct job *job, const struct task *task, struct rounded_x x,
                            struct thread_scratch *scratch)
{
    const uint64_t cols = job->args->x.cols;
    const enum spin_panel_kind kind = spin_panel_kind(task->part->weight.dtype);
    const bool wide = spin_stream_isa(job->stream) >= SPIN_ISA_AVX512_VNNI;
    for (uint64_t k = 0; k < cols; k += CHUNK_VALUES) {
        const uint32_t groups = (uint32_t)SPIN_MIN((cols - k) / SPIN_GROUP, SPIN_PANEL_GROUPS);
        for (uint32_t p = 0; p < task->panels; p++) {
            const struct spin_panel_source source = {
                &task->part->weight, task->n_begin + (uint64_t)p * SPIN_PANEL_ROWS, k};
            spin_panel_unpack(&source, groups, &scratch->panel[p]);
        }
        for (uint32_t m = 0; m < task->m_count; m += SPIN_TILE_M) {
            const uint32_t rows = SPIN_MIN(task->m_count - m, SPIN_TILE_M);
            const uint64_t offset = (task->m_begin + m) * cols + k;
            for (uint32_t p = 0; p < task->panels; p++) {
                const struct spin_tile tile = {&scratch->panel[p],
                                               groups,
                                               x.q + offset,
                                               x.group + offset / SPIN_GROUP,
                                               cols,
                                               scratch->acc[m] + (uint64_t)p * SPIN_PANEL_ROWS,
                                               TASK_N};
                (wide ? spin_tile_avx512 : spin_tile_avx2)(&tile, kind, rows);
            }
        }
    }
}

static void multiply_plain(const struct job *job, const struct task *task,
                           struct thread_scratch *scratch)
{
    const struct spin_matrix *x = &job->args->x;
    const bool wide = spin_stream_isa(job->stream) >= SPIN_ISA_AVX512_VNNI;
    for (uint64_t k = 0; k < x->cols; k += SPIN_PANEL_VALUES) {
        const uint32_t values = (uint32_t)SPIN_MIN(x->cols - k, SPIN_PANEL_VALUES);
        for (uint32_t p = 0; p < task->panels; p++) {
            const struct spin_panel_source source = {
                &task->part->weight, task->n_begin + (uint64_t)p * SPIN_PANEL_ROWS, k};
            spin_float_panel_unpack(&source, values, &scratch->float_panel[p]);
        }
        for (uint32_t m = 0; m < task->m_count; m += SPIN_TILE_M) {
            const uint32_t rows = SPIN_MIN(task->m_count - m, SPIN_TILE_M);
            for (uint32_t p = 0; p < task->panels; p++) {
                const struct spin_float_tile tile = {&scratch->float_panel[p],
                                                     values,
                                                     spin_matrix_row(x, task->m_begin + m) + k,
                                                     x->stride,
                                                     scratch->acc[m] +
                                                         (uint64_t)p * SPIN_PANEL_ROWS,
                                                     TASK_N};
                (wide ? spin_float_tile_avx512 : spin_float_tile_avx2)(&tile, rows);
            }
        }
    }
}

static void store(const struct task *task, struct thread_scratch *scratch)
{
    const struct spin_matmul_part *part = task->part;
    const uint64_t count =
        SPIN_MIN(part->weight.rows - task->n_begin, (uint64_t)task->panels * SPIN_PANEL_ROWS);
    for (uint32_t m = 0; m < task->m_count; m++) {
        float *acc = scratch->acc[m];
        float *y = spin_matrix_row(&part->y, task->m_begin + m) + task->n_begin;
        if (part->bias != NULL) {
            const float *bias = part->bias + task->n_begin;
            for (uint64_t n = 0; n < count; n++) {
                acc[n] += bias[n];
            }
        }
        if (part->accumulate) {
            for (uint64_t n = 0; n < count; n++) {
                y[n] += acc[n];
            }
        } else {
            memcpy(y, acc, count * sizeof *y);
        }
    }
}

static void run_task(const struct job *job, const struct task *task, struct rounded_x x,
                     struct thread_scratch *scratch)
{
    for (uint32_t m = 0; m < task->m_count; m++) {
        memset(scratch->acc[m], 0, (uint64_t)task->panels * SPIN_PANEL_ROWS * sizeof(float));
    }
    if (spin_dtype_is_plain(task->part->weight.dtype)) {
        multiply_plain(job, task, scratch);
    } else {
        multiply_blocks(job, task, x, scratch);
    }
    store(task, scratch);
}

static void round_rows(const struct spin_matrix *x, struct spin_range rows, struct rounded_x out)
{
    const uint64_t groups = x->cols / SPIN_GROUP;
    for (uint64_t m = rows.begin; m < rows.end; m++) {
        spin_x_quantize(spin_matrix_row(x, m), groups, out.q + m * x->cols, out.group + m * groups);
    }
}

static void run(void *context, uint32_t thread, uint32_t threads)
{
    struct job *job = context;
    const struct spin_matrix *matrix = &job->args->x;
    struct thread_scratch *scratch = spin_stream_scratch(job->stream, thread);
    struct rounded_x x = job->x;
    if (job->needs_rounding && job->local) {
        x = (struct rounded_x){scratch->local_q, scratch->local_group};
        round_rows(matrix, (struct spin_range){0, matrix->rows}, x);
    } else if (job->needs_rounding) {
        round_rows(matrix, spin_cut(matrix->rows, 1, thread, threads), x);
        spin_stream_barrier(job->stream);
    }
    for (;;) {
        /* Relaxed: a ticket orders nothing, the stream's gates do. */
        const uint64_t ticket =
            atomic_fetch_add_explicit(&job->next_ticket, 1, memory_order_relaxed);
        const uint64_t begin = ticket * job->grain;
        if (begin >= job->task_count) {
            return;
        }
        for (uint64_t i = begin; i < SPIN_MIN(begin + job->grain, job->task_count); i++) {
            const struct task task = find_task(job, i);
            run_task(job, &task, x, scratch);
        }
    }
}

spin_status spin_matmul_cpu(const struct spin_matmul_args *args, struct spin_stream *stream)
{
    spin_matmul_check(args);
    SPIN_ASSERT_GE(spin_stream_isa(stream), SPIN_ISA_AVX2);
    if (args->x.rows == 0) {
        return SPIN_OK;
    }
    const uint64_t values = (uint64_t)args->x.rows * args->x.cols;
    struct job job = {.args = args, .stream = stream, .local = values <= LOCAL_VALUES};
    job.panels = args->x.rows >= WIDE_M ? TASK_PANELS : 1;
    for (uint32_t p = 0; p < args->part_count; p++) {
        job.task_count += part_tasks(&job, &args->parts[p]);
        job.needs_rounding |= !spin_dtype_is_plain(args->parts[p].weight.dtype);
    }
    if (job.needs_rounding && !job.local) {
        SPIN_ASSERT(args->workspace != NULL);
        job.x.group = args->workspace;
        job.x.q = (int8_t *)args->workspace + values / SPIN_GROUP * sizeof *job.x.group;
    }
    const uint64_t tickets = (uint64_t)spin_stream_threads(stream) * TICKETS_PER_THREAD;
    job.grain = SPIN_MAX(job.task_count / tickets, 1);
    spin_stream_parallel(stream, run, &job);
    return SPIN_OK;
}
