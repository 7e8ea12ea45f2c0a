#include "tests/model/gguf_builder.h"

#include "base/assert.h"

#include <stdlib.h>
#include <string.h>

struct output {
    uint8_t *bytes;
    uint64_t count;
    uint64_t capacity;
};

static void put(struct output *out, const void *bytes, uint64_t count)
{
    while (out->count + count > out->capacity) {
        out->capacity = SPIN_MAX(UINT64_C(4096), out->capacity * 2);
        out->bytes = realloc(out->bytes, out->capacity);
        SPIN_ASSERT(out->bytes != NULL);
    }
    memcpy(out->bytes + out->count, bytes, count);
    out->count += count;
}

static void put_u32(struct output *out, uint32_t value)
{
    put(out, &value, sizeof value);
}

static void put_u64(struct output *out, uint64_t value)
{
    put(out, &value, sizeof value);
}

static void put_string(struct output *out, const char *text)
{
    put_u64(out, strlen(text));
    put(out, text, strlen(text));
}

static void pad(struct output *out, uint64_t alignment)
{
    static const uint8_t zero = 0;
    while (alignment != 0 && out->count % alignment != 0) {
        put(out, &zero, 1);
    }
}

void spin_gguf_builder_init(struct gguf_builder *builder)
{
    memset(builder, 0, sizeof *builder);
    builder->magic = 0x46554747;
    builder->version = 3;
    builder->stated_key_count = UINT64_MAX;
    builder->stated_tensor_count = UINT64_MAX;
    builder->alignment = 32;
}

static struct gguf_builder_key *find_key(struct gguf_builder *builder, const char *name)
{
    for (uint32_t i = 0; i < builder->key_count; i++) {
        if (strcmp(builder->keys[i].name, name) == 0) {
            return &builder->keys[i];
        }
    }
    return NULL;
}

void spin_gguf_builder_raw(struct gguf_builder *builder, const char *name, uint32_t type,
                           const void *value, uint32_t value_bytes)
{
    struct gguf_builder_key *key = find_key(builder, name);
    if (key == NULL) {
        SPIN_ASSERT_LT(builder->key_count, GGUF_BUILDER_ENTRIES);
        key = &builder->keys[builder->key_count++];
    }
    SPIN_ASSERT_LE(value_bytes, GGUF_BUILDER_VALUE_BYTES);
    key->name = name;
    key->type = type;
    key->value_bytes = value_bytes;
    memcpy(key->value, value, value_bytes);
}

void spin_gguf_builder_u32(struct gguf_builder *builder, const char *name, uint32_t value)
{
    spin_gguf_builder_raw(builder, name, 4, &value, sizeof value);
}

void spin_gguf_builder_f32(struct gguf_builder *builder, const char *name, float value)
{
    spin_gguf_builder_raw(builder, name, 6, &value, sizeof value);
}

void spin_gguf_builder_bool(struct gguf_builder *builder, const char *name, uint8_t value)
{
    spin_gguf_builder_raw(builder, name, 7, &value, sizeof value);
}

void spin_gguf_builder_string(struct gguf_builder *builder, const char *name, const char *value)
{
    uint8_t bytes[GGUF_BUILDER_VALUE_BYTES];
    const uint64_t count = strlen(value);
    SPIN_ASSERT_LE(count + sizeof count, sizeof bytes);
    memcpy(bytes, &count, sizeof count);
    for (uint64_t i = 0; i < count; i++) { /* the format has no NUL at the end */
        bytes[sizeof count + i] = (uint8_t)value[i];
    }
    spin_gguf_builder_raw(builder, name, 8, bytes, (uint32_t)(count + sizeof count));
}

void spin_gguf_builder_remove_key(struct gguf_builder *builder, const char *name)
{
    struct gguf_builder_key *key = find_key(builder, name);
    SPIN_ASSERT(key != NULL);
    *key = builder->keys[--builder->key_count];
}

struct gguf_builder_tensor *spin_gguf_builder_find(struct gguf_builder *builder, const char *name)
{
    for (uint32_t i = 0; i < builder->tensor_count; i++) {
        if (strcmp(builder->tensors[i].name, name) == 0) {
            return &builder->tensors[i];
        }
    }
    return NULL;
}

