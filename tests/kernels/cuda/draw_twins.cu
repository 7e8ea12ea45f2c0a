/* draw: tokens, logits and sums of rows against the reference, as bits but for the sums; rows in
 * batches, alone and twice; logits of many kinds, all settings of a row in turn; and the time of a
 * step's draws. */
#include "tests/kernels/cuda/twin_array.cuh"

namespace
{

constexpr double COPY_GB_PER_S = 4263;
constexpr double LOG_SUM_ERROR_MAX = 1e-7;

/* What a row is made of. */
enum kind { NORMAL, ROUNDED, FLAT, EQUAL, PEAK, BROKEN, NONE, KINDS };

float make_logit(enum kind kind, uint32_t id, struct spin_rng *rng)
{
    const double normal = spin_rng_normal(rng);
    switch (kind) {
    case NORMAL:
        return (float)(3 * normal);
    case ROUNDED: /* many are equal, some zeros have a sign */
        return (float)round(2 * normal);
    case FLAT:
        return (float)(12 + 1e-3 * normal);
    case EQUAL:
        return -7.25F;
    case PEAK: /* the rest has nearly no weight, or none */
        return id % 1009 == 7 ? (float)(20 + normal) : (float)(30 * normal - 80);
    case BROKEN: {
        const float values[] = {NAN, INFINITY, -INFINITY, (float)normal, 3e38F, -3e38F, 1e-40F};
        return values[spin_rng_below(rng, SPIN_ARRAY_COUNT(values))];
    }
    default:
        return id % 3 == 0 ? -INFINITY : NAN;
    }
}

struct spin_draw_row make_row(uint32_t number, uint32_t vocab, struct spin_rng *rng)
{
    static const float temperatures[] = {0, 1, 0.6F, 1, 100, 0.05F, 1e-40F};
    static const double ends[] = {0, 0x1p-60, 0.5, 0x1.fffffffffffffp-1};
    struct spin_draw_row row = {};
    row.u = number % 4 == 0 ? ends[number / 4 % 4] : spin_rng_uniform(rng);
    row.temperature = temperatures[spin_rng_below(rng, SPIN_ARRAY_COUNT(temperatures))];
    row.top_p = 1;
    row.log_sum = spin_rng_below(rng, 2);
    switch (spin_rng_below(rng, 4)) {
    case 0:
        row.top_k = 1 + spin_rng_below(rng, 50);
        break;
    case 1:
        row.top_k = spin_rng_below(rng, 2) == 0 ? 1 : 1 + spin_rng_below(rng, vocab + 3);
        break;
    default:
        break;
    }
    if (spin_rng_below(rng, 2) == 0) {
        row.top_p = spin_rng_below(rng, 4) == 0 ? 1e-9F : (float)(1 - spin_rng_uniform(rng));
    }
    if (spin_rng_below(rng, 3) == 0) {
        row.min_p = spin_rng_below(rng, 4) == 0 ? 1 : (float)pow(10, -4 * spin_rng_uniform(rng));
    }
    if (spin_rng_below(rng, 3) == 0) {
        row.masked_count = 1 + spin_rng_below(rng, SPIN_DRAW_MASKED_MAX);
    }
    for (uint32_t i = 0; i < row.masked_count; i++) {
        row.masked[i] = (int32_t)spin_rng_below(rng, vocab);
    }
    return row;
}

/* Logits, rows and results, here and there. */
struct batch {
    uint32_t vocab;
    uint64_t stride;
    std::vector<float> logits;
    std::vector<struct spin_draw_row> rows;
    spin_twin_array<float> device_logits;
    spin_twin_array<struct spin_draw_row> device_rows;
    spin_twin_array<struct spin_drawn> device_out;

