/* The CPU stream: a pool of compute threads that meet at gates.
 *
 * A gate is a counter that somebody moves on and others wait for: they spin for a short while,
 * because the next op of a step is microseconds away, and then sleep on a futex, because a machine
 * is shared.
 *
 *   caller   store job, open(dispatch) --> run ... barrier ... run --> wait(meeting)
 *   worker   wait(dispatch) -------------> run ... barrier ... run --> arrive, back to dispatch
 *
 * The end of a job is a barrier too, but only the caller waits there: a worker cannot meet the next
 * barrier before the next dispatch, and that comes after the caller has left this one. */
#include "base/clock.h"
#include "kernels/backend.h"
#include "kernels/device.h"
#include "kernels/kernels_internal.h"

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THREADS_MAX 64u
#define SPIN_WAIT_NS (20 * SPIN_NS_PER_US) /* D18 */
/* The clock is read once per this many pauses: reading it costs about as much as one of them. */
#define PAUSES_PER_LOOK 16
#define HUGE_PAGE_BYTES (UINT64_C(2) << 20)

struct gate {
    _Alignas(64) _Atomic uint32_t phase;
    _Atomic uint32_t sleepers;
};

struct worker {
    pthread_t thread;
    struct cpu_stream *stream;
    uint32_t index;
    bool started;
};

struct cpu_stream {
    struct spin_stream base;
    struct gate dispatch;
    struct gate meeting;
    _Alignas(64) _Atomic uint32_t arrived;
    /* Written before dispatch opens and read after: ordered by the gate. */
    spin_parallel_fn fn;
    void *context;
    bool stopping;

    uint32_t threads;
    enum spin_isa isa;
    struct spin_owner owner; /* the first thread that runs an op */
    uint8_t *scratch;        /* threads * SPIN_SCRATCH_BYTES */
    struct worker *workers;  /* [threads]; entry 0, the caller, is unused */
};

static const struct spin_backend backend;

static struct cpu_stream *cpu_stream(struct spin_stream *stream)
{
    SPIN_ASSERT(stream->backend == &backend);
    return (struct cpu_stream *)(void *)stream;
}

static const struct cpu_stream *const_cpu_stream(const struct spin_stream *stream)
{
    SPIN_ASSERT(stream->backend == &backend);
    return (const struct cpu_stream *)(const void *)stream;
}

