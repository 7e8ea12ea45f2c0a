#include "tests/kernels/fake_device.h"

#include "base/assert.h"
#include "kernels/backend.h"
#include "tests/kernels/fake_device_internal.h"
#include "tests/spin_test.h"

#include <stdio.h>
#include <sys/mman.h>

#define PAGE_BYTES UINT64_C(4096)
#define PIECES_MAX 512u
#define GARBAGE 0xA5

struct task {
    struct task *next;
    spin_fake_task_fn fn;
    uint64_t bytes;
    _Alignas(16) uint8_t context[];
};

struct list {
    struct task *first;
    struct task **end;
};

/* Memory of spin_host_alloc. */
struct piece {
    uint8_t *memory;
    uint64_t bytes;
};

struct spin_graph {
    struct list tasks;
};

struct fake_stream {
    struct spin_stream base;
    struct spin_stream *cpu;
    uint8_t *device; /* reserved; [0, used) was handed out, not twice while any is held */
    uint64_t device_bytes;
    uint64_t used;
    uint64_t held; /* pieces of device memory */
    struct piece pieces[PIECES_MAX];
    uint32_t piece_count;
    struct list queue;
    struct list sides[SPIN_SIDE_LANES]; /* until they are joined */
    struct list *side;                  /* the one that is begun; NULL: none */
    struct spin_graph *recording;       /* NULL: none */
    uint64_t submitted;
    uint64_t waiting;
    uint64_t left; /* submissions until the device is lost */
    bool lost;
};

static const struct spin_backend backend;

static struct fake_stream *fake_stream(struct spin_stream *stream)
{
    SPIN_ASSERT(stream->backend == &backend);
    return (struct fake_stream *)(void *)stream;
}

static const struct fake_stream *const_fake_stream(const struct spin_stream *stream)
{
    SPIN_ASSERT(stream->backend == &backend);
    return (const struct fake_stream *)(const void *)stream;
}

bool spin_fake_is(const struct spin_stream *stream)
{
    return stream->backend == &backend;
}

/* --- lists of tasks --- */

static void list_init(struct list *list)
{
    list->first = NULL;
    list->end = &list->first;
}

static void list_put(struct list *list, struct task *task)
{
    task->next = NULL;
    *list->end = task;
    list->end = &task->next;
}

/* All of `from` to the end of `to`. */
static void list_move(struct list *to, struct list *from)
{
    if (from->first != NULL) {
        *to->end = from->first;
        to->end = from->end;
        list_init(from);
    }
}

static void list_free(struct list *list)
{
    while (list->first != NULL) {
        struct task *task = list->first;
        list->first = task->next;
        free(task);
    }
    list_init(list);
}

static struct task *task_create(spin_fake_task_fn fn, const void *context, uint64_t bytes)
{
    struct task *task = aligned_alloc(16, (sizeof *task + bytes + 15) / 16 * 16);
    assert_non_null(task);
    *task = (struct task){.fn = fn, .bytes = bytes};
    memcpy(task->context, context, bytes);
    return task;
}

/* --- time --- */

static void open_memory(struct fake_stream *self, bool open)
{
    if (self->used > 0) {
        assert_int_equal(
            mprotect(self->device, self->used, open ? PROT_READ | PROT_WRITE : PROT_NONE), 0);
    }
}

static void join_all(struct fake_stream *self)
{
    for (uint32_t i = 0; i < SPIN_SIDE_LANES; i++) {
        list_move(&self->queue, &self->sides[i]);
    }
}

/* Everything submitted, the side lanes last. */
static void run_queue(struct fake_stream *self)
{
    if (self->recording != NULL) {
        fail_msg("a recording does not wait");
    }
    join_all(self);
    if (self->lost) {
        list_free(&self->queue);
    }
    if (self->queue.first == NULL) {
        self->waiting = 0;
        return;
    }
    open_memory(self, true);
    while (self->queue.first != NULL) {
        struct task *task = self->queue.first;
        if (task->fn(task->context, self->cpu) != SPIN_OK) {
            fail_msg("an operation failed on the device");
        }
        self->queue.first = task->next;
        free(task);
    }
    list_init(&self->queue);
    self->waiting = 0;
    open_memory(self, false);
}

