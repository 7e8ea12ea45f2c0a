/* gguf_metadata: values by key, out of the index that gguf.c built and checked. */
#include "base/assert.h"
#include "base/checked.h"
#include "model/format/gguf_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

uint32_t spin_gguf_scalar_bytes(uint32_t type)
{
    static const uint8_t bytes[] = {
        [SPIN_GGUF_U8] = 1,  [SPIN_GGUF_I8] = 1,  [SPIN_GGUF_U16] = 2, [SPIN_GGUF_I16] = 2,
        [SPIN_GGUF_U32] = 4, [SPIN_GGUF_I32] = 4, [SPIN_GGUF_F32] = 4, [SPIN_GGUF_BOOL] = 1,
        [SPIN_GGUF_U64] = 8, [SPIN_GGUF_I64] = 8, [SPIN_GGUF_F64] = 8,
    };
    return type < SPIN_ARRAY_COUNT(bytes) ? bytes[type] : 0;
}

static const char *type_name(enum spin_gguf_type type)
{
    static const char *const names[] = {
        [SPIN_GGUF_U8] = "uint8",    [SPIN_GGUF_I8] = "int8",    [SPIN_GGUF_U16] = "uint16",
        [SPIN_GGUF_I16] = "int16",   [SPIN_GGUF_U32] = "uint32", [SPIN_GGUF_I32] = "int32",
        [SPIN_GGUF_F32] = "float32", [SPIN_GGUF_BOOL] = "bool",  [SPIN_GGUF_STRING] = "string",
        [SPIN_GGUF_ARRAY] = "array", [SPIN_GGUF_U64] = "uint64", [SPIN_GGUF_I64] = "int64",
        [SPIN_GGUF_F64] = "float64",
    };
    return names[type];
}

int spin_string_compare(const struct spin_string *a, const struct spin_string *b)
{
    const int order = memcmp(a->bytes, b->bytes, (size_t)SPIN_MIN(a->count, b->count));
    if (order != 0) {
        return order;
    }
    return (a->count > b->count) - (a->count < b->count);
}

int spin_gguf_key_compare(const void *a, const void *b)
{
    return spin_string_compare(&((const struct spin_gguf_key *)a)->name,
                               &((const struct spin_gguf_key *)b)->name);
}

static const struct spin_gguf_key *find_key(const struct spin_gguf *gguf, const char *name)
{
    struct spin_gguf_key wanted = {0};
    wanted.name.bytes = name;
    wanted.name.count = strlen(name);
    return bsearch(&wanted, gguf->keys, gguf->key_count, sizeof *gguf->keys, spin_gguf_key_compare);
}

static spin_status wrong_type(const struct spin_gguf_key *key, const char *wanted,
                              struct spin_error *err)
{
    return spin_fail(err, SPIN_ERR_INVALID, "gguf: key '%.*s': %s wanted, the file has %s",
                     (int)key->name.count, key->name.bytes, wanted, type_name(key->type));
}

static bool is_signed(enum spin_gguf_type type)
{
    return type == SPIN_GGUF_I8 || type == SPIN_GGUF_I16 || type == SPIN_GGUF_I32 ||
           type == SPIN_GGUF_I64;
}

static bool is_unsigned(enum spin_gguf_type type)
{
    return type == SPIN_GGUF_U8 || type == SPIN_GGUF_U16 || type == SPIN_GGUF_U32 ||
           type == SPIN_GGUF_U64;
}

/* False when the value is no integer. A negative one is returned in two's complement. */
static bool load_integer(const struct spin_gguf_key *key, uint64_t *value, bool *negative)
{
    if (!is_signed(key->type) && !is_unsigned(key->type)) {
        return false;
    }
    const uint32_t bytes = spin_gguf_scalar_bytes(key->type);
    const uint32_t unused_bits = 64 - 8 * bytes;
    uint64_t raw = 0;
    memcpy(&raw, key->value, bytes);
    *value = raw;
    *negative = false;
    if (is_signed(key->type)) {
        const int64_t extended = (int64_t)(raw << unused_bits) >> unused_bits;
        *value = (uint64_t)extended;
        *negative = extended < 0;
    }
    return true;
}

