/* checked: sizes that came from outside are added and multiplied here, or not at all.
 *
 * Why        A length field of 2^63 must become a status, never a small allocation.
 * Threading  Any thread; pure.
 * Errors     Each returns false on overflow and leaves *out as it was. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

static inline bool spin_add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t sum;
    if (__builtin_add_overflow(a, b, &sum)) {
        return false;
    }
    *out = sum;
    return true;
}

static inline bool spin_mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t product;
    if (__builtin_mul_overflow(a, b, &product)) {
        return false;
    }
    *out = product;
    return true;
}

/* True when [offset, offset + bytes) lies inside [0, limit). */
static inline bool spin_range_fits(uint64_t offset, uint64_t bytes, uint64_t limit)
{
    return offset <= limit && bytes <= limit - offset;
}

SPIN_END_DECLS