    batch(struct spin_twins *twins, uint32_t vocab_, uint32_t count, uint32_t padding)
        : vocab(vocab_), stride(((uint64_t)vocab_ + 3) / 4 * 4 + padding), logits(stride * count),
          rows(count), device_logits(twins, stride * count), device_rows(twins, count),
          device_out(twins, count)
    {
    }
    void fill(struct spin_rng *rng, uint32_t first_kind)
    {
        for (uint64_t i = 0; i < logits.size(); i++) {
            const enum kind kind = (enum kind)((first_kind + i / stride) % KINDS);
            const uint32_t id = (uint32_t)(i % stride);
            logits[i] = id < vocab ? make_logit(kind, id, rng) : INFINITY;
        }
        for (uint32_t i = 0; i < rows.size(); i++) {
            rows[i] = make_row(i, vocab, rng);
            rows[i].logits_row = i;
        }
        /* The last draw is from the first row. */
        rows.back().logits_row = 0;
        device_logits.write(logits);
        device_rows.write(rows);
    }
    struct spin_draw_args gpu(uint32_t first, uint32_t count) const
    {
        const uint32_t logits_rows = (uint32_t)rows.size();
        return {{device_logits.data(), SPIN_DTYPE_F32, logits_rows, vocab, stride},
                device_rows.data() + first,
                device_out.data() + first,
                count};
    }
    std::vector<struct spin_drawn> expected(struct spin_twins *twins)
    {
        std::vector<struct spin_drawn> out(rows.size());
        const uint32_t count = (uint32_t)rows.size();
        const struct spin_draw_args args = {
            {logits.data(), SPIN_DTYPE_F32, count, vocab, stride}, rows.data(), out.data(), count};
        spin_twin_must(spin_draw_ref(&args, twins->cpu) == SPIN_OK, "draw_ref");
        return out;
    }
};

bool is_same(const struct spin_drawn &a, const struct spin_drawn &b)
{
    const bool both_nan = isnan(a.logit) && isnan(b.logit);
    return a.token == b.token && (both_nan || memcmp(&a.logit, &b.logit, sizeof a.logit) == 0);
}

std::string name_of(const char *what, uint32_t vocab, uint32_t count)
{
    return std::string("draw_") + what + "_v" + std::to_string(vocab) + "_n" +
           std::to_string(count);
}

void say_row(const struct batch &batch, uint32_t i, const struct spin_drawn &a,
             const struct spin_drawn &b)
{
    const struct spin_draw_row &row = batch.rows[i];
    printf("draw: row=%u u=%.17g t=%g k=%u p=%g min=%g masked=%u: token %d, reference %d; log_sum "
           "%.12g, reference %.12g\n",
           i, row.u, (double)row.temperature, row.top_k, (double)row.top_p, (double)row.min_p,
           row.masked_count, a.token, b.token, a.log_sum, b.log_sum);
}

/* Tokens and logits are the reference's; sums nearly. */
void check_batch(struct spin_twins *twins, uint32_t vocab, uint32_t count, uint32_t first_kind)
{
    struct spin_rng rng = {twins->seed, 700 + vocab, count * 100 + first_kind};
    struct batch batch(twins, vocab, count, count % 3 * 4);
    batch.fill(&rng, first_kind);
    const std::vector<struct spin_drawn> expected = batch.expected(twins);
    struct spin_draw_args args = batch.gpu(0, count);
    bool ok = spin_draw_cuda(&args, twins->cuda) == SPIN_OK;
    const std::vector<struct spin_drawn> drawn = batch.device_out.read();
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < count; i++) {
        const double error = fabs(drawn[i].log_sum - expected[i].log_sum);
        const bool both_nan = isnan(drawn[i].log_sum) && isnan(expected[i].log_sum);
        if (!is_same(drawn[i], expected[i]) || !(both_nan || error < LOG_SUM_ERROR_MAX)) {
            wrong++;
            say_row(batch, i, drawn[i], expected[i]);
        }
    }
    ok = ok && batch.device_out.canaries_live();
    spin_twin_check(twins, name_of("twin", vocab, count).c_str(), ok && wrong == 0, wrong);
    /* Again, each row alone, the last first; the logits are as they were. */
    batch.device_out.poison();
    for (uint32_t i = count; i-- > 0;) {
        args = batch.gpu(i, 1);
        ok = spin_draw_cuda(&args, twins->cuda) == SPIN_OK && ok;
    }
    const std::vector<struct spin_drawn> alone = batch.device_out.read();
    const std::vector<float> after = batch.device_logits.read();
    ok = ok && memcmp(alone.data(), drawn.data(), count * sizeof drawn[0]) == 0 &&
         memcmp(after.data(), batch.logits.data(), after.size() * sizeof(float)) == 0;
    spin_twin_check(twins, name_of("alone", vocab, count).c_str(), ok, ok);
}

