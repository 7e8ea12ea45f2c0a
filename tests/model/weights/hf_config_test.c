/* config.json of each family, as published but smaller, field by field; then a table of changed
 * fields with the status and the words that the error must have. */
#include "model/weights/weights_internal.h"
#include "tests/spin_test.h"

#define SHAPE \
    "\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":2,\"num_attention_heads\":" \
    "4," \
    "\"num_key_value_heads\":2,\"vocab_size\":40,\"max_position_embeddings\":2048," \
    "\"rms_norm_eps\":1e-05"

static spin_status parse(const char *text, struct spin_model_config *config, struct spin_error *err)
{
    const struct spin_string string = {.bytes = text, .count = strlen(text)};
    SPIN_TRY(spin_hf_config_parse(&string, config, err));
    return spin_model_config_check(config, err);
}

static struct spin_model_config parse_good(const char *text)
{
    struct spin_error err = {0};
    struct spin_model_config config = {0};
    SPIN_EXPECT_OK(parse(text, &config, &err), &err);
    return config;
}

static void test_llama(void **state)
{
    (void)state;
    const struct spin_model_config config = parse_good(
        "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\"," SHAPE
        ",\"attention_bias\":false,\"mlp_bias\":false,\"hidden_act\":\"silu\",\"pretraining_tp\":1,"
        "\"rope_interleaved\":false,\"rope_scaling\":null,\"rope_theta\":100000,"
        "\"tie_word_embeddings\":true,\"torch_dtype\":\"bfloat16\"}");
    assert_int_equal(config.arch, SPIN_ARCH_LLAMA);
    assert_int_equal(config.layers, 2);
    assert_int_equal(config.hidden, 64);
    assert_int_equal(config.ffn, 96);
    assert_int_equal(config.q_heads, 4);
    assert_int_equal(config.kv_heads, 2);
    assert_int_equal(config.head_dim, 16);
    assert_int_equal(config.vocab, 40);
    assert_int_equal(config.context_max, 2048);
    assert_true(config.rms_eps == 1e-5);
    assert_int_equal(config.rope.pairs, SPIN_ROPE_HALVES);
    assert_int_equal(config.rope.dim, 16);
    assert_true(config.rope.base == 100000);
    assert_true(config.tied && !config.qkv_bias && !config.qk_norm);
}

static void test_qwen(void **state)
{
    (void)state;
    const struct spin_model_config qwen2 =
        parse_good("{\"model_type\":\"qwen2\"," SHAPE ",\"use_sliding_window\":false,"
                   "\"sliding_window\":131072,\"max_window_layers\":28,\"rope_theta\":1000000.0}");
    assert_int_equal(qwen2.arch, SPIN_ARCH_QWEN2);
    assert_true(qwen2.qkv_bias && !qwen2.qk_norm && !qwen2.tied);
    assert_true(qwen2.rope.base == 1000000);
    const struct spin_model_config qwen3 =
        parse_good("{\"model_type\":\"qwen3\"," SHAPE ",\"head_dim\":32,\"attention_bias\":false,"
                   "\"layer_types\":[\"full_attention\",\"full_attention\"],"
                   "\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":5000000}}");
    assert_int_equal(qwen3.arch, SPIN_ARCH_QWEN3);
    assert_true(qwen3.qk_norm && !qwen3.qkv_bias);
    assert_int_equal(qwen3.head_dim, 32);
    assert_int_equal(qwen3.rope.dim, 32);
    assert_true(qwen3.rope.base == 5000000);
}

static void test_defaults(void **state)
{
    (void)state;
    const struct spin_model_config config =
        parse_good("{\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":96,"
                   "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"vocab_size\":40,"
                   "\"max_position_embeddings\":1000000,\"rms_norm_eps\":1e-5}");
    assert_int_equal(config.kv_heads, 4);
    assert_true(config.rope.base == 10000);
    assert_false(config.tied);
    assert_int_equal(config.context_max, SPIN_CONTEXT_MAX); /* what page ids reach */
}

