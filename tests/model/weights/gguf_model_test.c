/* A small llama in a GGUF file is opened and each field and tensor compared with what was written;
 * then a table of changes, each with the status and the words that the error must have. */
#include "base/assert.h"
#include "model/weights/weights_internal.h"
#include "tests/model/built_file.h"
#include "tests/model/gguf_builder.h"
#include "tests/spin_test.h"

#define LAYERS 2
#define HIDDEN 64
#define FFN 96
#define KV 32
#define VOCAB 40

static const char *const layer_tensors[LAYERS][14] = {
    {"blk.0.attn_norm.weight", "blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight",
     "blk.0.attn_output.weight", "blk.0.ffn_norm.weight", "blk.0.ffn_gate.weight",
     "blk.0.ffn_up.weight", "blk.0.ffn_down.weight", "blk.0.attn_q.bias", "blk.0.attn_k.bias",
     "blk.0.attn_v.bias", "blk.0.attn_q_norm.weight", "blk.0.attn_k_norm.weight"},
    {"blk.1.attn_norm.weight", "blk.1.attn_q.weight", "blk.1.attn_k.weight", "blk.1.attn_v.weight",
     "blk.1.attn_output.weight", "blk.1.ffn_norm.weight", "blk.1.ffn_gate.weight",
     "blk.1.ffn_up.weight", "blk.1.ffn_down.weight", "blk.1.attn_q.bias", "blk.1.attn_k.bias",
     "blk.1.attn_v.bias", "blk.1.attn_q_norm.weight", "blk.1.attn_k_norm.weight"},
};

/* The keys of a family that the test does not change are the same but for the prefix. */
struct key_names {
    const char *layers, *hidden, *ffn, *context, *heads, *kv_heads, *eps, *base;
};
static const struct key_names llama_keys = {"llama.block_count",
                                            "llama.embedding_length",
                                            "llama.feed_forward_length",
                                            "llama.context_length",
                                            "llama.attention.head_count",
                                            "llama.attention.head_count_kv",
                                            "llama.attention.layer_norm_rms_epsilon",
                                            "llama.rope.freq_base"};
static const struct key_names qwen2_keys = {"qwen2.block_count",
                                            "qwen2.embedding_length",
                                            "qwen2.feed_forward_length",
                                            "qwen2.context_length",
                                            "qwen2.attention.head_count",
                                            "qwen2.attention.head_count_kv",
                                            "qwen2.attention.layer_norm_rms_epsilon",
                                            "qwen2.rope.freq_base"};
static const struct key_names qwen3_keys = {"qwen3.block_count",
                                            "qwen3.embedding_length",
                                            "qwen3.feed_forward_length",
                                            "qwen3.context_length",
                                            "qwen3.attention.head_count",
                                            "qwen3.attention.head_count_kv",
                                            "qwen3.attention.layer_norm_rms_epsilon",
                                            "qwen3.rope.freq_base"};

static void make_model(struct gguf_builder *b, const char *arch, const struct key_names *keys)
{
    spin_gguf_builder_init(b);
    spin_gguf_builder_string(b, "general.architecture", arch);
    spin_gguf_builder_string(b, "general.name", "a\tname");
    spin_gguf_builder_u32(b, keys->layers, LAYERS);
    spin_gguf_builder_u32(b, keys->hidden, HIDDEN);
    spin_gguf_builder_u32(b, keys->ffn, FFN);
    spin_gguf_builder_u32(b, keys->context, 2048);
    spin_gguf_builder_u32(b, keys->heads, 4);
    spin_gguf_builder_u32(b, keys->kv_heads, 2);
    spin_gguf_builder_f32(b, keys->eps, 1e-5f);
    spin_gguf_builder_f32(b, keys->base, 50000);
    spin_gguf_builder_tensor(b, "token_embd.weight", 8, VOCAB, HIDDEN);
    spin_gguf_builder_tensor(b, "output_norm.weight", 0, 0, HIDDEN);
    for (uint32_t i = 0; i < LAYERS; i++) {
        const char *const *names = layer_tensors[i];
        spin_gguf_builder_tensor(b, names[0], 0, 0, HIDDEN);
        spin_gguf_builder_tensor(b, names[1], 3, HIDDEN, HIDDEN);
        spin_gguf_builder_tensor(b, names[2], 2, KV, HIDDEN);
        spin_gguf_builder_tensor(b, names[3], 30, KV, HIDDEN);
        spin_gguf_builder_tensor(b, names[4], 1, HIDDEN, HIDDEN);
        spin_gguf_builder_tensor(b, names[5], 30, 0, HIDDEN);
        spin_gguf_builder_tensor(b, names[6], 8, FFN, HIDDEN);
        spin_gguf_builder_tensor(b, names[7], 0, FFN, HIDDEN);
        spin_gguf_builder_tensor(b, names[8], 3, HIDDEN, FFN);
    }
}

