// probe: turns the estimates of the kernel plans into figures, one line each: name value unit.
//
// Every timed thing is checked first (CHECK lines), on random data, with rotating buffers larger
// than the L2. `probe sdpa-plan h200.json` only builds the cuDNN plans from a device
// description.
#include "bench/gpu/probe/probe.cuh"

struct probe_item {
    const char *name;
    void (*run)(void);
};

static const struct probe_item items[] = {
    {"gather", spin_probe_gather},   {"overlap", spin_probe_overlap},
    {"pages", spin_probe_pages},     {"select", spin_probe_select},
    {"resolve", spin_probe_resolve}, {"attention", spin_probe_attention},
    {"gemm", spin_probe_gemm},       {"graph", spin_probe_graph},
    {"sdpa", spin_probe_sdpa},       {"pinning", spin_probe_pinning},
};

static void run_item(const struct probe_item *item)
{
    cudaDeviceProp properties;
    CK(cudaGetDeviceProperties(&properties, 0));
    printf("== %s on %s, %d SMs, L2 %d MiB\n", item->name, properties.name,
           properties.multiProcessorCount, properties.l2CacheSize >> 20);
    const double started = now();
    item->run();
    CK(cudaDeviceSynchronize());
    printf("== %s took %.1f s\n", item->name, now() - started);
}

static int usage(void)
{
    printf("usage: probe ITEM | sdpa-plan FILE\nitems:");
    for (const struct probe_item &item : items) {
        printf(" %s", item.name);
    }
    printf("\n");
    return 2;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "sdpa-plan") == 0) {
        return spin_probe_sdpa_plan(argv[2]);
    }
    if (argc != 2) {
        return usage();
    }
    for (const struct probe_item &item : items) {
        if (strcmp(argv[1], item.name) == 0) {
            run_item(&item);
            return 0;
        }
    }
    return usage();
}
