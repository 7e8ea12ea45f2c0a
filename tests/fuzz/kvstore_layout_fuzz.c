/* Any bytes as a layout descriptor: what decodes is within its limits and encodes to the same
 * bytes, so two peers that agree on the bytes agree on the layout. */
#include "base/assert.h"
#include "kvstore/block/layout.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    struct spin_kv_layout layout;
    struct spin_error err = {.status = SPIN_OK};
    const spin_status status = spin_kv_layout_decode(bytes, count, &layout, &err);
    if (status != SPIN_OK) {
        SPIN_ASSERT_EQ(status, SPIN_ERR_INVALID);
        SPIN_ASSERT_EQ(err.status, status);
        return 0;
    }
    SPIN_ASSERT_EQ(spin_kv_layout_check(&layout, NULL), SPIN_OK);
    SPIN_ASSERT_GT(spin_block_bytes(&layout), 0);
    uint8_t again[SPIN_KV_LAYOUT_WIRE_BYTES];
    spin_kv_layout_encode(&layout, again);
    SPIN_ASSERT_EQ(count, sizeof again);
    SPIN_ASSERT(memcmp(again, bytes, sizeof again) == 0);
    return 0;
}