static void make_llama(struct gguf_builder *b)
{
    make_model(b, "llama", &llama_keys);
}

static void make_qwen2(struct gguf_builder *b)
{
    make_model(b, "qwen2", &qwen2_keys);
    for (uint32_t i = 0; i < LAYERS; i++) {
        spin_gguf_builder_tensor(b, layer_tensors[i][9], 0, 0, HIDDEN);
        spin_gguf_builder_tensor(b, layer_tensors[i][10], 1, 0, KV);
        spin_gguf_builder_tensor(b, layer_tensors[i][11], 30, 0, KV);
    }
}

/* head_dim differs from hidden / heads, as in Qwen3-0.6B. */
static void make_qwen3(struct gguf_builder *b)
{
    make_model(b, "qwen3", &qwen3_keys);
    spin_gguf_builder_u32(b, "qwen3.attention.key_length", 32);
    spin_gguf_builder_u32(b, "qwen3.attention.value_length", 32);
    spin_gguf_builder_tensor(b, "output.weight", 30, VOCAB, HIDDEN);
    for (uint32_t i = 0; i < LAYERS; i++) {
        spin_gguf_builder_tensor(b, layer_tensors[i][1], 3, 128, HIDDEN);
        spin_gguf_builder_tensor(b, layer_tensors[i][2], 2, 64, HIDDEN);
        spin_gguf_builder_tensor(b, layer_tensors[i][3], 30, 64, HIDDEN);
        spin_gguf_builder_tensor(b, layer_tensors[i][4], 1, HIDDEN, 128);
        spin_gguf_builder_tensor(b, layer_tensors[i][12], 0, 0, 32);
        spin_gguf_builder_tensor(b, layer_tensors[i][13], 1, 0, 32);
    }
}

/* The bytes of the matrix are those that the builder wrote under this name. */
static void expect_matrix(const struct spin_weight *weight, const char *name, enum spin_dtype dtype,
                          uint32_t rows, uint32_t cols)
{
    assert_int_equal(weight->dtype, dtype);
    assert_int_equal(weight->rows, rows);
    assert_int_equal(weight->cols, cols);
    const uint8_t *bytes = weight->data;
    for (uint64_t i = 0; i < rows * spin_dtype_row_bytes(dtype, cols); i++) {
        assert_int_equal(bytes[i], spin_gguf_builder_data(name, i));
    }
}

/* Element i, from the builder's bytes by the definition of the format. */
static void expect_vector(const float *values, const char *name, enum spin_dtype dtype,
                          uint32_t count)
{
    assert_non_null(values);
    assert_int_equal((uintptr_t)values % sizeof(float), 0);
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t width = dtype == SPIN_DTYPE_F32 ? 4 : 2;
        uint32_t bits = 0;
        for (uint64_t k = 0; k < width; k++) {
            bits |= (uint32_t)spin_gguf_builder_data(name, i * width + k) << (8 * k);
        }
        double wanted = 0;
        if (dtype == SPIN_DTYPE_F16) { /* all of the builder's F16 are positive and finite */
            const int exponent = (int)(bits >> 10);
            const double fraction = (double)(bits & 0x3ff) / 1024;
            wanted = exponent == 0 ? ldexp(fraction, -14) : ldexp(1 + fraction, exponent - 15);
        } else {
            const uint32_t wide = dtype == SPIN_DTYPE_BF16 ? bits << 16 : bits;
            float value;
            memcpy(&value, &wide, sizeof value);
            wanted = (double)value;
        }
        assert_true((double)values[i] == wanted);
    }
}

