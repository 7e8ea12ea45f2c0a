/* The reference's operations, submitted: with a copy of their arguments, when these lie where a
 * device can reach them. */
#include "base/assert.h"
#include "tests/kernels/fake_device_internal.h"

static void expect_matrix(const struct spin_stream *stream, const struct spin_matrix *matrix)
{
    spin_fake_expect_device(stream, matrix->data);
}

static void expect_pages(const struct spin_stream *stream, const struct spin_page_lists *pages)
{
    spin_fake_expect_device(stream, pages->pool);
    spin_fake_expect_device(stream, pages->slots);
    spin_fake_expect_device(stream, pages->row_offset);
    spin_fake_expect_device(stream, pages->visible);
}

static void expect_view(const struct spin_stream *stream, const struct spin_kv_view *view)
{
    const void *const memory[] = {
        view->pool,       view->host,      view->summaries, view->residency, view->slab_list,
        view->slab_count, view->blocks,    view->slot_page, view->stamp,     view->leaf,
        view->directory,  view->leaf_free, view->counters};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(memory); i++) {
        spin_fake_expect_device(stream, memory[i]);
    }
}

static void expect_batch(const struct spin_stream *stream, const struct spin_kv_batch *batch)
{
    spin_fake_expect_device(stream, batch->sequence);
    spin_fake_expect_device(stream, batch->tokens);
    spin_fake_expect_device(stream, batch->step);
}

static void expect_lists(const struct spin_stream *stream, const struct spin_kv_lists *lists)
{
    spin_fake_expect_device(stream, lists->pages);
    spin_fake_expect_device(stream, lists->page_count);
    spin_fake_expect_device(stream, lists->slots);
    spin_fake_expect_device(stream, lists->visible);
    spin_fake_expect_device(stream, lists->misses);
    spin_fake_expect_device(stream, lists->miss_count);
}

/* --- the model's --- */

static spin_status run_draw(void *args, struct spin_stream *cpu)
{
    return spin_draw_ref(args, cpu);
}

static spin_status fake_draw(const struct spin_draw_args *args, struct spin_stream *stream)
{
    expect_matrix(stream, &args->logits);
    spin_fake_expect_device(stream, args->rows);
    spin_fake_expect_device(stream, args->out);
    return spin_fake_submit_task(stream, run_draw, args, sizeof *args);
}

static spin_status run_embed(void *args, struct spin_stream *cpu)
{
    return spin_embed_ref(args, cpu);
}

static spin_status fake_embed(const struct spin_embed_args *args, struct spin_stream *stream)
{
    expect_matrix(stream, &args->y);
    spin_fake_expect_device(stream, args->tokens);
    spin_fake_expect_device(stream, args->table.data);
    return spin_fake_submit_task(stream, run_embed, args, sizeof *args);
}

static spin_status run_rms_norm(void *args, struct spin_stream *cpu)
{
    return spin_rms_norm_ref(args, cpu);
}

static spin_status fake_rms_norm(const struct spin_rms_norm_args *args, struct spin_stream *stream)
{
    expect_matrix(stream, &args->x);
    expect_matrix(stream, &args->y);
    spin_fake_expect_device(stream, args->weight);
    return spin_fake_submit_task(stream, run_rms_norm, args, sizeof *args);
}

static spin_status run_matmul(void *args, struct spin_stream *cpu)
{
    return spin_matmul_ref(args, cpu);
}

static spin_status fake_matmul(const struct spin_matmul_args *args, struct spin_stream *stream)
{
    expect_matrix(stream, &args->x);
    spin_fake_expect_device(stream, args->workspace);
    for (uint32_t i = 0; i < args->part_count; i++) {
        expect_matrix(stream, &args->parts[i].y);
        spin_fake_expect_device(stream, args->parts[i].weight.data);
        spin_fake_expect_device(stream, args->parts[i].bias);
    }
    return spin_fake_submit_task(stream, run_matmul, args, sizeof *args);
}

static spin_status run_rope(void *args, struct spin_stream *cpu)
{
    return spin_rope_ref(args, cpu);
}

static spin_status fake_rope(const struct spin_rope_args *args, struct spin_stream *stream)
{
    expect_matrix(stream, &args->x);
    spin_fake_expect_device(stream, args->positions);
    spin_fake_expect_device(stream, args->table.cos_sin);
    spin_fake_expect_device(stream, args->norm.weight[0]);
    spin_fake_expect_device(stream, args->norm.weight[1]);
    return spin_fake_submit_task(stream, run_rope, args, sizeof *args);
}

