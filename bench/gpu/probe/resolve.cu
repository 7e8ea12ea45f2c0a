// Resolve: the table walk of Retrieve, both replacement policies, one CTA per row.
//
// The two kernels follow kernels/kv_resolve.h word by word and are compared with a naive list of
// records in plain C++ after every step. What is asked: what a step of each costs at the paper's
// budgets (128K context, 1.56 % chosen, 6x resident), and what a miss adds.
#include "bench/gpu/probe/probe.cuh"

#include <cub/block/block_scan.cuh>

constexpr int T = 256, PAGES_MAX = 16384, WORDS = PAGES_MAX / 32, S_MAX = 2048, K_MAX = 512;
constexpr int LEAF = 4, DIR = PAGES_MAX / LEAF, SLAB = 16;
constexpr uint16_t NONE = 0xFFFF;
constexpr int FREE_AGE = 255;
typedef cub::BlockScan<uint32_t, T> Scan;

struct Miss {
    uint16_t page, fresh;
    uint32_t slot;
};
struct ResP {
    int k, slots; // of a row
    uint32_t step;
    const uint16_t *pages;     // [rows][k], ascending
    const uint32_t *slab_list; // [rows][slots / SLAB]
    uint16_t *slot_page;       // slot_lru: [pool slots]
    uint8_t *stamp;            // [pool slots]
    uint16_t *leaf;            // bucketed: [pool slots][LEAF]
    uint16_t *directory;       // bucketed: [rows][DIR]
    uint16_t *leaf_free;       // bucketed: [rows]
    uint32_t *out;             // [rows][k]
    Miss *misses;              // [rows][k]
    uint32_t *miss_count;      // [rows]
};

struct Shared {
    uint32_t sel[WORDS], found[WORDS], prefix[WORDS];
    uint32_t slab[S_MAX / SLAB];
    uint32_t hist[256];
    uint8_t age[S_MAX]; // of slots that were not selected; FREE_AGE - 0: free; 0: selected
    uint8_t hit[S_MAX];
    uint16_t victim[K_MAX];
    uint32_t misses, cut, take;
    union {
        Scan::TempStorage scan;
    };
};

DEV uint32_t pool_slot(const Shared &sh, int s)
{
    return sh.slab[s / SLAB] * SLAB + s % SLAB;
}
DEV uint32_t rank_of(const Shared &sh, uint32_t page)
{
    return sh.prefix[page >> 5] + __popc(sh.sel[page >> 5] & ((1u << (page & 31)) - 1));
}

// The selected pages as a bitmap with ranks; slabs and histogram ready.
DEV void open_row(Shared &sh, const ResP &p, int row)
{
    for (int i = threadIdx.x; i < WORDS; i += T)
        sh.sel[i] = sh.found[i] = 0;
    for (int i = threadIdx.x; i < p.slots / SLAB; i += T)
        sh.slab[i] = p.slab_list[(size_t)row * (p.slots / SLAB) + i];
    sh.hist[threadIdx.x] = 0;
    if (threadIdx.x == 0)
        sh.misses = 0;
    __syncthreads();
    for (int j = threadIdx.x; j < p.k; j += T) {
        uint32_t page = p.pages[(size_t)row * p.k + j];
        atomicOr(&sh.sel[page >> 5], 1u << (page & 31));
    }
    __syncthreads();
    constexpr int PER = WORDS / T;
    uint32_t n[PER], sum = 0;
    for (int i = 0; i < PER; i++) {
        n[i] = __popc(sh.sel[threadIdx.x * PER + i]);
        sum += n[i];
    }
    uint32_t before;
    Scan(sh.scan).ExclusiveSum(sum, before);
    for (int i = 0; i < PER; i++) {
        sh.prefix[threadIdx.x * PER + i] = before;
        before += n[i];
    }
    __syncthreads();
}

