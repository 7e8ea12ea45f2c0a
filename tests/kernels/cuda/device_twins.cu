/* The CUDA stream against what device.h promises: zeroed and aligned memory, host memory that
 * kernels write to, copies in order, waits that end, errors with a sentence. */
#include "base/clock.h"
#include "kernels/ops_cuda.cuh"
#include "tests/kernels/cuda/twins.h"

#include <stdlib.h>
#include <string.h>

#define WAIT_NS (10 * SPIN_NS_PER_S)

static __global__ void add_words(uint32_t *target, const uint32_t *source, uint64_t count)
{
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < count;
         i += (uint64_t)gridDim.x * blockDim.x) {
        target[i] += source[i];
    }
}

/* Longer than any wait that it is given. */
static __global__ void stay(uint64_t nanoseconds)
{
    uint64_t begin = 0;
    uint64_t now = 0;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    do {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - begin < nanoseconds);
}

static void expect(struct spin_twins *twins, const char *name, bool ok)
{
    spin_twin_check(twins, name, ok, ok);
}

/* Counts the bytes that are not `value`. */
static uint64_t others(const uint8_t *memory, uint64_t bytes, uint8_t value)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < bytes; i++) {
        count += memory[i] != value;
    }
    return count;
}

static void check_memory(struct spin_twins *twins)
{
    static const uint64_t sizes[] = {0, 1, 63, 4096, UINT64_C(2) << 20, (UINT64_C(4) << 20) + 1};
    struct spin_error err;
    uint8_t *here = (uint8_t *)malloc(sizes[5]);
    uint64_t wrong = 0;
    for (uint64_t i = 0; here != NULL && i < 2 * SPIN_ARRAY_COUNT(sizes); i++) {
        const uint64_t bytes = sizes[i % SPIN_ARRAY_COUNT(sizes)];
        void *memory = NULL;
        if (spin_device_alloc(twins->cuda, bytes, &memory, &err) != SPIN_OK) {
            expect(twins, "device_alloc", false);
            break;
        }
        memset(here, 0xA5, bytes);
        wrong += (uintptr_t)memory % 256 != 0;
        wrong += spin_device_read(twins->cuda, here, memory, bytes) != SPIN_OK;
        wrong += spin_stream_sync(twins->cuda, WAIT_NS) != SPIN_OK;
        wrong += others(here, bytes, 0);
        memset(here, 0xFF, bytes); /* what is allocated next must be zeroed again */
        wrong += spin_device_write(twins->cuda, memory, here, bytes) != SPIN_OK;
        spin_device_free(twins->cuda, memory);
    }
    spin_twin_check(twins, "device_memory", here != NULL && wrong == 0, (double)wrong);
    free(here);
    void *memory = NULL;
    expect(twins, "device_memory_refused",
           spin_device_alloc(twins->cuda, UINT64_C(1) << 50, &memory, &err) == SPIN_ERR_NO_MEMORY &&
               memory == NULL && strstr(err.text, "1125899906842624") != NULL);
    spin_device_free(twins->cuda, NULL);
    spin_host_free(twins->cuda, NULL);
}

/* Host words that a kernel reads and adds to, through the same addresses. */
static void check_host_memory(struct spin_twins *twins, uint64_t count)
{
    struct spin_error err;
    struct spin_rng rng = {twins->seed, 1, count};
    uint32_t *a = NULL;
    uint32_t *b = NULL;
    if (spin_host_alloc(twins->cuda, count * 4, (void **)&a, &err) != SPIN_OK ||
        spin_host_alloc(twins->cuda, count * 4, (void **)&b, &err) != SPIN_OK) {
        expect(twins, err.text, false);
        return;
    }
    uint64_t wrong = others((const uint8_t *)a, count * 4, 0);
    for (uint64_t i = 0; i < count; i++) {
        a[i] = (uint32_t)i;
        b[i] = spin_rng_u32(&rng);
    }
    add_words<<<64, 256, 0, spin_stream_cuda(twins->cuda)>>>(a, b, count);
    wrong += spin_cuda_launched("add_words") != SPIN_OK;
    wrong += spin_stream_sync(twins->cuda, WAIT_NS) != SPIN_OK;
    for (uint64_t i = 0; i < count; i++) {
        wrong += a[i] != (uint32_t)i + b[i];
    }
    spin_twin_check(twins, "device_host_memory", wrong == 0, (double)wrong);
    spin_host_free(twins->cuda, a);
    spin_host_free(twins->cuda, b);
}

