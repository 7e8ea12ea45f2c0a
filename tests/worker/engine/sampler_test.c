/* Method: an obvious implementation in double, with a full sort, written from the formula in the
 * header, must pick the same token in thousands of random cases; what is left after filtering is
 * also compared in frequency (chi-square), and the fixed rules (ties, masks, order) one by one. */
#include "worker/engine/sampler.h"

#include "base/rng.h"
#include "tests/spin_test.h"

#define VOCAB_MAX 2000u

struct entry {
    uint32_t id;
    float logit;
    double weight;
};

/* Largest first; equal: lower id first. */
static int compare_entries(const void *a, const void *b)
{
    const struct entry *x = a;
    const struct entry *y = b;
    if (x->logit != y->logit) {
        return x->logit > y->logit ? -1 : 1;
    }
    return x->id < y->id ? -1 : x->id > y->id;
}

static uint32_t count_of(const int32_t *tokens, uint32_t count, uint32_t id)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < count; i++) {
        found += (uint32_t)tokens[i] == id;
    }
    return found;
}

static float naive_logit(const struct spin_sampler_row *row, uint32_t id)
{
    const struct spin_sampling *s = row->sampling;
    float logit = row->logits[id];
    for (uint32_t i = 0; i < s->logit_bias_count; i++) {
        logit += (uint32_t)s->logit_bias[i].token == id ? s->logit_bias[i].bias : 0;
    }
    const int32_t *generated = row->tokens + row->prompt_count;
    const uint32_t seen = count_of(row->tokens, row->prompt_count + row->generated_count, id);
    if (seen > 0 && s->repetition_penalty != 1) {
        logit = logit > 0 ? logit / s->repetition_penalty : logit * s->repetition_penalty;
    }
    const uint32_t output = count_of(generated, row->generated_count, id);
    if (output > 0) {
        logit -= s->presence_penalty + s->frequency_penalty * (float)output;
    }
    return count_of(row->masked, row->masked_count, id) > 0 ? -INFINITY : logit;
}

/* Fills `entries` with the candidates in order; returns how many may be drawn. */
static uint32_t naive_candidates(const struct spin_sampler_row *row, struct entry *entries)
{
    const struct spin_sampling *s = row->sampling;
    for (uint32_t i = 0; i < row->vocab; i++) {
        entries[i] = (struct entry){i, naive_logit(row, i), 0};
    }
    qsort(entries, row->vocab, sizeof *entries, compare_entries);
    uint32_t kept = row->vocab;
    while (kept > 1 && !isfinite(entries[kept - 1].logit)) {
        kept--;
    }
    if (s->temperature == 0) {
        return 1;
    }
    for (uint32_t i = 0; i < kept; i++) {
        entries[i].weight =
            exp(((double)entries[i].logit - (double)entries[0].logit) / (double)s->temperature);
    }
    kept = s->top_k != 0 && s->top_k < kept ? s->top_k : kept;
    double total = 0;
    for (uint32_t i = 0; i < kept; i++) {
        total += entries[i].weight;
    }
    double sum = 0;
    for (uint32_t i = 0; i < kept && s->top_p < 1; i++) {
        sum += entries[i].weight;
        if (sum >= (double)s->top_p * total) {
            kept = i + 1;
        }
    }
    while (kept > 1 && entries[kept - 1].weight < (double)s->min_p) {
        kept--;
    }
    return kept;
}

static int32_t naive_draw(const struct spin_sampler_row *row)
{
    static struct entry entries[VOCAB_MAX];
    static double weights[VOCAB_MAX];
    const uint32_t kept = naive_candidates(row, entries);
    if (row->sampling->temperature == 0) {
        return (int32_t)entries[0].id;
    }
    memset(weights, 0, sizeof weights);
    double total = 0;
    for (uint32_t i = 0; i < kept; i++) {
        weights[entries[i].id] = entries[i].weight;
        total += entries[i].weight;
    }
    const double u = spin_philox_uniform(row->sampling->seed, 1, row->generated_count);
    double sum = 0;
    uint32_t chosen = 0;
    for (uint32_t i = 0; i < row->vocab; i++) {
        sum += weights[i];
        if (weights[i] > 0) {
            chosen = i;
            if (sum > u * total) {
                break;
            }
        }
    }
    return (int32_t)chosen;
}

struct random_case {
    float logits[VOCAB_MAX];
    int32_t tokens[64];
    int32_t masked[4];
    struct spin_logit_bias bias[8];
    struct spin_sampling sampling;
    struct spin_sampler_row row;
};

static float pick(struct spin_rng *rng, const float *choices, uint32_t count)
{
    return choices[spin_rng_below(rng, count)];
}

