#include "model/format/safetensors.h"

#include "base/assert.h"
#include "base/checked.h"
#include "model/format/json.h"
#include "model/format/name.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH_BYTES 8u
#define METADATA_KEY "__metadata__"
#define NAME_BYTES_MAX 255u

struct spin_safetensors {
    json_t *header;                          /* owns the names */
    struct spin_safetensors_tensor *tensors; /* sorted by name */
    uint32_t count;
};

/* What a tensor's entry is checked against. */
struct data_section {
    const uint8_t *bytes;
    uint64_t count;
};

struct dtype_name {
    const char *name;
    enum spin_dtype dtype;
};

static const struct dtype_name dtype_names[] = {
    {"F32", SPIN_DTYPE_F32},
    {"F16", SPIN_DTYPE_F16},
    {"BF16", SPIN_DTYPE_BF16},
};

#define TENSOR_FMT "safetensors: tensor '%s': "

static spin_status read_dtype(const struct spin_json_object *entry,
                              struct spin_safetensors_tensor *tensor, struct spin_error *err)
{
    const char *name = NULL;
    const spin_status status = spin_json_name(entry, "dtype", &name, err);
    if (status == SPIN_ERR_NOT_FOUND) {
        return spin_fail(err, SPIN_ERR_CORRUPT, TENSOR_FMT "'dtype' is missing", tensor->name);
    }
    SPIN_TRY(status);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(dtype_names); i++) {
        if (strcmp(dtype_names[i].name, name) == 0) {
            tensor->dtype = dtype_names[i].dtype;
            return SPIN_OK;
        }
    }
    return spin_fail(err, SPIN_ERR_UNSUPPORTED, TENSOR_FMT "type %s; supported are F32, F16, BF16",
                     tensor->name, name);
}

struct integers {
    uint64_t values[SPIN_SAFETENSORS_DIMS_MAX];
    uint32_t count;
};

static spin_status read_integers(const json_t *entry, const char *key, const char *tensor_name,
                                 struct integers *out, struct spin_error *err)
{
    const json_t *array = json_object_get(entry, key);
    if (!json_is_array(array)) {
        return spin_fail(err, SPIN_ERR_CORRUPT, TENSOR_FMT "'%s' is not an array", tensor_name,
                         key);
    }
    if (json_array_size(array) > SPIN_SAFETENSORS_DIMS_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, TENSOR_FMT "'%s' has %zu elements, the limit is %u",
                         tensor_name, key, json_array_size(array), SPIN_SAFETENSORS_DIMS_MAX);
    }
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *value = json_array_get(array, i);
        if (!json_is_integer(value) || json_integer_value(value) < 0) {
            return spin_fail(err, SPIN_ERR_CORRUPT, TENSOR_FMT "'%s'[%zu] is not an integer from 0",
                             tensor_name, key, i);
        }
        out->values[i] = (uint64_t)json_integer_value(value);
    }
    out->count = (uint32_t)json_array_size(array);
    return SPIN_OK;
}

static spin_status read_shape(const json_t *entry, struct spin_safetensors_tensor *tensor,
                              struct spin_error *err)
{
    struct integers shape = {.count = 0};
    SPIN_TRY(read_integers(entry, "shape", tensor->name, &shape, err));
    tensor->dim_count = shape.count;
    for (uint32_t i = 0; i < SPIN_SAFETENSORS_DIMS_MAX; i++) {
        tensor->dims[i] = i < shape.count ? shape.values[i] : 1;
    }
    uint64_t bytes = spin_dtype_block_bytes(tensor->dtype);
    for (uint32_t i = 0; i < tensor->dim_count; i++) {
        if (tensor->dims[i] == 0) {
            return spin_fail(err, SPIN_ERR_UNSUPPORTED, TENSOR_FMT "dimension %u is 0",
                             tensor->name, i);
        }
        if (!spin_mul_u64(bytes, tensor->dims[i], &bytes)) {
            return spin_fail(err, SPIN_ERR_CORRUPT, TENSOR_FMT "the shape overflows 64 bits",
                             tensor->name);
        }
    }
    tensor->bytes = bytes;
    return SPIN_OK;
}

