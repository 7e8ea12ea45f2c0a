/* Values as text, by tables: what each type takes, what it refuses, and that what is printed reads
 * back as the same value. */
#include "base/config_internal.h"
#include "base/rng.h"
#include "tests/spin_test.h"

static struct spin_option option_of(enum spin_option_type type)
{
    return (struct spin_option){.name = "x", .type = type, .choices = "cpu,cuda,auto", .help = "x"};
}

struct good {
    enum spin_option_type type;
    const char *text;
    uint64_t value;
};

static const struct good good_values[] = {
    {SPIN_OPTION_BOOL, "true", 1},
    {SPIN_OPTION_BOOL, "yes", 1},
    {SPIN_OPTION_BOOL, "on", 1},
    {SPIN_OPTION_BOOL, "1", 1},
    {SPIN_OPTION_BOOL, "false", 0},
    {SPIN_OPTION_BOOL, "no", 0},
    {SPIN_OPTION_BOOL, "off", 0},
    {SPIN_OPTION_BOOL, "0", 0},
    {SPIN_OPTION_U32, "0", 0},
    {SPIN_OPTION_U32, "4294967295", UINT32_MAX},
    {SPIN_OPTION_U32, "007", 7},
    {SPIN_OPTION_U64, "18446744073709551615", UINT64_MAX},
    {SPIN_OPTION_BYTES, "0", 0},
    {SPIN_OPTION_BYTES, "123", 123},
    {SPIN_OPTION_BYTES, "1KiB", 1024},
    {SPIN_OPTION_BYTES, "1KB", 1000},
    {SPIN_OPTION_BYTES, "3MiB", 3145728},
    {SPIN_OPTION_BYTES, "3MB", 3000000},
    {SPIN_OPTION_BYTES, "2GiB", UINT64_C(2147483648)},
    {SPIN_OPTION_BYTES, "2GB", UINT64_C(2000000000)},
    {SPIN_OPTION_BYTES, "1.5KiB", 1536},
    {SPIN_OPTION_BYTES, "0.5GiB", 536870912},
    {SPIN_OPTION_DURATION, "0", 0},
    {SPIN_OPTION_DURATION, "7ns", 7},
    {SPIN_OPTION_DURATION, "7us", 7000},
    {SPIN_OPTION_DURATION, "7ms", 7000000},
    {SPIN_OPTION_DURATION, "7s", UINT64_C(7000000000)},
    {SPIN_OPTION_DURATION, "2m", UINT64_C(120000000000)},
    {SPIN_OPTION_DURATION, "1h", UINT64_C(3600000000000)},
    {SPIN_OPTION_DURATION, "1.25s", UINT64_C(1250000000)},
    {SPIN_OPTION_CHOICE, "cpu", 0},
    {SPIN_OPTION_CHOICE, "cuda", 1},
    {SPIN_OPTION_CHOICE, "auto", 2},
};

static uint64_t as_u64(enum spin_option_type type, union spin_config_scalar value)
{
    if (type == SPIN_OPTION_BOOL) {
        return value.boolean ? 1 : 0;
    }
    return type == SPIN_OPTION_U32 || type == SPIN_OPTION_CHOICE ? value.u32 : value.u64;
}

static void test_takes(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(good_values); i++) {
        const struct good *good = &good_values[i];
        const struct spin_option option = option_of(good->type);
        union spin_config_scalar value;
        char reason[SPIN_CONFIG_TEXT_BYTES] = "";
        if (!spin_config_scalar_parse(&option, good->text, &value, reason)) {
            fail_msg("%s: %s", good->text, reason);
        }
        assert_int_equal(as_u64(good->type, value), good->value);
    }
}

