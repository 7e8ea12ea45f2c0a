/* model: the shape of a transformer and its weights, ready to be multiplied where they lie.
 *
 * Why        The forward pass sees one struct whatever the file was: GGUF, safetensors, or random.
 * Ownership  A model owns its maps and whatever it had to convert (norms and biases as F32); views
 *            are valid until close. A placed model (place.h) owns its memory on the device instead.
 * Threading  Load on one thread; read by all.
 * Units      Elements and tokens.
 * Errors     NOT_FOUND, CORRUPT, UNSUPPORTED (architecture, tensor type, RoPE scaling: by name),
 *            LIMIT; the text names the file and the key or tensor. */
#pragma once

#include "kernels/matrix.h"
#include "kernels/rope.h"
#include "kvstore/block/key.h"

SPIN_BEGIN_DECLS

#define SPIN_CONTEXT_MAX (SPIN_ROW_PAGES_MAX * SPIN_TILE_TOKENS)
#define SPIN_VOCAB_MAX (1u << 20)
#define SPIN_HIDDEN_MAX 65536u
#define SPIN_FFN_MAX (1u << 18)
#define SPIN_Q_HEADS_MAX 1024u

enum spin_arch { SPIN_ARCH_LLAMA, SPIN_ARCH_QWEN2, SPIN_ARCH_QWEN3 };

enum spin_rope_scaling {
    SPIN_ROPE_SCALING_NONE,
    SPIN_ROPE_SCALING_LINEAR, /* frequency / factor */
    SPIN_ROPE_SCALING_LLAMA3, /* by wavelength, smooth between low and high */
    SPIN_ROPE_SCALING_YARN    /* by rotations inside the original context, magnitude corrected */
};

struct spin_rope_config {
    enum spin_rope_pairs pairs;
    enum spin_rope_scaling scaling;
    uint32_t dim;
    double base;
    double factor;
    double low_freq_factor;  /* llama3 */
    double high_freq_factor; /* llama3 */
    double beta_fast;        /* yarn */
    double beta_slow;        /* yarn */
    double attention_factor; /* yarn's magnitude; 0: 0.1 ln(factor) + 1 */
    uint32_t original_context;
    const float
        *divisors; /* [dim / 2] or NULL: frequency i is divided by divisors[i] before any scaling;
                            * how GGUF files carry llama3 scaling */
};

struct spin_model_config {
    enum spin_arch arch;
    uint32_t layers;
    uint32_t hidden;
    uint32_t ffn;
    uint32_t q_heads;
    uint32_t kv_heads;
    uint32_t head_dim;
    uint32_t vocab;
    uint32_t context_max; /* what the file says the model was made for, SPIN_CONTEXT_MAX at most */
    double rms_eps;
    struct spin_rope_config rope;
    bool tied;     /* lm_head is the embedding */
    bool qkv_bias; /* qwen2 */
    bool qk_norm;  /* qwen3 */
};

struct spin_layer_weights {
    const float *attn_norm;  /* [hidden] */
    struct spin_weight q;    /* [q_heads * head_dim][hidden] */
    struct spin_weight k;    /* [kv_heads * head_dim][hidden] */
    struct spin_weight v;    /* [kv_heads * head_dim][hidden] */
    struct spin_weight o;    /* [hidden][q_heads * head_dim] */
    const float *q_bias;     /* [q_heads * head_dim] or NULL */
    const float *k_bias;     /* [kv_heads * head_dim] or NULL */
    const float *v_bias;     /* [kv_heads * head_dim] or NULL */
    const float *q_norm;     /* [head_dim] or NULL */
    const float *k_norm;     /* [head_dim] or NULL */
    const float *ffn_norm;   /* [hidden] */
    struct spin_weight gate; /* [ffn][hidden] */
    struct spin_weight up;   /* [ffn][hidden] */
    struct spin_weight down; /* [hidden][ffn] */
};

struct spin_model {
    struct spin_model_config config;
    char name[128];          /* general.name, the folder's name, or "random:<shape>" */
    struct spin_model_id id; /* of architecture, shape and weight bytes (docs/formats.md) */
    uint64_t weight_bytes;   /* mapped, generated or placed, all tensors */
    struct spin_layer_weights *layers;  /* [config.layers] */
    struct spin_weight embed;           /* [vocab][hidden] */
    struct spin_weight lm_head;         /* [vocab][hidden]; the embedding when tied */
    const float *output_norm;           /* [hidden] */
    struct spin_model_storage *storage; /* private to model/weights */
};

/* `source`: a .gguf file, a folder with config.json and *.safetensors (sharded or not), or
 * "random:<shape>[:seed]" with <shape> a name from spin_model_random_shapes(). */
SPIN_MUST_USE spin_status spin_model_open(const char *source, struct spin_model **out,
                                          struct spin_error *err);
void spin_model_close(struct spin_model *model); /* NULL is allowed */

/* One line for a log or a person: name, architecture, parameters, formats, bytes, context. Always
 * NUL-terminated, cut at `size`. */
void spin_model_describe(const struct spin_model *model, char *out, uint64_t size);

/* "tiny, smollm2-135m, llama-3.1-8b, qwen3-14b, ...": for --help and errors. */
const char *spin_model_random_shapes(void);

/* The rotary_dim / 2 scaled frequencies in double, and the magnitude that cos and sin are
 * multiplied with. Formulas: docs/formats.md (linear, llama3, yarn). */
void spin_rope_frequencies(const struct spin_rope_config *rope, double *frequencies,
                           double *magnitude);

SPIN_END_DECLS
