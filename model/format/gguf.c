#include "model/format/gguf.h"

#include "base/assert.h"
#include "base/checked.h"
#include "model/format/name.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define GGUF_MAGIC UINT32_C(0x46554747) /* "GGUF" read as little endian */
#define GGUF_MAGIC_SWAPPED \
    UINT32_C(0x47475546) /* the same four bytes, written by a big-endian tool */
#define GGUF_VERSION 3u
#define GGUF_VERSION_SWAPPED UINT32_C(0x03000000)

/* What the format prescribes where general.alignment is absent. */
#define ALIGNMENT_DEFAULT 32u
/* The format asks for a multiple of 8, which also keeps every element type aligned. */
#define ALIGNMENT_MIN 8u
/* Huge pages are the largest alignment that anybody has a use for. */
#define ALIGNMENT_MAX (UINT64_C(1) << 30)

/* The smallest entries: a name of one byte, and a value of one byte or one dimension. A count of
 * entries that could not fit into the file is refused before anything is allocated for it. */
#define KEY_ENTRY_BYTES_MIN (8u + 1u + 4u + 1u)
#define TENSOR_ENTRY_BYTES_MIN (8u + 1u + 4u + 8u + 4u + 8u)

/* "general.architecture" is long for a key, "blk.79.ffn_gate.weight" for a tensor. */
#define NAME_BYTES_MAX 255u

struct gguf_key {
    struct spin_string name;
    enum spin_gguf_type type;
    const uint8_t *value; /* scalars: the bytes in the file; unaligned */
    struct spin_string string;
    struct spin_gguf_array array;
};

struct spin_gguf {
    struct gguf_key *keys; /* sorted by name */
    uint32_t key_count;
    uint32_t tensor_count;
    struct spin_gguf_tensor *tensors; /* as in the file */
    const struct spin_gguf_tensor **tensors_by_name;
};

/* A cursor over the file. `subject` is what error texts name: a key or a tensor, borrowed. */
struct reader {
    const uint8_t *bytes;
    uint64_t count;
    uint64_t offset;
    const char *kind;
    struct spin_string subject;
    struct spin_error *err;
};

#define SUBJECT_FMT "gguf: %s '%.*s' at offset %" PRIu64 ": "
#define SUBJECT_ARGS(reader) \
    (reader)->kind, (int)(reader)->subject.count, (reader)->subject.bytes, (reader)->offset

static void reader_about(struct reader *reader, const char *kind, const char *name, uint64_t bytes)
{
    reader->kind = kind;
    reader->subject.bytes = name;
    reader->subject.count = bytes;
}

static spin_status take_bytes(struct reader *reader, uint64_t count, const uint8_t **out)
{
    if (!spin_range_fits(reader->offset, count, reader->count)) {
        return spin_fail(reader->err, SPIN_ERR_CORRUPT,
                         SUBJECT_FMT "%" PRIu64 " bytes wanted, the file ends at %" PRIu64,
                         SUBJECT_ARGS(reader), count, reader->count);
    }
    *out = reader->bytes + reader->offset;
    reader->offset += count;
    return SPIN_OK;
}