static spin_status read_offsets(const json_t *entry, const struct data_section *data,
                                struct spin_safetensors_tensor *tensor, struct spin_error *err)
{
    struct integers offsets = {.count = 0};
    SPIN_TRY(read_integers(entry, "data_offsets", tensor->name, &offsets, err));
    const uint64_t begin = offsets.values[0];
    const uint64_t end = offsets.values[1];
    if (offsets.count != 2 || begin > end || end > data->count) {
        return spin_fail(err, SPIN_ERR_CORRUPT,
                         TENSOR_FMT "data_offsets %" PRIu64 " to %" PRIu64 " in %" PRIu64
                                    " bytes of data",
                         tensor->name, begin, end, data->count);
    }
    if (end - begin != tensor->bytes) {
        return spin_fail(err, SPIN_ERR_CORRUPT,
                         TENSOR_FMT "%" PRIu64 " bytes at data offset %" PRIu64
                                    ", the shape says %" PRIu64,
                         tensor->name, end - begin, begin, tensor->bytes);
    }
    tensor->data = data->bytes + begin;
    return SPIN_OK;
}

static spin_status read_tensor(const char *name, const json_t *entry,
                               const struct data_section *data, struct spin_safetensors_tensor *out,
                               struct spin_error *err)
{
    const size_t name_bytes = strlen(name);
    if (name_bytes == 0 || name_bytes > NAME_BYTES_MAX ||
        !spin_name_is_printable(name, name_bytes)) {
        return spin_fail(err, SPIN_ERR_CORRUPT,
                         "safetensors: a tensor's name is not 1 to %u bytes of printable ASCII",
                         NAME_BYTES_MAX);
    }
    if (!json_is_object(entry)) {
        return spin_fail(err, SPIN_ERR_CORRUPT, TENSOR_FMT "its entry is not an object", name);
    }
    out->name = name;
    const struct spin_json_object object = {.json = entry, .subject = name};
    SPIN_TRY(read_dtype(&object, out, err));
    SPIN_TRY(read_shape(entry, out, err));
    return read_offsets(entry, data, out, err);
}

static int compare_data(const void *a, const void *b)
{
    const struct spin_safetensors_tensor *x = a;
    const struct spin_safetensors_tensor *y = b;
    return (x->data > y->data) - (x->data < y->data);
}

static int compare_names(const void *a, const void *b)
{
    const struct spin_safetensors_tensor *x = a;
    const struct spin_safetensors_tensor *y = b;
    return strcmp(x->name, y->name);
}

/* Every byte of data belongs to exactly one tensor; none is empty, so order by start suffices. */
static spin_status check_tiling(struct spin_safetensors *safetensors,
                                const struct data_section *data, struct spin_error *err)
{
    const uint8_t *expected = data->bytes;
    qsort(safetensors->tensors, safetensors->count, sizeof *safetensors->tensors, compare_data);
    for (uint32_t i = 0; i < safetensors->count; i++) {
        const struct spin_safetensors_tensor *tensor = &safetensors->tensors[i];
        if (tensor->data != expected) {
            return spin_fail(err, SPIN_ERR_CORRUPT,
                             TENSOR_FMT "starts at data offset %" PRIu64
                                        ", %s the tensor before it",
                             tensor->name, (uint64_t)(tensor->data - data->bytes),
                             tensor->data < expected ? "inside" : "with a hole behind");
        }
        expected += tensor->bytes;
    }
    if (expected != data->bytes + data->count) {
        return spin_fail(
            err, SPIN_ERR_CORRUPT,
            "safetensors: %" PRIu64 " bytes behind the last tensor at data offset %" PRIu64,
            (uint64_t)(data->bytes + data->count - expected), (uint64_t)(expected - data->bytes));
    }
    return SPIN_OK;
}