// Which ages give way: all above cut, and `take` of cut itself. hist counts ages of all slots that
// were not selected.
DEV void find_cut(Shared &sh)
{
    int bin = 255 - threadIdx.x;
    uint32_t n = sh.hist[bin], before;
    Scan(sh.scan).ExclusiveSum(n, before);
    if (before < sh.misses && before + n >= sh.misses) {
        sh.cut = bin;
        sh.take = sh.misses - before;
    }
    __syncthreads();
}

// victim[i]: the i-th slot that gives way, in the order of slots.
DEV void collect_victims(Shared &sh, int slots)
{
    uint32_t run_gt = 0, run_eq = 0;
    for (int base = 0; base < slots; base += T) {
        int s = base + threadIdx.x;
        bool live = s < slots && !sh.hit[s];
        uint32_t gt = live && sh.age[s] > sh.cut, eq = live && sh.age[s] == sh.cut, at, all;
        Scan(sh.scan).ExclusiveSum(gt | eq << 16, at, all);
        uint32_t gt_before = run_gt + (at & 0xFFFF), eq_before = run_eq + (at >> 16);
        if (gt || (eq && eq_before < sh.take))
            sh.victim[gt_before + min(eq_before, sh.take)] = (uint16_t)s;
        run_gt += all & 0xFFFF;
        run_eq += all >> 16;
        __syncthreads();
    }
}

// Calls f(i, page) for the i-th missing page, all threads side by side.
template <class F> DEV void each_miss(Shared &sh, F f)
{
    constexpr int PER = WORDS / T;
    uint32_t m[PER], sum = 0, at;
    for (int i = 0; i < PER; i++) {
        m[i] = sh.sel[threadIdx.x * PER + i] & ~sh.found[threadIdx.x * PER + i];
        sum += __popc(m[i]);
    }
    Scan(sh.scan).ExclusiveSum(sum, at);
    for (int i = 0; i < PER; i++)
        for (uint32_t bits = m[i]; bits != 0; bits &= bits - 1)
            f(at++, (threadIdx.x * PER + i) * 32 + __ffs(bits) - 1);
    __syncthreads();
}

__global__ __launch_bounds__(T) void k_slot_lru(const __grid_constant__ ResP p)
{
    __shared__ Shared sh;
    const int row = blockIdx.x;
    open_row(sh, p, row);
    uint32_t hits = 0;
    for (int s = threadIdx.x; s < p.slots; s += T) {
        uint32_t ps = pool_slot(sh, s), age = p.stamp[ps], page = p.slot_page[ps];
        bool hit = age != FREE_AGE && (sh.sel[page >> 5] >> (page & 31) & 1);
        if (hit) {
            atomicOr(&sh.found[page >> 5], 1u << (page & 31));
            p.out[(size_t)row * p.k + rank_of(sh, page)] = ps;
            age = 0;
        } else {
            age = age == FREE_AGE ? age : min(age + 1, 254u);
            atomicAdd(&sh.hist[age], 1);
        }
        hits += hit;
        sh.hit[s] = hit;
        sh.age[s] = (uint8_t)age;
        p.stamp[ps] = (uint8_t)age;
    }
    hits = __reduce_add_sync(~0u, hits);
    if ((threadIdx.x & 31) == 0)
        atomicAdd(&sh.misses, hits);
    __syncthreads();
    if (threadIdx.x == 0) {
        sh.misses = p.k - sh.misses;
        p.miss_count[row] = sh.misses;
    }
    __syncthreads();
    if (sh.misses == 0)
        return;
    find_cut(sh);
    collect_victims(sh, p.slots);
    each_miss(sh, [&](uint32_t i, uint32_t page) {
        uint32_t ps = pool_slot(sh, sh.victim[i]);
        p.slot_page[ps] = (uint16_t)page;
        p.stamp[ps] = 0;
        p.out[(size_t)row * p.k + rank_of(sh, page)] = ps;
        p.misses[(size_t)row * p.k + i] = {(uint16_t)page, 0, ps};
    });
}

