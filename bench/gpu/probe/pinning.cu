// What it costs to pin host memory.
#include "bench/gpu/probe/probe.cuh"

#include <sys/mman.h>
#include <thread>

void spin_probe_pinning(void)
{
    CK(cudaFree(0));
    char *d = dal<char>(1 << 30);
    for (size_t gib : {8, 64}) {
        size_t B = gib << 30;
        char *h = nullptr;
        double t0 = now();
        cudaError_t e = cudaHostAlloc((void **)&h, B, cudaHostAllocMapped | cudaHostAllocPortable);
        double t1 = now();
        if (e) {
            printf("NOTE cudaHostAlloc %zu GiB: %s\n", gib, cudaGetErrorString(e));
            cudaGetLastError();
        } else {
            put("cudaHostAlloc_" + std::to_string(gib) + "GiB", t1 - t0, "s");
            float t = time_us(
                [&](int) {
                    cudaMemcpyAsync(d, h + B - (1 << 30), 1 << 30, cudaMemcpyHostToDevice);
                },
                3);
            put("h2d_from_hostalloc_" + std::to_string(gib) + "GiB", (1 << 30) / t / 1e3, "GB/s");
            t0 = now();
            CK(cudaFreeHost(h));
            put("cudaFreeHost_" + std::to_string(gib) + "GiB", now() - t0, "s");
        }
        t0 = now();
        h = (char *)mmap(nullptr, B, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (h == MAP_FAILED) {
            printf("NOTE mmap failed\n");
            continue;
        }
        madvise(h, B, MADV_HUGEPAGE);
        std::vector<std::thread> th;
        for (int i = 0; i < 16; i++)
            th.emplace_back([=] {
                for (size_t o = B / 16 * i; o < B / 16 * (i + 1); o += 4096)
                    h[o] = 1;
            });
        for (auto &x : th)
            x.join();
        t1 = now();
        put("touch_16_threads_" + std::to_string(gib) + "GiB", t1 - t0, "s");
        e = cudaHostRegister(h, B, cudaHostRegisterMapped | cudaHostRegisterPortable);
        double t2 = now();
        if (e) {
            printf("NOTE cudaHostRegister %zu GiB: %s\n", gib, cudaGetErrorString(e));
            cudaGetLastError();
        } else {
            put("cudaHostRegister_" + std::to_string(gib) + "GiB_touched", t2 - t1, "s");
            float t = time_us(
                [&](int) {
                    cudaMemcpyAsync(d, h + B - (1 << 30), 1 << 30, cudaMemcpyHostToDevice);
                },
                3);
            put("h2d_from_registered_" + std::to_string(gib) + "GiB", (1 << 30) / t / 1e3, "GB/s");
            CK(cudaHostUnregister(h));
        }
        munmap(h, B);
    }
}