/* --- times --- */

struct setting {
    const char *name;
    float temperature;
    float top_p;
    uint32_t top_k;
    uint32_t log_sum;
};

void time_setting(struct spin_twins *twins, const struct setting &setting, uint32_t count)
{
    constexpr uint32_t VOCAB = 151936;
    constexpr uint32_t CALLS = 32;
    constexpr uint32_t SETS = 16; /* of 32 rows: 311 MB, more than the cache holds */
    struct spin_rng rng = {twins->seed, 800, count};
    struct batch batch(twins, VOCAB, count * SETS, 0);
    std::vector<float> some(1 << 20);
    for (float &value : some) {
        value = (float)(3 * spin_rng_normal(&rng));
    }
    for (uint64_t i = 0; i < batch.logits.size(); i++) {
        batch.logits[i] = some[i * 7 % some.size()];
    }
    for (uint32_t i = 0; i < count * SETS; i++) {
        struct spin_draw_row &row = batch.rows[i];
        row = {};
        row.logits_row = i;
        row.u = spin_rng_uniform(&rng);
        row.temperature = setting.temperature;
        row.top_p = setting.top_p;
        row.top_k = setting.top_k;
        row.log_sum = setting.log_sum;
    }
    batch.device_logits.write(batch.logits);
    batch.device_rows.write(batch.rows);
    const double us = spin_twin_time_us(twins, CALLS, [&](uint32_t i) {
        const struct spin_draw_args args = batch.gpu(i % SETS * count, count);
        (void)spin_draw_cuda(&args, twins->cuda);
    });
    const std::string name = name_of(setting.name, VOCAB, count);
    const double floor_us = (double)count * VOCAB * sizeof(float) / COPY_GB_PER_S / 1e3;
    spin_twin_result((name + "_time").c_str(), us, "us");
    spin_twin_result((name + "_over_floor").c_str(), us / floor_us, "ratio");
}

} // namespace

extern "C" void spin_twins_draw(struct spin_twins *twins)
{
    static const uint32_t vocabs[] = {1, 2, 5, 31, 32, 33, 127, 300, 1000, 4099, 16384};
    for (const uint32_t vocab : vocabs) {
        check_batch(twins, vocab, 64, 0);
        check_batch(twins, vocab, 7, 3);
    }
    check_batch(twins, 49152, 1, NORMAL);
    check_batch(twins, 49152, 8, ROUNDED);
    check_batch(twins, 151936, 3, FLAT);
    const struct spin_draw_args none = {{NULL, SPIN_DTYPE_F32, 0, 8, 8}, NULL, NULL, 0};
    const bool ok = spin_draw_cuda(&none, twins->cuda) == SPIN_OK;
    spin_twin_check(twins, "draw_none", ok, ok);
    if (!twins->timing) {
        return;
    }
    check_batch(twins, 49152, 64, 0);
    check_batch(twins, 151936, 33, 0);
    check_batch(twins, 151937, 9, EQUAL);
    check_batch(twins, SPIN_DRAW_VOCAB_MAX, 7, 0);
    static const struct setting settings[] = {{"greedy", 0, 1, 0, 0},
                                              {"greedy_log_sum", 0, 1, 0, 1},
                                              {"plain", 1, 1, 0, 0},
                                              {"top_p", 0.7F, 0.9F, 0, 0},
                                              {"top_k_top_p", 0.6F, 0.95F, 20, 0}};
    for (const struct setting &setting : settings) {
        for (const uint32_t count : {1u, 8u, 32u}) {
            time_setting(twins, setting, count);
        }
    }
}