__global__ __launch_bounds__(T) void k_bucketed(const __grid_constant__ ResP p)
{
    __shared__ Shared sh;
    const int row = blockIdx.x;
    const uint32_t now = p.step % 64;
    uint16_t *dir = p.directory + (size_t)row * DIR;
    open_row(sh, p, row);
    for (int s = threadIdx.x; s < p.slots; s += T)
        sh.hit[s] = 0;
    __syncthreads();
    uint32_t hits = 0;
    for (int j = threadIdx.x; j < p.k; j += T) {
        uint32_t page = p.pages[(size_t)row * p.k + j], l = dir[page / LEAF];
        uint32_t s = l == NONE ? NONE : p.leaf[(size_t)pool_slot(sh, l) * LEAF + page % LEAF];
        if (s != NONE) {
            atomicOr(&sh.found[page >> 5], 1u << (page & 31));
            sh.hit[s] = 1;
            p.out[(size_t)row * p.k + j] = pool_slot(sh, s);
            hits++;
        }
    }
    hits = __reduce_add_sync(~0u, hits);
    if ((threadIdx.x & 31) == 0)
        atomicAdd(&sh.misses, hits);
    __syncthreads();
    if (threadIdx.x == 0) {
        sh.misses = p.k - sh.misses;
        p.miss_count[row] = sh.misses;
    }
    for (int s = threadIdx.x; s < p.slots; s += T) {
        uint32_t ps = pool_slot(sh, s), stamp = p.stamp[ps];
        uint32_t age = stamp == FREE_AGE ? FREE_AGE : now - stamp & 63;
        if (sh.hit[s]) {
            p.stamp[ps] = (uint8_t)now;
        } else {
            if (age != FREE_AGE && age >= 62) {
                age = 62;
                p.stamp[ps] = now - 62 & 63;
            }
            atomicAdd(&sh.hist[age], 1);
        }
        sh.age[s] = (uint8_t)age;
    }
    __syncthreads();
    if (sh.misses == 0)
        return;
    find_cut(sh);
    collect_victims(sh, p.slots);
    // Who loses its slot leaves the table: no slot knows its page, so the leaves are searched.
    for (uint32_t i = threadIdx.x; i < sh.misses; i += T)
        sh.hit[sh.victim[i]] = 2;
    __syncthreads();
    __shared__ uint16_t emptied[K_MAX];
    __shared__ uint32_t emptied_count;
    if (threadIdx.x == 0)
        emptied_count = 0;
    __syncthreads();
    for (int d = threadIdx.x; d < DIR; d += T) {
        uint32_t l = dir[d];
        if (l == NONE)
            continue;
        uint16_t *leaf = p.leaf + (size_t)pool_slot(sh, l) * LEAF;
        bool any = false, lost = false;
        for (int e = 0; e < LEAF; e++) {
            uint32_t s = leaf[e];
            bool gone = s != NONE && sh.hit[s] == 2;
            if (gone)
                leaf[e] = NONE;
            lost |= gone;
            any |= s != NONE && !gone;
        }
        if (lost && !any)
            emptied[atomicAdd(&emptied_count, 1)] = (uint16_t)d;
    }
    __syncthreads();
    each_miss(sh, [&](uint32_t i, uint32_t page) {
        uint32_t ps = pool_slot(sh, sh.victim[i]);
        p.stamp[ps] = (uint8_t)now;
        p.out[(size_t)row * p.k + rank_of(sh, page)] = ps;
        p.misses[(size_t)row * p.k + i] = {(uint16_t)page, 0, ps};
    });
    // Leaves come and go one after another: few, and their order is part of the result.
    if (threadIdx.x == 0) {
        uint32_t head = p.leaf_free[row];
        for (uint32_t i = 0; i < emptied_count; i++) {
            uint32_t l = dir[emptied[i]];
            p.leaf[(size_t)pool_slot(sh, l) * LEAF] = (uint16_t)head;
            head = l;
            dir[emptied[i]] = NONE;
        }
        for (uint32_t i = 0; i < sh.misses; i++) {
            uint32_t page = p.misses[(size_t)row * p.k + i].page, l = dir[page / LEAF];
            if (l == NONE) {
                l = head;
                uint16_t *leaf = p.leaf + (size_t)pool_slot(sh, l) * LEAF;
                head = leaf[0];
                for (int e = 0; e < LEAF; e++)
                    leaf[e] = NONE;
                dir[page / LEAF] = (uint16_t)l;
            }
            p.leaf[(size_t)pool_slot(sh, l) * LEAF + page % LEAF] = sh.victim[i];
        }
        p.leaf_free[row] = (uint16_t)head;
    }
}

