/* Random appends and drops against a plain list of everything that was put in. */
#include "router/session/token_buffer.h"

#include "base/rng.h"
#include "tests/spin_test.h"

#define STEPS 20000u
#define TOPS_MAX 20u

static void check(struct spin_token_buffer *buffer, uint32_t first, uint32_t next)
{
    assert_int_equal(buffer->count, next - first);
    const struct spin_generation_token *tokens = spin_token_buffer_view(buffer);
    for (uint32_t i = 0; i < buffer->count; i++) {
        const uint32_t number = first + i;
        assert_int_equal(tokens[i].token, number);
        assert_int_equal(tokens[i].top_count, number % (TOPS_MAX + 1));
        for (uint32_t t = 0; t < tokens[i].top_count; t++) {
            assert_int_equal(tokens[i].top[t].token, number * 100 + t);
        }
    }
}

static void test_random(void **state)
{
    (void)state;
    struct spin_token_buffer buffer = {0};
    struct spin_rng rng = {.seed = 7};
    uint32_t first = 0;
    uint32_t next = 0;
    for (uint32_t step = 0; step < STEPS; step++) {
        if (spin_rng_below(&rng, 3) != 0) {
            struct spin_generation_alternative top[TOPS_MAX];
            for (uint32_t t = 0; t < TOPS_MAX; t++) {
                top[t] = (struct spin_generation_alternative){(int32_t)(next * 100 + t), 0.5F};
            }
            const struct spin_generation_token token = {.token = (int32_t)next,
                                                        .logprob = -1,
                                                        .top = top,
                                                        .top_count = next % (TOPS_MAX + 1)};
            assert_int_equal(spin_token_buffer_append(&buffer, &token), SPIN_OK);
            next++;
        } else {
            const uint32_t count = spin_rng_below(&rng, SPIN_MIN(buffer.count, 8) + 1);
            spin_token_buffer_drop(&buffer, count);
            first += count;
        }
        if (step % 16 == 0) {
            check(&buffer, first, next);
        }
        if (buffer.count > 60) {
            spin_token_buffer_drop(&buffer, buffer.count);
            first = next;
        }
    }
    check(&buffer, first, next);
    spin_token_buffer_deinit(&buffer);
    assert_int_equal(buffer.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
