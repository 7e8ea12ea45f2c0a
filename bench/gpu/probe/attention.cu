// Decode attention over a list of pages, with tensor cores. An item is a row and a run of its
// pages, done by one CTA of eight warps, which leaves one partial. Its pages go to the warps either
// dealt out in pairs ("split"), or as runs of 16 to a warp each ("warp16"): then what a warp has in
// the end is the partial of a fixed split of 16 pages, folded in list order with those beside it,
// and the item's size decides only how many of them share a write, not what any of them holds.
#include "bench/gpu/probe/probe.cuh"

struct AttnP {
    const bf16 *q;
    const uint8_t *pool;
    const int *slots;
    int rows, npages, split, G;
    int warp_pages; // pages of a warp in a run; 0: pairs dealt out
    float *po;
    float2 *pml;
    float scale_log2;
};
constexpr int AW = 8, AST = 3, ASM = AW * AST * 2 * PAGE + AW * AST * 8;
__global__ __launch_bounds__(AW * 32, 1) void k_attn(const __grid_constant__ AttnP p)
{
    extern __shared__ __align__(128) uint8_t sm[];
    int w = threadIdx.x >> 5, l = threadIdx.x & 31;
    uint32_t ring = s32(sm) + w * AST * 2 * PAGE, bar = s32(sm) + AW * AST * 2 * PAGE + w * AST * 8;
    if (l == 0) {
        for (int i = 0; i < AST; i++)
            mbar_init(bar + 8 * i, 1);
        mbar_fence();
    }
    __syncthreads();
    int nsp = (p.npages + p.split - 1) / p.split, nw = p.rows * nsp;
    uint32_t it = 0;
    for (int wi = blockIdx.x; wi < nw; wi += gridDim.x) {
        int row = wi / nsp, lo = (wi % nsp) * p.split, hi = min(lo + p.split, p.npages);
        const int *sl = p.slots + (size_t)row * p.npages;
        int npair = (hi - lo + 1) / 2, mine = (npair - w + AW - 1) / AW;
        int first = lo + 2 * w, step = 2 * AW;
        if (p.warp_pages != 0) {
            first = min(lo + w * p.warp_pages, hi);
            hi = min(first + p.warp_pages, hi);
            mine = (hi - first + 1) / 2;
            step = 2;
        }
        auto issue = [&](int j) {
            int pg = first + j * step;
            uint32_t st = (it + j) % AST, b = bar + 8 * st, d = ring + st * 2 * PAGE;
            int n = min(2, hi - pg);
            mbar_expect(b, n * PAGE);
            for (int i = 0; i < n; i++)
                bulk_g2s(d + i * PAGE, p.pool + (size_t)sl[pg + i] * PAGE, PAGE, b);
        };
        if (l == 0)
            for (int j = 0; j < AST - 1 && j < mine; j++)
                issue(j); // bytes first, then the query
        uint32_t a[8][4];
        int r0 = l >> 2, c0 = (l & 3) * 2;
        const bf16 *q = p.q + (size_t)row * p.G * D;
#pragma unroll
        for (int k = 0; k < 8; k++) {
            uint32_t v0 = 0, v2 = 0;
            if (r0 < p.G) {
                v0 = *(const uint32_t *)(q + r0 * D + k * 16 + c0);
                v2 = *(const uint32_t *)(q + r0 * D + k * 16 + 8 + c0);
            }
            a[k][0] = v0;
            a[k][1] = 0;
            a[k][2] = v2;
            a[k][3] = 0;
        }
        float o[16][4];
#pragma unroll
        for (int i = 0; i < 16; i++)
            o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.f;
        float m = -1e30f, z = 0.f;
        for (int j = 0; j < mine; j++) {
            if (l == 0 && j + AST - 1 < mine)
                issue(j + AST - 1);
            uint32_t st = (it + j) % AST;
            mbar_wait(bar + 8 * st, ((it + j) / AST) & 1);
            uint32_t base = ring + st * 2 * PAGE;
            bool two = first + j * step + 1 < hi;
            float s[2][4];
#pragma unroll
            for (int t = 0; t < 2; t++) {
                s[t][0] = s[t][1] = s[t][2] = s[t][3] = 0.f;
                uint32_t kb = base + (two ? t * PAGE : 0) + (l & 7) * 256;
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    uint32_t b[4], ch = k * 4 + (l >> 3);
                    ldsm4(b, kb + ((ch ^ (l & 7)) << 4));
                    mma(s[t], a[2 * k], b[0], b[1]);
                    mma(s[t], a[2 * k + 1], b[2], b[3]);
                }
            }
            if (!two)
                s[1][0] = s[1][1] = -1e30f;
            float mx = fmaxf(fmaxf(s[0][0], s[0][1]), fmaxf(s[1][0], s[1][1])) * p.scale_log2;
            mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, 1));
            mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, 2));
            float mn = fmaxf(m, mx), al = exp2f(m - mn);
            m = mn;
            float p0 = exp2f(s[0][0] * p.scale_log2 - m), p1 = exp2f(s[0][1] * p.scale_log2 - m),
                  p2 = exp2f(s[1][0] * p.scale_log2 - m), p3 = exp2f(s[1][1] * p.scale_log2 - m);
            z = z * al + p0 + p1 + p2 + p3;
            uint32_t pa[4] = {pk(p0, p1), 0u, two ? pk(p2, p3) : 0u, 0u};
            uint32_t vb = base + (two ? ((l >> 3) & 1) * PAGE : 0) + PT * 256 + (l & 7) * 256;
