/* Method: random appointments beside an array that is searched from end to end. */
#include "bench/sim/agenda.h"

#include "base/rng.h"
#include "tests/spin_test.h"

#define CROWD 37u
#define ROUNDS 20000u

static void test_against_search(void **state)
{
    (void)state;
    struct spin_agenda *agenda = NULL;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_agenda_create(CROWD, &agenda, &err), &err);
    uint64_t naive[CROWD];
    for (uint32_t i = 0; i < CROWD; i++) {
        naive[i] = SPIN_NO_DEADLINE;
    }
    struct spin_rng rng = {.seed = 7};
    for (uint32_t round = 0; round < ROUNDS; round++) {
        const uint32_t who = spin_rng_below(&rng, CROWD);
        /* Few different times, so that many are equal; one in eight has none. */
        const uint32_t draw = spin_rng_below(&rng, 64);
        naive[who] = draw < 8 ? SPIN_NO_DEADLINE : draw;
        spin_agenda_set(agenda, who, naive[who]);
        uint32_t first = 0;
        for (uint32_t i = 1; i < CROWD; i++) {
            first = naive[i] < naive[first] ? i : first;
        }
        uint32_t next = UINT32_MAX;
        assert_int_equal(spin_agenda_next(agenda, &next), naive[first]);
        assert_int_equal(next, first);
    }
    spin_agenda_destroy(agenda);
}

static void test_crowd_of_one(void **state)
{
    (void)state;
    struct spin_agenda *agenda = NULL;
    struct spin_error err = {0};
    uint32_t who = 5;
    SPIN_EXPECT_OK(spin_agenda_create(1, &agenda, &err), &err);
    assert_true(spin_agenda_next(agenda, &who) == SPIN_NO_DEADLINE);
    spin_agenda_set(agenda, 0, 12);
    assert_int_equal(spin_agenda_next(agenda, &who), 12);
    assert_int_equal(who, 0);
    spin_agenda_destroy(agenda);
    spin_agenda_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_search),
        cmocka_unit_test(test_crowd_of_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
