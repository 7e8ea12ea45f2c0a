/* bind: which tensors a model has, with names and shapes, and the check that a source has them. */
#include "base/assert.h"
#include "model/weights/weights_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum dim { DIM_ONE, DIM_HIDDEN, DIM_FFN, DIM_Q, DIM_KV, DIM_HEAD, DIM_VOCAB };
enum presence { ALWAYS, WITH_QKV_BIAS, WITH_QK_NORM, UNLESS_TIED };

/* One tensor of a layer, or of the model. rows == DIM_ONE: a vector, stored as F32. */
struct role {
    const char *gguf_name;
    const char *hf_name;
    size_t offset; /* of the field in struct spin_layer_weights or struct spin_model */
    enum dim rows;
    enum dim cols;
    enum presence presence;
};

#define IN_MODEL(field) offsetof(struct spin_model, field)
#define IN_LAYER(field) offsetof(struct spin_layer_weights, field)

static const struct role model_roles[] = {
    {"token_embd.weight", "model.embed_tokens.weight", IN_MODEL(embed), DIM_VOCAB, DIM_HIDDEN,
     ALWAYS},
    {"output_norm.weight", "model.norm.weight", IN_MODEL(output_norm), DIM_ONE, DIM_HIDDEN, ALWAYS},
    {"output.weight", "lm_head.weight", IN_MODEL(lm_head), DIM_VOCAB, DIM_HIDDEN, UNLESS_TIED},
};

/* The names follow "blk.<layer>." and "model.layers.<layer>.". */
static const struct role layer_roles[] = {
    {"attn_norm.weight", "input_layernorm.weight", IN_LAYER(attn_norm), DIM_ONE, DIM_HIDDEN,
     ALWAYS},
    {"attn_q.weight", "self_attn.q_proj.weight", IN_LAYER(q), DIM_Q, DIM_HIDDEN, ALWAYS},
    {"attn_k.weight", "self_attn.k_proj.weight", IN_LAYER(k), DIM_KV, DIM_HIDDEN, ALWAYS},
    {"attn_v.weight", "self_attn.v_proj.weight", IN_LAYER(v), DIM_KV, DIM_HIDDEN, ALWAYS},
    {"attn_output.weight", "self_attn.o_proj.weight", IN_LAYER(o), DIM_HIDDEN, DIM_Q, ALWAYS},
    {"attn_q.bias", "self_attn.q_proj.bias", IN_LAYER(q_bias), DIM_ONE, DIM_Q, WITH_QKV_BIAS},
    {"attn_k.bias", "self_attn.k_proj.bias", IN_LAYER(k_bias), DIM_ONE, DIM_KV, WITH_QKV_BIAS},
    {"attn_v.bias", "self_attn.v_proj.bias", IN_LAYER(v_bias), DIM_ONE, DIM_KV, WITH_QKV_BIAS},
    {"attn_q_norm.weight", "self_attn.q_norm.weight", IN_LAYER(q_norm), DIM_ONE, DIM_HEAD,
     WITH_QK_NORM},
    {"attn_k_norm.weight", "self_attn.k_norm.weight", IN_LAYER(k_norm), DIM_ONE, DIM_HEAD,
     WITH_QK_NORM},
    {"ffn_norm.weight", "post_attention_layernorm.weight", IN_LAYER(ffn_norm), DIM_ONE, DIM_HIDDEN,
     ALWAYS},
    {"ffn_gate.weight", "mlp.gate_proj.weight", IN_LAYER(gate), DIM_FFN, DIM_HIDDEN, ALWAYS},
    {"ffn_up.weight", "mlp.up_proj.weight", IN_LAYER(up), DIM_FFN, DIM_HIDDEN, ALWAYS},
    {"ffn_down.weight", "mlp.down_proj.weight", IN_LAYER(down), DIM_HIDDEN, DIM_FFN, ALWAYS},
};

struct binder {
    struct spin_model *model;
    const struct spin_tensor_source *source;
    bool *used; /* [source->tensor_count] */
    struct spin_error *err;
};