/* Supported hosts are little endian, as the format is; the file gives no alignment. */
static uint32_t load_u32(const uint8_t *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static uint64_t load_u64(const uint8_t *bytes)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static spin_status take_u32(struct reader *reader, uint32_t *out)
{
    const uint8_t *bytes = NULL;
    SPIN_TRY(take_bytes(reader, sizeof *out, &bytes));
    *out = load_u32(bytes);
    return SPIN_OK;
}

static spin_status take_u64(struct reader *reader, uint64_t *out)
{
    const uint8_t *bytes = NULL;
    SPIN_TRY(take_bytes(reader, sizeof *out, &bytes));
    *out = load_u64(bytes);
    return SPIN_OK;
}

static spin_status take_string(struct reader *reader, struct spin_string *out)
{
    uint64_t count = 0;
    SPIN_TRY(take_u64(reader, &count));
    if (count > SPIN_GGUF_STRING_BYTES_MAX) {
        return spin_fail(reader->err, SPIN_ERR_LIMIT,
                         SUBJECT_FMT "a string of %" PRIu64 " bytes, the limit is %" PRIu64,
                         SUBJECT_ARGS(reader), count, SPIN_GGUF_STRING_BYTES_MAX);
    }
    const uint8_t *bytes = NULL;
    SPIN_TRY(take_bytes(reader, count, &bytes));
    out->bytes = (const char *)bytes;
    out->count = count;
    return SPIN_OK;
}

/* The name of a key or tensor; from here on error texts name it. */
static spin_status take_name(struct reader *reader, const char *kind, struct spin_string *out)
{
    reader_about(reader, kind, "?", 1);
    struct spin_string name;
    SPIN_TRY(take_string(reader, &name));
    if (name.count == 0 || name.count > NAME_BYTES_MAX) {
        return spin_fail(reader->err, SPIN_ERR_CORRUPT,
                         SUBJECT_FMT "a name of %" PRIu64 " bytes, wanted 1 to %u",
                         SUBJECT_ARGS(reader), name.count, NAME_BYTES_MAX);
    }
    if (!spin_name_is_printable(name.bytes, name.count)) {
        return spin_fail(reader->err, SPIN_ERR_CORRUPT, SUBJECT_FMT "a name that is not ASCII text",
                         SUBJECT_ARGS(reader));
    }
    reader_about(reader, kind, name.bytes, name.count);
    *out = name;
    return SPIN_OK;
}

/* ---- metadata ---- */

/* 0 for strings, arrays and types that do not exist. */
static uint32_t scalar_bytes(uint32_t type)
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

static spin_status check_bools(const struct reader *reader, const uint8_t *bytes, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        if (bytes[i] > 1) {
            return spin_fail(reader->err, SPIN_ERR_CORRUPT, SUBJECT_FMT "a bool of value %u",
                             SUBJECT_ARGS(reader), bytes[i]);
        }
    }
    return SPIN_OK;
}

static spin_status take_strings(struct reader *reader, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        struct spin_string string;
        SPIN_TRY(take_string(reader, &string));
    }
    return SPIN_OK;
}

static spin_status take_array(struct reader *reader, struct spin_gguf_array *out)
{
    uint32_t type = 0;
    uint64_t count = 0;
    SPIN_TRY(take_u32(reader, &type));
    SPIN_TRY(take_u64(reader, &count));
    if (type == SPIN_GGUF_ARRAY) {
        return spin_fail(reader->err, SPIN_ERR_UNSUPPORTED, SUBJECT_FMT "an array of arrays",
                         SUBJECT_ARGS(reader));
    }
    const uint32_t element_bytes = type == SPIN_GGUF_STRING ? 8 : scalar_bytes(type);
    if (element_bytes == 0) {
        return spin_fail(reader->err, SPIN_ERR_CORRUPT,
                         SUBJECT_FMT "element type %u does not exist", SUBJECT_ARGS(reader), type);
    }
    /* Also the bound of the walk over strings: each has at least its length. */
    if (count > (reader->count - reader->offset) / element_bytes) {
        return spin_fail(reader->err, SPIN_ERR_CORRUPT,
                         SUBJECT_FMT "%" PRIu64 " elements do not fit into the file",
                         SUBJECT_ARGS(reader), count);
    }
    const uint64_t start = reader->offset;
    if (type == SPIN_GGUF_STRING) {
        SPIN_TRY(take_strings(reader, count));
    } else {
        const uint8_t *bytes = NULL;
        SPIN_TRY(take_bytes(reader, count * element_bytes, &bytes));
        SPIN_TRY(check_bools(reader, bytes, type == SPIN_GGUF_BOOL ? count : 0));
    }
    out->type = (enum spin_gguf_type)type;
    out->count = count;
    out->bytes = reader->bytes + start;
    out->byte_count = reader->offset - start;
    return SPIN_OK;
}