spin_status spin_gguf_u64(const struct spin_gguf *gguf, const char *key, uint64_t *out,
                          struct spin_error *err)
{
    const struct spin_gguf_key *found = find_key(gguf, key);
    if (found == NULL) {
        return SPIN_ERR_NOT_FOUND;
    }
    uint64_t value = 0;
    bool negative = false;
    if (!load_integer(found, &value, &negative)) {
        return wrong_type(found, "an integer", err);
    }
    if (negative) {
        return spin_fail(err, SPIN_ERR_INVALID, "gguf: key '%s': %" PRId64 " is negative", key,
                         (int64_t)value);
    }
    *out = value;
    return SPIN_OK;
}

spin_status spin_gguf_f64(const struct spin_gguf *gguf, const char *key, double *out,
                          struct spin_error *err)
{
    const struct spin_gguf_key *found = find_key(gguf, key);
    if (found == NULL) {
        return SPIN_ERR_NOT_FOUND;
    }
    if (found->type == SPIN_GGUF_F32) {
        float value;
        memcpy(&value, found->value, sizeof value);
        *out = (double)value;
        return SPIN_OK;
    }
    if (found->type == SPIN_GGUF_F64) {
        memcpy(out, found->value, sizeof *out);
        return SPIN_OK;
    }
    uint64_t integer = 0;
    bool negative = false;
    if (!load_integer(found, &integer, &negative)) {
        return wrong_type(found, "a number", err);
    }
    *out = negative ? (double)(int64_t)integer : (double)integer;
    return SPIN_OK;
}

spin_status spin_gguf_bool(const struct spin_gguf *gguf, const char *key, bool *out,
                           struct spin_error *err)
{
    const struct spin_gguf_key *found = find_key(gguf, key);
    if (found == NULL) {
        return SPIN_ERR_NOT_FOUND;
    }
    if (found->type != SPIN_GGUF_BOOL) {
        return wrong_type(found, "a bool", err);
    }
    *out = found->value[0] == 1;
    return SPIN_OK;
}

spin_status spin_gguf_string(const struct spin_gguf *gguf, const char *key, struct spin_string *out,
                             struct spin_error *err)
{
    const struct spin_gguf_key *found = find_key(gguf, key);
    if (found == NULL) {
        return SPIN_ERR_NOT_FOUND;
    }
    if (found->type != SPIN_GGUF_STRING) {
        return wrong_type(found, "a string", err);
    }
    *out = found->string;
    return SPIN_OK;
}

spin_status spin_gguf_array(const struct spin_gguf *gguf, const char *key,
                            struct spin_gguf_array *out, struct spin_error *err)
{
    const struct spin_gguf_key *found = find_key(gguf, key);
    if (found == NULL) {
        return SPIN_ERR_NOT_FOUND;
    }
    if (found->type != SPIN_GGUF_ARRAY) {
        return wrong_type(found, "an array", err);
    }
    *out = found->array;
    return SPIN_OK;
}

bool spin_gguf_array_next_string(const struct spin_gguf_array *array, uint64_t *cursor,
                                 struct spin_string *out)
{
    /* The element type is the file's word; an array of something else has no strings. */
    if (array->type != SPIN_GGUF_STRING || *cursor >= array->byte_count) {
        return false;
    }
    /* take_array walked this very sequence: what follows cannot leave the array. */
    uint64_t count = 0;
    memcpy(&count, array->bytes + *cursor, sizeof count);
    SPIN_ASSERT(spin_range_fits(*cursor + 8, count, array->byte_count));
    out->bytes = (const char *)array->bytes + *cursor + 8;
    out->count = count;
    *cursor += 8 + count;
    return true;
}