static bool is_lost(struct fake_stream *self)
{
    self->lost = self->lost || self->left == 0;
    return self->lost;
}

spin_status spin_fake_submit_task(struct spin_stream *stream, spin_fake_task_fn fn,
                                  const void *context, uint64_t bytes)
{
    struct fake_stream *self = fake_stream(stream);
    if (is_lost(self)) {
        return SPIN_ERR_DEVICE_LOST;
    }
    if (self->recording == NULL) {
        self->left--;
        self->submitted++;
        self->waiting++;
    }
    struct list *lane = self->recording != NULL ? &self->recording->tasks : &self->queue;
    list_put(self->side != NULL ? self->side : lane, task_create(fn, context, bytes));
    return SPIN_OK;
}

/* What is in front of the context of a test's own function. */
struct call {
    _Alignas(16) spin_fake_fn fn;
};

static spin_status run_call(void *context, struct spin_stream *cpu)
{
    (void)cpu;
    const struct call *call = context;
    call->fn((const uint8_t *)context + sizeof *call);
    return SPIN_OK;
}

spin_status spin_fake_submit(struct spin_stream *stream, spin_fake_fn fn, const void *context,
                             uint64_t bytes)
{
    if (!spin_fake_is(stream)) {
        fn(context);
        return SPIN_OK;
    }
    uint8_t *call = aligned_alloc(16, (sizeof(struct call) + bytes + 15) / 16 * 16);
    assert_non_null(call);
    *(struct call *)(void *)call = (struct call){.fn = fn};
    memcpy(call + sizeof(struct call), context, bytes);
    const spin_status status =
        spin_fake_submit_task(stream, run_call, call, sizeof(struct call) + bytes);
    free(call);
    return status;
}

void spin_fake_fail_after(struct spin_stream *stream, uint64_t submissions)
{
    fake_stream(stream)->left = submissions;
}

uint64_t spin_fake_submissions(const struct spin_stream *stream)
{
    return const_fake_stream(stream)->submitted;
}

uint64_t spin_fake_waiting(const struct spin_stream *stream)
{
    return const_fake_stream(stream)->waiting;
}

static spin_status sync_stream(struct spin_stream *stream, uint64_t timeout_ns)
{
    struct fake_stream *self = fake_stream(stream);
    assert_true(timeout_ns > 0);
    (void)is_lost(self);
    run_queue(self);
    return self->lost ? SPIN_ERR_DEVICE_LOST : SPIN_OK;
}

/* --- memory --- */

static const struct piece *find_piece(const struct fake_stream *self, const void *memory)
{
    for (uint32_t i = 0; i < self->piece_count; i++) {
        const struct piece *piece = &self->pieces[i];
        if ((uintptr_t)memory - (uintptr_t)piece->memory < piece->bytes) {
            return piece;
        }
    }
    return NULL;
}

static bool is_device(const struct fake_stream *self, const void *memory)
{
    return (uintptr_t)memory - (uintptr_t)self->device < self->used;
}

void spin_fake_expect_device(const struct spin_stream *stream, const void *memory)
{
    const struct fake_stream *self = const_fake_stream(stream);
    if (memory != NULL && !is_device(self, memory) && find_piece(self, memory) == NULL) {
        fail_msg("an operation was given memory of the host that it cannot reach");
    }
}

static spin_status device_alloc(struct spin_stream *stream, uint64_t bytes, void **out,
                                struct spin_error *err)
{
    struct fake_stream *self = fake_stream(stream);
    assert_null(self->recording);
    if (is_lost(self)) {
        return spin_fail(err, SPIN_ERR_DEVICE_LOST, "fake device: lost");
    }
    const uint64_t room = (SPIN_MAX(bytes, 1) + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    if (room > self->device_bytes - self->used) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "fake device: %lu bytes", (unsigned long)bytes);
    }
    *out = self->device + self->used;
    self->used += room;
    self->held++;
    return SPIN_OK;
}

static void device_free(struct spin_stream *stream, void *memory)
{
    struct fake_stream *self = fake_stream(stream);
    assert_true(is_device(self, memory));
    run_queue(self);
    assert_true(self->held > 0);
    self->held--;
    if (self->held == 0) { /* from the start again, zeroed */
        assert_int_equal(madvise(self->device, self->used, MADV_DONTNEED), 0);
        self->used = 0;
    }
}