static const struct {
    enum spin_option_type type;
    const char *text;
    const char *reason;
} bad_values[] = {
    {SPIN_OPTION_BOOL, "", "true or false"},
    {SPIN_OPTION_BOOL, "True", "true or false"},
    {SPIN_OPTION_BOOL, "2", "true or false"},
    {SPIN_OPTION_U32, "", "whole number"},
    {SPIN_OPTION_U32, "-1", "whole number"},
    {SPIN_OPTION_U32, "+1", "whole number"},
    {SPIN_OPTION_U32, " 1", "whole number"},
    {SPIN_OPTION_U32, "1 ", "whole number"},
    {SPIN_OPTION_U32, "1.0", "whole number"},
    {SPIN_OPTION_U32, "0x10", "whole number"},
    {SPIN_OPTION_U32, "1e3", "whole number"},
    {SPIN_OPTION_U32, "4294967296", "32 bits"},
    {SPIN_OPTION_U64, "18446744073709551616", "whole number"},
    {SPIN_OPTION_U64, "99999999999999999999999999", "whole number"},
    {SPIN_OPTION_BYTES, "", "size"},
    {SPIN_OPTION_BYTES, "GiB", "size"},
    {SPIN_OPTION_BYTES, "1G", "size"},
    {SPIN_OPTION_BYTES, "1gib", "size"},
    {SPIN_OPTION_BYTES, "1 GiB", "size"},
    {SPIN_OPTION_BYTES, "-1GiB", "size"},
    {SPIN_OPTION_BYTES, "1.GiB", "size"},
    {SPIN_OPTION_BYTES, ".5GiB", "size"},
    {SPIN_OPTION_BYTES, "1.5", "size"},
    {SPIN_OPTION_BYTES, "1.0001KiB", "size"},
    {SPIN_OPTION_BYTES, "0.1234567890GiB", "size"},
    {SPIN_OPTION_BYTES, "17179869184GiB", "64 bits"},
    {SPIN_OPTION_BYTES, "1GiBx", "size"},
    {SPIN_OPTION_DURATION, "5", "duration"},
    {SPIN_OPTION_DURATION, "5sec", "duration"},
    {SPIN_OPTION_DURATION, "0.5ns", "duration"},
    {SPIN_OPTION_DURATION, "9999999999h", "64 bits"},
    {SPIN_OPTION_DOUBLE, "", "number"},
    {SPIN_OPTION_DOUBLE, "nan", "number"},
    {SPIN_OPTION_DOUBLE, "inf", "number"},
    {SPIN_OPTION_DOUBLE, "0x1p3", "number"},
    {SPIN_OPTION_DOUBLE, "1e999", "number"},
    {SPIN_OPTION_DOUBLE, "1,5", "number"},
    {SPIN_OPTION_DOUBLE, "1 ", "number"},
    {SPIN_OPTION_DOUBLE, "-", "number"},
    {SPIN_OPTION_CHOICE, "", "choices"},
    {SPIN_OPTION_CHOICE, "cp", "choices"},
    {SPIN_OPTION_CHOICE, "cpu,cuda", "choices"},
    {SPIN_OPTION_CHOICE, "CPU", "choices"},
};

static void test_refuses(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(bad_values); i++) {
        const struct spin_option option = option_of(bad_values[i].type);
        union spin_config_scalar value;
        char reason[SPIN_CONFIG_TEXT_BYTES] = "";
        if (spin_config_scalar_parse(&option, bad_values[i].text, &value, reason)) {
            fail_msg("\"%s\" was taken", bad_values[i].text);
        }
        if (strstr(reason, bad_values[i].reason) == NULL) {
            fail_msg("\"%s\": %s", bad_values[i].text, reason);
        }
    }
}

static void test_doubles(void **state)
{
    (void)state;
    static const char *const texts[] = {"0", "1", "-1.5", "0.1", "1e-3", "1E6", "+2", ".5", "5."};
    const struct spin_option option = option_of(SPIN_OPTION_DOUBLE);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(texts); i++) {
        union spin_config_scalar value;
        char reason[SPIN_CONFIG_TEXT_BYTES];
        assert_true(spin_config_scalar_parse(&option, texts[i], &value, reason));
        assert_true(value.real == strtod(texts[i], NULL));
    }
}

