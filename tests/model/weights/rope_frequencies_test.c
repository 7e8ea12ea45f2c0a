/* Frequencies against 50-digit values of the published formulas (make_rope_golden.py), 1e-13 apart
 * at most; and llama3 scaling against the same model's divisors, as GGUF files carry it. */
#include "model/weights/model.h"
#include "tests/model/weights/rope_golden.h"
#include "tests/spin_test.h"

#define RELATIVE_MAX 1e-13

static void expect_close(const char *name, uint32_t index, double got, double wanted)
{
    if (!(fabs(got - wanted) <= RELATIVE_MAX * fabs(wanted))) {
        fail_msg("%s[%u]: got %.17g, wanted %.17g", name, index, got, wanted);
    }
}

static void test_golden(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rope_goldens); i++) {
        const struct rope_golden *golden = &rope_goldens[i];
        double frequencies[SPIN_HEAD_DIM_MAX / 2];
        double magnitude = 0;
        spin_rope_frequencies(&golden->config, frequencies, &magnitude);
        for (uint32_t k = 0; k < golden->config.dim / 2; k++) {
            expect_close(golden->name, k, frequencies[k], golden->frequencies[k]);
        }
        expect_close(golden->name, UINT32_MAX, magnitude, golden->magnitude);
    }
}

/* Divisors are what the scaled frequencies are smaller by, in F32: equal to its precision. */
static void test_divisors(void **state)
{
    (void)state;
    const struct rope_golden *scaled = &rope_goldens[3];
    const struct rope_golden *plain = &rope_goldens[1];
    assert_string_equal(scaled->name, "llama3");
    assert_string_equal(plain->name, "llama3_plain");
    float divisors[64];
    for (uint32_t k = 0; k < 64; k++) {
        divisors[k] = (float)(plain->frequencies[k] / scaled->frequencies[k]);
    }
    struct spin_rope_config config = plain->config;
    config.divisors = divisors;
    double frequencies[64];
    double magnitude = 0;
    spin_rope_frequencies(&config, frequencies, &magnitude);
    for (uint32_t k = 0; k < 64; k++) {
        assert_true(fabs(frequencies[k] / scaled->frequencies[k] - 1) < 1e-7);
    }
    assert_true(frequencies[63] < 0.13 * plain->frequencies[63]);
    assert_true(magnitude == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_divisors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
