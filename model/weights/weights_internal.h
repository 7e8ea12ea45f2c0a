/* weights_internal: what the readers of GGUF, safetensors and random models share.
 *
 * Why        Each source knows its own names and bytes; which tensors a model has, their shapes and
 *            where they go is decided once, in bind.c.
 * Ownership  A half-built model is destroyed with spin_model_close; its storage owns what it maps.
 * Threading  The thread that opens the model.
 * Errors     As model.h; texts name the key or tensor, spin_model_open adds the file. */
#pragma once

#include "base/arena.h"
#include "base/file.h"
#include "kernels/device.h"
#include "model/format/gguf.h"
#include "model/format/name.h"
#include "model/weights/model.h"

SPIN_BEGIN_DECLS

struct spin_model_storage {
    struct spin_file_map *maps; /* [map_count]: owned */
    uint32_t map_count;
    struct spin_arena *arena; /* what had to be converted or copied */
    void *generated;          /* anonymous memory of a random model */
    uint64_t generated_bytes;
    struct spin_stream *stream; /* of a placed model: borrowed */
    void *device_memory;        /* of a placed model: all tensors */
};

/* A tensor of a file: one or two dimensions, the last one contiguous. */
struct spin_tensor_view {
    enum spin_dtype dtype;
    uint32_t dim_count; /* 1: [cols]; 2: [rows][cols]; otherwise the shape is refused */
    uint64_t rows;      /* 1 for a vector */
    uint64_t cols;
    const uint8_t *data;
    uint64_t bytes;
    uint32_t index; /* in the source; below tensor_count */
};

struct spin_tensor_request {
    const char *name; /* as the source calls it */
    uint32_t ordinal; /* the tensor's number in the order of binding */
    uint32_t dim_count;
    uint64_t rows;
    uint64_t cols;
};

enum spin_tensor_names { SPIN_TENSOR_NAMES_GGUF, SPIN_TENSOR_NAMES_HF };

struct spin_tensor_source {
    enum spin_tensor_names names;
    void *context;
    /* NOT_FOUND without a text when there is none of that name. */
    spin_status (*find)(void *context, const struct spin_tensor_request *request,
                        struct spin_tensor_view *out, struct spin_error *err);
    uint32_t tensor_count; /* 0: nothing to check for being left over */
    struct spin_string (*name_at)(void *context, uint32_t index);
    /* Tensors that change nothing when they are ignored. */
    bool (*may_ignore)(void *context, const struct spin_string *name);
};

/* A zeroed model with an empty storage. `arena_bytes` bounds what may be converted. */
SPIN_MUST_USE spin_status spin_model_create(const char *name, uint64_t name_bytes,
                                            uint64_t arena_bytes, struct spin_model **out,
                                            struct spin_error *err);

/* The cap for a model out of files of `bytes`: vectors grow four times at most (16 bytes of BF16 to
 * a 64-byte piece), misaligned matrices are copied once. */
uint64_t spin_model_arena_bytes(uint64_t bytes);

/* The limits of every field and the relations between them; LIMIT, INVALID, UNSUPPORTED. */
SPIN_MUST_USE spin_status spin_model_config_check(const struct spin_model_config *config,
                                                  struct spin_error *err);

const char *spin_arch_name(enum spin_arch arch);
/* UNSUPPORTED with the name. `bytes` may hold anything. */
SPIN_MUST_USE spin_status spin_arch_find(const char *bytes, uint64_t count, enum spin_arch *out,
                                         struct spin_error *err);

/* Fills model->layers, embed, lm_head, output_norm and weight_bytes from `source` by model->config,
 * which has been checked. Every tensor of the source must be used or ignorable. */
SPIN_MUST_USE spin_status spin_model_bind(struct spin_model *model,
                                          const struct spin_tensor_source *source,
                                          struct spin_error *err);
/* The view's values as F32, in place where they are that already. */
SPIN_MUST_USE spin_status spin_model_vector(struct spin_model *model, const char *name,
                                            const struct spin_tensor_view *view, const float **out,
                                            struct spin_error *err);

/* A GGUF file in memory; `file` must outlive the model. `fallback_name` where general.name is
 * absent. */
SPIN_MUST_USE spin_status spin_model_open_gguf(const struct spin_file_map *file,
                                               const char *fallback_name, struct spin_model **out,
                                               struct spin_error *err);

/* The parts of a model in Hugging Face's form, in memory; the shards must outlive the model. */
struct spin_hf_shard {
    const char *name; /* "model-00001-of-00004.safetensors" */
    struct spin_file_map file;
};
struct spin_hf_parts {
    struct spin_string config; /* config.json */
    struct spin_string index;  /* model.safetensors.index.json; bytes NULL: one shard holds all */
    const struct spin_hf_shard *shards;
    uint32_t shard_count;
};
SPIN_MUST_USE spin_status spin_model_open_hf_parts(const struct spin_hf_parts *parts,
                                                   const char *name, struct spin_model **out,
                                                   struct spin_error *err);
/* config.json alone; nothing is checked against limits yet. */
SPIN_MUST_USE spin_status spin_hf_config_parse(const struct spin_string *text,
                                               struct spin_model_config *out,
                                               struct spin_error *err);
SPIN_MUST_USE spin_status spin_model_open_hf(const char *folder, struct spin_model **out,
                                             struct spin_error *err);

/* `spec`: what follows "random:". */
SPIN_MUST_USE spin_status spin_model_open_random(const char *spec, struct spin_model **out,
                                                 struct spin_error *err);

/* docs/formats.md, "Model id". */
struct spin_model_id spin_model_id_compute(const struct spin_model *model);

SPIN_END_DECLS