static spin_status host_alloc(struct spin_stream *stream, uint64_t bytes, void **out,
                              struct spin_error *err)
{
    struct fake_stream *self = fake_stream(stream);
    assert_null(self->recording);
    assert_true(self->piece_count < PIECES_MAX);
    SPIN_TRY(spin_memory_alloc(SPIN_MAX(bytes, 1), 64, out, err));
    self->pieces[self->piece_count++] = (struct piece){*out, SPIN_MAX(bytes, 1)};
    return SPIN_OK;
}

static void host_free(struct spin_stream *stream, void *memory)
{
    struct fake_stream *self = fake_stream(stream);
    const struct piece *piece = find_piece(self, memory);
    assert_non_null(piece);
    assert_ptr_equal(piece->memory, memory);
    run_queue(self);
    self->pieces[piece - self->pieces] = self->pieces[--self->piece_count];
    spin_memory_free(memory);
}

static uint64_t memory_left(struct spin_stream *stream, uint64_t *out_total)
{
    const struct fake_stream *self = fake_stream(stream);
    *out_total = self->lost ? 0 : self->device_bytes;
    return self->lost ? 0 : self->device_bytes - self->used;
}

/* --- copies --- */

struct copy {
    void *target;
    const void *source;
    uint64_t bytes;
    bool brings;   /* to the host */
    uint64_t hash; /* of a background copy's source on the host, when it was submitted */
};

/* FNV-1a. */
static uint64_t hash(const void *memory, uint64_t bytes)
{
    const uint8_t *from = memory;
    uint64_t value = UINT64_C(14695981039346656037);
    for (uint64_t i = 0; i < bytes; i++) {
        value = (value ^ from[i]) * UINT64_C(1099511628211);
    }
    return value;
}

static spin_status run_copy(void *context, struct spin_stream *cpu)
{
    (void)cpu;
    const struct copy *copy = context;
    if (!copy->brings && hash(copy->source, copy->bytes) != copy->hash) {
        fail_msg("%lu bytes changed between their copy's submission and the copy",
                 (unsigned long)copy->bytes);
    }
    memcpy(copy->target, copy->source, copy->bytes);
    return SPIN_OK;
}

/* As the host's side is now, when the copy is submitted. */
static void begin_copy(struct copy *copy)
{
    if (copy->brings) {
        memset(copy->target, GARBAGE, copy->bytes);
    } else {
        copy->hash = hash(copy->source, copy->bytes);
    }
}

static spin_status submit_copy(struct spin_stream *stream, struct copy copy)
{
    struct fake_stream *self = fake_stream(stream);
    const uint8_t *host = copy.brings ? copy.target : copy.source;
    const uint8_t *device = copy.brings ? copy.source : copy.target;
    const struct piece *piece = find_piece(self, host);
    assert_true(is_device(self, device) && is_device(self, device + copy.bytes - 1));
    assert_false(is_device(self, host));
    assert_true(piece == NULL || (uint64_t)(host - piece->memory) <= piece->bytes - copy.bytes);
    if (piece == NULL && self->recording != NULL) {
        fail_msg("a copy of %lu bytes that waits cannot be recorded", (unsigned long)copy.bytes);
    }
    if (self->recording == NULL) {
        begin_copy(&copy);
    }
    SPIN_TRY(spin_fake_submit_task(stream, run_copy, &copy, sizeof copy));
    if (piece == NULL) {
        run_queue(self);
    }
    return SPIN_OK;
}

static spin_status write_device(struct spin_stream *stream, void *device, const void *host,
                                uint64_t bytes)
{
    return submit_copy(stream, (struct copy){device, host, bytes, false, 0});
}

static spin_status read_device(struct spin_stream *stream, void *host, const void *device,
                               uint64_t bytes)
{
    return submit_copy(stream, (struct copy){host, device, bytes, true, 0});
}

/* --- side lanes --- */

static spin_status side_begin(struct spin_stream *stream, enum spin_lane lane)
{
    struct fake_stream *self = fake_stream(stream);
    assert_null(self->side);
    if (is_lost(self)) {
        return SPIN_ERR_DEVICE_LOST;
    }
    self->side = &self->sides[lane];
    return SPIN_OK;
}