static spin_status take_key(struct reader *reader, struct gguf_key *out)
{
    uint32_t type = 0;
    SPIN_TRY(take_name(reader, "key", &out->name));
    SPIN_TRY(take_u32(reader, &type));
    if (type == SPIN_GGUF_ARRAY) {
        SPIN_TRY(take_array(reader, &out->array));
    } else if (type == SPIN_GGUF_STRING) {
        SPIN_TRY(take_string(reader, &out->string));
    } else if (scalar_bytes(type) != 0) {
        SPIN_TRY(take_bytes(reader, scalar_bytes(type), &out->value));
        SPIN_TRY(check_bools(reader, out->value, type == SPIN_GGUF_BOOL ? 1 : 0));
    } else {
        return spin_fail(reader->err, SPIN_ERR_CORRUPT, SUBJECT_FMT "type %u does not exist",
                         SUBJECT_ARGS(reader), type);
    }
    out->type = (enum spin_gguf_type)type;
    return SPIN_OK;
}

static int compare_strings(const struct spin_string *a, const struct spin_string *b)
{
    const int order = memcmp(a->bytes, b->bytes, (size_t)SPIN_MIN(a->count, b->count));
    if (order != 0) {
        return order;
    }
    return (a->count > b->count) - (a->count < b->count);
}

static int compare_keys(const void *a, const void *b)
{
    return compare_strings(&((const struct gguf_key *)a)->name,
                           &((const struct gguf_key *)b)->name);
}

static spin_status take_keys(struct reader *reader, struct spin_gguf *gguf)
{
    for (uint32_t i = 0; i < gguf->key_count; i++) {
        SPIN_TRY(take_key(reader, &gguf->keys[i]));
    }
    qsort(gguf->keys, gguf->key_count, sizeof *gguf->keys, compare_keys);
    for (uint32_t i = 1; i < gguf->key_count; i++) {
        const struct spin_string *name = &gguf->keys[i].name;
        if (compare_strings(&gguf->keys[i - 1].name, name) == 0) {
            return spin_fail(reader->err, SPIN_ERR_CORRUPT,
                             "gguf: key '%.*s' at offset %" PRIu64 ": appears twice",
                             (int)name->count, name->bytes,
                             (uint64_t)((const uint8_t *)name->bytes - reader->bytes));
        }
    }
    return SPIN_OK;
}

/* ---- tensors ---- */

struct wire_type {
    uint32_t wire;
    int32_t dtype; /* -1: known by name only */
    const char *name;
};

/* All types that GGUF has numbers for, so that a refusal can say the name that people know. */
static const struct wire_type wire_types[] = {
    {0, SPIN_DTYPE_F32, "F32"},
    {1, SPIN_DTYPE_F16, "F16"},
    {2, SPIN_DTYPE_Q4_0, "Q4_0"},
    {3, SPIN_DTYPE_Q4_1, "Q4_1"},
    {6, -1, "Q5_0"},
    {7, -1, "Q5_1"},
    {8, SPIN_DTYPE_Q8_0, "Q8_0"},
    {9, -1, "Q8_1"},
    {10, -1, "Q2_K"},
    {11, -1, "Q3_K"},
    {12, SPIN_DTYPE_Q4_K, "Q4_K"},
    {13, -1, "Q5_K"},
    {14, SPIN_DTYPE_Q6_K, "Q6_K"},
    {15, -1, "Q8_K"},
    {16, -1, "IQ2_XXS"},
    {17, -1, "IQ2_XS"},
    {18, -1, "IQ3_XXS"},
    {19, -1, "IQ1_S"},
    {20, -1, "IQ4_NL"},
    {21, -1, "IQ3_S"},
    {22, -1, "IQ2_S"},
    {23, -1, "IQ4_XS"},
    {24, -1, "I8"},
    {25, -1, "I16"},
    {26, -1, "I32"},
    {27, -1, "I64"},
    {28, -1, "F64"},
    {29, -1, "IQ1_M"},
    {30, SPIN_DTYPE_BF16, "BF16"},
    {34, -1, "TQ1_0"},
    {35, -1, "TQ2_0"},
    {39, -1, "MXFP4"},
};

