/* gguf_model: a transformer out of GGUF metadata and tensors. */
#include "model/weights/weights_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define ROPE_DIVISORS_NAME "rope_freqs.weight"

/* Keys live under the architecture's name: "llama.block_count". */
struct gguf_config {
    const struct spin_gguf *gguf;
    const char *arch;
    struct spin_error *err;
};

#define KEY_BYTES_MAX 96u

static const char *make_key(const struct gguf_config *in, const char *suffix, char *key)
{
    (void)snprintf(key, KEY_BYTES_MAX, "%s.%s", in->arch, suffix);
    return key;
}

/* NOT_FOUND leaves *out, which then holds the default. */
static spin_status optional_u32(const struct gguf_config *in, const char *suffix, uint32_t *out)
{
    char key[KEY_BYTES_MAX];
    uint64_t value = 0;
    const spin_status status = spin_gguf_u64(in->gguf, make_key(in, suffix, key), &value, in->err);
    if (status == SPIN_ERR_NOT_FOUND) {
        return SPIN_OK;
    }
    SPIN_TRY(status);
    if (value > UINT32_MAX) {
        return spin_fail(in->err, SPIN_ERR_LIMIT, "key '%s': %" PRIu64 " is too large", key, value);
    }
    *out = (uint32_t)value;
    return SPIN_OK;
}

static spin_status optional_f64(const struct gguf_config *in, const char *suffix, double *out)
{
    char key[KEY_BYTES_MAX];
    const spin_status status = spin_gguf_f64(in->gguf, make_key(in, suffix, key), out, in->err);
    return status == SPIN_ERR_NOT_FOUND ? SPIN_OK : status;
}

static spin_status missing_key(const struct gguf_config *in, const char *suffix)
{
    return spin_fail(in->err, SPIN_ERR_CORRUPT, "key '%s.%s' is missing or 0", in->arch, suffix);
}

static spin_status required_u32(const struct gguf_config *in, const char *suffix, uint32_t *out)
{
    uint32_t value = 0;
    SPIN_TRY(optional_u32(in, suffix, &value));
    if (value == 0) {
        return missing_key(in, suffix);
    }
    *out = value;
    return SPIN_OK;
}

/* ---- what we must not ignore ---- */

/* Features that change the output and that the forward pass does not have: a value other than
 * `neutral` is refused by the key's name. */
struct refused_key {
    const char *suffix;
    double neutral;
};

static const struct refused_key refused_keys[] = {
    {"expert_count", 0},
    {"expert_used_count", 0},
    {"leading_dense_block_count", 0},
    {"attn_logit_softcapping", 0},
    {"final_logit_softcapping", 0},
    {"attention.clamp_kqv", 0},
    {"attention.max_alibi_bias", 0},
    {"attention.scale", 0},
    {"attention.temperature_scale", 0},
    {"logit_scale", 1},
    {"embedding_scale", 1},
    {"residual_scale", 1},
    {"rope.scaling.yarn_ext_factor", 1},
    {"rope.scaling.yarn_log_multiplier", 0},
};

static spin_status check_refused_keys(const struct gguf_config *in, uint32_t context)
{
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(refused_keys); i++) {
        double value = refused_keys[i].neutral;
        SPIN_TRY(optional_f64(in, refused_keys[i].suffix, &value));
        if (value != refused_keys[i].neutral) {
            return spin_fail(in->err, SPIN_ERR_UNSUPPORTED, "key '%s.%s' = %g is not supported",
                             in->arch, refused_keys[i].suffix, value);
        }
    }
    uint32_t window = 0;
    SPIN_TRY(optional_u32(in, "attention.sliding_window", &window));
    if (window != 0 && window < context) {
        return spin_fail(in->err, SPIN_ERR_UNSUPPORTED,
                         "key '%s.attention.sliding_window' = %u is not supported", in->arch,
                         window);
    }
    bool causal = true;
    char key[KEY_BYTES_MAX];
    const spin_status status =
        spin_gguf_bool(in->gguf, make_key(in, "attention.causal", key), &causal, in->err);
    if (status != SPIN_ERR_NOT_FOUND) {
        SPIN_TRY(status);
    }
    if (!causal) {
        return spin_fail(in->err, SPIN_ERR_UNSUPPORTED, "key '%s' = false is not supported", key);
    }
    return SPIN_OK;
}

