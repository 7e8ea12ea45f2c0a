/* The codes are part of the wire protocol: here they stand a second time, on purpose. */
#include "base/status.h"

#include "tests/spin_test.h"

#include <errno.h>

static const struct {
    spin_status status;
    int code;
    const char *name;
    enum spin_status_scope scope;
} codes[] = {
    {SPIN_OK, 0, "OK", SPIN_SCOPE_NONE},
    {SPIN_ERR_AGAIN, 1, "AGAIN", SPIN_SCOPE_NONE},
    {SPIN_ERR_NOT_FOUND, 2, "NOT_FOUND", SPIN_SCOPE_NONE},
    {SPIN_ERR_CANCELLED, 3, "CANCELLED", SPIN_SCOPE_NONE},
    {SPIN_ERR_DEADLINE, 4, "DEADLINE", SPIN_SCOPE_NONE},
    {SPIN_ERR_INVALID, 10, "INVALID", SPIN_SCOPE_REQUEST},
    {SPIN_ERR_NO_MEMORY, 11, "NO_MEMORY", SPIN_SCOPE_REQUEST},
    {SPIN_ERR_LIMIT, 12, "LIMIT", SPIN_SCOPE_REQUEST},
    {SPIN_ERR_EXHAUSTED, 13, "EXHAUSTED", SPIN_SCOPE_REQUEST},
    {SPIN_ERR_UNSUPPORTED, 14, "UNSUPPORTED", SPIN_SCOPE_REQUEST},
    {SPIN_ERR_CORRUPT, 15, "CORRUPT", SPIN_SCOPE_REQUEST},
    {SPIN_ERR_DENIED, 16, "DENIED", SPIN_SCOPE_REQUEST},
    {SPIN_ERR_IO, 17, "IO", SPIN_SCOPE_REQUEST},
    {SPIN_ERR_PEER_LOST, 30, "PEER_LOST", SPIN_SCOPE_PEER},
    {SPIN_ERR_PEER_MISMATCH, 31, "PEER_MISMATCH", SPIN_SCOPE_PEER},
    {SPIN_ERR_DEVICE_LOST, 50, "DEVICE_LOST", SPIN_SCOPE_DEVICE},
    {SPIN_ERR_SHUTDOWN, 60, "SHUTDOWN", SPIN_SCOPE_PROCESS},
    {SPIN_ERR_INTERNAL, 61, "INTERNAL", SPIN_SCOPE_PROCESS},
};

static void test_codes_names_and_scopes(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(codes); i++) {
        assert_int_equal(codes[i].status, codes[i].code);
        assert_string_equal(spin_status_name(codes[i].status), codes[i].name);
        assert_string_not_equal(spin_status_text(codes[i].status), "unknown status");
        assert_int_equal(spin_status_scope(codes[i].status), codes[i].scope);
    }
    assert_string_equal(spin_status_name((spin_status)9), "UNKNOWN");
    assert_string_equal(spin_status_text((spin_status)9), "unknown status");
}

static void test_fail_writes_and_returns(void **state)
{
    (void)state;
    struct spin_error err;
    SPIN_EXPECT_STATUS(spin_fail(&err, SPIN_ERR_LIMIT, "%u of %u", 3u, 2u), SPIN_ERR_LIMIT);
    assert_int_equal(err.status, SPIN_ERR_LIMIT);
    assert_string_equal(err.text, "3 of 2");
    SPIN_EXPECT_STATUS(spin_fail(NULL, SPIN_ERR_IO, "nobody listens"), SPIN_ERR_IO);
}

static void test_errno_is_appended(void **state)
{
    (void)state;
    struct spin_error err;
    errno = ENOENT;
    SPIN_EXPECT_STATUS(spin_fail_errno(&err, SPIN_ERR_IO, "open %s", "x"), SPIN_ERR_IO);
    char wanted[200];
    (void)snprintf(wanted, sizeof wanted, "open x: %s", strerror(ENOENT));
    assert_string_equal(err.text, wanted);
    SPIN_EXPECT_STATUS(spin_fail_errno(NULL, SPIN_ERR_IO, "x"), SPIN_ERR_IO);
}

static void test_long_text_is_cut(void **state)
{
    (void)state;
    struct spin_error err;
    SPIN_EXPECT_STATUS(spin_fail(&err, SPIN_ERR_INVALID, "%0500d", 7), SPIN_ERR_INVALID);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    errno = ENOENT;
    SPIN_EXPECT_STATUS(spin_fail_errno(&err, SPIN_ERR_INVALID, "%0500d", 7), SPIN_ERR_INVALID);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
}

static spin_status try_twice(spin_status first, spin_status second, int *steps)
{
    SPIN_TRY(first);
    *steps = 1;
    spin_status status = SPIN_OK;
    SPIN_TRY_GOTO(status, second, undo);
    *steps = 2;
    return SPIN_OK;
undo:
    *steps = -1;
    return status;
}

static void test_try(void **state)
{
    (void)state;
    int steps = 0;
    SPIN_EXPECT_STATUS(try_twice(SPIN_ERR_IO, SPIN_OK, &steps), SPIN_ERR_IO);
    assert_int_equal(steps, 0);
    SPIN_EXPECT_STATUS(try_twice(SPIN_OK, SPIN_ERR_LIMIT, &steps), SPIN_ERR_LIMIT);
    assert_int_equal(steps, -1);
    SPIN_EXPECT_STATUS(try_twice(SPIN_OK, SPIN_OK, &steps), SPIN_OK);
    assert_int_equal(steps, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codes_names_and_scopes),
        cmocka_unit_test(test_fail_writes_and_returns),
        cmocka_unit_test(test_errno_is_appended),
        cmocka_unit_test(test_long_text_is_cut),
        cmocka_unit_test(test_try),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
