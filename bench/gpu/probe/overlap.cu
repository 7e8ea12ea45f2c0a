// What a gather costs the kernels that run beside it, and what they cost the gather.
#include "bench/gpu/probe/gather.cuh"
#include "bench/gpu/probe/gemm.cuh"

__global__ __launch_bounds__(1024, 1) void k_scan(const uint4 *p, size_t n, uint32_t *out)
{ // needs its own SM through its dynamic shared memory
    uint32_t a = 0;
    size_t st = (size_t)gridDim.x * blockDim.x, i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    for (; i + 3 * st < n; i += 4 * st) {
        uint4 v[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
            v[j] = ldnc(p + i + j * st);
#pragma unroll
        for (int j = 0; j < 4; j++)
            a ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    for (; i < n; i += st) {
        uint4 v = ldnc(p + i);
        a ^= v.x ^ v.y ^ v.z ^ v.w;
    }
    for (int d = 16; d; d >>= 1)
        a ^= __shfl_xor_sync(~0u, a, d);
    if ((threadIdx.x & 31) == 0)
        atomicXor(out, a);
}
void spin_probe_overlap(void)
{
    Gather g;
    Lt lt;
    const int ps = 4096, n = 1 << 20;
    uint2 *m = g.list(ps, n);
    double gb = (double)n * ps; // one 4 GiB launch, ~85 ms
    int lo, hi;
    CK(cudaDeviceGetStreamPriorityRange(&lo, &hi));
    cudaStream_t sb, sg;
    CK(cudaStreamCreateWithPriority(&sb, cudaStreamNonBlocking, lo));
    CK(cudaStreamCreateWithPriority(&sg, cudaStreamNonBlocking, hi));
    const size_t E = 1ull << 30;
    bf16 *W = dal<bf16>(2 * E);
    normal(W, 2 * E, 3, 0.02f);
    bf16 *x = dal<bf16>(2048ull * 5120), *y = dal<bf16>(2048ull * 34816);
    normal(x, 2048ull * 5120, 4);
    uint32_t *xo = dal<uint32_t>(1);
    CK(cudaDeviceSynchronize());
    const size_t one = 34816ull * 5120;
    int sets = (int)(2 * E / one);
    CK(cudaFuncSetAttribute(k_scan, cudaFuncAttributeMaxDynamicSharedMemorySize, 160 << 10));
    struct Bg {
        const char *n;
        double work;
        const char *u;
        int iters;
        std::function<void(int)> f;
    };
    std::vector<Bg> bgs;
    static Lt::P p0, p1, p2, p3;
    p0 = lt.plan(32, 34816, 5120, 1);
    p1 = lt.plan(32, 34816, 5120, 1, 128);
    p2 = lt.plan(2048, 34816, 5120, 1);
    p3 = lt.plan(2048, 34816, 5120, 1, 128);
    bgs.push_back({"gemmM32", one * 2.0 / 1e3, "GB/s", 2500,
                   [&](int i) { lt.run(p0, 0, W + one * (i % sets), x, y, sb); }});
    if (p1.r.size())
        bgs.push_back({"gemmM32_sm128", one * 2.0 / 1e3, "GB/s", 2500,
                       [&](int i) { lt.run(p1, 0, W + one * (i % sets), x, y, sb); }});
    bgs.push_back({"gemmM2048", 2048.0 * one * 2 / 1e6, "TFLOP/s", 300,
                   [&](int i) { lt.run(p2, 0, W + one * (i % sets), x, y, sb); }});
    if (p3.r.size())
        bgs.push_back({"gemmM2048_sm128", 2048.0 * one * 2 / 1e6, "TFLOP/s", 300,
                       [&](int i) { lt.run(p3, 0, W + one * (i % sets), x, y, sb); }});
    for (int grid : {130, 124})
        bgs.push_back(
            {grid == 130 ? "scan130" : "scan124", 4.0 * E / 1e3, "GB/s", 260, [&, grid](int) {
                 k_scan<<<grid, 1024, 160 << 10, sb>>>((const uint4 *)W, 4 * E / 16, xo);
             }});
    struct Gv {
        const char *n;
        std::function<void()> f;
    };
    Gv gv[] = {{"tma2x8", [&] { g.tma(8, ps, 2, m, n, sg); }},
               {"ldg8relaxed", [&] { g.ldg(2, ps, 8, m, n, sg); }}};
    cudaEvent_t base, ga, gz;
    CK(cudaEventCreate(&base));
    CK(cudaEventCreate(&ga));
    CK(cudaEventCreate(&gz));
    double alone[2];
    for (int k = 0; k < 2; k++) {
        float t = time_us([&](int) { gv[k].f(); }, 3, 1, sg);
        alone[k] = gb / t / 1e3;
        put(std::string("gather_alone_") + gv[k].n, alone[k], "GB/s");
    }
    for (auto &b : bgs) {
        float t0 = time_us(b.f, 5, 20, sb);
        put(std::string("bg_alone_") + b.n, b.work / t0, b.u);
        for (int k = 0; k < 2; k++) {
            CK(cudaDeviceSynchronize());
            std::vector<cudaEvent_t> ev(b.iters / 10 + 1);
            for (auto &e : ev)
                CK(cudaEventCreate(&e));
            CK(cudaEventRecord(base, sb));
            CK(cudaEventRecord(ev[0], sb));
            for (int i = 0; i < b.iters; i++) {
                b.f(i);
                if (i % 10 == 9)
                    CK(cudaEventRecord(ev[i / 10 + 1], sb));
                if (i == b.iters / 10) {
                    CK(cudaEventRecord(ga, sg));
                    gv[k].f();
                    CK(cudaEventRecord(gz, sg));
                }
            }
            CK(cudaDeviceSynchronize());
            float a, z;
            CK(cudaEventElapsedTime(&a, base, ga));
            CK(cudaEventElapsedTime(&z, base, gz));
            std::vector<float> in;
            float last = 0;
            for (size_t i = 0; i + 1 < ev.size(); i++) {
                float u, v;
                CK(cudaEventElapsedTime(&u, base, ev[i]));
                CK(cudaEventElapsedTime(&v, base, ev[i + 1]));
                if (u >= a && v <= z)
                    in.push_back((v - u) * 100);
                last = v;
            }
            std::string nm = std::string(gv[k].n) + "_beside_" + b.n;
            if (z > last)
                printf("NOTE %s: background ended at %.1f ms, gather at %.1f ms: gather only "
                       "partly overlapped\n",
                       nm.c_str(), last, z);
            put("gather_" + nm, gb / (z - a) / 1e6, "GB/s");
            put("gather_ratio_" + nm, gb / (z - a) / 1e6 / alone[k], "of alone");
            if (in.size()) {
                put("bg_" + nm, b.work / median(in), b.u);
                put("bg_ratio_" + nm, t0 / median(in), "of alone");
            } else
                printf("NOTE %s: no background window inside the gather\n", nm.c_str());
            for (auto &e : ev)
                CK(cudaEventDestroy(e));
        }
    }
}
