/* gguf_builder: small GGUF files in memory, with any field wrong on purpose.
 *
 * Why        Hostile files are easier to write as one change to a good file than as bytes.
 * Ownership  Names are borrowed and must be literals; finish returns owned bytes (free).
 * Threading  The test's thread.
 * Errors     Running over a fixed capacity fails the test by assertion. */
#pragma once

#include "base/file.h"

SPIN_BEGIN_DECLS

#define GGUF_BUILDER_ENTRIES 64u
#define GGUF_BUILDER_VALUE_BYTES 256u

struct gguf_builder_key {
    const char *name;
    uint32_t type;
    uint32_t value_bytes;
    uint8_t value[GGUF_BUILDER_VALUE_BYTES];
};

struct gguf_builder_tensor {
    const char *name;
    uint32_t wire_type;
    uint32_t dim_count;
    uint64_t dims[8];
    uint64_t bytes;
    uint64_t offset; /* UINT64_MAX: behind the tensor before it, aligned */
};

struct gguf_builder {
    uint32_t magic;
    uint32_t version;
    uint32_t key_count;
    uint32_t tensor_count;
    uint64_t stated_key_count;    /* UINT64_MAX: key_count */
    uint64_t stated_tensor_count; /* UINT64_MAX: tensor_count */
    uint64_t alignment;           /* of the data; general.alignment is a key like others */
    struct gguf_builder_key keys[GGUF_BUILDER_ENTRIES];
    struct gguf_builder_tensor tensors[GGUF_BUILDER_ENTRIES];
};

void spin_gguf_builder_init(struct gguf_builder *builder);
/* Adds the key, or replaces the one of that name. */
void spin_gguf_builder_raw(struct gguf_builder *builder, const char *name, uint32_t type,
                           const void *value, uint32_t value_bytes);
void spin_gguf_builder_u32(struct gguf_builder *builder, const char *name, uint32_t value);
void spin_gguf_builder_f32(struct gguf_builder *builder, const char *name, float value);
void spin_gguf_builder_bool(struct gguf_builder *builder, const char *name, uint8_t value);
void spin_gguf_builder_string(struct gguf_builder *builder, const char *name, const char *value);
void spin_gguf_builder_remove_key(struct gguf_builder *builder, const char *name);

/* Adds a tensor of one (rows == 0) or two dimensions, or replaces the one of that name.
 * `wire_type`: 0 F32, 1 F16, 8 Q8_0, 30 BF16, .. `bytes` of data follow the table. */
struct gguf_builder_tensor *spin_gguf_builder_tensor(struct gguf_builder *builder, const char *name,
                                                     uint32_t wire_type, uint64_t rows,
                                                     uint64_t cols);
struct gguf_builder_tensor *spin_gguf_builder_find(struct gguf_builder *builder, const char *name);
void spin_gguf_builder_remove_tensor(struct gguf_builder *builder, const char *name);

/* Byte i of a tensor's data: what the builder writes. */
uint8_t spin_gguf_builder_data(const char *name, uint64_t i);

/* Exactly as long as the file, so that AddressSanitizer sees every byte read past its end. */
struct spin_file_map spin_gguf_builder_finish(const struct gguf_builder *builder);

SPIN_END_DECLS