/* ---- configuration ---- */

static spin_status find_arch(const struct spin_gguf *gguf, enum spin_arch *out,
                             struct spin_error *err)
{
    struct spin_string name = {0};
    const spin_status status = spin_gguf_string(gguf, "general.architecture", &name, err);
    if (status == SPIN_ERR_NOT_FOUND) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "key 'general.architecture' is missing");
    }
    SPIN_TRY(status);
    return spin_arch_find(name.bytes, name.count, out, err);
}

static spin_status read_heads(const struct gguf_config *in, struct spin_model_config *out)
{
    SPIN_TRY(required_u32(in, "attention.head_count", &out->q_heads));
    out->kv_heads = out->q_heads;
    SPIN_TRY(optional_u32(in, "attention.head_count_kv", &out->kv_heads));
    SPIN_TRY(optional_u32(in, "attention.key_length", &out->head_dim));
    if (out->head_dim == 0) {
        if (out->hidden % out->q_heads != 0) {
            return spin_fail(in->err, SPIN_ERR_INVALID,
                             "key '%s.attention.head_count' = %u does not divide hidden size %u",
                             in->arch, out->q_heads, out->hidden);
        }
        out->head_dim = out->hidden / out->q_heads;
    }
    uint32_t value_length = out->head_dim;
    SPIN_TRY(optional_u32(in, "attention.value_length", &value_length));
    if (value_length != out->head_dim) {
        return spin_fail(in->err, SPIN_ERR_UNSUPPORTED,
                         "key '%s.attention.value_length' = %u: keys have %u", in->arch,
                         value_length, out->head_dim);
    }
    return SPIN_OK;
}

/* The total magnitude of GGUF's yarn is its attention factors times 0.1 ln(factor) + 1. */
static spin_status read_yarn(const struct gguf_config *in, struct spin_rope_config *rope)
{
    double attn_factor = 1;
    double yarn_attn_factor = 1;
    rope->beta_fast = 32;
    rope->beta_slow = 1;
    SPIN_TRY(optional_f64(in, "rope.scaling.attn_factor", &attn_factor));
    SPIN_TRY(optional_f64(in, "rope.scaling.yarn_attn_factor", &yarn_attn_factor));
    SPIN_TRY(optional_f64(in, "rope.scaling.yarn_beta_fast", &rope->beta_fast));
    SPIN_TRY(optional_f64(in, "rope.scaling.yarn_beta_slow", &rope->beta_slow));
    if (attn_factor != 1 || yarn_attn_factor != 1) {
        const double correction = rope->factor > 1 ? 0.1 * log(rope->factor) + 1 : 1;
        rope->attention_factor = attn_factor * yarn_attn_factor * correction;
        if (rope->attention_factor == 0) { /* our 0 means "by the formula" */
            return spin_fail(in->err, SPIN_ERR_INVALID, "key '%s.rope.scaling.attn_factor' = 0",
                             in->arch);
        }
    }
    return SPIN_OK;
}

static spin_status read_scaling(const struct gguf_config *in, struct spin_rope_config *rope)
{
    char key[KEY_BYTES_MAX];
    struct spin_string type = {.bytes = "linear", .count = strlen("linear")};
    const spin_status status =
        spin_gguf_string(in->gguf, make_key(in, "rope.scaling.type", key), &type, in->err);
    if (status != SPIN_ERR_NOT_FOUND) {
        SPIN_TRY(status);
    }
    /* Files of 2023 say rope.scale_linear; a factor of 0 or 1 means no scaling in either. */
    rope->factor = 0;
    SPIN_TRY(optional_f64(in, "rope.scale_linear", &rope->factor));
    SPIN_TRY(optional_f64(in, "rope.scaling.factor", &rope->factor));
    const bool printable = type.count <= 32 && spin_name_is_printable(type.bytes, type.count);
    char name[33] = "?";
    (void)snprintf(name, sizeof name, "%.*s", printable ? (int)type.count : 1,
                   printable ? type.bytes : "?");
    if (strcmp(name, "none") == 0 ||
        (strcmp(name, "linear") == 0 && (rope->factor == 0 || rope->factor == 1))) {
        rope->scaling = SPIN_ROPE_SCALING_NONE;
        return SPIN_OK;
    }
    if (strcmp(name, "linear") == 0) {
        rope->scaling = SPIN_ROPE_SCALING_LINEAR;
        return SPIN_OK;
    }
    if (strcmp(name, "yarn") == 0) {
        rope->scaling = SPIN_ROPE_SCALING_YARN;
        return read_yarn(in, rope);
    }
    return spin_fail(in->err, SPIN_ERR_UNSUPPORTED,
                     "key '%s' = '%s': supported are none, linear, yarn", key, name);
}