static void pause_a_moment(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void futex(_Atomic uint32_t *word, int operation, uint32_t value)
{
    (void)syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

/* Returns when the gate has left phase `old`. */
static void gate_wait(struct gate *gate, uint32_t old)
{
    const struct spin_clock *clock = spin_clock_real();
    const uint64_t deadline = spin_now_ns(clock) + SPIN_WAIT_NS;
    do {
        for (int i = 0; i < PAUSES_PER_LOOK; i++) {
            /* Pairs with the increment in gate_open. */
            if (atomic_load_explicit(&gate->phase, memory_order_acquire) != old) {
                return;
            }
            pause_a_moment();
        }
    } while (spin_now_ns(clock) < deadline);

    /* Sequentially consistent on both sides: either the opener sees the sleeper and wakes it, or
     * the kernel sees the new phase and does not put it to sleep. */
    atomic_fetch_add(&gate->sleepers, 1);
    while (atomic_load(&gate->phase) == old) {
        futex(&gate->phase, FUTEX_WAIT, old);
    }
    atomic_fetch_sub(&gate->sleepers, 1);
}

static void gate_open(struct gate *gate)
{
    atomic_fetch_add(&gate->phase, 1); /* pairs with both loads in gate_wait */
    if (atomic_load(&gate->sleepers) != 0) {
        futex(&gate->phase, FUTEX_WAKE, THREADS_MAX);
    }
}

/* The last of the threads to arrive opens the meeting gate. */
static void arrive(struct cpu_stream *stream)
{
    /* Acquire and release: the last arrival hands everybody's writes on through the gate. */
    const uint32_t before = atomic_fetch_add_explicit(&stream->arrived, 1, memory_order_acq_rel);
    if (before + 1 == stream->threads) {
        atomic_store_explicit(&stream->arrived, 0, memory_order_relaxed); /* ordered by the gate */
        gate_open(&stream->meeting);
    }
}

static void meet(struct cpu_stream *stream)
{
    if (stream->threads == 1) {
        return;
    }
    /* The phase cannot move on before this thread has arrived. */
    const uint32_t phase = atomic_load_explicit(&stream->meeting.phase, memory_order_relaxed);
    arrive(stream);
    gate_wait(&stream->meeting, phase);
}

void spin_stream_barrier(struct spin_stream *stream)
{
    meet(cpu_stream(stream));
}

void spin_stream_parallel(struct spin_stream *stream, spin_parallel_fn fn, void *context)
{
    struct cpu_stream *self = cpu_stream(stream);
    if (self->owner.thread == 0) {
        spin_owner_set(&self->owner);
    }
    SPIN_ASSERT_THREAD(&self->owner);
    if (self->threads == 1) {
        fn(context, 0, 1);
        return;
    }
    self->fn = fn;
    self->context = context;
    gate_open(&self->dispatch);
    fn(context, 0, self->threads);
    meet(self);
}

static void *worker_main(void *argument)
{
    const struct worker *worker = argument;
    struct cpu_stream *stream = worker->stream;
    uint32_t phase = 0;
    for (;;) {
        gate_wait(&stream->dispatch, phase);
        phase++;
        if (stream->stopping) {
            return NULL;
        }
        stream->fn(stream->context, worker->index, stream->threads);
        arrive(stream);
    }
}

static spin_status start_worker(struct cpu_stream *stream, uint32_t index, struct spin_error *err)
{
    struct worker *worker = &stream->workers[index];
    worker->stream = stream;
    worker->index = index;
    /* Signals are for the threads that expect them. */
    sigset_t all;
    sigset_t previous;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &previous);
    const int error = pthread_create(&worker->thread, NULL, worker_main, worker);
    (void)pthread_sigmask(SIG_SETMASK, &previous, NULL);
    if (error != 0) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "compute thread %u of %u: %s", index,
                         stream->threads, strerrordesc_np(error));
    }
    worker->started = true;
    char name[16];
    (void)snprintf(name, sizeof name, "compute-%u", index);
    (void)pthread_setname_np(worker->thread, name);
    return SPIN_OK;
}

static void destroy(struct spin_stream *stream)
{
    struct cpu_stream *self = cpu_stream(stream);
    self->stopping = true;
    gate_open(&self->dispatch);
    for (uint32_t i = 1; self->workers != NULL && i < self->threads; i++) {
        if (self->workers[i].started) {
            (void)pthread_join(self->workers[i].thread, NULL);
        }
    }
    spin_memory_free(self->scratch);
    free(self->workers);
    free(self);
}

spin_status spin_stream_create_cpu(uint32_t threads, struct spin_stream **out,
                                   struct spin_error *err)
{
    if (threads < 1 || threads > THREADS_MAX) {
        return spin_fail(err, SPIN_ERR_INVALID, "compute threads %u: must be 1 to %u", threads,
                         THREADS_MAX);
    }
    struct cpu_stream *stream = aligned_alloc(64, sizeof *stream);
    if (stream == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "stream: %zu bytes", sizeof *stream);
    }
    memset(stream, 0, sizeof *stream);
    stream->base.backend = &backend;
    (void)snprintf(stream->base.name, sizeof stream->base.name, "CPU");
    stream->threads = threads;
    stream->isa = spin_isa_detect();
    spin_status status = SPIN_OK;
    void *scratch = NULL;
    SPIN_TRY_GOTO(status, spin_memory_alloc(threads * SPIN_SCRATCH_BYTES, 64, &scratch, err), fail);
    stream->scratch = scratch;
    stream->workers = calloc(threads, sizeof *stream->workers);
    if (stream->workers == NULL) {
        status = spin_fail(err, SPIN_ERR_NO_MEMORY, "stream: %u workers", threads);
        goto fail;
    }
    for (uint32_t i = 1; i < threads; i++) {
        SPIN_TRY_GOTO(status, start_worker(stream, i, err), fail);
    }
    *out = &stream->base;
    return SPIN_OK;
