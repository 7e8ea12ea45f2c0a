#include "tests/model/safetensors_builder.h"

#include "base/assert.h"

#include <stdlib.h>
#include <string.h>

uint8_t spin_safetensors_builder_data(uint64_t i)
{
    /* The upper byte of a BF16, F16 or F32 stays below the exponent of infinity. */
    return (uint8_t)((i * 37 + (i >> 8)) & 0x3f);
}

struct spin_file_map spin_safetensors_builder_make(const char *header, uint64_t data_bytes)
{
    const uint64_t header_bytes = strlen(header);
    const uint64_t count = 8 + header_bytes + data_bytes;
    uint8_t *bytes = malloc(count);
    SPIN_ASSERT(bytes != NULL);
    memcpy(bytes, &header_bytes, 8);
    for (uint64_t i = 0; i < header_bytes; i++) { /* the format has no NUL at the end */
        bytes[8 + i] = (uint8_t)header[i];
    }
    for (uint64_t i = 0; i < data_bytes; i++) {
        bytes[8 + header_bytes + i] = spin_safetensors_builder_data(i);
    }
    const struct spin_file_map map = {.bytes = bytes, .count = count};
    return map;
}
