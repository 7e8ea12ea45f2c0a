/* built_file: the memory of files that the builders make.
 *
 * Why        Readers get a read-only map; a test may change bytes behind it, and has to free it.
 * Ownership  The map's bytes are the test's.
 * Threading  The test's thread.
 * Errors     None. */
#pragma once

#include "base/file.h"

SPIN_BEGIN_DECLS

/* The same bytes, for writing. */
uint8_t *spin_built_bytes(const struct spin_file_map *map);
void spin_built_free(struct spin_file_map *map);

SPIN_END_DECLS
