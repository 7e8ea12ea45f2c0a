/* hf_config: the shape of a transformer out of Hugging Face's config.json. */
#include "model/format/json.h"
#include "model/weights/weights_internal.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

#define SUBJECT "config.json"

struct hf_config {
    struct spin_json_object object;
    struct spin_error *err;
};

/* NOT_FOUND leaves *out, which then holds the default. */
static spin_status optional_u32(const struct hf_config *in, const char *key, uint32_t *out)
{
    uint64_t value = 0;
    const spin_status status = spin_json_u64(&in->object, key, &value, in->err);
    if (status == SPIN_ERR_NOT_FOUND) {
        return SPIN_OK;
    }
    SPIN_TRY(status);
    if (value > UINT32_MAX) {
        return spin_fail(in->err, SPIN_ERR_LIMIT, "%s: '%s': %" PRIu64 " is too large",
                         in->object.subject, key, value);
    }
    *out = (uint32_t)value;
    return SPIN_OK;
}

static spin_status optional_f64(const struct hf_config *in, const char *key, double *out)
{
    const spin_status status = spin_json_f64(&in->object, key, out, in->err);
    return status == SPIN_ERR_NOT_FOUND ? SPIN_OK : status;
}

static spin_status optional_bool(const struct hf_config *in, const char *key, bool *out)
{
    const spin_status status = spin_json_bool(&in->object, key, out, in->err);
    return status == SPIN_ERR_NOT_FOUND ? SPIN_OK : status;
}

static spin_status optional_name(const struct hf_config *in, const char *key, const char **out)
{
    const spin_status status = spin_json_name(&in->object, key, out, in->err);
    return status == SPIN_ERR_NOT_FOUND ? SPIN_OK : status;
}

static spin_status missing_field(const struct hf_config *in, const char *key)
{
    return spin_fail(in->err, SPIN_ERR_CORRUPT, "%s: '%s' is missing or 0", in->object.subject,
                     key);
}

static spin_status required_u32(const struct hf_config *in, const char *key, uint32_t *out)
{
    uint32_t value = 0;
    SPIN_TRY(optional_u32(in, key, &value));
    if (value == 0) {
        return missing_field(in, key);
    }
    *out = value;
    return SPIN_OK;
}

static spin_status required_f64(const struct hf_config *in, const char *key, double *out)
{
    double value = 0;
    SPIN_TRY(optional_f64(in, key, &value));
    if (value == 0) {
        return missing_field(in, key);
    }
    *out = value;
    return SPIN_OK;
}

/* ---- what we must not ignore ---- */

/* Features that change the output and that the forward pass does not have. Absent, null, false and
 * the neutral number are fine. */
struct refused_field {
    const char *key;
    double neutral;
};

static const struct refused_field refused_fields[] = {
    {"quantization_config", 0},
    {"use_sliding_window", 0},
    {"mlp_bias", 0},
    {"num_experts", 0},
    {"num_local_experts", 0},
    {"n_routed_experts", 0},
    {"attn_logit_softcapping", 0},
    {"final_logit_softcapping", 0},
    {"clip_qkv", 0},
    {"partial_rotary_factor", 1},
    {"rope_interleaved", 0},
    {"dual_chunk_attention_config", 0},
};

static spin_status check_refused(const struct hf_config *in, const char *key, double neutral)
{
    const json_t *value = json_object_get(in->object.json, key);
    if (value == NULL || json_is_null(value) || json_is_false(value) ||
        (json_is_number(value) && json_number_value(value) == neutral)) {
        return SPIN_OK;
    }
    return spin_fail(in->err, SPIN_ERR_UNSUPPORTED, "%s: '%s' is set; it is not supported",
                     in->object.subject, key);
}

static spin_status check_layer_types(const struct hf_config *in)
{
    const json_t *types = json_object_get(in->object.json, "layer_types");
    for (size_t i = 0; i < json_array_size(types); i++) { /* 0 for what is no array */
        const char *type = json_string_value(json_array_get(types, i));
        if (type == NULL || strcmp(type, "full_attention") != 0) {
            return spin_fail(in->err, SPIN_ERR_UNSUPPORTED,
                             "%s: 'layer_types'[%zu]: only full_attention is supported",
                             in->object.subject, i);
        }
    }
    return SPIN_OK;
}

