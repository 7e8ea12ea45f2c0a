// Random pages from HBM into shared memory, without arithmetic: the ceiling of paged attention.
#include "bench/gpu/probe/probe.cuh"

// shared memory for pages under way; the rest of the block's 227 KiB holds barriers
constexpr int RING = 196608;

__global__ void k_pages(const uint8_t *__restrict__ pool, const uint32_t *__restrict__ idx, int n,
                        int ps, int ring, unsigned long long *sum)
{
    extern __shared__ __align__(128) uint8_t sm[];
    int W = blockDim.x >> 5, w = threadIdx.x >> 5, R = ring / ps / W;
    if (threadIdx.x & 31)
        return;
    uint32_t buf = s32(sm) + w * R * ps, bar = s32(sm) + ring + w * R * 8;
    for (int i = 0; i < R; i++)
        mbar_init(bar + 8 * i, 1);
    mbar_fence();
    int id = blockIdx.x * W + w, step = gridDim.x * W, c = id < n ? (n - id + step - 1) / step : 0,
        nx = 0;
    uint32_t e = c ? idx[id] : 0;
    unsigned long long a = 0;
    auto ld = [&]() {
        int s = nx % R;
        mbar_expect(bar + 8 * s, ps);
        bulk_g2s(buf + s * ps, pool + (size_t)e * ps, ps, bar + 8 * s);
        if (++nx < c)
            e = idx[id + (size_t)nx * step];
    };
    while (nx < R && nx < c)
        ld();
    for (int j = 0; j < c; j++) {
        int s = j % R;
        mbar_wait(bar + 8 * s, (j / R) & 1);
        a += *(volatile uint32_t *)(sm + (size_t)(w * R + s) * ps + ps - 4);
        if (nx < c)
            ld();
    } // last word of each page into the checksum
    atomicAdd(sum, a);
}
void spin_probe_pages(void)
{
    const size_t PB = 16ull << 30;
    uint8_t *pool = dal<uint8_t>(PB);
    k_words<<<2112, 256>>>((uint32_t *)pool, PB / 4, 0);
    LAUNCHED();
    auto *sum = dal<unsigned long long>(1);
    CK(cudaFuncSetAttribute(k_pages, cudaFuncAttributeMaxDynamicSharedMemorySize, RING + 192 * 8));
    for (int ps : {8192, 4096, 2048, 1024}) {
        int n = (int)((4ull << 30) / ps);
        size_t tot = PB / ps;
        std::vector<uint32_t> ri = rand_perm(tot, n), si(n);
        for (int i = 0; i < n; i++)
            si[i] = i;
        for (int rnd_ = 1; rnd_ >= 0; rnd_--) {
            auto &v = rnd_ ? ri : si;
            uint32_t *d = up(v);
            unsigned long long want = 0;
            for (auto e : v)
                want += mix((uint32_t)((size_t)e * (ps / 4) + ps / 4 - 1));
            for (int ring : {65536, 131072, 196608}) {
                int W = 8;
                if (ring / ps / W < 2)
                    continue;
                CK(cudaMemset(sum, 0, 8));
                k_pages<<<132, 32 * W, ring + 192 * 8>>>(pool, d, n, ps, ring, sum);
                LAUNCHED();
                auto got = down(sum, 1)[0];
                std::string nm = std::string(rnd_ ? "random" : "sequential") + "_pages_" +
                                 std::to_string(ps) + "_ring" + std::to_string(ring >> 10) + "K";
                chk(nm, got == want, 0);
                float t = time_us(
                    [&](int) {
                        k_pages<<<132, 32 * W, ring + 192 * 8>>>(pool, d, n, ps, ring, sum);
                    },
                    7);
                put(nm, (double)n * ps / t / 1e3, "GB/s");
            }
            CK(cudaFree(d));
        }
    }
}