static void test_scaling(void **state)
{
    (void)state;
    struct spin_model_config config =
        parse_good("{\"model_type\":\"llama\"," SHAPE ",\"rope_scaling\":{\"factor\":8.0,"
                   "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
                   "\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"}}");
    assert_int_equal(config.rope.scaling, SPIN_ROPE_SCALING_LLAMA3);
    assert_true(config.rope.factor == 8 && config.rope.low_freq_factor == 1 &&
                config.rope.high_freq_factor == 4);
    assert_int_equal(config.rope.original_context, 8192);

    config = parse_good("{\"model_type\":\"llama\"," SHAPE
                        ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}");
    assert_int_equal(config.rope.scaling, SPIN_ROPE_SCALING_LINEAR);
    assert_true(config.rope.factor == 2);

    config = parse_good("{\"model_type\":\"qwen2\"," SHAPE ",\"rope_scaling\":{\"type\":\"yarn\","
                        "\"factor\":4.0,\"original_max_position_embeddings\":32768}}");
    assert_int_equal(config.rope.scaling, SPIN_ROPE_SCALING_YARN);
    assert_int_equal(config.rope.original_context, 32768);
    assert_true(config.rope.beta_fast == 32 && config.rope.beta_slow == 1);
    assert_true(config.rope.attention_factor == 0); /* by the formula */

    config =
        parse_good("{\"model_type\":\"qwen2\"," SHAPE ",\"rope_parameters\":{"
                   "\"rope_type\":\"yarn\",\"rope_theta\":70000,\"factor\":40,\"beta_fast\":16,"
                   "\"beta_slow\":2,\"mscale\":0.707,\"mscale_all_dim\":1.5}}");
    assert_true(config.rope.base == 70000 && config.rope.beta_fast == 16 &&
                config.rope.beta_slow == 2);
    assert_int_equal(config.rope.original_context, 2048);
    const double wanted = (0.1 * 0.707 * log(40) + 1) / (0.1 * 1.5 * log(40) + 1);
    assert_true(fabs(config.rope.attention_factor - wanted) < 1e-15);

    config =
        parse_good("{\"model_type\":\"qwen2\"," SHAPE ",\"rope_scaling\":{\"type\":\"yarn\","
                   "\"factor\":4,\"attention_factor\":0.75,\"mscale\":2,\"mscale_all_dim\":1}}");
    assert_true(config.rope.attention_factor == 0.75); /* what is stated wins */
}

struct wrong {
    const char *fields; /* behind SHAPE; "" keeps it good */
    spin_status status;
    const char *words;
};

