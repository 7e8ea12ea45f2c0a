/* gguf: the GGUF v3 container: typed metadata and a table of tensors, checked byte by byte.
 *
 * Why        Tokenizer and weights both live in one file; this is the only reader. Every count,
 *            offset and size is checked against the file before it is used, so a hostile file is a
 *            status.
 * Ownership  The reader owns its index and borrows the mapped bytes; strings and arrays point into
 *            the map and are not NUL-terminated.
 * Threading  Open on one thread; read by all.
 * Units      Offsets and sizes in bytes from the file's start; tensor shapes in elements, GGUF
 *            order: dims[0] is the contiguous one.
 * Errors     CORRUPT with the key or tensor and the offset; UNSUPPORTED for a version or tensor
 *            type that we do not read; LIMIT over the limits below. */
#pragma once

#include "base/dtype.h"
#include "base/file.h"

SPIN_BEGIN_DECLS

#define SPIN_GGUF_TENSORS_MAX 65536u
#define SPIN_GGUF_KEYS_MAX 65536u
#define SPIN_GGUF_STRING_BYTES_MAX (UINT64_C(16) << 20)

/* Wire values. */
enum spin_gguf_type {
    SPIN_GGUF_U8 = 0,
    SPIN_GGUF_I8 = 1,
    SPIN_GGUF_U16 = 2,
    SPIN_GGUF_I16 = 3,
    SPIN_GGUF_U32 = 4,
    SPIN_GGUF_I32 = 5,
    SPIN_GGUF_F32 = 6,
    SPIN_GGUF_BOOL = 7,
    SPIN_GGUF_STRING = 8,
    SPIN_GGUF_ARRAY = 9,
    SPIN_GGUF_U64 = 10,
    SPIN_GGUF_I64 = 11,
    SPIN_GGUF_F64 = 12
};

struct spin_string { /* borrowed bytes, any content */
    const char *bytes;
    uint64_t count;
};

struct spin_gguf_array {
    enum spin_gguf_type type; /* of the elements; never ARRAY */
    uint64_t count;
    const uint8_t
        *bytes; /* the first element; strings are u64 length + bytes each, walked already */
    uint64_t byte_count;
};

struct spin_gguf_tensor {
    struct spin_string name;
    enum spin_dtype dtype;
    uint32_t dim_count; /* 1..4 */
    uint64_t dims[4];   /* dims[0] contiguous; 1 beyond dim_count */
    const uint8_t *data;
    uint64_t bytes;
};

struct spin_gguf; /* private to gguf.c */

/* `file` must outlive *out. */
SPIN_MUST_USE spin_status spin_gguf_open(const struct spin_file_map *file, struct spin_gguf **out,
                                         struct spin_error *err);
void spin_gguf_close(struct spin_gguf *gguf); /* NULL is allowed */

/* Metadata by key. NOT_FOUND (no text written) when absent, INVALID when of another type. Integers
 * of any width and sign are accepted where the value fits. */
SPIN_MUST_USE spin_status spin_gguf_u64(const struct spin_gguf *gguf, const char *key,
                                        uint64_t *out, struct spin_error *err);
SPIN_MUST_USE spin_status spin_gguf_f64(const struct spin_gguf *gguf, const char *key, double *out,
                                        struct spin_error *err);
SPIN_MUST_USE spin_status spin_gguf_bool(const struct spin_gguf *gguf, const char *key, bool *out,
                                         struct spin_error *err);
SPIN_MUST_USE spin_status spin_gguf_string(const struct spin_gguf *gguf, const char *key,
                                           struct spin_string *out, struct spin_error *err);
SPIN_MUST_USE spin_status spin_gguf_array(const struct spin_gguf *gguf, const char *key,
                                          struct spin_gguf_array *out, struct spin_error *err);

/* Walks an array of strings: start with *cursor = 0; false at the end. */
bool spin_gguf_array_next_string(const struct spin_gguf_array *array, uint64_t *cursor,
                                 struct spin_string *out);

uint32_t spin_gguf_tensor_count(const struct spin_gguf *gguf);
const struct spin_gguf_tensor *spin_gguf_tensor_at(const struct spin_gguf *gguf, uint32_t index);
/* NULL when absent. O(log n). */
const struct spin_gguf_tensor *spin_gguf_tensor_find(const struct spin_gguf *gguf,
                                                     const char *name);

SPIN_END_DECLS