static spin_status dtype_from_wire(const struct reader *reader, uint32_t wire, enum spin_dtype *out)
{
    const char *name = "unknown";
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(wire_types); i++) {
        if (wire_types[i].wire != wire) {
            continue;
        }
        if (wire_types[i].dtype >= 0) {
            *out = (enum spin_dtype)wire_types[i].dtype;
            return SPIN_OK;
        }
        name = wire_types[i].name;
    }
    return spin_fail(reader->err, SPIN_ERR_UNSUPPORTED,
                     SUBJECT_FMT
                     "type %s (%u); supported are F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q4_K Q6_K",
                     SUBJECT_ARGS(reader), name, wire);
}

static spin_status take_dims(struct reader *reader, struct spin_gguf_tensor *out)
{
    SPIN_TRY(take_u32(reader, &out->dim_count));
    if (out->dim_count < 1 || out->dim_count > 4) {
        return spin_fail(reader->err, SPIN_ERR_CORRUPT, SUBJECT_FMT "%u dimensions, wanted 1 to 4",
                         SUBJECT_ARGS(reader), out->dim_count);
    }
    for (uint32_t i = 0; i < 4; i++) {
        out->dims[i] = 1;
        if (i < out->dim_count) {
            SPIN_TRY(take_u64(reader, &out->dims[i]));
        }
        if (out->dims[i] == 0) {
            return spin_fail(reader->err, SPIN_ERR_CORRUPT, SUBJECT_FMT "dimension %u is 0",
                             SUBJECT_ARGS(reader), i);
        }
    }
    return SPIN_OK;
}

static spin_status size_tensor(const struct reader *reader, struct spin_gguf_tensor *tensor)
{
    const uint32_t block = spin_dtype_block_values(tensor->dtype);
    if (tensor->dims[0] % block != 0) {
        return spin_fail(reader->err, SPIN_ERR_CORRUPT,
                         SUBJECT_FMT "rows of %" PRIu64 " values are not whole %s blocks of %u",
                         SUBJECT_ARGS(reader), tensor->dims[0], spin_dtype_name(tensor->dtype),
                         block);
    }
    uint64_t bytes = 0;
    bool fits =
        spin_mul_u64(tensor->dims[0] / block, spin_dtype_block_bytes(tensor->dtype), &bytes);
    for (uint32_t i = 1; i < tensor->dim_count; i++) {
        fits = fits && spin_mul_u64(bytes, tensor->dims[i], &bytes);
    }
    if (!fits || bytes > reader->count) {
        return spin_fail(reader->err, SPIN_ERR_CORRUPT,
                         SUBJECT_FMT "the dimensions ask for more bytes than the file has",
                         SUBJECT_ARGS(reader));
    }
    tensor->bytes = bytes;
    return SPIN_OK;
}

/* The table comes before the data, whose start is known only behind it: `offsets` keeps what the
 * table says until then. */
static spin_status take_tensor(struct reader *reader, struct spin_gguf_tensor *out,
                               uint64_t *offset)
{
    uint32_t wire = 0;
    SPIN_TRY(take_name(reader, "tensor", &out->name));
    SPIN_TRY(take_dims(reader, out));
    SPIN_TRY(take_u32(reader, &wire));
    SPIN_TRY(dtype_from_wire(reader, wire, &out->dtype));
    SPIN_TRY(take_u64(reader, offset));
    return size_tensor(reader, out);
}

static spin_status place_tensors(struct reader *reader, struct spin_gguf *gguf,
                                 const uint64_t *offsets, uint64_t alignment)
{
    /* The cursor is inside the file, so rounding up by 2^30 at most cannot overflow. */
    const uint64_t start = (reader->offset + alignment - 1) & ~(alignment - 1);
    const uint64_t data_bytes = start <= reader->count ? reader->count - start : 0;
    for (uint32_t i = 0; i < gguf->tensor_count; i++) {
        struct spin_gguf_tensor *tensor = &gguf->tensors[i];
        reader_about(reader, "tensor", tensor->name.bytes, tensor->name.count);
        if (offsets[i] % alignment != 0) {
            return spin_fail(reader->err, SPIN_ERR_CORRUPT,
                             SUBJECT_FMT "data offset %" PRIu64 " is not a multiple of %" PRIu64,
                             SUBJECT_ARGS(reader), offsets[i], alignment);
        }
        if (!spin_range_fits(offsets[i], tensor->bytes, data_bytes)) {
            return spin_fail(reader->err, SPIN_ERR_CORRUPT,
                             SUBJECT_FMT "%" PRIu64 " bytes at data offset %" PRIu64
                                         ", the data has %" PRIu64,
                             SUBJECT_ARGS(reader), tensor->bytes, offsets[i], data_bytes);
        }
        tensor->data = reader->bytes + start + offsets[i];
    }
    return SPIN_OK;
}

