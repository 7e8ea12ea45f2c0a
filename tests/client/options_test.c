/* --stop: several texts in one option. The rows of the tables are seen by the Python tests and by
 * docs/config.md. */
#include "client/options.h"

#include "tests/spin_test.h"

static void test_stops(void **state)
{
    (void)state;
    static const struct {
        const char *option;
        const char *texts[4];
        uint32_t count;
        const char *error; /* NULL: good */
    } cases[] = {
        {NULL, {NULL}, 0, NULL},
        {"a", {"a"}, 1, NULL},
        {"a||b|c", {"a||b|c"}, 1, NULL},
        {"a|||b|||\n", {"a", "b", "\n"}, 3, NULL},
        {"a||||", {"a", "|"}, 2, NULL},
        {"", {NULL}, 0, "text 1 is empty"},
        {"|||a", {NULL}, 0, "text 1 is empty"},
        {"a|||", {NULL}, 0, "text 2 is empty"},
        {"a||||||b", {NULL}, 0, "text 2 is empty"},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(cases); i++) {
        struct spin_stops stops;
        struct spin_error err = {0};
        const spin_status status = spin_stops_init(&stops, cases[i].option, &err);
        assert_int_equal(status, cases[i].error == NULL ? SPIN_OK : SPIN_ERR_INVALID);
        assert_int_equal(stops.count, cases[i].count);
        for (uint32_t k = 0; k < cases[i].count; k++) {
            assert_string_equal(stops.texts[k], cases[i].texts[k]);
        }
        assert_true(cases[i].error == NULL || strstr(err.text, cases[i].error) != NULL);
        spin_stops_deinit(&stops);
    }
}

static void test_no_more_than_sixteen(void **state)
{
    (void)state;
    char option[17 * 4 + 1] = "a";
    for (size_t i = 0; i < 16; i++) {
        struct spin_stops stops;
        struct spin_error err = {0};
        SPIN_EXPECT_OK(spin_stops_init(&stops, option, &err), &err);
        assert_int_equal(stops.count, i + 1);
        spin_stops_deinit(&stops);
        (void)snprintf(option + 4 * i + 1, sizeof option - 4 * i - 1, "|||a");
    }
    struct spin_stops stops;
    struct spin_error err = {0};
    SPIN_EXPECT_STATUS(spin_stops_init(&stops, option, &err), SPIN_ERR_LIMIT);
    assert_non_null(strstr(err.text, "more than 16"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stops),
        cmocka_unit_test(test_no_more_than_sixteen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