#define PICK(rng, ...) \
    pick((rng), (const float[]){__VA_ARGS__}, SPIN_ARRAY_COUNT(((const float[]){__VA_ARGS__})))

static void make_case(struct random_case *c, struct spin_rng *rng)
{
    const uint32_t vocab = 1 + spin_rng_below(rng, VOCAB_MAX);
    const float spread = PICK(rng, 0.1F, 1, 5, 100);
    const bool coarse = spin_rng_below(rng, 3) == 0; /* many ties */
    for (uint32_t i = 0; i < vocab; i++) {
        const float value = spread * (float)spin_rng_normal(rng);
        c->logits[i] = coarse ? roundf(value) : value;
    }
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(c->tokens); i++) {
        c->tokens[i] = (int32_t)spin_rng_below(rng, vocab);
    }
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(c->masked); i++) {
        c->masked[i] = (int32_t)spin_rng_below(rng, vocab);
    }
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(c->bias); i++) {
        c->bias[i] = (struct spin_logit_bias){(int32_t)spin_rng_below(rng, vocab),
                                              PICK(rng, -100, -1, 0.5F, 3, 100)};
    }
    c->sampling = (struct spin_sampling){
        .temperature = PICK(rng, 0, 0.3F, 0.7F, 1, 2),
        .top_p = PICK(rng, 1, 1, 0.1F, 0.5F, 0.9F, 0.95F),
        .top_k = spin_rng_below(rng, 2) == 0 ? 0 : 1 + spin_rng_below(rng, 100),
        .min_p = PICK(rng, 0, 0, 0.05F, 0.5F),
        .presence_penalty = PICK(rng, 0, 0, 1.5F, -1),
        .frequency_penalty = PICK(rng, 0, 0, 0.5F, -0.25F),
        .repetition_penalty = PICK(rng, 1, 1, 1.3F, 0.8F),
        .seed = spin_rng_u32(rng),
        .logit_bias = c->bias,
        .logit_bias_count = spin_rng_below(rng, SPIN_ARRAY_COUNT(c->bias) + 1),
    };
    c->row = (struct spin_sampler_row){
        .logits = c->logits,
        .vocab = vocab,
        .sampling = &c->sampling,
        .tokens = c->tokens,
        .prompt_count = 1 + spin_rng_below(rng, 30),
        .generated_count = spin_rng_below(rng, 30),
        .masked = c->masked,
        .masked_count = vocab > 8 ? spin_rng_below(rng, SPIN_ARRAY_COUNT(c->masked) + 1) : 0,
    };
}

static struct spin_sampler_scratch *make_scratch(uint32_t vocab)
{
    struct spin_error err;
    struct spin_sampler_scratch *scratch = NULL;
    SPIN_EXPECT_OK(spin_sampler_scratch_create(vocab, &scratch, &err), &err);
    return scratch;
}

static int32_t draw(const struct spin_sampler_row *row)
{
    struct spin_sampler_scratch *scratch = make_scratch(row->vocab);
    int32_t token = -1;
    SPIN_EXPECT_OK(spin_sampler_draw(row, scratch, &token), NULL);
    int32_t again = -1; /* whatever a draw leaves in the scratch does not matter */
    SPIN_EXPECT_OK(spin_sampler_draw(row, scratch, &again), NULL);
    assert_int_equal(token, again);
    spin_sampler_scratch_destroy(scratch);
    return token;
}

static void test_equals_sorting(void **state)
{
    (void)state;
    static struct random_case c;
    struct spin_rng rng = {.seed = 1, .stream = 0, .counter = 0};
    for (int i = 0; i < 4000; i++) {
        make_case(&c, &rng);
        const int32_t wanted = naive_draw(&c.row);
        const int32_t got = draw(&c.row);
        if (got != wanted) {
            fail_msg("case %d: got %d, wanted %d (vocab %u, temperature %g, top_k %u, top_p %g)", i,
                     got, wanted, c.row.vocab, (double)c.sampling.temperature, c.sampling.top_k,
                     (double)c.sampling.top_p);
        }
    }
}

/* 20,000 draws against the probabilities that the naive filter leaves. The 0.999 quantile of
 * chi-square with k degrees is below k + 3.1 sqrt(2 k) + 7. */