#pragma unroll
            for (int n = 0; n < 8; n++) {
                uint32_t b[4], ch = 2 * n + (l >> 4);
                ldsm4t(b, vb + ((ch ^ (l & 7)) << 4));
                o[2 * n][0] *= al;
                o[2 * n][1] *= al;
                o[2 * n + 1][0] *= al;
                o[2 * n + 1][1] *= al;
                mma(o[2 * n], pa, b[0], b[1]);
                mma(o[2 * n + 1], pa, b[2], b[3]);
            }
            __syncwarp();
        }
        it += mine;
        z += __shfl_xor_sync(~0u, z, 1);
        z += __shfl_xor_sync(~0u, z, 2);
        __syncthreads(); // every issued stage was consumed: reuse the ring for the merge
        float *so = (float *)sm;
        float2 *sml = (float2 *)(so + AW * 8 * D);
        if (r0 < p.G) {
#pragma unroll
            for (int n = 0; n < 16; n++)
                *(float2 *)(so + (w * 8 + r0) * D + n * 8 + c0) = make_float2(o[n][0], o[n][1]);
            if ((l & 3) == 0)
                sml[w * 8 + r0] = make_float2(m, z);
        }
        __syncthreads();
        for (int g = w; g < p.G; g += AW) {
            float M = -1e30f;
            for (int i = 0; i < AW; i++)
                M = fmaxf(M, sml[i * 8 + g].x);
            float Z = 0;
            float4 acc = make_float4(0, 0, 0, 0);
            for (int i = 0; i < AW; i++) {
                float2 ml = sml[i * 8 + g];
                float f = exp2f(ml.x - M);
                Z += ml.y * f;
                float4 v = *(float4 *)(so + (i * 8 + g) * D + l * 4);
                acc.x += v.x * f;
                acc.y += v.y * f;
                acc.z += v.z * f;
                acc.w += v.w * f;
            }
            *(float4 *)(p.po + ((size_t)wi * p.G + g) * D + l * 4) = acc;
            if (l == 0)
                p.pml[(size_t)wi * p.G + g] = make_float2(M, Z);
        }
        asm volatile("fence.proxy.async.shared::cta;" ::
                         : "memory"); // generic reads and writes above, then the next bulk copies
        __syncthreads();
    }
}
__global__ void k_attn_merge(const float *po, const float2 *pml, bf16 *out, int nsp, int G)
{ // block = (row, head), thread = dim
    int row = blockIdx.x / G, g = blockIdx.x % G, d = threadIdx.x;
    float M = -1e30f;
    for (int s = 0; s < nsp; s++)
        M = fmaxf(M, pml[((size_t)row * nsp + s) * G + g].x);
    float Z = 0, a = 0;
    for (int s = 0; s < nsp; s++) {
        size_t i = ((size_t)row * nsp + s) * G + g;
        float2 ml = pml[i];
        float f = exp2f(ml.x - M);
        Z += ml.y * f;
        a += po[i * D + d] * f;
    }
    out[(size_t)blockIdx.x * D + d] = __float2bfloat16(a / Z);
}
DEV float page_at(const uint8_t *pg, int v, int t, int d)
{
    int ch = (d >> 3) ^ (t & 7);
    return __bfloat162float(*(const bf16 *)(pg + v * PT * 256 + t * 256 + ch * 16 + (d & 7) * 2));
}
__global__ void k_attn_ref(const bf16 *q, const uint8_t *pool, const int *slots, float *out,
                           int npages, int G, float scale)
{ // fp32, two passes, block = (row, head)
    extern __shared__ float s[];
    __shared__ float r[128];
    int row = blockIdx.x / G, T = npages * PT;
    const int *sl = slots + (size_t)row * npages;
    const bf16 *qq = q + (size_t)blockIdx.x * D;
    float m = -1e30f;
    for (int t = threadIdx.x; t < T; t += 128) {
        float a = 0;
        const uint8_t *pg = pool + (size_t)sl[t >> 3] * PAGE;
        for (int d = 0; d < D; d++)
            a += __bfloat162float(qq[d]) * page_at(pg, 0, t & 7, d);
        s[t] = a * scale;
        m = fmaxf(m, s[t]);
    }
    r[threadIdx.x] = m;
    __syncthreads();
    for (int i = 0; i < 128; i++)
        m = fmaxf(m, r[i]);
    float z = 0, a = 0;
    for (int t = 0; t < T; t++) {
        float e = __expf(s[t] - m);
        z += e;
        a += e * page_at(pool + (size_t)sl[t >> 3] * PAGE, 1, t & 7, threadIdx.x);
    }
    out[(size_t)blockIdx.x * D + threadIdx.x] = a / z;
}
void spin_probe_attention(void)
{
    const int G = 5;
    const size_t NP = 4u << 20;
    uint8_t *pool = dal<uint8_t>(NP * PAGE);
    normal((bf16 *)pool, NP * PAGE / 2, 21, 1.f);
    bf16 *q = dal<bf16>(256 * G * D);
    normal(q, 256 * G * D, 22,
           2.f); // 16 GiB of pages, random keys: XOR order matters to check, not to draw
    CK(cudaFuncSetAttribute(k_attn, cudaFuncAttributeMaxDynamicSharedMemorySize, ASM));
    CK(cudaFuncSetAttribute(k_attn_ref, cudaFuncAttributeMaxDynamicSharedMemorySize, 140000));
    float scale = 1.f / sqrtf((float)D);
    bf16 *out = dal<bf16>(256 * G * D);
    float *ref = dal<float>(256 * G * D);
    float *po = dal<float>((size_t)64 * 512 * G * D);
    float2 *pml = dal<float2>((size_t)64 * 512 * G);
    struct {
        const char *n;
        int B, np;
    } cs[] = {{"odd_B1_265p", 1, 265},
              {"sel_B1_256p", 1, 256},
              {"sel_B8_256p", 8, 256},
              {"sel_B32_256p", 32, 256},
              {"dense32K_B8", 8, 4096}};
    for (auto &c : cs) {
        int rows = c.B * 8;
        size_t per = (size_t)rows * c.np;
        int sets = (int)std::max<size_t>(2, std::min<size_t>(32, NP / per));
        auto sl = rand_perm(NP, per * sets);
        std::vector<int> s32v(sl.begin(), sl.end());
        int *slots = up(s32v);
        double by = (double)per * PAGE;
        k_attn_ref<<<rows * G, 128, c.np * PT * 4>>>(q, pool, slots, ref, c.np, G, scale);
        LAUNCHED();
        auto hr = down(ref, (size_t)rows * G * D);
        float bt = 1e30f;
        int bs = 0;
        for (int variant = 0; variant < 2 * 5; variant++) {
            const int split = 16 << variant % 5, warp_pages = variant < 5 ? 0 : 16;
            if (warp_pages * AW < split && warp_pages != 0)
                continue;
            int nsp = (c.np + split - 1) / split;
            if ((size_t)rows * nsp > 64 * 512)
                continue;
            AttnP p{q, pool, slots, rows, c.np, split, G, warp_pages, po, pml, scale * 1.44269504f};
            auto go = [&](int i) {
                AttnP x = p;
                x.slots = slots + per * (size_t)(i % sets);
                k_attn<<<132, AW * 32, ASM>>>(x);
            };
            CK(cudaMemset(po, 0xFF, (size_t)64 * 512 * G * D * 4));
            CK(cudaMemset(out, 0xFF, 256 * G * D * 2));
            go(0);
            LAUNCHED();
            k_attn_merge<<<rows * G, D>>>(po, pml, out, nsp, G);
            LAUNCHED();
            double e = rel_l2(down(out, (size_t)rows * G * D), hr);
            std::string nm = std::string("attn_") + c.n + (warp_pages ? "_warp16_" : "_split") +
                             std::to_string(split);
            chk(nm, e < 4e-3, e);
            if (!(e < 4e-3))
                continue;
            float t1 = time_us(go, 9, 4),
                  t2 = time_us(
                      [&](int i) {
                          go(i);
                          k_attn_merge<<<rows * G, D>>>(po, pml, out, nsp, G);
                      },
                      9, 4);
            put(nm, t1, "us");
            put(nm + "_with_merge", t2, "us");
            if (t2 < bt && warp_pages == 0) {
                bt = t2;
                bs = split;
            }
        }
        std::string nm = std::string("attn_best_") + c.n + "_split" + std::to_string(bs);
        put(nm, bt, "us");
        put(nm + "_rate", by / bt / 1e3, "GB/s");
        put(nm + "_frac_of_4263", by / bt / 1e3 / HBM, "ratio");
        CK(cudaFree(slots));
    }
}
