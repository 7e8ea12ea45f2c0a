/* Philox4x32-10 against the known answers that its authors publish with Random123; the derived
 * draws against the distributions they claim, with fixed seeds and generous bounds. */
#include "base/rng.h"

#include "tests/spin_test.h"

static const struct {
    uint32_t counter[4];
    uint32_t key[2];
    uint32_t answer[4];
} known_answers[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

static uint64_t join(const uint32_t words[2])
{
    return (uint64_t)words[1] << 32 | words[0];
}

static void test_known_answers(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(known_answers); i++) {
        const struct spin_philox_block block =
            spin_philox(join(known_answers[i].key), join(known_answers[i].counter + 2),
                        join(known_answers[i].counter));
        assert_memory_equal(block.word, known_answers[i].answer, sizeof block.word);
    }
}

static void test_uniform_has_the_upper_53_bits(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 1000; i++) {
        const struct spin_philox_block block = spin_philox(7, 8, i);
        const double got = spin_philox_uniform(7, 8, i);
        const long double exact =
            ((long double)block.word[0] * 4294967296.0L + block.word[1]) / 18446744073709551616.0L;
        assert_true(got >= 0 && got < 1);
        assert_true((long double)got <= exact && exact - (long double)got < 0x1p-53L);
    }
}

/* Draw n is a function of n alone, whatever the other draws were. */
static void test_sequence_is_the_function(void **state)
{
    (void)state;
    struct spin_rng rng = {.seed = 5, .stream = 6, .counter = 100};
    assert_int_equal(spin_rng_u32(&rng), spin_philox(5, 6, 100).word[0]);
    (void)spin_rng_normal(&rng);
    assert_true(spin_rng_uniform(&rng) == spin_philox_uniform(5, 6, 102));
    assert_int_equal(rng.counter, 103);
    assert_int_not_equal(spin_philox(5, 6, 0).word[0], spin_philox(5, 7, 0).word[0]);
    assert_int_not_equal(spin_philox(5, 6, 0).word[0], spin_philox(6, 6, 0).word[0]);
}

static void test_below_is_even(void **state)
{
    (void)state;
    static const uint32_t bounds[] = {1, 2, 3, 6, 7, 10, 100};
    struct spin_rng rng = {.seed = 9};
    for (uint32_t b = 0; b < SPIN_ARRAY_COUNT(bounds); b++) {
        const uint32_t bound = bounds[b];
        uint32_t counts[100] = {0};
        const uint32_t draws = 1000 * bound;
        for (uint32_t i = 0; i < draws; i++) {
            const uint32_t value = spin_rng_below(&rng, bound);
            assert_true(value < bound);
            counts[value]++;
        }
        double chi_square = 0;
        for (uint32_t i = 0; i < bound; i++) {
            chi_square += (counts[i] - 1000.0) * (counts[i] - 1000.0) / 1000.0;
        }
        /* Mean bound - 1, variance 2 (bound - 1): five deviations above, and never suspiciously
         * 0. */
        assert_true(chi_square <= (bound - 1) + 5 * sqrt(2.0 * (bound - 1)));
        assert_true(bound < 10 || chi_square > 0.2 * bound);
    }
}

/* A bound where four inputs share three results: without the refusals, of each three neighbours one
 * is twice as likely; with a plain modulo, the lower third of all. */
static void test_below_has_no_bias(void **state)
{
    (void)state;
    const uint32_t bound = UINT32_C(3) << 30;
    struct spin_rng rng = {.seed = 10};
    uint32_t thirds[3] = {0};
    uint32_t neighbours[3] = {0};
    for (uint32_t i = 0; i < 30000; i++) {
        const uint32_t value = spin_rng_below(&rng, bound);
        assert_true(value < bound);
        thirds[value >> 30]++;
        neighbours[value % 3]++;
    }
    for (uint32_t i = 0; i < 3; i++) {
        assert_in_range(thirds[i], 10000 - 500, 10000 + 500);
        assert_in_range(neighbours[i], 10000 - 500, 10000 + 500);
    }
}

#define DRAWS 50000u

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Kolmogorov-Smirnov distance between sorted draws and a distribution function. */
static double distance(double *draws, double (*distribution)(double))
{
    qsort(draws, DRAWS, sizeof *draws, ascending);
    double max = 0;
    for (uint32_t i = 0; i < DRAWS; i++) {
        const double exact = distribution(draws[i]);
        max = fmax(max, fmax(fabs(exact - (double)i / DRAWS), fabs(exact - (i + 1.0) / DRAWS)));
    }
    return max;
}

static double uniform_below(double x)
{
    return x;
}

static double normal_below(double x)
{
    return 0.5 * erfc(-x / sqrt(2.0));
}

/* 1.95 / sqrt(n) is passed by 999 in 1,000 good generators; the seed is one of those. */
static void test_distributions(void **state)
{
    (void)state;
    static double draws[DRAWS];
    struct spin_rng rng = {.seed = 11};
    for (uint32_t i = 0; i < DRAWS; i++) {
        draws[i] = spin_rng_uniform(&rng);
    }
    assert_true(distance(draws, uniform_below) < 1.95 / sqrt(DRAWS));
    for (uint32_t i = 0; i < DRAWS; i++) {
        draws[i] = spin_rng_normal(&rng);
        assert_true(isfinite(draws[i]));
    }
    assert_true(distance(draws, normal_below) < 1.95 / sqrt(DRAWS));
}

static void draw_below_zero(void *argument)
{
    (void)spin_rng_below(argument, 0);
}

static void test_bound_zero_is_asserted(void **state)
{
    (void)state;
    struct spin_rng rng = {0};
    assert_true(spin_test_dies(draw_below_zero, &rng, "bound > 0"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_uniform_has_the_upper_53_bits),
        cmocka_unit_test(test_sequence_is_the_function),
        cmocka_unit_test(test_below_is_even),
        cmocka_unit_test(test_below_has_no_bias),
        cmocka_unit_test(test_distributions),
        cmocka_unit_test(test_bound_zero_is_asserted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
