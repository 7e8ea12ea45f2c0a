/* file: a whole file in memory, read-only, straight from the page cache; and small ones written.
 *
 * Why        Weights are used where they lie; start-up costs no copy. Who sees a file that was
 *            written here sees all of it.
 * Ownership  The map owns the bytes; they are valid until close.
 * Threading  Open and close on one thread; bytes may be read by all.
 * Errors     NOT_FOUND, DENIED, IO, LIMIT (over max_bytes): the text names the path. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

struct spin_file_map {
    const uint8_t *bytes; /* NULL for an empty file */
    uint64_t count;
};

SPIN_MUST_USE spin_status spin_file_map_open(const char *path, struct spin_file_map *out,
                                             struct spin_error *err);
void spin_file_map_close(struct spin_file_map *map);
/* Reads a small text file whole, NUL-terminated; the caller frees *out with free(). */
SPIN_MUST_USE spin_status spin_file_read(const char *path, uint64_t max_bytes, char **out,
                                         uint64_t *out_bytes, struct spin_error *err);
/* Puts `text` where `path` is, whole or not at all: beside it as "<path>.new", then renamed. */
SPIN_MUST_USE spin_status spin_file_replace(const char *path, const char *text,
                                            struct spin_error *err);

SPIN_END_DECLS