static spin_status side_end(struct spin_stream *stream)
{
    struct fake_stream *self = fake_stream(stream);
    assert_non_null(self->side);
    self->side = NULL;
    return is_lost(self) ? SPIN_ERR_DEVICE_LOST : SPIN_OK;
}

static spin_status side_join(struct spin_stream *stream, enum spin_lane lane)
{
    struct fake_stream *self = fake_stream(stream);
    assert_null(self->side);
    list_move(self->recording != NULL ? &self->recording->tasks : &self->queue, &self->sides[lane]);
    return is_lost(self) ? SPIN_ERR_DEVICE_LOST : SPIN_OK;
}

/* --- recordings --- */

static spin_status graph_begin(struct spin_stream *stream)
{
    struct fake_stream *self = fake_stream(stream);
    assert_null(self->recording);
    join_all(self);
    if (is_lost(self)) {
        return SPIN_ERR_DEVICE_LOST;
    }
    self->recording = calloc(1, sizeof *self->recording);
    assert_non_null(self->recording);
    list_init(&self->recording->tasks);
    return SPIN_OK;
}

static void graph_destroy(struct spin_stream *stream, struct spin_graph *graph)
{
    (void)stream;
    list_free(&graph->tasks);
    free(graph);
}

static spin_status graph_end(struct spin_stream *stream, struct spin_graph **out,
                             struct spin_error *err)
{
    struct fake_stream *self = fake_stream(stream);
    assert_non_null(self->recording);
    for (uint32_t i = 0; i < SPIN_SIDE_LANES; i++) {
        assert_null(self->sides[i].first); /* joined before */
    }
    struct spin_graph *graph = self->recording;
    self->recording = NULL;
    if (is_lost(self)) {
        graph_destroy(stream, graph);
        return spin_fail(err, SPIN_ERR_DEVICE_LOST, "fake device: lost");
    }
    *out = graph;
    return SPIN_OK;
}

static spin_status graph_launch(struct spin_stream *stream, const struct spin_graph *graph)
{
    for (const struct task *task = graph->tasks.first; task != NULL; task = task->next) {
        if (task->fn != run_copy) {
            SPIN_TRY(spin_fake_submit_task(stream, task->fn, task->context, task->bytes));
            continue;
        }
        struct copy copy;
        memcpy(&copy, task->context, sizeof copy);
        begin_copy(&copy);
        SPIN_TRY(spin_fake_submit_task(stream, run_copy, &copy, sizeof copy));
    }
    return SPIN_OK;
}

/* --- the stream --- */

static void destroy(struct spin_stream *stream)
{
    struct fake_stream *self = fake_stream(stream);
    assert_null(self->recording);
    run_queue(self);
    assert_int_equal(self->held, 0);
    assert_int_equal(self->piece_count, 0);
    assert_int_equal(munmap(self->device, self->device_bytes), 0);
    spin_stream_destroy(self->cpu);
    free(self);
}

static const struct spin_backend backend = {
    .destroy = destroy,
    .sync = sync_stream,
    .device_alloc = device_alloc,
    .device_free = device_free,
    .host_alloc = host_alloc,
    .host_free = host_free,
    .write = write_device,
    .read = read_device,
    .memory = memory_left,
    .device_is_host = false,
    .side_begin = side_begin,
    .side_end = side_end,
    .side_join = side_join,
    .graph_begin = graph_begin,
    .graph_end = graph_end,
    .graph_launch = graph_launch,
    .graph_destroy = graph_destroy,
};

struct spin_stream *spin_fake_stream_create(uint64_t device_bytes)
{
    struct spin_error err;
    struct fake_stream *self = calloc(1, sizeof *self);
    assert_non_null(self);
    self->base.backend = &backend;
    (void)snprintf(self->base.name, sizeof self->base.name, "fake device");
    self->device_bytes = (device_bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    self->device = mmap(NULL, self->device_bytes, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(self->device, MAP_FAILED);
    SPIN_EXPECT_OK(spin_stream_create_cpu(1, &self->cpu, &err), &err);
    list_init(&self->queue);
    for (uint32_t i = 0; i < SPIN_SIDE_LANES; i++) {
        list_init(&self->sides[i]);
    }
    self->left = UINT64_MAX;
    return &self->base;
}