static void test_ranges_include_their_ends(void **state)
{
    (void)state;
    struct spin_option option = option_of(SPIN_OPTION_U32);
    option.min = 2;
    option.max = 5;
    union spin_config_scalar value;
    char reason[SPIN_CONFIG_TEXT_BYTES];
    for (uint32_t i = 0; i < 8; i++) {
        char text[16];
        (void)snprintf(text, sizeof text, "%u", i);
        assert_int_equal(spin_config_scalar_parse(&option, text, &value, reason), i >= 2 && i <= 5);
    }
    option.max = option.min = 0; /* left out: unbounded */
    assert_true(spin_config_scalar_parse(&option, "4294967295", &value, reason));
}

/* Printed values read back as the same value, for random ones of every magnitude. */
static void test_format_is_the_inverse_of_parse(void **state)
{
    (void)state;
    static const enum spin_option_type types[] = {SPIN_OPTION_U64, SPIN_OPTION_BYTES,
                                                  SPIN_OPTION_DURATION, SPIN_OPTION_DOUBLE};
    struct spin_rng rng = {.seed = 3};
    for (uint32_t i = 0; i < 4000; i++) {
        const struct spin_option option = option_of(types[i % 4]);
        union spin_config_scalar value = {
            .u64 = ((uint64_t)spin_rng_u32(&rng) << 32 | spin_rng_u32(&rng)) >>
                   spin_rng_below(&rng, 64)};
        if (spin_rng_below(&rng, 2) == 0) {
            value.u64 = value.u64 / 1000 * 1000;
        }
        if (option.type == SPIN_OPTION_DOUBLE) {
            value.real = ldexp(spin_rng_uniform(&rng) - 0.5, (int)spin_rng_below(&rng, 200) - 100);
        }
        char text[SPIN_CONFIG_TEXT_BYTES];
        char reason[SPIN_CONFIG_TEXT_BYTES];
        union spin_config_scalar again = {.u64 = 0};
        spin_config_scalar_format(&option, value, text);
        assert_true(spin_config_scalar_parse(&option, text, &again, reason));
        assert_int_equal(again.u64, value.u64); /* the bits, also of a double */
    }
}

static const struct {
    enum spin_option_type type;
    uint64_t value;
    const char *text;
} formats[] = {
    {SPIN_OPTION_BYTES, 0, "0"},
    {SPIN_OPTION_BYTES, UINT64_C(4) << 30, "4GiB"},
    {SPIN_OPTION_BYTES, 1000000, "1MB"},
    {SPIN_OPTION_BYTES, 1023, "1023"},
    {SPIN_OPTION_DURATION, UINT64_C(1500000000), "1500ms"},
    {SPIN_OPTION_DURATION, UINT64_C(90000000000), "90s"},
    {SPIN_OPTION_DURATION, UINT64_C(7200000000000), "2h"},
    {SPIN_OPTION_CHOICE, 1, "cuda"},
    {SPIN_OPTION_BOOL, 1, "true"},
};

static void test_format_picks_the_shortest_unit(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(formats); i++) {
        const struct spin_option option = option_of(formats[i].type);
        const union spin_config_scalar value = {.u64 = formats[i].value};
        char text[SPIN_CONFIG_TEXT_BYTES];
        spin_config_scalar_format(&option, value, text);
        assert_string_equal(text, formats[i].text);
    }
}

static void test_environment_names(void **state)
{
    (void)state;
    char text[SPIN_CONFIG_TEXT_BYTES];
    spin_config_environment_name("max-num-seqs", text);
    assert_string_equal(text, "SPIN_MAX_NUM_SEQS");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_takes),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_doubles),
        cmocka_unit_test(test_ranges_include_their_ends),
        cmocka_unit_test(test_format_is_the_inverse_of_parse),
        cmocka_unit_test(test_format_picks_the_shortest_unit),
        cmocka_unit_test(test_environment_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