static uint64_t dim_size(const struct spin_model_config *config, enum dim dim)
{
    switch (dim) {
    case DIM_ONE:
        return 1;
    case DIM_HIDDEN:
        return config->hidden;
    case DIM_FFN:
        return config->ffn;
    case DIM_Q:
        return (uint64_t)config->q_heads * config->head_dim;
    case DIM_KV:
        return (uint64_t)config->kv_heads * config->head_dim;
    case DIM_HEAD:
        return config->head_dim;
    case DIM_VOCAB:
        return config->vocab;
    }
    return 0;
}

static bool is_present(const struct spin_model_config *config, enum presence presence)
{
    switch (presence) {
    case ALWAYS:
        return true;
    case WITH_QKV_BIAS:
        return config->qkv_bias;
    case WITH_QK_NORM:
        return config->qk_norm;
    case UNLESS_TIED:
        return !config->tied;
    }
    return false;
}

/* Element types must lie on their own alignment to be read in place. GGUF guarantees it;
 * safetensors promises it only since its writers pad the header. */
static spin_status align_data(struct spin_model *model, const char *name,
                              const struct spin_tensor_view *view, const void **out,
                              struct spin_error *err)
{
    const uintptr_t alignment = view->dtype == SPIN_DTYPE_F32 ? sizeof(float) : sizeof(uint16_t);
    if ((uintptr_t)view->data % alignment == 0) {
        *out = view->data;
        return SPIN_OK;
    }
    void *copy = spin_arena_take(model->storage->arena, view->bytes);
    if (copy == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY,
                         "tensor '%s': %" PRIu64 " bytes for an aligned copy", name, view->bytes);
    }
    __builtin_memcpy(copy, view->data, view->bytes);
    *out = copy;
    return SPIN_OK;
}

spin_status spin_model_vector(struct spin_model *model, const char *name,
                              const struct spin_tensor_view *view, const float **out,
                              struct spin_error *err)
{
    const void *data = NULL;
    SPIN_TRY(align_data(model, name, view, &data, err));
    if (view->dtype == SPIN_DTYPE_F32) {
        *out = data;
        return SPIN_OK;
    }
    if (view->dtype != SPIN_DTYPE_F16 && view->dtype != SPIN_DTYPE_BF16) {
        return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                         "tensor '%s': type %s; a vector is F32, F16 or BF16", name,
                         spin_dtype_name(view->dtype));
    }
    float *values = spin_arena_take(model->storage->arena, view->cols * sizeof *values);
    if (values == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "tensor '%s': %" PRIu64 " values as F32", name,
                         view->cols);
    }
    spin_dtype_to_f32(view->dtype, data, values, view->cols);
    *out = values;
    return SPIN_OK;
}

static spin_status find_tensor(const struct binder *binder,
                               const struct spin_tensor_request *request,
                               struct spin_tensor_view *out)
{
    const struct spin_tensor_source *source = binder->source;
    const spin_status status = source->find(source->context, request, out, binder->err);
    if (status == SPIN_ERR_NOT_FOUND) {
        return spin_fail(binder->err, SPIN_ERR_CORRUPT, "tensor '%s' is missing", request->name);
    }
    SPIN_TRY(status);
    if (out->dim_count != request->dim_count || out->rows != request->rows ||
        out->cols != request->cols) {
        return spin_fail(binder->err, SPIN_ERR_CORRUPT,
                         "tensor '%s': %u-dimensional [%" PRIu64 "][%" PRIu64
                         "], the configuration says %u-dimensional [%" PRIu64 "][%" PRIu64 "]",
                         request->name, out->dim_count, out->rows, out->cols, request->dim_count,
                         request->rows, request->cols);
    }
    if (source->tensor_count != 0) {
        SPIN_ASSERT_LT(out->index, source->tensor_count);
        binder->used[out->index] = true;
    }
    return SPIN_OK;
}

/* `target`: the struct that the role's offset is in. */
static spin_status bind_role(const struct binder *binder, const struct role *role,
                             const struct spin_tensor_request *request, char *target)
{
    struct spin_tensor_view view = {0};
    SPIN_TRY(find_tensor(binder, request, &view));
    binder->model->weight_bytes += view.bytes;
    if (role->rows == DIM_ONE) {
        const float **field = (const float **)(void *)(target + role->offset);
        return spin_model_vector(binder->model, request->name, &view, field, binder->err);
    }
    struct spin_weight *field = (struct spin_weight *)(void *)(target + role->offset);
    SPIN_TRY(align_data(binder->model, request->name, &view, &field->data, binder->err));
    field->dtype = view.dtype;
    field->rows = (uint32_t)view.rows;
    field->cols = (uint32_t)view.cols;
    return SPIN_OK;
}

