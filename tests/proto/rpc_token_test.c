/* The comparison against strcmp, on every pair of short texts and on pairs that differ in one
 * place. That its time tells nothing is for the reader of rpc_token.c to see. */
#include "proto/rpc_server.h"
#include "tests/spin_test.h"

static void test_short_texts(void **state)
{
    (void)state;
    char texts[64][4] = {{0}};
    uint32_t count = 1; /* the empty one */
    for (uint32_t from = 0; from < count; from++) {
        const size_t length = strlen(texts[from]);
        for (char c = 'a'; length < 3 && c <= 'c'; c++) {
            memcpy(texts[count], texts[from], length);
            texts[count++][length] = c;
        }
    }
    assert_int_equal(count, 1 + 3 + 9 + 27);
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t k = 0; k < count; k++) {
            assert_int_equal(spin_rpc_token_equal(texts[i], texts[k]),
                             strcmp(texts[i], texts[k]) == 0);
        }
    }
}

static void test_one_place(void **state)
{
    (void)state;
    char whole[200];
    char other[200];
    for (uint32_t length = 1; length < sizeof whole; length += 11) {
        for (uint32_t i = 0; i < length; i++) {
            whole[i] = (char)(1 + (0x7f + i) % 255); /* never the end, mostly not ASCII */
        }
        whole[length] = '\0';
        memcpy(other, whole, length + 1);
        assert_true(spin_rpc_token_equal(whole, other));
        for (uint32_t bit = 0; bit < 8 * length; bit++) {
            other[bit / 8] = (char)(other[bit / 8] ^ (1 << (bit % 8)));
            assert_false(spin_rpc_token_equal(whole, other));
            other[bit / 8] = whole[bit / 8];
        }
        other[length - 1] = '\0';
        assert_false(spin_rpc_token_equal(whole, other));
        assert_false(spin_rpc_token_equal(other, whole));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_short_texts),
        cmocka_unit_test(test_one_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
