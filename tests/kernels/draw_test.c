/* draw_ref: against the formula, written here with sorted doubles; weights against exp2; then equal
 * logits, what is not finite, masks and the ends of u, of which every token is known. */
#include "kernels/draw_weight.h"
#include "tests/kernels/kernel_test.h"

#define U_END 0x1.fffffffffffffp-1 /* the largest below 1 */
#define VOCAB_MAX 49152
#define MARGIN 1e-7 /* nearer to a limit than this, rounding decides */

struct entry {
    float logit;
    uint32_t id;
    double weight;
};

struct expected {
    int32_t token;
    double margin; /* how near, as a share, the draw was to another result */
};

static int by_logit(const void *a, const void *b)
{
    const struct entry *x = a;
    const struct entry *y = b;
    if (x->logit != y->logit) {
        return x->logit > y->logit ? -1 : 1;
    }
    return x->id < y->id ? -1 : 1;
}

static int by_id(const void *a, const void *b)
{
    return ((const struct entry *)a)->id < ((const struct entry *)b)->id ? -1 : 1;
}

static bool is_masked(const struct spin_draw_row *row, uint32_t id)
{
    bool masked = false;
    for (uint32_t i = 0; i < row->masked_count; i++) {
        masked = masked || row->masked[i] == (int32_t)id;
    }
    return masked;
}

static uint32_t list_candidates(const struct spin_draw_row *row, const float *logits,
                                uint32_t vocab, struct entry *entries)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        if (isfinite(logits[i]) && !is_masked(row, i)) {
            entries[count++] = (struct entry){logits[i], i, 0};
        }
    }
    qsort(entries, count, sizeof *entries, by_logit);
    for (uint32_t i = 0; i < count; i++) {
        const double distance = (double)entries[i].logit - (double)entries[0].logit;
        entries[i].weight = exp(distance / (double)row->temperature);
    }
    return count;
}

static double sum_of(const struct entry *entries, uint32_t count)
{
    double sum = 0;
    for (uint32_t i = count; i-- > 0;) { /* the smallest first */
        sum += entries[i].weight;
    }
    return sum;
}

/* How many, largest first, hold the share. */
static uint32_t hold(const struct entry *entries, uint32_t count, double share, double *margin)
{
    const double all = sum_of(entries, count);
    double sum = 0;
    uint32_t held = 0;
    while (held < count && sum < share * all) {
        *margin = fmin(*margin, fabs(sum / all - share));
        sum += entries[held++].weight;
    }
    *margin = fmin(*margin, fabs(sum / all - share));
    return held;
}

static struct expected expect(const struct spin_draw_row *row, const float *logits, uint32_t vocab,
                              struct entry *entries)
{
    struct expected expected = {-1, 1};
    uint32_t count = list_candidates(row, logits, vocab, entries);
    if (count == 0 || row->temperature <= 0) {
        expected.token = count == 0 ? -1 : (int32_t)entries[0].id;
        return expected;
    }
    if (row->top_k > 0 && row->top_k < count) {
        count = row->top_k;
    }
    if (row->top_p < 1) {
        count = hold(entries, count, (double)row->top_p, &expected.margin);
    }
    while (entries[count - 1].weight < (double)row->min_p) {
        count--;
    }
    const double all = sum_of(entries, count);
    qsort(entries, count, sizeof *entries, by_id);
    double sum = 0;
    for (uint32_t i = 0; i < count && expected.token < 0; i++) {
        sum += entries[i].weight;
        expected.margin = fmin(expected.margin, fabs(sum / all - row->u));
        expected.token = sum > row->u * all ? (int32_t)entries[i].id : -1;
    }
    return expected;
}

static struct spin_stream *stream; /* of all tests */

static int set_up(void **state)
{
    (void)state;
    stream = spin_test_stream(1);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    spin_stream_destroy(stream);
    return 0;
}

static struct spin_drawn draw_one(void *logits, uint32_t vocab, const struct spin_draw_row *row)
{
    struct spin_drawn drawn = {-2, 0, 0};
    const struct spin_draw_args args = {
        {logits, SPIN_DTYPE_F32, row->logits_row + 1, vocab, vocab}, row, &drawn, 1};
    assert_int_equal(spin_draw_ref(&args, stream), SPIN_OK);
    return drawn;
}

static struct spin_draw_row row_of(double u, float temperature)
{
    return (struct spin_draw_row){.u = u, .temperature = temperature, .top_p = 1};
}

/* Every other field is off half of the time. */
static struct spin_draw_row random_row(struct spin_rng *rng, uint32_t vocab)
{
    static const float temperatures[] = {0, 0.1F, 0.6F, 1, 1, 1.7F, 100};
    struct spin_draw_row row = row_of(
        spin_rng_uniform(rng), temperatures[spin_rng_below(rng, SPIN_ARRAY_COUNT(temperatures))]);
    row.top_k = spin_rng_below(rng, 2) * (1 + spin_rng_below(rng, 40));
    row.top_p = spin_rng_below(rng, 2) == 0 ? 1 : 0.001F + 0.998F * (float)spin_rng_uniform(rng);
    row.min_p = spin_rng_below(rng, 2) == 0 ? 0 : (float)pow(10, -3 * spin_rng_uniform(rng));
    row.log_sum = 1;
    row.masked_count = spin_rng_below(rng, 2) * spin_rng_below(rng, SPIN_DRAW_MASKED_MAX + 1);
    for (uint32_t i = 0; i < row.masked_count; i++) {
        row.masked[i] = (int32_t)spin_rng_below(rng, vocab);
    }
    return row;
}

