/* The fuzzer that must be caught: a bug six bytes deep, out of reach of blind mutations and easy
 * for coverage. A long run that does not crash here is broken, whatever it says about the others.
 * */
#include "base/assert.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    static const uint8_t song[] = {'t', 'w', 'e', 'E', 't', '!'};
    size_t matched = 0;
    while (matched < count && matched < sizeof song && bytes[matched] == song[matched]) {
        matched++;
    }
    SPIN_ASSERT(matched < sizeof song);
    return 0;
}
