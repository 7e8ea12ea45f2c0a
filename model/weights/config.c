/* config: the limits of a model's shape, whatever file it came from. */
#include "model/weights/weights_internal.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const char *const arch_names[] = {
    [SPIN_ARCH_LLAMA] = "llama",
    [SPIN_ARCH_QWEN2] = "qwen2",
    [SPIN_ARCH_QWEN3] = "qwen3",
};

const char *spin_arch_name(enum spin_arch arch)
{
    return arch_names[arch];
}

spin_status spin_arch_find(const char *bytes, uint64_t count, enum spin_arch *out,
                           struct spin_error *err)
{
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(arch_names); i++) {
        if (strlen(arch_names[i]) == count && memcmp(arch_names[i], bytes, count) == 0) {
            *out = (enum spin_arch)i;
            return SPIN_OK;
        }
    }
    const bool printable = count <= 64 && spin_name_is_printable(bytes, count);
    return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                     "architecture '%.*s': supported are llama, qwen2 and qwen3",
                     printable ? (int)count : 1, printable ? bytes : "?");
}

static spin_status check_range(const char *field, uint64_t value, uint64_t max,
                               struct spin_error *err)
{
    if (value == 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "%s is 0", field);
    }
    if (value > max) {
        return spin_fail(err, SPIN_ERR_LIMIT, "%s %" PRIu64 ": the limit is %" PRIu64, field, value,
                         max);
    }
    return SPIN_OK;
}

static spin_status check_multiple(const char *field, uint64_t value, uint64_t unit,
                                  struct spin_error *err)
{
    if (value % unit != 0) {
        return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                         "%s %" PRIu64 ": must be a multiple of %" PRIu64, field, value, unit);
    }
    return SPIN_OK;
}

static spin_status check_heads(const struct spin_model_config *config, struct spin_error *err)
{
    SPIN_TRY(check_range("kv heads", config->kv_heads, SPIN_KV_HEADS_MAX, err));
    SPIN_TRY(check_range("query heads", config->q_heads, SPIN_Q_HEADS_MAX, err));
    SPIN_TRY(check_range("head dimension", config->head_dim, SPIN_HEAD_DIM_MAX, err));
    SPIN_TRY(check_multiple("head dimension", config->head_dim, 8, err));
    if (config->q_heads % config->kv_heads != 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "query heads %u: not a multiple of the %u kv heads",
                         config->q_heads, config->kv_heads);
    }
    return SPIN_OK;
}

/* matmul works on K in groups of 32 (kernels/matmul.h). */
static spin_status check_widths(const struct spin_model_config *config, struct spin_error *err)
{
    const uint64_t q_width = (uint64_t)config->q_heads * config->head_dim;
    SPIN_TRY(check_range("hidden size", config->hidden, SPIN_HIDDEN_MAX, err));
    SPIN_TRY(check_range("feed-forward size", config->ffn, SPIN_FFN_MAX, err));
    SPIN_TRY(check_range("query heads x head dimension", q_width, SPIN_HIDDEN_MAX, err));
    SPIN_TRY(check_multiple("hidden size", config->hidden, 32, err));
    SPIN_TRY(check_multiple("feed-forward size", config->ffn, 32, err));
    return check_multiple("query heads x head dimension", q_width, 32, err);
}

static spin_status check_real(const char *field, double value, double min, double max,
                              struct spin_error *err)
{
    if (!(value >= min && value <= max)) { /* a NaN fails both */
        return spin_fail(err, SPIN_ERR_INVALID, "%s %g: must be from %g to %g", field, value, min,
                         max);
    }
    return SPIN_OK;
}

static spin_status check_divisors(const struct spin_rope_config *rope, struct spin_error *err)
{
    for (uint32_t i = 0; rope->divisors != NULL && i < rope->dim / 2; i++) {
        const double divisor = (double)rope->divisors[i];
        if (!(divisor >= 1e-6 && divisor <= 1e6)) {
            return spin_fail(err, SPIN_ERR_INVALID,
                             "RoPE divisor %u is %g: must be from 1e-6 to 1e6", i, divisor);
        }
    }
    return SPIN_OK;
}

static spin_status check_scaling(const struct spin_rope_config *rope, struct spin_error *err)
{
    if (rope->scaling == SPIN_ROPE_SCALING_NONE) {
        return SPIN_OK;
    }
    SPIN_TRY(check_real("RoPE scaling factor", rope->factor, 1.0 / 1024, 1024, err));
    if (rope->scaling == SPIN_ROPE_SCALING_LINEAR) {
        return SPIN_OK;
    }
    SPIN_TRY(check_range("RoPE scaling's original context", rope->original_context,
                         (uint64_t)SPIN_CONTEXT_MAX, err));
    if (rope->scaling == SPIN_ROPE_SCALING_LLAMA3) {
        SPIN_TRY(check_real("RoPE low_freq_factor", rope->low_freq_factor, 1e-3, 1e6, err));
        SPIN_TRY(check_real("RoPE high_freq_factor", rope->high_freq_factor, 1e-3, 1e6, err));
        if (rope->high_freq_factor <= rope->low_freq_factor) {
            return spin_fail(err, SPIN_ERR_INVALID,
                             "RoPE high_freq_factor %g: must be above low_freq_factor %g",
                             rope->high_freq_factor, rope->low_freq_factor);
        }
        return SPIN_OK;
    }
    SPIN_TRY(check_real("RoPE beta_fast", rope->beta_fast, 1e-3, 1e6, err));
    SPIN_TRY(check_real("RoPE beta_slow", rope->beta_slow, 1e-3, 1e6, err));
    if (rope->attention_factor != 0) {
        SPIN_TRY(check_real("RoPE attention_factor", rope->attention_factor, 1e-3, 1e3, err));
    }
    return SPIN_OK;
}

spin_status spin_model_config_check(const struct spin_model_config *config, struct spin_error *err)
{
    SPIN_TRY(check_range("layers", config->layers, SPIN_LAYERS_MAX, err));
    SPIN_TRY(check_range("vocabulary", config->vocab, SPIN_VOCAB_MAX, err));
    SPIN_TRY(check_range("context", config->context_max, (uint64_t)SPIN_CONTEXT_MAX, err));
    SPIN_TRY(check_heads(config, err));
    SPIN_TRY(check_widths(config, err));
    SPIN_TRY(check_real("RMS norm epsilon", config->rms_eps, 1e-12, 1e-1, err));
    SPIN_TRY(check_real("RoPE base", config->rope.base, 2, 1e12, err));
    if (config->rope.dim != config->head_dim) {
        return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                         "RoPE over %u of %u dimensions: partial rotation is not supported",
                         config->rope.dim, config->head_dim);
    }
    SPIN_TRY(check_scaling(&config->rope, err));
    return check_divisors(&config->rope, err);
}
