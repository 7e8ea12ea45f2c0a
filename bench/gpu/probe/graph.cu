// A CUDA graph of many small kernels: the cost of each, with and without programmatic launch.
#include "bench/gpu/probe/probe.cuh"

template <int PDL> __global__ void k_tiny(uint32_t *p, int n)
{ // PDL 0 none, 1 wait only (implicit trigger at exit), 2 early trigger + wait
    if (PDL == 2)
        pdl_go();
    if (PDL)
        pdl_wait();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        p[i] += 1;
}
void spin_probe_graph(void)
{
    const int N = 480, n = 15360;
    uint32_t *p = dal<uint32_t>(n);
    cudaStream_t s;
    CK(cudaStreamCreate(&s));
    struct {
        const char *n;
        int pdl, attr;
    } v[] = {
        {"plain", 0, 0}, {"attr_only", 0, 1}, {"pdl_wait_only", 1, 1}, {"pdl_early_trigger", 2, 1}};
    for (int grid : {1, 15, 132})
        for (auto &x : v) {
            auto all = [&] {
                for (int i = 0; i < N; i++) {
                    cudaLaunchConfig_t c = {};
                    c.gridDim = dim3(grid);
                    c.blockDim = dim3(128);
                    c.stream = s;
                    cudaLaunchAttribute a[1];
                    a[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
                    a[0].val.programmaticStreamSerializationAllowed = 1;
                    c.attrs = a;
                    c.numAttrs = x.attr;
                    if (x.pdl == 0)
                        CK(cudaLaunchKernelEx(&c, k_tiny<0>, p, n));
                    else if (x.pdl == 1)
                        CK(cudaLaunchKernelEx(&c, k_tiny<1>, p, n));
                    else
                        CK(cudaLaunchKernelEx(&c, k_tiny<2>, p, n));
                }
            };
            cudaGraph_t g;
            cudaGraphExec_t ge;
            CK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
            all();
            CK(cudaStreamEndCapture(s, &g));
            CK(cudaGraphInstantiate(&ge, g, 0));
            CK(cudaMemset(p, 0, n * 4));
            CK(cudaDeviceSynchronize());
            CK(cudaGraphLaunch(ge, s));
            CK(cudaStreamSynchronize(s));
            auto h = down(p, n);
            bool ok = true;
            for (auto e : h)
                ok &= e == N;
            std::string nm = std::string(x.n) + "_grid" + std::to_string(grid);
            bool race_expected =
                x.attr &&
                !x.pdl; // attribute without a wait: ordering is only the implicit trigger at exit
            chk("graph480 " + nm + (race_expected ? " (no wait in device code)" : ""), ok, h[0]);
            float t = time_us([&](int) { CK(cudaGraphLaunch(ge, s)); }, 15, 1, s);
            put("graph480_" + nm, t / N, "us/node");
            t = time_us([&](int) { all(); }, 5, 1, s);
            put("stream480_" + nm, t / N, "us/launch");
            CK(cudaGraphExecDestroy(ge));
            CK(cudaGraphDestroy(g));
        }
}