static struct spin_model *open_good(struct gguf_builder *builder, struct spin_file_map *map)
{
    struct spin_error err = {0};
    struct spin_model *model = NULL;
    *map = spin_gguf_builder_finish(builder);
    SPIN_EXPECT_OK(spin_model_open_gguf(map, "fallback", &model, &err), &err);
    return model;
}

static void test_llama(void **state)
{
    (void)state;
    struct gguf_builder builder;
    struct spin_file_map map;
    make_llama(&builder);
    struct spin_model *model = open_good(&builder, &map);
    const struct spin_model_config *config = &model->config;
    assert_int_equal(config->arch, SPIN_ARCH_LLAMA);
    assert_int_equal(config->layers, LAYERS);
    assert_int_equal(config->hidden, HIDDEN);
    assert_int_equal(config->ffn, FFN);
    assert_int_equal(config->q_heads, 4);
    assert_int_equal(config->kv_heads, 2);
    assert_int_equal(config->head_dim, 16);
    assert_int_equal(config->vocab, VOCAB);
    assert_int_equal(config->context_max, 2048);
    assert_true(config->rms_eps == (double)1e-5f);
    assert_true(config->rope.base == 50000);
    assert_int_equal(config->rope.pairs, SPIN_ROPE_INTERLEAVED);
    assert_int_equal(config->rope.scaling, SPIN_ROPE_SCALING_NONE);
    assert_int_equal(config->rope.dim, 16);
    assert_true(config->tied && !config->qkv_bias && !config->qk_norm);
    assert_string_equal(model->name, "a?name");
    expect_matrix(&model->embed, "token_embd.weight", SPIN_DTYPE_Q8_0, VOCAB, HIDDEN);
    assert_ptr_equal(model->lm_head.data, model->embed.data);
    expect_vector(model->output_norm, "output_norm.weight", SPIN_DTYPE_F32, HIDDEN);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < builder.tensor_count; i++) {
        bytes += builder.tensors[i].bytes;
    }
    assert_int_equal(model->weight_bytes, bytes);
    for (uint32_t i = 0; i < LAYERS; i++) {
        const struct spin_layer_weights *layer = &model->layers[i];
        const char *const *names = layer_tensors[i];
        expect_vector(layer->attn_norm, names[0], SPIN_DTYPE_F32, HIDDEN);
        expect_matrix(&layer->q, names[1], SPIN_DTYPE_Q4_1, HIDDEN, HIDDEN);
        expect_matrix(&layer->k, names[2], SPIN_DTYPE_Q4_0, KV, HIDDEN);
        expect_matrix(&layer->v, names[3], SPIN_DTYPE_BF16, KV, HIDDEN);
        expect_matrix(&layer->o, names[4], SPIN_DTYPE_F16, HIDDEN, HIDDEN);
        expect_vector(layer->ffn_norm, names[5], SPIN_DTYPE_BF16, HIDDEN);
        expect_matrix(&layer->gate, names[6], SPIN_DTYPE_Q8_0, FFN, HIDDEN);
        expect_matrix(&layer->up, names[7], SPIN_DTYPE_F32, FFN, HIDDEN);
        expect_matrix(&layer->down, names[8], SPIN_DTYPE_Q4_1, HIDDEN, FFN);
        assert_null(layer->q_bias);
        assert_null(layer->q_norm);
    }
    spin_model_close(model);
    spin_built_free(&map);
}

