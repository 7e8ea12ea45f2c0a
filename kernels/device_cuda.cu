/* The CUDA stream, side lanes beside it, and graphs of all. Every wait has a limit: a stream is
 * asked whether it is done, never waited for inside the driver, and calls that wait there by
 * themselves (cudaFree, copies of pageable memory) come after such a wait. Pinned memory is memory
 * of the process that is touched by many threads and then registered: allocating it pinned takes
 * fifteen times as long. */
#include "base/clock.h"
#include "base/log.h"
#include "kernels/backend.h"
#include "kernels/device_cuda.cuh"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define CAPABILITY_MIN 90
#define WAIT_NS (10 * SPIN_NS_PER_S)   /* of the calls that are given no limit */
#define BUSY_NS (100 * SPIN_NS_PER_US) /* a step's last operations: not worth going to sleep for */
#define NAP_NS 20000
#define NAP_SLACK_NS 1000UL /* a thread's own is 50 us: it would oversleep every unit of prefill */
#define PAGE_BYTES UINT64_C(4096)
#define HUGE_PAGE_BYTES (UINT64_C(2) << 20)
#define TOUCH_THREADS_MAX 16u
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

struct spin_graph {
    cudaGraphExec_t exec;
};

/* Lanes wait for each other by events, which become edges of the graph in a recording. An event may
 * be recorded again at once: a wait is for what it stood for when the wait was submitted. */
struct side_lane {
    cudaStream_t stream;
    cudaEvent_t forked;
    cudaEvent_t joined;
    bool unjoined; /* something was submitted there since the last join */
};

struct cuda_stream {
    struct spin_stream base;
    cudaStream_t stream;
    struct side_lane sides[SPIN_SIDE_LANES];
    struct side_lane *side; /* between side_begin and side_end; NULL: the main lane */
    int ordinal;
    bool lost;
    bool recording;
    struct spin_owner owner; /* the first thread that runs an op */
    struct spin_cuda_matmul *matmul;
};

extern const struct spin_backend spin_backend_cuda;

/* A GPU is the calling thread's, and other streams may have changed it. */
static struct cuda_stream *enter(const struct spin_stream *stream)
{
    SPIN_ASSERT(stream->backend == &spin_backend_cuda);
    struct cuda_stream *self = (struct cuda_stream *)(uintptr_t)stream;
    (void)cudaSetDevice(self->ordinal); /* a failure shows in the next call */
    return self;
}

static spin_status lose(struct cuda_stream *self, const char *what, const char *why)
{
    (void)cudaGetLastError();
    SPIN_ERROR("device lost: gpu=%d what=%s why=%s", self->ordinal, what, why);
    self->lost = true;
    return SPIN_ERR_DEVICE_LOST;
}

static cudaStream_t lane(const struct cuda_stream *self)
{
    return self->side != NULL ? self->side->stream : self->stream;
}

cudaStream_t spin_stream_cuda(const struct spin_stream *stream)
{
    struct cuda_stream *self = enter(stream);
    if (self->owner.thread == 0) {
        spin_owner_set(&self->owner);
        (void)prctl(PR_SET_TIMERSLACK, NAP_SLACK_NS); /* of the thread that waits */
    }
    SPIN_ASSERT_THREAD(&self->owner);
    return lane(self);
}

struct spin_cuda_matmul *spin_stream_cuda_matmul(const struct spin_stream *stream)
{
    return enter(stream)->matmul;
}

spin_status spin_cuda_launched(const char *op)
{
    const cudaError_t error = cudaGetLastError();
    if (error == cudaSuccess) {
        return SPIN_OK;
    }
    SPIN_ERROR("device lost: op=%s why=%s", op, cudaGetErrorString(error));
    return SPIN_ERR_DEVICE_LOST;
}

/* What is submitted to `after` from here on waits for what `before` was given so far. */
static spin_status order(struct cuda_stream *self, cudaStream_t before, cudaStream_t after,
                         cudaEvent_t event)
{
    if (self->lost) {
        return SPIN_ERR_DEVICE_LOST;
    }
    cudaError_t error = cudaEventRecord(event, before);
    if (error == cudaSuccess) {
        error = cudaStreamWaitEvent(after, event, 0);
    }
    return error == cudaSuccess ? SPIN_OK : lose(self, "lane", cudaGetErrorString(error));
}

