#include "tests/spin_test.h"

double spin_test_relative_l2(const float *a, const float *b, uint64_t count)
{
    double difference = 0;
    double norm = 0;
    for (uint64_t i = 0; i < count; i++) {
        if (!isfinite((double)a[i])) {
            return (double)INFINITY;
        }
        const double d = (double)a[i] - (double)b[i];
        difference += d * d;
        norm += (double)b[i] * (double)b[i];
    }
    return norm > 0 ? sqrt(difference / norm) : sqrt(difference);
}