static void check_frequencies(struct spin_sampling sampling)
{
    enum { VOCAB = 50, DRAWS = 20000 };
    float logits[VOCAB];
    struct spin_rng rng = {.seed = 3, .stream = 0, .counter = 0};
    for (uint32_t i = 0; i < VOCAB; i++) {
        logits[i] = 2 * (float)spin_rng_normal(&rng);
    }
    const int32_t tokens[1] = {0};
    struct spin_sampler_row row = {.logits = logits,
                                   .vocab = VOCAB,
                                   .sampling = &sampling,
                                   .tokens = tokens,
                                   .prompt_count = 1};
    static struct entry entries[VOCAB_MAX];
    const uint32_t kept = naive_candidates(&row, entries);
    double total = 0;
    for (uint32_t i = 0; i < kept; i++) {
        total += entries[i].weight;
    }
    uint32_t seen[VOCAB] = {0};
    struct spin_sampler_scratch *scratch = make_scratch(VOCAB);
    for (uint32_t i = 0; i < DRAWS; i++) {
        int32_t token = -1;
        sampling.seed = i;
        SPIN_EXPECT_OK(spin_sampler_draw(&row, scratch, &token), NULL);
        seen[token]++;
    }
    spin_sampler_scratch_destroy(scratch);
    double chi = 0;
    uint32_t counted = 0;
    for (uint32_t i = 0; i < kept; i++) {
        const double expected = DRAWS * entries[i].weight / total;
        const double off = seen[entries[i].id] - expected;
        chi += off * off / expected;
        counted += seen[entries[i].id];
    }
    assert_int_equal(counted, DRAWS); /* nothing else was drawn */
    assert_true(chi < kept + 3.1 * sqrt(2.0 * kept) + 7);
}

static void test_frequencies(void **state)
{
    (void)state;
    struct spin_sampling sampling = spin_sampling_default();
    sampling.temperature = 1;
    check_frequencies(sampling);
    sampling.temperature = 0.7F;
    sampling.top_k = 12;
    check_frequencies(sampling);
    sampling.top_k = 0;
    sampling.top_p = 0.8F;
    check_frequencies(sampling);
    sampling.top_p = 1;
    sampling.min_p = 0.1F;
    check_frequencies(sampling);
}

/* The n-th draw depends on how many tokens there are, not on who drew them. */
static void test_resumed_equals_continuous(void **state)
{
    (void)state;
    static struct random_case c;
    struct spin_rng rng = {.seed = 5, .stream = 0, .counter = 0};
    make_case(&c, &rng);
    c.sampling.temperature = 1.5F;
    int32_t tokens[40] = {3 % (int32_t)c.row.vocab};
    c.row.tokens = tokens;
    c.row.prompt_count = 1;
    for (uint32_t n = 0; n < 39; n++) {
        c.row.generated_count = n;
        tokens[1 + n] = draw(&c.row);
    }
    for (uint32_t n = 38; n > 20; n--) { /* backwards, each in a fresh scratch */
        c.row.generated_count = n;
        assert_int_equal(draw(&c.row), tokens[1 + n]);
    }
}

static struct spin_sampler_row simple_row(const float *logits, uint32_t vocab,
                                          const struct spin_sampling *sampling)
{
    static const int32_t tokens[8] = {0, 1, 1, 2, 2, 2, 3, 3};
    return (struct spin_sampler_row){.logits = logits,
                                     .vocab = vocab,
                                     .sampling = sampling,
                                     .tokens = tokens,
                                     .prompt_count = 2,
                                     .generated_count = 4};
}

static void test_greedy_ties_and_nans(void **state)
{
    (void)state;
    const struct spin_sampling sampling = spin_sampling_default();
    const float ties[5] = {-1, 7, 3, 7, 7};
    struct spin_sampler_row row = simple_row(ties, 5, &sampling);
    assert_int_equal(draw(&row), 1);
    const float bad[5] = {NAN, -INFINITY, -3, INFINITY, -2};
    row.logits = bad;
    assert_int_equal(draw(&row), 4);
    const float none[4] = {NAN, -INFINITY, NAN, INFINITY};
    row = simple_row(none, 4, &sampling);
    struct spin_sampler_scratch *scratch = make_scratch(4);
    int32_t token = 77;
    SPIN_EXPECT_STATUS(spin_sampler_draw(&row, scratch, &token), SPIN_ERR_CORRUPT);
    assert_int_equal(token, 77);
    spin_sampler_scratch_destroy(scratch);
}

/* Worked by hand: prompt {0, 1}, output {1, 2, 2, 2}. */
static void test_penalties_by_hand(void **state)
{
    (void)state;
    struct spin_sampling sampling = spin_sampling_default();
    const float logits[5] = {4, 3.9F, 3.8F, -5, 1};
    struct spin_sampler_row row = simple_row(logits, 5, &sampling);
    sampling.repetition_penalty = 2; /* 2, 1.95, 1.9, -5, 1 */
    assert_int_equal(draw(&row), 0);
    sampling.repetition_penalty = 5; /* 0.8, 0.78, 0.76, -5, 1 */
    assert_int_equal(draw(&row), 4);
    sampling.repetition_penalty = 0.5F; /* 8, 7.8, 7.6, -5, 1: a penalty below 1 rewards */
    sampling.presence_penalty = -0.5F;  /* 8, 8.3, 8.1 */
    assert_int_equal(draw(&row), 1);
    sampling.frequency_penalty = -0.5F; /* 8, 8.8, 9.6 */
    assert_int_equal(draw(&row), 2);
    const float negative[5] = {-1, -2, -2, -1.5F, -9};
    row.logits = negative;
    sampling = spin_sampling_default();
    sampling.repetition_penalty = 2; /* -2, -4, -4, -1.5: 3 was not seen */
    assert_int_equal(draw(&row), 3);
}