static spin_status side_begin(struct spin_stream *stream, enum spin_lane lane)
{
    struct cuda_stream *self = enter(stream);
    struct side_lane *side = &self->sides[lane];
    SPIN_ASSERT(self->side == NULL);
    SPIN_TRY(order(self, self->stream, side->stream, side->forked));
    self->side = side;
    side->unjoined = true;
    return SPIN_OK;
}

static spin_status side_end(struct spin_stream *stream)
{
    struct cuda_stream *self = enter(stream);
    SPIN_ASSERT(self->side != NULL);
    self->side = NULL;
    return SPIN_OK;
}

static spin_status side_join(struct spin_stream *stream, enum spin_lane lane)
{
    struct cuda_stream *self = enter(stream);
    struct side_lane *side = &self->sides[lane];
    SPIN_ASSERT(self->side == NULL);
    if (!side->unjoined) {
        return SPIN_OK;
    }
    side->unjoined = false;
    return order(self, side->stream, self->stream, side->joined);
}

static spin_status join_all(struct spin_stream *stream)
{
    SPIN_TRY(side_join(stream, SPIN_LANE_LATE));
    return side_join(stream, SPIN_LANE_SOON);
}

static spin_status wait_done(struct spin_stream *stream, uint64_t timeout_ns)
{
    struct cuda_stream *self = enter(stream);
    SPIN_ASSERT(!self->recording && self->side == NULL);
    if (self->lost) {
        return SPIN_ERR_DEVICE_LOST;
    }
    SPIN_TRY(join_all(stream));
    const struct spin_clock *clock = spin_clock_real();
    const uint64_t begin = spin_now_ns(clock);
    const uint64_t deadline = spin_deadline_ns(begin, timeout_ns);
    const struct timespec nap = {0, NAP_NS};
    for (;;) {
        const cudaError_t error = cudaStreamQuery(self->stream);
        if (error == cudaSuccess) {
            return SPIN_OK;
        }
        if (error != cudaErrorNotReady) {
            return lose(self, "wait", cudaGetErrorString(error));
        }
        (void)cudaGetLastError(); /* not ready counts as an error there */
        const uint64_t now = spin_now_ns(clock);
        if (now >= deadline) {
            return lose(self, "wait", "not done in time");
        }
        if (now - begin >= BUSY_NS) {
            (void)nanosleep(&nap, NULL);
        }
    }
}

static spin_status device_alloc(struct spin_stream *stream, uint64_t bytes, void **out,
                                struct spin_error *err)
{
    struct cuda_stream *self = enter(stream);
    SPIN_ASSERT(!self->recording && self->side == NULL);
    void *memory = NULL;
    cudaError_t error = self->lost ? cudaErrorDevicesUnavailable
                                   : cudaMalloc(&memory, (size_t)SPIN_MAX(bytes, UINT64_C(1)));
    if (error == cudaSuccess && bytes > 0) {
        error = cudaMemsetAsync(memory, 0, (size_t)bytes, self->stream);
    }
    if (error == cudaSuccess) {
        *out = memory;
        return SPIN_OK;
    }
    const bool full = error == cudaErrorMemoryAllocation;
    if (!self->lost && !full) {
        (void)lose(self, "alloc", cudaGetErrorString(error));
    }
    (void)cudaGetLastError();
    return spin_fail(err, full ? SPIN_ERR_NO_MEMORY : SPIN_ERR_DEVICE_LOST,
                     "GPU %d: %lu bytes of device memory: %s", self->ordinal, (unsigned long)bytes,
                     cudaGetErrorString(error));
}

static void device_free(struct spin_stream *stream, void *memory)
{
    struct cuda_stream *self = enter(stream);
    if (wait_done(stream, WAIT_NS) != SPIN_OK) {
        return;
    }
    const cudaError_t error = cudaFree(memory);
    if (error != cudaSuccess) {
        (void)lose(self, "free", cudaGetErrorString(error));
    }
}

struct slice {
    pthread_t thread;
    uint8_t *begin;
    uint64_t bytes;
    bool started;
};

static void *touch_slice(void *argument)
{
    const struct slice *slice = (const struct slice *)argument;
    (void)madvise(slice->begin, slice->bytes, MADV_POPULATE_WRITE); /* a hint */
    return NULL;
}

