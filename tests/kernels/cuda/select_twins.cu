/* select: kv_select against its reference, on the same BF16 numbers. A list is right when it is
 * the reference's, or differs from it in partitions alone whose scores are as good as the k-th:
 * closer than F32 tells. Choices that can be told by hand are exact. */
#include "tests/kernels/cuda/select_twins.cuh"

namespace
{

struct chooser {
    struct spin_select_world *world;
    std::vector<float> q; /* [count][q_heads * head_dim] */
    spin_twin_pair<uint16_t> q_bits;
    spin_twin_pair<struct spin_kv_window> windows;
    float scale;
    uint32_t stride;
    uint64_t q_stride;
    std::vector<uint16_t> ref_pages;
    std::vector<uint32_t> ref_count;
    std::vector<uint16_t> pages; /* of the GPU */
    std::vector<uint32_t> page_count;
    std::unique_ptr<spin_twin_array<uint16_t>> gpu_pages;
    std::unique_ptr<spin_twin_array<uint32_t>> gpu_count;
    std::unique_ptr<spin_twin_array<uint8_t>> workspace;
    bool canaries;

    explicit chooser(struct spin_select_world *world_) : world(world_), canaries(true)
    {
        const uint32_t cols = q_heads() * world->shape.head_dim;
        scale = 1 / sqrtf((float)world->shape.head_dim);
        stride = world->pages_max() + 3;
        q_stride = cols + 8;
        q.assign((uint64_t)world->count() * cols, 0);
        windows.host.assign(world->count(), {0, 0, 0});
    }
    uint32_t q_heads() const
    {
        return world->shape.kv_heads * world->shape.group;
    }
    uint32_t cols() const
    {
        return q_heads() * world->shape.head_dim;
    }
    void fill_q()
    {
        q = spin_twin_normal(&world->rng, q.size(), 1.5);
    }
    /* Every sequence: `sink` partitions, a few of window, k of the rest. */
    void set_windows(uint32_t sink, uint32_t local, uint32_t k)
    {
        for (uint32_t s = 0; s < world->count(); s++) {
            const uint32_t tokens = world->shape.tokens[s];
            const uint32_t whole = tokens / world->shape.partition_tokens;
            const uint32_t local_begin = whole > local ? whole - local : 0;
            windows.host[s] = {std::min(sink, local_begin), local_begin, k};
        }
    }
    void upload()
    {
        world->upload();
        q_bits.host.assign(world->count() * q_stride, 0xffff);
        for (uint64_t i = 0; i < q.size(); i++) {
            q_bits.host[i / cols() * q_stride + i % cols()] = spin_bf16_from_f32(q[i]);
        }
        q_bits.upload(world->twins);
        windows.upload(world->twins);
        if (gpu_pages == nullptr) {
            gpu_pages =
                std::make_unique<spin_twin_array<uint16_t>>(world->twins, world->rows() * stride);
            gpu_count = std::make_unique<spin_twin_array<uint32_t>>(world->twins, world->rows());
        }
    }
    void run_ref(bool always_score)
    {
        struct spin_kv_view view = world->views(false);
        ref_pages.assign(world->rows() * stride, 0xffff);
        ref_count.assign(world->rows(), UINT32_MAX);
        struct spin_kv_select_args args = {};
        args.view = &view;
        args.batch = world->batch(false, 0, world->count());
        args.lists.stride = stride;
        args.lists.pages = ref_pages.data();
        args.lists.page_count = ref_count.data();
        args.summary = world->shape.summary;
        args.always_score = always_score;
        args.q = {q.data(), SPIN_DTYPE_F32, world->count(), cols(), cols()};
        args.q_heads = q_heads();
        args.scale = scale;
        args.windows = windows.host.data();
        std::vector<uint64_t> memory(spin_kv_select_workspace_bytes(&args) / 8 + 8);
        args.workspace = memory.data();
        spin_twin_must(spin_kv_select_ref(&args, world->twins->cpu) == SPIN_OK, "reference");
    }
    /* Sequences [first, first + sequences) of the batch, into their rows of the lists. */
    void run_gpu(bool always_score, uint32_t first, uint32_t sequences)
    {
        struct spin_kv_view view = world->views(true);
        const uint64_t row = (uint64_t)first * world->shape.kv_heads;
        struct spin_kv_select_args args = {};
        args.view = &view;
        args.batch = world->batch(true, first, sequences);
        args.lists.stride = stride;
        args.lists.pages = gpu_pages->data() + row * stride;
        args.lists.page_count = gpu_count->data() + row;
        args.summary = world->shape.summary;
        args.always_score = always_score;
        args.q = {q_bits.gpu->data() + first * q_stride, SPIN_DTYPE_BF16, sequences, cols(),
                  q_stride};
        args.q_heads = q_heads();
        args.scale = scale;
        args.windows = windows.gpu->data() + first;
        const uint64_t bytes = spin_kv_select_workspace_bytes(&args);
        if (workspace == nullptr || workspace->count < bytes) {
            workspace = std::make_unique<spin_twin_array<uint8_t>>(world->twins, bytes);
        }
        args.workspace = workspace->data();
        spin_twin_must(spin_kv_select_cuda(&args, world->twins->cuda) == SPIN_OK, "kv_select");
    }
    void poison()
    {
        gpu_pages->poison();
        gpu_count->poison();
    }
    void read()
    {
        pages = gpu_pages->read();
        page_count = gpu_count->read();
        canaries = canaries && gpu_pages->canaries_live() && gpu_count->canaries_live() &&
                   workspace->canaries_live();
    }
    void run(bool always_score)
    {
        poison();
        run_gpu(always_score, 0, world->count());
        read();
    }
};

/* ---- scores, where lists differ ---- */

struct scored {
    double score;  /* the logarithm of the best head's softmax */
    double weight; /* what was added up, without signs: the rounding's measure */
};

std::vector<struct scored> scores_of(struct chooser *chooser, uint64_t row)
{
    struct spin_select_world *world = chooser->world;
    const struct spin_select_shape &shape = world->shape;
    const uint64_t s = row / shape.kv_heads;
    const struct spin_kv_window &window = chooser->windows.host[s];
    const uint32_t candidates = window.local_begin - window.sink_end;
    std::vector<struct scored> best(candidates, {-INFINITY, 0});
    for (uint32_t g = 0; g < shape.group; g++) {
        const float *q = chooser->q.data() + s * chooser->cols() +
                         (row % shape.kv_heads * shape.group + g) * shape.head_dim;
        std::vector<double> l(candidates);
        double m = -INFINITY;
        for (uint32_t c = 0; c < candidates; c++) {
            const uint16_t *k = world->summary(row, window.sink_end + c);
            double sum = 0;
            double weight = 0;
            for (uint32_t d = 0; d < shape.head_dim; d++) {
                double x = (double)q[d] * spin_f32_from_bf16(k[d]);
                if (shape.summary == SPIN_SUMMARY_BOUNDS) {
                    x = fmax(x, (double)q[d] * spin_f32_from_bf16(k[shape.head_dim + d]));
                }
                sum += x;
                weight += fabs(x);
            }
            l[c] = chooser->scale * sum;
            best[c].weight = fmax(best[c].weight, fabs(chooser->scale) * weight);
            m = fmax(m, l[c]);
        }
        double z = 0;
        for (uint32_t c = 0; c < candidates; c++) {
            z += exp(l[c] - m);
        }
        for (uint32_t c = 0; c < candidates; c++) {
            best[c].score = fmax(best[c].score, l[c] - m - log(z));
        }
    }
    return best;
}

/* What a list says of the candidates; false: it is no list of this row at all. */
bool read_list(const struct chooser &chooser, uint64_t row, const std::vector<uint16_t> &pages,
               uint32_t count, std::vector<bool> *chosen)
{
    const struct spin_select_shape &shape = chooser.world->shape;
    const uint64_t s = row / shape.kv_heads;
    const struct spin_kv_window &window = chooser.windows.host[s];
    const uint32_t pp = shape.partition_tokens / shape.page_tokens;
    chosen->assign(window.local_begin - window.sink_end, false);
    std::vector<uint16_t> wanted;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t partition = pages[row * chooser.stride + i] / pp;
        if (partition >= window.sink_end && partition < window.local_begin) {
            (*chosen)[partition - window.sink_end] = true;
        }
    }
    for (uint32_t page = 0; page < chooser.world->pages((uint32_t)s); page++) {
        const uint32_t partition = page / pp;
        if (partition < window.sink_end || partition >= window.local_begin ||
            (*chosen)[partition - window.sink_end]) {
            wanted.push_back((uint16_t)page);
        }
    }
    wanted.resize(chooser.stride, 0xffff);
    return std::equal(wanted.begin(), wanted.end(),
                      pages.begin() + (int64_t)(row * chooser.stride));
}