static int compare_tensor_data(const void *a, const void *b)
{
    const struct spin_gguf_tensor *x = *(const struct spin_gguf_tensor *const *)a;
    const struct spin_gguf_tensor *y = *(const struct spin_gguf_tensor *const *)b;
    return (x->data > y->data) - (x->data < y->data);
}

static int compare_tensor_names(const void *a, const void *b)
{
    const struct spin_gguf_tensor *x = *(const struct spin_gguf_tensor *const *)a;
    const struct spin_gguf_tensor *y = *(const struct spin_gguf_tensor *const *)b;
    return compare_strings(&x->name, &y->name);
}

/* Two tensors over the same bytes are how a small file poses as a large one. */
static spin_status check_tensors(struct spin_gguf *gguf, struct spin_error *err)
{
    const struct spin_gguf_tensor **sorted = gguf->tensors_by_name;
    for (uint32_t i = 0; i < gguf->tensor_count; i++) {
        sorted[i] = &gguf->tensors[i];
    }
    qsort(sorted, gguf->tensor_count, sizeof *sorted, compare_tensor_data);
    for (uint32_t i = 1; i < gguf->tensor_count; i++) {
        const struct spin_gguf_tensor *a = sorted[i - 1];
        const struct spin_gguf_tensor *b = sorted[i];
        if (a->bytes > (uint64_t)(b->data - a->data)) {
            return spin_fail(err, SPIN_ERR_CORRUPT, "gguf: tensors '%.*s' and '%.*s' overlap",
                             (int)a->name.count, a->name.bytes, (int)b->name.count, b->name.bytes);
        }
    }
    qsort(sorted, gguf->tensor_count, sizeof *sorted, compare_tensor_names);
    for (uint32_t i = 1; i < gguf->tensor_count; i++) {
        if (compare_strings(&sorted[i - 1]->name, &sorted[i]->name) == 0) {
            return spin_fail(err, SPIN_ERR_CORRUPT, "gguf: tensor '%.*s' appears twice",
                             (int)sorted[i]->name.count, sorted[i]->name.bytes);
        }
    }
    return SPIN_OK;
}

static spin_status read_alignment(const struct spin_gguf *gguf, uint64_t *out,
                                  struct spin_error *err)
{
    uint64_t alignment = ALIGNMENT_DEFAULT;
    const spin_status status = spin_gguf_u64(gguf, "general.alignment", &alignment, err);
    if (status != SPIN_OK && status != SPIN_ERR_NOT_FOUND) {
        return status;
    }
    if (alignment < ALIGNMENT_MIN || alignment > ALIGNMENT_MAX ||
        (alignment & (alignment - 1)) != 0) {
        return spin_fail(err, SPIN_ERR_CORRUPT,
                         "gguf: key 'general.alignment': %" PRIu64
                         " is not a power of two from %u to %" PRIu64,
                         alignment, ALIGNMENT_MIN, ALIGNMENT_MAX);
    }
    *out = alignment;
    return SPIN_OK;
}

static spin_status take_tensors(struct reader *reader, struct spin_gguf *gguf)
{
    uint64_t alignment = 0;
    SPIN_TRY(read_alignment(gguf, &alignment, reader->err));
    uint64_t *offsets = calloc(SPIN_MAX(gguf->tensor_count, 1), sizeof *offsets);
    if (offsets == NULL) {
        return spin_fail(reader->err, SPIN_ERR_NO_MEMORY, "gguf: a table of %u tensors",
                         gguf->tensor_count);
    }
    spin_status status = SPIN_OK;
    for (uint32_t i = 0; i < gguf->tensor_count && status == SPIN_OK; i++) {
        status = take_tensor(reader, &gguf->tensors[i], &offsets[i]);
    }
    if (status == SPIN_OK) {
        status = place_tensors(reader, gguf, offsets, alignment);
    }
    free(offsets);
    SPIN_TRY(status);
    return check_tensors(gguf, reader->err);
}