fail:
    destroy(&stream->base);
    return status;
}

uint32_t spin_stream_threads(const struct spin_stream *stream)
{
    return const_cpu_stream(stream)->threads;
}

void *spin_stream_scratch(struct spin_stream *stream, uint32_t thread)
{
    struct cpu_stream *self = cpu_stream(stream);
    SPIN_ASSERT_LT(thread, self->threads);
    return self->scratch + thread * SPIN_SCRATCH_BYTES;
}

enum spin_isa spin_stream_isa(const struct spin_stream *stream)
{
    return const_cpu_stream(stream)->isa;
}

void spin_stream_limit_isa(struct spin_stream *stream, enum spin_isa isa)
{
    struct cpu_stream *self = cpu_stream(stream);
    self->isa = SPIN_MIN(self->isa, isa);
}

enum spin_isa spin_isa_detect(void)
{
#if defined(__x86_64__)
    /* F16C came before AVX2: whoever has the one has the other. */
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        return SPIN_ISA_NONE;
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
        return SPIN_ISA_AVX512_VNNI;
    }
    return SPIN_ISA_AVX2;
#else
    return SPIN_ISA_NONE;
#endif
}

/* calloc takes fresh pages for large pieces, so they are zero without being touched: a KV pool of a
 * quarter of the machine costs nothing until sequences fill it, and a worker is ready at once. The
 * piece's real start lies in front of what the caller gets. */
spin_status spin_memory_alloc(uint64_t bytes, uint64_t alignment, void **out,
                              struct spin_error *err)
{
    if (bytes >= HUGE_PAGE_BYTES) {
        alignment = HUGE_PAGE_BYTES;
    }
    const uint64_t extra = alignment + sizeof(void *);
    char *start = bytes > SIZE_MAX - extra ? NULL : calloc(1, bytes + extra);
    if (start == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "memory: %lu bytes", (unsigned long)bytes);
    }
    const uintptr_t after = (uintptr_t)start + sizeof(void *);
    char *memory = start + sizeof(void *) + (alignment - after % alignment) % alignment;
    memcpy(memory - sizeof start, &start, sizeof start);
    if (alignment == HUGE_PAGE_BYTES) {
        /* A hint; small pages are correct too. */
        (void)madvise(memory, bytes / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES, MADV_HUGEPAGE);
    }
    *out = memory;
    return SPIN_OK;
}

void spin_memory_free(void *memory)
{
    if (memory == NULL) {
        return;
    }
    void *start = NULL;
    memcpy(&start, (char *)memory - sizeof start, sizeof start);
    free(start);
}

static spin_status allocate(struct spin_stream *stream, uint64_t bytes, void **out,
                            struct spin_error *err)
{
    (void)stream;
    return spin_memory_alloc(bytes, 64, out, err);
}

static void release(struct spin_stream *stream, void *memory)
{
    (void)stream;
    spin_memory_free(memory);
}

/* Operations are complete when they return. */
static spin_status is_done(struct spin_stream *stream, uint64_t timeout_ns)
{
    (void)stream;
    (void)timeout_ns;
    return SPIN_OK;
}

static spin_status copy(struct spin_stream *stream, void *target, const void *source,
                        uint64_t bytes)
{
    (void)stream;
    memcpy(target, source, bytes);
    return SPIN_OK;
}

static uint64_t free_memory(struct spin_stream *stream, uint64_t *out_total)
{
    (void)stream;
    const uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    *out_total = (uint64_t)sysconf(_SC_PHYS_PAGES) * page_bytes;
    return (uint64_t)sysconf(_SC_AVPHYS_PAGES) * page_bytes;
}

static const struct spin_backend backend = {
    .destroy = destroy,
    .sync = is_done,
    .device_alloc = allocate,
    .device_free = release,
    .host_alloc = allocate,
    .host_free = release,
    .write = copy,
    .read = copy,
    .memory = free_memory,
    .device_is_host = true,
};