static void test_qwen2(void **state)
{
    (void)state;
    struct gguf_builder builder;
    struct spin_file_map map;
    make_qwen2(&builder);
    struct spin_model *model = open_good(&builder, &map);
    assert_int_equal(model->config.arch, SPIN_ARCH_QWEN2);
    assert_int_equal(model->config.rope.pairs, SPIN_ROPE_HALVES);
    assert_true(model->config.qkv_bias && !model->config.qk_norm);
    for (uint32_t i = 0; i < LAYERS; i++) {
        const struct spin_layer_weights *layer = &model->layers[i];
        expect_vector(layer->q_bias, layer_tensors[i][9], SPIN_DTYPE_F32, HIDDEN);
        expect_vector(layer->k_bias, layer_tensors[i][10], SPIN_DTYPE_F16, KV);
        expect_vector(layer->v_bias, layer_tensors[i][11], SPIN_DTYPE_BF16, KV);
    }
    spin_model_close(model);
    spin_built_free(&map);
}

static void test_qwen3(void **state)
{
    (void)state;
    struct gguf_builder builder;
    struct spin_file_map map;
    make_qwen3(&builder);
    spin_gguf_builder_remove_key(&builder, "general.name");
    struct spin_model *model = open_good(&builder, &map);
    assert_string_equal(model->name, "fallback");
    assert_int_equal(model->config.arch, SPIN_ARCH_QWEN3);
    assert_int_equal(model->config.head_dim, 32);
    assert_true(model->config.qk_norm && !model->config.qkv_bias && !model->config.tied);
    expect_matrix(&model->lm_head, "output.weight", SPIN_DTYPE_BF16, VOCAB, HIDDEN);
    for (uint32_t i = 0; i < LAYERS; i++) {
        const struct spin_layer_weights *layer = &model->layers[i];
        expect_matrix(&layer->q, layer_tensors[i][1], SPIN_DTYPE_Q4_1, 128, HIDDEN);
        expect_matrix(&layer->o, layer_tensors[i][4], SPIN_DTYPE_F16, HIDDEN, 128);
        expect_vector(layer->q_norm, layer_tensors[i][12], SPIN_DTYPE_F32, 32);
        expect_vector(layer->k_norm, layer_tensors[i][13], SPIN_DTYPE_F16, 32);
    }
    spin_model_close(model);
    spin_built_free(&map);
}

/* ---- RoPE ---- */

static void test_rope_scaling(void **state)
{
    (void)state;
    struct gguf_builder builder;
    struct spin_file_map map;
    make_llama(&builder);
    spin_gguf_builder_f32(&builder, "llama.rope.scaling.factor", 4);
    struct spin_model *model = open_good(&builder, &map); /* no type means linear */
    assert_int_equal(model->config.rope.scaling, SPIN_ROPE_SCALING_LINEAR);
    assert_true(model->config.rope.factor == 4);
    spin_model_close(model);
    spin_built_free(&map);

    spin_gguf_builder_string(&builder, "llama.rope.scaling.type", "yarn");
    spin_gguf_builder_u32(&builder, "llama.rope.scaling.original_context_length", 512);
    model = open_good(&builder, &map);
    assert_int_equal(model->config.rope.scaling, SPIN_ROPE_SCALING_YARN);
    assert_int_equal(model->config.rope.original_context, 512);
    assert_true(model->config.rope.beta_fast == 32 && model->config.rope.beta_slow == 1);
    assert_true(model->config.rope.attention_factor == 0); /* by the formula */
    spin_model_close(model);
    spin_built_free(&map);

    spin_gguf_builder_f32(&builder, "llama.rope.scaling.attn_factor", 0.5f);
    spin_gguf_builder_f32(&builder, "llama.rope.scaling.yarn_beta_fast", 16);
    model = open_good(&builder, &map);
    assert_true(model->config.rope.beta_fast == 16);
    assert_true(fabs(model->config.rope.attention_factor - 0.5 * (0.1 * log(4) + 1)) < 1e-15);
    spin_model_close(model);
    spin_built_free(&map);

    spin_gguf_builder_string(&builder, "llama.rope.scaling.type", "none");
    model = open_good(&builder, &map);
    assert_int_equal(model->config.rope.scaling, SPIN_ROPE_SCALING_NONE);
    spin_model_close(model);
    spin_built_free(&map);
}