static spin_status read_rope(const struct gguf_config *in, struct spin_model_config *out)
{
    struct spin_rope_config *rope = &out->rope;
    /* Converters to GGUF reorder the rows of llama's q and k; those of qwen stay. */
    rope->pairs = out->arch == SPIN_ARCH_LLAMA ? SPIN_ROPE_INTERLEAVED : SPIN_ROPE_HALVES;
    rope->dim = out->head_dim;
    rope->base = 10000;
    rope->original_context = out->context_max;
    SPIN_TRY(optional_u32(in, "rope.dimension_count", &rope->dim));
    SPIN_TRY(optional_f64(in, "rope.freq_base", &rope->base));
    SPIN_TRY(optional_u32(in, "rope.scaling.original_context_length", &rope->original_context));
    return read_scaling(in, rope);
}

/* The vocabulary is as long as the embedding; a key that disagrees is an error. */
static spin_status read_vocab(const struct gguf_config *in, struct spin_model_config *out)
{
    const struct spin_gguf_tensor *embed = spin_gguf_tensor_find(in->gguf, "token_embd.weight");
    if (embed == NULL) {
        return spin_fail(in->err, SPIN_ERR_CORRUPT, "tensor 'token_embd.weight' is missing");
    }
    if (embed->dims[1] > SPIN_VOCAB_MAX) {
        return spin_fail(in->err, SPIN_ERR_LIMIT,
                         "tensor 'token_embd.weight': %" PRIu64 " tokens, the limit is %u",
                         embed->dims[1], SPIN_VOCAB_MAX);
    }
    out->vocab = (uint32_t)embed->dims[1];
    uint32_t stated = out->vocab;
    SPIN_TRY(optional_u32(in, "vocab_size", &stated));
    if (stated != out->vocab) {
        return spin_fail(in->err, SPIN_ERR_CORRUPT,
                         "key '%s.vocab_size' = %u: tensor 'token_embd.weight' has %u tokens",
                         in->arch, stated, out->vocab);
    }
    return SPIN_OK;
}

static spin_status read_config(const struct gguf_config *in, struct spin_model_config *out)
{
    SPIN_TRY(required_u32(in, "block_count", &out->layers));
    SPIN_TRY(required_u32(in, "embedding_length", &out->hidden));
    SPIN_TRY(required_u32(in, "feed_forward_length", &out->ffn));
    SPIN_TRY(required_u32(in, "context_length", &out->context_max));
    SPIN_TRY(read_heads(in, out));
    SPIN_TRY(read_rope(in, out));
    SPIN_TRY(read_vocab(in, out));
    SPIN_TRY(optional_f64(in, "attention.layer_norm_rms_epsilon", &out->rms_eps));
    if (out->rms_eps == 0) {
        return missing_key(in, "attention.layer_norm_rms_epsilon");
    }
    SPIN_TRY(check_refused_keys(in, out->context_max));
    /* Longer contexts are fine as far as page ids reach. */
    out->context_max = SPIN_MIN(out->context_max, SPIN_CONTEXT_MAX);
    out->tied = spin_gguf_tensor_find(in->gguf, "output.weight") == NULL;
    out->qkv_bias = out->arch == SPIN_ARCH_QWEN2;
    out->qk_norm = out->arch == SPIN_ARCH_QWEN3;
    return SPIN_OK;
}