/* ---- the file ---- */

struct header {
    uint32_t key_count;
    uint32_t tensor_count;
};

static spin_status take_count(struct reader *reader, uint64_t limit, uint64_t entry_bytes,
                              uint32_t *out)
{
    uint64_t count = 0;
    SPIN_TRY(take_u64(reader, &count));
    if (count > limit) {
        return spin_fail(reader->err, SPIN_ERR_LIMIT,
                         SUBJECT_FMT "%" PRIu64 ", the limit is %" PRIu64, SUBJECT_ARGS(reader),
                         count, limit);
    }
    if (count > (reader->count - reader->offset) / entry_bytes) {
        return spin_fail(reader->err, SPIN_ERR_CORRUPT,
                         SUBJECT_FMT "%" PRIu64 " entries do not fit into %" PRIu64 " bytes",
                         SUBJECT_ARGS(reader), count, reader->count);
    }
    *out = (uint32_t)count;
    return SPIN_OK;
}

static spin_status take_header(struct reader *reader, struct header *out)
{
    uint32_t magic = 0;
    uint32_t version = 0;
    reader_about(reader, "header", "magic", 5);
    SPIN_TRY(take_u32(reader, &magic));
    if (magic != GGUF_MAGIC && magic != GGUF_MAGIC_SWAPPED) {
        return spin_fail(reader->err, SPIN_ERR_CORRUPT, "gguf: not a GGUF file: magic 0x%08x",
                         magic);
    }
    reader_about(reader, "header", "version", 7);
    SPIN_TRY(take_u32(reader, &version));
    if (magic == GGUF_MAGIC_SWAPPED || version == GGUF_VERSION_SWAPPED) {
        return spin_fail(reader->err, SPIN_ERR_UNSUPPORTED, "gguf: a big-endian file");
    }
    if (version != GGUF_VERSION) {
        return spin_fail(reader->err, SPIN_ERR_UNSUPPORTED,
                         "gguf: version %u, only %u is supported", version, GGUF_VERSION);
    }
    reader_about(reader, "header", "tensor count", 12);
    SPIN_TRY(take_count(reader, SPIN_GGUF_TENSORS_MAX, TENSOR_ENTRY_BYTES_MIN, &out->tensor_count));
    reader_about(reader, "header", "key count", 9);
    return take_count(reader, SPIN_GGUF_KEYS_MAX, KEY_ENTRY_BYTES_MIN, &out->key_count);
}

spin_status spin_gguf_open(const struct spin_file_map *file, struct spin_gguf **out,
                           struct spin_error *err)
{
    struct reader reader = {.bytes = file->bytes, .count = file->count, .err = err};
    struct header header = {0};
    SPIN_TRY(take_header(&reader, &header));

    struct spin_gguf *gguf = calloc(1, sizeof *gguf);
    if (gguf == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "gguf: %zu bytes", sizeof *gguf);
    }
    spin_status status = SPIN_OK;
    gguf->key_count = header.key_count;
    gguf->tensor_count = header.tensor_count;
    /* calloc(0) may return NULL; one spare entry keeps NULL for "no memory". */
    gguf->keys = calloc((size_t)header.key_count + 1, sizeof *gguf->keys);
    gguf->tensors = calloc((size_t)header.tensor_count + 1, sizeof *gguf->tensors);
    gguf->tensors_by_name = calloc((size_t)header.tensor_count + 1, sizeof *gguf->tensors_by_name);
    if (gguf->keys == NULL || gguf->tensors == NULL || gguf->tensors_by_name == NULL) {
        status = spin_fail(err, SPIN_ERR_NO_MEMORY, "gguf: an index of %u keys and %u tensors",
                           header.key_count, header.tensor_count);
        goto fail;
    }
    SPIN_TRY_GOTO(status, take_keys(&reader, gguf), fail);
    SPIN_TRY_GOTO(status, take_tensors(&reader, gguf), fail);
    *out = gguf;
    return SPIN_OK;
fail:
    spin_gguf_close(gguf);
    return status;
}

