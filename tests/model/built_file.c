#include "tests/model/built_file.h"

#include <stdlib.h>

uint8_t *spin_built_bytes(const struct spin_file_map *map)
{
    union {
        const uint8_t *readable;
        uint8_t *writable;
    } bytes = {.readable = map->bytes};
    return bytes.writable;
}

void spin_built_free(struct spin_file_map *map)
{
    free(spin_built_bytes(map));
    *map = (struct spin_file_map){0};
}
