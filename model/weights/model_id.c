/* model_id: which weights made a KV block.
 *
 * The id must change whenever KV would, be the same on every machine, and cost less than the
 * start-up it is part of. It is BLAKE2b-128 over the configuration and an XXH3-64 of each tensor:
 * who can choose the weights can choose the KV too, so only accidents have to be told apart.
 * (BLAKE2b over the bytes took 0.22 s of the demo model's start, XXH3 takes a tenth of that.)
 *
 * Up to HASHED_WHOLE_BYTES of weights every byte counts; above that each tensor gives WINDOWS
 * windows of WINDOW_BYTES at even distances, first and last bytes included. Training or merging
 * touches every window of the tensors it touches; an edit of single rows by hand may hide between
 * them. docs/formats.md, "Model id", has the byte order. */
#include "base/assert.h"
#include "kvstore/block/digest.h"
#include "model/weights/weights_internal.h"

#include <string.h>

/* A quarter of a second from the page cache. */
#define HASHED_WHOLE_BYTES (UINT64_C(1) << 30)
#define WINDOW_BYTES (UINT64_C(64) << 10)
/* 723 tensors of a 70B model: 723 MiB at most. */
#define WINDOWS 16u

#define DOMAIN "spin-model-1"

static void put_u64(struct spin_digest *digest, uint64_t value)
{
    uint8_t bytes[8];
    for (uint32_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)(value >> (8 * i));
    }
    spin_digest_update(digest, bytes, sizeof bytes);
}

static void put_f64(struct spin_digest *digest, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_u64(digest, bits);
}

static void put_data(struct spin_digest *digest, const void *data, uint64_t bytes, bool whole)
{
    put_u64(digest, bytes);
    if (whole || bytes <= WINDOWS * WINDOW_BYTES) {
        put_u64(digest, spin_digest_checksum(data, bytes));
        return;
    }
    for (uint64_t i = 0; i < WINDOWS; i++) {
        /* bytes < 2^50, so the product stays far below 2^64. */
        const uint64_t offset = (bytes - WINDOW_BYTES) * i / (WINDOWS - 1);
        put_u64(digest, spin_digest_checksum((const uint8_t *)data + offset, WINDOW_BYTES));
    }
}

static void put_weight(struct spin_digest *digest, const struct spin_weight *weight, bool whole)
{
    put_u64(digest, weight->dtype);
    put_u64(digest, weight->rows);
    put_u64(digest, weight->cols);
    put_data(digest, weight->data, weight->rows * spin_dtype_row_bytes(weight->dtype, weight->cols),
             whole);
}

/* A vector that the model does not have is one of no bytes. */
static void put_vector(struct spin_digest *digest, const float *values, uint64_t count)
{
    put_data(digest, values, values == NULL ? 0 : count * sizeof *values, true);
}

/* What a scaling does not use is 0: a file that states a factor of 1 and no scaling is the same
 * model as one that states nothing. */
static struct spin_rope_config used_fields(const struct spin_rope_config *rope)
{
    struct spin_rope_config used = {
        .pairs = rope->pairs,
        .scaling = rope->scaling,
        .dim = rope->dim,
        .base = rope->base,
        .divisors = rope->divisors,
    };
    if (rope->scaling != SPIN_ROPE_SCALING_NONE) {
        used.factor = rope->factor;
    }
    if (rope->scaling == SPIN_ROPE_SCALING_LLAMA3) {
        used.low_freq_factor = rope->low_freq_factor;
        used.high_freq_factor = rope->high_freq_factor;
        used.original_context = rope->original_context;
    }
    if (rope->scaling == SPIN_ROPE_SCALING_YARN) {
        used.beta_fast = rope->beta_fast;
        used.beta_slow = rope->beta_slow;
        used.attention_factor = rope->attention_factor;
        used.original_context = rope->original_context;
    }
    return used;
}

static void put_config(struct spin_digest *digest, const struct spin_model_config *config)
{
    const struct spin_rope_config used = used_fields(&config->rope);
    const struct spin_rope_config *rope = &used;
    const uint64_t integers[] = {
        config->arch,     config->layers,   config->hidden, config->ffn,  config->q_heads,
        config->kv_heads, config->head_dim, config->vocab,  config->tied, config->qkv_bias,
        config->qk_norm,  rope->pairs,      rope->scaling,  rope->dim,    rope->original_context,
    };
    const double reals[] = {
        config->rms_eps,        rope->base,      rope->factor,    rope->low_freq_factor,
        rope->high_freq_factor, rope->beta_fast, rope->beta_slow, rope->attention_factor,
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(integers); i++) {
        put_u64(digest, integers[i]);
    }
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(reals); i++) {
        put_f64(digest, reals[i]);
    }
    put_vector(digest, rope->divisors, rope->dim / 2);
}

static void put_layer(struct spin_digest *digest, const struct spin_model_config *config,
                      const struct spin_layer_weights *layer, bool whole)
{
    const uint64_t q_width = (uint64_t)config->q_heads * config->head_dim;
    const uint64_t kv_width = (uint64_t)config->kv_heads * config->head_dim;
    const struct spin_weight *weights[] = {&layer->q,    &layer->k,  &layer->v,   &layer->o,
                                           &layer->gate, &layer->up, &layer->down};
    put_vector(digest, layer->attn_norm, config->hidden);
    put_vector(digest, layer->ffn_norm, config->hidden);
    put_vector(digest, layer->q_bias, q_width);
    put_vector(digest, layer->k_bias, kv_width);
    put_vector(digest, layer->v_bias, kv_width);
    put_vector(digest, layer->q_norm, config->head_dim);
    put_vector(digest, layer->k_norm, config->head_dim);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(weights); i++) {
        put_weight(digest, weights[i], whole);
    }
}

struct spin_model_id spin_model_id_compute(const struct spin_model *model)
{
    _Static_assert(SPIN_MODEL_ID_BYTES == SPIN_DIGEST_BYTES, "an id is one digest");
    const struct spin_model_config *config = &model->config;
    const bool whole = model->weight_bytes <= HASHED_WHOLE_BYTES;
    struct spin_digest digest;
    spin_digest_init(&digest);
    spin_digest_update(&digest, DOMAIN, strlen(DOMAIN));
    put_config(&digest, config);
    put_weight(&digest, &model->embed, whole);
    put_vector(&digest, model->output_norm, config->hidden);
    if (!config->tied) {
        put_weight(&digest, &model->lm_head, whole);
    }
    for (uint32_t i = 0; i < config->layers; i++) {
        put_layer(&digest, config, &model->layers[i], whole);
    }
    struct spin_model_id id;
    spin_digest_final(&digest, id.bytes);
    return id;
}
