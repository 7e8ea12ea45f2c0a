// Matrix products of one layer at small and large batch: time, bandwidth and rate of cuBLASLt.
#include "bench/gpu/probe/gemm.cuh"

__global__ void k_gemm_ref(const bf16 *W, const bf16 *x, float *y, int M, int N, int K)
{ // one warp per output
    size_t o = (blockIdx.x * (size_t)blockDim.x + threadIdx.x) >> 5;
    int l = threadIdx.x & 31;
    if (o >= (size_t)M * N)
        return;
    size_t m = o / N, n = o % N;
    float a = 0;
    for (int k = l; k < K; k += 32)
        a += __bfloat162float(W[n * K + k]) * __bfloat162float(x[m * K + k]);
    for (int d = 16; d; d >>= 1)
        a += __shfl_xor_sync(~0u, a, d);
    if (!l)
        y[o] = a;
}

void spin_probe_gemm(void)
{
    Lt lt;
    struct {
        const char *n;
        int N, K;
    } sh[] = {
        {"qkv", 7168, 5120}, {"o", 5120, 5120}, {"gateup", 34816, 5120}, {"down", 5120, 17408}};
    const size_t WB = 1100ull << 20;
    bf16 *W = dal<bf16>(WB / 2);
    normal(W, WB / 2, 7, 0.02f);
    bf16 *x = dal<bf16>(64 * 17408), *y = dal<bf16>(64 * 34816);
    normal(x, 64 * 17408, 8);
    float *ry = dal<float>(64 * 34816);
    double sum[5] = {0};
    for (auto &s : sh) {
        size_t one = (size_t)s.N * s.K;
        int sets = std::max<int>(2, (int)(WB / 2 / one));
        int mi = 0;
        for (int M : {1, 8, 16, 32, 64}) {
            auto p = lt.plan(M, s.N, s.K, 16);
            int best = -1;
            float bt = 1e30f, first = 0;
            for (int i = 0; i < (int)p.r.size(); i++) {
                if (p.r[i].state || lt.run(p, i, W, x, y)) {
                    cudaGetLastError();
                    continue;
                }
                int inner = (int)std::max<size_t>(
                    4, std::min<size_t>(
                           24,
                           (size_t)(2000e6 / (one * 2.0)))); // ~ 2 GB of weights between two events
                float t =
                    time_us([&](int c) { lt.run(p, i, W + one * (c % sets), x, y); }, 7, inner);
                if (!i)
                    first = t;
                if (t < bt) {
                    bt = t;
                    best = i;
                }
            }
            if (best < 0) {
                printf("gemm_%s_M%d no algorithm\n", s.n, M);
                mi++;
                continue;
            }
            CK(cudaMemset(y, 0xFF, (size_t)M * s.N * 2));
            CB(lt.run(p, best, W + one, x, y));
            k_gemm_ref<<<(unsigned)(((size_t)M * s.N * 32 + 255) / 256), 256>>>(W + one, x, ry, M,
                                                                                s.N, s.K);
            LAUNCHED();
            double e = rel_l2(down(y, (size_t)M * s.N), down(ry, (size_t)M * s.N));
            chk(std::string("gemm_") + s.n + "_M" + std::to_string(M), e < 5e-3, e);
            std::string nm = std::string("gemm_") + s.n + "_M" + std::to_string(M);
            put(nm + "_best", bt, "us");
            put(nm + "_first_heuristic", first, "us");
            put(nm + "_weights", one * 2.0 / bt / 1e3, "GB/s");
            sum[mi++] += bt;
        }
    }
    int Ms[] = {1, 8, 16, 32, 64};
    for (int i = 0; i < 5; i++) {
        put("gemm_layer_sum_M" + std::to_string(Ms[i]), sum[i], "us");
        put("gemm_layer_frac_of_4263_M" + std::to_string(Ms[i]),
            330301440 * 2.0 / sum[i] / 1e3 / HBM, "ratio");
    }
}