/* Registering would touch the pages on one thread; what is left out here is touched there. */
static void touch(uint8_t *memory, uint64_t bytes)
{
    struct slice slices[TOUCH_THREADS_MAX];
    const long processors = sysconf(_SC_NPROCESSORS_ONLN);
    const uint64_t threads = (uint64_t)SPIN_MAX(1, SPIN_MIN(processors, (long)TOUCH_THREADS_MAX));
    const uint64_t pages = bytes / HUGE_PAGE_BYTES;
    for (uint64_t i = 0; i < threads; i++) {
        const uint64_t begin = pages * i / threads;
        const uint64_t end = pages * (i + 1) / threads;
        slices[i].begin = memory + begin * HUGE_PAGE_BYTES;
        slices[i].bytes = (end - begin) * HUGE_PAGE_BYTES;
        slices[i].started =
            end > begin && pthread_create(&slices[i].thread, NULL, touch_slice, &slices[i]) == 0;
    }
    for (uint64_t i = 0; i < threads; i++) {
        if (slices[i].started) {
            (void)pthread_join(slices[i].thread, NULL);
        }
    }
}

static spin_status host_alloc(struct spin_stream *stream, uint64_t bytes, void **out,
                              struct spin_error *err)
{
    struct cuda_stream *self = enter(stream);
    /* Whole pages: no page is registered twice. */
    const uint64_t pages = SPIN_MAX(UINT64_C(1), bytes / PAGE_BYTES + (bytes % PAGE_BYTES != 0));
    void *memory = NULL;
    if (self->lost) {
        return spin_fail(err, SPIN_ERR_DEVICE_LOST, "GPU %d is lost", self->ordinal);
    }
    SPIN_TRY(spin_memory_alloc(pages * PAGE_BYTES, PAGE_BYTES, &memory, err));
    touch((uint8_t *)memory, pages * PAGE_BYTES);
    cudaError_t error = cudaHostRegister(memory, (size_t)(pages * PAGE_BYTES),
                                         cudaHostRegisterMapped | cudaHostRegisterPortable);
    if (error != cudaSuccess) {
        (void)cudaGetLastError();
        spin_memory_free(memory);
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "GPU %d: pinning %lu bytes of host memory: %s",
                         self->ordinal, (unsigned long)bytes, cudaGetErrorString(error));
    }
    *out = memory;
    return SPIN_OK;
}

static void host_free(struct spin_stream *stream, void *memory)
{
    struct cuda_stream *self = enter(stream);
    if (wait_done(stream, WAIT_NS) != SPIN_OK) {
        return;
    }
    const cudaError_t error = cudaHostUnregister(memory);
    if (error != cudaSuccess) {
        (void)lose(self, "unpin", cudaGetErrorString(error));
        return;
    }
    spin_memory_free(memory);
}

static bool is_pinned(const void *host)
{
    struct cudaPointerAttributes attributes;
    const cudaError_t error = cudaPointerGetAttributes(&attributes, host);
    (void)cudaGetLastError();
    return error == cudaSuccess && attributes.type == cudaMemoryTypeHost;
}

static spin_status copy(struct spin_stream *stream, void *target, const void *source,
                        uint64_t bytes, enum cudaMemcpyKind kind)
{
    struct cuda_stream *self = enter(stream);
    if (self->lost) {
        return SPIN_ERR_DEVICE_LOST;
    }
    if (!is_pinned(kind == cudaMemcpyHostToDevice ? source : target)) {
        SPIN_TRY(wait_done(stream, WAIT_NS));
    }
    const cudaError_t error = cudaMemcpyAsync(target, source, (size_t)bytes, kind, lane(self));
    return error == cudaSuccess ? SPIN_OK : lose(self, "copy", cudaGetErrorString(error));
}

static spin_status copy_in(struct spin_stream *stream, void *device, const void *host,
                           uint64_t bytes)
{
    return copy(stream, device, host, bytes, cudaMemcpyHostToDevice);
}

static spin_status copy_out(struct spin_stream *stream, void *host, const void *device,
                            uint64_t bytes)
{
    return copy(stream, host, device, bytes, cudaMemcpyDeviceToHost);
}

static uint64_t free_memory(struct spin_stream *stream, uint64_t *out_total)
{
    struct cuda_stream *self = enter(stream);
    size_t available = 0;
    size_t total = 0;
    const cudaError_t error =
        self->lost ? cudaErrorDevicesUnavailable : cudaMemGetInfo(&available, &total);
    if (error != cudaSuccess) {
        (void)cudaGetLastError();
        available = 0;
        total = 0;
    }
    *out_total = total;
    return available;
}

