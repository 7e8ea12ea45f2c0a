/* Placed models against their sources, value by value: what the formats' own conversion says,
 * rounded to BF16; every shape of model, every format, matrices of more than one piece. */
#include "model/weights/place.h"

#include "base/rng.h"
#include "tests/spin_test.h"

#include <math.h>

#define FORMAT_ROWS 5u

static struct spin_model *open_model(const char *source)
{
    struct spin_error err = {0};
    struct spin_model *model = NULL;
    SPIN_EXPECT_OK(spin_model_open(source, &model, &err), &err);
    return model;
}

static struct spin_stream *open_stream(void)
{
    struct spin_error err = {0};
    struct spin_stream *stream = NULL;
    SPIN_EXPECT_OK(spin_stream_create_cpu(1, &stream, &err), &err);
    return stream;
}

static struct spin_model *place(const struct spin_model *model, struct spin_stream *stream)
{
    struct spin_error err = {0};
    struct spin_model *placed = NULL;
    SPIN_EXPECT_OK(spin_model_place(model, stream, &placed, &err), &err);
    return placed;
}

/* On the CPU the device's memory is the host's. */
static void expect_matrix(const struct spin_weight *placed, const struct spin_weight *source)
{
    const uint16_t *got = placed->data;
    float *row = calloc(source->cols, sizeof *row);
    assert_non_null(row);
    assert_int_equal(placed->dtype, SPIN_DTYPE_BF16);
    assert_int_equal(placed->rows, source->rows);
    assert_int_equal(placed->cols, source->cols);
    assert_true((uintptr_t)got % 64 == 0);
    for (uint32_t r = 0; r < source->rows; r++) {
        spin_dtype_to_f32(source->dtype,
                          (const uint8_t *)source->data +
                              r * spin_dtype_row_bytes(source->dtype, source->cols),
                          row, source->cols);
        for (uint32_t c = 0; c < source->cols; c++) {
            const uint16_t value = got[(uint64_t)r * source->cols + c];
            const bool both_nan = isnan(row[c]) && isnan(spin_f32_from_bf16(value));
            if (value != spin_bf16_from_f32(row[c]) && !both_nan) {
                fail_msg("%s, row %u, column %u", spin_dtype_name(source->dtype), r, c);
            }
        }
    }
    free(row);
}

static void expect_vector(const float *placed, const float *source, uint64_t count)
{
    if (source == NULL) {
        assert_null(placed);
        return;
    }
    assert_true(placed != source);
    assert_memory_equal(placed, source, count * sizeof *source);
}

static void expect_layer(const struct spin_model *placed, const struct spin_model *source,
                         uint32_t layer)
{
    const struct spin_model_config *config = &source->config;
    const struct spin_layer_weights *got = &placed->layers[layer];
    const struct spin_layer_weights *wanted = &source->layers[layer];
    const uint64_t q_width = (uint64_t)config->q_heads * config->head_dim;
    const uint64_t kv_width = (uint64_t)config->kv_heads * config->head_dim;
    expect_matrix(&got->q, &wanted->q);
    expect_matrix(&got->k, &wanted->k);
    expect_matrix(&got->v, &wanted->v);
    expect_matrix(&got->o, &wanted->o);
    expect_matrix(&got->gate, &wanted->gate);
    expect_matrix(&got->up, &wanted->up);
    expect_matrix(&got->down, &wanted->down);
    expect_vector(got->attn_norm, wanted->attn_norm, config->hidden);
    expect_vector(got->ffn_norm, wanted->ffn_norm, config->hidden);
    expect_vector(got->q_norm, wanted->q_norm, config->head_dim);
    expect_vector(got->k_norm, wanted->k_norm, config->head_dim);
    expect_vector(got->q_bias, wanted->q_bias, q_width);
    expect_vector(got->k_bias, wanted->k_bias, kv_width);
    expect_vector(got->v_bias, wanted->v_bias, kv_width);
}

static void expect_model(const struct spin_model *placed, const struct spin_model *source)
{
    assert_string_equal(placed->name, source->name);
    assert_memory_equal(&placed->id, &source->id, sizeof placed->id);
    assert_true(placed->weight_bytes == spin_model_placed_bytes(source));
    expect_matrix(&placed->embed, &source->embed);
    expect_matrix(&placed->lm_head, &source->lm_head);
    assert_int_equal(placed->lm_head.data == placed->embed.data, source->config.tied);
    expect_vector(placed->output_norm, source->output_norm, source->config.hidden);
    for (uint32_t layer = 0; layer < source->config.layers; layer++) {
        expect_layer(placed, source, layer);
    }
}

/* Tied and not, with biases, with norms of q and k; and an embedding of several pieces. */
static void test_every_tensor_is_placed(void **state)
{
    (void)state;
    static const char *const sources[] = {"random:tiny:3", "random:tiny-qwen2", "random:tiny-qwen3",
                                          "random:smollm2-135m"};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(sources); i++) {
        struct spin_stream *stream = open_stream();
        struct spin_model *source = open_model(sources[i]);
        struct spin_model *placed = place(source, stream);
        expect_model(placed, source);
        spin_model_close(source);
        spin_model_close(placed);
        spin_stream_destroy(stream);
    }
}

static void test_every_format_becomes_bf16(void **state)
{
    (void)state;
    struct spin_stream *stream = open_stream();
    struct spin_model *source = open_model("random:tiny");
    struct spin_rng rng = {.seed = 5, .stream = 0, .counter = 0};
    const struct spin_weight own = source->layers[1].up;
    for (uint32_t dtype = 0; dtype < SPIN_DTYPE_COUNT; dtype++) {
        /* A width that is whole blocks of any format, and not whole groups of the conversion. */
        struct spin_weight weight = {
            .dtype = (enum spin_dtype)dtype, .rows = FORMAT_ROWS, .cols = 1280};
        const uint64_t bytes = weight.rows * spin_dtype_row_bytes(weight.dtype, weight.cols);
        uint8_t *data = calloc(1, bytes);
        assert_non_null(data);
        for (uint64_t b = 0; b < bytes; b++) {
            data[b] = (uint8_t)spin_rng_below(&rng, 256); /* NaN and infinities, too */
        }
        weight.data = data;
        source->layers[1].up = weight;
        struct spin_model *placed = place(source, stream);
        expect_matrix(&placed->layers[1].up, &weight);
        expect_matrix(&placed->layers[1].down, &source->layers[1].down); /* its neighbour */
        spin_model_close(placed);
        free(data);
    }
    source->layers[1].up = own;
    spin_model_close(source);
    spin_stream_destroy(stream);
}

/* What a llama 3 file carries beside its tensors. */
static void test_divisors_outlive_the_source(void **state)
{
    (void)state;
    struct spin_stream *stream = open_stream();
    struct spin_model *source = open_model("random:tiny");
    const uint32_t count = source->config.rope.dim / 2;
    float *divisors = calloc(count, sizeof *divisors);
    assert_non_null(divisors);
    for (uint32_t i = 0; i < count; i++) {
        divisors[i] = 1.0F + (float)i;
    }
    source->config.rope.divisors = divisors;
    struct spin_model *placed = place(source, stream);
    source->config.rope.divisors = NULL;
    spin_model_close(source);
    free(divisors);
    for (uint32_t i = 0; i < count; i++) {
        assert_true(placed->config.rope.divisors[i] == 1.0F + (float)i);
    }
    spin_model_close(placed);
    spin_stream_destroy(stream);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_tensor_is_placed),
        cmocka_unit_test(test_every_format_becomes_bf16),
        cmocka_unit_test(test_divisors_outlive_the_source),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