static void test_rope_divisors(void **state)
{
    (void)state;
    struct gguf_builder builder;
    make_llama(&builder);
    spin_gguf_builder_tensor(&builder, "rope_freqs.weight", 0, 0, 8);
    struct spin_file_map map = spin_gguf_builder_finish(&builder);
    struct spin_gguf *gguf = NULL;
    struct spin_error err = {0};
    struct spin_model *model = NULL;
    SPIN_EXPECT_OK(spin_gguf_open(&map, &gguf, &err), &err);
    float divisors[8];
    for (uint32_t i = 0; i < 8; i++) {
        divisors[i] = 1 + (float)i;
    }
    const uint8_t *data = spin_gguf_tensor_find(gguf, "rope_freqs.weight")->data;
    memcpy(spin_built_bytes(&map) + (data - map.bytes), divisors, sizeof divisors);
    SPIN_EXPECT_OK(spin_model_open_gguf(&map, "x", &model, &err), &err);
    assert_memory_equal(model->config.rope.divisors, divisors, sizeof divisors);
    double frequencies[8];
    double magnitude = 0;
    spin_rope_frequencies(&model->config.rope, frequencies, &magnitude);
    for (uint32_t i = 0; i < 8; i++) {
        const double wanted = pow(50000, -(double)i / 8) / (1 + (double)i);
        assert_true(fabs(frequencies[i] - wanted) < 1e-14);
    }
    spin_model_close(model);

    divisors[7] = 0;
    memcpy(spin_built_bytes(&map) + (data - map.bytes), divisors, sizeof divisors);
    SPIN_EXPECT_STATUS(spin_model_open_gguf(&map, "x", &model, &err), SPIN_ERR_INVALID);
    assert_non_null(strstr(err.text, "divisor 7 is 0"));
    spin_gguf_close(gguf);
    spin_built_free(&map);
}

/* ---- one thing wrong ---- */

enum change { SET_U32, SET_F32, SET_STRING, SET_BOOL_FALSE, REMOVE_KEY, REMOVE_TENSOR, TENSOR };

struct wrong {
    enum change change;
    const char *name;
    double value;     /* SET_U32, SET_F32; TENSOR: the GGUF type */
    const char *text; /* SET_STRING */
    uint64_t rows;    /* TENSOR */
    uint64_t cols;    /* TENSOR */
    spin_status status;
    const char *words;
};