static uint64_t row_bytes(uint32_t wire_type, uint64_t cols)
{
    switch (wire_type) {
    case 1:
    case 30:
        return cols * 2;
    case 2:
        return cols / 32 * 18;
    case 3:
        return cols / 32 * 20;
    case 8:
        return cols / 32 * 34;
    case 12:
        return cols / 256 * 144;
    case 14:
        return cols / 256 * 210;
    default:
        return cols * 4;
    }
}

struct gguf_builder_tensor *spin_gguf_builder_tensor(struct gguf_builder *builder, const char *name,
                                                     uint32_t wire_type, uint64_t rows,
                                                     uint64_t cols)
{
    struct gguf_builder_tensor *tensor = spin_gguf_builder_find(builder, name);
    if (tensor == NULL) {
        SPIN_ASSERT_LT(builder->tensor_count, GGUF_BUILDER_ENTRIES);
        tensor = &builder->tensors[builder->tensor_count++];
    }
    memset(tensor, 0, sizeof *tensor);
    tensor->name = name;
    tensor->wire_type = wire_type;
    tensor->dim_count = rows == 0 ? 1 : 2;
    tensor->dims[0] = cols;
    tensor->dims[1] = SPIN_MAX(rows, 1);
    tensor->bytes = tensor->dims[1] * row_bytes(wire_type, cols);
    tensor->offset = UINT64_MAX;
    return tensor;
}

void spin_gguf_builder_remove_tensor(struct gguf_builder *builder, const char *name)
{
    struct gguf_builder_tensor *tensor = spin_gguf_builder_find(builder, name);
    SPIN_ASSERT(tensor != NULL);
    *tensor = builder->tensors[--builder->tensor_count];
}

uint8_t spin_gguf_builder_data(const char *name, uint64_t i)
{
    uint64_t value = i * 31;
    for (const char *at = name; *at != '\0'; at++) {
        value = value * 131 + (uint8_t)*at;
    }
    /* The upper byte of a BF16, F16 or F32 stays below the exponent of infinity. */
    return (uint8_t)((value ^ value >> 17) & 0x3f);
}

static void put_tables(struct output *out, const struct gguf_builder *builder)
{
    for (uint32_t i = 0; i < builder->key_count; i++) {
        put_string(out, builder->keys[i].name);
        put_u32(out, builder->keys[i].type);
        put(out, builder->keys[i].value, builder->keys[i].value_bytes);
    }
    uint64_t offset = 0;
    for (uint32_t i = 0; i < builder->tensor_count; i++) {
        const struct gguf_builder_tensor *tensor = &builder->tensors[i];
        put_string(out, tensor->name);
        put_u32(out, tensor->dim_count);
        for (uint32_t k = 0; k < SPIN_MIN(tensor->dim_count, 8); k++) {
            put_u64(out, tensor->dims[k]);
        }
        put_u32(out, tensor->wire_type);
        put_u64(out, tensor->offset == UINT64_MAX ? offset : tensor->offset);
        offset = (offset + tensor->bytes + builder->alignment - 1) / builder->alignment *
                 builder->alignment;
    }
}

struct spin_file_map spin_gguf_builder_finish(const struct gguf_builder *builder)
{
    struct output out = {0};
    put_u32(&out, builder->magic);
    put_u32(&out, builder->version);
    put_u64(&out, builder->stated_tensor_count == UINT64_MAX ? builder->tensor_count
                                                             : builder->stated_tensor_count);
    put_u64(&out, builder->stated_key_count == UINT64_MAX ? builder->key_count
                                                          : builder->stated_key_count);
    put_tables(&out, builder);
    for (uint32_t i = 0; i < builder->tensor_count; i++) {
        pad(&out, builder->alignment);
        for (uint64_t k = 0; k < builder->tensors[i].bytes; k++) {
            const uint8_t byte = spin_gguf_builder_data(builder->tensors[i].name, k);
            put(&out, &byte, 1);
        }
    }
    const struct spin_file_map map = {.bytes = realloc(out.bytes, out.count), .count = out.count};
    SPIN_ASSERT(map.bytes != NULL);
    return map;
}