// --- the naive list, and the runs

struct Record {
    int page;       // -1: free
    long last_step; // of its last selection
};

// One step of one row: the order of victims by definition, with a sort. Returns slots by selection.
static std::vector<int> naive_step(std::vector<Record> &row, const uint16_t *pages, int k,
                                   long step, bool bucketed, std::vector<int> &missing)
{
    std::vector<int> slot(k, -1);
    missing.clear();
    for (int j = 0; j < k; j++) {
        for (size_t s = 0; s < row.size(); s++)
            if (row[s].page == pages[j])
                slot[j] = (int)s;
        if (slot[j] < 0)
            missing.push_back(j);
        else
            row[slot[j]].last_step = step;
    }
    std::vector<int> order;
    for (size_t s = 0; s < row.size(); s++)
        if (row[s].page < 0 || row[s].last_step != step)
            order.push_back((int)s);
    auto age = [&](int s) {
        if (row[s].page < 0)
            return 1L << 40;
        return std::min(step - row[s].last_step, bucketed ? 62L : 254L);
    };
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return age(a) > age(b); });
    order.resize(missing.size());
    std::sort(order.begin(), order.end());
    for (size_t i = 0; i < missing.size(); i++) {
        slot[missing[i]] = order[i];
        row[order[i]] = {pages[missing[i]], step};
    }
    return slot;
}

// A selection that drifts: most pages stay, some are swapped for random ones.
static void drift(std::vector<uint16_t> &pages, int rows, int k, double change)
{
    for (int r = 0; r < rows; r++) {
        std::vector<bool> in(PAGES_MAX);
        uint16_t *p = &pages[(size_t)r * k];
        for (int j = 0; j < k; j++)
            in[p[j]] = true;
        for (int j = 0; j < k; j++)
            if (rnd() % 10000 < change * 10000) {
                int next = (int)(rnd() % PAGES_MAX);
                if (!in[next]) {
                    in[p[j]] = false;
                    in[next] = true;
                }
            }
        for (int page = 0, j = 0; page < PAGES_MAX; page++)
            if (in[page])
                p[j++] = (uint16_t)page;
    }
}

struct Run {
    ResP p;
    int rows;
    std::vector<uint16_t> pages;
    std::vector<std::vector<uint32_t>> slabs;
};

static Run make_run(int rows, int k, int slots)
{
    Run run;
    run.rows = rows;
    run.pages.resize((size_t)rows * k);
    for (int r = 0; r < rows; r++) {
        std::vector<uint32_t> v = rand_perm(PAGES_MAX, k);
        std::sort(v.begin(), v.end());
        std::copy(v.begin(), v.end(), run.pages.begin() + (size_t)r * k);
    }
    size_t per_row = slots / SLAB, all = (size_t)rows * per_row, pool = all * SLAB;
    std::vector<uint32_t> list = rand_perm(all, all);
    run.p = {};
    run.p.k = k;
    run.p.slots = slots;
    run.p.slab_list = up(list);
    for (int r = 0; r < rows; r++)
        run.slabs.emplace_back(list.begin() + r * per_row, list.begin() + (r + 1) * per_row);
    run.p.slot_page = up(std::vector<uint16_t>(pool, NONE));
    run.p.stamp = up(std::vector<uint8_t>(pool, FREE_AGE));
    run.p.directory = up(std::vector<uint16_t>((size_t)rows * DIR, NONE));
    run.p.leaf_free = up(std::vector<uint16_t>(rows, 0));
    std::vector<uint16_t> leaf(pool * LEAF, NONE);
    for (int r = 0; r < rows; r++)
        for (int s = 0; s < slots; s++)
            leaf[((size_t)run.slabs[r][s / SLAB] * SLAB + s % SLAB) * LEAF] =
                s + 1 < slots ? (uint16_t)(s + 1) : NONE;
    run.p.leaf = up(leaf);
    run.p.pages = up(run.pages);
    run.p.out = dal<uint32_t>((size_t)rows * k);
    run.p.misses = dal<Miss>((size_t)rows * k);
    run.p.miss_count = dal<uint32_t>(rows);
    return run;
}