static void test_against_formula(void **state)
{
    (void)state;
    static const uint32_t vocabs[] = {1, 2, 3, 50, 257, 4096, VOCAB_MAX};
    static float logits[VOCAB_MAX];
    static struct entry entries[VOCAB_MAX];
    uint32_t compared = 0;
    uint32_t drawn_count = 0;
    for (uint32_t v = 0; v < SPIN_ARRAY_COUNT(vocabs); v++) {
        const uint32_t vocab = vocabs[v];
        struct spin_rng rng = {77, v, 0};
        for (uint32_t turn = 0; turn < (vocab > 10000 ? 12 : 150); turn++) {
            double sum = 0;
            for (uint32_t i = 0; i < vocab; i++) {
                const double logit = 3 * spin_rng_normal(&rng);
                /* some are equal */
                logits[i] = turn % 3 == 0 ? (float)round(logit) : (float)logit;
                sum += exp((double)logits[i]);
            }
            const struct spin_draw_row row = random_row(&rng, vocab);
            const struct spin_drawn drawn = draw_one(logits, vocab, &row);
            const struct expected expected = expect(&row, logits, vocab, entries);
            assert_true(fabs(drawn.log_sum - log(sum)) < 1e-12 * vocab + 1e-13);
            drawn_count++;
            if (expected.margin > MARGIN) {
                assert_int_equal(drawn.token, expected.token);
                compared++;
            }
            if (drawn.token >= 0) {
                assert_memory_equal(&drawn.logit, &logits[drawn.token], sizeof(float));
            }
        }
    }
    assert_true(compared > drawn_count * 9 / 10);
}

/* Where u goes through [0, 1) evenly, ids come as often as their weights say. */
static void test_shares(void **state)
{
    (void)state;
    enum { VOCAB = 9, DRAWS = 20000 };
    static float logits[VOCAB] = {0, 2, -1, 0.5F, 0.5F, -3, 1, -INFINITY, 2};
    const double temperature = 0.8;
    uint32_t counts[VOCAB] = {0};
    double sum = 0;
    for (uint32_t i = 0; i < VOCAB; i++) {
        sum += exp((double)logits[i] / temperature);
    }
    for (uint32_t i = 0; i < DRAWS; i++) {
        const struct spin_draw_row row = row_of((i + 0.5) / DRAWS, (float)temperature);
        counts[draw_one(logits, VOCAB, &row).token]++;
    }
    for (uint32_t i = 0; i < VOCAB; i++) {
        const double share = exp((double)logits[i] / temperature) / sum;
        assert_true(fabs(counts[i] - share * DRAWS) < 1.01);
    }
}

static void test_weights(void **state)
{
    (void)state;
    assert_int_equal(spin_draw_weight(0), SPIN_DRAW_ONE);
    assert_int_equal(spin_draw_weight(-0.0), SPIN_DRAW_ONE);
    assert_int_equal(spin_draw_weight(-7), SPIN_DRAW_ONE >> 7);
    assert_int_equal(spin_draw_weight(SPIN_DRAW_LOG2_MIN), 0);
    assert_int_equal(spin_draw_weight(-INFINITY), 0);
    assert_int_equal(spin_draw_weight((double)NAN), 0);
    uint32_t digit = SPIN_DRAW_DIGITS - 1;
    for (uint32_t i = 0; i < 1000000; i++) {
        const double t = -43.5 * (i + 0.123) / 1000000;
        const double exact = exp2(t + 43);
        const uint64_t weight = spin_draw_weight(t);
        assert_true(weight >= 1);
        assert_true(fabs((double)weight - exact) <= 0.5 + exact * 1e-14);
        assert_true(spin_draw_digit(t) <= digit);
        digit = spin_draw_digit(t);
    }
    assert_int_equal(spin_draw_digit(0), SPIN_DRAW_DIGITS - 1);
    assert_true(digit > 0 && digit < 100);
    static const float ascending[] = {-3e38F, -1, -1e-40F, 0, 1e-40F, 1, 3e38F};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(ascending); i++) {
        const uint32_t key = spin_draw_key(ascending[i]);
        assert_true(i == 0 || key > spin_draw_key(ascending[i - 1]));
        assert_true(spin_draw_key_value(key) == ascending[i]);
    }
    assert_int_equal(spin_draw_key(-0.0F), spin_draw_key(0));
    assert_true(spin_draw_key(-INFINITY) < spin_draw_key(-3.4e38F));
}

