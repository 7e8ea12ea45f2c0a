/* gguf_internal: the index of an open GGUF file, shared by its reader and its accessors.
 *
 * Why        Reading hostile bytes (gguf.c) and answering questions (gguf_metadata.c) are two jobs.
 * Ownership  As gguf.h.
 * Threading  As gguf.h. */
#pragma once

#include "model/format/gguf.h"

SPIN_BEGIN_DECLS

struct spin_gguf_key {
    struct spin_string name;
    enum spin_gguf_type type;
    const uint8_t *value; /* scalars: the bytes in the file; unaligned */
    struct spin_string string;
    struct spin_gguf_array array;
};

struct spin_gguf_tensor_ref {
    const struct spin_gguf_tensor *tensor;
};

struct spin_gguf {
    struct spin_gguf_key *keys; /* sorted by name */
    uint32_t key_count;
    uint32_t tensor_count;
    struct spin_gguf_tensor *tensors; /* as in the file */
    struct spin_gguf_tensor_ref *tensors_by_name;
};

/* 0 for strings, arrays and numbers that are no type. */
uint32_t spin_gguf_scalar_bytes(uint32_t type);
int spin_string_compare(const struct spin_string *a, const struct spin_string *b);
/* Two struct spin_gguf_key by name, for qsort and bsearch. */
int spin_gguf_key_compare(const void *a, const void *b);

SPIN_END_DECLS
