#include "base/dtype.h"

#include "base/assert.h"

struct dtype_info {
    const char *name;
    uint32_t block_values;
    uint32_t block_bytes;
};

static const struct dtype_info *info(enum spin_dtype dtype)
{
#define DTYPE_INFO(name, values, bytes) {#name, (values), (bytes)},
    static const struct dtype_info table[] = {SPIN_DTYPE_MAP(DTYPE_INFO)};
#undef DTYPE_INFO
    SPIN_ASSERT((uint32_t)dtype < (uint32_t)SPIN_DTYPE_COUNT);
    return &table[dtype];
}

const char *spin_dtype_name(enum spin_dtype dtype)
{
    return info(dtype)->name;
}

uint32_t spin_dtype_block_values(enum spin_dtype dtype)
{
    return info(dtype)->block_values;
}

uint32_t spin_dtype_block_bytes(enum spin_dtype dtype)
{
    return info(dtype)->block_bytes;
}

uint64_t spin_dtype_row_bytes(enum spin_dtype dtype, uint64_t cols)
{
    const struct dtype_info *dtype_info = info(dtype);
    SPIN_ASSERT_EQ(cols % dtype_info->block_values, 0);
    return cols / dtype_info->block_values * dtype_info->block_bytes;
}
