// How fast scattered pages come from pinned host memory: page sizes, ways, blocks.
#include "bench/gpu/probe/gather.cuh"

void spin_probe_gather(void)
{
    Gather g;
    const char *mn[] = {"nc", "plain", "relaxed"};
    for (int ps : {4096, 2048, 1024}) {
        int n = (int)(Gather::PB / ps / 2);
        uint2 *m = g.list(ps, n);
        double by = (double)n * ps;
        std::string P = std::to_string(ps);
        for (int w : {1, 4, 8}) {
            g.check("gather_tma w" + std::to_string(w) + " p" + P, m, n, ps,
                    [&] { g.tma(w, ps, 3, m, n); });
            for (int c : {1, 2, 4}) {
                float t = time_us([&](int) { g.tma(w, ps, c, m, n); }, 5);
                put("gather_tma_page" + P + "_warps" + std::to_string(w) + "_ctas" +
                        std::to_string(c),
                    by / t / 1e3, "GB/s");
            }
        }
        for (int md = 0; md < 3; md++) {
            g.check(std::string("gather_ldg ") + mn[md] + " p" + P, m, n, ps,
                    [&] { g.ldg(md, ps, 5, m, n); });
            for (int c : {1, 2, 4, 8}) {
                float t = time_us([&](int) { g.ldg(md, ps, c, m, n); }, 5);
                put(std::string("gather_ldg_") + mn[md] + "_page" + P + "_ctas" + std::to_string(c),
                    by / t / 1e3, "GB/s");
            }
        }
        if (ps == 4096)
            for (int k : {1, 25, 100, 200, 400}) {
                auto nm = std::to_string(k); // one layer's misses: latency, fresh pages each time
                float t = time_us([&](int i) { g.tma(8, ps, 2, m + (size_t)(i % 60) * k, k); }, 31);
                put("gather_latency_tma2x8_pages" + nm, t, "us");
                t = time_us([&](int i) { g.ldg(2, ps, 8, m + (size_t)(i % 60) * k, k); }, 31);
                put("gather_latency_ldg8_relaxed_pages" + nm, t, "us");
            }
        CK(cudaFree(m));
    }
}