/* Calls of other threads do not disturb a recording, and it does not disturb them. */
static spin_status graph_begin(struct spin_stream *stream)
{
    struct cuda_stream *self = enter(stream);
    SPIN_ASSERT(!self->recording && self->side == NULL);
    SPIN_TRY(join_all(stream)); /* what is there already is no part of it */
    if (self->lost) {
        return SPIN_ERR_DEVICE_LOST;
    }
    const cudaError_t error =
        cudaStreamBeginCapture(self->stream, cudaStreamCaptureModeThreadLocal);
    if (error != cudaSuccess) {
        return lose(self, "record", cudaGetErrorString(error));
    }
    self->recording = true;
    return SPIN_OK;
}

static spin_status create_graph(struct cuda_stream *self, cudaGraph_t graph,
                                struct spin_graph **out, struct spin_error *err)
{
    struct spin_graph *made = (struct spin_graph *)calloc(1, sizeof *made);
    if (made == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "recording: %zu bytes", sizeof *made);
    }
    const cudaError_t error = cudaGraphInstantiate(&made->exec, graph, 0);
    if (error == cudaSuccess) {
        *out = made;
        return SPIN_OK;
    }
    free(made);
    (void)cudaGetLastError();
    if (error == cudaErrorMemoryAllocation) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "GPU %d: no memory for a recording",
                         self->ordinal);
    }
    (void)lose(self, "instantiate", cudaGetErrorString(error));
    return spin_fail(err, SPIN_ERR_DEVICE_LOST, "GPU %d: recording: %s", self->ordinal,
                     cudaGetErrorString(error));
}

/* Whoever failed in the middle may not have come to joining the side lanes. */
static spin_status graph_end(struct spin_stream *stream, struct spin_graph **out,
                             struct spin_error *err)
{
    struct cuda_stream *self = enter(stream);
    SPIN_ASSERT(self->recording && self->side == NULL);
    (void)join_all(stream); /* a failure shows in the next call */
    self->recording = false;
    cudaGraph_t graph = NULL;
    const cudaError_t error = cudaStreamEndCapture(self->stream, &graph);
    if (error != cudaSuccess || graph == NULL) {
        (void)lose(self, "record", cudaGetErrorString(error));
        return spin_fail(err, SPIN_ERR_DEVICE_LOST, "GPU %d: recording: %s", self->ordinal,
                         cudaGetErrorString(error));
    }
    const spin_status status = create_graph(self, graph, out, err);
    (void)cudaGraphDestroy(graph);
    return status;
}

static spin_status graph_launch(struct spin_stream *stream, const struct spin_graph *graph)
{
    struct cuda_stream *self = enter(stream);
    SPIN_ASSERT(!self->recording && self->side == NULL);
    SPIN_TRY(join_all(stream));
    if (self->lost) {
        return SPIN_ERR_DEVICE_LOST;
    }
    const cudaError_t error = cudaGraphLaunch(graph->exec, self->stream);
    return error == cudaSuccess ? SPIN_OK : lose(self, "replay", cudaGetErrorString(error));
}

/* The driver frees one that is running when it has finished; a lost one stays with it. */
static void graph_destroy(struct spin_stream *stream, struct spin_graph *graph)
{
    struct cuda_stream *self = enter(stream);
    if (!self->lost) {
        (void)cudaGraphExecDestroy(graph->exec);
    }
    free(graph);
}

/* What the driver holds for a stream that was lost stays until the process ends. */
static void destroy(struct spin_stream *stream)
{
    struct cuda_stream *self = enter(stream);
    if (self->stream != NULL && wait_done(stream, WAIT_NS) == SPIN_OK) {
        spin_cuda_matmul_destroy(self->matmul);
        for (uint32_t i = 0; i < SPIN_SIDE_LANES; i++) {
            (void)cudaEventDestroy(self->sides[i].joined);
            (void)cudaEventDestroy(self->sides[i].forked);
            (void)cudaStreamDestroy(self->sides[i].stream);
        }
        (void)cudaStreamDestroy(self->stream);
    }
    free(self);
}

/* In the table's order. */
const struct spin_backend spin_backend_cuda = {
    destroy,   wait_done,   device_alloc, device_free,  host_alloc,   host_free,
    copy_in,   copy_out,    free_memory,  false,        side_begin,   side_end,
    side_join, graph_begin, graph_end,    graph_launch, graph_destroy};

/* Every operation's code is compiled for the same GPUs as this. */
static __global__ void code_is_here(void)
{
}