static const struct wrong wrongs[] = {
    {REMOVE_KEY, "general.architecture", 0, NULL, 0, 0, SPIN_ERR_CORRUPT,
     "'general.architecture' is missing"},
    {SET_STRING, "general.architecture", 0, "gemma2", 0, 0, SPIN_ERR_UNSUPPORTED,
     "architecture 'gemma2'"},
    {SET_STRING, "general.architecture", 0, "a\nb", 0, 0, SPIN_ERR_UNSUPPORTED, "architecture '?'"},
    {SET_STRING, "general.architecture", 0, "qwen2", 0, 0, SPIN_ERR_CORRUPT,
     "'qwen2.block_count' is missing"},
    {SET_U32, "general.architecture", 1, NULL, 0, 0, SPIN_ERR_INVALID, "a string wanted"},
    {SET_U32, "llama.block_count", 0, NULL, 0, 0, SPIN_ERR_CORRUPT,
     "'llama.block_count' is missing or 0"},
    {SET_U32, "llama.block_count", 3, NULL, 0, 0, SPIN_ERR_CORRUPT,
     "'blk.2.attn_norm.weight' is missing"},
    {SET_U32, "llama.block_count", 1, NULL, 0, 0, SPIN_ERR_UNSUPPORTED,
     "'blk.1.attn_norm.weight' is not part of"},
    {SET_U32, "llama.block_count", 513, NULL, 0, 0, SPIN_ERR_LIMIT, "layers 513: the limit is 512"},
    {SET_F32, "llama.block_count", 2, NULL, 0, 0, SPIN_ERR_INVALID,
     "'llama.block_count': an integer wanted"},
    {SET_U32, "llama.embedding_length", 96, NULL, 0, 0, SPIN_ERR_CORRUPT,
     "tensor 'token_embd.weight'"},
    {SET_U32, "llama.embedding_length", 66, NULL, 0, 0, SPIN_ERR_INVALID,
     "does not divide hidden size 66"},
    {SET_U32, "llama.feed_forward_length", 4000000000.0, NULL, 0, 0, SPIN_ERR_LIMIT,
     "feed-forward size"},
    {SET_U32, "llama.feed_forward_length", 95, NULL, 0, 0, SPIN_ERR_UNSUPPORTED, "multiple of 32"},
    {REMOVE_KEY, "llama.context_length", 0, NULL, 0, 0, SPIN_ERR_CORRUPT,
     "'llama.context_length' is missing"},
    {SET_U32, "llama.attention.head_count", 5, NULL, 0, 0, SPIN_ERR_INVALID, "does not divide"},
    {SET_U32, "llama.attention.head_count", 64, NULL, 0, 0, SPIN_ERR_UNSUPPORTED,
     "head dimension 1: must be a multiple of 8"},
    {SET_U32, "llama.attention.head_count_kv", 0, NULL, 0, 0, SPIN_ERR_INVALID, "kv heads is 0"},
    {SET_U32, "llama.attention.head_count_kv", 3, NULL, 0, 0, SPIN_ERR_INVALID,
     "not a multiple of the 3 kv heads"},
    {SET_U32, "llama.attention.head_count_kv", 4, NULL, 0, 0, SPIN_ERR_CORRUPT,
     "tensor 'blk.0.attn_k.weight'"},
    {SET_U32, "llama.attention.key_length", 512, NULL, 0, 0, SPIN_ERR_LIMIT,
     "head dimension 512: the limit is 256"},
    {SET_U32, "llama.attention.value_length", 32, NULL, 0, 0, SPIN_ERR_UNSUPPORTED,
     "value_length' = 32"},
    {REMOVE_KEY, "llama.attention.layer_norm_rms_epsilon", 0, NULL, 0, 0, SPIN_ERR_CORRUPT,
     "rms_epsilon' is missing"},
    {SET_F32, "llama.attention.layer_norm_rms_epsilon", -1, NULL, 0, 0, SPIN_ERR_INVALID,
     "epsilon -1"},
    {SET_F32, "llama.rope.freq_base", (double)NAN, NULL, 0, 0, SPIN_ERR_INVALID, "RoPE base"},
    {SET_U32, "llama.rope.dimension_count", 8, NULL, 0, 0, SPIN_ERR_UNSUPPORTED,
     "partial rotation"},
    {SET_STRING, "llama.rope.scaling.type", 0, "longrope", 0, 0, SPIN_ERR_UNSUPPORTED,
     "'longrope'"},
    {SET_STRING, "llama.rope.scaling.type", 0, "yarn", 0, 0, SPIN_ERR_INVALID,
     "RoPE scaling factor 0"},
    {SET_F32, "llama.rope.scaling.factor", -2, NULL, 0, 0, SPIN_ERR_INVALID,
     "RoPE scaling factor -2"},
    {SET_U32, "llama.vocab_size", 41, NULL, 0, 0, SPIN_ERR_CORRUPT, "'llama.vocab_size' = 41"},
    {SET_U32, "llama.expert_count", 8, NULL, 0, 0, SPIN_ERR_UNSUPPORTED,
     "'llama.expert_count' = 8"},
    {SET_U32, "llama.expert_count", 0, NULL, 0, 0, SPIN_OK, ""},
    {SET_F32, "llama.attn_logit_softcapping", 50, NULL, 0, 0, SPIN_ERR_UNSUPPORTED,
     "attn_logit_softcapping"},
    {SET_F32, "llama.logit_scale", 0.5, NULL, 0, 0, SPIN_ERR_UNSUPPORTED, "logit_scale"},
    {SET_U32, "llama.attention.sliding_window", 1024, NULL, 0, 0, SPIN_ERR_UNSUPPORTED,
     "sliding_window' = 1024"},
    {SET_U32, "llama.attention.sliding_window", 2048, NULL, 0, 0, SPIN_OK, ""},
    {SET_BOOL_FALSE, "llama.attention.causal", 0, NULL, 0, 0, SPIN_ERR_UNSUPPORTED,
     "'llama.attention.causal'"},
    {REMOVE_TENSOR, "token_embd.weight", 0, NULL, 0, 0, SPIN_ERR_CORRUPT,
     "'token_embd.weight' is missing"},
    {REMOVE_TENSOR, "output_norm.weight", 0, NULL, 0, 0, SPIN_ERR_CORRUPT,
     "'output_norm.weight' is missing"},
    {REMOVE_TENSOR, "blk.1.ffn_down.weight", 0, NULL, 0, 0, SPIN_ERR_CORRUPT,
     "'blk.1.ffn_down.weight' is missing"},
    {TENSOR, "blk.0.attn_q.bias", 0, NULL, 0, HIDDEN, SPIN_ERR_UNSUPPORTED,
     "'blk.0.attn_q.bias' is not part of"},
    {TENSOR, "blk.0.attn_sinks.weight", 0, NULL, 0, 4, SPIN_ERR_UNSUPPORTED, "attn_sinks"},
    {TENSOR, "blk.0.attn_norm.weight", 8, NULL, 0, HIDDEN, SPIN_ERR_UNSUPPORTED,
     "a vector is F32, F16 or BF16"},
    {TENSOR, "blk.0.attn_norm.weight", 0, NULL, 1, HIDDEN, SPIN_ERR_CORRUPT,
     "tensor 'blk.0.attn_norm.weight': 2-dimensional"},
    {TENSOR, "blk.0.attn_q.weight", 0, NULL, 0, HIDDEN, SPIN_ERR_CORRUPT,
     "tensor 'blk.0.attn_q.weight': 1-dimensional"},
    {TENSOR, "blk.0.ffn_down.weight", 0, NULL, FFN, HIDDEN, SPIN_ERR_CORRUPT,
     "[96][64], the configuration says"},
    {TENSOR, "rope_freqs.weight", 0, NULL, 0, 16, SPIN_ERR_CORRUPT,
     "'rope_freqs.weight': 16 values, wanted 8"},
};