/* Where all are alike the ids that stay are the lowest, and u walks through them. */
static void test_equal_logits(void **state)
{
    (void)state;
    float logits[8];
    for (uint32_t i = 0; i < 8; i++) {
        logits[i] = i % 2 == 0 ? 0.0F : -0.0F;
    }
    struct spin_draw_row row = row_of(U_END, 1);
    assert_int_equal(draw_one(logits, 8, &row).token, 7);
    row.top_k = 3;
    assert_int_equal(draw_one(logits, 8, &row).token, 2);
    row.top_p = 0.5F; /* of three: two */
    assert_int_equal(draw_one(logits, 8, &row).token, 1);
    row.top_k = 0; /* of eight: four */
    assert_int_equal(draw_one(logits, 8, &row).token, 3);
    row.top_p = 1e-9F;
    assert_int_equal(draw_one(logits, 8, &row).token, 0);
    row = row_of(0.5, 1);
    row.min_p = 1; /* none is smaller than the largest */
    assert_int_equal(draw_one(logits, 8, &row).token, 4);
    row.masked_count = 2;
    row.masked[0] = 0;
    row.masked[1] = 4; /* what is left: 1 2 3 5 6 7 */
    assert_int_equal(draw_one(logits, 8, &row).token, 5);
    row.temperature = 0;
    assert_int_equal(draw_one(logits, 8, &row).token, 1);
}

static void test_ends(void **state)
{
    (void)state;
    static float logits[] = {1, 5, -2, 5, 4.5F, -60};
    struct spin_draw_row row = row_of(0, 1);
    assert_int_equal(draw_one(logits, 6, &row).token, 0);
    row.u = U_END; /* the last has no weight */
    assert_int_equal(draw_one(logits, 6, &row).token, 4);
    row.top_k = 1;
    assert_int_equal(draw_one(logits, 6, &row).token, 1);
    row = row_of(U_END, 100); /* here it has one */
    assert_int_equal(draw_one(logits, 6, &row).token, 5);
    row = row_of(U_END, 1e-40F);
    assert_int_equal(draw_one(logits, 6, &row).token, 3);
    row = row_of(U_END, 1);
    row.top_p = 0x1.fffffep-1F;
    assert_int_equal(draw_one(logits, 6, &row).token, 4);
    row = row_of(0, 1);
    row.min_p = 0.9F;
    assert_int_equal(draw_one(logits, 6, &row).token, 1);
    row.temperature = 0;
    row.u = U_END;
    assert_int_equal(draw_one(logits, 6, &row).token, 1);
    row.logits_row = 1; /* of [2][3] */
    assert_int_equal(draw_one(logits, 3, &row).token, 0);
    row = row_of(0, 0);
    const struct spin_drawn drawn = draw_one(logits, 6, &row);
    assert_true(isnan(drawn.log_sum) && drawn.logit == 5);
}

static void test_not_finite(void **state)
{
    (void)state;
    float logits[] = {NAN, -INFINITY, 1, INFINITY, 2, -NAN};
    struct spin_draw_row row = row_of(U_END, 1);
    row.log_sum = 1;
    struct spin_drawn drawn = draw_one(logits, 6, &row);
    assert_true(drawn.token == 4 && isnan(drawn.log_sum));
    row.temperature = 0;
    row.masked_count = 1;
    row.masked[0] = 4;
    assert_int_equal(draw_one(logits, 6, &row).token, 2);
    logits[2] = INFINITY;
    drawn = draw_one(logits, 6, &row);
    assert_true(drawn.token == -1 && isnan(drawn.logit) && isnan(drawn.log_sum));
    for (uint32_t i = 0; i < 6; i++) {
        logits[i] = -INFINITY;
    }
    drawn = draw_one(logits, 6, &row);
    assert_true(drawn.token == -1 && isnan(drawn.log_sum));
    logits[4] = -3; /* masked: not drawn, but of the sum */
    drawn = draw_one(logits, 6, &row);
    assert_true(drawn.token == -1 && drawn.log_sum == -3);
}

static void draw_broken(void *argument)
{
    static float logits[4] = {0};
    (void)draw_one(logits, 4, argument);
}

static void test_limits(void **state)
{
    (void)state;
    struct spin_draw_row row = row_of(1, 1);
    assert_true(spin_test_dies(draw_broken, &row, "row->u"));
    row = row_of(0, -1);
    assert_true(spin_test_dies(draw_broken, &row, "temperature"));
    row = row_of(0, 1);
    row.top_p = 0;
    assert_true(spin_test_dies(draw_broken, &row, "top_p"));
    row = row_of(0, 1);
    row.min_p = 1.5F;
    assert_true(spin_test_dies(draw_broken, &row, "min_p"));
    row = row_of(0, 1);
    row.masked_count = 1;
    row.masked[0] = 4;
    assert_true(spin_test_dies(draw_broken, &row, "masked"));
    row.masked_count = SPIN_DRAW_MASKED_MAX + 1;
    assert_true(spin_test_dies(draw_broken, &row, "masked_count"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_formula),
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_equal_logits),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