static spin_status run_kv_append(void *args, struct spin_stream *cpu)
{
    return spin_kv_append_ref(args, cpu);
}

static spin_status fake_kv_append(const struct spin_kv_append_args *args,
                                  struct spin_stream *stream)
{
    expect_matrix(stream, &args->k);
    expect_matrix(stream, &args->v);
    spin_fake_expect_device(stream, args->spans.first);
    expect_pages(stream, &args->pages);
    return spin_fake_submit_task(stream, run_kv_append, args, sizeof *args);
}

static spin_status run_attention(void *args, struct spin_stream *cpu)
{
    return spin_attention_ref(args, cpu);
}

static spin_status fake_attention(const struct spin_attention_args *args,
                                  struct spin_stream *stream)
{
    expect_matrix(stream, &args->q);
    expect_matrix(stream, &args->out);
    spin_fake_expect_device(stream, args->spans.first);
    spin_fake_expect_device(stream, args->workspace);
    expect_pages(stream, &args->pages);
    return spin_fake_submit_task(stream, run_attention, args, sizeof *args);
}

static spin_status run_swiglu(void *args, struct spin_stream *cpu)
{
    return spin_swiglu_ref(args, cpu);
}

static spin_status fake_swiglu(const struct spin_swiglu_args *args, struct spin_stream *stream)
{
    expect_matrix(stream, &args->y);
    expect_matrix(stream, &args->gate);
    expect_matrix(stream, &args->up);
    return spin_fake_submit_task(stream, run_swiglu, args, sizeof *args);
}

/* --- the KV manager's: the view, which is the host's, is copied, too --- */

struct index_task {
    struct spin_kv_index_args args;
    struct spin_kv_view view;
};

static spin_status run_kv_index(void *context, struct spin_stream *cpu)
{
    struct index_task *task = context;
    task->args.view = &task->view;
    return spin_kv_index_ref(&task->args, cpu);
}

static spin_status fake_kv_index(const struct spin_kv_index_args *args, struct spin_stream *stream)
{
    const struct index_task task = {*args, *args->view};
    expect_view(stream, args->view);
    expect_batch(stream, &args->batch);
    expect_lists(stream, &args->lists);
    spin_fake_expect_device(stream, args->ranges);
    return spin_fake_submit_task(stream, run_kv_index, &task, sizeof task);
}

struct select_task {
    struct spin_kv_select_args args;
    struct spin_kv_view view;
};

static spin_status run_kv_select(void *context, struct spin_stream *cpu)
{
    struct select_task *task = context;
    task->args.view = &task->view;
    return spin_kv_select_ref(&task->args, cpu);
}

static spin_status fake_kv_select(const struct spin_kv_select_args *args,
                                  struct spin_stream *stream)
{
    const struct select_task task = {*args, *args->view};
    expect_view(stream, args->view);
    expect_batch(stream, &args->batch);
    expect_lists(stream, &args->lists);
    expect_matrix(stream, &args->q);
    spin_fake_expect_device(stream, args->windows);
    spin_fake_expect_device(stream, args->workspace);
    return spin_fake_submit_task(stream, run_kv_select, &task, sizeof task);
}

struct gather_task {
    struct spin_kv_gather_args args;
    struct spin_kv_view view;
};

static spin_status run_kv_gather(void *context, struct spin_stream *cpu)
{
    struct gather_task *task = context;
    task->args.view = &task->view;
    return spin_kv_gather_ref(&task->args, cpu);
}

static spin_status fake_kv_gather(const struct spin_kv_gather_args *args,
                                  struct spin_stream *stream)
{
    const struct gather_task task = {*args, *args->view};
    expect_view(stream, args->view);
    expect_batch(stream, &args->batch);
    expect_lists(stream, &args->lists);
    return spin_fake_submit_task(stream, run_kv_gather, &task, sizeof task);
}

struct offload_task {
    struct spin_kv_offload_args args;
    struct spin_kv_view view;
};

static spin_status run_kv_offload(void *context, struct spin_stream *cpu)
{
    struct offload_task *task = context;
    task->args.view = &task->view;
    return spin_kv_offload_ref(&task->args, cpu);
}

static spin_status fake_kv_offload(const struct spin_kv_offload_args *args,
                                   struct spin_stream *stream)
{
    const struct offload_task task = {*args, *args->view};
    expect_view(stream, args->view);
    expect_batch(stream, &args->batch);
    expect_lists(stream, &args->lists);
    spin_fake_expect_device(stream, args->ranges);
    return spin_fake_submit_task(stream, run_kv_offload, &task, sizeof task);
}

