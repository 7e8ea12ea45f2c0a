/* matmul_twins: operands of products on the device, for the checks and the times of the area.
 *
 * Why        Weights of a large model are made where they are used, in several sets, so that none
 *            stays in the cache.
 * Ownership  An array frees its memory with its life; operands own their arrays.
 * Threading  The main thread.
 * Units      Values.
 * Errors     What fails here ends the program with 2: there is nothing left to compare. */
#pragma once

#include "kernels/ops_cuda.cuh"
#include "tests/kernels/cuda/twins.h"

#include <stdio.h>
#include <stdlib.h>
#include <vector>

#define SPIN_MATMUL_WAIT_NS UINT64_C(20000000000)
#define SPIN_MATMUL_WORKSPACE_BYTES (UINT64_C(32) << 20)

void spin_twins_matmul_timing(struct spin_twins *twins);

/* The device's copy of host values; ends the program where there is no memory. */
template <typename T> struct spin_matmul_array {
    struct spin_stream *stream;
    T *data;
    uint64_t count;

    spin_matmul_array(struct spin_stream *stream_, uint64_t count_) : stream(stream_), count(count_)
    {
        struct spin_error err;
        void *memory = NULL;
        if (spin_device_alloc(stream, count * sizeof(T), &memory, &err) != SPIN_OK) {
            printf("FAIL %s\n", err.text);
            exit(2);
        }
        data = (T *)memory;
    }
    spin_matmul_array(const spin_matmul_array &) = delete;
    ~spin_matmul_array()
    {
        spin_device_free(stream, data);
    }
    void write(const std::vector<T> &values)
    {
        if (spin_device_write(stream, data, values.data(), values.size() * sizeof(T)) != SPIN_OK ||
            spin_stream_sync(stream, SPIN_MATMUL_WAIT_NS) != SPIN_OK) {
            printf("FAIL device write\n");
            exit(2);
        }
    }
    std::vector<T> read()
    {
        std::vector<T> values(count);
        if (spin_device_read(stream, values.data(), data, count * sizeof(T)) != SPIN_OK ||
            spin_stream_sync(stream, SPIN_MATMUL_WAIT_NS) != SPIN_OK) {
            printf("FAIL device read\n");
            exit(2);
        }
        return values;
    }
};

struct spin_matmul_shape {
    uint32_t m;
    uint32_t n;
    uint32_t k;
};

static __global__ void spin_matmul_fill(uint16_t *target, uint64_t count, uint32_t seed,
                                        float deviation)
{
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < count;
         i += (uint64_t)gridDim.x * blockDim.x) {
        uint32_t h = (uint32_t)i * 2654435761u + seed + (uint32_t)(i >> 32);
        h = (h ^ (h >> 16)) * 0x7feb352du;
        h = (h ^ (h >> 15)) * 0x846ca68bu;
        h ^= h >> 16;
        const int sum = (int)((h & 255) + (h >> 8 & 255) + (h >> 16 & 255) + (h >> 24)) - 510;
        target[i] = __bfloat16_as_ushort(
            __float2bfloat16_rn((float)sum * deviation * (1 / 147.8F))); /* about normal */
    }
}

enum spin_matmul_y { SPIN_MATMUL_Y_BF16, SPIN_MATMUL_Y_F32, SPIN_MATMUL_Y_F32_ACCUMULATED };

struct spin_matmul_operands {
    spin_matmul_array<uint16_t> w; /* several sets, so that none stays in the cache */
    spin_matmul_array<uint16_t> x;
    spin_matmul_array<uint16_t> y;
    spin_matmul_array<uint8_t> workspace;
    struct spin_matmul_shape shape; /* m: the most */
    uint32_t sets;
    enum spin_matmul_y kind;

    spin_matmul_operands(struct spin_twins *twins, struct spin_matmul_shape shape_, uint32_t sets_,
                         enum spin_matmul_y kind_ = SPIN_MATMUL_Y_BF16)
        : w(twins->cuda, (uint64_t)shape_.n * shape_.k * sets_),
          x(twins->cuda, (uint64_t)shape_.m * shape_.k),
          y(twins->cuda, (uint64_t)shape_.m * shape_.n * (kind_ == SPIN_MATMUL_Y_BF16 ? 1 : 2)),
          workspace(twins->cuda, SPIN_MATMUL_WORKSPACE_BYTES), shape(shape_), sets(sets_),
          kind(kind_)
    {
        cudaStream_t stream = spin_stream_cuda(twins->cuda);
        const uint32_t seed = (uint32_t)twins->seed;
        spin_matmul_fill<<<2112, 256, 0, stream>>>(w.data, w.count, seed,
                                                   1 / sqrtf((float)shape.k));
        spin_matmul_fill<<<2112, 256, 0, stream>>>(x.data, x.count, seed + 1, 1);
    }
    /* Of y, in halves of F32 values where they are that. */
    uint64_t row_words() const
    {
        return (uint64_t)shape.n * (kind == SPIN_MATMUL_Y_BF16 ? 1 : 2);
    }
    uint64_t y_bytes() const /* read and written for a row */
    {
        return 2 * row_words() * (kind == SPIN_MATMUL_Y_F32_ACCUMULATED ? 2 : 1);
    }
};

/* Rows [first, first + count) of x, into the rows of y in the same place. */
static inline struct spin_matmul_args spin_matmul_args_for(struct spin_matmul_operands *o,
                                                           uint32_t first, uint32_t count,
                                                           uint32_t set)
{
    const struct spin_matmul_shape shape = o->shape;
    struct spin_matmul_args args = {};
    args.x = {o->x.data + (uint64_t)first * shape.k, SPIN_DTYPE_BF16, count, shape.k, shape.k};
    args.parts[0].y = {o->y.data + first * o->row_words(),
                       o->kind == SPIN_MATMUL_Y_BF16 ? SPIN_DTYPE_BF16 : SPIN_DTYPE_F32, count,
                       shape.n, shape.n};
    args.parts[0].accumulate = o->kind == SPIN_MATMUL_Y_F32_ACCUMULATED;
    args.parts[0].weight = {o->w.data + (uint64_t)shape.n * shape.k * set, SPIN_DTYPE_BF16, shape.n,
                            shape.k};
    args.part_count = 1;
    args.workspace = o->workspace.data;
    return args;
}

/* A graph of what `run` puts on the stream, ready to launch; NULL when it cannot be made. */
template <typename F> static cudaGraphExec_t spin_matmul_capture(cudaStream_t stream, F run)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t executable = NULL;
    bool ok = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess;
    ok = ok && run();
    ok = cudaStreamEndCapture(stream, &graph) == cudaSuccess && ok;
    if (ok && cudaGraphInstantiate(&executable, graph, 0) != cudaSuccess) {
        executable = NULL;
    }
    if (graph != NULL) {
        cudaGraphDestroy(graph);
    }
    return executable;
}
