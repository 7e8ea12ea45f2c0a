/* Parsing under a cap: good messages come back field by field, hostile ones come back as a
 * status, and what they took is what the arena says. */
#include "proto/rpc_message.h"

#include "base/rng.h"
#include "proto/spin/v1/worker.pb-c.h"
#include "tests/spin_test.h"

static spin_status unpack(const uint8_t *bytes, uint64_t count, struct spin_arena *arena,
                          Spin__V1__GenerateRequest **out, struct spin_error *err)
{
    const struct spin_rpc_unpack_args args = {.type = &spin__v1__generate_request__descriptor,
                                              .source = {bytes, count},
                                              .bytes_max = 1 << 20,
                                              .arena = arena};
    struct ProtobufCMessage *message = NULL;
    SPIN_TRY(spin_rpc_message_unpack(&args, &message, err));
    *out = (Spin__V1__GenerateRequest *)message;
    return SPIN_OK;
}

static void test_good_messages_come_back(void **state)
{
    (void)state;
    int32_t tokens[] = {1, 0, -7, 49151, INT32_MAX};
    char id[] = "req-1";
    uint8_t salt[32] = {9};
    Spin__V1__Sampling sampling;
    spin__v1__sampling__init(&sampling);
    sampling.temperature = 0.5f;
    sampling.seed = UINT64_MAX;
    Spin__V1__GenerateRequest sent;
    spin__v1__generate_request__init(&sent);
    sent.request_id = id;
    sent.prompt_tokens = tokens;
    sent.n_prompt_tokens = SPIN_ARRAY_COUNT(tokens);
    sent.sampling = &sampling;
    sent.salt = (ProtobufCBinaryData){.len = sizeof salt, .data = salt};
    uint8_t bytes[256];
    const uint64_t count = spin__v1__generate_request__pack(&sent, bytes);

    struct spin_arena *arena = NULL;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_arena_create(4096, 65536, &arena, &err), &err);
    for (uint32_t round = 0; round < 100; round++) { /* a reset arena serves for ever */
        Spin__V1__GenerateRequest *got = NULL;
        SPIN_EXPECT_OK(unpack(bytes, count, arena, &got, &err), &err);
        if (got == NULL) {
            fail_msg("round %u: nothing came back", round);
            return;
        }
        assert_string_equal(got->request_id, "req-1");
        assert_int_equal(got->n_prompt_tokens, SPIN_ARRAY_COUNT(tokens));
        assert_memory_equal(got->prompt_tokens, tokens, sizeof tokens);
        assert_true(got->sampling->temperature == 0.5f);
        assert_true(got->sampling->seed == UINT64_MAX);
        assert_int_equal(got->salt.len, 32);
        assert_null(got->algorithm);
        spin_arena_reset(arena);
    }
    spin_arena_destroy(arena);
}

static void test_too_large_is_refused_by_size_and_by_memory(void **state)
{
    (void)state;
    struct spin_arena *arena = NULL;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_arena_create(4096, 65536, &arena, &err), &err);
    uint8_t *bytes = calloc(1, (1 << 20) + 1);
    Spin__V1__GenerateRequest *got = NULL;
    SPIN_EXPECT_STATUS(unpack(bytes, (1 << 20) + 1, arena, &got, &err), SPIN_ERR_LIMIT);
    assert_non_null(strstr(err.text, "spin.v1.GenerateRequest: 1048577 bytes, at most 1048576"));
    /* 40,000 prompt tokens in 80,000 bytes, one field each: more memory than the arena may have. */
    for (uint64_t i = 0; i < 40000; i++) {
        bytes[2 * i] = 2 << 3;
        bytes[2 * i + 1] = 1;
    }
    SPIN_EXPECT_STATUS(unpack(bytes, 80000, arena, &got, &err), SPIN_ERR_NO_MEMORY);
    assert_true(spin_arena_used_bytes(arena) <= 65536);
    assert_null(got);
    free(bytes);
    spin_arena_destroy(arena);
}

static void test_random_and_cut_bytes_are_a_status(void **state)
{
    (void)state;
    int32_t tokens[] = {1, 2, 3};
    Spin__V1__Sampling sampling;
    spin__v1__sampling__init(&sampling);
    sampling.top_k = 40;
    Spin__V1__GenerateRequest sent;
    spin__v1__generate_request__init(&sent);
    sent.prompt_tokens = tokens;
    sent.n_prompt_tokens = 3;
    sent.sampling = &sampling;
    uint8_t good[64];
    const uint64_t count = spin__v1__generate_request__pack(&sent, good);

    struct spin_arena *arena = NULL;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_arena_create(4096, 65536, &arena, &err), &err);
    struct spin_rng rng = {.seed = 5};
    uint32_t refused = 0;
    for (uint32_t i = 0; i < 20000; i++) {
        uint8_t bytes[64];
        memcpy(bytes, good, count);
        for (uint32_t flips = spin_rng_below(&rng, 4); flips > 0; flips--) {
            bytes[spin_rng_below(&rng, (uint32_t)count)] = (uint8_t)spin_rng_u32(&rng);
        }
        Spin__V1__GenerateRequest *got = NULL;
        const spin_status status =
            unpack(bytes, spin_rng_below(&rng, (uint32_t)count + 1), arena, &got, &err);
        assert_true(status == SPIN_OK || status == SPIN_ERR_INVALID ||
                    status == SPIN_ERR_NO_MEMORY);
        refused += status != SPIN_OK;
        spin_arena_reset(arena);
    }
    assert_in_range(refused, 1000, 19999);
    spin_arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_messages_come_back),
        cmocka_unit_test(test_too_large_is_refused_by_size_and_by_memory),
        cmocka_unit_test(test_random_and_cut_bytes_are_a_status),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
