/* Random weights against their definition, recomputed element by element; their spread against
 * 1 / fan_in; that a name or a seed makes a model another one; ids against golden values. */
#include "base/rng.h"
#include "model/weights/model.h"
#include "tests/spin_test.h"

static struct spin_model *open_model(const char *source)
{
    struct spin_error err = {0};
    struct spin_model *model = NULL;
    SPIN_EXPECT_OK(spin_model_open(source, &model, &err), &err);
    return model;
}

/* docs/formats.md, "Random weights". */
static void expect_definition(const struct spin_weight *weight, uint64_t seed, uint64_t tensor)
{
    const uint16_t *values = weight->data;
    const double amplitude = sqrt(3.0 / (double)weight->cols);
    assert_int_equal(weight->dtype, SPIN_DTYPE_BF16);
    for (uint64_t e = 0; e < (uint64_t)weight->rows * weight->cols; e++) {
        const struct spin_philox_block block = spin_philox(seed, tensor, e / 8);
        const uint32_t lane = block.word[e % 8 / 2] >> (e % 2 * 16) & 0xffff;
        const float wanted = (float)((2.0 * (double)lane - 65535) / 65536 * amplitude);
        if (values[e] != spin_bf16_from_f32(wanted)) {
            fail_msg("tensor %u, element %u", (uint32_t)tensor, (uint32_t)e);
        }
    }
}

static void test_definition(void **state)
{
    (void)state;
    struct spin_model *model = open_model("random:tiny:7");
    assert_string_equal(model->name, "random:tiny:7");
    assert_int_equal(model->config.vocab, 512);
    assert_true(model->config.tied);
    expect_definition(&model->embed, 7, 0);
    expect_definition(&model->layers[0].q, 7, 3 + 1);
    expect_definition(&model->layers[1].down, 7, 3 + 14 + 13);
    spin_model_close(model);

    model = open_model("random:tiny-qwen3");
    assert_false(model->config.tied);
    expect_definition(&model->lm_head, 0, 2);
    for (uint32_t i = 0; i < model->config.head_dim; i++) {
        const double wanted = 1 + 0.2 * (spin_philox_uniform(0, 3 + 8, i) - 0.5);
        assert_true(model->layers[0].q_norm[i] == (float)wanted);
    }
    spin_model_close(model);
}

static void test_spread(void **state)
{
    (void)state;
    struct spin_model *model = open_model("random:tiny-qwen2:3");
    const struct spin_weight *weight = &model->layers[2].down;
    const uint64_t count = (uint64_t)weight->rows * weight->cols;
    float *values = malloc(count * sizeof *values);
    assert_non_null(values);
    spin_dtype_to_f32(weight->dtype, weight->data, values, count);
    double sum = 0;
    double squares = 0;
    for (uint64_t i = 0; i < count; i++) {
        sum += (double)values[i];
        squares += (double)values[i] * (double)values[i];
    }
    /* 15,360 values of variance 1 / 160: four standard errors. */
    assert_true(fabs(sum / (double)count) < 4 * sqrt(1.0 / 160 / (double)count));
    assert_true(fabs(squares / (double)count * 160 - 1) < 0.03);
    for (uint32_t i = 0; i < 32; i++) {
        assert_true(fabs((double)model->layers[0].k_bias[i]) <= 0.1);
        assert_true(fabs((double)model->layers[0].attn_norm[i] - 1) <= 0.1);
    }
    free(values);
    spin_model_close(model);
}

static void test_identity(void **state)
{
    (void)state;
    static const char *const sources[] = {"random:tiny", "random:tiny:0", "random:tiny:1",
                                          "random:tiny-qwen2", "random:tiny-qwen3"};
    struct spin_model_id ids[SPIN_ARRAY_COUNT(sources)];
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(sources); i++) {
        struct spin_model *model = open_model(sources[i]);
        ids[i] = model->id;
        spin_model_close(model);
        for (uint32_t k = 0; k < i; k++) {
            const bool same = memcmp(&ids[i], &ids[k], sizeof ids[i]) == 0;
            assert_int_equal(same, i == 1 && k == 0); /* the default seed is 0 */
        }
    }
}

/* Ids are on the wire: a change of theirs needs a new domain text. The values are by
 * make_id_golden.py, which has the weights and the id from docs/formats.md. */
static void test_id_golden(void **state)
{
    (void)state;
    static const struct {
        const char *source;
        const char *id;
    } rows[] = {
        {"random:tiny", "5abe75e04a7fbc7eaebf843bd39441e1"},
        {"random:tiny-qwen2:5", "995f1aa8c44c0bee6ee6a26525d0dc49"},
        {"random:tiny-qwen3", "522fd20e8ce3b671406198f937080fac"},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        struct spin_model *model = open_model(rows[i].source);
        char text[2 * SPIN_MODEL_ID_BYTES + 1];
        for (uint32_t k = 0; k < SPIN_MODEL_ID_BYTES; k++) {
            (void)snprintf(text + (size_t)2 * k, 3, "%02x", model->id.bytes[k]);
        }
        assert_string_equal(text, rows[i].id);
        spin_model_close(model);
    }
}

static void test_errors(void **state)
{
    (void)state;
    static const struct {
        const char *source;
        spin_status status;
        const char *words;
    } rows[] = {
        {"random:", SPIN_ERR_NOT_FOUND, "the shapes are tiny, "},
        {"random:tin", SPIN_ERR_NOT_FOUND, "random:tin: the shapes are"},
        {"random:tiny:", SPIN_ERR_INVALID, "the seed must be a number"},
        {"random:tiny:-1", SPIN_ERR_INVALID, "the seed must be a number"},
        {"random:tiny: 1", SPIN_ERR_INVALID, "the seed must be a number"},
        {"random:tiny:1x", SPIN_ERR_INVALID, "the seed must be a number"},
        {"random:tiny:99999999999999999999", SPIN_ERR_INVALID, "the seed must be a number"},
        {"/does/not/exist", SPIN_ERR_NOT_FOUND, "/does/not/exist"},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        struct spin_error err = {0};
        struct spin_model *model = NULL;
        SPIN_EXPECT_STATUS(spin_model_open(rows[i].source, &model, &err), rows[i].status);
        if (strstr(err.text, rows[i].words) == NULL) {
            fail_msg("%s: got \"%s\"", rows[i].source, err.text);
        }
    }
    spin_model_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definition), cmocka_unit_test(test_spread),
        cmocka_unit_test(test_identity),   cmocka_unit_test(test_id_golden),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
