// limits: what the memory and the links of this GPU can do; one line per figure.
//
// HBM copy, PCIe copies, and the gather of scattered pages from pinned host memory that Retrieve is
// bound by. GB/s is 1e9 bytes a second, median of the runs.
#include <cuda_runtime.h>

#include <algorithm>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <vector>

#define CHECK(call) \
    do { \
        const cudaError_t check_error_ = (call); \
        if (check_error_ != cudaSuccess) { \
            printf("FAIL %s: %s\n", #call, cudaGetErrorString(check_error_)); \
            exit(1); \
        } \
    } while (0)

static const size_t DEVICE_BYTES = 2ull << 30; // each of two buffers; far larger than the L2
static const size_t HOST_BYTES = 4ull << 30;   // pinned
static const int PAGES_MAX = 1 << 20;

struct buffers {
    char *device[2];
    char *host;
    uint32_t *indices; // on the device, PAGES_MAX of them
};

// One warp copies one page, 16 bytes a lane a step, four loads under way; page p comes from
// host[indices[p]].
__global__ void gather_pages(const uint4 *__restrict__ host, uint4 *__restrict__ device,
                             const uint32_t *__restrict__ indices, int pages, int page_vectors)
{
    const int warp = (int)(blockIdx.x * blockDim.x + threadIdx.x) >> 5;
    const int lane = threadIdx.x & 31;
    const int warps = (int)(gridDim.x * blockDim.x) >> 5;
    for (int page = warp; page < pages; page += warps) {
        const uint4 *source = host + (size_t)indices[page] * page_vectors;
        uint4 *target = device + (size_t)page * page_vectors;
        for (int i = lane; i < page_vectors; i += 32 * 4) {
            uint4 vectors[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (i + j * 32 < page_vectors) {
                    vectors[j] = source[i + j * 32];
                }
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (i + j * 32 < page_vectors) {
                    target[i + j * 32] = vectors[j];
                }
            }
        }
    }
}

// Median milliseconds of `runs` calls after two that warm up.
template <class Call> static float time_ms(Call call, int runs)
{
    cudaEvent_t begin, end;
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    call();
    call();
    CHECK(cudaDeviceSynchronize());
    std::vector<float> times;
    for (int run = 0; run < runs; run++) {
        float elapsed_ms = 0;
        CHECK(cudaEventRecord(begin));
        call();
        CHECK(cudaEventRecord(end));
        CHECK(cudaEventSynchronize(end));
        CHECK(cudaEventElapsedTime(&elapsed_ms, begin, end));
        times.push_back(elapsed_ms);
    }
    CHECK(cudaGetLastError());
    CHECK(cudaEventDestroy(begin));
    CHECK(cudaEventDestroy(end));
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

static double gb_per_s(double bytes, double ms)
{
    return bytes / ms / 1e6;
}

static buffers allocate(void)
{
    buffers all;
    CHECK(cudaMalloc(&all.device[0], DEVICE_BYTES));
    CHECK(cudaMalloc(&all.device[1], DEVICE_BYTES));
    CHECK(cudaMalloc(&all.indices, sizeof(uint32_t) * PAGES_MAX));
    CHECK(cudaHostAlloc(&all.host, HOST_BYTES, cudaHostAllocMapped | cudaHostAllocPortable));
    for (size_t i = 0; i < HOST_BYTES; i += sizeof(uint32_t)) {
        *(uint32_t *)(all.host + i) = (uint32_t)(i * 2654435761u);
    }
    CHECK(cudaMemcpy(all.device[0], all.host, DEVICE_BYTES, cudaMemcpyHostToDevice));
    return all;
}

static void measure_copies(const buffers &all)
{
    const auto copy = [](void *to, const void *from, cudaMemcpyKind kind) {
        return [=] { CHECK(cudaMemcpyAsync(to, from, DEVICE_BYTES, kind)); };
    };
    float ms = time_ms(copy(all.device[1], all.device[0], cudaMemcpyDeviceToDevice), 9);
    printf("hbm_copy_rw_GBps %.0f\n", gb_per_s(2.0 * DEVICE_BYTES, ms));
    ms = time_ms(copy(all.device[0], all.host, cudaMemcpyHostToDevice), 5);
    printf("pcie_h2d_GBps %.1f\n", gb_per_s(DEVICE_BYTES, ms));
    ms = time_ms(copy(all.host, all.device[0], cudaMemcpyDeviceToHost), 5);
    printf("pcie_d2h_GBps %.1f\n", gb_per_s(DEVICE_BYTES, ms));
}

// Three copies each way at the same time, on two streams.
static void measure_both_ways(const buffers &all)
{
    const int copies = 3;
    cudaStream_t streams[2];
    cudaEvent_t begin, ends[2];
    CHECK(cudaEventCreate(&begin));
    for (int i = 0; i < 2; i++) {
        CHECK(cudaStreamCreate(&streams[i]));
        CHECK(cudaEventCreate(&ends[i]));
    }
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaEventRecord(begin, 0));
    CHECK(cudaStreamWaitEvent(streams[0], begin, 0));
    CHECK(cudaStreamWaitEvent(streams[1], begin, 0));
    for (int i = 0; i < copies; i++) {
        CHECK(cudaMemcpyAsync(all.device[0], all.host, DEVICE_BYTES, cudaMemcpyHostToDevice,
                              streams[0]));
        CHECK(cudaMemcpyAsync(all.host + DEVICE_BYTES, all.device[1], DEVICE_BYTES,
                              cudaMemcpyDeviceToHost, streams[1]));
    }
    float ms[2];
    for (int i = 0; i < 2; i++) {
        CHECK(cudaEventRecord(ends[i], streams[i]));
        CHECK(cudaEventSynchronize(ends[i]));
        CHECK(cudaEventElapsedTime(&ms[i], begin, ends[i]));
    }
    printf("pcie_both_h2d_GBps %.1f\n", gb_per_s((double)copies * DEVICE_BYTES, ms[0]));
    printf("pcie_both_d2h_GBps %.1f\n", gb_per_s((double)copies * DEVICE_BYTES, ms[1]));
}

// xorshift64: the same scattered pages on every machine
static std::vector<uint32_t> random_pages(int count, size_t total)
{
    std::vector<uint32_t> pages(count);
    uint64_t x = 88172645463325252ull;
    for (uint32_t &page : pages) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        page = (uint32_t)(x % total);
    }
    return pages;
}

