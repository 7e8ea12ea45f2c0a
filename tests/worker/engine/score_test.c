/* Method: logits by prefill, by prefill in other chunks and by decode steps are the same bits, on
 * both tables; and the two tables agree as closely as their headers say. A device that is not the
 * host has the host's bits, replayed steps and verify mode included. */
#include "worker/engine/score.h"

#include "base/rng.h"
#include "model/weights/place.h"
#include "tests/kernels/fake_device.h"
#include "tests/spin_test.h"

#define TOKENS 150u
#define DEVICE_BYTES (UINT64_C(64) << 20)

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

/* The weights where the stream's operations read them, the same BF16 on any stream. */
static struct logits score_on(struct spin_stream *stream, const struct spin_ops *ops,
                              const struct spin_sparse_options *sparse, const int32_t *tokens)
{
    struct spin_error err;
    struct spin_model *model = NULL;
    struct spin_model *placed = NULL;
    struct spin_scorer *scorer = NULL;
    SPIN_EXPECT_OK(spin_model_open(models[2], &model, &err), &err);
    SPIN_EXPECT_OK(spin_model_place(model, stream, &placed, &err), &err);
    struct spin_scorer_config config = spin_scorer_config_default(placed);
    config.ops = ops;
    config.stream = stream;
    config.tokens_max = TOKENS;
    config.chunk_tokens = 32;
    config.super_chunk_tokens = 64;
    config.sparse = *sparse;
    SPIN_EXPECT_OK(spin_scorer_create(&config, placed, &scorer, &err), &err);
    const struct logits logits = score(placed, scorer, tokens, TOKENS / 2);
    struct spin_forward_graph_stats graphs;
    spin_scorer_get_graph_stats(scorer, &graphs);
    assert_int_equal(graphs.replayed > 0, spin_stream_records(stream));
    spin_scorer_destroy(scorer);
    spin_model_close(placed);
    spin_model_close(model);
    spin_stream_destroy(stream);
    return logits;
}

/* The same bits as on the host, and on the device whatever is chosen when all is chosen. */
static void test_device_equals_host(void **state)
{
    (void)state;
    struct spin_error err;
    int32_t tokens[TOKENS];
    for (uint32_t i = 0; i < TOKENS; i++) {
        tokens[i] = (int32_t)(i * 7 % 512);
    }
    const struct spin_sparse_options options[] = {
        {.algorithm = &spin_sparse_dense},
        {.algorithm = &spin_sparse_quest, .min_context = 1, .verify = true},
        {.algorithm = &spin_sparse_shadowkv, .min_context = 1, .verify = true}};
    struct spin_stream *cpu = NULL;
    SPIN_EXPECT_OK(spin_stream_create_cpu(1, &cpu, &err), &err);
    struct logits host = score_on(cpu, &spin_ops_ref, &options[0], tokens);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(options); i++) {
        struct logits device =
            score_on(spin_fake_stream_create(DEVICE_BYTES), &spin_ops_fake, &options[i], tokens);
        assert_memory_equal(host.values, device.values,
                            (uint64_t)TOKENS * host.vocab * sizeof(float));
        free(device.values);
    }
    free(host.values);
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
        cmocka_unit_test(test_device_equals_host),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