static spin_status check_refused_fields(const struct hf_config *in, enum spin_arch arch)
{
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(refused_fields); i++) {
        SPIN_TRY(check_refused(in, refused_fields[i].key, refused_fields[i].neutral));
    }
    if (arch != SPIN_ARCH_QWEN2) { /* qwen2 has its three biases whatever this field says */
        SPIN_TRY(check_refused(in, "attention_bias", 0));
    }
    SPIN_TRY(check_layer_types(in));
    const char *activation = "silu";
    SPIN_TRY(optional_name(in, "hidden_act", &activation));
    if (strcmp(activation, "silu") != 0) {
        return spin_fail(in->err, SPIN_ERR_UNSUPPORTED,
                         "%s: 'hidden_act': '%.40s'; silu is supported", in->object.subject,
                         activation);
    }
    return SPIN_OK;
}

/* ---- RoPE ---- */

static spin_status read_llama3(const struct hf_config *in, struct spin_rope_config *rope)
{
    rope->scaling = SPIN_ROPE_SCALING_LLAMA3;
    SPIN_TRY(required_f64(in, "factor", &rope->factor));
    SPIN_TRY(required_f64(in, "low_freq_factor", &rope->low_freq_factor));
    SPIN_TRY(required_f64(in, "high_freq_factor", &rope->high_freq_factor));
    return required_u32(in, "original_max_position_embeddings", &rope->original_context);
}

/* The magnitude that a model asks for with `weight` in place of 0.1 ln(factor) + 1's one. */
static double yarn_mscale(double factor, double weight)
{
    return factor > 1 ? 0.1 * weight * log(factor) + 1 : 1;
}

static spin_status read_yarn(const struct hf_config *in, struct spin_rope_config *rope)
{
    double mscale = 0;
    double mscale_all_dim = 0;
    bool truncate = true;
    rope->scaling = SPIN_ROPE_SCALING_YARN;
    rope->beta_fast = 32;
    rope->beta_slow = 1;
    SPIN_TRY(required_f64(in, "factor", &rope->factor));
    SPIN_TRY(optional_u32(in, "original_max_position_embeddings", &rope->original_context));
    SPIN_TRY(optional_f64(in, "beta_fast", &rope->beta_fast));
    SPIN_TRY(optional_f64(in, "beta_slow", &rope->beta_slow));
    SPIN_TRY(optional_f64(in, "mscale", &mscale));
    SPIN_TRY(optional_f64(in, "mscale_all_dim", &mscale_all_dim));
    SPIN_TRY(optional_f64(in, "attention_factor", &rope->attention_factor));
    SPIN_TRY(optional_bool(in, "truncate", &truncate));
    if (!truncate) {
        return spin_fail(in->err, SPIN_ERR_UNSUPPORTED, "%s: 'truncate' = false is not supported",
                         in->object.subject);
    }
    if (rope->attention_factor == 0 && mscale != 0 && mscale_all_dim != 0) {
        rope->attention_factor =
            yarn_mscale(rope->factor, mscale) / yarn_mscale(rope->factor, mscale_all_dim);
    }
    return SPIN_OK;
}

/* `in`: rope_scaling, or rope_parameters of newer files, which holds the base too. */
static spin_status read_scaling(const struct hf_config *in, struct spin_rope_config *rope)
{
    const char *type = NULL;
    SPIN_TRY(optional_f64(in, "rope_theta", &rope->base));
    SPIN_TRY(check_refused(in, "partial_rotary_factor", 1));
    SPIN_TRY(optional_name(in, "type", &type));
    SPIN_TRY(optional_name(in, "rope_type", &type));
    if (type == NULL) {
        return missing_field(in, "rope_type");
    }
    if (strcmp(type, "default") == 0) {
        return SPIN_OK;
    }
    if (strcmp(type, "linear") == 0) {
        rope->scaling = SPIN_ROPE_SCALING_LINEAR;
        return required_f64(in, "factor", &rope->factor);
    }
    if (strcmp(type, "llama3") == 0) {
        return read_llama3(in, rope);
    }
    if (strcmp(type, "yarn") == 0) {
        return read_yarn(in, rope);
    }
    return spin_fail(in->err, SPIN_ERR_UNSUPPORTED,
                     "%s: rope_type '%.40s': supported are default, linear, llama3, yarn",
                     in->object.subject, type);
}

