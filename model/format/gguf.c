#include "model/format/gguf.h"

#include "base/assert.h"
#include "base/checked.h"
#include "model/format/gguf_internal.h"
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
    const uint32_t element_bytes = type == SPIN_GGUF_STRING ? 8 : spin_gguf_scalar_bytes(type);
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

static spin_status take_key(struct reader *reader, struct spin_gguf_key *out)
{
    uint32_t type = 0;
    SPIN_TRY(take_name(reader, "key", &out->name));
    SPIN_TRY(take_u32(reader, &type));
    if (type == SPIN_GGUF_ARRAY) {
        SPIN_TRY(take_array(reader, &out->array));
    } else if (type == SPIN_GGUF_STRING) {
        SPIN_TRY(take_string(reader, &out->string));
    } else if (spin_gguf_scalar_bytes(type) != 0) {
        SPIN_TRY(take_bytes(reader, spin_gguf_scalar_bytes(type), &out->value));
        SPIN_TRY(check_bools(reader, out->value, type == SPIN_GGUF_BOOL ? 1 : 0));
    } else {
        return spin_fail(reader->err, SPIN_ERR_CORRUPT, SUBJECT_FMT "type %u does not exist",
                         SUBJECT_ARGS(reader), type);
    }
    out->type = (enum spin_gguf_type)type;
    return SPIN_OK;
}

static spin_status take_keys(struct reader *reader, struct spin_gguf *gguf)
{
    for (uint32_t i = 0; i < gguf->key_count; i++) {
        SPIN_TRY(take_key(reader, &gguf->keys[i]));
    }
    qsort(gguf->keys, gguf->key_count, sizeof *gguf->keys, spin_gguf_key_compare);
    for (uint32_t i = 1; i < gguf->key_count; i++) {
        const struct spin_string *name = &gguf->keys[i].name;
        if (spin_string_compare(&gguf->keys[i - 1].name, name) == 0) {
            return spin_fail(reader->err, SPIN_ERR_CORRUPT,
                             "gguf: key '%.*s' at offset %" PRIu64 ": appears twice",
                             (int)name->count, name->bytes,
                             (uint64_t)((const uint8_t *)name->bytes - reader->bytes));
        }
    }
    return SPIN_OK;
}

/* ---- tensors ---- */

/* All types that GGUF has numbers for, so that a refusal can say the name that people know. */
static const char *const wire_names[] = {
    [0] = "F32",     [1] = "F16",      [2] = "Q4_0",   [3] = "Q4_1",    [6] = "Q5_0",
    [7] = "Q5_1",    [8] = "Q8_0",     [9] = "Q8_1",   [10] = "Q2_K",   [11] = "Q3_K",
    [12] = "Q4_K",   [13] = "Q5_K",    [14] = "Q6_K",  [15] = "Q8_K",   [16] = "IQ2_XXS",
    [17] = "IQ2_XS", [18] = "IQ3_XXS", [19] = "IQ1_S", [20] = "IQ4_NL", [21] = "IQ3_S",
    [22] = "IQ2_S",  [23] = "IQ4_XS",  [24] = "I8",    [25] = "I16",    [26] = "I32",
    [27] = "I64",    [28] = "F64",     [29] = "IQ1_M", [30] = "BF16",   [34] = "TQ1_0",
    [35] = "TQ2_0",  [39] = "MXFP4",
};

static spin_status dtype_from_wire(const struct reader *reader, uint32_t wire, enum spin_dtype *out)
{
    const char *name = wire < SPIN_ARRAY_COUNT(wire_names) ? wire_names[wire] : NULL;
    for (uint32_t i = 0; name != NULL && i < SPIN_DTYPE_COUNT; i++) {
        if (strcmp(spin_dtype_name((enum spin_dtype)i), name) == 0) {
            *out = (enum spin_dtype)i;
            return SPIN_OK;
        }
    }
    return spin_fail(reader->err, SPIN_ERR_UNSUPPORTED,
                     SUBJECT_FMT
                     "type %s (%u); supported are F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q4_K Q6_K",
                     SUBJECT_ARGS(reader), name == NULL ? "unknown" : name, wire);
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
    const struct spin_gguf_tensor *x = ((const struct spin_gguf_tensor_ref *)a)->tensor;
    const struct spin_gguf_tensor *y = ((const struct spin_gguf_tensor_ref *)b)->tensor;
    return (x->data > y->data) - (x->data < y->data);
}

static int compare_tensor_names(const void *a, const void *b)
{
    const struct spin_gguf_tensor *x = ((const struct spin_gguf_tensor_ref *)a)->tensor;
    const struct spin_gguf_tensor *y = ((const struct spin_gguf_tensor_ref *)b)->tensor;
    return spin_string_compare(&x->name, &y->name);
}

/* Two tensors over the same bytes are how a small file poses as a large one. */
static spin_status check_tensors(struct spin_gguf *gguf, struct spin_error *err)
{
    struct spin_gguf_tensor_ref *sorted = gguf->tensors_by_name;
    for (uint32_t i = 0; i < gguf->tensor_count; i++) {
        sorted[i].tensor = &gguf->tensors[i];
    }
    qsort(sorted, gguf->tensor_count, sizeof *sorted, compare_tensor_data);
    for (uint32_t i = 1; i < gguf->tensor_count; i++) {
        const struct spin_gguf_tensor *a = sorted[i - 1].tensor;
        const struct spin_gguf_tensor *b = sorted[i].tensor;
        if (a->bytes > (uint64_t)(b->data - a->data)) {
            return spin_fail(err, SPIN_ERR_CORRUPT, "gguf: tensors '%.*s' and '%.*s' overlap",
                             (int)a->name.count, a->name.bytes, (int)b->name.count, b->name.bytes);
        }
    }
    qsort(sorted, gguf->tensor_count, sizeof *sorted, compare_tensor_names);
    for (uint32_t i = 1; i < gguf->tensor_count; i++) {
        if (spin_string_compare(&sorted[i - 1].tensor->name, &sorted[i].tensor->name) == 0) {
            return spin_fail(err, SPIN_ERR_CORRUPT, "gguf: tensor '%.*s' appears twice",
                             (int)sorted[i].tensor->name.count, sorted[i].tensor->name.bytes);
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
    free(gguf->tensors_by_name);
    free(gguf);
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
    const struct spin_gguf_tensor_ref key = {.tensor = &wanted};
    const struct spin_gguf_tensor_ref *found =
        bsearch(&key, gguf->tensors_by_name, gguf->tensor_count, sizeof key, compare_tensor_names);
    return found == NULL ? NULL : found->tensor;
}