static const struct wrong wrongs[] = {
    {"", SPIN_OK, ""},
    {",\"hidden_size\":64", SPIN_ERR_CORRUPT, "duplicate"},
    {",\"head_dim\":\"16\"", SPIN_ERR_INVALID, "'head_dim': an integer wanted, found a string"},
    {",\"head_dim\":-16", SPIN_ERR_INVALID, "'head_dim': -16 is negative"},
    {",\"head_dim\":16.0", SPIN_ERR_INVALID, "found a real number"},
    {",\"head_dim\":12", SPIN_ERR_UNSUPPORTED, "multiple of 8"},
    {",\"head_dim\":264", SPIN_ERR_LIMIT, "head dimension 264"},
    {",\"head_dim\":99999999999", SPIN_ERR_LIMIT, "'head_dim': 99999999999 is too large"},
    {",\"tie_word_embeddings\":1", SPIN_ERR_INVALID, "a bool wanted"},
    {",\"rope_theta\":\"1e4\"", SPIN_ERR_INVALID, "'rope_theta': a number wanted"},
    {",\"rope_theta\":-1", SPIN_ERR_INVALID, "RoPE base -1"},
    {",\"rope_theta\":1e999", SPIN_ERR_CORRUPT, "config.json: line 1"},
    {",\"quantization_config\":{\"quant_method\":\"gptq\"}", SPIN_ERR_UNSUPPORTED,
     "'quantization_config'"},
    {",\"use_sliding_window\":true", SPIN_ERR_UNSUPPORTED, "'use_sliding_window'"},
    {",\"layer_types\":[\"sliding_attention\"]", SPIN_ERR_UNSUPPORTED, "'layer_types'[0]"},
    {",\"mlp_bias\":true", SPIN_ERR_UNSUPPORTED, "'mlp_bias'"},
    {",\"attention_bias\":true", SPIN_ERR_UNSUPPORTED, "'attention_bias'"},
    {",\"num_local_experts\":8", SPIN_ERR_UNSUPPORTED, "'num_local_experts'"},
    {",\"attn_logit_softcapping\":50.0", SPIN_ERR_UNSUPPORTED, "'attn_logit_softcapping'"},
    {",\"partial_rotary_factor\":0.5", SPIN_ERR_UNSUPPORTED, "'partial_rotary_factor'"},
    {",\"partial_rotary_factor\":1.0", SPIN_OK, ""},
    {",\"hidden_act\":\"gelu\"", SPIN_ERR_UNSUPPORTED, "'gelu'"},
    {",\"rope_scaling\":[]", SPIN_ERR_INVALID, "'rope_scaling' is not an object"},
    {",\"rope_scaling\":{\"factor\":2}", SPIN_ERR_CORRUPT, "rope_scaling: 'rope_type' is missing"},
    {",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}", SPIN_ERR_UNSUPPORTED,
     "rope_type 'dynamic'"},
    {",\"rope_scaling\":{\"type\":\"lin\\near\"}", SPIN_ERR_INVALID, "printable ASCII"},
    {",\"rope_scaling\":{\"type\":\"linear\"}", SPIN_ERR_CORRUPT,
     "rope_scaling: 'factor' is missing"},
    {",\"rope_scaling\":{\"type\":\"linear\",\"factor\":-4}", SPIN_ERR_INVALID,
     "RoPE scaling factor -4"},
    {",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
     "\"high_freq_factor\":4,\"original_max_position_embeddings\":8192}",
     SPIN_ERR_INVALID, "high_freq_factor 4: must be above"},
    {",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_"
     "factor\":4}",
     SPIN_ERR_CORRUPT, "'original_max_position_embeddings' is missing"},
    {",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"truncate\":false}", SPIN_ERR_UNSUPPORTED,
     "'truncate'"},
    {",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"attention_factor\":-1}", SPIN_ERR_INVALID,
     "attention_factor -1"},
    {",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"beta_fast\":-1}", SPIN_ERR_INVALID,
     "beta_fast -1"},
    {",\"rope_parameters\":{\"rope_type\":\"longrope\"}", SPIN_ERR_UNSUPPORTED,
     "rope_parameters: rope_type 'longrope'"},
};

static void expect(const char *text, spin_status wanted, const char *words)
{
    struct spin_error err = {0};
    struct spin_model_config config = {0};
    const spin_status status = parse(text, &config, &err);
    if (status != wanted || strstr(err.text, words) == NULL) {
        fail_msg("%s: wanted %s with \"%s\", got %s with \"%s\"", text, spin_status_name(wanted),
                 words, spin_status_name(status), err.text);
    }
}

static void test_one_thing_wrong(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(wrongs); i++) {
        char text[1024];
        (void)snprintf(text, sizeof text, "{\"model_type\":\"llama\"," SHAPE "%s}",
                       wrongs[i].fields);
        expect(text, wrongs[i].status, wrongs[i].words);
    }
}

static void test_not_a_config(void **state)
{
    (void)state;
    expect("", SPIN_ERR_CORRUPT, "config.json: line 1");
    expect("[]", SPIN_ERR_CORRUPT, "'model_type' is missing");
    expect("{}", SPIN_ERR_CORRUPT, "'model_type' is missing");
    expect("{} x", SPIN_ERR_CORRUPT, "config.json: line 1");
    expect("{\"model_type\":7}", SPIN_ERR_INVALID, "'model_type': a string wanted");
    expect("{\"model_type\":\"mixtral\"}", SPIN_ERR_UNSUPPORTED, "architecture 'mixtral'");
    expect("{\"model_type\":\"llama\"}", SPIN_ERR_CORRUPT, "'num_hidden_layers' is missing");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),           cmocka_unit_test(test_qwen),
        cmocka_unit_test(test_defaults),        cmocka_unit_test(test_scaling),
        cmocka_unit_test(test_one_thing_wrong), cmocka_unit_test(test_not_a_config),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