static spin_status read_tensors(struct spin_safetensors *safetensors,
                                const struct data_section *data, struct spin_error *err)
{
    const uint64_t entries = json_object_size(safetensors->header);
    if (entries > SPIN_SAFETENSORS_TENSORS_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "safetensors: %" PRIu64 " tensors, the limit is %u",
                         entries, SPIN_SAFETENSORS_TENSORS_MAX);
    }
    safetensors->tensors = calloc((size_t)entries + 1, sizeof *safetensors->tensors);
    if (safetensors->tensors == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "safetensors: an index of %" PRIu64 " tensors",
                         entries);
    }
    const char *name = NULL;
    json_t *entry = NULL;
    json_object_foreach(safetensors->header, name, entry)
    {
        if (strcmp(name, METADATA_KEY) == 0) {
            continue;
        }
        SPIN_TRY(read_tensor(name, entry, data, &safetensors->tensors[safetensors->count], err));
        safetensors->count++;
    }
    SPIN_TRY(check_tiling(safetensors, data, err));
    qsort(safetensors->tensors, safetensors->count, sizeof *safetensors->tensors, compare_names);
    return SPIN_OK;
}

static spin_status read_header_bytes(const struct spin_file_map *file, uint64_t *out,
                                     struct spin_error *err)
{
    if (file->count < LENGTH_BYTES) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "safetensors: a file of %" PRIu64 " bytes",
                         file->count);
    }
    uint64_t header_bytes; /* supported hosts are little endian, as the format is */
    memcpy(&header_bytes, file->bytes, sizeof header_bytes);
    if (header_bytes > file->count - LENGTH_BYTES) {
        return spin_fail(err, SPIN_ERR_CORRUPT,
                         "safetensors: a header of %" PRIu64 " bytes in a file of %" PRIu64,
                         header_bytes, file->count);
    }
    if (header_bytes > SPIN_SAFETENSORS_HEADER_BYTES_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT,
                         "safetensors: a header of %" PRIu64 " bytes, the limit is %" PRIu64,
                         header_bytes, SPIN_SAFETENSORS_HEADER_BYTES_MAX);
    }
    if (header_bytes == 0 || file->bytes[LENGTH_BYTES] != '{') {
        return spin_fail(err, SPIN_ERR_CORRUPT, "safetensors: the header does not start with '{'");
    }
    *out = header_bytes;
    return SPIN_OK;
}

spin_status spin_safetensors_open(const struct spin_file_map *file, struct spin_safetensors **out,
                                  struct spin_error *err)
{
    uint64_t header_bytes = 0;
    SPIN_TRY(read_header_bytes(file, &header_bytes, err));
    struct spin_safetensors *safetensors = calloc(1, sizeof *safetensors);
    if (safetensors == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "safetensors: %zu bytes", sizeof *safetensors);
    }
    spin_status status = SPIN_OK;
    const char *text = (const char *)file->bytes + LENGTH_BYTES;
    const struct data_section data = {
        .bytes = file->bytes + LENGTH_BYTES + header_bytes,
        .count = file->count - LENGTH_BYTES - header_bytes,
    };
    SPIN_TRY_GOTO(
        status,
        spin_json_parse("safetensors: header", text, header_bytes, &safetensors->header, err),
        fail);
    SPIN_TRY_GOTO(status, read_tensors(safetensors, &data, err), fail);
    *out = safetensors;
    return SPIN_OK;
fail:
    spin_safetensors_close(safetensors);
    return status;
}

void spin_safetensors_close(struct spin_safetensors *safetensors)
{
    if (safetensors == NULL) {
        return;
    }
    json_decref(safetensors->header);
    free(safetensors->tensors);
    free(safetensors);
}

uint32_t spin_safetensors_count(const struct spin_safetensors *safetensors)
{
    return safetensors->count;
}

const struct spin_safetensors_tensor *spin_safetensors_at(
    const struct spin_safetensors *safetensors, uint32_t index)
{
    SPIN_ASSERT_LT(index, safetensors->count);
    return &safetensors->tensors[index];
}

const struct spin_safetensors_tensor *spin_safetensors_find(
    const struct spin_safetensors *safetensors, const char *name)
{
    const struct spin_safetensors_tensor wanted = {.name = name};
    return bsearch(&wanted, safetensors->tensors, safetensors->count, sizeof *safetensors->tensors,
                   compare_names);
}
