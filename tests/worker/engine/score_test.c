/* Method: logits by prefill, by prefill in other chunks and by decode steps are the same bits, on
 * both tables; and the two tables agree as closely as their headers say. */
#include "worker/engine/score.h"

#include "base/rng.h"
#include "tests/spin_test.h"

#define TOKENS 150u

static const char *const models[] = {"random:tiny", "random:tiny-qwen2", "random:tiny-qwen3"};

struct logits {
    uint32_t vocab;
    uint32_t rows;
    float *values; /* [TOKENS][vocab] */
};

static void on_row(void *context, uint32_t position, const float *logits)
{
    struct logits *all = context;
    memcpy(all->values + (uint64_t)position * all->vocab, logits, all->vocab * sizeof *logits);
    all->rows++;
}

static struct logits make_logits(const struct spin_model *model)
{
    const struct logits logits = {model->config.vocab, 0,
                                  calloc((uint64_t)TOKENS * model->config.vocab, sizeof(float))};
    assert_non_null(logits.values);
    return logits;
}

static struct spin_scorer *make_scorer(const struct spin_model *model, const struct spin_ops *ops,
                                       uint32_t chunk_tokens, uint32_t super_chunk_tokens)
{
    struct spin_error err;
    struct spin_scorer_config config = spin_scorer_config_default(model);
    config.ops = ops;
    config.tokens_max = TOKENS;
    config.chunk_tokens = chunk_tokens;
    config.super_chunk_tokens = super_chunk_tokens;
    struct spin_scorer *scorer = NULL;
    SPIN_EXPECT_OK(spin_scorer_create(&config, model, &scorer, &err), &err);
    return scorer;
}

/* Prefills the first `prefilled` tokens and decodes the rest. */
static struct logits score(const struct spin_model *model, struct spin_scorer *scorer,
                           const int32_t *tokens, uint32_t prefilled)
{
    struct spin_error err;
    struct logits logits = make_logits(model);
    const struct spin_score_rows rows = {.first = 0, .row = on_row, .context = &logits};
    SPIN_EXPECT_OK(spin_scorer_prefill(scorer, tokens, prefilled, &rows, &err), &err);
    for (uint32_t i = prefilled; i < TOKENS; i++) {
        const float *row = NULL;
        SPIN_EXPECT_OK(spin_scorer_decode(scorer, tokens[i], &row, &err), &err);
        on_row(&logits, i, row);
    }
    assert_int_equal(logits.rows, TOKENS);
    return logits;
}

static void make_tokens(const struct spin_model *model, int32_t *tokens)
{
    struct spin_rng rng = {.seed = 4, .stream = 0, .counter = 0};
    for (uint32_t i = 0; i < TOKENS; i++) {
        tokens[i] = (int32_t)spin_rng_below(&rng, model->config.vocab);
    }
}

static void expect_one_answer(const char *name, const struct spin_ops *ops)
{
    struct spin_error err;
    struct spin_model *model = NULL;
    SPIN_EXPECT_OK(spin_model_open(name, &model, &err), &err);
    int32_t tokens[TOKENS];
    make_tokens(model, tokens);
    const uint64_t bytes = (uint64_t)TOKENS * model->config.vocab * sizeof(float);

    struct spin_scorer *whole = make_scorer(model, ops, 256, 256);
    const struct logits wanted = score(model, whole, tokens, TOKENS);
    const struct logits by_steps = score(model, whole, tokens, 1); /* also: it starts over */
    assert_memory_equal(by_steps.values, wanted.values, bytes);
    struct spin_scorer *cut = make_scorer(model, ops, 5, 128);
    const struct logits in_chunks = score(model, cut, tokens, 131);
    assert_memory_equal(in_chunks.values, wanted.values, bytes);

    spin_scorer_destroy(whole);
    spin_scorer_destroy(cut);
    free(wanted.values);
    free(by_steps.values);
    free(in_chunks.values);
    spin_model_close(model);
}

static void test_prefill_equals_decode(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(models); i++) {
        expect_one_answer(models[i], &spin_ops_ref);
        expect_one_answer(models[i], spin_ops_best_cpu());
    }
}

static void test_fast_is_close_to_reference(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(models); i++) {
        struct spin_error err;
        struct spin_model *model = NULL;
        SPIN_EXPECT_OK(spin_model_open(models[i], &model, &err), &err);
        int32_t tokens[TOKENS];
        make_tokens(model, tokens);
        struct spin_scorer *ref = make_scorer(model, &spin_ops_ref, 128, 256);
        struct spin_scorer *fast = make_scorer(model, spin_ops_best_cpu(), 128, 256);
        const struct logits wanted = score(model, ref, tokens, TOKENS);
        const struct logits got = score(model, fast, tokens, TOKENS);
        const double off = spin_test_relative_l2(got.values, wanted.values,
                                                 (uint64_t)TOKENS * model->config.vocab);
        if (!(off <= 3e-2)) {
            fail_msg("%s: relative L2 %g", models[i], off);
        }
        spin_scorer_destroy(ref);
        spin_scorer_destroy(fast);
        free(wanted.values);
        free(got.values);
        spin_model_close(model);
    }
}

static void test_limits(void **state)
{
    (void)state;
    struct spin_error err = {0};
    struct spin_model *model = NULL;
    SPIN_EXPECT_OK(spin_model_open(models[0], &model, &err), &err);
    struct spin_scorer *scorer = make_scorer(model, &spin_ops_ref, 64, 128);
    struct logits logits = make_logits(model);
    const struct spin_score_rows last = {.first = TOKENS - 1, .row = on_row, .context = &logits};
    int32_t tokens[TOKENS + 1] = {0};
    SPIN_EXPECT_STATUS(spin_scorer_prefill(scorer, tokens, TOKENS + 1, &last, &err),
                       SPIN_ERR_LIMIT);
    SPIN_EXPECT_STATUS(spin_scorer_prefill(scorer, tokens, 0, &last, &err), SPIN_ERR_INVALID);
    tokens[3] = 512;
    SPIN_EXPECT_STATUS(spin_scorer_prefill(scorer, tokens, 10, &last, &err), SPIN_ERR_INVALID);
    assert_string_equal(err.text, "token 512 at 3: must be 0 to 511");
    tokens[3] = 0;
    SPIN_EXPECT_OK(spin_scorer_prefill(scorer, tokens, TOKENS, &last, &err), &err);
    assert_int_equal(logits.rows, 1); /* none but the asked for */
    const float *row = NULL;
    SPIN_EXPECT_STATUS(spin_scorer_decode(scorer, 0, &row, &err), SPIN_ERR_LIMIT);
    SPIN_EXPECT_STATUS(spin_scorer_decode(scorer, -1, &row, &err), SPIN_ERR_INVALID);
    free(logits.values);
    spin_scorer_destroy(scorer);
    spin_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefill_equals_decode),
        cmocka_unit_test(test_fast_is_close_to_reference),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