struct resolve_task {
    struct spin_kv_resolve_args args;
    struct spin_kv_view view;
    enum spin_kv_replacement replacement;
};

static spin_status run_kv_resolve(void *context, struct spin_stream *cpu)
{
    struct resolve_task *task = context;
    task->args.view = &task->view;
    return spin_ops_ref.kv_resolve[task->replacement](&task->args, cpu);
}

static spin_status submit_resolve(const struct spin_kv_resolve_args *args,
                                  struct spin_stream *stream, enum spin_kv_replacement replacement)
{
    const struct resolve_task task = {*args, *args->view, replacement};
    expect_view(stream, args->view);
    expect_batch(stream, &args->batch);
    expect_lists(stream, &args->lists);
    return spin_fake_submit_task(stream, run_kv_resolve, &task, sizeof task);
}

static spin_status fake_resolve_slot_lru(const struct spin_kv_resolve_args *args,
                                         struct spin_stream *stream)
{
    return submit_resolve(args, stream, SPIN_KV_SLOT_LRU);
}

static spin_status fake_resolve_bucketed(const struct spin_kv_resolve_args *args,
                                         struct spin_stream *stream)
{
    return submit_resolve(args, stream, SPIN_KV_BUCKETED);
}

struct resize_task {
    struct spin_kv_resize_args args;
    struct spin_kv_view view;
    enum spin_kv_replacement replacement;
};

static spin_status run_kv_resize(void *context, struct spin_stream *cpu)
{
    struct resize_task *task = context;
    task->args.view = &task->view;
    return spin_ops_ref.kv_resize[task->replacement](&task->args, cpu);
}

static spin_status submit_resize(const struct spin_kv_resize_args *args, struct spin_stream *stream,
                                 enum spin_kv_replacement replacement)
{
    const struct resize_task task = {*args, *args->view, replacement};
    expect_view(stream, args->view);
    return spin_fake_submit_task(stream, run_kv_resize, &task, sizeof task);
}

static spin_status fake_resize_slot_lru(const struct spin_kv_resize_args *args,
                                        struct spin_stream *stream)
{
    return submit_resize(args, stream, SPIN_KV_SLOT_LRU);
}

static spin_status fake_resize_bucketed(const struct spin_kv_resize_args *args,
                                        struct spin_stream *stream)
{
    return submit_resize(args, stream, SPIN_KV_BUCKETED);
}

struct list_task {
    struct spin_kv_list_args args;
    struct spin_kv_view view;
};

static spin_status run_kv_list(void *context, struct spin_stream *cpu)
{
    struct list_task *task = context;
    task->args.view = &task->view;
    return spin_kv_list_ref(&task->args, cpu);
}

static spin_status fake_kv_list(const struct spin_kv_list_args *args, struct spin_stream *stream)
{
    const struct list_task task = {*args, *args->view};
    expect_view(stream, args->view);
    expect_lists(stream, &args->lists);
    return spin_fake_submit_task(stream, run_kv_list, &task, sizeof task);
}

const struct spin_ops spin_ops_fake = {
    .name = "fake",
    .activation_dtype = SPIN_DTYPE_F32,
    .swizzle = SPIN_SWIZZLE_NONE,
    .prefill_is_decode = true,
    .decode_rows_max = UINT32_MAX,
    .embed = fake_embed,
    .rms_norm = fake_rms_norm,
    .matmul = fake_matmul,
    .rope = fake_rope,
    .kv_append = fake_kv_append,
    .attention = fake_attention,
    .swiglu = fake_swiglu,
    .draw = fake_draw,
    .kv_index = fake_kv_index,
    .kv_select = fake_kv_select,
    .kv_gather = fake_kv_gather,
    .kv_offload = fake_kv_offload,
    .kv_resolve =
        {[SPIN_KV_SLOT_LRU] = fake_resolve_slot_lru, [SPIN_KV_BUCKETED] = fake_resolve_bucketed},
    .kv_resize =
        {[SPIN_KV_SLOT_LRU] = fake_resize_slot_lru, [SPIN_KV_BUCKETED] = fake_resize_bucketed},
    .kv_list = fake_kv_list,
    .matmul_workspace_bytes = spin_matmul_workspace_bytes,
    .attention_workspace_bytes = spin_attention_workspace_bytes,
    .kv_select_workspace_bytes = spin_kv_select_workspace_bytes,
};