void spin_gguf_close(struct spin_gguf *gguf)
{
    if (gguf == NULL) {
        return;
    }
    free(gguf->keys);
    free(gguf->tensors);
    free((void *)gguf->tensors_by_name);
    free(gguf);
}

/* ---- access ---- */

static const struct gguf_key *find_key(const struct spin_gguf *gguf, const char *name)
{
    struct gguf_key wanted = {0};
    wanted.name.bytes = name;
    wanted.name.count = strlen(name);
    return bsearch(&wanted, gguf->keys, gguf->key_count, sizeof *gguf->keys, compare_keys);
}

static spin_status wrong_type(const struct gguf_key *key, const char *wanted,
                              struct spin_error *err)
{
    return spin_fail(err, SPIN_ERR_INVALID, "gguf: key '%.*s': %s wanted, the file has %s",
                     (int)key->name.count, key->name.bytes, wanted, type_name(key->type));
}

/* True when the scalar is an integer; *negative when it is below zero (then *value is meaningless). */
static bool load_integer(const struct gguf_key *key, uint64_t *value, bool *negative)
{
    int64_t signed_value = 0;
    switch (key->type) {
    case SPIN_GGUF_U8:
        *value = key->value[0];
        *negative = false;
        return true;
    case SPIN_GGUF_U16:
        *value = (uint64_t)key->value[0] | (uint64_t)key->value[1] << 8;
        *negative = false;
        return true;
    case SPIN_GGUF_U32:
        *value = load_u32(key->value);
        *negative = false;
        return true;
    case SPIN_GGUF_U64:
        *value = load_u64(key->value);
        *negative = false;
        return true;
    case SPIN_GGUF_I8:
        signed_value = (int8_t)key->value[0];
        break;
    case SPIN_GGUF_I16:
        signed_value = (int16_t)(key->value[0] | key->value[1] << 8);
        break;
    case SPIN_GGUF_I32:
        signed_value = (int32_t)load_u32(key->value);
        break;
    case SPIN_GGUF_I64:
        signed_value = (int64_t)load_u64(key->value);
        break;
    case SPIN_GGUF_F32:
    case SPIN_GGUF_F64:
    case SPIN_GGUF_BOOL:
    case SPIN_GGUF_STRING:
    case SPIN_GGUF_ARRAY:
        return false;
    }
    *negative = signed_value < 0;
    *value = (uint64_t)signed_value;
    return true;
}

spin_status spin_gguf_u64(const struct spin_gguf *gguf, const char *key, uint64_t *out,
                          struct spin_error *err)
{
    const struct gguf_key *found = find_key(gguf, key);
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
    const struct gguf_key *found = find_key(gguf, key);
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
    const struct gguf_key *found = find_key(gguf, key);
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
    const struct gguf_key *found = find_key(gguf, key);
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
    const struct gguf_key *found = find_key(gguf, key);
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
    const uint64_t count = load_u64(array->bytes + *cursor);
    SPIN_ASSERT(spin_range_fits(*cursor + 8, count, array->byte_count));
    out->bytes = (const char *)array->bytes + *cursor + 8;
    out->count = count;
    *cursor += 8 + count;
    return true;
}

uint32_t spin_gguf_tensor_count(const struct spin_gguf *gguf)
{
    return gguf->tensor_count;
}

const struct spin_gguf_tensor *spin_gguf_tensor_at(const struct spin_gguf *gguf, uint32_t index)
{
    SPIN_ASSERT_LT(index, gguf->tensor_count);
    return &gguf->tensors[index];
}

const struct spin_gguf_tensor *spin_gguf_tensor_find(const struct spin_gguf *gguf, const char *name)
{
    struct spin_gguf_tensor wanted = {0};
    wanted.name.bytes = name;
    wanted.name.count = strlen(name);
    const struct spin_gguf_tensor *wanted_pointer = &wanted;
    const struct spin_gguf_tensor *const *found =
        bsearch(&wanted_pointer, gguf->tensors_by_name, gguf->tensor_count,
                sizeof *gguf->tensors_by_name, compare_tensor_names);
    return found == NULL ? NULL : *found;
}
