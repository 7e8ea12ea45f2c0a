#include "base/address.h"

#include "tests/spin_test.h"

#include <stdio.h>
#include <string.h>

static void test_splits_names_and_numbers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *host;
        const char *port;
    } rows[] = {
        {"localhost:80", "localhost", "80"}, {"127.0.0.1:0", "127.0.0.1", "0"},
        {"[::1]:65535", "::1", "65535"},     {"[fe80::1%eth0]:9000", "fe80::1%eth0", "9000"},
        {"a:00080", "a", "00080"},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        struct spin_address address;
        struct spin_error err;
        SPIN_EXPECT_STATUS(spin_address_split(rows[i].text, &address, &err), SPIN_OK);
        assert_string_equal(address.host, rows[i].host);
        assert_string_equal(address.port, rows[i].port);
    }
}

static void test_refuses_what_is_no_address(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",        ":",       ":80",     "host",    "host:",      "host:x",
        "host:-1", "host:+1", "h: 80",   "h:65536", "h:100000",   "::1:80",
        "[]:80",   "[::1]",   "[::1:80", "::1]:80", "[[::1]]:80", "a:80:90",
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(bad); i++) {
        struct spin_address address;
        struct spin_error err;
        SPIN_EXPECT_STATUS(spin_address_split(bad[i], &address, &err), SPIN_ERR_INVALID);
        assert_non_null(strstr(err.text, bad[i]));
    }
}

static void test_hosts_have_a_longest(void **state)
{
    (void)state;
    char text[SPIN_ADDRESS_HOST_BYTES + 8];
    struct spin_address address;
    struct spin_error err;
    memset(text, 'a', sizeof text);
    memcpy(text + SPIN_ADDRESS_HOST_BYTES - 1, ":1", 3);
    SPIN_EXPECT_STATUS(spin_address_split(text, &address, &err), SPIN_OK);
    assert_int_equal(strlen(address.host), SPIN_ADDRESS_HOST_BYTES - 1);
    text[SPIN_ADDRESS_HOST_BYTES - 1] = 'a';
    memcpy(text + SPIN_ADDRESS_HOST_BYTES, ":1", 3);
    SPIN_EXPECT_STATUS(spin_address_split(text, &address, &err), SPIN_ERR_INVALID);
}

static void test_writes_what_others_dial(void **state)
{
    (void)state;
    static const struct {
        const char *listen;
        const char *local;
        bool wildcard;
    } rows[] = {
        {"127.0.0.1:0", "127.0.0.1:4711", false},
        {"0.0.0.0:80", "127.0.0.1:4711", true},
        {"[::]:0", "127.0.0.1:4711", true},
        {"[::1]:9000", "[::1]:4711", false},
        {"node-7.example:0", "node-7.example:4711", false},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        char text[SPIN_ADDRESS_TEXT_BYTES];
        spin_address_local(rows[i].listen, 4711, text);
        assert_string_equal(text, rows[i].local);
        assert_int_equal(spin_address_is_wildcard(rows[i].listen), rows[i].wildcard);
    }
    assert_false(spin_address_is_wildcard("0.0.0.0"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_splits_names_and_numbers),
        cmocka_unit_test(test_refuses_what_is_no_address),
        cmocka_unit_test(test_hosts_have_a_longest),
        cmocka_unit_test(test_writes_what_others_dial),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