static void apply(struct gguf_builder *builder, const struct wrong *wrong)
{
    switch (wrong->change) {
    case SET_U32:
        spin_gguf_builder_u32(builder, wrong->name, (uint32_t)wrong->value);
        return;
    case SET_F32:
        spin_gguf_builder_f32(builder, wrong->name, (float)wrong->value);
        return;
    case SET_STRING:
        spin_gguf_builder_string(builder, wrong->name, wrong->text);
        return;
    case SET_BOOL_FALSE:
        spin_gguf_builder_bool(builder, wrong->name, 0);
        return;
    case REMOVE_KEY:
        spin_gguf_builder_remove_key(builder, wrong->name);
        return;
    case REMOVE_TENSOR:
        spin_gguf_builder_remove_tensor(builder, wrong->name);
        return;
    case TENSOR:
        spin_gguf_builder_tensor(builder, wrong->name, (uint32_t)wrong->value, wrong->rows,
                                 wrong->cols);
        return;
    }
}

static void test_one_thing_wrong(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(wrongs); i++) {
        struct gguf_builder builder;
        struct spin_error err = {0};
        struct spin_model *model = NULL;
        make_llama(&builder);
        apply(&builder, &wrongs[i]);
        struct spin_file_map map = spin_gguf_builder_finish(&builder);
        const spin_status status = spin_model_open_gguf(&map, "x", &model, &err);
        if (status != wrongs[i].status || strstr(err.text, wrongs[i].words) == NULL) {
            fail_msg("row %u: wanted %s with \"%s\", got %s with \"%s\"", i,
                     spin_status_name(wrongs[i].status), wrongs[i].words, spin_status_name(status),
                     err.text);
        }
        spin_model_close(model);
        spin_built_free(&map);
    }
}