struct verdict {
    bool ok;
    uint64_t different; /* rows */
    double worst;       /* distance of a chosen score from the k-th best, in what is allowed */
};

void judge_row(struct chooser *chooser, uint64_t row, struct verdict *verdict)
{
    const auto begin = (int64_t)(row * chooser->stride);
    const uint32_t count = chooser->page_count[row];
    if (count != chooser->ref_count[row]) {
        verdict->ok = false;
        return;
    }
    if (std::equal(chooser->pages.begin() + begin, chooser->pages.begin() + begin + chooser->stride,
                   chooser->ref_pages.begin() + begin)) {
        return;
    }
    std::vector<bool> gpu;
    std::vector<bool> ref;
    verdict->different++;
    if (!read_list(*chooser, row, chooser->pages, count, &gpu) ||
        !read_list(*chooser, row, chooser->ref_pages, count, &ref)) {
        verdict->ok = false;
        return;
    }
    const std::vector<struct scored> scores = scores_of(chooser, row);
    double cut = INFINITY;
    for (uint64_t c = 0; c < ref.size(); c++) {
        cut = ref[c] ? fmin(cut, scores[c].score) : cut;
    }
    for (uint64_t c = 0; c < ref.size(); c++) {
        if (gpu[c] != ref[c]) {
            const double allowed = 1e-6 + 5e-7 * (scores[c].weight + fabs(cut));
            verdict->worst = fmax(verdict->worst, fabs(scores[c].score - cut) / allowed);
        }
    }
    verdict->ok = verdict->ok && verdict->worst <= 1;
}