static void launch(const Run &run, bool bucketed)
{
    if (bucketed)
        k_bucketed<<<run.rows, T>>>(run.p);
    else
        k_slot_lru<<<run.rows, T>>>(run.p);
    LAUNCHED();
}

static void check(bool bucketed)
{
    const int rows = 24, k = 64, slots = 128, steps = 200;
    Run run = make_run(rows, k, slots);
    std::vector<std::vector<Record>> naive(rows, std::vector<Record>(slots, {-1, 0}));
    size_t bad = 0, missed = 0;
    for (int step = 0; step < steps; step++) {
        drift(run.pages, rows, k, step % 7 == 0 ? 0.5 : 0.05);
        CK(cudaMemcpy((void *)run.p.pages, run.pages.data(), run.pages.size() * 2,
                      cudaMemcpyHostToDevice));
        run.p.step = step;
        launch(run, bucketed);
        std::vector<uint32_t> out = down(run.p.out, (size_t)rows * k),
                              n = down(run.p.miss_count, rows);
        for (int r = 0; r < rows; r++) {
            std::vector<int> missing;
            std::vector<int> want =
                naive_step(naive[r], &run.pages[(size_t)r * k], k, step, bucketed, missing);
            bad += n[r] != missing.size();
            missed += missing.size();
            for (int j = 0; j < k; j++)
                bad +=
                    out[(size_t)r * k + j] != run.slabs[r][want[j] / SLAB] * SLAB + want[j] % SLAB;
        }
    }
    chk(bucketed ? "resolve_bucketed_equals_naive" : "resolve_slot_lru_equals_naive",
        bad == 0 && missed > 0, (double)bad);
}

// A warm table, then steps whose selections were made beforehand; the time of one launch.
static void measure(bool bucketed, int batch, double change)
{
    const int rows = batch * 8, k = 256, slots = 1536, warm = 40, timed = 48;
    Run run = make_run(rows, k, slots);
    std::vector<const uint16_t *> made;
    for (int i = 0; i < warm + timed; i++) {
        drift(run.pages, rows, k, change);
        made.push_back(up(run.pages));
    }
    int at = 0;
    auto step = [&](int) {
        run.p.pages = made[at % made.size()];
        run.p.step = at++;
        launch(run, bucketed);
    };
    for (int i = 0; i < warm; i++)
        step(i);
    CK(cudaDeviceSynchronize());
    uint64_t misses = 0;
    std::vector<float> times;
    for (int i = 0; i < timed - 2; i++) {
        cudaEvent_t a, b;
        CK(cudaEventCreate(&a));
        CK(cudaEventCreate(&b));
        CK(cudaEventRecord(a));
        step(i);
        CK(cudaEventRecord(b));
        CK(cudaEventSynchronize(b));
        float ms;
        CK(cudaEventElapsedTime(&ms, a, b));
        times.push_back(ms * 1e3f);
        for (uint32_t n : down(run.p.miss_count, rows))
            misses += n;
    }
    char name[96];
    snprintf(name, sizeof name, "resolve_%s_B%d_change%.0f%%", bucketed ? "bucketed" : "slot_lru",
             batch, change * 100);
    put(name, median(times), "us");
    put(std::string(name) + "_misses_per_row", (double)misses / rows / (timed - 2), "pages");
    for (const uint16_t *p : made)
        CK(cudaFree((void *)p));
}

void spin_probe_resolve(void)
{
    for (bool bucketed : {false, true}) {
        check(bucketed);
        for (int batch : {1, 8, 32})
            for (double change : {0.0, 0.05, 0.3})
                measure(bucketed, batch, change);
    }
}
