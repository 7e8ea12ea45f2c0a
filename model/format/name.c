#include "model/format/name.h"

bool spin_name_is_printable(const char *bytes, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        if (bytes[i] < 0x20 || bytes[i] > 0x7e) {
            return false;
        }
    }
    return true;
}