static void test_bias_and_mask(void **state)
{
    (void)state;
    const struct spin_logit_bias bias[2] = {{3, 100}, {0, -100}};
    struct spin_sampling sampling = spin_sampling_default();
    sampling.logit_bias = bias;
    sampling.logit_bias_count = 2;
    const float logits[5] = {9, 1, 2, 3, 4};
    struct spin_sampler_row row = simple_row(logits, 5, &sampling);
    assert_int_equal(draw(&row), 3);
    const int32_t masked[2] = {3, 4};
    row.masked = masked;
    row.masked_count = 2; /* after the bias: nothing brings a masked token back */
    assert_int_equal(draw(&row), 2);
}

static void test_logprobs(void **state)
{
    (void)state;
    const float logits[6] = {1, 2, 3, 2, -50, 3};
    double sum = 0;
    for (int i = 0; i < 6; i++) {
        sum += exp((double)logits[i]);
    }
    assert_true(fabs(spin_sampler_log_sum(logits, 6) - log(sum)) < 1e-12);
    struct spin_top_logprob top[SPIN_TOP_LOGPROBS_MAX];
    assert_int_equal(spin_sampler_top(logits, 6, 4, top), 4);
    const int32_t order[4] = {2, 5, 1, 3};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(top[i].token, order[i]);
        assert_true(fabs((double)top[i].logprob - ((double)logits[order[i]] - log(sum))) < 1e-6);
    }
    assert_int_equal(spin_sampler_top(logits, 6, 20, top), 6); /* more than there are */
    assert_int_equal(spin_sampler_top(logits, 6, 0, top), 0);
    const float large[2] = {1000, 1000}; /* whose exp overflows */
    assert_int_equal(spin_sampler_top(large, 2, 2, top), 2);
    assert_true(fabs((double)top[0].logprob + log(2)) < 1e-6);
}

struct wrong {
    const char *field;
    struct spin_sampling sampling;
};

static void test_ranges(void **state)
{
    (void)state;
    const struct spin_logit_bias outside = {500, 1};
    const struct spin_logit_bias heavy = {5, 101};
    struct wrong wrong[14];
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(wrong); i++) {
        wrong[i].sampling = spin_sampling_default();
    }
    uint32_t n = 0;
#define WRONG(name, member, number) \
    wrong[n].field = (name); \
    wrong[n++].sampling.member = (number)
    WRONG("temperature", temperature, -0.1F);
    WRONG("temperature", temperature, 101);
    WRONG("temperature", temperature, NAN);
    WRONG("top_p", top_p, 0);
    WRONG("top_p", top_p, 1.01F);
    WRONG("min_p", min_p, -0.01F);
    WRONG("min_p", min_p, 1.01F);
    WRONG("presence_penalty", presence_penalty, 2.1F);
    WRONG("frequency_penalty", frequency_penalty, -2.1F);
    WRONG("repetition_penalty", repetition_penalty, 0);
    WRONG("repetition_penalty", repetition_penalty, 10.1F);
    WRONG("logit_bias", logit_bias_count, SPIN_LOGIT_BIAS_MAX + 1);
    wrong[n].sampling.logit_bias_count = 1;
    WRONG("logit_bias token 500", logit_bias, &outside);
    wrong[n].sampling.logit_bias_count = 1;
    WRONG("logit_bias 101", logit_bias, &heavy);
    assert_int_equal(n, SPIN_ARRAY_COUNT(wrong));
    for (uint32_t i = 0; i < n; i++) {
        struct spin_error err = {0};
        const spin_status status = spin_sampling_check(&wrong[i].sampling, 500, &err);
        assert_true(status == SPIN_ERR_INVALID || status == SPIN_ERR_LIMIT);
        assert_int_equal(strncmp(err.text, wrong[i].field, strlen(wrong[i].field)), 0);
    }
    const struct spin_sampling fine = spin_sampling_default();
    SPIN_EXPECT_OK(spin_sampling_check(&fine, 500, NULL), NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_sorting),
        cmocka_unit_test(test_frequencies),
        cmocka_unit_test(test_resumed_equals_continuous),
        cmocka_unit_test(test_greedy_ties_and_nans),
        cmocka_unit_test(test_penalties_by_hand),
        cmocka_unit_test(test_bias_and_mask),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