struct verdict judge(struct chooser *chooser)
{
    struct verdict verdict = {true, 0, 0};
    for (uint64_t r = 0; r < chooser->world->rows(); r++) {
        judge_row(chooser, r, &verdict);
    }
    return verdict;
}

/* ---- tables of shapes ---- */

/* One token, a page less one, full pages, one over, a segment and a block more or less. */
const std::vector<uint32_t> lengths = {1,    7,    8,    9,    33,   47,   48,   49,
                                       63,   64,   65,   128,  129,  1000, 2047, 2048,
                                       2049, 4095, 4096, 4097, 4143, 5003};

#define MEAN SPIN_SUMMARY_MEAN
#define BOUNDS SPIN_SUMMARY_BOUNDS

std::vector<struct spin_select_shape> shapes_of(bool large)
{
    if (large) {
        return {
            {MEAN, 2, 5, 128, 8, 8, {131072, 32768, 100001}},
            {BOUNDS, 2, 5, 128, 8, 16, {131072, 77777}},
            {MEAN, 1, 1, 64, 8, 8, {524280}},
            {MEAN, 1, 8, 64, 8, 8, {524280, 300000}}, /* fits no cluster */
            {MEAN, 1, 16, 64, 8, 8, {400001}},
        };
    }
    return {
        {MEAN, 3, 3, 64, 8, 8, lengths},     {MEAN, 2, 1, 128, 8, 8, lengths},
        {MEAN, 8, 5, 128, 8, 8, lengths},    {MEAN, 1, 8, 40, 8, 8, lengths},
        {MEAN, 2, 7, 128, 32, 32, lengths},  {MEAN, 1, 4, 128, 8, 128, lengths},
        {MEAN, 2, 12, 128, 8, 8, lengths},   {BOUNDS, 3, 3, 64, 8, 16, lengths},
        {BOUNDS, 2, 5, 128, 8, 16, lengths}, {BOUNDS, 1, 7, 8, 32, 32, lengths},
        {BOUNDS, 1, 16, 128, 8, 8, lengths}, {BOUNDS, 1, 2, 256, 8, 32, {1, 129, 5003}},
    };
}