static void gather(const buffers &all, int blocks, int pages, int page_bytes)
{
    gather_pages<<<blocks, 512>>>((const uint4 *)all.host, (uint4 *)all.device[0], all.indices,
                                  pages, page_bytes / 16);
}

// One cudaMemcpyAsync a page: what the kernel is there to avoid.
static float time_copies_ms(const buffers &all, const std::vector<uint32_t> &indices,
                            int page_bytes)
{
    const auto copy_all = [&] {
        for (size_t i = 0; i < indices.size(); i++) {
            CHECK(cudaMemcpyAsync(all.device[0] + i * page_bytes,
                                  all.host + (size_t)indices[i] * page_bytes, page_bytes,
                                  cudaMemcpyHostToDevice));
        }
    };
    return time_ms(copy_all, 1);
}

static void upload_indices(const buffers &all, const std::vector<uint32_t> &indices)
{
    CHECK(cudaMemcpy(all.indices, indices.data(), sizeof(uint32_t) * indices.size(),
                     cudaMemcpyHostToDevice));
}

static void measure_gather(const buffers &all, int page_bytes)
{
    const int pages = std::min((int)((256ull << 20) / page_bytes), PAGES_MAX);
    std::vector<uint32_t> indices = random_pages(pages, HOST_BYTES / page_bytes);
    upload_indices(all, indices);
    for (int blocks : {8, 16, 32, 66, 132, 264}) {
        const float ms = time_ms([&] { gather(all, blocks, pages, page_bytes); }, 5);
        printf("gather_%dB_%dblocks_GBps %.1f\n", page_bytes, blocks,
               gb_per_s((double)pages * page_bytes, ms));
    }
    indices.resize(std::min(pages, 20000));
    printf("memcpy_each_%dB_GBps %.2f\n", page_bytes,
           gb_per_s((double)indices.size() * page_bytes, time_copies_ms(all, indices, page_bytes)));
}

// The misses of one decode step are few: what counts then is latency.
static void measure_latency(const buffers &all)
{
    upload_indices(all, random_pages(4096, HOST_BYTES / 2048));
    for (int pages : {64, 256, 1024, 4096}) {
        const int blocks = std::min(132, (pages + 15) / 16);
        const float ms = time_ms([&] { gather(all, blocks, pages, 2048); }, 21);
        printf("gather_latency_%dx2048B_us %.1f\n", pages, 1e3 * ms);
    }
}

static void measure_peer(const buffers &all)
{
    int devices = 0;
    int can_access = 0;
    char *peer = NULL;
    CHECK(cudaGetDeviceCount(&devices));
    if (devices < 2) {
        return;
    }
    CHECK(cudaSetDevice(1));
    CHECK(cudaMalloc(&peer, DEVICE_BYTES));
    CHECK(cudaDeviceCanAccessPeer(&can_access, 0, 1));
    CHECK(cudaSetDevice(0));
    if (can_access != 0) {
        CHECK(cudaDeviceEnablePeerAccess(1, 0));
    }
    const auto copy = [&] { CHECK(cudaMemcpyPeerAsync(peer, 1, all.device[0], 0, DEVICE_BYTES)); };
    printf("peer_access %d\n", can_access);
    printf("peer_copy_GBps %.1f\n", gb_per_s(DEVICE_BYTES, time_ms(copy, 5)));
}

int main(void)
{
    cudaDeviceProp properties;
    CHECK(cudaGetDeviceProperties(&properties, 0));
    printf("device: %s, %d SMs, L2 %d MiB, %zu bytes of shared memory a block\n", properties.name,
           properties.multiProcessorCount, properties.l2CacheSize >> 20,
           properties.sharedMemPerBlockOptin);
    const buffers all = allocate();
    measure_copies(all);
    measure_both_ways(all);
    for (int page_bytes : {512, 1024, 2048, 4096, 8192, 16384, 32768}) {
        measure_gather(all, page_bytes);
    }
    measure_latency(all);
    measure_peer(all);
    return 0;
}
