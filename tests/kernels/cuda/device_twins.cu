/* The CUDA stream against what device.h promises: zeroed and aligned memory, host memory that
 * kernels write to, copies in order, lanes beside each other, recordings that run again, waits that
 * end, errors with a sentence. */
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

/* out[0]: 1 when the flag was raised while this waited. */
static __global__ void wait_for_flag(volatile uint32_t *flag, uint32_t *out, uint64_t nanoseconds)
{
    uint64_t begin = 0;
    uint64_t now = 0;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    do {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (*flag == 0 && now - begin < nanoseconds);
    *out = *flag;
}

/* After a while: whoever does not wait for it reads what was there before. */
static __global__ void set_later(uint32_t *word, uint32_t value)
{
    uint64_t begin = 0;
    uint64_t now = 0;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    do {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - begin < 2000000);
    *word = value;
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

/* Words on the device, zero at first, and as many that the host shares. */
#define LANE_WORDS 8u

struct lane_words {
    uint32_t *device;
    uint32_t *host;
};

static bool lane_words_alloc(struct spin_twins *twins, struct lane_words *words)
{
    struct spin_error err;
    const uint64_t bytes = LANE_WORDS * sizeof(uint32_t);
    const bool ok =
        spin_device_alloc(twins->cuda, bytes, (void **)&words->device, &err) == SPIN_OK &&
        spin_host_alloc(twins->cuda, bytes, (void **)&words->host, &err) == SPIN_OK;
    if (!ok) {
        expect(twins, "device_lane_words", false);
    }
    return ok;
}

static void lane_words_free(struct spin_twins *twins, const struct lane_words *words)
{
    spin_device_free(twins->cuda, words->device);
    spin_host_free(twins->cuda, words->host);
}

static bool read_words(struct spin_twins *twins, const struct lane_words *words)
{
    return spin_device_read(twins->cuda, words->host, words->device,
                            LANE_WORDS * sizeof(uint32_t)) == SPIN_OK &&
           spin_stream_sync(twins->cuda, WAIT_NS) == SPIN_OK;
}

/* word 0 <- 7 late; side: word 1 <- word 0, wait for the flag in word 2, which what follows on the
 * main lane raises, then word 4 late; join; word 5 <- word 4. */
static bool submit_lanes(struct spin_twins *twins, const struct lane_words *words)
{
    struct spin_stream *stream = twins->cuda;
    uint32_t *word = words->device;
    set_later<<<1, 1, 0, spin_stream_cuda(stream)>>>(word, 7);
    bool ok = spin_stream_side_begin(stream, SPIN_LANE_LATE) == SPIN_OK;
    add_words<<<1, 1, 0, spin_stream_cuda(stream)>>>(word + 1, word, 1);
    wait_for_flag<<<1, 1, 0, spin_stream_cuda(stream)>>>(word + 2, word + 3, 2 * SPIN_NS_PER_S);
    set_later<<<1, 1, 0, spin_stream_cuda(stream)>>>(word + 4, 9);
    ok = spin_stream_side_end(stream) == SPIN_OK && ok;
    set_later<<<1, 1, 0, spin_stream_cuda(stream)>>>(word + 2, 1);
    ok = spin_stream_side_join(stream, SPIN_LANE_LATE) == SPIN_OK && ok;
    add_words<<<1, 1, 0, spin_stream_cuda(stream)>>>(word + 5, word + 4, 1);
    return spin_cuda_launched("lanes") == SPIN_OK && ok;
}

static bool lanes_ran(const struct lane_words *words, uint32_t times)
{
    const uint32_t *word = words->host;
    return word[0] == 7 && word[1] == 7 * times && word[3] == 1 && word[4] == 9 &&
           word[5] == 9 * times;
}

/* Joining one lane is not joining the other. late: waits for the flag that the main lane raises
 * once the soon one is joined, then word 4; soon: word 1 late, which the main lane takes to word 5;
 * at last, word 4 is added to that. */
static bool submit_both_lanes(struct spin_twins *twins, const struct lane_words *words)
{
    struct spin_stream *stream = twins->cuda;
    uint32_t *word = words->device;
    bool ok = spin_stream_side_begin(stream, SPIN_LANE_LATE) == SPIN_OK;
    wait_for_flag<<<1, 1, 0, spin_stream_cuda(stream)>>>(word + 2, word + 3, 2 * SPIN_NS_PER_S);
    set_later<<<1, 1, 0, spin_stream_cuda(stream)>>>(word + 4, 9);
    ok = spin_stream_side_end(stream) == SPIN_OK && ok;
    ok = spin_stream_side_begin(stream, SPIN_LANE_SOON) == SPIN_OK && ok;
    set_later<<<1, 1, 0, spin_stream_cuda(stream)>>>(word + 1, 7);
    ok = spin_stream_side_end(stream) == SPIN_OK && ok;
    ok = spin_stream_side_join(stream, SPIN_LANE_SOON) == SPIN_OK && ok;
    add_words<<<1, 1, 0, spin_stream_cuda(stream)>>>(word + 5, word + 1, 1);
    set_later<<<1, 1, 0, spin_stream_cuda(stream)>>>(word + 2, 1);
    ok = spin_stream_side_join(stream, SPIN_LANE_LATE) == SPIN_OK && ok;
    add_words<<<1, 1, 0, spin_stream_cuda(stream)>>>(word + 5, word + 4, 1);
    return spin_cuda_launched("both lanes") == SPIN_OK && ok;
}

static void check_both_lanes(struct spin_twins *twins)
{
    struct lane_words words = {NULL, NULL};
    if (!lane_words_alloc(twins, &words)) {
        return;
    }
    const bool ok = submit_both_lanes(twins, &words) && read_words(twins, &words);
    expect(twins, "device_lanes_are_joined_alone",
           ok && words.host[3] == 1 && words.host[5] == 7 + 9);
    lane_words_free(twins, &words);
}

static void check_lanes(struct spin_twins *twins)
{
    struct lane_words words = {NULL, NULL};
    if (!lane_words_alloc(twins, &words)) {
        return;
    }
    expect(twins, "device_lanes",
           submit_lanes(twins, &words) && read_words(twins, &words) && lanes_ran(&words, 1));
    /* A wait is for all lanes. */
    bool ok = spin_stream_has_lanes(twins->cuda);
    for (uint32_t i = 0; i < SPIN_SIDE_LANES; i++) {
        ok = spin_stream_side_begin(twins->cuda, (enum spin_lane)i) == SPIN_OK && ok;
        set_later<<<1, 1, 0, spin_stream_cuda(twins->cuda)>>>(words.host + 6 + i, 11 + i);
        ok = spin_stream_side_end(twins->cuda) == SPIN_OK && ok;
    }
    ok = spin_stream_sync(twins->cuda, WAIT_NS) == SPIN_OK && ok;
    expect(twins, "device_wait_for_all_lanes", ok && words.host[6] == 11 && words.host[7] == 12);
    lane_words_free(twins, &words);
}

/* The same lanes, a copy in and a copy out, recorded once and run three times: nothing runs before,
 * and every run takes what the host's words hold by then. */
static void check_graph(struct spin_twins *twins)
{
    struct spin_stream *stream = twins->cuda;
    struct spin_error err;
    struct spin_graph *graph = NULL;
    struct lane_words words = {NULL, NULL};
    struct lane_words input = {NULL, NULL};
    if (!lane_words_alloc(twins, &words) || !lane_words_alloc(twins, &input)) {
        return;
    }
    bool ok = spin_stream_records(stream) && spin_graph_begin(stream) == SPIN_OK;
    ok = ok && spin_device_write(stream, words.device + 6, input.host, 4) == SPIN_OK;
    ok = ok && submit_lanes(twins, &words);
    add_words<<<1, 1, 0, spin_stream_cuda(stream)>>>(words.device + 7, words.device + 6, 1);
    ok = ok && spin_device_read(stream, input.host + 1, words.device + 7, 4) == SPIN_OK;
    ok = spin_graph_end(stream, &graph, &err) == SPIN_OK && ok;
    ok = ok && read_words(twins, &words);
    expect(twins, "device_recording_runs_nothing",
           ok && others((const uint8_t *)words.host, LANE_WORDS * sizeof(uint32_t), 0) == 0);
    uint32_t sum = 0;
    for (uint32_t times = 1; ok && times <= 3; times++) {
        input.host[0] = 100 * times;
        sum += 100 * times;
        ok = cudaMemsetAsync(words.device + 2, 0, 4, spin_stream_cuda(stream)) == cudaSuccess &&
             spin_graph_launch(stream, graph) == SPIN_OK && read_words(twins, &words) &&
             lanes_ran(&words, times) && input.host[1] == sum;
    }
    expect(twins, "device_recording_runs_again", ok);
    spin_graph_destroy(stream, graph);
    spin_graph_destroy(stream, NULL);
    lane_words_free(twins, &words);
    lane_words_free(twins, &input);
}

/* What one allocates is no longer free. */
static void check_memory_query(struct spin_twins *twins)
{
    const uint64_t bytes = UINT64_C(1) << 30;
    struct spin_error err;
    void *memory = NULL;
    uint64_t total = 0;
    const uint64_t before = spin_device_memory(twins->cuda, &total);
    const bool ok = spin_device_alloc(twins->cuda, bytes, &memory, &err) == SPIN_OK;
    const uint64_t after = spin_device_memory(twins->cuda, &total);
    expect(twins, "device_memory_query",
           ok && before <= total && after + bytes <= before && !spin_device_is_host(twins->cuda));
    spin_device_free(twins->cuda, memory);
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
    uint64_t total = 1;
    expect(twins, "device_lost_lanes",
           spin_stream_side_begin(stream, SPIN_LANE_LATE) == SPIN_ERR_DEVICE_LOST &&
               spin_graph_begin(stream) == SPIN_ERR_DEVICE_LOST &&
               spin_device_memory(stream, &total) == 0 && total == 0);
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
    check_lanes(twins);
    check_both_lanes(twins);
    check_graph(twins);
    check_memory_query(twins);
    check_lost(twins);
    if (twins->timing) {
        time_pinning(twins);
    }
}
