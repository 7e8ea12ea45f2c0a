// gather: pages from pinned host memory into a pool in HBM, by bulk copies and by plain loads.
//
// Why        Retrieve is bound by it; the item "overlap" runs the same kernels beside compute.
// Ownership  Gather keeps its buffers until the process ends.
// Threading  The main thread.
// Units      Bytes.
// Errors     As in probe.cuh.
#pragma once

#include "bench/gpu/probe/probe.cuh"

constexpr int RING = 196608, GSM = RING + 192 * 8 + 192 * 4;
// Lane 0 of each warp drives its own part of the ring: bulk copy in, wait, bulk copy out. LAG =
// stores that may still read their slot.
static __global__ void k_gather_tma(const uint8_t *__restrict__ host, uint8_t *__restrict__ pool,
                                    const uint2 *__restrict__ miss, int n, int ps)
{
    extern __shared__ __align__(128) uint8_t sm[];
    constexpr int LAG = 2;
    int W = blockDim.x >> 5, w = threadIdx.x >> 5, R = RING / ps / W;
    if (threadIdx.x & 31)
        return;
    uint32_t buf = s32(sm) + w * R * ps, bar = s32(sm) + RING + w * R * 8;
    int *dst = (int *)(sm + RING + 192 * 8) + w * R;
    for (int i = 0; i < R; i++)
        mbar_init(bar + 8 * i, 1);
    mbar_fence();
    int id = blockIdx.x * W + w, step = gridDim.x * W, c = id < n ? (n - id + step - 1) / step : 0;
    uint2 e = c ? miss[id] : make_uint2(0, 0);
    int nx = 0; // e is always the entry of load nx: fetched one load ahead
    auto ld = [&]() {
        int s = nx % R;
        dst[s] = e.y;
        mbar_expect(bar + 8 * s, ps);
        bulk_g2s(buf + s * ps, host + (size_t)e.x * ps, ps, bar + 8 * s);
        if (++nx < c)
            e = miss[id + (size_t)nx * step];
    };
    while (nx < R - LAG && nx < c)
        ld();
    for (int j = 0; j < c; j++) {
        int s = j % R;
        mbar_wait(bar + 8 * s, (j / R) & 1);
        bulk_s2g(pool + (size_t)dst[s] * ps, buf + s * ps, ps);
        bulk_commit();
        if (nx < c) {
            bulk_wait_read<LAG - 1>();
            ld();
        }
    }
    bulk_wait<0>();
}
// Warp per page; MODE 0 ld.global.nc, 1 plain, 2 relaxed.sys
template <int MODE, int PS>
static __global__ __launch_bounds__(512) void k_gather_ldg(const uint8_t *__restrict__ host,
                                                           uint8_t *__restrict__ pool,
                                                           const uint2 *__restrict__ miss, int n)
{
    int wg = blockIdx.x * 16 + (threadIdx.x >> 5), nw = gridDim.x * 16, l = threadIdx.x & 31;
    constexpr int V = PS / 512;
    for (int j = wg; j < n; j += nw) {
        uint2 e = miss[j];
        const uint8_t *s = host + (size_t)e.x * PS + l * 16;
        uint8_t *d = pool + (size_t)e.y * PS + l * 16;
        uint4 v[V];
#pragma unroll
        for (int i = 0; i < V; i++) {
            if (MODE == 0)
                asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];"
                             : "=r"(v[i].x), "=r"(v[i].y), "=r"(v[i].z), "=r"(v[i].w)
                             : "l"(s + i * 512));
            if (MODE == 1)
                asm volatile("ld.global.v4.u32 {%0,%1,%2,%3},[%4];"
                             : "=r"(v[i].x), "=r"(v[i].y), "=r"(v[i].z), "=r"(v[i].w)
                             : "l"(s + i * 512)
                             : "memory");
            if (MODE == 2)
                asm volatile("ld.relaxed.sys.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];"
                             : "=r"(v[i].x), "=r"(v[i].y), "=r"(v[i].z), "=r"(v[i].w)
                             : "l"(s + i * 512)
                             : "memory");
        }
#pragma unroll
        for (int i = 0; i < V; i++)
            asm volatile("st.global.cg.v4.u32 [%0],{%1,%2,%3,%4};" ::"l"(d + i * 512), "r"(v[i].x),
                         "r"(v[i].y), "r"(v[i].z), "r"(v[i].w)
                         : "memory");
    }
}
static __global__ void k_gather_check(const uint32_t *pool, const uint2 *miss, int n, int words,
                                      unsigned long long *bad)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < (size_t)n * words;
         i += (size_t)gridDim.x * blockDim.x) {
        size_t j = i / words, k = i % words;
        if (pool[(size_t)miss[j].y * words + k] != mix((uint32_t)((size_t)miss[j].x * words + k)))
            atomicAdd(bad, 1ull);
    }
}
struct Gather {
    static constexpr size_t HB = 4ull << 30, PB = 256ull << 20;
    uint8_t *h, *pool;
    unsigned long long *bad;
    Gather()
    {
        CK(cudaHostAlloc((void **)&h, HB, cudaHostAllocMapped | cudaHostAllocPortable));
        uint32_t *t = dal<uint32_t>(HB / 4);
        k_words<<<2112, 256>>>(t, HB / 4, 0);
        LAUNCHED();
        CK(cudaMemcpy(h, t, HB, cudaMemcpyDeviceToHost));
        CK(cudaFree(t));
        pool = dal<uint8_t>(PB);
        bad = dal<unsigned long long>(1);
        CK(cudaFuncSetAttribute(k_gather_tma, cudaFuncAttributeMaxDynamicSharedMemorySize, GSM));
    }
    uint2 *list(int ps, int n)
    {
        size_t total = HB / ps, slots = PB / ps;
        auto d = rand_perm(slots, slots);
        std::vector<uint2> m(n);
        for (int i = 0; i < n; i++)
            m[i] = make_uint2((uint32_t)(rnd() % total), d[i % slots]);
        return up(m);
    }
    void ldg(int mode, int ps, int ctas, const uint2 *m, int n, cudaStream_t s = 0)
    {
#define G_(M, P) \
    if (mode == M && ps == P) \
        k_gather_ldg<M, P><<<ctas, 512, 0, s>>>(h, pool, m, n);
        G_(0, 1024)
        G_(0, 2048)
        G_(0, 4096) G_(1, 1024) G_(1, 2048) G_(1, 4096) G_(2, 1024) G_(2, 2048) G_(2, 4096)
#undef G_
    }
    void tma(int warps, int ps, int ctas, const uint2 *m, int n, cudaStream_t s = 0)
    {
        k_gather_tma<<<ctas, 32 * warps, GSM, s>>>(h, pool, m, n, ps);
    }
    void check(const std::string &nm, const uint2 *m, int n, int ps, std::function<void()> f)
    {
        CK(cudaMemset(pool, 0xA5, PB));
        CK(cudaMemset(bad, 0, 8));
        f();
        LAUNCHED();
        k_gather_check<<<1056, 256>>>((uint32_t *)pool, m, n, ps / 4, bad);
        LAUNCHED();
        auto b = down(bad, 1);
        chk(nm, b[0] == 0, (double)b[0]);
    }
};
