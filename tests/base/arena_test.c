/* Pieces are checked against what the arena promises about all of them together: aligned, disjoint,
 * counted, within the cap; and a warm arena gives what a cold one gave. */
#include "base/arena.h"

#include "base/rng.h"
#include "tests/spin_test.h"

#define PIECES 500u

static struct spin_arena *make(uint64_t chunk_bytes, uint64_t cap_bytes)
{
    struct spin_arena *arena = NULL;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_arena_create(chunk_bytes, cap_bytes, &arena, &err), &err);
    return arena;
}

/* Each piece is filled with its own number; none may have been overwritten in the end. */
static void test_pieces_are_disjoint_and_aligned(void **state)
{
    (void)state;
    struct spin_arena *arena = make(4096, UINT64_C(1) << 20);
    struct spin_rng rng = {.seed = 1};
    uint8_t *pieces[PIECES];
    uint32_t bytes[PIECES];
    for (int round = 0; round < 3; round++) {
        uint64_t sum = 0;
        for (uint32_t i = 0; i < PIECES; i++) {
            bytes[i] = spin_rng_below(&rng, 100) == 0 ? 9000 : spin_rng_below(&rng, 200);
            pieces[i] = spin_arena_take(arena, bytes[i]);
            assert_non_null(pieces[i]);
            assert_int_equal((uintptr_t)pieces[i] % 64, 0);
            memset(pieces[i], (int)(i & 0xFF), bytes[i]);
            sum += bytes[i];
        }
        assert_true(spin_arena_used_bytes(arena) >= sum);
        assert_true(spin_arena_used_bytes(arena) <= sum + (uint64_t)PIECES * 64);
        for (uint32_t i = 0; i < PIECES; i++) {
            for (uint32_t k = 0; k < bytes[i]; k++) {
                assert_int_equal(pieces[i][k], i & 0xFF);
            }
        }
        spin_arena_reset(arena);
        assert_int_equal(spin_arena_used_bytes(arena), 0);
    }
    spin_arena_destroy(arena);
}

static void test_zero_bytes_is_a_pointer_of_its_own(void **state)
{
    (void)state;
    struct spin_arena *arena = make(256, 256);
    void *first = spin_arena_take(arena, 0);
    void *second = spin_arena_take(arena, 0);
    assert_non_null(first);
    assert_non_null(second);
    assert_ptr_not_equal(first, second);
    spin_arena_destroy(arena);
}

static void test_cap_holds_to_the_byte(void **state)
{
    (void)state;
    struct spin_arena *arena = make(128, 1024);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 16; i++) {
            assert_non_null(spin_arena_take(arena, 64));
        }
        assert_null(spin_arena_take(arena, 1));
        spin_arena_reset(arena);
    }
    assert_null(spin_arena_take(arena, 1025));
    assert_null(spin_arena_take(arena, UINT64_MAX));
    assert_null(spin_arena_take(arena, UINT64_MAX - 63));
    assert_non_null(spin_arena_take(arena, 1024));
    spin_arena_destroy(arena);
}

/* 16 small chunks are kept by the reset; one large piece needs their room. */
static void test_warm_arena_gives_what_a_cold_one_gives(void **state)
{
    (void)state;
    struct spin_arena *arena = make(64, 1024);
    for (int i = 0; i < 16; i++) {
        assert_non_null(spin_arena_take(arena, 64));
    }
    spin_arena_reset(arena);
    assert_non_null(spin_arena_take(arena, 1024));
    assert_null(spin_arena_take(arena, 1));
    spin_arena_destroy(arena);
}

static void test_zeroed_and_overflow(void **state)
{
    (void)state;
    struct spin_arena *arena = make(4096, 8192);
    memset(spin_arena_take(arena, 4000), 0xAA, 4000);
    spin_arena_reset(arena);
    const uint64_t *words = spin_arena_take_zeroed(arena, 500, sizeof *words);
    assert_non_null(words);
    for (uint32_t i = 0; i < 500; i++) {
        assert_int_equal(words[i], 0);
    }
    assert_null(spin_arena_take_zeroed(arena, UINT64_C(1) << 63, 2));
    assert_null(spin_arena_take_zeroed(arena, 2, UINT64_C(1) << 63));
    spin_arena_destroy(arena);
}

static void test_copies_strings(void **state)
{
    (void)state;
    struct spin_arena *arena = make(64, 64);
    const char *copy = spin_arena_copy_string(arena, "hello, world", 5);
    assert_string_equal(copy, "hello");
    assert_null(spin_arena_copy_string(arena, "full", 4));
    spin_arena_reset(arena);
    assert_string_equal(spin_arena_copy_string(arena, NULL, 0), "");
    assert_null(spin_arena_copy_string(arena, "x", UINT64_MAX));
    spin_arena_destroy(arena);
}

static void test_refuses_bad_sizes(void **state)
{
    (void)state;
    struct spin_arena *arena = NULL;
    struct spin_error err;
    SPIN_EXPECT_STATUS(spin_arena_create(65, 64, &arena, &err), SPIN_ERR_INVALID);
    assert_non_null(strstr(err.text, "65"));
    SPIN_EXPECT_STATUS(spin_arena_create(UINT64_MAX, UINT64_MAX, &arena, &err), SPIN_ERR_INVALID);
    assert_null(arena);
    spin_arena_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces_are_disjoint_and_aligned),
        cmocka_unit_test(test_zero_bytes_is_a_pointer_of_its_own),
        cmocka_unit_test(test_cap_holds_to_the_byte),
        cmocka_unit_test(test_warm_arena_gives_what_a_cold_one_gives),
        cmocka_unit_test(test_zeroed_and_overflow),
        cmocka_unit_test(test_copies_strings),
        cmocka_unit_test(test_refuses_bad_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