/* ---- id and description ---- */

static struct spin_model_id id_of(struct gguf_builder *builder, const char *change_tensor)
{
    struct spin_error err = {0};
    struct spin_model *model = NULL;
    struct spin_file_map map = spin_gguf_builder_finish(builder);
    if (change_tensor != NULL) {
        struct spin_gguf *gguf = NULL;
        SPIN_EXPECT_OK(spin_gguf_open(&map, &gguf, &err), &err);
        const struct spin_gguf_tensor *tensor = spin_gguf_tensor_find(gguf, change_tensor);
        spin_built_bytes(&map)[tensor->data - map.bytes + (int64_t)(tensor->bytes / 2)] ^= 1;
        spin_gguf_close(gguf);
    }
    SPIN_EXPECT_OK(spin_model_open_gguf(&map, "x", &model, &err), &err);
    const struct spin_model_id id = model->id;
    spin_model_close(model);
    spin_built_free(&map);
    return id;
}

static bool same(const struct spin_model_id *a, const struct spin_model_id *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

static void test_id(void **state)
{
    (void)state;
    struct gguf_builder builder;
    make_llama(&builder);
    const struct spin_model_id base = id_of(&builder, NULL);
    const struct spin_model_id again = id_of(&builder, NULL);
    assert_true(same(&base, &again));
    for (uint32_t i = 0; i < builder.tensor_count; i++) {
        const struct spin_model_id changed = id_of(&builder, builder.tensors[i].name);
        if (same(&base, &changed)) {
            fail_msg("one bit of %s does not change the id", builder.tensors[i].name);
        }
    }
    /* A name and a context limit do not change KV; a RoPE base does. */
    spin_gguf_builder_string(&builder, "general.name", "other");
    spin_gguf_builder_u32(&builder, "llama.context_length", 4096);
    spin_gguf_builder_f32(&builder, "llama.rope.scaling.factor", 1);
    const struct spin_model_id renamed = id_of(&builder, NULL);
    assert_true(same(&base, &renamed));
    spin_gguf_builder_f32(&builder, "llama.rope.freq_base", 50001);
    const struct spin_model_id rotated = id_of(&builder, NULL);
    assert_false(same(&base, &rotated));
}

static void test_describe(void **state)
{
    (void)state;
    struct gguf_builder builder;
    struct spin_file_map map;
    char text[512];
    make_llama(&builder);
    struct spin_model *model = open_good(&builder, &map);
    spin_model_describe(model, text, sizeof text);
    assert_string_equal(text,
                        "a?name: llama, 0.1 M parameters, 2 layers, hidden 64, heads 4/2 x 16, "
                        "vocabulary 40, matrices F32 2, F16 2, BF16 2, Q8_0 3, Q4_0 2, Q4_1 4, "
                        "0.1 MB, context 2048");
    spin_model_describe(model, text, 10);
    assert_string_equal(text, "a?name: l");
    spin_model_close(model);
    spin_built_free(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),
        cmocka_unit_test(test_qwen2),
        cmocka_unit_test(test_qwen3),
        cmocka_unit_test(test_rope_scaling),
        cmocka_unit_test(test_rope_divisors),
        cmocka_unit_test(test_one_thing_wrong),
        cmocka_unit_test(test_id),
        cmocka_unit_test(test_describe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