/* Write, add on the device, read: by pinned and by other memory, without a wait in between. */
static void check_copies(struct spin_twins *twins, bool pinned)
{
    const uint64_t count = 300001;
    const uint64_t bytes = count * 4;
    struct spin_error err;
    struct spin_rng rng = {twins->seed, 2, pinned};
    uint32_t *here = NULL;
    void *there = NULL;
    bool ok = spin_device_alloc(twins->cuda, bytes, &there, &err) == SPIN_OK;
    struct spin_stream *owner = pinned ? twins->cuda : twins->cpu;
    ok = ok && spin_host_alloc(owner, 2 * bytes, (void **)&here, &err) == SPIN_OK;
    uint64_t wrong = 0;
    for (uint64_t i = 0; ok && i < count; i++) {
        here[i] = spin_rng_u32(&rng);
    }
    ok = ok && spin_device_write(twins->cuda, there, here, bytes) == SPIN_OK;
    if (ok) {
        add_words<<<64, 256, 0, spin_stream_cuda(twins->cuda)>>>((uint32_t *)there,
                                                                 (const uint32_t *)there, count);
    }
    ok = ok && spin_device_read(twins->cuda, here + count, there, bytes) == SPIN_OK;
    ok = ok && spin_stream_sync(twins->cuda, WAIT_NS) == SPIN_OK;
    for (uint64_t i = 0; ok && i < count; i++) {
        wrong += here[count + i] != 2 * here[i];
    }
    spin_twin_check(twins, pinned ? "device_copies_pinned" : "device_copies_other",
                    ok && wrong == 0, (double)wrong);
    spin_host_free(owner, here);
    spin_device_free(twins->cuda, there);
}

/* A wait that is too short loses the stream, and a lost stream answers at once. */
static void check_lost(struct spin_twins *twins)
{
    struct spin_error err;
    struct spin_stream *stream = NULL;
    void *memory = NULL;
    expect(twins, "device_no_such_gpu",
           spin_stream_create_cuda(99, &stream, &err) == SPIN_ERR_INVALID &&
               strstr(err.text, "GPU 99") != NULL);
    if (spin_stream_create_cuda(0, &stream, &err) != SPIN_OK) {
        expect(twins, "device_second_stream", false);
        return;
    }
    stay<<<1, 1, 0, spin_stream_cuda(stream)>>>(500 * SPIN_NS_PER_MS);
    const spin_status late = spin_stream_sync(stream, 50 * SPIN_NS_PER_MS);
    expect(twins, "device_wait_ends", late == SPIN_ERR_DEVICE_LOST);
    uint32_t word = 0;
    expect(twins, "device_lost_sync", spin_stream_sync(stream, WAIT_NS) == SPIN_ERR_DEVICE_LOST);
    expect(twins, "device_lost_alloc",
           spin_device_alloc(stream, 1, &memory, &err) == SPIN_ERR_DEVICE_LOST &&
               spin_host_alloc(stream, 1, &memory, &err) == SPIN_ERR_DEVICE_LOST);
    expect(twins, "device_lost_copy",
           spin_device_read(stream, &word, &word, 4) == SPIN_ERR_DEVICE_LOST);
    spin_stream_destroy(stream);
    expect(twins, "device_others_live", spin_stream_sync(twins->cuda, WAIT_NS) == SPIN_OK);
    (void)cudaDeviceSynchronize(); /* the kernel ends by itself: nothing timed runs beside it */
}

static void time_pinning(struct spin_twins *twins)
{
    const struct spin_clock *clock = spin_clock_real();
    const uint64_t bytes = UINT64_C(16) << 30;
    struct spin_error err;
    void *memory = NULL;
    const uint64_t begin = spin_now_ns(clock);
    if (spin_host_alloc(twins->cuda, bytes, &memory, &err) != SPIN_OK) {
        expect(twins, "device_pin_16GiB", false);
        return;
    }
    spin_twin_result("device_pin_16GiB", (double)(spin_now_ns(clock) - begin) / 1e9, "s");
    spin_host_free(twins->cuda, memory);
}

void spin_twins_device(struct spin_twins *twins)
{
    check_memory(twins);
    check_host_memory(twins, 1);
    check_host_memory(twins, 3 << 20);
    check_copies(twins, true);
    check_copies(twins, false);
    check_lost(twins);
    if (twins->timing) {
        time_pinning(twins);
    }
}
