// probe: what its items share: timing, checks, device buffers, small device helpers.
//
// Why        Every item measures one estimate of the kernel plans in a process of its own, so that
//            a sticky CUDA error costs one item only.
// Ownership  Buffers live as long as the process.
// Threading  The main thread.
// Units      In the printed line: name value unit.
// Errors     A failed CUDA call prints FAIL with the line and ends the process with 1.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <vector>

void spin_probe_gather(void);
void spin_probe_overlap(void);
void spin_probe_pages(void);
void spin_probe_select(void);
void spin_probe_resolve(void);
void spin_probe_attention(void);
void spin_probe_gemm(void);
void spin_probe_graph(void);
void spin_probe_sdpa(void);
void spin_probe_pinning(void);
// Builds the cuDNN plans from a device description alone; needs no GPU. Returns the exit code.
int spin_probe_sdpa_plan(const char *description_path);

#define CK(x) \
    do { \
        cudaError_t e_ = (x); \
        if (e_ != cudaSuccess) { \
            printf("FAIL line %d %s: %s\n", __LINE__, #x, cudaGetErrorString(e_)); \
            exit(1); \
        } \
    } while (0)
#define LAUNCHED() CK(cudaGetLastError())
#define DEV __device__ __forceinline__
typedef __nv_bfloat16 bf16;
constexpr int
    D = 128,
    PT = 8,
    PAGE = 2 * PT * D *
           2; // page = 4 KiB: K rows 0..7 (256 B, 16-B chunks XORed with the row), then V rows
static const double HBM = 4263.0; // GB/s, measured copy rate (read+write) on this kind of machine

// --- on the host

static double now()
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}
static void put(const std::string &n, double v, const char *u)
{
    printf("%-52s %12.3f %s\n", n.c_str(), v, u);
    fflush(stdout);
}
static void chk(const std::string &n, bool ok, double v)
{
    printf("CHECK %-46s %-4s %.3g\n", n.c_str(), ok ? "ok" : "BAD", v);
    fflush(stdout);
}
static float median(std::vector<float> v)
{
    std::sort(v.begin(), v.end());
    return v.empty() ? NAN : v[v.size() / 2];
}
// median over n timings of `inner` calls each, in us per call; f gets a running number so that
// it can rotate its buffers
static float time_us(std::function<void(int)> f, int n = 9, int inner = 1, cudaStream_t s = 0)
{
    cudaEvent_t a, b;
    CK(cudaEventCreate(&a));
    CK(cudaEventCreate(&b));
    int c = 0;
    f(c++);
    f(c++);
    CK(cudaStreamSynchronize(s));
    std::vector<float> t;
    for (int i = 0; i < n; i++) {
        CK(cudaEventRecord(a, s));
        for (int j = 0; j < inner; j++)
            f(c++);
        CK(cudaEventRecord(b, s));
        CK(cudaEventSynchronize(b));
        float m;
        CK(cudaEventElapsedTime(&m, a, b));
        t.push_back(m * 1e3f / inner);
    }
    LAUNCHED();
    CK(cudaEventDestroy(a));
    CK(cudaEventDestroy(b));
    return median(t);
}
template <class T> static T *dal(size_t n)
{
    T *p;
    CK(cudaMalloc((void **)&p, n * sizeof(T)));
    return p;
}
template <class T> static T *up(const std::vector<T> &v)
{
    T *p = dal<T>(v.size());
    CK(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
    return p;
}
template <class T> static std::vector<T> down(const T *p, size_t n)
{
    std::vector<T> v(n);
    CK(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
}
static uint64_t rs = 88172645463325252ull;
static uint64_t rnd()
{
    rs ^= rs << 13;
    rs ^= rs >> 7;
    rs ^= rs << 17;
    return rs;
}
static std::vector<uint32_t> rand_perm(size_t n, size_t take)
{
    std::vector<uint32_t> v(n);
    for (size_t i = 0; i < n; i++)
        v[i] = (uint32_t)i;
    for (size_t i = 0; i < take; i++)
        std::swap(v[i], v[i + rnd() % (n - i)]);
    v.resize(take);
    return v;
}

// --- data, and small device helpers

__host__ DEV uint32_t mix(uint32_t x)
{
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
}
static __global__ void k_words(uint32_t *p, size_t n, uint32_t base)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x)
        p[i] = mix(base + (uint32_t)i);
}
// roughly normal values (sum of four bytes), standard deviation `sd`
static __global__ void k_normal(bf16 *p, size_t n, uint32_t seed, float sd)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        uint32_t h = mix((uint32_t)i * 2654435761u + seed + (uint32_t)(i >> 32));
        int s = (h & 255) + ((h >> 8) & 255) + ((h >> 16) & 255) + (h >> 24);
        p[i] = __float2bfloat16((s - 510) * sd * (1.f / 147.8f));
    }
}
static void normal(bf16 *p, size_t n, uint32_t seed, float sd = 1.f)
{
    k_normal<<<2112, 256>>>(p, n, seed, sd);
    LAUNCHED();
}
DEV uint32_t s32(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}
DEV void mbar_init(uint32_t b, int n)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0],%1;" ::"r"(b), "r"(n));
}
DEV void mbar_fence()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
DEV void mbar_expect(uint32_t b, int n)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _,[%0],%1;" ::"r"(b), "r"(n)
                 : "memory");
}
DEV void mbar_wait(uint32_t b, uint32_t ph)
{
    asm volatile("{\n.reg .pred p;\nL:\nmbarrier.try_wait.parity.shared::cta.b64 p,[%0],%1;\n@p "
                 "bra E;\nbra L;\nE:\n}" ::"r"(b),
                 "r"(ph)
                 : "memory");
}
DEV void bulk_g2s(uint32_t d, const void *s, int n, uint32_t b)
{
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0],[%1],%2,[%3];" ::
            "r"(d),
        "l"(s), "r"(n), "r"(b)
        : "memory");
}
DEV void bulk_s2g(void *d, uint32_t s, int n)
{
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0],[%1],%2;" ::"l"(d), "r"(s),
                 "r"(n)
                 : "memory");
}
DEV void bulk_commit()
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
template <int N> DEV void bulk_wait_read()
{
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}
template <int N> DEV void bulk_wait()
{
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory");
}
DEV void mma(float *c, const uint32_t *a, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEV void ldsm4(uint32_t *r, uint32_t a)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(a)
                 : "memory");
}
DEV void ldsm4t(uint32_t *r, uint32_t a)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(a)
                 : "memory");
}
DEV uint32_t pk(float a, float b)
{
    __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
    return *(uint32_t *)&v;
}
DEV void pdl_wait()
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}
DEV void pdl_go()
{
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
DEV uint4 ldnc(const void *p)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

// ||o - r|| / ||r||, in double
static double rel_l2(const std::vector<bf16> &o, const std::vector<float> &r)
{
    double e = 0, s = 0;
    for (size_t i = 0; i < r.size(); i++) {
        double d = (double)__bfloat162float(o[i]) - r[i];
        e += d * d;
        s += (double)r[i] * r[i];
    }
    return sqrt(e / s);
}