/* ---- tensors ---- */

static spin_status find_tensor(void *context, const struct spin_tensor_request *request,
                               struct spin_tensor_view *out, struct spin_error *err)
{
    (void)err;
    const struct spin_gguf *gguf = context;
    const struct spin_gguf_tensor *tensor = spin_gguf_tensor_find(gguf, request->name);
    if (tensor == NULL) {
        return SPIN_ERR_NOT_FOUND;
    }
    out->dtype = tensor->dtype;
    out->dim_count = tensor->dim_count;
    out->cols = tensor->dims[0];
    out->rows = tensor->dims[1];
    out->data = tensor->data;
    out->bytes = tensor->bytes;
    out->index = (uint32_t)(tensor - spin_gguf_tensor_at(gguf, 0));
    return SPIN_OK;
}

static struct spin_string name_at(void *context, uint32_t index)
{
    return spin_gguf_tensor_at(context, index)->name;
}

static bool may_ignore(void *context, const struct spin_string *name)
{
    (void)context;
    return name->count == strlen(ROPE_DIVISORS_NAME) &&
           memcmp(name->bytes, ROPE_DIVISORS_NAME, name->count) == 0; /* read_divisors took it */
}

static spin_status read_divisors(struct spin_gguf *gguf, struct spin_model *model,
                                 struct spin_error *err)
{
    struct spin_rope_config *rope = &model->config.rope;
    const struct spin_tensor_request request = {.name = ROPE_DIVISORS_NAME};
    struct spin_tensor_view view = {0};
    if (spin_gguf_tensor_find(gguf, ROPE_DIVISORS_NAME) == NULL) {
        return SPIN_OK;
    }
    SPIN_TRY(find_tensor(gguf, &request, &view, err));
    if (view.dim_count != 1 || view.cols != rope->dim / 2) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "tensor '%s': %" PRIu64 " values, wanted %u",
                         ROPE_DIVISORS_NAME, view.cols, rope->dim / 2);
    }
    return spin_model_vector(model, ROPE_DIVISORS_NAME, &view, &rope->divisors, err);
}

static spin_status build(struct spin_gguf *gguf, struct spin_model *model, struct spin_error *err)
{
    struct spin_model_config *config = &model->config;
    SPIN_TRY(find_arch(gguf, &config->arch, err));
    const struct gguf_config in = {gguf, spin_arch_name(config->arch), err};
    SPIN_TRY(read_config(&in, config));
    SPIN_TRY(read_divisors(gguf, model, err));
    SPIN_TRY(spin_model_config_check(config, err));
    const struct spin_tensor_source source = {
        .names = SPIN_TENSOR_NAMES_GGUF,
        .context = gguf,
        .find = find_tensor,
        .tensor_count = spin_gguf_tensor_count(gguf),
        .name_at = name_at,
        .may_ignore = may_ignore,
    };
    SPIN_TRY(spin_model_bind(model, &source, err));
    model->id = spin_model_id_compute(model);
    return SPIN_OK;
}

spin_status spin_model_open_gguf(const struct spin_file_map *file, const char *fallback_name,
                                 struct spin_model **out, struct spin_error *err)
{
    struct spin_gguf *gguf = NULL;
    struct spin_model *model = NULL;
    spin_status status = SPIN_OK;
    SPIN_TRY_GOTO(status, spin_gguf_open(file, &gguf, err), done);
    struct spin_string name = {0};
    if (spin_gguf_string(gguf, "general.name", &name, NULL) != SPIN_OK || name.count == 0) {
        name.bytes = fallback_name;
        name.count = strlen(fallback_name);
    }
    /* Nothing is converted but vectors, to F32, or copied but what is misaligned. */
    SPIN_TRY_GOTO(
        status,
        spin_model_create(name.bytes, name.count, spin_model_arena_bytes(file->count), &model, err),
        done);
    SPIN_TRY_GOTO(status, build(gguf, model, err), done);
    *out = model;
    model = NULL;
done:
    spin_model_close(model);
    spin_gguf_close(gguf);
    return status;
}