static struct spin_tensor_request make_request(const struct binder *binder, const struct role *role)
{
    const struct spin_model_config *config = &binder->model->config;
    struct spin_tensor_request request = {0};
    request.name =
        binder->source->names == SPIN_TENSOR_NAMES_GGUF ? role->gguf_name : role->hf_name;
    request.dim_count = role->rows == DIM_ONE ? 1 : 2;
    request.rows = dim_size(config, role->rows);
    request.cols = dim_size(config, role->cols);
    return request;
}

static spin_status bind_model_roles(const struct binder *binder)
{
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(model_roles); i++) {
        const struct role *role = &model_roles[i];
        if (!is_present(&binder->model->config, role->presence)) {
            continue;
        }
        struct spin_tensor_request request = make_request(binder, role);
        request.ordinal = i;
        SPIN_TRY(bind_role(binder, role, &request, (char *)binder->model));
    }
    return SPIN_OK;
}

static spin_status bind_layer_roles(const struct binder *binder, uint32_t layer)
{
    const char *prefix = binder->source->names == SPIN_TENSOR_NAMES_GGUF ? "blk" : "model.layers";
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(layer_roles); i++) {
        const struct role *role = &layer_roles[i];
        if (!is_present(&binder->model->config, role->presence)) {
            continue;
        }
        char name[96];
        struct spin_tensor_request request = make_request(binder, role);
        (void)snprintf(name, sizeof name, "%s.%u.%s", prefix, layer, request.name);
        request.name = name;
        request.ordinal =
            (uint32_t)(SPIN_ARRAY_COUNT(model_roles) + layer * SPIN_ARRAY_COUNT(layer_roles) + i);
        SPIN_TRY(bind_role(binder, role, &request, (char *)&binder->model->layers[layer]));
    }
    return SPIN_OK;
}

/* A tensor that nobody asked for belongs to a model that we do not know; leaving it out would give
 * plausible nonsense. */
static spin_status check_left_over(const struct binder *binder)
{
    const struct spin_tensor_source *source = binder->source;
    for (uint32_t i = 0; i < source->tensor_count; i++) {
        if (binder->used[i]) {
            continue;
        }
        const struct spin_string name = source->name_at(source->context, i);
        if (!source->may_ignore(source->context, &name)) {
            return spin_fail(
                binder->err, SPIN_ERR_UNSUPPORTED,
                "tensor '%.*s' is not part of a %s model of %u layers%s%s%s", (int)name.count,
                name.bytes, spin_arch_name(binder->model->config.arch),
                binder->model->config.layers, binder->model->config.tied ? ", tied" : "",
                binder->model->config.qkv_bias ? ", q k v biases" : "",
                binder->model->config.qk_norm ? ", q k norms" : "");
        }
    }
    return SPIN_OK;
}

static spin_status bind_all(const struct binder *binder)
{
    struct spin_model *model = binder->model;
    SPIN_TRY(bind_model_roles(binder));
    if (model->config.tied) {
        model->lm_head = model->embed;
    }
    for (uint32_t layer = 0; layer < model->config.layers; layer++) {
        SPIN_TRY(bind_layer_roles(binder, layer));
    }
    return check_left_over(binder);
}

spin_status spin_model_bind(struct spin_model *model, const struct spin_tensor_source *source,
                            struct spin_error *err)
{
    SPIN_ASSERT(model->layers == NULL);
    struct binder binder = {.model = model, .source = source, .err = err};
    model->layers = calloc(model->config.layers, sizeof *model->layers);
    binder.used = calloc((size_t)source->tensor_count + 1, sizeof *binder.used);
    spin_status status = SPIN_OK;
    if (model->layers == NULL || binder.used == NULL) {
        status = spin_fail(err, SPIN_ERR_NO_MEMORY, "a table of %u layers", model->config.layers);
    } else {
        status = bind_all(&binder);
    }
    free(binder.used);
    return status;
}