std::string name_of(const struct spin_select_shape &shape, const char *what)
{
    char name[128];
    (void)snprintf(name, sizeof name, "select_%s_%ux%ux%u_p%u_t%u_%s",
                   shape.summary == MEAN ? "mean" : "bounds", shape.kv_heads, shape.group,
                   shape.head_dim, shape.page_tokens, shape.partition_tokens, what);
    return name;
}

/* Every sequence alone, and three at a time: the same lists, behind them nothing. */
bool same_without_neighbours(struct chooser *chooser, bool always_score)
{
    const std::vector<uint16_t> pages = chooser->pages;
    const std::vector<uint32_t> counts = chooser->page_count;
    bool same = true;
    for (uint32_t step = 1; step <= 3; step += 2) {
        chooser->poison();
        for (uint32_t s = 0; s < chooser->world->count(); s += step) {
            chooser->run_gpu(always_score, s, std::min(step, chooser->world->count() - s));
        }
        chooser->read();
        same = same && chooser->pages == pages && chooser->page_count == counts;
    }
    return same;
}

void check_shape(struct spin_twins *twins, const struct spin_select_shape &shape, uint64_t stream,
                 const std::vector<uint32_t> &ks)
{
    struct spin_select_world world(twins, shape, stream);
    struct chooser chooser(&world);
    struct verdict all = {true, 0, 0};
    bool alone = true;
    bool again = true;
    world.fill_summaries();
    chooser.fill_q();
    for (uint64_t i = 0; i < ks.size(); i++) {
        const bool always_score = i % 2 == 1;
        chooser.set_windows((uint32_t)i % 4, 1 + (uint32_t)i % 3 * 3, ks[i]);
        chooser.upload();
        chooser.run_ref(always_score);
        chooser.run(always_score);
        const struct verdict verdict = judge(&chooser);
        all.ok = all.ok && verdict.ok;
        all.different += verdict.different;
        all.worst = fmax(all.worst, verdict.worst);
        alone = alone && same_without_neighbours(&chooser, always_score);
        const std::vector<uint16_t> pages = chooser.pages;
        chooser.run(!always_score);
        again = again && chooser.pages == pages;
    }
    spin_twin_check(twins, name_of(shape, "equals_ref").c_str(), all.ok, all.worst);
    spin_twin_check(twins, name_of(shape, "rows_with_ties").c_str(),
                    all.different <= 1 + world.rows() * ks.size() / 50, (double)all.different);
    spin_twin_check(twins, name_of(shape, "alone").c_str(), alone, alone);
    spin_twin_check(twins, name_of(shape, "again").c_str(), again, again);
    spin_twin_check(twins, name_of(shape, "canaries").c_str(), chooser.canaries, chooser.canaries);
}

/* No summaries, no queries: the windows and all or nothing between them. */
void check_none(struct spin_twins *twins)
{
    const struct spin_select_shape shape = {SPIN_SUMMARY_NONE, 3, 1, 64, 8, 8, lengths};
    struct spin_select_world world(twins, shape, 50);
    struct chooser chooser(&world);
    for (uint32_t s = 0; s < world.count(); s++) {
        const uint32_t all = (shape.tokens[s] - 1) / 8 + 1;
        const uint32_t edge = s % 3 == 0 ? 0 : s % 3 == 1 ? all / 2 : all;
        chooser.windows.host[s] = {edge, edge, s};
    }
    chooser.upload();
    chooser.run_ref(false);
    chooser.run(false);
    spin_twin_check(twins, "select_none",
                    chooser.pages == chooser.ref_pages && chooser.page_count == chooser.ref_count,
                    world.count());
    spin_twin_check(twins, "select_none_canaries", chooser.canaries, chooser.canaries);
}

/* ---- by hand ---- */

/* 24 partitions of 8 tokens and a begun one; candidates 1..19; two query heads, the first looks at
 * element 0 alone, the second at element 1. */
struct hand {
    struct spin_select_world world;
    struct chooser chooser;

