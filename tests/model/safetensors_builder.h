/* safetensors_builder: small safetensors files in memory, from the text of their header.
 *
 * Why        A header is JSON: what is wrong with it is best read as text.
 * Ownership  Returns owned bytes (free).
 * Threading  The test's thread.
 * Errors     None. */
#pragma once

#include "base/file.h"

SPIN_BEGIN_DECLS

/* Data byte i is spin_safetensors_builder_data(i). The allocation is exactly the file. */
struct spin_file_map spin_safetensors_builder_make(const char *header, uint64_t data_bytes);
uint8_t spin_safetensors_builder_data(uint64_t i);

SPIN_END_DECLS