static spin_status read_rope(const struct hf_config *in, struct spin_model_config *out)
{
    static const char *const sections[] = {"rope_scaling", "rope_parameters"};
    struct spin_rope_config *rope = &out->rope;
    rope->pairs = SPIN_ROPE_HALVES;
    rope->dim = out->head_dim;
    rope->base = 10000;
    rope->original_context = out->context_max;
    SPIN_TRY(optional_f64(in, "rope_theta", &rope->base));
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(sections); i++) {
        const json_t *section = json_object_get(in->object.json, sections[i]);
        if (section == NULL || json_is_null(section)) {
            continue;
        }
        if (!json_is_object(section)) {
            return spin_fail(in->err, SPIN_ERR_INVALID, "%s: '%s' is not an object",
                             in->object.subject, sections[i]);
        }
        const struct hf_config inner = {
            .object = {.json = section,
                       .subject = i == 0 ? SUBJECT " rope_scaling" : SUBJECT " rope_parameters"},
            .err = in->err,
        };
        SPIN_TRY(read_scaling(&inner, rope));
    }
    return SPIN_OK;
}

/* ---- shape ---- */

static spin_status read_shape(const struct hf_config *in, struct spin_model_config *out)
{
    SPIN_TRY(required_u32(in, "num_hidden_layers", &out->layers));
    SPIN_TRY(required_u32(in, "hidden_size", &out->hidden));
    SPIN_TRY(required_u32(in, "intermediate_size", &out->ffn));
    SPIN_TRY(required_u32(in, "num_attention_heads", &out->q_heads));
    SPIN_TRY(required_u32(in, "vocab_size", &out->vocab));
    SPIN_TRY(required_u32(in, "max_position_embeddings", &out->context_max));
    SPIN_TRY(required_f64(in, "rms_norm_eps", &out->rms_eps));
    SPIN_TRY(optional_bool(in, "tie_word_embeddings", &out->tied));
    out->kv_heads = out->q_heads;
    SPIN_TRY(optional_u32(in, "num_key_value_heads", &out->kv_heads));
    SPIN_TRY(optional_u32(in, "head_dim", &out->head_dim));
    if (out->head_dim != 0) {
        return SPIN_OK;
    }
    if (out->hidden % out->q_heads != 0) {
        return spin_fail(in->err, SPIN_ERR_INVALID,
                         "%s: 'num_attention_heads' %u does not divide 'hidden_size' %u",
                         in->object.subject, out->q_heads, out->hidden);
    }
    /* What the reference implementation assumes for qwen3, whose real files always say it. */
    out->head_dim = out->arch == SPIN_ARCH_QWEN3 ? 128 : out->hidden / out->q_heads;
    return SPIN_OK;
}

static spin_status read_config(const struct hf_config *in, struct spin_model_config *out)
{
    const char *type = NULL;
    SPIN_TRY(optional_name(in, "model_type", &type));
    if (type == NULL) {
        return missing_field(in, "model_type");
    }
    SPIN_TRY(spin_arch_find(type, strlen(type), &out->arch, in->err));
    SPIN_TRY(read_shape(in, out));
    SPIN_TRY(read_rope(in, out));
    SPIN_TRY(check_refused_fields(in, out->arch));
    /* Longer contexts are fine as far as page ids reach. */
    out->context_max = SPIN_MIN(out->context_max, SPIN_CONTEXT_MAX);
    out->qkv_bias = out->arch == SPIN_ARCH_QWEN2;
    out->qk_norm = out->arch == SPIN_ARCH_QWEN3;
    return SPIN_OK;
}

spin_status spin_hf_config_parse(const struct spin_string *text, struct spin_model_config *out,
                                 struct spin_error *err)
{
    json_t *json = NULL;
    SPIN_TRY(spin_json_parse(SUBJECT, text->bytes, text->count, &json, err));
    const struct hf_config in = {.object = {.json = json, .subject = SUBJECT}, .err = err};
    struct spin_model_config config = {0};
    const spin_status status = read_config(&in, &config);
    json_decref(json);
    SPIN_TRY(status);
    *out = config;
    return SPIN_OK;
}
