/* twin_array: device memory of the areas "rows", "attention", "draw", their comparison and clock.
 *
 * Why        Outputs begin as NaN between canaries, BF16 results are compared in units of the last
 *            place, and times are those of a captured graph: without the host, over many buffers.
 * Ownership  An array frees its memory with its life.
 * Threading  The main thread.
 * Units      Values, microseconds.
 * Errors     What fails here ends the program with 2: there is nothing left to compare. */
#pragma once

#include "kernels/dtype.h"
#include "kernels/ops_cuda.cuh"
#include "tests/kernels/cuda/twins.h"

#include <algorithm>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <vector>

#define SPIN_TWIN_WAIT_NS UINT64_C(60000000000)
#define SPIN_TWIN_CANARY_BYTES 256u
#define SPIN_TWIN_CANARY 0xa5
#define SPIN_TWIN_TIMES 9u

static inline void spin_twin_must(bool ok, const char *what)
{
    if (!ok) {
        (void)printf("FAIL %s: %s\n", what, cudaGetErrorString(cudaGetLastError()));
        exit(2);
    }
}

static inline void spin_twin_sync(struct spin_twins *twins)
{
    spin_twin_must(spin_stream_sync(twins->cuda, SPIN_TWIN_WAIT_NS) == SPIN_OK, "sync");
}

/* Device memory between canaries, 0xff at first. */
template <typename T> struct spin_twin_array {
    struct spin_twins *twins;
    uint64_t count;
    uint8_t *base;

    spin_twin_array(struct spin_twins *twins_, uint64_t count_) : twins(twins_), count(count_)
    {
        struct spin_error err;
        void *memory = NULL;
        const uint64_t all = bytes() + 2 * SPIN_TWIN_CANARY_BYTES;
        spin_twin_must(spin_device_alloc(twins->cuda, all, &memory, &err) == SPIN_OK, "memory");
        base = (uint8_t *)memory;
        cudaStream_t stream = spin_stream_cuda(twins->cuda);
        spin_twin_must(cudaMemsetAsync(base, SPIN_TWIN_CANARY, all, stream) == cudaSuccess, "set");
        poison();
    }
    spin_twin_array(struct spin_twins *twins_, const std::vector<T> &values)
        : spin_twin_array(twins_, values.size())
    {
        write(values);
    }
    spin_twin_array(const spin_twin_array &) = delete;
    spin_twin_array &operator=(const spin_twin_array &) = delete;
    ~spin_twin_array()
    {
        spin_device_free(twins->cuda, base);
    }
    uint64_t bytes() const
    {
        return count * sizeof(T);
    }
    T *data() const
    {
        return (T *)(base + SPIN_TWIN_CANARY_BYTES);
    }
    void poison()
    {
        cudaStream_t stream = spin_stream_cuda(twins->cuda);
        spin_twin_must(cudaMemsetAsync(data(), 0xff, bytes(), stream) == cudaSuccess, "poison");
    }
    void write(const std::vector<T> &values)
    {
        if (!values.empty()) {
            spin_twin_must(spin_device_write(twins->cuda, data(), values.data(),
                                             values.size() * sizeof(T)) == SPIN_OK,
                           "write");
            spin_twin_sync(twins);
        }
    }
    std::vector<T> read() const
    {
        std::vector<T> values(count);
        if (count > 0) {
            spin_twin_must(spin_device_read(twins->cuda, values.data(), data(), bytes()) == SPIN_OK,
                           "read");
        }
        spin_twin_sync(twins);
        return values;
    }
    bool canaries_live() const
    {
        uint8_t canary[2 * SPIN_TWIN_CANARY_BYTES];
        const uint8_t *behind = (const uint8_t *)data() + bytes();
        const uint64_t half = SPIN_TWIN_CANARY_BYTES;
        spin_twin_must(spin_device_read(twins->cuda, canary, base, half) == SPIN_OK &&
                           spin_device_read(twins->cuda, canary + half, behind, half) == SPIN_OK,
                       "read");
        spin_twin_sync(twins);
        for (uint64_t i = 0; i < sizeof canary; i++) {
            if (canary[i] != SPIN_TWIN_CANARY) {
                return false;
            }
        }
        return true;
    }
};

static inline std::vector<uint16_t> spin_twin_narrow(const std::vector<float> &values)
{
    std::vector<uint16_t> narrow(values.size());
    for (uint64_t i = 0; i < values.size(); i++) {
        narrow[i] = spin_bf16_from_f32(values[i]);
    }
    return narrow;
}

/* Normal numbers that BF16 can hold. */
static inline std::vector<float> spin_twin_normal(struct spin_rng *rng, uint64_t count,
                                                  double deviation)
{
    std::vector<float> values(count);
    for (uint64_t i = 0; i < count; i++) {
        const uint16_t bits = spin_bf16_from_f32((float)(deviation * spin_rng_normal(rng)));
        values[i] = spin_f32_from_bf16(bits);
    }
    return values;
}

/* The k-th BF16 number from the smallest. */
static inline int32_t spin_twin_place(uint16_t bits)
{
    return (bits & 0x8000u) != 0 ? -(int32_t)(bits & 0x7fffu) : (int32_t)bits;
}

/* Microseconds of one of `calls` calls call(0), call(1), ... of a captured graph: the median. */
template <typename CALL>
static double spin_twin_time_us(struct spin_twins *twins, uint32_t calls, CALL call)
{
    cudaStream_t stream = spin_stream_cuda(twins->cuda);
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    cudaEvent_t begin = NULL;
    cudaEvent_t end = NULL;
    call(0);
    spin_twin_sync(twins);
    spin_twin_must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess,
                   "capture");
    for (uint32_t i = 0; i < calls; i++) {
        call(i);
    }
    spin_twin_must(cudaStreamEndCapture(stream, &graph) == cudaSuccess, "captured");
    spin_twin_must(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess, "graph");
    spin_twin_must(cudaEventCreate(&begin) == cudaSuccess, "event");
    spin_twin_must(cudaEventCreate(&end) == cudaSuccess, "event");
    std::vector<float> times;
    for (uint32_t i = 0; i < SPIN_TWIN_TIMES + 2; i++) {
        float ms = 0;
        spin_twin_must(cudaEventRecord(begin, stream) == cudaSuccess, "record");
        spin_twin_must(cudaGraphLaunch(exec, stream) == cudaSuccess, "launch");
        spin_twin_must(cudaEventRecord(end, stream) == cudaSuccess, "record");
        spin_twin_sync(twins);
        spin_twin_must(cudaEventElapsedTime(&ms, begin, end) == cudaSuccess, "time");
        times.push_back(ms);
    }
    times.erase(times.begin(), times.begin() + 2);
    std::sort(times.begin(), times.end());
    (void)cudaEventDestroy(begin);
    (void)cudaEventDestroy(end);
    (void)cudaGraphExecDestroy(exec);
    (void)cudaGraphDestroy(graph);
    return (double)times[times.size() / 2] * 1e3 / calls;
}
