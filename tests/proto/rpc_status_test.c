/* The table against the numbers that gRPC's specification publishes (doc/statuscodes.md), and
 * against itself: a code that came from a status leads back to one with the same code. */
#include "proto/rpc_status.h"

#include "tests/spin_test.h"

static void test_published_numbers(void **state)
{
    (void)state;
    const char *names[] = {"OK",
                           "CANCELLED",
                           "UNKNOWN",
                           "INVALID_ARGUMENT",
                           "DEADLINE_EXCEEDED",
                           "NOT_FOUND",
                           "ALREADY_EXISTS",
                           "PERMISSION_DENIED",
                           "RESOURCE_EXHAUSTED",
                           "FAILED_PRECONDITION",
                           "ABORTED",
                           "OUT_OF_RANGE",
                           "UNIMPLEMENTED",
                           "INTERNAL",
                           "UNAVAILABLE",
                           "DATA_LOSS",
                           "UNAUTHENTICATED"};
    for (int code = 0; code < (int)SPIN_ARRAY_COUNT(names); code++) {
        assert_string_equal(spin_rpc_code_name((enum spin_rpc_code)code), names[code]);
    }
}

static void test_every_status_has_a_code_and_leads_back(void **state)
{
    (void)state;
#define STATUS_ROW(name, code, text) SPIN_ERR_##name,
    const spin_status statuses[] = {SPIN_OK, SPIN_STATUS_MAP(STATUS_ROW)};
#undef STATUS_ROW
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(statuses); i++) {
        const enum spin_rpc_code code = spin_rpc_code_from_status(statuses[i]);
        assert_true((code == SPIN_RPC_OK) == (statuses[i] == SPIN_OK));
        assert_int_equal(spin_rpc_code_from_status(spin_rpc_status_from_code((int)code)), code);
    }
    for (int code = 1; code < 17; code++) {
        assert_int_not_equal(spin_rpc_status_from_code(code), SPIN_OK);
    }
}

static void test_what_clients_rely_on(void **state)
{
    (void)state;
    assert_int_equal(spin_rpc_code_from_status(SPIN_ERR_INVALID), 3);
    assert_int_equal(spin_rpc_code_from_status(SPIN_ERR_DEADLINE), 4);
    assert_int_equal(spin_rpc_code_from_status(SPIN_ERR_EXHAUSTED), 8);
    assert_int_equal(spin_rpc_code_from_status(SPIN_ERR_LIMIT), 11);
    assert_int_equal(spin_rpc_code_from_status(SPIN_ERR_UNSUPPORTED), 12);
    assert_int_equal(spin_rpc_code_from_status(SPIN_ERR_SHUTDOWN), 14);
    assert_int_equal(spin_rpc_status_from_code(14), SPIN_ERR_PEER_LOST);
    assert_int_equal(spin_rpc_status_from_code(999), SPIN_ERR_INTERNAL);
    assert_int_equal(spin_rpc_status_from_code(-1), SPIN_ERR_INTERNAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_numbers),
        cmocka_unit_test(test_every_status_has_a_code_and_leads_back),
        cmocka_unit_test(test_what_clients_rely_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