    hand(struct spin_twins *twins, uint32_t k)
        : world(twins, {MEAN, 1, 2, 64, 8, 8, {196}}, 60), chooser(&world)
    {
        chooser.windows.host[0] = {1, 20, k};
        chooser.scale = 1;
        chooser.q[0] = 1;
        chooser.q[64 + 1] = 1;
        for (uint32_t p = 0; p < 24; p++) {
            std::fill_n(world.summary(0, p), 64, (uint16_t)0);
        }
    }
    void set(uint32_t partition, float first, float second)
    {
        world.summary(0, partition)[0] = spin_bf16_from_f32(first);
        world.summary(0, partition)[1] = spin_bf16_from_f32(second);
    }
    void set_all(float first, float second)
    {
        for (uint32_t p = 1; p < 20; p++) {
            set(p, first, second);
        }
    }
    /* The reference says so, too. */
    void expect(const char *name, const std::vector<uint16_t> &chosen, bool always_score = false)
    {
        std::vector<uint16_t> wanted = {0};
        wanted.insert(wanted.end(), chosen.begin(), chosen.end());
        for (uint16_t p = 20; p <= 24; p++) {
            wanted.push_back(p);
        }
        const uint32_t count = (uint32_t)wanted.size();
        wanted.resize(chooser.stride, 0xffff);
        chooser.upload();
        chooser.run_ref(always_score);
        chooser.run(always_score);
        spin_twin_check(world.twins, name,
                        chooser.pages == wanted && chooser.page_count[0] == count &&
                            chooser.ref_pages == wanted && chooser.canaries,
                        chooser.page_count[0]);
    }
};

void check_heads(struct spin_twins *twins)
{
    /* One head's favourite beats what both like a little: 0.6 and 0 against 0.4 and 0.4. */
    struct hand one(twins, 1);
    one.set_all(-20, -20);
    one.set(5, logf(0.4F), logf(0.4F));
    one.set(9, logf(0.6F), -20);
    one.set(13, -20, logf(0.25F));
    one.set(14, -20, logf(0.35F));
    one.expect("select_group_takes_maximum", {9});
    /* Heads are compared by their softmax: the second's scores are large and say nothing. */
    struct hand two(twins, 2);
    two.set_all(0, 1000);
    two.set(7, 4, 1000);
    two.set(17, 3, 992);
    two.expect("select_heads_of_different_norms", {7, 17});
}

void check_equal(struct spin_twins *twins)
{
    struct hand hand(twins, 5);
    hand.expect("select_all_equal", {1, 2, 3, 4, 5});
    hand.set(12, 1, 1);
    hand.set(18, 1, 1);
    hand.expect("select_rest_equal", {1, 2, 3, 12, 18});
    for (uint32_t p = 1; p < 20; p += 2) {
        hand.set(p, -0.0F, 0.0F);
    }
    hand.expect("select_zeros_of_both_signs", {1, 2, 3, 12, 18});
}

/* Scores whose softmax is far below the smallest float keep their order; overflow to minus infinity
 * is the worst of all, and like any other. */
void check_huge(struct spin_twins *twins)
{
    struct hand hand(twins, 3);
    hand.set_all(-3e38F, -3e38F);
    hand.set(19, 3e30F, 3e30F);
    hand.set(4, 1e30F, 1e29F);
    hand.set(8, 2e30F, 1e29F);
    hand.expect("select_huge", {4, 8, 19});
    hand.chooser.q[0] = 4;
    hand.chooser.q[65] = 4;
    hand.expect("select_minus_infinity", {4, 8, 19});
    hand.chooser.windows.host[0].k = 5;
    hand.expect("select_equal_minus_infinity", {1, 2, 4, 8, 19});
}

void check_windows(struct spin_twins *twins)
{
    struct hand hand(twins, 0);
    std::vector<uint16_t> all;
    for (uint16_t p = 1; p < 20; p++) {
        all.push_back(p);
    }
    hand.expect("select_nothing", {});
    hand.expect("select_nothing_scored", {}, true);
    hand.set(10, NAN, NAN); /* not looked at */
    hand.expect("select_nothing_beside_nan", {});
    hand.chooser.windows.host[0].k = 19;
    hand.expect("select_k_is_all", all);
    hand.chooser.windows.host[0].k = UINT32_MAX;
    hand.expect("select_k_is_more", all);
    hand.chooser.windows.host[0] = {20, 20, 3};
    hand.expect("select_sink_is_all", all);
    hand.chooser.windows.host[0] = {0, 0, 3};
    hand.expect("select_window_is_all", all);
    hand.set(10, 0, 0);
    hand.chooser.windows.host[0] = {1, 20, 19};
    hand.expect("select_all_scored", all, true);
    hand.chooser.windows.host[0] = {1, 20, UINT32_MAX};
    hand.expect("select_more_scored", all, true);
}

