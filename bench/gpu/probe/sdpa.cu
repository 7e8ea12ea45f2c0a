// Prefill attention by cuDNN, through its C backend interface; the library is opened at run time.
#include "bench/gpu/probe/probe.cuh"

#if __has_include(<cudnn.h>)

#include <cudnn.h>
#include <dlfcn.h>

namespace dn
{
typedef cudnnBackendDescriptor_t H;
static decltype(&cudnnCreate) create;
static decltype(&cudnnBackendCreateDescriptor) mkd;
static decltype(&cudnnBackendFinalize) fnl;
static decltype(&cudnnBackendSetAttribute) sat;
static decltype(&cudnnBackendGetAttribute) gat;
static decltype(&cudnnBackendExecute) exe;
static decltype(&cudnnGetLastErrorString) les;
static decltype(&cudnnGetVersion) ver;
static cudnnHandle_t h;
static H prop;
static bool bad;
static bool open()
{
    void *l = nullptr;
    for (const char *n :
         {"libcudnn.so.9", "/usr/local/cuda/lib64/libcudnn.so.9",
          "/opt/torch/.venv/lib/python3.12/site-packages/nvidia/cudnn/lib/libcudnn.so.9"})
        if ((l = dlopen(n, RTLD_NOW | RTLD_GLOBAL)))
            break;
    if (!l) {
        printf("NOTE item 8: no libcudnn.so.9: %s\n", dlerror());
        return false;
    }
#define S_(v, n) \
    *(void **)&v = dlsym(l, #n); \
    if (!v) { \
        printf("NOTE item 8: no symbol %s\n", #n); \
        return false; \
    }
    S_(create, cudnnCreate)
    S_(mkd, cudnnBackendCreateDescriptor)
    S_(fnl, cudnnBackendFinalize)
    S_(sat, cudnnBackendSetAttribute)
    S_(gat, cudnnBackendGetAttribute)
    S_(exe, cudnnBackendExecute)
    S_(les, cudnnGetLastErrorString)
    S_(ver, cudnnGetVersion)
#undef S_
    printf("cudnn_version %zu\n", ver());
    return true;
}
static void ok(cudnnStatus_t s, const char *w)
{
    if (s) {
        char m[1024];
        les(m, sizeof m);
        if (!bad)
            printf("NOTE cudnn %s: status %d %s\n", w, (int)s, m);
        bad = true;
    }
}
static H mk(cudnnBackendDescriptorType_t t)
{
    H d = nullptr;
    ok(mkd(t, &d), "create");
    return d;
}
static void set(H d, cudnnBackendAttributeName_t a, cudnnBackendAttributeType_t t, int64_t n,
                const void *p)
{
    if (!bad)
        ok(sat(d, a, t, n, p), "set");
}
static void dset(H d, cudnnBackendAttributeName_t a, H x)
{
    set(d, a, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &x);
}
static void fin(H d, const char *w)
{
    if (!bad)
        ok(fnl(d), w);
}
struct Graph {
    int64_t B, G, SQ, SK, DH;
    std::vector<H> ops;
    int64_t uid = 1;
    std::vector<int64_t> ids;
    std::vector<void *> ptr;
    H plan = nullptr;
    int64_t ws = 0;
    double compile = 0;
    H ten(const int64_t *dm, const int64_t *st, cudnnDataType_t dt, bool virt, void *p,
          bool host = false)
    {
        H t = mk(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
        int64_t al = host ? 4 : 16, u = uid++;
        bool v = virt, hv = host;
        set(t, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &dt);
        set(t, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dm);
        set(t, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, st);
        set(t, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &u);
        set(t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &al);
        set(t, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &v);
        set(t, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &hv);
        fin(t, "tensor");
        if (!virt) {
            ids.push_back(u);
            ptr.push_back(p);
        }
        return t;
    }
    H full(cudnnDataType_t dt)
    {
        int64_t d[4] = {B, G, SQ, SK}, s[4] = {G * SQ * SK, SQ * SK, SK, 1};
        return ten(d, s, dt, true, nullptr);
    }
    H rowt(void *p)
    {
        int64_t d[4] = {B, G, SQ, 1}, s[4] = {G * SQ, SQ, 1, 1};
        return ten(d, s, CUDNN_DATA_FLOAT, !p, p);
    }
    H scalar(float *p)
    {
        int64_t o[4] = {1, 1, 1, 1};
        return ten(o, o, CUDNN_DATA_FLOAT, false, p, true);
    }
    void pw(cudnnPointwiseMode_t md, cudnnDataType_t ct, H x, H b, H t, H y, int axis = -1)
    {
        H d = mk(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
        set(d, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &md);
        set(d, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &ct);
        if (axis >= 0) {
            int64_t a = axis;
            set(d, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &a);
        }
        fin(d, "pointwise");
        H o = mk(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
        dset(o, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, d);
        dset(o, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
        if (b)
            dset(o, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
        if (t)
            dset(o, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t);
        dset(o, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
        fin(o, "pointwise op");
        ops.push_back(o);
    }
    void red(cudnnReduceTensorOp_t md, H x, H y)
    {
        H d = mk(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
        cudnnDataType_t ct = CUDNN_DATA_FLOAT;
        set(d, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &md);
        set(d, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &ct);
        fin(d, "reduction");
        H o = mk(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
        dset(o, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
        dset(o, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
        dset(o, CUDNN_ATTR_OPERATION_REDUCTION_DESC, d);
        fin(o, "reduction op");
        ops.push_back(o);
    }
    void mm(H a, H b, H c, H mo, H no, H ko, bool pad)
    {
        H d = mk(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
        cudnnDataType_t ct = CUDNN_DATA_FLOAT;
        set(d, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &ct);
        if (pad) {
            double z = 0;
            set(d, CUDNN_ATTR_MATMUL_PADDING_VALUE, CUDNN_TYPE_DOUBLE, 1, &z);
        }
        fin(d, "matmul");
        H o = mk(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
        dset(o, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
        dset(o, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
        dset(o, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
        dset(o, CUDNN_ATTR_OPERATION_MATMUL_DESC, d);
        if (mo)
            dset(o, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, mo);
        if (no)
            dset(o, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, no);
        if (ko)
            dset(o, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, ko);
        fin(o, "matmul op");
        ops.push_back(o);
    }
    // One request; KV heads are the batch, the G query heads of each the heads. q,o:
    // [token][HK*G][DH]; k,v: [token][HK][DH], or pages of 8 tokens (K rows then V rows) with a
    // page table per KV head.
    bool build(int64_t HK, int64_t G_, int64_t sq, int64_t sk, int64_t dh, bool paged,
               int64_t npool, void *q_, void *k_, void *v_, void *o_, void *lse_, int *lq, int *lk,
               int *table, float *scale, float *ninf)
    {
        bad = false;
        B = HK;
        G = G_;
        SQ = sq;
        SK = sk;
        DH = dh;
        cudnnDataType_t io = CUDNN_DATA_BFLOAT16, F = CUDNN_DATA_FLOAT, I = CUDNN_DATA_INT32,
                        BO = CUDNN_DATA_BOOLEAN;
        int64_t l1[4] = {B, 1, 1, 1}, u1[4] = {1, 1, 1, 1};
        H slq = ten(l1, u1, I, false, lq), slk = ten(l1, u1, I, false, lk);
        int64_t qd[4] = {B, G, SQ, DH}, qs[4] = {G * DH, DH, HK * G * DH, 1};
        H q = ten(qd, qs, io, false, q_), o = ten(qd, qs, io, false, o_), k, v;
        if (paged) {
            int64_t mp = (SK + 7) / 8, cd[4] = {npool, 1, 8, DH},
                    cs[4] = {2 * 8 * DH, 8 * DH, DH, 1}, td[4] = {B, 1, mp, 1},
                    ts[4] = {mp, mp, 1, 1}, kd[4] = {B, 1, DH, SK},
                    ks[4] = {DH * SK, DH * SK, 1, DH}, vd[4] = {B, 1, SK, DH},
                    vs[4] = {DH * SK, DH * SK, DH, 1};
            H c[2] = {ten(cd, cs, io, false, k_), ten(cd, cs, io, false, v_)},
              t[2] = {ten(td, ts, I, false, table), ten(td, ts, I, false, table)};
            k = ten(kd, ks, io, true, nullptr);
            v = ten(vd, vs, io, true, nullptr);
            H y[2] = {k, v};
            for (int i = 0; i < 2; i++) {
                H p = mk(CUDNN_BACKEND_OPERATION_PAGED_CACHE_LOAD_DESCRIPTOR);
                dset(p, CUDNN_ATTR_OPERATION_PAGED_CACHE_LOAD_CONTAINER_DESC, c[i]);
                dset(p, CUDNN_ATTR_OPERATION_PAGED_CACHE_LOAD_YDESC, y[i]);
                dset(p, CUDNN_ATTR_OPERATION_PAGED_CACHE_LOAD_SEQUENCE_DESC, slk);
                dset(p, CUDNN_ATTR_OPERATION_PAGED_CACHE_LOAD_PAGE_TABLE_DESC, t[i]);
                fin(p, "paged load");
                ops.push_back(p);
            }
        } else {
            int64_t kd[4] = {B, 1, DH, SK}, ks[4] = {DH, DH, 1, HK * DH}, vd[4] = {B, 1, SK, DH},
                    vs[4] = {DH, DH, HK * DH, 1};
            k = ten(kd, ks, io, false, k_);
            v = ten(vd, vs, io, false, v_);
        }
        H cur = full(F);
        mm(q, k, cur, slq, slk, nullptr, true);
        {
            H y = full(F);
            pw(CUDNN_POINTWISE_MUL, F, cur, scalar(scale), nullptr, y);
            cur = y;
        }
        {
            H r = full(I), c = full(I), rm = full(BO), cm = full(BO), m = full(BO), y = full(F);
            pw(CUDNN_POINTWISE_GEN_INDEX, I, cur, nullptr, nullptr, r, 2);
            pw(CUDNN_POINTWISE_GEN_INDEX, I, cur, nullptr, nullptr, c, 3);
            pw(CUDNN_POINTWISE_CMP_LT, BO, r, slq, nullptr, rm);
            pw(CUDNN_POINTWISE_CMP_LT, BO, c, slk, nullptr, cm);
            pw(CUDNN_POINTWISE_LOGICAL_AND, BO, rm, cm, nullptr, m);
            pw(CUDNN_POINTWISE_BINARY_SELECT, F, cur, scalar(ninf), m, y);
            cur = y;
        }
        {
            H r = full(I), c = full(I), m = full(BO), y = full(F), a = full(I), b = full(I);
            pw(CUDNN_POINTWISE_GEN_INDEX, F, cur, nullptr, nullptr, r, 2);
            pw(CUDNN_POINTWISE_GEN_INDEX, F, cur, nullptr, nullptr, c, 3);
            pw(CUDNN_POINTWISE_ADD, I, r, slk, nullptr, a);
            pw(CUDNN_POINTWISE_SUB, I, a, slq, nullptr, b);
            pw(CUDNN_POINTWISE_CMP_GE, BO, b, c, nullptr, m);
            pw(CUDNN_POINTWISE_BINARY_SELECT, F, cur, scalar(ninf), m, y);
            cur = y;
        }
        H mx = rowt(nullptr), sub = full(F), ex = full(F), sm = rowt(nullptr);
        red(CUDNN_REDUCE_TENSOR_MAX, cur, mx);
        pw(CUDNN_POINTWISE_SUB, F, cur, mx, nullptr, sub);
        pw(CUDNN_POINTWISE_EXP, F, sub, nullptr, nullptr, ex);
        red(CUDNN_REDUCE_TENSOR_ADD, ex, sm);
        H lg = rowt(nullptr), st = rowt(lse_);
        pw(CUDNN_POINTWISE_LOG, F, sm, nullptr, nullptr, lg);
        pw(CUDNN_POINTWISE_ADD, F, mx, lg, nullptr, st);
        H p = full(io);
        pw(CUDNN_POINTWISE_DIV, F, ex, sm, nullptr, p);
        mm(p, v, o, slq, nullptr, slk, false);
        if (bad)
            return false;
        H g = mk(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
        set(g, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, (int64_t)ops.size(),
            ops.data());
        if (h)
            set(g, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &h);
        fin(g, "graph");
        cudnnBackendHeurMode_t modes[2] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
        for (int mi = 0; mi < 2 && !plan && !bad; mi++) {
            H e = mk(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
            dset(e, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, g);
            set(e, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &modes[mi]);
            if (!h)
                dset(e, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, prop);
            if (bad || fnl(e))
                continue;
            H cfg[8];
            for (auto &c : cfg)
                c = mk(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
            int64_t got = 0;
            if (gat(e, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 8, &got, cfg))
                continue;
            for (int i = 0; i < got && i < 8; i++) {
                H pl = mk(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
                dset(pl, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, cfg[i]);
                if (h)
                    set(pl, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &h);
                else
                    dset(pl, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, prop);
                double t0 = now();
                if (bad || fnl(pl))
                    continue;
                compile = now() - t0;
                int64_t c;
                gat(pl, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &c, &ws);
                plan = pl;
                break;
            }
        }
        if (!plan)
            printf("NOTE cudnn: no plan\n");
        return plan != nullptr;
    }
    bool run(void *w)
    {
        H v = mk(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
        set(v, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, (int64_t)ids.size(),
            ids.data());
        set(v, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, (int64_t)ptr.size(),
            ptr.data());
        set(v, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &w);
        fin(v, "variant pack");
        if (!bad)
            vp = v;
        return !bad;
    }
    H vp = nullptr;
    bool go()
    {
        cudnnStatus_t s = exe(h, plan, vp);
        ok(s, "execute");
        return !s;
    }
};
} // namespace dn
__global__ void k_page_pack(const bf16 *k, const bf16 *v, bf16 *pool, const int *table, int HK,
                            int tok)
{ // contiguous [tok][HK][D] -> pages listed by table[head][page]
    size_t n = (size_t)tok * HK * D;
    int mp = tok / 8;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        int d = i % D, hd = (i / D) % HK, t = (int)(i / D / HK);
        bf16 *pg = pool + (size_t)table[(size_t)hd * mp + t / 8] * 2048;
        pg[(t % 8) * D + d] = k[i];
        pg[1024 + (t % 8) * D + d] = v[i];
    }
}
__global__ void k_sdpa_ref(const bf16 *q, const bf16 *k, const bf16 *v, const int2 *pick, float *o,
                           float *lse, float *scratch, int HK, int G, int sq, int sk, float scale)
{ // block = one sampled (query token, query head)
    float *s = scratch + (size_t)blockIdx.x * sk;
    __shared__ float r[128];
    int t = pick[blockIdx.x].x, hq = pick[blockIdx.x].y, hk = hq / G, T = sk - sq + t + 1;
    const bf16 *qq = q + ((size_t)t * HK * G + hq) * D;
    float m = -1e30f;
    for (int i = threadIdx.x; i < T; i += 128) {
        float a = 0;
        const bf16 *kk = k + ((size_t)i * HK + hk) * D;
        for (int d = 0; d < D; d++)
            a += __bfloat162float(qq[d]) * __bfloat162float(kk[d]);
        s[i] = a * scale;
        m = fmaxf(m, s[i]);
    }
    r[threadIdx.x] = m;
    __syncthreads();
    for (int i = 0; i < 128; i++)
        m = fmaxf(m, r[i]);
    double z = 0, a = 0;
    for (int i = 0; i < T; i++) {
        float e = __expf(s[i] - m);
        z += e;
        a += (double)e * __bfloat162float(v[((size_t)i * HK + hk) * D + threadIdx.x]);
    }
    o[(size_t)blockIdx.x * D + threadIdx.x] = (float)(a / z);
    if (!threadIdx.x)
        lse[blockIdx.x] = m + (float)log(z);
}
static float g_scale = 0.08838835f, g_ninf = -INFINITY;
void spin_probe_sdpa(void)
{
    if (!dn::open())
        return;
    CK(cudaFree(0));
    cudnnStatus_t cs = dn::create(&dn::h);
    if (cs) {
        printf("NOTE item 8: cudnnCreate %d\n", (int)cs);
        return;
    }
    const int HK = 8, G = 5, MAXK = 131072, MAXQ = 2048;
    size_t kn = (size_t)MAXK * HK * D, qn = (size_t)MAXQ * HK * G * D;
    bf16 *q = dal<bf16>(qn), *k = dal<bf16>(kn), *v = dal<bf16>(kn), *o = dal<bf16>(qn);
    normal(q, qn, 31, 1.5f);
    normal(k, kn, 32);
    normal(v, kn, 33);
    float *lse = dal<float>((size_t)HK * G * MAXQ);
    uint8_t *ws = dal<uint8_t>(64 << 20);
    const int NS = 96;
    std::vector<int2> pick(NS);
    float *ro = dal<float>(NS * D), *rl = dal<float>(NS), *scr = dal<float>((size_t)NS * MAXK);
    auto one = [&](const std::string &nm, int mq, int mk_, int sq, int sk, bool paged) {
        int mp = mk_ / 8;
        size_t npool = paged ? (size_t)HK * (sk / 8) + 1000 : 1;
        bf16 *pool = nullptr;
        int *tab = nullptr;
        if (paged) {
            pool = dal<bf16>(npool * 2048);
            CK(cudaMemset(pool, 0, npool * 4096));
            auto pm = rand_perm(npool, (size_t)HK * (sk / 8));
            std::vector<int> t((size_t)HK * mp, 0), tc(pm.begin(), pm.end());
            for (int h_ = 0; h_ < HK; h_++)
                for (int i = 0; i < sk / 8; i++)
                    t[(size_t)h_ * mp + i] = tc[(size_t)h_ * (sk / 8) + i];
            int *td = up(tc);
            k_page_pack<<<1056, 256>>>(k, v, pool, td, HK, sk);
            LAUNCHED();
            CK(cudaDeviceSynchronize());
            CK(cudaFree(td));
            tab = up(t);
        }
        int *lq = up(std::vector<int>(HK, sq)), *lk = up(std::vector<int>(HK, sk));
        dn::Graph g;
        double t0 = now();
        bool okb = g.build(HK, G, mq, mk_, D, paged, (int64_t)npool, q, paged ? pool : k,
                           paged ? (void *)(pool + 1024) : (void *)v, o, lse, lq, lk, tab, &g_scale,
                           &g_ninf);
        if (!okb || g.ws > (64 << 20) || !g.run(ws)) {
            printf("NOTE %s: not run (workspace %ld)\n", nm.c_str(), (long)g.ws);
            return;
        }
        put("cudnn_build_" + nm, now() - t0, "s");
        CK(cudaMemset(o, 0xFF, qn * 2));
        CK(cudaMemset(lse, 0xFF, (size_t)HK * G * MAXQ * 4));
        if (!g.go())
            return;
        CK(cudaDeviceSynchronize());
        // sampled rows: all query heads, first, last and random tokens
        {
            for (int i = 0; i < NS; i++)
                pick[i] = make_int2(i < 2 ? i * (sq - 1) : (int)(rnd() % sq), i % (HK * G));
            int2 *dp = up(pick);
            k_sdpa_ref<<<NS, 128>>>(q, k, v, dp, ro, rl, scr, HK, G, sq, sk, g_scale);
            LAUNCHED();
            auto hr = down(ro, NS * D);
            auto hl = down(rl, NS);
            auto ho = down(o, qn);
            auto hs = down(lse, (size_t)HK * G * MAXQ);
            double e = 0, s = 0, le = 0;
            for (int i = 0; i < NS; i++) {
                for (int d = 0; d < D; d++) {
                    double x = __bfloat162float(
                               ho[((size_t)pick[i].x * HK * G + pick[i].y) * D + d]),
                           y = hr[i * D + d];
                    e += (x - y) * (x - y);
                    s += y * y;
                }
                le = fmax(le, fabs(hs[(size_t)pick[i].y * mq + pick[i].x] - hl[i]));
                if (!(le == le))
                    le = 1e9;
            }
            chk("cudnn_" + nm + "_O_relL2", sqrt(e / s) < 6e-3, sqrt(e / s));
            chk("cudnn_" + nm + "_LSE_maxabs", le < 5e-3, le);
            CK(cudaFree(dp));
        }
        if (sq >= 2048) {
            float t = time_us([&](int) { g.go(); }, 7);
            double fl = 4.0 * HK * G * D * ((double)sq * (sk - sq) + 0.5 * (double)sq * (sq + 1));
            put("cudnn_" + nm, t, "us");
            put("cudnn_" + nm + "_rate", fl / t / 1e6, "TFLOP/s");
        }
        CK(cudaFree(lq));
        CK(cudaFree(lk));
        if (pool) {
            CK(cudaFree(pool));
            CK(cudaFree(tab));
        }
    };
    one("small_padded_200of256_900of1024", 256, 1024, 200, 900, false);
    one("contig_2048x2K", 2048, 2048, 2048, 2048, false);
    one("contig_2048x32K", 2048, 32768, 2048, 32768, false);
    one("contig_2048x128K", 2048, 131072, 2048, 131072, false);
    one("max128K_plan_used_for_32K", 2048, 131072, 2048, 32768, false);
    one("paged8_small_256x1024", 256, 1024, 256, 1024, true);
    one("paged8_2048x2K", 2048, 2048, 2048, 2048, true);
    one("paged8_2048x32K", 2048, 32768, 2048, 32768, true);
    one("paged8_2048x128K", 2048, 131072, 2048, 131072, true);
}
int spin_probe_sdpa_plan(const char *f)
{
    FILE *fp = fopen(f, "r");
    if (!fp || !dn::open())
        return 1;
    static char js[8192];
    js[fread(js, 1, 8191, fp)] = 0;
    fclose(fp);
    dn::prop = dn::mk(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    dn::set(dn::prop, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
            (int64_t)strlen(js), js);
    dn::fin(dn::prop, "device properties");
    if (dn::bad)
        return 1;
    struct {
        const char *n;
        int sq, sk;
        bool pg;
    } c[] = {{"small", 256, 1024, false},        {"contig 2K", 2048, 2048, false},
             {"contig 32K", 2048, 32768, false}, {"contig 128K", 2048, 131072, false},
             {"paged8 small", 256, 1024, true},  {"paged8 2K", 2048, 2048, true},
             {"paged8 32K", 2048, 32768, true},  {"paged8 128K", 2048, 131072, true}};
    int r = 0;
    for (auto &x : c) {
        dn::Graph g;
        void *d = (void *)16;
        bool ok = g.build(8, 5, x.sq, x.sk, 128, x.pg, x.sk + 1000, d, d, d, d, d, (int *)d,
                          (int *)d, (int *)d, &g_scale, &g_ninf);
        printf("PLAN %-14s %s ops %zu compile %.2f s workspace %ld B bound tensors %zu\n", x.n,
               ok ? "ok" : "FAILED", g.ops.size(), g.compile, (long)g.ws, g.ids.size());
        r |= !ok;
    }
    return r;
}

#else // a toolkit without cuDNN builds the other items

void spin_probe_sdpa(void)
{
    printf("NOTE built without cudnn.h: not run\n");
}

int spin_probe_sdpa_plan(const char *)
{
    printf("NOTE built without cudnn.h: not run\n");
    return 1;
}

#endif