static spin_status no_gpu(uint32_t ordinal, cudaError_t error, struct spin_error *err)
{
    int driver = 0;
    (void)cudaDriverGetVersion(&driver);
    (void)cudaGetLastError();
    if (driver == 0) {
        return spin_fail(err, SPIN_ERR_UNSUPPORTED, "GPU %u: this machine has no CUDA driver",
                         ordinal);
    }
    if (error == cudaErrorInsufficientDriver) {
        return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                         "GPU %u: the driver is one of CUDA %d.%d, this program needs %d.%d",
                         ordinal, driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000,
                         CUDART_VERSION % 1000 / 10);
    }
    return spin_fail(err, SPIN_ERR_UNSUPPORTED, "GPU %u: the driver shows no GPU: %s", ordinal,
                     error == cudaSuccess ? "there is none" : cudaGetErrorString(error));
}

static spin_status check_gpu(uint32_t ordinal, struct cudaDeviceProp *properties,
                             struct spin_error *err)
{
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0) {
        return no_gpu(ordinal, error, err);
    }
    if (ordinal >= (uint32_t)count) {
        return spin_fail(err, SPIN_ERR_INVALID, "GPU %u: this machine has %d, counted from 0",
                         ordinal, count);
    }
    error = cudaGetDeviceProperties(properties, (int)ordinal);
    if (error != cudaSuccess) {
        (void)cudaGetLastError();
        return spin_fail(err, SPIN_ERR_DEVICE_LOST, "GPU %u: %s", ordinal,
                         cudaGetErrorString(error));
    }
    const int capability = properties->major * 10 + properties->minor;
    if (capability < CAPABILITY_MIN) {
        return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                         "GPU %u, %s, is sm_%d: at least sm_%d is needed", ordinal,
                         properties->name, capability, CAPABILITY_MIN);
    }
    if (!properties->canUseHostPointerForRegisteredMem) {
        return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                         "GPU %u, %s, has other addresses for host memory than the host", ordinal,
                         properties->name);
    }
    struct cudaFuncAttributes attributes;
    error = cudaSetDevice((int)ordinal);
    if (error == cudaSuccess) {
        error = cudaFuncGetAttributes(&attributes, code_is_here);
    }
    if (error != cudaSuccess) {
        (void)cudaGetLastError();
        return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                         "GPU %u, %s, is sm_%d: no code of this program runs there: %s", ordinal,
                         properties->name, capability, cudaGetErrorString(error));
    }
    return SPIN_OK;
}

static cudaError_t create_side(struct side_lane *side, int priority)
{
    cudaError_t error =
        cudaStreamCreateWithPriority(&side->stream, cudaStreamNonBlocking, priority);
    if (error == cudaSuccess) {
        error = cudaEventCreateWithFlags(&side->forked, cudaEventDisableTiming);
    }
    if (error == cudaSuccess) {
        error = cudaEventCreateWithFlags(&side->joined, cudaEventDisableTiming);
    }
    return error;
}

/* Smaller numbers come first; a recording's operations keep their lane's. */
static cudaError_t create_lanes(struct cuda_stream *self)
{
    int last = 0;
    int first = 0;
    cudaError_t error = cudaDeviceGetStreamPriorityRange(&last, &first);
    if (error == cudaSuccess) {
        error = cudaStreamCreateWithPriority(&self->stream, cudaStreamNonBlocking, last);
    }
    if (error == cudaSuccess) {
        error = create_side(&self->sides[SPIN_LANE_LATE], last);
    }
    if (error == cudaSuccess) {
        error = create_side(&self->sides[SPIN_LANE_SOON], first);
    }
    return error;
}

spin_status spin_stream_create_cuda(uint32_t ordinal, struct spin_stream **out,
                                    struct spin_error *err)
{
    struct cudaDeviceProp properties;
    SPIN_TRY(check_gpu(ordinal, &properties, err));
    struct cuda_stream *self = (struct cuda_stream *)calloc(1, sizeof *self);
    if (self == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "stream: %zu bytes", sizeof *self);
    }
    self->base.backend = &spin_backend_cuda;
    self->ordinal = (int)ordinal;
    (void)snprintf(self->base.name, sizeof self->base.name, "%s", properties.name);
    spin_status status = SPIN_OK;
    const cudaError_t error = create_lanes(self);
    if (error != cudaSuccess) {
        (void)cudaGetLastError();
        status = spin_fail(err, SPIN_ERR_DEVICE_LOST, "GPU %u: stream: %s", ordinal,
                           cudaGetErrorString(error));
        goto fail;
    }
    SPIN_TRY_GOTO(status, spin_cuda_matmul_create(&self->matmul, err), fail);
    *out = &self->base;
    return SPIN_OK;
fail:
    destroy(&self->base);
    return status;
}
