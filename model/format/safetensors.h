/* safetensors: the container of Hugging Face checkpoints, checked byte by byte.
 *
 * Why        A model in several shards is read through one of these per shard; offsets are the
 *            file's word and are checked to tile the data exactly, as the format demands.
 * Layout     u64 header bytes, little endian | JSON header | data
 *            header: {"name": {"dtype": "BF16", "shape": [..], "data_offsets": [begin, end]}, ..}
 *            and an optional "__metadata__". Offsets count from the first byte of data.
 * Ownership  The reader owns its index, names included; it borrows the mapped bytes.
 * Threading  Open on one thread; read by all.
 * Units      Bytes; shapes in elements, row-major: the last dimension is the contiguous one.
 * Errors     CORRUPT with the tensor and the offset; UNSUPPORTED for a data type other than F32,
 *            F16, BF16; LIMIT over the limits below. */
#pragma once

#include "base/dtype.h"
#include "base/file.h"

SPIN_BEGIN_DECLS

#define SPIN_SAFETENSORS_HEADER_BYTES_MAX (UINT64_C(100) << 20) /* the format's own limit */
#define SPIN_SAFETENSORS_TENSORS_MAX 65536u
#define SPIN_SAFETENSORS_DIMS_MAX 4u

struct spin_safetensors_tensor {
    const char *name; /* NUL-terminated, printable ASCII */
    enum spin_dtype dtype;
    uint32_t dim_count;                       /* 0 (a scalar) to 4 */
    uint64_t dims[SPIN_SAFETENSORS_DIMS_MAX]; /* as in the file; 1 beyond dim_count */
    const uint8_t *data;                      /* aligned only if the writer cared */
    uint64_t bytes;
};

struct spin_safetensors; /* private to safetensors.c */

/* `file` must outlive *out. */
SPIN_MUST_USE spin_status spin_safetensors_open(const struct spin_file_map *file,
                                                struct spin_safetensors **out,
                                                struct spin_error *err);
void spin_safetensors_close(struct spin_safetensors *safetensors); /* NULL is allowed */

uint32_t spin_safetensors_count(const struct spin_safetensors *safetensors);
/* In the order of names. */
const struct spin_safetensors_tensor *spin_safetensors_at(
    const struct spin_safetensors *safetensors, uint32_t index);
/* NULL when absent. O(log n). */
const struct spin_safetensors_tensor *spin_safetensors_find(
    const struct spin_safetensors *safetensors, const char *name);

SPIN_END_DECLS