/* 512 scores are minus infinity in F32, to the first query head alone or, with `both`, to each;
 * where there is no other score, candidates are alike. */
void check_below_f32(struct spin_twins *twins, uint32_t candidates, bool both)
{
    struct spin_select_world world(twins, {MEAN, 1, 2, 64, 8, 8, {1024 * 8 + 1}}, 70 + candidates);
    struct chooser chooser(&world);
    world.fill_summaries();
    chooser.fill_q();
    chooser.windows.host[0] = {0, candidates, 20};
    chooser.q[0] = 64;
    chooser.q[64] = both ? 64 : 0;
    for (uint32_t p = 0; p < 512; p++) {
        world.summary(0, p)[0] = spin_bf16_from_f32(-3e38F);
    }
    chooser.upload();
    chooser.run_ref(false);
    chooser.run(false);
    bool ok = true;
    if (candidates > 512 || !both) {
        ok = judge(&chooser).ok;
    } else {
        ok = chooser.pages[19] == 19 && chooser.pages[20] == candidates;
    }
    char name[64];
    (void)snprintf(name, sizeof name, "select_below_f32_%u_%s", candidates, both ? "both" : "one");
    spin_twin_check(twins, name, ok, candidates);
}

/* Thousands of equal scores around the cut, over several blocks of the cluster; and scores that
 * differ in their last bits alone. */
void check_dense(struct spin_twins *twins, bool equal)
{
    struct spin_select_world world(twins, {MEAN, 2, 1, 128, 8, 8, {8001, 32769}}, 80 + equal);
    struct chooser chooser(&world);
    for (uint64_t r = 0; r < world.rows(); r++) {
        for (uint32_t p = 0; p < world.shape.tokens[r / 2] / 8; p++) {
            uint16_t *summary = world.summary(r, p);
            std::fill_n(summary, 128, (uint16_t)0);
            const uint16_t one = spin_bf16_from_f32(1);
            summary[0] = equal ? one : (uint16_t)(one + spin_rng_below(&world.rng, 3));
            summary[5] = p % 97 == 5 ? one : 0; /* a few are better */
        }
    }
    for (uint32_t s = 0; s < 2; s++) {
        for (uint32_t h = 0; h < 2; h++) {
            chooser.q[s * 256 + h * 128] = 1;
            chooser.q[s * 256 + h * 128 + 5] = 8;
        }
    }
    bool ok = true;
    for (uint32_t k : {1U, 5U, 42U, 43U, 300U, 700U, 960U}) {
        chooser.set_windows(3, 2, k);
        chooser.upload();
        chooser.run_ref(true);
        chooser.run(true);
        ok = ok && chooser.pages == chooser.ref_pages && same_without_neighbours(&chooser, true);
    }
    spin_twin_check(twins, equal ? "select_many_equal" : "select_three_values", ok, ok);
}

} // namespace

extern "C" void spin_twins_select(struct spin_twins *twins)
{
    check_heads(twins);
    check_equal(twins);
    check_huge(twins);
    check_windows(twins);
    check_none(twins);
    for (uint32_t candidates : {512U, 1024U}) {
        check_below_f32(twins, candidates, false);
        check_below_f32(twins, candidates, true);
    }
    check_dense(twins, true);
    check_dense(twins, false);
    uint64_t stream = 1000;
    for (const struct spin_select_shape &shape : shapes_of(false)) {
        check_shape(twins, shape, stream++,
                    twins->timing ? std::vector<uint32_t>{0, 1, 3, 16, 100, 100000}
                                  : std::vector<uint32_t>{3, 16});
    }
    spin_twins_index(twins);
    if (twins->timing) {
        for (const struct spin_select_shape &shape : shapes_of(true)) {
            check_shape(twins, shape, stream++, {256, 1000});
        }
        spin_twins_select_timing(twins);
    }
}
